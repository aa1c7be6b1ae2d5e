// SPDX-License-Identifier: GPL-2.0
/*
 * Limits that are reached in the middle of a full fork: it fails as a whole,
 * leaves nothing behind, and works once there is room.
 */
#include "fullfork_cgroup.h"

#include <sys/prctl.h>
#include <sys/resource.h>

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

/* THREADS threads: the caller, two that spin, the rest at the gate. */
static void start_original(struct __test_metadata *_metadata)
{
	unsigned int i;

	process.sigchld = block_signal(_metadata, SIGCHLD);
	start_workers(_metadata, &process.ws, THREADS - 3, NULL, record_worker);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&process.spinner[i], NULL, spin,
					    &process.steps[i]));
	process.census = take_census();
	ASSERT_EQ(THREADS, process.census.threads);
	ASSERT_EQ(0, process.census.children);
}

static void end_original(struct __test_metadata *_metadata)
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
					run_replica_workers, &process.ws));
	EXPECT_EQ(-1, pidfd);
	EXPECT_EQ(-1, parent_tid);
	for (i = 0; i < THREADS; i++)
		EXPECT_EQ(0, map[i].original | map[i].replica);
	expect_nothing_left(_metadata, process.census, &process.sigchld);
	expect_progress(_metadata);
}

static void expect_success(struct __test_metadata *_metadata, __u64 flags)
{
	fork_and_pass(_metadata, flags, run_replica_workers, &process.ws);
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
	require_root(_metadata, "becoming another user");
	ASSERT_EQ(0, setresgid(LONELY_ID, LONELY_ID, LONELY_ID));
	ASSERT_EQ(0, setresuid(LONELY_ID, LONELY_ID, LONELY_ID));
	/* Lets it read its own /proc files again. */
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
	start_original(_metadata);
	self->rlim.rlim_max = 2 * THREADS;
}

FIXTURE_TEARDOWN(rlimit_nproc)
{
	end_original(_metadata);
}

static void set_nproc(struct __test_metadata *_metadata, struct rlimit *rlim,
		      unsigned int free)
{
	rlim->rlim_cur = THREADS + free;
	ASSERT_EQ(0, setrlimit(RLIMIT_NPROC, rlim));
}

TEST_F_LONG(rlimit_nproc, leaves_nothing)
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
TEST_F_LONG(rlimit_nproc, is_given_back_at_once)
{
	struct rounds rounds = { .least = 5, .most = 20 };
	long pid;

	while (next_round(&rounds)) {
		set_nproc(_metadata, &self->rlim, THREADS - 1);
		EXPECT_EQ(-EAGAIN, replica_main(full_fork(0),
						run_replica_workers,
						&process.ws));
		set_nproc(_metadata, &self->rlim, 1);
		pid = replica_main(fork(), fork_once, NULL);
		ASSERT_LT(0, pid);
		expect_pass(_metadata, pid);
	}
}

/* A cgroup for the process, in a hierarchy mounted for this test alone. */
FIXTURE(pids_cgroup)
{
	struct cgroup group;
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

FIXTURE_SETUP(pids_cgroup)
{
	require_fullfork(_metadata);
	mount_cgroup(_metadata, &self->group, "cgroup2", NULL);
	ASSERT_EQ(0, write_cgroup(&self->group, "/..", "cgroup.subtree_control",
				  "+pids"));
	ASSERT_EQ(0, write_cgroup(&self->group, "", "cgroup.procs", "0"));
	start_original(_metadata);
}

FIXTURE_TEARDOWN(pids_cgroup)
{
	end_original(_metadata);
	EXPECT_EQ(0, leave_cgroup(&self->group));
	umount_cgroup(_metadata, &self->group);
}

static long pids_current(const struct cgroup *group)
{
	char buf[32];

	return read_cgroup(group, "", "pids.current", buf,
			   sizeof(buf)) > 0 ? atol(buf) : -1;
}

static void set_pids_max(struct __test_metadata *_metadata,
			 const struct cgroup *group, unsigned int free)
{
	ASSERT_EQ(0, write_cgroup_number(group, "", "pids.max",
					 THREADS + free));
}

TEST_F_LONG(pids_cgroup, leaves_nothing)
{
	unsigned int k;

	ASSERT_EQ(THREADS, pids_current(&self->group));
	for (k = 0; k < variant->needed; k++) {
		set_pids_max(_metadata, &self->group, k);
		expect_failure(_metadata, variant->flags);
		EXPECT_EQ(THREADS, pids_current(&self->group));
	}
	set_pids_max(_metadata, &self->group, variant->needed);
	expect_success(_metadata, variant->flags);
	EXPECT_TRUE(wait_until(pids_current(&self->group) == THREADS, DEADLINE));
}

TEST_F_LONG(pids_cgroup, counts_every_replica)
{
	long pid = replica_main(full_fork(variant->flags),
				wait_then_run_workers, &process.ws);

	ASSERT_LT(0, pid);
	EXPECT_EQ(THREADS + variant->needed, pids_current(&self->group));
	store(&report->may_go_on, 1);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(wait_until(pids_current(&self->group) == THREADS, DEADLINE));
}

TEST_HARNESS_MAIN
