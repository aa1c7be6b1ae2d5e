// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_STOPPED leaves the replica as after SIGSTOP, and only the replica.
 */
#include "fullfork_selftest.h"

/* Words of the report */
enum {
	REPLICA_STEPS,		/* that any thread of the replica made */
};

static __u32 original_steps;
static pid_t original_pid;
static __u32 spin_ends;

/* Counts its rounds where nothing has to wake it up first. */
static void *spin(void *unused)
{
	while (!load(&spin_ends)) {
		if (syscall(__NR_getpid) == original_pid)
			add(&original_steps, 1);
		else
			add(&report->word[REPLICA_STEPS], 1);
	}
	return NULL;
}

static int step_and_run_workers(void *ws)
{
	add(&report->word[REPLICA_STEPS], 1);
	return run_replica_workers(ws);
}

/* A process of 5 threads: three sleep at the gate, one spins, one calls. */
FIXTURE(process)
{
	struct workers ws;
	pthread_t spinner;
	sigset_t sigchld;
	long pid;
};

#define THREADS 5

static bool is_stopped(pid_t pid, pid_t tid)
{
	return task_state(pid, tid) == 'T';
}

static bool all_stopped(pid_t pid)
{
	return count_tasks(pid, is_stopped) == THREADS;
}

FIXTURE_SETUP(process)
{
	require_fullfork(_metadata);
	self->sigchld = block_signal(_metadata, SIGCHLD);
	original_pid = getpid();
	start_workers(_metadata, &self->ws, 3, NULL, record_worker);
	ASSERT_EQ(0, pthread_create(&self->spinner, NULL, spin, NULL));
	ASSERT_TRUE(wait_until(load(&original_steps), DEADLINE));

	self->pid = replica_main(full_fork(CLONE_STOPPED), step_and_run_workers,
				 &self->ws);
	ASSERT_LT(0, self->pid);
}

FIXTURE_TEARDOWN(process)
{
	store(&spin_ends, 1);
	ASSERT_EQ(0, pthread_join(self->spinner, NULL));
	join_workers(_metadata, &self->ws);
}

static void continue_and_pass(struct __test_metadata *_metadata, pid_t pid)
{
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
	EXPECT_EQ(3, report->recorded);
}

TEST_F_LONG(process, has_every_thread_stopped)
{
	EXPECT_TRUE(wait_until(all_stopped(self->pid), DEADLINE))
	{
		dump_process(self->pid);
	}
	EXPECT_EQ(THREADS, count_threads(self->pid));
	continue_and_pass(_metadata, self->pid);
}

TEST_F_LONG(process, shows_the_stop_to_its_parent)
{
	struct timespec now = {};
	siginfo_t info;
	int status;

	status = xwait(_metadata, self->pid, WUNTRACED, DEADLINE);
	EXPECT_TRUE(WIFSTOPPED(status));
	EXPECT_EQ(SIGSTOP, WSTOPSIG(status));
	EXPECT_EQ(-1, sigtimedwait(&self->sigchld, &info, &now))
	{
		TH_LOG("SIGCHLD with code %d", info.si_code);
	}

	/* Once: the stop is not seen again. */
	EXPECT_EQ(0, waitpid(self->pid, &status, WUNTRACED | WNOHANG));
	continue_and_pass(_metadata, self->pid);
}

TEST_F_LONG(process, runs_nothing_before_sigcont)
{
	__u32 steps;

	ASSERT_TRUE(wait_until(all_stopped(self->pid), DEADLINE));
	EXPECT_EQ(0, report->word[REPLICA_STEPS]);

	/* Not even while the original's spinner does a lot. */
	steps = load(&original_steps);
	EXPECT_TRUE(wait_until(load(&original_steps) - steps > 10000,
			       DEADLINE));
	EXPECT_EQ(0, load(&report->word[REPLICA_STEPS]));
	EXPECT_EQ(0, report->recorded);

	ASSERT_EQ(0, kill(self->pid, SIGCONT));
	EXPECT_TRUE(wait_until(load(&report->word[REPLICA_STEPS]), DEADLINE));
	expect_pass(_metadata, self->pid);
}

TEST_F_LONG(process, goes_on_at_sigcont)
{
	struct timespec wait = { .tv_sec = DEADLINE };
	siginfo_t info;
	int status;

	status = xwait(_metadata, self->pid, WUNTRACED, DEADLINE);
	EXPECT_TRUE(WIFSTOPPED(status));
	ASSERT_EQ(0, kill(self->pid, SIGCONT));
	EXPECT_EQ(SIGCHLD, sigtimedwait(&self->sigchld, &info, &wait));
	EXPECT_EQ(self->pid, info.si_pid);
	expect_pass(_metadata, self->pid);
	EXPECT_EQ(3, report->recorded);
}

TEST_F_LONG(process, is_ended_by_sigkill)
{
	int status;

	ASSERT_TRUE(wait_until(all_stopped(self->pid), DEADLINE));
	ASSERT_EQ(0, kill(self->pid, SIGKILL));
	status = xwaitpid(_metadata, self->pid, DEADLINE);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGKILL, WTERMSIG(status));
	EXPECT_EQ(0, report->word[REPLICA_STEPS]);
}

TEST_F_LONG(process, keeps_other_signals_until_sigcont)
{
	int status;

	ASSERT_TRUE(wait_until(all_stopped(self->pid), DEADLINE));
	ASSERT_EQ(0, kill(self->pid, SIGTERM));
	EXPECT_TRUE(all_stopped(self->pid));
	ASSERT_EQ(0, kill(self->pid, SIGCONT));
	status = xwaitpid(_metadata, self->pid, DEADLINE);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGTERM, WTERMSIG(status));
	EXPECT_EQ(0, report->recorded);
}

TEST_F_LONG(process, leaves_the_original_running)
{
	unsigned int i;
	__u32 steps;

	steps = load(&original_steps);
	EXPECT_TRUE(wait_until(load(&original_steps) != steps, DEADLINE));
	for (i = 0; i < self->ws.count; i++)
		EXPECT_NE('T', task_state(getpid(), self->ws.worker[i].tid));
	EXPECT_TRUE(wait_until(all_stopped(self->pid), DEADLINE));
	steps = load(&original_steps);
	EXPECT_TRUE(wait_until(load(&original_steps) != steps, DEADLINE));
	continue_and_pass(_metadata, self->pid);
}

/* A process of one thread */
FIXTURE(single_thread)
{
};

FIXTURE_SETUP(single_thread)
{
	require_fullfork(_metadata);
}

FIXTURE_TEARDOWN(single_thread)
{
}

static int take_step(void *unused)
{
	add(&report->word[REPLICA_STEPS], 1);
	return REPLICA_PASS;
}

TEST_F_LONG(single_thread, has_its_replica_stopped)
{
	int status;
	long pid;

	pid = replica_main(full_fork(CLONE_STOPPED), take_step, NULL);
	ASSERT_LT(0, pid);
	status = xwait(_metadata, pid, WUNTRACED, DEADLINE);
	EXPECT_TRUE(WIFSTOPPED(status));
	EXPECT_EQ(SIGSTOP, WSTOPSIG(status));
	/* The parent may be told a little before. */
	EXPECT_TRUE(wait_until(task_state(pid, pid) == 'T', DEADLINE));
	EXPECT_EQ(0, load(&report->word[REPLICA_STEPS]));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
	EXPECT_EQ(1, load(&report->word[REPLICA_STEPS]));
}

TEST_F_LONG(single_thread, stops_with_no_exit_signal)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_STOPPED,
	};
	int status;
	long pid;

	pid = replica_main(sys_clone3(&args, sizeof(args)), take_step, NULL);
	ASSERT_LT(0, pid);
	status = xwait(_metadata, pid, WUNTRACED, DEADLINE);
	EXPECT_TRUE(WIFSTOPPED(status));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
}

TEST_HARNESS_MAIN
