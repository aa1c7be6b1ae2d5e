// SPDX-License-Identifier: GPL-2.0
/*
 * What CLONE_ALL_THREADS returns, and that every thread has its replica.
 */
#include "fullfork_selftest.h"

#include <sys/prctl.h>

/* Words of the report */
enum {
	PARENT_PID,
};

static __thread __u64 tls_token;

static __u64 token_of(unsigned int index)
{
	return 0x5eed000000000000 + index;
}

static void name_of(unsigned int index, char name[16])
{
	snprintf(name, 16, "worker %u", index);
}

static void set_tokens(struct worker *w)
{
	char name[16];

	tls_token = token_of(w->index);
	w->token = ~token_of(w->index);
	name_of(w->index, name);
	prctl(PR_SET_NAME, name);
}

static void check_tokens(struct worker *w, enum side side)
{
	char expected[16], name[16];

	if (side != SIDE_REPLICA)
		return;
	replica_assert(w->stack_kept);
	replica_assert_eq(token_of(w->index), tls_token);
	replica_assert_eq(~token_of(w->index), w->token);
	name_of(w->index, expected);
	prctl(PR_GET_NAME, name);
	replica_assert_eq(0, strcmp(expected, name));
	record(w->index, tls_token);
}

/*
 * A process of one thread and of many.  1000 threads are more than the
 * kernel can copy without giving up the CPU, and than one page of TIDs.
 */
FIXTURE(process)
{
	struct workers ws;
};

FIXTURE_VARIANT(process)
{
	unsigned int threads;
};

FIXTURE_VARIANT_ADD(process, with_1_thread) { .threads = 1 };
FIXTURE_VARIANT_ADD(process, with_2_threads) { .threads = 2 };
FIXTURE_VARIANT_ADD(process, with_8_threads) { .threads = 8 };
FIXTURE_VARIANT_ADD(process, with_64_threads) { .threads = 64 };
FIXTURE_VARIANT_ADD(process, with_1000_threads) { .threads = 1000 };

FIXTURE_SETUP(process)
{
	require_fullfork(_metadata);
	start_workers(_metadata, &self->ws, variant->threads - 1, set_tokens,
		      check_tokens);
}

FIXTURE_TEARDOWN(process)
{
	join_workers(_metadata, &self->ws);
}

TEST_F_LONG(process, returns_pid_and_zero)
{
	long pid = replica_main(full_fork(0), wait_then_run_workers, &self->ws);

	ASSERT_LT(0, pid);
	EXPECT_NE(getpid(), pid);
	EXPECT_EQ(getpid(), status_number(pid, "PPid"));
	EXPECT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	EXPECT_EQ(pid, report->is_there);
	store(&report->may_go_on, 1);
	expect_pass(_metadata, pid);
}

TEST_F_LONG(process, copies_every_thread)
{
	struct census before = take_census();
	unsigned int i;
	long pid;

	pid = replica_main(full_fork(0), wait_then_run_workers, &self->ws);
	ASSERT_LT(0, pid);
	EXPECT_EQ(variant->threads, count_threads(pid));
	store(&report->may_go_on, 1);
	expect_pass(_metadata, pid);

	EXPECT_EQ(self->ws.count, report->recorded);
	for (i = 0; i < self->ws.count; i++) {
		struct report_slot *slot = &report->slot[i];

		EXPECT_EQ(1, slot->recorded);
		EXPECT_EQ(pid, slot->pid);
		EXPECT_NE(self->ws.worker[i].tid, slot->tid);
		EXPECT_EQ(token_of(i), slot->value[0]);
	}
	expect_census(before);
}

static int check_name(void *ws)
{
	char name[16];

	prctl(PR_GET_NAME, name);
	replica_assert_eq(0, strcmp(name, "the leader"));
	return run_replica_workers(ws);
}

TEST_F_LONG(process, keeps_names)
{
	ASSERT_EQ(0, prctl(PR_SET_NAME, "the leader"));
	fork_and_pass(_metadata, 0, check_name, &self->ws);
	EXPECT_EQ(self->ws.count, report->recorded);
}

/* A process whose second thread makes the call. */
struct caller {
	struct workers ws;
	pthread_t thread;
	long pid;
};

FIXTURE(second_thread)
{
	struct caller caller;
};

static void *call_full_fork(void *arg)
{
	struct caller *caller = arg;

	caller->pid = replica_main(full_fork(0), run_replica_workers,
				   &caller->ws);
	open_gate(&caller->ws, SIDE_ORIGINAL);
	return NULL;
}

FIXTURE_SETUP(second_thread)
{
	require_fullfork(_metadata);
	start_workers(_metadata, &self->caller.ws, 3, NULL,
		      record_worker);
}

FIXTURE_TEARDOWN(second_thread)
{
	join_workers(_metadata, &self->caller.ws);
}

TEST_F_LONG(second_thread, leaves_the_lead_to_the_leader)
{
	struct caller *caller = &self->caller;

	/* The leader takes part: it waits at the gate like a worker. */
	caller->ws.count++;
	ASSERT_EQ(0, pthread_create(&caller->thread, NULL, call_full_fork,
				    caller));
	if (wait_gate(&caller->ws) == SIDE_REPLICA) {
		record(3, sys_gettid());
		for (;;)
			pause();
	}
	caller->ws.count--;
	ASSERT_EQ(0, pthread_join(caller->thread, NULL));
	ASSERT_LT(0, caller->pid);
	expect_pass(_metadata, caller->pid);

	EXPECT_EQ(1, report->slot[3].recorded);
	EXPECT_EQ(caller->pid, report->slot[3].pid);
	EXPECT_EQ(caller->pid, report->slot[3].tid);
	EXPECT_EQ(caller->pid, report->slot[0].pid);
	EXPECT_NE(caller->pid, report->slot[0].tid);
}

/* A process of three threads, and each flag that is allowed beside. */
struct private_memory {
	struct workers *ws;
	int word;
};

FIXTURE(flag)
{
	struct workers ws;
	struct private_memory memory;
};

static void record_nnp(struct worker *w, enum side side)
{
	if (side == SIDE_REPLICA)
		record(w->index, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

FIXTURE_SETUP(flag)
{
	require_fullfork(_metadata);
	start_workers(_metadata, &self->ws, 2, NULL, record_nnp);
}

FIXTURE_TEARDOWN(flag)
{
	join_workers(_metadata, &self->ws);
}

static int change_memory(void *arg)
{
	struct private_memory *memory = arg;

	replica_assert_eq(1, memory->word);
	memory->word = 2;
	keep_in_memory(memory);
	store(&report->is_there, 1);
	if (!wait_until(load(&report->may_go_on), DEADLINE))
		return REPLICA_TIMEOUT;
	replica_assert_eq(2, memory->word);
	return run_replica_workers(memory->ws);
}

TEST_F_LONG(flag, none_keeps_memory_private)
{
	struct private_memory *memory = &self->memory;
	long pid;

	memory->ws = &self->ws;
	memory->word = 1;
	pid = replica_main(full_fork(0), change_memory, memory);
	ASSERT_LT(0, pid);
	EXPECT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	keep_in_memory(memory);
	EXPECT_EQ(1, memory->word);
	memory->word = 3;
	keep_in_memory(memory);
	store(&report->may_go_on, 1);
	expect_pass(_metadata, pid);
}

/* A full fork with @flags that gives a pidfd. */
static long fork_with_pidfd(__u64 flags, int exit_signal, int *pidfd)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_PIDFD | flags,
		.pidfd = ptr_to_u64(pidfd),
		.exit_signal = exit_signal,
	};

	*pidfd = -1;
	return sys_clone3(&args, sizeof(args));
}

TEST_F_LONG(flag, pidfd_names_the_replica)
{
	siginfo_t info = {};
	long pid;
	int pidfd;

	pid = replica_main(fork_with_pidfd(0, SIGCHLD, &pidfd),
			   run_replica_workers, &self->ws);
	ASSERT_LT(0, pid);
	ASSERT_LE(0, pidfd);
	EXPECT_EQ(FD_CLOEXEC, fcntl(pidfd, F_GETFD));
	EXPECT_TRUE(wait_pidfd(pidfd, DEADLINE));
	EXPECT_EQ(0, waitid(P_PIDFD, pidfd, &info, WEXITED));
	EXPECT_EQ(pid, info.si_pid);
	EXPECT_EQ(CLD_EXITED, info.si_code);
	EXPECT_EQ(REPLICA_PASS, info.si_status);
	EXPECT_EQ(0, close(pidfd));
}

TEST_F_LONG(flag, parent_settid_stores_the_pid)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_PARENT_SETTID,
		.exit_signal = SIGCHLD,
	};
	pid_t tid = -1;
	long pid;

	args.parent_tid = ptr_to_u64(&tid);
	pid = replica_main(sys_clone3(&args, sizeof(args)),
			   run_replica_workers, &self->ws);
	ASSERT_LT(0, pid);
	EXPECT_EQ(pid, tid);
	expect_pass(_metadata, pid);
}

static int record_parent(void *ws)
{
	store(&report->word[PARENT_PID], getppid());
	return run_replica_workers(ws);
}

TEST_F_LONG(flag, parent_makes_a_sibling)
{
	long pid = replica_main(full_fork(CLONE_PARENT), record_parent,
				&self->ws);

	ASSERT_LT(0, pid);
	EXPECT_TRUE(wait_until(load(&report->word[PARENT_PID]), DEADLINE));
	EXPECT_EQ(getppid(), report->word[PARENT_PID]);
	EXPECT_EQ(-1, waitpid(pid, NULL, __WALL));
	EXPECT_EQ(ECHILD, errno);

	/* The parent, which belongs to the harness, does not reap it. */
	EXPECT_TRUE(wait_until(task_state(pid, pid) == 'Z', DEADLINE));
	EXPECT_EQ(0, report->failures);
	EXPECT_EQ(2, report->recorded);
}

TEST_F_LONG(flag, autoreap_leaves_no_zombie)
{
	long pid = replica_main(full_fork(CLONE_AUTOREAP), record_parent,
				&self->ws);

	ASSERT_LT(0, pid);
	EXPECT_TRUE(wait_until(kill(pid, 0) < 0 && errno == ESRCH, DEADLINE));
	EXPECT_EQ(-1, waitpid(pid, NULL, __WALL));
	EXPECT_EQ(ECHILD, errno);
	EXPECT_EQ(getpid(), report->word[PARENT_PID]);
	EXPECT_EQ(2, report->recorded);
}

static int check_nnp(void *ws)
{
	replica_assert_eq(1, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	return run_replica_workers(ws);
}

TEST_F_LONG(flag, nnp_binds_every_thread_of_the_replica)
{
	ASSERT_EQ(0, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	fork_and_pass(_metadata, CLONE_NNP, check_nnp, &self->ws);
	EXPECT_EQ(1, report->slot[0].value[0]);
	EXPECT_EQ(1, report->slot[1].value[0]);
	EXPECT_EQ(0, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	EXPECT_EQ(0, status_number(getpid(), "NoNewPrivs"));
}

static int wait_forever(void *unused)
{
	store(&report->is_there, 1);
	wait_until(false, 2 * DEADLINE);
	return REPLICA_TIMEOUT;
}

TEST_F_LONG(flag, pidfd_autokill_ends_the_replica)
{
	const __u64 flags = CLONE_AUTOREAP | CLONE_NNP | CLONE_PIDFD_AUTOKILL;
	long pid;
	int pidfd;

	pid = replica_main(fork_with_pidfd(flags, 0, &pidfd), wait_forever,
			   NULL);
	ASSERT_LT(0, pid);
	ASSERT_LE(0, pidfd);
	EXPECT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	EXPECT_EQ(3, count_threads(pid));
	EXPECT_EQ(0, close(pidfd));
	EXPECT_TRUE(wait_until(kill(pid, 0) < 0 && errno == ESRCH, DEADLINE))
	{
		kill(pid, SIGKILL);
	}
}

/* The signal that tells the parent of the replica's end. */
FIXTURE(exit_signal)
{
	struct workers ws;
	sigset_t all;
};

FIXTURE_VARIANT(exit_signal)
{
	int signal;
};

FIXTURE_VARIANT_ADD(exit_signal, none) { .signal = 0 };
FIXTURE_VARIANT_ADD(exit_signal, sigchld) { .signal = SIGCHLD };
FIXTURE_VARIANT_ADD(exit_signal, sigusr1) { .signal = SIGUSR1 };

FIXTURE_SETUP(exit_signal)
{
	require_fullfork(_metadata);
	sigfillset(&self->all);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &self->all, NULL));
	start_workers(_metadata, &self->ws, 2, NULL, record_worker);
}

FIXTURE_TEARDOWN(exit_signal)
{
	join_workers(_metadata, &self->ws);
}

TEST_F_LONG(exit_signal, is_sent_at_the_end)
{
	struct timespec wait = { .tv_sec = DEADLINE }, now = {};
	siginfo_t info;
	long pid;
	int pidfd;

	pid = replica_main(fork_with_pidfd(0, variant->signal, &pidfd),
			   run_replica_workers, &self->ws);
	ASSERT_LT(0, pid);
	EXPECT_TRUE(wait_pidfd(pidfd, DEADLINE));
	if (variant->signal) {
		EXPECT_EQ(variant->signal,
			  sigtimedwait(&self->all, &info, &wait));
		EXPECT_EQ(pid, info.si_pid);
		EXPECT_EQ(REPLICA_PASS, info.si_status);
	}
	EXPECT_EQ(-1, sigtimedwait(&self->all, &info, &now));
	if (variant->signal != SIGCHLD) {
		EXPECT_EQ(-1, waitpid(pid, NULL, WNOHANG));
		EXPECT_EQ(ECHILD, errno);
	}
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, close(pidfd));
}

TEST_HARNESS_MAIN
