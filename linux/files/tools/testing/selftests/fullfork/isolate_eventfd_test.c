// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: eventfds that only members have are copied.
 */
#include "fullfork_isolate.h"

#include <linux/aio_abi.h>
#include <sys/eventfd.h>

FIXTURE(eventfd)
{
	int fd;
};

FIXTURE_SETUP(eventfd)
{
	require_isolate(_metadata);
	self->fd = eventfd(3, EFD_NONBLOCK);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(eventfd)
{
}

/* What read() gives, 0 if nothing. */
static __u64 take(int fd)
{
	__u64 count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static bool add_to(int fd, __u64 count)
{
	return write(fd, &count, sizeof(count)) == sizeof(count);
}

static int take_three(void *arg)
{
	int *fd = arg;

	wait_turn();
	replica_assert_eq(3, take(*fd));
	replica_assert_eq(0, take(*fd));
	replica_assert(add_to(*fd, 9));
	replica_assert_fdinfo("copied", *fd);
	return REPLICA_PASS;
}

TEST_F(eventfd, has_its_count_on_both_sides)
{
	long pid = isolate(_metadata, 0, take_three, &self->fd);

	EXPECT_EQ(3, take(self->fd));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, take(self->fd));
}

static int take_ones(void *arg)
{
	int *fd = arg;

	replica_assert_eq(1, take(*fd));
	replica_assert_eq(1, take(*fd));
	replica_assert_eq(0, take(*fd));
	return REPLICA_PASS;
}

TEST_F(eventfd, stays_a_semaphore)
{
	int fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);

	ASSERT_LE(0, fd);
	isolate_and_pass(_metadata, 0, take_ones, &fd);
	EXPECT_EQ(1, take(fd));
	EXPECT_EQ(1, take(fd));
	EXPECT_EQ(0, take(fd));
}

static int see_full(void *arg)
{
	int *fd = arg;

	replica_assert(!add_to(*fd, 2));
	replica_assert_eq(EAGAIN, errno);
	replica_assert_eq(0xfffffffffffffffeULL, take(*fd));
	replica_assert(add_to(*fd, 2));
	return REPLICA_PASS;
}

TEST_F(eventfd, is_full_if_it_was)
{
	ASSERT_EQ(3, take(self->fd));
	ASSERT_TRUE(add_to(self->fd, 0xfffffffffffffffeULL));
	isolate_and_pass(_metadata, 0, see_full, &self->fd);
	EXPECT_FALSE(add_to(self->fd, 2));
}

static int see_flags(void *arg)
{
	int *fds = arg;

	replica_assert_eq(O_RDWR | O_NONBLOCK, fcntl(fds[0], F_GETFL));
	replica_assert_eq(FD_CLOEXEC, fcntl(fds[0], F_GETFD));
	replica_assert(is_same_file(fds[0], fds[1]));
	replica_assert_eq(0, fcntl(fds[1], F_GETFD));
	replica_assert(add_to(fds[1], 4));
	replica_assert_eq(7, take(fds[0]));
	return REPLICA_PASS;
}

TEST_F(eventfd, keeps_flags_and_duplicates)
{
	int fds[] = { self->fd, dup(self->fd) };

	ASSERT_LE(0, fds[1]);
	ASSERT_EQ(0, fcntl(fds[0], F_SETFD, FD_CLOEXEC));
	isolate_and_pass(_metadata, 0, see_flags, fds);
	EXPECT_EQ(3, take(self->fd));
}

static int take_shared(void *arg)
{
	int *fd = arg;

	replica_assert_fdinfo("shared", *fd);
	replica_assert_eq(3, take(*fd));
	return REPLICA_PASS;
}

TEST_F(eventfd, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	isolate_and_pass(_metadata, 0, take_shared, &self->fd);
	EXPECT_EQ(0, take(self->fd));
	end_outsider(_metadata, outsider);
}

/* A name of it in /proc that somebody holds open is as good. */
TEST_F(eventfd, is_shared_if_somebody_else_has_a_path_to_it)
{
	char path[64];
	pid_t outsider;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	fd = open(path, O_PATH);
	ASSERT_LE(0, fd);
	outsider = start_outsider(_metadata, fd);
	ASSERT_EQ(0, close(fd));
	isolate_and_pass(_metadata, 0, take_shared, &self->fd);
	EXPECT_EQ(0, take(self->fd));
	end_outsider(_metadata, outsider);
}

static int wake_thread(void *arg)
{
	int *fd = arg;

	replica_assert(add_to(*fd, 5));
	replica_assert(wait_until(load(&report->slot[5].recorded), DEADLINE));
	return REPLICA_PASS;
}

static void *wait_in_thread(void *arg)
{
	int *fd = arg;

	record(take(*fd), 0);
	return NULL;
}

static bool is_blocked_in_read(pid_t pid, pid_t tid)
{
	return is_blocked(pid, tid, __NR_read);
}

TEST_F(eventfd, wakes_a_thread_of_its_own_side)
{
	int fd = eventfd(0, 0);
	pthread_t thread;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pthread_create(&thread, NULL, wait_in_thread, &fd));
	ASSERT_TRUE(wait_until(count_tasks(getpid(), is_blocked_in_read) == 1, DEADLINE));
	isolate_and_pass(_metadata, 0, wake_thread, &fd);
	EXPECT_EQ(1, count_tasks(getpid(), is_blocked_in_read));
	ASSERT_TRUE(add_to(fd, 6));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(1, report->slot[6].recorded);
}

/* The copy of a copy is one, too. */
static int copy_again(void *arg)
{
	int *fd = arg;
	int status;
	long pid;

	replica_assert_eq(3, take(*fd));
	replica_assert(add_to(*fd, 1));
	pid = full_fork(CLONE_ISOLATE);
	if (!pid) {
		replica_assert_eq(1, take(*fd));
		replica_exit(REPLICA_PASS);
	}
	replica_assert(pid > 0);
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert(WIFEXITED(status) && WEXITSTATUS(status) == REPLICA_PASS);
	replica_assert_eq(1, take(*fd));
	return REPLICA_PASS;
}

TEST_F(eventfd, is_copied_by_replicas)
{
	isolate_and_pass(_metadata, 0, copy_again, &self->fd);
	EXPECT_EQ(3, take(self->fd));
}

/* The rest of a descriptor table is as with fork(). */
static int see_others(void *arg)
{
	int *fds = arg;
	char byte;

	replica_assert(!strcmp("", fdinfo_says("self", fds[1])));
	replica_assert_eq(1, read(fds[1], &byte, 1));
	replica_assert_eq(3, take(fds[0]));
	return REPLICA_PASS;
}

TEST_F(eventfd, is_copied_beside_what_is_not)
{
	int fds[] = { self->fd, open("/proc/self/stat", O_RDONLY) };

	ASSERT_LE(0, fds[1]);
	isolate_and_pass(_metadata, 0, see_others, fds);
	EXPECT_EQ(1, lseek(fds[1], 0, SEEK_CUR));
}

/* Of descriptors: even ones are eventfds, but for the outsider's; odd ones devices; then a gap. */
#define NR_MANY		600
#define OUTSIDERS	512
#define LAST		1000

static int see_many(void *arg)
{
	int *first = arg, fd;

	for (fd = *first; fd < NR_MANY; fd += 2) {
		if (fd == OUTSIDERS)
			continue;
		replica_assert_eq(fd, take(fd));
		replica_assert(add_to(fd, 1));
	}
	replica_assert_eq(LAST, take(LAST));
	replica_assert_fdinfo("copied", LAST);
	replica_assert_fdinfo("shared", OUTSIDERS);
	replica_assert_eq(OUTSIDERS, take(OUTSIDERS));
	return REPLICA_PASS;
}

static void put_eventfd(struct __test_metadata *_metadata, int at)
{
	int fd = eventfd(at, EFD_NONBLOCK);

	ASSERT_EQ(at, dup2(fd, at));
	if (fd != at)
		ASSERT_EQ(0, close(fd));
}

TEST_F(eventfd, is_found_among_many)
{
	int first, fd, device = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pid_t outsider;

	ASSERT_LE(0, device);
	first = (device + 2) & ~1;
	put_eventfd(_metadata, OUTSIDERS);
	outsider = start_outsider(_metadata, OUTSIDERS);
	for (fd = first; fd < NR_MANY; fd += 2) {
		if (fd != OUTSIDERS)
			put_eventfd(_metadata, fd);
		ASSERT_EQ(fd + 1, dup2(device, fd + 1));
	}
	put_eventfd(_metadata, LAST);

	isolate_and_pass(_metadata, 0, see_many, &first);
	for (fd = first; fd < NR_MANY; fd += 2)
		EXPECT_EQ(fd == OUTSIDERS ? 0 : fd, take(fd));
	EXPECT_EQ(LAST, take(LAST));
	end_outsider(_metadata, outsider);
}

TEST_HARNESS_MAIN
