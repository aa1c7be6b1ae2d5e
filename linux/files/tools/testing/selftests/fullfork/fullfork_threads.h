/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the full fork selftests that watch threads
 */
#ifndef _FULLFORK_THREADS_H
#define _FULLFORK_THREADS_H

#include "fullfork_selftest.h"
#include <sys/prctl.h>

/* A test that start_guard() dumps and kills when its time is over. */
#define TEST_F_GUARDED TEST_F_LONG

/* In private memory, so a replica compares with what its original was. */
static pid_t original_pid __maybe_unused;

static inline pid_t sys_getpid(void)
{
	return syscall(__NR_getpid);
}

static inline bool in_replica(void)
{
	return sys_getpid() != original_pid;
}

static inline unsigned int own_side(void)
{
	return in_replica() ? SIDE_REPLICA : SIDE_ORIGINAL;
}

/* Says where every process of a process group is, but for the caller's. */
static inline void dump_group(pid_t group)
{
	DIR *dir = opendir("/proc");
	pid_t pid;

	if (!dir)
		return;
	while ((pid = next_id(dir)))
		if (pid != getpid() && getpgid(pid) == group)
			dump_process(pid);
	closedir(dir);
}

/* A process beside the test, or its subject, which ends with it. */
static inline pid_t start_process(struct __test_metadata *_metadata,
				  void (*fn)(void))
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		original_pid = sys_getpid();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		_exit(0);
	}
	return pid;
}

static pid_t guard_pid __maybe_unused;

/*
 * A call that never returns would hide where it hangs: a process beside the
 * test says it, and ends the test.
 */
static inline void start_guard(struct __test_metadata *_metadata)
{
	pid_t test = getpid();

	guard_pid = fork();
	ASSERT_LE(0, guard_pid);
	if (!guard_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "guard");
		wait_until(getppid() != test, TEST_DEADLINE);
		if (getppid() == test) {
			fprintf(stderr, "# the test hangs:\n");
			dump_group(getpgrp());
			kill(test, SIGKILL);
		}
		_exit(0);
	}
}

/* To be called first in each FIXTURE_SETUP of a test that has threads. */
static inline void setup_threads(struct __test_metadata *_metadata)
{
	require_fullfork(_metadata);
	start_guard(_metadata);
	original_pid = sys_getpid();
}

/* True if a thread sleeps in some system call. */
static inline bool is_sleeping(pid_t pid, pid_t tid)
{
	return task_syscall(pid, tid) >= 0 && task_state(pid, tid) == 'S';
}

/* The TID of the only thread of the caller's process beside the caller. */
static inline pid_t other_thread(void)
{
	DIR *dir = opendir("/proc/self/task");
	pid_t tid, found = 0;

	if (!dir)
		return 0;
	while ((tid = next_id(dir)))
		if (tid != sys_gettid())
			found = tid;
	closedir(dir);
	return found;
}

/*
 * Reaps everything that the test has started or adopted, but for the guard;
 * false if something is left that does not end.
 */
static inline bool reap_all(int seconds)
{
	bool gone = wait_until(({
		int status;

		while (waitpid(-1, &status, WNOHANG | __WALL) > 0)
			;
		count_children() <= 1;
	}), seconds);

	if (!gone)
		dump_group(getpgrp());
	return gone && !kill(guard_pid, 0);
}

/*
 * A process that makes full forks all the time: what it tells, and is told, in
 * the last words of the report.
 */
enum {
	SUBJECT_FORKS = REPORT_WORDS - 3,
	SUBJECT_ERROR,			/* of a call that should not fail */
	SUBJECT_END,
};

/* It still makes progress, and ends with @code and no trace when it is told. */
static inline void end_subject(struct __test_metadata *_metadata, pid_t pid,
			       int code)
{
	__u32 forks = load(&report->word[SUBJECT_FORKS]);

	ASSERT_TRUE(wait_until(load(&report->word[SUBJECT_FORKS]) > forks + 2,
			       DEADLINE))
	{
		dump_process(pid);
	}
	EXPECT_EQ(0, load(&report->word[SUBJECT_ERROR]))
	{
		TH_LOG("a full fork failed: %s",
		       strerror(load(&report->word[SUBJECT_ERROR])));
	}
	EXPECT_EQ(0, load(&report->failures))
	{
		TH_LOG("%s", report->failure);
	}
	store(&report->word[SUBJECT_END], 1);
	EXPECT_EQ(code << 8, xwaitpid(_metadata, pid, DEADLINE));
	EXPECT_TRUE(reap_all(DEADLINE));
}

/* A busy wait, where a sleep would be longer than what it is to meet. */
static inline void spin_us(long us)
{
	struct timespec ts, now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - ts.tv_sec) * 1000000 +
		 (now.tv_nsec - ts.tv_nsec) / 1000 < us);
}

/* Waits until a futex word is not @value any more. */
static inline bool wait_word(__u32 *word, __u32 value)
{
	return wait_until(load(word) != value, DEADLINE);
}

static inline void set_word(__u32 *word, __u32 value)
{
	store(word, value);
	futex_wake(word, INT_MAX, 0);
}

/* Sleeps on a word of the report until it has become @value. */
static inline void await_word(__u32 *word, __u32 value)
{
	__u32 seen;

	while ((seen = load(word)) != value)
		futex_wait(word, seen, 0, 1000);
}

/*
 * Sets how long a full fork waits for its originals, where the caller may.
 * Returns the bound that is in force, in milliseconds.
 */
static inline long set_bound(long seconds)
{
	char buf[32];

	snprintf(buf, sizeof(buf), "%ld", seconds);
	write_file(TIMEOUT_SYSCTL, buf);
	if (read_file(TIMEOUT_SYSCTL, buf, sizeof(buf)) < 0)
		return -1;
	return atol(buf) * 1000;
}

/* Runs a test's thread function and fails the test if it cannot be started. */
#define start_thread(thread, fn, arg)					\
	ASSERT_EQ(0, pthread_create(thread, NULL, fn, arg))

#define CLONE_STACK_SIZE 16384

static inline int end_thread(void *arg)
{
	return 0;
}

/*
 * Makes and joins a thread by clone() itself: the C library's pthread_create()
 * takes a recursive lock of its own, which has no owner in the replica if it
 * was held at that instant.  @stack and @word are the caller's alone.
 */
static inline bool clone_and_join(char *stack, __u32 *word)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
			  CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID |
			  CLONE_CHILD_CLEARTID;
	__u32 seen;

	store(word, 1);
	/* clone() aligns the stack. */
	if (clone(end_thread, stack + CLONE_STACK_SIZE, flags, NULL, word, NULL,
		  word) < 0)
		return false;
	/* As the library joins; the kernel wakes shared waiters. */
	while ((seen = load(word)))
		futex_wait(word, seen, 0, -1);
	return true;
}

/* ASSERTs of functions that original and replica both run. */
#define side_assert(cond)						\
do {									\
	if (!(cond))							\
		side_fail(__FILE__, __LINE__, #cond, 0);		\
} while (0)

#define side_assert_eq(expected, expr)					\
do {									\
	long long __side_value = (long long)(expr);			\
									\
	if (__side_value != (long long)(expected))			\
		side_fail(__FILE__, __LINE__, #expr " is " #expected,	\
			  __side_value);				\
} while (0)

static inline __noreturn void side_fail(const char *file, int line,
					const char *what, long long seen)
{
	if (!in_replica())
		dprintf(STDERR_FILENO, "# %s:%d: original: %s (seen %lld)\n",
			file, line, what, seen);
	replica_fail(file, line, what, seen);
}

/* Joins a thread of the original within the deadline. */
#define join_thread(thread)						\
do {									\
	struct timespec __ts;						\
									\
	clock_gettime(CLOCK_REALTIME, &__ts);				\
	__ts.tv_sec += DEADLINE;					\
	ASSERT_EQ(0, pthread_timedjoin_np(thread, NULL, &__ts)) {	\
		dump_process(getpid());					\
	}								\
} while (0)

/* The same in a replica. */
#define replica_join(thread)						\
do {									\
	struct timespec __ts;						\
									\
	clock_gettime(CLOCK_REALTIME, &__ts);				\
	__ts.tv_sec += DEADLINE / 2;					\
	replica_assert_eq(0, pthread_timedjoin_np(thread, NULL, &__ts));\
} while (0)

#endif /* _FULLFORK_THREADS_H */
