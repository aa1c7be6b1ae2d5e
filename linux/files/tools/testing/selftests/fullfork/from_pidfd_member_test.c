// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: CLONE_FROM_PIDFD by a process that is copied itself, or
 * that is related to what is copied
 */

#include "fullfork_answers.h"

static const struct plan family[] = {
	{ .threads = 2, .caller = 1 },
	{ .parent = 0, .threads = 2, .caller = 1 },
	{ .parent = 1, .threads = 1 },
	{ .parent = 0 },
};

/* Their numbers */
enum { ROOT, CALLER, GRANDCHILD, SIBLING };

FIXTURE(relative)
{
	struct fullfork_args args;
	long pid;
};

FIXTURE_VARIANT(relative)
{
	__u64 flags;
};

FIXTURE_VARIANT_ADD(relative, with_all_threads) {
	.flags = CLONE_ALL_THREADS,
};

FIXTURE_VARIANT_ADD(relative, with_its_tree) {
	.flags = WHOLE_TREE,
};

FIXTURE_SETUP(relative)
{
	setup_manager(_metadata);
	start_tree(_metadata, family, ARRAY_SIZE(family), RELATION_CHILD);
	init_args(&self->args, -1, CLONE_FROM_PIDFD | variant->flags);
	ask_for_map(&self->args, MAP_ENTRIES);
}

FIXTURE_TEARDOWN(relative)
{
	teardown_manager(_metadata);
}

/* Process @caller copies process @source; it is to become the parent. */
#define expect_copy(caller, source)					\
do {									\
	self->pid = have_called(caller, &self->args, pid_of(source));	\
	ASSERT_LT(0, self->pid)						\
	{								\
		TH_LOG("%s", strerror(-self->pid));			\
	}								\
	EXPECT_EQ(pid_of(caller), status_number(self->pid, "PPid"));	\
	EXPECT_EQ(pid_of(source), shared->map[0].original);		\
	EXPECT_EQ(self->pid, shared->map[0].replica);			\
} while (0)

/* The parent of a replica as that sees it. */
static pid_t parent_in(int process)
{
	return report->slot[first_task(process)].value[3];
}

static pid_t replica_pid(int process)
{
	return report->slot[first_task(process)].code;
}

/* So many processes from number @first on have replicas that answer. */
#define expect_replicas(first, count)					\
do {									\
	int __first = first_task(first);				\
	int __count = first_task((first) + (count)) - __first;		\
									\
	EXPECT_EQ(__count, map_length());				\
	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, __first, __count));	\
	EXPECT_EQ(__count, count_answers(SIDE_REPLICA, 0, nr_tasks(),	\
				load(&report->word[WORD_QUESTION])));	\
	EXPECT_TRUE(originals_answer());				\
	expect_undisturbed();						\
} while (0)

/* The caller's replica has heard that it is one, and only that. */
#define expect_caller_copied(copied)					\
do {									\
	EXPECT_EQ(!!(copied), load(&shared->command.replica_returns));	\
	if (copied)							\
		EXPECT_EQ(0, shared->command.replica_ret);		\
} while (0)

TEST_F_GUARDED(relative, copies_itself_as_without_the_flag)
{
	bool tree = variant->flags & CLONE_SUBTREE;

	expect_copy(CALLER, CALLER);
	expect_replicas(CALLER, tree ? 2 : 1);
	expect_caller_copied(true);
	EXPECT_EQ(pid_of(CALLER), parent_in(CALLER));
	if (tree)
		EXPECT_EQ(self->pid, parent_in(GRANDCHILD));
}

/* With the tree the caller is copied too, and becomes the grandparent. */
TEST_F_GUARDED(relative, copies_its_parent)
{
	bool tree = variant->flags & CLONE_SUBTREE;

	expect_copy(CALLER, ROOT);
	expect_replicas(ROOT, tree ? 4 : 1);
	expect_caller_copied(tree);
	EXPECT_EQ(pid_of(CALLER), parent_in(ROOT));
	if (tree) {
		EXPECT_EQ(self->pid, parent_in(CALLER));
		EXPECT_EQ(self->pid, parent_in(SIBLING));
		EXPECT_EQ(replica_pid(CALLER), parent_in(GRANDCHILD));
	}
}

TEST_F_GUARDED(relative, copies_its_child)
{
	bool tree = variant->flags & CLONE_SUBTREE;

	expect_copy(ROOT, CALLER);
	expect_replicas(CALLER, tree ? 2 : 1);
	expect_caller_copied(false);
	EXPECT_EQ(pid_of(ROOT), parent_in(CALLER));
}

TEST_F_GUARDED(relative, copies_its_grandchild)
{
	expect_copy(ROOT, GRANDCHILD);
	expect_replicas(GRANDCHILD, 1);
	expect_caller_copied(false);
	EXPECT_EQ(pid_of(ROOT), parent_in(GRANDCHILD));
}

TEST_F_GUARDED(relative, copies_its_sibling)
{
	expect_copy(CALLER, SIBLING);
	expect_replicas(SIBLING, 1);
	expect_caller_copied(false);
	EXPECT_EQ(pid_of(CALLER), parent_in(SIBLING));
}

/* The parent of the root, which is the test, and not the caller's. */
TEST_F_GUARDED(relative, gives_its_parent_a_sibling)
{
	self->args.flags |= CLONE_PARENT;
	self->args.exit_signal = 0;
	self->pid = have_called(CALLER, &self->args, pid_of(ROOT));
	ASSERT_LT(0, self->pid)
	{
		TH_LOG("%s", strerror(-self->pid));
	}
	EXPECT_EQ(getpid(), status_number(self->pid, "PPid"));
	expect_replicas(ROOT, variant->flags & CLONE_SUBTREE ? 4 : 1);
	expect_caller_copied(variant->flags & CLONE_SUBTREE);
	EXPECT_EQ(getpid(), parent_in(ROOT));
	EXPECT_TRUE(end_others());
}

static void record_member(struct worker *w, enum side side)
{
	if (side == SIDE_REPLICA)
		record(w->index, 0);
}

static int run_workers(void *ws)
{
	replica_assert_eq(original_pid, getppid());
	return run_replica_workers(ws);
}

/* The test itself, which has four threads beside. */
FIXTURE(own_pidfd)
{
	struct workers ws;
	struct fullfork_args args;
};

FIXTURE_SETUP(own_pidfd)
{
	setup_manager(_metadata);
	start_workers(_metadata, &self->ws, 4, NULL, record_member);
	init_args(&self->args, sys_pidfd_open(getpid()),
		  CLONE_FROM_PIDFD | CLONE_ALL_THREADS);
	ask_for_map(&self->args, 5);
}

FIXTURE_TEARDOWN(own_pidfd)
{
	join_workers(_metadata, &self->ws);
	teardown_manager(_metadata);
}

TEST_F_GUARDED(own_pidfd, is_as_without_the_flag)
{
	long pid = replica_main(sys_clone3(&self->args, sizeof(self->args)),
				run_workers, &self->ws);

	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_EQ(getpid(), shared->map[0].original);
	EXPECT_EQ(pid, shared->map[0].replica);
	EXPECT_EQ(5, map_length());
	expect_pass(_metadata, pid);
	EXPECT_EQ(4, load(&report->recorded));
}

static void *call_in_thread(void *arg)
{
	long ret = sys_clone3(arg, sizeof(struct fullfork_args));

	/* The leader's replica leads, whichever thread called. */
	if (!ret) {
		replica_assert(sys_gettid() != sys_getpid());
		replica_exit(REPLICA_PASS);
	}
	return (void *)ret;
}

TEST_F_GUARDED(own_pidfd, works_in_any_thread)
{
	pthread_t thread;
	void *ret = NULL;

	self->args.tid_map_size = 6;
	start_thread(&thread, call_in_thread, &self->args);
	ASSERT_EQ(0, pthread_join(thread, &ret));
	ASSERT_LT(0, (long)ret)
	{
		TH_LOG("%s", strerror(-(long)ret));
	}
	EXPECT_EQ(getpid(), shared->map[0].original);
	EXPECT_EQ((long)ret, shared->map[0].replica);
	expect_pass(_metadata, (long)ret);
}

TEST_HARNESS_MAIN
