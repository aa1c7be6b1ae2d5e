// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_SUBTREE where processes have several threads: parents are threads, and
 * without CLONE_ALL_THREADS only the caller's process may have more than one.
 */
#include "fullfork_tree.h"

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/*
 * Children of leader and thread, in a tree of three processes with several
 * threads each:
 *
 *	leader  -> child of the leader
 *	thread  -> middle
 *	second
 *	middle  -> child of the middle's leader
 *	inner   -> last
 *	last, and its thread
 */
FIXTURE(threads)
{
	unsigned int leader, thread, second;
	unsigned int leader_child;
	unsigned int middle, inner;
	unsigned int middle_child;
	unsigned int last, last_thread;
};

FIXTURE_SETUP(threads)
{
	setup_tree(_metadata);
	self->leader = start_tree();
	self->leader_child = child_of(self->leader);
	self->thread = thread_of(self->leader);
	self->second = thread_of(self->leader);
	self->middle = child_of(self->thread);
	self->inner = thread_of(self->middle);
	self->middle_child = child_of(self->middle);
	self->last = child_of(self->inner);
	self->last_thread = thread_of(self->last);
}

FIXTURE_TEARDOWN(threads)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(threads, are_all_copied)
{
	pid_t pid = copy_by(self->leader, BOTH);

	/* By name, by number, and each one answers. */
	EXPECT_EQ(5, count_tree(pid));
	EXPECT_EQ(3, count_threads(pid));
	EXPECT_EQ(2, count_threads(pid_of(REPLICA, self->middle)));
	EXPECT_EQ(2, count_threads(pid_of(REPLICA, self->last)));
	EXPECT_EQ(1, count_threads(pid_of(REPLICA, self->leader_child)));
	EXPECT_EQ(1, count_threads(pid_of(REPLICA, self->middle_child)));
	tree_expect_alive(_metadata, REPLICA);
	tree_expect_alive(_metadata, ORIGINAL);
}

TEST_F_GUARDED(threads, are_in_the_replicas_of_their_processes)
{
	unsigned int node, lead;

	copy_by(self->leader, BOTH);
	for (node = 0; node < tree_count; node++) {
		lead = tree_nodes[node].process;
		EXPECT_EQ(pid_of(REPLICA, lead), pid_of(REPLICA, node));
		EXPECT_EQ(node == lead,
			  tid_of(REPLICA, node) == pid_of(REPLICA, node));
		EXPECT_NE(tid_of(ORIGINAL, node), tid_of(REPLICA, node));
	}
}

TEST_F_GUARDED(threads, are_copied_when_another_one_calls)
{
	pid_t pid = copy_by(self->second, BOTH);

	/* The leader's replica leads, whoever called. */
	EXPECT_EQ(pid, tid_of(REPLICA, self->leader));
	EXPECT_EQ(pid, pid_of(REPLICA, self->second));
	EXPECT_EQ(5, count_tree(pid));
	EXPECT_EQ(3, count_threads(pid));
	tree_expect_alive(_metadata, REPLICA);
}

TEST_F_GUARDED(threads, keep_their_memory)
{
	unsigned int node;

	for (node = 0; node < tree_count; node++)
		ASSERT_EQ(0, ask(ORIGINAL, node, set_private_word, 100 + node));
	copy_by(self->leader, BOTH);
	for (node = 0; node < tree_count; node++)
		EXPECT_EQ(100 + node, ask(REPLICA, node, get_private_word, 0));
}

/* A child is that of one thread: __WNOTHREAD shows whose. */
TEST_F_GUARDED(threads, have_replicas_of_their_own_children)
{
	int side;

	copy_by(self->leader, BOTH);
	for (side = ORIGINAL; side <= REPLICA; side++) {
		EXPECT_EQ(NOTHING_YET, ask(side, self->thread, wait_own_now,
					   self->middle));
		EXPECT_EQ(-ECHILD, ask(side, self->leader, wait_own_now,
				       self->middle));
		EXPECT_EQ(-ECHILD, ask(side, self->second, wait_own_now,
				       self->middle));
		EXPECT_EQ(NOTHING_YET, ask(side, self->leader, wait_own_now,
					   self->leader_child));
		EXPECT_EQ(-ECHILD, ask(side, self->thread, wait_own_now,
				       self->leader_child));
		EXPECT_EQ(NOTHING_YET, ask(side, self->inner, wait_own_now,
					   self->last));
		EXPECT_EQ(-ECHILD, ask(side, self->middle, wait_own_now,
				       self->last));
	}
}

TEST_F_GUARDED(threads, reap_replicas_of_their_own_children)
{
	copy_by(self->leader, BOTH);
	end_node(REPLICA, self->last, 6);
	EXPECT_EQ(-ECHILD, ask(REPLICA, self->middle, wait_own_now, self->last));
	EXPECT_EQ(6 << 8, ask(REPLICA, self->inner, wait_own_now, self->last));
	end_node(REPLICA, self->middle_child, 7);
	EXPECT_EQ(7 << 8, ask(REPLICA, self->middle, wait_own_now,
			      self->middle_child));

	/* Any thread may wait for a child of any other without that flag. */
	end_node(REPLICA, self->middle, 8);
	EXPECT_EQ(8 << 8, ask(REPLICA, self->second, wait_for, self->middle));
}

TEST_F_GUARDED(threads, see_the_process_as_parent)
{
	copy_by(self->leader, BOTH);
	EXPECT_EQ(pid_of(REPLICA, self->leader),
		  ask(REPLICA, self->middle, get_parent, 0));
	EXPECT_EQ(pid_of(REPLICA, self->middle),
		  ask(REPLICA, self->last, get_parent, 0));
	EXPECT_EQ(pid_of(REPLICA, self->middle),
		  ask(REPLICA, self->last_thread, get_parent, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->leader),
		  ask(REPLICA, self->leader, get_parent, 0));
}

/* The child of a thread that ends goes to another thread, as ever. */
TEST_F_GUARDED(threads, leave_their_children_to_the_others_when_they_end)
{
	copy_by(self->leader, BOTH);
	tree_end_thread(_metadata, REPLICA, self->thread, 0);
	EXPECT_EQ(pid_of(REPLICA, self->leader),
		  ask(REPLICA, self->middle, get_parent, 0));
	end_node(REPLICA, self->middle, 9);
	EXPECT_EQ(9 << 8, ask(REPLICA, self->second, wait_for,
			      self->middle));
}

/* A single-threaded parent, a child with a second thread. */
FIXTURE(descendant)
{
	unsigned int root, child, thread;
};

FIXTURE_SETUP(descendant)
{
	setup_tree(_metadata);
	self->root = start_tree();
	self->child = child_of(self->root);
	self->thread = thread_of(self->child);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));
}

FIXTURE_TEARDOWN(descendant)
{
	teardown_tree(_metadata);
}

static void expect_refused(struct __test_metadata *_metadata,
			   unsigned int caller, int before)
{
	tree_set_args(CLONE_SUBTREE);
	EXPECT_EQ(-EOPNOTSUPP, call_by(caller));
	EXPECT_EQ(before, count_tree(getpid()));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, caller, take_signal_now, SIGCHLD));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, caller, wait_pid_stopped_now, -1));
	tree_expect_alive(_metadata, ORIGINAL);
}

TEST_F_GUARDED(descendant, with_threads_is_rejected_without_all_threads)
{
	int before = count_tree(getpid());
	pid_t pid;

	expect_refused(_metadata, self->root, before);

	/* With that flag it is taken; and without, when the thread is gone. */
	pid = copy_by(self->root, BOTH);
	EXPECT_EQ(2, count_threads(pid_of(REPLICA, self->child)));
	end_replicas(self->root, pid);
	tree_end_thread(_metadata, ORIGINAL, self->thread, 0);
	ASSERT_TRUE(wait_until(count_threads(pid_of(ORIGINAL, self->child)) == 1,
			       DEADLINE));
	pid = copy_by(self->root, CLONE_SUBTREE);
	EXPECT_EQ(2, count_tree(pid));
}

TEST_F_GUARDED(descendant, deep_down_with_threads_is_rejected_as_well)
{
	unsigned int grandchild, before;

	tree_end_thread(_metadata, ORIGINAL, self->thread, 0);
	grandchild = child_of(child_of(self->child));
	self->thread = thread_of(grandchild);
	before = count_tree(getpid());
	ASSERT_TRUE(wait_until(count_threads(pid_of(ORIGINAL, self->child)) == 1,
			       DEADLINE));
	expect_refused(_metadata, self->root, before);
	tree_end_thread(_metadata, ORIGINAL, self->thread, 0);
	ASSERT_TRUE(wait_until(count_threads(pid_of(ORIGINAL, grandchild)) == 1,
			       DEADLINE));
	EXPECT_EQ(4, count_tree(copy_by(self->root, CLONE_SUBTREE)));
}

/* A caller with other threads, whose children have one each. */
FIXTURE(caller)
{
	unsigned int leader, thread;
	unsigned int leader_child, thread_child, grandchild;
};

FIXTURE_SETUP(caller)
{
	setup_tree(_metadata);
	self->leader = start_tree();
	self->thread = thread_of(self->leader);
	self->leader_child = child_of(self->leader);
	self->thread_child = child_of(self->thread);
	self->grandchild = child_of(self->thread_child);
}

FIXTURE_TEARDOWN(caller)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(caller, is_copied_without_its_other_threads)
{
	pid_t pid = copy_by(self->leader, CLONE_SUBTREE);

	EXPECT_EQ(1, count_threads(pid));
	EXPECT_EQ(4, count_tree(pid));
	EXPECT_EQ(0, ask(REPLICA, self->leader, be_there, 0));
	EXPECT_EQ(2, count_threads(pid_of(ORIGINAL, self->leader)));
}

TEST_F_GUARDED(caller, leads_its_replica_if_it_did_not_lead)
{
	pid_t pid = copy_by(self->thread, CLONE_SUBTREE);

	EXPECT_EQ(1, count_threads(pid));
	EXPECT_EQ(pid, tid_of(REPLICA, self->thread));
	EXPECT_EQ(4, count_tree(pid));
	EXPECT_EQ(0, ask(REPLICA, self->thread, be_there, 0));
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->thread, wait_now,
				   self->thread_child));
}

/* The threads that these were children of have no replicas. */
TEST_F_GUARDED(caller, has_the_children_of_its_other_threads)
{
	pid_t pid = copy_by(self->leader, CLONE_SUBTREE);

	EXPECT_EQ(pid, ask(REPLICA, self->thread_child, get_parent, 0));
	EXPECT_EQ(pid, ask(REPLICA, self->leader_child, get_parent, 0));
	EXPECT_EQ(pid_of(REPLICA, self->thread_child),
		  ask(REPLICA, self->grandchild, get_parent, 0));
	end_node(REPLICA, self->thread_child, 3);
	EXPECT_EQ(3 << 8, ask(REPLICA, self->leader, wait_for,
			      self->thread_child));
}

TEST_HARNESS_MAIN
