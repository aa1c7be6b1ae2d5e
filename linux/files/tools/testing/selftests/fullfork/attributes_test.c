// SPDX-License-Identifier: GPL-2.0
/*
 * The cgroup of each thread, which its replica is in as well, and what a
 * replica is not given, as a child of fork() is not.
 */
#include "fullfork_selftest.h"

#include <sys/mount.h>
#include <sys/stat.h>

/* The worker that is different from the others. */
#define ODD 1

static int run_workers(void *ws)
{
	return run_replica_workers(ws);
}

/* A process of 4 threads, one of them in another cgroup. */
FIXTURE(threads)
{
	struct workers ws;
};

FIXTURE_SETUP(threads)
{
	require_fullfork(_metadata);
}

FIXTURE_TEARDOWN(threads)
{
}

static bool is_odd(struct worker *w)
{
	return w->index == ODD;
}

static void read_cgroup(char buf[256])
{
	if (read_file("/proc/thread-self/cgroup", buf, 256) < 0)
		buf[0] = '\0';
}

static char cgroup_of[3][256];

static void check_cgroup(struct worker *w, enum side side)
{
	char buf[256];

	if (side != SIDE_REPLICA)
		return;
	read_cgroup(buf);
	replica_assert(!!strstr(buf, "odd") == is_odd(w));
	replica_assert_eq(0, strcmp(cgroup_of[w->index], buf));
	record(w->index, 0);
}

static void write_in(struct __test_metadata *_metadata, const char *group,
		     const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	ASSERT_EQ(0, write_file(path, text))
	{
		TH_LOG("%s", path);
	}
}

TEST_F(threads, keep_their_cgroups)
{
	char mnt[] = "/tmp/fullfork.XXXXXX", group[64], odd[72], path[64];
	char tid[16];
	unsigned int i;
	long pid;

	if (geteuid())
		SKIP(return, "cgroups: needs root");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_NE(NULL, mkdtemp(mnt));
	ASSERT_EQ(0, mount("none", mnt, "cgroup2", 0, NULL));
	snprintf(group, sizeof(group), "%s/fullfork.%d", mnt, getpid());
	snprintf(odd, sizeof(odd), "%s/odd", group);
	ASSERT_EQ(0, mkdir(group, 0755));
	ASSERT_EQ(0, mkdir(odd, 0755));
	write_in(_metadata, odd, "cgroup.type", "threaded");
	write_in(_metadata, group, "cgroup.procs", "0");

	start_workers(_metadata, &self->ws, 3, NULL, check_cgroup);
	snprintf(tid, sizeof(tid), "%d", self->ws.worker[ODD].tid);
	write_in(_metadata, odd, "cgroup.threads", tid);
	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/cgroup",
			 self->ws.worker[i].tid);
		ASSERT_LT(0, read_file(path, cgroup_of[i], 256));
	}
	pid = replica_main(full_fork(0), run_workers, &self->ws);
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	EXPECT_EQ(3, report->recorded);
	join_workers(_metadata, &self->ws);

	write_in(_metadata, mnt, "cgroup.procs", "0");
	EXPECT_TRUE(wait_until(!rmdir(odd), DEADLINE));
	EXPECT_TRUE(wait_until(!rmdir(group), DEADLINE));
	EXPECT_EQ(0, umount2(mnt, MNT_DETACH));
	EXPECT_EQ(0, rmdir(mnt));
}

/* A process of 3 threads */
FIXTURE(process)
{
	struct workers ws;
};

static void record_worker(struct worker *w, enum side side)
{
	if (side == SIDE_REPLICA)
		record(w->index, 0);
}

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

TEST_F(process, gives_its_replica_no_cpu_time)
{
	long pid;

	while (cpu_ms(CLOCK_PROCESS_CPUTIME_ID) < 1000)
		;
	pid = replica_main(full_fork(0), check_cpu_time, &self->ws);
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
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

TEST_F(process, gives_its_replica_no_record_lock)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char path[] = "/tmp/fullfork.XXXXXX";
	int fd = mkstemp(path);
	long pid;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, unlink(path));
	ASSERT_EQ(0, fcntl(fd, F_SETLK, &lock));
	pid = replica_main(full_fork(0), find_lock, &fd);
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, close(fd));
}

TEST_HARNESS_MAIN
