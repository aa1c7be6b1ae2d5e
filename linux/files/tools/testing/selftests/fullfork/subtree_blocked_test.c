// SPDX-License-Identifier: GPL-2.0
/*
 * Descendants go on exactly where they were: inside a system call, or between
 * any two instructions.
 */
#include "fullfork_tree.h"
#include "fullfork_registers.h"

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/* How long a sleep takes, and how late in it the copy is made. */
#define SLEEP_MS 3000
#define COPY_MS 1800
#define HOUR_MS 3600000

#define CHILD_CODE 5

/* Words of the tree */
enum {
	FUTEX_WORD,
	STOP_ORIGINAL,			/* and STOP_ORIGINAL + 1 for replicas */
};

/* Of which nothing is written but by the test. */
static int empty_pipe[2];

static long in_read(struct tree_node *self, long arg)
{
	char c = 0;
	long ret = result_of(read(empty_pipe[0], &c, 1));

	return ret == 1 ? c : ret ?: -EPIPE;
}

static long in_futex(struct tree_node *self, long arg)
{
	return result_of(futex_wait(&tree->word[FUTEX_WORD], 0, 0, -1));
}

static long in_nanosleep(struct tree_node *self, long msec)
{
	struct timespec ts = { msec / 1000, msec % 1000 * 1000000 };
	long long start = now_ms();
	long ret = result_of(syscall(__NR_clock_nanosleep, CLOCK_MONOTONIC, 0,
				     &ts, NULL));

	return ret ?: now_ms() - start;
}

static long in_wait(struct tree_node *self, long arg)
{
	int status = 0;
	long ret = result_of(waitpid(-1, &status, __WALL));

	return ret < 0 ? ret : status;
}

/* A process below the caller, or its thread, that sleeps in a system call. */
FIXTURE(descendant)
{
	unsigned int root, parent, sleeper, child;
};

FIXTURE_VARIANT(descendant)
{
	long (*call)(struct tree_node *self, long arg);
	long nr;
	bool thread;
};

FIXTURE_VARIANT_ADD(descendant, in_futex) {
	.call = in_futex, .nr = __NR_futex,
};

FIXTURE_VARIANT_ADD(descendant, in_nanosleep) {
	.call = in_nanosleep, .nr = __NR_clock_nanosleep,
};

FIXTURE_VARIANT_ADD(descendant, in_read) {
	.call = in_read, .nr = __NR_read,
};

FIXTURE_VARIANT_ADD(descendant, in_wait) {
	.call = in_wait, .nr = __NR_wait4,
};

FIXTURE_VARIANT_ADD(descendant, with_thread_in_futex) {
	.call = in_futex, .nr = __NR_futex, .thread = true,
};

FIXTURE_VARIANT_ADD(descendant, with_thread_in_nanosleep) {
	.call = in_nanosleep, .nr = __NR_clock_nanosleep, .thread = true,
};

FIXTURE_VARIANT_ADD(descendant, with_thread_in_read) {
	.call = in_read, .nr = __NR_read, .thread = true,
};

FIXTURE_VARIANT_ADD(descendant, with_thread_in_wait) {
	.call = in_wait, .nr = __NR_wait4, .thread = true,
};

FIXTURE_SETUP(descendant)
{
	setup_tree(_metadata);
	ASSERT_EQ(0, pipe(empty_pipe));
	self->root = start_tree();
	self->parent = child_of(self->root);
	self->sleeper = variant->thread ? thread_of(self->parent) :
			child_of(self->parent);
	self->child = child_of(self->sleeper);
}

FIXTURE_TEARDOWN(descendant)
{
	teardown_tree(_metadata);
}

/* What was interrupted with a time to wait goes on as restart_syscall(). */
static bool still_blocked(enum side side, unsigned int node, long nr)
{
	pid_t pid = pid_of(side, node), tid = tid_of(side, node);

	return is_blocked(pid, tid, nr) ||
	       is_blocked(pid, tid, __NR_restart_syscall);
}

/* A call that finds its event at once would hide a restart that went wrong. */
static void expect_both_blocked(struct __test_metadata *_metadata,
				unsigned int node, long nr)
{
	int side;

	for (side = ORIGINAL; side <= REPLICA; side++) {
		EXPECT_TRUE(wait_until(still_blocked(side, node, nr), DEADLINE))
		{
			dump_process(pid_of(side, node));
		}
		EXPECT_FALSE(has_returned(side, node));
	}
}

/* Has @node sleep in system call @nr, for @msec if that is its event. */
static void start_sleep(struct __test_metadata *_metadata, unsigned int node,
			long nr, tree_fn call, long msec)
{
	keep_busy(node, call, msec);
	ASSERT_TRUE(wait_until(is_blocked(pid_of(ORIGINAL, node),
					  tid_of(ORIGINAL, node), nr),
			       DEADLINE));
}

/* Has the call end on both sides, and says what it returned there. */
static void complete(struct __test_metadata *_metadata, long nr,
		     unsigned int child)
{
	int woken = 0;

	switch (nr) {
	case __NR_read:
		ASSERT_EQ(2, write(empty_pipe[1], "\1\1", 2));
		break;
	case __NR_futex:
		EXPECT_TRUE(wait_until((woken += futex_wake(&tree->word[FUTEX_WORD],
							    1, 0)) == 2,
				       DEADLINE));
		break;
	case __NR_wait4:
		tell(REPLICA, child, end_process, CHILD_CODE);
		break;
	}
}

TEST_F_GUARDED(descendant, is_still_blocked)
{
	start_sleep(_metadata, self->sleeper, variant->nr, variant->call,
		    HOUR_MS);
	copy_by(self->root, BOTH);
	expect_both_blocked(_metadata, self->sleeper, variant->nr);
}

TEST_F_GUARDED(descendant, returns_when_its_event_comes)
{
	const bool timed = variant->nr == __NR_clock_nanosleep;
	long long start;
	int side;
	long ret;

	start_sleep(_metadata, self->sleeper, variant->nr, variant->call,
		    SLEEP_MS);
	start = now_ms();
	if (timed)
		wait_until(now_ms() - start >= COPY_MS, DEADLINE);
	copy_by(self->root, BOTH);
	if (!timed) {
		expect_both_blocked(_metadata, self->sleeper, variant->nr);
		complete(_metadata, variant->nr, self->child);
	}

	for (side = REPLICA; side >= ORIGINAL; side--) {
		ret = release(side, self->sleeper);
		switch (variant->nr) {
		case __NR_read:
			EXPECT_EQ(1, ret);
			break;
		case __NR_futex:
			EXPECT_EQ(0, ret);
			break;
		case __NR_clock_nanosleep:
			/* Not earlier than asked for, and not begun anew. */
			EXPECT_LE(SLEEP_MS, ret + 1);
			EXPECT_GT(SLEEP_MS + COPY_MS, ret);
			break;
		case __NR_wait4:
			EXPECT_EQ(CHILD_CODE << 8, ret);
			if (side == REPLICA) {
				EXPECT_FALSE(has_returned(ORIGINAL,
							  self->sleeper));
				tell(ORIGINAL, self->child, end_process,
				     CHILD_CODE);
			}
			break;
		}
	}
	EXPECT_EQ(0, ask(ORIGINAL, self->sleeper, be_there, 0));
	tree_meet(_metadata, self->sleeper);
	EXPECT_EQ(0, ask(REPLICA, self->sleeper, be_there, 0));
}

/*
 * Two processes below the caller that compute.  A spin should take longer
 * than a copy, so that they are nearly always copied inside of it; 10 copies
 * are enough to meet both, on a CPU and preempted.
 */
#define SPINNERS 2
#define SPIN_ROUNDS 200000
#define COPIES 10

FIXTURE(spinning)
{
	unsigned int root, spinner[SPINNERS];
};

static long spin(struct tree_node *self, long seed)
{
	unsigned int bad = 0;
	enum side side;

	do {
		bad |= spin_and_compare(seed, SPIN_ROUNDS);
		side = tree_side(self);
		add(&tree_own_slot(self)->steps, 1);
	} while (!bad && !load(&tree->word[STOP_ORIGINAL + side - ORIGINAL]));
	return bad;
}

FIXTURE_SETUP(spinning)
{
	unsigned int i;

	setup_tree(_metadata);
	self->root = start_tree();
	for (i = 0; i < SPINNERS; i++)
		self->spinner[i] = child_of(self->root);
	for (i = 0; i < SPINNERS; i++)
		keep_busy(self->spinner[i], spin, i + 1);
	for (i = 0; i < SPINNERS; i++) {
		ASSERT_TRUE(wait_until(slot_of(ORIGINAL, self->spinner[i])->steps,
				       DEADLINE));
	}
}

FIXTURE_TEARDOWN(spinning)
{
	teardown_tree(_metadata);
}

/* The first round in the replica is the one that was copied inside. */
TEST_F_GUARDED(spinning, keeps_registers)
{
	unsigned int i, copy;
	__u32 *steps;
	pid_t pid;

	for (copy = 0; copy < COPIES; copy++) {
		pid = copy_by(self->root, copy & 1 ? BOTH : CLONE_SUBTREE);
		for (i = 0; i < SPINNERS; i++) {
			steps = &slot_of(REPLICA, self->spinner[i])->steps;
			ASSERT_TRUE(wait_until(load(steps) >= 2, DEADLINE));
		}
		store(&tree->word[STOP_ORIGINAL + 1], 1);
		for (i = 0; i < SPINNERS; i++)
			EXPECT_EQ(0, release(REPLICA, self->spinner[i]));
		store(&tree->word[STOP_ORIGINAL + 1], 0);
		end_replicas(self->root, pid);
	}
	store(&tree->word[STOP_ORIGINAL], 1);
	for (i = 0; i < SPINNERS; i++)
		EXPECT_EQ(0, release(ORIGINAL, self->spinner[i]));
}

TEST_HARNESS_MAIN
