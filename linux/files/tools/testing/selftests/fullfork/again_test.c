// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a replica is a process like any other
 */

#include "fullfork_exec.h"
#include "fullfork_sync.h"

#define CODE_EXEC 6

/* Each generation is made as the one before: a slow machine makes fewer. */
static struct rounds generations = { .least = 3, .most = 10 };

/* A thread that answers: the answer says that it is there and knows itself. */
static __u32 question[THREADS];
static __u32 answer[THREADS];

static void *answer_questions(void *arg)
{
	unsigned int index = (long)arg;
	__u32 asked = 0;

	arrive(index);
	while (!load(&gate)) {
		futex_wait(&question[index], asked, FUTEX_PRIVATE_FLAG, 1000);
		asked = load(&question[index]);
		if (own_index == index)
			store(&answer[index], asked);
	}
	return arg + 100;
}

static bool ask_all(int count)
{
	__u32 wanted;
	int i;

	for (i = 0; i < count; i++) {
		wanted = add(&question[i], 1);
		futex_wake(&question[i], 1, FUTEX_PRIVATE_FLAG);
		if (!wait_until(load(&answer[i]) == wanted, DEADLINE / 2))
			return false;
	}
	return true;
}

/* Waits for a child in a replica: what it exited with, or -1. */
static int replica_wait(pid_t pid)
{
	int pidfd, status = -1;

	/* No polling: a whole line of ancestors waits in here. */
	replica_assert(pid > 0);
	pidfd = sys_pidfd_open(pid);
	replica_assert(pidfd >= 0);
	replica_assert(wait_pidfd(pidfd, DEADLINE));
	close(pidfd);
	replica_assert_eq(pid, waitpid(pid, &status, WNOHANG));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

FIXTURE(replica)
{
};

FIXTURE_VARIANT(replica)
{
	bool by_sibling;
};

FIXTURE_VARIANT_ADD(replica, of_leader) {
};

FIXTURE_VARIANT_ADD(replica, of_sibling) {
	.by_sibling = true,
};

FIXTURE_SETUP(replica)
{
	setup_threads(_metadata);
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	start_sleepers(_metadata, 4, answer_questions);
}

FIXTURE_TEARDOWN(replica)
{
}

/* Runs @fn in the replica, then looks for the threads of the original. */
static void run_then_ask(struct __test_metadata *_metadata, bool by_sibling,
			 int (*fn)(void *arg))
{
	run_in_replica(_metadata, by_sibling, fn);
	EXPECT_TRUE(ask_all(4));
	end_threads(_metadata, 4);
	EXPECT_TRUE(reap_all(DEADLINE));
}

static int create_threads(void *arg)
{
	int i;

	for (i = 4; i < THREADS; i++)
		replica_assert_eq(0, pthread_create(&threads[i], NULL,
						    answer_questions,
						    (void *)(long)i));
	replica_assert(ask_all(THREADS));
	open_own_gate();
	return join_threads(THREADS);
}

TEST_F_GUARDED(replica, creates_threads)
{
	run_then_ask(_metadata, variant->by_sibling, create_threads);
}

static int fork_as_ever(void *arg)
{
	pid_t pid = fork();

	if (!pid)
		_exit(count_threads(sys_getpid()) == 1 ? REPLICA_PASS : 1);
	replica_assert_eq(REPLICA_PASS, replica_wait(pid));
	replica_assert(ask_all(4));
	return REPLICA_PASS;
}

TEST_F_GUARDED(replica, forks)
{
	run_then_ask(_metadata, variant->by_sibling, fork_as_ever);
}

static int exec_in_child(void *arg)
{
	pid_t pid = fork();

	if (!pid) {
		set_exec_code(CODE_EXEC);
		execute_self();
		_exit(1);
	}
	replica_assert_eq(CODE_EXEC, replica_wait(pid));
	return REPLICA_PASS;
}

TEST_F_GUARDED(replica, has_children_that_execute)
{
	run_then_ask(_metadata, variant->by_sibling, exec_in_child);
}

/* The replica ends as the program that it executes: with REPLICA_PASS. */
static int exec_itself(void *arg)
{
	set_exec_code(REPLICA_PASS);
	execute_self();
	return REPLICA_FAIL;
}

TEST_F_GUARDED(replica, executes)
{
	run_then_ask(_metadata, variant->by_sibling, exec_itself);
}

/* Each generation is the child of the one before and has all the threads. */
static int fork_next_generation(void *arg)
{
	pid_t parent = sys_getpid();
	long pid;

	replica_assert(ask_all(4));
	/* There may be a leader and another thread that wait for the caller. */
	replica_assert(count_threads(sys_getpid()) >= 5);
	replica_assert(count_threads(sys_getpid()) <= 7);
	/* The count goes on in the replica. */
	if (!next_round(&generations))
		return REPLICA_PASS;
	pid = full_fork(0);
	if (!pid) {
		replica_assert_eq(parent, getppid());
		replica_exit(fork_next_generation(NULL));
	}
	replica_assert(pid > 0);
	replica_assert_eq(REPLICA_PASS, replica_wait(pid));
	replica_assert(ask_all(4));
	return REPLICA_PASS;
}

TEST_F_GUARDED(replica, is_copied_for_ten_generations)
{
	run_then_ask(_metadata, variant->by_sibling, fork_next_generation);
}

/* Three times in a row, each in all that there are: seven replicas. */
static int fork_tree(void *arg)
{
	long pids[3];
	int i, children = 0;

	for (i = 0; i < 3; i++) {
		pids[children] = full_fork(0);
		replica_assert(pids[children] >= 0);
		if (pids[children])
			children++;
		else
			children = 0;
	}
	replica_assert(ask_all(4));
	for (i = 0; i < children; i++)
		replica_assert_eq(REPLICA_PASS, replica_wait(pids[i]));
	add(&report->word[0], 1);
	return REPLICA_PASS;
}

TEST_F_GUARDED(replica, is_copied_into_a_tree)
{
	run_then_ask(_metadata, variant->by_sibling, fork_tree);
	EXPECT_EQ(8, load(&report->word[0]));
}

static void *fork_in_replica_thread(void *arg)
{
	/* Once. */
	generations = (struct rounds) { .least = 1, .most = 1 };
	return (void *)(long)fork_next_generation(NULL);
}

static int fork_in_new_thread(void *arg)
{
	pthread_t thread;
	void *ret;

	replica_assert_eq(0, pthread_create(&thread, NULL,
					    fork_in_replica_thread, NULL));
	replica_assert_eq(0, pthread_join(thread, &ret));
	replica_assert_eq(REPLICA_PASS, ret);
	return REPLICA_PASS;
}

TEST_F_GUARDED(replica, is_copied_by_a_thread_that_it_created)
{
	run_then_ask(_metadata, variant->by_sibling, fork_in_new_thread);
}

static int lead_groups(void *arg)
{
	pid_t pid;

	replica_assert_eq(0, setpgid(0, 0));
	replica_assert_eq(sys_getpid(), getpgrp());
	pid = fork();
	if (!pid)
		_exit(setsid() == sys_getpid() ? REPLICA_PASS : 1);
	replica_assert_eq(REPLICA_PASS, replica_wait(pid));
	/* A group leader may not lead a session. */
	replica_assert_eq(-1, setsid());
	replica_assert_eq(EPERM, errno);
	replica_assert(ask_all(4));
	return REPLICA_PASS;
}

TEST_F_GUARDED(replica, leads_process_groups_and_sessions)
{
	run_then_ask(_metadata, variant->by_sibling, lead_groups);
}

static int leave_orphans(void *arg)
{
	long pid = full_fork(0);

	replica_assert(pid >= 0);
	if (!pid) {
		add(&report->word[1], 1);
		replica_assert(wait_until(getppid() == original_pid, DEADLINE));
		replica_assert(ask_all(4));
		add(&report->word[2], 1);
	}
	return REPLICA_PASS;
}

/* A replica whose parent has gone is adopted as any process is. */
TEST_F_GUARDED(replica, is_adopted_when_its_parent_ends)
{
	run_then_ask(_metadata, variant->by_sibling, leave_orphans);
	EXPECT_EQ(1, load(&report->word[1]));
	EXPECT_EQ(1, load(&report->word[2]));
}

static int end_alone(void *arg)
{
	open_own_gate();
	replica_assert_eq(REPLICA_PASS, join_threads(4));
	for (;;)
		syscall(__NR_exit, REPLICA_PASS);
	return REPLICA_FAIL;
}

TEST_F_GUARDED(replica, ends_with_its_last_thread)
{
	run_then_ask(_metadata, variant->by_sibling, end_alone);
}

TEST_HARNESS_MAIN
