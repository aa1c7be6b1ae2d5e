// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what the C library does with threads by their TID
 *
 * The library keeps each thread's TID in the word that the kernel clears at
 * its exit.  In a replica that word holds the TID of the replica.
 */

#include "fullfork_sync.h"

static pthread_mutex_t mutex;
static pthread_key_t key;
static __u32 handled[THREADS];
static __u32 destroyed;
static void *robust_heads[THREADS];
static size_t robust_lengths[THREADS];

FIXTURE(library)
{
};

FIXTURE_VARIANT(library)
{
	bool by_sibling;
};

FIXTURE_VARIANT_ADD(library, copied_by_leader) {
};

FIXTURE_VARIANT_ADD(library, copied_by_sibling) {
	.by_sibling = true,
};

FIXTURE_SETUP(library)
{
	setup_threads(_metadata);
}

FIXTURE_TEARDOWN(library)
{
}

static void count_signal(int sig)
{
	add(&handled[own_index], 1);
}

static void install_handler(struct __test_metadata *_metadata)
{
	struct sigaction sa = { .sa_handler = count_signal };

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
}

/* Once to each thread; the handler says in which it ran. */
static int kill_each(void *arg)
{
	int i;

	for (i = 0; i < THREADS; i++)
		side_assert_eq(0, pthread_kill(threads[i], SIGUSR1));
	for (i = 0; i < THREADS; i++) {
		side_assert(wait_until(load(&handled[i]), DEADLINE));
		side_assert_eq(1, load(&handled[i]));
	}
	return join_later(NULL);
}

TEST_F_GUARDED(library, signals_the_thread_it_names)
{
	install_handler(_metadata);
	start_sleepers(_metadata, THREADS, pass_gate);
	own_index = THREADS - 1;
	run_in_both(_metadata, variant->by_sibling, kill_each);
}

static void *raise_own(void *arg)
{
	arrive((long)arg);
	pass_own_gate();
	thread_check(!raise(SIGUSR1));
	thread_check(!pthread_kill(pthread_self(), SIGUSR1));
	thread_check(load(&handled[own_index]) == 2);
	return arg + 100;
}

TEST_F_GUARDED(library, signals_itself)
{
	install_handler(_metadata);
	start_sleepers(_metadata, THREADS, raise_own);
	run_in_both(_metadata, variant->by_sibling, join_later);
}

static void *pause_for_ever(void *arg)
{
	arrive((long)arg);
	for (;;)
		pause();
	return NULL;
}

static int cancel_each(void *arg)
{
	void *value;
	int i;

	for (i = 0; i < THREADS; i++)
		side_assert_eq(0, pthread_cancel(threads[i]));
	for (i = 0; i < THREADS; i++) {
		side_assert_eq(0, pthread_join(threads[i], &value));
		side_assert(value == PTHREAD_CANCELED);
	}
	return REPLICA_PASS;
}

TEST_F_GUARDED(library, cancels_threads)
{
	start_sleepers(_metadata, THREADS, pause_for_ever);
	run_in_both(_metadata, variant->by_sibling, cancel_each);
}

static int ask_about_each(void *arg)
{
	char name[16], wanted[16];
	struct sched_param param;
	struct timespec ts;
	clockid_t clock;
	int i, policy;

	for (i = 0; i < THREADS; i++) {
		side_assert_eq(0, pthread_getschedparam(threads[i], &policy,
							&param));
		side_assert_eq(SCHED_OTHER, policy);
		snprintf(wanted, sizeof(wanted), "named %d", i);
		side_assert_eq(0, pthread_setname_np(threads[i], wanted));
		side_assert_eq(0, pthread_getname_np(threads[i], name,
						     sizeof(name)));
		side_assert_eq(0, strcmp(name, wanted));
		side_assert_eq(0, pthread_getcpuclockid(threads[i], &clock));
		side_assert_eq(0, clock_gettime(clock, &ts));
	}
	return join_later(NULL);
}

TEST_F_GUARDED(library, asks_about_the_thread_it_names)
{
	start_sleepers(_metadata, THREADS, pass_gate);
	run_in_both(_metadata, variant->by_sibling, ask_about_each);
}

static void *compare_robust_list(void *arg)
{
	void *head = NULL;
	size_t len = 0;

	arrive((long)arg);
	thread_check(!syscall(__NR_get_robust_list, 0,
			      &robust_heads[own_index],
			      &robust_lengths[own_index]));
	thread_check(robust_heads[own_index]);
	pass_own_gate();
	thread_check(!syscall(__NR_get_robust_list, 0, &head, &len));
	thread_check(head == robust_heads[own_index]);
	thread_check(len == robust_lengths[own_index]);
	return arg + 100;
}

TEST_F_GUARDED(library, keeps_robust_lists)
{
	start_sleepers(_metadata, THREADS, compare_robust_list);
	run_in_both(_metadata, variant->by_sibling, join_later);
}

static void *die_with_mutex(void *arg)
{
	arrive((long)arg);
	pass_own_gate();
	thread_check(!pthread_mutex_lock(&mutex));
	return arg + 100;
}

static int inherit_mutex(void *arg)
{
	open_own_gate();
	side_assert_eq(REPLICA_PASS, join_threads(1));
	side_assert_eq(EOWNERDEAD, pthread_mutex_lock(&mutex));
	side_assert_eq(0, pthread_mutex_consistent(&mutex));
	side_assert_eq(0, pthread_mutex_unlock(&mutex));
	return REPLICA_PASS;
}

TEST_F_GUARDED(library, learns_of_owners_that_die_from_then_on)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	ASSERT_EQ(0, pthread_mutex_init(&mutex, &attr));
	start_sleepers(_metadata, 1, die_with_mutex);
	run_in_both(_metadata, variant->by_sibling, inherit_mutex);
}

static void destroy(void *value)
{
	if ((long)value == own_index + 1000)
		add(&destroyed, 1);
}

static void *keep_specific(void *arg)
{
	arrive((long)arg);
	thread_check(!pthread_setspecific(key, arg + 1000));
	pass_own_gate();
	thread_check(pthread_getspecific(key) == arg + 1000);
	return arg + 100;
}

static int count_destroyed(void *arg)
{
	side_assert_eq(REPLICA_PASS, join_later(NULL));
	side_assert_eq(THREADS, load(&destroyed));
	return REPLICA_PASS;
}

TEST_F_GUARDED(library, runs_destructors_of_thread_data)
{
	ASSERT_EQ(0, pthread_key_create(&key, destroy));
	start_sleepers(_metadata, THREADS, keep_specific);
	run_in_both(_metadata, variant->by_sibling, count_destroyed);
}

static void *detach_and_exit(void *arg)
{
	arrive((long)arg);
	pass_own_gate();
	thread_check(!pthread_detach(pthread_self()));
	return NULL;
}

static int wait_for_few(void *arg)
{
	open_own_gate();
	/* The caller, and perhaps the leader, which waits to join it. */
	side_assert(wait_until(count_threads(getpid()) <= 2, DEADLINE));
	expect_no_thread_failed();
	return REPLICA_PASS;
}

TEST_F_GUARDED(library, lets_detached_threads_end)
{
	start_sleepers(_metadata, THREADS, detach_and_exit);
	run_in_both(_metadata, variant->by_sibling, wait_for_few);
}

TEST_HARNESS_MAIN
