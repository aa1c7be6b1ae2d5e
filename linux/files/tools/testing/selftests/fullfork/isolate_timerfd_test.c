// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: timerfds that only members have are copied, and go on.
 */
#include "fullfork_isolate.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

/* Long enough not to be over by accident, and too long to wait for. */
#define FAR 3600

FIXTURE(timerfd)
{
	int fd;
	int ep;
};

FIXTURE_VARIANT(timerfd)
{
	int clock;
	int time;		/* the clock that tells its time */
};

FIXTURE_VARIANT_ADD(timerfd, monotonic)
{
	.clock = CLOCK_MONOTONIC,
	.time = CLOCK_MONOTONIC,
};

FIXTURE_VARIANT_ADD(timerfd, realtime)
{
	.clock = CLOCK_REALTIME,
	.time = CLOCK_REALTIME,
};

/* Without a device there is nobody to tell its time. */
FIXTURE_VARIANT_ADD(timerfd, boottime_alarm)
{
	.clock = CLOCK_BOOTTIME_ALARM,
	.time = CLOCK_BOOTTIME,
};

FIXTURE_SETUP(timerfd)
{
	require_isolate(_metadata);
	require_root(_metadata, "alarm clocks");
	self->fd = timerfd_create(variant->clock, TFD_NONBLOCK);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(timerfd)
{
}

static int set_timer(int fd, long msec, long interval_msec)
{
	struct itimerspec spec = {
		.it_value = { msec / 1000, msec % 1000 * 1000000 },
		.it_interval = { interval_msec / 1000, interval_msec % 1000 * 1000000 },
	};

	return timerfd_settime(fd, 0, &spec, NULL);
}

static __u64 take_ticks(int fd)
{
	__u64 ticks = 0;

	return read(fd, &ticks, sizeof(ticks)) == sizeof(ticks) ? ticks : 0;
}

static bool is_due(int fd, int msec)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, msec) == 1;
}

static long seconds_left(int fd)
{
	struct itimerspec spec;

	return timerfd_gettime(fd, &spec) ? -1 : spec.it_value.tv_sec;
}

static int see_tick(void *arg)
{
	int *fd = arg;

	replica_assert_fdinfo("copied", *fd);
	replica_assert(is_due(*fd, DEADLINE * 1000));
	replica_assert_eq(1, take_ticks(*fd));
	replica_assert(!is_due(*fd, 0));
	replica_assert_eq(0, seconds_left(*fd));
	return REPLICA_PASS;
}

TEST_F(timerfd, expires_on_both_sides)
{
	long pid;

	ASSERT_EQ(0, set_timer(self->fd, 300, 0));
	pid = isolate(_metadata, 0, see_tick, &self->fd);
	EXPECT_TRUE(is_due(self->fd, DEADLINE * 1000));
	EXPECT_EQ(1, take_ticks(self->fd));
	expect_pass(_metadata, pid);
	EXPECT_FALSE(is_due(self->fd, 0));
}

/*
 * Every tick of 20 ms up to now is there, once: together they would get half.
 * Returns by how many ms some were missing.
 */
static long long count_ticks(int fd)
{
	long long start = now_ms(), missing = 0, now;
	__u64 ticks = 0;

	while (ticks < 20) {
		if (!is_due(fd, DEADLINE * 1000))
			return -1;
		now = now_ms();
		ticks += take_ticks(fd);
		if (now - start > (long long)(ticks + 1) * 20 + 1)
			missing = now - start - (ticks + 1) * 20;
	}
	return missing;
}

static int see_every_tick(void *arg)
{
	int *fd = arg;

	replica_assert_eq(0, count_ticks(*fd));
	return REPLICA_PASS;
}

TEST_F(timerfd, ticks_on_both_sides)
{
	long pid;

	ASSERT_EQ(0, set_timer(self->fd, 20, 20));
	pid = isolate(_metadata, 0, see_every_tick, &self->fd);
	/* With those of the time that the copy took. */
	EXPECT_EQ(0, count_ticks(self->fd));
	expect_pass(_metadata, pid);
}

static int see_unread_ticks(void *arg)
{
	int *fd = arg;

	replica_assert_eq(1, take_ticks(*fd));
	replica_assert_eq(0, take_ticks(*fd));
	replica_assert(seconds_left(*fd) >= FAR - 2 * DEADLINE);
	replica_assert(seconds_left(*fd) <= FAR);
	return REPLICA_PASS;
}

TEST_F(timerfd, keeps_ticks_that_were_not_read)
{
	ASSERT_EQ(0, set_timer(self->fd, 1, FAR * 1000L));
	ASSERT_TRUE(is_due(self->fd, DEADLINE * 1000));
	isolate_and_pass(_metadata, 0, see_unread_ticks, &self->fd);
	EXPECT_EQ(1, take_ticks(self->fd));
}

static int see_time_left(void *arg)
{
	int *fd = arg;

	replica_assert(seconds_left(*fd) >= FAR - 2 * DEADLINE);
	/* Not less, where the clock has ticks. */
	replica_assert(seconds_left(*fd) <= FAR);
	replica_assert_eq(0, set_timer(*fd, 3 * FAR * 1000L, 0));
	replica_assert(seconds_left(*fd) >= 2 * FAR);
	return REPLICA_PASS;
}

TEST_F(timerfd, is_set_on_one_side_only)
{
	ASSERT_EQ(0, set_timer(self->fd, FAR * 1000L, 0));
	isolate_and_pass(_metadata, 0, see_time_left, &self->fd);
	EXPECT_LE(FAR - 2 * DEADLINE, seconds_left(self->fd));
	EXPECT_GE(FAR, seconds_left(self->fd));
}

static int see_unset(void *arg)
{
	int *fd = arg;

	replica_assert_eq(0, seconds_left(*fd));
	replica_assert_eq(0, take_ticks(*fd));
	replica_assert_eq(EAGAIN, errno);
	replica_assert_eq(0, set_timer(*fd, 1, 0));
	replica_assert(is_due(*fd, DEADLINE * 1000));
	return REPLICA_PASS;
}

TEST_F(timerfd, stays_unset)
{
	isolate_and_pass(_metadata, 0, see_unset, &self->fd);
	EXPECT_FALSE(is_due(self->fd, 0));
}

TEST_F(timerfd, stays_over)
{
	ASSERT_EQ(0, set_timer(self->fd, 1, 0));
	ASSERT_TRUE(is_due(self->fd, DEADLINE * 1000));
	ASSERT_EQ(1, take_ticks(self->fd));
	isolate_and_pass(_metadata, 0, see_unset, &self->fd);
	EXPECT_FALSE(is_due(self->fd, 0));
}

static int see_shared(void *arg)
{
	int *fd = arg;

	replica_assert_fdinfo("shared", *fd);
	replica_assert_eq(1, take_ticks(*fd));
	return REPLICA_PASS;
}

TEST_F(timerfd, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	ASSERT_EQ(0, set_timer(self->fd, 1, 0));
	ASSERT_TRUE(is_due(self->fd, DEADLINE * 1000));
	isolate_and_pass(_metadata, 0, see_shared, &self->fd);
	EXPECT_EQ(0, take_ticks(self->fd));
	end_outsider(_metadata, outsider);
}

static int set_absolute(int fd, int clock, int flags, long msec)
{
	struct itimerspec spec = {};

	if (clock_gettime(clock, &spec.it_value))
		return -1;
	spec.it_value.tv_sec += msec / 1000;
	spec.it_value.tv_nsec += msec % 1000 * 1000000;
	if (spec.it_value.tv_nsec >= 1000000000) {
		spec.it_value.tv_sec++;
		spec.it_value.tv_nsec -= 1000000000;
	}
	return timerfd_settime(fd, TFD_TIMER_ABSTIME | flags, &spec, NULL);
}

TEST_F(timerfd, expires_on_both_sides_at_an_absolute_time)
{
	long pid;

	ASSERT_EQ(0, set_absolute(self->fd, variant->time, 0, 300));
	pid = isolate(_metadata, 0, see_tick, &self->fd);
	EXPECT_TRUE(is_due(self->fd, DEADLINE * 1000));
	EXPECT_EQ(1, take_ticks(self->fd));
	expect_pass(_metadata, pid);
	EXPECT_FALSE(is_due(self->fd, 0));
}

TEST_F(timerfd, knows_what_is_left_until_an_absolute_time)
{
	ASSERT_EQ(0, set_absolute(self->fd, variant->time, 0, FAR * 1000L));
	isolate_and_pass(_metadata, 0, see_time_left, &self->fd);
	EXPECT_LE(FAR - 2 * DEADLINE, seconds_left(self->fd));
	EXPECT_GE(FAR, seconds_left(self->fd));
}

static int see_tick_when_continued(void *arg)
{
	int *fd = arg;

	/* Which was while it was stopped. */
	replica_assert(is_due(*fd, 0));
	return see_tick(arg);
}

TEST_F(timerfd, expires_while_the_replica_is_stopped)
{
	long pid;

	ASSERT_EQ(0, set_timer(self->fd, 50, 0));
	pid = isolate(_metadata, CLONE_STOPPED, see_tick_when_continued, &self->fd);
	ASSERT_TRUE(WIFSTOPPED(xwait(_metadata, pid, WUNTRACED, DEADLINE)));
	/* The replica's expires at the same time, and has its second tick of the clock. */
	ASSERT_TRUE(is_due(self->fd, DEADLINE * 1000));
	ASSERT_EQ(0, set_timer(self->fd, 50, 0));
	ASSERT_TRUE(is_due(self->fd, DEADLINE * 1000));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
}

/* An edge that comes while the copy is made is not lost. */
static int wait_for_edge(void *arg)
{
	FIXTURE_DATA(timerfd) *self = arg;
	struct epoll_event event;

	replica_assert_eq(1, epoll_wait(self->ep, &event, 1, DEADLINE * 1000));
	replica_assert_eq(1, take_ticks(self->fd));
	return REPLICA_PASS;
}

TEST_F(timerfd, tells_an_epoll_of_its_own_side)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct rounds rounds = { .least = 5, .most = 100 };
	long pid;

	self->ep = epoll_create1(0);
	ASSERT_LE(0, self->ep);
	ASSERT_EQ(0, epoll_ctl(self->ep, EPOLL_CTL_ADD, self->fd, &event));
	while (next_round(&rounds)) {
		ASSERT_EQ(0, set_timer(self->fd, 1 + rounds.nr % 5, 0));
		pid = isolate(_metadata, 0, wait_for_edge, self);
		ASSERT_EQ(1, epoll_wait(self->ep, &event, 1, DEADLINE * 1000));
		ASSERT_EQ(1, take_ticks(self->fd));
		expect_pass(_metadata, pid);
	}
}

/* One that looks at a clock that is set meanwhile */
FIXTURE(wall_clock)
{
	int fd;
	long long offset;	/* of the clock */
};

static long long clock_offset(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000 - now_ms();
}

static int set_clock_offset(long long offset)
{
	long long ms = now_ms() + offset;
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	return clock_settime(CLOCK_REALTIME, &ts);
}

FIXTURE_SETUP(wall_clock)
{
	require_isolate(_metadata);
	require_root(_metadata, "the clock");
	self->offset = clock_offset();
	self->fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(wall_clock)
{
	EXPECT_EQ(0, set_clock_offset(self->offset));
}

static int see_new_time(void *arg)
{
	FIXTURE_DATA(wall_clock) *self = arg;

	wait_turn();
	replica_assert(is_due(self->fd, DEADLINE * 1000));
	replica_assert_eq(1, take_ticks(self->fd));
	return REPLICA_PASS;
}

TEST_F(wall_clock, that_is_set_is_seen_on_both_sides)
{
	long pid;

	ASSERT_EQ(0, set_absolute(self->fd, CLOCK_REALTIME, 0, FAR * 1000L));
	pid = isolate(_metadata, 0, see_new_time, self);
	ASSERT_EQ(0, set_clock_offset(self->offset + 2 * FAR * 1000L));
	give_turn();
	EXPECT_TRUE(is_due(self->fd, DEADLINE * 1000));
	EXPECT_EQ(1, take_ticks(self->fd));
	expect_pass(_metadata, pid);
}

static int see_old_time(void *arg)
{
	FIXTURE_DATA(wall_clock) *self = arg;

	wait_turn();
	replica_assert(!is_due(self->fd, 0));
	replica_assert(seconds_left(self->fd) >= FAR - 2 * DEADLINE);
	replica_assert(seconds_left(self->fd) <= FAR);
	return REPLICA_PASS;
}

TEST_F(wall_clock, that_is_set_does_not_matter_for_what_is_left)
{
	long pid;

	ASSERT_EQ(0, set_timer(self->fd, FAR * 1000L, 0));
	pid = isolate(_metadata, 0, see_old_time, self);
	ASSERT_EQ(0, set_clock_offset(self->offset + 2 * FAR * 1000L));
	give_turn();
	EXPECT_FALSE(is_due(self->fd, 0));
	expect_pass(_metadata, pid);
}

static bool is_cancelled_once(int fd)
{
	__u64 ticks;

	return is_due(fd, DEADLINE * 1000) && read(fd, &ticks, sizeof(ticks)) == -1 &&
	       errno == ECANCELED && read(fd, &ticks, sizeof(ticks)) == -1 && errno == EAGAIN;
}

static int see_cancelled(void *arg)
{
	FIXTURE_DATA(wall_clock) *self = arg;

	wait_turn();
	replica_assert(is_cancelled_once(self->fd));
	/* It is cancelled only, and has not expired. */
	replica_assert(seconds_left(self->fd) >= FAR - 2 * DEADLINE);
	return REPLICA_PASS;
}

TEST_F(wall_clock, that_is_set_cancels_both_sides)
{
	long pid;

	ASSERT_EQ(0, set_absolute(self->fd, CLOCK_REALTIME, TFD_TIMER_CANCEL_ON_SET,
				  FAR * 1000L));
	pid = isolate(_metadata, 0, see_cancelled, self);
	ASSERT_EQ(0, set_clock_offset(self->offset + 5000));
	give_turn();
	EXPECT_TRUE(is_cancelled_once(self->fd));
	expect_pass(_metadata, pid);
}

TEST_F(wall_clock, that_was_set_has_cancelled_both_sides)
{
	ASSERT_EQ(0, set_absolute(self->fd, CLOCK_REALTIME, TFD_TIMER_CANCEL_ON_SET,
				  FAR * 1000L));
	ASSERT_EQ(0, set_clock_offset(self->offset + 5000));
	give_turn();
	isolate_and_pass(_metadata, 0, see_cancelled, self);
	EXPECT_TRUE(is_cancelled_once(self->fd));
}

static int see_told(void *arg)
{
	FIXTURE_DATA(wall_clock) *self = arg;

	wait_turn();
	replica_assert(!is_due(self->fd, 0));
	return REPLICA_PASS;
}

/* Who was told is not told again, until it is set again. */
TEST_F(wall_clock, that_was_set_before_does_not_cancel)
{
	ASSERT_EQ(0, set_absolute(self->fd, CLOCK_REALTIME, TFD_TIMER_CANCEL_ON_SET,
				  FAR * 1000L));
	ASSERT_EQ(0, set_clock_offset(self->offset + 5000));
	ASSERT_TRUE(is_cancelled_once(self->fd));
	give_turn();
	isolate_and_pass(_metadata, 0, see_told, self);
}

static int end_cancelling(void *arg)
{
	FIXTURE_DATA(wall_clock) *self = arg;

	replica_assert_eq(0, set_absolute(self->fd, CLOCK_REALTIME, 0, FAR * 1000L));
	replica_assert_eq(0, set_clock_offset(self->offset + 5000));
	replica_assert(!is_due(self->fd, 0));
	return REPLICA_PASS;
}

TEST_F(wall_clock, cancels_on_one_side_only_if_the_other_does_not_want_it)
{
	ASSERT_EQ(0, set_absolute(self->fd, CLOCK_REALTIME, TFD_TIMER_CANCEL_ON_SET,
				  FAR * 1000L));
	isolate_and_pass(_metadata, 0, end_cancelling, self);
	EXPECT_TRUE(is_cancelled_once(self->fd));
}

TEST_HARNESS_MAIN
