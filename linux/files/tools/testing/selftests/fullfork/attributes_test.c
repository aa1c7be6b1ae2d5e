// SPDX-License-Identifier: GPL-2.0
/*
 * What a replica is not given, as a child of fork() is not.
 */
#include "fullfork_selftest.h"

/* A process of 3 threads */
FIXTURE(process)
{
	struct workers ws;
};

FIXTURE_SETUP(process)
{
	require_fullfork(_metadata);
	start_workers(_metadata, &self->ws, 2, NULL, record_worker);
}

FIXTURE_TEARDOWN(process)
{
	join_workers(_metadata, &self->ws);
}

static long cpu_ms(clockid_t clock)
{
	struct timespec ts = {};

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int check_cpu_time(void *ws)
{
	replica_assert(cpu_ms(CLOCK_PROCESS_CPUTIME_ID) < 500);
	return run_replica_workers(ws);
}

TEST_F_LONG(process, gives_its_replica_no_cpu_time)
{
	while (cpu_ms(CLOCK_PROCESS_CPUTIME_ID) < 1000)
		;
	fork_and_pass(_metadata, 0, check_cpu_time, &self->ws);
	EXPECT_LE(1000, cpu_ms(CLOCK_PROCESS_CPUTIME_ID));
}

static int find_lock(void *arg)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int *fd = arg;

	replica_assert_eq(0, fcntl(*fd, F_GETLK, &lock));
	replica_assert_eq(F_WRLCK, lock.l_type);
	replica_assert_eq(getppid(), lock.l_pid);
	return REPLICA_PASS;
}

TEST_F_LONG(process, gives_its_replica_no_record_lock)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char path[] = "/tmp/fullfork.XXXXXX";
	int fd = mkstemp(path);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, unlink(path));
	ASSERT_EQ(0, fcntl(fd, F_SETLK, &lock));
	fork_and_pass(_metadata, 0, find_lock, &fd);
	EXPECT_EQ(0, close(fd));
}

TEST_HARNESS_MAIN
