// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a traced process
 *
 * The test traces a subject process, which makes full forks when it is told.
 */

#include "fullfork_sync.h"
#include <sys/ptrace.h>

enum {
	WORD_COMMAND,		/* how many full forks, added up */
	WORD_DONE,		/* how many it has made */
	WORD_READY,
	WORD_SPINNER,		/* TIDs */
	WORD_SLEEPER,
	WORD_ERROR,		/* of the last full fork */
	WORD_FAILED,
	WORD_TRACED,		/* the replicas are, too */
};

static __u32 spins;

static void *spin_and_count(void *arg)
{
	store(&report->word[WORD_SPINNER], sys_gettid());
	arrive((long)arg);
	for (;;)
		add(&spins, 1);
	return NULL;
}

static bool is_traced(pid_t pid, pid_t tid)
{
	char tracer[16];

	return read_status_field(pid, tid, "TracerPid", tracer,
				 sizeof(tracer)) && atoi(tracer) > 0;
}

/* Nobody steps the replica of a thread, nor stops it. */
static int see_spinner_run(void *arg)
{
	__u32 before = load(&spins);

	replica_assert(wait_until(load(&spins) - before > 1000, DEADLINE / 2));
	if (!load(&report->word[WORD_TRACED]))
		replica_assert_eq(0, count_tasks(sys_getpid(), is_traced));
	open_own_gate();
	replica_assert_eq(0, pthread_join(threads[1], NULL));
	return REPLICA_PASS;
}

/* No exit signal: a traced process stops for a SIGCHLD as well. */
static void fork_and_report(void)
{
	struct fullfork_args args = { .flags = CLONE_ALL_THREADS };
	struct census before = take_census(), after;
	int status = 0;
	long pid;

	pid = replica_main(sys_clone3(&args, sizeof(args)), see_spinner_run,
			   NULL);
	store(&report->word[WORD_ERROR], pid > 0 ? 0 : -pid);
	if (pid > 0 && (waitpid(pid, &status, __WALL) != pid ||
			status != REPLICA_PASS << 8))
		add(&report->word[WORD_FAILED], 1);
	after = take_census();
	if (memcmp(&before, &after, sizeof(before)))
		add(&report->word[WORD_FAILED], 1);
	add(&report->word[WORD_DONE], 1);
}

static void run_subject(void)
{
	if (pthread_create(&threads[0], NULL, spin_and_count, (void *)0) ||
	    pthread_create(&threads[1], NULL, pass_gate, (void *)1))
		_exit(1);
	wait_until(load(&arrived) == 2 && is_sleeping(getpid(), tids[1]),
		   DEADLINE);
	store(&report->word[WORD_SLEEPER], tids[1]);
	set_word(&report->word[WORD_READY], 1);
	for (;;) {
		while (load(&report->word[WORD_COMMAND]) ==
		       load(&report->word[WORD_DONE]))
			poll_pause();
		fork_and_report();
	}
}

FIXTURE(traced)
{
	pid_t subject;
	pid_t spinner;
	pid_t sleeper;
};

FIXTURE_SETUP(traced)
{
	setup_threads(_metadata);
	self->subject = start_process(_metadata, run_subject);
	ASSERT_TRUE(wait_word(&report->word[WORD_READY], 0));
	self->spinner = load(&report->word[WORD_SPINNER]);
	self->sleeper = load(&report->word[WORD_SLEEPER]);
}

FIXTURE_TEARDOWN(traced)
{
	set_bound(5);
	kill(self->subject, SIGKILL);
}

static void command(__u32 forks)
{
	add(&report->word[WORD_COMMAND], forks);
}

static bool is_done(void)
{
	return load(&report->word[WORD_COMMAND]) ==
	       load(&report->word[WORD_DONE]);
}

static void expect_done(struct __test_metadata *_metadata)
{
	EXPECT_TRUE(wait_until(is_done(), DEADLINE))
	{
		dump_group(getpgrp());
	}
	EXPECT_EQ(0, load(&report->word[WORD_FAILED]))
	{
		TH_LOG("%s", report->failure);
	}
}

static void seize(struct __test_metadata *_metadata, pid_t tid, long options)
{
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, tid, 0, options))
	{
		TH_LOG("PTRACE_SEIZE: %s", strerror(errno));
	}
}

static int wait_stop(struct __test_metadata *_metadata, pid_t tid)
{
	int status = xwait(_metadata, tid, 0, DEADLINE);

	ASSERT_TRUE(WIFSTOPPED(status))
	{
		TH_LOG("status 0x%x", status);
	}
	return status;
}

TEST_F_GUARDED(traced, runs_on_and_nothing_is_reported)
{
	int status;

	seize(_metadata, self->subject, 0);
	seize(_metadata, self->spinner, 0);
	seize(_metadata, self->sleeper, 0);
	command(10);
	expect_done(_metadata);
	EXPECT_EQ(0, waitpid(self->subject, &status, WNOHANG | __WALL));
	EXPECT_EQ(0, waitpid(self->spinner, &status, WNOHANG | __WALL));
	EXPECT_EQ(0, waitpid(self->sleeper, &status, WNOHANG | __WALL));
}

/*
 * Lets all that stops go on; returns the number of events that tell of a new
 * process.
 */
static int handle_stops(struct __test_metadata *_metadata, pid_t subject)
{
	int status, event, events = 0;
	unsigned long msg = 0;
	pid_t tid;

	while ((tid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		if (!WIFSTOPPED(status))
			continue;
		event = status >> 16;
		if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_CLONE ||
		    event == PTRACE_EVENT_VFORK) {
			EXPECT_EQ(subject, tid);
			EXPECT_EQ(0, ptrace(PTRACE_GETEVENTMSG, tid, 0, &msg));
			EXPECT_LT(0, msg);
			events++;
		}
		ptrace(PTRACE_CONT, tid, 0,
		       event || WSTOPSIG(status) == SIGSTOP ||
		       WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status));
	}
	return events;
}

TEST_F_GUARDED(traced, reports_one_new_process_where_it_was_asked_to)
{
	const long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE |
			     PTRACE_O_TRACEVFORK;
	int events = 0;

	store(&report->word[WORD_TRACED], 1);
	seize(_metadata, self->subject, options);
	seize(_metadata, self->spinner, options);
	seize(_metadata, self->sleeper, options);
	command(5);
	EXPECT_TRUE(wait_until((events += handle_stops(_metadata,
						       self->subject),
				is_done()), DEADLINE))
	{
		dump_group(getpgrp());
	}
	EXPECT_EQ(0, load(&report->word[WORD_FAILED]))
	{
		TH_LOG("%s", report->failure);
	}
	EXPECT_EQ(5, events);
}

/* Only its tracer can let it go on, so it is waited for, but not for ever. */
TEST_F_GUARDED(traced, thread_that_stays_stopped_is_ebusy)
{
	long bound = set_bound(1);
	long long start;

	seize(_metadata, self->sleeper, 0);
	ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, self->sleeper, 0, 0));
	wait_stop(_metadata, self->sleeper);
	start = now_ms();
	command(1);
	expect_done(_metadata);
	EXPECT_EQ(EBUSY, load(&report->word[WORD_ERROR]));
	EXPECT_LE(bound, now_ms() - start + 10);
	ASSERT_EQ(0, ptrace(PTRACE_CONT, self->sleeper, 0, 0));
	command(1);
	expect_done(_metadata);
	EXPECT_EQ(0, load(&report->word[WORD_ERROR]));
}

TEST_F_GUARDED(traced, thread_that_is_stopped_for_a_moment_is_waited_for)
{
	set_bound(20);
	seize(_metadata, self->sleeper, 0);
	ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, self->sleeper, 0, 0));
	wait_stop(_metadata, self->sleeper);
	command(1);
	ASSERT_TRUE(wait_until(task_syscall(self->subject, self->subject) ==
			       __NR_clone3, DEADLINE));
	ASSERT_EQ(0, ptrace(PTRACE_CONT, self->sleeper, 0, 0));
	expect_done(_metadata);
	EXPECT_EQ(0, load(&report->word[WORD_ERROR]));
}

/* The trap flag must not get into a replica that nobody traces. */
TEST_F_GUARDED(traced, thread_that_is_single_stepped_is_copied_running)
{
	long steps = 0;
	int status;

	seize(_metadata, self->spinner, 0);
	ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, self->spinner, 0, 0));
	wait_stop(_metadata, self->spinner);
	command(5);
	while (!is_done() || steps < 100) {
		ASSERT_EQ(0, ptrace(PTRACE_SINGLESTEP, self->spinner, 0, 0));
		status = wait_stop(_metadata, self->spinner);
		ASSERT_EQ(SIGTRAP, WSTOPSIG(status));
		steps++;
	}
	expect_done(_metadata);
	EXPECT_EQ(0, load(&report->word[WORD_ERROR]));
}

/* Each of the stops meets some other moment of the calls. */
TEST_F_GUARDED(traced, thread_is_attached_and_detached_all_the_time)
{
	struct rounds rounds = { .least = 5, .most = 20 };

	while (next_round(&rounds)) {
		command(1);
		do {
			seize(_metadata, self->spinner, 0);
			ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, self->spinner, 0,
					    0));
			wait_stop(_metadata, self->spinner);
			ASSERT_EQ(0, ptrace(PTRACE_DETACH, self->spinner, 0,
					    0));
		} while (!is_done());
	}
	expect_done(_metadata);
	EXPECT_EQ(0, load(&report->word[WORD_ERROR]));
}

TEST_HARNESS_MAIN
