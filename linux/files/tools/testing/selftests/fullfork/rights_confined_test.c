// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: whom a manager may copy, by how both are confined
 *
 * no_new_privs and seccomp of a manager bind what it makes as well: it may
 * copy nobody who has less of them.  So do user namespaces, and Yama.
 */

#include "fullfork_rights.h"

static void be_user_with_filter(int unused)
{
	be_user_with_nnp(0);
	add_filter(0);
}

static void enter_user_ns(int unused)
{
	side_assert_eq(0, unshare(CLONE_NEWUSER));
}

static void be_user_in_user_ns(int unused)
{
	be_user(0);
	enter_user_ns(0);
}

/* All but the last, which is deep down. */
static void set_nnp_but_for_one(int number)
{
	if (number < 3)
		set_nnp(0);
}

FIXTURE(manager)
{
	struct manager manager;
	pid_t pid;
};

/*
 * The tree is what the manager has become, and goes further by @confine_tree,
 * as the manager does later by @confine.
 */
FIXTURE_VARIANT(manager)
{
	void (*become)(int unused);
	void (*confine)(int unused);
	void (*confine_tree)(int number);
	int error;
	/* What ptrace says, for which the tree is one process. */
	int ptrace_error;
};

FIXTURE_VARIANT_ADD(manager, that_is_as_the_tree) {
	.become = be_user,
};

FIXTURE_VARIANT_ADD(manager, with_no_new_privs) {
	.become = be_user,
	.confine = set_nnp,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(manager, with_no_new_privs_as_all_but_one) {
	.become = be_user,
	.confine = set_nnp,
	.confine_tree = set_nnp_but_for_one,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(manager, with_no_new_privs_as_the_tree) {
	.become = be_user_with_nnp,
};

FIXTURE_VARIANT_ADD(manager, of_a_tree_with_no_new_privs) {
	.become = be_user,
	.confine_tree = set_nnp,
};

FIXTURE_VARIANT_ADD(manager, with_a_filter) {
	.become = be_user_with_nnp,
	.confine = add_filter,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(manager, with_the_filter_of_the_tree) {
	.become = be_user_with_filter,
};

FIXTURE_VARIANT_ADD(manager, with_one_filter_more) {
	.become = be_user_with_filter,
	.confine = add_filter,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(manager, with_one_filter_less) {
	.become = be_user_with_filter,
	.confine_tree = add_filter,
};

FIXTURE_VARIANT_ADD(manager, of_a_tree_with_a_filter) {
	.become = be_user_with_nnp,
	.confine_tree = add_filter,
};

FIXTURE_VARIANT_ADD(manager, in_a_user_namespace_below) {
	.become = be_user,
	.confine = enter_user_ns,
	.error = EPERM,
	.ptrace_error = EPERM,
};

FIXTURE_VARIANT_ADD(manager, in_the_user_namespace_of_the_tree) {
	.become = be_user_in_user_ns,
};

FIXTURE_VARIANT_ADD(manager, in_the_user_namespace_above) {
	.become = be_user,
	.confine_tree = enter_user_ns,
};

static struct plan chain[4];

/* The manager starts the tree, so that start_tree() cannot. */
FIXTURE_SETUP(manager)
{
	int i;

	setup_manager(_metadata);
	allow_ptrace(_metadata);
	for (i = 0; i < ARRAY_SIZE(chain); i++)
		chain[i] = (struct plan) {
			.parent = i - 1,
			.threads = 1,
			.become = variant->confine_tree,
		};
	plan = chain;
	plan_size = ARRAY_SIZE(chain);
	self->manager = (struct manager) {
		.become = variant->become,
		.confine = variant->confine,
		.is_parent = true,
		.flags = WHOLE_TREE,
		.tries_ptrace = true,
	};
	self->pid = start_manager(_metadata, &self->manager, 0);
	ASSERT_TRUE(wait_recorded(nr_tasks()));
}

FIXTURE_TEARDOWN(manager)
{
	teardown_manager(_metadata);
}

static void expect_same_field(struct __test_metadata *_metadata, int task,
			      const char *field)
{
	struct report_slot *slot = &report->slot[task];
	char seen[2][128] = {};

	EXPECT_TRUE(read_status_field(slot->pid, slot->tid, field, seen[0],
				      sizeof(seen[0])));
	EXPECT_TRUE(read_status_field(slot->code, slot->value[0], field,
				      seen[1], sizeof(seen[1])));
	EXPECT_STREQ(seen[0], seen[1])
	{
		TH_LOG("%s of task %d", field, task);
	}
}

/* If it is refused, the same call has worked just before it was confined. */
TEST_F_GUARDED(manager, copies_what_is_as_confined)
{
	long ret = let_copy(_metadata);
	int i;

	EXPECT_EQ(variant->ptrace_error, load(&report->word[WORD_PTRACE]));
	if (variant->error) {
		EXPECT_EQ(-variant->error, ret);
		EXPECT_EQ(UNWRITTEN, shared->map[0].original);
	} else {
		ASSERT_LT(0, ret)
		{
			TH_LOG("%s", strerror(-ret));
		}
		ASSERT_EQ(nr_tasks(), map_length());
		EXPECT_EQ(self->pid, status_number(ret, "PPid"));
		EXPECT_TRUE(replicas_answer());
		for (i = 0; i < nr_tasks(); i++) {
			expect_same_field(_metadata, i, "NoNewPrivs");
			expect_same_field(_metadata, i, "Seccomp");
			expect_same_field(_metadata, i, "Seccomp_filters");
			expect_same_field(_metadata, i, "Uid");
			expect_same_field(_metadata, i, "CapPrm");
		}
	}
	EXPECT_TRUE(originals_answer());
}

/*
 * Yama's levels but for the last, which cannot be left before the machine is
 * booted anew.
 */
FIXTURE(yama)
{
	struct manager manager;
};

FIXTURE_VARIANT(yama)
{
	const char *level;
	/* For a child of the manager, and for others. */
	int child_error;
	int stranger_error;
	int named_error;
};

FIXTURE_VARIANT_ADD(yama, level_0) {
	.level = "0",
};

FIXTURE_VARIANT_ADD(yama, level_1) {
	.level = "1",
	.stranger_error = EPERM,
};

FIXTURE_VARIANT_ADD(yama, level_2) {
	.level = "2",
	.child_error = EPERM,
	.stranger_error = EPERM,
	.named_error = EPERM,
};

FIXTURE_SETUP(yama)
{
	setup_manager(_metadata);
	skip_unless(!access(YAMA, F_OK), _exit(0), "the kernel has no Yama");
	ASSERT_EQ(0, change_file(YAMA, variant->level));
	self->manager = (struct manager) {
		.become = be_user,
		.flags = WHOLE_TREE,
		.tries_ptrace = true,
	};
}

FIXTURE_TEARDOWN(yama)
{
	teardown_manager(_metadata);
}

static void start_one(struct __test_metadata *_metadata, struct manager *m,
		      void (*become)(int number))
{
	start_tree(_metadata, one_process(become), 1, RELATION_CHILD);
	m->pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, m->pidfd);
}

/* As for ptrace, and root may at every level. */
#define expect_yama(error)						\
do {									\
	EXPECT_EQ(-(error), copy_as(_metadata, &self->manager));	\
	EXPECT_EQ(error, load(&report->word[WORD_PTRACE]));		\
	EXPECT_TRUE(originals_answer());				\
	self->manager.become = NULL;					\
	EXPECT_EQ(0, copy_as(_metadata, &self->manager));		\
	EXPECT_EQ(0, load(&report->word[WORD_PTRACE]));			\
	EXPECT_TRUE(originals_answer());				\
} while (0)

TEST_F_GUARDED(yama, says_whether_a_stranger_is_copied)
{
	start_one(_metadata, &self->manager, be_user);
	expect_yama(variant->stranger_error);
}

static void name_any_tracer(int unused)
{
	be_user(0);
	side_assert_eq(0, prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY));
}

TEST_F_GUARDED(yama, says_whether_a_stranger_that_allows_it_is_copied)
{
	start_one(_metadata, &self->manager, name_any_tracer);
	expect_yama(variant->named_error);
}

TEST_F_GUARDED(yama, says_whether_a_child_is_copied)
{
	pid_t pid;
	long ret;

	plan = one_process(NULL);
	plan_size = 1;
	self->manager.is_parent = true;
	pid = start_manager(_metadata, &self->manager, 0);
	ASSERT_TRUE(wait_recorded(nr_tasks()));
	ret = let_copy(_metadata);
	EXPECT_EQ(-variant->child_error, ret < 0 ? ret : 0);
	EXPECT_EQ(variant->child_error, load(&report->word[WORD_PTRACE]));
	if (ret > 0)
		EXPECT_TRUE(replicas_answer());
	EXPECT_TRUE(originals_answer());
	EXPECT_TRUE(end_kept(pid));
}

TEST_HARNESS_MAIN
