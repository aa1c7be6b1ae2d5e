// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_SUBTREE copies the caller and every descendant, with the shape kept.
 * All processes here have one thread.
 */
#include "fullfork_tree.h"

#define MANY 50

/* A tree of which the test knows node 0 and grows the rest. */
FIXTURE(tree)
{
	unsigned int root;
};

FIXTURE_VARIANT(tree)
{
	__u64 flags;
};

FIXTURE_VARIANT_ADD(tree, of_single_threads) {
	.flags = CLONE_SUBTREE,
};

FIXTURE_VARIANT_ADD(tree, with_all_threads) {
	.flags = CLONE_SUBTREE | CLONE_ALL_THREADS,
};

FIXTURE_SETUP(tree)
{
	setup_tree(_metadata);
	self->root = start_tree();
}

FIXTURE_TEARDOWN(tree)
{
	teardown_tree(_metadata);
}

/* Each process has the parent of its side, and says so itself. */
static void expect_parents(struct __test_metadata *_metadata, enum side side,
			   unsigned int caller)
{
	unsigned int node, parent;

	for (node = 0; node < tree_count; node++) {
		if (node == caller || tree_nodes[node].process != node ||
		    !is_member(node, caller))
			continue;
		parent = tree_nodes[tree_nodes[node].maker].process;
		EXPECT_EQ(pid_of(side, parent), ask(side, node, get_parent, 0))
		{
			TH_LOG("parent of node %u", node);
		}
	}
}

TEST_F_GUARDED(tree, returns_pid_and_zero)
{
	unsigned int child = child_of(self->root);
	pid_t pid = copy_by(self->root, variant->flags);

	/* That the replica of the caller gets 0 is seen by copy_by(). */
	EXPECT_NE(pid_of(ORIGINAL, self->root), pid);
	EXPECT_EQ(pid, ask(REPLICA, self->root, get_pid, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->root), status_number(pid, "PPid"));
	EXPECT_NE(pid_of(ORIGINAL, child), pid_of(REPLICA, child));
}

TEST_F_GUARDED(tree, of_the_caller_alone_is_copied)
{
	pid_t pid = copy_by(self->root, variant->flags);

	EXPECT_EQ(1, count_tree(pid));
	EXPECT_EQ(1, count_threads(pid));
	EXPECT_EQ(pid_of(ORIGINAL, self->root),
		  ask(REPLICA, self->root, get_parent, 0));
}

TEST_F_GUARDED(tree, of_parent_and_child_is_copied)
{
	unsigned int child = child_of(self->root);
	pid_t pid = copy_by(self->root, variant->flags);

	EXPECT_EQ(2, count_tree(pid));
	EXPECT_EQ(pid, ask(REPLICA, child, get_parent, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->root),
		  ask(ORIGINAL, child, get_parent, 0));
}

TEST_F_GUARDED(tree, of_three_generations_is_copied)
{
	unsigned int child = child_of(self->root);
	unsigned int grandchild = child_of(child);
	pid_t pid = copy_by(self->root, variant->flags);

	EXPECT_EQ(3, count_tree(pid));
	EXPECT_EQ(pid_of(REPLICA, child),
		  ask(REPLICA, grandchild, get_parent, 0));
	expect_parents(_metadata, ORIGINAL, self->root);
}

TEST_F_GUARDED(tree, that_is_a_chain_of_50_is_copied)
{
	unsigned int i, last = self->root;
	pid_t pid;

	for (i = 1; i < MANY; i++)
		last = child_of(last);
	pid = copy_by(self->root, variant->flags);
	EXPECT_EQ(MANY, count_tree(pid));
	expect_parents(_metadata, REPLICA, self->root);
	expect_parents(_metadata, ORIGINAL, self->root);
}

TEST_F_GUARDED(tree, that_is_a_fan_of_50_is_copied)
{
	unsigned int i;
	pid_t pid;

	for (i = 1; i < MANY; i++)
		child_of(self->root);
	pid = copy_by(self->root, variant->flags);
	EXPECT_EQ(MANY, count_tree(pid));
	expect_parents(_metadata, REPLICA, self->root);
	expect_parents(_metadata, ORIGINAL, self->root);
}

/* A binary tree of which one branch is cut short. */
TEST_F_GUARDED(tree, that_is_irregular_is_copied)
{
	unsigned int i, left = child_of(self->root);
	unsigned int right = child_of(self->root);

	for (i = 0; i < 4; i++) {
		child_of(left);
		left = child_of(left);
	}
	child_of(right);
	EXPECT_EQ(12, count_tree(copy_by(self->root, variant->flags)));
	expect_parents(_metadata, REPLICA, self->root);
	expect_parents(_metadata, ORIGINAL, self->root);
}

/* Its parent, siblings and their descendants are no members. */
TEST_F_GUARDED(tree, begins_at_the_caller)
{
	unsigned int caller = child_of(self->root);
	unsigned int sibling = child_of(self->root);
	unsigned int child = child_of(caller);
	pid_t pid;

	child_of(sibling);
	pid = copy_by(caller, variant->flags);
	EXPECT_EQ(2, count_tree(pid));
	EXPECT_EQ(pid_of(ORIGINAL, caller), ask(REPLICA, caller, get_parent, 0));
	EXPECT_EQ(pid, ask(REPLICA, child, get_parent, 0));
	EXPECT_EQ(7, count_tree(pid_of(ORIGINAL, self->root)));
	tree_expect_alive(_metadata, ORIGINAL);
}

/* An orphan that has come to a member is below that member. */
TEST_F_GUARDED(tree, has_adopted_children)
{
	unsigned int reaper = child_of(self->root);
	unsigned int parent = child_of(reaper);
	unsigned int orphan = child_of(parent);
	int reap = PR_SET_CHILD_SUBREAPER;

	ASSERT_EQ(0, ask(ORIGINAL, reaper, set_option, reap));
	end_node(ORIGINAL, parent, 1);
	ASSERT_EQ(1 << 8, ask(ORIGINAL, reaper, wait_for, parent));
	tree_nodes[parent].state = NODE_GONE;
	tree_nodes[orphan].maker = reaper;
	ASSERT_EQ(pid_of(ORIGINAL, reaper), ask(ORIGINAL, orphan, get_parent, 0));

	copy_by(self->root, variant->flags);
	EXPECT_EQ(pid_of(REPLICA, reaper), ask(REPLICA, orphan, get_parent, 0));
	end_node(REPLICA, orphan, 2);
	EXPECT_EQ(2 << 8, ask(REPLICA, reaper, wait_for, orphan));
}

TEST_F_GUARDED(tree, keeps_names)
{
	unsigned int child = child_of(self->root);
	struct proc_stat st;

	copy_by(self->root, variant->flags);
	ASSERT_TRUE(read_stat(pid_of(REPLICA, self->root), &st));
	EXPECT_STREQ("node-0", st.comm);
	ASSERT_TRUE(read_stat(pid_of(REPLICA, child), &st));
	EXPECT_STREQ("node-1", st.comm);
}

TEST_F_GUARDED(tree, keeps_exit_signals_below_the_root)
{
	static const int signals[] = { SIGCHLD, SIGUSR1, 0, SIGURG };
	unsigned int i, parent = child_of(self->root), child[4];
	struct proc_stat st;

	ASSERT_EQ(0, ask(ORIGINAL, parent, block_node_signal, SIGUSR1));
	for (i = 0; i < ARRAY_SIZE(child); i++)
		child[i] = clone_of(parent, 0, signals[i]);
	copy_by(self->root, variant->flags);
	for (i = 0; i < ARRAY_SIZE(child); i++) {
		ASSERT_TRUE(read_stat(pid_of(ORIGINAL, child[i]), &st));
		EXPECT_EQ(signals[i], st.exit_signal);
		ASSERT_TRUE(read_stat(pid_of(REPLICA, child[i]), &st));
		EXPECT_EQ(signals[i], st.exit_signal);
	}

	/* It is sent, too, to the replica of the parent and to no other. */
	end_node(REPLICA, child[1], 1);
	EXPECT_EQ(pid_of(REPLICA, child[1]),
		  ask(REPLICA, parent, take_signal, SIGUSR1));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, parent, take_signal_now, SIGUSR1));
	EXPECT_EQ(1 << 8, ask(REPLICA, parent, wait_for, child[1]));
}

TEST_F_GUARDED(tree, takes_the_exit_signal_of_the_root_from_the_arguments)
{
	struct proc_stat st;
	pid_t pid;

	child_of(self->root);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGUSR2));
	tree_set_args(variant->flags);
	tree->args.exit_signal = SIGUSR2;
	pid = tree_copy(_metadata, self->root);
	tree_meet_all(_metadata, self->root);
	ASSERT_TRUE(read_stat(pid, &st));
	EXPECT_EQ(SIGUSR2, st.exit_signal);
	end_node(REPLICA, self->root, 1);
	EXPECT_EQ(pid, ask(ORIGINAL, self->root, take_signal, SIGUSR2));
	EXPECT_EQ(1 << 8, ask(ORIGINAL, self->root, wait_pid_for, pid));
}

TEST_F_GUARDED(tree, has_replicas_wait_for_replicas)
{
	unsigned int child = child_of(self->root);
	unsigned int grandchild = child_of(child);
	unsigned int other = child_of(child);
	pid_t pid = copy_by(self->root, variant->flags);

	EXPECT_EQ(NOTHING_YET, ask(REPLICA, child, wait_now, grandchild));
	end_node(REPLICA, grandchild, 7);
	EXPECT_EQ(7 << 8, ask(REPLICA, child, wait_for, grandchild));
	EXPECT_EQ(-ECHILD, ask(REPLICA, child, wait_now, grandchild));
	signal_node(REPLICA, other, SIGTERM);
	EXPECT_EQ(SIGTERM, ask(REPLICA, child, wait_for, other));
	EXPECT_EQ(-ECHILD, ask(REPLICA, child, wait_pid_now, -1));
	end_node(REPLICA, child, 8);
	EXPECT_EQ(8 << 8, ask(REPLICA, self->root, wait_for, child));
	end_node(REPLICA, self->root, 9);
	EXPECT_EQ(9 << 8, ask(ORIGINAL, self->root, wait_pid_for, pid));

	/* And originals for originals, as if nothing had been. */
	tree_expect_alive(_metadata, ORIGINAL);
	end_node(ORIGINAL, grandchild, 5);
	EXPECT_EQ(5 << 8, ask(ORIGINAL, child, wait_for, grandchild));
}

TEST_F_GUARDED(tree, has_no_process_wait_for_the_other_side)
{
	unsigned int child = child_of(self->root);
	pid_t pid = copy_by(self->root, variant->flags);

	EXPECT_EQ(-ECHILD, ask(REPLICA, self->root, wait_pid_now,
			       pid_of(ORIGINAL, child)));
	EXPECT_EQ(-ECHILD, ask(ORIGINAL, self->root, wait_pid_now,
			       pid_of(REPLICA, child)));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, wait_pid_now, pid));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, wait_now, child));
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->root, wait_now, child));
}

TEST_F_GUARDED(tree, has_the_memory_of_every_member)
{
	unsigned int child = child_of(self->root);
	unsigned int grandchild = child_of(child);
	unsigned int other = child_of(self->root), node;

	for (node = self->root; node <= other; node++)
		ASSERT_EQ(0, ask(ORIGINAL, node, set_private_word, 100 + node));
	copy_by(self->root, variant->flags);
	for (node = self->root; node <= other; node++)
		EXPECT_EQ(100 + node, ask(REPLICA, node, get_private_word, 0));
	EXPECT_EQ(3, other);
	EXPECT_EQ(2, grandchild);
}

TEST_F_GUARDED(tree, has_memory_of_its_own)
{
	unsigned int child = child_of(self->root);
	unsigned int grandchild = child_of(child), node;

	for (node = self->root; node <= grandchild; node++)
		ASSERT_EQ(0, ask(ORIGINAL, node, set_private_word, 100 + node));
	copy_by(self->root, variant->flags);
	for (node = self->root; node <= grandchild; node++)
		ASSERT_EQ(0, ask(REPLICA, node, set_private_word, 200 + node));
	for (node = self->root; node <= grandchild; node++) {
		EXPECT_EQ(100 + node, ask(ORIGINAL, node, get_private_word, 0));
		ASSERT_EQ(0, ask(ORIGINAL, node, set_private_word, 300 + node));
	}
	for (node = self->root; node <= grandchild; node++)
		EXPECT_EQ(200 + node, ask(REPLICA, node, get_private_word, 0));
}

TEST_F_GUARDED(tree, is_the_child_of_the_callers_parent_with_clone_parent)
{
	unsigned int caller = child_of(self->root);
	unsigned int child = child_of(caller);
	pid_t pid = copy_by(caller, variant->flags | CLONE_PARENT);

	EXPECT_EQ(pid_of(ORIGINAL, self->root),
		  ask(REPLICA, caller, get_parent, 0));
	EXPECT_EQ(pid, ask(REPLICA, child, get_parent, 0));
	EXPECT_EQ(-ECHILD, ask(ORIGINAL, caller, wait_pid_now, pid));
	end_node(REPLICA, child, 2);
	end_node(REPLICA, caller, 3);
	EXPECT_EQ(3 << 8, ask(ORIGINAL, self->root, wait_pid_for, pid));

	/* Without the flag it is the caller's own. */
	pid = copy_by(caller, variant->flags);
	EXPECT_EQ(pid_of(ORIGINAL, caller), ask(REPLICA, caller, get_parent, 0));
}

/* The process that a pidfd of the calling process names. */
static long get_pid_of_pidfd(struct tree_node *self, long fd)
{
	char path[64], text[1024], *pos;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%ld", fd);
	if (read_file(path, text, sizeof(text)) <= 0)
		return -errno;
	pos = strstr(text, "Pid:");
	return pos ? atoi(pos + 4) : -ENOENT;
}

TEST_F_GUARDED(tree, has_a_pidfd_of_the_root)
{
	pid_t pid;

	child_of(self->root);
	tree_set_args(variant->flags | CLONE_PIDFD);
	tree->args.pidfd = ptr_to_u64(&tree->pidfd);
	tree->pidfd = -1;
	pid = tree_copy(_metadata, self->root);
	tree_meet_all(_metadata, self->root);
	EXPECT_LE(0, tree->pidfd);
	EXPECT_EQ(pid, ask(ORIGINAL, self->root, get_pid_of_pidfd, tree->pidfd));
	EXPECT_EQ(-ENOENT, ask(REPLICA, self->root, get_pid_of_pidfd,
			       tree->pidfd));
}

TEST_F_GUARDED(tree, has_the_tid_of_the_root_stored)
{
	pid_t pid;

	child_of(self->root);
	tree_set_args(variant->flags | CLONE_PARENT_SETTID);
	tree->args.parent_tid = ptr_to_u64(&tree->parent_tid);
	pid = tree_copy(_metadata, self->root);
	tree_meet_all(_metadata, self->root);
	EXPECT_EQ(pid, tree->parent_tid);
}

/* SIGCHLD and states to wait for are what originals could see of it. */
TEST_F_GUARDED(tree, is_unseen_by_originals)
{
	unsigned int parent = child_of(self->root);
	unsigned int child = child_of(parent);
	int i;

	ASSERT_EQ(0, ask(ORIGINAL, parent, block_node_signal, SIGCHLD));
	ASSERT_EQ(0, ask(ORIGINAL, child, block_node_signal, SIGCHLD));
	for (i = 0; i < 5; i++) {
		pid_t pid = copy_by(self->root, variant->flags);

		end_replicas(self->root, pid);
		EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, parent, take_signal_now,
					   SIGCHLD));
		EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, parent,
					   wait_pid_stopped_now, -1));
		EXPECT_EQ(2, count_tree(pid_of(ORIGINAL, parent)));
	}

	/* They would have seen it. */
	end_node(ORIGINAL, child, 1);
	EXPECT_TRUE(wait_until(ask(ORIGINAL, parent, take_signal_now, SIGCHLD) == SIGCHLD,
			       DEADLINE));
	EXPECT_EQ(1 << 8, ask(ORIGINAL, parent, wait_now, child));
}

/* A replica tree is a tree like any other. */
TEST_F_GUARDED(tree, grows_on_in_the_replica)
{
	unsigned int child = child_of(self->root), grandchild;

	copy_by(self->root, variant->flags);
	grandchild = tree_add(_metadata, REPLICA, child, false, 0, SIGCHLD);
	EXPECT_EQ(pid_of(REPLICA, child),
		  ask(REPLICA, grandchild, get_parent, 0));
	end_node(REPLICA, grandchild, 4);
	EXPECT_EQ(4 << 8, ask(REPLICA, child, wait_for, grandchild));
}

TEST_HARNESS_MAIN
