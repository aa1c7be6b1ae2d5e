// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a process that ends or stops during the call
 *
 * A subject process makes full forks all the time, while the test or one of
 * its threads does something to it.  The test is subreaper of all: nothing
 * may be left over.
 */

#include "fullfork_exec.h"
#include "fullfork_sync.h"
#include <sys/resource.h>

#define IDLE_THREADS 6

enum {
	WORD_ACTED,
};

/* What the subject exits with, by exit_group() or by what it executes. */
#define CODE_EXIT 5
#define CODE_EXEC 6

struct race {
	/* What one thread of the subject does, or NULL. */
	void (*act)(void);
	/* The signal that the test sends to the subject, or 0. */
	int sig;
	/* What the call may return beside success. */
	int error;
	/* How the subject is to end. */
	int exit_code;
	int end_signal;
	/* The leader acts, and not another thread. */
	bool in_leader;
};

static const struct race *race;
static long delay_us;

static void act_exit_group(void)
{
	replica_exit(CODE_EXIT);
}

static void act_exec(void)
{
	set_exec_code(CODE_EXEC);
	execute_self();
	replica_exit(1);
}

static void act_sigkill(void)
{
	kill(sys_getpid(), SIGKILL);
}

static void act_sigkill_thread(void)
{
	syscall(__NR_tgkill, sys_getpid(), sys_gettid(), SIGKILL);
}

static void act_core_dump(void)
{
	struct rlimit limit = { 1 << 20, 1 << 20 };

	setrlimit(RLIMIT_CORE, &limit);
	/* Shells start what runs in the background with SIGQUIT ignored. */
	signal(SIGQUIT, SIG_DFL);
	kill(sys_getpid(), SIGQUIT);
}

/* The leader only: the process goes on without it, until the caller ends it. */
static void act_exit_thread(void)
{
	if (!in_replica())
		store(&report->word[WORD_ACTED], 1);
	replica_thread_exit();
}

/*
 * Replicas end at once.  They may as well end by what the thread that acts
 * does in them: nobody looks at how.
 */
static void *fork_for_ever(void *arg)
{
	int status, after = 0;
	long pid;

	arrive((long)arg);
	while (!load(&report->word[SUBJECT_END])) {
		pid = full_fork(0);
		if (!pid)
			replica_exit(REPLICA_PASS);
		if (pid > 0) {
			add(&report->word[SUBJECT_FORKS], 1);
			waitpid(pid, &status, 0);
		} else if (pid != -race->error) {
			store(&report->word[SUBJECT_ERROR], -pid);
		}
		/* Some calls more after the leader has gone. */
		if (load(&report->word[WORD_ACTED]) && ++after > 3)
			break;
	}
	replica_exit(CODE_EXIT);
	return NULL;
}

static void act_after_delay(void)
{
	while (load(&report->word[SUBJECT_FORKS]) < 2)
		poll_pause();
	spin_us(delay_us);
	race->act();
}

static void *act_in_thread(void *arg)
{
	act_after_delay();
	return NULL;
}

static void run_subject(void)
{
	pthread_t thread;
	long i;

	for (i = 0; i < IDLE_THREADS; i++)
		if (pthread_create(&threads[i], NULL, pass_gate, (void *)i))
			replica_exit(1);
	if (pthread_create(&thread, NULL, fork_for_ever, (void *)i))
		replica_exit(1);
	if (race->act && !race->in_leader &&
	    pthread_create(&thread, NULL, act_in_thread, NULL))
		replica_exit(1);
	if (race->act && race->in_leader)
		act_after_delay();
	for (;;)
		pause();
}

static pid_t start_subject(struct __test_metadata *_metadata)
{
	memset(report->word, 0, sizeof(report->word));
	return start_process(_metadata, run_subject);
}

FIXTURE(ending)
{
};

FIXTURE_VARIANT(ending)
{
	struct race race;
};

FIXTURE_VARIANT_ADD(ending, by_exit_group_in_a_sibling) {
	{ .act = act_exit_group, .exit_code = CODE_EXIT },
};

FIXTURE_VARIANT_ADD(ending, by_exit_group_in_the_leader) {
	{ .act = act_exit_group, .exit_code = CODE_EXIT, .in_leader = true },
};

FIXTURE_VARIANT_ADD(ending, by_execve_in_a_sibling) {
	{ .act = act_exec, .exit_code = CODE_EXEC },
};

FIXTURE_VARIANT_ADD(ending, by_execve_in_the_leader) {
	{ .act = act_exec, .exit_code = CODE_EXEC, .in_leader = true },
};

FIXTURE_VARIANT_ADD(ending, by_sigkill_to_itself) {
	{ .act = act_sigkill, .end_signal = SIGKILL },
};

FIXTURE_VARIANT_ADD(ending, by_sigkill_to_one_thread) {
	{ .act = act_sigkill_thread, .end_signal = SIGKILL },
};

FIXTURE_VARIANT_ADD(ending, by_sigkill_from_outside) {
	{ .sig = SIGKILL, .end_signal = SIGKILL },
};

FIXTURE_VARIANT_ADD(ending, by_sigterm_from_outside) {
	{ .sig = SIGTERM, .end_signal = SIGTERM },
};

FIXTURE_VARIANT_ADD(ending, by_core_dump) {
	{ .act = act_core_dump, .end_signal = SIGQUIT },
};

FIXTURE_VARIANT_ADD(ending, in_part_by_exit_of_the_leader) {
	{
		.act = act_exit_thread, .error = EOPNOTSUPP,
		.exit_code = CODE_EXIT, .in_leader = true,
	},
};

FIXTURE_SETUP(ending)
{
	setup_threads(_metadata);
	race = &variant->race;
	/* A core file, where one is written, goes where it does not matter. */
	ASSERT_EQ(0, chdir("/tmp"));
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
}

FIXTURE_TEARDOWN(ending)
{
}

/*
 * The subject makes full forks without a pause, so a call is nearly always in
 * progress.  25 subjects, with delays of their ends that differ by 150 us,
 * reach from the marking of the threads through their copies to the release:
 * a call takes some hundred us on a real CPU and a few ms under emulation,
 * where what varies anyway is more than the step.  The order is mixed, so that
 * any seven in a row reach over all of it.
 */
TEST_F_GUARDED(ending, leaves_nothing_behind)
{
	struct rounds rounds = { .least = 7, .most = 25 };
	int status;
	pid_t pid;

	while (next_round(&rounds)) {
		delay_us = 150 * (rounds.nr * 7 % rounds.most);
		pid = start_subject(_metadata);
		if (race->sig) {
			ASSERT_TRUE(wait_until(load(&report->word[SUBJECT_FORKS]) >=
					       2, DEADLINE));
			spin_us(delay_us);
			ASSERT_EQ(0, kill(pid, race->sig));
		}
		status = xwaitpid(_metadata, pid, DEADLINE);
		if (race->end_signal) {
			ASSERT_TRUE(WIFSIGNALED(status));
			ASSERT_EQ(race->end_signal, WTERMSIG(status));
		} else {
			ASSERT_EQ(race->exit_code << 8, status);
		}
		ASSERT_EQ(0, load(&report->word[SUBJECT_ERROR]));
		ASSERT_TRUE(reap_all(DEADLINE));
	}
}

FIXTURE(stopping)
{
	pid_t subject;
};

FIXTURE_SETUP(stopping)
{
	static const struct race no_race = { .exit_code = CODE_EXIT };

	setup_threads(_metadata);
	race = &no_race;
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	self->subject = start_subject(_metadata);
	ASSERT_TRUE(wait_until(load(&report->word[SUBJECT_FORKS]), DEADLINE));
}

FIXTURE_TEARDOWN(stopping)
{
	kill(self->subject, SIGKILL);
}

/*
 * Each stop meets a call that marks, waits, copies or releases: a thread that
 * already handles a signal when it is marked stops before it looks for the
 * mark, others look first.  Without care in get_signal() two to four of 300
 * pairs wait for each other until the bound, so 100 pairs show it in most
 * runs; the stress test makes more.
 */
TEST_F_GUARDED(stopping, and_continuing_is_seen_once_each)
{
	struct rounds rounds = { .least = 10, .most = 100 };
	int status;

	while (next_round(&rounds)) {
		ASSERT_EQ(0, kill(self->subject, SIGSTOP));
		status = xwait(_metadata, self->subject, WUNTRACED, DEADLINE);
		ASSERT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
		ASSERT_EQ(0, waitpid(self->subject, &status,
				     WNOHANG | WUNTRACED));
		ASSERT_EQ(0, kill(self->subject, SIGCONT));
		status = xwait(_metadata, self->subject, WCONTINUED, DEADLINE);
		ASSERT_TRUE(WIFCONTINUED(status));
		ASSERT_EQ(0, waitpid(self->subject, &status,
				     WNOHANG | WCONTINUED));
	}
	end_subject(_metadata, self->subject, CODE_EXIT);
}

/* Here nobody waits for the stop, so that SIGCONT also comes before it is. */
TEST_F_GUARDED(stopping, and_continuing_at_once_goes_on)
{
	struct rounds rounds = { .least = 50, .most = 300 };

	while (next_round(&rounds)) {
		ASSERT_EQ(0, kill(self->subject, SIGSTOP));
		spin_us(10 * rounds.nr);
		ASSERT_EQ(0, kill(self->subject, SIGCONT));
	}
	end_subject(_metadata, self->subject, CODE_EXIT);
}

TEST_F_GUARDED(stopping, is_never_seen_without_a_signal)
{
	__u32 forks = load(&report->word[SUBJECT_FORKS]);
	int status;

	/* 50 calls, or as many as there are in that time. */
	wait_until(load(&report->word[SUBJECT_FORKS]) > forks + 50,
		   ROUNDS_SECONDS);
	ASSERT_LT(forks + 5, load(&report->word[SUBJECT_FORKS]));
	ASSERT_EQ(0, waitpid(self->subject, &status,
			     WNOHANG | WUNTRACED | WCONTINUED));
	end_subject(_metadata, self->subject, CODE_EXIT);
}

TEST_HARNESS_MAIN
