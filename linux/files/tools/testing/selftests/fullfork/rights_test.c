// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: whom a manager may copy, by credentials
 *
 * That is what ptrace lets it attach to, with real credentials.
 */

#include "fullfork_rights.h"
#include "fullfork_pidns.h"

/*
 * A process that may, or may not, be traced by USER
 */

static void be_other_user(int unused)
{
	side_assert_eq(0, syscall(__NR_setresgid, STRANGER, STRANGER, STRANGER));
	side_assert_eq(0, syscall(__NR_setresuid, STRANGER, STRANGER, STRANGER));
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

static void be_other_group(int unused)
{
	side_assert_eq(0, syscall(__NR_setresgid, STRANGER, STRANGER, STRANGER));
	side_assert_eq(0, syscall(__NR_setresuid, USER, USER, USER));
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

/* As a program that is setuid root and of another user. */
static void be_setuid_root(int unused)
{
	side_assert_eq(0, syscall(__NR_setresgid, USER, USER, USER));
	side_assert_eq(0, syscall(__NR_setresuid, USER, 0, 0));
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

static void be_setuid_other(int unused)
{
	side_assert_eq(0, syscall(__NR_setresgid, USER, USER, USER));
	side_assert_eq(0, syscall(__NR_setresuid, USER, STRANGER, USER));
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

static void be_saved_other(int unused)
{
	side_assert_eq(0, syscall(__NR_setresgid, USER, USER, USER));
	side_assert_eq(0, syscall(__NR_setresuid, USER, USER, STRANGER));
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

static void be_not_dumpable(int unused)
{
	be_user(0);
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 0));
}

static void be_capable(int unused)
{
	side_assert_eq(0, prctl(PR_SET_KEEPCAPS, 1));
	be_user(0);
	side_assert_eq(0, set_capabilities(1ULL << CAP_NET_RAW));
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

static void be_in_own_user_ns(int unused)
{
	be_user(0);
	side_assert_eq(0, unshare(CLONE_NEWUSER));
}

FIXTURE(process)
{
	pid_t root;
	struct manager manager;
};

FIXTURE_VARIANT(process)
{
	void (*become)(int unused);
	int error;
};

FIXTURE_VARIANT_ADD(process, of_same_user) {
	.become = be_user,
};

FIXTURE_VARIANT_ADD(process, of_other_user) {
	.become = be_other_user,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(process, of_other_group) {
	.become = be_other_group,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(process, of_root) {
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(process, with_effective_root) {
	.become = be_setuid_root,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(process, with_other_effective_user) {
	.become = be_setuid_other,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(process, with_other_saved_user) {
	.become = be_saved_other,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(process, that_is_not_dumpable) {
	.become = be_not_dumpable,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(process, with_a_capability) {
	.become = be_capable,
	.error = EPERM,
};

/* Its user owns the namespace, and so has every capability over it. */
FIXTURE_VARIANT_ADD(process, in_own_user_namespace) {
	.become = be_in_own_user_ns,
};

FIXTURE_SETUP(process)
{
	setup_manager(_metadata);
	allow_ptrace(_metadata);
	self->root = start_tree(_metadata, one_process(variant->become), 1,
				RELATION_CHILD);
	self->manager = (struct manager) {
		.become = be_user,
		.pidfd = sys_pidfd_open(self->root),
		.flags = CLONE_ALL_THREADS,
		.tries_ptrace = true,
	};
	ASSERT_LE(0, self->manager.pidfd);
}

FIXTURE_TEARDOWN(process)
{
	teardown_manager(_metadata);
}

/* The control of the refusals is that root copies the same process. */
TEST_F_GUARDED(process, is_copied_by_whom_may_trace_it)
{
	EXPECT_EQ(-variant->error, copy_as(_metadata, &self->manager));
	EXPECT_EQ(variant->error, load(&report->word[WORD_PTRACE]));
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();

	self->manager.tries_ptrace = false;
	self->manager.flags = WHOLE_TREE;
	EXPECT_EQ(-variant->error, copy_as(_metadata, &self->manager));
	self->manager.become = NULL;
	EXPECT_EQ(0, copy_as(_metadata, &self->manager));
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
}

TEST_F_GUARDED(process, is_copied_by_root_with_its_credentials)
{
	static const char * const fields[] = {
		"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd",
		"CapAmb", "NoNewPrivs", "Seccomp",
	};
	long pid = copy_from(self->manager.pidfd, CLONE_ALL_THREADS);
	char seen[2][256], path[64], link[2][64] = {};
	int i;

	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		ASSERT_TRUE(read_status_field(self->root, self->root, fields[i],
					      seen[0], sizeof(seen[0])));
		ASSERT_TRUE(read_status_field(pid, pid, fields[i], seen[1],
					      sizeof(seen[1])));
		EXPECT_STREQ(seen[0], seen[1])
		{
			TH_LOG("%s", fields[i]);
		}
	}
	snprintf(path, sizeof(path), "/proc/%d/ns/user", self->root);
	ASSERT_LT(0, readlink(path, link[0], sizeof(link[0]) - 1));
	snprintf(path, sizeof(path), "/proc/%ld/ns/user", pid);
	ASSERT_LT(0, readlink(path, link[1], sizeof(link[1]) - 1));
	EXPECT_STREQ(link[0], link[1]);
	EXPECT_TRUE(replicas_answer());
	EXPECT_TRUE(end_others());
}

/*
 * Deep in a tree whose other members are all of USER: 8 processes, number 6
 * of which is as in the variants above.
 */

#define TREE_SIZE 8
#define DEEP 6

static struct plan deep_plan[TREE_SIZE];

static void make_deep_plan(void (*become)(int number))
{
	static const int parents[TREE_SIZE] = { -1, 0, 0, 1, 1, 3, 5, 6 };
	int i;

	for (i = 0; i < TREE_SIZE; i++)
		deep_plan[i] = (struct plan) {
			.parent = parents[i],
			.threads = i % 3,
			.become = i == DEEP ? become : be_user,
		};
}

FIXTURE(tree)
{
	struct manager manager;
	int tasks;
};

FIXTURE_VARIANT(tree)
{
	void (*become)(int unused);
};

FIXTURE_VARIANT_ADD(tree, with_a_member_of_other_user) {
	.become = be_other_user,
};

FIXTURE_VARIANT_ADD(tree, with_a_member_of_root) {
};

FIXTURE_VARIANT_ADD(tree, with_a_member_of_effective_root) {
	.become = be_setuid_root,
};

FIXTURE_VARIANT_ADD(tree, with_a_member_that_is_not_dumpable) {
	.become = be_not_dumpable,
};

FIXTURE_VARIANT_ADD(tree, with_a_member_that_is_capable) {
	.become = be_capable,
};

FIXTURE_SETUP(tree)
{
	pid_t root;

	setup_manager(_metadata);
	allow_ptrace(_metadata);
	make_deep_plan(variant->become);
	root = start_tree(_metadata, deep_plan, TREE_SIZE, RELATION_CHILD);
	self->manager = (struct manager) {
		.become = be_user,
		.pidfd = sys_pidfd_open(root),
		.flags = WHOLE_TREE,
	};
	self->tasks = nr_tasks();
}

FIXTURE_TEARDOWN(tree)
{
	teardown_manager(_metadata);
}

/* How often a task has slept or been interrupted. */
static long switches(int task)
{
	struct report_slot *slot = &report->slot[task];
	char text[64];
	long sum = 0;

	if (read_status_field(slot->pid, slot->tid, "voluntary_ctxt_switches",
			      text, sizeof(text)))
		sum += atol(text);
	if (read_status_field(slot->pid, slot->tid,
			      "nonvoluntary_ctxt_switches", text, sizeof(text)))
		sum += atol(text);
	return sum;
}

/*
 * The check comes before anybody is asked to quiesce: those who sleep do not
 * even wake up.
 */
TEST_F_GUARDED(tree, is_refused_and_not_disturbed)
{
	long before[64];
	pid_t manager;
	int i;

	ASSERT_GT(ARRAY_SIZE(before), self->tasks);
	manager = start_manager(_metadata, &self->manager, pid_of(0));
	ASSERT_TRUE(originals_answer());
	ASSERT_TRUE(wait_until(tasks_sleep(0, self->tasks), DEADLINE));
	for (i = 0; i < self->tasks; i++)
		before[i] = switches(i);
	EXPECT_EQ(-EPERM, let_copy(_metadata));
	for (i = 0; i < self->tasks; i++) {
		EXPECT_EQ(before[i], switches(i))
		{
			TH_LOG("task %d of process %d", i, report->slot[i].pid);
		}
	}
	EXPECT_EQ(0, list_others());
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
	EXPECT_TRUE(end_kept(manager));

	/* The root alone may be copied, and root may copy all. */
	self->manager.flags = CLONE_ALL_THREADS;
	EXPECT_EQ(0, copy_as(_metadata, &self->manager));
	self->manager.flags = WHOLE_TREE;
	self->manager.become = NULL;
	EXPECT_EQ(0, copy_as(_metadata, &self->manager));
	EXPECT_EQ(self->tasks, map_length());
	EXPECT_TRUE(originals_answer());
}

TEST_HARNESS_MAIN
