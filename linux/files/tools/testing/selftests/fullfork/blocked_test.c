// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: threads that are blocked on file descriptors
 *
 * The calls go on in both processes as if nothing had been: no EINTR, no
 * restart code, and each gets what is meant for it.
 */

#include "fullfork_blocked.h"
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static int fds[2];
static int epfd;
static char path[64];

static void prepare_pipe(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, pipe(fds));
}

static void prepare_full_pipe(struct __test_metadata *_metadata)
{
	static char page[4096];

	ASSERT_EQ(0, pipe2(fds, O_NONBLOCK));
	while (write(fds[1], page, sizeof(page)) > 0)
		;
	ASSERT_EQ(EAGAIN, errno);
	ASSERT_EQ(0, fcntl(fds[1], F_SETFL, 0));
}

static void prepare_socketpair(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

static void prepare_datagrams(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
}

/* Longer than the test: it is there for the path that it makes recv() take. */
static void set_receive_timeout(struct __test_metadata *_metadata)
{
	struct timeval tv = { .tv_sec = 100 };

	ASSERT_EQ(0, setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &tv,
				sizeof(tv)));
}

static void prepare_timed_socketpair(struct __test_metadata *_metadata)
{
	prepare_socketpair(_metadata);
	set_receive_timeout(_metadata);
}

/* Filled by the end that is read from here, so that @fds are as of a pipe. */
static void prepare_full_socketpair(struct __test_metadata *_metadata)
{
	static char page[4096];
	struct timeval tv = { .tv_sec = 100 };

	prepare_socketpair(_metadata);
	while (send(fds[1], page, sizeof(page), MSG_DONTWAIT) > 0)
		;
	ASSERT_EQ(EAGAIN, errno);
	ASSERT_EQ(0, setsockopt(fds[1], SOL_SOCKET, SO_SNDTIMEO, &tv,
				sizeof(tv)));
}

static int source;

static void prepare_sendfile(struct __test_metadata *_metadata)
{
	prepare_full_socketpair(_metadata);
	snprintf(path, sizeof(path), "/tmp/fullfork.XXXXXX");
	source = mkstemp(path);
	ASSERT_LE(0, source);
	ASSERT_EQ(0, ftruncate(source, 4096));
}

/* An autobound, abstract address. */
static void prepare_listener(struct __test_metadata *_metadata)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	fds[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	ASSERT_LE(0, fds[0]);
	ASSERT_EQ(0, bind(fds[0], (void *)&addr, sizeof(sa_family_t)));
	ASSERT_EQ(0, listen(fds[0], 4));
}

static void prepare_timed_listener(struct __test_metadata *_metadata)
{
	prepare_listener(_metadata);
	set_receive_timeout(_metadata);
}

static void prepare_epoll(struct __test_metadata *_metadata)
{
	prepare_pipe(_metadata);
	epfd = create_epoll(_metadata, fds[0]);
}

static void prepare_eventfd(struct __test_metadata *_metadata)
{
	fds[0] = eventfd(0, EFD_SEMAPHORE);
	ASSERT_LE(0, fds[0]);
}

static void prepare_signalfd(struct __test_metadata *_metadata)
{
	sigset_t set = block_signal(_metadata, SIGUSR1);

	fds[0] = signalfd(-1, &set, 0);
	ASSERT_LE(0, fds[0]);
}

static void prepare_timerfd(struct __test_metadata *_metadata)
{
	fds[0] = timerfd_create(CLOCK_MONOTONIC, 0);
	ASSERT_LE(0, fds[0]);
}

static void prepare_file(struct __test_metadata *_metadata)
{
	snprintf(path, sizeof(path), "/tmp/fullfork.XXXXXX");
	fds[0] = mkstemp(path);
	ASSERT_LE(0, fds[0]);
}

static void prepare_inotify(struct __test_metadata *_metadata)
{
	prepare_file(_metadata);
	fds[1] = inotify_init1(0);
	ASSERT_LE(0, fds[1]);
	ASSERT_LE(0, inotify_add_watch(fds[1], path, IN_MODIFY | IN_ATTRIB));
}

static void prepare_fifo(struct __test_metadata *_metadata)
{
	prepare_file(_metadata);
	ASSERT_EQ(0, unlink(path));
	ASSERT_EQ(0, mkfifo(path, 0600));
}

/* An open file description of its own: a flock belongs to that. */
static void hold_flock(void)
{
	hold_lock(flock(open(path, O_RDWR), LOCK_EX));
}

static void hold_posix_lock(void)
{
	struct flock lock = { .l_type = F_WRLCK };

	hold_lock(fcntl(open(path, O_RDWR), F_SETLK, &lock));
}

static void prepare_flock(struct __test_metadata *_metadata)
{
	prepare_file(_metadata);
	start_lock_holder(_metadata, hold_flock);
}

static void prepare_posix_lock(struct __test_metadata *_metadata)
{
	prepare_file(_metadata);
	start_lock_holder(_metadata, hold_posix_lock);
}

static long call_read(void)
{
	char byte = 0;

	return outcome(read(fds[0], &byte, 1) == 1 && byte == 'x');
}

static long call_write(void)
{
	static char page[4096];

	return outcome(write(fds[1], page, sizeof(page)) == sizeof(page));
}

static long call_sendfile(void)
{
	off_t offset = 0;

	return outcome(sendfile(fds[1], source, &offset, 4096) == 4096 &&
		       offset == 4096);
}

static long call_recv(void)
{
	char bytes[8] = "";

	return outcome(recv(fds[0], bytes, 1, 0) == 1 && bytes[0] == 'x');
}

static long call_accept(void)
{
	return outcome(accept(fds[0], NULL, NULL) >= 0);
}

static long call_poll(void)
{
	struct pollfd pfd = { .fd = fds[0], .events = POLLIN };

	return outcome(poll(&pfd, 1, -1) == 1 && pfd.revents == POLLIN);
}

static long call_ppoll(void)
{
	struct pollfd pfd = { .fd = fds[0], .events = POLLIN };
	struct timespec ts = { .tv_sec = 100 };
	sigset_t set;

	sigfillset(&set);
	return outcome(ppoll(&pfd, 1, &ts, &set) == 1 && pfd.revents == POLLIN);
}

static long call_select(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(fds[0], &set);
	return outcome(select(fds[0] + 1, &set, NULL, NULL, NULL) == 1 &&
		       FD_ISSET(fds[0], &set));
}

static long call_pselect(void)
{
	struct timespec ts = { .tv_sec = 100 };
	sigset_t sigs;
	fd_set set;

	sigfillset(&sigs);
	FD_ZERO(&set);
	FD_SET(fds[0], &set);
	return outcome(pselect(fds[0] + 1, &set, NULL, NULL, &ts, &sigs) == 1 &&
		       FD_ISSET(fds[0], &set));
}

static long call_epoll_wait(void)
{
	struct epoll_event event = {};

	return outcome(epoll_wait(epfd, &event, 1, -1) == 1 &&
		       event.data.u32 == EPOLL_TOKEN);
}

static long call_epoll_pwait(void)
{
	struct epoll_event event = {};
	sigset_t set;

	sigfillset(&set);
	return outcome(epoll_pwait(epfd, &event, 1, 100000, &set) == 1 &&
		       event.data.u32 == EPOLL_TOKEN);
}

static long call_epoll_pwait2(void)
{
	struct timespec ts = { .tv_sec = 100 };
	struct epoll_event event = {};
	sigset_t set;

	sigfillset(&set);
	return outcome(epoll_pwait2(epfd, &event, 1, &ts, &set) == 1 &&
		       event.data.u32 == EPOLL_TOKEN);
}

static long call_read_number(void)
{
	__u64 number = 0;

	return outcome(read(fds[0], &number, 8) == 8 && number >= 1);
}

static long call_read_signalfd(void)
{
	struct signalfd_siginfo info = {};

	return outcome(read(fds[0], &info, sizeof(info)) == sizeof(info) &&
		       info.ssi_signo == SIGUSR1 && info.ssi_pid == sys_getpid());
}

/* Room for one event, so that nobody takes both. */
static long call_read_inotify(void)
{
	struct inotify_event event;

	return outcome(read(fds[1], &event, sizeof(event)) == sizeof(event) &&
		       event.mask & (IN_MODIFY | IN_ATTRIB));
}

static long call_open_fifo(void)
{
	struct stat st;
	int fd = open(path, O_RDONLY);

	return outcome(fd >= 0 && !fstat(fd, &st) && S_ISFIFO(st.st_mode));
}

static long call_flock(void)
{
	return outcome(!flock(fds[0], LOCK_EX));
}

/* Each process gets a lock of its own, so it must give it back. */
static long call_fcntl(void)
{
	struct flock lock = { .l_type = F_WRLCK };
	long ret = outcome(!fcntl(fds[0], F_SETLKW, &lock));

	lock.l_type = F_UNLCK;
	return ret ? ret : outcome(!fcntl(fds[0], F_SETLKW, &lock));
}

static void send_byte(void)
{
	if (write(fds[1], "x", 1) != 1)
		abort();
}

static void take_page(void)
{
	char page[4096];

	if (read(fds[0], page, sizeof(page)) != sizeof(page))
		abort();
}

/*
 * A socket has room again when most of what was sent is read; so that each side
 * makes room for its own call, each makes a lot of it.
 */
static void drain_socket(void)
{
	static char bytes[1 << 16];

	while (recv(fds[0], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

static void connect_once(void)
{
	struct sockaddr_un addr;
	socklen_t len = sizeof(addr);

	if (getsockname(fds[0], (void *)&addr, &len) ||
	    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&addr, len))
		abort();
}

static void count_one(void)
{
	__u64 one = 1;

	if (write(fds[0], &one, 8) != 8)
		abort();
}

/* Periodic: whoever reads takes all expirations that there are. */
static void start_timer(void)
{
	struct itimerspec spec = {
		.it_value.tv_nsec = 20000000,
		.it_interval.tv_nsec = 20000000,
	};

	timerfd_settime(fds[0], 0, &spec, NULL);
}

/* Two kinds of events, as two equal ones in a row become one. */
static void change_file(void)
{
	if (in_replica() ? write(fds[0], "x", 1) != 1 : fchmod(fds[0], 0640))
		abort();
}

static void open_writer(void)
{
	if (open(path, O_RDWR | O_NONBLOCK) < 0)
		abort();
}

FIXTURE(blocked)
{
};

FIXTURE_VARIANT(blocked)
{
	struct blocking_call call;
};

FIXTURE_VARIANT_ADD(blocked, in_read_of_pipe) {
	.call = { .prepare = prepare_pipe, .call = call_read,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_write_to_full_pipe) {
	.call = { .prepare = prepare_full_pipe, .call = call_write,
		  .complete = take_page },
};
FIXTURE_VARIANT_ADD(blocked, in_recv) {
	.call = { .prepare = prepare_socketpair, .call = call_recv,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_recv_of_datagram) {
	.call = { .prepare = prepare_datagrams, .call = call_recv,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_recv_with_timeout) {
	.call = { .prepare = prepare_timed_socketpair, .call = call_recv,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_sendfile_to_full_socket_with_timeout) {
	.call = { .prepare = prepare_sendfile, .call = call_sendfile,
		  .complete = drain_socket },
};
FIXTURE_VARIANT_ADD(blocked, in_accept) {
	.call = { .prepare = prepare_listener, .call = call_accept,
		  .complete = connect_once },
};
FIXTURE_VARIANT_ADD(blocked, in_accept_with_timeout) {
	.call = { .prepare = prepare_timed_listener, .call = call_accept,
		  .complete = connect_once },
};
FIXTURE_VARIANT_ADD(blocked, in_poll) {
	.call = { .prepare = prepare_pipe, .call = call_poll,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_ppoll) {
	.call = { .prepare = prepare_pipe, .call = call_ppoll,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_select) {
	.call = { .prepare = prepare_pipe, .call = call_select,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_pselect) {
	.call = { .prepare = prepare_pipe, .call = call_pselect,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_epoll_wait) {
	.call = { .prepare = prepare_epoll, .call = call_epoll_wait,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_epoll_pwait) {
	.call = { .prepare = prepare_epoll, .call = call_epoll_pwait,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_epoll_pwait2) {
	.call = { .prepare = prepare_epoll, .call = call_epoll_pwait2,
		  .complete = send_byte },
};
FIXTURE_VARIANT_ADD(blocked, in_read_of_eventfd) {
	.call = { .prepare = prepare_eventfd, .call = call_read_number,
		  .complete = count_one },
};
FIXTURE_VARIANT_ADD(blocked, in_read_of_signalfd) {
	.call = { .prepare = prepare_signalfd, .call = call_read_signalfd,
		  .complete = signal_process },
};
FIXTURE_VARIANT_ADD(blocked, in_read_of_timerfd) {
	.call = { .prepare = prepare_timerfd, .call = call_read_number,
		  .complete = start_timer },
};
FIXTURE_VARIANT_ADD(blocked, in_read_of_inotify) {
	.call = { .prepare = prepare_inotify, .call = call_read_inotify,
		  .complete = change_file },
};
FIXTURE_VARIANT_ADD(blocked, in_open_of_fifo) {
	.call = { .prepare = prepare_fifo, .call = call_open_fifo,
		  .complete = open_writer },
};
FIXTURE_VARIANT_ADD(blocked, in_flock) {
	.call = { .prepare = prepare_flock, .call = call_flock,
		  .complete = release },
};
FIXTURE_VARIANT_ADD(blocked, in_fcntl_setlkw) {
	.call = { .prepare = prepare_posix_lock, .call = call_fcntl,
		  .complete = release },
};

FIXTURE_SETUP(blocked)
{
	setup_threads(_metadata);
}

FIXTURE_TEARDOWN(blocked)
{
	if (path[0])
		unlink(path);
}

TEST_F_GUARDED(blocked, goes_on_in_both)
{
	expect_goes_on(_metadata, &variant->call, false);
}

TEST_F_GUARDED(blocked, goes_on_in_both_when_the_leader_is_blocked)
{
	expect_goes_on(_metadata, &variant->call, true);
}

TEST_HARNESS_MAIN
