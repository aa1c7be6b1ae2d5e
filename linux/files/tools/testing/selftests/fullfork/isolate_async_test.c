// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: what sends signals to members (F_SETOWN, O_ASYNC) is copied, and the
 * copy sends them to the replicas of these members.
 */
#define _GNU_SOURCE
#include "fullfork_isolate.h"

#include <linux/landlock.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <termios.h>

#define SIG_READY (SIGRTMIN + 2)

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

/* Words of the report */
enum {
	WORD_TOLD = WORD_FREE,	/* how many others were told */
	WORD_HEARD,		/* they hear */
};

enum kind { PIPE, SOCKET, TERMINAL, FIFO, FIFO_OF_BOTH };

/* All signals that are used are blocked, and taken one by one. */
static sigset_t set;

/* What is read from is @fd, what is written to is @other. */
FIXTURE(async)
{
	int fd;
	int other;
	int old_fd;		/* as the tests need it */
	pid_t outsider;
	pthread_t thread;
};

FIXTURE_VARIANT(async)
{
	enum kind kind;
};

FIXTURE_VARIANT_ADD(async, pipe) { .kind = PIPE };
FIXTURE_VARIANT_ADD(async, socket) { .kind = SOCKET };
FIXTURE_VARIANT_ADD(async, terminal) { .kind = TERMINAL };
FIXTURE_VARIANT_ADD(async, fifo) { .kind = FIFO };

static void block_all(struct __test_metadata *_metadata)
{
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigaddset(&set, SIGURG);
	sigaddset(&set, SIG_READY);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
}

static bool open_terminal(int fds[2])
{
	struct termios t;
	char name[64];

	fds[1] = posix_openpt(O_RDWR | O_NOCTTY);
	if (fds[1] < 0 || unlockpt(fds[1]) || ptsname_r(fds[1], name, sizeof(name)))
		return false;
	fds[0] = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (fds[0] < 0 || tcgetattr(fds[0], &t))
		return false;
	cfmakeraw(&t);
	return !tcsetattr(fds[0], TCSANOW, &t);
}

/* One without a name */
static bool open_fifo(int fds[2], int reader, int writer)
{
	char path[] = "/tmp/fullfork.XXXXXX";

	close(mkstemp(path));
	if (unlink(path) || mkfifo(path, 0600))
		return false;
	fds[0] = open(path, reader | O_NONBLOCK);
	fds[1] = open(path, writer | O_NONBLOCK);
	return fds[0] >= 0 && fds[1] >= 0 && !unlink(path);
}

static bool open_kind(enum kind kind, int *fd, int *other)
{
	int fds[2] = { -1, -1 };
	bool opened = false;

	switch (kind) {
	case PIPE:
		opened = !pipe2(fds, O_NONBLOCK);
		break;
	case SOCKET:
		opened = !socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds);
		break;
	case TERMINAL:
		opened = open_terminal(fds);
		break;
	case FIFO:
		opened = open_fifo(fds, O_RDONLY, O_WRONLY);
		break;
	case FIFO_OF_BOTH:
		opened = open_fifo(fds, O_RDWR, O_RDWR);
		break;
	}
	*fd = fds[0];
	*other = fds[1];
	return opened;
}

FIXTURE_SETUP(async)
{
	require_isolate(_metadata);
	block_all(_metadata);
	ASSERT_TRUE(open_kind(variant->kind, &self->fd, &self->other));
}

FIXTURE_TEARDOWN(async)
{
}

/* The number of the next signal within @seconds, -1 if there is none. */
static int take(siginfo_t *info, int seconds)
{
	struct timespec ts = { .tv_sec = seconds };
	int sig;

	do {
		sig = sigtimedwait(&set, info, &ts);
	} while (sig < 0 && errno == EINTR);
	return sig;
}

static bool takes(int sig)
{
	return take(NULL, DEADLINE) == sig;
}

static bool takes_none(void)
{
	return take(NULL, 0) == -1;
}

static int set_flag(int fd, int flag)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | flag);
}

static int clear_flag(int fd, int flag)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~flag);
}

static bool is_async(int fd)
{
	return fcntl(fd, F_GETFL) & O_ASYNC;
}

static void make_async(struct __test_metadata *_metadata, int fd, pid_t owner)
{
	ASSERT_EQ(0, fcntl(fd, F_SETOWN, owner));
	ASSERT_EQ(0, set_flag(fd, O_ASYNC));
}

/* Lets there be something to read. */
static bool writes(FIXTURE_DATA(async) *self)
{
	return write(self->other, "x", 1) == 1;
}

static bool reads(FIXTURE_DATA(async) *self)
{
	char byte;

	return wait_until(read(self->fd, &byte, 1) == 1, DEADLINE);
}

/* One signal for each byte. */
static bool is_told(FIXTURE_DATA(async) *self, int sig)
{
	return writes(self) && takes(sig) && reads(self) && takes_none();
}

/* There is something to read, of which nobody is told. */
static bool is_not_told(FIXTURE_DATA(async) *self)
{
	return writes(self) && reads(self) && takes_none();
}

static int see_own(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_fdinfo("copied", self->other);
	replica_assert(is_async(self->fd));
	replica_assert(takes_none());
	replica_assert(is_told(self, SIGIO));
	replica_assert(is_told(self, SIGIO));
	return REPLICA_PASS;
}

TEST_F(async, tells_the_replica_only_of_what_the_replica_does)
{
	make_async(_metadata, self->fd, getpid());
	isolate_and_pass(_metadata, 0, see_own, self);
	EXPECT_TRUE(takes_none());
	EXPECT_TRUE(is_told(self, SIGIO));
}

static int see_none(void *arg)
{
	wait_turn();
	replica_assert(takes_none());
	return REPLICA_PASS;
}

TEST_F(async, tells_the_original_only_of_what_the_original_does)
{
	long pid;

	make_async(_metadata, self->fd, getpid());
	pid = isolate(_metadata, 0, see_none, self);
	EXPECT_TRUE(is_told(self, SIGIO));
	give_turn();
	expect_pass(_metadata, pid);
}

/* The flag makes the difference: the owner of what is shared is the original. */
static int tell_the_original(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert(is_not_told(self));
	return REPLICA_PASS;
}

TEST_F(async, tells_the_original_without_the_flag)
{
	make_async(_metadata, self->fd, getpid());
	fork_and_pass(_metadata, 0, tell_the_original, self);
	EXPECT_TRUE(takes(SIGIO));
}

static bool tells_what(FIXTURE_DATA(async) *self, int fd)
{
	siginfo_t info = {};

	return writes(self) && take(&info, DEADLINE) == SIG_READY && info.si_fd == fd &&
	       info.si_code == POLL_IN && info.si_band == (POLLIN | POLLRDNORM) && reads(self);
}

static int see_what(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_eq(SIG_READY, fcntl(self->fd, F_GETSIG));
	replica_assert(tells_what(self, self->fd));
	return REPLICA_PASS;
}

TEST_F(async, tells_by_a_realtime_signal_what_is_ready)
{
	make_async(_metadata, self->fd, getpid());
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
	isolate_and_pass(_metadata, 0, see_what, self);
	EXPECT_TRUE(takes_none());
	EXPECT_TRUE(tells_what(self, self->fd));
}

static int see_old_number(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert(tells_what(self, self->old_fd));
	return REPLICA_PASS;
}

/* That is what a program has in its table of connections. */
TEST_F(async, tells_the_number_that_had_the_flag_set)
{
	make_async(_metadata, self->fd, getpid());
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
	self->old_fd = self->fd;
	self->fd = fcntl(self->fd, F_DUPFD, 100);
	ASSERT_LE(100, self->fd);
	ASSERT_EQ(0, close(self->old_fd));
	isolate_and_pass(_metadata, 0, see_old_number, self);
	EXPECT_TRUE(tells_what(self, self->old_fd));
}

static int see_duplicate(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert(is_same_file(self->fd, self->old_fd));
	replica_assert_eq(getpid(), fcntl(self->old_fd, F_GETOWN));
	replica_assert(is_async(self->old_fd));
	/* Once, and by one number. */
	replica_assert(tells_what(self, self->fd));
	replica_assert(takes_none());
	return REPLICA_PASS;
}

TEST_F(async, tells_once_by_duplicates)
{
	make_async(_metadata, self->fd, getpid());
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
	self->old_fd = dup(self->fd);
	ASSERT_LE(0, self->old_fd);
	isolate_and_pass(_metadata, 0, see_duplicate, self);
	EXPECT_TRUE(tells_what(self, self->fd));
}

static int turn_off(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_eq(0, clear_flag(self->fd, O_ASYNC));
	replica_assert(is_not_told(self));
	replica_assert_eq(0, set_flag(self->fd, O_ASYNC));
	replica_assert(is_told(self, SIGIO));
	replica_assert_eq(0, clear_flag(self->fd, O_ASYNC));
	return REPLICA_PASS;
}

TEST_F(async, is_turned_off_on_one_side_only)
{
	make_async(_metadata, self->fd, getpid());
	isolate_and_pass(_metadata, 0, turn_off, self);
	EXPECT_TRUE(is_told(self, SIGIO));
}

static int see_owner(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_eq(getpid(), fcntl(self->fd, F_GETOWN));
	replica_assert(!is_async(self->fd));
	replica_assert(is_not_told(self));
	replica_assert_eq(0, set_flag(self->fd, O_ASYNC));
	replica_assert(is_told(self, SIGIO));
	return REPLICA_PASS;
}

TEST_F(async, has_an_owner_before_it_is_turned_on)
{
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN, getpid()));
	isolate_and_pass(_metadata, 0, see_owner, self);
	EXPECT_FALSE(is_async(self->fd));
	EXPECT_TRUE(is_not_told(self));
}

static int see_no_owner(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(0, fcntl(self->fd, F_GETOWN));
	replica_assert(is_async(self->fd));
	replica_assert(is_not_told(self));
	replica_assert_eq(0, fcntl(self->fd, F_SETOWN, getpid()));
	replica_assert(tells_what(self, self->fd));
	return REPLICA_PASS;
}

/* A terminal chooses one when it is turned on. */
TEST_F(async, stays_without_an_owner)
{
	ASSERT_EQ(0, set_flag(self->fd, O_ASYNC));
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN, 0));
	isolate_and_pass(_metadata, 0, see_no_owner, self);
	EXPECT_EQ(0, fcntl(self->fd, F_GETOWN));
	EXPECT_TRUE(is_not_told(self));
}

static int see_signal_number(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_eq(SIG_READY, fcntl(self->fd, F_GETSIG));
	replica_assert_eq(0, fcntl(self->fd, F_GETOWN));
	replica_assert_eq(0, fcntl(self->fd, F_SETSIG, 0));
	return REPLICA_PASS;
}

TEST_F(async, keeps_a_signal_that_nobody_gets_yet)
{
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
	isolate_and_pass(_metadata, 0, see_signal_number, self);
	EXPECT_EQ(SIG_READY, fcntl(self->fd, F_GETSIG));
}

/* Tells each side's thread to take what is there, and what it was. */
static __u32 may_take;
static __u32 taken;

static void *take_in_thread(void *tid)
{
	store(tid, sys_gettid());
	while (!load(&may_take))
		poll_pause();
	store(&taken, take(NULL, DEADLINE));
	return NULL;
}

static __u32 thread_tid;

static bool thread_is_told(FIXTURE_DATA(async) *self)
{
	if (!writes(self) || !reads(self) || !takes_none())
		return false;
	store(&may_take, 1);
	return !pthread_join(self->thread, NULL) && taken == SIGIO;
}

static int see_thread(void *arg)
{
	FIXTURE_DATA(async) *self = arg;
	struct f_owner_ex owner;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(0, fcntl(self->fd, F_GETOWN_EX, &owner));
	replica_assert_eq(F_OWNER_TID, owner.type);
	/* The other thread, which has another number here. */
	replica_assert(owner.pid != getpid());
	replica_assert(owner.pid != thread_tid);
	replica_assert(!syscall(__NR_tgkill, getpid(), owner.pid, 0));
	replica_assert(thread_is_told(self));
	return REPLICA_PASS;
}

TEST_F(async, tells_the_thread_that_owns_it)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID };

	ASSERT_EQ(0, pthread_create(&self->thread, NULL, take_in_thread, &thread_tid));
	ASSERT_TRUE(wait_until(load(&thread_tid), DEADLINE));
	owner.pid = thread_tid;
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN_EX, &owner));
	ASSERT_EQ(0, set_flag(self->fd, O_ASYNC));
	isolate_and_pass(_metadata, 0, see_thread, self);
	EXPECT_TRUE(thread_is_told(self));
}

static int see_same_numbers(void *arg)
{
	FIXTURE_DATA(async) *self = arg;
	struct f_owner_ex owner;

	replica_assert_eq(self->outsider, getpid());
	replica_assert_eq(getpid(), fcntl(self->fd, F_GETOWN));
	replica_assert_eq(0, fcntl(self->fd, F_GETOWN_EX, &owner));
	replica_assert_eq(F_OWNER_PID, owner.type);
	replica_assert_eq(getpid(), owner.pid);
	replica_assert(is_told(self, SIGIO));
	return REPLICA_PASS;
}

TEST_F(async, names_the_same_owner_with_kept_tids)
{
	require_root(_metadata, "a PID namespace");
	self->outsider = getpid();
	make_async(_metadata, self->fd, getpid());
	isolate_and_pass(_metadata, CLONE_KEEP_TIDS | CLONE_NEWPID, see_same_numbers, self);
	EXPECT_EQ(getpid(), fcntl(self->fd, F_GETOWN));
}

static int see_group(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(getpid(), getpgrp());
	replica_assert_eq(-getpgrp(), fcntl(self->fd, F_GETOWN));
	replica_assert(is_told(self, SIGIO));
	replica_assert(wait_until(load(&report->word[WORD_TOLD]) == 1, DEADLINE));
	return REPLICA_PASS;
}

/* A child in the group of its parent, that says when it was told. */
static pid_t start_listener(struct __test_metadata *_metadata)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		add(&report->word[WORD_HEARD], 1);
		if (takes(SIGIO))
			add(&report->word[WORD_TOLD], 1);
		_exit(0);
	}
	EXPECT_TRUE(wait_until(load(&report->word[WORD_HEARD]), DEADLINE));
	return pid;
}

TEST_F(async, tells_the_process_group_that_owns_it)
{
	pid_t child;

	ASSERT_EQ(0, setpgid(0, 0));
	child = start_listener(_metadata);
	make_async(_metadata, self->fd, -getpgrp());
	isolate_and_pass(_metadata, CLONE_SUBTREE, see_group, self);
	/* Nobody of this group. */
	EXPECT_TRUE(takes_none());
	EXPECT_TRUE(is_told(self, SIGIO));
	EXPECT_TRUE(wait_until(load(&report->word[WORD_TOLD]) == 2, DEADLINE));
	xwaitpid(_metadata, child, DEADLINE);
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	replica_assert_fdinfo("shared", self->other);
	return REPLICA_PASS;
}

/* Has nothing open but what it always has. */
static void start_owner(struct __test_metadata *_metadata, FIXTURE_DATA(async) *self)
{
	self->outsider = start_outsider(_metadata, 0);
	ASSERT_EQ(0, setpgid(self->outsider, self->outsider));
}

static int see_copied(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert(is_not_told(self));
	return REPLICA_PASS;
}

/* It is not the other process that makes the difference. */
static void expect_copied(struct __test_metadata *_metadata, FIXTURE_DATA(async) *self)
{
	ASSERT_EQ(0, clear_flag(self->fd, O_ASYNC));
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN, getpid()));
	isolate_and_pass(_metadata, 0, see_copied, self);
	end_outsider(_metadata, self->outsider);
}

TEST_F(async, is_shared_if_somebody_else_owns_it)
{
	start_owner(_metadata, self);
	make_async(_metadata, self->fd, self->outsider);
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_EQ(self->outsider, fcntl(self->fd, F_GETOWN));
	expect_copied(_metadata, self);
}

TEST_F(async, is_shared_if_another_group_owns_it)
{
	start_owner(_metadata, self);
	make_async(_metadata, self->fd, -self->outsider);
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_EQ(-self->outsider, fcntl(self->fd, F_GETOWN));
	expect_copied(_metadata, self);
}

TEST_F(async, is_shared_if_a_thread_of_somebody_else_owns_it)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID };

	start_owner(_metadata, self);
	owner.pid = self->outsider;
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN_EX, &owner));
	isolate_and_pass(_metadata, 0, see_shared, self);
	expect_copied(_metadata, self);
}

/* Names the owner as one who may not send signals to it. */
static int name_owner_confined(int fd, pid_t owner)
{
	struct landlock_ruleset_attr attr = { .scoped = LANDLOCK_SCOPE_SIGNAL };
	int rules = syscall(__NR_landlock_create_ruleset, &attr, sizeof(attr), 0);

	return rules < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       syscall(__NR_landlock_restrict_self, rules, 0) || fcntl(fd, F_SETOWN, owner);
}

/* The replica would get the signals that the original must not get. */
TEST_F(async, is_shared_if_who_named_the_owner_may_not_signal_it)
{
	pid_t pid, owner = getpid();
	int status;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(name_owner_confined(self->fd, owner));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	ASSERT_EQ(owner, fcntl(self->fd, F_GETOWN));
	ASSERT_EQ(0, set_flag(self->fd, O_ASYNC));
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_TRUE(is_not_told(self));

	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN, owner));
	isolate_and_pass(_metadata, 0, see_own, self);
}

static int see_no_signal(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert(is_async(self->fd));
	replica_assert_eq(0, fcntl(self->fd, F_GETOWN));
	return see_copied(arg);
}

TEST_F(async, is_copied_if_its_owner_has_gone)
{
	start_owner(_metadata, self);
	make_async(_metadata, self->fd, self->outsider);
	end_outsider(_metadata, self->outsider);
	ASSERT_EQ(0, fcntl(self->fd, F_GETOWN));
	isolate_and_pass(_metadata, 0, see_no_signal, self);
	EXPECT_TRUE(is_not_told(self));
}

static int see_pending(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert(takes(SIGIO));
	replica_assert(takes_none());
	replica_assert(reads(self));
	return REPLICA_PASS;
}

TEST_F(async, has_told_both_sides_of_what_was_there)
{
	sigset_t pending;

	make_async(_metadata, self->fd, getpid());
	ASSERT_TRUE(writes(self));
	ASSERT_TRUE(wait_until(!sigpending(&pending) && sigismember(&pending, SIGIO), DEADLINE));
	isolate_and_pass(_metadata, 0, see_pending, self);
	EXPECT_TRUE(takes(SIGIO));
	EXPECT_TRUE(reads(self));
}

static int see_uids(void *arg)
{
	FIXTURE_DATA(async) *self = arg;
	uid_t uids[2] = {};

	replica_assert_eq(0, fcntl(self->fd, F_GETOWNER_UIDS, uids));
	replica_assert_eq(0, uids[0]);
	replica_assert_eq(23456, uids[1]);
	/* Which may send signals to the replica. */
	replica_assert(is_told(self, SIGIO));
	return REPLICA_PASS;
}

TEST_F(async, keeps_the_rights_of_who_has_set_the_owner)
{
	require_root(_metadata, "another user");
	ASSERT_EQ(0, seteuid(23456));
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN, getpid()));
	ASSERT_EQ(0, seteuid(0));
	ASSERT_EQ(0, set_flag(self->fd, O_ASYNC));
	isolate_and_pass(_metadata, 0, see_uids, self);
}

static int see_forbidden(void *arg)
{
	FIXTURE_DATA(async) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(getpid(), fcntl(self->fd, F_GETOWN));
	replica_assert(is_not_told(self));
	return REPLICA_PASS;
}

/* A user may not send signals to root, neither here nor there. */
TEST_F(async, keeps_the_lack_of_rights_of_who_has_set_the_owner)
{
	require_root(_metadata, "another user");
	ASSERT_EQ(0, setresuid(23456, 23456, 0));
	ASSERT_EQ(0, fcntl(self->fd, F_SETOWN, getpid()));
	ASSERT_EQ(0, setresuid(0, 0, 0));
	ASSERT_EQ(0, set_flag(self->fd, O_ASYNC));
	isolate_and_pass(_metadata, 0, see_forbidden, self);
	EXPECT_TRUE(is_not_told(self));
}

/* Late, when pending signals are copied. */
TEST_F(async, tells_the_original_after_a_call_that_failed)
{
	struct rlimit limit, old;
	struct census before;
	int i;

	require_root(_metadata, "limits of another user");
	make_async(_metadata, self->fd, getpid());
	ASSERT_EQ(0, setresuid(23456, 23456, 0));
	for (i = 0; i < 6; i++)
		ASSERT_EQ(0, sigqueue(getpid(), SIG_READY, (union sigval){}));
	ASSERT_EQ(0, getrlimit(RLIMIT_SIGPENDING, &old));
	limit = old;
	limit.rlim_cur = 8;
	ASSERT_EQ(0, setrlimit(RLIMIT_SIGPENDING, &limit));
	before = take_census();
	EXPECT_EQ(-EAGAIN, replica_main(full_fork(CLONE_ISOLATE), see_nothing, NULL));
	expect_census(before);
	ASSERT_EQ(0, setrlimit(RLIMIT_SIGPENDING, &old));
	for (i = 0; i < 6; i++)
		EXPECT_TRUE(takes(SIG_READY));
	EXPECT_EQ(getpid(), fcntl(self->fd, F_GETOWN));
	EXPECT_TRUE(is_told(self, SIGIO));
	isolate_and_pass(_metadata, 0, see_own, self);
}

/* The end that is written to, which was full. */
FIXTURE(room)
{
	FIXTURE_DATA(async) ends;
};

FIXTURE_VARIANT(room)
{
	enum kind kind;
};

FIXTURE_VARIANT_ADD(room, pipe) { .kind = PIPE };
FIXTURE_VARIANT_ADD(room, socket) { .kind = SOCKET };
FIXTURE_VARIANT_ADD(room, terminal) { .kind = TERMINAL };
FIXTURE_VARIANT_ADD(room, fifo) { .kind = FIFO };
FIXTURE_VARIANT_ADD(room, fifo_of_both) { .kind = FIFO_OF_BOTH };

FIXTURE_SETUP(room)
{
	FIXTURE_DATA(async) *ends = &self->ends;
	char buf[64] = "";
	int fd, other;

	require_isolate(_metadata);
	block_all(_metadata);
	ASSERT_TRUE(open_kind(variant->kind, &fd, &other));
	/* Of a terminal the slave can be told. */
	ends->fd = variant->kind == TERMINAL ? other : fd;
	ends->other = variant->kind == TERMINAL ? fd : other;
	ASSERT_EQ(0, set_flag(ends->fd, O_NONBLOCK));
	make_async(_metadata, ends->other, getpid());
	ASSERT_EQ(0, fcntl(ends->other, F_SETSIG, SIG_READY));
	/* As much as there is room for, and once more. */
	while (write(ends->other, buf, sizeof(buf)) > 0)
		;
	ASSERT_EQ(EAGAIN, errno);
	while (take(NULL, 0) > 0)
		;
}

FIXTURE_TEARDOWN(room)
{
}

/* Reads all, and is told by the other end that there is room. */
static bool is_told_of_room(FIXTURE_DATA(async) *ends)
{
	siginfo_t info = {};
	char buf[1024];

	if (!takes_none())
		return false;
	while (read(ends->fd, buf, sizeof(buf)) > 0)
		;
	/* Who reads and writes by one description is told of both. */
	do {
		if (take(&info, DEADLINE) != SIG_READY)
			return false;
	} while (info.si_code != POLL_OUT);
	return info.si_fd == ends->other;
}

static int see_room(void *ends)
{
	replica_assert_fdinfo("copied", ((FIXTURE_DATA(async) *)ends)->other);
	replica_assert(is_told_of_room(ends));
	return REPLICA_PASS;
}

TEST_F(room, is_told_on_its_own_side)
{
	isolate_and_pass(_metadata, 0, see_room, &self->ends);
	EXPECT_TRUE(is_told_of_room(&self->ends));
}

/* A FIFO that is read from and written to by one description */
FIXTURE(fifo)
{
	int fd;
	int other;
};

FIXTURE_SETUP(fifo)
{
	require_isolate(_metadata);
	block_all(_metadata);
	ASSERT_TRUE(open_kind(FIFO_OF_BOTH, &self->fd, &self->other));
	make_async(_metadata, self->fd, getpid());
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
}

FIXTURE_TEARDOWN(fifo)
{
}

static bool takes_code(int code)
{
	siginfo_t info = {};

	return take(&info, DEADLINE) == SIG_READY && info.si_code == code;
}

static bool is_told_of_both(int fd)
{
	char byte = 'x';

	return write(fd, &byte, 1) == 1 && takes_code(POLL_IN) && takes_none() &&
	       read(fd, &byte, 1) == 1 && takes_code(POLL_OUT) && takes_none();
}

static int see_both(void *arg)
{
	FIXTURE_DATA(fifo) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert(is_told_of_both(self->fd));
	return REPLICA_PASS;
}

TEST_F(fifo, is_told_to_read_and_to_write)
{
	isolate_and_pass(_metadata, 0, see_both, self);
	EXPECT_TRUE(takes_none());
	EXPECT_TRUE(is_told_of_both(self->fd));
}

/* Two unix sockets, of which one may be urgent */
FIXTURE(urgent)
{
	int fds[2];
};

FIXTURE_SETUP(urgent)
{
	require_isolate(_metadata);
	block_all(_metadata);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, self->fds));
}

FIXTURE_TEARDOWN(urgent)
{
}

static bool is_urgent(int fds[2])
{
	return send(fds[1], "!", 1, MSG_OOB) == 1 && takes(SIGURG) && takes_none();
}

static int see_urgent(void *arg)
{
	FIXTURE_DATA(urgent) *self = arg;

	replica_assert_fdinfo("copied", self->fds[0]);
	replica_assert(is_urgent(self->fds));
	return REPLICA_PASS;
}

/* Which needs an owner, and no O_ASYNC. */
TEST_F(urgent, is_told_on_its_own_side)
{
	ASSERT_EQ(0, fcntl(self->fds[0], F_SETOWN, getpid()));
	isolate_and_pass(_metadata, 0, see_urgent, self);
	EXPECT_TRUE(takes_none());
	EXPECT_TRUE(is_urgent(self->fds));
}

/* A master that is told when one of its workers has answered, as web servers do */
FIXTURE(master)
{
	int channel[2];
	pid_t worker;
};

FIXTURE_SETUP(master)
{
	int on = 1, me = getpid();
	char byte;

	require_isolate(_metadata);
	block_all(_metadata);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->channel));
	ASSERT_EQ(0, ioctl(self->channel[0], FIOASYNC, &on));
	ASSERT_EQ(0, ioctl(self->channel[0], FIOSETOWN, &me));
	self->worker = fork();
	ASSERT_LE(0, self->worker);
	if (self->worker)
		return;
	while (read(self->channel[1], &byte, 1) == 1 && byte != 'q')
		if (write(self->channel[1], &byte, 1) != 1)
			break;
	_exit(0);
}

FIXTURE_TEARDOWN(master)
{
}

static bool is_answered(FIXTURE_DATA(master) *self)
{
	char byte = 'a';

	return write(self->channel[0], &byte, 1) == 1 && takes(SIGIO) && takes_none() &&
	       read(self->channel[0], &byte, 1) == 1 && byte == 'a';
}

static int see_answer(void *arg)
{
	FIXTURE_DATA(master) *self = arg;

	replica_assert_fdinfo("copied", self->channel[0]);
	replica_assert_fdinfo("copied", self->channel[1]);
	replica_assert(is_answered(self));
	replica_assert_eq(1, write(self->channel[0], "q", 1));
	return REPLICA_PASS;
}

TEST_F(master, is_told_by_its_own_worker)
{
	isolate_and_pass(_metadata, CLONE_SUBTREE, see_answer, self);
	EXPECT_TRUE(takes_none());
	EXPECT_TRUE(is_answered(self));
	ASSERT_EQ(1, write(self->channel[0], "q", 1));
	xwaitpid(_metadata, self->worker, DEADLINE);
}

static int see_worker_shared(void *arg)
{
	FIXTURE_DATA(master) *self = arg;

	replica_assert_fdinfo("shared", self->channel[0]);
	return REPLICA_PASS;
}

/* Its worker is not copied, and answers the original only. */
TEST_F(master, shares_its_channel_without_its_worker)
{
	isolate_and_pass(_metadata, 0, see_worker_shared, self);
	EXPECT_TRUE(is_answered(self));
	ASSERT_EQ(1, write(self->channel[0], "q", 1));
	xwaitpid(_metadata, self->worker, DEADLINE);
}

/* A terminal that controls a session, and tells its foreground */
FIXTURE(session)
{
	pid_t leader;
};

FIXTURE_SETUP(session)
{
	require_isolate(_metadata);
	block_all(_metadata);
}

FIXTURE_TEARDOWN(session)
{
}

static int see_own_group(void *arg)
{
	FIXTURE_DATA(async) *ends = arg;

	replica_assert_eq(-getpgrp(), fcntl(ends->fd, F_GETOWN));
	replica_assert(is_told(ends, SIGIO));
	return REPLICA_PASS;
}

/* The group is the owner if no other one is named. */
static int lead_session(void)
{
	FIXTURE_DATA(async) ends = {};
	int status;
	long pid;

	replica_assert(setsid() == getpid());
	replica_assert(open_kind(TERMINAL, &ends.fd, &ends.other));
	replica_assert_eq(0, ioctl(ends.fd, TIOCSCTTY, 0));
	replica_assert_eq(0, set_flag(ends.fd, O_ASYNC));
	replica_assert_eq(-getpgrp(), fcntl(ends.fd, F_GETOWN));
	pid = replica_main(full_fork(CLONE_ISOLATE), see_own_group, &ends);
	replica_assert(pid > 0);
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	replica_assert_eq(REPLICA_PASS, WEXITSTATUS(status));
	replica_assert(takes_none());
	return see_own_group(&ends);
}

TEST_F(session, is_told_of_its_own_terminal)
{
	self->leader = fork();
	ASSERT_LE(0, self->leader);
	if (!self->leader)
		replica_exit(lead_session());
	expect_pass(_metadata, self->leader);
}

/* What is told of files, which are not copied */
FIXTURE(watch)
{
	char dir[64];
	int fd;
};

FIXTURE_SETUP(watch)
{
	require_isolate(_metadata);
	block_all(_metadata);
	snprintf(self->dir, sizeof(self->dir), "/dev/shm/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
}

FIXTURE_TEARDOWN(watch)
{
	char path[128];

	for (const char *c = "ab"; *c; c++) {
		snprintf(path, sizeof(path), "%s/%c", self->dir, *c);
		unlink(path);
	}
	rmdir(self->dir);
}

static bool creates(FIXTURE_DATA(watch) *self, const char *name)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", self->dir, name);
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static int see_event(void *arg)
{
	FIXTURE_DATA(watch) *self = arg;
	siginfo_t info;

	replica_assert_fdinfo("copied", self->fd);
	replica_assert_eq(SIG_READY, take(&info, DEADLINE));
	replica_assert_eq(self->fd, info.si_fd);
	replica_assert_eq(POLL_IN, info.si_code);
	replica_assert(takes_none());
	return REPLICA_PASS;
}

/* Of one event: both have a watch. */
TEST_F(watch, of_inotify_tells_both_sides)
{
	siginfo_t info;
	long pid;

	self->fd = inotify_init1(IN_NONBLOCK);
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, inotify_add_watch(self->fd, self->dir, IN_CREATE));
	make_async(_metadata, self->fd, getpid());
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
	pid = isolate(_metadata, 0, see_event, self);
	ASSERT_TRUE(creates(self, "a"));
	EXPECT_EQ(SIG_READY, take(&info, DEADLINE));
	EXPECT_EQ(self->fd, info.si_fd);
	expect_pass(_metadata, pid);
	EXPECT_TRUE(takes_none());
}

/* Which finds it when it goes on. */
TEST_F(watch, of_inotify_tells_a_replica_that_is_stopped)
{
	long pid;

	self->fd = inotify_init1(IN_NONBLOCK);
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, inotify_add_watch(self->fd, self->dir, IN_CREATE));
	make_async(_metadata, self->fd, getpid());
	ASSERT_EQ(0, fcntl(self->fd, F_SETSIG, SIG_READY));
	pid = isolate(_metadata, CLONE_STOPPED, see_event, self);
	ASSERT_TRUE(WIFSTOPPED(xwait(_metadata, pid, WUNTRACED, DEADLINE)));
	ASSERT_TRUE(creates(self, "a"));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
	EXPECT_TRUE(takes(SIG_READY));
}

static int see_shared_directory(void *arg)
{
	FIXTURE_DATA(watch) *self = arg;

	replica_assert_fdinfo("shared", self->fd);
	replica_assert(creates(self, "a"));
	replica_assert(takes_none());
	return REPLICA_PASS;
}

static int see_copied_directory(void *arg)
{
	FIXTURE_DATA(watch) *self = arg;

	replica_assert_fdinfo("copied", self->fd);
	return REPLICA_PASS;
}

TEST_F(watch, of_a_directory_tells_the_original)
{
	self->fd = open(self->dir, O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, self->fd);
	isolate_and_pass(_metadata, 0, see_copied_directory, self);
	ASSERT_EQ(0, fcntl(self->fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
	isolate_and_pass(_metadata, 0, see_shared_directory, self);
	EXPECT_TRUE(takes(SIGIO));
	ASSERT_TRUE(creates(self, "b"));
	EXPECT_TRUE(takes(SIGIO));
}

TEST_HARNESS_MAIN
