// SPDX-License-Identifier: GPL-2.0
/*
 * Processes whose leader thread has exited while other threads go on: copied
 * with that state kept, wherever in the tree they are.
 */
#include "fullfork_tree.h"

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/* What threads exit with: the last one has it for the process. */
#define LEADER_CODE 5
#define LAST_CODE 2

/* A process of three threads, without its leader. */
FIXTURE(leaderless)
{
	unsigned int root, leader, thread, other, child;
	unsigned int caller;		/* makes the call */
	unsigned int parent;		/* waits for it */
};

FIXTURE_VARIANT(leaderless)
{
	bool is_root;
};

FIXTURE_VARIANT_ADD(leaderless, descendant) {
};

FIXTURE_VARIANT_ADD(leaderless, root) {
	.is_root = true,
};

FIXTURE_SETUP(leaderless)
{
	setup_tree(_metadata);
	self->root = start_tree();
	self->leader = child_of(self->root);
	self->thread = thread_of(self->leader);
	self->other = thread_of(self->leader);
	self->child = child_of(self->leader);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));
	tree_end_thread(_metadata, ORIGINAL, self->leader, LEADER_CODE);
	tree_nodes[self->child].maker = self->thread;
	self->caller = variant->is_root ? self->thread : self->root;
	self->parent = self->root;
}

FIXTURE_TEARDOWN(leaderless)
{
	teardown_tree(_metadata);
}

/* The replica of the process is a child of the caller, if that is its root. */
static long wait_for_copy(struct __test_metadata *_metadata, bool is_root,
			  unsigned int caller, unsigned int root,
			  unsigned int leader, tree_fn how)
{
	pid_t pid = pid_of(REPLICA, leader);

	return is_root ? ask(ORIGINAL, caller, how, pid) :
			 ask(REPLICA, root, how, pid);
}

#define wait_copy(how)							\
	wait_for_copy(_metadata, variant->is_root, self->caller, self->root,	\
		      self->leader, how)

TEST_F_GUARDED(leaderless, has_a_zombie_leader_in_the_replica)
{
	char name[16], comm[32], path[64];
	pid_t pid;

	copy_by(self->caller, BOTH);
	pid = pid_of(REPLICA, self->leader);
	EXPECT_EQ(pid, tid_of(REPLICA, self->leader));
	EXPECT_EQ('Z', task_state(pid, pid));
	EXPECT_EQ(3, count_threads(pid));
	snprintf(name, sizeof(name), "node-%u", self->leader);
	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	EXPECT_LT(0, read_file(path, comm, sizeof(comm)));
	EXPECT_STREQ(name, comm);
	EXPECT_EQ('Z', task_state(pid_of(ORIGINAL, self->leader),
				  pid_of(ORIGINAL, self->leader)));
}

TEST_F_GUARDED(leaderless, has_threads_that_live_in_the_replica)
{
	int side;

	copy_by(self->caller, BOTH);
	for (side = ORIGINAL; side <= REPLICA; side++) {
		EXPECT_EQ(0, ask(side, self->thread, be_there, 0));
		EXPECT_EQ(0, ask(side, self->other, be_there, 0));
		EXPECT_EQ(pid_of(side, self->leader), pid_of(side, self->other));
		EXPECT_EQ(pid_of(side, self->leader),
			  ask(side, self->child, get_parent, 0));
	}
}

/* It is waited for when its last thread has ended, and not before. */
TEST_F_GUARDED(leaderless, ends_with_its_last_thread)
{
	copy_by(self->caller, BOTH);
	EXPECT_EQ(NOTHING_YET, wait_copy(wait_pid_now));
	tree_end_thread(_metadata, REPLICA, self->thread, 1);
	EXPECT_EQ(NOTHING_YET, wait_copy(wait_pid_now));
	tell(REPLICA, self->other, end_node_thread, LAST_CODE);
	EXPECT_EQ(LAST_CODE << 8, wait_copy(wait_pid_for));
	EXPECT_EQ(-ECHILD, wait_copy(wait_pid_now));

	/* The original goes on, and ends in the same way. */
	EXPECT_EQ(0, ask(ORIGINAL, self->thread, be_there, 0));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, wait_now,
				   self->leader));
	tree_end_thread(_metadata, ORIGINAL, self->other, 1);
	tell(ORIGINAL, self->thread, end_node_thread, LAST_CODE);
	EXPECT_EQ(LAST_CODE << 8, ask(ORIGINAL, self->root, wait_for,
				      self->leader));
}

TEST_F_GUARDED(leaderless, ends_with_the_code_of_a_thread_that_ends_all)
{
	copy_by(self->caller, BOTH);
	tell(REPLICA, self->other, end_process, 9);
	EXPECT_EQ(9 << 8, wait_copy(wait_pid_for));
	EXPECT_EQ(0, ask(ORIGINAL, self->other, be_there, 0));
}

TEST_F_GUARDED(leaderless, is_killed_in_the_replica)
{
	copy_by(self->caller, BOTH);
	signal_node(REPLICA, self->leader, SIGKILL);
	EXPECT_EQ(SIGKILL, wait_copy(wait_pid_for));
	EXPECT_EQ(0, ask(ORIGINAL, self->thread, be_there, 0));
}

TEST_F_GUARDED(leaderless, is_told_of_when_it_has_ended)
{
	unsigned int teller = variant->is_root ? self->thread : self->root;
	enum side side = variant->is_root ? ORIGINAL : REPLICA;

	if (variant->is_root) {
		ASSERT_EQ(0, ask(ORIGINAL, self->thread, block_node_signal, SIGCHLD));
		ASSERT_EQ(0, ask(ORIGINAL, self->other, block_node_signal, SIGCHLD));
	}
	copy_by(self->caller, BOTH);
	EXPECT_EQ(NOTHING_YET, ask(side, teller, take_signal_now, SIGCHLD));
	tree_end_thread(_metadata, REPLICA, self->other, 1);
	EXPECT_EQ(NOTHING_YET, ask(side, teller, take_signal_now, SIGCHLD));
	tell(REPLICA, self->thread, end_node_thread, 1);
	EXPECT_EQ(pid_of(REPLICA, self->leader),
		  ask(side, teller, take_signal, SIGCHLD));
}

TEST_HARNESS_MAIN
