// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: of many descriptors, most of which others have, too, those are copied
 * that only members have.
 */
#include "fullfork_isolate.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define MAX_OUTER 100

FIXTURE(outer)
{
	int fd[MAX_OUTER];
	unsigned int nr;
	int file;		/* one more that others have */
	int device;		/* the same, of a kind that is not known */
	int internal;		/* an eventfd that only members have */
	int ends[2];		/* of a pair of sockets like that */
	pid_t heir;		/* it has what there was before */
};

FIXTURE_VARIANT(outer)
{
	int (*open)(void);
	unsigned int nr;
};

static int open_eventfd(void)
{
	return eventfd(0, EFD_NONBLOCK);
}

FIXTURE_VARIANT_ADD(outer, eventfds)
{
	.open = open_eventfd,
	.nr = MAX_OUTER,
};

/* So few that they are looked at one by one */
FIXTURE_VARIANT_ADD(outer, few_eventfds)
{
	.open = open_eventfd,
	.nr = 5,
};

/* Of several kinds, by turns */
static int open_mixed(void)
{
	static unsigned int turn;
	int ends[2];

	switch (turn++ % 4) {
	case 0:
		return eventfd(0, EFD_NONBLOCK);
	case 1:
		return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || close(ends[1]) ? -1 : ends[0];
	case 2:
		return pipe(ends) || close(ends[1]) ? -1 : ends[0];
	default:
		return memfd_create("outer", 0);
	}
}

FIXTURE_VARIANT_ADD(outer, mixed)
{
	.open = open_mixed,
	.nr = MAX_OUTER,
};

#define NAME "/dev/shm/fullfork-outer"

/* It keeps its name, and so there are positions to be copied. */
static int open_file(void)
{
	return open(NAME, O_RDWR | O_CREAT, 0600);
}

FIXTURE_VARIANT_ADD(outer, files)
{
	.open = open_file,
	.nr = MAX_OUTER,
};

/* It is no descendant, and ends with whoever has @ends of its pipe. */
static pid_t start_heir(struct __test_metadata *_metadata)
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
		close(ends[1]);
		store(&report->word[WORD_OUTSIDER], syscall(__NR_getpid));
		while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
			;
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	ASSERT_EQ(0, close(ends[0]));
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
	return load(&report->word[WORD_OUTSIDER]);
}

/* Somebody else waits for it. */
static bool end_heir(pid_t heir)
{
	kill(heir, SIGKILL);
	return wait_until(kill(heir, 0) && errno == ESRCH, DEADLINE);
}

FIXTURE_SETUP(outer)
{
	unsigned int i;

	require_isolate(_metadata);
	self->nr = variant->nr;
	for (i = 0; i < self->nr; i++) {
		self->fd[i] = variant->open();
		ASSERT_LE(0, self->fd[i]);
	}
	self->file = open_file();
	ASSERT_LE(0, self->file);
	self->device = open("/dev/null", O_RDWR);
	ASSERT_LE(0, self->device);
	self->heir = start_heir(_metadata);
	self->internal = eventfd(3, EFD_NONBLOCK);
	ASSERT_LE(0, self->internal);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->ends));
}

FIXTURE_TEARDOWN(outer)
{
	unlink(NAME);
	EXPECT_TRUE(end_heir(self->heir));
}

static bool all_are(const FIXTURE_DATA(outer) *self, const char *what)
{
	unsigned int i;

	for (i = 0; i < self->nr; i++) {
		if (strcmp(what, fdinfo_says("self", self->fd[i]))) {
			fprintf(stderr, "# number %u is '%s', not '%s'\n", i,
				fdinfo_says("self", self->fd[i]), what);
			return false;
		}
	}
	return true;
}

static __u64 take_count(int fd)
{
	__u64 count = 0;

	if (read(fd, &count, sizeof(count)) != sizeof(count))
		return 0;
	return count;
}

static int see_what_is_copied(void *arg)
{
	FIXTURE_DATA(outer) *self = arg;

	replica_assert(all_are(self, "shared"));
	replica_assert_fdinfo("shared", self->file);
	replica_assert_fdinfo("", self->device);
	replica_assert_fdinfo("copied", self->internal);
	replica_assert_fdinfo("copied", self->ends[0]);
	replica_assert_fdinfo("copied", self->ends[1]);
	replica_assert_eq(3, take_count(self->internal));
	return REPLICA_PASS;
}

static void expect_as_before(struct __test_metadata *_metadata, FIXTURE_DATA(outer) *self)
{
	EXPECT_TRUE(all_are(self, "shared"));
	EXPECT_STREQ("", fdinfo_says("self", self->internal));
	EXPECT_EQ(3, take_count(self->internal));
}

TEST_F(outer, among_which_some_are_not)
{
	isolate_and_pass(_metadata, 0, see_what_is_copied, self);
	isolate_and_pass(_metadata, 0, see_what_is_copied, self);
	expect_as_before(_metadata, self);
}

static int see_both(void *arg)
{
	FIXTURE_DATA(outer) *self = arg;

	replica_assert(is_same_file(self->internal, 1000));
	return see_what_is_copied(self);
}

TEST_F(outer, and_one_that_has_two_descriptors)
{
	ASSERT_EQ(1000, dup2(self->internal, 1000));
	isolate_and_pass(_metadata, 0, see_both, self);
	expect_as_before(_metadata, self);
}

static int see_what_is_sent(void *arg)
{
	FIXTURE_DATA(outer) *self = arg;

	replica_assert(is_same_file(self->internal, receive_fd(self->ends[1], 0)));
	replica_assert(is_same_file(self->fd[3], receive_fd(self->ends[1], 0)));
	return see_what_is_copied(self);
}

/* It has one descriptor, and is held twice: that is seen in the message only. */
TEST_F(outer, and_one_that_is_in_a_message)
{
	ASSERT_TRUE(send_fd(self->ends[0], self->internal));
	ASSERT_TRUE(send_fd(self->ends[0], self->fd[3]));
	isolate_and_pass(_metadata, 0, see_what_is_sent, self);
	expect_as_before(_metadata, self);
}

static int see_memory(void *arg)
{
	FIXTURE_DATA(outer) *self = arg;

	replica_assert_fdinfo("copied", 1000);
	return see_what_is_copied(self);
}

TEST_F(outer, and_one_that_is_mapped)
{
	int fd = memfd_create("mapped", 0);

	ASSERT_EQ(1000, dup2(fd, 1000));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, ftruncate(1000, 1 << 16));
	ASSERT_NE(MAP_FAILED, mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, 1000, 0));
	isolate_and_pass(_metadata, 0, see_memory, self);
	expect_as_before(_metadata, self);
}

static int see_ends_shared(void *arg)
{
	FIXTURE_DATA(outer) *self = arg;

	replica_assert_fdinfo("shared", 1000);
	replica_assert_fdinfo("shared", 1001);
	return see_what_is_copied(self);
}

/* What has an end that others have is shared with both ends. */
TEST_F(outer, and_one_end_of_a_pipe)
{
	int ends[2];
	pid_t pid;

	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(1000, dup2(ends[0], 1000));
	ASSERT_EQ(1001, dup2(ends[1], 1001));
	ASSERT_EQ(0, close(ends[0]));
	ASSERT_EQ(0, close(ends[1]));
	pid = start_outsider(_metadata, 1000);
	isolate_and_pass(_metadata, 0, see_ends_shared, self);
	expect_as_before(_metadata, self);
	end_outsider(_metadata, pid);
}

static int keep_lock(void *arg)
{
	wait_turn();
	return REPLICA_PASS;
}

/* The replica has the record lock, too, by a file that is shared. */
TEST_F(outer, and_one_that_is_locked)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 10 };
	long pid;

	ASSERT_EQ(0, fcntl(self->file, F_SETLK, &lock));
	pid = isolate(_metadata, 0, keep_lock, self);
	lock.l_type = F_UNLCK;
	EXPECT_EQ(0, fcntl(self->file, F_SETLK, &lock));
	lock.l_type = F_WRLCK;
	EXPECT_EQ(0, fcntl(self->file, F_GETLK, &lock));
	EXPECT_EQ(F_RDLCK, lock.l_type);
	EXPECT_EQ(pid, lock.l_pid);
	give_turn();
	expect_pass(_metadata, pid);
	expect_as_before(_metadata, self);
}

/* It is looked at, as it may have locks; but it is just shared. */
TEST_F(outer, and_a_device_that_was_locked)
{
	ASSERT_EQ(0, flock(self->device, LOCK_SH));
	isolate_and_pass(_metadata, 0, see_what_is_copied, self);
	ASSERT_EQ(0, flock(self->device, LOCK_UN));
	isolate_and_pass(_metadata, 0, see_what_is_copied, self);
	expect_as_before(_metadata, self);
}

/* Nothing is said of a call that came to nothing. */
TEST_F(outer, and_no_descriptor_left)
{
	struct rlimit limit, none;
	int pidfd;
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_ISOLATE | CLONE_PIDFD,
		.exit_signal = SIGCHLD,
		.pidfd = ptr_to_u64(&pidfd),
	};

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = limit.rlim_max };
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
	EXPECT_EQ(-EMFILE, replica_main(sys_clone3(&args, sizeof(args)), see_nothing, NULL));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	EXPECT_TRUE(all_are(self, ""));
	isolate_and_pass(_metadata, 0, see_what_is_copied, self);
	expect_as_before(_metadata, self);
}

/* A child that has them, too, sees it in its replica. */
static pid_t start_child(struct __test_metadata *_metadata, FIXTURE_DATA(outer) *self,
			 const char *what)
{
	pid_t pid = fork(), original;

	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		original = syscall(__NR_getpid);
		store(&report->word[WORD_FREE], 1);
		wait_turn();
		if (syscall(__NR_getpid) == original)
			_exit(0);
		replica_assert(all_are(self, what));
		replica_assert_fdinfo("copied", self->internal);
		replica_assert_eq(3, take_count(self->internal));
		store(&report->word[WORD_FREE + 1], 1);
		_exit(0);
	}
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	return pid;
}

static void expect_taken(FIXTURE_DATA(outer) *self)
{
	replica_assert_fdinfo("copied", self->internal);
	replica_assert_fdinfo("copied", self->ends[0]);
	replica_assert(wait_until(load(&report->word[WORD_FREE + 1]), DEADLINE));
	replica_assert_eq(0, take_count(self->internal));
}

static int see_shared_in_root(void *arg)
{
	FIXTURE_DATA(outer) *self = arg;

	wait_turn();
	replica_assert(all_are(self, "shared"));
	expect_taken(self);
	return REPLICA_PASS;
}

/* All is counted in two tables. */
TEST_F(outer, that_two_members_have)
{
	pid_t child = start_child(_metadata, self, "shared");
	long pid = isolate(_metadata, CLONE_SUBTREE, see_shared_in_root, self);

	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, xwaitpid(_metadata, child, DEADLINE));
	expect_as_before(_metadata, self);
}

static int see_copied_in_root(void *arg)
{
	FIXTURE_DATA(outer) *self = arg;

	wait_turn();
	replica_assert(all_are(self, "copied"));
	replica_assert_fdinfo("copied", self->file);
	expect_taken(self);
	return REPLICA_PASS;
}

TEST_F(outer, unless_only_members_have_them)
{
	pid_t child;
	long pid;

	ASSERT_TRUE(end_heir(self->heir));
	child = start_child(_metadata, self, "copied");
	pid = isolate(_metadata, CLONE_SUBTREE, see_copied_in_root, self);
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, xwaitpid(_metadata, child, DEADLINE));
	EXPECT_TRUE(all_are(self, ""));
	EXPECT_EQ(3, take_count(self->internal));
}

TEST_HARNESS_MAIN
