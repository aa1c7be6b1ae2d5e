// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: what becomes of locks on files.  Two can hold a read lock, but
 * not a write lock, unless each has a file of its own.
 */
#include "fullfork_isolate.h"

#include <sys/file.h>
#include <sys/mount.h>

#define SIZE 100

/*
 * By a description of its own, with which others could lock it.  It stays open, as
 * a process loses its locks with any descriptor of the file.
 */
static int other;

FIXTURE(lock)
{
	char path[64];
	int fd;
	pid_t replica;
};

FIXTURE_SETUP(lock)
{
	require_isolate(_metadata);
	/* A file system that can open it once more. */
	snprintf(self->path, sizeof(self->path), "/dev/shm/fullfork.XXXXXX");
	self->fd = mkstemp(self->path);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, SIZE));
	other = open(self->path, O_RDWR);
	ASSERT_LE(0, other);
}

FIXTURE_TEARDOWN(lock)
{
	unlink(self->path);
}

/* A part of the file that is locked, or would be. */
static struct flock part(short type, off_t start, off_t len)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = start,
			       .l_len = len };
}

/* By a description of its own */
static int open_again(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDWR);
}

static int set_lock(int fd, int cmd, short type, off_t start, off_t len)
{
	struct flock fl = part(type, start, len);

	return fcntl(fd, cmd, &fl) ? -errno : 0;
}

static bool is_locked(off_t start, off_t len, pid_t *holder)
{
	struct flock fl = part(F_WRLCK, start, len);

	if (fcntl(other, F_OFD_GETLK, &fl))
		return false;
	if (holder)
		*holder = fl.l_pid;
	return fl.l_type != F_UNLCK;
}

static bool is_locked_anywhere(void)
{
	return is_locked(0, 0, NULL);
}

static bool is_flocked(void)
{
	if (flock(other, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK;
	flock(other, LOCK_UN);
	return false;
}

/* Says that it is there, and waits. */
static int stay(void *arg)
{
	store(&report->word[WORD_FREE], 1);
	wait_turn();
	return REPLICA_PASS;
}

static void start_staying(struct __test_metadata *_metadata, FIXTURE_DATA(lock) *self)
{
	self->replica = isolate(_metadata, 0, stay, self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
}

static void end_staying(struct __test_metadata *_metadata, FIXTURE_DATA(lock) *self)
{
	give_turn();
	expect_pass(_metadata, self->replica);
}

TEST_F(lock, of_a_process_for_reading_is_copied)
{
	pid_t holder = 0;

	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_RDLCK, 10, 10));
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_RDLCK, 50, 5));
	start_staying(_metadata, self);
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	EXPECT_TRUE(is_locked(19, 1, &holder));
	EXPECT_EQ(self->replica, holder);
	EXPECT_TRUE(is_locked(54, 1, NULL));
	EXPECT_FALSE(is_locked(0, 10, NULL));
	EXPECT_FALSE(is_locked(20, 30, NULL));
	EXPECT_FALSE(is_locked(55, 0, NULL));
	/* Not even for the original. */
	EXPECT_EQ(-EAGAIN, set_lock(self->fd, F_SETLK, F_WRLCK, 10, 10));
	end_staying(_metadata, self);
	EXPECT_FALSE(is_locked_anywhere());
}

/* Without the lock: the original has it. */
static int see_write_lock(void *arg)
{
	FIXTURE_DATA(lock) *self = arg;
	struct flock fl = part(F_WRLCK, 18, 0);

	replica_assert_eq(0, fcntl(self->fd, F_GETLK, &fl));
	replica_assert_eq(F_WRLCK, fl.l_type);
	replica_assert_eq(20, fl.l_start);
	/* What a process has is lost with any descriptor of the file: its own. */
	replica_assert_eq(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	replica_assert_eq(0, close(self->fd));
	return REPLICA_PASS;
}

TEST_F(lock, of_a_process_for_writing_stays_with_the_original)
{
	pid_t holder = 0;

	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_WRLCK, 20, 5));
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_RDLCK, 10, 5));
	isolate_and_pass(_metadata, 0, see_write_lock, self);
	EXPECT_TRUE(is_locked(20, 5, &holder));
	EXPECT_EQ(getpid(), holder);
	EXPECT_TRUE(is_locked(10, 5, NULL));
}

/* Also by a description that others have, too. */
TEST_F(lock, of_a_process_is_copied_where_the_file_is_shared)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_RDLCK, 0, 0));
	start_staying(_metadata, self);
	EXPECT_STREQ("shared", fdinfo_says("self", self->fd));
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	EXPECT_TRUE(is_locked_anywhere());
	end_staying(_metadata, self);
	EXPECT_FALSE(is_locked_anywhere());
	end_outsider(_metadata, outsider);
}

/* Each process of a tree has its own. */
TEST_F(lock, of_a_child_is_one_of_the_replica_of_the_child)
{
	pid_t child = fork(), holder = 0;

	ASSERT_LE(0, child);
	if (!child) {
		if (set_lock(self->fd, F_SETLK, F_RDLCK, 30, 1))
			_exit(1);
		pause();
	}
	ASSERT_TRUE(wait_until(is_locked(30, 1, NULL), DEADLINE));
	self->replica = isolate(_metadata, CLONE_SUBTREE, stay, self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	ASSERT_EQ(0, kill(child, SIGKILL));
	xwaitpid(_metadata, child, DEADLINE);
	EXPECT_TRUE(is_locked(30, 1, &holder));
	EXPECT_NE(child, holder);
	EXPECT_NE(self->replica, holder);
	EXPECT_EQ(0, kill(holder, SIGKILL));
	EXPECT_TRUE(wait_until(!is_locked(30, 1, NULL), DEADLINE));
	end_staying(_metadata, self);
}

static int see_copied(void *arg)
{
	FIXTURE_DATA(lock) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	return stay(arg);
}

TEST_F(lock, of_a_description_for_reading_is_copied)
{
	ASSERT_EQ(0, set_lock(self->fd, F_OFD_SETLK, F_RDLCK, 10, 10));
	self->replica = isolate(_metadata, 0, see_copied, self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	ASSERT_EQ(0, set_lock(self->fd, F_OFD_SETLK, F_UNLCK, 0, 0));
	EXPECT_TRUE(is_locked(10, 10, NULL));
	EXPECT_EQ(-EAGAIN, set_lock(self->fd, F_OFD_SETLK, F_WRLCK, 10, 10));
	end_staying(_metadata, self);
	EXPECT_FALSE(is_locked_anywhere());
}

TEST_F(lock, of_flock_for_reading_is_copied)
{
	ASSERT_EQ(0, flock(self->fd, LOCK_SH));
	self->replica = isolate(_metadata, 0, see_copied, self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	EXPECT_EQ(-1, flock(self->fd, LOCK_EX | LOCK_NB));
	EXPECT_EQ(EWOULDBLOCK, errno);
	ASSERT_EQ(0, flock(self->fd, LOCK_UN));
	EXPECT_TRUE(is_flocked());
	end_staying(_metadata, self);
	EXPECT_FALSE(is_flocked());
}

/* Both have it, as after fork(). */
static int see_shared(void *arg)
{
	FIXTURE_DATA(lock) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	return stay(arg);
}

static void expect_shared_lock(struct __test_metadata *_metadata, FIXTURE_DATA(lock) *self,
			       bool (*locked)(void))
{
	self->replica = isolate(_metadata, 0, see_shared, self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	ASSERT_EQ(0, close(self->fd));
	EXPECT_TRUE(locked());
	end_staying(_metadata, self);
	EXPECT_TRUE(wait_until(!locked(), DEADLINE));
}

TEST_F(lock, of_a_description_for_writing_is_shared)
{
	ASSERT_EQ(0, set_lock(self->fd, F_OFD_SETLK, F_WRLCK, 10, 10));
	ASSERT_EQ(0, set_lock(self->fd, F_OFD_SETLK, F_RDLCK, 50, 10));
	expect_shared_lock(_metadata, self, is_locked_anywhere);
}

TEST_F(lock, of_flock_for_writing_is_shared)
{
	ASSERT_EQ(0, flock(self->fd, LOCK_EX));
	expect_shared_lock(_metadata, self, is_flocked);
}

/* A file system whose files are not opened once more. */
TEST_F(lock, of_a_process_is_copied_where_files_are_shared)
{
	char dir[] = "/tmp/fullfork.XXXXXX", path[64];
	pid_t holder = 0;

	require_root(_metadata, "a mount of its own");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_EQ(0, mount("fullfork", dir, "ramfs", 0, NULL));
	snprintf(path, sizeof(path), "%s/file", dir);
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, close(other));
	self->fd = open(path, O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, self->fd);
	other = open(path, O_RDWR);
	ASSERT_LE(0, other);
	ASSERT_EQ(0, umount2(dir, MNT_DETACH));
	ASSERT_EQ(0, rmdir(dir));

	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_RDLCK, 10, 10));
	start_staying(_metadata, self);
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	EXPECT_TRUE(is_locked(19, 1, &holder));
	EXPECT_EQ(self->replica, holder);
	end_staying(_metadata, self);
	EXPECT_FALSE(is_locked_anywhere());
}

/* A file without a name, of which replicas get a copy, with locks of its own */
FIXTURE(own_lock)
{
	int fd;
	pid_t child;
};

FIXTURE_SETUP(own_lock)
{
	require_isolate(_metadata);
	self->fd = memfd_create("fullfork", 0);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, SIZE));
	other = open_again(self->fd);
	ASSERT_LE(0, other);
}

FIXTURE_TEARDOWN(own_lock)
{
}

/* In the replica, whose lock does not go with that of the original */
static int keep_lock_of_process(void *arg)
{
	FIXTURE_DATA(own_lock) *self = arg;
	pid_t holder = 0;

	wait_turn();
	replica_assert_fdinfo("copied", self->fd);
	replica_assert(is_locked(20, 5, &holder));
	replica_assert_eq(getpid(), holder);
	replica_assert(!is_locked(0, 20, NULL));
	replica_assert(is_locked(30, 1, NULL));
	replica_assert(!is_locked(25, 5, NULL));
	replica_assert_eq(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	replica_assert(!is_locked_anywhere());
	return REPLICA_PASS;
}

TEST_F(own_lock, of_a_process_for_writing_is_copied)
{
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_WRLCK, 20, 5));
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_RDLCK, 30, 5));
	self->child = isolate(_metadata, 0, keep_lock_of_process, self);
	EXPECT_TRUE(is_locked(20, 5, NULL));
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	EXPECT_FALSE(is_locked_anywhere());
	give_turn();
	expect_pass(_metadata, self->child);
}

static int keep_lock_of_description(void *arg)
{
	FIXTURE_DATA(own_lock) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->fd);
	replica_assert(is_locked(10, 10, NULL));
	replica_assert_eq(-EAGAIN, set_lock(other, F_OFD_SETLK, F_RDLCK, 19, 1));
	replica_assert_eq(0, close(self->fd));
	replica_assert(!is_locked_anywhere());
	return REPLICA_PASS;
}

TEST_F(own_lock, of_a_description_for_writing_is_copied)
{
	ASSERT_EQ(0, set_lock(self->fd, F_OFD_SETLK, F_WRLCK, 10, 10));
	self->child = isolate(_metadata, 0, keep_lock_of_description, self);
	EXPECT_TRUE(is_locked(10, 10, NULL));
	ASSERT_EQ(0, set_lock(self->fd, F_OFD_SETLK, F_UNLCK, 0, 0));
	EXPECT_FALSE(is_locked_anywhere());
	give_turn();
	expect_pass(_metadata, self->child);
}

static int keep_flock(void *arg)
{
	FIXTURE_DATA(own_lock) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->fd);
	replica_assert(is_flocked());
	replica_assert_eq(0, close(self->fd));
	replica_assert(!is_flocked());
	return REPLICA_PASS;
}

TEST_F(own_lock, of_flock_for_writing_is_copied)
{
	ASSERT_EQ(0, flock(self->fd, LOCK_EX));
	self->child = isolate(_metadata, 0, keep_flock, self);
	EXPECT_TRUE(is_flocked());
	ASSERT_EQ(0, flock(self->fd, LOCK_UN));
	EXPECT_FALSE(is_flocked());
	give_turn();
	expect_pass(_metadata, self->child);
}

/* Both have it then, as that of any other file. */
static int see_lock_of_outsider(void *arg)
{
	FIXTURE_DATA(own_lock) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	replica_assert(is_locked(10, 10, NULL));
	return REPLICA_PASS;
}

TEST_F(own_lock, is_shared_with_a_file_that_is)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	ASSERT_EQ(0, set_lock(self->fd, F_OFD_SETLK, F_WRLCK, 10, 10));
	isolate_and_pass(_metadata, 0, see_lock_of_outsider, self);
	EXPECT_TRUE(is_locked(10, 10, NULL));
	end_outsider(_metadata, outsider);
}

/* Waits for the lock of its parent, and tells that it has got it by a byte of the file. */
static void start_waiter(struct __test_metadata *_metadata, FIXTURE_DATA(own_lock) *self)
{
	self->child = fork();
	ASSERT_LE(0, self->child);
	if (!self->child) {
		if (set_lock(self->fd, F_SETLKW, F_WRLCK, 0, SIZE))
			_exit(1);
		if (pwrite(self->fd, "w", 1, 0) != 1)
			_exit(2);
		_exit(0);
	}
	ASSERT_TRUE(wait_until(is_blocked(self->child, self->child, __NR_fcntl), DEADLINE));
}

static char first_byte(int fd)
{
	char byte = 0;

	return pread(fd, &byte, 1, 0) == 1 ? byte : '?';
}

static int let_waiter_go_on(void *arg)
{
	FIXTURE_DATA(own_lock) *self = arg;
	int status;

	wait_turn();
	replica_assert_eq(0, first_byte(self->fd));
	replica_assert_eq(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	replica_assert(wait(&status) > 0);
	replica_assert_eq(0, status);
	replica_assert_eq('w', first_byte(self->fd));
	return REPLICA_PASS;
}

TEST_F(own_lock, that_a_child_waits_for_is_had_by_its_replica)
{
	pid_t replica;

	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_WRLCK, 5, 1));
	start_waiter(_metadata, self);
	replica = isolate(_metadata, CLONE_SUBTREE, let_waiter_go_on, self);
	ASSERT_EQ(0, set_lock(self->fd, F_SETLK, F_UNLCK, 0, 0));
	EXPECT_EQ(0, xwaitpid(_metadata, self->child, DEADLINE));
	EXPECT_EQ('w', first_byte(self->fd));
	give_turn();
	expect_pass(_metadata, replica);
}

TEST_HARNESS_MAIN
