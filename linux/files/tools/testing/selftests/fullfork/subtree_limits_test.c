// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: limits that are reached in the middle of a tree
 *
 * 40 tasks in 14 processes.  For every k the limit lets k of them have a
 * replica: the call fails as a whole, leaves nothing behind and disturbs
 * nobody, and works once there is room.
 */

#include "fullfork_answers.h"
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define TASKS 40

/* An ID that no other process has, as RLIMIT_NPROC counts all of a user. */
#define LONELY_ID 54323

static char group[64];

/* Run by the root before it has children, so that all are there. */
static void enter_group(int unused)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	side_assert_eq(0, write_file(path, "0"));
}

static void become_lonely(int unused)
{
	side_assert_eq(0, syscall(__NR_setresgid, LONELY_ID, LONELY_ID,
				  LONELY_ID));
	side_assert_eq(0, syscall(__NR_setresuid, LONELY_ID, LONELY_ID,
				  LONELY_ID));
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

/* Broad and deep, with processes of one thread and of many. */
#define TREE(first)							\
{									\
	{ .threads = 3, .caller = 1, .before = first },			\
	{ .parent = 0, .threads = 5 },					\
	{ .parent = 0 },						\
	{ .parent = 0, .threads = 1 },					\
	{ .parent = 1 },						\
	{ .parent = 1, .threads = 4 },					\
	{ .parent = 2, .threads = 2 },					\
	{ .parent = 4 },						\
	{ .parent = 5, .threads = 7 },					\
	{ .parent = 7 },						\
	{ .parent = 8, .threads = 1 },					\
	{ .parent = 9, .threads = 3 },					\
	{ .parent = 10 },						\
	{ .parent = 12 },						\
}

static const struct plan grouped_tree[] = TREE(enter_group);
static const struct plan lonely_tree[] = TREE(become_lonely);
static const struct plan simple_tree[] = TREE(NULL);

#define PROCESSES ARRAY_SIZE(simple_tree)

/* Who calls: the test, which is outside of the tree, or the tree's root. */
static long copy_tree(int pidfd)
{
	struct fullfork_args args;
	__u64 flags = WHOLE_TREE | CLONE_PIDFD | CLONE_PARENT_SETTID;

	shared->pidfd = -1;
	shared->parent_tid = -1;
	init_args(&args, pidfd, flags | (pidfd < 0 ? 0 : CLONE_FROM_PIDFD));
	ask_for_map(&args, MAP_ENTRIES);
	return pidfd < 0 ? have_called(0, &args, 0) : call_as_manager(&args);
}

static void expect_failure(struct __test_metadata *_metadata, int pidfd)
{
	struct census before = take_census();
	long ret = copy_tree(pidfd);
	int i;

	EXPECT_EQ(-EAGAIN, ret)
	{
		TH_LOG("%s", ret > 0 ? "it works" : strerror(-ret));
	}
	EXPECT_EQ(-1, shared->pidfd);
	EXPECT_EQ(-1, shared->parent_tid);
	for (i = 0; i <= TASKS; i++)
		EXPECT_EQ(UNWRITTEN, shared->map[i].original &
			  shared->map[i].replica);
	/* No process, be it a zombie. */
	EXPECT_EQ(PROCESSES, list_below(getpid()))
	{
		dump_listed(list_below(getpid()));
	}
	expect_census(before);
	EXPECT_FALSE(sigchld_is_pending());
	for (i = 0; i < PROCESSES; i++)
		EXPECT_EQ(1 + plan[i].threads, count_threads(pid_of(i)));
	EXPECT_TRUE(originals_answer());
	EXPECT_EQ(0, count_answers(SIDE_REPLICA, 0, TASKS,
				   load(&report->word[WORD_QUESTION])));
	expect_undisturbed();
}

static void expect_success(struct __test_metadata *_metadata, int pidfd)
{
	long pid = copy_tree(pidfd);
	int i;

	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_EQ(pid, shared->parent_tid);
	EXPECT_EQ(TASKS, map_length());
	EXPECT_EQ(2 * PROCESSES, list_below(getpid()));
	EXPECT_TRUE(replicas_answer());
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
	for (i = 0; i < PROCESSES; i++)
		EXPECT_EQ(0, kill(replica_of(pid_of(i)), SIGKILL));
}

/* A cgroup for the tree, in a hierarchy mounted for this test alone. */
FIXTURE(pids_cgroup)
{
	char mount[32];
	int pidfd;
};

FIXTURE_VARIANT(pids_cgroup)
{
	bool by_root;
};

FIXTURE_VARIANT_ADD(pids_cgroup, of_the_tree_of_a_manager) {
};

FIXTURE_VARIANT_ADD(pids_cgroup, of_the_tree_of_the_caller) {
	.by_root = true,
};

static long read_number(const char *name)
{
	char path[96], text[32];

	snprintf(path, sizeof(path), "%s/%s", group, name);
	return read_file(path, text, sizeof(text)) > 0 ? atol(text) : -1;
}

static int write_number(const char *name, long number)
{
	char path[96], text[32];

	snprintf(path, sizeof(path), "%s/%s", group, name);
	snprintf(text, sizeof(text), "%ld", number);
	return write_file(path, text);
}

FIXTURE_SETUP(pids_cgroup)
{
	char path[96];

	setup_manager(_metadata);
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(self->mount, sizeof(self->mount), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->mount));
	ASSERT_EQ(0, mount("none", self->mount, "cgroup2", 0, NULL))
	{
		TH_LOG("mount cgroup2: %s", strerror(errno));
	}
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", self->mount);
	ASSERT_EQ(0, write_file(path, "+pids"));
	snprintf(group, sizeof(group), "%s/fullfork.%d", self->mount, getpid());
	ASSERT_EQ(0, mkdir(group, 0755));
	start_tree(_metadata, grouped_tree, PROCESSES, RELATION_CHILD);
	ASSERT_EQ(TASKS, nr_tasks());
	self->pidfd = variant->by_root ? -1 : sys_pidfd_open(pid_of(0));
}

FIXTURE_TEARDOWN(pids_cgroup)
{
	teardown_manager(_metadata);
	/* Dead tasks leave a cgroup some time after they were reaped. */
	EXPECT_TRUE(wait_until(!rmdir(group), DEADLINE));
	EXPECT_EQ(0, umount2(self->mount, MNT_DETACH));
	EXPECT_EQ(0, rmdir(self->mount));
}

TEST_F_GUARDED(pids_cgroup, that_is_full_leaves_nothing)
{
	int k;

	ASSERT_EQ(TASKS, read_number("pids.current"));
	for (k = 0; k < TASKS && !_metadata->exit_code; k++) {
		ASSERT_EQ(0, write_number("pids.max", TASKS + k));
		expect_failure(_metadata, self->pidfd);
		EXPECT_EQ(TASKS, read_number("pids.current"));
	}
	EXPECT_EQ(TASKS, k)
	{
		TH_LOG("with room for %d replicas", k - 1);
	}
	ASSERT_EQ(0, write_number("pids.max", 2 * TASKS));
	expect_success(_metadata, self->pidfd);
}

/* Each replica is charged where its original is. */
TEST_F_GUARDED(pids_cgroup, counts_every_replica)
{
	long pid, tasks = TASKS;
	int i;

	for (i = 0; i < 3; i++) {
		pid = copy_tree(self->pidfd);
		ASSERT_LT(0, pid);
		/* What the root itself has made is below it, and copied too. */
		tasks += variant->by_root ? tasks : TASKS;
		EXPECT_EQ(tasks, read_number("pids.current"));
	}
}

/* The limit of the user whose processes the tree consists of. */
FIXTURE(rlimit_nproc)
{
	int pidfd;
};

FIXTURE_VARIANT(rlimit_nproc)
{
	bool by_root;
};

FIXTURE_VARIANT_ADD(rlimit_nproc, of_the_tree_of_a_manager) {
};

FIXTURE_VARIANT_ADD(rlimit_nproc, of_the_tree_of_the_caller) {
	.by_root = true,
};

FIXTURE_SETUP(rlimit_nproc)
{
	setup_manager(_metadata);
	start_tree(_metadata, lonely_tree, PROCESSES, RELATION_CHILD);
	ASSERT_EQ(TASKS, nr_tasks());
	self->pidfd = variant->by_root ? -1 : sys_pidfd_open(pid_of(0));
}

FIXTURE_TEARDOWN(rlimit_nproc)
{
	teardown_manager(_metadata);
}

/*
 * For every process, as each has its own limit and makes its own replica.  By
 * a process of that user, so that no capability is needed for it.
 */
static void set_nproc(struct __test_metadata *_metadata, unsigned int tasks)
{
	struct rlimit rlim = { tasks, 2 * TASKS };
	pid_t pid = fork();
	int i;

	ASSERT_LE(0, pid);
	if (!pid) {
		become_lonely(0);
		for (i = 0; i < PROCESSES; i++)
			replica_assert_eq(0, prlimit(pid_of(i), RLIMIT_NPROC,
						     &rlim, NULL));
		replica_exit(REPLICA_PASS);
	}
	expect_pass(_metadata, pid);
	discard_sigchld();
}

TEST_F_GUARDED(rlimit_nproc, that_is_reached_leaves_nothing)
{
	static const int free[] = { 0, 1, 2, 4, 9, 10, 19, 20, 33, 38, 39 };
	int i;

	for (i = 0; i < ARRAY_SIZE(free) && !_metadata->exit_code; i++) {
		set_nproc(_metadata, TASKS + free[i]);
		expect_failure(_metadata, self->pidfd);
	}
	EXPECT_EQ(ARRAY_SIZE(free), i)
	{
		TH_LOG("with room for %d replicas", free[i - 1]);
	}
	set_nproc(_metadata, 2 * TASKS);
	expect_success(_metadata, self->pidfd);
}

/*
 * What a failed call has charged is given back when it returns, so that the
 * next one, which needs all there is, does not fail.
 */
TEST_F_GUARDED(rlimit_nproc, is_given_back_at_once)
{
	int i;

	for (i = 0; i < 5; i++) {
		set_nproc(_metadata, 2 * TASKS - 1);
		EXPECT_EQ(-EAGAIN, copy_tree(self->pidfd));
		set_nproc(_metadata, 2 * TASKS);
		ASSERT_LT(0, copy_tree(self->pidfd));
		EXPECT_EQ(-EAGAIN, copy_tree(self->pidfd));
		/* The replicas of a root that calls are below what is kept. */
		if (self->pidfd < 0)
			break;
		EXPECT_TRUE(end_others());
		discard_sigchld();
	}
	EXPECT_TRUE(originals_answer());
}

/* The number of tasks in the machine */
FIXTURE(threads_max)
{
	int pidfd;
};

FIXTURE_SETUP(threads_max)
{
	setup_manager(_metadata);
	start_tree(_metadata, simple_tree, PROCESSES, RELATION_CHILD);
	self->pidfd = sys_pidfd_open(pid_of(0));
}

FIXTURE_TEARDOWN(threads_max)
{
	teardown_manager(_metadata);
}

/* In /proc/loadavg, behind the slash */
static long nr_threads(void)
{
	char text[128], *slash;

	if (read_file("/proc/loadavg", text, sizeof(text)) <= 0)
		return -1;
	slash = strchr(text, '/');
	return slash ? atol(slash + 1) : -1;
}

/* Other tasks come and go, so that it is met somewhere in the middle. */
TEST_F_GUARDED(threads_max, that_is_reached_leaves_nothing)
{
	char text[32];
	int i;

	for (i = 0; i < 5 && !_metadata->exit_code; i++) {
		snprintf(text, sizeof(text), "%ld", nr_threads() + 15);
		ASSERT_EQ(0, change_file("/proc/sys/kernel/threads-max", text));
		expect_failure(_metadata, self->pidfd);
		restore_files();
	}
	expect_success(_metadata, self->pidfd);
}

TEST_HARNESS_MAIN
