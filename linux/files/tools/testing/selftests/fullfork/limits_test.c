// SPDX-License-Identifier: GPL-2.0
/*
 * Limits that are reached in the middle of a full fork: it fails as a whole,
 * leaves nothing behind, and works once there is room.
 */
#include "fullfork_selftest.h"

#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Threads of the process; each is once the first that finds no room. */
#define THREADS 8

/* An ID that no other process has, as RLIMIT_NPROC counts all of a user. */
#define LONELY_ID 54321

struct process {
	struct workers ws;
	pthread_t spinner[2];
	__u32 steps[2];
	__u32 spin_ends;
	struct census census;
	sigset_t sigchld;
};

static struct process process;

static void *spin(void *arg)
{
	__u32 *steps = arg;

	while (!load(&process.spin_ends))
		add(steps, 1);
	return NULL;
}

static void record_worker(struct worker *w, enum side side)
{
	if (side == SIDE_REPLICA)
		record(w->index, 0);
}

static int run_workers(void *unused)
{
	return run_replica_workers(&process.ws);
}

/* THREADS threads: the caller, two that spin, the rest at the gate. */
static void start_process(struct __test_metadata *_metadata)
{
	unsigned int i;

	sigemptyset(&process.sigchld);
	sigaddset(&process.sigchld, SIGCHLD);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &process.sigchld, NULL));
	start_workers(_metadata, &process.ws, THREADS - 3, NULL, record_worker);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&process.spinner[i], NULL, spin,
					    &process.steps[i]));
	process.census = take_census();
	ASSERT_EQ(THREADS, process.census.threads);
	ASSERT_EQ(0, process.census.children);
}

static void end_process(struct __test_metadata *_metadata)
{
	unsigned int i;

	store(&process.spin_ends, 1);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(process.spinner[i], NULL));
	join_workers(_metadata, &process.ws);
}

static void expect_progress(struct __test_metadata *_metadata)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		__u32 steps = load(&process.steps[i]);

		EXPECT_TRUE(wait_until(load(&process.steps[i]) != steps,
				       DEADLINE));
	}
	for (i = 0; i < process.ws.count; i++)
		EXPECT_TRUE(wait_blocked(process.ws.worker[i].tid, __NR_futex));
}

static void expect_failure(struct __test_metadata *_metadata, __u64 flags)
{
	int pidfd = -1, parent_tid = -1;
	struct timespec now = {};
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_PIDFD | CLONE_PARENT_SETTID |
			 flags,
		.pidfd = ptr_to_u64(&pidfd),
		.parent_tid = ptr_to_u64(&parent_tid),
		.exit_signal = SIGCHLD,
	};
	struct fullfork_tid_map map[THREADS] = {};
	unsigned int i;

	args.tid_map = ptr_to_u64(map);
	args.tid_map_size = THREADS;
	EXPECT_EQ(-EAGAIN, replica_main(sys_clone3(&args, sizeof(args)),
					run_workers, NULL));
	EXPECT_EQ(-1, pidfd);
	EXPECT_EQ(-1, parent_tid);
	for (i = 0; i < THREADS; i++)
		EXPECT_EQ(0, map[i].original | map[i].replica);
	EXPECT_EQ(-1, waitpid(-1, NULL, __WALL | WNOHANG));
	EXPECT_EQ(ECHILD, errno);
	EXPECT_EQ(-1, sigtimedwait(&process.sigchld, NULL, &now));
	EXPECT_EQ(0, report->recorded);
	expect_census(process.census);
	expect_progress(_metadata);
}

static void expect_success(struct __test_metadata *_metadata, __u64 flags)
{
	long pid = replica_main(full_fork(flags), run_workers, NULL);

	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	EXPECT_EQ(process.ws.count, report->recorded);
	EXPECT_EQ(SIGCHLD, sigwaitinfo(&process.sigchld, NULL));
	report->recorded = 0;
}

FIXTURE(rlimit_nproc)
{
	struct rlimit rlim;
};

FIXTURE_SETUP(rlimit_nproc)
{
	require_fullfork(_metadata);
	if (geteuid())
		SKIP(_exit(0), "RLIMIT_NPROC: needs root to become another user");
	ASSERT_EQ(0, setresgid(LONELY_ID, LONELY_ID, LONELY_ID));
	ASSERT_EQ(0, setresuid(LONELY_ID, LONELY_ID, LONELY_ID));
	/* Lets it read its own /proc files again. */
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
	start_process(_metadata);
	self->rlim.rlim_max = 2 * THREADS;
}

FIXTURE_TEARDOWN(rlimit_nproc)
{
	end_process(_metadata);
}

static void set_nproc(struct __test_metadata *_metadata, struct rlimit *rlim,
		      unsigned int free)
{
	rlim->rlim_cur = THREADS + free;
	ASSERT_EQ(0, setrlimit(RLIMIT_NPROC, rlim));
}

TEST_F_TIMEOUT(rlimit_nproc, leaves_nothing, 60)
{
	unsigned int k;

	for (k = 0; k < THREADS; k++) {
		set_nproc(_metadata, &self->rlim, k);
		expect_failure(_metadata, 0);
	}
	set_nproc(_metadata, &self->rlim, THREADS);
	expect_success(_metadata, 0);
}

static int fork_once(void *unused)
{
	return REPLICA_PASS;
}

/* What a failed call has charged is given back when it returns. */
TEST_F_TIMEOUT(rlimit_nproc, is_given_back_at_once, 60)
{
	unsigned int i;
	long pid;

	for (i = 0; i < 20; i++) {
		set_nproc(_metadata, &self->rlim, THREADS - 1);
		EXPECT_EQ(-EAGAIN, replica_main(full_fork(0), run_workers,
						NULL));
		set_nproc(_metadata, &self->rlim, 1);
		pid = replica_main(fork(), fork_once, NULL);
		ASSERT_LT(0, pid);
		expect_pass(_metadata, pid);
	}
}

/* A cgroup for the process, in a hierarchy mounted for this test alone. */
FIXTURE(pids_cgroup)
{
	char mount[32];
	char group[64];
	char path[96];
};

/* A namespace that is made for the replica has a reaper, which counts too. */
FIXTURE_VARIANT(pids_cgroup)
{
	__u64 flags;
	unsigned int needed;
};

FIXTURE_VARIANT_ADD(pids_cgroup, with_new_tids) {
	.needed = THREADS,
};

FIXTURE_VARIANT_ADD(pids_cgroup, with_kept_tids) {
	.flags = CLONE_KEEP_TIDS | CLONE_NEWPID,
	.needed = THREADS + 1,
};

static const char *in_group(const char *group, const char *file, char *path)
{
	snprintf(path, 96, "%s/%s", group, file);
	return path;
}

static long read_number(const char *path)
{
	char buf[32];

	return read_file(path, buf, sizeof(buf)) > 0 ? atol(buf) : -1;
}

FIXTURE_SETUP(pids_cgroup)
{
	require_fullfork(_metadata);
	if (geteuid())
		SKIP(_exit(0), "pids cgroup: needs root");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(self->mount, sizeof(self->mount), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->mount));
	ASSERT_EQ(0, mount("none", self->mount, "cgroup2", 0, NULL))
	{
		TH_LOG("mount cgroup2: %s", strerror(errno));
	}
	ASSERT_EQ(0, write_file(in_group(self->mount, "cgroup.subtree_control",
					 self->path), "+pids"));
	snprintf(self->group, sizeof(self->group), "%s/fullfork.%d",
		 self->mount, getpid());
	ASSERT_EQ(0, mkdir(self->group, 0755));
	ASSERT_EQ(0, write_file(in_group(self->group, "cgroup.procs",
					 self->path), "0"));
	start_process(_metadata);
}

FIXTURE_TEARDOWN(pids_cgroup)
{
	end_process(_metadata);
	EXPECT_EQ(0, write_file(in_group(self->mount, "cgroup.procs",
					 self->path), "0"));
	/* Dead tasks leave a cgroup some time after they were reaped. */
	EXPECT_TRUE(wait_until(!rmdir(self->group), DEADLINE));
	EXPECT_EQ(0, umount2(self->mount, MNT_DETACH));
	EXPECT_EQ(0, rmdir(self->mount));
}

static long pids_current(const char *group)
{
	char path[96];

	return read_number(in_group(group, "pids.current", path));
}

TEST_F_TIMEOUT(pids_cgroup, leaves_nothing, 60)
{
	unsigned int k;
	char max[16];

	ASSERT_EQ(THREADS, pids_current(self->group));
	in_group(self->group, "pids.max", self->path);
	for (k = 0; k < variant->needed; k++) {
		snprintf(max, sizeof(max), "%u", THREADS + k);
		ASSERT_EQ(0, write_file(self->path, max));
		expect_failure(_metadata, variant->flags);
		EXPECT_EQ(THREADS, pids_current(self->group));
	}
	snprintf(max, sizeof(max), "%u", THREADS + variant->needed);
	ASSERT_EQ(0, write_file(self->path, max));
	expect_success(_metadata, variant->flags);
	EXPECT_TRUE(wait_until(pids_current(self->group) == THREADS, DEADLINE));
}

static int stay(void *unused)
{
	add(&report->word[0], 1);
	return wait_until(load(&report->word[1]), DEADLINE) ?
		REPLICA_PASS : REPLICA_TIMEOUT;
}

TEST_F(pids_cgroup, counts_every_replica)
{
	long pid = replica_main(full_fork(variant->flags), stay, NULL);

	ASSERT_LT(0, pid);
	EXPECT_EQ(THREADS + variant->needed, pids_current(self->group));
	store(&report->word[1], 1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(wait_until(pids_current(self->group) == THREADS, DEADLINE));
}

TEST_HARNESS_MAIN
