// SPDX-License-Identifier: GPL-2.0
/*
 * What cannot be copied truly: the call says so before anything is copied,
 * and works once it is gone.
 */
#include "fullfork_selftest.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/sched/types.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif

#define AREA_SIZE 65536

/* Words of the report, for processes beside the test */
enum {
	CONTROL_RESULT,
	REFUSED_RESULT,
};

static void record_worker(struct worker *w, enum side side)
{
	if (side == SIDE_REPLICA)
		record(w->index, 0);
}

static int run_workers(void *ws)
{
	return run_replica_workers(ws);
}

/* A process of three threads. */
FIXTURE(process)
{
	struct workers ws;
	sigset_t sigchld;
	char *area;
};

FIXTURE_SETUP(process)
{
	require_fullfork(_metadata);
	sigemptyset(&self->sigchld);
	sigaddset(&self->sigchld, SIGCHLD);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &self->sigchld, NULL));
	start_workers(_metadata, &self->ws, 2, NULL, record_worker);
	self->area = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->area);
}

FIXTURE_TEARDOWN(process)
{
	join_workers(_metadata, &self->ws);
}

static void expect_refused(struct __test_metadata *_metadata,
			   struct workers *ws, sigset_t *sigchld)
{
	struct census before = take_census();
	struct timespec now = {};

	EXPECT_EQ(-EOPNOTSUPP, replica_main(full_fork(0), run_workers, ws));
	EXPECT_EQ(-1, waitpid(-1, NULL, __WALL | WNOHANG));
	EXPECT_EQ(ECHILD, errno);
	EXPECT_EQ(-1, sigtimedwait(sigchld, NULL, &now));
	EXPECT_EQ(0, report->recorded);
	expect_census(before);
}

static void expect_taken(struct __test_metadata *_metadata, struct workers *ws,
			 sigset_t *sigchld)
{
	long pid = replica_main(full_fork(0), run_workers, ws);

	ASSERT_LT(0, pid)
	{
		TH_LOG("control: %s", strerror(-pid));
	}
	expect_pass(_metadata, pid);
	EXPECT_EQ(ws->count, report->recorded);
	report->recorded = 0;
	EXPECT_EQ(SIGCHLD, sigwaitinfo(sigchld, NULL));
}

TEST_F(process, rejects_dontfork_memory)
{
	ASSERT_EQ(0, madvise(self->area, AREA_SIZE / 2, MADV_DONTFORK));
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, madvise(self->area, AREA_SIZE / 2, MADV_DOFORK));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

TEST_F(process, rejects_registered_userfaultfd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.start = ptr_to_u64(self->area),
		.range.len = AREA_SIZE,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd;

	fd = syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	ASSERT_LE(0, fd)
	{
		TH_LOG("userfaultfd: %s", strerror(errno));
	}
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, ioctl(fd, UFFDIO_UNREGISTER, &reg.range));
	expect_taken(_metadata, &self->ws, &self->sigchld);
	EXPECT_EQ(0, close(fd));
}

TEST_F(process, rejects_aio_context)
{
	aio_context_t context = 0;

	ASSERT_EQ(0, syscall(__NR_io_setup, 8, &context))
	{
		TH_LOG("io_setup: %s", strerror(errno));
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, syscall(__NR_io_destroy, context));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

static int setup_ring(void)
{
	struct io_uring_params params = {};

	return syscall(__NR_io_uring_setup, 4, &params);
}

struct ring_user {
	__u32 may_end;
	__u32 tid;
	int fd;
};

static void *use_ring(void *arg)
{
	struct ring_user *user = arg;

	user->fd = setup_ring();
	store(&user->tid, sys_gettid());
	while (!load(&user->may_end))
		futex_wait(&user->may_end, 0, FUTEX_PRIVATE_FLAG, -1);
	close(user->fd);
	return NULL;
}

/* A thread that has used a ring counts as its user until it ends. */
TEST_F(process, rejects_thread_with_io_uring)
{
	struct ring_user user = {};
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, use_ring, &user));
	ASSERT_TRUE(wait_until(load(&user.tid), DEADLINE));
	ASSERT_TRUE(wait_blocked(user.tid, __NR_futex));
	ASSERT_LE(0, user.fd)
	{
		TH_LOG("io_uring_setup failed");
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);

	store(&user.may_end, 1);
	futex_wake(&user.may_end, 1, FUTEX_PRIVATE_FLAG);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

TEST_F(process, rejects_caller_with_io_uring)
{
	int fd;

	expect_taken(_metadata, &self->ws, &self->sigchld);
	fd = setup_ring();
	ASSERT_LE(0, fd)
	{
		TH_LOG("io_uring_setup: %s", strerror(errno));
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);
	EXPECT_EQ(0, close(fd));
}

static int set_policy(pid_t tid, unsigned int policy)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = policy,
	};

	if (policy == SCHED_DEADLINE) {
		attr.sched_runtime = 10 * 1000 * 1000;
		attr.sched_deadline = 500 * 1000 * 1000;
		attr.sched_period = 500 * 1000 * 1000;
	}
	return syscall(__NR_sched_setattr, tid, &attr, 0);
}

TEST_F(process, rejects_deadline_thread)
{
	pid_t tid = self->ws.worker[0].tid;

	if (geteuid())
		SKIP(return, "SCHED_DEADLINE needs root");
	ASSERT_EQ(0, set_policy(tid, SCHED_DEADLINE))
	{
		TH_LOG("sched_setattr: %s", strerror(errno));
	}
	expect_refused(_metadata, &self->ws, &self->sigchld);

	ASSERT_EQ(0, set_policy(tid, SCHED_OTHER));
	expect_taken(_metadata, &self->ws, &self->sigchld);
}

/*
 * A process whose leader exits while its second thread goes on.  It is a
 * process of its own, as the test's leader is needed to the end.
 */
struct leaderless {
	pid_t leader;
};

static int pass(void *unused)
{
	return REPLICA_PASS;
}

static void *fork_without_leader(void *arg)
{
	struct leaderless *state = arg;
	long pid;
	int status;

	pid = replica_main(full_fork(0), pass, NULL);
	store(&report->word[CONTROL_RESULT], pid);
	if (pid > 0 && !wait_until(waitpid(pid, &status, WNOHANG), DEADLINE))
		replica_exit(REPLICA_TIMEOUT);

	add(&report->word[REFUSED_RESULT], 1);
	if (!wait_until(task_state(state->leader, state->leader) == 'Z',
			DEADLINE))
		replica_exit(REPLICA_TIMEOUT);
	pid = replica_main(full_fork(0), pass, NULL);
	store(&report->word[REFUSED_RESULT], pid);
	if (waitpid(-1, NULL, __WALL | WNOHANG) != -1 || errno != ECHILD)
		replica_exit(REPLICA_FAIL);
	replica_exit(REPLICA_PASS);
}

static void run_leaderless(void)
{
	struct leaderless state = { .leader = getpid() };
	pthread_t thread;

	if (pthread_create(&thread, NULL, fork_without_leader, &state))
		replica_exit(REPLICA_FAIL);
	wait_until(load(&report->word[REFUSED_RESULT]), DEADLINE);
	/* Its stack, and what the thread has of it, stays. */
	replica_thread_exit();
}

TEST_F(process, rejects_exited_leader)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		run_leaderless();
	expect_pass(_metadata, pid);
	EXPECT_LT(0, (int)report->word[CONTROL_RESULT]);
	EXPECT_EQ(-EOPNOTSUPP, (int)report->word[REFUSED_RESULT]);
	EXPECT_EQ(SIGCHLD, sigwaitinfo(&self->sigchld, NULL));
}

TEST_HARNESS_MAIN
