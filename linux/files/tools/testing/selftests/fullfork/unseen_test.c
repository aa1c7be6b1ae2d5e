// SPDX-License-Identifier: GPL-2.0
/*
 * The originals notice nothing of a full fork but the time.
 */
#include "fullfork_selftest.h"

#include <sys/resource.h>
#include <sys/time.h>

/* Often enough for a signal that comes late to be seen. */
static struct rounds rounds = { .least = 4, .most = 20 };

/* Words of the report */
enum {
	IS_DONE,		/* set by the subject */
	MAY_END,		/* set by its parent */
};

/* One full fork whose replica runs @fn and of whose end nobody is told. */
static void fork_unseen(struct __test_metadata *_metadata, __u64 flags,
			int (*fn)(void *arg), void *arg)
{
	long pid;

	report->recorded = 0;
	pid = replica_main(full_fork(CLONE_AUTOREAP | flags), fn, arg);
	ASSERT_LT(0, pid);
	if (flags & CLONE_STOPPED) {
		EXPECT_TRUE(wait_until(task_state(pid, pid) == 'T', DEADLINE));
		ASSERT_EQ(0, kill(pid, SIGCONT));
	}
	ASSERT_TRUE(wait_until(kill(pid, 0) < 0 && errno == ESRCH, DEADLINE))
	{
		dump_process(pid);
		kill(pid, SIGKILL);
	}
	EXPECT_EQ(0, report->failures)
	{
		TH_LOG("%s", report->failure);
	}
}

/* A process of 5 threads, four of which sleep at the gate. */
FIXTURE(original)
{
	struct workers ws;
};

FIXTURE_SETUP(original)
{
	require_fullfork(_metadata);
	start_workers(_metadata, &self->ws, 4, NULL, record_worker);
}

FIXTURE_TEARDOWN(original)
{
	join_workers(_metadata, &self->ws);
}

static __u32 handled;

static void count_signal(int unused)
{
	add(&handled, 1);
}

TEST_F_LONG(original, runs_no_handler)
{
	struct sigaction sa = { .sa_handler = count_signal };
	int handlers = 0;
	sigset_t pending;
	int i;

	for (i = 1; i < _NSIG; i++)
		handlers += !sigaction(i, &sa, NULL);
	ASSERT_LT(50, handlers);
	while (next_round(&rounds))
		fork_unseen(_metadata, 0, run_replica_workers, &self->ws);
	EXPECT_EQ(0, handled);
	EXPECT_EQ(0, sigpending(&pending));
	EXPECT_TRUE(sigisemptyset(&pending));

	/* The handlers would have counted. */
	ASSERT_EQ(0, pthread_kill(self->ws.worker[0].thread, SIGURG));
	EXPECT_TRUE(wait_until(load(&handled) == 1, DEADLINE));
}

TEST_F_LONG(original, keeps_threads_and_files)
{
	struct census before = take_census();
	pid_t pid = getpid(), tid = sys_gettid();
	unsigned int i;

	while (next_round(&rounds))
		fork_unseen(_metadata, 0, run_replica_workers, &self->ws);
	expect_census(before);
	EXPECT_EQ(pid, getpid());
	EXPECT_EQ(tid, sys_gettid());
	for (i = 0; i < self->ws.count; i++) {
		EXPECT_TRUE(wait_blocked(self->ws.worker[i].tid, __NR_futex));
		EXPECT_EQ(0, pthread_kill(self->ws.worker[i].thread, 0));
	}
}

TEST_F_LONG(original, keeps_its_status)
{
	static const char * const fields[] = {
		"Name", "Umask", "Tgid", "Pid", "PPid", "Uid", "Gid", "Groups",
		"VmLck", "VmPin", "Threads", "SigPnd", "ShdPnd",
		"SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff",
		"CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Cpus_allowed",
	};
	char before[ARRAY_SIZE(fields)][5][128] = {};
	pid_t tid[5] = { getpid() }, pid = getpid();
	unsigned int i, t;
	char after[128];
	void *locked;

	locked = mmap(NULL, 32768, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, locked);
	ASSERT_EQ(0, mlock(locked, 32768));

	for (t = 1; t < ARRAY_SIZE(tid); t++)
		tid[t] = self->ws.worker[t - 1].tid;
	for (i = 0; i < ARRAY_SIZE(fields); i++)
		for (t = 0; t < ARRAY_SIZE(tid); t++)
			ASSERT_TRUE(read_status_field(pid, tid[t], fields[i],
						      before[i][t], 128));
	fork_unseen(_metadata, 0, run_replica_workers, &self->ws);
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		for (t = 0; t < ARRAY_SIZE(tid); t++) {
			ASSERT_TRUE(read_status_field(pid, tid[t], fields[i],
						      after, sizeof(after)));
			EXPECT_STREQ(before[i][t], after)
			{
				TH_LOG("field %s of thread %u", fields[i], t);
			}
		}
	}
}

TEST_F_LONG(original, keeps_its_limits)
{
	struct rlimit before[RLIM_NLIMITS], after;
	int i;

	for (i = 0; i < RLIM_NLIMITS; i++)
		ASSERT_EQ(0, getrlimit(i, &before[i]));
	fork_unseen(_metadata, 0, run_replica_workers, &self->ws);
	for (i = 0; i < RLIM_NLIMITS; i++) {
		ASSERT_EQ(0, getrlimit(i, &after));
		EXPECT_EQ(before[i].rlim_cur, after.rlim_cur);
		EXPECT_EQ(before[i].rlim_max, after.rlim_max);
	}
}

static int expect_no_timer(void *arg)
{
	struct itimerspec spec;
	struct itimerval val;
	timer_t *timer = arg;

	replica_assert_eq(0, getitimer(ITIMER_REAL, &val));
	replica_assert_eq(0, val.it_value.tv_sec + val.it_value.tv_usec);
	replica_assert_eq(-1, timer_gettime(*timer, &spec));
	replica_assert_eq(EINVAL, errno);
	return REPLICA_PASS;
}

TEST_F_LONG(original, keeps_its_timers)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_SIGNAL,
		.sigev_signo = SIGRTMIN,
	};
	struct itimerspec spec = { .it_value.tv_sec = 1 };
	struct itimerval val = { .it_value.tv_sec = 1 };
	struct timespec wait = { .tv_sec = DEADLINE };
	sigset_t alarm, rtmin, both;
	timer_t timer;
	unsigned int i;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigemptyset(&rtmin);
	sigaddset(&rtmin, SIGRTMIN);
	sigorset(&both, &alarm, &rtmin);
	/* The workers have them unblocked: their handlers must not get them. */
	join_workers(_metadata, &self->ws);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &both, NULL));
	start_workers(_metadata, &self->ws, 4, NULL, record_worker);

	ASSERT_EQ(0, timer_create(CLOCK_MONOTONIC, &event, &timer));
	ASSERT_EQ(0, timer_settime(timer, 0, &spec, NULL));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &val, NULL));
	for (i = 0; i < 3; i++)
		fork_unseen(_metadata, 0, expect_no_timer, &timer);
	EXPECT_EQ(SIGALRM, sigtimedwait(&alarm, NULL, &wait));
	EXPECT_EQ(SIGRTMIN, sigtimedwait(&rtmin, NULL, &wait));
	EXPECT_EQ(0, timer_delete(timer));
}

static int expect_none_pending(void *unused)
{
	sigset_t pending;

	replica_assert_eq(0, sigpending(&pending));
	replica_assert(sigisemptyset(&pending));
	return REPLICA_PASS;
}

TEST_F_LONG(original, keeps_pending_signals)
{
	struct timespec now = {};
	sigset_t set, pending;
	union sigval value = { .sival_int = 4711 };
	siginfo_t info;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	join_workers(_metadata, &self->ws);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	start_workers(_metadata, &self->ws, 4, NULL, record_worker);

	ASSERT_EQ(0, sigqueue(getpid(), SIGUSR1, value));
	ASSERT_EQ(0, pthread_kill(pthread_self(), SIGUSR2));
	fork_unseen(_metadata, 0, expect_none_pending, NULL);

	EXPECT_EQ(0, sigpending(&pending));
	EXPECT_TRUE(sigismember(&pending, SIGUSR1));
	EXPECT_TRUE(sigismember(&pending, SIGUSR2));
	EXPECT_EQ(SIGUSR2, sigtimedwait(&set, &info, &now));
	EXPECT_EQ(SIGUSR1, sigtimedwait(&set, &info, &now));
	EXPECT_EQ(4711, info.si_int);
}

/* A process each of whose threads sleeps in another system call. */
enum blocked_call { IN_FUTEX, IN_NANOSLEEP, IN_PAUSE, IN_POLL, IN_READ, CALLS };

static const long call_nr[CALLS] = {
	[IN_FUTEX]	= __NR_futex,
	[IN_NANOSLEEP]	= __NR_clock_nanosleep,
	[IN_PAUSE]	= __NR_rt_sigsuspend,
	[IN_POLL]	= __NR_ppoll,
	[IN_READ]	= __NR_read,
};

static int empty_pipe[2];
static __u32 shut_word;
static __u32 returned;
static __u32 call_tid[CALLS];

static void *block_in_call(void *arg)
{
	struct pollfd pfd = { .fd = empty_pipe[0], .events = POLLPRI };
	struct timespec hour = { .tv_sec = 3600 };
	enum blocked_call call = (uintptr_t)arg;
	sigset_t none;
	char c;

	store(&call_tid[call], sys_gettid());
	switch (call) {
	case IN_FUTEX:
		futex_wait(&shut_word, 0, FUTEX_PRIVATE_FLAG, -1);
		break;
	case IN_NANOSLEEP:
		syscall(__NR_clock_nanosleep, CLOCK_MONOTONIC, 0, &hour, NULL);
		break;
	case IN_PAUSE:
		sigemptyset(&none);
		syscall(__NR_rt_sigsuspend, &none, _NSIG / 8);
		break;
	case IN_POLL:
		syscall(__NR_ppoll, &pfd, 1, NULL, NULL, 0);
		break;
	case IN_READ:
		syscall(__NR_read, empty_pipe[0], &c, 1);
		break;
	default:
		break;
	}
	add(&returned, 1);
	return NULL;
}

FIXTURE(blocked_calls)
{
	pthread_t thread[CALLS];
};

FIXTURE_SETUP(blocked_calls)
{
	uintptr_t i;

	require_fullfork(_metadata);
	ASSERT_EQ(0, pipe(empty_pipe));
	for (i = 0; i < CALLS; i++)
		ASSERT_EQ(0, pthread_create(&self->thread[i], NULL,
					    block_in_call, (void *)i));
	for (i = 0; i < CALLS; i++) {
		ASSERT_TRUE(wait_until(load(&call_tid[i]), DEADLINE));
		ASSERT_TRUE(wait_blocked(call_tid[i], call_nr[i]))
		{
			TH_LOG("call %lu", i);
		}
	}
}

FIXTURE_TEARDOWN(blocked_calls)
{
	/* The threads end with the process. */
}

/* What was interrupted with a time to wait goes on as restart_syscall(). */
static bool still_blocked(enum blocked_call call)
{
	return is_blocked(getpid(), call_tid[call], call_nr[call]) ||
	       is_blocked(getpid(), call_tid[call], __NR_restart_syscall);
}

static int expect_none_returned(void *unused)
{
	/* The replica's threads go to their calls again: they may be late. */
	replica_assert_eq(0, load(&returned));
	return REPLICA_PASS;
}

TEST_F_LONG(blocked_calls, do_not_return)
{
	unsigned int call;

	while (next_round(&rounds)) {
		fork_unseen(_metadata, 0, expect_none_returned, NULL);
		for (call = 0; call < CALLS; call++)
			EXPECT_TRUE(wait_until(still_blocked(call), DEADLINE))
			{
				TH_LOG("call %u, fork %u", call, rounds.nr);
			}
	}
	EXPECT_EQ(0, returned);
}

/* A process that makes full forks, and its parent. */
FIXTURE(parent_of_original)
{
	struct workers ws;
	sigset_t sigchld;
};

FIXTURE_SETUP(parent_of_original)
{
	require_fullfork(_metadata);
	self->sigchld = block_signal(_metadata, SIGCHLD);
}

FIXTURE_TEARDOWN(parent_of_original)
{
}

static int fork_then_wait(struct __test_metadata *_metadata, struct workers *ws)
{
	start_workers(_metadata, ws, 4, NULL, record_worker);
	while (next_round(&rounds))
		fork_unseen(_metadata, rounds.nr & 1 ? 0 : CLONE_STOPPED,
			    run_replica_workers, ws);
	join_workers(_metadata, ws);
	store(&report->word[IS_DONE], 1);
	return wait_until(load(&report->word[MAY_END]), DEADLINE) ?
		REPLICA_PASS : REPLICA_TIMEOUT;
}

TEST_F_LONG(parent_of_original, sees_no_event)
{
	struct timespec now = {};
	siginfo_t info = {};
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(fork_then_wait(_metadata, &self->ws));

	EXPECT_TRUE(wait_until(load(&report->word[IS_DONE]) ||
			       task_state(pid, pid) == 'Z', 2 * DEADLINE));
	EXPECT_EQ(0, waitid(P_ALL, 0, &info,
			    WEXITED | WSTOPPED | WCONTINUED | WNOHANG));
	EXPECT_EQ(0, info.si_pid);
	EXPECT_EQ(-1, sigtimedwait(&self->sigchld, &info, &now));

	/* What it is told of comes: the end. */
	store(&report->word[MAY_END], 1);
	expect_pass(_metadata, pid);
	EXPECT_EQ(SIGCHLD, sigtimedwait(&self->sigchld, &info, &now));
	EXPECT_EQ(pid, info.si_pid);
	EXPECT_EQ(CLD_EXITED, info.si_code);
}

TEST_HARNESS_MAIN
