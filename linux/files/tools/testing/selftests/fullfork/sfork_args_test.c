// SPDX-License-Identifier: GPL-2.0
/*
 * The arguments of clone3() that CLONE_SFORK takes and refuses.  Every test that
 * expects a refusal makes the same call without the cause as well.
 */
#include "fullfork_sfork.h"

#include <sys/resource.h>

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

/* The thread goes and comes back: the PID, or -errno. */
static long try_sfork(struct fullfork_args *args, size_t size)
{
	pid_t parent = raw_getpid();
	long ret = sys_clone3(args, size);

	/* Whoever returned: a call that was taken for another one made a copy. */
	if (ret || raw_getpid() == parent)
		return ret;
	return sfork_exit(REPLICA_PASS);
}

static void expect_taken(struct __test_metadata *_metadata, struct fullfork_args *args,
			 size_t size)
{
	long pid = try_sfork(args, size);

	ASSERT_LT(0, pid)
	{
		TH_LOG("flags 0x%llx: %s", (unsigned long long)args->flags, strerror(-pid));
	}
	expect_exited(REPLICA_PASS, pid);
}

#define expect_refused(error, args)					\
do {									\
	struct census __before = take_census();				\
									\
	EXPECT_EQ(-(error), try_sfork(args, sizeof(*(args))))		\
	{								\
		TH_LOG("flags 0x%llx",					\
		       (unsigned long long)(args)->flags);		\
	}								\
	expect_census(__before);					\
} while (0)

FIXTURE(args)
{
	struct fullfork_args args;
};

FIXTURE_SETUP(args)
{
	require_fullfork(_metadata);
	self->args = (struct fullfork_args){
		.flags = SFORK_FLAGS,
		.exit_signal = SIGCHLD,
	};
	expect_taken(_metadata, &self->args, sizeof(self->args));
}

FIXTURE_TEARDOWN(args)
{
}

TEST_F_LONG(args, older_sizes_are_enough)
{
	expect_taken(_metadata, &self->args, FULLFORK_ARGS_SIZE_VER0);
	expect_taken(_metadata, &self->args, FULLFORK_ARGS_SIZE_VER1);
	expect_taken(_metadata, &self->args, FULLFORK_ARGS_SIZE_VER2);
}

TEST_F_LONG(args, needs_vm_and_vfork)
{
	static const __u64 flags[] = {
		CLONE_SFORK,
		CLONE_SFORK | CLONE_VM,
		CLONE_SFORK | CLONE_VFORK,
		CLONE_SFORK | CLONE_FILES | CLONE_FS,
	};

	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		self->args.flags = flags[i];
		expect_refused(EINVAL, &self->args);
	}
}

TEST_F_LONG(args, refuses_flags_that_do_not_go_with_it)
{
	static const __u64 flags[] = {
		CLONE_SIGHAND,
		CLONE_SIGHAND | CLONE_THREAD,
		CLONE_THREAD,
		CLONE_SETTLS,
		CLONE_PARENT,
		CLONE_PARENT_SETTID,
		CLONE_CHILD_SETTID,
		CLONE_CHILD_CLEARTID,
		CLONE_PTRACE,
		CLONE_UNTRACED,
		CLONE_DETACHED,
		CLONE_SYSVSEM,
		CLONE_IO,
		CLONE_AUTOREAP,
		CLONE_NNP,
		CLONE_PIDFD_AUTOKILL,
		CLONE_EMPTY_MNTNS,
		CLONE_ALL_THREADS,
		CLONE_SUBTREE,
		CLONE_ALL_THREADS | CLONE_SUBTREE,
		CLONE_STOPPED,
		CLONE_FROM_PIDFD,
		CLONE_KEEP_TIDS,
		CLONE_ISOLATE,
		1ULL << 63,
		1ULL << 55,
		/* As clone3() has it. */
		CLONE_FS | CLONE_NEWNS,
		CLONE_FS | CLONE_NEWUSER,
	};

	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		self->args.flags = SFORK_FLAGS | flags[i];
		if (flags[i] & CLONE_AUTOREAP)
			self->args.exit_signal = 0;
		expect_refused(EINVAL, &self->args);
		self->args.exit_signal = SIGCHLD;
	}
}

/* By its bytes: which field, and a value that other calls take. */
TEST_F_LONG(args, refuses_fields_that_do_not_go_with_it)
{
	static char stack[8192];
	static __u32 word;
	static const struct {
		size_t offset;
		__u64 value;
	} fields[] = {
		{ offsetof(struct fullfork_args, child_tid), 8 },
		{ offsetof(struct fullfork_args, parent_tid), 8 },
		{ offsetof(struct fullfork_args, pidfd), 8 },
		{ offsetof(struct fullfork_args, tls), 4096 },
		{ offsetof(struct fullfork_args, cgroup), 1 },
		{ offsetof(struct fullfork_args, cgroup), 1ULL << 62 },
		{ offsetof(struct fullfork_args, source_pidfd), 1 },
		{ offsetof(struct fullfork_args, tid_map), 8 },
		{ offsetof(struct fullfork_args, tid_map_size), 1 },
		{ offsetof(struct fullfork_args, stack_size), 4096 },
		{ offsetof(struct fullfork_args, exit_signal), 65 },
		{ offsetof(struct fullfork_args, exit_signal), 256 },
	};
	struct fullfork_args args;
	pid_t tid = 30000;

	for (int i = 0; i < ARRAY_SIZE(fields); i++) {
		args = self->args;
		memcpy((char *)&args + fields[i].offset, &fields[i].value, sizeof(__u64));
		expect_refused(EINVAL, &args);
	}
	args = self->args;
	args.stack = ptr_to_u64(stack);
	args.stack_size = sizeof(stack);
	expect_refused(EINVAL, &args);
	args = self->args;
	args.set_tid = ptr_to_u64(&tid);
	args.set_tid_size = 1;
	expect_refused(EINVAL, &args);
	args = self->args;
	args.parent_tid = ptr_to_u64(&word);
	expect_refused(EINVAL, &args);
}

TEST_F_LONG(args, takes_flags_that_clone3_takes_with_vfork)
{
	static const __u64 flags[] = {
		CLONE_FILES,
		CLONE_FS,
		CLONE_FILES | CLONE_FS,
		CLONE_CLEAR_SIGHAND,
		CLONE_NEWNS,
		CLONE_NEWUTS,
		CLONE_NEWIPC,
		CLONE_NEWNET,
		CLONE_NEWPID,
		CLONE_NEWCGROUP,
		CLONE_NEWUSER,
		CLONE_NEWTIME,
		CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET,
	};

	require_root(_metadata, "namespaces");
	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		self->args.flags = SFORK_FLAGS | flags[i];
		expect_taken(_metadata, &self->args, sizeof(self->args));
	}
}

TEST_F_LONG(args, takes_exit_signals)
{
	static const int signals[] = { 0, SIGCHLD, SIGURG, 64 };

	ASSERT_NE(SIG_ERR, signal(64, SIG_IGN));
	for (int i = 0; i < ARRAY_SIZE(signals); i++) {
		self->args.exit_signal = signals[i];
		expect_taken(_metadata, &self->args, sizeof(self->args));
	}
}

TEST_F_LONG(args, a_bad_pidfd_address_is_efault)
{
	self->args.flags |= CLONE_PIDFD;
	self->args.pidfd = 8;
	expect_refused(EFAULT, &self->args);
}

TEST_F_LONG(args, a_bad_cgroup_is_ebadf)
{
	self->args.flags |= CLONE_INTO_CGROUP;
	self->args.cgroup = 99999;
	expect_refused(EBADF, &self->args);
}

/* A limit that is reached: nothing has moved. */
TEST_F_LONG(args, a_limit_is_eagain_and_the_thread_stays)
{
	struct fullfork_args args = self->args;
	struct rlimit none = {};
	long refused, pid;

	require_root(_metadata, "setuid()");
	/* In a child, whose rights go with it. */
	ASSERT_EQ(0, sfork());
	syscall(__NR_setresuid, 1234, 1234, 1234);
	setrlimit(RLIMIT_NPROC, &none);
	refused = try_sfork(&args, sizeof(args));
	pid = sfork_exit(REPLICA_PASS);
	EXPECT_EQ(-EAGAIN, refused);
	expect_exited(REPLICA_PASS, pid);
}

TEST_HARNESS_MAIN
