// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: an IPC namespace that only members use is copied, with all System V
 * objects in it under the same IDs and keys.
 */
#include "fullfork_isolate.h"

#include <linux/limits.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define KEY 0x46464f4b
#define SEMS 40
#define SIZE 50000
#define LONG_TEXT 7000

/* A path of the namespaces of a process. */
#define IPC_NS "ns/ipc"

static const char * const tables[] = {
	"/proc/sysvipc/sem", "/proc/sysvipc/msg", "/proc/sysvipc/shm",
};

FIXTURE(ipcns)
{
	char link[64];		/* to the namespace of the original */
	pid_t pid;		/* of the original */
	int sem;
	int msg;
	int shm;
	unsigned char *mem;
	int outside;		/* the namespace where the test came from */
};

struct text {
	long type;
	char text[LONG_TEXT];
};

/* A process beside the test, or of the tree: it, and its replica, end with the parent. */
static pid_t fork_here(void)
{
	pid_t pid = fork();

	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static bool sends(int msg, long type, size_t size)
{
	struct text t = { .type = type };

	fill_pattern((unsigned char *)t.text, size);
	return !msgsnd(msg, &t, size, IPC_NOWAIT);
}

static bool gives(int msg, long wanted, long type, size_t size)
{
	struct text t = {};

	return msgrcv(msg, &t, LONG_TEXT, wanted, IPC_NOWAIT) == (ssize_t)size &&
	       t.type == type && is_pattern((unsigned char *)t.text, size);
}

static bool is_empty(int msg)
{
	struct text t;

	return msgrcv(msg, &t, LONG_TEXT, 0, IPC_NOWAIT) < 0 && errno == ENOMSG;
}

static int operate(int sem, int number, int value, int flags)
{
	struct sembuf op = { .sem_num = number, .sem_op = value, .sem_flg = flags };

	return semop(sem, &op, 1);
}

/* Its namespace, where the caller has the PID namespace of procfs; 0: one's own. */
static bool link_of(pid_t pid, char *link, size_t size)
{
	char path[64] = "/proc/self/" IPC_NS;
	ssize_t len;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/" IPC_NS, pid);
	len = readlink(path, link, size - 1);
	if (len >= 0)
		link[len] = '\0';
	return len > 0;
}

static bool is_in_the_same(FIXTURE_DATA(ipcns) *self)
{
	char link[64];

	return link_of(0, link, sizeof(link)) && !strcmp(link, self->link);
}

FIXTURE_SETUP(ipcns)
{
	require_isolate(_metadata);
	require_root(_metadata, "CLONE_NEWIPC");
	self->outside = open("/proc/self/" IPC_NS, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, self->outside);
	ASSERT_EQ(0, unshare(CLONE_NEWIPC));
	self->pid = getpid();
	ASSERT_TRUE(link_of(0, self->link, sizeof(self->link)));
	/* Something before them, so that no ID is zero. */
	ASSERT_EQ(0, semget(IPC_PRIVATE, 1, 0600));
	ASSERT_EQ(0, msgget(IPC_PRIVATE, 0600));
	ASSERT_EQ(0, shmget(IPC_PRIVATE, 1, 0600));
	self->sem = semget(KEY, SEMS, IPC_CREAT | IPC_EXCL | 0640);
	ASSERT_LT(0, self->sem);
	self->msg = msgget(KEY, IPC_CREAT | IPC_EXCL | 0640);
	ASSERT_LT(0, self->msg);
	self->shm = shmget(KEY, SIZE, IPC_CREAT | IPC_EXCL | 0640);
	ASSERT_LT(0, self->shm);
	self->mem = shmat(self->shm, NULL, 0);
	ASSERT_NE((void *)-1, self->mem);
	fill_pattern(self->mem, SIZE);
}

FIXTURE_TEARDOWN(ipcns)
{
}

#define replica_assert_copied(self) replica_assert(!is_in_the_same(self))

static int be_elsewhere(void *arg)
{
	replica_assert_copied(arg);
	return REPLICA_PASS;
}

static int be_in_the_same(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;

	replica_assert(is_in_the_same(self));
	replica_assert_eq(0, semctl(self->sem, 0, SETVAL, 7));
	self->mem[0] = 7;
	return REPLICA_PASS;
}

/* What the replica does is seen. */
static void expect_shared(struct __test_metadata *_metadata, FIXTURE_DATA(ipcns) *self)
{
	self->mem[0] = 0;
	ASSERT_EQ(0, semctl(self->sem, 0, SETVAL, 0));
	isolate_and_pass(_metadata, 0, be_in_the_same, self);
	EXPECT_EQ(7, semctl(self->sem, 0, GETVAL));
	EXPECT_EQ(7, self->mem[0]);
}

static void expect_copied(struct __test_metadata *_metadata, FIXTURE_DATA(ipcns) *self)
{
	isolate_and_pass(_metadata, 0, be_elsewhere, self);
}

TEST_F(ipcns, is_copied)
{
	expect_copied(_metadata, self);
}

/* Not without the flag. */
TEST_F(ipcns, is_shared_as_by_fork)
{
	semctl(self->sem, 0, SETVAL, 0);
	fork_and_pass(_metadata, 0, be_in_the_same, self);
	EXPECT_EQ(7, semctl(self->sem, 0, GETVAL));
}

/*
 * Semaphores
 */

static struct semid_ds stat_sem(int sem)
{
	struct semid_ds ds = {};

	semctl(sem, 0, IPC_STAT, &ds);
	return ds;
}

static struct semid_ds sem_before;

static int see_semaphores(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	struct semid_ds ds = stat_sem(self->sem);
	unsigned short values[SEMS];
	int i;

	wait_turn();
	replica_assert_copied(self);
	replica_assert_eq(self->sem, semget(KEY, SEMS, 0));
	replica_assert(!memcmp(&ds, &sem_before, sizeof(ds)));
	replica_assert_eq(0, semctl(self->sem, 0, GETALL, values));
	for (i = 0; i < SEMS; i++)
		replica_assert_eq(i * 3, values[i]);
	/* Who operated is the one who asks, not the original. */
	replica_assert_eq(getpid(), semctl(self->sem, 5, GETPID));
	replica_assert_eq(0, operate(self->sem, 5, 1000, 0));
	replica_assert_eq(1015, semctl(self->sem, 5, GETVAL));
	/* The next one made has the same ID on both sides. */
	replica_assert_eq(sem_before.sem_perm.__key, KEY);
	replica_assert_eq(report->word[WORD_FREE], semget(IPC_PRIVATE, 1, 0600));
	replica_assert_eq(0, semctl(self->sem, 0, IPC_RMID));
	return REPLICA_PASS;
}

TEST_F(ipcns, has_semaphores_with_their_values)
{
	int i;
	long pid;

	/* IDs are not used again at once. */
	for (i = 0; i < 5; i++)
		ASSERT_EQ(0, semctl(semget(IPC_PRIVATE, 1, 0600), 0, IPC_RMID));
	for (i = 0; i < SEMS; i++)
		ASSERT_EQ(0, semctl(self->sem, i, SETVAL, i * 3));
	ASSERT_EQ(0, operate(self->sem, 5, 1, 0));
	ASSERT_EQ(0, operate(self->sem, 5, -1, 0));
	sem_before = stat_sem(self->sem);
	pid = isolate(_metadata, 0, see_semaphores, self);
	store(&report->word[WORD_FREE], semget(IPC_PRIVATE, 1, 0600));
	ASSERT_EQ(0, operate(self->sem, 6, 1000, 0));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(15, semctl(self->sem, 5, GETVAL));
	EXPECT_EQ(1018, semctl(self->sem, 6, GETVAL));
	EXPECT_EQ(self->sem, semget(KEY, SEMS, 0));
}

/* A child that has adjusted, and waits; its parent ends it. */
static void adjust_as_child(FIXTURE_DATA(ipcns) *self)
{
	if (operate(self->sem, 0, 5, SEM_UNDO) || operate(self->sem, 1, 3, SEM_UNDO) ||
	    operate(self->sem, 1, 1, 0))
		_exit(1);
	store(&report->word[WORD_OUTSIDER], 1);
	for (;;)
		pause();
}

static pid_t adjusting_child;

static pid_t own_child(void)
{
	char path[64], text[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", sys_gettid());
	return read_file(path, text, sizeof(text)) > 0 ? atoi(text) : 0;
}

static int end_own_child(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	pid_t child = own_child();

	replica_assert(child > 0 && child != adjusting_child);
	replica_assert_copied(self);
	replica_assert_eq(5, semctl(self->sem, 0, GETVAL));
	replica_assert_eq(child, semctl(self->sem, 0, GETPID));
	replica_assert_eq(0, kill(child, SIGKILL));
	replica_assert_eq(child, waitpid(child, NULL, 0));
	replica_assert_eq(0, semctl(self->sem, 0, GETVAL));
	replica_assert_eq(1, semctl(self->sem, 1, GETVAL));
	return REPLICA_PASS;
}

static void start_adjusting(struct __test_metadata *_metadata, FIXTURE_DATA(ipcns) *self)
{
	adjusting_child = fork_here();
	ASSERT_LE(0, adjusting_child);
	if (!adjusting_child)
		adjust_as_child(self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
}

TEST_F(ipcns, has_adjustments_that_are_undone_on_each_side)
{
	start_adjusting(_metadata, self);
	isolate_and_pass(_metadata, CLONE_SUBTREE, end_own_child, self);
	EXPECT_EQ(5, semctl(self->sem, 0, GETVAL));
	EXPECT_EQ(4, semctl(self->sem, 1, GETVAL));
	end_outsider(_metadata, adjusting_child);
	EXPECT_EQ(0, semctl(self->sem, 0, GETVAL));
	EXPECT_EQ(1, semctl(self->sem, 1, GETVAL));
}

/* Threads share a list, and so do their replicas: it is undone once. */
static void *adjust_in_thread(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;

	if (operate(self->sem, 0, 2, SEM_UNDO))
		return NULL;
	store(&report->word[WORD_OUTSIDER], 1);
	for (;;)
		pause();
}

static int die_in_child(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	int status;
	pid_t pid;

	/* Somebody who sees it when all threads are gone. */
	pid = full_fork(CLONE_ISOLATE);
	if (!pid) {
		pid = fork();
		if (pid)
			replica_exit(pid > 0 ? REPLICA_PASS : REPLICA_FAIL);
		wait_until(semctl(self->sem, 0, GETVAL) == 1, DEADLINE / 2);
		store(&report->word[WORD_FREE], semctl(self->sem, 0, GETVAL));
		store(&report->word[WORD_FREE + 1], 1);
		_exit(0);
	}
	replica_assert(pid > 0);
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert_eq(REPLICA_PASS, WEXITSTATUS(status));
	replica_assert(wait_until(load(&report->word[WORD_FREE + 1]), DEADLINE));
	replica_assert_eq(1, load(&report->word[WORD_FREE]));
	return REPLICA_PASS;
}

TEST_F(ipcns, has_adjustments_that_threads_share)
{
	pthread_t thread;

	ASSERT_EQ(0, semctl(self->sem, 0, SETVAL, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, adjust_in_thread, self));
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
	ASSERT_EQ(0, operate(self->sem, 0, 4, SEM_UNDO));
	ASSERT_EQ(7, semctl(self->sem, 0, GETVAL));
	EXPECT_EQ(REPLICA_PASS, die_in_child(self));
	EXPECT_EQ(7, semctl(self->sem, 0, GETVAL));
}

/*
 * Messages
 */

static struct msqid_ds stat_msg(int msg)
{
	struct msqid_ds ds = {};

	msgctl(msg, IPC_STAT, &ds);
	return ds;
}

static struct msqid_ds msg_before;

static bool gives_all(int msg)
{
	return gives(msg, 0, 3, 10) && gives(msg, 7, 7, LONG_TEXT) && gives(msg, 0, 1, 0) &&
	       gives(msg, 0, 3, 20) && is_empty(msg);
}

static int see_messages(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	struct msqid_ds ds = stat_msg(self->msg);

	wait_turn();
	replica_assert_copied(self);
	replica_assert_eq(self->msg, msgget(KEY, 0));
	replica_assert_eq(msg_before.msg_qnum, ds.msg_qnum);
	replica_assert_eq(msg_before.__msg_cbytes, ds.__msg_cbytes);
	replica_assert_eq(msg_before.msg_qbytes, ds.msg_qbytes);
	replica_assert_eq(msg_before.msg_stime, ds.msg_stime);
	replica_assert_eq(msg_before.msg_ctime, ds.msg_ctime);
	replica_assert_eq(msg_before.msg_perm.mode, ds.msg_perm.mode);
	replica_assert_eq(msg_before.msg_perm.uid, ds.msg_perm.uid);
	replica_assert_eq(msg_before.msg_perm.cuid, ds.msg_perm.cuid);
	replica_assert_eq(getpid(), ds.msg_lspid);
	replica_assert_eq(0, ds.msg_lrpid);
	replica_assert(gives_all(self->msg));
	replica_assert(sends(self->msg, 9, 5));
	return REPLICA_PASS;
}

TEST_F(ipcns, has_messages)
{
	struct msqid_ds ds = stat_msg(self->msg);
	long pid;

	ds.msg_qbytes = 12345;
	ds.msg_perm.uid = 4321;
	ASSERT_EQ(0, msgctl(self->msg, IPC_SET, &ds));
	ASSERT_TRUE(sends(self->msg, 3, 10));
	ASSERT_TRUE(sends(self->msg, 1, 0));
	ASSERT_TRUE(sends(self->msg, 7, LONG_TEXT));
	ASSERT_TRUE(sends(self->msg, 3, 20));
	msg_before = stat_msg(self->msg);
	ASSERT_EQ(4321, msg_before.msg_perm.uid);
	pid = isolate(_metadata, 0, see_messages, self);
	EXPECT_TRUE(gives_all(self->msg));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_empty(self->msg));
}

/*
 * Shared memory
 */

static int see_segment(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	struct shmid_ds ds;
	unsigned char *again;

	wait_turn();
	replica_assert_copied(self);
	replica_assert_eq(self->shm, shmget(KEY, SIZE, 0));
	replica_assert_eq(0, shmctl(self->shm, IPC_STAT, &ds));
	replica_assert_eq(1, ds.shm_nattch);
	replica_assert_eq(SIZE, ds.shm_segsz);
	replica_assert_eq(0640, ds.shm_perm.mode);
	replica_assert_eq(getpid(), ds.shm_cpid);
	replica_assert(is_pattern(self->mem, SIZE));
	again = shmat(self->shm, NULL, 0);
	replica_assert(again != (void *)-1);
	replica_assert(is_pattern(again, SIZE));
	again[1] = 'r';
	replica_assert_eq('r', self->mem[1]);
	replica_assert_eq(0, shmdt(self->mem));
	replica_assert_eq(0, shmctl(self->shm, IPC_RMID, NULL));
	replica_assert_eq(-1, shmget(KEY, SIZE, 0));
	replica_assert_eq(0, shmdt(again));
	replica_assert_eq(-1, shmctl(self->shm, IPC_STAT, &ds));
	return REPLICA_PASS;
}

TEST_F(ipcns, has_shared_memory)
{
	struct shmid_ds ds;
	long pid;

	pid = isolate(_metadata, 0, see_segment, self);
	self->mem[0] = 'o';
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ('o', self->mem[0]);
	EXPECT_EQ(pattern_at(1), self->mem[1]);
	ASSERT_EQ(0, shmctl(self->shm, IPC_STAT, &ds));
	EXPECT_EQ(1, ds.shm_nattch);
}

static int see_unattached(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;

	wait_turn();
	self->mem = shmat(self->shm, NULL, 0);
	replica_assert(self->mem != (void *)-1);
	replica_assert(is_pattern(self->mem, SIZE));
	return REPLICA_PASS;
}

TEST_F(ipcns, has_shared_memory_that_nobody_has_attached)
{
	long pid;

	ASSERT_EQ(0, shmdt(self->mem));
	pid = isolate(_metadata, 0, see_unattached, self);
	self->mem = shmat(self->shm, NULL, 0);
	ASSERT_NE((void *)-1, self->mem);
	memset(self->mem, 'o', SIZE);
	give_turn();
	expect_pass(_metadata, pid);
}

/* Its ID is usable, so the copy has it, too. */
static int see_marked(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	struct shmid_ds ds;

	replica_assert_copied(self);
	replica_assert_eq(0, shmctl(self->shm, IPC_STAT, &ds));
	replica_assert_eq(1, ds.shm_nattch);
	replica_assert(is_pattern(self->mem, SIZE));
	self->mem[0] = 'r';
	replica_assert_eq(0, shmdt(self->mem));
	replica_assert_eq(-1, shmctl(self->shm, IPC_STAT, &ds));
	return REPLICA_PASS;
}

TEST_F(ipcns, has_shared_memory_that_is_marked_for_destruction)
{
	ASSERT_EQ(0, shmctl(self->shm, IPC_RMID, NULL));
	isolate_and_pass(_metadata, 0, see_marked, self);
	EXPECT_TRUE(is_pattern(self->mem, SIZE));
}

/*
 * Who waits goes on by what is done on its own side
 */

struct waiter {
	FIXTURE_DATA(ipcns) *self;
	long (*wait)(FIXTURE_DATA(ipcns) *self);
	long (*end)(FIXTURE_DATA(ipcns) *self);
	long nr;
	pid_t tid;
	__u32 done;
	pthread_t thread;
};

static long wait_for_semaphore(FIXTURE_DATA(ipcns) *self)
{
	return operate(self->sem, 3, -1, 0);
}

static long post_semaphore(FIXTURE_DATA(ipcns) *self)
{
	return operate(self->sem, 3, 1, 0);
}

static long wait_for_two(FIXTURE_DATA(ipcns) *self)
{
	struct sembuf ops[] = { { 3, -1, SEM_UNDO }, { 4, 0, 0 } };

	return semop(self->sem, ops, 2);
}

static long wait_for_message(FIXTURE_DATA(ipcns) *self)
{
	struct text t;

	return msgrcv(self->msg, &t, LONG_TEXT, 4, 0) == 3 ? 0 : -1;
}

static long send_message(FIXTURE_DATA(ipcns) *self)
{
	return sends(self->msg, 4, 3) ? 0 : -1;
}

static long wait_for_room(FIXTURE_DATA(ipcns) *self)
{
	struct text t = { .type = 5 };

	while (sends(self->msg, 6, 1000))
		;
	return msgsnd(self->msg, &t, 2000, 0);
}

static long make_room(FIXTURE_DATA(ipcns) *self)
{
	return gives(self->msg, 6, 6, 1000) && gives(self->msg, 6, 6, 1000) ? 0 : -1;
}

static void *wait_in_thread(void *arg)
{
	struct waiter *w = arg;

	w->tid = sys_gettid();
	store(&w->done, w->wait(w->self) ? 2 : 1);
	return NULL;
}

static int end_wait(void *arg)
{
	struct waiter *w = arg;

	replica_assert_copied(w->self);
	replica_assert(!load(&w->done));
	replica_assert_eq(0, w->end(w->self));
	replica_assert(wait_until(load(&w->done), DEADLINE));
	replica_assert_eq(1, load(&w->done));
	return REPLICA_PASS;
}

FIXTURE(waiting)
{
	FIXTURE_DATA(ipcns) ipcns;
};

FIXTURE_VARIANT(waiting)
{
	long (*wait)(FIXTURE_DATA(ipcns) *self);
	long (*end)(FIXTURE_DATA(ipcns) *self);
	long nr;
};

FIXTURE_VARIANT_ADD(waiting, for_a_semaphore) {
	.wait = wait_for_semaphore, .end = post_semaphore, .nr = __NR_semtimedop,
};

FIXTURE_VARIANT_ADD(waiting, for_two_semaphores) {
	.wait = wait_for_two, .end = post_semaphore, .nr = __NR_semtimedop,
};

FIXTURE_VARIANT_ADD(waiting, for_a_message) {
	.wait = wait_for_message, .end = send_message, .nr = __NR_msgrcv,
};

FIXTURE_VARIANT_ADD(waiting, for_room) {
	.wait = wait_for_room, .end = make_room, .nr = __NR_msgsnd,
};

FIXTURE_SETUP(waiting)
{
	ipcns_setup(_metadata, &self->ipcns, NULL);
}

FIXTURE_TEARDOWN(waiting)
{
}

TEST_F(waiting, goes_on_with_its_own_side)
{
	struct waiter w = {
		.self = &self->ipcns,
		.wait = variant->wait,
		.end = variant->end,
	};

	ASSERT_EQ(0, pthread_create(&w.thread, NULL, wait_in_thread, &w));
	ASSERT_TRUE(wait_until(load((__u32 *)&w.tid) &&
			       task_state(getpid(), w.tid) == 'S' &&
			       (task_syscall(getpid(), w.tid) == variant->nr ||
				task_syscall(getpid(), w.tid) == __NR_semop), DEADLINE));
	isolate_and_pass(_metadata, 0, end_wait, &w);
	EXPECT_EQ(0, load(&w.done));
	EXPECT_EQ(0, w.end(w.self));
	EXPECT_TRUE(wait_until(load(&w.done), DEADLINE));
	EXPECT_EQ(1, w.done);
	ASSERT_EQ(0, pthread_join(w.thread, NULL));
}

/*
 * What the namespace itself has
 */

static int see_limits(void *arg)
{
	static const struct {
		const char *path, *value;
	} limits[] = {
		{ "/proc/sys/kernel/shmmni", "77" },
		{ "/proc/sys/kernel/shmall", "123456" },
		{ "/proc/sys/kernel/shm_rmid_forced", "1" },
		{ "/proc/sys/kernel/msgmnb", "7777" },
		{ "/proc/sys/kernel/sem", "50\t500\t32\t60" },
		{ "/proc/sys/fs/mqueue/queues_max", "33" },
		{ "/proc/sys/fs/mqueue/msg_default", "5" },
	};
	char text[64];
	int i;

	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		if (!arg) {
			if (write_file(limits[i].path, limits[i].value))
				return i;
			continue;
		}
		replica_assert(read_file(limits[i].path, text, sizeof(text)) > 0);
		replica_assert(!strcmp(text, limits[i].value));
	}
	if (arg)
		replica_assert_copied(arg);
	return REPLICA_PASS;
}

TEST_F(ipcns, has_its_limits)
{
	ASSERT_EQ(REPLICA_PASS, see_limits(NULL));
	isolate_and_pass(_metadata, 0, see_limits, self);
}

/* The tables, but for numbers of attaches and of processes. */
static int see_tables(void *arg)
{
	static char before[3][4096], now[4096];
	int i;

	for (i = 0; i < ARRAY_SIZE(tables); i++) {
		if (!arg)
			read_file(tables[i], before[i], sizeof(before[i]));
		else
			replica_assert(read_file(tables[i], now, sizeof(now)) > 0 &&
				       (!strcmp(now, before[i]) || i == 2));
	}
	return REPLICA_PASS;
}

TEST_F(ipcns, has_the_same_tables)
{
	int i;

	for (i = 0; i < 5; i++) {
		ASSERT_LE(0, semget(IPC_PRIVATE, i + 1, 0600));
		ASSERT_LE(0, msgget(IPC_PRIVATE, 0600));
		ASSERT_LE(0, shmget(IPC_PRIVATE, 5000, 0600));
	}
	/* With holes. */
	ASSERT_EQ(0, semctl(self->sem, 0, IPC_RMID));
	see_tables(NULL);
	isolate_and_pass(_metadata, 0, see_tables, self);
}

/* A PID namespace of its own, where the replica has the PIDs of the original. */
static int see_own_tids(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;

	replica_assert_copied(self);
	replica_assert_eq(self->pid, getpid());
	replica_assert_eq(self->pid, semctl(self->sem, 0, GETPID));
	add(&report->word[WORD_FREE], 1);
	replica_assert(wait_until(load(&report->word[WORD_TURN]), DEADLINE));
	return REPLICA_PASS;
}

/* The reaper that the kernel starts there is no reason to share anything later. */
TEST_F(ipcns, has_the_same_pids_where_replicas_keep_theirs)
{
	long pid;

	ASSERT_EQ(0, semctl(self->sem, 0, SETVAL, 1));
	pid = isolate(_metadata, CLONE_KEEP_TIDS | CLONE_NEWPID, see_own_tids, self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]) == 1, DEADLINE));
	expect_copied(_metadata, self);
	give_turn();
	expect_pass(_metadata, pid);
}

/* And again: of the copy nobody holds more than its replicas do. */
static int copy_again(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	FIXTURE_DATA(ipcns) own = *self;
	int status;
	long pid;

	wait_turn();
	replica_assert_copied(self);
	replica_assert(link_of(0, own.link, sizeof(own.link)));
	self->mem[0] = 's';
	pid = replica_main(full_fork(CLONE_ISOLATE), be_elsewhere, &own);
	replica_assert(pid > 0);
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert_eq(REPLICA_PASS, WEXITSTATUS(status));
	return REPLICA_PASS;
}

TEST_F(ipcns, may_be_copied_again)
{
	long pid = isolate(_metadata, 0, copy_again, self);

	give_turn();
	expect_pass(_metadata, pid);
	expect_copied(_metadata, self);
}

/* Members in two namespaces: each is copied. */
static int see_two(void *arg)
{
	FIXTURE_DATA(ipcns) *self = arg;
	char link[64];
	pid_t child = own_child();

	replica_assert_copied(self);
	replica_assert(child > 0 && link_of(child, link, sizeof(link)));
	replica_assert(strcmp(link, self->link));
	replica_assert(strcmp(link, (char *)&report->word[WORD_FREE + 1]));
	replica_assert_eq(0, kill(child, SIGKILL));
	return REPLICA_PASS;
}

TEST_F(ipcns, may_be_one_of_two)
{
	char *theirs = (char *)&report->word[WORD_FREE + 1];
	pid_t child = fork_here();

	ASSERT_LE(0, child);
	if (!child) {
		if (unshare(CLONE_NEWIPC) || semget(KEY, 1, IPC_CREAT | 0600) < 0 ||
		    !link_of(0, theirs, 64))
			_exit(1);
		store(&report->word[WORD_FREE], 1);
		for (;;)
			pause();
	}
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	/* It still has an attach of ours. */
	isolate_and_pass(_metadata, CLONE_SUBTREE, see_two, self);
	end_outsider(_metadata, child);
}

/*
 * Who else may be there
 */

TEST_F(ipcns, is_shared_if_a_child_that_is_not_copied_is_in_it)
{
	pid_t outsider = start_outsider(_metadata, STDERR_FILENO);

	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
	expect_copied(_metadata, self);
}

/* Nothing but its being there tells of it. */
TEST_F(ipcns, is_shared_if_a_child_that_has_nothing_attached_is_in_it)
{
	pid_t child = fork_here();

	ASSERT_LE(0, child);
	if (!child) {
		if (shmdt(self->mem))
			_exit(1);
		store(&report->word[WORD_FREE], 1);
		for (;;)
			pause();
	}
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	expect_shared(_metadata, self);
	end_outsider(_metadata, child);
	expect_copied(_metadata, self);
}

/* It has left, and has kept an attach. */
TEST_F(ipcns, is_shared_if_somebody_has_an_attach_of_it)
{
	pid_t child = fork_here();

	ASSERT_LE(0, child);
	if (!child) {
		if (setns(self->outside, CLONE_NEWIPC))
			_exit(1);
		store(&report->word[WORD_FREE], 1);
		for (;;)
			pause();
	}
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	expect_shared(_metadata, self);
	end_outsider(_metadata, child);
	expect_copied(_metadata, self);
}

TEST_F(ipcns, is_shared_if_somebody_has_it_open)
{
	pid_t child = fork_here();

	ASSERT_LE(0, child);
	if (!child) {
		int fd = open("/proc/self/" IPC_NS, O_RDONLY);

		if (fd < 0 || shmdt(self->mem) || setns(self->outside, CLONE_NEWIPC))
			_exit(1);
		store(&report->word[WORD_FREE], 1);
		for (;;)
			pause();
	}
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	expect_shared(_metadata, self);
	end_outsider(_metadata, child);
	expect_copied(_metadata, self);
}

/* Even by a member: it is not looked for. */
TEST_F(ipcns, is_shared_if_a_member_has_it_open)
{
	int fd = open("/proc/self/" IPC_NS, O_RDONLY);

	ASSERT_LE(0, fd);
	expect_shared(_metadata, self);
	ASSERT_EQ(0, close(fd));
	expect_copied(_metadata, self);
	fd = open(tables[0], O_RDONLY);
	ASSERT_LE(0, fd);
	expect_shared(_metadata, self);
	ASSERT_EQ(0, close(fd));
	expect_copied(_metadata, self);
}

TEST_F(ipcns, is_shared_if_it_has_a_named_message_queue)
{
	mqd_t mq = mq_open("/fullfork", O_CREAT | O_RDWR, 0600, NULL);

	ASSERT_LE(0, mq);
	expect_shared(_metadata, self);
	ASSERT_EQ(0, mq_unlink("/fullfork"));
	expect_copied(_metadata, self);
}

/* The parent of what is copied is in it, as unshare(1) is without --fork's child. */
TEST_F(ipcns, is_shared_if_the_parent_is_in_it)
{
	pid_t child = fork_here();

	ASSERT_LE(0, child);
	if (!child) {
		long pid = replica_main(full_fork(CLONE_ISOLATE), be_in_the_same, self);
		int status = 0;

		waitpid(pid, &status, 0);
		_exit(WEXITSTATUS(status));
	}
	expect_pass(_metadata, child);
	EXPECT_EQ(7, self->mem[0]);
}

/*
 * What fails leaves nothing
 */

/* But for shared memory, which fork() is seen to attach. */
#define NO_SHM 2
#define ALL_TABLES 3

static char *read_tables(int count)
{
	static char text[2][3 * 4096];
	static int nr;
	char *buf = text[nr++ % 2];
	int i, len = 0;

	for (i = 0; i < count; i++)
		len += read_file(tables[i], buf + len, 4096);
	return buf;
}

#define MAX_NAMESPACES "/proc/sys/user/max_ipc_namespaces"

TEST_F(ipcns, is_counted)
{
	struct census before = take_census();
	char limit[32], *was = read_tables(ALL_TABLES);
	long err;

	ASSERT_LT(0, read_file(MAX_NAMESPACES, limit, sizeof(limit)));
	ASSERT_EQ(0, write_file(MAX_NAMESPACES, "0"));
	err = replica_main(full_fork(CLONE_ISOLATE), be_elsewhere, self);
	ASSERT_EQ(0, write_file(MAX_NAMESPACES, limit));
	EXPECT_EQ(-EAGAIN, err);
	expect_census(before);
	EXPECT_STREQ(was, read_tables(ALL_TABLES));
	expect_copied(_metadata, self);
}

/* Made again and again. */
TEST_F(ipcns, leaves_nothing_behind)
{
	struct rounds rounds = { .least = 5, .most = 40 };
	char *was = read_tables(NO_SHM);
	struct shmid_ds ds;

	while (next_round(&rounds))
		expect_copied(_metadata, self);
	EXPECT_STREQ(was, read_tables(NO_SHM));
	ASSERT_EQ(0, shmctl(self->shm, IPC_STAT, &ds));
	EXPECT_EQ(1, ds.shm_nattch);
	EXPECT_EQ(0, ds.shm_dtime);
}

static int be_too_many(void *arg)
{
	return REPLICA_FAIL;
}

/* Locked memory is charged again to who locked it. */
TEST_F(ipcns, charges_locked_memory)
{
	struct rlimit rl = { .rlim_cur = 100000, .rlim_max = 100000 };
	pid_t child;
	char *was;

	ASSERT_EQ(0, shmdt(self->mem));
	child = fork_here();
	ASSERT_LE(0, child);
	if (!child) {
		int shm;
		long err;

		if (unshare(CLONE_NEWIPC) || setrlimit(RLIMIT_MEMLOCK, &rl) ||
		    setgid(4711) || setuid(4711))
			_exit(1);
		shm = shmget(IPC_PRIVATE, 60000, 0600);
		if (shm < 0 || shmctl(shm, SHM_LOCK, NULL))
			_exit(2);
		was = strdup(read_tables(ALL_TABLES));
		err = replica_main(full_fork(CLONE_ISOLATE), be_too_many, NULL);
		if (err != -EAGAIN || strcmp(was, read_tables(ALL_TABLES)) || own_child())
			_exit(3);
		/* There is room for another one, as before. */
		if (shmctl(shm, SHM_UNLOCK, NULL) || shmctl(shm, SHM_LOCK, NULL))
			_exit(4);
		_exit(REPLICA_PASS);
	}
	expect_pass(_metadata, child);
}

/*
 * All of it: processes below one in namespaces of its own, as unshare(1) makes them,
 * that work under a lock with undo, on a segment with a key.
 */

struct shared {
	__u32 first;
	__u32 second;
	__u32 torn;
};

#define WORKERS 3
#define LOCK 10

static void work(FIXTURE_DATA(ipcns) *self)
{
	struct shared *sh = shmat(shmget(KEY, SIZE, 0), NULL, 0);
	int sem = semget(KEY, SEMS, 0);

	if (sh == (void *)-1 || sem < 0)
		_exit(1);
	for (;;) {
		if (operate(sem, LOCK, -1, SEM_UNDO))
			_exit(2);
		if (sh->first != sh->second)
			sh->torn++;
		add(&sh->first, 1);
		sched_yield();
		add(&sh->second, 1);
		if (operate(sem, LOCK, 1, SEM_UNDO))
			_exit(3);
	}
}

/* The state of a side is told to the test by words of the report. */
static void watch(FIXTURE_DATA(ipcns) *self)
{
	struct shared *sh = (struct shared *)self->mem;
	bool replica;

	for (;;) {
		replica = !is_in_the_same(self);
		store(&report->word[replica ? WORD_FREE + 1 : WORD_FREE], load(&sh->second));
		store(&report->word[replica ? WORD_FREE + 3 : WORD_FREE + 2], load(&sh->torn));
		poll_pause();
	}
}

static void start_below(FIXTURE_DATA(ipcns) *self)
{
	int i;

	if (unshare(CLONE_NEWIPC | CLONE_NEWPID))
		_exit(1);
	if (fork_here()) {
		for (;;)
			pause();
	}
	if (!link_of(0, self->link, sizeof(self->link)))
		_exit(2);
	self->shm = shmget(KEY, SIZE, IPC_CREAT | 0600);
	self->sem = semget(KEY, SEMS, IPC_CREAT | 0600);
	self->mem = shmat(self->shm, NULL, 0);
	if (self->shm < 0 || self->sem < 0 || self->mem == (void *)-1 ||
	    semctl(self->sem, LOCK, SETVAL, 1))
		_exit(3);
	for (i = 0; i < WORKERS; i++)
		if (!fork_here())
			work(self);
	watch(self);
}

static bool grows(__u32 *word)
{
	__u32 was = load(word);

	return wait_until(load(word) > was + 100, DEADLINE);
}

TEST_F(ipcns, stands_alone_with_a_tree)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_FROM_PIDFD | CLONE_ISOLATE,
		.exit_signal = SIGCHLD,
	};
	__u32 *original = &report->word[WORD_FREE], *replica = original + 1;
	pid_t child;
	long pid;

	ASSERT_EQ(0, shmdt(self->mem));
	child = fork_here();
	ASSERT_LE(0, child);
	if (!child)
		start_below(self);
	ASSERT_TRUE(grows(original));
	args.source_pidfd = sys_pidfd_open(child);
	pid = sys_clone3(&args, sizeof(args));
	ASSERT_LT(0, pid)
	{
		TH_LOG("clone3: %s", strerror(-pid));
	}
	EXPECT_TRUE(grows(replica));
	EXPECT_TRUE(grows(original));
	/* The replica needs nothing of the original. */
	EXPECT_EQ(0, kill(child, SIGKILL));
	EXPECT_EQ(child, waitpid(child, NULL, 0));
	EXPECT_TRUE(grows(replica));
	EXPECT_EQ(0, report->word[WORD_FREE + 2]);
	EXPECT_EQ(0, report->word[WORD_FREE + 3]);
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
}

#define MOST_MESSAGES 16384

/* More than can be copied while nobody else gets the lock. */
TEST_F(ipcns, is_shared_if_a_queue_is_very_long)
{
	struct msqid_ds ds;
	int i;

	ASSERT_EQ(0, msgctl(self->msg, IPC_STAT, &ds));
	ds.msg_qbytes = 2 * MOST_MESSAGES;
	ASSERT_EQ(0, msgctl(self->msg, IPC_SET, &ds));
	for (i = 0; i <= MOST_MESSAGES; i++)
		ASSERT_TRUE(sends(self->msg, 1, 0));
	expect_shared(_metadata, self);
	ASSERT_TRUE(gives(self->msg, 0, 1, 0));
	expect_copied(_metadata, self);
}

TEST_F(ipcns, is_shared_if_it_has_shared_memory_of_huge_pages)
{
	static const char path[] = "/proc/sys/vm/nr_hugepages";
	char before[32], more[32];
	int id;

	ASSERT_LT(0, read_file(path, before, sizeof(before)));
	snprintf(more, sizeof(more), "%d", atoi(before) + 1);
	ASSERT_EQ(0, write_file(path, more));
	id = shmget(IPC_PRIVATE, 1, SHM_HUGETLB | 0600);
	ASSERT_LE(0, id);
	expect_shared(_metadata, self);
	ASSERT_EQ(0, shmctl(id, IPC_RMID, NULL));
	expect_copied(_metadata, self);
	ASSERT_EQ(0, write_file(path, before));
}

TEST_HARNESS_MAIN
