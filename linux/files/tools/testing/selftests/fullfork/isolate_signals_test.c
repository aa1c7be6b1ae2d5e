// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: pending signals and timers are copied, too.
 */
#include "fullfork_isolate.h"

#include <sys/resource.h>
#include <sys/time.h>

/* Long enough not to be over by accident, and too long to wait for. */
#define FAR 3600

#define SIG_TIMER (SIGRTMIN + 1)

/* All signals that are used are blocked, and taken one by one. */
FIXTURE(signals)
{
	sigset_t set;
	timer_t timer;
};

FIXTURE_SETUP(signals)
{
	require_isolate(_metadata);
	sigemptyset(&self->set);
	sigaddset(&self->set, SIGUSR1);
	sigaddset(&self->set, SIGALRM);
	sigaddset(&self->set, SIGRTMIN);
	sigaddset(&self->set, SIG_TIMER);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &self->set, NULL));
}

FIXTURE_TEARDOWN(signals)
{
}

/* The number of the next signal within @seconds, -1 if there is none. */
static int take(const sigset_t *set, siginfo_t *info, int seconds)
{
	struct timespec ts = { .tv_sec = seconds };
	int sig;

	do {
		sig = sigtimedwait(set, info, &ts);
	} while (sig < 0 && errno == EINTR);
	return sig;
}

static bool takes_value(const sigset_t *set, int sig, int value)
{
	siginfo_t info = {};

	return take(set, &info, 0) == sig && info.si_value.sival_int == value;
}

static int see_queued(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	siginfo_t info;

	replica_assert_eq(SIGUSR1, take(&self->set, &info, 0));
	replica_assert_eq(SI_USER, info.si_code);
	replica_assert_eq(getuid(), info.si_uid);
	replica_assert(takes_value(&self->set, SIGRTMIN, 1));
	replica_assert(takes_value(&self->set, SIGRTMIN, 2));
	replica_assert_eq(-1, take(&self->set, &info, 0));
	return REPLICA_PASS;
}

TEST_F(signals, are_pending_on_both_sides)
{
	siginfo_t info;

	ASSERT_EQ(0, kill(getpid(), SIGUSR1));
	ASSERT_EQ(0, sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 1 }));
	ASSERT_EQ(0, sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 2 }));
	isolate_and_pass(_metadata, 0, see_queued, self);
	EXPECT_EQ(SIGUSR1, take(&self->set, &info, 0));
	EXPECT_TRUE(takes_value(&self->set, SIGRTMIN, 1));
	EXPECT_TRUE(takes_value(&self->set, SIGRTMIN, 2));
	EXPECT_EQ(-1, take(&self->set, &info, 0));
}

static int see_none(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	siginfo_t info;

	replica_assert_eq(-1, take(&self->set, &info, 0));
	return REPLICA_PASS;
}

static int pass_if_pending(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	siginfo_t info;

	replica_assert_eq(SIGUSR1, take(&self->set, &info, 0));
	return REPLICA_PASS;
}

/* The flag makes the difference. */
TEST_F(signals, are_not_copied_without_the_flag)
{
	siginfo_t info;

	ASSERT_EQ(0, kill(getpid(), SIGUSR1));
	fork_and_pass(_metadata, 0, see_none, self);
	isolate_and_pass(_metadata, 0, pass_if_pending, self);
	EXPECT_EQ(SIGUSR1, take(&self->set, &info, 0));
}

/* Those of one thread stay those of its replica. */
static void *wait_in_thread(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	siginfo_t info;

	while (!load(&report->word[WORD_FREE]))
		poll_pause();
	if (take(&self->set, &info, 0) == SIGUSR1)
		record(0, 0);
	return NULL;
}

TEST_F(signals, stay_with_their_thread)
{
	pthread_t thread;
	siginfo_t info;
	long pid;

	ASSERT_EQ(0, pthread_create(&thread, NULL, wait_in_thread, self));
	ASSERT_EQ(0, pthread_kill(thread, SIGUSR1));
	pid = full_fork(CLONE_ISOLATE);
	if (!pid) {
		/* Not ours. */
		replica_assert_eq(-1, take(&self->set, &info, 0));
		store(&report->word[WORD_FREE], 1);
		replica_assert_eq(0, pthread_join(thread, NULL));
		replica_exit(REPLICA_PASS);
	}
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	/* Of both threads. */
	EXPECT_EQ(2, report->slot[0].recorded);
}

TEST_F(signals, count_for_the_limit)
{
	struct rlimit limit, old;
	struct census before;
	int i;

	require_root(_metadata, "limits of another user");
	ASSERT_EQ(0, setresuid(23456, 23456, 0));
	for (i = 0; i < 6; i++)
		ASSERT_EQ(0, sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i }));
	ASSERT_EQ(0, getrlimit(RLIMIT_SIGPENDING, &old));
	limit = old;
	limit.rlim_cur = 8;
	ASSERT_EQ(0, setrlimit(RLIMIT_SIGPENDING, &limit));
	before = take_census();
	EXPECT_EQ(-EAGAIN, replica_main(full_fork(CLONE_ISOLATE), see_nothing, NULL));
	expect_census(before);
	ASSERT_EQ(0, setrlimit(RLIMIT_SIGPENDING, &old));
	isolate_and_pass(_metadata, 0, see_nothing, NULL);
	for (i = 0; i < 6; i++)
		EXPECT_TRUE(takes_value(&self->set, SIGRTMIN, i));
}

static int see_alarm(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	siginfo_t info;

	replica_assert_eq(SIGALRM, take(&self->set, &info, DEADLINE));
	return REPLICA_PASS;
}

TEST_F(signals, come_from_setitimer)
{
	struct itimerval it = { .it_value.tv_usec = 300000 };
	siginfo_t info;
	long pid;

	ASSERT_EQ(0, setitimer(ITIMER_REAL, &it, NULL));
	pid = isolate(_metadata, 0, see_alarm, self);
	EXPECT_EQ(SIGALRM, take(&self->set, &info, DEADLINE));
	expect_pass(_metadata, pid);
}

static int see_alarms(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerval it;
	siginfo_t info;
	int i;

	for (i = 0; i < 5; i++)
		replica_assert_eq(SIGALRM, take(&self->set, &info, DEADLINE));
	replica_assert_eq(0, getitimer(ITIMER_REAL, &it));
	replica_assert_eq(20000, it.it_interval.tv_usec);
	return REPLICA_PASS;
}

/* The first one is pending, and starts the next when it is taken. */
TEST_F(signals, come_again_from_setitimer)
{
	struct itimerval it = {
		.it_value.tv_usec = 1,
		.it_interval.tv_usec = 20000,
	};

	ASSERT_EQ(0, setitimer(ITIMER_REAL, &it, NULL));
	isolate_and_pass(_metadata, 0, see_alarms, self);
	EXPECT_EQ(REPLICA_PASS, see_alarms(self));
}

/* @notify: the process, or its first thread */
static void create_timer(struct __test_metadata *_metadata, FIXTURE_DATA(signals) *self,
			 clockid_t clock, int notify)
{
	struct sigevent event = {
		.sigev_notify = notify,
		.sigev_signo = SIG_TIMER,
		.sigev_value.sival_int = 77,
	};

	event._sigev_un._tid = getpid();
	ASSERT_EQ(0, timer_create(clock, &event, &self->timer));
}

static void make_timer(struct __test_metadata *_metadata, FIXTURE_DATA(signals) *self,
		       long msec, long interval_msec)
{
	struct itimerspec spec = {
		.it_value = { msec / 1000, msec % 1000 * 1000000 },
		.it_interval = { interval_msec / 1000, interval_msec % 1000 * 1000000 },
	};

	create_timer(_metadata, self, CLOCK_MONOTONIC, SIGEV_SIGNAL);
	ASSERT_EQ(0, timer_settime(self->timer, 0, &spec, NULL));
}

static int see_timer(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	siginfo_t info;

	replica_assert_eq(SIG_TIMER, take(&self->set, &info, DEADLINE));
	replica_assert_eq(SI_TIMER, info.si_code);
	replica_assert_eq(77, info.si_value.sival_int);
	replica_assert_eq(0, timer_delete(self->timer));
	return REPLICA_PASS;
}

TEST_F(signals, come_from_a_timer_with_its_id)
{
	siginfo_t info;
	long pid;

	make_timer(_metadata, self, 300, 0);
	pid = isolate(_metadata, 0, see_timer, self);
	EXPECT_EQ(SIG_TIMER, take(&self->set, &info, DEADLINE));
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, timer_delete(self->timer));
}

TEST_F(signals, come_from_a_timer_that_is_over)
{
	siginfo_t info;
	sigset_t pending;

	make_timer(_metadata, self, 1, 0);
	ASSERT_TRUE(wait_until(!sigpending(&pending) && sigismember(&pending, SIG_TIMER),
			       DEADLINE));
	isolate_and_pass(_metadata, 0, see_timer, self);
	EXPECT_EQ(SIG_TIMER, take(&self->set, &info, 0));
}

/* A signal that the original does not get any more, either. */
TEST_F(signals, do_not_come_from_a_timer_that_was_stopped)
{
	struct itimerspec never = {};
	sigset_t pending;

	make_timer(_metadata, self, 1, 0);
	ASSERT_TRUE(wait_until(!sigpending(&pending) && sigismember(&pending, SIG_TIMER),
			       DEADLINE));
	ASSERT_EQ(0, timer_settime(self->timer, 0, &never, NULL));
	isolate_and_pass(_metadata, 0, see_none, self);
}

/* Copied is one thread, which does not lead the process. */
struct lone {
	FIXTURE_DATA(signals) *self;
	int (*fn)(void *arg);
	long pid;
};

static void *copy_alone(void *arg)
{
	struct fullfork_args args = {
		.flags = CLONE_SUBTREE | CLONE_ISOLATE,
		.exit_signal = SIGCHLD,
	};
	struct lone *lone = arg;

	lone->pid = replica_main(sys_clone3(&args, sizeof(args)), lone->fn, lone->self);
	return NULL;
}

static void isolate_alone(struct __test_metadata *_metadata, FIXTURE_DATA(signals) *self,
			  int (*fn)(void *arg))
{
	struct lone lone = { .self = self, .fn = fn };
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, copy_alone, &lone));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_LT(0, lone.pid);
	expect_pass(_metadata, lone.pid);
}

static int start_own_timer(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerspec spec = { .it_value.tv_nsec = 1 };

	replica_assert_eq(0, timer_settime(self->timer, 0, &spec, NULL));
	return see_timer(arg);
}

TEST_F(signals, come_from_a_timer_where_the_leader_is_not_copied)
{
	siginfo_t info;

	create_timer(_metadata, self, CLOCK_MONOTONIC, SIGEV_SIGNAL);
	isolate_alone(_metadata, self, start_own_timer);
	EXPECT_EQ(-1, take(&self->set, &info, 0));
}

static int see_no_timer(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerspec spec = { .it_value.tv_nsec = 1 };

	replica_assert_eq(-1, timer_settime(self->timer, 0, &spec, NULL));
	replica_assert_eq(EINVAL, errno);
	return REPLICA_PASS;
}

TEST_F(signals, do_not_come_from_a_timer_for_a_thread_that_is_not_copied)
{
	siginfo_t info;

	create_timer(_metadata, self, CLOCK_MONOTONIC, SIGEV_THREAD_ID);
	isolate_alone(_metadata, self, see_no_timer);
	EXPECT_EQ(-1, take(&self->set, &info, 0));
}

static int see_ticks(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	long ticks = 0;
	siginfo_t info;

	while (ticks < 20) {
		replica_assert_eq(SIG_TIMER, take(&self->set, &info, DEADLINE));
		ticks += 1 + timer_getoverrun(self->timer);
	}
	return REPLICA_PASS;
}

TEST_F(signals, come_again_from_a_timer)
{
	make_timer(_metadata, self, 5, 5);
	isolate_and_pass(_metadata, 0, see_ticks, self);
	EXPECT_EQ(REPLICA_PASS, see_ticks(self));
}

static int see_time_left(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerspec spec = {};

	replica_assert_eq(0, timer_gettime(self->timer, &spec));
	replica_assert(spec.it_value.tv_sec > FAR - 2 * DEADLINE);
	replica_assert_eq(9, spec.it_interval.tv_sec);
	memset(&spec, 0, sizeof(spec));
	replica_assert_eq(0, timer_settime(self->timer, 0, &spec, NULL));
	return REPLICA_PASS;
}

TEST_F(signals, come_from_a_timer_of_its_own)
{
	struct itimerspec spec;

	make_timer(_metadata, self, FAR * 1000L, 9000);
	isolate_and_pass(_metadata, 0, see_time_left, self);
	ASSERT_EQ(0, timer_gettime(self->timer, &spec));
	EXPECT_LT(FAR - 2 * DEADLINE, spec.it_value.tv_sec);
}

/* What an interval of 1000 s has missed if it should have begun 5500 s ago. */
#define MISSED 5

static void start_late_timer(struct __test_metadata *_metadata, FIXTURE_DATA(signals) *self)
{
	struct itimerspec spec = { .it_interval.tv_sec = 1000 };
	sigset_t pending;

	create_timer(_metadata, self, CLOCK_REALTIME, SIGEV_SIGNAL);
	ASSERT_EQ(0, clock_gettime(CLOCK_REALTIME, &spec.it_value));
	spec.it_value.tv_sec -= 5500;
	ASSERT_EQ(0, timer_settime(self->timer, TIMER_ABSTIME, &spec, NULL));
	ASSERT_TRUE(wait_until(!sigpending(&pending) && sigismember(&pending, SIG_TIMER),
			       DEADLINE));
}

static int see_missed(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerspec spec = {};
	siginfo_t info;

	replica_assert_eq(SIG_TIMER, take(&self->set, &info, DEADLINE));
	replica_assert_eq(MISSED, info.si_overrun);
	replica_assert_eq(MISSED, timer_getoverrun(self->timer));
	replica_assert_eq(0, timer_gettime(self->timer, &spec));
	replica_assert(spec.it_value.tv_sec <= 500);
	replica_assert(spec.it_value.tv_sec >= 500 - 2 * DEADLINE);
	replica_assert_eq(-1, take(&self->set, &info, 0));
	return REPLICA_PASS;
}

TEST_F(signals, know_what_a_timer_has_missed)
{
	start_late_timer(_metadata, self);
	isolate_and_pass(_metadata, 0, see_missed, self);
	EXPECT_EQ(REPLICA_PASS, see_missed(self));
}

static int see_last_missed(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;

	replica_assert_eq(MISSED, timer_getoverrun(self->timer));
	return see_none(arg);
}

/* As the handler may ask that is in the middle of it. */
TEST_F(signals, know_what_a_timer_had_missed_when_it_told_the_last_time)
{
	siginfo_t info;

	start_late_timer(_metadata, self);
	ASSERT_EQ(SIG_TIMER, take(&self->set, &info, 0));
	isolate_and_pass(_metadata, 0, see_last_missed, self);
	EXPECT_EQ(MISSED, timer_getoverrun(self->timer));
}

static __u32 target_tid;
static __u32 target_goes_on;

static void *wait_for_timer(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	siginfo_t info = {};

	store(&target_tid, sys_gettid());
	while (!load(&target_goes_on))
		poll_pause();
	if (take(&self->set, &info, DEADLINE) == SIG_TIMER && info.si_value.sival_int == 77)
		record(0, 0);
	return NULL;
}

static bool is_for_thread(FIXTURE_DATA(signals) *self, pthread_t thread)
{
	struct itimerspec spec = { .it_value.tv_nsec = 1 };
	sigset_t pending;

	if (timer_settime(self->timer, 0, &spec, NULL))
		return false;
	store(&target_goes_on, 1);
	/* It is not the caller who takes it. */
	return !pthread_join(thread, NULL) && !sigpending(&pending) &&
	       !sigismember(&pending, SIG_TIMER);
}

TEST_F(signals, come_from_a_timer_to_the_thread_it_is_for)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = SIG_TIMER,
		.sigev_value.sival_int = 77,
	};
	pthread_t thread;
	long pid;

	ASSERT_EQ(0, pthread_create(&thread, NULL, wait_for_timer, self));
	ASSERT_TRUE(wait_until(load(&target_tid), DEADLINE));
	event._sigev_un._tid = target_tid;
	ASSERT_EQ(0, timer_create(CLOCK_MONOTONIC, &event, &self->timer));
	pid = full_fork(CLONE_ISOLATE);
	if (!pid) {
		replica_assert(is_for_thread(self, thread));
		replica_exit(REPLICA_PASS);
	}
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	/* That of the replica only. */
	EXPECT_EQ(1, report->slot[0].recorded);
	EXPECT_TRUE(is_for_thread(self, thread));
	EXPECT_EQ(2, report->slot[0].recorded);
}

/* At a time that is said, of each clock */
FIXTURE(clock)
{
	FIXTURE_DATA(signals) signals;
	clockid_t clock;
	struct timespec when;
};

FIXTURE_VARIANT(clock)
{
	clockid_t clock;
};

FIXTURE_VARIANT_ADD(clock, monotonic) { .clock = CLOCK_MONOTONIC };
FIXTURE_VARIANT_ADD(clock, boottime) { .clock = CLOCK_BOOTTIME };
FIXTURE_VARIANT_ADD(clock, realtime) { .clock = CLOCK_REALTIME };

FIXTURE_SETUP(clock)
{
	require_isolate(_metadata);
	sigemptyset(&self->signals.set);
	sigaddset(&self->signals.set, SIG_TIMER);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &self->signals.set, NULL));
	self->clock = variant->clock;
	create_timer(_metadata, &self->signals, self->clock, SIGEV_SIGNAL);
}

FIXTURE_TEARDOWN(clock)
{
}

static int set_absolute(FIXTURE_DATA(clock) *self, long msec)
{
	struct itimerspec spec = {};
	struct timespec *when = &self->when;

	if (clock_gettime(self->clock, when))
		return -1;
	when->tv_sec += msec / 1000;
	when->tv_nsec += msec % 1000 * 1000000;
	if (when->tv_nsec >= 1000000000) {
		when->tv_sec++;
		when->tv_nsec -= 1000000000;
	}
	spec.it_value = *when;
	return timer_settime(self->signals.timer, TIMER_ABSTIME, &spec, NULL);
}

static bool is_over(FIXTURE_DATA(clock) *self)
{
	struct timespec now;

	return !clock_gettime(self->clock, &now) &&
	       (now.tv_sec > self->when.tv_sec ||
		(now.tv_sec == self->when.tv_sec && now.tv_nsec >= self->when.tv_nsec));
}

static int see_timer_at_its_time(void *arg)
{
	FIXTURE_DATA(clock) *self = arg;
	siginfo_t info;

	replica_assert_eq(SIG_TIMER, take(&self->signals.set, &info, DEADLINE));
	replica_assert(is_over(self));
	replica_assert_eq(-1, take(&self->signals.set, &info, 0));
	return REPLICA_PASS;
}

TEST_F(clock, has_its_time_on_both_sides)
{
	long pid;

	ASSERT_EQ(0, set_absolute(self, 300));
	pid = isolate(_metadata, 0, see_timer_at_its_time, self);
	EXPECT_EQ(REPLICA_PASS, see_timer_at_its_time(self));
	expect_pass(_metadata, pid);
}

static int see_far_time(void *arg)
{
	FIXTURE_DATA(clock) *self = arg;
	struct itimerspec spec = {};

	replica_assert_eq(0, timer_gettime(self->signals.timer, &spec));
	replica_assert(spec.it_value.tv_sec >= FAR - 2 * DEADLINE);
	replica_assert(spec.it_value.tv_sec <= FAR);
	return REPLICA_PASS;
}

TEST_F(clock, knows_what_is_left)
{
	ASSERT_EQ(0, set_absolute(self, FAR * 1000L));
	isolate_and_pass(_metadata, 0, see_far_time, self);
	EXPECT_EQ(REPLICA_PASS, see_far_time(self));
}

/* CPU time, of a thread that makes no call but to look at it. */
static void use_cpu_time(long msec)
{
	struct timespec ts;
	long end;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	end = ts.tv_sec * 1000 + ts.tv_nsec / 1000000 + msec;
	do {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	} while (ts.tv_sec * 1000 + ts.tv_nsec / 1000000 < end);
}

static bool is_pending_after_work(int sig)
{
	sigset_t pending;

	use_cpu_time(10);
	return !sigpending(&pending) && sigismember(&pending, sig);
}

FIXTURE(cpu_timers)
{
	FIXTURE_DATA(signals) signals;
};

FIXTURE_VARIANT(cpu_timers)
{
	clockid_t clock;
	int notify;
};

FIXTURE_VARIANT_ADD(cpu_timers, process)
{
	.clock = CLOCK_PROCESS_CPUTIME_ID,
	.notify = SIGEV_SIGNAL,
};

FIXTURE_VARIANT_ADD(cpu_timers, thread)
{
	.clock = CLOCK_THREAD_CPUTIME_ID,
	.notify = SIGEV_THREAD_ID,
};

FIXTURE_SETUP(cpu_timers)
{
	require_isolate(_metadata);
	sigemptyset(&self->signals.set);
	sigaddset(&self->signals.set, SIG_TIMER);
	sigaddset(&self->signals.set, SIGVTALRM);
	sigaddset(&self->signals.set, SIGPROF);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &self->signals.set, NULL));
	create_timer(_metadata, &self->signals, variant->clock, variant->notify);
	/* A replica has not used any. */
	use_cpu_time(100);
}

FIXTURE_TEARDOWN(cpu_timers)
{
}

static int see_cpu_timer(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerspec spec = {};

	replica_assert_eq(0, timer_gettime(self->timer, &spec));
	/* More than nothing, and not more than it was. */
	replica_assert(spec.it_value.tv_nsec > 0 || spec.it_value.tv_sec == 1);
	replica_assert(spec.it_value.tv_sec <= 1);
	replica_assert(spec.it_value.tv_sec < 1 || !spec.it_value.tv_nsec);
	replica_assert(wait_until(is_pending_after_work(SIG_TIMER), DEADLINE));
	return see_timer(arg);
}

TEST_F(cpu_timers, expire_after_what_was_left)
{
	struct itimerspec spec = { .it_value.tv_sec = 1 };

	ASSERT_EQ(0, timer_settime(self->signals.timer, 0, &spec, NULL));
	isolate_and_pass(_metadata, 0, see_cpu_timer, &self->signals);
	EXPECT_EQ(REPLICA_PASS, see_cpu_timer(&self->signals));
}

/* The replica need not use any more. */
TEST_F(cpu_timers, have_expired)
{
	struct itimerspec spec = { .it_value.tv_nsec = 1 };

	ASSERT_EQ(0, timer_settime(self->signals.timer, 0, &spec, NULL));
	ASSERT_TRUE(wait_until(is_pending_after_work(SIG_TIMER), DEADLINE));
	isolate_and_pass(_metadata, 0, see_timer, &self->signals);
	EXPECT_EQ(REPLICA_PASS, see_timer(&self->signals));
}

static int see_cpu_ticks(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	long ticks = 0;
	siginfo_t info;

	while (ticks < 20) {
		replica_assert(wait_until(is_pending_after_work(SIG_TIMER), DEADLINE));
		replica_assert_eq(SIG_TIMER, take(&self->set, &info, 0));
		ticks += 1 + timer_getoverrun(self->timer);
	}
	return REPLICA_PASS;
}

TEST_F(cpu_timers, tick_on_both_sides)
{
	struct itimerspec spec = {
		.it_value.tv_nsec = 5000000,
		.it_interval.tv_nsec = 5000000,
	};

	ASSERT_EQ(0, timer_settime(self->signals.timer, 0, &spec, NULL));
	isolate_and_pass(_metadata, 0, see_cpu_ticks, &self->signals);
	EXPECT_EQ(REPLICA_PASS, see_cpu_ticks(&self->signals));
}

static int see_far_timer(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerspec spec = {};

	replica_assert_eq(0, timer_gettime(self->timer, &spec));
	replica_assert(spec.it_value.tv_sec >= FAR - 2 * DEADLINE);
	/* Would be more by what the original had used. */
	replica_assert(spec.it_value.tv_sec < FAR);
	replica_assert_eq(9, spec.it_interval.tv_sec);
	return REPLICA_PASS;
}

TEST_F(cpu_timers, know_what_is_left)
{
	struct itimerspec spec = { .it_value.tv_sec = FAR, .it_interval.tv_sec = 9 };

	ASSERT_EQ(0, timer_settime(self->signals.timer, 0, &spec, NULL));
	use_cpu_time(1);
	isolate_and_pass(_metadata, 0, see_far_timer, &self->signals);
	EXPECT_EQ(REPLICA_PASS, see_far_timer(&self->signals));
}

static int see_idle_timer(void *arg)
{
	FIXTURE_DATA(signals) *self = arg;
	struct itimerspec spec = {};

	replica_assert_eq(0, timer_gettime(self->timer, &spec));
	replica_assert(!spec.it_value.tv_sec && !spec.it_value.tv_nsec);
	replica_assert(!is_pending_after_work(SIG_TIMER));
	spec.it_value.tv_nsec = 1;
	replica_assert_eq(0, timer_settime(self->timer, 0, &spec, NULL));
	replica_assert(wait_until(is_pending_after_work(SIG_TIMER), DEADLINE));
	return see_timer(arg);
}

TEST_F(cpu_timers, are_started_by_the_replica)
{
	isolate_and_pass(_metadata, 0, see_idle_timer, &self->signals);
	EXPECT_FALSE(is_pending_after_work(SIG_TIMER));
}

FIXTURE(cpu_itimers)
{
	int which;
	int sig;
};

FIXTURE_VARIANT(cpu_itimers)
{
	int which;
	int sig;
};

FIXTURE_VARIANT_ADD(cpu_itimers, virtual)
{
	.which = ITIMER_VIRTUAL,
	.sig = SIGVTALRM,
};

FIXTURE_VARIANT_ADD(cpu_itimers, prof)
{
	.which = ITIMER_PROF,
	.sig = SIGPROF,
};

FIXTURE_SETUP(cpu_itimers)
{
	sigset_t set;

	require_isolate(_metadata);
	self->which = variant->which;
	self->sig = variant->sig;
	sigemptyset(&set);
	sigaddset(&set, self->sig);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	use_cpu_time(200);
}

FIXTURE_TEARDOWN(cpu_itimers)
{
}

static int see_far_itimer(void *arg)
{
	FIXTURE_DATA(cpu_itimers) *self = arg;
	struct itimerval it;

	replica_assert_eq(0, getitimer(self->which, &it));
	replica_assert(it.it_value.tv_sec >= FAR - 2 * DEADLINE);
	/* One tick is added; what the original had used is much more. */
	replica_assert(it.it_value.tv_sec < FAR || it.it_value.tv_usec <= 10000);
	replica_assert_eq(7, it.it_interval.tv_sec);
	return REPLICA_PASS;
}

TEST_F(cpu_itimers, know_what_is_left)
{
	struct itimerval it = { .it_value.tv_sec = FAR, .it_interval.tv_sec = 7 };

	ASSERT_EQ(0, setitimer(self->which, &it, NULL));
	isolate_and_pass(_metadata, 0, see_far_itimer, self);
	EXPECT_EQ(REPLICA_PASS, see_far_itimer(self));
}

static int see_itimer_ticks(void *arg)
{
	FIXTURE_DATA(cpu_itimers) *self = arg;
	siginfo_t info;
	sigset_t set;
	int i;

	sigemptyset(&set);
	sigaddset(&set, self->sig);
	for (i = 0; i < 5; i++) {
		replica_assert(wait_until(is_pending_after_work(self->sig), DEADLINE));
		replica_assert_eq(self->sig, take(&set, &info, 0));
	}
	return REPLICA_PASS;
}

TEST_F(cpu_itimers, tick_on_both_sides)
{
	struct itimerval it = { .it_value.tv_usec = 20000, .it_interval.tv_usec = 20000 };

	ASSERT_EQ(0, setitimer(self->which, &it, NULL));
	isolate_and_pass(_metadata, 0, see_itimer_ticks, self);
	EXPECT_EQ(REPLICA_PASS, see_itimer_ticks(self));
}

TEST_F(cpu_itimers, are_not_there_without_the_flag)
{
	struct itimerval it = { .it_value.tv_sec = FAR };
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS,
		.exit_signal = SIGCHLD,
	};
	long pid;

	ASSERT_EQ(0, setitimer(self->which, &it, NULL));
	pid = sys_clone3(&args, sizeof(args));
	if (!pid) {
		getitimer(self->which, &it);
		_exit(it.it_value.tv_sec ? 1 : REPLICA_PASS);
	}
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
}

/* It would wake the machine for each copy. */
TEST_F(signals, do_not_come_from_an_alarm_clock)
{
	struct itimerspec spec = { .it_value.tv_sec = 1000 };

	create_timer(_metadata, self, CLOCK_BOOTTIME_ALARM, SIGEV_SIGNAL);
	ASSERT_EQ(0, timer_settime(self->timer, 0, &spec, NULL));
	isolate_and_pass(_metadata, 0, see_no_timer, self);
	ASSERT_EQ(0, timer_gettime(self->timer, &spec));
	EXPECT_LT(0, spec.it_value.tv_sec);
}

TEST_HARNESS_MAIN
