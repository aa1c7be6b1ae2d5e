// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: processes in several states, copied from outside
 */

#include "fullfork_answers.h"
#include "fullfork_pidns.h"

static void block_signals(int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* Three tasks in the root, two in its child. */
static const struct plan pair[] = {
	{ .threads = 2, .before = block_signals },
	{ .parent = 0, .threads = 1 },
};

#define ROOT_TASKS 3
#define PAIR_TASKS 5

FIXTURE(exit_signal)
{
	pid_t root;
	int pidfd;
	sigset_t all;
};

FIXTURE_VARIANT(exit_signal)
{
	int signal;
};

FIXTURE_VARIANT_ADD(exit_signal, none) { .signal = 0 };
FIXTURE_VARIANT_ADD(exit_signal, sigchld) { .signal = SIGCHLD };
FIXTURE_VARIANT_ADD(exit_signal, sigusr1) { .signal = SIGUSR1 };

FIXTURE_SETUP(exit_signal)
{
	setup_manager(_metadata);
	self->root = start_tree(_metadata, pair, ARRAY_SIZE(pair),
				RELATION_CHILD);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	sigemptyset(&self->all);
	sigaddset(&self->all, SIGCHLD);
	sigaddset(&self->all, SIGUSR1);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &self->all, NULL));
}

FIXTURE_TEARDOWN(exit_signal)
{
	teardown_manager(_metadata);
}

/* The manager's choice: the original's own is SIGCHLD. */
TEST_F_GUARDED(exit_signal, is_sent_to_the_manager)
{
	struct timespec now = {}, wait = { .tv_sec = DEADLINE };
	struct fullfork_args args;
	siginfo_t info = {};
	long pid;

	init_args(&args, self->pidfd, CLONE_FROM_PIDFD | CLONE_ALL_THREADS);
	args.exit_signal = variant->signal;
	pid = call_as_manager(&args);
	ASSERT_LT(0, pid);
	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, ROOT_TASKS));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	if (variant->signal) {
		EXPECT_EQ(variant->signal, sigtimedwait(&self->all, &info,
							&wait));
		EXPECT_EQ(pid, info.si_pid);
		EXPECT_EQ(CLD_KILLED, info.si_code);
	}
	EXPECT_TRUE(WIFSIGNALED(xwaitpid(_metadata, pid, DEADLINE)));
	EXPECT_EQ(-1, sigtimedwait(&self->all, &info, &now))
	{
		TH_LOG("signal %d", info.si_signo);
	}
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
}

FIXTURE(pending)
{
	pid_t root;
	int pidfd;
	pid_t thread;
};

FIXTURE_SETUP(pending)
{
	union sigval value = { .sival_int = 4711 };

	setup_manager(_metadata);
	self->root = start_tree(_metadata, pair, ARRAY_SIZE(pair),
				RELATION_CHILD);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	self->thread = report->slot[1].tid;
	ASSERT_EQ(0, kill(self->root, SIGUSR1));
	ASSERT_EQ(0, sigqueue(self->root, SIGRTMIN, value));
	ASSERT_EQ(0, syscall(__NR_tgkill, self->root, self->thread, SIGUSR2));
}

FIXTURE_TEARDOWN(pending)
{
	teardown_manager(_metadata);
}

static __u64 signal_set(pid_t pid, pid_t tid, const char *field)
{
	char text[64];

	if (!read_status_field(pid, tid, field, text, sizeof(text)))
		return -1;
	return strtoull(text, NULL, 16);
}

#define bit(sig) (1ULL << ((sig) - 1))

TEST_F_GUARDED(pending, signals_stay_with_the_original)
{
	pid_t tid;
	long pid;
	int i;

	pid = copy_with_map(self->pidfd, WHOLE_TREE | CLONE_STOPPED,
			    MAP_ENTRIES);
	ASSERT_LT(0, pid);
	ASSERT_EQ(PAIR_TASKS, map_length());
	EXPECT_TRUE(wait_until(all_threads_in(pid, 'T'), DEADLINE));
	for (i = 0; i < ROOT_TASKS; i++) {
		tid = replica_of(report->slot[i].tid);
		EXPECT_EQ(0, signal_set(pid, tid, "ShdPnd"));
		EXPECT_EQ(0, signal_set(pid, tid, "SigPnd"));
		EXPECT_EQ(bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGRTMIN),
			  signal_set(pid, tid, "SigBlk"));
	}
	EXPECT_EQ(bit(SIGUSR1) | bit(SIGRTMIN),
		  signal_set(self->root, self->root, "ShdPnd"));
	EXPECT_EQ(bit(SIGUSR2), signal_set(self->root, self->thread, "SigPnd"));
	EXPECT_EQ(0, signal_set(self->root, self->root, "SigPnd"));
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
	EXPECT_TRUE(end_others());
}

FIXTURE(stopped)
{
	pid_t root;
	int pidfd;
};

FIXTURE_VARIANT(stopped)
{
	int signal;
};

FIXTURE_VARIANT_ADD(stopped, by_sigstop) { .signal = SIGSTOP };
FIXTURE_VARIANT_ADD(stopped, by_sigtstp) { .signal = SIGTSTP };
FIXTURE_VARIANT_ADD(stopped, by_sigttin) { .signal = SIGTTIN };

FIXTURE_SETUP(stopped)
{
	setup_manager(_metadata);
	self->root = start_tree(_metadata, pair, ARRAY_SIZE(pair),
				RELATION_CHILD);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	ASSERT_EQ(0, kill(self->root, variant->signal));
	ASSERT_TRUE(wait_until(all_threads_in(self->root, 'T'), DEADLINE));
}

FIXTURE_TEARDOWN(stopped)
{
	teardown_manager(_metadata);
}

static bool is_stopped_by(int status, int sig)
{
	return WIFSTOPPED(status) && WSTOPSIG(status) == sig;
}

/* Only the root is stopped: its child and that one's replica go on. */
TEST_F_GUARDED(stopped, process_has_a_stopped_replica)
{
	__u32 question;
	pid_t child;
	long pid;

	pid = copy_with_map(self->pidfd, WHOLE_TREE, MAP_ENTRIES);
	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_TRUE(wait_until(all_threads_in(pid, 'T'), DEADLINE));
	EXPECT_TRUE(wait_until(all_threads_in(self->root, 'T'), DEADLINE));
	child = replica_of(pid_of(1));
	ASSERT_LT(0, child);
	question = ask();
	EXPECT_TRUE(wait_until(count_answers(SIDE_REPLICA, ROOT_TASKS, 2,
					     question) == 2, DEADLINE));
	EXPECT_TRUE(wait_until(count_answers(SIDE_ORIGINAL, ROOT_TASKS, 2,
					     question) == 2, DEADLINE));
	EXPECT_EQ(0, count_answers(SIDE_REPLICA, 0, ROOT_TASKS, question));
	EXPECT_EQ(0, count_answers(SIDE_ORIGINAL, 0, ROOT_TASKS, question));

	/* Each is continued by itself. */
	ASSERT_EQ(0, kill(pid, SIGCONT));
	EXPECT_TRUE(wait_until(count_answers(SIDE_REPLICA, 0, PAIR_TASKS,
					     question) == PAIR_TASKS,
			       DEADLINE));
	EXPECT_EQ(0, count_answers(SIDE_ORIGINAL, 0, ROOT_TASKS, question));
	ASSERT_EQ(0, kill(self->root, SIGCONT));
	EXPECT_TRUE(originals_answer());
	EXPECT_EQ(0, load(&report->word[WORD_EINTRS]));
	EXPECT_TRUE(end_others());
}

/* Nobody has waited for the original's stop yet. */
TEST_F_GUARDED(stopped, process_shows_its_stop_once_on_each_side)
{
	int status;
	long pid;

	pid = copy_from(self->pidfd, CLONE_ALL_THREADS);
	ASSERT_LT(0, pid);
	status = xwait(_metadata, pid, WUNTRACED, DEADLINE);
	EXPECT_TRUE(is_stopped_by(status, variant->signal))
	{
		TH_LOG("status 0x%x", status);
	}
	EXPECT_EQ(0, waitpid(pid, &status, WUNTRACED | WNOHANG));
	status = xwait(_metadata, self->root, WUNTRACED, DEADLINE);
	EXPECT_TRUE(is_stopped_by(status, variant->signal));
	EXPECT_EQ(0, waitpid(self->root, &status, WUNTRACED | WNOHANG));

	ASSERT_EQ(0, kill(pid, SIGCONT));
	status = xwait(_metadata, pid, WCONTINUED, DEADLINE);
	EXPECT_TRUE(WIFCONTINUED(status));
	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, ROOT_TASKS));
	EXPECT_EQ(0, waitpid(self->root, &status,
			     WUNTRACED | WCONTINUED | WNOHANG));
	EXPECT_TRUE(wait_until(all_threads_in(self->root, 'T'), DEADLINE));
	EXPECT_TRUE(end_others());
}

TEST_F_GUARDED(stopped, process_is_not_continued_with_clone_stopped)
{
	long pid;
	int i;

	for (i = 0; i < 5; i++) {
		pid = copy_with_map(self->pidfd, WHOLE_TREE | CLONE_STOPPED,
				    MAP_ENTRIES);
		ASSERT_LT(0, pid);
		EXPECT_TRUE(wait_until(all_threads_in(pid, 'T'), DEADLINE));
		EXPECT_TRUE(wait_until(all_threads_in(replica_of(pid_of(1)),
						      'T'), DEADLINE));
		EXPECT_TRUE(wait_until(all_threads_in(self->root, 'T'),
				       DEADLINE));
		EXPECT_TRUE(end_others());
	}
	ASSERT_EQ(0, kill(self->root, SIGCONT));
	EXPECT_TRUE(originals_answer());
}

/* The tree is in another PID namespace, of which the manager is no member. */
FIXTURE(pid_namespace)
{
	pid_t init;
	pid_t root;
	int pidfd;
};

FIXTURE_SETUP(pid_namespace)
{
	setup_manager(_metadata);
	self->init = start_init(_metadata, CLONE_NEWPID);
	keep(self->init);
	enter_pid_ns(_metadata, self->init);
	plan = pair;
	plan_size = ARRAY_SIZE(pair);
	self->root = start_root(RELATION_CHILD);
	ASSERT_LT(0, self->root);
	keep(self->root);
	ASSERT_TRUE(wait_recorded(PAIR_TASKS));
	leave_pid_ns(_metadata);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	ASSERT_TRUE(originals_answer());
}

FIXTURE_TEARDOWN(pid_namespace)
{
	teardown_manager(_metadata);
}

/* Which task has, on one side and in its own namespace, this TID; or -1. */
static int task_with(bool replica, pid_t tid)
{
	int i;

	for (i = 0; i < PAIR_TASKS; i++)
		if (tid == (replica ? (pid_t)report->slot[i].value[0] :
			    report->slot[i].tid))
			return i;
	return -1;
}

static pid_t inner(pid_t tid)
{
	return inner_tid(tid, tid);
}

TEST_F_GUARDED(pid_namespace, of_the_original_is_that_of_the_replica)
{
	char ns[2][NS_LINK_SIZE];
	int i, task;
	long pid;

	pid = copy_with_map(self->pidfd, WHOLE_TREE, MAP_ENTRIES);
	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_EQ(getpid(), status_number(pid, "PPid"));
	ASSERT_TRUE(pid_ns_of(self->root, ns[0]));
	ASSERT_TRUE(pid_ns_of(pid, ns[1]));
	EXPECT_STREQ(ns[0], ns[1]);
	ASSERT_TRUE(replicas_answer());
	/* Its parent is outside. */
	EXPECT_EQ(0, report->slot[0].value[3]);

	/* The table has the TIDs that the manager sees. */
	ASSERT_EQ(PAIR_TASKS, map_length());
	EXPECT_EQ(self->root, shared->map[0].original);
	EXPECT_EQ(pid, shared->map[0].replica);
	for (i = 0; i < PAIR_TASKS; i++) {
		task = task_with(false, inner(shared->map[i].original));
		EXPECT_LE(0, task);
		EXPECT_EQ(task, task_with(true, inner(shared->map[i].replica)));
		EXPECT_NE(shared->map[i].original,
			  inner(shared->map[i].original));
	}
	EXPECT_TRUE(originals_answer());
	EXPECT_TRUE(end_others());
}

TEST_HARNESS_MAIN
