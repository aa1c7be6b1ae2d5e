/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the full fork selftests.
 *
 * A replica has a copy of the whole test process: it must neither return from
 * the test body nor use the harness's macros.  It records what it sees in the
 * report, a page that original and replica share, and ends by replica_exit().
 * Nothing else may be used to talk to the original: open file descriptions
 * are shared as well, and a byte that one reads is lost to the other.
 */
#ifndef _FULLFORK_SELFTEST_H
#define _FULLFORK_SELFTEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/types.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"

#ifndef CLONE_AUTOREAP
#define CLONE_AUTOREAP		(1ULL << 34)
#endif
#ifndef CLONE_NNP
#define CLONE_NNP		(1ULL << 35)
#endif
#ifndef CLONE_PIDFD_AUTOKILL
#define CLONE_PIDFD_AUTOKILL	(1ULL << 36)
#endif
#ifndef CLONE_SFORK
#define CLONE_SFORK		(1ULL << 56)
#endif
#ifndef CLONE_ISOLATE
#define CLONE_ISOLATE		(1ULL << 57)
#endif
#ifndef CLONE_KEEP_TIDS
#define CLONE_KEEP_TIDS		(1ULL << 58)
#endif
#ifndef CLONE_FROM_PIDFD
#define CLONE_FROM_PIDFD	(1ULL << 59)
#endif
#ifndef CLONE_STOPPED
#define CLONE_STOPPED		(1ULL << 60)
#endif
#ifndef CLONE_SUBTREE
#define CLONE_SUBTREE		(1ULL << 61)
#endif
#ifndef CLONE_ALL_THREADS
#define CLONE_ALL_THREADS	(1ULL << 62)
#endif

#define ptr_to_u64(ptr) ((__u64)((uintptr_t)(ptr)))

/* struct clone_args of CLONE_ARGS_SIZE_VER3, for headers that lack it. */
struct fullfork_args {
	__aligned_u64 flags;
	__aligned_u64 pidfd;
	__aligned_u64 child_tid;
	__aligned_u64 parent_tid;
	__aligned_u64 exit_signal;
	__aligned_u64 stack;
	__aligned_u64 stack_size;
	__aligned_u64 tls;
	__aligned_u64 set_tid;
	__aligned_u64 set_tid_size;
	__aligned_u64 cgroup;
	__aligned_u64 source_pidfd;
	__aligned_u64 tid_map;
	__aligned_u64 tid_map_size;
};

#define FULLFORK_ARGS_SIZE_VER0 64
#define FULLFORK_ARGS_SIZE_VER1 80
#define FULLFORK_ARGS_SIZE_VER2 88
#define FULLFORK_ARGS_SIZE_VER3 112

_Static_assert(sizeof(struct fullfork_args) == FULLFORK_ARGS_SIZE_VER3,
	       "size of struct clone_args");

/* struct clone_tid_map */
struct fullfork_tid_map {
	__u32 original;
	__u32 replica;
};

/* Is there with CONFIG_FULLFORK only. */
#define TIMEOUT_SYSCTL "/proc/sys/kernel/fullfork_timeout_secs"

/* How long anything may take before the test fails, in seconds. */
#define DEADLINE 60

/*
 * How long a test may take.  The 30 seconds of the harness are too few for a
 * kernel that checks everything, under emulation.
 */
#ifndef TEST_DEADLINE
#define TEST_DEADLINE 170
#endif
#define TEST_F_LONG(fixture, name)					\
	TEST_F_TIMEOUT(fixture, name, TEST_DEADLINE + 5)

/* Exit codes of replicas.  None is 0, which a thread that ends may cause. */
enum replica_code {
	REPLICA_PASS = 42,
	REPLICA_FAIL = 43,
	REPLICA_TIMEOUT = 44,
};

/*
 * System calls
 */

static inline pid_t sys_gettid(void)
{
	return syscall(__NR_gettid);
}

/* Returns 0 in the child, its PID or -errno in the caller. */
static inline long sys_clone3(struct fullfork_args *args, size_t size)
{
	long ret = syscall(__NR_clone3, args, size);

	return ret < 0 ? -errno : ret;
}

/* A full fork with @flags, and with SIGCHLD where an exit signal may be. */
static inline long full_fork(__u64 flags)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | flags,
		.exit_signal = flags & (CLONE_PARENT | CLONE_AUTOREAP) ?
				0 : SIGCHLD,
	};

	return sys_clone3(&args, sizeof(args));
}

static inline long futex_wait(__u32 *word, __u32 value, int private_flag,
			      long long msec)
{
	struct timespec ts = { msec / 1000, msec % 1000 * 1000000 };

	return syscall(__NR_futex, word, FUTEX_WAIT | private_flag, value,
		       msec < 0 ? NULL : &ts, NULL, 0);
}

static inline long futex_wake(__u32 *word, int count, int private_flag)
{
	return syscall(__NR_futex, word, FUTEX_WAKE | private_flag, count,
		       NULL, NULL, 0);
}

static inline int sys_pidfd_open(pid_t pid)
{
	return syscall(__NR_pidfd_open, pid, 0);
}

/*
 * Deadlines
 */

static inline long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

#define FIRST_PAUSE	1000000
#define LONGEST_PAUSE	20000000

/*
 * Sleep, and return how long to sleep next time.  To look is expensive on a debug
 * kernel, and who looks all the time keeps others from what is waited for.
 */
static inline long pause_longer(long nsec)
{
	struct timespec ts = { .tv_nsec = nsec };

	syscall(__NR_clock_nanosleep, CLOCK_MONOTONIC, 0, &ts, NULL);
	/* Other threads and processes may have written meanwhile. */
	asm volatile("" : : : "memory");
	nsec += nsec / 4;
	return nsec < LONGEST_PAUSE ? nsec : LONGEST_PAUSE;
}

static inline void poll_pause(void)
{
	pause_longer(FIRST_PAUSE);
}

/* True as soon as @cond is, false if it is not within @seconds. */
#define wait_until(cond, seconds)					\
({									\
	long long __end = now_ms() + (seconds) * 1000LL;		\
	long __nsec = FIRST_PAUSE;					\
	bool __met;							\
									\
	while (!(__met = !!(cond)) && now_ms() < __end)			\
		__nsec = pause_longer(__nsec);			\
	__met;								\
})

/* True if @pidfd reports the exit of its process within @seconds. */
static inline bool wait_pidfd(int pidfd, int seconds)
{
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };
	int ret;

	do {
		ret = poll(&pfd, 1, seconds * 1000);
	} while (ret < 0 && errno == EINTR);
	return ret == 1 && pfd.revents & POLLIN;
}

/*
 * Rounds of a test that makes many calls, but is not about how many: @most
 * show what it is after, @least still mean something.  A slow machine stops
 * in between when ROUNDS_SECONDS are over.
 */
#define ROUNDS_SECONDS 8

struct rounds {
	unsigned int least;
	unsigned int most;
	unsigned int nr;		/* that have begun */
	long long end;
};

/* Begins the next round; false if that was enough of them. */
static inline bool next_round(struct rounds *r)
{
	if (!r->nr)
		r->end = now_ms() + ROUNDS_SECONDS * 1000;
	if (r->nr >= r->most)
		return false;
	if (r->nr >= r->least && now_ms() >= r->end) {
		fprintf(stderr, "# %u of %u rounds within %d s\n", r->nr,
			r->most, ROUNDS_SECONDS);
		return false;
	}
	r->nr++;
	return true;
}

/*
 * What /proc tells
 */

/* Reads a small file; returns its length without the last newline, or -1. */
static inline int read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len;

	if (fd < 0)
		return -1;
	len = read(fd, buf, size - 1);
	close(fd);
	if (len < 0)
		return -1;
	if (len && buf[len - 1] == '\n')
		len--;
	buf[len] = '\0';
	return len;
}

/* Writes @text to a file; returns 0 or -errno. */
static inline int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* The value of "@field:" in /proc/@pid/task/@tid/status; false if absent. */
static inline bool read_status_field(pid_t pid, pid_t tid, const char *field,
				     char *buf, size_t size)
{
	char path[64], text[4096], *line, *save = NULL;
	size_t len = strlen(field);

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	if (read_file(path, text, sizeof(text)) < 0)
		return false;
	for (line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, field, len) || line[len] != ':')
			continue;
		line += len + 1;
		line += strspn(line, " \t");
		snprintf(buf, size, "%s", line);
		return true;
	}
	return false;
}

/* The same as a number, -1 if absent. */
static inline long status_number(pid_t pid, const char *field)
{
	char buf[128];

	if (!read_status_field(pid, pid, field, buf, sizeof(buf)))
		return -1;
	return strtol(buf, NULL, 10);
}

/* The state letter of a task ('S', 'T', 'Z', ...), 0 if there is none. */
static inline char task_state(pid_t pid, pid_t tid)
{
	char buf[64];

	if (!read_status_field(pid, tid, "State", buf, sizeof(buf)))
		return 0;
	return buf[0];
}

/* The number of the system call a task is blocked in, or -1. */
static inline long task_syscall(pid_t pid, pid_t tid)
{
	char path[64], buf[256], *end;
	long nr;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", pid, tid);
	if (read_file(path, buf, sizeof(buf)) <= 0)
		return -1;
	nr = strtol(buf, &end, 10);
	return end == buf ? -1 : nr;
}

static inline bool is_blocked(pid_t pid, pid_t tid, long nr)
{
	return task_syscall(pid, tid) == nr && task_state(pid, tid) == 'S';
}

/* Waits until thread @tid of this process sleeps in system call @nr. */
static inline bool wait_blocked(pid_t tid, long nr)
{
	return wait_until(is_blocked(getpid(), tid, nr), DEADLINE);
}

/* The next entry of a folder that is a PID or TID; 0 behind the last. */
static inline pid_t next_id(DIR *dir)
{
	struct dirent *entry;

	while ((entry = readdir(dir)))
		if (atoi(entry->d_name) > 0)
			return atoi(entry->d_name);
	return 0;
}

static inline DIR *open_tasks(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	return opendir(path);
}

/* The threads of a process that @match is true of, -1 if it is gone. */
static inline int count_tasks(pid_t pid, bool (*match)(pid_t pid, pid_t tid))
{
	DIR *dir = open_tasks(pid);
	int count = 0;
	pid_t tid;

	if (!dir)
		return -1;
	while ((tid = next_id(dir)))
		count += match(pid, tid);
	closedir(dir);
	return count;
}

static inline int count_entries(const char *path)
{
	struct dirent *entry;
	DIR *dir = opendir(path);
	int count = 0;

	if (!dir)
		return -1;
	while ((entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

static inline int count_threads(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	return count_entries(path);
}

/* Open file descriptors of the caller, but for the one that lists them. */
static inline int count_fds(void)
{
	return count_entries("/proc/self/fd") - 1;
}

/* Children of all threads of the caller, zombies included. */
static inline int count_children(void)
{
	char path[64], buf[4096], *word, *save;
	DIR *dir = opendir("/proc/self/task");
	int count = 0;
	pid_t tid;

	if (!dir)
		return -1;
	while ((tid = next_id(dir))) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/children",
			 tid);
		if (read_file(path, buf, sizeof(buf)) < 0)
			continue;
		for (word = strtok_r(buf, " ", &save); word;
		     word = strtok_r(NULL, " ", &save))
			count++;
	}
	closedir(dir);
	return count;
}

/* What a call that fails must leave alone. */
struct census {
	int threads;
	int children;
	int fds;
};

static inline struct census take_census(void)
{
	return (struct census) {
		.threads = count_threads(getpid()),
		.children = count_children(),
		.fds = count_fds(),
	};
}

#define expect_census(before)						\
do {									\
	struct census __now = take_census();				\
									\
	EXPECT_EQ((before).threads, __now.threads);			\
	EXPECT_EQ((before).children, __now.children);			\
	EXPECT_EQ((before).fds, __now.fds);				\
} while (0)

/* Says on stderr where each thread of a process is. */
static inline void dump_process(pid_t pid)
{
	static const char * const files[] = { "comm", "wchan", "syscall" };
	DIR *dir = open_tasks(pid);
	char path[64], buf[256];
	unsigned int i;
	pid_t tid;

	if (!dir) {
		fprintf(stderr, "# process %d is gone\n", pid);
		return;
	}
	while ((tid = next_id(dir))) {
		fprintf(stderr, "# process %d thread %d state %c", pid, tid,
			task_state(pid, tid));
		for (i = 0; i < ARRAY_SIZE(files); i++) {
			snprintf(path, sizeof(path), "/proc/%d/task/%d/%s",
				 pid, tid, files[i]);
			if (read_file(path, buf, sizeof(buf)) >= 0)
				fprintf(stderr, " %s %s", files[i], buf);
		}
		fprintf(stderr, "\n");
	}
	closedir(dir);
}

/*
 * The report
 */

#define REPORT_SLOTS 1100
#define REPORT_WORDS 32

struct report_slot {
	__u32 recorded;
	__s32 pid;
	__s32 tid;
	__s32 code;
	__u64 value[4];
};

struct report {
	__u32 recorded;			/* slots that are recorded: a futex */
	__u32 failures;
	char failure[240];		/* the first of them */
	__u32 is_there;			/* the PID of a replica that waits */
	__u32 may_go_on;		/* what the original tells it */
	__u32 word[REPORT_WORDS];	/* free for the tests */
	struct report_slot slot[REPORT_SLOTS];
};

static struct report *report __maybe_unused;

static inline void create_report(struct __test_metadata *_metadata)
{
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, report);
}

static inline __u32 load(const __u32 *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void store(__u32 *word, __u32 value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline __u32 add(__u32 *word, __u32 value)
{
	return __atomic_add_fetch(word, value, __ATOMIC_SEQ_CST);
}

/* Records one thread; @value is what the test wants to know of it. */
static inline void record(unsigned int index, __u64 value)
{
	struct report_slot *slot = &report->slot[index];

	slot->pid = syscall(__NR_getpid);
	slot->tid = sys_gettid();
	slot->value[0] = value;
	add(&slot->recorded, 1);
	add(&report->recorded, 1);
	futex_wake(&report->recorded, INT_MAX, 0);
}

/* Waits until @count threads have recorded themselves. */
static inline bool wait_recorded(__u32 count)
{
	return wait_until(load(&report->recorded) >= count, DEADLINE);
}

/*
 * Replicas
 */

/* The end of every replica. */
static inline __noreturn void replica_exit(int code)
{
	for (;;)
		syscall(__NR_exit_group, code);
}

/* The end of one thread of a replica. */
static inline __noreturn void replica_thread_exit(void)
{
	for (;;)
		syscall(__NR_exit, 0);
}

/*
 * What the caller's replica runs, and all that it runs: passes on what
 * full_fork() returned to the original, never returns in the replica.
 */
static inline long replica_main(long ret, int (*fn)(void *arg), void *arg)
{
	if (ret)
		return ret;
	replica_exit(fn(arg));
}

static inline __noreturn void
replica_fail(const char *file, int line, const char *what, long long seen)
{
	int error = errno;

	if (add(&report->failures, 1) == 1)
		snprintf(report->failure, sizeof(report->failure),
			 "%s:%d: replica: %s (seen %lld, errno %d)", file,
			 line, what, seen, error);
	replica_exit(REPLICA_FAIL);
}

/* The replica's ASSERT: on failure it says so and ends the replica. */
#define replica_assert(cond)						\
do {									\
	if (!(cond))							\
		replica_fail(__FILE__, __LINE__, #cond, 0);		\
} while (0)

#define replica_assert_eq(expected, expr)				\
do {									\
	long long __seen_value = (long long)(expr);			\
									\
	if (__seen_value != (long long)(expected))			\
		replica_fail(__FILE__, __LINE__,			\
			     #expr " is " #expected, __seen_value);	\
} while (0)

/*
 * Waits for a state change of a child, whatever its exit signal: its status.
 * A child that shows none is dumped and killed, and the test fails.
 */
static inline int xwait(struct __test_metadata *_metadata, pid_t pid,
			int options, int seconds)
{
	int status = -1;
	pid_t ret = 0;
	bool met;

	options |= WNOHANG | __WALL;
	met = wait_until((ret = waitpid(pid, &status, options)), seconds);
	if (met) {
		ASSERT_EQ(pid, ret)
		{
			TH_LOG("waitpid: %s", strerror(errno));
		}
		return status;
	}

	TH_LOG("process %d shows nothing within %d s", pid, seconds);
	dump_process(pid);
	kill(pid, SIGKILL);
	wait_until(waitpid(pid, &status, WNOHANG | __WALL), 5);
	ASSERT_TRUE(false);
	return -1;
}

static inline int xwaitpid(struct __test_metadata *_metadata, pid_t pid,
			   int seconds)
{
	return xwait(_metadata, pid, 0, seconds);
}

/* Waits for a replica and expects that it found everything in order. */
static inline void expect_pass(struct __test_metadata *_metadata, pid_t pid)
{
	int status = xwaitpid(_metadata, pid, DEADLINE);

	EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == REPLICA_PASS)
	{
		TH_LOG("replica ended with status 0x%x: %s", status,
		       report && report->failures ? report->failure : "");
	}
}

/* A full fork whose replica runs @fn and finds everything in order: its PID. */
static inline long fork_and_pass(struct __test_metadata *_metadata, __u64 flags,
				 int (*fn)(void *arg), void *arg)
{
	long pid = replica_main(full_fork(flags), fn, arg);

	ASSERT_LT(0, pid)
	{
		TH_LOG("full fork: %s", strerror(-pid));
	}
	expect_pass(_metadata, pid);
	return pid;
}

/* Blocks a signal for the caller and the threads that it makes: its set. */
static inline sigset_t block_signal(struct __test_metadata *_metadata, int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	return set;
}

/*
 * After a call that failed there is no child, and never was one that told of
 * itself.  @sigchld is blocked.
 */
static inline void expect_nothing_left(struct __test_metadata *_metadata,
				       struct census before,
				       const sigset_t *sigchld)
{
	struct timespec now = {};

	EXPECT_EQ(-1, waitpid(-1, NULL, __WALL | WNOHANG));
	EXPECT_EQ(ECHILD, errno);
	EXPECT_EQ(-1, sigtimedwait(sigchld, NULL, &now));
	EXPECT_EQ(0, report->recorded);
	expect_census(before);
}

/*
 * Worker threads.  They wait at a gate in private memory: what opens it in
 * the original is not seen in the replica, and the other way round.
 */

enum side { SIDE_NONE, SIDE_ORIGINAL, SIDE_REPLICA };

struct workers;

struct worker {
	struct workers *group;
	pthread_t thread;
	unsigned int index;
	pid_t tid;
	void (*body)(struct worker *worker, enum side side);
	void (*before)(struct worker *worker);
	__u64 token;			/* free for the tests */
	bool stack_kept;		/* seen after the gate */
};

struct workers {
	__u32 gate;
	__u32 ready;
	unsigned int count;
	struct worker *worker;
};

/* What @ptr points at may have been read and changed by others. */
static inline void keep_in_memory(void *ptr)
{
	asm volatile("" : : "r"(ptr) : "memory");
}

/* Sleeps until the gate is open: on which side. */
static inline enum side wait_gate(struct workers *ws)
{
	enum side side;

	while (!(side = load(&ws->gate)))
		futex_wait(&ws->gate, SIDE_NONE, FUTEX_PRIVATE_FLAG, -1);
	return side;
}

static inline void *worker_thread(void *arg)
{
	struct worker *w = arg;
	__u64 canary[16];
	unsigned int i;
	enum side side;

	for (i = 0; i < ARRAY_SIZE(canary); i++)
		canary[i] = (uintptr_t)w + i;
	keep_in_memory(canary);
	w->tid = sys_gettid();
	if (w->before)
		w->before(w);
	add(&w->group->ready, 1);

	side = wait_gate(w->group);
	keep_in_memory(canary);
	w->stack_kept = true;
	for (i = 0; i < ARRAY_SIZE(canary); i++)
		w->stack_kept &= canary[i] == (uintptr_t)w + i;
	if (w->body)
		w->body(w, side);
	if (side == SIDE_REPLICA)
		replica_thread_exit();
	return NULL;
}

/*
 * Starts @count workers: each runs @before (may be NULL), waits at the gate,
 * and runs @body (may be NULL) when it is told on which side it is.  Returns
 * when all sleep at the gate.
 */
static inline void start_workers(struct __test_metadata *_metadata,
				 struct workers *ws, unsigned int count,
				 void (*before)(struct worker *worker),
				 void (*body)(struct worker *worker,
					      enum side side))
{
	pthread_attr_t attr;
	unsigned int i;

	*ws = (struct workers) { .count = count };
	ws->worker = calloc(count + 1, sizeof(*ws->worker));
	ASSERT_NE(NULL, ws->worker);
	ASSERT_EQ(0, pthread_attr_init(&attr));
	ASSERT_EQ(0, pthread_attr_setstacksize(&attr, 128 * 1024));
	for (i = 0; i < count; i++) {
		struct worker *w = &ws->worker[i];

		w->group = ws;
		w->index = i;
		w->before = before;
		w->body = body;
		ASSERT_EQ(0, pthread_create(&w->thread, &attr, worker_thread, w));
	}
	pthread_attr_destroy(&attr);
	ASSERT_TRUE(wait_until(load(&ws->ready) == count, DEADLINE));
	for (i = 0; i < count; i++)
		ASSERT_TRUE(wait_blocked(ws->worker[i].tid, __NR_futex));
}

static inline void open_gate(struct workers *ws, enum side side)
{
	store(&ws->gate, side);
	futex_wake(&ws->gate, INT_MAX, FUTEX_PRIVATE_FLAG);
}

/* In the original: lets the workers go on and end. */
static inline void join_workers(struct __test_metadata *_metadata,
				struct workers *ws)
{
	unsigned int i;

	open_gate(ws, SIDE_ORIGINAL);
	for (i = 0; i < ws->count; i++)
		ASSERT_EQ(0, pthread_join(ws->worker[i].thread, NULL));
	free(ws->worker);
	ws->worker = NULL;
}

/* The body of a worker that only says that it is there, and who it was. */
static inline void record_worker(struct worker *w, enum side side)
{
	/* From before the copy: the TID of the original. */
	if (side == SIDE_REPLICA)
		record(w->index, w->tid);
}

/*
 * In the replica: lets the workers go on, each of which must record itself,
 * and tells whether all did.
 */
static inline int run_replica_workers(void *arg)
{
	struct workers *ws = arg;

	open_gate(ws, SIDE_REPLICA);
	return wait_recorded(ws->count) ? REPLICA_PASS : REPLICA_TIMEOUT;
}

/* The same when the original says so. */
static inline int wait_then_run_workers(void *ws)
{
	store(&report->is_there, syscall(__NR_getpid));
	if (!wait_until(load(&report->may_go_on), DEADLINE))
		return REPLICA_TIMEOUT;
	return run_replica_workers(ws);
}

/*
 * What may be missing
 */

/*
 * Skips a test that needs @cond.  Where full fork is expected, as in CI, so is
 * all that its tests need: then it fails.  @leave is how to leave the function.
 */
#define skip_unless(cond, leave, fmt, ...)				\
do {									\
	if (cond)							\
		break;							\
	ASSERT_EQ(NULL, getenv("KSFT_FULLFORK_EXPECT"))			\
	{								\
		TH_LOG("expected: " fmt, ##__VA_ARGS__);		\
	}								\
	SKIP(leave, fmt, ##__VA_ARGS__);				\
} while (0)

/*
 * To be called first in each FIXTURE_SETUP: makes the report, and skips the
 * test where the kernel was built without full fork, or fails it where one was
 * expected.
 */
static inline void require_fullfork(struct __test_metadata *_metadata)
{
	long pid;

	create_report(_metadata);
	pid = full_fork(0);
	if (!pid)
		replica_exit(REPLICA_PASS);
	skip_unless(pid != -EINVAL || !access(TIMEOUT_SYSCTL, F_OK), _exit(0),
		    "the kernel has no CLONE_ALL_THREADS");
	ASSERT_LT(0, pid)
	{
		TH_LOG("CLONE_ALL_THREADS: %s", strerror(-pid));
	}
	expect_pass(_metadata, pid);
}

/* Skips a test that does what only root may do. */
static inline void require_root(struct __test_metadata *_metadata,
				const char *what)
{
	skip_unless(!geteuid(), _exit(0), "%s: needs root", what);
}

/* What a table of TIDs holds where nothing was written. */
#define POISON 0xdeadbeef

static inline void poison(struct fullfork_tid_map *map, unsigned int entries)
{
	unsigned int i;

	for (i = 0; i < entries; i++)
		map[i] = (struct fullfork_tid_map){ POISON, POISON };
}

static inline bool is_poisoned(const struct fullfork_tid_map *map,
			       unsigned int entries)
{
	unsigned int i;

	for (i = 0; i < entries; i++)
		if (map[i].original != POISON || map[i].replica != POISON)
			return false;
	return true;
}

#endif /* _FULLFORK_SELFTEST_H */
