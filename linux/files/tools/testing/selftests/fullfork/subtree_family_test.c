// SPDX-License-Identifier: GPL-2.0
/*
 * Process groups and sessions of a tree, and who is told of the end of whom.
 */
#include "fullfork_tree.h"

#include <termios.h>

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/*
 * The root is the caller.  A process outside is its parent, and another one
 * its sibling.
 */
FIXTURE(group)
{
	unsigned int outer, outsider, root;
	unsigned int child, sibling, grandchild;
};

FIXTURE_SETUP(group)
{
	setup_tree(_metadata);
	self->outer = start_tree();
	self->outsider = child_of(self->outer);
	self->root = child_of(self->outer);
	self->child = child_of(self->root);
	self->sibling = child_of(self->root);
	self->grandchild = child_of(self->child);
}

FIXTURE_TEARDOWN(group)
{
	teardown_tree(_metadata);
}

#define lead_group(node) ASSERT_EQ(0, ask(ORIGINAL, node, join_group, node))
#define enter_group(node, leader)					\
	ASSERT_EQ(0, ask(ORIGINAL, node, join_group, leader))

/* On both sides, and in the view of /proc as well. */
#define expect_group(node, leader)					\
do {									\
	struct proc_stat __st;						\
	int __side;							\
									\
	for (__side = ORIGINAL; __side <= REPLICA; __side++) {		\
		pid_t __group = pid_of(__side, leader);			\
									\
		EXPECT_EQ(__group, ask(__side, node, get_group, 0));	\
		EXPECT_TRUE(read_stat(pid_of(__side, node), &__st));	\
		EXPECT_EQ(__group, __st.group);				\
	}								\
} while (0)

/* Both sides are in the same group. */
#define expect_joined(node)						\
	EXPECT_EQ(ask(ORIGINAL, node, get_group, 0),			\
		  ask(REPLICA, node, get_group, 0))

TEST_F_GUARDED(group, led_by_a_child_is_copied)
{
	lead_group(self->child);
	enter_group(self->sibling, self->child);
	enter_group(self->grandchild, self->child);
	copy_by(self->root, BOTH);
	expect_group(self->child, self->child);
	expect_group(self->sibling, self->child);
	expect_group(self->grandchild, self->child);
	expect_joined(self->root);
}

TEST_F_GUARDED(group, led_by_the_root_is_copied)
{
	lead_group(self->root);
	enter_group(self->child, self->root);
	enter_group(self->grandchild, self->root);
	copy_by(self->root, BOTH);
	expect_group(self->root, self->root);
	expect_group(self->child, self->root);
	expect_group(self->grandchild, self->root);
	expect_joined(self->sibling);
}

/* The leader's replica may be made later than those of the others. */
TEST_F_GUARDED(group, led_by_a_grandchild_is_copied)
{
	lead_group(self->grandchild);
	enter_group(self->root, self->grandchild);
	enter_group(self->child, self->grandchild);
	enter_group(self->sibling, self->grandchild);
	copy_by(self->root, BOTH);
	expect_group(self->grandchild, self->grandchild);
	expect_group(self->root, self->grandchild);
	expect_group(self->child, self->grandchild);
	expect_group(self->sibling, self->grandchild);
}

TEST_F_GUARDED(group, of_each_member_is_copied)
{
	lead_group(self->root);
	lead_group(self->child);
	lead_group(self->sibling);
	lead_group(self->grandchild);
	copy_by(self->root, BOTH);
	expect_group(self->root, self->root);
	expect_group(self->child, self->child);
	expect_group(self->sibling, self->sibling);
	expect_group(self->grandchild, self->grandchild);
}

TEST_F_GUARDED(group, led_by_a_zombie_is_copied)
{
	struct proc_stat st;

	lead_group(self->child);
	enter_group(self->sibling, self->child);
	end_node(ORIGINAL, self->child, 1);
	tree_nodes[self->grandchild].state = NODE_GONE;
	copy_by(self->root, BOTH);
	expect_group(self->sibling, self->child);
	ASSERT_TRUE(read_stat(pid_of(REPLICA, self->child), &st));
	EXPECT_EQ('Z', st.state);
	EXPECT_EQ(pid_of(REPLICA, self->child), st.group);
}

TEST_F_GUARDED(group, led_from_outside_is_joined)
{
	lead_group(self->outer);
	enter_group(self->root, self->outer);
	enter_group(self->child, self->outer);
	lead_group(self->outsider);
	enter_group(self->sibling, self->outsider);
	copy_by(self->root, BOTH);
	EXPECT_EQ(pid_of(ORIGINAL, self->outer),
		  ask(REPLICA, self->root, get_group, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->outer),
		  ask(REPLICA, self->child, get_group, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->outsider),
		  ask(REPLICA, self->sibling, get_group, 0));
	expect_joined(self->grandchild);
}

TEST_F_GUARDED(group, whose_leader_is_gone_is_joined)
{
	lead_group(self->sibling);
	enter_group(self->child, self->sibling);
	end_node(ORIGINAL, self->sibling, 1);
	ASSERT_EQ(1 << 8, ask(ORIGINAL, self->root, wait_for, self->sibling));
	tree_nodes[self->sibling].state = NODE_GONE;
	copy_by(self->root, BOTH);
	EXPECT_EQ(pid_of(ORIGINAL, self->sibling),
		  ask(REPLICA, self->child, get_group, 0));
	expect_joined(self->child);
}

/* Who is no member stays in the original's group. */
TEST_F_GUARDED(group, led_by_a_member_keeps_outsiders)
{
	struct proc_stat st;

	lead_group(self->child);
	enter_group(self->sibling, self->child);
	enter_group(self->outsider, self->child);
	copy_by(self->root, BOTH);
	expect_group(self->sibling, self->child);
	EXPECT_EQ(pid_of(ORIGINAL, self->child),
		  ask(ORIGINAL, self->outsider, get_group, 0));
	ASSERT_TRUE(read_stat(pid_of(ORIGINAL, self->outsider), &st));
	EXPECT_EQ(pid_of(ORIGINAL, self->child), st.group);
}

TEST_F_GUARDED(group, of_replicas_is_signalled_alone)
{
	lead_group(self->child);
	enter_group(self->sibling, self->child);
	enter_group(self->outsider, self->child);
	copy_by(self->root, BOTH);
	EXPECT_EQ(0, ask(REPLICA, self->root, send_signal,
			 GROUP | signal_to(self->child, SIGTERM)));
	EXPECT_EQ(SIGTERM, ask(REPLICA, self->root, wait_for, self->child));
	EXPECT_EQ(SIGTERM, ask(REPLICA, self->root, wait_for, self->sibling));
	EXPECT_EQ(-ECHILD, ask(REPLICA, self->root, wait_pid_now, -1));
	tree_expect_alive(_metadata, ORIGINAL);
}

TEST_F_GUARDED(group, of_originals_is_signalled_alone)
{
	lead_group(self->child);
	enter_group(self->sibling, self->child);
	copy_by(self->root, BOTH);
	EXPECT_EQ(0, ask(ORIGINAL, self->root, send_signal,
			 GROUP | signal_to(self->child, SIGTERM)));
	EXPECT_EQ(SIGTERM, ask(ORIGINAL, self->root, wait_for, self->child));
	EXPECT_EQ(SIGTERM, ask(ORIGINAL, self->root, wait_for, self->sibling));
	tree_expect_alive(_metadata, REPLICA);
}

static long open_own_terminal(struct tree_node *self, long arg)
{
	long fd = result_of(open("/dev/tty", O_RDWR | O_CLOEXEC));

	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

static long get_foreground(struct tree_node *self, long fd)
{
	return result_of(tcgetpgrp(fd));
}

static int tty_of(enum side side, unsigned int node)
{
	struct proc_stat st;

	return read_stat(pid_of(side, node), &st) ? st.tty : -1;
}

/* A session of two processes below the root, and two terminals. */
FIXTURE(session)
{
	unsigned int outer, root, leader, child;
	int master, other_master;
	long fd;
	int tty;
};

FIXTURE_SETUP(session)
{
	setup_tree(_metadata);
	self->master = posix_openpt(O_RDWR | O_NOCTTY);
	ASSERT_LE(0, self->master);
	ASSERT_EQ(0, unlockpt(self->master));
	self->other_master = posix_openpt(O_RDWR | O_NOCTTY);
	ASSERT_LE(0, self->other_master);
	ASSERT_EQ(0, unlockpt(self->other_master));
	self->outer = start_tree();
}

FIXTURE_TEARDOWN(session)
{
	teardown_tree(_metadata);
}

#define lead_new_session(node)						\
	ASSERT_EQ(pid_of(ORIGINAL, node),				\
		  ask(ORIGINAL, node, lead_session, 0))

#define expect_session(node, leader)					\
do {									\
	struct proc_stat __st;						\
	int __side;							\
									\
	for (__side = ORIGINAL; __side <= REPLICA; __side++) {		\
		pid_t __session = pid_of(__side, leader);		\
									\
		EXPECT_EQ(__session, ask(__side, node, get_session, 0));\
		EXPECT_TRUE(read_stat(pid_of(__side, node), &__st));	\
		EXPECT_EQ(__session, __st.session);			\
	}								\
} while (0)

#define make_session()							\
do {									\
	self->root = child_of(self->outer);				\
	self->leader = child_of(self->root);				\
	lead_new_session(self->leader);					\
	self->child = child_of(self->leader);				\
} while (0)

/* Children have the terminal that their parent had when they were made. */
#define make_session_with_terminal()					\
do {									\
	self->root = child_of(self->outer);				\
	self->leader = child_of(self->root);				\
	lead_new_session(self->leader);					\
	self->fd = ask(ORIGINAL, self->leader, open_terminal,		\
		       self->master);					\
	ASSERT_LE(0, self->fd);						\
	self->child = child_of(self->leader);				\
	self->tty = tty_of(ORIGINAL, self->leader);			\
	ASSERT_LT(0, self->tty);					\
	ASSERT_EQ(self->tty, tty_of(ORIGINAL, self->child));		\
	ASSERT_EQ(0, ask(ORIGINAL, self->child, open_own_terminal, 0));	\
} while (0)

TEST_F_GUARDED(session, led_by_a_child_is_copied)
{
	make_session();
	copy_by(self->root, BOTH);
	expect_session(self->leader, self->leader);
	expect_session(self->child, self->leader);
	expect_group(self->leader, self->leader);
	expect_group(self->child, self->leader);
	EXPECT_EQ(ask(ORIGINAL, self->root, get_session, 0),
		  ask(REPLICA, self->root, get_session, 0));
}

TEST_F_GUARDED(session, led_by_the_root_is_copied)
{
	self->root = child_of(self->outer);
	lead_new_session(self->root);
	self->child = child_of(self->root);
	copy_by(self->root, BOTH);
	expect_session(self->root, self->root);
	expect_session(self->child, self->root);
	expect_group(self->child, self->root);
}

TEST_F_GUARDED(session, of_several_groups_is_copied)
{
	unsigned int job, worker;

	make_session();
	lead_group(self->child);
	job = child_of(self->leader);
	lead_group(job);
	worker = child_of(job);
	copy_by(self->root, BOTH);
	expect_session(self->child, self->leader);
	expect_session(worker, self->leader);
	expect_group(self->child, self->child);
	expect_group(job, job);
	expect_group(worker, job);
}

TEST_F_GUARDED(session, below_another_one_is_copied)
{
	unsigned int inner;

	make_session();
	inner = child_of(self->child);
	lead_new_session(inner);
	copy_by(self->root, BOTH);
	expect_session(self->child, self->leader);
	expect_session(inner, inner);
}

TEST_F_GUARDED(session, led_from_outside_is_joined)
{
	lead_new_session(self->outer);
	self->root = child_of(self->outer);
	self->child = child_of(self->root);
	lead_group(self->child);
	copy_by(self->root, BOTH);
	EXPECT_EQ(pid_of(ORIGINAL, self->outer),
		  ask(REPLICA, self->root, get_session, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->outer),
		  ask(REPLICA, self->child, get_session, 0));
	/* In which members have groups of their own. */
	expect_group(self->child, self->child);
}

TEST_F_GUARDED(session, of_replicas_has_no_terminal)
{
	make_session_with_terminal();
	copy_by(self->root, BOTH);
	EXPECT_EQ(0, tty_of(REPLICA, self->leader));
	EXPECT_EQ(0, tty_of(REPLICA, self->child));
	EXPECT_EQ(-ENXIO, ask(REPLICA, self->leader, open_own_terminal, 0));
	EXPECT_EQ(-ENXIO, ask(REPLICA, self->child, open_own_terminal, 0));
	EXPECT_EQ(-ENOTTY,
		  ask(REPLICA, self->leader, get_foreground, self->fd));

	/* The original has it as before. */
	EXPECT_EQ(self->tty, tty_of(ORIGINAL, self->leader));
	EXPECT_EQ(self->tty, tty_of(ORIGINAL, self->child));
	EXPECT_EQ(0, ask(ORIGINAL, self->child, open_own_terminal, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->leader),
		  ask(ORIGINAL, self->leader, get_foreground, self->fd));
}

TEST_F_GUARDED(session, of_replicas_may_take_another_terminal)
{
	make_session_with_terminal();
	copy_by(self->root, BOTH);
	EXPECT_LE(0, ask(REPLICA, self->leader, open_terminal,
			 self->other_master));
	EXPECT_LT(0, tty_of(REPLICA, self->leader));
	EXPECT_NE(self->tty, tty_of(REPLICA, self->leader));
	EXPECT_EQ(0, ask(REPLICA, self->leader, open_own_terminal, 0));
	EXPECT_EQ(self->tty, tty_of(ORIGINAL, self->leader));
}

/* The end of a session leader hangs up its terminal, if it has one. */
TEST_F_GUARDED(session, of_replicas_ends_without_a_hangup)
{
	make_session_with_terminal();
	ASSERT_EQ(0, ask(ORIGINAL, self->child, block_node_signal, SIGHUP));
	copy_by(self->root, BOTH);
	end_node(REPLICA, self->leader, 1);
	EXPECT_EQ(1 << 8, ask(REPLICA, self->root, wait_for, self->leader));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->child, take_signal_now,
				   SIGHUP));
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->child, take_signal_now,
				   SIGHUP));
	EXPECT_EQ(0, ask(ORIGINAL, self->child, open_own_terminal, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->leader),
		  ask(ORIGINAL, self->leader, get_foreground, self->fd));

	/* The original's end does. */
	end_node(ORIGINAL, self->leader, 1);
	EXPECT_LE(0, ask(ORIGINAL, self->child, take_signal, SIGHUP));
}

TEST_F_GUARDED(session, that_is_joined_has_its_terminal)
{
	long fd;

	lead_new_session(self->outer);
	fd = ask(ORIGINAL, self->outer, open_terminal, self->master);
	ASSERT_LE(0, fd);
	self->root = child_of(self->outer);
	self->child = child_of(self->root);
	copy_by(self->root, BOTH);
	EXPECT_LT(0, tty_of(REPLICA, self->root));
	EXPECT_EQ(tty_of(ORIGINAL, self->outer), tty_of(REPLICA, self->root));
	EXPECT_EQ(tty_of(ORIGINAL, self->outer), tty_of(REPLICA, self->child));
	EXPECT_EQ(0, ask(REPLICA, self->child, open_own_terminal, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->outer),
		  ask(REPLICA, self->child, get_foreground, fd));
}

TEST_HARNESS_MAIN
