// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: everything at once, for as long as one likes
 *
 * Not run by default.  FULLFORK_STRESS_SECONDS says how long, 10 if unset;
 * FULLFORK_STRESS_SEED repeats what a run did, as far as the threads let it.
 */

#include "fullfork_sync.h"
#include "fullfork_registers.h"

#define WORKERS 12

enum {
	WORD_FORKS,
	WORD_END,
	WORD_BAD_ERROR,
	WORD_BAD_LINE,
};

static char child_stack[2][CLONE_STACK_SIZE];
static __u32 turns[WORKERS];
static __u32 ball;

static void create_and_join(long index)
{
	static __u32 words[2];

	thread_check(clone_and_join(child_stack[index], &words[index]));
}

static void spin(long index)
{
	thread_check(!spin_and_compare(index + 1, 20000));
}

/* Two throw a ball; each waits until it is its own turn. */
static void play(long index)
{
	long own = index & 1;

	while (load(&ball) != own)
		futex_wait(&ball, !own, FUTEX_PRIVATE_FLAG, -1);
	store(&ball, !own);
	futex_wake(&ball, 1, FUTEX_PRIVATE_FLAG);
}

static void sleep_shortly(long index)
{
	struct timespec ts = { .tv_nsec = 2000000 };

	thread_check(!nanosleep(&ts, NULL));
}

static void poll_shortly(long index)
{
	thread_check(!poll(NULL, 0, 2));
}

static void wait_signal_shortly(long index)
{
	struct timespec ts = { .tv_nsec = 2000000 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	/* EINTR is what SIGSTOP and SIGCONT cause. */
	thread_check(sigtimedwait(&set, NULL, &ts) == -1 &&
		     (errno == EAGAIN || errno == EINTR));
}

static void fork_child(long index)
{
	pid_t parent = sys_getpid(), reaped, pid;
	int status;

	pid = fork();
	if (!pid)
		_exit(7);
	reaped = waitpid(pid, &status, 0);
	/* The child stays with the original. */
	if (sys_getpid() == parent)
		thread_check(pid > 0 && reaped == pid && status == 7 << 8);
}

static void take_mutex(long index)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	static long inside;

	thread_check(!pthread_mutex_lock(&mutex));
	thread_check(!inside++);
	sched_yield();
	thread_check(!--inside);
	thread_check(!pthread_mutex_unlock(&mutex));
}

static void (*const work[WORKERS])(long index) = {
	create_and_join, create_and_join, spin, spin, play, play,
	sleep_shortly, poll_shortly, wait_signal_shortly, fork_child,
	take_mutex, take_mutex,
};

static void *work_for_ever(void *arg)
{
	long index = (long)arg;

	for (;;) {
		work[index](index);
		add(&turns[index], 1);
	}
	return NULL;
}

/* All go on after the instant that they were copied at. */
static int see_workers_go_on(void *arg)
{
	__u32 before[WORKERS];
	int i;

	for (i = 0; i < WORKERS; i++)
		before[i] = load(&turns[i]);
	for (i = 0; i < WORKERS; i++) {
		if (wait_until(load(&turns[i]) - before[i] >= 2, DEADLINE))
			continue;
		dump_process(sys_getpid());
		replica_fail(__FILE__, __LINE__, "a worker hangs", i);
	}
	expect_no_thread_failed();
	return REPLICA_PASS;
}

static void *fork_for_ever(void *arg)
{
	int status;
	long pid;

	while (!in_replica() && !load(&report->word[WORD_END])) {
		pid = replica_main(full_fork(0), see_workers_go_on, NULL);
		if (in_replica())
			break;
		if (pid > 0 && waitpid(pid, &status, 0) == pid)
			pid = status == REPLICA_PASS << 8 ? 0 : -EPROTO;
		if (in_replica())
			break;
		if (pid)
			store(&report->word[WORD_BAD_ERROR], -pid);
		add(&report->word[WORD_FORKS], 1);
		if (load(&failed_line))
			store(&report->word[WORD_BAD_LINE], load(&failed_line));
	}
	while (in_replica())
		poll_pause();
	return NULL;
}

static void nop(int sig)
{
}

static void run_subject(void)
{
	pthread_t thread[WORKERS + 2];
	sigset_t set;
	long i;

	/* The calls of the workers are to end as they do without signals. */
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (i = 0; i < WORKERS; i++)
		if (pthread_create(&thread[i], NULL, work_for_ever, (void *)i))
			_exit(1);
	sigdelset(&set, SIGUSR2);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	for (; i < WORKERS + 2; i++)
		if (pthread_create(&thread[i], NULL, fork_for_ever, NULL))
			_exit(1);
	for (i = WORKERS; i < WORKERS + 2; i++)
		pthread_join(thread[i], NULL);
	replica_exit(REPLICA_PASS);
}

FIXTURE(stress)
{
	unsigned int seed;
	int seconds;
};

FIXTURE_SETUP(stress)
{
	const char *seconds = getenv("FULLFORK_STRESS_SECONDS");
	const char *seed = getenv("FULLFORK_STRESS_SEED");
	struct sigaction sa = { .sa_handler = nop, .sa_flags = SA_RESTART };

	/* No guard: its deadline is not that of this test. */
	require_fullfork(_metadata);
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	/* For the subjects, which get signals from their first moment on. */
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	self->seconds = seconds ? atoi(seconds) : 10;
	self->seed = seed ? strtoul(seed, NULL, 10) : now_ms() ^ getpid();
	TH_LOG("FULLFORK_STRESS_SEED=%u", self->seed);
}

FIXTURE_TEARDOWN(stress)
{
}

static void stop_and_continue(struct __test_metadata *_metadata, pid_t pid)
{
	int status;

	ASSERT_EQ(0, kill(pid, SIGSTOP));
	status = xwait(_metadata, pid, WUNTRACED, DEADLINE);
	ASSERT_TRUE(WIFSTOPPED(status))
	{
		TH_LOG("status 0x%x %s", status, report->failure);
	}
	ASSERT_EQ(0, kill(pid, SIGCONT));
	status = xwait(_metadata, pid, WCONTINUED, DEADLINE);
	ASSERT_TRUE(WIFCONTINUED(status));
}

static void expect_no_failure(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, report->failures)
	{
		TH_LOG("%s", report->failure);
	}
	ASSERT_EQ(0, load(&report->word[WORD_BAD_ERROR]));
	ASSERT_EQ(0, load(&report->word[WORD_BAD_LINE]));
}

/* One life: some hundred ms of storm, then an end of one kind or the other. */
static void run_life(struct __test_metadata *_metadata, unsigned int *seed)
{
	long long end = now_ms() + 100 + rand_r(seed) % 2000;
	bool killed = rand_r(seed) % 2;
	__u32 forks;
	pid_t pid;

	memset(report->word, 0, sizeof(report->word));
	pid = start_process(_metadata, run_subject);
	while (now_ms() < end) {
		spin_us(rand_r(seed) % 3000);
		switch (rand_r(seed) % 4) {
		case 0:
			stop_and_continue(_metadata, pid);
			break;
		case 1:
			kill(pid, SIGSTOP);
			kill(pid, SIGCONT);
			break;
		default:
			kill(pid, SIGUSR1);
		}
		expect_no_failure(_metadata);
	}
	if (killed) {
		kill(pid, SIGKILL);
		xwaitpid(_metadata, pid, DEADLINE);
	} else {
		/* It still makes progress. */
		forks = load(&report->word[WORD_FORKS]);
		ASSERT_TRUE(wait_until(load(&report->word[WORD_FORKS]) > forks,
				       2 * DEADLINE))
		{
			dump_group(getpgrp());
		}
		store(&report->word[WORD_END], 1);
		ASSERT_EQ(REPLICA_PASS << 8,
			  xwaitpid(_metadata, pid, 2 * DEADLINE));
		expect_no_failure(_metadata);
	}
	ASSERT_TRUE(wait_until(({
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		!count_children();
	}), DEADLINE))
	{
		dump_group(getpgrp());
	}
}

TEST_F_TIMEOUT(stress, of_all_kinds_leaves_no_trace, 24 * 3600)
{
	long long end = now_ms() + self->seconds * 1000LL;
	int lives = 0;

	while (now_ms() < end) {
		run_life(_metadata, &self->seed);
		lives++;
	}
	TH_LOG("%d processes", lives);
}

TEST_HARNESS_MAIN
