// SPDX-License-Identifier: GPL-2.0
/*
 * Who adopts, reaps and is told of the end of whom: subreapers, children that
 * nobody has to wait for, and signals at the death of the parent.
 */
#include "fullfork_tree.h"

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

FIXTURE(tree)
{
	unsigned int root, child, parent, orphan;
};

FIXTURE_SETUP(tree)
{
	setup_tree(_metadata);
	self->root = start_tree();
	self->child = child_of(self->root);
	self->parent = child_of(self->child);
	self->orphan = child_of(self->parent);
}

FIXTURE_TEARDOWN(tree)
{
	teardown_tree(_metadata);
}

static long get_subreaper(struct tree_node *self, long arg)
{
	int on = -1;

	return prctl(PR_GET_CHILD_SUBREAPER, &on, 0, 0, 0) ? -errno : on;
}

TEST_F_GUARDED(tree, with_a_subreaper_keeps_it)
{
	ASSERT_EQ(0, ask(ORIGINAL, self->child, set_option,
			 PR_SET_CHILD_SUBREAPER));
	copy_by(self->root, BOTH);
	EXPECT_EQ(1, ask(REPLICA, self->child, get_subreaper, 0));
	EXPECT_EQ(0, ask(REPLICA, self->parent, get_subreaper, 0));
	EXPECT_EQ(0, ask(REPLICA, self->orphan, get_subreaper, 0));
	EXPECT_EQ(1, ask(ORIGINAL, self->child, get_subreaper, 0));
}

TEST_F_GUARDED(tree, with_a_subreaper_has_its_replica_adopt_orphans)
{
	ASSERT_EQ(0, ask(ORIGINAL, self->child, set_option,
			 PR_SET_CHILD_SUBREAPER));
	copy_by(self->root, BOTH);
	end_node(REPLICA, self->parent, 1);
	EXPECT_EQ(pid_of(REPLICA, self->child),
		  ask(REPLICA, self->orphan, get_parent, 0));
	EXPECT_EQ(1 << 8, ask(REPLICA, self->child, wait_for, self->parent));
	end_node(REPLICA, self->orphan, 2);
	EXPECT_EQ(2 << 8, ask(REPLICA, self->child, wait_for, self->orphan));

	/* The originals' orphan goes to the original. */
	end_node(ORIGINAL, self->parent, 3);
	EXPECT_EQ(pid_of(ORIGINAL, self->child),
		  ask(ORIGINAL, self->orphan, get_parent, 0));
}

/* What was set later does not count for the other side. */
TEST_F_GUARDED(tree, without_a_subreaper_has_orphans_go_outside)
{
	copy_by(self->root, BOTH);
	ASSERT_EQ(0, ask(ORIGINAL, self->child, set_option,
			 PR_SET_CHILD_SUBREAPER));
	end_node(REPLICA, self->parent, 1);
	EXPECT_EQ(getpid(), ask(REPLICA, self->orphan, get_parent, 0));
	EXPECT_EQ(1 << 8, ask(REPLICA, self->child, wait_for, self->parent));
}

TEST_F_GUARDED(tree, that_loses_its_root_is_adopted)
{
	pid_t pid = copy_by(self->root, BOTH);

	end_node(REPLICA, self->root, 1);
	EXPECT_EQ(1 << 8, ask(ORIGINAL, self->root, wait_pid_for, pid));
	EXPECT_EQ(getpid(), ask(REPLICA, self->child, get_parent, 0));
	EXPECT_EQ(pid_of(REPLICA, self->child),
		  ask(REPLICA, self->parent, get_parent, 0));
	tree_expect_alive(_metadata, ORIGINAL);
}

/* And the other way round. */
TEST_F_GUARDED(tree, outlives_the_original_of_its_root)
{
	copy_by(self->root, BOTH);
	signal_node(ORIGINAL, self->root, SIGKILL);
	EXPECT_TRUE(wait_until(waitpid(pid_of(ORIGINAL, self->root), NULL,
				       WNOHANG) > 0, DEADLINE));
	EXPECT_EQ(getpid(), ask(REPLICA, self->root, get_parent, 0));
	EXPECT_EQ(getpid(), ask(ORIGINAL, self->child, get_parent, 0));
	tree_expect_alive(_metadata, REPLICA);
}

TEST_F_GUARDED(tree, with_a_child_that_reaps_itself_keeps_that)
{
	unsigned int node = clone_of(self->child, CLONE_AUTOREAP, 0);
	int side;

	ASSERT_EQ(0, ask(ORIGINAL, self->child, block_node_signal, SIGCHLD));
	copy_by(self->root, BOTH);
	for (side = REPLICA; side >= ORIGINAL; side--) {
		tell(side, node, end_process, 1);
		EXPECT_TRUE(wait_until(is_gone(pid_of(side, node)), DEADLINE));
		EXPECT_EQ(-ECHILD, ask(side, self->child, wait_now, node));
		EXPECT_EQ(NOTHING_YET, ask(side, self->child, take_signal_now,
					   SIGCHLD));
	}

	/* Its sibling does not. */
	end_node(REPLICA, self->parent, 1);
	EXPECT_TRUE(wait_until(ask(REPLICA, self->child, take_signal_now, SIGCHLD) == SIGCHLD,
			       DEADLINE));
	EXPECT_EQ(1 << 8, ask(REPLICA, self->child, wait_now, self->parent));
}

TEST_F_GUARDED(tree, whose_root_is_to_reap_itself_does_not_pass_it_on)
{
	pid_t pid;

	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));
	pid = copy_by(self->root, BOTH | CLONE_AUTOREAP);
	end_node(REPLICA, self->child, 1);
	EXPECT_EQ(1 << 8, ask(REPLICA, self->root, wait_for, self->child));
	tell(REPLICA, self->root, end_process, 1);
	EXPECT_TRUE(wait_until(is_gone(pid), DEADLINE));
	EXPECT_EQ(-ECHILD, ask(ORIGINAL, self->root, wait_pid_now, pid));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, take_signal_now,
				   SIGCHLD));
}

TEST_F_GUARDED(tree, that_ignores_sigchld_leaves_no_zombies)
{
	ASSERT_EQ(0, ask(ORIGINAL, self->child, ignore_signal, SIGCHLD));
	copy_by(self->root, BOTH);
	tell(REPLICA, self->parent, end_process, 1);
	EXPECT_TRUE(wait_until(is_gone(pid_of(REPLICA, self->parent)),
			       DEADLINE));
	EXPECT_EQ(-ECHILD, ask(REPLICA, self->child, wait_pid_now, -1));
}

static long set_pdeath(struct tree_node *self, long sig)
{
	return result_of(prctl(PR_SET_PDEATHSIG, sig, 0, 0, 0));
}

static long get_pdeath(struct tree_node *self, long arg)
{
	int sig = -1;

	return prctl(PR_GET_PDEATHSIG, &sig, 0, 0, 0) ? -errno : sig;
}

TEST_F_GUARDED(tree, keeps_signals_at_the_parents_death)
{
	ASSERT_EQ(0, ask(ORIGINAL, self->parent, set_pdeath, SIGUSR1));
	ASSERT_EQ(0, ask(ORIGINAL, self->parent, block_node_signal, SIGUSR1));
	ASSERT_EQ(0, ask(ORIGINAL, self->orphan, set_pdeath, SIGUSR2));
	copy_by(self->root, BOTH);
	EXPECT_EQ(SIGUSR1, ask(REPLICA, self->parent, get_pdeath, 0));
	EXPECT_EQ(SIGUSR2, ask(REPLICA, self->orphan, get_pdeath, 0));
	EXPECT_EQ(0, ask(REPLICA, self->child, get_pdeath, 0));
	EXPECT_EQ(SIGUSR1, ask(ORIGINAL, self->parent, get_pdeath, 0));

	/* It comes at the death of the replica of the parent, and there only. */
	end_node(REPLICA, self->child, 1);
	EXPECT_LE(0, ask(REPLICA, self->parent, take_signal, SIGUSR1));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->parent, take_signal_now,
				   SIGUSR1));
}

/* Of the thread that made the child, that is. */
TEST_F_GUARDED(tree, keeps_signals_at_the_parent_threads_death)
{
	unsigned int thread = thread_of(self->child);
	unsigned int node = child_of(thread);

	ASSERT_EQ(0, ask(ORIGINAL, node, set_pdeath, SIGUSR1));
	ASSERT_EQ(0, ask(ORIGINAL, node, block_node_signal, SIGUSR1));
	copy_by(self->root, BOTH);
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, node, take_signal_now, SIGUSR1));
	tree_end_thread(_metadata, REPLICA, thread, 0);
	EXPECT_LE(0, ask(REPLICA, node, take_signal, SIGUSR1));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, node, take_signal_now, SIGUSR1));
}

TEST_F_GUARDED(tree, clears_the_signal_at_the_parents_death_of_the_root)
{
	ASSERT_EQ(0, ask(ORIGINAL, self->child, set_pdeath, SIGUSR1));
	copy_by(self->child, BOTH);
	EXPECT_EQ(0, ask(REPLICA, self->child, get_pdeath, 0));
	EXPECT_EQ(SIGUSR1, ask(ORIGINAL, self->child, get_pdeath, 0));
}

TEST_HARNESS_MAIN
