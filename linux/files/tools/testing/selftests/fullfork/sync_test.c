// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: joins, locks and other meetings of threads
 *
 * Each test brings threads into a state, makes a full fork, and then lets the
 * same function go on from there in the replica and in the original.
 */

#include "fullfork_sync.h"
#include <semaphore.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t sem;
static bool predicate;
static __u32 passed;

FIXTURE(threads)
{
};

FIXTURE_VARIANT(threads)
{
	bool by_sibling;
};

FIXTURE_VARIANT_ADD(threads, copied_by_leader) {
};

FIXTURE_VARIANT_ADD(threads, copied_by_sibling) {
	.by_sibling = true,
};

FIXTURE_SETUP(threads)
{
	setup_threads(_metadata);
}

FIXTURE_TEARDOWN(threads)
{
}

TEST_F_GUARDED(threads, are_joined_later)
{
	start_sleepers(_metadata, THREADS, pass_gate);
	run_in_both(_metadata, variant->by_sibling, join_later);
}

static void *join_first(void *arg)
{
	void *value = NULL;

	arrive((long)arg);
	thread_check(!pthread_join(threads[0], &value));
	thread_check((long)value == 100);
	return arg + 100;
}

static void *join_or_be_joined(void *arg)
{
	return arg ? join_first(arg) : pass_gate(arg);
}

static int join_the_joiner(void *arg)
{
	open_own_gate();
	side_assert_eq(0, pthread_join(threads[1], NULL));
	expect_no_thread_failed();
	return REPLICA_PASS;
}

TEST_F_GUARDED(threads, are_joined_by_a_join_in_flight)
{
	start_sleepers(_metadata, 2, join_or_be_joined);
	run_in_both(_metadata, variant->by_sibling, join_the_joiner);
}

static void *hold_mutex(void *arg)
{
	thread_check(!pthread_mutex_lock(&mutex));
	arrive((long)arg);
	pass_own_gate();
	thread_check(!pthread_mutex_unlock(&mutex));
	return arg + 100;
}

static void *hold_or_want_mutex(void *arg)
{
	if (!arg)
		return hold_mutex(arg);
	arrive((long)arg);
	thread_check(!pthread_mutex_lock(&mutex));
	add(&passed, 1);
	thread_check(!pthread_mutex_unlock(&mutex));
	return arg + 100;
}

static int take_held_mutex(void *arg)
{
	side_assert_eq(EBUSY, pthread_mutex_trylock(&mutex));
	side_assert_eq(0, load(&passed));
	open_own_gate();
	side_assert_eq(0, pthread_mutex_lock(&mutex));
	side_assert_eq(0, pthread_mutex_unlock(&mutex));
	side_assert_eq(REPLICA_PASS, join_threads(4));
	side_assert_eq(3, load(&passed));
	return REPLICA_PASS;
}

/* A plain mutex knows no owner, so one that is held goes on working. */
TEST_F_GUARDED(threads, pass_on_a_mutex_held_at_that_instant)
{
	start_sleepers(_metadata, 4, hold_or_want_mutex);
	run_in_both(_metadata, variant->by_sibling, take_held_mutex);
}

static void use_mutex(int type, int protocol, int robust)
{
	pthread_mutexattr_t attr;
	pthread_mutex_t m;

	pthread_mutexattr_init(&attr);
	thread_check(!pthread_mutexattr_settype(&attr, type));
	thread_check(!pthread_mutexattr_setprotocol(&attr, protocol));
	thread_check(!pthread_mutexattr_setrobust(&attr, robust));
	thread_check(!pthread_mutex_init(&m, &attr));
	thread_check(!pthread_mutex_lock(&m));
	switch (type) {
	case PTHREAD_MUTEX_RECURSIVE:
		thread_check(!pthread_mutex_lock(&m));
		thread_check(!pthread_mutex_unlock(&m));
		break;
	case PTHREAD_MUTEX_ERRORCHECK:
		thread_check(pthread_mutex_lock(&m) == EDEADLK);
		break;
	}
	thread_check(!pthread_mutex_unlock(&m));
	if (type == PTHREAD_MUTEX_ERRORCHECK)
		thread_check(pthread_mutex_unlock(&m) == EPERM);
	thread_check(!pthread_mutex_destroy(&m));
}

static void *use_mutexes(void *arg)
{
	static const int types[] = {
		PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE,
		PTHREAD_MUTEX_ERRORCHECK,
	};
	int i;

	arrive((long)arg);
	pass_own_gate();
	for (i = 0; i < ARRAY_SIZE(types); i++) {
		use_mutex(types[i], PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
		use_mutex(types[i], PTHREAD_PRIO_NONE, PTHREAD_MUTEX_ROBUST);
		use_mutex(types[i], PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED);
		use_mutex(types[i], PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_ROBUST);
	}
	return arg + 100;
}

TEST_F_GUARDED(threads, take_mutexes_that_know_their_owner_from_then_on)
{
	start_sleepers(_metadata, THREADS, use_mutexes);
	run_in_both(_metadata, variant->by_sibling, join_later);
}

/* Two threads that want one PI mutex: the kernel looks the owner up. */
static void *contend_pi_mutex(void *arg)
{
	int i;

	arrive((long)arg);
	pass_own_gate();
	for (i = 0; i < 20; i++) {
		thread_check(!pthread_mutex_lock(&mutex));
		sched_yield();
		thread_check(!pthread_mutex_unlock(&mutex));
	}
	return arg + 100;
}

TEST_F_GUARDED(threads, contend_for_a_pi_mutex_from_then_on)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	ASSERT_EQ(0, pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT));
	ASSERT_EQ(0, pthread_mutex_init(&mutex, &attr));
	start_sleepers(_metadata, THREADS, contend_pi_mutex);
	run_in_both(_metadata, variant->by_sibling, join_later);
}

static void *wait_cond(void *arg)
{
	thread_check(!pthread_mutex_lock(&mutex));
	arrive((long)arg);
	while (!predicate)
		thread_check(!pthread_cond_wait(&cond, &mutex));
	thread_check(!pthread_mutex_unlock(&mutex));
	return arg + 100;
}

static int signal_cond(void *arg)
{
	side_assert_eq(0, pthread_mutex_lock(&mutex));
	predicate = true;
	side_assert_eq(0, pthread_cond_signal(&cond));
	side_assert_eq(0, pthread_cond_broadcast(&cond));
	side_assert_eq(0, pthread_mutex_unlock(&mutex));
	return join_threads(THREADS);
}

TEST_F_GUARDED(threads, are_woken_from_a_condition_variable)
{
	start_sleepers(_metadata, THREADS, wait_cond);
	run_in_both(_metadata, variant->by_sibling, signal_cond);
}

static void *use_rwlock(void *arg)
{
	if (arg) {
		arrive((long)arg);
		thread_check(!pthread_rwlock_wrlock(&rwlock));
	} else {
		thread_check(!pthread_rwlock_rdlock(&rwlock));
		arrive((long)arg);
		pass_own_gate();
	}
	thread_check(!pthread_rwlock_unlock(&rwlock));
	return arg + 100;
}

static int release_rwlock(void *arg)
{
	side_assert_eq(EBUSY, pthread_rwlock_trywrlock(&rwlock));
	open_own_gate();
	side_assert_eq(REPLICA_PASS, join_threads(4));
	side_assert_eq(0, pthread_rwlock_trywrlock(&rwlock));
	return REPLICA_PASS;
}

TEST_F_GUARDED(threads, pass_on_a_rwlock_held_at_that_instant)
{
	start_sleepers(_metadata, 4, use_rwlock);
	run_in_both(_metadata, variant->by_sibling, release_rwlock);
}

static void *wait_sem(void *arg)
{
	arrive((long)arg);
	thread_check(!sem_wait(&sem));
	return arg + 100;
}

static int post_sem(void *arg)
{
	int i;

	for (i = 0; i < THREADS; i++)
		side_assert_eq(0, sem_post(&sem));
	return join_threads(THREADS);
}

TEST_F_GUARDED(threads, are_woken_from_a_semaphore)
{
	ASSERT_EQ(0, sem_init(&sem, 0, 0));
	start_sleepers(_metadata, THREADS, wait_sem);
	run_in_both(_metadata, variant->by_sibling, post_sem);
}

static void *wait_barrier(void *arg)
{
	int ret;

	arrive((long)arg);
	ret = pthread_barrier_wait(&barrier);
	thread_check(!ret || ret == PTHREAD_BARRIER_SERIAL_THREAD);
	return arg + 100;
}

static int complete_barrier(void *arg)
{
	wait_barrier((void *)(THREADS - 1L));
	return join_threads(THREADS - 1);
}

TEST_F_GUARDED(threads, meet_at_a_barrier)
{
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, THREADS));
	start_sleepers(_metadata, THREADS - 1, wait_barrier);
	run_in_both(_metadata, variant->by_sibling, complete_barrier);
}

static bool is_other_awake(pid_t pid, pid_t tid)
{
	return tid != sys_gettid() && !is_sleeping(pid, tid);
}

static bool all_others_sleep(void)
{
	return !count_tasks(getpid(), is_other_awake);
}

static int create_then_wake(void *arg)
{
	pthread_t thread;
	int i;

	side_assert(wait_until(all_others_sleep(), DEADLINE));
	for (i = 0; i < 3; i++)
		side_assert_eq(0, pthread_create(&thread, NULL, pass_gate,
						 (void *)(THREADS - 1L)));
	side_assert(wait_until(load(&arrived) == THREADS + 3 &&
			       all_others_sleep(), DEADLINE));
	store(&gate, 1);
	side_assert_eq(THREADS + 3,
		       futex_wake(&gate, INT_MAX, FUTEX_PRIVATE_FLAG));
	return join_threads(THREADS);
}

/*
 * A process gets its private futex hash with its first new thread, which must
 * not leave behind waiters that a replica has had from its first moment on.
 */
TEST_F_GUARDED(threads, are_woken_after_a_new_thread_was_created)
{
	start_sleepers(_metadata, THREADS, pass_gate);
	run_in_both(_metadata, variant->by_sibling, create_then_wake);
}

static int create_many(void *arg)
{
	pthread_t thread;
	long i;

	open_own_gate();
	for (i = 0; i < 50; i++) {
		side_assert_eq(0, pthread_create(&thread, NULL, pass_gate,
						 (void *)(i % THREADS)));
		side_assert_eq(0, pthread_join(thread, NULL));
	}
	return join_threads(THREADS);
}

TEST_F_GUARDED(threads, leave_room_for_new_ones)
{
	start_sleepers(_metadata, THREADS, pass_gate);
	run_in_both(_metadata, variant->by_sibling, create_many);
}

TEST_HARNESS_MAIN
