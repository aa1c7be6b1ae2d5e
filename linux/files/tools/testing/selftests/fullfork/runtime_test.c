// SPDX-License-Identifier: GPL-2.0
/*
 * A language runtime that the C library knows nothing of, in the manner of
 * Go's: threads made by clone(), whose TIDs it remembers, preempts by signal,
 * and writes into its locks.  They have the errno of the thread that made
 * them: nobody may look at it.
 */
#include "fullfork_pidns.h"

#define MACHINES 6
#define STACK_SIZE 65536
#define HAS_WAITERS 0x80000000

/* A thread of the runtime; the first half spins, the others park. */
struct machine {
	__u32 tid;
	__u32 steps;
	__u32 preempted;
	__u32 parked;
	__u32 woken;
	char *stack;
	char *signal_stack;
};

static struct {
	struct machine machine[MACHINES];
	__u32 main_tid;
	__u32 pid;
	__u32 lock;
	__u64 locked_count;
	__u32 ends;
	__u32 errors;
} runtime;

static void lock_runtime(__u32 tid)
{
	for (;;) {
		__u32 seen = 0;

		if (__atomic_compare_exchange_n(&runtime.lock, &seen, tid,
						false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			return;
		/* A lock that its owner takes again is an error here. */
		if ((seen & ~HAS_WAITERS) == tid)
			add(&runtime.errors, 1);
		if (!(seen & HAS_WAITERS) &&
		    !__atomic_compare_exchange_n(&runtime.lock, &seen,
						 seen | HAS_WAITERS, false,
						 __ATOMIC_SEQ_CST,
						 __ATOMIC_SEQ_CST))
			continue;
		futex_wait(&runtime.lock, seen | HAS_WAITERS,
			   FUTEX_PRIVATE_FLAG, -1);
	}
}

static void unlock_runtime(__u32 tid)
{
	__u32 seen = __atomic_exchange_n(&runtime.lock, 0, __ATOMIC_SEQ_CST);

	/* The owner's word is the TID that it has, not only remembers. */
	if ((seen & ~HAS_WAITERS) != tid || tid != (__u32)sys_gettid())
		add(&runtime.errors, 1);
	if (seen & HAS_WAITERS)
		futex_wake(&runtime.lock, INT_MAX, FUTEX_PRIVATE_FLAG);
}

static void preempt(int unused)
{
	__u32 tid = sys_gettid();
	unsigned int i;

	for (i = 0; i < MACHINES; i++)
		if (runtime.machine[i].tid == tid)
			add(&runtime.machine[i].preempted, 1);
}

static int run_machine(void *arg)
{
	struct machine *m = arg;
	stack_t stack = { .ss_sp = m->signal_stack, .ss_size = STACK_SIZE };
	bool spins = m - runtime.machine < MACHINES / 2;

	syscall(__NR_sigaltstack, &stack, NULL);
	store(&m->tid, sys_gettid());
	while (!load(&runtime.ends)) {
		add(&m->steps, 1);
		if (!spins) {
			store(&m->parked, 1);
			futex_wait(&m->woken, 0, FUTEX_PRIVATE_FLAG, -1);
			continue;
		}
		if (load(&m->steps) % 64)
			continue;
		lock_runtime(load(&m->tid));
		runtime.locked_count++;
		unlock_runtime(load(&m->tid));
	}
	replica_thread_exit();
}

/* What Go's newosproc() asks for: no TLS and no TID words. */
#define MACHINE_FLAGS	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | \
			 CLONE_SYSVSEM | CLONE_THREAD)

static void start_runtime(struct __test_metadata *_metadata)
{
	struct sigaction sa = {
		.sa_handler = preempt,
		.sa_flags = SA_ONSTACK | SA_RESTART,
	};
	unsigned int i;

	ASSERT_EQ(0, sigaction(SIGURG, &sa, NULL));
	runtime.pid = getpid();
	runtime.main_tid = sys_gettid();
	for (i = 0; i < MACHINES; i++) {
		struct machine *m = &runtime.machine[i];

		m->stack = malloc(STACK_SIZE);
		m->signal_stack = malloc(STACK_SIZE);
		ASSERT_TRUE(m->stack && m->signal_stack);
		ASSERT_LT(0, clone(run_machine, m->stack + STACK_SIZE,
				   MACHINE_FLAGS, m));
		ASSERT_TRUE(wait_until(load(&m->tid) &&
				       load(&m->steps), DEADLINE));
	}
	for (i = MACHINES / 2; i < MACHINES; i++)
		ASSERT_TRUE(wait_blocked(runtime.machine[i].tid, __NR_futex));
}

static void wake_parked(void)
{
	unsigned int i;

	for (i = MACHINES / 2; i < MACHINES; i++) {
		struct machine *m = &runtime.machine[i];

		store(&m->woken, 1);
		futex_wake(&m->woken, 1, FUTEX_PRIVATE_FLAG);
	}
}

static void end_runtime(struct __test_metadata *_metadata)
{
	store(&runtime.ends, 1);
	wake_parked();
	EXPECT_TRUE(wait_until(count_threads(getpid()) == 1, DEADLINE));
	EXPECT_EQ(0, runtime.errors);
}

static long signal_machine(struct machine *m)
{
	return syscall(__NR_tgkill, runtime.pid, m->tid, SIGURG);
}

static bool machine_advances(struct machine *m, __u32 *word)
{
	__u32 before = load(word);

	return wait_until(load(word) != before, DEADLINE);
}

/* Runs in the replica, whose main thread holds the lock that others want. */
static int check_runtime(void *unused)
{
	unsigned int i;

	replica_assert_eq(runtime.pid, syscall(__NR_getpid));
	replica_assert_eq(runtime.main_tid, sys_gettid());
	replica_assert_eq(runtime.main_tid, load(&runtime.lock) & ~HAS_WAITERS);

	/* Nobody gets past the lock while it is held. */
	replica_assert_eq(0, load(&runtime.errors));
	unlock_runtime(runtime.main_tid);
	for (i = 0; i < MACHINES; i++) {
		struct machine *m = &runtime.machine[i];
		__u32 preempted = load(&m->preempted);

		replica_assert_eq(0, signal_machine(m));
		replica_assert(wait_until(load(&m->preempted) != preempted,
					  DEADLINE));
	}
	for (i = 0; i < MACHINES / 2; i++) {
		struct machine *m = &runtime.machine[i];

		replica_assert(machine_advances(m, &m->steps));
	}
	lock_runtime(runtime.main_tid);
	unlock_runtime(runtime.main_tid);

	/* All can end: each gets out of its lock or its parking place. */
	store(&runtime.ends, 1);
	wake_parked();
	for (i = 0; i < MACHINES; i++) {
		struct machine *m = &runtime.machine[i];

		replica_assert(wait_until(signal_machine(m) < 0, DEADLINE));
	}
	replica_assert_eq(0, load(&runtime.errors));
	return REPLICA_PASS;
}

FIXTURE(runtime)
{
	struct other_ns ns;
};

FIXTURE_VARIANT(runtime)
{
	bool entered;
};

FIXTURE_VARIANT_ADD(runtime, in_entered_namespace) { .entered = true };
FIXTURE_VARIANT_ADD(runtime, in_namespace_made_by_the_call) { };

FIXTURE_SETUP(runtime)
{
	require_fullfork(_metadata);
	require_root(_metadata, "PID namespaces");
	start_runtime(_metadata);
	start_other_ns(_metadata, &self->ns, variant->entered);
}

FIXTURE_TEARDOWN(runtime)
{
	end_runtime(_metadata);
	end_other_ns(_metadata, &self->ns);
}

static void fork_holding_lock(struct __test_metadata *_metadata, __u64 flags)
{
	long pid;

	lock_runtime(runtime.main_tid);
	pid = replica_main(full_fork(flags), check_runtime, NULL);
	unlock_runtime(runtime.main_tid);
	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	expect_pass(_metadata, pid);
}

TEST_F_LONG(runtime, goes_on_in_the_replica)
{
	struct machine *m = &runtime.machine[0];

	fork_holding_lock(_metadata, self->ns.flags);
	EXPECT_TRUE(machine_advances(m, &m->steps));
	EXPECT_EQ(0, signal_machine(m));
}

static __u32 preempter_ends;

/* The runtime's monitor: it signals all that it knows of, all the time. */
static void *preempt_all(void *unused)
{
	unsigned int i;

	while (!load(&preempter_ends) && !load(&runtime.ends)) {
		for (i = 0; i < MACHINES; i++)
			signal_machine(&runtime.machine[i]);
		sched_yield();
	}
	return NULL;
}

TEST_F_LONG(runtime, goes_on_while_preempted)
{
	struct rounds rounds = { .least = 3, .most = 10 };
	pthread_t preempter;

	leave_other_ns(_metadata, &self->ns);
	ASSERT_EQ(0, pthread_create(&preempter, NULL, preempt_all, NULL));
	enter_other_ns(_metadata, &self->ns);
	while (next_round(&rounds))
		fork_holding_lock(_metadata, self->ns.flags);
	store(&preempter_ends, 1);
	ASSERT_EQ(0, pthread_join(preempter, NULL));
}

static int expect_stale_tids(void *unused)
{
	unsigned int i;

	for (i = 0; i < MACHINES; i++)
		replica_assert_eq(-1, syscall(__NR_tgkill, syscall(__NR_getpid),
					      runtime.machine[i].tid, SIGURG));
	return REPLICA_PASS;
}

/* The limit of the form without CLONE_KEEP_TIDS. */
TEST_F_LONG(runtime, has_stale_tids_without_the_flag)
{
	leave_other_ns(_metadata, &self->ns);
	fork_and_pass(_metadata, 0, expect_stale_tids, NULL);
}

TEST_HARNESS_MAIN
