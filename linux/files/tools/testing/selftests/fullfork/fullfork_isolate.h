/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the full fork selftests that copy objects with CLONE_ISOLATE
 *
 * The report must be seen on both sides.  So somebody else has it, too: a keeper,
 * which is no descendant of the test, and ends with all that have its pipe.
 */
#ifndef _FULLFORK_ISOLATE_H
#define _FULLFORK_ISOLATE_H

#include "fullfork_selftest.h"

#include <linux/kcmp.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* Words of the report, from here on free for the tests */
enum {
	WORD_TURN,
	WORD_OUTSIDER,
	WORD_FREE,
};

static inline void close_all_but(int fd)
{
	if (fd)
		syscall(__NR_close_range, 0, fd - 1, 0);
	syscall(__NR_close_range, fd + 1, ~0U, 0);
}

/* Lets an orphan have what the caller has mapped, and nothing that is open. */
static inline void start_keeper(struct __test_metadata *_metadata)
{
	int ends[2], status;
	char byte;
	pid_t pid;

	ASSERT_EQ(0, pipe(ends));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (fork())
			_exit(0);
		close_all_but(ends[0]);
		while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
			;
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	ASSERT_EQ(0, close(ends[0]));
	/* The other end is left open until the test ends. */
}

/* To be called first in each FIXTURE_SETUP. */
static inline void require_isolate(struct __test_metadata *_metadata)
{
	require_fullfork(_metadata);
	start_keeper(_metadata);
}

/* What a process' fdinfo says of a descriptor: "copied", "shared" or "". */
static inline const char *fdinfo_says(const char *pid, int fd)
{
	static char answer[16];
	char path[64], text[4096], *line;

	snprintf(path, sizeof(path), "/proc/%s/fdinfo/%d", pid, fd);
	if (read_file(path, text, sizeof(text)) < 0)
		return "no such descriptor";
	line = strstr(text, "fullfork:\t");
	snprintf(answer, sizeof(answer), "%s", "");
	if (line)
		sscanf(line, "fullfork: %15s", answer);
	return answer;
}

#define replica_assert_fdinfo(what, fd)					\
	replica_assert(!strcmp(what, fdinfo_says("self", fd)))

static inline bool is_same_file(int fd1, int fd2)
{
	pid_t self = syscall(__NR_getpid);

	return !syscall(__NR_kcmp, self, self, KCMP_FILE, fd1, fd2);
}

/* A byte of a pattern in which no part is like another. */
static inline unsigned char pattern_at(size_t i)
{
	return (i * 2654435761U) >> 13;
}

static inline void fill_pattern(unsigned char *buf, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		buf[i] = pattern_at(i);
}

static inline bool is_pattern(const unsigned char *buf, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		if (buf[i] != pattern_at(i))
			return false;
	return true;
}

/* A descriptor of the same file in a process that is no member: its PID. */
static inline pid_t start_outsider(struct __test_metadata *_metadata, int fd)
{
	pid_t pid;

	store(&report->word[WORD_OUTSIDER], 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close_all_but(fd);
		store(&report->word[WORD_OUTSIDER], 1);
		for (;;)
			pause();
	}
	/* Until then it has all the others too. */
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
	return pid;
}

static inline void end_outsider(struct __test_metadata *_metadata, pid_t pid)
{
	ASSERT_EQ(0, kill(pid, SIGKILL));
	xwaitpid(_metadata, pid, DEADLINE);
}

/* Sends the descriptor @passed in a message by the unix socket @fd. */
static inline bool send_fd(int fd, int passed)
{
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = { .iov_base = "f", .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &passed, sizeof(passed));
	return sendmsg(fd, &msg, 0) == 1;
}

/* The descriptor in the next message, if that is one of send_fd(), or -1. */
static inline int receive_fd(int fd, int flags)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int received;

	if (recvmsg(fd, &msg, MSG_DONTWAIT | flags) != 1 || byte != 'f')
		return -1;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&received, CMSG_DATA(cmsg), sizeof(received));
	return received;
}

/* In the replica: wait until the original has done its part. */
static inline void wait_turn(void)
{
	replica_assert(wait_until(load(&report->word[WORD_TURN]), DEADLINE));
}

static inline void give_turn(void)
{
	store(&report->word[WORD_TURN], 1);
}

/* A full fork with CLONE_ISOLATE whose replica runs @fn: its PID. */
static inline long isolate(struct __test_metadata *_metadata, __u64 flags,
			   int (*fn)(void *arg), void *arg)
{
	long pid = replica_main(full_fork(CLONE_ISOLATE | flags), fn, arg);

	ASSERT_LT(0, pid)
	{
		TH_LOG("full fork with CLONE_ISOLATE: %s", strerror(-pid));
	}
	return pid;
}

static inline void isolate_and_pass(struct __test_metadata *_metadata, __u64 flags,
				    int (*fn)(void *arg), void *arg)
{
	expect_pass(_metadata, isolate(_metadata, flags, fn, arg));
}

static inline int see_nothing(void *arg)
{
	return REPLICA_PASS;
}

/* A call with CLONE_ISOLATE and @flags fails, and leaves nothing. */
static inline void expect_refused(struct __test_metadata *_metadata, __u64 flags)
{
	struct census before = take_census();
	long pid = replica_main(full_fork(CLONE_ISOLATE | flags), see_nothing, NULL);

	EXPECT_EQ(-EOPNOTSUPP, pid);
	if (pid > 0)
		expect_pass(_metadata, pid);
	expect_census(before);
}

#endif /* _FULLFORK_ISOLATE_H */
