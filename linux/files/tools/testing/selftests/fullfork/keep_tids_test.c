// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_KEEP_TIDS: replicas with their originals' TIDs, and what prevents it.
 */
#include "fullfork_pidns.h"

/* An ID that no other process has. */
#define LONELY_ID 54321

/* Words of the report */
enum {
	CHILD_PID,
};

static char own_ns[NS_LINK_SIZE];

static void *create_thread(void *unused)
{
	return create_thread;
}

/* Fails where a thread's children would be born in another namespace. */
static void make_thread(void)
{
	pthread_t thread;
	void *result;

	replica_assert_eq(0, pthread_create(&thread, NULL, create_thread, NULL));
	replica_assert_eq(0, pthread_join(thread, &result));
	replica_assert(result == create_thread);
}

static void make_thread_and_record(struct worker *w, enum side side)
{
	if (side == SIDE_REPLICA)
		make_thread();
	record_worker(w, side);
}

/*
 * The other PID namespace of a process of 5 threads: one that its caller has
 * entered, or one that the call makes.  A process that has unshared it is of
 * one thread, as it cannot make others.
 */
FIXTURE(namespace)
{
	struct workers ws;
	struct other_ns ns;
};

FIXTURE_VARIANT(namespace)
{
	bool unshared;
	bool entered;
};

FIXTURE_VARIANT_ADD(namespace, unshared) { .unshared = true };
FIXTURE_VARIANT_ADD(namespace, entered) { .entered = true };
FIXTURE_VARIANT_ADD(namespace, made_by_the_call) { };

FIXTURE_SETUP(namespace)
{
	require_fullfork(_metadata);
	ASSERT_TRUE(read_pid_ns("self", own_ns));
	require_root(_metadata, "PID namespaces");
	if (variant->unshared) {
		start_workers(_metadata, &self->ws, 0, NULL, NULL);
		ASSERT_EQ(0, unshare(CLONE_NEWPID));
		self->ns.flags = CLONE_KEEP_TIDS;
		self->ns.init = start_init(_metadata, 0);
		return;
	}
	start_workers(_metadata, &self->ws, 4, NULL, make_thread_and_record);
	start_other_ns(_metadata, &self->ns, variant->entered);
}

FIXTURE_TEARDOWN(namespace)
{
	join_workers(_metadata, &self->ws);
	end_other_ns(_metadata, &self->ns);
}

struct original {
	struct workers *ws;
	pid_t pid;
};

static int expect_same_tids(void *arg)
{
	struct original *original = arg;

	replica_assert_eq(original->pid, syscall(__NR_getpid));
	replica_assert_eq(original->pid, sys_gettid());
	return run_replica_workers(original->ws);
}

TEST_F_LONG(namespace, keeps_every_tid)
{
	struct original original = { .ws = &self->ws, .pid = getpid() };
	unsigned int i;

	fork_and_pass(_metadata, self->ns.flags, expect_same_tids, &original);
	for (i = 0; i < self->ws.count; i++) {
		EXPECT_EQ(original.pid, report->slot[i].pid);
		EXPECT_EQ(self->ws.worker[i].tid, report->slot[i].tid);
	}
}

TEST_F_LONG(namespace, returns_the_pid_that_the_caller_sees)
{
	struct fullfork_tid_map map[8] = {};
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | self->ns.flags,
		.exit_signal = SIGCHLD,
		.tid_map = ptr_to_u64(map),
		.tid_map_size = ARRAY_SIZE(map),
	};
	char ns[NS_LINK_SIZE];
	unsigned int i;
	long pid;

	pid = replica_main(sys_clone3(&args, sizeof(args)),
			   wait_then_run_workers, &self->ws);
	ASSERT_LT(0, pid);
	EXPECT_NE(getpid(), pid);
	EXPECT_EQ(getpid(), status_number(pid, "PPid"));
	EXPECT_EQ(pid, status_number(pid, "Pid"));
	EXPECT_TRUE(pid_ns_of(pid, ns));
	EXPECT_STRNE(own_ns, ns);

	/* The table is in the caller's view as well. */
	EXPECT_EQ(pid, map[0].replica);
	for (i = 0; i <= self->ws.count; i++)
		EXPECT_EQ(map[i].original, inner_tid(pid, map[i].replica));
	store(&report->may_go_on, 1);
	expect_pass(_metadata, pid);
}

static int make_children(void *ws)
{
	char ns[NS_LINK_SIZE], child_ns[NS_LINK_SIZE];
	int status;
	pid_t pid;

	replica_assert(read_pid_ns("self", ns));
	replica_assert(strcmp(ns, own_ns));
	make_thread();
	pid = fork();
	replica_assert(pid >= 0);
	if (!pid) {
		replica_assert(read_pid_ns("self", child_ns));
		replica_assert_eq(0, strcmp(ns, child_ns));
		store(&report->word[CHILD_PID], syscall(__NR_getpid));
		replica_exit(REPLICA_PASS);
	}
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert_eq(pid, load(&report->word[CHILD_PID]));
	return run_replica_workers(ws);
}

TEST_F_LONG(namespace, is_where_children_of_replicas_are_born)
{
	fork_and_pass(_metadata, self->ns.flags, make_children, &self->ws);
}

TEST_F_LONG(namespace, is_where_stopped_replicas_are)
{
	int status;
	long pid;

	pid = replica_main(full_fork(self->ns.flags | CLONE_STOPPED),
			   run_replica_workers, &self->ws);
	ASSERT_LT(0, pid);
	status = xwait(_metadata, pid, WUNTRACED, DEADLINE);
	EXPECT_TRUE(WIFSTOPPED(status));
	EXPECT_EQ(getpid(), inner_tid(pid, pid));
	EXPECT_EQ(0, report->recorded);
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
}

TEST_F_LONG(namespace, takes_one_replica_at_a_time)
{
	long first, second;

	first = replica_main(full_fork(self->ns.flags), wait_then_run_workers,
			     &self->ws);
	ASSERT_LT(0, first);
	second = replica_main(full_fork(self->ns.flags), wait_then_run_workers,
			      &self->ws);
	EXPECT_EQ(!!(self->ns.flags & CLONE_NEWPID), second > 0);
	if (self->ns.init)
		EXPECT_EQ(-EEXIST, second);
	store(&report->may_go_on, 1);
	expect_pass(_metadata, first);
	if (second > 0)
		expect_pass(_metadata, second);

	/* A TID is free again when its thread has been reaped. */
	fork_and_pass(_metadata, self->ns.flags, run_replica_workers,
		      &self->ws);
}

/* The ways in which a process of 5 threads may not keep its TIDs. */
FIXTURE(process)
{
	struct workers ws;
	struct census census;
};

FIXTURE_SETUP(process)
{
	require_fullfork(_metadata);
	require_root(_metadata, "PID namespaces");
	start_workers(_metadata, &self->ws, 4, NULL, make_thread_and_record);
	self->census = take_census();
}

FIXTURE_TEARDOWN(process)
{
	join_workers(_metadata, &self->ws);
}

#define expect_refused(error, flags)					\
	EXPECT_EQ(-(error), replica_main(full_fork(flags),		\
					 run_replica_workers, &self->ws))

/* The control of a refusal. */
#define expect_taken(flags)						\
	fork_and_pass(_metadata, flags, run_replica_workers, &self->ws)

TEST_F_LONG(process, rejects_its_own_namespace)
{
	expect_refused(EINVAL, CLONE_KEEP_TIDS);
	expect_census(self->census);
	expect_taken(CLONE_KEEP_TIDS | CLONE_NEWPID);
}

TEST_F_LONG(process, rejects_new_namespace_without_keeping_tids)
{
	expect_refused(EINVAL, CLONE_NEWPID);
	expect_census(self->census);
	expect_taken(CLONE_KEEP_TIDS | CLONE_NEWPID);
}

TEST_F_LONG(process, rejects_taken_tid)
{
	pid_t init = start_init(_metadata, CLONE_NEWPID);
	pid_t child, tid;
	struct fullfork_args args = {
		.exit_signal = SIGCHLD,
		.set_tid = ptr_to_u64(&tid),
		.set_tid_size = 1,
	};
	unsigned int i;

	/* The leader's TID, one in the middle, and the last one. */
	for (i = 0; i < 3; i++) {
		tid = i ? self->ws.worker[2 * i - 1].tid : getpid();
		enter_pid_ns(_metadata, init);
		child = sys_clone3(&args, sizeof(args));
		ASSERT_LE(0, child);
		if (!child) {
			for (;;)
				pause();
		}
		self->census = take_census();
		expect_refused(EEXIST, CLONE_KEEP_TIDS);
		expect_census(self->census);
		EXPECT_EQ(0, report->recorded);

		ASSERT_EQ(0, kill(child, SIGKILL));
		xwaitpid(_metadata, child, DEADLINE);
		expect_taken(CLONE_KEEP_TIDS);
		report->recorded = 0;
		leave_pid_ns(_metadata);
	}
	end_init(_metadata, init);
}

TEST_F_LONG(process, rejects_namespace_that_ended)
{
	pid_t init = start_init(_metadata, CLONE_NEWPID);

	enter_pid_ns(_metadata, init);
	expect_taken(CLONE_KEEP_TIDS);
	report->recorded = 0;
	end_init(_metadata, init);
	EXPECT_GT(0, replica_main(full_fork(CLONE_KEEP_TIDS),
				  run_replica_workers, &self->ws));
	expect_census(self->census);
	EXPECT_EQ(0, report->recorded);
}

TEST_F_LONG(process, rejects_caller_without_capability)
{
	pid_t init = start_init(_metadata, CLONE_NEWPID);

	enter_pid_ns(_metadata, init);
	expect_taken(CLONE_KEEP_TIDS);

	/* Each alone is enough; without it the call is refused. */
	ASSERT_EQ(0, set_capabilities(1ULL << CAP_SYS_ADMIN |
				      1ULL << CAP_CHECKPOINT_RESTORE |
				      1ULL << CAP_KILL));
	ASSERT_EQ(0, set_capabilities(1ULL << CAP_CHECKPOINT_RESTORE |
				      1ULL << CAP_KILL));
	expect_taken(CLONE_KEEP_TIDS);
	expect_refused(EPERM, CLONE_KEEP_TIDS | CLONE_NEWPID);
	ASSERT_EQ(0, set_capabilities(1ULL << CAP_KILL));
	self->census = take_census();
	expect_refused(EPERM, CLONE_KEEP_TIDS);
	expect_refused(EPERM, CLONE_KEEP_TIDS | CLONE_NEWPID);
	expect_census(self->census);
	ASSERT_EQ(0, kill(init, SIGKILL));
}

TEST_F_LONG(process, needs_no_more_than_cap_sys_admin)
{
	pid_t init = start_init(_metadata, CLONE_NEWPID);

	enter_pid_ns(_metadata, init);
	ASSERT_EQ(0, set_capabilities(1ULL << CAP_SYS_ADMIN |
				      1ULL << CAP_KILL));
	expect_taken(CLONE_KEEP_TIDS);
	leave_pid_ns(_metadata);
	expect_taken(CLONE_KEEP_TIDS | CLONE_NEWPID);
	ASSERT_EQ(0, kill(init, SIGKILL));
}

/* A process of one thread, which alone can unshare its PID namespace. */
FIXTURE(single_thread)
{
	struct workers ws;
};

FIXTURE_SETUP(single_thread)
{
	require_fullfork(_metadata);
	require_root(_metadata, "PID namespaces");
	start_workers(_metadata, &self->ws, 0, NULL, NULL);
	ASSERT_EQ(0, unshare(CLONE_NEWPID));
}

FIXTURE_TEARDOWN(single_thread)
{
	join_workers(_metadata, &self->ws);
}

TEST_F_LONG(single_thread, rejects_namespace_without_init)
{
	pid_t init;

	/* It would be the init, without the TID of one. */
	expect_refused(EINVAL, CLONE_KEEP_TIDS);
	init = start_init(_metadata, 0);
	expect_taken(CLONE_KEEP_TIDS);
	end_init(_metadata, init);
}

/* A user who has no capability but over a user namespace of its own. */
FIXTURE(unprivileged)
{
	struct workers ws;
};

FIXTURE_SETUP(unprivileged)
{
	require_fullfork(_metadata);
	if (!geteuid())
		ASSERT_EQ(0, setresuid(LONELY_ID, LONELY_ID, LONELY_ID));
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

FIXTURE_TEARDOWN(unprivileged)
{
	join_workers(_metadata, &self->ws);
}

TEST_F_LONG(unprivileged, needs_its_own_user_namespace)
{
	start_workers(_metadata, &self->ws, 4, NULL, make_thread_and_record);
	expect_refused(EPERM, CLONE_KEEP_TIDS | CLONE_NEWPID);
	EXPECT_EQ(0, report->recorded);
	join_workers(_metadata, &self->ws);

	/* Only for one thread: those that were joined may not be gone yet. */
	ASSERT_TRUE(wait_until(count_threads(getpid()) == 1, DEADLINE));
	ASSERT_EQ(0, unshare(CLONE_NEWUSER));
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
	start_workers(_metadata, &self->ws, 4, NULL, make_thread_and_record);
	expect_taken(CLONE_KEEP_TIDS | CLONE_NEWPID);
	EXPECT_EQ(4, report->recorded);
}

TEST_HARNESS_MAIN
