// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: several threads call at once
 *
 * In the original one call goes on after the other.  The replica of a thread
 * that was inside its own call gets EAGAIN: it neither makes a second tree nor
 * returns what is not true.
 */

#include "fullfork_sync.h"

/* Of each caller. */
#define LEAST_CALLS 5
#define MOST_CALLS 25

static unsigned int callers;
/* In private memory: how many of its callers a process has heard of. */
static __u32 heard;

enum {
	WORD_SEEN_AGAIN,
};

/*
 * Where callers end up in a replica, @ret being what their call returned.
 * One that was just about to call when it was copied makes its own call in
 * the replica, and rightly, so this may be a replica of a replica as well.
 */
static __noreturn void end_up_in_replica(long ret)
{
	int status;

	if (ret == -EAGAIN) {
		add(&report->word[WORD_SEEN_AGAIN], 1);
	} else if (ret > 0) {
		/* Its own, or copied when its original's call was done. */
		if (waitpid(ret, &status, 0) == ret)
			replica_assert_eq(REPLICA_PASS << 8, status);
		else
			replica_assert_eq(ECHILD, errno);
	} else {
		replica_assert_eq(0, ret);
	}
	add(&heard, 1);
	/* Only what has copied the others may end them. */
	if (!ret) {
		replica_assert(wait_until(load(&heard) == callers,
					  DEADLINE / 2));
		replica_exit(REPLICA_PASS);
	}
	for (;;)
		poll_pause();
}

/* The same for one that was copied outside its call. */
static __noreturn void wait_in_replica(void)
{
	add(&heard, 1);
	for (;;)
		poll_pause();
}

/* In private memory. */
static __u32 at_start;
static __u32 last_round = UINT_MAX;
static long cpus;
static long long end_time, meet_time;

/*
 * A slow machine makes fewer calls, one with a single CPU never meets, and one that
 * is shared with others may not give both of them at a time for a while.
 */
static bool was_enough(unsigned int calls)
{
	bool met = load(&report->word[WORD_SEEN_AGAIN]) || cpus == 1;

	if (!met)
		return calls >= LEAST_CALLS && now_ms() > meet_time;
	return calls >= MOST_CALLS || (calls >= LEAST_CALLS && now_ms() > end_time);
}

/*
 * Others are inside their calls only if they enter them before the first one
 * marks them, which takes microseconds.  So all start at once, and the test
 * goes on until that has happened, where there is a second CPU for it.
 */
static bool start_together(unsigned int round, long index)
{
	if (!index && was_enough(round))
		store(&last_round, round);
	add(&at_start, 1);
	while (load(&at_start) < (round + 1) * callers && !in_replica())
		if (callers > cpus)
			sched_yield();
	/* Others may have come to the next round before we left this one. */
	return round < load(&last_round);
}

static void *call_often(void *arg)
{
	int status, i;
	pid_t reaped;
	long ret;

	arrive((long)arg);
	pass_own_gate();
	for (i = 0; start_together(i, (long)arg); i++) {
		if (in_replica())
			wait_in_replica();
		ret = full_fork(0);
		if (in_replica())
			end_up_in_replica(ret);
		thread_check(ret > 0);
		reaped = waitpid(ret, &status, 0);
		if (in_replica())
			wait_in_replica();
		thread_check(reaped == ret);
		thread_check(status == REPLICA_PASS << 8);
	}
	add(&heard, 1);
	return arg + 100;
}

FIXTURE(callers)
{
};

FIXTURE_VARIANT(callers)
{
	unsigned int count;
};

FIXTURE_VARIANT_ADD(callers, two) {
	.count = 2,
};

FIXTURE_VARIANT_ADD(callers, four) {
	.count = 4,
};

FIXTURE_SETUP(callers)
{
	setup_threads(_metadata);
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	callers = variant->count;
	start_sleepers(_metadata, callers, call_often);
}

FIXTURE_TEARDOWN(callers)
{
}

TEST_F_GUARDED(callers, never_fail_and_replicas_get_eagain)
{
	unsigned int i;

	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	end_time = now_ms() + ROUNDS_SECONDS * 1000;
	meet_time = now_ms() + DEADLINE * 1000;
	open_own_gate();
	for (i = 0; i < callers; i++)
		join_thread(threads[i]);
	EXPECT_EQ(0, load(&failed_line));
	EXPECT_EQ(0, load(&report->failures))
	{
		TH_LOG("%s", report->failure);
	}
	/* Else the test has not met what it is about. */
	EXPECT_LE(cpus > 1, load(&report->word[WORD_SEEN_AGAIN]));
	EXPECT_TRUE(reap_all(DEADLINE));
}

TEST_HARNESS_MAIN
