// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: cgroups, and their freezer
 */

#include "fullfork_cgroup.h"
#include "fullfork_sync.h"

enum {
	WORD_GO,
	WORD_PASSED,		/* threads of the replica that passed the gate */
};

static struct cgroup group;

/* What cgroup.events says, or -1. */
static int is_frozen(const char *sub)
{
	char text[256], *line;

	if (read_cgroup(&group, sub, "cgroup.events", text, sizeof(text)) < 0)
		return -1;
	line = strstr(text, "frozen ");
	return line ? atoi(line + 7) : -1;
}

static void set_freeze(struct __test_metadata *_metadata, const char *sub, int on)
{
	ASSERT_EQ(0, write_cgroup_number(&group, sub, "cgroup.freeze", on));
}

static void freeze_and_wait(struct __test_metadata *_metadata, const char *sub,
			    int on)
{
	set_freeze(_metadata, sub, on);
	ASSERT_TRUE(wait_until(is_frozen(sub) == on, DEADLINE))
	{
		TH_LOG("the group stays %s", on ? "awake" : "frozen");
		dump_group(getpgrp());
	}
}

static int see_threads(void *arg)
{
	open_own_gate();
	return join_threads(2);
}

static void run_subject(void)
{
	int status;
	long i, pid;

	await_word(&report->word[WORD_GO], 1);
	for (i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, pass_gate, (void *)i))
			_exit(1);
	while (load(&arrived) < 2)
		poll_pause();
	while (!load(&report->word[SUBJECT_END])) {
		pid = replica_main(full_fork(0), see_threads, NULL);
		if (pid < 0)
			store(&report->word[SUBJECT_ERROR], -pid);
		else if (waitpid(pid, &status, 0) != pid ||
			 status != REPLICA_PASS << 8)
			add(&report->failures, 1);
		add(&report->word[SUBJECT_FORKS], 1);
	}
	_exit(REPLICA_PASS);
}

FIXTURE(frozen)
{
	pid_t subject;
};

FIXTURE_SETUP(frozen)
{
	setup_threads(_metadata);
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	mount_cgroup(_metadata, &group, "cgroup2", NULL);
	self->subject = start_process(_metadata, run_subject);
	ASSERT_EQ(0, write_cgroup_number(&group, "", "cgroup.procs",
					 self->subject));
	set_word(&report->word[WORD_GO], 1);
	ASSERT_TRUE(wait_until(load(&report->word[SUBJECT_FORKS]), DEADLINE));
}

FIXTURE_TEARDOWN(frozen)
{
	write_cgroup(&group, "", "cgroup.kill", "1");
	write_cgroup(&group, "", "cgroup.freeze", "0");
	reap_all(5);
	umount_cgroup(_metadata, &group);
}

/*
 * Each freeze meets another moment of a call.  A thread that takes part has
 * to count as frozen, as the group would never be so otherwise, and the call
 * goes on when it thaws.  40 rounds, in a mixed order: each also freezes the
 * replica, if there is one, at another moment.
 */
TEST_F_GUARDED(frozen, and_thawed_process_goes_on)
{
	struct rounds rounds = { .least = 8, .most = 40 };

	while (next_round(&rounds)) {
		spin_us(100 * (rounds.nr * 11 % rounds.most));
		freeze_and_wait(_metadata, "", 1);
		freeze_and_wait(_metadata, "", 0);
	}
	end_subject(_metadata, self->subject, REPLICA_PASS);
}

TEST_F_GUARDED(frozen, process_does_nothing_until_it_is_thawed)
{
	__u32 forks;

	freeze_and_wait(_metadata, "", 1);
	forks = load(&report->word[SUBJECT_FORKS]);
	EXPECT_FALSE(wait_until(load(&report->word[SUBJECT_FORKS]) != forks, 1));
	freeze_and_wait(_metadata, "", 0);
	end_subject(_metadata, self->subject, REPLICA_PASS);
}

TEST_F_GUARDED(frozen, and_thawed_at_once_goes_on)
{
	struct rounds rounds = { .least = 40, .most = 200 };

	while (next_round(&rounds)) {
		set_freeze(_metadata, "", 1);
		spin_us(10 * rounds.nr);
		set_freeze(_metadata, "", 0);
	}
	ASSERT_TRUE(wait_until(is_frozen("") == 0, DEADLINE));
	end_subject(_metadata, self->subject, REPLICA_PASS);
}

/*
 * A stopped thread counts as frozen.  A replica of one must not, or the count
 * of the group goes wrong and it never looks frozen again.
 */
TEST_F_GUARDED(frozen, count_is_right_after_stops)
{
	struct rounds rounds = { .least = 6, .most = 30 };
	int status;

	while (next_round(&rounds)) {
		ASSERT_EQ(0, kill(self->subject, SIGSTOP));
		status = xwait(_metadata, self->subject, WUNTRACED, DEADLINE);
		ASSERT_TRUE(WIFSTOPPED(status));
		if (rounds.nr % 3 == 0)
			freeze_and_wait(_metadata, "", 1);
		ASSERT_EQ(0, kill(self->subject, SIGCONT));
		if (rounds.nr % 3 == 0)
			freeze_and_wait(_metadata, "", 0);
		spin_us(100 * rounds.nr);
	}
	freeze_and_wait(_metadata, "", 1);
	freeze_and_wait(_metadata, "", 0);
	end_subject(_metadata, self->subject, REPLICA_PASS);
}

TEST_F_GUARDED(frozen, process_can_be_killed)
{
	int i, status;

	for (i = 0; i < 3; i++) {
		freeze_and_wait(_metadata, "", 1);
		freeze_and_wait(_metadata, "", 0);
	}
	set_freeze(_metadata, "", 1);
	ASSERT_EQ(0, kill(self->subject, SIGKILL));
	status = xwaitpid(_metadata, self->subject, DEADLINE);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	set_freeze(_metadata, "", 0);
	EXPECT_TRUE(reap_all(DEADLINE));
}

/* Threads in cgroups of their own, below that of the process. */
FIXTURE(threaded)
{
};

static const char * const subs[] = { "/0", "/1", "/2" };
static char caller_group[1024];

static void own_group(char *text, size_t size)
{
	thread_check(read_file("/proc/thread-self/cgroup", text, size) > 0);
}

static void *live_in_group(void *arg)
{
	char before[1024], after[1024];
	const char *sub = subs[(long)arg];

	thread_check(!write_cgroup_number(&group, sub, "cgroup.threads",
					  sys_gettid()));
	own_group(before, sizeof(before));
	thread_check(strstr(before, sub));
	arrive((long)arg);
	pass_own_gate();
	if (in_replica())
		add(&report->word[WORD_PASSED], 1);
	own_group(after, sizeof(after));
	thread_check(!strcmp(before, after));
	return arg + 100;
}

static int see_three(void *arg)
{
	char text[1024];

	own_group(text, sizeof(text));
	side_assert_eq(0, strcmp(caller_group, text));
	open_own_gate();
	return join_threads(3);
}

FIXTURE_SETUP(threaded)
{
	int i;

	setup_threads(_metadata);
	mount_cgroup(_metadata, &group, "cgroup2", NULL);
	for (i = 0; i < 3; i++) {
		create_cgroup(_metadata, &group, subs[i]);
		ASSERT_EQ(0, write_cgroup(&group, subs[i], "cgroup.type",
					  "threaded"));
	}
	ASSERT_EQ(0, write_cgroup(&group, "", "cgroup.procs", "0"));
	own_group(caller_group, sizeof(caller_group));
	start_sleepers(_metadata, 3, live_in_group);
	ASSERT_EQ(0, load(&failed_line));
}

FIXTURE_TEARDOWN(threaded)
{
	int i;

	/* Out of it, so that it can be removed. */
	EXPECT_EQ(0, leave_cgroup(&group));
	for (i = 0; i < 3; i++) {
		write_cgroup(&group, subs[i], "cgroup.freeze", "0");
		remove_cgroup(_metadata, &group, subs[i]);
	}
	umount_cgroup(_metadata, &group);
}

TEST_F_GUARDED(threaded, cgroups_are_those_of_the_originals)
{
	run_in_both(_metadata, false, see_three);
}

/* One thread is frozen, the caller is not. */
TEST_F_GUARDED(threaded, frozen_sibling_is_copied_and_frozen)
{
	long pid;

	freeze_and_wait(_metadata, "/1", 1);
	pid = replica_main(full_fork(0), see_three, NULL);
	ASSERT_LT(0, pid)
	{
		TH_LOG("full fork: %s", strerror(-pid));
	}
	/* Two threads of the replica pass the gate and end; the third stays. */
	EXPECT_TRUE(wait_until(count_threads(pid) == 2, DEADLINE))
	{
		dump_process(pid);
	}
	EXPECT_FALSE(wait_until(count_threads(pid) != 2, 1));
	EXPECT_EQ(2, load(&report->word[WORD_PASSED]));
	EXPECT_EQ(1, is_frozen("/1"));
	freeze_and_wait(_metadata, "/1", 0);
	expect_pass(_metadata, pid);
	EXPECT_EQ(3, load(&report->word[WORD_PASSED]));
	/* The counts are right and the next call works. */
	freeze_and_wait(_metadata, "/1", 1);
	freeze_and_wait(_metadata, "/1", 0);
	run_in_both(_metadata, false, see_three);
}

/*
 * A thread in a cgroup of the first version, whose freezer is the one that
 * suspend has: a frozen thread cannot be woken.
 */
FIXTURE(legacy)
{
};

static bool is_state(const char *state)
{
	char text[32];

	return read_cgroup(&group, "", "freezer.state", text,
			   sizeof(text)) > 0 && !strcmp(text, state);
}

static void set_state(struct __test_metadata *_metadata, const char *state)
{
	ASSERT_EQ(0, write_cgroup(&group, "", "freezer.state", state));
	ASSERT_TRUE(wait_until(is_state(state), DEADLINE))
	{
		dump_process(getpid());
	}
}

FIXTURE_SETUP(legacy)
{
	setup_threads(_metadata);
	mount_cgroup(_metadata, &group, "cgroup", "freezer");
	start_sleepers(_metadata, 2, pass_gate);
	ASSERT_EQ(0, write_cgroup_number(&group, "", "tasks", tids[1]));
}

FIXTURE_TEARDOWN(legacy)
{
	set_bound(5);
	write_cgroup(&group, "", "freezer.state", "THAWED");
	umount_cgroup(_metadata, &group);
}

TEST_F_GUARDED(legacy, frozen_sibling_is_ebusy)
{
	struct census before;

	set_bound(1);
	set_state(_metadata, "FROZEN");
	before = take_census();
	EXPECT_EQ(-EBUSY, replica_main(full_fork(0), see_threads, NULL));
	expect_census(before);
	EXPECT_TRUE(is_state("FROZEN"));
	/* And everything goes on. */
	set_bound(5);
	set_state(_metadata, "THAWED");
	run_in_both(_metadata, false, see_threads);
}

TEST_HARNESS_MAIN
