// SPDX-License-Identifier: GPL-2.0
/*
 * What cannot be copied truly: the call says so before anything is copied,
 * and works once it is gone.
 */
#include "fullfork_selftest.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/sched/types.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif

#define AREA_SIZE 65536

/* Words of the report, for processes beside the test */
enum {
	CONTROL_RESULT,
	REFUSED_RESULT,
};

/* A process of three threads. */
FIXTURE(process)
{
	struct workers ws;
	sigset_t sigchld;
	char *area;
};

FIXTURE_SETUP(process)
{
	require_fullfork(_metadata);
	self->sigchld = block_signal(_metadata, SIGCHLD);
	start_workers(_metadata, &self->ws, 2, NULL, record_worker);
	self->area = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->area);
}

FIXTURE_TEARDOWN(process)
{
	join_workers(_metadata, &self->ws);
}

static void expect_refused(struct __test_metadata *_metadata,
			   struct workers *ws, sigset_t *sigchld)
{
	struct census before = take_census();

	EXPECT_EQ(-EOPNOTSUPP, replica_main(full_fork(0), run_replica_workers,
					    ws));
	expect_nothing_left(_metadata, before, sigchld);
}

static void expect_taken(struct __test_metadata *_metadata, struct workers *ws,
			 sigset_t *sigchld)
{
	fork_and_pass(_metadata, 0, run_replica_workers, ws);
	EXPECT_EQ(ws->count, report->recorded);
	report->recorded = 0;
	EXPECT_EQ(SIGCHLD, sigwaitinfo(sigchld, NULL));
}

TEST_F_LONG(process, rejects_dontfork_memory)
{
	ASSERT_EQ(0, madvise(self->area, AREA_SIZE / 2, MADV_DONTFORK));
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, madvise(self->area, AREA_SIZE / 2, MADV_DOFORK));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

TEST_F_LONG(process, rejects_registered_userfaultfd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.start = ptr_to_u64(self->area),
		.range.len = AREA_SIZE,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd;

	fd = syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	ASSERT_LE(0, fd)
	{
		TH_LOG("userfaultfd: %s", strerror(errno));
	}
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, ioctl(fd, UFFDIO_UNREGISTER, &reg.range));
	expect_taken(_metadata, &self->ws, &self->sigchld);
	EXPECT_EQ(0, close(fd));
}

TEST_F_LONG(process, rejects_aio_context)
{
	aio_context_t context = 0;

	ASSERT_EQ(0, syscall(__NR_io_setup, 8, &context))
	{
		TH_LOG("io_setup: %s", strerror(errno));
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, syscall(__NR_io_destroy, context));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

static int setup_ring(void)
{
	struct io_uring_params params = {};

	return syscall(__NR_io_uring_setup, 4, &params);
}

struct ring_user {
	__u32 may_end;
	__u32 tid;
	int fd;
};

static void *use_ring(void *arg)
{
	struct ring_user *user = arg;

	user->fd = setup_ring();
	store(&user->tid, sys_gettid());
	while (!load(&user->may_end))
		futex_wait(&user->may_end, 0, FUTEX_PRIVATE_FLAG, -1);
	close(user->fd);
	return NULL;
}

/* A thread that has used a ring counts as its user until it ends. */
TEST_F_LONG(process, rejects_thread_with_io_uring)
{
	struct ring_user user = {};
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, use_ring, &user));
	ASSERT_TRUE(wait_until(load(&user.tid), DEADLINE));
	ASSERT_TRUE(wait_blocked(user.tid, __NR_futex));
	ASSERT_LE(0, user.fd)
	{
		TH_LOG("io_uring_setup failed");
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);

	store(&user.may_end, 1);
	futex_wake(&user.may_end, 1, FUTEX_PRIVATE_FLAG);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

TEST_F_LONG(process, rejects_caller_with_io_uring)
{
	int fd;

	expect_taken(_metadata, &self->ws, &self->sigchld);
	fd = setup_ring();
	ASSERT_LE(0, fd)
	{
		TH_LOG("io_uring_setup: %s", strerror(errno));
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);
	EXPECT_EQ(0, close(fd));
}

/* A thread that waits until a timeout, and what its call returned. */
struct waiter {
	__u32 tid;
	long (*call)(void);
	long ret;
};

#define WAIT_SECONDS 4

static long wait_for_ring(void)
{
	struct __kernel_timespec ts = { .tv_sec = WAIT_SECONDS };
	struct io_uring_getevents_arg arg = { .ts = ptr_to_u64(&ts) };
	int fd = setup_ring();
	long ret;

	if (fd < 0)
		return -errno;
	ret = syscall(__NR_io_uring_enter, fd, 0, 1,
		      IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg,
		      sizeof(arg));
	ret = ret < 0 ? -errno : ret;
	close(fd);
	return ret;
}

static long wait_for_aio(void)
{
	struct timespec ts = { .tv_sec = WAIT_SECONDS };
	aio_context_t context = 0;
	struct io_event event;
	long ret;

	if (syscall(__NR_io_setup, 8, &context))
		return -errno;
	ret = syscall(__NR_io_getevents, context, 1, 1, &event, &ts);
	ret = ret < 0 ? -errno : ret;
	syscall(__NR_io_destroy, context);
	return ret;
}

/* To a socket with a timeout, which is full. */
static long wait_for_splice(void)
{
	struct timeval tv = { .tv_sec = WAIT_SECONDS };
	aio_context_t context = 0;
	static char page[4096];
	int sockets[2], source[2];
	long ret;

	if (syscall(__NR_io_setup, 8, &context) || pipe(source) ||
	    write(source[1], page, sizeof(page)) != sizeof(page) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) ||
	    setsockopt(sockets[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)))
		return -errno;
	while (send(sockets[0], page, sizeof(page), MSG_DONTWAIT) > 0)
		;
	ret = splice(source[0], NULL, sockets[0], NULL, sizeof(page), 0);
	ret = ret < 0 ? -errno : ret;
	syscall(__NR_io_destroy, context);
	close(sockets[0]);
	close(sockets[1]);
	close(source[0]);
	close(source[1]);
	return ret;
}

static void *wait_for_timeout(void *arg)
{
	struct waiter *waiter = arg;

	store(&waiter->tid, sys_gettid());
	waiter->ret = waiter->call();
	return NULL;
}

/* Such a call is EINTR whatever interrupts it, and the caller's not a signal. */
static void expect_not_interrupted(struct __test_metadata *_metadata,
				   struct workers *ws, sigset_t *sigchld,
				   long (*call)(void), long nr, long expected)
{
	struct waiter waiter = { .call = call };
	pthread_t thread;
	int i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, wait_for_timeout, &waiter));
	ASSERT_TRUE(wait_until(load(&waiter.tid), DEADLINE));
	ASSERT_TRUE(wait_blocked(waiter.tid, nr));
	for (i = 0; i < 3; i++) {
		expect_refused(_metadata, ws, sigchld);
		EXPECT_TRUE(wait_blocked(waiter.tid, nr));
	}
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(expected, waiter.ret);
}

TEST_F_LONG(process, is_not_interrupted_in_io_uring_enter)
{
	expect_not_interrupted(_metadata, &self->ws, &self->sigchld,
			       wait_for_ring, __NR_io_uring_enter, -ETIME);
}

TEST_F_LONG(process, is_not_interrupted_in_io_getevents)
{
	expect_not_interrupted(_metadata, &self->ws, &self->sigchld,
			       wait_for_aio, __NR_io_getevents, 0);
}

/* Its replica would wait for the lock of the pipe, which is held meanwhile. */
TEST_F_LONG(process, is_not_interrupted_in_splice)
{
	expect_not_interrupted(_metadata, &self->ws, &self->sigchld,
			       wait_for_splice, __NR_splice, -EAGAIN);
}

static int set_policy(pid_t tid, unsigned int policy)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = policy,
	};

	if (policy == SCHED_DEADLINE) {
		attr.sched_runtime = 10 * 1000 * 1000;
		attr.sched_deadline = 500 * 1000 * 1000;
		attr.sched_period = 500 * 1000 * 1000;
	}
	return syscall(__NR_sched_setattr, tid, &attr, 0);
}

TEST_F_LONG(process, rejects_deadline_thread)
{
	pid_t tid = self->ws.worker[0].tid;

	require_root(_metadata, "SCHED_DEADLINE");
	ASSERT_EQ(0, set_policy(tid, SCHED_DEADLINE))
	{
		TH_LOG("sched_setattr: %s", strerror(errno));
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, set_policy(tid, SCHED_OTHER));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

TEST_HARNESS_MAIN
