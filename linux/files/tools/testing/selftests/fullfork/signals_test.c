// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: signals
 */

#include "fullfork_sync.h"
#include <sys/time.h>
#include <ucontext.h>

static stack_t alt_stacks[THREADS];
static __u32 handled;
static __u32 on_alt_stack;
static __u32 received;
static __u32 stop;

static const int blocked_sets[THREADS] = {
	SIGHUP, SIGINT, SIGQUIT, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH, SIGURG,
};

FIXTURE(signals)
{
};

FIXTURE_VARIANT(signals)
{
	bool by_sibling;
};

FIXTURE_VARIANT_ADD(signals, copied_by_leader) {
};

FIXTURE_VARIANT_ADD(signals, copied_by_sibling) {
	.by_sibling = true,
};

FIXTURE_SETUP(signals)
{
	setup_threads(_metadata);
}

FIXTURE_TEARDOWN(signals)
{
}

static void install(struct __test_metadata *_metadata, int sig,
		    void (*handler)(int sig), int flags)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = flags };

	ASSERT_EQ(0, sigaction(sig, &sa, NULL));
}

static void set_blocked(int sig, bool blocked)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	thread_check(!pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set,
				      NULL));
}

static bool is_pending(int sig)
{
	sigset_t set;

	sigpending(&set);
	return sigismember(&set, sig);
}

static void *keep_mask(void *arg)
{
	sigset_t before = {}, after = {};

	set_blocked(blocked_sets[(long)arg], true);
	pthread_sigmask(SIG_BLOCK, NULL, &before);
	arrive((long)arg);
	pass_own_gate();
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	thread_check(!memcmp(&before, &after, sizeof(before)));
	thread_check(sigismember(&after, blocked_sets[own_index]));
	thread_check(!sigismember(&after, SIGUSR1));
	return arg + 100;
}

TEST_F_GUARDED(signals, stay_blocked_for_each_thread)
{
	start_sleepers(_metadata, THREADS, keep_mask);
	run_in_both(_metadata, variant->by_sibling, join_later);
}

static void note_stack(int sig)
{
	char here;
	char *base = alt_stacks[own_index].ss_sp;

	if (&here >= base && &here < base + alt_stacks[own_index].ss_size)
		add(&on_alt_stack, 1);
	add(&handled, 1);
}

static void *keep_alt_stack(void *arg)
{
	stack_t *ss = &alt_stacks[(long)arg];
	stack_t now = {};

	ss->ss_size = 65536;
	ss->ss_sp = malloc(ss->ss_size);
	thread_check(ss->ss_sp && !sigaltstack(ss, NULL));
	arrive((long)arg);
	pass_own_gate();
	thread_check(!sigaltstack(NULL, &now));
	thread_check(now.ss_sp == ss->ss_sp && now.ss_size == ss->ss_size);
	thread_check(!raise(SIGUSR1));
	return arg + 100;
}

static int count_alt_stacks(void *arg)
{
	side_assert_eq(REPLICA_PASS, join_later(NULL));
	side_assert_eq(THREADS, load(&handled));
	side_assert_eq(THREADS, load(&on_alt_stack));
	return REPLICA_PASS;
}

TEST_F_GUARDED(signals, are_handled_on_the_alternate_stack_of_each_thread)
{
	install(_metadata, SIGUSR1, note_stack, SA_ONSTACK);
	start_sleepers(_metadata, THREADS, keep_alt_stack);
	run_in_both(_metadata, variant->by_sibling, count_alt_stacks);
}

static void count_handled(int sig)
{
	add(&handled, 1);
}

static void count_otherwise(int sig)
{
	add(&received, 1);
}

static void *raise_at_gate(void *arg)
{
	arrive((long)arg);
	pass_own_gate();
	thread_check(!raise(SIGUSR1));
	return arg + 100;
}

static int change_handler(void *arg)
{
	struct sigaction sa = {}, old;

	/* In the original it is still the old one after the replica's change. */
	side_assert_eq(0, sigaction(SIGUSR1, NULL, &old));
	side_assert(old.sa_handler == count_handled);
	side_assert_eq(0, sigaction(SIGUSR2, NULL, &old));
	side_assert(old.sa_handler == SIG_IGN);
	sa.sa_handler = count_otherwise;
	side_assert_eq(0, sigaction(SIGUSR1, &sa, NULL));
	side_assert_eq(REPLICA_PASS, join_later(NULL));
	side_assert_eq(0, load(&handled));
	side_assert_eq(THREADS, load(&received));
	return REPLICA_PASS;
}

TEST_F_GUARDED(signals, share_one_table_of_handlers_in_the_replica)
{
	install(_metadata, SIGUSR1, count_handled, 0);
	install(_metadata, SIGUSR2, SIG_IGN, 0);
	start_sleepers(_metadata, THREADS, raise_at_gate);
	run_in_both(_metadata, variant->by_sibling, change_handler);
}

static void *suspend(void *arg)
{
	sigset_t during, after;

	set_blocked(SIGUSR1, true);
	set_blocked(SIGUSR2, true);
	sigfillset(&during);
	sigdelset(&during, SIGUSR1);
	arrive((long)arg);
	thread_check(sigsuspend(&during) == -1 && errno == EINTR);
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	thread_check(sigismember(&after, SIGUSR1));
	thread_check(sigismember(&after, SIGUSR2));
	thread_check(!sigismember(&after, SIGHUP));
	return arg + 100;
}

static int resume_each(void *arg)
{
	int i;

	for (i = 0; i < THREADS; i++)
		side_assert_eq(0, pthread_kill(threads[i], SIGUSR1));
	side_assert_eq(REPLICA_PASS, join_threads(THREADS));
	side_assert_eq(THREADS, load(&handled));
	return REPLICA_PASS;
}

TEST_F_GUARDED(signals, restore_the_mask_after_sigsuspend)
{
	install(_metadata, SIGUSR1, count_handled, 0);
	start_sleepers(_metadata, THREADS, suspend);
	run_in_both(_metadata, variant->by_sibling, resume_each);
}

static void *have_pending(void *arg)
{
	set_blocked(SIGUSR1, true);
	set_blocked(SIGUSR2, true);
	thread_check(!pthread_kill(pthread_self(), SIGUSR1));
	arrive((long)arg);
	pass_own_gate();
	/* SIGUSR1 to this thread, SIGUSR2 to the process; as after fork(). */
	thread_check(is_pending(SIGUSR1) == !in_replica());
	thread_check(is_pending(SIGUSR2) == !in_replica());
	return arg + 100;
}

TEST_F_GUARDED(signals, pending_stay_with_the_original)
{
	install(_metadata, SIGUSR1, count_handled, 0);
	install(_metadata, SIGUSR2, count_handled, 0);
	set_blocked(SIGUSR1, true);
	set_blocked(SIGUSR2, true);
	start_sleepers(_metadata, THREADS, have_pending);
	ASSERT_EQ(0, kill(getpid(), SIGUSR2));
	run_in_both(_metadata, variant->by_sibling, join_later);
	EXPECT_EQ(0, load(&handled));
}

static void *unblock_pending(void *arg)
{
	set_blocked(SIGUSR1, true);
	thread_check(!pthread_kill(pthread_self(), SIGUSR1));
	arrive((long)arg);
	pass_own_gate();
	set_blocked(SIGUSR1, false);
	return arg + 100;
}

static int count_unblocked(void *arg)
{
	side_assert_eq(REPLICA_PASS, join_later(NULL));
	side_assert_eq(in_replica() ? 0 : THREADS, load(&handled));
	return REPLICA_PASS;
}

TEST_F_GUARDED(signals, pending_are_handled_once)
{
	install(_metadata, SIGUSR1, count_handled, 0);
	start_sleepers(_metadata, THREADS, unblock_pending);
	run_in_both(_metadata, variant->by_sibling, count_unblocked);
}

/*
 * Real-time signals queue, so none may be lost: the sender counts what it
 * sent, the handlers what came.  Signals that come while the threads are held
 * must neither end the call nor be seen by the replica.
 */
static void count_received(int sig)
{
	add(&received, 1);
}

static void *wait_stop(void *arg)
{
	struct timespec ts = { .tv_nsec = 500000 };

	arrive((long)arg);
	while (!load(&stop))
		nanosleep(&ts, NULL);
	return arg + 100;
}

enum {
	WORD_SENT,
	WORD_END,
	WORD_SENDER_DONE,
	WORD_SEEN,
};

static void send_signals(void)
{
	union sigval value = {};
	pid_t pid = getppid();
	unsigned int turn = 0;

	while (!load(&report->word[WORD_END])) {
		/* Not more than may be queued. */
		if (load(&report->word[WORD_SENT]) -
		    load(&report->word[WORD_SEEN]) > 200 ||
		    sigqueue(pid, SIGRTMIN, value))
			poll_pause();
		else
			add(&report->word[WORD_SENT], 1);
		/* Handled while others of the same number are queued. */
		if (turn++ % 8 == 0)
			kill(pid, SIGUSR1);
	}
	store(&report->word[WORD_SENDER_DONE], 1);
}

/*
 * A thread may be copied in its handler, before it has counted.  What was
 * only pending is not copied: that could be up to 200 signals.
 */
static int see_no_signal(void *arg)
{
	__u32 before = *(__u32 *)arg;

	replica_assert(load(&received) >= before);
	before = load(&received);
	replica_assert_eq(0, kill(getpid(), SIGRTMIN));
	replica_assert(wait_until(load(&received) > before, DEADLINE));
	replica_assert(load(&received) - before <= 2 * (THREADS + 2));
	return REPLICA_PASS;
}

/*
 * 60 forks, or 10 at least: with some hundred signals for each, nearly all meet
 * some thread of nine with one of them pending (get_signal() before the park,
 * and the check for pending signals in copy_process(), which must not apply).
 */
TEST_F_GUARDED(signals, arriving_meanwhile_are_neither_lost_nor_doubled)
{
	struct rounds rounds = { .least = 10, .most = 60 };
	unsigned int i;
	pid_t sender;
	__u32 before;
	int status;
	long pid;

	install(_metadata, SIGRTMIN, count_received, SA_RESTART);
	install(_metadata, SIGUSR1, count_handled, SA_RESTART);
	sender = start_process(_metadata, send_signals);
	for (i = 0; i < THREADS; i++)
		start_thread(&threads[i], wait_stop, (void *)(long)i);
	while (next_round(&rounds)) {
		before = load(&received);
		store(&report->word[WORD_SEEN], before);
		pid = replica_main(full_fork(0), see_no_signal, &before);
		ASSERT_LT(0, pid)
		{
			TH_LOG("full fork %u: %s", rounds.nr, strerror(-pid));
		}
		/* Signals go on: the replica is waited for as they come. */
		while (waitpid(pid, &status, WNOHANG) != pid) {
			store(&report->word[WORD_SEEN], load(&received));
			poll_pause();
		}
		ASSERT_EQ(REPLICA_PASS, WEXITSTATUS(status))
		{
			TH_LOG("status 0x%x %s", status, report->failure);
		}
	}
	store(&report->word[WORD_END], 1);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_SENDER_DONE]), DEADLINE));
	EXPECT_TRUE(wait_until(load(&received) >=
			       load(&report->word[WORD_SENT]), DEADLINE));
	EXPECT_EQ(load(&report->word[WORD_SENT]), load(&received));
	EXPECT_LT(rounds.nr, load(&received));
	EXPECT_LT(0, load(&handled));
	store(&stop, 1);
	EXPECT_EQ(REPLICA_PASS, join_threads(THREADS));
	ASSERT_EQ(sender, waitpid(sender, &status, 0));
}

static int have_no_timers(void *arg)
{
	struct itimerval it = { .it_value.tv_sec = 1 };

	replica_assert_eq(0, getitimer(ITIMER_REAL, &it));
	replica_assert_eq(0, it.it_value.tv_sec + it.it_value.tv_usec);
	replica_assert_eq(0, alarm(0));
	return REPLICA_PASS;
}

TEST_F_GUARDED(signals, of_timers_stay_with_the_original)
{
	struct itimerval it = { .it_value.tv_sec = 1000 };

	ASSERT_EQ(0, setitimer(ITIMER_REAL, &it, NULL));
	start_sleepers(_metadata, 2, pass_gate);
	run_in_replica(_metadata, false, have_no_timers);
	ASSERT_EQ(0, getitimer(ITIMER_REAL, &it));
	EXPECT_LT(1000 - TEST_DEADLINE, it.it_value.tv_sec);
	end_threads(_metadata, 2);
}

static int have_no_pdeath_signal(void *arg)
{
	int sig = -1;

	replica_assert_eq(0, prctl(PR_GET_PDEATHSIG, &sig));
	replica_assert_eq(0, sig);
	return REPLICA_PASS;
}

TEST_F_GUARDED(signals, at_the_parents_death_are_not_inherited)
{
	int sig = 0;

	ASSERT_EQ(0, prctl(PR_SET_PDEATHSIG, SIGUSR2));
	start_sleepers(_metadata, 2, pass_gate);
	run_in_replica(_metadata, false, have_no_pdeath_signal);
	ASSERT_EQ(0, prctl(PR_GET_PDEATHSIG, &sig));
	EXPECT_EQ(SIGUSR2, sig);
	end_threads(_metadata, 2);
}

TEST_HARNESS_MAIN
