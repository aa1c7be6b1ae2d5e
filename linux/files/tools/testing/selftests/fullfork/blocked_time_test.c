// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: calls that end by themselves at a given time
 *
 * They end at the time that was first asked for, in both processes, and
 * neither early nor as much later as a call that starts anew would.
 */

#include "fullfork_blocked.h"
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>

#define MSEC 800

static int fds[2];
static int epfd;
static int semid;
static mqd_t queue;
static __u32 word;

static const struct timespec relative = { .tv_nsec = MSEC * 1000000 };

static struct timespec absolute(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	ts.tv_nsec += MSEC * 1000000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	return ts;
}

static void prepare_pipe(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, pipe(fds));
}

static void prepare_epoll(struct __test_metadata *_metadata)
{
	prepare_pipe(_metadata);
	epfd = create_epoll(_metadata, fds[0]);
}

static void prepare_socket(struct __test_metadata *_metadata)
{
	struct timeval tv = { .tv_usec = MSEC * 1000 };

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	ASSERT_EQ(0, setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &tv,
				sizeof(tv)));
}

static void prepare_semaphore(struct __test_metadata *_metadata)
{
	semid = semget(IPC_PRIVATE, 1, 0600);
	ASSERT_LE(0, semid);
}

static void prepare_queue(struct __test_metadata *_metadata)
{
	queue = create_queue(_metadata, 1);
}

static void prepare_signals(struct __test_metadata *_metadata)
{
	block_signal(_metadata, SIGUSR1);
}

static long call_nanosleep(void)
{
	return outcome(!nanosleep(&relative, NULL));
}

static long sleep_relative(clockid_t clock)
{
	errno = clock_nanosleep(clock, 0, &relative, NULL);
	return outcome(!errno);
}

static long sleep_absolute(clockid_t clock)
{
	struct timespec ts = absolute(clock);

	errno = clock_nanosleep(clock, TIMER_ABSTIME, &ts, NULL);
	return outcome(!errno);
}

static long call_sleep_realtime(void)
{
	return sleep_relative(CLOCK_REALTIME);
}

static long call_sleep_monotonic(void)
{
	return sleep_relative(CLOCK_MONOTONIC);
}

static long call_sleep_boottime(void)
{
	return sleep_relative(CLOCK_BOOTTIME);
}

static long call_sleep_until_realtime(void)
{
	return sleep_absolute(CLOCK_REALTIME);
}

static long call_sleep_until_monotonic(void)
{
	return sleep_absolute(CLOCK_MONOTONIC);
}

static long call_sleep_until_tai(void)
{
	return sleep_absolute(CLOCK_TAI);
}

static long call_poll(void)
{
	struct pollfd pfd = { .fd = fds[0], .events = POLLIN };

	return outcome(!poll(&pfd, 1, MSEC));
}

static long call_ppoll(void)
{
	struct pollfd pfd = { .fd = fds[0], .events = POLLIN };

	return outcome(!ppoll(&pfd, 1, &relative, NULL));
}

static long call_select(void)
{
	struct timeval tv = { .tv_usec = MSEC * 1000 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(fds[0], &set);
	return outcome(!select(fds[0] + 1, &set, NULL, NULL, &tv));
}

static long call_pselect(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(fds[0], &set);
	return outcome(!pselect(fds[0] + 1, &set, NULL, NULL, &relative, NULL));
}

static long call_epoll_wait(void)
{
	struct epoll_event event;

	return outcome(!epoll_wait(epfd, &event, 1, MSEC));
}

static long call_epoll_pwait2(void)
{
	struct epoll_event event;

	return outcome(!epoll_pwait2(epfd, &event, 1, &relative, NULL));
}

/* As a futex call ends by its timeout. */
static long timed_out(long ret)
{
	if (ret == -1 && errno == ETIMEDOUT)
		errno = 0;
	else if (!errno)
		errno = EPROTO;
	return outcome(!errno);
}

static long call_futex_wait(void)
{
	return timed_out(syscall(__NR_futex, &word, FUTEX_WAIT_PRIVATE, 0,
				 &relative, NULL, 0));
}

static long call_futex_wait_bitset(void)
{
	struct timespec ts = absolute(CLOCK_MONOTONIC);

	return timed_out(syscall(__NR_futex, &word, FUTEX_WAIT_BITSET_PRIVATE,
				 0, &ts, NULL, FUTEX_BITSET_MATCH_ANY));
}

static long call_futex_wait_realtime(void)
{
	struct timespec ts = absolute(CLOCK_REALTIME);

	return timed_out(syscall(__NR_futex, &word,
				 FUTEX_WAIT_BITSET_PRIVATE |
				 FUTEX_CLOCK_REALTIME,
				 0, &ts, NULL, FUTEX_BITSET_MATCH_ANY));
}

static long call_futex_waitv(void)
{
	struct futex_waitv waiter = {
		.uaddr = ptr_to_u64(&word),
		.flags = FUTEX_32 | FUTEX_PRIVATE_FLAG,
	};
	struct timespec ts = absolute(CLOCK_MONOTONIC);

	return timed_out(syscall(__NR_futex_waitv, &waiter, 1, 0, &ts,
				 CLOCK_MONOTONIC));
}

static long call_semtimedop(void)
{
	struct sembuf op = { .sem_op = -1 };

	return outcome(semtimedop(semid, &op, 1, &relative) == -1 &&
		       errno == EAGAIN);
}

static long call_mq_timedreceive(void)
{
	struct timespec ts = absolute(CLOCK_REALTIME);
	char message[8];

	return outcome(mq_timedreceive(queue, message, sizeof(message), NULL,
				       &ts) == -1 && errno == ETIMEDOUT);
}

static long call_sigtimedwait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return outcome(sigtimedwait(&set, NULL, &relative) == -1 &&
		       errno == EAGAIN);
}

static long call_recv(void)
{
	char byte;

	return outcome(recv(fds[0], &byte, 1, 0) == -1 && errno == EAGAIN);
}

/*
 * Those that give EINTR whatever interrupts them start anew after a full fork,
 * as nothing remembers when they began.
 */
FIXTURE(sleeping)
{
};

FIXTURE_VARIANT(sleeping)
{
	struct blocking_call call;
};

FIXTURE_VARIANT_ADD(sleeping, in_nanosleep) {
	.call = { .call = call_nanosleep, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_clock_nanosleep_realtime) {
	.call = { .call = call_sleep_realtime, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_clock_nanosleep_monotonic) {
	.call = { .call = call_sleep_monotonic, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_clock_nanosleep_boottime) {
	.call = { .call = call_sleep_boottime, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_clock_nanosleep_until_realtime) {
	.call = { .call = call_sleep_until_realtime, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_clock_nanosleep_until_monotonic) {
	.call = { .call = call_sleep_until_monotonic, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_clock_nanosleep_until_tai) {
	.call = { .call = call_sleep_until_tai, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_poll) {
	.call = { .prepare = prepare_pipe, .call = call_poll, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_ppoll) {
	.call = { .prepare = prepare_pipe, .call = call_ppoll, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_select) {
	.call = { .prepare = prepare_pipe, .call = call_select, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_pselect) {
	.call = { .prepare = prepare_pipe, .call = call_pselect, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_epoll_wait) {
	.call = { .prepare = prepare_epoll, .call = call_epoll_wait,
		  .msec = MSEC, .anew = true },
};
FIXTURE_VARIANT_ADD(sleeping, in_epoll_pwait2) {
	.call = { .prepare = prepare_epoll, .call = call_epoll_pwait2,
		  .msec = MSEC, .anew = true },
};
FIXTURE_VARIANT_ADD(sleeping, in_futex_wait) {
	.call = { .call = call_futex_wait, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_futex_wait_bitset) {
	.call = { .call = call_futex_wait_bitset, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_futex_wait_realtime) {
	.call = { .call = call_futex_wait_realtime, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_futex_waitv) {
	.call = { .call = call_futex_waitv, .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_semtimedop) {
	.call = { .prepare = prepare_semaphore, .call = call_semtimedop,
		  .msec = MSEC, .anew = true },
};
FIXTURE_VARIANT_ADD(sleeping, in_mq_timedreceive) {
	.call = { .prepare = prepare_queue, .call = call_mq_timedreceive,
		  .msec = MSEC },
};
FIXTURE_VARIANT_ADD(sleeping, in_sigtimedwait) {
	.call = { .prepare = prepare_signals, .call = call_sigtimedwait,
		  .msec = MSEC, .anew = true },
};
FIXTURE_VARIANT_ADD(sleeping, in_recv) {
	.call = { .prepare = prepare_socket, .call = call_recv,
		  .msec = MSEC, .anew = true },
};

FIXTURE_SETUP(sleeping)
{
	semid = -1;
	setup_threads(_metadata);
}

FIXTURE_TEARDOWN(sleeping)
{
	if (semid >= 0)
		semctl(semid, 0, IPC_RMID);
}

TEST_F_GUARDED(sleeping, ends_in_time_in_both)
{
	expect_goes_on(_metadata, &variant->call, false);
}

TEST_HARNESS_MAIN
