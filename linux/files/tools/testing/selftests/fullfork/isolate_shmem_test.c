// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: memory that members share with each other, and with nobody
 * else, is copied.
 */
#include "fullfork_isolate.h"

#include <linux/io_uring.h>
#include <sys/file.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define PAGES 64
#define FAR_AWAY (1UL << 30)

FIXTURE(shmem)
{
	unsigned char *mem;
	size_t size;
	int fd;
};

FIXTURE_SETUP(shmem)
{
	require_isolate(_metadata);
	/* After the keeper: it is no report. */
	self->size = PAGES * getpagesize();
	self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	self->fd = memfd_create("isolate", MFD_ALLOW_SEALING);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(shmem)
{
}

static int see_and_change(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;

	wait_turn();
	replica_assert(is_pattern(self->mem, self->size));
	memset(self->mem, 'r', self->size);
	return REPLICA_PASS;
}

TEST_F(shmem, is_changed_on_one_side_only)
{
	long pid;
	size_t i;

	fill_pattern(self->mem, self->size);
	pid = isolate(_metadata, 0, see_and_change, self);
	memset(self->mem, 'o', self->size);
	give_turn();
	expect_pass(_metadata, pid);
	for (i = 0; i < self->size; i++)
		ASSERT_EQ('o', self->mem[i]);
}

static int see_zeroes(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	size_t i;

	wait_turn();
	for (i = 0; i < self->size; i++)
		replica_assert_eq(i == 12345 ? 1 : 0, self->mem[i]);
	return REPLICA_PASS;
}

TEST_F(shmem, is_zero_where_it_was)
{
	long pid;

	self->mem[12345] = 1;
	pid = isolate(_metadata, 0, see_zeroes, self);
	memset(self->mem, 'o', self->size);
	give_turn();
	expect_pass(_metadata, pid);
}

/* Both processes of the copied tree see one copy. */
static int talk_to_child(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	__u32 *words = (__u32 *)self->mem;

	store(&words[0], 1);
	futex_wake(&words[0], INT_MAX, 0);
	replica_assert(wait_until(load(&words[1]) == 1, DEADLINE));
	add(&report->word[WORD_FREE], 1);
	return REPLICA_PASS;
}

static void answer_as_child(FIXTURE_DATA(shmem) *self)
{
	__u32 *words = (__u32 *)self->mem;

	while (!load(&words[0]))
		futex_wait(&words[0], 0, 0, -1);
	store(&words[1], 1);
	_exit(0);
}

TEST_F(shmem, is_one_copy_for_all_replicas)
{
	__u32 *words = (__u32 *)self->mem;
	pid_t child = fork();
	int status;

	ASSERT_LE(0, child);
	if (!child)
		answer_as_child(self);
	ASSERT_TRUE(wait_until(is_blocked(child, child, __NR_futex), DEADLINE));
	isolate_and_pass(_metadata, CLONE_SUBTREE, talk_to_child, self);
	EXPECT_EQ(1, report->word[WORD_FREE]);
	EXPECT_EQ(0, words[0]);
	EXPECT_EQ(0, words[1]);
	EXPECT_TRUE(wait_until(is_blocked(child, child, __NR_futex), DEADLINE));
	talk_to_child(self);
	status = xwaitpid(_metadata, child, DEADLINE);
	EXPECT_EQ(0, status);
}

static int share_with_child(void *arg)
{
	return talk_to_child(arg);
}

TEST_F(shmem, is_shared_with_a_child_that_is_not_copied)
{
	__u32 *words = (__u32 *)self->mem;
	pid_t child = fork();

	ASSERT_LE(0, child);
	if (!child)
		answer_as_child(self);
	isolate_and_pass(_metadata, 0, share_with_child, self);
	EXPECT_EQ(1, words[0]);
	EXPECT_EQ(1, words[1]);
	xwaitpid(_metadata, child, DEADLINE);
}

/* The parts of a mapping, and those with other rights, are of one copy. */
static int see_parts(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	unsigned char *second = self->mem + self->size / 2;

	replica_assert(is_pattern(self->mem, self->size));
	replica_assert_eq(0, mprotect(second, self->size / 2, PROT_READ | PROT_WRITE));
	*second = 'x';
	replica_assert_eq('x', *second);
	return REPLICA_PASS;
}

TEST_F(shmem, may_be_mapped_in_parts)
{
	size_t half = self->size / 2;

	fill_pattern(self->mem, self->size);
	ASSERT_EQ(0, mprotect(self->mem + half, half, PROT_READ));
	isolate_and_pass(_metadata, 0, see_parts, self);
	EXPECT_TRUE(is_pattern(self->mem, self->size));
}

static void fill_file(struct __test_metadata *_metadata, FIXTURE_DATA(shmem) *self)
{
	fill_pattern(self->mem, self->size);
	ASSERT_EQ(self->size, write(self->fd, self->mem, self->size));
	ASSERT_EQ(777, lseek(self->fd, 777, SEEK_SET));
}

static int see_file(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	char path[64], link[64] = "";
	unsigned char buf[1000];
	struct stat st;

	wait_turn();
	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(777, lseek(self->fd, 0, SEEK_CUR));
	replica_assert_eq(0, fstat(self->fd, &st));
	replica_assert_eq(self->size, st.st_size);
	replica_assert_eq(sizeof(buf), pread(self->fd, buf, sizeof(buf), 0));
	replica_assert(is_pattern(buf, sizeof(buf)));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	replica_assert(readlink(path, link, sizeof(link) - 1) > 0);
	replica_assert(!strcmp("/memfd:isolate (deleted)", link));
	replica_assert_eq(1, pwrite(self->fd, "x", 1, 0));
	replica_assert_eq(0, ftruncate(self->fd, 5));
	return REPLICA_PASS;
}

TEST_F(shmem, may_be_a_memfd)
{
	unsigned char byte;
	struct stat st;
	long pid;

	fill_file(_metadata, self);
	pid = isolate(_metadata, 0, see_file, self);
	ASSERT_EQ(0, lseek(self->fd, 0, SEEK_SET));
	give_turn();
	expect_pass(_metadata, pid);
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(self->size, st.st_size);
	ASSERT_EQ(1, pread(self->fd, &byte, 1, 0));
	EXPECT_EQ(pattern_at(0), byte);
}

static int see_holes(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	struct stat st;
	char byte;

	replica_assert_eq(0, fstat(self->fd, &st));
	replica_assert_eq(FAR_AWAY + 1, st.st_size);
	replica_assert(st.st_blocks < 10000);
	replica_assert_eq(1, pread(self->fd, &byte, 1, FAR_AWAY));
	replica_assert_eq('x', byte);
	replica_assert_eq(1, pread(self->fd, &byte, 1, FAR_AWAY / 2));
	replica_assert_eq(0, byte);
	return REPLICA_PASS;
}

TEST_F(shmem, costs_nothing_where_it_has_no_pages)
{
	ASSERT_EQ(1, pwrite(self->fd, "x", 1, FAR_AWAY));
	isolate_and_pass(_metadata, 0, see_holes, self);
}

static int see_mapped(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	char byte;

	/* The descriptor and the mapping are of one copy. */
	self->mem[0] = 'm';
	replica_assert_eq(1, pread(self->fd, &byte, 1, 0));
	replica_assert_eq('m', byte);
	replica_assert_eq(1, pwrite(self->fd, "f", 1, 1));
	replica_assert_eq('f', self->mem[1]);
	return REPLICA_PASS;
}

TEST_F(shmem, is_one_copy_for_descriptor_and_mapping)
{
	fill_file(_metadata, self);
	self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	isolate_and_pass(_metadata, 0, see_mapped, self);
	EXPECT_TRUE(is_pattern(self->mem, self->size));
}

static int see_seals(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(F_SEAL_WRITE | F_SEAL_SHRINK, fcntl(self->fd, F_GET_SEALS));
	replica_assert_eq(-1, pwrite(self->fd, "x", 1, 0));
	replica_assert_eq(EPERM, errno);
	return REPLICA_PASS;
}

TEST_F(shmem, keeps_seals)
{
	fill_file(_metadata, self);
	ASSERT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK));
	isolate_and_pass(_metadata, 0, see_seals, self);
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	replica_assert_eq(1, pwrite(self->fd, "x", 1, 0));
	return REPLICA_PASS;
}

static void expect_shared(struct __test_metadata *_metadata, FIXTURE_DATA(shmem) *self)
{
	char byte = 0;

	isolate_and_pass(_metadata, 0, see_shared, self);
	ASSERT_EQ(1, pread(self->fd, &byte, 1, 0));
	EXPECT_EQ('x', byte);
}

TEST_F(shmem, is_shared_if_somebody_else_has_the_memfd)
{
	pid_t outsider = start_outsider(_metadata, self->fd);

	fill_file(_metadata, self);
	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
}

/* What a private mapping has not written yet is in the file. */
TEST_F(shmem, is_shared_if_it_is_mapped_privately)
{
	fill_file(_metadata, self);
	self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	expect_shared(_metadata, self);
}

static void *write_in_thread(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	__u32 *first = (__u32 *)self->mem, *second = (__u32 *)(self->mem + self->size / 2);

	while (!load(&first[1])) {
		add(first, 1);
		add(second, 1);
	}
	return NULL;
}

/* Two words that are always equal, but for the one who just adds to both. */
TEST_F(shmem, is_copied_at_one_instant)
{
	struct rounds rounds = { .least = 5, .most = 50 };
	__u32 *first = (__u32 *)self->mem;
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, write_in_thread, self));
	while (next_round(&rounds)) {
		long pid = full_fork(CLONE_ISOLATE);

		if (!pid) {
			/* Its own thread goes on, from the same instant. */
			store(&first[1], 1);
			replica_assert_eq(0, pthread_join(thread, NULL));
			replica_assert_eq(load(first),
					  load((__u32 *)(self->mem + self->size / 2)));
			replica_exit(REPLICA_PASS);
		}
		ASSERT_LT(0, pid);
		expect_pass(_metadata, pid);
	}
	store(&first[1], 1);
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

/* fork() copies page tables where there are guard regions: not those of the file. */
static int see_guarded(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	size_t page = getpagesize();

	wait_turn();
	replica_assert(is_pattern(self->mem, page));
	memset(self->mem, 'r', page);
	replica_assert_eq(-1, write(self->fd, self->mem + page, 1));
	replica_assert_eq(EFAULT, errno);
	return REPLICA_PASS;
}

TEST_F(shmem, may_have_guard_regions)
{
	size_t i, page = getpagesize();
	long pid;

	fill_pattern(self->mem, page);
	ASSERT_EQ(0, madvise(self->mem + page, page, MADV_GUARD_INSTALL));
	pid = isolate(_metadata, 0, see_guarded, self);
	memset(self->mem, 'o', page);
	give_turn();
	expect_pass(_metadata, pid);
	for (i = 0; i < page; i++)
		ASSERT_EQ('o', self->mem[i]);
}

/* Has pages, and neither a descriptor nor a mapping. */
static void pin_as_child(FIXTURE_DATA(shmem) *self)
{
	struct io_uring_params params = {};
	struct iovec iov = { self->mem, getpagesize() };
	int ring = syscall(__NR_io_uring_setup, 1, &params);

	close_all_but(ring);
	if (ring < 0 ||
	    syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1) ||
	    munmap(self->mem, self->size))
		_exit(1);
	store(&report->word[WORD_OUTSIDER], 1);
	for (;;)
		pause();
}

static int change_pinned(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;

	self->mem[0] = 'r';
	return REPLICA_PASS;
}

TEST_F(shmem, is_shared_if_it_is_pinned)
{
	pid_t child;

	self->mem[0] = 'o';
	child = fork();
	ASSERT_LE(0, child);
	if (!child)
		pin_as_child(self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
	isolate_and_pass(_metadata, 0, change_pinned, self);
	EXPECT_EQ('r', self->mem[0]);
	end_outsider(_metadata, child);
}

static int see_offset_and_mode(void *arg)
{
	FIXTURE_DATA(shmem) *self = arg;
	struct stat st;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(123, lseek(self->fd, 0, SEEK_CUR));
	replica_assert_eq(0, fstat(self->fd, &st));
	replica_assert_eq(S_IFREG | 0640, st.st_mode);
	replica_assert_eq(5000, st.st_size);
	replica_assert_eq(0, ftruncate(self->fd, 1));
	replica_assert_eq(7, lseek(self->fd, 7, SEEK_SET));
	return REPLICA_PASS;
}

TEST_F(shmem, keeps_offset_size_and_mode)
{
	struct stat st;

	ASSERT_EQ(0, ftruncate(self->fd, 5000));
	ASSERT_EQ(0, fchmod(self->fd, 0640));
	ASSERT_EQ(123, lseek(self->fd, 123, SEEK_SET));
	isolate_and_pass(_metadata, 0, see_offset_and_mode, self);
	EXPECT_EQ(123, lseek(self->fd, 0, SEEK_CUR));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(5000, st.st_size);
}

TEST_HARNESS_MAIN
