// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: System V shared memory that is marked for destruction, and that only
 * members have attached, is copied.
 */
#include "fullfork_isolate.h"

#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define PAGES 32
#define SHM_TABLE "/proc/sysvipc/shm"

/* Bits of the mode, which not every C library has. */
#ifndef SHM_DEST
#define SHM_DEST 01000
#endif
#ifndef SHM_LOCKED
#define SHM_LOCKED 02000
#endif

FIXTURE(shm)
{
	unsigned char *mem;
	unsigned char *second;
	size_t size;
	int id;
};

static int count_lines(const char *path)
{
	static char text[1 << 20];
	int lines = 0;
	char *c;

	if (read_file(path, text, sizeof(text)) < 0)
		return -1;
	for (c = text; *c; c++)
		lines += *c == '\n';
	return lines;
}

/* The ID of the segment that is attached there, as maps(5) has it for an inode. */
static int attached_at(const void *addr)
{
	unsigned long start, inode;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");
	int id = -1;

	while (maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%*x %*s %*x %*s %lu", &start, &inode) == 2 &&
		    start == (unsigned long)addr && strstr(line, "SYSV"))
			id = inode;
	}
	if (maps)
		fclose(maps);
	return id;
}

static struct shmid_ds stat_segment(int id)
{
	struct shmid_ds ds = { .shm_nattch = ~0 };

	shmctl(id, IPC_STAT, &ds);
	return ds;
}

FIXTURE_SETUP(shm)
{
	require_isolate(_metadata);
	self->size = PAGES * getpagesize() - 100;
	self->id = shmget(IPC_PRIVATE, self->size, 0640);
	ASSERT_LE(0, self->id);
	self->mem = shmat(self->id, NULL, 0);
	ASSERT_NE((void *)-1, self->mem);
	fill_pattern(self->mem, self->size);
}

FIXTURE_TEARDOWN(shm)
{
	shmctl(self->id, IPC_RMID, NULL);
}

static int see_and_change(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;

	wait_turn();
	replica_assert(is_pattern(self->mem, self->size));
	memset(self->mem, 'r', self->size);
	return REPLICA_PASS;
}

TEST_F(shm, is_changed_on_one_side_only)
{
	size_t i;
	long pid;

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	pid = isolate(_metadata, 0, see_and_change, self);
	memset(self->mem, 'o', self->size);
	give_turn();
	expect_pass(_metadata, pid);
	for (i = 0; i < self->size; i++)
		ASSERT_EQ('o', self->mem[i]);
}

/* A segment like the other, with an ID of its own, for as long as it is attached. */
static int see_own_segment(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;
	int id = attached_at(self->mem), lines = count_lines(SHM_TABLE);
	struct shmid_ds ds;
	void *again;

	replica_assert(id >= 0 && id != self->id);
	replica_assert_eq(0, shmctl(id, IPC_STAT, &ds));
	replica_assert_eq(1, ds.shm_nattch);
	replica_assert_eq(self->size, ds.shm_segsz);
	replica_assert_eq(SHM_DEST | 0640, ds.shm_perm.mode);
	replica_assert_eq(getpid(), ds.shm_cpid);
	replica_assert_eq(1, stat_segment(self->id).shm_nattch);

	again = shmat(id, NULL, 0);
	replica_assert(again != (void *)-1);
	replica_assert_eq(2, stat_segment(id).shm_nattch);
	memset(again, 'a', self->size);
	replica_assert_eq('a', self->mem[self->size - 1]);
	replica_assert_eq(0, shmdt(again));
	replica_assert_eq(0, shmdt(self->mem));
	replica_assert_eq(-1, shmctl(id, IPC_STAT, &ds));
	replica_assert_eq(lines - 1, count_lines(SHM_TABLE));
	replica_assert_eq(1, stat_segment(self->id).shm_nattch);
	return REPLICA_PASS;
}

TEST_F(shm, has_an_id_of_its_own)
{
	struct shmid_ds before, after;

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	before = stat_segment(self->id);
	isolate_and_pass(_metadata, 0, see_own_segment, self);
	after = stat_segment(self->id);
	EXPECT_EQ(1, after.shm_nattch);
	EXPECT_EQ(before.shm_dtime, after.shm_dtime);
	EXPECT_EQ(before.shm_ctime, after.shm_ctime);
	EXPECT_TRUE(is_pattern(self->mem, self->size));
	ASSERT_EQ(0, shmdt(self->mem));
	EXPECT_EQ(-1, shmctl(self->id, IPC_STAT, &after));
}

static int detach_it(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;

	wait_turn();
	replica_assert(is_pattern(self->mem, self->size));
	replica_assert_eq(0, shmdt(self->mem));
	return REPLICA_PASS;
}

/* The original goes, and its segment with it; the replica's stays. */
TEST_F(shm, outlives_the_original)
{
	int lines = count_lines(SHM_TABLE);
	struct shmid_ds ds;
	long pid;

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	pid = isolate(_metadata, 0, detach_it, self);
	ASSERT_EQ(0, shmdt(self->mem));
	EXPECT_EQ(-1, shmctl(self->id, IPC_STAT, &ds));
	EXPECT_EQ(lines, count_lines(SHM_TABLE));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(lines - 1, count_lines(SHM_TABLE));
}

static int see_one_copy(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;
	unsigned char *second = self->second;
	int id = attached_at(self->mem);

	replica_assert_eq(id, attached_at(second));
	replica_assert(is_pattern(self->mem, self->size));
	self->mem[0] = 'r';
	replica_assert_eq('r', second[0]);
	/* The second page is another mapping. */
	replica_assert_eq(0, mprotect(self->mem, self->size, PROT_READ | PROT_WRITE));
	self->mem[getpagesize()] = 'r';
	replica_assert_eq('r', second[getpagesize()]);
	replica_assert_eq(-1, mprotect(second, self->size, PROT_READ | PROT_WRITE));
	replica_assert_eq(0, shmdt(self->mem));
	replica_assert_eq(1, stat_segment(id).shm_nattch);
	replica_assert_eq('r', second[0]);
	replica_assert_eq(0, shmdt(second));
	return REPLICA_PASS;
}

/* Once read-only, and in parts. */
TEST_F(shm, may_be_attached_twice)
{
	int lines = count_lines(SHM_TABLE);

	self->second = shmat(self->id, NULL, SHM_RDONLY);
	ASSERT_NE((void *)-1, self->second);
	ASSERT_EQ(0, mprotect(self->mem + getpagesize(), getpagesize(), PROT_READ));
	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	isolate_and_pass(_metadata, 0, see_one_copy, self);
	EXPECT_EQ(4, stat_segment(self->id).shm_nattch);
	EXPECT_TRUE(is_pattern(self->second, self->size));
	EXPECT_EQ(lines, count_lines(SHM_TABLE));
}

/* Processes of a tree have one copy, by which they talk. */
static int talk_to_child(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;
	__u32 *words = (__u32 *)self->mem;

	store(&words[0], 1);
	futex_wake(&words[0], INT_MAX, 0);
	replica_assert(wait_until(load(&words[1]) == 1, DEADLINE));
	return REPLICA_PASS;
}

static void answer_as_child(FIXTURE_DATA(shm) *self)
{
	__u32 *words = (__u32 *)self->mem, seen;

	while ((seen = load(&words[0])) != 1)
		futex_wait(&words[0], seen, 0, -1);
	store(&words[1], 1);
	_exit(0);
}

static pid_t start_child(struct __test_metadata *_metadata, FIXTURE_DATA(shm) *self)
{
	pid_t child = fork();

	ASSERT_LE(0, child);
	if (!child)
		answer_as_child(self);
	ASSERT_TRUE(wait_until(is_blocked(child, child, __NR_futex), DEADLINE));
	return child;
}

TEST_F(shm, is_one_copy_for_all_replicas)
{
	__u32 *words = (__u32 *)self->mem;
	pid_t child;

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	memset(self->mem, 0, self->size);
	child = start_child(_metadata, self);
	isolate_and_pass(_metadata, CLONE_SUBTREE, talk_to_child, self);
	EXPECT_EQ(0, words[0]);
	EXPECT_EQ(0, words[1]);
	EXPECT_EQ(2, stat_segment(self->id).shm_nattch);
	EXPECT_EQ(REPLICA_PASS, talk_to_child(self));
	EXPECT_EQ(0, xwaitpid(_metadata, child, DEADLINE));
}

/* What is shared stays what it was, on both sides. */
static int change_shared(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;

	replica_assert_eq(self->id, attached_at(self->mem));
	self->mem[0] = 'r';
	return REPLICA_PASS;
}

static void expect_shared(struct __test_metadata *_metadata, FIXTURE_DATA(shm) *self)
{
	int lines = count_lines(SHM_TABLE);

	self->mem[0] = 'o';
	isolate_and_pass(_metadata, 0, change_shared, self);
	EXPECT_EQ('r', self->mem[0]);
	EXPECT_EQ(lines, count_lines(SHM_TABLE));
}

/* All that know the ID, or the key, may attach. */
TEST_F(shm, is_shared_if_it_is_not_marked_for_destruction)
{
	expect_shared(_metadata, self);
	EXPECT_EQ(1, stat_segment(self->id).shm_nattch);
}

TEST_F(shm, is_shared_with_a_child_that_is_not_copied)
{
	pid_t outsider;

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	outsider = start_outsider(_metadata, STDERR_FILENO);
	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
	EXPECT_EQ(1, stat_segment(self->id).shm_nattch);
}

static void attach_and_wait(FIXTURE_DATA(shm) *self)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (shmdt(self->mem) || shmat(self->id, NULL, 0) == (void *)-1)
		_exit(1);
	store(&report->word[WORD_OUTSIDER], 1);
	for (;;)
		pause();
}

/* Linux lets one attach as long as others do. */
TEST_F(shm, is_shared_with_one_who_has_attached_by_the_id)
{
	pid_t outsider;

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	outsider = fork();
	ASSERT_LE(0, outsider);
	if (!outsider)
		attach_and_wait(self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
}

static void detach_and_wait(FIXTURE_DATA(shm) *self)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (shmdt(self->mem))
		_exit(1);
	store(&report->word[WORD_OUTSIDER], 1);
	for (;;)
		pause();
}

/* It is in map_files as any file that is mapped. */
TEST_F(shm, is_shared_with_one_who_has_opened_it)
{
	pid_t outsider;
	char path[80];
	int fd;

	require_root(_metadata, "map_files");
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)self->mem,
		 (long)self->mem + PAGES * getpagesize());
	fd = open(path, O_RDWR);
	ASSERT_LE(0, fd)
	{
		TH_LOG("%s: %s", path, strerror(errno));
	}
	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	outsider = fork();
	ASSERT_LE(0, outsider);
	if (!outsider)
		detach_and_wait(self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
	ASSERT_EQ(0, close(fd));
	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
}

/* Who attaches by the ID once the copy is made gets what it asked for. */
static int attach_by_old_id(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;
	unsigned char *old;

	wait_turn();
	replica_assert(attached_at(self->mem) != self->id);
	old = shmat(self->id, NULL, 0);
	replica_assert(old != (void *)-1);
	replica_assert_eq('o', old[0]);
	replica_assert_eq(pattern_at(0), self->mem[0]);
	return REPLICA_PASS;
}

TEST_F(shm, of_the_original_keeps_the_id)
{
	long pid;

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	pid = isolate(_metadata, 0, attach_by_old_id, self);
	self->mem[0] = 'o';
	give_turn();
	expect_pass(_metadata, pid);
}

/* In a namespace of its own, where somebody else is, too. */
static void enter_own_namespace(struct __test_metadata *_metadata, FIXTURE_DATA(shm) *self)
{
	require_root(_metadata, "CLONE_NEWIPC");
	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	ASSERT_EQ(0, shmdt(self->mem));
	ASSERT_EQ(0, unshare(CLONE_NEWIPC));
	start_keeper(_metadata);
	self->id = shmget(IPC_PRIVATE, self->size, 0640);
	ASSERT_LE(0, self->id);
	self->mem = shmat(self->id, NULL, 0);
	ASSERT_NE((void *)-1, self->mem);
	fill_pattern(self->mem, self->size);
	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
}

static int pass(void *arg)
{
	return REPLICA_PASS;
}

/* A call that fails has made nothing. */
static void expect_limit(struct __test_metadata *_metadata, FIXTURE_DATA(shm) *self,
			 const char *limit, const char *value, const char *enough)
{
	struct census before = take_census();

	ASSERT_EQ(0, write_file(limit, value));
	EXPECT_EQ(-EAGAIN, replica_main(full_fork(CLONE_ISOLATE), pass, NULL));
	expect_census(before);
	EXPECT_EQ(1, count_lines(SHM_TABLE));
	EXPECT_EQ(1, stat_segment(self->id).shm_nattch);
	EXPECT_TRUE(is_pattern(self->mem, self->size));
	ASSERT_EQ(0, write_file(limit, enough));
	isolate_and_pass(_metadata, 0, see_own_segment, self);
	EXPECT_EQ(1, count_lines(SHM_TABLE));
}

TEST_F(shm, is_counted_by_number)
{
	enter_own_namespace(_metadata, self);
	expect_limit(_metadata, self, "/proc/sys/kernel/shmmni", "1", "2");
}

TEST_F(shm, is_counted_by_pages)
{
	char half[16], enough[16];

	enter_own_namespace(_metadata, self);
	snprintf(half, sizeof(half), "%d", 2 * PAGES - 1);
	snprintf(enough, sizeof(enough), "%d", 2 * PAGES);
	expect_limit(_metadata, self, "/proc/sys/kernel/shmall", half, enough);
}

static int see_locked(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;
	int id = attached_at(self->mem);

	replica_assert(id != self->id);
	replica_assert(stat_segment(id).shm_perm.mode & SHM_LOCKED);
	replica_assert_eq(0, shmctl(id, SHM_UNLOCK, NULL));
	return REPLICA_PASS;
}

TEST_F(shm, stays_locked)
{
	ASSERT_EQ(0, shmctl(self->id, SHM_LOCK, NULL));
	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	isolate_and_pass(_metadata, 0, see_locked, self);
	EXPECT_TRUE(stat_segment(self->id).shm_perm.mode & SHM_LOCKED);
}

/* Memory that was swapped, or was never there, is as it was. */
static int see_holes(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;
	size_t i;

	for (i = 0; i < self->size; i++)
		replica_assert_eq(i == 12345 ? 'x' : 0, self->mem[i]);
	return REPLICA_PASS;
}

TEST_F(shm, is_zero_where_it_was)
{
	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	ASSERT_EQ(0, shmdt(self->mem));
	self->id = shmget(IPC_PRIVATE, self->size, 0640);
	self->mem = shmat(self->id, NULL, 0);
	ASSERT_NE((void *)-1, self->mem);
	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	self->mem[12345] = 'x';
	isolate_and_pass(_metadata, 0, see_holes, self);
}

/* A copy of a copy. */
static int copy_again(void *arg)
{
	FIXTURE_DATA(shm) *self = arg;
	int status, id = attached_at(self->mem);
	long pid;

	self->mem[0] = 'r';
	pid = full_fork(CLONE_ISOLATE);
	if (!pid) {
		replica_assert(attached_at(self->mem) != id);
		replica_assert_eq('r', self->mem[0]);
		self->mem[0] = 's';
		replica_exit(REPLICA_PASS);
	}
	replica_assert(pid > 0);
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert_eq(REPLICA_PASS, WEXITSTATUS(status));
	replica_assert_eq('r', self->mem[0]);
	return REPLICA_PASS;
}

TEST_F(shm, may_be_copied_again)
{
	int lines = count_lines(SHM_TABLE);

	ASSERT_EQ(0, shmctl(self->id, IPC_RMID, NULL));
	isolate_and_pass(_metadata, 0, copy_again, self);
	EXPECT_EQ(pattern_at(0), self->mem[0]);
	EXPECT_EQ(lines, count_lines(SHM_TABLE));
}

/*
 * Semaphores and messages, in the namespace of everybody
 */
FIXTURE(ids)
{
	int sem;
	int msg;
};

FIXTURE_SETUP(ids)
{
	require_isolate(_metadata);
	self->sem = semget(IPC_PRIVATE, 1, 0600);
	ASSERT_LE(0, self->sem);
	self->msg = msgget(IPC_PRIVATE, 0600);
	ASSERT_LE(0, self->msg);
}

FIXTURE_TEARDOWN(ids)
{
	semctl(self->sem, 0, IPC_RMID);
	msgctl(self->msg, IPC_RMID, NULL);
}

struct message {
	long type;
	char text[4];
};

static int use_ids(void *arg)
{
	FIXTURE_DATA(ids) *self = arg;
	struct message m;

	replica_assert_eq(4, msgrcv(self->msg, &m, sizeof(m.text), 0, IPC_NOWAIT));
	replica_assert(!memcmp(m.text, "text", 4));
	replica_assert_eq(3, semctl(self->sem, 0, GETVAL));
	replica_assert_eq(0, semctl(self->sem, 0, SETVAL, 5));
	return REPLICA_PASS;
}

TEST_F(ids, are_those_of_everybody)
{
	struct message m = { .type = 1, .text = "text" };

	ASSERT_EQ(0, semctl(self->sem, 0, SETVAL, 3));
	ASSERT_EQ(0, msgsnd(self->msg, &m, sizeof(m.text), 0));
	isolate_and_pass(_metadata, 0, use_ids, self);
	EXPECT_EQ(5, semctl(self->sem, 0, GETVAL));
	EXPECT_EQ(-1, msgrcv(self->msg, &m, sizeof(m.text), 0, IPC_NOWAIT));
	EXPECT_EQ(ENOMSG, errno);
}

TEST_HARNESS_MAIN
