/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Threads that are brought into a state and go on from there in both processes
 */
#ifndef _FULLFORK_SYNC_H
#define _FULLFORK_SYNC_H

#include "fullfork_threads.h"

#define THREADS 8

static pthread_t threads[THREADS];
static pid_t tids[THREADS];
static __u32 arrived __maybe_unused;
static __u32 gate;
static __thread unsigned int own_index __maybe_unused;

/* What failed in a thread: the main flow of its side looks at it. */
static __u32 failed_line;
static int failed_errno;

static inline void note_failure(__u32 line, int error)
{
	__u32 none = 0;

	if (__atomic_compare_exchange_n(&failed_line, &none, line, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		failed_errno = error;
}

#define thread_check(cond)						\
do {									\
	if (!(cond))							\
		note_failure(__LINE__, errno);				\
} while (0)

static inline void expect_no_thread_failed(void)
{
	errno = failed_errno;
	side_assert_eq(0, load(&failed_line));
}

static inline void arrive(unsigned long index)
{
	own_index = index;
	tids[index] = sys_gettid();
	add(&arrived, 1);
}

static inline void pass_own_gate(void)
{
	while (!load(&gate))
		futex_wait(&gate, 0, FUTEX_PRIVATE_FLAG, -1);
}

static inline void open_own_gate(void)
{
	store(&gate, 1);
	futex_wake(&gate, INT_MAX, FUTEX_PRIVATE_FLAG);
}

/* Each with index 0 and up, until all sleep in what they are to sleep in. */
static inline void start_sleepers(struct __test_metadata *_metadata, int count,
				  void *(*fn)(void *arg))
{
	unsigned long i;

	for (i = 0; i < count; i++) {
		start_thread(&threads[i], fn, (void *)i);
		ASSERT_TRUE(wait_until(load(&arrived) == i + 1 &&
				       is_sleeping(getpid(), tids[i]),
				       DEADLINE));
	}
}

struct step {
	int (*fn)(void *arg);
	long pid;
};

static inline void *fork_in_thread(void *arg)
{
	struct step *step = arg;

	step->pid = replica_main(full_fork(0), step->fn, NULL);
	return NULL;
}

/* Runs @fn in the replica, whose caller is the leader or another thread. */
static inline void run_in_replica(struct __test_metadata *_metadata,
				  bool by_sibling, int (*fn)(void *arg))
{
	struct step step = { .fn = fn };
	pthread_t thread;

	if (by_sibling) {
		start_thread(&thread, fork_in_thread, &step);
		join_thread(thread);
		/* The caller's replica has ended alone: so does the leader's. */
		while (in_replica())
			syscall(__NR_exit, REPLICA_PASS);
	} else {
		fork_in_thread(&step);
	}
	ASSERT_LT(0, step.pid)
	{
		TH_LOG("full fork: %s", strerror(-step.pid));
	}
	expect_pass(_metadata, step.pid);
}

/* Runs @fn in the replica, and when that is gone in the original. */
static inline void run_in_both(struct __test_metadata *_metadata,
			       bool by_sibling, int (*fn)(void *arg))
{
	run_in_replica(_metadata, by_sibling, fn);
	EXPECT_EQ(REPLICA_PASS, fn(NULL));
}

static inline int join_threads(int count)
{
	struct timespec ts;
	void *value;
	long i;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += DEADLINE / 2;
	for (i = 0; i < count; i++) {
		side_assert_eq(0, pthread_timedjoin_np(threads[i], &value,
						       &ts));
		side_assert_eq(i + 100, value);
	}
	expect_no_thread_failed();
	return REPLICA_PASS;
}

static inline void *pass_gate(void *arg)
{
	arrive((long)arg);
	pass_own_gate();
	return arg + 100;
}

static inline int join_later(void *arg)
{
	open_own_gate();
	return join_threads(THREADS);
}

/* In the original, where the replica did something else with its threads. */
static inline void end_threads(struct __test_metadata *_metadata, int count)
{
	open_own_gate();
	EXPECT_EQ(REPLICA_PASS, join_threads(count));
}

#endif /* _FULLFORK_SYNC_H */
