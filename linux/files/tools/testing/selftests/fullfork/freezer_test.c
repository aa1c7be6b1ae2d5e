// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: cgroups, and their freezer
 */

#include "fullfork_sync.h"
#include <sys/mount.h>
#include <sys/stat.h>

enum {
	WORD_GO,
	WORD_END,
	WORD_FORKS,
	WORD_BAD_ERROR,
};

static char mount_point[64];
static char group[128];

static bool is_cgroup2(const char *path)
{
	char file[192];

	snprintf(file, sizeof(file), "%s/cgroup.controllers", path);
	return !access(file, R_OK);
}

static void group_file(char *path, size_t size, const char *sub,
		       const char *name)
{
	snprintf(path, size, "%s%s/%s", group, sub, name);
}

static int write_group(const char *sub, const char *name, const char *text)
{
	char path[192];

	group_file(path, sizeof(path), sub, name);
	return write_file(path, text);
}

static int write_group_number(const char *sub, const char *name, long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", number);
	return write_group(sub, name, text);
}

/* Makes a cgroup of the test's own; skips where it may not. */
static void create_group(struct __test_metadata *_metadata)
{
	const char *root = "/sys/fs/cgroup";

	if (!is_cgroup2(root)) {
		snprintf(mount_point, sizeof(mount_point), "/tmp/cgroup.XXXXXX");
		ASSERT_NE(NULL, mkdtemp(mount_point));
		root = mount_point;
		if (mount("cgroup2", root, "cgroup2", 0, NULL)) {
			rmdir(mount_point);
			SKIP(_exit(0), "may not mount cgroup2");
		}
	}
	snprintf(group, sizeof(group), "%s/fullfork.%d", root, getpid());
	if (mkdir(group, 0755)) {
		group[0] = '\0';
		SKIP(_exit(0), "may not make a cgroup");
	}
}

static void remove_group(void)
{
	static const char * const subs[] = { "/0", "/1", "/2", "" };
	char path[192];
	int i;

	for (i = 0; i < ARRAY_SIZE(subs); i++) {
		snprintf(path, sizeof(path), "%s%s", group, subs[i]);
		wait_until(!rmdir(path) || errno != EBUSY, 5);
	}
	if (mount_point[0]) {
		umount2(mount_point, MNT_DETACH);
		rmdir(mount_point);
	}
}

/* What cgroup.events says, or -1. */
static int is_frozen(const char *sub)
{
	char path[192], text[256], *line;

	group_file(path, sizeof(path), sub, "cgroup.events");
	if (read_file(path, text, sizeof(text)) < 0)
		return -1;
	line = strstr(text, "frozen ");
	return line ? atoi(line + 7) : -1;
}

static void set_freeze(struct __test_metadata *_metadata, const char *sub, int on)
{
	ASSERT_EQ(0, write_group_number(sub, "cgroup.freeze", on));
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

static __noreturn void run_subject(void)
{
	int status;
	long i, pid;

	original_pid = sys_getpid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	await_word(&report->word[WORD_GO], 1);
	for (i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, pass_gate, (void *)i))
			_exit(1);
	while (load(&arrived) < 2)
		poll_pause();
	while (!load(&report->word[WORD_END])) {
		pid = replica_main(full_fork(0), see_threads, NULL);
		if (pid < 0)
			store(&report->word[WORD_BAD_ERROR], -pid);
		else if (waitpid(pid, &status, 0) != pid ||
			 status != REPLICA_PASS << 8)
			add(&report->failures, 1);
		add(&report->word[WORD_FORKS], 1);
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
	create_group(_metadata);
	self->subject = fork();
	ASSERT_LE(0, self->subject);
	if (!self->subject)
		run_subject();
	ASSERT_EQ(0, write_group_number("", "cgroup.procs", self->subject));
	set_word(&report->word[WORD_GO], 1);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FORKS]), DEADLINE));
}

FIXTURE_TEARDOWN(frozen)
{
	write_group("", "cgroup.kill", "1");
	write_group("", "cgroup.freeze", "0");
	reap_all(5);
	remove_group();
}

static void end_subject(struct __test_metadata *_metadata, pid_t pid)
{
	__u32 forks = load(&report->word[WORD_FORKS]);

	ASSERT_TRUE(wait_until(load(&report->word[WORD_FORKS]) > forks + 2,
			       DEADLINE));
	EXPECT_EQ(0, load(&report->word[WORD_BAD_ERROR]))
	{
		TH_LOG("a full fork failed: %s",
		       strerror(load(&report->word[WORD_BAD_ERROR])));
	}
	EXPECT_EQ(0, load(&report->failures))
	{
		TH_LOG("%s", report->failure);
	}
	store(&report->word[WORD_END], 1);
	EXPECT_EQ(REPLICA_PASS << 8, xwaitpid(_metadata, pid, DEADLINE));
	EXPECT_TRUE(reap_all(DEADLINE));
}

/*
 * Each freeze meets another moment of a call.  A thread that takes part has
 * to count as frozen, as the group would never be so otherwise, and the call
 * goes on when it thaws.  40 rounds: each also freezes the replica, if there
 * is one, at another moment.
 */
TEST_F_GUARDED(frozen, and_thawed_process_goes_on)
{
	int i;

	for (i = 0; i < 40; i++) {
		spin_us(100 * i);
		freeze_and_wait(_metadata, "", 1);
		freeze_and_wait(_metadata, "", 0);
	}
	end_subject(_metadata, self->subject);
}

TEST_F_GUARDED(frozen, process_does_nothing_until_it_is_thawed)
{
	__u32 forks;

	freeze_and_wait(_metadata, "", 1);
	forks = load(&report->word[WORD_FORKS]);
	poll_pause();
	EXPECT_EQ(forks, load(&report->word[WORD_FORKS]));
	freeze_and_wait(_metadata, "", 0);
	end_subject(_metadata, self->subject);
}

TEST_F_GUARDED(frozen, and_thawed_at_once_goes_on)
{
	int i;

	for (i = 0; i < 200; i++) {
		set_freeze(_metadata, "", 1);
		spin_us(10 * i);
		set_freeze(_metadata, "", 0);
	}
	ASSERT_TRUE(wait_until(is_frozen("") == 0, DEADLINE));
	end_subject(_metadata, self->subject);
}

/*
 * A stopped thread counts as frozen.  A replica of one must not, or the count
 * of the group goes wrong and it never looks frozen again.
 */
TEST_F_GUARDED(frozen, count_is_right_after_stops)
{
	int status, i;

	for (i = 0; i < 30; i++) {
		ASSERT_EQ(0, kill(self->subject, SIGSTOP));
		status = xwait(_metadata, self->subject, WUNTRACED, DEADLINE);
		ASSERT_TRUE(WIFSTOPPED(status));
		if (i % 3 == 0)
			freeze_and_wait(_metadata, "", 1);
		ASSERT_EQ(0, kill(self->subject, SIGCONT));
		if (i % 3 == 0)
			freeze_and_wait(_metadata, "", 0);
		spin_us(100 * i);
	}
	freeze_and_wait(_metadata, "", 1);
	freeze_and_wait(_metadata, "", 0);
	end_subject(_metadata, self->subject);
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

static void own_group(char *text, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/cgroup", sys_gettid());
	thread_check(read_file(path, text, size) > 0);
}

static void *live_in_group(void *arg)
{
	char before[512], after[512], sub[8];

	snprintf(sub, sizeof(sub), "/%ld", (long)arg);
	thread_check(!write_group_number(sub, "cgroup.threads", sys_gettid()));
	own_group(before, sizeof(before));
	thread_check(strstr(before, sub));
	arrive((long)arg);
	pass_own_gate();
	own_group(after, sizeof(after));
	thread_check(!strcmp(before, after));
	return arg + 100;
}

static int see_three(void *arg)
{
	open_own_gate();
	return join_threads(3);
}

FIXTURE_SETUP(threaded)
{
	char path[192], sub[8];
	int i;

	setup_threads(_metadata);
	create_group(_metadata);
	for (i = 0; i < 3; i++) {
		snprintf(sub, sizeof(sub), "/%d", i);
		snprintf(path, sizeof(path), "%s%s", group, sub);
		ASSERT_EQ(0, mkdir(path, 0755));
		ASSERT_EQ(0, write_group(sub, "cgroup.type", "threaded"));
	}
	ASSERT_EQ(0, write_group_number("", "cgroup.procs", getpid()));
	start_sleepers(_metadata, 3, live_in_group);
	ASSERT_EQ(0, load(&failed_line));
}

FIXTURE_TEARDOWN(threaded)
{
	char root[160];

	/* Out of it, so that it can be removed. */
	snprintf(root, sizeof(root), "%s/../cgroup.procs", group);
	write_file(root, "0");
	remove_group();
}

TEST_F_GUARDED(threaded, cgroups_are_those_of_the_originals)
{
	struct step step = { .fn = see_three };

	fork_in_thread(&step);
	ASSERT_LT(0, step.pid);
	expect_pass(_metadata, step.pid);
	EXPECT_EQ(REPLICA_PASS, see_three(NULL));
}

/*
 * One thread is frozen, the caller is not: the call either copies it as it
 * is, or says EBUSY when the bound is over.  Nothing is left of that.
 */
TEST_F_GUARDED(threaded, frozen_sibling_is_ebusy_or_copied)
{
	struct census before;
	int status;
	long pid;

	set_bound(1);
	freeze_and_wait(_metadata, "/1", 1);
	before = take_census();
	pid = replica_main(full_fork(0), see_three, NULL);
	if (pid < 0) {
		EXPECT_EQ(-EBUSY, pid);
		expect_census(before);
	}
	freeze_and_wait(_metadata, "/1", 0);
	if (pid > 0) {
		status = xwaitpid(_metadata, pid, DEADLINE);
		EXPECT_EQ(REPLICA_PASS << 8, status);
	}
	/* The counts are right and the next call works. */
	freeze_and_wait(_metadata, "/1", 1);
	freeze_and_wait(_metadata, "/1", 0);
	pid = replica_main(full_fork(0), see_three, NULL);
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	set_bound(5);
	EXPECT_EQ(REPLICA_PASS, see_three(NULL));
}

TEST_HARNESS_MAIN
