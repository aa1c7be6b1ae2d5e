// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: trees whose processes come and go all the time
 *
 * Three processes, one below the other, have threads that make children and
 * threads without a pause.  A manager copies the tree again and again: that
 * works each time, on both sides every one of these threads goes on, and
 * nothing is left of a replica that is killed.
 */

#include "fullfork_manager.h"
#include <spawn.h>
#include <sys/resource.h>

#define PROCESSES 3
#define STACK_SIZE 16384
#define MAX_WORKERS 12

#define CODE_CHILD 6

/* Words of the report */
enum {
	WORD_READY,
	WORD_LEFT,		/* threads of replicas that have come to an end */
	WORD_CORES,
};

static __attribute__((constructor)) void exec_again_or_exit(void)
{
	exec_again(CODE_CHILD);
}

static char core_dir[32];
static char child_stack[MAX_WORKERS][STACK_SIZE];	/* clone() aligns it */
static __thread unsigned int seed;
static __thread int own_worker;

/*
 * What holds in an original.  In a replica the children have other PIDs, and
 * a wait for one that is not there fails.
 */
#define original_assert(cond)						\
do {									\
	bool __met = cond;						\
									\
	if (!in_replica())						\
		side_assert(__met);					\
} while (0)

static bool ended_with(pid_t pid, int expected)
{
	int status;

	return waitpid(pid, &status, 0) == pid && status == expected;
}

static void fork_and_wait(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(CODE_CHILD);
	original_assert(pid > 0 && ended_with(pid, CODE_CHILD << 8));
}

/* A child with a child: each level is waited for by the one above. */
static void fork_twice_and_wait(void)
{
	pid_t pid = fork(), below;

	if (!pid) {
		below = fork();
		if (!below)
			_exit(CODE_CHILD);
		waitpid(below, NULL, 0);
		_exit(CODE_CHILD);
	}
	original_assert(pid > 0 && ended_with(pid, CODE_CHILD << 8));
}

static void exec_and_wait(void)
{
	pid_t pid = fork();

	if (!pid) {
		execl("/proc/self/exe", "fullfork", NULL);
		_exit(1);
	}
	original_assert(pid > 0 && ended_with(pid, CODE_CHILD << 8));
}

static int exec_in_vfork(void *arg)
{
	execl("/proc/self/exe", "fullfork", NULL);
	_exit(1);
}

/* What vfork() is, with a stack of its own. */
static void vfork_and_wait(void)
{
	pid_t pid = clone(exec_in_vfork, child_stack[own_worker] + STACK_SIZE,
			  CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);

	original_assert(pid > 0 && ended_with(pid, CODE_CHILD << 8));
}

static void spawn_and_wait(void)
{
	static const char * const argv[] = { "fullfork", NULL };
	pid_t pid;
	int err;

	err = posix_spawn(&pid, "/proc/self/exe", NULL, NULL,
			  (char * const *)argv, environ);
	original_assert(!err && ended_with(pid, CODE_CHILD << 8));
}

/* What shell scripts and many programs do all day. */
static void run_in_shell(void)
{
	int status = system("exit 6");

	original_assert(status == CODE_CHILD << 8);
}

static void kill_and_wait(void)
{
	pid_t pid = fork();

	if (!pid)
		for (;;)
			pause();
	spin_us(rand_r(&seed) % 2000);
	if (in_replica())
		return;
	original_assert(pid > 0 && !kill(pid, SIGKILL));
	original_assert(ended_with(pid, SIGKILL));
}

/*
 * A child ends before its own child: the orphan is adopted by the subreaper,
 * which is the second process, while the tree is walked.  That cannot be told
 * its PID by a pipe, which is shared with replicas: it waits for any child, and
 * has no others that end.
 */
static void leave_orphan(void)
{
	pid_t pid = fork(), parent;
	int i, status;

	if (!pid) {
		parent = sys_getpid();
		pid = fork();
		if (!pid) {
			while (getppid() == parent)
				poll_pause();
			_exit(CODE_CHILD);
		}
		_exit(CODE_CHILD);
	}
	original_assert(pid > 0);
	for (i = 0; i < 2; i++) {
		status = -1;
		original_assert(waitpid(-1, &status, 0) > 0);
		original_assert(status == CODE_CHILD << 8);
	}
}

static int leave_thread(void *arg)
{
	return 0;
}

/* By clone() itself: the C library takes a lock that knows its owner. */
static void create_and_join(void)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
			  CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID |
			  CLONE_CHILD_CLEARTID;
	static __u32 words[MAX_WORKERS];
	__u32 *word = &words[own_worker], one;

	store(word, 1);
	original_assert(clone(leave_thread, child_stack[own_worker] + STACK_SIZE,
			      flags, NULL, word, NULL, word) > 0);
	while ((one = load(word)))
		futex_wait(word, one, 0, -1);
}

static void dump_core_and_wait(void)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	char path[64];
	pid_t pid;
	int status;

	pid = fork();
	if (!pid) {
		limit.rlim_cur = 1 << 20;
		setrlimit(RLIMIT_CORE, &limit);
		/* Shells start what runs in the background with it ignored. */
		signal(SIGQUIT, SIG_DFL);
		prctl(PR_SET_DUMPABLE, 1);
		kill(sys_getpid(), SIGQUIT);
		_exit(1);
	}
	if (waitpid(pid, &status, 0) != pid || in_replica())
		return;
	original_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGQUIT);
	if (WCOREDUMP(status))
		add(&report->word[WORD_CORES], 1);
	snprintf(path, sizeof(path), "%s/core.%d", core_dir, pid);
	unlink(path);
}

/* What the threads of the root, its child and its grandchild do. */
struct storm {
	void (*work[PROCESSES][4])(void);
	bool dumps_core;
	bool loads_libraries;	/* with a file offset that replicas share */
};

static const struct storm *storm;

/* Replicas of these threads do no harm once they have seen what they are. */
static __noreturn void leave_storm(void)
{
	add(&report->word[WORD_LEFT], 1);
	for (;;)
		pause();
}

static void *work_for_ever(void *arg)
{
	void (*work)(void) = arg;

	own_worker = add(&report->word[WORD_READY], 1) - 1;
	seed = own_worker;
	for (;;) {
		work();
		if (in_replica())
			leave_storm();
		add(&report->slot[own_worker].recorded, 1);
	}
	return NULL;
}

static __noreturn void run_storm_process(int number)
{
	pthread_t thread;
	pid_t pid = 1;
	int i;

	original_pid = sys_getpid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Kept by its replica: the root's own might not be. */
	if (number == 1)
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (number + 1 < PROCESSES)
		pid = fork();
	side_assert(pid >= 0);
	if (!pid)
		run_storm_process(number + 1);
	for (i = 0; i < 4 && storm->work[number][i]; i++)
		side_assert_eq(0, pthread_create(&thread, NULL, work_for_ever,
						 storm->work[number][i]));
	for (;;)
		pause();
}

FIXTURE(storm)
{
	pid_t root;
	int pidfd;
	int workers;
};

FIXTURE_VARIANT(storm)
{
	struct storm storm;
};

#define IN_EACH(...) {							\
	.work = { { __VA_ARGS__ }, { __VA_ARGS__ }, { __VA_ARGS__ } },	\
}

FIXTURE_VARIANT_ADD(storm, of_forks) {
	IN_EACH(fork_and_wait, fork_twice_and_wait),
};

FIXTURE_VARIANT_ADD(storm, of_execs) {
	IN_EACH(exec_and_wait),
};

FIXTURE_VARIANT_ADD(storm, of_vforks) {
	IN_EACH(vfork_and_wait),
};

FIXTURE_VARIANT_ADD(storm, of_spawns) {
	IN_EACH(spawn_and_wait),
};

FIXTURE_VARIANT_ADD(storm, of_shells) {
	{
		.work = {
			{ run_in_shell }, { run_in_shell }, { run_in_shell },
		},
		.loads_libraries = true,
	},
};

FIXTURE_VARIANT_ADD(storm, of_kills) {
	IN_EACH(kill_and_wait, kill_and_wait),
};

FIXTURE_VARIANT_ADD(storm, of_orphans) {
	{
		.work = {
			{ fork_and_wait },
			{ leave_orphan },
			{ kill_and_wait },
		},
	},
};

FIXTURE_VARIANT_ADD(storm, of_threads) {
	IN_EACH(create_and_join, create_and_join),
};

FIXTURE_VARIANT_ADD(storm, of_core_dumps) {
	{
		.work = {
			{ dump_core_and_wait },
			{ dump_core_and_wait },
			{ fork_and_wait },
		},
		.dumps_core = true,
	},
};

FIXTURE_VARIANT_ADD(storm, of_all_kinds) {
	{
		.work = {
			{ spawn_and_wait, vfork_and_wait, kill_and_wait },
			{ leave_orphan, create_and_join },
			{ run_in_shell, exec_and_wait, fork_twice_and_wait },
		},
		.loads_libraries = true,
	},
};

FIXTURE_SETUP(storm)
{
	char text[64];
	int i, k;

	setup_manager(_metadata);
	/* What is busy may need long, but is never in the way for ever. */
	ASSERT_EQ(0, change_bound(60));
	ASSERT_EQ(0, setenv("FULLFORK_TEST_EXECS", "2", 1));
	storm = &variant->storm;
	if (storm->dumps_core) {
		snprintf(core_dir, sizeof(core_dir), "/tmp/fullfork.XXXXXX");
		ASSERT_NE(NULL, mkdtemp(core_dir));
		snprintf(text, sizeof(text), "%s/core.%%p", core_dir);
		ASSERT_EQ(0, change_file("/proc/sys/kernel/core_pattern", text));
	}
	self->root = fork();
	ASSERT_LE(0, self->root);
	if (!self->root)
		run_storm_process(0);
	keep(self->root);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	for (i = 0; i < PROCESSES; i++)
		for (k = 0; k < 4 && storm->work[i][k]; k++)
			self->workers++;
	ASSERT_GE(MAX_WORKERS, self->workers);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_READY]) ==
			       self->workers, DEADLINE));
}

static void remove_core_dir(void)
{
	struct dirent *entry;
	char path[300];
	DIR *dir = opendir(core_dir);

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s", core_dir, entry->d_name);
		unlink(path);
	}
	if (dir)
		closedir(dir);
	rmdir(core_dir);
}

FIXTURE_TEARDOWN(storm)
{
	teardown_manager(_metadata);
	if (core_dir[0])
		remove_core_dir();
}

/* Every thread of the originals gets to the end of what it does. */
static bool originals_work(int workers)
{
	__u32 before[MAX_WORKERS];
	int i;

	for (i = 0; i < workers; i++)
		before[i] = load(&report->slot[i].recorded);
	for (i = 0; i < workers; i++)
		if (!wait_until(load(&report->slot[i].recorded) - before[i] >= 2,
				DEADLINE))
			return false;
	return true;
}

TEST_F_GUARDED(storm, does_not_keep_the_tree_from_being_copied)
{
	long long end = now_ms() + 4000;
	int round;
	long pid;

	ASSERT_TRUE(originals_work(self->workers));
	for (round = 0; round < 4 || (round < 40 && now_ms() < end); round++) {
		bool stopped = (round & 1) || storm->loads_libraries;

		store(&report->word[WORD_LEFT], 0);
		pid = copy_from(self->pidfd, WHOLE_TREE |
				(stopped ? CLONE_STOPPED : 0));
		ASSERT_LT(0, pid)
		{
			TH_LOG("round %d: %s", round, strerror(-pid));
		}
		if (stopped) {
			EXPECT_TRUE(wait_until(all_threads_in(pid, 'T'),
					       DEADLINE));
		} else {
			EXPECT_TRUE(wait_until(load(&report->word[WORD_LEFT]) ==
					       self->workers, DEADLINE));
		}
		EXPECT_TRUE(end_others());
		EXPECT_TRUE(originals_work(self->workers));
		ASSERT_EQ(0, load(&report->failures))
		{
			TH_LOG("%s", report->failure);
		}
		if (_metadata->exit_code) {
			dump_listed(list_below(getpid()));
			break;
		}
	}
	EXPECT_EQ(storm->dumps_core, !!load(&report->word[WORD_CORES]));
	EXPECT_TRUE(end_kept(self->root));
}

TEST_HARNESS_MAIN
