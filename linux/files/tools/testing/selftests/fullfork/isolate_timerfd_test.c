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
};

FIXTURE_VARIANT_ADD(timerfd, monotonic) { .clock = CLOCK_MONOTONIC };
FIXTURE_VARIANT_ADD(timerfd, realtime) { .clock = CLOCK_REALTIME };
FIXTURE_VARIANT_ADD(timerfd, boottime_alarm) { .clock = CLOCK_BOOTTIME_ALARM };

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

TEST_HARNESS_MAIN
