// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: what is open by descriptions that only members have gets
 * descriptions of its own in the replicas: regular files and directories.
 */
#include "fullfork_isolate.h"

#include <dirent.h>
#include <sched.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#define SIZE 8192
#define POS 10

FIXTURE(file)
{
	char dir[64];
	char path[80];
	int fd;
	int extra;
	unsigned char *mem;
	unsigned char *private;
};

FIXTURE_VARIANT(file)
{
	const char *type;
	/* Of the file that it is made in, if it is in one */
	const char *size;
};

FIXTURE_VARIANT_ADD(file, tmpfs) { .type = "tmpfs" };
FIXTURE_VARIANT_ADD(file, overlay) { .type = "overlay" };
FIXTURE_VARIANT_ADD(file, ext4) { .type = "ext4", .size = "8M" };
FIXTURE_VARIANT_ADD(file, xfs) { .type = "xfs", .size = "300M" };
FIXTURE_VARIANT_ADD(file, btrfs) { .type = "btrfs", .size = "128M" };

static void mount_overlay(struct __test_metadata *_metadata, const char *dir)
{
	ASSERT_EQ(0, mkdir("/tmp/lower", 0755));
	ASSERT_EQ(0, mkdir("/tmp/upper", 0755));
	ASSERT_EQ(0, mkdir("/tmp/work", 0755));
	ASSERT_EQ(0, mount("overlay", dir, "overlay", 0,
			   "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"));
}

static void mount_image(struct __test_metadata *_metadata,
			const FIXTURE_VARIANT(file) *variant)
{
	const char *type = variant->type;
	char command[128];

	snprintf(command, sizeof(command), "command -v mkfs.%s >/dev/null", type);
	skip_unless(!system(command), _exit(0), "there is no mkfs.%s", type);
	snprintf(command, sizeof(command), "truncate -s %s /tmp/image && mkfs.%s -q /tmp/image",
		 variant->size, type);
	ASSERT_EQ(0, system(command));
	snprintf(command, sizeof(command), "mount -t %s -o loop /tmp/image /tmp/dir", type);
	ASSERT_EQ(0, system(command));
}

FIXTURE_SETUP(file)
{
	unsigned char buf[SIZE];

	require_isolate(_metadata);
	require_root(_metadata, "mounts of its own");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
	snprintf(self->dir, sizeof(self->dir), "/tmp/dir");
	ASSERT_EQ(0, mkdir(self->dir, 0755));
	if (!strcmp(variant->type, "overlay"))
		mount_overlay(_metadata, self->dir);
	else if (variant->size)
		mount_image(_metadata, variant);
	snprintf(self->path, sizeof(self->path), "%s/file", self->dir);
	self->fd = open(self->path, O_RDWR | O_CREAT | O_EXCL, 0644);
	ASSERT_LE(0, self->fd);
	fill_pattern(buf, sizeof(buf));
	ASSERT_EQ(SIZE, write(self->fd, buf, sizeof(buf)));
	ASSERT_EQ(POS, lseek(self->fd, POS, SEEK_SET));
}

FIXTURE_TEARDOWN(file)
{
}

static off_t position(int fd)
{
	return lseek(fd, 0, SEEK_CUR);
}

static bool reads_pattern_from(int fd, size_t pos)
{
	unsigned char buf[20];
	size_t i;

	if (read(fd, buf, sizeof(buf)) != sizeof(buf))
		return false;
	for (i = 0; i < sizeof(buf); i++)
		if (buf[i] != pattern_at(pos + i))
			return false;
	return true;
}

static int see_position(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->fd);
	replica_assert(reads_pattern_from(self->fd, POS));
	replica_assert_eq(0, lseek(self->fd, 0, SEEK_SET));
	return REPLICA_PASS;
}

TEST_F(file, has_a_position_on_each_side)
{
	long pid = isolate(_metadata, 0, see_position, self);

	EXPECT_STREQ("", fdinfo_says("self", self->fd));
	EXPECT_TRUE(reads_pattern_from(self->fd, POS));
	EXPECT_TRUE(reads_pattern_from(self->fd, POS + 20));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(reads_pattern_from(self->fd, POS + 40));
}

static int write_into_it(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_eq(3, pwrite(self->fd, "new", 3, 0));
	return REPLICA_PASS;
}

/* It is the same file: only how it is open is copied. */
TEST_F(file, has_one_content)
{
	char buf[3];

	isolate_and_pass(_metadata, 0, write_into_it, self);
	ASSERT_EQ(3, pread(self->fd, buf, 3, 0));
	EXPECT_EQ(0, memcmp(buf, "new", 3));
}

static int see_dups(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert(is_same_file(self->fd, self->extra));
	replica_assert_eq(FD_CLOEXEC, fcntl(self->extra, F_GETFD));
	replica_assert_eq(500, lseek(self->fd, 500, SEEK_SET));
	replica_assert_eq(500, position(self->extra));
	return REPLICA_PASS;
}

TEST_F(file, stays_dup_ed)
{
	self->extra = fcntl(self->fd, F_DUPFD_CLOEXEC, 100);
	ASSERT_LE(0, self->extra);
	isolate_and_pass(_metadata, 0, see_dups, self);
	EXPECT_EQ(POS, position(self->fd));
}

static int see_flags(void *arg)
{
	FIXTURE_DATA(file) *self = arg;
	char byte;

	replica_assert_fdinfo("copied", self->extra);
	replica_assert_eq(report->word[WORD_FREE], fcntl(self->extra, F_GETFL));
	replica_assert_eq(-1, read(self->extra, &byte, 1));
	replica_assert_eq(EBADF, errno);
	replica_assert_eq(1, write(self->extra, "x", 1));
	replica_assert_eq(SIZE + 1, position(self->extra));
	replica_assert_eq(0, fcntl(self->extra, F_SETFL, 0));
	return REPLICA_PASS;
}

TEST_F(file, keeps_flags_and_mode)
{
	/* Not shown, and not done again */
	self->extra = open(self->path, O_WRONLY | O_CREAT | O_NOCTTY);
	ASSERT_LE(0, self->extra);
	ASSERT_EQ(0, fcntl(self->extra, F_SETFL, O_APPEND | O_NONBLOCK));
	report->word[WORD_FREE] = fcntl(self->extra, F_GETFL);
	ASSERT_EQ(O_WRONLY | O_APPEND | O_NONBLOCK,
		  report->word[WORD_FREE] & (O_ACCMODE | O_APPEND | O_NONBLOCK));
	isolate_and_pass(_metadata, 0, see_flags, self);
	EXPECT_EQ(report->word[WORD_FREE], fcntl(self->extra, F_GETFL));
	EXPECT_EQ(0, position(self->extra));
	EXPECT_EQ(SIZE + 1, lseek(self->fd, 0, SEEK_END));
}

TEST_F(file, may_be_truncated_by_its_open)
{
	struct stat st;

	self->extra = open(self->path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	ASSERT_LE(0, self->extra);
	ASSERT_EQ(0, ftruncate(self->extra, 1000));
	isolate_and_pass(_metadata, 0, write_into_it, self);
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(1000, st.st_size);
}

TEST_F(file, may_be_deleted)
{
	long pid;

	/* Without a name a file of a tmpfs is copied whole, see shmem. */
	ASSERT_EQ(0, unlink(self->path));
	pid = isolate(_metadata, 0, see_position, self);
	EXPECT_TRUE(reads_pattern_from(self->fd, POS));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(POS + 20, position(self->fd));
}

static int see_copied(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(2, pwrite(self->fd, "ab", 2, 0));
	replica_assert_eq(POS, lseek(self->fd, 0, SEEK_CUR));
	return REPLICA_PASS;
}

/* Whoever may not open it now had it open before. */
TEST_F(file, may_have_lost_its_permissions)
{
	ASSERT_EQ(0, fchmod(self->fd, 0));
	ASSERT_EQ(0, setresgid(12345, 12345, 12345));
	ASSERT_EQ(0, setresuid(12345, 12345, 12345));
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1));
	isolate_and_pass(_metadata, 0, see_copied, self);
}

static int see_mappings(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq('p', self->private[0]);
	replica_assert_eq(pattern_at(4096), self->private[4096]);
	replica_assert_eq(pattern_at(1), self->mem[1]);
	self->mem[1] = 's';
	replica_assert_eq(0, close(self->fd));
	/* The first one stays until there was another. */
	wait_turn();
	return REPLICA_PASS;
}

TEST_F(file, may_be_mapped_too)
{
	long first, second;

	self->mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	self->private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->private);
	self->private[0] = 'p';
	first = isolate(_metadata, 0, see_mappings, self);
	ASSERT_TRUE(wait_until(__atomic_load_n(&self->mem[1], __ATOMIC_SEQ_CST) == 's', DEADLINE));
	self->mem[1] = pattern_at(1);
	/* Its mappings are none of the description of the original. */
	second = isolate(_metadata, 0, see_mappings, self);
	give_turn();
	expect_pass(_metadata, first);
	expect_pass(_metadata, second);
	EXPECT_EQ('s', self->mem[1]);
	EXPECT_EQ(POS, position(self->fd));
}

/* Both processes of the copied tree have one. */
static int meet_child(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(700, lseek(self->fd, 700, SEEK_SET));
	replica_assert_eq(1, write(self->extra, "x", 1));
	replica_assert(wait_until(position(self->fd) == 701, DEADLINE));
	return REPLICA_PASS;
}

TEST_F(file, is_one_for_all_replicas)
{
	int ends[2];
	pid_t child;
	char byte;

	ASSERT_EQ(0, pipe(ends));
	self->extra = ends[1];
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		while (read(ends[0], &byte, 1) != 1 || position(self->fd) != 700)
			;
		lseek(self->fd, 701, SEEK_SET);
		_exit(0);
	}
	ASSERT_TRUE(wait_until(is_blocked(child, child, __NR_read), DEADLINE));
	isolate_and_pass(_metadata, CLONE_SUBTREE, meet_child, self);
	EXPECT_EQ(POS, position(self->fd));
	EXPECT_TRUE(wait_until(is_blocked(child, child, __NR_read), DEADLINE));
	ASSERT_EQ(0, kill(child, SIGKILL));
	xwaitpid(_metadata, child, DEADLINE);
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	replica_assert_eq(900, lseek(self->fd, 900, SEEK_SET));
	return REPLICA_PASS;
}

static void expect_shared(struct __test_metadata *_metadata, FIXTURE_DATA(file) *self)
{
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_EQ(900, position(self->fd));
	EXPECT_STREQ("shared", fdinfo_says("self", self->fd));
}

TEST_F(file, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
	ASSERT_EQ(POS, lseek(self->fd, POS, SEEK_SET));
	isolate_and_pass(_metadata, 0, see_copied, self);
}

static int see_owner(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_eq(getpid(), fcntl(self->fd, F_GETOWN));
	return see_copied(arg);
}

/* Though it never sends a signal. */
TEST_F(file, has_the_replica_as_its_owner)
{
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN, getpid()));
	isolate_and_pass(_metadata, 0, see_owner, self);
	EXPECT_EQ(getpid(), fcntl(self->fd, F_GETOWN));
}

TEST_F(file, is_shared_if_there_is_a_lease)
{
	ASSERT_EQ(0, fcntl(self->fd, F_SETLEASE, F_WRLCK));
	expect_shared(_metadata, self);
	EXPECT_EQ(F_WRLCK, fcntl(self->fd, F_GETLEASE));
}

/* The one who would have to permit it is quiesced. */
TEST_F(file, is_shared_where_opening_needs_permission)
{
	int group = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);

	ASSERT_LE(0, group);
	/* Without CONFIG_FANOTIFY_ACCESS_PERMISSIONS it cannot really ask. */
	if (fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, self->path))
		ASSERT_EQ(0, fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, self->path));
	expect_shared(_metadata, self);
	ASSERT_EQ(0, close(group));
}

static int do_nothing(void *arg)
{
	return REPLICA_PASS;
}

TEST_F(file, is_not_seen_to_be_opened)
{
	char buf[1000];

	self->extra = inotify_init1(IN_NONBLOCK);
	ASSERT_LE(0, inotify_add_watch(self->extra, self->dir, IN_OPEN));
	isolate_and_pass(_metadata, 0, do_nothing, self);
	EXPECT_EQ(-1, read(self->extra, buf, sizeof(buf)));
	EXPECT_EQ(EAGAIN, errno);
	ASSERT_LE(0, open(self->path, O_RDONLY));
	EXPECT_LT(0, read(self->extra, buf, sizeof(buf)));
}

/* A program that is open for writing cannot be executed, here or there. */
static int execute(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_eq(-1, execl(self->path, self->path, NULL));
	replica_assert_eq(ETXTBSY, errno);
	replica_assert_eq(0, close(self->fd));
	replica_assert_eq(-1, execl(self->path, self->path, NULL));
	replica_assert_eq(ETXTBSY, errno);
	return REPLICA_PASS;
}

TEST_F(file, counts_as_open_for_writing_on_each_side)
{
	ASSERT_EQ(0, fchmod(self->fd, 0755));
	isolate_and_pass(_metadata, 0, execute, self);
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(-1, execl(self->path, self->path, NULL));
	/* It is no program. */
	EXPECT_EQ(ENOEXEC, errno);
}

FIXTURE(open)
{
	int fd;
	DIR *dir;
};

FIXTURE_SETUP(open)
{
	require_isolate(_metadata);
	require_root(_metadata, "mounts of its own");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
}

FIXTURE_TEARDOWN(open)
{
}

static int see_other_file(void *arg)
{
	FIXTURE_DATA(open) *self = arg;
	char buf[4];

	replica_assert_fdinfo("", self->fd);
	replica_assert_eq(4, read(self->fd, buf, 4));
	return REPLICA_PASS;
}

TEST_F(open, is_shared_of_proc)
{
	self->fd = open("/proc/version", O_RDONLY);
	ASSERT_LE(0, self->fd);
	isolate_and_pass(_metadata, 0, see_other_file, self);
	EXPECT_EQ(4, position(self->fd));
}

/* Not read ahead: one entry at a time */
static bool next_entry(int fd, char *name, size_t size)
{
	struct {
		__u64 ino;
		__s64 off;
		unsigned short reclen;
		unsigned char type;
		char name[13];
	} entry;

	if (syscall(__NR_getdents64, fd, &entry, sizeof(entry)) <= 0)
		return false;
	snprintf(name, size, "%s", entry.name);
	return true;
}

static unsigned int entries_left(int fd)
{
	unsigned int n = 0;
	char name[16];

	while (next_entry(fd, name, sizeof(name)))
		n++;
	return n;
}

static int see_entries(void *arg)
{
	FIXTURE_DATA(open) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(22 - 7, entries_left(self->fd));
	return REPLICA_PASS;
}

TEST_F(open, may_be_a_directory)
{
	char path[32], name[16];
	unsigned int i;
	long pid;

	for (i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "/tmp/entry%02d", i);
		ASSERT_LE(0, self->fd = open(path, O_CREAT | O_WRONLY, 0600));
		ASSERT_EQ(0, close(self->fd));
	}
	self->fd = open("/tmp", O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, self->fd);
	for (i = 0; i < 7; i++)
		ASSERT_TRUE(next_entry(self->fd, name, sizeof(name)));
	pid = isolate(_metadata, 0, see_entries, self);
	EXPECT_EQ(22 - 7, entries_left(self->fd));
	give_turn();
	expect_pass(_metadata, pid);
}

static int link_it(void *arg)
{
	FIXTURE_DATA(file) *self = arg;
	char from[64];

	replica_assert_fdinfo("copied", self->extra);
	replica_assert_eq(3, lseek(self->extra, 0, SEEK_CUR));
	replica_assert_eq(1, write(self->extra, "r", 1));
	snprintf(from, sizeof(from), "/proc/self/fd/%d", self->extra);
	replica_assert_eq(0, unlink(self->path));
	replica_assert_eq(0, linkat(AT_FDCWD, from, AT_FDCWD, self->path, AT_SYMLINK_FOLLOW));
	return REPLICA_PASS;
}

/* What may get a name is a file of the file system, also if it has none yet. */
TEST_F(file, may_have_no_name_yet)
{
	struct stat st, named;

	self->extra = open(self->dir, O_TMPFILE | O_RDWR, 0644);
	ASSERT_LE(0, self->extra);
	ASSERT_EQ(3, write(self->extra, "new", 3));
	isolate_and_pass(_metadata, 0, link_it, self);
	EXPECT_EQ(3, position(self->extra));
	ASSERT_EQ(0, fstat(self->extra, &st));
	ASSERT_EQ(0, stat(self->path, &named));
	EXPECT_EQ(st.st_ino, named.st_ino);
	EXPECT_EQ(4, st.st_size);
}

static int see_directory_copied(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_fdinfo("copied", self->extra);
	replica_assert_eq(report->word[WORD_FREE], entries_left(self->extra));
	return REPLICA_PASS;
}

static int see_directory_shared(void *arg)
{
	FIXTURE_DATA(file) *self = arg;

	replica_assert_fdinfo("", self->extra);
	replica_assert_eq(report->word[WORD_FREE], entries_left(self->extra));
	return REPLICA_PASS;
}

/* What such a file system stores of a position in a directory is its own. */
TEST_F(file, may_be_beside_an_open_directory)
{
	bool copied = !strcmp(variant->type, "tmpfs");
	char name[16];

	self->extra = open(self->dir, O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, self->extra);
	report->word[WORD_FREE] = entries_left(self->extra) - 1;
	ASSERT_LE(2, report->word[WORD_FREE]);
	ASSERT_EQ(0, lseek(self->extra, 0, SEEK_SET));
	ASSERT_TRUE(next_entry(self->extra, name, sizeof(name)));
	if (copied)
		isolate_and_pass(_metadata, 0, see_directory_copied, self);
	else
		isolate_and_pass(_metadata, 0, see_directory_shared, self);
	EXPECT_EQ(copied ? report->word[WORD_FREE] : 0, entries_left(self->extra));
}

TEST_HARNESS_MAIN
