// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: a TCP connection whose ends only members have, or UDP sockets that are
 * connected with each other, can be neither copied nor shared, and fail the call.  All
 * other sockets of their families are shared.
 */
#include "fullfork_isolate.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

static socklen_t length_of(const union address *addr)
{
	return addr->sa.sa_family == AF_INET6 ? sizeof(addr->in6) : sizeof(addr->in);
}

/* @host is of IPv6 if it has a colon. */
static union address address_of(const char *host, in_port_t port)
{
	union address addr = {};

	if (strchr(host, ':')) {
		addr.in6.sin6_family = AF_INET6;
		addr.in6.sin6_port = port;
		inet_pton(AF_INET6, host, &addr.in6.sin6_addr);
	} else {
		addr.in.sin_family = AF_INET;
		addr.in.sin_port = port;
		inet_pton(AF_INET, host, &addr.in.sin_addr);
	}
	return addr;
}

/* A socket at a port of @host: @port, in network order, or a free one if that is 0. */
static int bound_socket(struct __test_metadata *_metadata, int type, const char *host,
			in_port_t *port)
{
	union address addr = address_of(host, *port);
	socklen_t len = length_of(&addr);
	int fd, one = 1;

	fd = socket(addr.sa.sa_family, type, 0);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	ASSERT_EQ(0, bind(fd, &addr.sa, len));
	ASSERT_EQ(0, getsockname(fd, &addr.sa, &len));
	*port = addr.sa.sa_family == AF_INET6 ? addr.in6.sin6_port : addr.in.sin_port;
	return fd;
}

static void connect_to(struct __test_metadata *_metadata, int fd, const char *host,
		       in_port_t port)
{
	union address addr = address_of(host, port);

	ASSERT_EQ(0, connect(fd, &addr.sa, length_of(&addr)))
	{
		TH_LOG("connect: %s", strerror(errno));
	}
}

static bool sends(int fd, const char *text)
{
	return send(fd, text, strlen(text), MSG_NOSIGNAL) == strlen(text);
}

static bool gives(int fd, const char *text)
{
	char buf[64];

	return recv(fd, buf, strlen(text), MSG_WAITALL) == strlen(text) &&
	       !memcmp(buf, text, strlen(text));
}

/*
 * A connection within this process, by the addresses that the variant has.  A
 * descriptor that a test closes is -1.
 */
FIXTURE(tcp)
{
	int listener;
	int client;
	int server;
	int other[2];		/* as the tests need them */
};

FIXTURE_VARIANT(tcp)
{
	const char *server;
	const char *client;
};

FIXTURE_VARIANT_ADD(tcp, ipv4) { .server = "127.0.0.1", .client = "127.0.0.1" };
FIXTURE_VARIANT_ADD(tcp, ipv6) { .server = "::1", .client = "::1" };
FIXTURE_VARIANT_ADD(tcp, mapped_client) { .server = "127.0.0.1", .client = "::ffff:127.0.0.1" };
FIXTURE_VARIANT_ADD(tcp, mapped_server) { .server = "::ffff:127.0.0.1", .client = "127.0.0.1" };

static bool has_ipv6(void)
{
	union address addr = address_of("::1", 0);
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	bool is_there = fd >= 0 && !bind(fd, &addr.sa, length_of(&addr));

	close(fd);
	return is_there;
}

FIXTURE_SETUP(tcp)
{
	in_port_t port = 0;

	require_isolate(_metadata);
	if (variant->server[0] == ':' || variant->client[0] == ':')
		skip_unless(has_ipv6(), return, "there is no IPv6");
	self->other[0] = -1;
	self->other[1] = -1;
	self->listener = bound_socket(_metadata, SOCK_STREAM, variant->server, &port);
	ASSERT_EQ(0, listen(self->listener, 5));
	self->client = socket(address_of(variant->client, 0).sa.sa_family, SOCK_STREAM, 0);
	connect_to(_metadata, self->client, variant->client, port);
	self->server = -1;
}

FIXTURE_TEARDOWN(tcp)
{
}

static void accept_it(struct __test_metadata *_metadata, FIXTURE_DATA(tcp) *self)
{
	self->server = accept(self->listener, NULL, NULL);
	ASSERT_LE(0, self->server);
}

static void expect_works(struct __test_metadata *_metadata, FIXTURE_DATA(tcp) *self)
{
	EXPECT_TRUE(sends(self->client, "there"));
	EXPECT_TRUE(gives(self->server, "there"));
	EXPECT_TRUE(sends(self->server, "back"));
	EXPECT_TRUE(gives(self->client, "back"));
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(tcp) *self = arg;
	int fds[] = { self->listener, self->client, self->server };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			replica_assert_fdinfo("shared", fds[i]);
	return REPLICA_PASS;
}

static void expect_shared(struct __test_metadata *_metadata, FIXTURE_DATA(tcp) *self,
			  __u64 flags)
{
	isolate_and_pass(_metadata, flags, see_shared, self);
}

static void close_fd(struct __test_metadata *_metadata, int *fd)
{
	ASSERT_EQ(0, close(*fd));
	*fd = -1;
}

TEST_F(tcp, rejects_both_ends)
{
	struct census before;
	sigset_t sigchld;

	accept_it(_metadata, self);
	sigchld = block_signal(_metadata, SIGCHLD);
	before = take_census();
	EXPECT_EQ(-EOPNOTSUPP, replica_main(full_fork(CLONE_ISOLATE), see_nothing, NULL));
	expect_nothing_left(_metadata, before, &sigchld);
	EXPECT_STREQ("", fdinfo_says("self", self->client));
	EXPECT_STREQ("", fdinfo_says("self", self->listener));
	expect_works(_metadata, self);

	fork_and_pass(_metadata, 0, see_nothing, NULL);
	expect_works(_metadata, self);
	close_fd(_metadata, &self->client);
	expect_shared(_metadata, self, 0);
}

TEST_F(tcp, rejects_data_on_the_way)
{
	accept_it(_metadata, self);
	ASSERT_TRUE(sends(self->client, "there"));
	ASSERT_TRUE(sends(self->server, "back"));
	expect_refused(_metadata, 0);
	EXPECT_TRUE(gives(self->server, "there"));
	EXPECT_TRUE(gives(self->client, "back"));

	close_fd(_metadata, &self->server);
	expect_shared(_metadata, self, 0);
}

/* The other direction is still open. */
TEST_F(tcp, rejects_an_end_that_is_shut_down)
{
	accept_it(_metadata, self);
	ASSERT_EQ(0, shutdown(self->client, SHUT_WR));
	expect_refused(_metadata, 0);
	EXPECT_TRUE(sends(self->server, "back"));
	EXPECT_TRUE(gives(self->client, "back"));

	close_fd(_metadata, &self->client);
	expect_shared(_metadata, self, 0);
}

/* More bytes than there is room for, so that the sender waits for the receiver. */
TEST_F(tcp, rejects_a_full_connection)
{
	static char page[4096];

	accept_it(_metadata, self);
	while (send(self->client, page, sizeof(page), MSG_DONTWAIT) > 0)
		;
	ASSERT_EQ(EAGAIN, errno);
	expect_refused(_metadata, 0);

	close_fd(_metadata, &self->server);
	expect_shared(_metadata, self, 0);
}

TEST_F(tcp, rejects_duplicates)
{
	accept_it(_metadata, self);
	ASSERT_LE(0, dup(self->server));
	ASSERT_LE(0, fcntl(self->client, F_DUPFD, 200));
	expect_refused(_metadata, 0);
	expect_works(_metadata, self);

	fork_and_pass(_metadata, 0, see_nothing, NULL);
}

/* A child that has nothing but one end. */
TEST_F(tcp, rejects_ends_in_two_processes)
{
	pid_t child;

	accept_it(_metadata, self);
	child = start_outsider(_metadata, self->server);
	close_fd(_metadata, &self->server);
	expect_refused(_metadata, CLONE_SUBTREE);

	/* It is an outsider then. */
	expect_shared(_metadata, self, 0);
	end_outsider(_metadata, child);
	/* And has closed it now. */
	expect_shared(_metadata, self, CLONE_SUBTREE);
}

TEST_F(tcp, is_shared_if_somebody_else_has_an_end)
{
	pid_t outsider;

	accept_it(_metadata, self);
	outsider = start_outsider(_metadata, self->client);
	expect_shared(_metadata, self, 0);
	expect_refused(_metadata, CLONE_SUBTREE);
	end_outsider(_metadata, outsider);
	expect_refused(_metadata, 0);
	expect_works(_metadata, self);
}

TEST_F(tcp, is_shared_until_it_is_accepted)
{
	expect_shared(_metadata, self, 0);
	accept_it(_metadata, self);
	expect_refused(_metadata, 0);
	expect_works(_metadata, self);
}

TEST_F(tcp, is_shared_when_the_peer_has_closed_it)
{
	accept_it(_metadata, self);
	ASSERT_TRUE(sends(self->client, "last"));
	close_fd(_metadata, &self->client);
	expect_shared(_metadata, self, 0);
	EXPECT_TRUE(gives(self->server, "last"));
	/* With what is left of a connection in the hash table */
	ASSERT_EQ(0, shutdown(self->server, SHUT_RDWR));
	expect_shared(_metadata, self, 0);
}

TEST_F(tcp, is_shared_when_it_was_aborted)
{
	struct linger linger = { .l_onoff = 1 };

	accept_it(_metadata, self);
	ASSERT_EQ(0, setsockopt(self->client, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	close_fd(_metadata, &self->client);
	expect_shared(_metadata, self, 0);
}

TEST_F(tcp, is_shared_if_it_listens)
{
	close_fd(_metadata, &self->client);
	expect_shared(_metadata, self, 0);
}

/* An end that nobody but a message has, in a socket that only members have. */
TEST_F(tcp, rejects_an_end_in_flight)
{
	pid_t outsider;

	accept_it(_metadata, self);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->other));
	ASSERT_TRUE(send_fd(self->other[0], self->server));
	close_fd(_metadata, &self->server);
	expect_refused(_metadata, 0);

	/* Who may receive it. */
	outsider = start_outsider(_metadata, self->other[1]);
	expect_shared(_metadata, self, 0);
	end_outsider(_metadata, outsider);
}

/* One end is bound to a device, and the other one is not. */
TEST_F(tcp, rejects_an_end_that_is_bound_to_a_device)
{
	accept_it(_metadata, self);
	ASSERT_EQ(0, setsockopt(self->server, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3))
	{
		TH_LOG("SO_BINDTODEVICE: %s", strerror(errno));
	}
	expect_refused(_metadata, 0);
	expect_works(_metadata, self);

	close_fd(_metadata, &self->server);
	expect_shared(_metadata, self, 0);
}

/*
 * Sockets of other kinds, and in other places
 */
FIXTURE(inet_socket)
{
	int listener;
	int client;
	int server;
};

FIXTURE_SETUP(inet_socket)
{
	require_isolate(_metadata);
	self->listener = -1;
	self->client = -1;
	self->server = -1;
}

FIXTURE_TEARDOWN(inet_socket)
{
}

static int see_socket_shared(void *arg)
{
	FIXTURE_DATA(inet_socket) *self = arg;

	replica_assert_fdinfo("shared", self->client);
	if (self->server >= 0)
		replica_assert_fdinfo("shared", self->server);
	return REPLICA_PASS;
}

/* What it sends it receives itself. */
TEST_F(inet_socket, is_rejected_if_it_is_connected_with_itself)
{
	in_port_t port = 0;
	pid_t outsider;

	self->client = bound_socket(_metadata, SOCK_STREAM, "127.0.0.1", &port);
	connect_to(_metadata, self->client, "127.0.0.1", port);
	ASSERT_TRUE(sends(self->client, "me"));
	expect_refused(_metadata, 0);
	EXPECT_TRUE(gives(self->client, "me"));

	outsider = start_outsider(_metadata, self->client);
	isolate_and_pass(_metadata, 0, see_socket_shared, self);
	end_outsider(_metadata, outsider);
}

TEST_F(inet_socket, is_shared_if_it_is_not_connected)
{
	in_port_t port = 0;

	self->client = socket(AF_INET, SOCK_STREAM, 0);
	ASSERT_LE(0, self->client);
	self->server = bound_socket(_metadata, SOCK_STREAM, "127.0.0.1", &port);
	isolate_and_pass(_metadata, 0, see_socket_shared, self);
}

static void enter_new_network(struct __test_metadata *_metadata)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	ASSERT_EQ(0, unshare(CLONE_NEWNET));
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, SIOCSIFFLAGS, &request));
	ASSERT_EQ(0, close(fd));
}

/* Both ends of a connection within a network namespace that is a new one */
static void connect_in_new_network(struct __test_metadata *_metadata, int *client, int *server)
{
	in_port_t ports[2] = { htons(7001), htons(7002) };
	int listener;

	enter_new_network(_metadata);
	listener = bound_socket(_metadata, SOCK_STREAM, "127.0.0.1", &ports[0]);
	ASSERT_EQ(0, listen(listener, 1));
	*client = bound_socket(_metadata, SOCK_STREAM, "127.0.0.1", &ports[1]);
	connect_to(_metadata, *client, "127.0.0.1", ports[0]);
	*server = accept(listener, NULL, NULL);
	ASSERT_LE(0, *server);
	ASSERT_EQ(0, close(listener));
}

/* Their addresses match, but the other ends are with others. */
TEST_F(inet_socket, is_shared_if_its_mirror_is_in_another_network)
{
	pid_t outsiders[2];
	int client, server;

	require_root(_metadata, "network namespaces");
	connect_in_new_network(_metadata, &self->client, &server);
	outsiders[0] = start_outsider(_metadata, server);
	ASSERT_EQ(0, close(server));
	connect_in_new_network(_metadata, &client, &self->server);
	outsiders[1] = start_outsider(_metadata, client);
	ASSERT_EQ(0, close(client));

	isolate_and_pass(_metadata, 0, see_socket_shared, self);
	expect_refused(_metadata, CLONE_SUBTREE);
	end_outsider(_metadata, outsiders[0]);
	end_outsider(_metadata, outsiders[1]);
}

/*
 * Two sockets of UDP within this process, by the addresses that the variant has, which
 * a test connects.  A descriptor that a test closes is -1.
 */
FIXTURE(udp)
{
	int fds[2];
	in_port_t ports[2];
};

FIXTURE_VARIANT(udp)
{
	const char *hosts[2];
	/* Each by what the other one calls it */
	const char *peers[2];
};

FIXTURE_VARIANT_ADD(udp, ipv4)
{
	.hosts = { "127.0.0.1", "127.0.0.2" },
	.peers = { "127.0.0.2", "127.0.0.1" },
};
FIXTURE_VARIANT_ADD(udp, ipv6)
{
	.hosts = { "::1", "::1" },
	.peers = { "::1", "::1" },
};
FIXTURE_VARIANT_ADD(udp, mapped)
{
	.hosts = { "::ffff:127.0.0.1", "127.0.0.2" },
	.peers = { "::ffff:127.0.0.2", "127.0.0.1" },
};
/* One has its address only since it is connected. */
FIXTURE_VARIANT_ADD(udp, any)
{
	.hosts = { "0.0.0.0", "127.0.0.1" },
	.peers = { "127.0.0.1", "127.0.0.1" },
};

FIXTURE_SETUP(udp)
{
	int i;

	require_isolate(_metadata);
	if (variant->hosts[0][0] == ':')
		skip_unless(has_ipv6(), return, "there is no IPv6");
	for (i = 0; i < 2; i++)
		self->fds[i] = bound_socket(_metadata, SOCK_DGRAM, variant->hosts[i],
					    &self->ports[i]);
}

FIXTURE_TEARDOWN(udp)
{
}

static void connect_udp(struct __test_metadata *_metadata, FIXTURE_DATA(udp) *self,
			const FIXTURE_VARIANT(udp) *variant, int i)
{
	connect_to(_metadata, self->fds[i], variant->peers[i], self->ports[!i]);
}

static void connect_both(struct __test_metadata *_metadata, FIXTURE_DATA(udp) *self,
			 const FIXTURE_VARIANT(udp) *variant)
{
	connect_udp(_metadata, self, variant, 0);
	connect_udp(_metadata, self, variant, 1);
}

static int see_udp_shared(void *arg)
{
	FIXTURE_DATA(udp) *self = arg;
	int i;

	for (i = 0; i < 2; i++)
		if (self->fds[i] >= 0)
			replica_assert_fdinfo("shared", self->fds[i]);
	return REPLICA_PASS;
}

TEST_F(udp, rejects_both_ends)
{
	struct census before;
	sigset_t sigchld;

	connect_both(_metadata, self, variant);
	ASSERT_TRUE(sends(self->fds[0], "there"));
	sigchld = block_signal(_metadata, SIGCHLD);
	before = take_census();
	EXPECT_EQ(-EOPNOTSUPP, replica_main(full_fork(CLONE_ISOLATE), see_nothing, NULL));
	expect_nothing_left(_metadata, before, &sigchld);
	EXPECT_STREQ("", fdinfo_says("self", self->fds[0]));
	EXPECT_TRUE(gives(self->fds[1], "there"));

	fork_and_pass(_metadata, 0, see_nothing, NULL);
	close_fd(_metadata, &self->fds[0]);
	isolate_and_pass(_metadata, 0, see_udp_shared, self);
}

/* A child that has nothing but one end. */
TEST_F(udp, rejects_ends_in_two_processes)
{
	pid_t child;

	connect_both(_metadata, self, variant);
	child = start_outsider(_metadata, self->fds[1]);
	close_fd(_metadata, &self->fds[1]);
	expect_refused(_metadata, CLONE_SUBTREE);
	/* It is an outsider then. */
	isolate_and_pass(_metadata, 0, see_udp_shared, self);
	end_outsider(_metadata, child);
}

TEST_F(udp, is_shared_if_somebody_else_has_an_end)
{
	pid_t outsider;

	connect_both(_metadata, self, variant);
	outsider = start_outsider(_metadata, self->fds[0]);
	isolate_and_pass(_metadata, 0, see_udp_shared, self);
	end_outsider(_metadata, outsider);
	expect_refused(_metadata, 0);
}

/* As a server that hears everybody, and its client. */
TEST_F(udp, is_shared_until_both_are_connected)
{
	isolate_and_pass(_metadata, 0, see_udp_shared, self);
	connect_udp(_metadata, self, variant, 0);
	isolate_and_pass(_metadata, 0, see_udp_shared, self);
	connect_udp(_metadata, self, variant, 1);
	expect_refused(_metadata, 0);
}

TEST_F(udp, is_shared_when_one_is_connected_no_more)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	connect_both(_metadata, self, variant);
	expect_refused(_metadata, 0);
	ASSERT_EQ(0, connect(self->fds[1], &none, sizeof(none)));
	isolate_and_pass(_metadata, 0, see_udp_shared, self);
}

TEST_F(udp, is_rejected_if_it_is_connected_with_itself)
{
	connect_to(_metadata, self->fds[1], variant->hosts[1], self->ports[1]);
	ASSERT_TRUE(sends(self->fds[1], "me"));
	expect_refused(_metadata, 0);
	EXPECT_TRUE(gives(self->fds[1], "me"));
	close_fd(_metadata, &self->fds[1]);
	isolate_and_pass(_metadata, 0, see_udp_shared, self);
}

/* Their addresses match, but they are in another network namespace each. */
TEST_F(inet_socket, is_shared_if_what_matches_is_in_another_network)
{
	in_port_t ports[2] = { htons(7001), htons(7002) };

	require_root(_metadata, "network namespaces");
	enter_new_network(_metadata);
	self->client = bound_socket(_metadata, SOCK_DGRAM, "127.0.0.1", &ports[0]);
	connect_to(_metadata, self->client, "127.0.0.1", ports[1]);
	enter_new_network(_metadata);
	self->server = bound_socket(_metadata, SOCK_DGRAM, "127.0.0.1", &ports[1]);
	connect_to(_metadata, self->server, "127.0.0.1", ports[0]);
	isolate_and_pass(_metadata, 0, see_socket_shared, self);
}

/*
 * A client of MPTCP, and a server of MPTCP or TCP, within this process
 */
FIXTURE(mptcp)
{
	int listener;
	int client;
	int server;
};

FIXTURE_VARIANT(mptcp)
{
	int protocol;
};

FIXTURE_VARIANT_ADD(mptcp, on_both_sides) { .protocol = IPPROTO_MPTCP };
FIXTURE_VARIANT_ADD(mptcp, with_tcp) { .protocol = IPPROTO_TCP };

FIXTURE_SETUP(mptcp)
{
	union address addr = address_of("127.0.0.1", 0);
	socklen_t len = sizeof(addr.in);

	require_isolate(_metadata);
	self->listener = socket(AF_INET, SOCK_STREAM, variant->protocol);
	ASSERT_LE(0, self->listener);
	ASSERT_EQ(0, bind(self->listener, &addr.sa, len));
	ASSERT_EQ(0, listen(self->listener, 1));
	ASSERT_EQ(0, getsockname(self->listener, &addr.sa, &len));
	self->client = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	ASSERT_LE(0, self->client);
	ASSERT_EQ(0, connect(self->client, &addr.sa, len));
	self->server = accept(self->listener, NULL, NULL);
	ASSERT_LE(0, self->server);
}

FIXTURE_TEARDOWN(mptcp)
{
}

static int see_mptcp_shared(void *arg)
{
	FIXTURE_DATA(mptcp) *self = arg;

	replica_assert_fdinfo("shared", self->client);
	replica_assert_fdinfo("shared", self->listener);
	if (self->server >= 0)
		replica_assert_fdinfo("shared", self->server);
	return REPLICA_PASS;
}

TEST_F(mptcp, rejects_both_ends)
{
	expect_refused(_metadata, 0);
	EXPECT_TRUE(sends(self->client, "there"));
	EXPECT_TRUE(gives(self->server, "there"));
	expect_refused(_metadata, 0);
	EXPECT_TRUE(sends(self->server, "back"));
	EXPECT_TRUE(gives(self->client, "back"));
	close_fd(_metadata, &self->server);
	isolate_and_pass(_metadata, 0, see_mptcp_shared, self);
}

TEST_F(mptcp, is_shared_if_somebody_else_has_an_end)
{
	pid_t outsider = start_outsider(_metadata, self->client);

	isolate_and_pass(_metadata, 0, see_mptcp_shared, self);
	expect_refused(_metadata, CLONE_SUBTREE);
	end_outsider(_metadata, outsider);
	expect_refused(_metadata, 0);
}

TEST_HARNESS_MAIN
