// SPDX-License-Identifier: GPL-2.0
/*
 * Members that are stopped have replicas that are stopped, by the same signal,
 * and of which as much is to be told to the parent.
 */
#include "fullfork_tree.h"

#include <sys/ioctl.h>
#include <termios.h>

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/* A status as waitpid() has it. */
#define CONTINUED 0xffff

/* Waits until a process stands still, as a node that does not answer. */
static void wait_all_stopped(struct __test_metadata *_metadata, enum side side,
			     unsigned int node)
{
	tree_check(wait_until(all_in_state(pid_of(side, node), 'T'), DEADLINE),
		   "node %u does not stop", node);
}

/*
 * A process below the root that is stopped.  It leads a process group, as a job
 * does: the stop signals of terminals do nothing to orphaned groups.
 */
FIXTURE(stopped)
{
	unsigned int root, job, thread, child;
};

FIXTURE_VARIANT(stopped)
{
	int sig;
	bool threads;
};

FIXTURE_VARIANT_ADD(stopped, by_sigstop) { .sig = SIGSTOP };
FIXTURE_VARIANT_ADD(stopped, by_sigtstp) { .sig = SIGTSTP };
FIXTURE_VARIANT_ADD(stopped, by_sigttin) { .sig = SIGTTIN };
FIXTURE_VARIANT_ADD(stopped, by_sigttou) { .sig = SIGTTOU };

FIXTURE_VARIANT_ADD(stopped, with_threads_by_sigstop) {
	.sig = SIGSTOP, .threads = true,
};

FIXTURE_VARIANT_ADD(stopped, with_threads_by_sigtstp) {
	.sig = SIGTSTP, .threads = true,
};

FIXTURE_SETUP(stopped)
{
	unsigned int node;

	setup_tree(_metadata);
	self->root = start_tree();
	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));
	self->job = child_of(self->root);
	ASSERT_EQ(0, ask(ORIGINAL, self->job, join_group, self->job));
	self->thread = self->job;
	if (variant->threads) {
		thread_of(self->job);
		self->thread = thread_of(self->job);
	}
	self->child = child_of(self->job);

	signal_node(ORIGINAL, self->job, variant->sig);
	wait_all_stopped(_metadata, ORIGINAL, self->job);
	for (node = 0; node < tree_count; node++)
		if (tree_nodes[node].process == self->job)
			tree_nodes[node].state = NODE_BUSY;
	ASSERT_EQ(pid_of(ORIGINAL, self->job),
		  ask(ORIGINAL, self->root, take_signal, SIGCHLD));
}

FIXTURE_TEARDOWN(stopped)
{
	teardown_tree(_metadata);
}

/* A node that was stopped in its sleep: it answers as before. */
static void expect_going_on(struct __test_metadata *_metadata, enum side side,
			    unsigned int node)
{
	if (side == REPLICA)
		tree_meet(_metadata, node);
	EXPECT_EQ(0, ask(side, node, be_there, 0));
}

TEST_F_GUARDED(stopped, is_stopped_in_the_replica)
{
	copy_by(self->root, BOTH);
	wait_all_stopped(_metadata, REPLICA, self->job);
	EXPECT_EQ(count_threads(pid_of(ORIGINAL, self->job)),
		  count_threads(pid_of(REPLICA, self->job)));
	EXPECT_FALSE(load(&slot_of(REPLICA, self->job)->there));
	wait_all_stopped(_metadata, ORIGINAL, self->job);

	/* Its child goes on, as its original does. */
	EXPECT_EQ(0, ask(REPLICA, self->child, be_there, 0));
	EXPECT_EQ(0, ask(ORIGINAL, self->child, be_there, 0));
}

TEST_F_GUARDED(stopped, is_reported_once_in_each_tree)
{
	int side;

	copy_by(self->root, BOTH);
	for (side = REPLICA; side >= ORIGINAL; side--) {
		EXPECT_EQ(stopped_by(variant->sig),
			  ask(side, self->root, wait_stopped, self->job));
		wait_all_stopped(_metadata, side, self->job);
		EXPECT_EQ(NOTHING_YET, ask(side, self->root, wait_stopped_now,
					   self->job));
	}
}

TEST_F_GUARDED(stopped, is_not_reported_again)
{
	int side;

	ASSERT_EQ(stopped_by(variant->sig),
		  ask(ORIGINAL, self->root, wait_stopped_now, self->job));
	copy_by(self->root, BOTH);
	for (side = REPLICA; side >= ORIGINAL; side--) {
		wait_all_stopped(_metadata, side, self->job);
		EXPECT_EQ(NOTHING_YET, ask(side, self->root, wait_stopped_now,
					   self->job));
	}
}

TEST_F_GUARDED(stopped, is_reported_by_no_signal)
{
	int side;

	copy_by(self->root, BOTH);
	for (side = REPLICA; side >= ORIGINAL; side--) {
		wait_all_stopped(_metadata, side, self->job);
		EXPECT_EQ(NOTHING_YET, ask(side, self->root, take_signal_now,
					   SIGCHLD));
	}
}

static long wait_continued(struct tree_node *self, long index)
{
	pid_t pid = tree_peer(self, index)->pid;
	int status = 0;
	long ret = 0;

	wait_until((ret = result_of(waitpid(pid, &status,
					    WNOHANG | WCONTINUED))), DEADLINE);
	return ret > 0 ? status : ret ?: TOO_LATE;
}

TEST_F_GUARDED(stopped, goes_on_alone_in_the_replica)
{
	copy_by(self->root, BOTH);
	wait_all_stopped(_metadata, REPLICA, self->job);
	signal_node(REPLICA, self->job, SIGCONT);
	expect_going_on(_metadata, REPLICA, self->job);
	expect_going_on(_metadata, REPLICA, self->thread);
	EXPECT_EQ(CONTINUED, ask(REPLICA, self->root, wait_continued,
				 self->job));
	EXPECT_TRUE(all_in_state(pid_of(ORIGINAL, self->job), 'T'));

	signal_node(ORIGINAL, self->job, SIGCONT);
	expect_going_on(_metadata, ORIGINAL, self->job);
}

TEST_F_GUARDED(stopped, goes_on_alone_in_the_original)
{
	copy_by(self->root, BOTH);
	wait_all_stopped(_metadata, REPLICA, self->job);
	signal_node(ORIGINAL, self->job, SIGCONT);
	expect_going_on(_metadata, ORIGINAL, self->job);
	expect_going_on(_metadata, ORIGINAL, self->thread);
	EXPECT_EQ(CONTINUED, ask(ORIGINAL, self->root, wait_continued,
				 self->job));
	EXPECT_TRUE(all_in_state(pid_of(REPLICA, self->job), 'T'));
}

/* The stop is no longer what the replica is told to do. */
TEST_F_GUARDED(stopped, is_stopped_once_more)
{
	copy_by(self->root, BOTH);
	EXPECT_EQ(stopped_by(variant->sig),
		  ask(REPLICA, self->root, wait_stopped, self->job));
	wait_all_stopped(_metadata, REPLICA, self->job);
	signal_node(REPLICA, self->job, SIGCONT);
	expect_going_on(_metadata, REPLICA, self->job);
	signal_node(REPLICA, self->job, SIGSTOP);
	EXPECT_EQ(stopped_by(SIGSTOP),
		  ask(REPLICA, self->root, wait_stopped, self->job));
	wait_all_stopped(_metadata, REPLICA, self->job);
	signal_node(REPLICA, self->job, SIGCONT);
	expect_going_on(_metadata, REPLICA, self->job);
}

TEST_F_GUARDED(stopped, is_killed_in_the_replica)
{
	copy_by(self->root, BOTH);
	wait_all_stopped(_metadata, REPLICA, self->job);
	signal_node(REPLICA, self->job, SIGKILL);
	EXPECT_EQ(SIGKILL, ask(REPLICA, self->root, wait_for, self->job));
	EXPECT_TRUE(all_in_state(pid_of(ORIGINAL, self->job), 'T'));
}

TEST_F_GUARDED(stopped, and_continued_before_is_not_stopped)
{
	unsigned int node;

	signal_node(ORIGINAL, self->job, SIGCONT);
	for (node = 0; node < tree_count; node++)
		tree_nodes[node].state = NODE_IDLE;
	tree_expect_alive(_metadata, ORIGINAL);
	copy_by(self->root, BOTH);
	tree_expect_alive(_metadata, REPLICA);
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->root, wait_stopped_now,
				   self->job));
}

/* Without CLONE_ALL_THREADS there is no difference, but of threads. */
TEST_F_GUARDED(stopped, is_stopped_without_all_threads)
{
	if (variant->threads) {
		tree_set_args(CLONE_SUBTREE);
		EXPECT_EQ(-EOPNOTSUPP, call_by(self->root));
		wait_all_stopped(_metadata, ORIGINAL, self->job);
		/* The control is with that flag. */
		copy_by(self->root, BOTH);
	} else {
		copy_by(self->root, CLONE_SUBTREE);
	}
	EXPECT_EQ(stopped_by(variant->sig),
		  ask(REPLICA, self->root, wait_stopped, self->job));
	wait_all_stopped(_metadata, REPLICA, self->job);
	EXPECT_EQ(stopped_by(variant->sig),
		  ask(ORIGINAL, self->root, wait_stopped_now, self->job));
}

/*
 * A job in the background that its terminal has stopped.  The session is led
 * from outside, so that both trees have the terminal.
 */
static long read_terminal(struct tree_node *self, long fd)
{
	char line[16] = "";
	long ret = result_of(read(fd, line, sizeof(line) - 1));

	return ret < 0 ? ret : line[0];
}

static long change_terminal(struct tree_node *self, long fd)
{
	struct termios termios;

	return result_of(tcgetattr(fd, &termios)) ?:
	       result_of(tcsetattr(fd, TCSANOW, &termios));
}

static long set_foreground(struct tree_node *self, long group)
{
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
	long ret;

	if (fd < 0)
		return -errno;
	ret = result_of(tcsetpgrp(fd, group));
	close(fd);
	return ret;
}

FIXTURE(background)
{
	unsigned int outer, root, job;
	int master;
};

FIXTURE_VARIANT(background)
{
	long (*use)(struct tree_node *self, long fd);
	int sig;
	bool input;
};

FIXTURE_VARIANT_ADD(background, that_reads) {
	.use = read_terminal, .sig = SIGTTIN, .input = true,
};

FIXTURE_VARIANT_ADD(background, that_changes_the_terminal) {
	.use = change_terminal, .sig = SIGTTOU,
};

FIXTURE_SETUP(background)
{
	long fd;

	setup_tree(_metadata);
	self->master = posix_openpt(O_RDWR | O_NOCTTY);
	ASSERT_LE(0, self->master);
	ASSERT_EQ(0, unlockpt(self->master));
	self->outer = start_tree();
	ASSERT_LT(0, ask(ORIGINAL, self->outer, lead_session, 0));
	ASSERT_EQ(0, ask(ORIGINAL, self->outer, ignore_signal, SIGTTOU));
	fd = ask(ORIGINAL, self->outer, open_terminal, self->master);
	ASSERT_LE(0, fd);
	self->root = child_of(self->outer);
	self->job = child_of(self->root);
	ASSERT_EQ(0, ask(ORIGINAL, self->job, default_signal, SIGTTOU));
	ASSERT_EQ(0, ask(ORIGINAL, self->job, join_group, self->job));
	keep_busy(self->job, variant->use, fd);
	wait_all_stopped(_metadata, ORIGINAL, self->job);
	ASSERT_EQ(stopped_by(variant->sig),
		  ask(ORIGINAL, self->root, wait_stopped, self->job));
}

FIXTURE_TEARDOWN(background)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(background, goes_on_in_the_foreground)
{
	int side;

	copy_by(self->root, BOTH);
	wait_all_stopped(_metadata, REPLICA, self->job);
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->root, wait_stopped_now,
				   self->job));

	/* In the background it is stopped again by the same. */
	signal_node(REPLICA, self->job, SIGCONT);
	EXPECT_EQ(stopped_by(variant->sig),
		  ask(REPLICA, self->root, wait_stopped, self->job));
	EXPECT_FALSE(has_returned(REPLICA, self->job));

	for (side = REPLICA; side >= ORIGINAL; side--) {
		EXPECT_EQ(0, ask(ORIGINAL, self->outer, set_foreground,
				 pid_of(side, self->job)));
		signal_node(side, self->job, SIGCONT);
		if (variant->input)
			EXPECT_EQ(2, write(self->master, "x\n", 2));
		EXPECT_EQ(variant->input ? 'x' : 0, release(side, self->job));
		EXPECT_EQ(side == REPLICA, !has_returned(ORIGINAL, self->job));
	}
}

TEST_HARNESS_MAIN
