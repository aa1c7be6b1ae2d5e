// SPDX-License-Identifier: GPL-2.0
/*
 * What prevents CLONE_KEEP_TIDS for a tree: nothing is left of a call that is
 * refused, in no namespace.
 */
#include "fullfork_tree.h"
#include "fullfork_pidns.h"

#define KEEP (CLONE_SUBTREE | CLONE_ALL_THREADS | CLONE_KEEP_TIDS)

/* A tree of three processes and a thread, and an init in another namespace. */
FIXTURE(tree)
{
	unsigned int root, child, thread, grandchild, zombie;
	char ns[NS_LINK_SIZE];
	pid_t init;
};

FIXTURE_SETUP(tree)
{
	setup_tree(_metadata);
	require_root(_metadata, "PID namespaces");
	self->root = start_tree();
	self->child = child_of(self->root);
	self->thread = thread_of(self->child);
	self->grandchild = child_of(self->thread);
	self->zombie = child_of(self->child);
	end_node(ORIGINAL, self->zombie, 3);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));
	self->init = start_init(_metadata, CLONE_NEWPID);
	ASSERT_TRUE(pid_ns_of(self->init, self->ns));
}

FIXTURE_TEARDOWN(tree)
{
	teardown_tree(_metadata);
}

static long keep_capabilities(struct tree_node *self, long mask)
{
	return result_of(set_capabilities(mask));
}

static void expect_refused(struct __test_metadata *_metadata, int error,
			   unsigned int root, __u64 flags)
{
	int before = count_tree(getpid());

	tree_set_args(flags);
	EXPECT_EQ(-error, call_by(root));
	EXPECT_EQ(before, count_tree(getpid()));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, root, take_signal_now, SIGCHLD));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, root, wait_pid_stopped_now, -1));
	tree_expect_alive(_metadata, ORIGINAL);
}

/* The control, of which nothing is left either. */
static void expect_taken(struct __test_metadata *_metadata, unsigned int root,
			 __u64 flags)
{
	pid_t pid = copy_by(root, flags);

	EXPECT_EQ(tid_of(ORIGINAL, root), inner_tid(pid, pid));
	end_replicas(root, pid);
	reap_children();
	ask(ORIGINAL, root, take_signal_now, SIGCHLD);
}

TEST_F_GUARDED(tree, is_rejected_in_its_own_namespace)
{
	expect_refused(_metadata, EINVAL, self->root, KEEP);
	expect_taken(_metadata, self->root, KEEP | CLONE_NEWPID);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, enter_ns_of, self->init));
	expect_taken(_metadata, self->root, KEEP);
}

TEST_F_GUARDED(tree, is_rejected_in_a_namespace_without_init)
{
	ASSERT_EQ(0, ask(ORIGINAL, self->root, unshare_it, CLONE_NEWPID));
	expect_refused(_metadata, EINVAL, self->root, KEEP);
	/* The namespace of the caller is that of its parent, once more. */
	ASSERT_EQ(0, ask(ORIGINAL, self->root, enter_ns_of, self->init));
	expect_taken(_metadata, self->root, KEEP);
}

/* A child of the test in the namespace, with a TID that a member has. */
static pid_t take_tid(struct __test_metadata *_metadata, pid_t init, pid_t tid)
{
	struct fullfork_args args = {
		.exit_signal = SIGCHLD,
		.set_tid = ptr_to_u64(&tid),
		.set_tid_size = 1,
	};
	long pid;

	enter_pid_ns(_metadata, init);
	pid = sys_clone3(&args, sizeof(args));
	ASSERT_LE(0, pid)
	{
		TH_LOG("set_tid: %s", strerror(-pid));
	}
	if (!pid) {
		for (;;)
			pause();
	}
	leave_pid_ns(_metadata);
	return pid;
}

TEST_F_GUARDED(tree, is_rejected_where_a_tid_is_taken)
{
	const unsigned int nodes[] = {
		self->root, self->child, self->thread, self->grandchild,
		self->zombie,
	};
	unsigned int i;
	pid_t pid;

	ASSERT_EQ(0, ask(ORIGINAL, self->root, enter_ns_of, self->init));
	for (i = 0; i < ARRAY_SIZE(nodes); i++) {
		pid = take_tid(_metadata, self->init, tid_of(ORIGINAL, nodes[i]));
		expect_refused(_metadata, EEXIST, self->root, KEEP);
		/* The init and the one that was made here. */
		EXPECT_EQ(2, count_in_pid_ns(self->ns, NULL));
		ASSERT_EQ(0, kill(pid, SIGKILL));
		xwaitpid(_metadata, pid, DEADLINE);
		expect_taken(_metadata, self->root, KEEP);
		EXPECT_TRUE(wait_until(count_in_pid_ns(self->ns, NULL) == 1,
				       DEADLINE));
	}
}

TEST_F_GUARDED(tree, is_rejected_for_a_caller_without_capability)
{
	unsigned int node;

	ASSERT_EQ(3 << 8, ask(ORIGINAL, self->child, wait_now, self->zombie));
	tree_nodes[self->zombie].state = NODE_GONE;
	ASSERT_EQ(0, ask(ORIGINAL, self->root, enter_ns_of, self->init));
	/* All have the same, so that each may be copied by the caller. */
	for (node = 0; node < tree_count; node++) {
		if (tree_nodes[node].state == NODE_IDLE)
			ask(ORIGINAL, node, keep_capabilities,
			    1ULL << CAP_CHECKPOINT_RESTORE);
	}
	expect_taken(_metadata, self->root, KEEP);
	for (node = 0; node < tree_count; node++) {
		if (tree_nodes[node].state == NODE_IDLE)
			ask(ORIGINAL, node, keep_capabilities, 0);
	}
	expect_refused(_metadata, EPERM, self->root, KEEP);
}

TEST_HARNESS_MAIN
