// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what CLONE_FROM_PIDFD refuses
 *
 * Each test makes the same call without the cause as well.
 */

#include "fullfork_answers.h"
#include <sys/socket.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static const struct plan family[] = {
	{ .threads = 2, .caller = 1 },
	{ .parent = 0, .threads = 1 },
};

FIXTURE(refused)
{
	pid_t root;
	int pidfd;
	struct fullfork_args args;
	int children;
	int fds;
};

FIXTURE_VARIANT(refused)
{
	__u64 flags;
};

FIXTURE_VARIANT_ADD(refused, all_threads) {
	.flags = CLONE_ALL_THREADS,
};

FIXTURE_VARIANT_ADD(refused, tree) {
	.flags = WHOLE_TREE,
};

FIXTURE_SETUP(refused)
{
	setup_manager(_metadata);
	self->root = start_tree(_metadata, family, ARRAY_SIZE(family),
				RELATION_CHILD);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	init_args(&self->args, self->pidfd, CLONE_FROM_PIDFD | variant->flags);
	self->children = count_children();
	self->fds = count_fds();
}

FIXTURE_TEARDOWN(refused)
{
	teardown_manager(_metadata);
}

/* Nobody is there afterwards who was not, and everybody goes on. */
#define expect_nothing_done()						\
do {									\
	EXPECT_EQ(0, list_others());					\
	EXPECT_EQ(self->children, count_children());			\
	EXPECT_EQ(self->fds, count_fds());				\
	EXPECT_FALSE(sigchld_is_pending());				\
	EXPECT_TRUE(originals_answer());				\
	expect_undisturbed();						\
} while (0)

#define expect_refused(error)						\
do {									\
	long __ret = call_as_manager(&self->args);			\
									\
	EXPECT_EQ(-(error), __ret)					\
	{								\
		TH_LOG("%s", __ret > 0 ? "it works" : strerror(-__ret));	\
	}								\
	expect_nothing_done();						\
} while (0)

/* The control */
#define expect_accepted()						\
do {									\
	long __ret;							\
									\
	self->args.source_pidfd = self->pidfd;				\
	__ret = call_as_manager(&self->args);				\
	EXPECT_LT(0, __ret)						\
	{								\
		TH_LOG("control: %s", strerror(-__ret));		\
	}								\
	EXPECT_TRUE(end_others());					\
	discard_sigchld();						\
} while (0)

#define refuse_pidfd(error, fd)						\
do {									\
	self->args.source_pidfd = (fd);					\
	expect_refused(error);						\
} while (0)

TEST_F_GUARDED(refused, fd_that_is_no_pidfd)
{
	int pair[2], fd;

	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pipe2(pair, O_CLOEXEC));
	self->fds = count_fds();
	refuse_pidfd(EBADF, fd);
	refuse_pidfd(EBADF, pair[0]);
	ASSERT_EQ(0, close(pair[0]) | close(pair[1]));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	refuse_pidfd(EBADF, pair[0]);
	expect_accepted();
}

TEST_F_GUARDED(refused, fd_that_is_closed)
{
	int fd = dup(self->pidfd);

	ASSERT_LE(0, fd);
	self->args.source_pidfd = fd;
	EXPECT_LT(0, call_as_manager(&self->args));
	EXPECT_TRUE(end_others());
	discard_sigchld();
	ASSERT_EQ(0, close(fd));
	expect_refused(EBADF);
	expect_accepted();
}

TEST_F_GUARDED(refused, fd_out_of_range)
{
	refuse_pidfd(EBADF, (__u64)-1);
	refuse_pidfd(EBADF, (__u32)-1);
	refuse_pidfd(EBADF, INT_MAX);
	/* The lower half is the pidfd: it must not be what is looked at. */
	refuse_pidfd(EBADF, 1ULL << 32 | self->pidfd);
	refuse_pidfd(EBADF, 1ULL << 63 | self->pidfd);
	expect_accepted();
}

static __noreturn void end_at_once(void)
{
	_exit(REPLICA_PASS);
}

TEST_F_GUARDED(refused, process_that_has_exited)
{
	pid_t pid = fork();
	int fd;

	ASSERT_LE(0, pid);
	if (!pid)
		end_at_once();
	keep(pid);
	fd = sys_pidfd_open(pid);
	ASSERT_LE(0, fd);
	ASSERT_TRUE(wait_pidfd(fd, DEADLINE));
	ASSERT_EQ('Z', task_state(pid, pid));
	discard_sigchld();
	self->fds = count_fds();
	self->children = count_children();
	refuse_pidfd(ESRCH, fd);
	/* It is still there to be waited for. */
	expect_pass(_metadata, pid);
	forget(pid);
	self->children = count_children();
	refuse_pidfd(ESRCH, fd);
	expect_accepted();
}

TEST_F_GUARDED(refused, source_pidfd_without_its_flag)
{
	self->args.flags &= ~CLONE_FROM_PIDFD;
	expect_refused(EINVAL);
	self->args.flags |= CLONE_FROM_PIDFD;
	expect_accepted();
}

TEST_F_GUARDED(refused, flag_without_what_to_copy)
{
	self->args.flags = CLONE_FROM_PIDFD;
	expect_refused(EINVAL);
	self->args.flags |= CLONE_STOPPED;
	expect_refused(EINVAL);
	self->args.flags = CLONE_FROM_PIDFD | variant->flags;
	expect_accepted();
}

/* Other flags do not become allowed beside this one. */
TEST_F_GUARDED(refused, flags_that_ask_for_sharing)
{
	static const __u64 flags[] = {
		CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_NEWNS, CLONE_NEWUSER,
		CLONE_NEWPID, CLONE_PTRACE, CLONE_VFORK,
		CLONE_VM | CLONE_SIGHAND, CLONE_CHILD_SETTID,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		self->args.flags = CLONE_FROM_PIDFD | variant->flags | flags[i];
		expect_refused(EINVAL);
	}
	self->args.flags = CLONE_FROM_PIDFD | variant->flags;
	expect_accepted();
}

TEST_F_GUARDED(refused, init_of_the_machine)
{
	int fd = sys_pidfd_open(1);

	ASSERT_LE(0, fd);
	self->fds = count_fds();
	refuse_pidfd(EPERM, fd);
	expect_accepted();
}

TEST_F_GUARDED(refused, kernel_thread)
{
	char name[32];
	int fd;

	ASSERT_LT(0, read_file("/proc/2/comm", name, sizeof(name)));
	ASSERT_STREQ("kthreadd", name);
	fd = sys_pidfd_open(2);
	ASSERT_LE(0, fd);
	self->fds = count_fds();
	refuse_pidfd(EPERM, fd);
	expect_accepted();
}

TEST_F_GUARDED(refused, pidfd_of_a_thread)
{
	int leader, thread;

	leader = syscall(__NR_pidfd_open, self->root, PIDFD_THREAD);
	ASSERT_LE(0, leader);
	thread = syscall(__NR_pidfd_open, report->slot[1].tid, PIDFD_THREAD);
	ASSERT_LE(0, thread);
	self->fds = count_fds();
	refuse_pidfd(EINVAL, thread);

	/* That of the leader is as good as one of the process. */
	self->args.source_pidfd = leader;
	EXPECT_LT(0, call_as_manager(&self->args));
	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, 3));
	EXPECT_TRUE(end_others());
	expect_accepted();
}

TEST_F_GUARDED(refused, changes_none_of_the_results)
{
	int i;

	shared->pidfd = -1;
	shared->parent_tid = -2;
	init_args(&self->args, self->pidfd, CLONE_FROM_PIDFD | CLONE_PIDFD |
		  CLONE_PARENT_SETTID | variant->flags);
	ask_for_map(&self->args, 5);
	refuse_pidfd(EBADF, INT_MAX);
	/* One entry less than there are threads to copy. */
	self->args.tid_map_size = variant->flags & CLONE_SUBTREE ? 4 : 2;
	refuse_pidfd(E2BIG, self->pidfd);
	EXPECT_EQ(-1, shared->pidfd);
	EXPECT_EQ(-2, shared->parent_tid);
	for (i = 0; i < 6; i++)
		EXPECT_EQ(UNWRITTEN, shared->map[i].original &
			  shared->map[i].replica);

	self->args.tid_map_size++;
	expect_accepted();
	EXPECT_EQ(self->args.tid_map_size, map_length());
	EXPECT_LT(0, shared->parent_tid);
	EXPECT_EQ(0, close(shared->pidfd));
}

static const struct plan loner[] = {
	{ .threads = 0 },
};

/*
 * With CLONE_SUBTREE alone nobody has told to copy more than one thread of a
 * process, and to copy one of several is to lose the others.
 */
FIXTURE(subtree_alone)
{
	struct fullfork_args args;
	int pidfd;
};

FIXTURE_SETUP(subtree_alone)
{
	setup_manager(_metadata);
}

FIXTURE_TEARDOWN(subtree_alone)
{
	teardown_manager(_metadata);
}

static int start_and_open(struct __test_metadata *_metadata,
			  const struct plan *new_plan, int size)
{
	pid_t root = start_tree(_metadata, new_plan, size, RELATION_CHILD);
	int pidfd = sys_pidfd_open(root);

	ASSERT_LE(0, pidfd);
	return pidfd;
}

TEST_F_GUARDED(subtree_alone, refuses_several_threads)
{
	self->pidfd = start_and_open(_metadata, family, ARRAY_SIZE(family));
	EXPECT_EQ(-EOPNOTSUPP, copy_from(self->pidfd, CLONE_SUBTREE));
	EXPECT_EQ(0, list_others());
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
	EXPECT_LT(0, copy_from(self->pidfd, WHOLE_TREE));
	EXPECT_TRUE(end_others());
}

TEST_F_GUARDED(subtree_alone, copies_one_thread_each)
{
	static const struct plan chain[] = {
		{ .threads = 0 }, { .parent = 0 }, { .parent = 1 },
		{ .parent = 0 },
	};
	long pid;

	self->pidfd = start_and_open(_metadata, chain, ARRAY_SIZE(chain));
	pid = copy_from(self->pidfd, CLONE_SUBTREE);
	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_EQ(4, list_others());
	EXPECT_TRUE(replicas_answer());
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
	tell_to_end();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(no_others());
}

/* What has no PID where the caller is does not exist for it. */
FIXTURE(pid_namespace)
{
	int pidfd;
};

FIXTURE_SETUP(pid_namespace)
{
	setup_manager(_metadata);
	self->pidfd = start_and_open(_metadata, loner, ARRAY_SIZE(loner));
}

FIXTURE_TEARDOWN(pid_namespace)
{
	teardown_manager(_metadata);
}

static __noreturn void copy_two(int outside)
{
	pid_t pid = fork();
	int inside;
	long ret;

	replica_assert(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	inside = sys_pidfd_open(pid);
	replica_assert(inside >= 0);
	replica_assert_eq(-ESRCH, copy_from(outside, CLONE_ALL_THREADS));
	ret = copy_from(inside, CLONE_ALL_THREADS);
	replica_assert(ret > 0);
	kill(ret, SIGKILL);
	replica_assert_eq(ret, waitpid(ret, NULL, 0));
	replica_exit(REPLICA_PASS);
}

TEST_F_GUARDED(pid_namespace, that_does_not_show_the_process)
{
	struct fullfork_args args = {
		.flags = CLONE_NEWPID,
		.exit_signal = SIGCHLD,
	};
	long pid = sys_clone3(&args, sizeof(args));

	ASSERT_LE(0, pid);
	if (!pid)
		copy_two(self->pidfd);
	keep(pid);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(no_others());
	EXPECT_TRUE(originals_answer());
	EXPECT_LT(0, copy_from(self->pidfd, CLONE_ALL_THREADS));
	EXPECT_TRUE(end_others());
}

TEST_HARNESS_MAIN
