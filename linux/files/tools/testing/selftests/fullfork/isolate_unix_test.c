// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: unix sockets that only members have are copied.
 */
#include "fullfork_isolate.h"

#include <linux/bpf.h>
#include <linux/filter.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/*
 * Two sockets that are connected with each other, with messages in both
 * directions.
 */
FIXTURE(unix_pair)
{
	int fds[2];
	int extra[2];
};

FIXTURE_VARIANT(unix_pair)
{
	int type;
};

FIXTURE_VARIANT_ADD(unix_pair, stream) { .type = SOCK_STREAM };
FIXTURE_VARIANT_ADD(unix_pair, dgram) { .type = SOCK_DGRAM };
FIXTURE_VARIANT_ADD(unix_pair, seqpacket) { .type = SOCK_SEQPACKET };

static bool sends(int fd, const char *text)
{
	return send(fd, text, strlen(text), MSG_NOSIGNAL) == strlen(text);
}

/* The next message is @text. */
static bool gives(int fd, const char *text)
{
	char buf[64];
	ssize_t len = recv(fd, buf, strlen(text) ?: 1, MSG_DONTWAIT);

	return len == strlen(text) && !memcmp(buf, text, len);
}

static bool is_empty(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

FIXTURE_SETUP(unix_pair)
{
	require_isolate(_metadata);
	ASSERT_EQ(0, socketpair(AF_UNIX, variant->type, 0, self->fds));
	ASSERT_TRUE(sends(self->fds[0], "one"));
	ASSERT_TRUE(sends(self->fds[0], "two"));
	ASSERT_TRUE(sends(self->fds[1], "back"));
}

FIXTURE_TEARDOWN(unix_pair)
{
}

static int see_messages(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->fds[0]);
	replica_assert_fdinfo("copied", self->fds[1]);
	replica_assert(gives(self->fds[1], "one"));
	replica_assert(gives(self->fds[1], "two"));
	replica_assert(gives(self->fds[0], "back"));
	replica_assert(is_empty(self->fds[0]));
	replica_assert(is_empty(self->fds[1]));
	replica_assert(sends(self->fds[1], "more"));
	replica_assert(gives(self->fds[0], "more"));
	return REPLICA_PASS;
}

TEST_F(unix_pair, has_its_messages_on_both_sides)
{
	long pid = isolate(_metadata, 0, see_messages, self);

	EXPECT_TRUE(gives(self->fds[1], "one"));
	EXPECT_TRUE(gives(self->fds[1], "two"));
	EXPECT_TRUE(gives(self->fds[0], "back"));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_empty(self->fds[0]));
	EXPECT_TRUE(is_empty(self->fds[1]));
}

/* The part of a message that was received is gone. */
static int see_rest(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	int bytes;

	replica_assert_eq(0, ioctl(self->fds[1], FIONREAD, &bytes));
	replica_assert_eq(5, bytes);
	replica_assert(gives(self->fds[1], "netwo"));
	return REPLICA_PASS;
}

TEST_F(unix_pair, keeps_the_rest_of_a_stream)
{
	if (variant->type != SOCK_STREAM)
		return;
	ASSERT_TRUE(gives(self->fds[1], "o"));
	isolate_and_pass(_metadata, 0, see_rest, self);
	EXPECT_TRUE(gives(self->fds[1], "netwo"));
}

static int see_options(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	struct ucred cred;
	struct timeval tv;
	socklen_t len = sizeof(int);
	int value;

	replica_assert_eq(0, getsockopt(self->fds[0], SOL_SOCKET, SO_SNDBUF, &value, &len));
	replica_assert_eq(2 * 10000, value);
	replica_assert_eq(0, getsockopt(self->fds[0], SOL_SOCKET, SO_TYPE, &value, &len));
	replica_assert_eq(report->word[WORD_FREE], value);
	len = sizeof(tv);
	replica_assert_eq(0, getsockopt(self->fds[0], SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
	replica_assert_eq(7, tv.tv_sec);
	len = sizeof(cred);
	replica_assert_eq(0, getsockopt(self->fds[0], SOL_SOCKET, SO_PEERCRED, &cred, &len));
	/* It was made by the original, whose replica this is. */
	replica_assert_eq(syscall(__NR_getpid), cred.pid);
	replica_assert_eq(O_RDWR | O_NONBLOCK, fcntl(self->fds[1], F_GETFL));
	return REPLICA_PASS;
}

TEST_F(unix_pair, keeps_options)
{
	struct timeval tv = { .tv_sec = 7 };
	int size = 10000;

	report->word[WORD_FREE] = variant->type;
	ASSERT_EQ(0, setsockopt(self->fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
	ASSERT_EQ(0, setsockopt(self->fds[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	ASSERT_EQ(0, fcntl(self->fds[1], F_SETFL, O_NONBLOCK));
	isolate_and_pass(_metadata, 0, see_options, self);
}

static int see_shutdown(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	replica_assert(!sends(self->fds[0], "no"));
	replica_assert_eq(EPIPE, errno);
	replica_assert(sends(self->fds[1], "yes"));
	return REPLICA_PASS;
}

TEST_F(unix_pair, stays_shut_down)
{
	ASSERT_EQ(0, shutdown(self->fds[0], SHUT_WR));
	isolate_and_pass(_metadata, 0, see_shutdown, self);
}

static int see_end(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	replica_assert_fdinfo("copied", self->fds[1]);
	replica_assert(gives(self->fds[1], "one"));
	replica_assert(gives(self->fds[1], "two"));
	if (report->word[WORD_FREE] == SOCK_DGRAM) {
		replica_assert(is_empty(self->fds[1]));
		replica_assert(!sends(self->fds[1], "no"));
		replica_assert_eq(ECONNREFUSED, errno);
	} else {
		replica_assert(gives(self->fds[1], ""));
		replica_assert(!sends(self->fds[1], "no"));
		replica_assert_eq(EPIPE, errno);
	}
	return REPLICA_PASS;
}

TEST_F(unix_pair, ends_when_the_peer_has_closed_it)
{
	report->word[WORD_FREE] = variant->type;
	ASSERT_TRUE(gives(self->fds[0], "back"));
	ASSERT_EQ(0, close(self->fds[0]));
	isolate_and_pass(_metadata, 0, see_end, self);
	EXPECT_TRUE(gives(self->fds[1], "one"));
}

static int close_one(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	replica_assert_eq(0, close(self->fds[0]));
	replica_assert_eq(0, close(self->fds[1]));
	return REPLICA_PASS;
}

TEST_F(unix_pair, is_closed_on_one_side_only)
{
	isolate_and_pass(_metadata, 0, close_one, self);
	EXPECT_TRUE(gives(self->fds[1], "one"));
	EXPECT_TRUE(sends(self->fds[1], "still"));
}

/* As many messages as there is room for, no more and no less. */
static unsigned int fill(int fd)
{
	char message[1000];
	unsigned int n;

	memset(message, 'm', sizeof(message));
	for (n = 0; send(fd, message, sizeof(message), MSG_DONTWAIT) > 0; n++)
		;
	return n;
}

static int see_no_room(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	char buf[1000];

	replica_assert_eq(0, fill(self->fds[0]));
	while (recv(self->fds[1], buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
	replica_assert(fill(self->fds[0]) >= report->word[WORD_FREE]);
	return REPLICA_PASS;
}

TEST_F(unix_pair, is_full_if_it_was)
{
	report->word[WORD_FREE] = fill(self->fds[0]);
	isolate_and_pass(_metadata, 0, see_no_room, self);
	EXPECT_EQ(0, fill(self->fds[0]));
}

static __u64 take(int fd)
{
	__u64 count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

/* Descriptors that nobody but a message has: those of copies. */
static int receive_copy(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	int fd;

	replica_assert(gives(self->fds[0], "back"));
	fd = receive_fd(self->fds[0], 0);
	replica_assert(fd >= 0);
	replica_assert_fdinfo("copied", fd);
	replica_assert_eq(5, take(fd));
	replica_assert_eq(0, take(fd));
	return REPLICA_PASS;
}

TEST_F(unix_pair, copies_what_is_in_flight)
{
	int fd = eventfd(5, EFD_NONBLOCK);

	ASSERT_TRUE(send_fd(self->fds[1], fd));
	ASSERT_EQ(0, close(fd));
	isolate_and_pass(_metadata, 0, receive_copy, self);
	ASSERT_TRUE(gives(self->fds[0], "back"));
	fd = receive_fd(self->fds[0], 0);
	ASSERT_LE(0, fd);
	EXPECT_EQ(5, take(fd));
}

/* A pair of sockets, one in flight to the other. */
static int receive_itself(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	int fd;

	replica_assert(gives(self->fds[0], "back"));
	fd = receive_fd(self->fds[0], 0);
	replica_assert(fd >= 0);
	replica_assert(is_same_file(fd, self->fds[1]));
	replica_assert_fdinfo("copied", fd);
	replica_assert(sends(fd, "hello"));
	replica_assert(gives(self->fds[0], "hello"));
	return REPLICA_PASS;
}

TEST_F(unix_pair, may_be_in_flight_itself)
{
	ASSERT_TRUE(send_fd(self->fds[1], self->fds[1]));
	isolate_and_pass(_metadata, 0, receive_itself, self);
}

/* In a message that somebody else may receive. */
static int see_shared_event(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	replica_assert_fdinfo("shared", self->fds[0]);
	replica_assert_fdinfo("shared", self->extra[0]);
	replica_assert_eq(5, take(self->extra[0]));
	return REPLICA_PASS;
}

TEST_F(unix_pair, is_shared_with_all_that_is_in_it)
{
	pid_t outsider = start_outsider(_metadata, self->fds[0]);

	self->extra[0] = eventfd(5, EFD_NONBLOCK);
	ASSERT_TRUE(send_fd(self->fds[1], self->extra[0]));
	isolate_and_pass(_metadata, 0, see_shared_event, self);
	EXPECT_EQ(0, take(self->extra[0]));
	end_outsider(_metadata, outsider);
}

static int see_epoll(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	struct epoll_event event;

	replica_assert_eq(1, epoll_wait(self->extra[0], &event, 1, 0));
	replica_assert(gives(self->fds[0], "back"));
	replica_assert_eq(0, epoll_wait(self->extra[0], &event, 1, 0));
	replica_assert(sends(self->fds[1], "more"));
	replica_assert_eq(1, epoll_wait(self->extra[0], &event, 1, 0));
	return REPLICA_PASS;
}

TEST_F(unix_pair, is_looked_at_by_an_epoll)
{
	struct epoll_event event = { .events = EPOLLIN };

	self->extra[0] = epoll_create1(0);
	ASSERT_EQ(0, epoll_ctl(self->extra[0], EPOLL_CTL_ADD, self->fds[0], &event));
	isolate_and_pass(_metadata, 0, see_epoll, self);
	EXPECT_EQ(1, epoll_wait(self->extra[0], &event, 1, 0));
}

/*
 * Connections to a listener, which others can connect to.
 */
FIXTURE(unix_server)
{
	int listener;
	int client;
	int server;
	struct sockaddr_un addr;
	socklen_t len;
};

FIXTURE_SETUP(unix_server)
{
	require_isolate(_metadata);
	self->addr.sun_family = AF_UNIX;
	self->len = sizeof(sa_family_t);
	self->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	/* A name of its own in the abstract namespace */
	ASSERT_EQ(0, bind(self->listener, (struct sockaddr *)&self->addr, self->len));
	self->len = sizeof(self->addr);
	ASSERT_EQ(0, getsockname(self->listener, (struct sockaddr *)&self->addr, &self->len));
	ASSERT_EQ(0, listen(self->listener, 5));
	self->client = socket(AF_UNIX, SOCK_STREAM, 0);
	ASSERT_EQ(0, connect(self->client, (struct sockaddr *)&self->addr, self->len));
	self->server = -1;
}

FIXTURE_TEARDOWN(unix_server)
{
}

static int see_connection(void *arg)
{
	FIXTURE_DATA(unix_server) *self = arg;
	struct sockaddr_un addr = {};
	socklen_t len = sizeof(addr);

	replica_assert_fdinfo("shared", self->listener);
	replica_assert_fdinfo("copied", self->client);
	replica_assert_fdinfo("copied", self->server);
	replica_assert(sends(self->client, "replica"));
	replica_assert(gives(self->server, "replica"));
	replica_assert_eq(0, getpeername(self->client, (struct sockaddr *)&addr, &len));
	replica_assert_eq(self->len, len);
	replica_assert(!memcmp(&addr, &self->addr, len));
	return REPLICA_PASS;
}

TEST_F(unix_server, copies_a_connection)
{
	self->server = accept(self->listener, NULL, NULL);
	ASSERT_LE(0, self->server);
	isolate_and_pass(_metadata, 0, see_connection, self);
	EXPECT_TRUE(is_empty(self->server));
	EXPECT_TRUE(sends(self->client, "original"));
	EXPECT_TRUE(gives(self->server, "original"));
}

static int see_pending(void *arg)
{
	FIXTURE_DATA(unix_server) *self = arg;

	replica_assert_fdinfo("shared", self->client);
	self->server = accept(self->listener, NULL, NULL);
	replica_assert(self->server >= 0);
	replica_assert(sends(self->client, "hello"));
	replica_assert(gives(self->server, "hello"));
	return REPLICA_PASS;
}

TEST_F(unix_server, shares_a_connection_that_is_not_accepted)
{
	isolate_and_pass(_metadata, 0, see_pending, self);
}

/* Was the next message sent by the caller itself? */
static bool is_from_me(int fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	char text[8];
	struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	struct ucred cred;

	if (recvmsg(fd, &msg, MSG_DONTWAIT) != 4)
		return false;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_CREDENTIALS)
		return false;
	memcpy(&cred, CMSG_DATA(cmsg), sizeof(cred));
	return cred.pid == syscall(__NR_getpid) && cred.uid == getuid() && cred.gid == getgid();
}

static int see_sender(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	replica_assert_fdinfo("copied", self->extra[1]);
	replica_assert(is_from_me(self->extra[1]));
	replica_assert(is_empty(self->extra[1]));
	replica_assert(sends(self->extra[0], "more"));
	replica_assert(is_from_me(self->extra[1]));
	return REPLICA_PASS;
}

TEST_F(unix_pair, tells_who_has_sent)
{
	int on = 1;

	ASSERT_EQ(0, socketpair(AF_UNIX, variant->type, 0, self->extra));
	ASSERT_EQ(0, setsockopt(self->extra[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
	/* A datagram socket gets a name by that, when it sends. */
	ASSERT_EQ(0, setsockopt(self->extra[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
	ASSERT_TRUE(sends(self->extra[0], "cred"));
	isolate_and_pass(_metadata, 0, see_sender, self);
	EXPECT_TRUE(is_from_me(self->extra[1]));
	EXPECT_TRUE(is_empty(self->extra[1]));
}

static int read_lent(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	char buf[8];

	wait_turn();
	replica_assert_fdinfo("copied", self->extra[1]);
	replica_assert_eq(4, recv(self->extra[1], buf, sizeof(buf), MSG_DONTWAIT));
	replica_assert(!memcmp(buf, "AAAA", 4));
	return REPLICA_PASS;
}

/* A page that is lent to the socket may change: the copy has what was in it. */
TEST_F(unix_pair, keeps_a_page_of_a_memfd)
{
	int fd = memfd_create("lent", 0);
	off_t from = 0;
	long pid;

	ASSERT_LE(0, fd);
	ASSERT_EQ(4, pwrite(fd, "AAAA", 4, 0));
	ASSERT_EQ(0, socketpair(AF_UNIX, variant->type, 0, self->extra));
	ASSERT_EQ(4, sendfile(self->extra[0], fd, &from, 4));
	pid = isolate(_metadata, 0, read_lent, self);
	ASSERT_EQ(4, pwrite(fd, "BBBB", 4, 0));
	give_turn();
	expect_pass(_metadata, pid);
}

/* The byte out of band is there on both sides, at the same place of the stream. */
static int see_byte_out_of_band(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;
	int fd = self->extra[1], mark;
	char byte;

	replica_assert_fdinfo("copied", fd);
	replica_assert(gives(fd, "ab"));
	replica_assert(!ioctl(fd, SIOCATMARK, &mark) && mark);
	replica_assert_eq(1, recv(fd, &byte, 1, MSG_OOB | MSG_DONTWAIT));
	replica_assert_eq('!', byte);
	replica_assert_eq(-1, recv(fd, &byte, 1, MSG_OOB | MSG_DONTWAIT));
	replica_assert(gives(fd, "cd"));
	replica_assert(is_empty(fd));
	return REPLICA_PASS;
}

TEST_F(unix_pair, keeps_a_byte_out_of_band)
{
	char byte;

	if (variant->type != SOCK_STREAM)
		return;
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->extra));
	ASSERT_TRUE(sends(self->extra[0], "ab"));
	ASSERT_EQ(1, send(self->extra[0], "!", 1, MSG_OOB));
	ASSERT_TRUE(sends(self->extra[0], "cd"));
	isolate_and_pass(_metadata, 0, see_byte_out_of_band, self);

	EXPECT_TRUE(gives(self->extra[1], "ab"));
	EXPECT_EQ(1, recv(self->extra[1], &byte, 1, MSG_OOB | MSG_DONTWAIT));
	EXPECT_EQ('!', byte);
	EXPECT_TRUE(gives(self->extra[1], "cd"));
}

/* The process that the pidfd of the peer of @fd names, or -1 */
static pid_t peer_by_pidfd(int fd)
{
	socklen_t len = sizeof(int);
	char path[64], text[1024], *line;
	pid_t pid = -1;
	int pidfd;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	if (read_file(path, text, sizeof(text)) > 0) {
		line = strstr(text, "Pid:");
		if (line)
			sscanf(line, "Pid: %d", &pid);
	}
	close(pidfd);
	return pid;
}

static int see_peer(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	replica_assert_eq(syscall(__NR_getpid), peer_by_pidfd(self->fds[0]));
	replica_assert_eq(syscall(__NR_getpid), peer_by_pidfd(self->fds[1]));
	return REPLICA_PASS;
}

TEST_F(unix_pair, has_a_pidfd_of_the_replica_as_peer)
{
	ASSERT_EQ(getpid(), peer_by_pidfd(self->fds[0]));
	isolate_and_pass(_metadata, 0, see_peer, self);
	EXPECT_EQ(getpid(), peer_by_pidfd(self->fds[0]));
}

/* In the replica of the process whose child is the peer */
static int see_child_as_peer(void *arg)
{
	FIXTURE_DATA(unix_server) *self = arg;
	socklen_t len = sizeof(struct ucred);
	struct ucred cred;
	int pidfd;

	replica_assert_fdinfo("copied", self->server);
	replica_assert_eq(0, getsockopt(self->server, SOL_SOCKET, SO_PEERCRED, &cred, &len));
	replica_assert_eq(0, kill(cred.pid, SIGKILL));
	replica_assert_eq(cred.pid, waitpid(cred.pid, NULL, __WALL));
	len = sizeof(pidfd);
	replica_assert_eq(-1, getsockopt(self->server, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len));
	return REPLICA_PASS;
}

/* The socket of the original knows its peer for ever. */
TEST_F(unix_server, has_no_pidfd_of_a_replica_that_was_waited_for)
{
	socklen_t len = sizeof(int);
	pid_t child;
	int pidfd;

	self->server = accept(self->listener, NULL, NULL);
	ASSERT_EQ(0, close(self->server));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		self->client = socket(AF_UNIX, SOCK_STREAM, 0);
		if (!connect(self->client, (struct sockaddr *)&self->addr, self->len))
			store(&report->word[WORD_OUTSIDER], 1);
		for (;;)
			pause();
	}
	ASSERT_TRUE(wait_until(load(&report->word[WORD_OUTSIDER]), DEADLINE));
	self->server = accept(self->listener, NULL, NULL);
	ASSERT_EQ(child, peer_by_pidfd(self->server));
	isolate_and_pass(_metadata, CLONE_SUBTREE, see_child_as_peer, self);
	EXPECT_EQ(child, peer_by_pidfd(self->server));
	end_outsider(_metadata, child);
	EXPECT_EQ(0, getsockopt(self->server, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len));
}

static int see_shared_pair(void *arg)
{
	FIXTURE_DATA(unix_pair) *self = arg;

	replica_assert_fdinfo("shared", self->fds[0]);
	replica_assert_fdinfo("shared", self->fds[1]);
	replica_assert(gives(self->fds[0], "back"));
	return REPLICA_PASS;
}

/* What it takes from a message may be more than the message. */
TEST_F(unix_pair, is_shared_if_it_has_a_filter)
{
	struct sock_filter all[] = { { .code = BPF_RET | BPF_K, .k = ~0U } };
	struct sock_fprog filter = { .len = 1, .filter = all };
	int none = 0;

	ASSERT_EQ(0, setsockopt(self->fds[0], SOL_SOCKET, SO_ATTACH_FILTER, &filter,
				sizeof(filter)));
	isolate_and_pass(_metadata, 0, see_shared_pair, self);
	EXPECT_TRUE(is_empty(self->fds[0]));

	ASSERT_EQ(0, setsockopt(self->fds[0], SOL_SOCKET, SO_DETACH_FILTER, &none,
				sizeof(none)));
	ASSERT_TRUE(sends(self->fds[1], "back"));
	give_turn();
	isolate_and_pass(_metadata, 0, see_messages, self);
	EXPECT_TRUE(gives(self->fds[0], "back"));
}

static int make_sockmap(void)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_SOCKMAP,
		.key_size = 4,
		.value_size = 4,
		.max_entries = 1,
	};

	return syscall(__NR_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

/* @socket: a pointer to what is to be in the map, or NULL */
static int operate_sockmap(int command, int map, int *socket)
{
	__u32 key = 0;
	union bpf_attr attr = {
		.map_fd = map,
		.key = (uintptr_t)&key,
		.value = (uintptr_t)socket,
	};

	return syscall(__NR_bpf, command, &attr, sizeof(attr));
}

/* Programs may send what it gets elsewhere. */
TEST_F(unix_pair, is_shared_if_it_is_in_a_sockmap)
{
	int map;

	if (variant->type == SOCK_SEQPACKET)
		return;
	require_root(_metadata, "sockmap");
	map = make_sockmap();
	ASSERT_LE(0, map);
	ASSERT_EQ(0, operate_sockmap(BPF_MAP_UPDATE_ELEM, map, &self->fds[0]));
	isolate_and_pass(_metadata, 0, see_shared_pair, self);
	EXPECT_TRUE(is_empty(self->fds[0]));

	ASSERT_EQ(0, operate_sockmap(BPF_MAP_DELETE_ELEM, map, NULL));
	ASSERT_TRUE(sends(self->fds[1], "back"));
	give_turn();
	isolate_and_pass(_metadata, 0, see_messages, self);
	EXPECT_TRUE(gives(self->fds[0], "back"));
}

/*
 * Datagram sockets by themselves
 */
FIXTURE(unix_dgram)
{
	int fds[2];
	struct sockaddr_un addr[2];
	socklen_t len[2];
};

FIXTURE_SETUP(unix_dgram)
{
	int i;

	require_isolate(_metadata);
	for (i = 0; i < 2; i++) {
		self->fds[i] = socket(AF_UNIX, SOCK_DGRAM, 0);
		ASSERT_LE(0, self->fds[i]);
	}
}

FIXTURE_TEARDOWN(unix_dgram)
{
}

/* Gives a socket a name of its own in the abstract namespace. */
static void name_it(struct __test_metadata *_metadata, FIXTURE_DATA(unix_dgram) *self, int i)
{
	struct sockaddr *addr = (struct sockaddr *)&self->addr[i];

	addr->sa_family = AF_UNIX;
	ASSERT_EQ(0, bind(self->fds[i], addr, sizeof(sa_family_t)));
	self->len[i] = sizeof(self->addr[i]);
	ASSERT_EQ(0, getsockname(self->fds[i], addr, &self->len[i]));
}

static void connect_it(struct __test_metadata *_metadata, FIXTURE_DATA(unix_dgram) *self, int i)
{
	ASSERT_EQ(0, connect(self->fds[i], (struct sockaddr *)&self->addr[!i], self->len[!i]));
}

static int take_shared_datagram(void *arg)
{
	FIXTURE_DATA(unix_dgram) *self = arg;

	replica_assert_fdinfo("shared", self->fds[0]);
	replica_assert_fdinfo("shared", self->fds[1]);
	replica_assert(gives(self->fds[0], "datagram"));
	return REPLICA_PASS;
}

/* Others can send to the one with a name, and so does the other one. */
TEST_F(unix_dgram, is_shared_if_it_has_a_name)
{
	name_it(_metadata, self, 0);
	connect_it(_metadata, self, 1);
	ASSERT_TRUE(sends(self->fds[1], "datagram"));
	isolate_and_pass(_metadata, 0, take_shared_datagram, self);
	EXPECT_TRUE(is_empty(self->fds[0]));
}

static int take_copied_datagram(void *arg)
{
	FIXTURE_DATA(unix_dgram) *self = arg;

	replica_assert_fdinfo("copied", self->fds[0]);
	replica_assert_fdinfo("copied", self->fds[1]);
	replica_assert(gives(self->fds[0], "datagram"));
	replica_assert(sends(self->fds[0], "answer"));
	replica_assert(gives(self->fds[1], "answer"));
	return REPLICA_PASS;
}

/* They hear nobody but each other. */
TEST_F(unix_dgram, are_copied_if_they_are_connected_with_each_other)
{
	name_it(_metadata, self, 0);
	name_it(_metadata, self, 1);
	connect_it(_metadata, self, 1);
	connect_it(_metadata, self, 0);
	ASSERT_TRUE(sends(self->fds[1], "datagram"));
	isolate_and_pass(_metadata, 0, take_copied_datagram, self);
	EXPECT_TRUE(gives(self->fds[0], "datagram"));
	EXPECT_TRUE(is_empty(self->fds[1]));
}

static int name_in_replica(void *arg)
{
	FIXTURE_DATA(unix_dgram) *self = arg;
	struct sockaddr addr = { .sa_family = AF_UNIX };

	replica_assert_fdinfo("copied", self->fds[0]);
	replica_assert_eq(0, bind(self->fds[0], &addr, sizeof(sa_family_t)));
	return REPLICA_PASS;
}

TEST_F(unix_dgram, is_copied_if_it_has_neither_name_nor_peer)
{
	isolate_and_pass(_metadata, 0, name_in_replica, self);
	/* It has none here. */
	name_it(_metadata, self, 0);
	EXPECT_LT(sizeof(sa_family_t), self->len[0]);
}

TEST_HARNESS_MAIN
