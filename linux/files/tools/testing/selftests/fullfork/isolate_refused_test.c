// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: shared memory that only members have, but that cannot be copied, fails
 * the call: that of huge pages, and that of memfd_secret().
 */
#include "fullfork_isolate.h"

#include <sys/mount.h>
#include <sys/shm.h>

#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"
/* For what a test has, and its private copies */
#define SPARE 6

struct memory {
	unsigned char *mem;
	int fd;			/* or -1 */
	size_t size;
};

static size_t huge_page_size(void)
{
	char text[8192], *line;
	size_t kib = 0;

	if (read_file("/proc/meminfo", text, sizeof(text)) > 0) {
		line = strstr(text, "Hugepagesize:");
		if (line)
			sscanf(line, "Hugepagesize: %zu kB", &kib);
	}
	return kib * 1024;
}

static long read_number(const char *path)
{
	char text[32];

	return read_file(path, text, sizeof(text)) > 0 ? atol(text) : -1;
}

/* How many there were. */
static long add_huge_pages(struct __test_metadata *_metadata)
{
	long before = read_number(NR_HUGEPAGES);
	char text[32];

	require_root(_metadata, "huge pages");
	skip_unless(before >= 0 && huge_page_size(), _exit(0), "there are no huge pages");
	snprintf(text, sizeof(text), "%ld", before + SPARE);
	ASSERT_EQ(0, write_file(NR_HUGEPAGES, text));
	ASSERT_EQ(before + SPARE, read_number(NR_HUGEPAGES));
	return before;
}

static void remove_huge_pages(long before)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", before);
	write_file(NR_HUGEPAGES, text);
}

static bool map_fd(struct memory *m)
{
	if (m->fd < 0)
		return false;
	m->mem = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	return m->mem != MAP_FAILED;
}

static bool make_huge_memfd(struct memory *m)
{
	m->size = huge_page_size();
	m->fd = memfd_create("huge", MFD_HUGETLB);
	return !ftruncate(m->fd, m->size) && map_fd(m);
}

static bool make_huge_mapping(struct memory *m)
{
	m->size = huge_page_size();
	m->fd = -1;
	m->mem = mmap(NULL, m->size, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	return m->mem != MAP_FAILED;
}

/* One without a name: nobody else can attach it any more. */
static bool make_huge_segment(struct memory *m)
{
	int id;

	m->size = huge_page_size();
	m->fd = -1;
	id = shmget(IPC_PRIVATE, m->size, SHM_HUGETLB | 0600);
	m->mem = shmat(id, NULL, 0);
	return m->mem != (void *)-1 && !shmctl(id, IPC_RMID, NULL);
}

static bool make_secret(struct memory *m)
{
	m->size = 2 * getpagesize();
	m->fd = syscall(__NR_memfd_secret, 0);
	return !ftruncate(m->fd, m->size) && map_fd(m);
}

static bool make_secret_mapping(struct memory *m)
{
	if (!make_secret(m) || close(m->fd))
		return false;
	m->fd = -1;
	return true;
}

FIXTURE(memory)
{
	struct memory m;
	long huge_pages;
};

FIXTURE_VARIANT(memory)
{
	bool (*make)(struct memory *m);
};

FIXTURE_VARIANT_ADD(memory, huge_memfd) { .make = make_huge_memfd };
FIXTURE_VARIANT_ADD(memory, huge_mapping) { .make = make_huge_mapping };
FIXTURE_VARIANT_ADD(memory, huge_segment) { .make = make_huge_segment };
FIXTURE_VARIANT_ADD(memory, secret) { .make = make_secret };
FIXTURE_VARIANT_ADD(memory, secret_mapping) { .make = make_secret_mapping };

FIXTURE_SETUP(memory)
{
	require_isolate(_metadata);
	self->huge_pages = add_huge_pages(_metadata);
	ASSERT_TRUE(variant->make(&self->m))
	{
		TH_LOG("%s", strerror(errno));
	}
	memset(self->m.mem, 'o', self->m.size);
}

FIXTURE_TEARDOWN(memory)
{
	remove_huge_pages(self->huge_pages);
}

static int change_shared(void *arg)
{
	struct memory *m = arg;

	if (m->fd >= 0)
		replica_assert_fdinfo("shared", m->fd);
	replica_assert_eq('o', m->mem[0]);
	m->mem[0] = 'r';
	return REPLICA_PASS;
}

/* What the replica does is seen. */
static void expect_shared(struct __test_metadata *_metadata, struct memory *m)
{
	m->mem[0] = 'o';
	isolate_and_pass(_metadata, 0, change_shared, m);
	EXPECT_EQ('r', m->mem[0]);
}

TEST_F(memory, is_refused)
{
	sigset_t sigchld = block_signal(_metadata, SIGCHLD);
	struct census before = take_census();

	EXPECT_EQ(-EOPNOTSUPP, replica_main(full_fork(CLONE_ISOLATE), see_nothing, NULL));
	expect_nothing_left(_metadata, before, &sigchld);
	EXPECT_EQ('o', self->m.mem[0]);
	EXPECT_EQ('o', self->m.mem[self->m.size - 1]);

	/* Without the flag, and without the memory, nothing is. */
	fork_and_pass(_metadata, 0, see_nothing, NULL);
	if (self->m.fd >= 0)
		ASSERT_EQ(0, close(self->m.fd));
	if (shmdt(self->m.mem))
		ASSERT_EQ(0, munmap(self->m.mem, self->m.size));
	isolate_and_pass(_metadata, 0, see_nothing, NULL);
}

TEST_F(memory, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->m.fd >= 0 ? self->m.fd : STDERR_FILENO);

	expect_shared(_metadata, &self->m);
	expect_refused(_metadata, CLONE_SUBTREE);
	end_outsider(_metadata, outsider);
	expect_refused(_metadata, 0);
}

/* All mappings of all members count. */
TEST_F(memory, is_refused_if_it_is_mapped_twice)
{
	if (self->m.fd < 0)
		return;
	ASSERT_LE(0, dup(self->m.fd));
	ASSERT_TRUE(map_fd(&self->m));
	expect_refused(_metadata, 0);
}

/*
 * Huge pages that are not refused
 */
FIXTURE(huge_pages)
{
	unsigned char *mem;
	size_t size;
	long before;
};

FIXTURE_SETUP(huge_pages)
{
	require_isolate(_metadata);
	self->before = add_huge_pages(_metadata);
	self->size = huge_page_size();
}

FIXTURE_TEARDOWN(huge_pages)
{
	remove_huge_pages(self->before);
}

static int change_private(void *arg)
{
	FIXTURE_DATA(huge_pages) *self = arg;

	wait_turn();
	replica_assert_eq('o', self->mem[0]);
	self->mem[0] = 'r';
	return REPLICA_PASS;
}

TEST_F(huge_pages, of_private_memory_are_copied_as_by_fork)
{
	long pid;

	self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	self->mem[0] = 'o';
	pid = isolate(_metadata, 0, change_private, self);
	self->mem[0] = 'p';
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ('p', self->mem[0]);
}

/* Anybody can open it. */
TEST_F(huge_pages, of_a_file_with_a_name_are_shared)
{
	struct memory m = { .size = self->size };

	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("none", "/tmp", "hugetlbfs", 0, NULL));
	m.fd = open("/tmp/file", O_RDWR | O_CREAT, 0600);
	ASSERT_EQ(0, ftruncate(m.fd, m.size));
	ASSERT_TRUE(map_fd(&m));
	expect_shared(_metadata, &m);
	ASSERT_EQ(0, unlink("/tmp/file"));
	expect_refused(_metadata, 0);
}

/* Whoever knows the ID can attach it. */
TEST_F(huge_pages, of_a_segment_with_an_id_are_shared)
{
	struct memory m = { .size = self->size, .fd = -1 };
	int id = shmget(IPC_PRIVATE, m.size, SHM_HUGETLB | 0600);

	ASSERT_LE(0, id);
	m.mem = shmat(id, NULL, 0);
	ASSERT_NE((void *)-1, m.mem);
	expect_shared(_metadata, &m);
	ASSERT_EQ(0, shmctl(id, IPC_RMID, NULL));
	expect_refused(_metadata, 0);
}

TEST_HARNESS_MAIN
