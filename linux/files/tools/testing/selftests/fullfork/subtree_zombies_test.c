// SPDX-License-Identifier: GPL-2.0
/*
 * Zombies are copied: as zombies, with what their parents are to be told.
 * And so is a process whose leader has exited while other threads go on.
 */
#include "fullfork_tree.h"

#include <sys/resource.h>
#include <sys/stat.h>

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

#define NOBODY 54321

/*
 * Ways to end, each in a process that is then left as a zombie.
 */

static long exit_with_7(struct tree_node *self, long arg)
{
	replica_exit(7);
	return 0;
}

static long exit_with_0(struct tree_node *self, long arg)
{
	replica_exit(0);
	return 0;
}

static long be_killed(struct tree_node *self, long arg)
{
	kill(syscall(__NR_getpid), SIGKILL);
	for (;;)
		pause();
	return 0;
}

static long be_terminated(struct tree_node *self, long arg)
{
	kill(syscall(__NR_getpid), SIGTERM);
	for (;;)
		pause();
	return 0;
}

static char core_dir[32];

/* Where core files are written at all, this one is. */
static long dump_core(struct tree_node *self, long arg)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	if (chdir(core_dir))
		return -errno;
	setrlimit(RLIMIT_CORE, &limit);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	signal(SIGQUIT, SIG_DFL);
	kill(syscall(__NR_getpid), SIGQUIT);
	for (;;)
		pause();
	return 0;
}

static void remove_core_dir(void)
{
	struct dirent *entry;
	char path[400];
	DIR *dir = opendir(core_dir);

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s", core_dir, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(path);
	}
	closedir(dir);
	rmdir(core_dir);
}

/* What waitid() says of a child. */
struct ending {
	int code;
	int status;
	int pid;
	int uid;
};

static long read_ending(struct tree_node *self, long index, int options)
{
	struct ending *ending = (void *)tree_own_slot(self)->text;
	siginfo_t info = {};

	if (waitid(P_PID, tree_peer(self, index)->pid, &info,
		   WEXITED | WNOHANG | __WALL | options))
		return -errno;
	if (!info.si_pid)
		return NOTHING_YET;
	*ending = (struct ending) {
		.code = info.si_code,
		.status = info.si_status,
		.pid = info.si_pid,
		.uid = info.si_uid,
	};
	return 0;
}

static long get_ending(struct tree_node *self, long index)
{
	return read_ending(self, index, 0);
}

static long look_at_ending(struct tree_node *self, long index)
{
	return read_ending(self, index, WNOWAIT);
}

static struct ending *ending_at(enum side side, unsigned int node)
{
	return (void *)slot_of(side, node)->text;
}

/* A zombie whose parent is below the root. */
FIXTURE(zombie)
{
	unsigned int root, parent, child;
};

FIXTURE_VARIANT(zombie)
{
	long (*end)(struct tree_node *self, long arg);
	int code;
	int status;
};

FIXTURE_VARIANT_ADD(zombie, that_exited) {
	.end = exit_with_7, .code = CLD_EXITED, .status = 7,
};

FIXTURE_VARIANT_ADD(zombie, that_exited_with_0) {
	.end = exit_with_0, .code = CLD_EXITED, .status = 0,
};

FIXTURE_VARIANT_ADD(zombie, that_was_killed) {
	.end = be_killed, .code = CLD_KILLED, .status = SIGKILL,
};

FIXTURE_VARIANT_ADD(zombie, that_was_terminated) {
	.end = be_terminated, .code = CLD_KILLED, .status = SIGTERM,
};

FIXTURE_VARIANT_ADD(zombie, that_dumped_core) {
	.end = dump_core, .code = CLD_DUMPED, .status = SIGQUIT,
};

FIXTURE_SETUP(zombie)
{
	setup_tree(_metadata);
	snprintf(core_dir, sizeof(core_dir), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(core_dir));
	self->root = start_tree();
	self->parent = child_of(self->root);
	ASSERT_EQ(0, ask(ORIGINAL, self->parent, block_node_signal, SIGCHLD));
	self->child = child_of(self->parent);
	end_node_by(self->child, variant->end, 0);
	ASSERT_EQ(SIGCHLD, ask(ORIGINAL, self->parent, take_signal_now,
			       SIGCHLD));
	ASSERT_EQ(0, ask(ORIGINAL, self->parent, look_at_ending, self->child));
	if (variant->code == CLD_DUMPED &&
	    ending_at(ORIGINAL, self->parent)->code == CLD_KILLED) {
		teardown_tree(_metadata);
		remove_core_dir();
		skip_unless(false, _exit(0), "no core files are written here");
	}
	ASSERT_EQ(variant->code, ending_at(ORIGINAL, self->parent)->code);
}

FIXTURE_TEARDOWN(zombie)
{
	teardown_tree(_metadata);
	remove_core_dir();
}

TEST_F_GUARDED(zombie, is_a_zombie_in_the_replica)
{
	char name[16];
	struct proc_stat st;

	copy_by(self->root, BOTH);
	snprintf(name, sizeof(name), "node-%u", self->child);
	ASSERT_TRUE(read_stat(pid_of(REPLICA, self->child), &st));
	EXPECT_EQ('Z', st.state);
	EXPECT_EQ(1, st.threads);
	EXPECT_STREQ(name, st.comm);
	EXPECT_EQ(pid_of(REPLICA, self->parent), st.parent);
	ASSERT_TRUE(read_stat(pid_of(ORIGINAL, self->child), &st));
	EXPECT_EQ('Z', st.state);
	EXPECT_EQ(pid_of(ORIGINAL, self->parent), st.parent);
}

/* In each tree, to the parent of that tree; no zombie is left then. */
TEST_F_GUARDED(zombie, tells_its_end_once)
{
	struct ending *ending;
	int side;

	copy_by(self->root, BOTH);
	for (side = REPLICA; side >= ORIGINAL; side--) {
		ASSERT_EQ(0, ask(side, self->parent, get_ending, self->child));
		ending = ending_at(side, self->parent);
		EXPECT_EQ(variant->code, ending->code);
		EXPECT_EQ(variant->status, ending->status);
		EXPECT_EQ(pid_of(side, self->child), ending->pid);
		EXPECT_EQ(-ECHILD, ask(side, self->parent, get_ending,
				       self->child));
		EXPECT_TRUE(is_gone(pid_of(side, self->child)));
	}
}

/* Not even its original's parent is, a second time. */
TEST_F_GUARDED(zombie, is_reported_by_no_signal)
{
	int side;

	copy_by(self->root, BOTH);
	for (side = ORIGINAL; side <= REPLICA; side++) {
		EXPECT_EQ(NOTHING_YET, ask(side, self->parent, take_signal_now,
					   SIGCHLD));
	}
	/* The next child that ends is. */
	self->child = tree_add(_metadata, REPLICA, self->parent, false, 0,
			       SIGCHLD);
	end_node(REPLICA, self->child, 1);
	EXPECT_TRUE(wait_until(ask(REPLICA, self->parent, take_signal_now, SIGCHLD) == SIGCHLD,
			       DEADLINE));
}

TEST_F_GUARDED(zombie, whose_parent_ends_is_adopted_in_the_replica)
{
	pid_t pid;
	int status;

	copy_by(self->root, BOTH);
	pid = pid_of(REPLICA, self->child);
	end_node(REPLICA, self->parent, 1);
	/* By the test, which is the subreaper of both trees. */
	EXPECT_EQ(pid, waitpid(pid, &status, WNOHANG));
	EXPECT_EQ(variant->code == CLD_EXITED, WIFEXITED(status));
	EXPECT_EQ('Z', task_state(pid_of(ORIGINAL, self->child),
				  pid_of(ORIGINAL, self->child)));
}

/* Zombies of which something else is to be kept. */
FIXTURE(zombies)
{
	unsigned int root, thread;
};

FIXTURE_SETUP(zombies)
{
	setup_tree(_metadata);
	self->root = start_tree();
}

FIXTURE_TEARDOWN(zombies)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(zombies, of_one_parent_are_told_apart)
{
	unsigned int child[5];
	int i;

	for (i = 0; i < ARRAY_SIZE(child); i++)
		child[i] = child_of(self->root);
	/* The third one lives on. */
	for (i = 0; i < ARRAY_SIZE(child); i++) {
		if (i != 2)
			end_node(ORIGINAL, child[i], 10 + i);
	}
	copy_by(self->root, BOTH);
	for (i = ARRAY_SIZE(child) - 1; i >= 0; i--) {
		EXPECT_EQ(i == 2 ? NOTHING_YET : (10 + i) << 8,
			  ask(REPLICA, self->root, wait_now, child[i]));
	}
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->root, wait_pid_now, -1));
	for (i = 0; i < ARRAY_SIZE(child); i++) {
		EXPECT_EQ(i == 2 ? NOTHING_YET : (10 + i) << 8,
			  ask(ORIGINAL, self->root, wait_now, child[i]));
	}
}

TEST_F_GUARDED(zombies, are_copied_without_all_threads)
{
	unsigned int child = child_of(self->root);
	unsigned int grandchild = child_of(child);

	end_node(ORIGINAL, grandchild, 5);
	copy_by(self->root, CLONE_SUBTREE);
	EXPECT_EQ(5 << 8, ask(REPLICA, child, wait_now, grandchild));
	EXPECT_EQ(5 << 8, ask(ORIGINAL, child, wait_now, grandchild));
}

TEST_F_GUARDED(zombies, are_children_of_the_same_thread)
{
	unsigned int thread = thread_of(self->root);
	unsigned int child = child_of(thread);

	end_node(ORIGINAL, child, 6);
	copy_by(self->root, BOTH);
	EXPECT_EQ(-ECHILD, ask(REPLICA, self->root, wait_own_now, child));
	EXPECT_EQ(6 << 8, ask(REPLICA, thread, wait_own_now, child));
	EXPECT_EQ(6 << 8, ask(ORIGINAL, thread, wait_own_now, child));
}

static long wait_plain_now(struct tree_node *self, long index)
{
	int status = 0;
	long ret = result_of(waitpid(tree_peer(self, index)->pid, &status,
				     WNOHANG));

	return ret > 0 ? status : ret ?: NOTHING_YET;
}

/* One that ends with another signal, or none, is seen with __WALL only. */
TEST_F_GUARDED(zombies, keep_their_exit_signals)
{
	unsigned int child, silent;
	struct proc_stat st;

	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGUSR1));
	child = clone_of(self->root, 0, SIGUSR1);
	silent = clone_of(self->root, 0, 0);
	end_node(ORIGINAL, child, 1);
	end_node(ORIGINAL, silent, 2);
	copy_by(self->root, BOTH);
	ASSERT_TRUE(read_stat(pid_of(REPLICA, child), &st));
	EXPECT_EQ(SIGUSR1, st.exit_signal);
	ASSERT_TRUE(read_stat(pid_of(REPLICA, silent), &st));
	EXPECT_EQ(0, st.exit_signal);
	EXPECT_EQ(-ECHILD, ask(REPLICA, self->root, wait_plain_now, child));
	EXPECT_EQ(1 << 8, ask(REPLICA, self->root, wait_now, child));
	EXPECT_EQ(-ECHILD, ask(REPLICA, self->root, wait_plain_now, silent));
	EXPECT_EQ(2 << 8, ask(REPLICA, self->root, wait_now, silent));
}

static long be_somebody_and_end(struct tree_node *self, long uid)
{
	if (syscall(__NR_setresuid, uid, uid, uid))
		return -errno;
	replica_exit(3);
	return 0;
}

TEST_F_GUARDED(zombies, keep_their_users)
{
	unsigned int child;
	int side;

	skip_unless(!geteuid(), return, "another user: needs root");
	child = child_of(self->root);
	end_node_by(child, be_somebody_and_end, NOBODY);
	copy_by(self->root, BOTH);
	for (side = REPLICA; side >= ORIGINAL; side--) {
		EXPECT_EQ(NOBODY, status_number(pid_of(side, child), "Uid"));
		ASSERT_EQ(0, ask(side, self->root, get_ending, child));
		EXPECT_EQ(NOBODY, ending_at(side, self->root)->uid);
	}
}

static long compute_and_end(struct tree_node *self, long arg)
{
	struct timespec ts = {};

	while (ts.tv_sec * 1000 + ts.tv_nsec / 1000000 < 400)
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	replica_exit(4);
	return 0;
}

/* The CPU time that a child has used, in milliseconds. */
static long wait_for_usage(struct tree_node *self, long index)
{
	struct rusage usage = {};
	int status = 0;
	long ret = result_of(wait4(tree_peer(self, index)->pid, &status,
				   WNOHANG | __WALL, &usage));

	if (ret <= 0)
		return ret ?: NOTHING_YET;
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

/* As little as a replica that lives. */
TEST_F_GUARDED(zombies, have_used_no_cpu_time)
{
	unsigned int child = child_of(self->root);
	long used;

	end_node_by(child, compute_and_end, 0);
	copy_by(self->root, BOTH);
	used = ask(REPLICA, self->root, wait_for_usage, child);
	EXPECT_LE(0, used);
	EXPECT_GT(200, used);
	EXPECT_LE(300, ask(ORIGINAL, self->root, wait_for_usage, child));
}

TEST_HARNESS_MAIN
