// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what threads share
 *
 * The threads of the replica share with each other what their originals
 * share, and nothing of it with the originals.
 */

#include "fullfork_sync.h"
#include <linux/kcmp.h>
#include <sys/sem.h>
#include <sys/stat.h>

#define PLAIN 0		/* shares everything with the leader */
#define OWN_FILES 1
#define OWN_FS 2
#define MEMBERS 3

static int kcmp(pid_t a, pid_t b, int type)
{
	return syscall(__NR_kcmp, a, b, type, 0, 0);
}

/* What each thread saw when the caller had done its part. */
static struct {
	char cwd[64];
	int dumpable;
	mode_t umask;
	bool has_fd;
	pid_t tid;
	__u32 looked;
} seen[MEMBERS];

static __u32 look;
static int opened = -1;

static void *look_around(void *arg)
{
	long index = (long)arg;
	char mask[16] = "";

	if (index == OWN_FILES)
		thread_check(!unshare(CLONE_FILES));
	if (index == OWN_FS)
		thread_check(!unshare(CLONE_FS));
	thread_check(index != OWN_FS || !chdir("/tmp"));
	arrive(index);
	while (!load(&look))
		futex_wait(&look, 0, FUTEX_PRIVATE_FLAG, -1);
	seen[index].tid = sys_gettid();
	thread_check(getcwd(seen[index].cwd, sizeof(seen[index].cwd)));
	thread_check(read_status_field(getpid(), sys_gettid(), "Umask", mask,
				       sizeof(mask)));
	seen[index].umask = strtol(mask, NULL, 8);
	seen[index].has_fd = fcntl(opened, F_GETFD) >= 0;
	seen[index].dumpable = prctl(PR_GET_DUMPABLE);
	store(&seen[index].looked, 1);
	pass_own_gate();
	return arg + 100;
}

static void let_look(void)
{
	int i;

	store(&look, 1);
	futex_wake(&look, INT_MAX, FUTEX_PRIVATE_FLAG);
	for (i = 0; i < MEMBERS; i++)
		side_assert(wait_until(load(&seen[i].looked), DEADLINE));
	expect_no_thread_failed();
}

FIXTURE(sharing)
{
	char cwd[64];
};

FIXTURE_SETUP(sharing)
{
	setup_threads(_metadata);
	ASSERT_NE(NULL, getcwd(self->cwd, sizeof(self->cwd)));
	ASSERT_EQ(0, chdir("/proc"));
	umask(022);
	start_sleepers(_metadata, MEMBERS, look_around);
}

FIXTURE_TEARDOWN(sharing)
{
	ASSERT_EQ(0, chdir(self->cwd));
}

/* Runs @fn in the replica only, then ends the threads of the original. */
static void run_then_look(struct __test_metadata *_metadata, bool by_sibling,
			  int (*fn)(void *arg))
{
	run_in_replica(_metadata, by_sibling, fn);
	let_look();
	end_threads(_metadata, MEMBERS);
}

static int change_directory(void *arg)
{
	replica_assert_eq(0, chdir("/"));
	umask(077);
	let_look();
	replica_assert_eq(0, strcmp(seen[PLAIN].cwd, "/"));
	replica_assert_eq(077, seen[PLAIN].umask);
	replica_assert_eq(0, strcmp(seen[OWN_FILES].cwd, "/"));
	replica_assert_eq(0, strcmp(seen[OWN_FS].cwd, "/tmp"));
	replica_assert_eq(022, seen[OWN_FS].umask);
	return REPLICA_PASS;
}

TEST_F_GUARDED(sharing, of_directory_and_umask_is_kept)
{
	run_then_look(_metadata, false, change_directory);
	EXPECT_STREQ("/proc", seen[PLAIN].cwd);
	EXPECT_EQ(022, seen[PLAIN].umask);
	EXPECT_STREQ("/tmp", seen[OWN_FS].cwd);
}

TEST_F_GUARDED(sharing, of_directory_is_kept_when_a_sibling_calls)
{
	run_then_look(_metadata, true, change_directory);
	EXPECT_STREQ("/proc", seen[PLAIN].cwd);
	EXPECT_STREQ("/tmp", seen[OWN_FS].cwd);
}

static int open_file(void *arg)
{
	/* A number that nobody has. */
	opened = fcntl(STDERR_FILENO, F_DUPFD, 77);
	replica_assert(opened >= 77);
	let_look();
	replica_assert(seen[PLAIN].has_fd);
	replica_assert(!seen[OWN_FILES].has_fd);
	replica_assert(seen[OWN_FS].has_fd);
	return REPLICA_PASS;
}

TEST_F_GUARDED(sharing, of_open_files_is_kept)
{
	opened = 77;
	run_then_look(_metadata, false, open_file);
	EXPECT_FALSE(seen[PLAIN].has_fd);
	EXPECT_EQ(-1, fcntl(77, F_GETFD));
}

TEST_F_GUARDED(sharing, of_open_files_is_kept_when_a_sibling_calls)
{
	opened = 77;
	run_then_look(_metadata, true, open_file);
	EXPECT_FALSE(seen[PLAIN].has_fd);
	EXPECT_EQ(-1, fcntl(77, F_GETFD));
}

static int clear_dumpable(void *arg)
{
	replica_assert_eq(1, prctl(PR_GET_DUMPABLE));
	replica_assert_eq(0, prctl(PR_SET_DUMPABLE, 0));
	let_look();
	replica_assert_eq(0, seen[PLAIN].dumpable);
	replica_assert_eq(0, seen[OWN_FILES].dumpable);
	replica_assert_eq(0, seen[OWN_FS].dumpable);
	return REPLICA_PASS;
}

/* What protects the memory goes with the memory, not with each thread. */
TEST_F_GUARDED(sharing, of_dumpable_is_kept)
{
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1));
	run_then_look(_metadata, false, clear_dumpable);
	EXPECT_EQ(1, prctl(PR_GET_DUMPABLE));
	EXPECT_EQ(1, seen[PLAIN].dumpable);
}

static int be_undumpable(void *arg)
{
	replica_assert_eq(0, prctl(PR_GET_DUMPABLE));
	let_look();
	replica_assert_eq(0, seen[PLAIN].dumpable);
	return REPLICA_PASS;
}

TEST_F_GUARDED(sharing, of_dumpable_is_kept_when_it_is_off)
{
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 0));
	run_then_look(_metadata, false, be_undumpable);
}

static int compare_kernel_objects(void *arg)
{
	static const int types[] = {
		KCMP_VM, KCMP_SIGHAND, KCMP_FILES, KCMP_FS, KCMP_SYSVSEM,
	};
	pid_t me = sys_gettid();
	int i, j;

	let_look();
	for (i = 0; i < MEMBERS; i++) {
		for (j = 0; j < ARRAY_SIZE(types); j++) {
			bool own = (i == OWN_FILES && types[j] == KCMP_FILES) ||
				   (i == OWN_FS && types[j] == KCMP_FS);
			int same = kcmp(me, seen[i].tid, types[j]);

			side_assert(same >= 0);
			side_assert_eq(own, same != 0);
			if (!in_replica())
				continue;
			/* With no thread of the original, its own one included. */
			replica_assert(kcmp(seen[i].tid, original_pid,
					    types[j]) > 0);
			replica_assert(kcmp(seen[i].tid, tids[i],
					    types[j]) > 0);
		}
	}
	return REPLICA_PASS;
}

TEST_F_GUARDED(sharing, of_kernel_objects_is_kept)
{
	ASSERT_EQ(0, kcmp(getpid(), getpid(), KCMP_VM))
	{
		TH_LOG("kcmp: %s", strerror(errno));
	}
	run_in_both(_metadata, false, compare_kernel_objects);
	end_threads(_metadata, MEMBERS);
}

static int be_in_the_same_groups(void *arg)
{
	replica_assert_eq(original_pid, getppid());
	replica_assert_eq(getpgid(original_pid), getpgrp());
	replica_assert_eq(getsid(original_pid), getsid(0));
	replica_assert_eq(count_threads(original_pid), count_threads(getpid()));
	replica_assert_eq(MEMBERS + 1, count_threads(getpid()));
	return REPLICA_PASS;
}

TEST_F_GUARDED(sharing, of_session_and_process_group_is_joined)
{
	run_then_look(_metadata, false, be_in_the_same_groups);
}

static int start_and_unshare(void *arg)
{
	/* Nobody else may hold on to what the replica's threads share. */
	replica_assert_eq(0, unshare(CLONE_FILES));
	replica_assert_eq(0, unshare(CLONE_FS));
	replica_assert_eq(0, chdir("/"));
	opened = fcntl(STDERR_FILENO, F_DUPFD, 77);
	let_look();
	replica_assert_eq(0, strcmp(seen[PLAIN].cwd, "/proc"));
	replica_assert(!seen[PLAIN].has_fd);
	return REPLICA_PASS;
}

TEST_F_GUARDED(sharing, ends_by_unshare_in_the_replica)
{
	opened = 77;
	run_then_look(_metadata, false, start_and_unshare);
}

/* What a thread adjusts, and what is left of it once the thread is gone. */
#define OWN_UNDO 1

FIXTURE(undo)
{
};

/* One semaphore for each side. */
static int sem_id;

static long add_to_semaphore(int value)
{
	struct sembuf op = {
		.sem_num = own_side(),
		.sem_op = value,
		.sem_flg = SEM_UNDO,
	};

	return semop(sem_id, &op, 1);
}

static int get_semaphore(unsigned int side)
{
	return semctl(sem_id, side, GETVAL);
}

static void *adjust(void *arg)
{
	long index = (long)arg;

	if (index == OWN_UNDO) {
		thread_check(!unshare(CLONE_SYSVSEM));
		thread_check(!add_to_semaphore(1));
		thread_check(!add_to_semaphore(-1));
	}
	arrive(index);
	while (!load(&look))
		futex_wait(&look, 0, FUTEX_PRIVATE_FLAG, -1);
	thread_check(!add_to_semaphore(index == OWN_UNDO ? 10 : 1));
	store(&seen[index].looked, 1);
	pass_own_gate();
	return arg + 100;
}

FIXTURE_SETUP(undo)
{
	setup_threads(_metadata);
	sem_id = semget(IPC_PRIVATE, SIDE_REPLICA + 1, 0600);
	ASSERT_LE(0, sem_id);
}

FIXTURE_TEARDOWN(undo)
{
	EXPECT_EQ(0, semctl(sem_id, 0, IPC_RMID));
}

/* Threads adjust, and end; the caller lives on. */
static int end_adjusted_threads(void *arg)
{
	/* The caller, and the leader if that is another one. */
	int i, left = sys_gettid() == sys_getpid() ? 1 : 2;

	store(&look, 1);
	futex_wake(&look, INT_MAX, FUTEX_PRIVATE_FLAG);
	for (i = 0; i < 2; i++)
		side_assert(wait_until(load(&seen[i].looked), DEADLINE));
	side_assert_eq(11, get_semaphore(own_side()));
	side_assert_eq(0, add_to_semaphore(100));
	open_own_gate();
	side_assert_eq(REPLICA_PASS, join_threads(2));
	side_assert(wait_until(count_threads(sys_getpid()) == left, DEADLINE));
	/* Of a thread with adjustments of its own it was undone. */
	side_assert_eq(101, get_semaphore(own_side()));
	return REPLICA_PASS;
}

TEST_F_GUARDED(undo, is_done_when_the_last_thread_ends)
{
	start_sleepers(_metadata, 2, adjust);
	run_in_replica(_metadata, false, end_adjusted_threads);
	EXPECT_EQ(0, get_semaphore(SIDE_REPLICA));
	EXPECT_EQ(0, get_semaphore(SIDE_ORIGINAL));
	EXPECT_EQ(REPLICA_PASS, end_adjusted_threads(NULL));
	EXPECT_EQ(0, get_semaphore(SIDE_REPLICA));
}

TEST_F_GUARDED(undo, is_done_when_the_last_thread_ends_and_a_sibling_called)
{
	start_sleepers(_metadata, 2, adjust);
	run_in_replica(_metadata, true, end_adjusted_threads);
	EXPECT_EQ(0, get_semaphore(SIDE_REPLICA));
	EXPECT_EQ(REPLICA_PASS, end_adjusted_threads(NULL));
}

/* What was adjusted before is undone when the original ends, and once only. */
static int be_there_and_end(void *arg)
{
	return REPLICA_PASS;
}

TEST_F_GUARDED(undo, of_before_is_left_to_the_original)
{
	start_sleepers(_metadata, 2, adjust);
	ASSERT_EQ(0, add_to_semaphore(5));
	run_in_replica(_metadata, false, be_there_and_end);
	EXPECT_EQ(5, get_semaphore(SIDE_ORIGINAL));
	EXPECT_EQ(0, get_semaphore(SIDE_REPLICA));
	EXPECT_EQ(0, add_to_semaphore(-5));
	EXPECT_EQ(REPLICA_PASS, end_adjusted_threads(NULL));
}

TEST_HARNESS_MAIN
