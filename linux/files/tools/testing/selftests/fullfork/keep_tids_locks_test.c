// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_KEEP_TIDS: what a C library does with the TIDs that it remembers goes
 * on in the replica, locks held across the call above all.
 */
#include "fullfork_pidns.h"

/* Words of the report */
enum {
	HANDLED_BY,
};

enum kind { RECURSIVE, ERRORCHECK, ROBUST, PRIO_INHERIT, KINDS };

/* One mutex of each kind, and the thread that holds them. */
static pthread_mutex_t held_by_caller[KINDS];
static pthread_mutex_t held_by_worker[KINDS];

static void init_mutex(struct __test_metadata *_metadata,
		       pthread_mutex_t *mutex, enum kind kind)
{
	pthread_mutexattr_t attr;

	ASSERT_EQ(0, pthread_mutexattr_init(&attr));
	switch (kind) {
	case RECURSIVE:
		ASSERT_EQ(0, pthread_mutexattr_settype(&attr,
						       PTHREAD_MUTEX_RECURSIVE));
		break;
	case ERRORCHECK:
		ASSERT_EQ(0, pthread_mutexattr_settype(&attr,
						       PTHREAD_MUTEX_ERRORCHECK));
		break;
	case ROBUST:
		ASSERT_EQ(0, pthread_mutexattr_setrobust(&attr,
							 PTHREAD_MUTEX_ROBUST));
		break;
	default:
		ASSERT_EQ(0, pthread_mutexattr_setprotocol(&attr,
							   PTHREAD_PRIO_INHERIT));
		break;
	}
	ASSERT_EQ(0, pthread_mutex_init(mutex, &attr));
	ASSERT_EQ(0, pthread_mutexattr_destroy(&attr));
}

/* The first worker holds the mutexes of its table until the gate opens. */
static void lock_all(struct worker *w)
{
	unsigned int i;

	for (i = 0; w->index == 0 && i < KINDS; i++)
		w->token |= pthread_mutex_lock(&held_by_worker[i]);
}

static void unlock_all(struct worker *w, enum side side)
{
	unsigned int i;

	for (i = 0; w->index == 0 && i < KINDS; i++)
		w->token |= pthread_mutex_unlock(&held_by_worker[i]);
	if (side != SIDE_REPLICA)
		return;
	replica_assert_eq(0, w->token);
	record(w->index, w->tid);
}

/* A process of 4 threads, and the other namespace of its replica. */
FIXTURE(namespace)
{
	struct workers ws;
	struct other_ns ns;
};

FIXTURE_VARIANT(namespace)
{
	bool entered;
};

FIXTURE_VARIANT_ADD(namespace, entered) { .entered = true };
FIXTURE_VARIANT_ADD(namespace, made_by_the_call) { };

FIXTURE_SETUP(namespace)
{
	unsigned int i;

	require_fullfork(_metadata);
	require_root(_metadata, "PID namespaces");
	for (i = 0; i < KINDS; i++) {
		init_mutex(_metadata, &held_by_caller[i], i);
		init_mutex(_metadata, &held_by_worker[i], i);
	}
	start_workers(_metadata, &self->ws, 3, lock_all, unlock_all);
	start_other_ns(_metadata, &self->ns, variant->entered);
}

FIXTURE_TEARDOWN(namespace)
{
	join_workers(_metadata, &self->ws);
	end_other_ns(_metadata, &self->ns);
}

static int unlock_held(void *ws)
{
	unsigned int i;

	replica_assert_eq(0, pthread_mutex_lock(&held_by_caller[RECURSIVE]));
	replica_assert_eq(0, pthread_mutex_unlock(&held_by_caller[RECURSIVE]));
	replica_assert_eq(EDEADLK,
			  pthread_mutex_lock(&held_by_caller[ERRORCHECK]));
	for (i = 0; i < KINDS; i++) {
		replica_assert_eq(0, pthread_mutex_unlock(&held_by_caller[i]));
		replica_assert_eq(0, pthread_mutex_lock(&held_by_caller[i]));
		replica_assert_eq(0, pthread_mutex_unlock(&held_by_caller[i]));
	}
	return run_replica_workers(ws);
}

TEST_F_LONG(namespace, lets_the_caller_unlock_what_it_held)
{
	unsigned int i;

	for (i = 0; i < KINDS; i++)
		ASSERT_EQ(0, pthread_mutex_lock(&held_by_caller[i]));
	fork_and_pass(_metadata, self->ns.flags, unlock_held, &self->ws);
	for (i = 0; i < KINDS; i++)
		ASSERT_EQ(0, pthread_mutex_unlock(&held_by_caller[i]));
}

static int take_from_worker(void *ws)
{
	unsigned int i;
	int ret;

	for (i = 0; i < KINDS; i++)
		replica_assert_eq(EBUSY,
				  pthread_mutex_trylock(&held_by_worker[i]));
	ret = run_replica_workers(ws);
	for (i = 0; i < KINDS; i++)
		replica_assert_eq(0, pthread_mutex_lock(&held_by_worker[i]));
	return ret;
}

TEST_F_LONG(namespace, lets_others_unlock_what_they_held)
{
	fork_and_pass(_metadata, self->ns.flags, take_from_worker, &self->ws);
}

static int see_owner_die(void *arg)
{
	struct workers *ws = arg;
	int ret = run_replica_workers(ws);

	replica_assert_eq(EOWNERDEAD,
			  pthread_mutex_lock(&held_by_caller[ROBUST]));
	replica_assert_eq(0,
			  pthread_mutex_consistent(&held_by_caller[ROBUST]));
	replica_assert_eq(0, pthread_mutex_unlock(&held_by_caller[ROBUST]));
	return ret;
}

static __u32 owner_may_end;

/* Holds the mutex in the original, and dies with it in the replica. */
static void *own_robust(void *arg)
{
	struct workers *ws = arg;

	pthread_mutex_lock(&held_by_caller[ROBUST]);
	store(&owner_may_end, 1);
	if (wait_gate(ws) == SIDE_REPLICA)
		replica_thread_exit();
	pthread_mutex_unlock(&held_by_caller[ROBUST]);
	return NULL;
}

TEST_F_LONG(namespace, tells_of_an_owner_that_dies)
{
	pthread_t owner;

	leave_other_ns(_metadata, &self->ns);
	ASSERT_EQ(0, pthread_create(&owner, NULL, own_robust, &self->ws));
	ASSERT_TRUE(wait_until(load(&owner_may_end), DEADLINE));
	enter_other_ns(_metadata, &self->ns);
	fork_and_pass(_metadata, self->ns.flags, see_owner_die, &self->ws);
	open_gate(&self->ws, SIDE_ORIGINAL);
	ASSERT_EQ(0, pthread_join(owner, NULL));
}

static __u32 waiter_tid;

/* Waits in the kernel for a PI mutex, in both processes. */
static void *wait_for_owner(void *arg)
{
	struct workers *ws = arg;

	store(&waiter_tid, sys_gettid());
	if (pthread_mutex_lock(&held_by_caller[PRIO_INHERIT]) ||
	    pthread_mutex_unlock(&held_by_caller[PRIO_INHERIT]))
		return arg;
	/* Only the replica opens its gate before it unlocks. */
	if (load(&ws->gate) == SIDE_REPLICA) {
		record(ws->count, sys_gettid());
		replica_thread_exit();
	}
	return NULL;
}

static int hand_to_waiter(void *arg)
{
	struct workers *ws = arg;

	open_gate(ws, SIDE_REPLICA);
	replica_assert_eq(0,
			  pthread_mutex_unlock(&held_by_caller[PRIO_INHERIT]));
	return wait_recorded(ws->count + 1) ? REPLICA_PASS : REPLICA_TIMEOUT;
}

TEST_F_LONG(namespace, hands_a_pi_mutex_to_its_waiter)
{
	pthread_t waiter;
	void *result;

	ASSERT_EQ(0, pthread_mutex_lock(&held_by_caller[PRIO_INHERIT]));
	leave_other_ns(_metadata, &self->ns);
	ASSERT_EQ(0, pthread_create(&waiter, NULL, wait_for_owner, &self->ws));
	ASSERT_TRUE(wait_until(load(&waiter_tid), DEADLINE));
	ASSERT_TRUE(wait_blocked(waiter_tid, __NR_futex));
	enter_other_ns(_metadata, &self->ns);
	fork_and_pass(_metadata, self->ns.flags, hand_to_waiter, &self->ws);
	EXPECT_EQ(waiter_tid, (__u32)report->slot[self->ws.count].tid);
	ASSERT_EQ(0, pthread_mutex_unlock(&held_by_caller[PRIO_INHERIT]));
	ASSERT_EQ(0, pthread_join(waiter, &result));
	EXPECT_EQ(NULL, result);
}

static void record_handler(int unused)
{
	store(&report->word[HANDLED_BY], sys_gettid());
}

static int signal_threads(void *arg)
{
	struct workers *ws = arg;
	struct sched_param param = {};
	struct worker *w = &ws->worker[1];
	clockid_t clock;
	struct timespec ts;
	int policy;

	replica_assert_eq(0, raise(SIGUSR1));
	replica_assert_eq(sys_gettid(), load(&report->word[HANDLED_BY]));

	replica_assert_eq(0, pthread_kill(w->thread, SIGUSR1));
	replica_assert(wait_until(load(&report->word[HANDLED_BY]) ==
				  (__u32)w->tid, DEADLINE));

	replica_assert_eq(0, pthread_getschedparam(w->thread, &policy, &param));
	replica_assert_eq(0, pthread_setschedparam(w->thread, SCHED_BATCH,
						   &param));
	replica_assert_eq(SCHED_BATCH, sched_getscheduler(w->tid));
	replica_assert_eq(0, pthread_getcpuclockid(w->thread, &clock));
	replica_assert_eq(0, clock_gettime(clock, &ts));
	return run_replica_workers(ws);
}

TEST_F_LONG(namespace, lets_threads_be_named_by_handle)
{
	ASSERT_NE(SIG_ERR, signal(SIGUSR1, record_handler));
	fork_and_pass(_metadata, self->ns.flags, signal_threads, &self->ws);
	EXPECT_EQ(SCHED_OTHER, sched_getscheduler(self->ws.worker[1].tid));
}

static int join_all(void *arg)
{
	struct workers *ws = arg;
	int ret = run_replica_workers(ws);
	unsigned int i;

	for (i = 0; i < ws->count; i++)
		replica_assert_eq(0, pthread_join(ws->worker[i].thread, NULL));
	return ret;
}

TEST_F_LONG(namespace, lets_threads_be_joined)
{
	fork_and_pass(_metadata, self->ns.flags, join_all, &self->ws);
}

/*
 * Threads that come and go.  glibc holds recursive locks of its own for a
 * part of pthread_create() and of a thread's exit: without the same TIDs, one
 * in 50 to 250 replicas finds one of them held for ever.  The replicas make
 * threads of their own, which takes those locks.
 */
#define CHURNERS 3

static __u32 churn_ends;

static void *come_and_go(void *unused)
{
	return NULL;
}

static void *churn(void *unused)
{
	pthread_t thread;

	while (!load(&churn_ends))
		if (!pthread_create(&thread, NULL, come_and_go, NULL))
			pthread_join(thread, NULL);
	return NULL;
}

static int create_threads(void *unused)
{
	pthread_t thread;
	unsigned int i;

	for (i = 0; i < 10; i++) {
		replica_assert_eq(0, pthread_create(&thread, NULL, come_and_go,
						    NULL));
		replica_assert_eq(0, pthread_join(thread, NULL));
	}
	return REPLICA_PASS;
}

TEST_F_LONG(namespace, lets_threads_come_and_go)
{
	struct rounds rounds = { .least = 10, .most = 50 };
	pthread_t churner[CHURNERS];
	unsigned int i;

	leave_other_ns(_metadata, &self->ns);
	for (i = 0; i < CHURNERS; i++)
		ASSERT_EQ(0, pthread_create(&churner[i], NULL, churn, NULL));
	enter_other_ns(_metadata, &self->ns);
	while (next_round(&rounds))
		fork_and_pass(_metadata, self->ns.flags, create_threads, NULL);
	store(&churn_ends, 1);
	for (i = 0; i < CHURNERS; i++)
		ASSERT_EQ(0, pthread_join(churner[i], NULL));
}

TEST_HARNESS_MAIN
