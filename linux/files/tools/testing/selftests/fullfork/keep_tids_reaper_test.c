// SPDX-License-Identifier: GPL-2.0
/*
 * The PID namespace that CLONE_KEEP_TIDS with CLONE_NEWPID makes: its init is
 * the member that had TID 1, or else a reaper of the kernel's, and it ends
 * with its last process.
 */
#include "fullfork_pidns.h"

#include <sys/mount.h>
#include <sys/resource.h>

/* Words of the report */
enum {
	NEW_PARENT,
	KILLED,
};

/* A replica of a process of 3 threads that has no TID 1, and its namespace. */
FIXTURE(reaper)
{
	struct workers ws;
	char ns[NS_LINK_SIZE];
	pid_t replica;
	pid_t pid;
};

FIXTURE_SETUP(reaper)
{
	require_fullfork(_metadata);
	require_root(_metadata, "PID namespaces");
	start_workers(_metadata, &self->ws, 2, NULL, record_worker);
}

FIXTURE_TEARDOWN(reaper)
{
	join_workers(_metadata, &self->ws);
}

/* Two processes: the replica, which runs @fn, and the reaper. */
#define start_replica(fn)						\
do {									\
	self->replica = replica_main(full_fork(CLONE_KEEP_TIDS |	\
					       CLONE_NEWPID), fn,	\
				     &self->ws);			\
	ASSERT_LT(0, self->replica)					\
	{								\
		TH_LOG("%s", strerror(-self->replica));			\
	}								\
	ASSERT_TRUE(wait_until(load(&report->is_there), DEADLINE));	\
	ASSERT_TRUE(pid_ns_of(self->replica, self->ns));		\
	ASSERT_EQ(2, count_in_pid_ns(self->ns, &self->pid));		\
	ASSERT_LT(0, self->pid);					\
	ASSERT_NE(self->replica, self->pid);				\
} while (0)

static void end_replica(struct __test_metadata *_metadata, pid_t replica,
			const char *ns)
{
	store(&report->may_go_on, 1);
	expect_pass(_metadata, replica);
	EXPECT_TRUE(wait_until(!count_in_pid_ns(ns, NULL), DEADLINE));
}

TEST_F_LONG(reaper, runs_no_user_code)
{
	char path[64], buf[256];

	start_replica(wait_then_run_workers);
	EXPECT_EQ(1, inner_tid(self->pid, self->pid));
	EXPECT_EQ(1, count_threads(self->pid));
	EXPECT_EQ(-1, status_number(self->pid, "VmSize"));
	snprintf(path, sizeof(path), "/proc/%d/exe", self->pid);
	EXPECT_EQ(-1, readlink(path, buf, sizeof(buf)));
	EXPECT_EQ(ENOENT, errno);
	snprintf(path, sizeof(path), "/proc/%d/cmdline", self->pid);
	EXPECT_EQ(0, read_file(path, buf, sizeof(buf)));
	snprintf(path, sizeof(path), "/proc/%d/maps", self->pid);
	EXPECT_EQ(0, read_file(path, buf, sizeof(buf)));
	end_replica(_metadata, self->replica, self->ns);
}

TEST_F_LONG(reaper, is_no_child_of_the_caller)
{
	start_replica(wait_then_run_workers);
	EXPECT_EQ(1, count_children());
	end_replica(_metadata, self->replica, self->ns);
	EXPECT_EQ(-1, waitpid(-1, NULL, __WALL));
	EXPECT_EQ(ECHILD, errno);
}

TEST_F_LONG(reaper, holds_no_file)
{
	char path[64];

	start_replica(wait_then_run_workers);
	snprintf(path, sizeof(path), "/proc/%d/fd", self->pid);
	EXPECT_EQ(0, count_entries(path));
	end_replica(_metadata, self->replica, self->ns);
}

TEST_F_LONG(reaper, ends_with_the_last_process)
{
	start_replica(wait_then_run_workers);
	EXPECT_EQ(2, count_in_pid_ns(self->ns, NULL));
	store(&report->may_go_on, 1);
	expect_pass(_metadata, self->replica);
	EXPECT_TRUE(wait_until(kill(self->pid, 0) < 0 && errno == ESRCH,
			       DEADLINE))
	{
		dump_process(self->pid);
	}
	EXPECT_EQ(0, count_in_pid_ns(self->ns, NULL));
	EXPECT_EQ(2, report->recorded);
}

static int leave_orphan(void *ws)
{
	int status;
	pid_t pid;

	pid = fork();
	replica_assert(pid >= 0);
	if (!pid) {
		pid = fork();
		replica_assert(pid >= 0);
		if (pid)
			replica_exit(REPLICA_PASS);
		replica_assert(wait_until(getppid() == 1, DEADLINE));
		store(&report->word[NEW_PARENT], getppid());
		replica_assert(wait_until(load(&report->may_go_on), DEADLINE));
		replica_exit(REPLICA_PASS);
	}
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert(WIFEXITED(status));
	replica_assert_eq(REPLICA_PASS, WEXITSTATUS(status));
	store(&report->is_there, 1);
	replica_assert(wait_until(load(&report->may_go_on) == 2, 2 * DEADLINE));
	return run_replica_workers(ws);
}

TEST_F_LONG(reaper, adopts_and_reaps_orphans)
{
	self->replica = replica_main(full_fork(CLONE_KEEP_TIDS | CLONE_NEWPID),
				     leave_orphan, &self->ws);
	ASSERT_LT(0, self->replica);
	EXPECT_TRUE(wait_until(load(&report->word[NEW_PARENT]) &&
			       load(&report->is_there), DEADLINE));
	EXPECT_EQ(1, report->word[NEW_PARENT]);
	ASSERT_TRUE(pid_ns_of(self->replica, self->ns));
	EXPECT_EQ(3, count_in_pid_ns(self->ns, NULL));

	/* The orphan ends and is gone, as zombies would be counted. */
	store(&report->may_go_on, 1);
	EXPECT_TRUE(wait_until(count_in_pid_ns(self->ns, NULL) == 2,
			       DEADLINE));
	store(&report->may_go_on, 2);
	expect_pass(_metadata, self->replica);
	EXPECT_TRUE(wait_until(!count_in_pid_ns(self->ns, NULL), DEADLINE));
}

static int outlive_root(void *unused)
{
	pid_t pid = fork();

	replica_assert(pid >= 0);
	if (pid) {
		store(&report->is_there, 1);
		return REPLICA_PASS;
	}
	replica_assert(wait_until(getppid() == 1, DEADLINE));
	store(&report->word[NEW_PARENT], 1);
	replica_assert(wait_until(load(&report->may_go_on), DEADLINE));
	replica_exit(REPLICA_PASS);
}

TEST_F_LONG(reaper, stays_while_a_descendant_lives)
{
	char ns[NS_LINK_SIZE];
	long pid;

	/* Stopped, so that the namespace can be looked at in time. */
	pid = replica_main(full_fork(CLONE_KEEP_TIDS | CLONE_NEWPID |
				     CLONE_STOPPED), outlive_root, NULL);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(pid_ns_of(pid, ns));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
	EXPECT_TRUE(wait_until(load(&report->word[NEW_PARENT]), DEADLINE));
	EXPECT_EQ(2, count_in_pid_ns(ns, NULL));
	store(&report->may_go_on, 1);
	EXPECT_TRUE(wait_until(!count_in_pid_ns(ns, NULL), DEADLINE));
}

static int kill_init(void *ws)
{
	static const int signals[] = {
		SIGTERM, SIGINT, SIGHUP, SIGSEGV, SIGSTOP, SIGKILL,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(signals); i++)
		replica_assert_eq(0, kill(1, signals[i]));
	store(&report->word[KILLED], 1);
	return wait_then_run_workers(ws);
}

TEST_F_LONG(reaper, cannot_be_killed_from_inside)
{
	start_replica(kill_init);
	EXPECT_EQ(1, report->word[KILLED]);
	EXPECT_EQ(0, kill(self->pid, 0));
	EXPECT_EQ(NULL, strchr("TXZ", task_state(self->pid, self->pid)));
	end_replica(_metadata, self->replica, self->ns);
}

TEST_F_LONG(reaper, ends_the_namespace_when_killed_from_outside)
{
	int status;

	start_replica(wait_then_run_workers);
	ASSERT_EQ(0, kill(self->pid, SIGKILL));
	status = xwaitpid(_metadata, self->replica, DEADLINE);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGKILL, WTERMSIG(status));
	EXPECT_TRUE(wait_until(!count_in_pid_ns(self->ns, NULL), DEADLINE));
	EXPECT_EQ(0, report->recorded);
}

TEST_F_LONG(reaper, goes_with_a_replica_that_is_killed)
{
	int status;

	start_replica(wait_then_run_workers);
	ASSERT_EQ(0, kill(self->replica, SIGKILL));
	status = xwaitpid(_metadata, self->replica, DEADLINE);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_TRUE(wait_until(!count_in_pid_ns(self->ns, NULL), DEADLINE));
}

/* Processes that are PID 1 somewhere below. */
static int count_inits(void)
{
	DIR *dir = opendir("/proc");
	int count = 0;
	pid_t pid;

	if (!dir)
		return -1;
	while ((pid = next_id(dir)))
		count += pid > 1 && inner_tid(pid, pid) == 1;
	closedir(dir);
	return count;
}

TEST_F_LONG(reaper, is_not_left_by_a_call_that_fails)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_KEEP_TIDS | CLONE_NEWPID |
			 CLONE_PIDFD,
		.exit_signal = SIGCHLD,
	};
	struct rounds rounds = { .least = 5, .most = 20 };
	int before = count_inits(), pidfd = -1;
	struct rlimit limit, none;
	long ret;

	/* The pidfd is what is made last: the reaper is there by then. */
	args.pidfd = ptr_to_u64(&pidfd);
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = 0;
	while (next_round(&rounds)) {
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
		ret = replica_main(sys_clone3(&args, sizeof(args)),
				   wait_then_run_workers, &self->ws);
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
		EXPECT_EQ(-EMFILE, ret);
		EXPECT_EQ(before, count_inits());
	}
	EXPECT_EQ(-1, pidfd);
	start_replica(wait_then_run_workers);
	end_replica(_metadata, self->replica, self->ns);
}

/*
 * A process that is the init of its PID namespace, with a /proc of its own:
 * its replica is the init of the new one.
 */
FIXTURE(init)
{
	struct workers ws;
};

FIXTURE_SETUP(init)
{
	require_fullfork(_metadata);
	require_root(_metadata, "PID namespaces");
}

FIXTURE_TEARDOWN(init)
{
}

static int be_init(struct __test_metadata *_metadata, struct workers *ws)
{
	char ns[NS_LINK_SIZE];
	pid_t init = 0;
	long pid;

	ASSERT_EQ(1, getpid());
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("none", "/proc", "proc", 0, NULL));
	start_workers(_metadata, ws, 2, NULL, record_worker);

	pid = replica_main(full_fork(CLONE_KEEP_TIDS | CLONE_NEWPID),
			   wait_then_run_workers, ws);
	ASSERT_LT(1, pid);
	EXPECT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	EXPECT_TRUE(pid_ns_of(pid, ns));
	EXPECT_EQ(1, inner_tid(pid, pid));
	EXPECT_EQ(1, count_in_pid_ns(ns, &init));
	EXPECT_EQ(pid, init);
	store(&report->may_go_on, 1);
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, count_in_pid_ns(ns, NULL));
	EXPECT_EQ(1, report->slot[0].pid);
	EXPECT_EQ(ws->worker[0].tid, report->slot[0].tid);
	join_workers(_metadata, ws);
	return REPLICA_PASS;
}

TEST_F_LONG(init, has_a_replica_that_is_init)
{
	struct fullfork_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS,
		.exit_signal = SIGCHLD,
	};
	long pid = sys_clone3(&args, sizeof(args));

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(be_init(_metadata, &self->ws));
	expect_pass(_metadata, pid);
}

TEST_HARNESS_MAIN
