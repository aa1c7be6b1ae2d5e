// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a member of a tree that cannot be brought to the point
 * where it can be copied
 *
 * One thread of the last of three processes meets an obstacle.  The call waits
 * for it, but not for ever, and others go on afterwards.
 */

#include "fullfork_answers.h"
#include "fullfork_fuse.h"
#include <sys/ptrace.h>

#define STACK_SIZE 16384

/* Words of the report */
enum {
	WORD_THREAD,		/* TID of the thread that meets it */
	WORD_ENTER,		/* 1: it is to, 2: it is through */
	WORD_CHILD,		/* of a vfork() */
	WORD_RELEASE,
	WORD_RESULT,		/* of stat() */
	WORD_CALLING,
};

struct obstacle {
	/* Run by the thread; returns when the obstacle is gone. */
	void (*meet)(void);
	/* Run by the test: brings it about, waits until it is met, removes it. */
	bool (*prepare)(pid_t tid);
	void (*clear)(pid_t tid);
	/* Whom to kill to get rid of it. */
	pid_t (*victim)(void);
	/* Who is killed is gone only when the obstacle is. */
	bool dies_later;
	bool needs_fuse;
};

static char child_stack[STACK_SIZE];

static int wait_in_vfork(void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	store(&report->word[WORD_CHILD], sys_getpid());
	await_word(&report->word[WORD_RELEASE], 1);
	_exit(0);
}

static void vfork_and_wait(void)
{
	pid_t pid = clone(wait_in_vfork, child_stack + STACK_SIZE,
			  CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);

	side_assert(pid > 0);
	waitpid(pid, NULL, 0);
}

static bool is_in_vfork(pid_t tid)
{
	return wait_until(load(&report->word[WORD_CHILD]) &&
			  task_state(pid_of(2), tid) == 'D', DEADLINE);
}

static void release_vfork(pid_t tid)
{
	set_word(&report->word[WORD_RELEASE], 1);
}

static pid_t vfork_child(void)
{
	return load(&report->word[WORD_CHILD]);
}

static const struct obstacle in_vfork = {
	.meet = vfork_and_wait,
	.prepare = is_in_vfork,
	.clear = release_vfork,
	.victim = vfork_child,
};

static void ask_server(void)
{
	store(&report->word[WORD_RESULT], stat_file());
}

static bool server_has_request(pid_t tid)
{
	return wait_request();
}

static bool server_has_read_request(pid_t tid)
{
	const struct fuse_in_header *in = wait_request() ? read_request() :
					  NULL;

	return in && in->opcode == FUSE_LOOKUP;
}

static void let_server_answer(pid_t tid)
{
	refuse_requests();
}

static void end_server(pid_t tid)
{
	unmount_fuse();
}

static pid_t last_process(void)
{
	return pid_of(2);
}

static const struct obstacle in_fuse = {
	.meet = ask_server,
	.prepare = server_has_request,
	.clear = let_server_answer,
	.victim = last_process,
	.needs_fuse = true,
};

/* Once the server has it, not even SIGKILL ends the wait for the answer. */
static const struct obstacle in_fuse_unkillably = {
	.meet = ask_server,
	.prepare = server_has_read_request,
	.clear = end_server,
	.victim = last_process,
	.dies_later = true,
	.needs_fuse = true,
};

static void sleep_until_released(void)
{
	await_word(&report->word[WORD_RELEASE], 1);
}

static bool trace_and_stop(pid_t tid)
{
	int status;

	return !ptrace(PTRACE_SEIZE, tid, 0, 0) &&
	       !ptrace(PTRACE_INTERRUPT, tid, 0, 0) &&
	       waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status);
}

/* Or buries it, which only its tracer can. */
static void stop_tracing(pid_t tid)
{
	ptrace(PTRACE_DETACH, tid, 0, 0);
	wait_until(waitpid(tid, NULL, WNOHANG | __WALL), DEADLINE);
	set_word(&report->word[WORD_RELEASE], 1);
}

static const struct obstacle in_ptrace_stop = {
	.meet = sleep_until_released,
	.prepare = trace_and_stop,
	.clear = stop_tracing,
	.victim = last_process,
	.dies_later = true,
};

static const struct obstacle *obstacle;

/* A replica has seen the same words, but it is not told. */
static void *meet_obstacles(void *arg)
{
	store(&report->word[WORD_THREAD], sys_gettid());
	for (;;) {
		await_word(&report->word[WORD_ENTER], 1);
		if (!in_replica())
			obstacle->meet();
		while (in_replica())
			pause();
		set_word(&report->word[WORD_ENTER], 2);
	}
	return NULL;
}

static void start_obstacle_thread(int number)
{
	pthread_t thread;

	side_assert_eq(0, pthread_create(&thread, NULL, meet_obstacles, NULL));
}

static void leave_fuse(int number)
{
	leave_fuse_to_server();
}

static const struct plan chain[] = {
	{ .threads = 1, .caller = 1, .before = leave_fuse },
	{ .parent = 0, .threads = 1 },
	{ .parent = 1, .threads = 1, .become = start_obstacle_thread },
};

#define CHAIN_TASKS 6

FIXTURE(member)
{
	int pidfd;
	int processes;
	pid_t thread;
};

FIXTURE_VARIANT(member)
{
	const struct obstacle *obstacle;
};

FIXTURE_VARIANT_ADD(member, in_vfork) { .obstacle = &in_vfork };
FIXTURE_VARIANT_ADD(member, that_waits_for_fuse) { .obstacle = &in_fuse };
FIXTURE_VARIANT_ADD(member, that_waits_for_fuse_unkillably) {
	.obstacle = &in_fuse_unkillably,
};

FIXTURE_VARIANT_ADD(member, in_ptrace_stop) { .obstacle = &in_ptrace_stop };

FIXTURE_SETUP(member)
{
	setup_manager(_metadata);
	obstacle = variant->obstacle;
	if (obstacle->needs_fuse)
		mount_fuse(_metadata);
	start_tree(_metadata, chain, ARRAY_SIZE(chain), RELATION_CHILD);
	self->pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, self->pidfd);
	/* It was started, but may not have come so far. */
	ASSERT_TRUE(wait_word(&report->word[WORD_THREAD], 0));
	self->thread = load(&report->word[WORD_THREAD]);
	set_word(&report->word[WORD_ENTER], 1);
	ASSERT_TRUE(obstacle->prepare(self->thread))
	{
		dump_listed(list_below(getpid()));
	}
	self->processes = list_below(getpid());
}

FIXTURE_TEARDOWN(member)
{
	obstacle->clear(self->thread);
	unmount_fuse();
	teardown_manager(_metadata);
}

static void expect_all_go_on(struct __test_metadata *_metadata, int processes)
{
	EXPECT_EQ(0, list_others());
	EXPECT_EQ(processes, list_below(getpid()));
	EXPECT_TRUE(originals_answer());
	EXPECT_EQ(0, load(&report->word[WORD_EINTRS]));
}

#define clear_obstacle()						\
do {									\
	obstacle->clear(self->thread);					\
	ASSERT_TRUE(wait_until(load(&report->word[WORD_ENTER]) == 2,	\
			       DEADLINE))				\
	{								\
		dump_process(pid_of(2));				\
	}								\
} while (0)

static void expect_copy(struct __test_metadata *_metadata, int pidfd)
{
	long pid = copy_with_map(pidfd, WHOLE_TREE, MAP_ENTRIES);

	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_EQ(CHAIN_TASKS + 1, map_length());
	EXPECT_TRUE(replicas_answer());
	EXPECT_TRUE(end_others());
	EXPECT_TRUE(originals_answer());
}

/* By a manager and by the root itself, each of which has to wait. */
TEST_F_GUARDED(member, makes_the_call_fail_after_the_bound)
{
	long long start, took;
	long ret;
	int i;

	ASSERT_EQ(0, change_bound(1));
	for (i = 0; i < 4; i++) {
		start = now_ms();
		ret = i & 1 ? have_copied(0, WHOLE_TREE) :
			      copy_from(self->pidfd, WHOLE_TREE);
		took = now_ms() - start;
		EXPECT_EQ(-EBUSY, ret)
		{
			TH_LOG("%s", ret > 0 ? "it works" : strerror(-ret));
		}
		EXPECT_LE(1000, took + 10);
		EXPECT_GT(1000 + 15000, took);
		expect_all_go_on(_metadata, self->processes);
	}
	/* Others in the tree can be copied all the time. */
	EXPECT_LT(0, copy_from(self->pidfd, CLONE_ALL_THREADS));
	EXPECT_TRUE(end_others());
	clear_obstacle();
	expect_copy(_metadata, self->pidfd);
}

static pid_t start_waiting_call(struct __test_metadata *_metadata, int pidfd)
{
	pid_t pid;
	long ret;

	/* Long enough for a slow machine, and less than the watchdog waits. */
	ASSERT_EQ(0, change_bound(40));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		leave_fuse_to_server();
		store(&report->word[WORD_CALLING], 1);
		ret = copy_with_map(pidfd, WHOLE_TREE, MAP_ENTRIES);
		replica_assert(ret > 0 || (errno = -ret, false));
		replica_assert(tasks_answer(SIDE_REPLICA, 0, first_task(2)));
		kill(ret, SIGKILL);
		replica_assert_eq(ret, waitpid(ret, NULL, 0));
		replica_exit(REPLICA_PASS);
	}
	keep(pid);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_CALLING]) &&
			       task_syscall(pid, pid) == __NR_clone3,
			       DEADLINE));
	return pid;
}

TEST_F_GUARDED(member, that_is_free_in_time_is_waited_for)
{
	pid_t pid = start_waiting_call(_metadata, self->pidfd);

	clear_obstacle();
	expect_pass(_metadata, pid);
	forget(pid);
	EXPECT_TRUE(end_others());
	EXPECT_TRUE(originals_answer());
	expect_copy(_metadata, self->pidfd);
}

TEST_F_GUARDED(member, leaves_the_caller_killable)
{
	pid_t pid = start_waiting_call(_metadata, self->pidfd);
	long long start = now_ms();

	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(SIGKILL, xwaitpid(_metadata, pid, DEADLINE));
	EXPECT_GT(20000, now_ms() - start);
	forget(pid);
	expect_all_go_on(_metadata, self->processes);
	clear_obstacle();
	expect_copy(_metadata, self->pidfd);
}

/* What is killed is not copied, and the call goes on with the others. */
TEST_F_GUARDED(member, that_is_killed_is_not_waited_for)
{
	pid_t pid = start_waiting_call(_metadata, self->pidfd);

	ASSERT_EQ(0, kill(obstacle->victim(), SIGKILL));
	if (obstacle->dies_later)
		obstacle->clear(self->thread);
	expect_pass(_metadata, pid);
	forget(pid);
	EXPECT_TRUE(end_others());
	EXPECT_TRUE(tasks_answer(SIDE_ORIGINAL, 0, first_task(2)));
}

TEST_HARNESS_MAIN
