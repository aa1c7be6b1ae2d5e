// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: signalfds that only members have are copied.  They give everybody
 * their own signals anyway; what is copied is the mask, and what an epoll is told.
 */
#include "fullfork_isolate.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>

FIXTURE(signalfd)
{
	int fd;
	int ep;
};

static sigset_t set_of(int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return set;
}

FIXTURE_SETUP(signalfd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = 7 };
	sigset_t set = set_of(SIGUSR1);
	sigset_t both = set;

	require_isolate(_metadata);
	sigaddset(&both, SIGUSR2);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &both, NULL));
	self->fd = signalfd(-1, &set, SFD_NONBLOCK);
	ASSERT_LE(0, self->fd);
	self->ep = epoll_create1(0);
	ASSERT_LE(0, self->ep);
	ASSERT_EQ(0, epoll_ctl(self->ep, EPOLL_CTL_ADD, self->fd, &event));
}

FIXTURE_TEARDOWN(signalfd)
{
}

/* The next signal, 0 if there is none. */
static int take(int fd)
{
	struct signalfd_siginfo info;

	return read(fd, &info, sizeof(info)) == sizeof(info) ? info.ssi_signo : 0;
}

static int change_mask(void *arg)
{
	FIXTURE_DATA(signalfd) *self = arg;
	sigset_t set = set_of(SIGUSR2);

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(O_RDWR | O_NONBLOCK, fcntl(self->fd, F_GETFL));
	replica_assert_eq(self->fd, signalfd(self->fd, &set, 0));
	replica_assert_eq(0, kill(syscall(__NR_getpid), SIGUSR1));
	replica_assert_eq(0, take(self->fd));
	replica_assert_eq(0, kill(syscall(__NR_getpid), SIGUSR2));
	replica_assert_eq(SIGUSR2, take(self->fd));
	return REPLICA_PASS;
}

TEST_F(signalfd, has_a_mask_on_each_side)
{
	isolate_and_pass(_metadata, 0, change_mask, self);
	ASSERT_EQ(0, kill(getpid(), SIGUSR2));
	EXPECT_EQ(0, take(self->fd));
	ASSERT_EQ(0, kill(getpid(), SIGUSR1));
	EXPECT_EQ(SIGUSR1, take(self->fd));
}

/* Is told while it sleeps: nothing was pending when the copy was made. */
static int wait_for_signal(void *arg)
{
	FIXTURE_DATA(signalfd) *self = arg;
	struct epoll_event event;

	replica_assert_eq(1, epoll_wait(self->ep, &event, 1, DEADLINE * 1000));
	replica_assert_eq(7, event.data.u32);
	replica_assert_eq(SIGUSR1, take(self->fd));
	replica_assert_eq(0, epoll_wait(self->ep, &event, 1, 0));
	return REPLICA_PASS;
}

TEST_F(signalfd, tells_an_epoll_of_signals_of_its_own_side)
{
	struct epoll_event event;
	long pid = isolate(_metadata, 0, wait_for_signal, self);

	ASSERT_TRUE(wait_until(is_blocked(pid, pid, __NR_epoll_wait) ||
			       is_blocked(pid, pid, __NR_epoll_pwait), DEADLINE));
	ASSERT_EQ(0, kill(pid, SIGUSR1));
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, epoll_wait(self->ep, &event, 1, 0));
	ASSERT_EQ(0, kill(getpid(), SIGUSR1));
	EXPECT_EQ(1, epoll_wait(self->ep, &event, 1, 0));
}

/* Not those of the one who makes the copy. */
static void wait_as_original(FIXTURE_DATA(signalfd) *self)
{
	struct epoll_event event;

	if (epoll_wait(self->ep, &event, 1, DEADLINE * 1000) != 1 ||
	    take(self->fd) != SIGUSR1)
		_exit(1);
	_exit(REPLICA_PASS);
}

static long isolate_other(pid_t pid)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_FROM_PIDFD | CLONE_ISOLATE,
		.exit_signal = SIGCHLD,
		.source_pidfd = sys_pidfd_open(pid),
	};
	long ret = sys_clone3(&args, sizeof(args));

	close(args.source_pidfd);
	return ret;
}

TEST_F(signalfd, tells_an_epoll_of_signals_of_whom_it_is)
{
	sigset_t set = set_of(SIGUSR1);
	long original = fork(), pid;

	ASSERT_LE(0, original);
	if (!original) {
		close(self->fd);
		close(self->ep);
		self->fd = signalfd(-1, &set, SFD_NONBLOCK);
		self->ep = epoll_create1(0);
		epoll_ctl(self->ep, EPOLL_CTL_ADD, self->fd,
			  &(struct epoll_event){ .events = EPOLLIN });
		wait_as_original(self);
	}
	ASSERT_TRUE(wait_until(is_blocked(original, original, __NR_epoll_wait) ||
			       is_blocked(original, original, __NR_epoll_pwait), DEADLINE));
	/* The caller has one pending. */
	ASSERT_EQ(0, kill(getpid(), SIGUSR1));
	pid = isolate_other(original);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(wait_until(is_blocked(pid, pid, __NR_epoll_wait) ||
			       is_blocked(pid, pid, __NR_epoll_pwait), DEADLINE));
	ASSERT_EQ(0, kill(pid, SIGUSR1));
	expect_pass(_metadata, pid);
	ASSERT_EQ(0, kill(original, SIGUSR1));
	expect_pass(_metadata, original);
	EXPECT_EQ(SIGUSR1, take(self->fd));
}

/* With what was sent before the copy. */
static int see_pending(void *arg)
{
	FIXTURE_DATA(signalfd) *self = arg;
	struct epoll_event event;

	replica_assert_eq(1, epoll_wait(self->ep, &event, 1, 0));
	replica_assert_eq(SIGUSR1, take(self->fd));
	replica_assert_eq(0, epoll_wait(self->ep, &event, 1, 0));
	return REPLICA_PASS;
}

TEST_F(signalfd, gives_what_was_pending)
{
	struct epoll_event event;

	ASSERT_EQ(0, kill(getpid(), SIGUSR1));
	isolate_and_pass(_metadata, 0, see_pending, self);
	EXPECT_EQ(1, epoll_wait(self->ep, &event, 1, 0));
	EXPECT_EQ(SIGUSR1, take(self->fd));
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(signalfd) *self = arg;
	sigset_t set = set_of(SIGUSR2);

	replica_assert_fdinfo("shared", self->fd);
	replica_assert_eq(self->fd, signalfd(self->fd, &set, 0));
	return REPLICA_PASS;
}

TEST_F(signalfd, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	isolate_and_pass(_metadata, 0, see_shared, self);
	ASSERT_EQ(0, kill(getpid(), SIGUSR2));
	EXPECT_EQ(SIGUSR2, take(self->fd));
	end_outsider(_metadata, outsider);
}

TEST_HARNESS_MAIN
