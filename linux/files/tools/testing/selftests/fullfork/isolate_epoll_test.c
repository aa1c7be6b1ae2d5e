// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: epoll instances that only members have are copied, and look at
 * the copies.
 */
#include "fullfork_isolate.h"
#include "fullfork_fuse.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

FIXTURE(epoll)
{
	int ep;
	int outer;		/* looks at ep */
	int pipe[2];
	int event;
};

FIXTURE_SETUP(epoll)
{
	require_isolate(_metadata);
	self->ep = epoll_create1(0);
	ASSERT_LE(0, self->ep);
	self->outer = -1;
	ASSERT_EQ(0, pipe2(self->pipe, O_NONBLOCK));
	self->event = eventfd(0, EFD_NONBLOCK);
	ASSERT_LE(0, self->event);
}

FIXTURE_TEARDOWN(epoll)
{
}

static int watch(int ep, int fd, __u32 events, __u64 data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
}

static int watch_again(int ep, int fd, __u32 events, __u64 data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	return epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event);
}

/* The data of all that is ready, in order, a digit each: 0 if nothing is. */
static long ready(int ep)
{
	struct epoll_event events[9];
	int i, n = epoll_wait(ep, events, ARRAY_SIZE(events), 0);
	long digits = 0;

	for (i = 0; i < n; i++)
		digits = digits * 10 + events[i].data.u64;
	return n < 0 ? -errno : digits;
}

static bool put_byte(int fd)
{
	return write(fd, "x", 1) == 1;
}

static bool take_byte(int fd)
{
	char byte;

	return read(fd, &byte, 1) == 1;
}

static bool signal_event(int fd)
{
	__u64 one = 1;

	return write(fd, &one, sizeof(one)) == sizeof(one);
}

static int see_own_pipe(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_fdinfo("copied", self->ep);
	replica_assert_eq(0, ready(self->ep));
	replica_assert(put_byte(self->pipe[1]));
	replica_assert_eq(1, ready(self->ep));
	replica_assert(signal_event(self->event));
	replica_assert_eq(12, ready(self->ep));
	replica_assert(take_byte(self->pipe[0]));
	replica_assert_eq(2, ready(self->ep));
	wait_turn();
	replica_assert_eq(2, ready(self->ep));
	return REPLICA_PASS;
}

TEST_F(epoll, looks_at_the_copies)
{
	long pid;

	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	ASSERT_EQ(0, watch(self->ep, self->event, EPOLLIN, 2));
	pid = isolate(_metadata, 0, see_own_pipe, self);
	EXPECT_TRUE(put_byte(self->pipe[1]));
	EXPECT_EQ(1, ready(self->ep));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(1, ready(self->ep));
	EXPECT_TRUE(take_byte(self->pipe[0]));
	EXPECT_EQ(0, ready(self->ep));
}

static int see_both_ready(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_eq(21, ready(self->ep));
	replica_assert_eq(21, ready(self->ep));
	return REPLICA_PASS;
}

TEST_F(epoll, keeps_what_is_ready_in_order)
{
	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	ASSERT_EQ(0, watch(self->ep, self->event, EPOLLIN, 2));
	ASSERT_TRUE(signal_event(self->event));
	ASSERT_TRUE(put_byte(self->pipe[1]));
	isolate_and_pass(_metadata, 0, see_both_ready, self);
	EXPECT_EQ(21, ready(self->ep));
}

/* An edge is told once: not again in the replica. */
static int see_edges(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_eq(2, ready(self->ep));
	replica_assert_eq(0, ready(self->ep));
	replica_assert(put_byte(self->pipe[1]));
	replica_assert_eq(1, ready(self->ep));
	replica_assert_eq(0, ready(self->ep));
	return REPLICA_PASS;
}

TEST_F(epoll, keeps_edges)
{
	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN | EPOLLET, 1));
	ASSERT_EQ(0, watch(self->ep, self->event, EPOLLIN | EPOLLET, 2));
	ASSERT_TRUE(put_byte(self->pipe[1]));
	ASSERT_EQ(1, ready(self->ep));
	ASSERT_EQ(0, ready(self->ep));
	ASSERT_TRUE(signal_event(self->event));
	isolate_and_pass(_metadata, 0, see_edges, self);
	EXPECT_EQ(2, ready(self->ep));
	EXPECT_EQ(0, ready(self->ep));
}

static int see_shots(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_eq(2, ready(self->ep));
	replica_assert_eq(0, ready(self->ep));
	/* Disabled, it tells nothing until it is asked to. */
	replica_assert(put_byte(self->pipe[1]));
	replica_assert_eq(0, ready(self->ep));
	replica_assert_eq(0, watch_again(self->ep, self->pipe[0], EPOLLIN | EPOLLONESHOT, 3));
	replica_assert_eq(3, ready(self->ep));
	replica_assert_eq(0, ready(self->ep));
	return REPLICA_PASS;
}

TEST_F(epoll, keeps_one_shots)
{
	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN | EPOLLONESHOT, 1));
	ASSERT_EQ(0, watch(self->ep, self->event, EPOLLIN | EPOLLONESHOT, 2));
	ASSERT_TRUE(put_byte(self->pipe[1]));
	ASSERT_EQ(1, ready(self->ep));
	ASSERT_TRUE(signal_event(self->event));
	isolate_and_pass(_metadata, 0, see_shots, self);
	EXPECT_EQ(2, ready(self->ep));
	EXPECT_EQ(0, ready(self->ep));
}

static int see_through_outer(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_eq(0, ready(self->outer));
	replica_assert(put_byte(self->pipe[1]));
	replica_assert_eq(7, ready(self->outer));
	replica_assert_eq(1, ready(self->ep));
	replica_assert(take_byte(self->pipe[0]));
	replica_assert_eq(0, ready(self->outer));
	return REPLICA_PASS;
}

TEST_F(epoll, may_be_nested)
{
	self->outer = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_LE(0, self->outer);
	ASSERT_EQ(0, watch(self->outer, self->ep, EPOLLIN, 7));
	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	isolate_and_pass(_metadata, 0, see_through_outer, self);
	EXPECT_EQ(0, ready(self->outer));
}

static int see_outer_ready(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_eq(7, ready(self->outer));
	replica_assert_eq(1, ready(self->ep));
	return REPLICA_PASS;
}

TEST_F(epoll, may_be_nested_and_ready)
{
	/* Found first, as its descriptor is the lower one. */
	self->outer = self->ep;
	self->ep = epoll_create1(0);
	ASSERT_LT(self->outer, self->ep);
	ASSERT_EQ(0, watch(self->outer, self->ep, EPOLLIN, 7));
	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	ASSERT_TRUE(put_byte(self->pipe[1]));
	isolate_and_pass(_metadata, 0, see_outer_ready, self);
	EXPECT_EQ(7, ready(self->outer));
}

/* An item is known by the number that it was added with. */
static int change_items(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 5 };

	replica_assert_eq(-1, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	replica_assert_eq(EEXIST, errno);
	replica_assert_eq(0, epoll_ctl(self->ep, EPOLL_CTL_MOD, self->pipe[0], &event));
	replica_assert(put_byte(self->pipe[1]));
	replica_assert_eq(5, ready(self->ep));
	replica_assert_eq(0, epoll_ctl(self->ep, EPOLL_CTL_DEL, self->pipe[0], NULL));
	replica_assert_eq(0, ready(self->ep));
	return REPLICA_PASS;
}

TEST_F(epoll, changes_on_one_side_only)
{
	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	isolate_and_pass(_metadata, 0, change_items, self);
	ASSERT_TRUE(put_byte(self->pipe[1]));
	EXPECT_EQ(1, ready(self->ep));
}

/* What it looks at may be shared while it is not. */
static int see_shared_pipe(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_fdinfo("copied", self->ep);
	replica_assert_fdinfo("shared", self->pipe[0]);
	wait_turn();
	replica_assert_eq(1, ready(self->ep));
	replica_assert_eq(0, epoll_ctl(self->ep, EPOLL_CTL_DEL, self->pipe[0], NULL));
	return REPLICA_PASS;
}

TEST_F(epoll, looks_at_what_is_shared)
{
	pid_t outsider;
	long pid;

	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	outsider = start_outsider(_metadata, self->pipe[1]);
	pid = isolate(_metadata, 0, see_shared_pipe, self);
	EXPECT_TRUE(put_byte(self->pipe[1]));
	give_turn();
	expect_pass(_metadata, pid);
	/* Deleted there, and not here. */
	EXPECT_EQ(1, ready(self->ep));
	end_outsider(_metadata, outsider);
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert_fdinfo("shared", self->ep);
	return REPLICA_PASS;
}

TEST_F(epoll, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->ep);

	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	isolate_and_pass(_metadata, 0, see_shared, self);
	end_outsider(_metadata, outsider);
	EXPECT_TRUE(put_byte(self->pipe[1]));
	EXPECT_EQ(1, ready(self->ep));
}

/* A thread that waits in it is told by its own side. */
static void *wait_in_thread(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;
	struct epoll_event event;

	if (epoll_wait(self->ep, &event, 1, -1) == 1)
		record(event.data.u64, 0);
	return NULL;
}

static bool waits_for_events(pid_t pid, pid_t tid)
{
	return is_blocked(pid, tid, __NR_epoll_wait);
}

static int wake_thread(void *arg)
{
	FIXTURE_DATA(epoll) *self = arg;

	replica_assert(put_byte(self->pipe[1]));
	replica_assert(wait_until(load(&report->slot[1].recorded), DEADLINE));
	return REPLICA_PASS;
}

TEST_F(epoll, wakes_a_thread_of_its_own_side)
{
	pthread_t thread;

	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 1));
	ASSERT_EQ(0, watch(self->ep, self->event, EPOLLIN, 2));
	ASSERT_EQ(0, pthread_create(&thread, NULL, wait_in_thread, self));
	ASSERT_TRUE(wait_until(count_tasks(getpid(), waits_for_events) == 1, DEADLINE));
	isolate_and_pass(_metadata, 0, wake_thread, self);
	EXPECT_EQ(1, count_tasks(getpid(), waits_for_events));
	ASSERT_TRUE(signal_event(self->event));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(1, report->slot[1].recorded);
	EXPECT_EQ(1, report->slot[2].recorded);
}

/* One file, with nothing to read. */
static void serve_file(const struct fuse_in_header *in)
{
	struct fuse_entry_out entry = {
		.nodeid = 2,
		.attr = { .ino = 2, .mode = S_IFREG | 0600, .nlink = 1 },
	};
	struct fuse_open_out open = { .fh = 1 };
	struct fuse_poll_out poll = {};

	switch (in->opcode) {
	case FUSE_LOOKUP:
		answer_request(in, 0, &entry, sizeof(entry));
		break;
	case FUSE_OPEN:
		answer_request(in, 0, &open, sizeof(open));
		break;
	case FUSE_POLL:
		answer_request(in, 0, &poll, sizeof(poll));
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		answer_request(in, 0, NULL, 0);
		break;
	case FUSE_INTERRUPT:
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
		break;
	default:
		answer_request(in, -EIO, NULL, 0);
	}
}

static void *serve_in_thread(void *unused)
{
	const struct fuse_in_header *in;

	for (;;) {
		in = read_request();
		if (in)
			serve_file(in);
	}
	return NULL;
}

/* To poll() is to ask the server, who is a member, and does not answer now. */
TEST_F(epoll, is_shared_if_it_asks_a_server)
{
	char path[64];
	pthread_t thread;
	int file;

	require_root(_metadata, "FUSE");
	mount_fuse(_metadata);
	ASSERT_EQ(0, pthread_create(&thread, NULL, serve_in_thread, NULL));
	snprintf(path, sizeof(path), "%s/file", fuse_dir);
	file = open(path, O_RDWR);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, watch(self->ep, file, EPOLLIN, 1));
	ASSERT_EQ(0, watch(self->ep, self->pipe[0], EPOLLIN, 2));
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_TRUE(put_byte(self->pipe[1]));
	EXPECT_EQ(2, ready(self->ep));
	unmount_fuse();
}

TEST_HARNESS_MAIN
