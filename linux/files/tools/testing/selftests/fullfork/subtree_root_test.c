// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: trees whose root ends while a manager copies them
 */

#include "fullfork_manager.h"

#define CODE_CHILD 6

/* Longer than any call takes */
#define LONG_US (DEADLINE * 1000000L)

/* Words of the report */
enum {
	WORD_READY,
};

static __attribute__((constructor)) void exec_again_or_exit(void)
{
	exec_again(CODE_CHILD);
}

/* A root that is only there for some time */
FIXTURE(root)
{
};

FIXTURE_VARIANT(root)
{
	bool is_killed;
	bool execs;
};

FIXTURE_VARIANT_ADD(root, that_exits) {
};

FIXTURE_VARIANT_ADD(root, that_is_killed) {
	.is_killed = true,
};

FIXTURE_VARIANT_ADD(root, that_execs_and_exits) {
	.execs = true,
};

FIXTURE_SETUP(root)
{
	setup_manager(_metadata);
	ASSERT_EQ(0, change_bound(60));
	ASSERT_EQ(0, setenv("FULLFORK_TEST_EXECS", "3", 1));
}

FIXTURE_TEARDOWN(root)
{
	teardown_manager(_metadata);
}

static void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return NULL;
}

static __noreturn void run_short_root(long delay_us, bool is_killed, bool execs)
{
	pthread_t thread;
	pid_t pid;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = 0; i < 2; i++) {
		pid = fork();
		side_assert(pid >= 0);
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			sleep_for_ever(NULL);
		}
		side_assert_eq(0, pthread_create(&thread, NULL, sleep_for_ever,
						 NULL));
	}
	add(&report->word[WORD_READY], 1);
	spin_us(delay_us);
	if (is_killed)
		kill(sys_getpid(), SIGKILL);
	if (execs)
		execl("/proc/self/exe", "fullfork", NULL);
	_exit(CODE_CHILD);
}

static pid_t start_short_root(struct __test_metadata *_metadata, long delay_us,
			      bool is_killed, bool execs)
{
	pid_t pid;

	store(&report->word[WORD_READY], 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		run_short_root(delay_us, is_killed, execs);
	keep(pid);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_READY]), DEADLINE));
	return pid;
}

/*
 * 40 roots, each ends somewhat later than the one before, counted from just
 * before the first of three calls: from the first moment of the first to the
 * middle of the last.
 */
TEST_F_GUARDED(root, that_ends_is_copied_or_gone)
{
	int i, k, pidfd, copied = 0;
	long pid, call_us;
	pid_t root;

	root = start_short_root(_metadata, LONG_US, variant->is_killed,
				variant->execs);
	pidfd = sys_pidfd_open(root);
	call_us = time_copy(_metadata, pidfd);
	ASSERT_EQ(0, close(pidfd));
	ASSERT_TRUE(end_kept(root));

	for (i = 0; i < 40 && !_metadata->exit_code; i++) {
		root = start_short_root(_metadata, call_us * i / 16,
					variant->is_killed, variant->execs);
		pidfd = sys_pidfd_open(root);
		ASSERT_LE(0, pidfd);
		for (k = 0; k < 3; k++) {
			pid = copy_from(pidfd, WHOLE_TREE | CLONE_STOPPED);
			EXPECT_TRUE(pid > 0 || pid == -ESRCH)
			{
				TH_LOG("%s", strerror(-pid));
			}
			copied += pid > 0;
		}
		EXPECT_TRUE(wait_pidfd(pidfd, DEADLINE))
		{
			dump_process(root);
		}
		EXPECT_EQ(-ESRCH, copy_from(pidfd, WHOLE_TREE));
		ASSERT_EQ(0, close(pidfd));
		EXPECT_TRUE(end_kept(root));
	}
	/* Both happen: the first are gone soon, the last are there for long. */
	EXPECT_LT(0, copied);
}

TEST_HARNESS_MAIN
