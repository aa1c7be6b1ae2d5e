// SPDX-License-Identifier: GPL-2.0
/*
 * The arguments of clone3() that a full fork takes and refuses.  Every test
 * that expects a refusal makes the same call without the cause as well.
 */
#include "fullfork_selftest.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND	(1ULL << 32)
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP	(1ULL << 33)
#endif
#ifndef CLONE_EMPTY_MNTNS
#define CLONE_EMPTY_MNTNS	(1ULL << 37)
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME		0x00000080
#endif

/* One byte more than the kernel may know, whatever it knows by then. */
struct oversize_args {
	struct fullfork_args args;
	__u8 tail[64];
};

static int pass(void *unused)
{
	return REPLICA_PASS;
}

/* The call, whose replica only ends; a replica that is a child is reaped. */
static long try_clone3(struct __test_metadata *_metadata,
		       struct fullfork_args *args, size_t size)
{
	long pid = replica_main(sys_clone3(args, size), pass, NULL);

	if (pid > 0 && !(args->flags & (CLONE_PARENT | CLONE_AUTOREAP)))
		expect_pass(_metadata, pid);
	if (pid > 0 && args->flags & CLONE_AUTOREAP)
		EXPECT_TRUE(wait_until(kill(pid, 0) < 0, DEADLINE));
	return pid;
}

#define expect_accepted(args, size)					\
	EXPECT_LT(0, try_clone3(_metadata, args, size))

#define expect_refused(error, args, size)				\
	EXPECT_EQ(-(error), try_clone3(_metadata, args, size))

FIXTURE(args)
{
	struct oversize_args over;
	struct fullfork_args *args;
};

FIXTURE_SETUP(args)
{
	require_fullfork(_metadata);
	self->args = &self->over.args;
	self->args->flags = CLONE_ALL_THREADS;
	self->args->exit_signal = SIGCHLD;
}

FIXTURE_TEARDOWN(args)
{
}

TEST_F_LONG(args, accepts_every_published_size)
{
	expect_accepted(self->args, FULLFORK_ARGS_SIZE_VER0);
	expect_accepted(self->args, FULLFORK_ARGS_SIZE_VER1);
	expect_accepted(self->args, FULLFORK_ARGS_SIZE_VER2);
	expect_accepted(self->args, FULLFORK_ARGS_SIZE_VER3);
}

TEST_F_LONG(args, rejects_sizes_below_the_first)
{
	expect_refused(EINVAL, self->args, 0);
	expect_refused(EINVAL, self->args, FULLFORK_ARGS_SIZE_VER0 - 1);
	expect_accepted(self->args, FULLFORK_ARGS_SIZE_VER0);
}

TEST_F_LONG(args, rejects_sizes_above_a_page)
{
	expect_refused(E2BIG, self->args, sysconf(_SC_PAGESIZE) + 1);
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_fields_of_the_future)
{
	self->over.tail[sizeof(self->over.tail) - 1] = 1;
	expect_refused(E2BIG, self->args, sizeof(self->over));

	self->over.tail[sizeof(self->over.tail) - 1] = 0;
	expect_accepted(self->args, sizeof(self->over));
}

TEST_F_LONG(args, rejects_bad_address)
{
	expect_refused(EFAULT, (struct fullfork_args *)NULL,
		       sizeof(*self->args));
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_unknown_flags)
{
	static const int known[] = { 56, 57, 58, 59, 60, 61, 62 };
	unsigned int bit, i;

	for (bit = 38; bit < 64; bit++) {
		for (i = 0; i < ARRAY_SIZE(known); i++)
			if (bit == known[i])
				break;
		if (i < ARRAY_SIZE(known))
			continue;
		self->args->flags = CLONE_ALL_THREADS | 1ULL << bit;
		expect_refused(EINVAL, self->args, sizeof(*self->args))
		{
			TH_LOG("bit %u", bit);
		}
	}

	self->args->flags = CLONE_ALL_THREADS;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_exit_signal_in_flags)
{
	self->args->exit_signal = 0;
	self->args->flags |= SIGCHLD;
	expect_refused(EINVAL, self->args, sizeof(*self->args));

	self->args->flags &= ~SIGCHLD;
	self->args->exit_signal = SIGCHLD;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_invalid_exit_signal)
{
	self->args->exit_signal = _NSIG;
	expect_refused(EINVAL, self->args, sizeof(*self->args));
	self->args->exit_signal = ~0ULL;
	expect_refused(EINVAL, self->args, sizeof(*self->args));

	/* The last signal ends the test unless it is ignored. */
	ASSERT_NE(SIG_ERR, signal(SIGRTMAX, SIG_IGN));
	self->args->exit_signal = _NSIG - 1;
	expect_accepted(self->args, sizeof(*self->args));
	self->args->exit_signal = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_exit_signal_with_parent)
{
	self->args->flags |= CLONE_PARENT;
	expect_refused(EINVAL, self->args, sizeof(*self->args));

	self->args->exit_signal = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_exit_signal_with_autoreap)
{
	self->args->flags |= CLONE_AUTOREAP;
	expect_refused(EINVAL, self->args, sizeof(*self->args));

	self->args->exit_signal = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_parent_with_autoreap)
{
	self->args->exit_signal = 0;
	self->args->flags |= CLONE_PARENT | CLONE_AUTOREAP;
	expect_refused(EINVAL, self->args, sizeof(*self->args));

	self->args->flags &= ~CLONE_PARENT;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_pidfd_and_parent_tid_at_one_address)
{
	int word[2] = { -1, -1 };

	self->args->flags |= CLONE_PIDFD | CLONE_PARENT_SETTID;
	self->args->pidfd = ptr_to_u64(&word[0]);
	self->args->parent_tid = ptr_to_u64(&word[0]);
	expect_refused(EINVAL, self->args, sizeof(*self->args));
	EXPECT_EQ(-1, word[0]);

	self->args->parent_tid = ptr_to_u64(&word[1]);
	expect_accepted(self->args, sizeof(*self->args));
	EXPECT_EQ(0, close(word[0]));
}

TEST_F_LONG(args, rejects_source_pidfd_without_its_flag)
{
	self->args->source_pidfd = sys_pidfd_open(getpid());
	ASSERT_LT(0, (int)self->args->source_pidfd);
	expect_refused(EINVAL, self->args, sizeof(*self->args));

	self->args->source_pidfd = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

/* The kernel keeps half of the field. */
TEST_F_LONG(args, rejects_every_bit_of_cgroup_without_its_flag)
{
	int bit;

	for (bit = 0; bit < 64; bit++) {
		self->args->cgroup = 1ULL << bit;
		expect_refused(EINVAL, self->args, sizeof(*self->args));
	}
	self->args->cgroup = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_tid_map_without_all_threads)
{
	struct fullfork_tid_map map[2] = {};

	self->args->flags = 0;
	self->args->tid_map = ptr_to_u64(map);
	self->args->tid_map_size = ARRAY_SIZE(map);
	expect_refused(EINVAL, self->args, sizeof(*self->args));
	EXPECT_EQ(0, map[0].original);

	self->args->flags = CLONE_ALL_THREADS;
	expect_accepted(self->args, sizeof(*self->args));
	EXPECT_EQ(getpid(), map[0].original);

	/* Nor is a plain fork with the larger struct refused. */
	self->args->flags = 0;
	self->args->tid_map = 0;
	self->args->tid_map_size = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_tid_map_size_without_all_threads)
{
	self->args->flags = 0;
	self->args->tid_map_size = 1;
	expect_refused(EINVAL, self->args, sizeof(*self->args));

	self->args->tid_map_size = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, rejects_tid_map_size_without_address)
{
	self->args->tid_map_size = 1;
	expect_refused(EFAULT, self->args, sizeof(*self->args));

	self->args->tid_map_size = 0;
	expect_accepted(self->args, sizeof(*self->args));
}

TEST_F_LONG(args, changes_nothing_when_it_fails)
{
	struct fullfork_tid_map map[3] = {
		{ 11, 12 }, { 13, 14 }, { 15, 16 },
	};
	struct census before;
	struct workers ws;
	int pidfd = -1;
	pid_t tid = -2;

	start_workers(_metadata, &ws, 2, NULL, NULL);
	self->args->flags |= CLONE_PIDFD | CLONE_PARENT_SETTID;
	self->args->pidfd = ptr_to_u64(&pidfd);
	self->args->parent_tid = ptr_to_u64(&tid);
	self->args->tid_map = ptr_to_u64(map);
	self->args->tid_map_size = 2;
	before = take_census();

	expect_refused(E2BIG, self->args, sizeof(*self->args));
	EXPECT_EQ(-1, pidfd);
	EXPECT_EQ(-2, tid);
	EXPECT_EQ(11, map[0].original);
	EXPECT_EQ(12, map[0].replica);
	EXPECT_EQ(13, map[1].original);
	EXPECT_EQ(14, map[1].replica);
	expect_census(before);

	self->args->tid_map_size = 3;
	expect_accepted(self->args, sizeof(*self->args));
	EXPECT_LE(0, pidfd);
	EXPECT_LT(0, tid);
	EXPECT_EQ(tid, map[0].replica);
	EXPECT_EQ(0, close(pidfd));
	join_workers(_metadata, &ws);
}

/*
 * Flags that ask for sharing or for a difference, each beside
 * CLONE_ALL_THREADS.
 */
FIXTURE(beside_all_threads)
{
	struct fullfork_args args;
	__u32 child_tid;
	char *stack;
};

FIXTURE_VARIANT(beside_all_threads)
{
	__u64 flags;
	bool stack;
	bool set_tid;
	bool tls;
	bool no_exit_signal;
};

FIXTURE_VARIANT_ADD(beside_all_threads, child_cleartid) { .flags = CLONE_CHILD_CLEARTID };
FIXTURE_VARIANT_ADD(beside_all_threads, child_settid) { .flags = CLONE_CHILD_SETTID };
FIXTURE_VARIANT_ADD(beside_all_threads, clear_sighand) { .flags = CLONE_CLEAR_SIGHAND };
FIXTURE_VARIANT_ADD(beside_all_threads, empty_mntns) { .flags = CLONE_EMPTY_MNTNS };
FIXTURE_VARIANT_ADD(beside_all_threads, files) { .flags = CLONE_FILES };
FIXTURE_VARIANT_ADD(beside_all_threads, fs) { .flags = CLONE_FS };
FIXTURE_VARIANT_ADD(beside_all_threads, into_cgroup) { .flags = CLONE_INTO_CGROUP };
FIXTURE_VARIANT_ADD(beside_all_threads, io) { .flags = CLONE_IO };
FIXTURE_VARIANT_ADD(beside_all_threads, newcgroup) { .flags = CLONE_NEWCGROUP };
FIXTURE_VARIANT_ADD(beside_all_threads, newipc) { .flags = CLONE_NEWIPC };
FIXTURE_VARIANT_ADD(beside_all_threads, newnet) { .flags = CLONE_NEWNET };
FIXTURE_VARIANT_ADD(beside_all_threads, newns) { .flags = CLONE_NEWNS };
FIXTURE_VARIANT_ADD(beside_all_threads, newpid) { .flags = CLONE_NEWPID };
FIXTURE_VARIANT_ADD(beside_all_threads, newtime) { .flags = CLONE_NEWTIME };
FIXTURE_VARIANT_ADD(beside_all_threads, newuser) { .flags = CLONE_NEWUSER };
FIXTURE_VARIANT_ADD(beside_all_threads, newuts) { .flags = CLONE_NEWUTS };
FIXTURE_VARIANT_ADD(beside_all_threads, ptrace) { .flags = CLONE_PTRACE };
FIXTURE_VARIANT_ADD(beside_all_threads, set_tid) { .set_tid = true };
FIXTURE_VARIANT_ADD(beside_all_threads, settls) { .flags = CLONE_SETTLS };
FIXTURE_VARIANT_ADD(beside_all_threads, sighand) { .flags = CLONE_SIGHAND | CLONE_VM };
FIXTURE_VARIANT_ADD(beside_all_threads, stack) { .stack = true };
FIXTURE_VARIANT_ADD(beside_all_threads, sysvsem) { .flags = CLONE_SYSVSEM };
FIXTURE_VARIANT_ADD(beside_all_threads, thread) {
	.flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM,
	.no_exit_signal = true,
};
FIXTURE_VARIANT_ADD(beside_all_threads, tls) { .tls = true };
FIXTURE_VARIANT_ADD(beside_all_threads, untraced) { .flags = CLONE_UNTRACED };
FIXTURE_VARIANT_ADD(beside_all_threads, vfork) { .flags = CLONE_VFORK };
FIXTURE_VARIANT_ADD(beside_all_threads, vm) { .flags = CLONE_VM };

FIXTURE_SETUP(beside_all_threads)
{
	require_fullfork(_metadata);
	self->args.flags = CLONE_ALL_THREADS;
	self->args.exit_signal = variant->no_exit_signal ? 0 : SIGCHLD;
	self->stack = malloc(65536);
	ASSERT_NE(NULL, self->stack);
}

FIXTURE_TEARDOWN(beside_all_threads)
{
	free(self->stack);
}

TEST_F_LONG(beside_all_threads, rejects_flag)
{
	struct fullfork_args control = self->args;
	pid_t set_tid = 0;
	int cgroup = -1;

	self->args.flags |= variant->flags;
	if (variant->flags & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID))
		self->args.child_tid = ptr_to_u64(&self->child_tid);
	if (variant->flags & CLONE_INTO_CGROUP) {
		/* No cgroup: the flags must be looked at first. */
		cgroup = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ASSERT_LE(0, cgroup);
		self->args.cgroup = cgroup;
	}
	if (variant->flags & CLONE_SETTLS || variant->tls)
		self->args.tls = ptr_to_u64(self->stack);
	if (variant->stack) {
		self->args.stack = ptr_to_u64(self->stack);
		self->args.stack_size = 65536;
	}
	if (variant->set_tid) {
		/* A TID that is free: that of a child that has been reaped. */
		set_tid = fork();
		ASSERT_LE(0, set_tid);
		if (!set_tid)
			_exit(REPLICA_PASS);
		expect_pass(_metadata, set_tid);
		self->args.set_tid = ptr_to_u64(&set_tid);
		self->args.set_tid_size = 1;
	}

	expect_refused(EINVAL, &self->args, sizeof(self->args));
	EXPECT_EQ(-1, waitpid(-1, NULL, __WALL));
	EXPECT_EQ(ECHILD, errno);
	expect_accepted(&control, sizeof(control));
	if (cgroup >= 0)
		EXPECT_EQ(0, close(cgroup));
}

static void expect_flags_refused(struct __test_metadata *_metadata, __u64 flags)
{
	struct fullfork_args args = {
		.flags = flags,
		.exit_signal = SIGCHLD,
	};

	if (flags & CLONE_FROM_PIDFD) {
		args.source_pidfd = sys_pidfd_open(getpid());
		ASSERT_LT(0, (int)args.source_pidfd);
	}
	expect_refused(EINVAL, &args, sizeof(args));

	args.flags = CLONE_ALL_THREADS;
	args.source_pidfd = 0;
	expect_accepted(&args, sizeof(args));
}

/* Flags that say how to copy all threads, but do not say to. */
FIXTURE(alone)
{
};

FIXTURE_VARIANT(alone)
{
	__u64 flag;
};

FIXTURE_VARIANT_ADD(alone, from_pidfd) { .flag = CLONE_FROM_PIDFD };
FIXTURE_VARIANT_ADD(alone, isolate) { .flag = CLONE_ISOLATE };
FIXTURE_VARIANT_ADD(alone, keep_tids) { .flag = CLONE_KEEP_TIDS };
FIXTURE_VARIANT_ADD(alone, stopped) { .flag = CLONE_STOPPED };

FIXTURE_SETUP(alone)
{
	require_fullfork(_metadata);
}

FIXTURE_TEARDOWN(alone)
{
}

TEST_F_LONG(alone, rejects_flag)
{
	expect_flags_refused(_metadata, variant->flag);
}

TEST_HARNESS_MAIN
