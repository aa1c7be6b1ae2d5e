// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints of full fork: who was copied, and why a call failed.
 */
#include "fullfork_selftest.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define TRACEFS "/sys/kernel/tracing/"
#define INSTANCE TRACEFS "instances/fullfork_selftest"
#define NR_WORKERS 3

/* A process of four threads, with a trace buffer of its own. */
FIXTURE(traced)
{
	struct workers ws;
	char log[65536];
};

FIXTURE_SETUP(traced)
{
	require_fullfork(_metadata);
	require_root(_metadata, "tracing");
	start_workers(_metadata, &self->ws, NR_WORKERS, NULL, record_worker);
	rmdir(INSTANCE);
	ASSERT_EQ(0, mkdir(INSTANCE, 0700));
	ASSERT_EQ(0, write_file(INSTANCE "/events/fullfork/enable", "1"));
}

FIXTURE_TEARDOWN(traced)
{
	write_file(INSTANCE "/events/fullfork/enable", "0");
	rmdir(INSTANCE);
	join_workers(_metadata, &self->ws);
}

/* What the trace holds by now, in full. */
static void read_trace(struct __test_metadata *_metadata, char *log, size_t size)
{
	int fd = open(INSTANCE "/trace", O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t len;

	ASSERT_LE(0, fd);
	while ((len = read(fd, log + have, size - 1 - have)) > 0)
		have += len;
	log[have] = '\0';
	close(fd);
}

static int count(const char *log, const char *what)
{
	int n = 0;

	while ((log = strstr(log, what))) {
		log += strlen(what);
		n++;
	}
	return n;
}

TEST_F_LONG(traced, tells_of_every_replica)
{
	char pair[64];
	long pid = fork_and_pass(_metadata, 0, run_replica_workers, &self->ws);

	read_trace(_metadata, self->log, sizeof(self->log));
	EXPECT_EQ(1, count(self->log, "fullfork_start: flags=0x4000000000000000 nr_threads=4"));
	EXPECT_EQ(1, count(self->log, "fullfork_quiesced: nr_members=4"));
	EXPECT_EQ(NR_WORKERS + 1, count(self->log, "fullfork_replica:"));
	snprintf(pair, sizeof(pair), "original=%d replica=%ld\n", getpid(), pid);
	EXPECT_EQ(1, count(self->log, pair));
	snprintf(pair, sizeof(pair), "fullfork_commit: tgid=%ld nr_members=4", pid);
	EXPECT_EQ(1, count(self->log, pair));
	EXPECT_EQ(0, count(self->log, "fullfork_abort:"));
}

TEST_F_LONG(traced, tells_why_a_call_failed)
{
	char reason[96];
	void *area = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, area);
	ASSERT_EQ(0, madvise(area, 4096, MADV_DONTFORK));
	ASSERT_EQ(-EOPNOTSUPP, replica_main(full_fork(0), run_replica_workers,
					    &self->ws));

	read_trace(_metadata, self->log, sizeof(self->log));
	snprintf(reason, sizeof(reason),
		 "fullfork_abort: err=-95 reason=dontfork culprit=%d", getpid());
	EXPECT_EQ(1, count(self->log, reason));
	EXPECT_EQ(0, count(self->log, "fullfork_replica:"));
	EXPECT_EQ(0, count(self->log, "fullfork_commit:"));
}

/* A socket that is connected with itself. */
static int connect_itself(struct __test_metadata *_metadata, int type)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, type, 0);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, bind(fd, (struct sockaddr *)&addr, len));
	ASSERT_EQ(0, getsockname(fd, (struct sockaddr *)&addr, &len));
	ASSERT_EQ(0, connect(fd, (struct sockaddr *)&addr, len));
	return fd;
}

static unsigned long inode_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : st.st_ino;
}

/* Of a pipe, by each of its ends */
TEST_F_LONG(traced, tells_of_what_is_copied_and_what_is_shared)
{
	char line[128];
	int ends[2];

	ASSERT_EQ(0, pipe(ends));
	fork_and_pass(_metadata, CLONE_ISOLATE, run_replica_workers, &self->ws);
	read_trace(_metadata, self->log, sizeof(self->log));
	snprintf(line, sizeof(line),
		 "fullfork_object: kind=pipe ino=%lu copied refs=1 of 1 files=2 of 2",
		 inode_of(ends[0]));
	EXPECT_EQ(2, count(self->log, line));

	/* By another description, which nobody can find. */
	snprintf(line, sizeof(line), "/proc/self/fd/%d", ends[0]);
	ASSERT_LE(0, open(line, O_PATH));
	fork_and_pass(_metadata, CLONE_ISOLATE, run_replica_workers, &self->ws);
	read_trace(_metadata, self->log, sizeof(self->log));
	snprintf(line, sizeof(line),
		 "fullfork_object: kind=pipe ino=%lu shared refs=1 of 1 files=2 of 3",
		 inode_of(ends[0]));
	EXPECT_EQ(2, count(self->log, line));
	EXPECT_EQ(0, count(self->log, "fullfork_abort:"));
}

static int make_tcp(struct __test_metadata *_metadata)
{
	return connect_itself(_metadata, SOCK_STREAM);
}

static int make_udp(struct __test_metadata *_metadata)
{
	return connect_itself(_metadata, SOCK_DGRAM);
}

static int make_secret(struct __test_metadata *_metadata)
{
	int fd = syscall(__NR_memfd_secret, 0);

	ASSERT_LE(0, fd);
	return fd;
}

/* Without a page, which is none less of its kind. */
static int make_huge(struct __test_metadata *_metadata)
{
	int fd = memfd_create("huge", MFD_HUGETLB);

	ASSERT_LE(0, fd);
	return fd;
}

TEST_F_LONG(traced, tells_of_what_is_refused)
{
	static const struct {
		int (*make)(struct __test_metadata *_metadata);
		const char *kind, *reason;
	} kinds[] = {
		{ make_tcp, "inet", "loopback-tcp" },
		{ make_udp, "udp", "loopback-udp" },
		{ make_huge, "hugetlb", "huge-pages" },
		{ make_secret, "secretmem", "secret-memory" },
	};
	char line[128];
	unsigned int i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		fd = kinds[i].make(_metadata);
		ASSERT_EQ(-EOPNOTSUPP, replica_main(full_fork(CLONE_ISOLATE),
						    run_replica_workers, &self->ws));
		read_trace(_metadata, self->log, sizeof(self->log));
		snprintf(line, sizeof(line),
			 "fullfork_object: kind=%s ino=%lu refused refs=1 of 1 files=1 of 1",
			 kinds[i].kind, inode_of(fd));
		EXPECT_EQ(1, count(self->log, line));
		snprintf(line, sizeof(line), "fullfork_abort: err=-95 reason=%s culprit=%d",
			 kinds[i].reason, getpid());
		EXPECT_EQ(1, count(self->log, line));
		ASSERT_EQ(0, close(fd));
	}
	fork_and_pass(_metadata, CLONE_ISOLATE, run_replica_workers, &self->ws);
}

TEST_HARNESS_MAIN
