// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_STOPPED leaves every process of the replica tree as after SIGSTOP.
 */
#include "fullfork_tree.h"

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/* Words of the tree */
enum {
	ORIGINAL_STEPS,
	REPLICA_STEPS,			/* that any node of the replica made */
};

static long spin(struct tree_node *self, long arg)
{
	for (;;)
		add(&tree->word[tree_side(self) == ORIGINAL ? ORIGINAL_STEPS :
				REPLICA_STEPS], 1);
	return 0;
}

/*
 * A tree of five processes, of which the root leads a process group: one with
 * three threads, one that never sleeps, and a zombie.
 */
FIXTURE(tree)
{
	unsigned int root, child, thread, grandchild, spinner, zombie;
	pid_t pid;
};

FIXTURE_SETUP(tree)
{
	setup_tree(_metadata);
	self->root = start_tree();
	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));
	ASSERT_EQ(0, ask(ORIGINAL, self->root, join_group, self->root));
	self->child = child_of(self->root);
	self->thread = thread_of(self->child);
	thread_of(self->child);
	self->grandchild = child_of(self->thread);
	self->spinner = child_of(self->root);
	self->zombie = child_of(self->root);
	end_node(ORIGINAL, self->zombie, 6);
	keep_busy(self->spinner, spin, 0);
	ASSERT_TRUE(wait_until(load(&tree->word[ORIGINAL_STEPS]), DEADLINE));
	ASSERT_EQ(SIGCHLD, ask(ORIGINAL, self->root, take_signal_now, SIGCHLD));

	tree_set_args(BOTH | CLONE_STOPPED);
	self->pid = tree_copy(_metadata, self->root);
}

FIXTURE_TEARDOWN(tree)
{
	teardown_tree(_metadata);
}

static bool is_stopped(unsigned int node)
{
	return all_in_state(pid_of(REPLICA, node), 'T');
}

static void expect_stopped(struct __test_metadata *_metadata, unsigned int node)
{
	EXPECT_TRUE(wait_until(is_stopped(node), DEADLINE))
	{
		TH_LOG("node %u is not stopped", node);
		dump_process(pid_of(REPLICA, node));
	}
}

static void expect_going_on(struct __test_metadata *_metadata,
			    unsigned int node)
{
	tree_meet(_metadata, node);
	EXPECT_EQ(0, ask(REPLICA, node, be_there, 0));
}

#define continue_node(node) signal_node(REPLICA, node, SIGCONT)

TEST_F_GUARDED(tree, has_every_process_stopped)
{
	expect_stopped(_metadata, self->root);
	expect_stopped(_metadata, self->child);
	expect_stopped(_metadata, self->grandchild);
	expect_stopped(_metadata, self->spinner);
	EXPECT_EQ(3, count_threads(pid_of(REPLICA, self->child)));
	EXPECT_EQ('Z', task_state(pid_of(REPLICA, self->zombie),
				  pid_of(REPLICA, self->zombie)));
}

TEST_F_GUARDED(tree, runs_nothing_before_sigcont)
{
	unsigned int node;
	__u32 steps;

	expect_stopped(_metadata, self->root);
	expect_stopped(_metadata, self->child);
	expect_stopped(_metadata, self->grandchild);
	expect_stopped(_metadata, self->spinner);
	EXPECT_EQ(0, load(&tree->word[REPLICA_STEPS]));

	/* Not even while the original's spinner does a lot. */
	steps = load(&tree->word[ORIGINAL_STEPS]);
	EXPECT_TRUE(wait_until(load(&tree->word[ORIGINAL_STEPS]) - steps > 2000,
			       DEADLINE));
	for (node = 0; node < tree_count; node++) {
		EXPECT_EQ(0, load(&slot_of(REPLICA, node)->there));
		EXPECT_EQ(0, load(&slot_of(REPLICA, node)->returned));
	}
	EXPECT_EQ(0, load(&tree->word[REPLICA_STEPS]));
	continue_node(self->spinner);
	EXPECT_TRUE(wait_until(load(&tree->word[REPLICA_STEPS]), DEADLINE));
}

TEST_F_GUARDED(tree, leaves_the_originals_running)
{
	__u32 steps;

	tree_expect_alive(_metadata, ORIGINAL);
	expect_stopped(_metadata, self->root);
	steps = load(&tree->word[ORIGINAL_STEPS]);
	EXPECT_TRUE(wait_until(load(&tree->word[ORIGINAL_STEPS]) != steps,
			       DEADLINE));
	tree_expect_alive(_metadata, ORIGINAL);
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, wait_stopped_now,
				   self->child));
}

TEST_F_GUARDED(tree, shows_the_stop_of_its_root_to_the_caller)
{
	EXPECT_EQ(stopped_by(SIGSTOP), ask(ORIGINAL, self->root,
					   wait_pid_stopped, self->pid));
	expect_stopped(_metadata, self->root);
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, wait_pid_stopped_now,
				   self->pid));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, take_signal_now,
				   SIGCHLD));
}

TEST_F_GUARDED(tree, shows_the_stops_below_to_replicas)
{
	continue_node(self->root);
	expect_going_on(_metadata, self->root);
	EXPECT_EQ(stopped_by(SIGSTOP), ask(REPLICA, self->root, wait_stopped,
					   self->child));
	EXPECT_EQ(stopped_by(SIGSTOP), ask(REPLICA, self->root, wait_stopped,
					   self->spinner));
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->root, wait_stopped_now,
				   self->child));
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->root, take_signal_now,
				   SIGCHLD));
}

TEST_F_GUARDED(tree, goes_on_process_by_process)
{
	expect_stopped(_metadata, self->root);
	expect_stopped(_metadata, self->child);
	expect_stopped(_metadata, self->grandchild);
	expect_stopped(_metadata, self->spinner);

	/* From below, and with all threads of the process. */
	continue_node(self->grandchild);
	expect_going_on(_metadata, self->grandchild);
	EXPECT_TRUE(is_stopped(self->child));
	EXPECT_TRUE(is_stopped(self->root));
	continue_node(self->child);
	expect_going_on(_metadata, self->child);
	expect_going_on(_metadata, self->thread);
	EXPECT_TRUE(is_stopped(self->root));
	EXPECT_TRUE(is_stopped(self->spinner));
	continue_node(self->root);
	expect_going_on(_metadata, self->root);
	EXPECT_EQ(1, load(&slot_of(REPLICA, self->root)->returned));
	EXPECT_TRUE(is_stopped(self->spinner));
}

/* The group is that which the root's replica leads. */
TEST_F_GUARDED(tree, goes_on_as_a_process_group)
{
	ASSERT_EQ(0, kill(-self->pid, SIGCONT));
	tree_meet_all(_metadata, self->root);
	tree_expect_alive(_metadata, REPLICA);
	EXPECT_TRUE(wait_until(load(&tree->word[REPLICA_STEPS]), DEADLINE));
}

TEST_F_GUARDED(tree, is_a_tree_when_it_goes_on)
{
	ASSERT_EQ(0, kill(-self->pid, SIGCONT));
	tree_meet_all(_metadata, self->root);
	EXPECT_EQ(self->pid, ask(REPLICA, self->child, get_parent, 0));
	EXPECT_EQ(pid_of(REPLICA, self->child),
		  ask(REPLICA, self->grandchild, get_parent, 0));
	EXPECT_EQ(6 << 8, ask(REPLICA, self->root, wait_now, self->zombie));
	end_node(REPLICA, self->grandchild, 7);
	EXPECT_EQ(7 << 8, ask(REPLICA, self->thread, wait_for,
			      self->grandchild));
	end_node(REPLICA, self->child, 8);
	EXPECT_EQ(8 << 8, ask(REPLICA, self->root, wait_for, self->child));
}

TEST_F_GUARDED(tree, whose_root_is_killed_is_adopted_stopped)
{
	expect_stopped(_metadata, self->root);
	signal_node(REPLICA, self->root, SIGKILL);
	EXPECT_EQ(SIGKILL, ask(ORIGINAL, self->root, wait_pid_for, self->pid));
	EXPECT_EQ(getpid(), status_number(pid_of(REPLICA, self->child), "PPid"));
	EXPECT_EQ(0, load(&slot_of(REPLICA, self->root)->returned));
	expect_stopped(_metadata, self->grandchild);
	continue_node(self->grandchild);
	expect_going_on(_metadata, self->grandchild);
}

TEST_F_GUARDED(tree, whose_child_is_killed_reaps_it_later)
{
	expect_stopped(_metadata, self->spinner);
	signal_node(REPLICA, self->spinner, SIGKILL);
	EXPECT_TRUE(wait_until(task_state(pid_of(REPLICA, self->spinner),
					  pid_of(REPLICA, self->spinner)) == 'Z',
			       DEADLINE));
	expect_stopped(_metadata, self->root);
	continue_node(self->root);
	expect_going_on(_metadata, self->root);
	EXPECT_EQ(SIGKILL, ask(REPLICA, self->root, wait_now, self->spinner));
}

/* Other trees that are left stopped */
FIXTURE(other_tree)
{
	unsigned int root, child;
};

FIXTURE_SETUP(other_tree)
{
	setup_tree(_metadata);
	self->root = start_tree();
	self->child = child_of(self->root);
}

FIXTURE_TEARDOWN(other_tree)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(other_tree, of_single_threads_is_stopped)
{
	tree_set_args(CLONE_SUBTREE | CLONE_STOPPED);
	tree_copy(_metadata, self->root);
	expect_stopped(_metadata, self->root);
	expect_stopped(_metadata, self->child);
	EXPECT_EQ(0, load(&slot_of(REPLICA, self->root)->returned));
	continue_node(self->child);
	expect_going_on(_metadata, self->child);
	EXPECT_TRUE(is_stopped(self->root));
	continue_node(self->root);
	tree_meet_all(_metadata, self->root);
}

/* One SIGCONT is enough for a process that was stopped already. */
TEST_F_GUARDED(other_tree, with_a_stopped_member_is_stopped)
{
	signal_node(ORIGINAL, self->child, SIGSTOP);
	ASSERT_TRUE(wait_until(all_in_state(pid_of(ORIGINAL, self->child), 'T'),
			       DEADLINE));
	tree_nodes[self->child].state = NODE_BUSY;
	tree_set_args(BOTH | CLONE_STOPPED);
	tree_copy(_metadata, self->root);
	expect_stopped(_metadata, self->root);
	expect_stopped(_metadata, self->child);
	continue_node(self->child);
	expect_going_on(_metadata, self->child);
	EXPECT_TRUE(is_stopped(self->root));
	EXPECT_TRUE(all_in_state(pid_of(ORIGINAL, self->child), 'T'));
}

/* The control: what is not asked for is not done. */
TEST_F_GUARDED(other_tree, is_not_stopped_without_the_flag)
{
	copy_by(self->root, BOTH);
	tree_expect_alive(_metadata, REPLICA);
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->root, wait_stopped_now,
				   self->child));
}

TEST_HARNESS_MAIN
