// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: a pseudo-terminal both ends of which only members have open is
 * copied, with what was typed, what was printed, its settings, and its session.
 */
#define _GNU_SOURCE
#include "fullfork_isolate.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <termios.h>

#ifndef N_NULL
#define N_NULL 27		/* as in <linux/tty.h>, which <termios.h> contradicts */
#endif

#define PTY_MAX "/proc/sys/kernel/pty/max"
#define PTY_NR "/proc/sys/kernel/pty/nr"

FIXTURE(pty)
{
	int master;
	int slave;
	int index;
	char name[64];		/* of the slave */
};

static bool make_raw(int fd)
{
	struct termios t;

	if (tcgetattr(fd, &t))
		return false;
	cfmakeraw(&t);
	return !tcsetattr(fd, TCSANOW, &t);
}

/* Does @fd give @text next, and was nothing else there? */
static bool gives_text(int fd, const char *text)
{
	size_t len = strlen(text), got = 0;
	char buf[512];
	ssize_t n;

	while (got < len) {
		n = read(fd, buf + got, len - got);
		if (n <= 0)
			return false;
		got += n;
	}
	return !memcmp(buf, text, len);
}

static bool is_empty(int fd)
{
	int n = -1;

	return !ioctl(fd, FIONREAD, &n) && !n;
}

static bool sends_text(int fd, const char *text)
{
	return write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* Until what was written to the other end has arrived at @fd. */
static bool arrives(int fd, int count)
{
	int n = 0;

	return wait_until(!ioctl(fd, FIONREAD, &n) && n >= count, DEADLINE);
}

FIXTURE_SETUP(pty)
{
	require_isolate(_metadata);
	self->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	ASSERT_LE(0, self->master);
	ASSERT_EQ(0, unlockpt(self->master));
	ASSERT_EQ(0, ptsname_r(self->master, self->name, sizeof(self->name)));
	ASSERT_EQ(0, ioctl(self->master, TIOCGPTN, &self->index));
	self->slave = open(self->name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	ASSERT_LE(0, self->slave);
}

FIXTURE_TEARDOWN(pty)
{
}

static int expect_other_name(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	struct stat st, by_name, original;
	char name[64];
	int index;

	replica_assert_fdinfo("copied", self->master);
	replica_assert_fdinfo("copied", self->slave);
	replica_assert(!ioctl(self->master, TIOCGPTN, &index));
	replica_assert(index != self->index);
	replica_assert(!ptsname_r(self->master, name, sizeof(name)));
	replica_assert(strcmp(name, self->name));
	replica_assert(!ttyname_r(self->slave, name, sizeof(name)));
	replica_assert(!fstat(self->slave, &st) && !stat(name, &by_name));
	replica_assert(st.st_rdev == by_name.st_rdev && st.st_ino == by_name.st_ino);
	replica_assert(!stat(self->name, &original));
	replica_assert(st.st_rdev != original.st_rdev);
	replica_assert(st.st_mode == original.st_mode);
	replica_assert(st.st_uid == original.st_uid && st.st_gid == original.st_gid);
	return REPLICA_PASS;
}

TEST_F(pty, has_a_name_of_its_own)
{
	ASSERT_EQ(0, fchmod(self->slave, 0640));
	isolate_and_pass(_metadata, 0, expect_other_name, self);
	EXPECT_STREQ("", fdinfo_says("self", self->master));
}

static int expect_shared(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	int index;

	replica_assert_fdinfo("shared", self->master);
	replica_assert_fdinfo("shared", self->slave);
	replica_assert(!ioctl(self->master, TIOCGPTN, &index));
	replica_assert(index == self->index);
	return REPLICA_PASS;
}

TEST_F(pty, whose_slave_an_outsider_has_is_shared)
{
	pid_t pid = start_outsider(_metadata, self->slave);

	isolate_and_pass(_metadata, 0, expect_shared, self);
	end_outsider(_metadata, pid);
	isolate_and_pass(_metadata, 0, expect_other_name, self);
}

TEST_F(pty, whose_master_an_outsider_has_is_shared)
{
	pid_t pid = start_outsider(_metadata, self->master);

	isolate_and_pass(_metadata, 0, expect_shared, self);
	end_outsider(_metadata, pid);
	isolate_and_pass(_metadata, 0, expect_other_name, self);
}

static int expect_not_isolated(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	int index;

	replica_assert_fdinfo("", self->master);
	replica_assert(!ioctl(self->master, TIOCGPTN, &index));
	replica_assert(index == self->index);
	return REPLICA_PASS;
}

TEST_F(pty, is_shared_without_the_flag)
{
	fork_and_pass(_metadata, 0, expect_not_isolated, self);
}

static int take_all(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;

	replica_assert(gives_text(self->slave, "typed\n"));
	replica_assert(gives_text(self->master, "typed\r\nprinted\r\n"));
	replica_assert(is_empty(self->slave) && is_empty(self->master));
	/* And goes on. */
	replica_assert(sends_text(self->slave, "more"));
	replica_assert(gives_text(self->master, "more"));
	return REPLICA_PASS;
}

TEST_F(pty, keeps_what_is_in_it)
{
	ASSERT_TRUE(sends_text(self->master, "typed\n"));
	ASSERT_TRUE(arrives(self->slave, 6));
	ASSERT_TRUE(sends_text(self->slave, "printed\n"));
	ASSERT_TRUE(arrives(self->master, 16));
	isolate_and_pass(_metadata, 0, take_all, self);
	EXPECT_EQ(REPLICA_PASS, take_all(self));
}

/* It may be on its way then. */
TEST_F(pty, keeps_what_was_just_written)
{
	ASSERT_TRUE(sends_text(self->master, "typed\n"));
	ASSERT_TRUE(arrives(self->master, 7));
	ASSERT_TRUE(sends_text(self->slave, "printed\n"));
	isolate_and_pass(_metadata, 0, take_all, self);
	EXPECT_EQ(REPLICA_PASS, take_all(self));
}

static int end_line(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;

	/* Two are erased, of those that were typed before. */
	replica_assert(sends_text(self->master, "\177\177LF\n"));
	replica_assert(gives_text(self->slave, "haLF\n"));
	return REPLICA_PASS;
}

TEST_F(pty, keeps_half_a_line)
{
	ASSERT_TRUE(sends_text(self->master, "half"));
	ASSERT_TRUE(arrives(self->master, 4));
	isolate_and_pass(_metadata, 0, end_line, self);
	ASSERT_TRUE(is_empty(self->slave));
	EXPECT_EQ(REPLICA_PASS, end_line(self));
}

static int read_pattern(int fd, size_t size)
{
	unsigned char buf[32768];
	size_t got = 0;
	ssize_t n;

	while (got < size) {
		n = read(fd, buf + got, size - got);
		if (n <= 0)
			return -1;
		got += n;
	}
	return is_pattern(buf, size) && is_empty(fd) ? 0 : -1;
}

struct full {
	int master;
	int slave;
	size_t size;
};

static int read_full(void *arg)
{
	struct full *full = arg;

	replica_assert(!read_pattern(full->slave, full->size));
	return REPLICA_PASS;
}

/* More than the reader's end has room for: the rest is on its way. */
TEST_F(pty, keeps_what_does_not_fit)
{
	struct full full = { .master = self->master, .slave = self->slave };
	unsigned char pattern[32768];
	ssize_t n;

	fill_pattern(pattern, sizeof(pattern));
	ASSERT_TRUE(make_raw(self->slave));
	ASSERT_EQ(0, fcntl(self->master, F_SETFL, O_RDWR | O_NONBLOCK));
	while (full.size < sizeof(pattern)) {
		n = write(self->master, pattern + full.size, sizeof(pattern) - full.size);
		if (n < 0)
			break;
		full.size += n;
	}
	ASSERT_EQ(EAGAIN, errno);
	ASSERT_LT(8192, full.size);
	isolate_and_pass(_metadata, 0, read_full, &full);
	EXPECT_EQ(REPLICA_PASS, read_full(&full));
}

static int expect_settings(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	struct winsize size;
	struct termios t;
	int packet = 0;
	char status;

	replica_assert(!tcgetattr(self->slave, &t));
	replica_assert(!(t.c_lflag & (ICANON | ECHO)) && t.c_cc[VINTR] == 7 && t.c_cc[VMIN] == 3);
	replica_assert(!ioctl(self->slave, TIOCGWINSZ, &size));
	replica_assert(size.ws_row == 11 && size.ws_col == 222);
	replica_assert(!ioctl(self->master, TIOCGPKT, &packet) && packet == 1);
	/* Output was stopped. */
	replica_assert(read(self->master, &status, 1) == 1 && status == TIOCPKT_STOP);
	replica_assert(!fcntl(self->slave, F_SETFL, O_RDWR | O_NONBLOCK));
	replica_assert(write(self->slave, "x", 1) == -1 && errno == EAGAIN);
	replica_assert(!tcflow(self->slave, TCOON));
	replica_assert(write(self->slave, "x", 1) == 1);
	replica_assert(!ioctl(self->slave, TIOCEXCL) && !ioctl(self->slave, TIOCNXCL));
	return REPLICA_PASS;
}

TEST_F(pty, keeps_its_settings)
{
	struct winsize size = { .ws_row = 11, .ws_col = 222 };
	struct termios t;
	int on = 1;

	ASSERT_EQ(0, tcgetattr(self->slave, &t));
	t.c_lflag &= ~(ICANON | ECHO);
	t.c_cc[VINTR] = 7;
	t.c_cc[VMIN] = 3;
	ASSERT_EQ(0, tcsetattr(self->slave, TCSANOW, &t));
	ASSERT_EQ(0, ioctl(self->master, TIOCSWINSZ, &size));
	ASSERT_EQ(0, ioctl(self->master, TIOCPKT, &on));
	ASSERT_EQ(0, tcflow(self->slave, TCOOFF));
	isolate_and_pass(_metadata, 0, expect_settings, self);
	EXPECT_EQ(REPLICA_PASS, expect_settings(self));
}

static int expect_exclusive(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	int exclusive = 0;

	replica_assert_fdinfo("copied", self->slave);
	replica_assert(!ioctl(self->slave, TIOCGEXCL, &exclusive) && exclusive);
	return REPLICA_PASS;
}

TEST_F(pty, may_be_for_one_only)
{
	ASSERT_EQ(0, ioctl(self->slave, TIOCEXCL));
	isolate_and_pass(_metadata, 0, expect_exclusive, self);
}

static int expect_two(void *arg)
{
	int *fds = arg;

	replica_assert_fdinfo("copied", fds[0]);
	replica_assert(is_same_file(fds[0], fds[1]));
	replica_assert(!is_same_file(fds[0], fds[2]));
	replica_assert((fcntl(fds[2], F_GETFL) & (O_ACCMODE | O_NONBLOCK)) ==
		       (O_RDONLY | O_NONBLOCK));
	replica_assert(sends_text(fds[3], "a\n") && gives_text(fds[0], "a\n"));
	replica_assert(sends_text(fds[3], "b\n") && arrives(fds[0], 2) &&
		       gives_text(fds[2], "b\n"));
	return REPLICA_PASS;
}

TEST_F(pty, can_be_open_several_times)
{
	int fds[] = {
		self->slave, dup(self->slave), open(self->name, O_RDONLY | O_NOCTTY | O_NONBLOCK),
		self->master,
	};

	ASSERT_LE(0, fds[1]);
	ASSERT_LE(0, fds[2]);
	isolate_and_pass(_metadata, 0, expect_two, fds);
	EXPECT_TRUE(is_empty(self->slave));
}

static int expect_hung_up(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	char byte;

	replica_assert_fdinfo("copied", self->master);
	replica_assert(read(self->master, &byte, 1) == -1 && errno == EIO);
	return REPLICA_PASS;
}

TEST_F(pty, whose_slave_is_closed_is_copied)
{
	ASSERT_EQ(0, close(self->slave));
	isolate_and_pass(_metadata, 0, expect_hung_up, self);
	EXPECT_EQ(-1, read(self->master, self->name, 1));
	EXPECT_EQ(EIO, errno);
}

static int unlock_and_open(void *arg)
{
	int *master = arg, locked = 0, slave;
	char name[64];

	replica_assert_fdinfo("copied", *master);
	replica_assert(!ioctl(*master, TIOCGPTLCK, &locked) && locked);
	replica_assert(!ptsname_r(*master, name, sizeof(name)));
	replica_assert(open(name, O_RDWR | O_NOCTTY) == -1 && errno == EIO);
	replica_assert(!unlockpt(*master));
	slave = open(name, O_RDWR | O_NOCTTY);
	replica_assert(slave >= 0);
	replica_assert(sends_text(slave, "up") && gives_text(*master, "up"));
	return REPLICA_PASS;
}

TEST_F(pty, that_is_locked_is_copied)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), locked = 0;

	ASSERT_LE(0, master);
	isolate_and_pass(_metadata, 0, unlock_and_open, &master);
	EXPECT_EQ(0, ioctl(master, TIOCGPTLCK, &locked));
	EXPECT_EQ(1, locked);
}

static int expect_event(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	struct epoll_event event;
	int epfd = self->index;

	replica_assert(epoll_wait(epfd, &event, 1, 0) == 0);
	replica_assert(sends_text(self->slave, "e"));
	replica_assert(epoll_wait(epfd, &event, 1, DEADLINE * 1000) == 1);
	replica_assert(event.data.u64 == 77);
	return REPLICA_PASS;
}

TEST_F(pty, can_be_waited_for)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 };

	self->index = epoll_create1(0);
	ASSERT_LE(0, self->index);
	ASSERT_EQ(0, epoll_ctl(self->index, EPOLL_CTL_ADD, self->master, &event));
	isolate_and_pass(_metadata, 0, expect_event, self);
	EXPECT_EQ(0, epoll_wait(self->index, &event, 1, 0));
}

/* Another one: what it has read is in its side's memory. */
struct reader {
	pthread_t thread;
	pid_t tid;
	int fd;
	bool right;
};

static void *read_one_line(void *arg)
{
	struct reader *r = arg;

	store((__u32 *)&r->tid, sys_gettid());
	r->right = gives_text(r->fd, "line\n");
	return NULL;
}

struct blocked {
	struct reader reader;
	int master;
};

static int write_and_join(void *arg)
{
	struct blocked *b = arg;

	replica_assert(sends_text(b->master, "line\n"));
	replica_assert(!pthread_join(b->reader.thread, NULL));
	replica_assert(b->reader.right);
	return REPLICA_PASS;
}

TEST_F(pty, has_readers_that_go_on_waiting)
{
	struct blocked b = { .master = self->master, .reader.fd = self->slave };

	ASSERT_EQ(0, pthread_create(&b.reader.thread, NULL, read_one_line, &b.reader));
	ASSERT_TRUE(wait_until(load((__u32 *)&b.reader.tid), DEADLINE));
	ASSERT_TRUE(wait_blocked(b.reader.tid, __NR_read));
	isolate_and_pass(_metadata, 0, write_and_join, &b);
	ASSERT_TRUE(is_blocked(getpid(), b.reader.tid, __NR_read));
	EXPECT_EQ(REPLICA_PASS, write_and_join(&b));
}

static long number_in(const char *path)
{
	char text[32];

	return read_file(path, text, sizeof(text)) > 0 ? atol(text) : -1;
}

static int be_copied(void *arg)
{
	replica_assert_fdinfo("copied", *(int *)arg);
	return REPLICA_PASS;
}

TEST_F(pty, is_counted)
{
	long max = number_in(PTY_MAX), nr = number_in(PTY_NR);
	sigset_t sigchld = block_signal(_metadata, SIGCHLD);
	struct census before;
	char text[32];

	require_root(_metadata, PTY_MAX);
	ASSERT_LT(0, max);
	ASSERT_LE(1, nr);
	before = take_census();
	snprintf(text, sizeof(text), "%ld", nr);
	ASSERT_EQ(0, write_file(PTY_MAX, text));
	EXPECT_EQ(-EAGAIN, replica_main(full_fork(CLONE_ISOLATE), be_copied, &self->master));
	EXPECT_EQ(nr, number_in(PTY_NR));
	expect_nothing_left(_metadata, before, &sigchld);
	snprintf(text, sizeof(text), "%ld", max);
	ASSERT_EQ(0, write_file(PTY_MAX, text));
	isolate_and_pass(_metadata, 0, be_copied, &self->master);
	/* The last one goes when the task that has it does. */
	EXPECT_TRUE(wait_until(number_in(PTY_NR) == nr, DEADLINE));
}

/*
 * A session on it: a child that answers each line, and says so when it is interrupted.
 */
FIXTURE(session)
{
	int master;
	pid_t child;
};

static int tty_of_child;

static void say_interrupted(int sig)
{
	sends_text(tty_of_child, "interrupted\n");
}

static void say_member_interrupted(int sig)
{
	sends_text(tty_of_child, "member interrupted\n");
}

/* A process group in the foreground whose leader has gone. */
static void make_group(void)
{
	struct sigaction sa = { .sa_handler = say_member_interrupted };
	pid_t leader = fork(), member;

	if (!leader)
		pause();
	setpgid(leader, leader);
	member = fork();
	if (!member) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, leader);
		sigaction(SIGINT, &sa, NULL);
		sends_text(tty_of_child, "made\n");
		for (;;)
			pause();
	}
	setpgid(member, leader);
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
	tcsetpgrp(tty_of_child, leader);
	kill(leader, SIGKILL);
	waitpid(leader, NULL, 0);
}

static void be_shell(const char *name)
{
	struct sigaction sa = { .sa_handler = say_interrupted, .sa_flags = SA_RESTART };
	char line[64], answer[256], own_name[64];
	int slave, tty;
	ssize_t n;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsid();
	slave = open(name, O_RDWR);
	tty = open("/dev/tty", O_RDWR);
	if (slave < 0 || tty < 0)
		_exit(1);
	close(slave);
	tty_of_child = tty;
	sigaction(SIGINT, &sa, NULL);
	sends_text(tty, "ready\n");
	for (;;) {
		n = read(tty, line, sizeof(line));
		if (n < 0 && errno == EIO) {
			/* Not in the foreground */
			poll_pause();
			continue;
		}
		if (n <= 0)
			_exit(2);
		if (*line == 'g') {
			make_group();
			continue;
		}
		/* What is asked must not be in a buffer. */
		slave = open("/dev/tty", O_RDWR);
		snprintf(own_name, sizeof(own_name), "?");
		snprintf(answer, sizeof(answer), "pid %d sid %d group %d tty %d %s\n",
			 (int)syscall(__NR_getpid), getsid(0), tcgetpgrp(slave),
			 slave >= 0, fdinfo_says("self", tty));
		close(slave);
		sends_text(tty, answer);
	}
}

static bool read_line(int fd, char *line, size_t size)
{
	size_t got = 0;

	while (got < size - 1) {
		if (read(fd, line + got, 1) != 1)
			return false;
		if (line[got++] == '\n')
			break;
	}
	line[got] = '\0';
	return true;
}

FIXTURE_SETUP(session)
{
	char name[64], line[64];
	struct termios t;

	require_isolate(_metadata);
	self->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	ASSERT_LE(0, self->master);
	ASSERT_EQ(0, unlockpt(self->master));
	ASSERT_EQ(0, ptsname_r(self->master, name, sizeof(name)));
	ASSERT_EQ(0, tcgetattr(self->master, &t));
	t.c_lflag &= ~ECHO;
	ASSERT_EQ(0, tcsetattr(self->master, TCSANOW, &t));
	self->child = fork();
	ASSERT_LE(0, self->child);
	if (!self->child) {
		close(self->master);
		be_shell(name);
	}
	ASSERT_TRUE(read_line(self->master, line, sizeof(line)));
	ASSERT_STREQ("ready\r\n", line);
}

FIXTURE_TEARDOWN(session)
{
	kill(self->child, SIGKILL);
	waitpid(self->child, NULL, 0);
}

static bool ask_session(int master, int *pid, char *kind)
{
	int sid = 0, group = 0, tty = 0;
	char line[256];

	*kind = '\0';
	if (!sends_text(master, "?\n") || !read_line(master, line, sizeof(line)))
		return false;
	/* Without the last where nothing is said. */
	return sscanf(line, "pid %d sid %d group %d tty %d %15s", pid, &sid, &group, &tty,
		      kind) >= 4 && *pid == sid && *pid == group && tty == 1;
}

static int use_session(void *arg)
{
	FIXTURE_DATA(session) *self = arg;
	char line[64], kind[16];
	int pid = 0;

	replica_assert_fdinfo("copied", self->master);
	replica_assert(ask_session(self->master, &pid, kind));
	replica_assert(pid != self->child && !strcmp(kind, "copied"));
	replica_assert(sends_text(self->master, "\003"));
	replica_assert(read_line(self->master, line, sizeof(line)));
	replica_assert(!strcmp(line, "interrupted\r\n"));
	replica_assert(ask_session(self->master, &pid, kind));
	return REPLICA_PASS;
}

TEST_F(session, is_copied_with_its_terminal)
{
	char kind[16], line[64];
	int pid = 0;

	isolate_and_pass(_metadata, CLONE_SUBTREE, use_session, self);
	/* Nobody has interrupted this one, nor hung it up. */
	ASSERT_TRUE(ask_session(self->master, &pid, kind));
	EXPECT_EQ(self->child, pid);
	EXPECT_STREQ("", kind);
	ASSERT_TRUE(sends_text(self->master, "\003"));
	ASSERT_TRUE(read_line(self->master, line, sizeof(line)));
	EXPECT_STREQ("interrupted\r\n", line);
}

TEST_F(session, is_copied_again_and_again)
{
	int i;

	for (i = 0; i < 10; i++)
		isolate_and_pass(_metadata, CLONE_SUBTREE, use_session, self);
}

static int copy_once_more(void *arg)
{
	long pid = replica_main(full_fork(CLONE_ISOLATE | CLONE_SUBTREE), use_session, arg);
	int status;

	replica_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
	replica_assert(WIFEXITED(status) && WEXITSTATUS(status) == REPLICA_PASS);
	return REPLICA_PASS;
}

TEST_F(session, can_be_copied_by_a_copy)
{
	isolate_and_pass(_metadata, CLONE_SUBTREE, copy_once_more, self);
}

static int find_leader_in_foreground(void *arg)
{
	FIXTURE_DATA(session) *self = arg;
	char line[64], kind[16];
	int pid = 0;

	replica_assert(ask_session(self->master, &pid, kind));
	replica_assert(sends_text(self->master, "\003"));
	replica_assert(read_line(self->master, line, sizeof(line)));
	replica_assert(!strcmp(line, "interrupted\r\n"));
	return REPLICA_PASS;
}

/* The replica of its member is in the same group, which is that of the originals. */
TEST_F(session, does_not_interrupt_an_original)
{
	char line[64];

	ASSERT_TRUE(sends_text(self->master, "group\n"));
	ASSERT_TRUE(read_line(self->master, line, sizeof(line)));
	ASSERT_STREQ("made\r\n", line);
	ASSERT_TRUE(wait_until(tcgetpgrp(self->master) != self->child &&
			       kill(tcgetpgrp(self->master), 0), DEADLINE));
	isolate_and_pass(_metadata, CLONE_SUBTREE, find_leader_in_foreground, self);
	EXPECT_TRUE(is_empty(self->master));
	ASSERT_TRUE(sends_text(self->master, "\003"));
	ASSERT_TRUE(read_line(self->master, line, sizeof(line)));
	EXPECT_STREQ("member interrupted\r\n", line);
}

/* The test alone is copied: the child has the slave. */
static int find_it_shared(void *arg)
{
	FIXTURE_DATA(session) *self = arg;

	replica_assert_fdinfo("shared", self->master);
	return REPLICA_PASS;
}

TEST_F(session, that_is_not_copied_keeps_the_terminal)
{
	char kind[16];
	int pid = 0;

	isolate_and_pass(_metadata, 0, find_it_shared, self);
	EXPECT_TRUE(ask_session(self->master, &pid, kind));
	EXPECT_EQ(self->child, pid);
}

/* It has no file, but could open one. */
static int lead_session(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	long pid;
	int status;

	/* Of which it is told when the other one has closed the master. */
	signal(SIGHUP, SIG_IGN);
	replica_assert(setsid() >= 0);
	replica_assert(!ioctl(self->slave, TIOCSCTTY, 0));
	pid = fork();
	if (!pid) {
		if (!wait_until(load(&report->word[WORD_FREE]), DEADLINE))
			_exit(6);
		pid = replica_main(full_fork(CLONE_ISOLATE), expect_shared, self);
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			_exit(2);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 3);
	}
	close(self->master);
	close(self->slave);
	store(&report->word[WORD_FREE], 1);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 4;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
}

TEST_F(pty, that_controls_an_outsider_is_shared)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(lead_session(self));
	close(self->master);
	close(self->slave);
	expect_pass(_metadata, pid);
}

static void expect_pty_shared(struct __test_metadata *_metadata, FIXTURE_DATA(pty) *self)
{
	isolate_and_pass(_metadata, 0, expect_shared, self);
}

static void expect_pty_copied(struct __test_metadata *_metadata, FIXTURE_DATA(pty) *self)
{
	isolate_and_pass(_metadata, 0, expect_other_name, self);
}

TEST_F(pty, with_another_line_discipline_is_shared)
{
	int disc = N_NULL;

	ASSERT_EQ(0, ioctl(self->slave, TIOCSETD, &disc));
	expect_pty_shared(_metadata, self);
	disc = N_TTY;
	ASSERT_EQ(0, ioctl(self->slave, TIOCSETD, &disc));
	expect_pty_copied(_metadata, self);
}

/* The one who would have to permit to open it may be quiesced. */
TEST_F(pty, that_is_watched_is_shared)
{
	int group;

	require_root(_metadata, "fanotify");
	group = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);
	ASSERT_LE(0, group);
	ASSERT_EQ(0, fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, self->name));
	expect_pty_shared(_metadata, self);
	ASSERT_EQ(0, close(group));
	expect_pty_copied(_metadata, self);
}

/* There the copy could not be found. */
TEST_F(pty, whose_slave_is_mounted_by_itself_is_shared)
{
	require_root(_metadata, "mounts of its own");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
	ASSERT_LE(0, close(open("/tmp/tty", O_CREAT | O_WRONLY, 0600)));
	ASSERT_EQ(0, mount(self->name, "/tmp/tty", NULL, MS_BIND, NULL));
	ASSERT_EQ(0, close(self->slave));
	self->slave = open("/tmp/tty", O_RDWR | O_NOCTTY);
	ASSERT_LE(0, self->slave);
	expect_pty_shared(_metadata, self);
}

static int expect_end_of_file(void *arg)
{
	FIXTURE_DATA(pty) *self = arg;
	char byte;

	replica_assert_fdinfo("shared", self->master);
	replica_assert_eq(0, read(self->slave, &byte, 1));
	return REPLICA_PASS;
}

TEST_F(pty, that_was_hung_up_is_shared)
{
	require_root(_metadata, "TIOCVHANGUP");
	ASSERT_EQ(0, ioctl(self->slave, TIOCVHANGUP));
	isolate_and_pass(_metadata, 0, expect_end_of_file, self);
}

TEST_HARNESS_MAIN
