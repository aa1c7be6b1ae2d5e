// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: inotify instances that only members have are copied, with their
 * watches and with the events that were not read.
 */
#include "fullfork_isolate.h"

#include <sys/epoll.h>
#include <sys/inotify.h>

FIXTURE(inotify)
{
	char dir[64];
	int fd;
	int ep;
	int wd;
};

FIXTURE_SETUP(inotify)
{
	require_isolate(_metadata);
	snprintf(self->dir, sizeof(self->dir), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	self->fd = inotify_init1(IN_NONBLOCK);
	ASSERT_LE(0, self->fd);
	self->wd = inotify_add_watch(self->fd, self->dir, IN_CREATE | IN_DELETE);
	ASSERT_LE(0, self->wd);
}

FIXTURE_TEARDOWN(inotify)
{
	char name[128];

	for (const char *c = "abcdefgh"; *c; c++) {
		snprintf(name, sizeof(name), "%s/%c", self->dir, *c);
		unlink(name);
	}
	rmdir(self->dir);
}

static bool creates(const char *dir, const char *file)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static bool deletes(const char *dir, const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	return !unlink(path);
}

/* The next event is this one. */
static bool gives(int fd, int wd, __u32 mask, const char *name)
{
	union {
		struct inotify_event event;
		char buf[sizeof(struct inotify_event) + 16];
	} u;
	/* Room for one only: names are padded to a multiple of 16. */
	ssize_t len = read(fd, &u, name ? sizeof(u) : sizeof(u.event));

	return len >= (ssize_t)sizeof(u.event) && u.event.wd == wd && u.event.mask == mask &&
	       (name ? u.event.len && !strcmp(u.event.name, name) : !u.event.len);
}

static bool is_empty(int fd)
{
	char buf[300];

	return read(fd, buf, sizeof(buf)) < 0 && errno == EAGAIN;
}

static int see_events(void *arg)
{
	FIXTURE_DATA(inotify) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->fd);
	replica_assert(gives(self->fd, self->wd, IN_CREATE, "a"));
	replica_assert(gives(self->fd, self->wd, IN_CREATE, "b"));
	replica_assert(gives(self->fd, self->wd, IN_DELETE, "a"));
	/* What came after the copy, both are told. */
	replica_assert(gives(self->fd, self->wd, IN_CREATE, "c"));
	replica_assert(is_empty(self->fd));
	return REPLICA_PASS;
}

TEST_F(inotify, has_its_events_on_both_sides)
{
	long pid;

	ASSERT_TRUE(creates(self->dir, "a"));
	ASSERT_TRUE(creates(self->dir, "b"));
	ASSERT_TRUE(deletes(self->dir, "a"));
	pid = isolate(_metadata, 0, see_events, self);
	EXPECT_TRUE(gives(self->fd, self->wd, IN_CREATE, "a"));
	EXPECT_TRUE(gives(self->fd, self->wd, IN_CREATE, "b"));
	EXPECT_TRUE(gives(self->fd, self->wd, IN_DELETE, "a"));
	EXPECT_TRUE(is_empty(self->fd));
	ASSERT_TRUE(creates(self->dir, "c"));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(gives(self->fd, self->wd, IN_CREATE, "c"));
	EXPECT_TRUE(is_empty(self->fd));
}

static int change_watches(void *arg)
{
	FIXTURE_DATA(inotify) *self = arg;
	int next = report->word[WORD_FREE];

	/* Numbers go on as in the original. */
	replica_assert_eq(next, inotify_add_watch(self->fd, "/", IN_CREATE));
	replica_assert_eq(self->wd, inotify_add_watch(self->fd, self->dir, IN_DELETE));
	replica_assert(creates(self->dir, "d"));
	replica_assert(is_empty(self->fd));
	replica_assert_eq(0, inotify_rm_watch(self->fd, self->wd));
	replica_assert(gives(self->fd, self->wd, IN_IGNORED, NULL));
	return REPLICA_PASS;
}

TEST_F(inotify, has_its_watches_on_each_side)
{
	int first = self->wd, gone;

	/* Not the first numbers, and not all of them. */
	gone = inotify_add_watch(self->fd, "/tmp", IN_CREATE);
	ASSERT_LT(first, gone);
	ASSERT_EQ(0, inotify_rm_watch(self->fd, first));
	self->wd = inotify_add_watch(self->fd, self->dir, IN_CREATE | IN_DELETE);
	ASSERT_LT(gone, self->wd);
	ASSERT_EQ(0, inotify_rm_watch(self->fd, gone));
	ASSERT_TRUE(gives(self->fd, first, IN_IGNORED, NULL));
	ASSERT_TRUE(gives(self->fd, gone, IN_IGNORED, NULL));
	report->word[WORD_FREE] = self->wd + 1;
	isolate_and_pass(_metadata, 0, change_watches, self);
	EXPECT_TRUE(gives(self->fd, self->wd, IN_CREATE, "d"));
	EXPECT_TRUE(is_empty(self->fd));
	EXPECT_EQ(self->wd + 1, inotify_add_watch(self->fd, "/", IN_CREATE));
}

static int see_one_shot(void *arg)
{
	FIXTURE_DATA(inotify) *self = arg;

	replica_assert(creates(self->dir, "e"));
	replica_assert(creates(self->dir, "f"));
	replica_assert(gives(self->fd, self->wd, IN_CREATE, "e"));
	replica_assert(gives(self->fd, self->wd, IN_IGNORED, NULL));
	replica_assert(is_empty(self->fd));
	return REPLICA_PASS;
}

TEST_F(inotify, keeps_a_watch_that_tells_once)
{
	ASSERT_EQ(self->wd, inotify_add_watch(self->fd, self->dir, IN_CREATE | IN_ONESHOT));
	isolate_and_pass(_metadata, 0, see_one_shot, self);
	EXPECT_TRUE(gives(self->fd, self->wd, IN_CREATE, "e"));
	EXPECT_TRUE(gives(self->fd, self->wd, IN_IGNORED, NULL));
	EXPECT_TRUE(is_empty(self->fd));
}

static int see_epoll(void *arg)
{
	FIXTURE_DATA(inotify) *self = arg;
	struct epoll_event event;

	replica_assert_eq(1, epoll_wait(self->ep, &event, 1, 0));
	replica_assert(gives(self->fd, self->wd, IN_CREATE, "g"));
	replica_assert_eq(0, epoll_wait(self->ep, &event, 1, 0));
	replica_assert(creates(self->dir, "h"));
	replica_assert_eq(1, epoll_wait(self->ep, &event, 1, DEADLINE * 1000));
	return REPLICA_PASS;
}

TEST_F(inotify, is_looked_at_by_an_epoll)
{
	struct epoll_event event = { .events = EPOLLIN };

	self->ep = epoll_create1(0);
	ASSERT_EQ(0, epoll_ctl(self->ep, EPOLL_CTL_ADD, self->fd, &event));
	ASSERT_TRUE(creates(self->dir, "g"));
	isolate_and_pass(_metadata, 0, see_epoll, self);
	EXPECT_EQ(1, epoll_wait(self->ep, &event, 1, 0));
}

static bool sysctl(const char *name, const char *value)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/sys/fs/inotify/%s", name);
	return write_file(path, value) >= 0;
}

static int see_overflow(void *arg)
{
	FIXTURE_DATA(inotify) *self = arg;

	replica_assert(gives(self->fd, self->wd, IN_CREATE, "a"));
	replica_assert(gives(self->fd, self->wd, IN_DELETE, "a"));
	replica_assert(gives(self->fd, -1, IN_Q_OVERFLOW, NULL));
	replica_assert(is_empty(self->fd));
	replica_assert(creates(self->dir, "d"));
	replica_assert(gives(self->fd, self->wd, IN_CREATE, "d"));
	return REPLICA_PASS;
}

TEST_F(inotify, has_overflown_if_it_had)
{
	char max[16];

	require_root(_metadata, "a short queue");
	ASSERT_LT(0, read_file("/proc/sys/fs/inotify/max_queued_events", max, sizeof(max)));
	ASSERT_TRUE(sysctl("max_queued_events", "2"));
	self->fd = inotify_init1(IN_NONBLOCK);
	EXPECT_TRUE(sysctl("max_queued_events", max));
	self->wd = inotify_add_watch(self->fd, self->dir, IN_CREATE | IN_DELETE);
	ASSERT_TRUE(creates(self->dir, "a"));
	ASSERT_TRUE(deletes(self->dir, "a"));
	ASSERT_TRUE(creates(self->dir, "b"));
	ASSERT_TRUE(creates(self->dir, "c"));
	isolate_and_pass(_metadata, 0, see_overflow, self);
	EXPECT_TRUE(gives(self->fd, self->wd, IN_CREATE, "a"));
}

/* As many as a user may have: it is the copy's, too. */
TEST_F(inotify, counts_against_the_limit)
{
	char max[16];
	long pid;

	require_root(_metadata, "a low limit");
	ASSERT_LT(0, read_file("/proc/sys/fs/inotify/max_user_instances", max, sizeof(max)));
	ASSERT_TRUE(sysctl("max_user_instances", "1"));
	pid = replica_main(full_fork(CLONE_ISOLATE), see_overflow, self);
	EXPECT_TRUE(sysctl("max_user_instances", max));
	EXPECT_EQ(-EAGAIN, pid);
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(inotify) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	replica_assert(gives(self->fd, self->wd, IN_CREATE, "a"));
	return REPLICA_PASS;
}

TEST_F(inotify, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	ASSERT_TRUE(creates(self->dir, "a"));
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_TRUE(is_empty(self->fd));
	end_outsider(_metadata, outsider);
}

TEST_HARNESS_MAIN
