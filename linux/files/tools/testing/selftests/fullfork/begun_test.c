// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a thread that is quiesced long before the call goes on
 *
 * One thread sleeps, and is quiesced at once.  Another one waits in vfork(), and
 * is quiesced when its child ends.
 */
#include "fullfork_threads.h"
#include <sys/resource.h>

#define STACK_SIZE 16384
/* An ID that no other process has, as RLIMIT_NPROC counts all of a user. */
#define LONELY_ID 54377
#define NICE 7
#define SLACK 123456

/* Words of the report */
enum {
	WORD_CHILD,		/* of the vfork() */
	WORD_RELEASE,
};

static char child_stack[STACK_SIZE];
static pthread_t sleeper, vforker;
static pid_t sleeper_tid, vforker_tid;
static __u32 gate;
static bool as_changed;

static bool is_as_changed(void)
{
	cpu_set_t set;

	return getpriority(PRIO_PROCESS, 0) == NICE &&
	       prctl(PR_GET_TIMERSLACK) == SLACK &&
	       !sched_getaffinity(0, sizeof(set), &set) &&
	       CPU_COUNT(&set) == 1 && CPU_ISSET(0, &set);
}

static void *sleep_at_gate(void *unused)
{
	sleeper_tid = sys_gettid();
	while (!load(&gate))
		futex_wait(&gate, 0, FUTEX_PRIVATE_FLAG, -1);
	as_changed = is_as_changed();
	return NULL;
}

static int wait_in_vfork(void *unused)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	store(&report->word[WORD_CHILD], 1);
	await_word(&report->word[WORD_RELEASE], 1);
	_exit(0);
}

static void *vfork_and_wait(void *unused)
{
	pid_t pid;

	vforker_tid = sys_gettid();
	pid = clone(wait_in_vfork, child_stack + STACK_SIZE,
		    CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return NULL;
}

FIXTURE(begun) {
};

FIXTURE_SETUP(begun)
{
	setup_threads(_metadata);
}

FIXTURE_TEARDOWN(begun)
{
	set_word(&report->word[WORD_RELEASE], 1);
	store(&gate, 1);
	futex_wake(&gate, INT_MAX, FUTEX_PRIVATE_FLAG);
	EXPECT_EQ(0, pthread_join(sleeper, NULL));
	EXPECT_EQ(0, pthread_join(vforker, NULL));
}

static void start_both(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, pthread_create(&sleeper, NULL, sleep_at_gate, NULL));
	ASSERT_EQ(0, pthread_create(&vforker, NULL, vfork_and_wait, NULL));
	ASSERT_TRUE(wait_until(load(&report->word[WORD_CHILD]) && sleeper_tid &&
			       task_state(getpid(), vforker_tid) == 'D', DEADLINE));
	ASSERT_TRUE(wait_blocked(sleeper_tid, __NR_futex));
}

/* It waits for the call then, and what it does for its replica alone is done. */
static bool is_quiesced(void)
{
	return task_state(original_pid, sleeper_tid) == 'D';
}

static int write_slack(void)
{
	char path[64], text[16];

	snprintf(path, sizeof(path), "/proc/%d/timerslack_ns", sleeper_tid);
	snprintf(text, sizeof(text), "%d", SLACK);
	return write_file(path, text);
}

/* From outside, between the first and the last thread. */
static void change_sleeper(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	if (!wait_until(is_quiesced(), DEADLINE) ||
	    setpriority(PRIO_PROCESS, sleeper_tid, NICE) || write_slack() ||
	    sched_setaffinity(sleeper_tid, sizeof(set), &set))
		_exit(1);
	set_word(&report->word[WORD_RELEASE], 1);
}

static int look_at_sleeper(void *unused)
{
	store(&gate, 1);
	futex_wake(&gate, INT_MAX, FUTEX_PRIVATE_FLAG);
	replica_assert_eq(0, pthread_join(sleeper, NULL));
	replica_assert(as_changed);
	return REPLICA_PASS;
}

TEST_F_GUARDED(begun, has_what_others_change_meanwhile)
{
	pid_t changer;
	int status;

	start_both(_metadata);
	changer = fork();
	ASSERT_LE(0, changer);
	if (!changer) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		change_sleeper();
		_exit(0);
	}
	fork_and_pass(_metadata, 0, look_at_sleeper, NULL);
	status = xwaitpid(_metadata, changer, DEADLINE);
	EXPECT_TRUE(WIFEXITED(status) && !WEXITSTATUS(status));
}

/*
 * The call fails with the sleeper ready.  Where anything were left of its replica,
 * the fork afterwards would find the user over the limit.
 */
TEST_F_GUARDED(begun, leaves_no_charge_when_the_call_fails)
{
	struct rlimit rlim = { 4 + 1, 4 + 1 };
	pid_t pid;

	ASSERT_EQ(0, setresuid(LONELY_ID, LONELY_ID, LONELY_ID));
	/* Lets it read its own /proc files again. */
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
	start_both(_metadata);
	ASSERT_EQ(0, setrlimit(RLIMIT_NPROC, &rlim));
	EXPECT_EQ(-EBUSY, full_fork(0));
	pid = fork();
	if (!pid)
		_exit(REPLICA_PASS);
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	/* There is no room for a second one: the limit is what it seems to be. */
	rlim.rlim_cur = 4;
	ASSERT_EQ(0, setrlimit(RLIMIT_NPROC, &rlim));
	EXPECT_EQ(-1, fork());
}

TEST_HARNESS_MAIN
