// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: shared memory is copied page by page, when one of both sides
 * uses it; and nobody can tell from what is in it.
 */
#include "fullfork_isolate.h"

#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/swap.h>
#include <sys/uio.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define KB_PER_MB 1024
#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define HUGE_PAGE (2UL << 20)

static size_t page;

/* Where page @n begins */
#define at(n) ((n) * page)

static long meminfo_kb(const char *field)
{
	char text[8192], *line;
	long kb = -1;

	if (read_file("/proc/meminfo", text, sizeof(text)) < 0)
		return -1;
	line = strstr(text, field);
	if (line)
		sscanf(line + strlen(field), " %ld", &kb);
	return kb;
}

static long shmem_kb(void)
{
	return meminfo_kb("\nShmem:");
}

/* The counters of each CPU are not part of that at once. */
static bool is_about(long kb, long expected)
{
	return labs(kb - expected) < 3 * KB_PER_MB;
}

static bool is_pattern_from(const unsigned char *mem, size_t from, size_t end)
{
	size_t i;

	for (i = from; i < end; i++)
		if (mem[i] != pattern_at(i))
			return false;
	return true;
}

static void expect_shmem(struct __test_metadata *_metadata, long expected)
{
	EXPECT_TRUE(wait_until(is_about(shmem_kb(), expected), DEADLINE))
	{
		TH_LOG("%ld kB of shared memory, not %ld", shmem_kb(), expected);
	}
}

static void *map_anonymous(size_t size, int how)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS, -1, 0);
}

/* In a replica: it is done with a step, and waits for the one after it. */
static void end_step(__u32 step)
{
	store(&report->word[WORD_FREE], step);
	replica_assert(wait_until(load(&report->word[WORD_TURN]) > step, DEADLINE));
}

static bool wait_step(__u32 step)
{
	return wait_until(load(&report->word[WORD_FREE]) >= step, DEADLINE);
}

static void let_go_on(__u32 step)
{
	store(&report->word[WORD_TURN], step);
}

/* ---- how much memory that needs */

#define BIG (16UL << 20)

FIXTURE(lazy_memory)
{
	unsigned char *mem;
	long before;
};

FIXTURE_SETUP(lazy_memory)
{
	page = getpagesize();
	require_isolate(_metadata);
	self->mem = map_anonymous(BIG, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill_pattern(self->mem, BIG);
	self->before = shmem_kb();
	ASSERT_LT(0, self->before);
}

FIXTURE_TEARDOWN(lazy_memory)
{
}

static int touch_in_steps(void *arg)
{
	FIXTURE_DATA(lazy_memory) *self = arg;

	end_step(0);
	replica_assert(is_pattern(self->mem, BIG / 4));
	end_step(1);
	memset(self->mem + BIG / 4, 'r', BIG / 4);
	end_step(2);
	replica_assert(is_pattern(self->mem, BIG / 4));
	replica_assert(is_pattern_from(self->mem, 3 * (BIG / 4), BIG));
	end_step(3);
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_memory, grows_as_pages_are_used)
{
	long quarter = BIG / 4 / 1024;
	size_t i;
	long pid = isolate(_metadata, 0, touch_in_steps, self);

	expect_shmem(_metadata, self->before);
	let_go_on(1);
	ASSERT_TRUE(wait_step(1));
	expect_shmem(_metadata, self->before + quarter);
	let_go_on(2);
	ASSERT_TRUE(wait_step(2));
	expect_shmem(_metadata, self->before + 2 * quarter);
	/* What the original reads costs nothing, what it writes does. */
	EXPECT_TRUE(is_pattern(self->mem, BIG));
	expect_shmem(_metadata, self->before + 2 * quarter);
	memset(self->mem + BIG / 2, 'o', BIG / 4);
	expect_shmem(_metadata, self->before + 3 * quarter);
	let_go_on(3);
	ASSERT_TRUE(wait_step(3));
	expect_shmem(_metadata, self->before + 4 * quarter);
	let_go_on(4);
	expect_pass(_metadata, pid);
	expect_shmem(_metadata, self->before);
	EXPECT_TRUE(is_pattern(self->mem, BIG / 2));
	for (i = BIG / 2; i < 3 * (BIG / 4); i++)
		ASSERT_EQ('o', self->mem[i]);
}

static int see_all(void *arg)
{
	FIXTURE_DATA(lazy_memory) *self = arg;

	end_step(0);
	replica_assert(is_pattern(self->mem, BIG));
	end_step(1);
	return REPLICA_PASS;
}

static pid_t copy_and_exit(FIXTURE_DATA(lazy_memory) *self)
{
	pid_t pid = fork();
	long replica;

	if (pid)
		return pid;
	self->mem = map_anonymous(BIG, MAP_SHARED);
	if (self->mem == MAP_FAILED)
		_exit(1);
	fill_pattern(self->mem, BIG);
	replica = replica_main(full_fork(CLONE_ISOLATE), see_all, self);
	store(&report->word[WORD_FREE + 1], replica);
	_exit(replica < 0);
}

/* Its pages go one by one when nobody else can use them. */
TEST_F_LONG(lazy_memory, is_not_needed_twice_when_the_original_is_gone)
{
	long big = BIG / 1024;
	pid_t original;
	int status;

	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	ASSERT_EQ(0, munmap(self->mem, BIG));
	expect_shmem(_metadata, self->before - big);
	original = copy_and_exit(self);
	ASSERT_LE(0, original);
	status = xwaitpid(_metadata, original, DEADLINE);
	ASSERT_EQ(0, status);
	expect_shmem(_metadata, self->before);
	let_go_on(1);
	ASSERT_TRUE(wait_step(1));
	expect_shmem(_metadata, self->before);
	let_go_on(2);
	expect_pass(_metadata, load(&report->word[WORD_FREE + 1]));
	expect_shmem(_metadata, self->before - big);
}

/* There is no descriptor left: that is known when all is made. */
TEST_F(lazy_memory, is_as_before_after_a_call_that_failed)
{
	struct rlimit limit, none;
	int pidfd, round;
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_ISOLATE | CLONE_PIDFD,
		.exit_signal = SIGCHLD,
		.pidfd = ptr_to_u64(&pidfd),
	};

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = limit.rlim_max };
	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
		EXPECT_EQ(-EMFILE, sys_clone3(&args, sizeof(args)));
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
		expect_shmem(_metadata, self->before);
		memset(self->mem + round * page, 'o', page);
	}
	EXPECT_TRUE(is_pattern_from(self->mem, 3 * page, BIG));
	expect_shmem(_metadata, self->before);
}

/* ---- every way to use it, on either side */

#define PAGES 64
#define HOLE 48

FIXTURE(lazy_access)
{
	unsigned char *mem;
	int fd;
	long (*use)(int fd);
};

FIXTURE_VARIANT(lazy_access)
{
	/* Returns something that has to be the same for each file */
	long (*use)(int fd);
};

static void fill_file(int fd)
{
	unsigned char *buf = malloc(at(HOLE));

	fill_pattern(buf, at(HOLE));
	replica_assert_eq(at(HOLE), pwrite(fd, buf, at(HOLE), 0));
	replica_assert_eq(0, ftruncate(fd, at(PAGES)));
	free(buf);
}

/* A file that was never copied: what all of it was at the call. */
static int create_model(void)
{
	int fd = memfd_create("model", 0);

	replica_assert(fd >= 0);
	fill_file(fd);
	return fd;
}

static void expect_same(int fd, int model)
{
	struct stat st, st_model;
	char *buf, *buf_model;

	replica_assert_eq(0, fstat(fd, &st));
	replica_assert_eq(0, fstat(model, &st_model));
	replica_assert_eq(st_model.st_size, st.st_size);
	replica_assert_eq(st_model.st_blocks, st.st_blocks);
	buf = malloc(st.st_size);
	buf_model = malloc(st.st_size);
	replica_assert_eq(st.st_size, pread(model, buf_model, st.st_size, 0));
	replica_assert_eq(st.st_size, pread(fd, buf, st.st_size, 0));
	replica_assert(!memcmp(buf, buf_model, st.st_size));
	free(buf);
	free(buf_model);
	replica_assert_eq(lseek(model, 0, SEEK_HOLE), lseek(fd, 0, SEEK_HOLE));
}

static void use_and_compare(long (*use)(int fd), int fd)
{
	int model = create_model();
	long expected = use(model);

	replica_assert_eq(expected, use(fd));
	expect_same(fd, model);
	close(model);
}

static void expect_unchanged(int fd)
{
	int model = create_model();

	expect_same(fd, model);
	close(model);
}

FIXTURE_SETUP(lazy_access)
{
	page = getpagesize();
	require_isolate(_metadata);
	self->fd = memfd_create("lazy", MFD_ALLOW_SEALING);
	ASSERT_LE(0, self->fd);
	fill_file(self->fd);
	self->mem = mmap(NULL, at(PAGES), PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	/* Writes are to be noticed where they were allowed before, too. */
	memset(self->mem, 0, at(4));
	fill_file(self->fd);
	self->use = variant->use;
}

FIXTURE_TEARDOWN(lazy_access)
{
}

static long use_write(int fd)
{
	char buf[5000];

	memset(buf, 'w', sizeof(buf));
	pwrite(fd, buf, 100, 5000);
	pwrite(fd, buf, 4096, at(10));
	pwrite(fd, buf, sizeof(buf), at(20) + 7);
	pwrite(fd, buf, 10, at(50));
	return pwrite(fd, buf, sizeof(buf), at(PAGES) - 10);
}

FIXTURE_VARIANT_ADD(lazy_access, write)
{
	.use = use_write,
};

static long use_mapping(int fd)
{
	unsigned char *mem = mmap(NULL, at(PAGES), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	size_t i;

	replica_assert(mem != MAP_FAILED);
	for (i = 0; i < PAGES; i += 3)
		mem[at(i) + i] += i;
	return munmap(mem, at(PAGES));
}

FIXTURE_VARIANT_ADD(lazy_access, map)
{
	.use = use_mapping,
};

/* By rights that a mapping gets later; and by those that it had. */
static long use_protection(int fd)
{
	unsigned char *mem = mmap(NULL, at(PAGES), PROT_READ, MAP_SHARED, fd, 0);
	size_t i, sum = 0;

	replica_assert(mem != MAP_FAILED);
	for (i = 0; i < PAGES; i++)
		sum += mem[at(i)];
	replica_assert_eq(0, mprotect(mem, at(PAGES), PROT_READ | PROT_WRITE));
	for (i = 0; i < PAGES; i += 2)
		mem[at(i)] = 'p';
	replica_assert_eq(0, mprotect(mem, at(PAGES), PROT_READ));
	replica_assert_eq(0, mprotect(mem, at(PAGES), PROT_READ | PROT_WRITE));
	mem = mremap(mem, at(PAGES), at(PAGES - 1), MREMAP_MAYMOVE);
	for (i = 1; i < PAGES / 2; i += 2)
		mem[at(i) + 1] = 'q';
	munmap(mem, at(PAGES - 1));
	return sum;
}

FIXTURE_VARIANT_ADD(lazy_access, protect)
{
	.use = use_protection,
};

static long use_punch(int fd)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	replica_assert_eq(0, fallocate(fd, mode, at(3) + 100, at(5)));
	replica_assert_eq(0, fallocate(fd, mode, at(20) + 5, 100));
	replica_assert_eq(0, fallocate(fd, mode, at(30), at(1)));
	return fallocate(fd, mode, at(40), at(20));
}

FIXTURE_VARIANT_ADD(lazy_access, punch)
{
	.use = use_punch,
};

static long use_remove(int fd)
{
	unsigned char *mem = mmap(NULL, at(PAGES), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	replica_assert(mem != MAP_FAILED);
	replica_assert_eq(0, madvise(mem + at(2), at(7), MADV_REMOVE));
	replica_assert_eq(0, madvise(mem, at(PAGES), MADV_DONTNEED));
	mem[at(3)] = 'n';
	return munmap(mem, at(PAGES));
}

FIXTURE_VARIANT_ADD(lazy_access, remove)
{
	.use = use_remove,
};

static long use_truncate(int fd)
{
	replica_assert_eq(0, ftruncate(fd, at(10) + 123));
	replica_assert_eq(0, ftruncate(fd, at(30)));
	replica_assert_eq(1, pwrite(fd, "t", 1, at(20)));
	return ftruncate(fd, at(PAGES) + 1);
}

FIXTURE_VARIANT_ADD(lazy_access, truncate)
{
	.use = use_truncate,
};

static long use_truncate_all(int fd)
{
	replica_assert_eq(0, ftruncate(fd, 0));
	return ftruncate(fd, at(PAGES));
}

FIXTURE_VARIANT_ADD(lazy_access, truncate_all)
{
	.use = use_truncate_all,
};

static long use_fallocate(int fd)
{
	replica_assert_eq(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, at(2), at(3)));
	return fallocate(fd, 0, at(40), at(40));
}

FIXTURE_VARIANT_ADD(lazy_access, fallocate)
{
	.use = use_fallocate,
};

static long use_seek(int fd)
{
	replica_assert_eq(at(HOLE), lseek(fd, 5, SEEK_HOLE));
	replica_assert_eq(5, lseek(fd, 5, SEEK_DATA));
	replica_assert_eq(-1, lseek(fd, at(50), SEEK_DATA));
	return errno;
}

FIXTURE_VARIANT_ADD(lazy_access, seek)
{
	.use = use_seek,
};

/* Out by sendfile(), in by splice() from a pipe. */
static long use_splice(int fd)
{
	off_t from = at(4) + 1;
	loff_t to = at(6) + 2;
	int ends[2];

	replica_assert_eq(0, pipe(ends));
	replica_assert_eq(at(3), sendfile(ends[1], fd, &from, at(3)));
	while (splice(ends[0], NULL, fd, &to, at(3), SPLICE_F_NONBLOCK) > 0)
		;
	close(ends[0]);
	return close(ends[1]);
}

FIXTURE_VARIANT_ADD(lazy_access, splice)
{
	.use = use_splice,
};

/* As another process does it: without a fault of the one that has the memory. */
static long use_remote(int fd)
{
	unsigned char *mem = mmap(NULL, at(PAGES), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct iovec local, remote;
	char buf[9000];
	long ret;

	replica_assert(mem != MAP_FAILED);
	memset(buf, 'v', sizeof(buf));
	local = (struct iovec){ buf, sizeof(buf) };
	remote = (struct iovec){ mem + at(7) + 99, sizeof(buf) };
	ret = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
	munmap(mem, at(PAGES));
	return ret;
}

FIXTURE_VARIANT_ADD(lazy_access, write_from_outside)
{
	.use = use_remote,
};

static long use_direct(int fd)
{
	unsigned char *mem = mmap(NULL, at(PAGES), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int from = memfd_create("from", 0);
	long ret;

	replica_assert(mem != MAP_FAILED && from >= 0);
	replica_assert_eq(0, ftruncate(from, at(4)));
	/* The kernel writes to memory that was not touched. */
	ret = pread(from, mem + at(11) + 3, at(2), 0);
	munmap(mem, at(PAGES));
	close(from);
	return ret;
}

FIXTURE_VARIANT_ADD(lazy_access, read_into)
{
	.use = use_direct,
};

/* The mapping and the descriptor are still of one file. */
static void expect_mapped(FIXTURE_DATA(lazy_access) *self)
{
	unsigned char byte;

	replica_assert_eq(1, pread(self->fd, &byte, 1, at(9)));
	replica_assert_eq(byte, self->mem[at(9)]);
	self->mem[at(9)]++;
	replica_assert_eq(1, pread(self->fd, &byte, 1, at(9)));
	replica_assert_eq(byte, self->mem[at(9)]);
}

static int use_in_replica(void *arg)
{
	FIXTURE_DATA(lazy_access) *self = arg;

	use_and_compare(self->use, self->fd);
	end_step(1);
	expect_mapped(self);
	return REPLICA_PASS;
}

TEST_F(lazy_access, by_the_replica)
{
	long pid = isolate(_metadata, 0, use_in_replica, self);

	ASSERT_TRUE(wait_step(1));
	expect_unchanged(self->fd);
	let_go_on(2);
	expect_pass(_metadata, pid);
	expect_mapped(self);
}

static int see_unchanged(void *arg)
{
	FIXTURE_DATA(lazy_access) *self = arg;

	wait_turn();
	expect_unchanged(self->fd);
	expect_mapped(self);
	return REPLICA_PASS;
}

TEST_F(lazy_access, by_the_original)
{
	long pid = isolate(_metadata, 0, see_unchanged, self);

	use_and_compare(self->use, self->fd);
	let_go_on(1);
	expect_pass(_metadata, pid);
	expect_mapped(self);
}

static int use_after_original(void *arg)
{
	FIXTURE_DATA(lazy_access) *self = arg;

	wait_turn();
	use_and_compare(self->use, self->fd);
	expect_mapped(self);
	return REPLICA_PASS;
}

TEST_F(lazy_access, by_both)
{
	long pid = isolate(_metadata, 0, use_after_original, self);

	use_and_compare(self->use, self->fd);
	let_go_on(1);
	expect_pass(_metadata, pid);
	expect_mapped(self);
}

/* A copy of a copy that is not whole, while the first original goes on. */
static int copy_and_use(void *arg)
{
	FIXTURE_DATA(lazy_access) *self = arg;
	long pid;
	int status;

	/* Some of it is there. */
	replica_assert_eq(pattern_at(at(12)), self->mem[at(12)]);
	pid = replica_main(full_fork(CLONE_ISOLATE), see_unchanged, self);
	replica_assert(pid > 0);
	end_step(1);
	use_and_compare(self->use, self->fd);
	store(&report->word[WORD_FREE], 2);
	replica_assert_eq(pid, waitpid(pid, &status, __WALL));
	replica_assert(WIFEXITED(status) && WEXITSTATUS(status) == REPLICA_PASS);
	return REPLICA_PASS;
}

TEST_F(lazy_access, by_three)
{
	long pid = isolate(_metadata, 0, copy_and_use, self);

	ASSERT_TRUE(wait_step(1));
	use_and_compare(self->use, self->fd);
	let_go_on(2);
	ASSERT_TRUE(wait_step(2));
	expect_pass(_metadata, pid);
	expect_mapped(self);
}

/* ---- many copies */

FIXTURE(lazy_copies)
{
	unsigned char *mem;
	unsigned char *model;
	int fd;
	long before;
	__u32 generation;
	__u32 last;
};

FIXTURE_SETUP(lazy_copies)
{
	page = getpagesize();
	require_isolate(_metadata);
	/* fork() copies that at the same instant. */
	self->model = map_anonymous(at(PAGES), MAP_PRIVATE);
	self->fd = memfd_create("lazy", 0);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, at(PAGES)));
	self->mem = mmap(NULL, at(PAGES), PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill_pattern(self->mem, at(PAGES));
	fill_pattern(self->model, at(PAGES));
	self->before = shmem_kb();
}

FIXTURE_TEARDOWN(lazy_copies)
{
}

static void change(FIXTURE_DATA(lazy_copies) *self, size_t n, int value)
{
	memset(self->mem + at(n % PAGES), value, page / 2);
	memset(self->model + at(n % PAGES), value, page / 2);
}

static bool is_as_model(FIXTURE_DATA(lazy_copies) *self)
{
	size_t i;

	for (i = 0; i < at(PAGES); i++) {
		if (self->mem[i] == self->model[i])
			continue;
		fprintf(stderr, "# generation %u, page %zu, byte %zu: %#x, not %#x\n",
			self->generation, i / page, i % page, self->mem[i], self->model[i]);
		return false;
	}
	return true;
}

static int see_and_change_it(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;

	change(self, self->generation * 7, 'r');
	replica_assert(is_as_model(self));
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_copies, one_after_the_other)
{
	for (self->generation = 0; self->generation < 200; self->generation++) {
		change(self, self->generation, self->generation);
		isolate_and_pass(_metadata, 0, see_and_change_it, self);
		ASSERT_TRUE(is_as_model(self));
	}
	expect_shmem(_metadata, self->before);
}

static int change_and_see(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;
	__u32 n = self->generation;

	change(self, n * 3, 'a' + n);
	end_step(0);
	change(self, n * 3 + 1, 'A' + n);
	replica_assert(is_as_model(self));
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_copies, at_the_same_time)
{
	long pid[8];
	size_t i;

	for (i = 0; i < 8; i++) {
		self->generation = i;
		pid[i] = isolate(_metadata, 0, change_and_see, self);
		change(self, i * 5, 'o');
	}
	for (i = 0; i < PAGES; i += 2)
		change(self, i, 'p');
	let_go_on(1);
	for (i = 0; i < 8; i++)
		expect_pass(_metadata, pid[i]);
	EXPECT_TRUE(is_as_model(self));
	expect_shmem(_metadata, self->before);
}

static int see_blocks(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;
	struct stat st;

	store(&report->word[WORD_FREE], 1);
	do {
		replica_assert_eq(0, fstat(self->fd, &st));
		replica_assert_eq(PAGES * page / 512, st.st_blocks);
	} while (!load(&report->word[WORD_TURN]));
	return REPLICA_PASS;
}

/* Each of them is moved from what is not there yet to what is. */
TEST_F_LONG(lazy_copies, have_all_blocks_while_pages_are_copied)
{
	size_t i, round;
	long pid;

	for (round = 0; round < 100; round++) {
		store(&report->word[WORD_FREE], 0);
		store(&report->word[WORD_TURN], 0);
		pid = isolate(_metadata, 0, see_blocks, self);
		ASSERT_TRUE(wait_step(1));
		for (i = 0; i < PAGES; i++)
			change(self, i, round);
		give_turn();
		expect_pass(_metadata, pid);
	}
}

/* Each generation has changed a page; the first one has gone on meanwhile. */
static int copy_again(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;
	int status;
	long pid;

	change(self, self->generation, self->generation);
	if (++self->generation < self->last) {
		pid = replica_main(full_fork(CLONE_ISOLATE), copy_again, self);
		replica_assert(pid > 0);
		replica_assert_eq(pid, waitpid(pid, &status, __WALL));
		replica_assert(WIFEXITED(status) && WEXITSTATUS(status) == REPLICA_PASS);
	} else {
		end_step(0);
	}
	replica_assert(is_as_model(self));
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_copies, of_copies)
{
	size_t i;
	long pid;

	self->last = 20;
	pid = isolate(_metadata, 0, copy_again, self);
	for (i = 0; i < PAGES; i += 3)
		change(self, i, 'o');
	let_go_on(1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_as_model(self));
	expect_shmem(_metadata, self->before);
}

/* Only the last one is there: what was never changed came from the first one. */
static int copy_and_end(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;
	long pid;

	change(self, self->generation, self->generation);
	if (++self->generation < self->last) {
		pid = replica_main(full_fork(CLONE_ISOLATE), copy_and_end, self);
		replica_assert(pid > 0);
		return REPLICA_PASS;
	}
	replica_assert(is_as_model(self));
	store(&report->word[WORD_FREE], 1);
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_copies, of_copies_that_are_gone)
{
	int status;

	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	self->last = 200;
	self->generation = 0;
	expect_pass(_metadata, isolate(_metadata, 0, copy_and_end, self));
	ASSERT_TRUE(wait_step(1));
	while (waitpid(-1, &status, __WALL) > 0)
		EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == REPLICA_PASS);
	EXPECT_TRUE(is_as_model(self));
	expect_shmem(_metadata, self->before);
}

/* Original and replica have children that share what they have. */
static int fork_and_share(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;
	int status;
	pid_t pid;

	wait_turn();
	pid = fork();
	replica_assert(pid >= 0);
	if (!pid) {
		if (!is_as_model(self))
			_exit(1);
		self->mem[at(3)] = 'c';
		_exit(0);
	}
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert_eq(0, status);
	replica_assert_eq('c', self->mem[at(3)]);
	self->model[at(3)] = 'c';
	replica_assert(is_as_model(self));
	return REPLICA_PASS;
}

TEST_F(lazy_copies, are_shared_with_children)
{
	long pid = isolate(_metadata, 0, fork_and_share, self);

	change(self, 3, 'o');
	change(self, 4, 'o');
	let_go_on(1);
	fork_and_share(self);
	expect_pass(_metadata, pid);
	self->mem[at(5)] = 'x';
	EXPECT_EQ('c', self->mem[at(3)]);
}

static int wait_and_see(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;

	wait_turn();
	replica_assert(is_as_model(self));
	change(self, 11, 'r');
	replica_assert(is_as_model(self));
	return REPLICA_PASS;
}

TEST_F(lazy_copies, may_be_locked)
{
	long pid;

	ASSERT_EQ(0, mlock(self->mem, at(PAGES)));
	pid = isolate(_metadata, 0, wait_and_see, self);
	change(self, 11, 'o');
	let_go_on(1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_as_model(self));
}

static int register_buffer(void *mem, size_t size)
{
	struct io_uring_params params = {};
	struct iovec iov = { mem, size };
	int ring = syscall(__NR_io_uring_setup, 1, &params);

	if (ring < 0 || syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1))
		return -errno;
	return ring;
}

/* What is pinned may be written to without a fault. */
TEST_F(lazy_copies, may_be_pinned_afterwards)
{
	long pid = isolate(_metadata, 0, wait_and_see, self);
	int zeroes = open("/dev/zero", O_RDONLY);
	int ring;

	ASSERT_LE(0, zeroes);
	ring = register_buffer(self->mem, at(PAGES / 2));
	ASSERT_LE(0, ring)
	{
		TH_LOG("io_uring: %s", strerror(-ring));
	}
	ASSERT_EQ(page, read(zeroes, self->mem + at(4), page));
	memset(self->mem, 'o', at(PAGES / 2));
	let_go_on(1);
	expect_pass(_metadata, pid);
	close(ring);
}

static int open_userfaultfd(void *mem, size_t size, __u64 mode)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = ptr_to_u64(mem), .len = size },
		.mode = mode,
	};
	int fd = syscall(__NR_userfaultfd, UFFD_USER_MODE_ONLY);

	if (mode & UFFDIO_REGISTER_MODE_MINOR)
		api.features = UFFD_FEATURE_MINOR_SHMEM;
	replica_assert(fd >= 0);
	replica_assert_eq(0, ioctl(fd, UFFDIO_API, &api));
	replica_assert_eq(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	return fd;
}

/* A page that is pending is not missing. */
static int fill_by_userfaultfd(void *arg)
{
	FIXTURE_DATA(lazy_copies) *self = arg;
	int fd = open_userfaultfd(self->mem, at(PAGES), UFFDIO_REGISTER_MODE_MISSING);
	struct uffdio_copy copy = {
		.dst = ptr_to_u64(self->mem + at(6)),
		.src = ptr_to_u64(self->model),
		.len = page,
	};

	replica_assert_eq(-1, ioctl(fd, UFFDIO_COPY, &copy));
	replica_assert_eq(-EEXIST, copy.copy);
	replica_assert(is_as_model(self));
	close(fd);
	return REPLICA_PASS;
}

TEST_F(lazy_copies, are_not_missing_for_userfaultfd)
{
	isolate_and_pass(_metadata, 0, fill_by_userfaultfd, self);
	EXPECT_TRUE(is_as_model(self));
}

/* It may be mapped writable without a fault by UFFDIO_CONTINUE. */
TEST_F(lazy_copies, are_seen_by_userfaultfd_of_the_original)
{
	long pid = isolate(_metadata, 0, wait_and_see, self);
	int fd = open_userfaultfd(self->mem, at(PAGES), UFFDIO_REGISTER_MODE_MINOR);
	struct uffdio_continue next = {
		.range = { .start = ptr_to_u64(self->mem), .len = at(PAGES) },
	};

	ASSERT_EQ(0, madvise(self->mem, at(PAGES), MADV_DONTNEED));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_CONTINUE, &next));
	memset(self->mem, 'o', at(PAGES));
	let_go_on(1);
	expect_pass(_metadata, pid);
	close(fd);
}

/* ---- huge pages */

FIXTURE(lazy_huge)
{
	char enabled[128];
	unsigned char *mem;
};

FIXTURE_SETUP(lazy_huge)
{
	char *word, *end;

	page = getpagesize();
	require_isolate(_metadata);
	require_root(_metadata, "huge pages");
	ASSERT_LT(0, read_file(SHMEM_ENABLED, self->enabled, sizeof(self->enabled)));
	word = strchr(self->enabled, '[');
	ASSERT_NE(NULL, word);
	end = strchr(word, ']');
	ASSERT_NE(NULL, end);
	*end = 0;
	memmove(self->enabled, word + 1, end - word);
	ASSERT_EQ(0, write_file(SHMEM_ENABLED, "force"));
	self->mem = map_anonymous(4 * HUGE_PAGE, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill_pattern(self->mem, 4 * HUGE_PAGE);
}

FIXTURE_TEARDOWN(lazy_huge)
{
	EXPECT_EQ(0, write_file(SHMEM_ENABLED, self->enabled));
}

static int see_huge(void *arg)
{
	FIXTURE_DATA(lazy_huge) *self = arg;

	wait_turn();
	replica_assert(is_pattern(self->mem, 2 * HUGE_PAGE));
	memset(self->mem, 'r', HUGE_PAGE / 2);
	/* What is not there yet must not become zeroes. */
	madvise(self->mem, 4 * HUGE_PAGE, MADV_COLLAPSE);
	replica_assert(is_pattern_from(self->mem, HUGE_PAGE / 2, 2 * HUGE_PAGE));
	replica_assert_eq(pattern_at(4 * HUGE_PAGE - 1), self->mem[4 * HUGE_PAGE - 1]);
	replica_assert_eq(pattern_at(3 * HUGE_PAGE), self->mem[3 * HUGE_PAGE]);
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_huge, may_be_in_the_source)
{
	size_t i;
	long pid;

	ASSERT_LE((long)(HUGE_PAGE / 1024), meminfo_kb("\nShmemHugePages:"));
	pid = isolate(_metadata, 0, see_huge, self);
	memset(self->mem + HUGE_PAGE, 'o', page);
	ASSERT_EQ(0, madvise(self->mem + 2 * HUGE_PAGE, HUGE_PAGE + 5 * page, MADV_REMOVE));
	let_go_on(1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_pattern(self->mem, HUGE_PAGE));
	for (i = HUGE_PAGE; i < HUGE_PAGE + page; i++)
		ASSERT_EQ('o', self->mem[i]);
	for (i = 2 * HUGE_PAGE; i < 3 * HUGE_PAGE; i++)
		ASSERT_EQ(0, self->mem[i]);
}

/* ---- many threads on both sides */

#define THREADS 4

FIXTURE(lazy_storm)
{
	unsigned char *mem;
	unsigned char *model;
	int fd;
	__u32 end;
	pthread_t thread[THREADS];
};

/* Each has pages of its own: what is in the model is in the memory a moment later. */
static void step_of_storm(FIXTURE_DATA(lazy_storm) *self, unsigned int me, unsigned int *seed)
{
	size_t n = rand_r(seed) % (PAGES / THREADS) * THREADS + me;
	unsigned char byte = rand_r(seed);
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	char buf[64];

	switch (rand_r(seed) % 6) {
	case 0:
		memset(self->model + at(n), 0, page);
		fallocate(self->fd, mode, at(n), page);
		break;
	case 1:
		memset(buf, byte, sizeof(buf));
		memset(self->model + at(n) + 128, byte, sizeof(buf));
		pwrite(self->fd, buf, sizeof(buf), at(n) + 128);
		break;
	case 2:
		madvise(self->mem + at(n), page, MADV_DONTNEED);
		break;
	default:
		self->model[at(n) + byte] = byte;
		self->mem[at(n) + byte] = byte;
	}
}

struct storm_arg {
	FIXTURE_DATA(lazy_storm) *self;
	unsigned int me;
};

static struct storm_arg storm_args[THREADS];

static void *storm(void *arg)
{
	struct storm_arg *a = arg;
	unsigned int seed = a->me + 1;

	while (!load(&a->self->end))
		step_of_storm(a->self, a->me, &seed);
	return NULL;
}

FIXTURE_SETUP(lazy_storm)
{
	unsigned int i;

	page = getpagesize();
	require_isolate(_metadata);
	self->model = map_anonymous(at(PAGES), MAP_PRIVATE);
	self->fd = memfd_create("lazy", 0);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, at(PAGES)));
	self->mem = mmap(NULL, at(PAGES), PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill_pattern(self->mem, at(PAGES));
	fill_pattern(self->model, at(PAGES));
	for (i = 0; i < THREADS; i++) {
		storm_args[i] = (struct storm_arg){ self, i };
		ASSERT_EQ(0, pthread_create(&self->thread[i], NULL, storm, &storm_args[i]));
	}
}

FIXTURE_TEARDOWN(lazy_storm)
{
}

static void end_storm(FIXTURE_DATA(lazy_storm) *self)
{
	unsigned int i;

	store(&self->end, 1);
	for (i = 0; i < THREADS; i++)
		replica_assert_eq(0, pthread_join(self->thread[i], NULL));
	replica_assert(!memcmp(self->mem, self->model, at(PAGES)));
}

static int go_on_and_see(void *arg)
{
	/* A while, in which the original goes on, too, and is copied again. */
	wait_until(load(&report->word[WORD_TURN]), 1);
	end_storm(arg);
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_storm, leaves_each_side_its_own)
{
	struct rounds rounds = { .least = 5, .most = 100 };
	long pid[2] = {};
	int i = 0;

	while (next_round(&rounds)) {
		if (pid[i])
			expect_pass(_metadata, pid[i]);
		pid[i] = isolate(_metadata, 0, go_on_and_see, self);
		i = !i;
	}
	let_go_on(1);
	end_storm(self);
	for (i = 0; i < 2; i++)
		if (pid[i])
			expect_pass(_metadata, pid[i]);
}

/* Copies of copies, in the storm */
static int copy_in_storm(void *arg)
{
	FIXTURE_DATA(lazy_storm) *self = arg;
	int status;
	long pid;

	if (add(&report->word[WORD_FREE + 2], 1) < 24) {
		pid = replica_main(full_fork(CLONE_ISOLATE), copy_in_storm, self);
		replica_assert(pid > 0);
		end_storm(self);
		replica_assert_eq(pid, waitpid(pid, &status, __WALL));
		replica_assert(WIFEXITED(status) && WEXITSTATUS(status) == REPLICA_PASS);
		return REPLICA_PASS;
	}
	end_storm(self);
	return REPLICA_PASS;
}

TEST_F_LONG(lazy_storm, goes_on_in_copies_of_copies)
{
	long pid = isolate(_metadata, 0, copy_in_storm, self);

	expect_pass(_metadata, pid);
	end_storm(self);
}

/* Pages that are reserved behind the end of a file */
FIXTURE(lazy_end)
{
	int fd;
};

FIXTURE_SETUP(lazy_end)
{
	int i;

	require_isolate(_metadata);
	self->fd = memfd_create("fullfork", 0);
	ASSERT_LE(0, self->fd);
	/* The second call makes them look like pages that were written. */
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, 64 * 4096));
}

FIXTURE_TEARDOWN(lazy_end)
{
	close(self->fd);
}

static int see_end(void *arg)
{
	FIXTURE_DATA(lazy_end) *self = arg;
	off_t size = lseek(self->fd, 0, SEEK_END);
	char byte = 1;

	replica_assert(size == 0 || size == 100);
	replica_assert_eq(0, ftruncate(self->fd, 64 * 4096));
	replica_assert_eq(1, pread(self->fd, &byte, 1, 40 * 4096));
	replica_assert_eq(0, byte);
	replica_assert_eq(1, pwrite(self->fd, "x", 1, 40 * 4096));
	return REPLICA_PASS;
}

TEST_F(lazy_end, is_that_of_an_empty_file)
{
	isolate_and_pass(_metadata, 0, see_end, self);
	EXPECT_EQ(0, lseek(self->fd, 0, SEEK_END));
}

TEST_F(lazy_end, is_in_the_first_page)
{
	ASSERT_EQ(0, ftruncate(self->fd, 100));
	isolate_and_pass(_metadata, 0, see_end, self);
	EXPECT_EQ(100, lseek(self->fd, 0, SEEK_END));
}

/* ---- memory that is not in memory */

#define SWAPPED (1UL << 20)

FIXTURE(lazy_swap)
{
	char device[64];
	unsigned char *mem;
};

/* A file of a tmpfs of its own is what it is written to. */
static bool make_swap(char *device, size_t size)
{
	FILE *f;

	if (system("truncate -s 16M /tmp/swap && mkswap -q /tmp/swap"))
		return false;
	f = popen("losetup --find --show /tmp/swap", "r");
	if (!f)
		return false;
	if (!fgets(device, size, f))
		device[0] = '\0';
	device[strcspn(device, "\n")] = '\0';
	return !pclose(f);
}

FIXTURE_SETUP(lazy_swap)
{
	require_isolate(_metadata);
	require_root(_metadata, "swap of its own");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
	ASSERT_TRUE(make_swap(self->device, sizeof(self->device)));
	ASSERT_EQ(0, swapon(self->device, 0));
	self->mem = map_anonymous(SWAPPED, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill_pattern(self->mem, SWAPPED);
}

FIXTURE_TEARDOWN(lazy_swap)
{
	char command[80];

	EXPECT_EQ(0, swapoff(self->device));
	snprintf(command, sizeof(command), "losetup --detach %s", self->device);
	EXPECT_EQ(0, system(command));
}

/* Most of it is in swap then. */
static bool page_out(unsigned char *mem)
{
	long before = meminfo_kb("\nSwapFree:");

	/* Room that overwritten pages had there may come back meanwhile. */
	return !madvise(mem, SWAPPED, MADV_PAGEOUT) &&
	       before - meminfo_kb("\nSwapFree:") >= (long)(SWAPPED / 4 / 1024);
}

static bool is_only(const unsigned char *mem, unsigned char byte, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		if (mem[i] != byte)
			return false;
	return true;
}

static int use_and_page_out(void *arg)
{
	FIXTURE_DATA(lazy_swap) *self = arg;

	end_step(0);
	replica_assert(is_pattern(self->mem, SWAPPED));
	memset(self->mem, 'r', SWAPPED / 4);
	replica_assert(page_out(self->mem));
	replica_assert(is_only(self->mem, 'r', SWAPPED / 4));
	replica_assert(is_pattern_from(self->mem, SWAPPED / 4, SWAPPED));
	return REPLICA_PASS;
}

TEST_F(lazy_swap, has_the_source)
{
	long pid;

	EXPECT_TRUE(page_out(self->mem));
	pid = isolate(_metadata, 0, use_and_page_out, self);
	let_go_on(1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_pattern(self->mem, SWAPPED));
}

TEST_F(lazy_swap, gets_the_source_afterwards)
{
	long pid = isolate(_metadata, 0, use_and_page_out, self);

	/* What is in no page table is not paged out. */
	EXPECT_TRUE(is_pattern(self->mem, SWAPPED));
	EXPECT_TRUE(page_out(self->mem));
	let_go_on(1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_pattern(self->mem, SWAPPED));
}

TEST_F(lazy_swap, has_what_the_original_writes)
{
	long pid;

	EXPECT_TRUE(page_out(self->mem));
	pid = isolate(_metadata, 0, use_and_page_out, self);
	memset(self->mem, 'o', SWAPPED / 2);
	EXPECT_TRUE(page_out(self->mem));
	let_go_on(1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_only(self->mem, 'o', SWAPPED / 2));
	EXPECT_TRUE(is_pattern_from(self->mem, SWAPPED / 2, SWAPPED));
}

/* Swap is taken away while copies are still to be made of what is there. */
TEST_F(lazy_swap, is_taken_away)
{
	long pid;

	EXPECT_TRUE(page_out(self->mem));
	pid = isolate(_metadata, 0, use_and_page_out, self);
	EXPECT_EQ(0, swapoff(self->device));
	EXPECT_EQ(0, swapon(self->device, 0));
	let_go_on(1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_pattern(self->mem, SWAPPED));
}

TEST_HARNESS_MAIN
