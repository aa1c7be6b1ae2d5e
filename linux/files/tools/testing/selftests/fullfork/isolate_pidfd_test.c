// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: a pidfd of a member is one of its replica, in the replicas.
 */
#include "fullfork_isolate.h"

#include <sys/epoll.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* A process with one child, that the child's replica ends as it does. */
FIXTURE(pidfd)
{
	pid_t child;
	int fd;
	int ep;
};

FIXTURE_SETUP(pidfd)
{
	struct epoll_event event = { .events = EPOLLIN };

	require_isolate(_metadata);
	self->child = fork();
	ASSERT_LE(0, self->child);
	if (!self->child)
		for (;;)
			pause();
	self->fd = sys_pidfd_open(self->child);
	ASSERT_LE(0, self->fd);
	self->ep = epoll_create1(0);
	ASSERT_LE(0, self->ep);
	ASSERT_EQ(0, epoll_ctl(self->ep, EPOLL_CTL_ADD, self->fd, &event));
}

FIXTURE_TEARDOWN(pidfd)
{
	ASSERT_EQ(0, kill(self->child, SIGKILL));
	xwaitpid(_metadata, self->child, DEADLINE);
}

static long pid_of(int fd)
{
	char path[64], text[4096], *line;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (read_file(path, text, sizeof(text)) < 0)
		return -1;
	line = strstr(text, "\nPid:");
	return line ? strtol(line + 5, NULL, 10) : -1;
}

static bool is_child(pid_t pid)
{
	char buf[32];

	return read_status_field(pid, pid, "PPid", buf, sizeof(buf)) &&
	       atoi(buf) == syscall(__NR_getpid);
}

static int kill_own_child(void *arg)
{
	FIXTURE_DATA(pidfd) *self = arg;
	long pid = pid_of(self->fd);
	struct epoll_event event;
	int status;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert(pid > 0 && pid != self->child);
	replica_assert(is_child(pid));
	replica_assert_eq(0, epoll_wait(self->ep, &event, 1, 0));
	replica_assert_eq(0, syscall(__NR_pidfd_send_signal, self->fd, SIGKILL, NULL, 0));
	replica_assert_eq(1, epoll_wait(self->ep, &event, 1, DEADLINE * 1000));
	replica_assert_eq(pid, waitpid(-1, &status, 0));
	replica_assert(WIFSIGNALED(status));
	return REPLICA_PASS;
}

TEST_F(pidfd, is_of_the_replica)
{
	struct epoll_event event;

	isolate_and_pass(_metadata, CLONE_SUBTREE, kill_own_child, self);
	EXPECT_EQ(self->child, pid_of(self->fd));
	EXPECT_EQ(0, kill(self->child, 0));
	EXPECT_EQ(0, epoll_wait(self->ep, &event, 1, 0));
}

static int see_original(void *arg)
{
	FIXTURE_DATA(pidfd) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	replica_assert_eq(self->child, pid_of(self->fd));
	return REPLICA_PASS;
}

TEST_F(pidfd, stays_that_of_a_process_that_is_not_copied)
{
	isolate_and_pass(_metadata, 0, see_original, self);
}

static int see_self(void *arg)
{
	int *fds = arg;

	replica_assert_eq(syscall(__NR_getpid), pid_of(fds[0]));
	replica_assert_eq(syscall(__NR_getpid), pid_of(fds[1]));
	replica_assert(is_same_file(fds[0], fds[2]));
	replica_assert(!is_same_file(fds[0], fds[1]));
	replica_assert_eq(PIDFD_THREAD, fcntl(fds[1], F_GETFL) & PIDFD_THREAD);
	return REPLICA_PASS;
}

TEST_F(pidfd, may_be_of_the_caller_itself)
{
	int fds[3];

	fds[0] = sys_pidfd_open(getpid());
	fds[1] = syscall(__NR_pidfd_open, getpid(), PIDFD_THREAD);
	fds[2] = dup(fds[0]);
	ASSERT_LE(0, fds[0]);
	ASSERT_LE(0, fds[1]);
	ASSERT_LE(0, fds[2]);
	isolate_and_pass(_metadata, 0, see_self, fds);
	EXPECT_EQ(getpid(), pid_of(fds[0]));
}

static int see_self_alone(void *arg)
{
	int *fd = arg;

	replica_assert_fdinfo("copied", *fd);
	replica_assert_eq(syscall(__NR_getpid), pid_of(*fd));
	return REPLICA_PASS;
}

/* With a table of its own, which nobody has who is not copied. */
static void *copy_alone(void *unused)
{
	struct fullfork_args args = {
		.flags = CLONE_SUBTREE | CLONE_ISOLATE,
		.exit_signal = SIGCHLD,
	};
	int fd;

	if (unshare(CLONE_FILES))
		return NULL;
	fd = sys_pidfd_open(getpid());
	return (void *)replica_main(sys_clone3(&args, sizeof(args)), see_self_alone, &fd);
}

/* Copied is another thread than the one that has the PID of the process. */
TEST_F(pidfd, may_be_of_the_process_of_the_caller)
{
	pthread_t thread;
	siginfo_t info;
	void *pid;

	/* As a zombie it is copied, too, and in nobody's way. */
	ASSERT_EQ(0, kill(self->child, SIGKILL));
	ASSERT_EQ(0, waitid(P_PID, self->child, &info, WEXITED | WNOWAIT));
	ASSERT_EQ(0, pthread_create(&thread, NULL, copy_alone, NULL));
	ASSERT_EQ(0, pthread_join(thread, &pid));
	ASSERT_LT(0, (long)pid);
	expect_pass(_metadata, (long)pid);
}

TEST_HARNESS_MAIN
