// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: a program that fails at the first lost byte is copied 1000 times
 * in a row
 *
 * Two processes with three threads each send each other bytes that are numbered,
 * through a pipe, a unix socket and shared memory, as fast as they can.  All of
 * them are small, so that in each some bytes are on their way at any instant.
 *
 * FULLFORK_ROUNDS says how often it is copied.
 */
#define TEST_DEADLINE 1500
#include "fullfork_isolate.h"
#include "fullfork_threads.h"

#include <sys/socket.h>

/* A kernel that checks everything needs much longer for each. */
#define ROUNDS 1000
#define ROUNDS_LOCKDEP 100

/*
 * The bytes that are received from each channel before one that is told to end
 * stops to send.  Then come those that are on their way.
 */
#define BYTES_MORE 600
#define LARGEST 97

enum channel {
	CHANNEL_PIPE,			/* from the first process to the second */
	CHANNEL_SOCKET,			/* and back */
	CHANNEL_RING,			/* from the first to the second */
	CHANNELS,
};

enum {
	WORD_STOP = WORD_FREE,		/* tells the original to end */
	WORD_PROGRESS,
};

/* Shared by both processes. */
struct ring {
	__u32 head;			/* bytes that were put there, a futex */
	__u32 tail;			/* bytes that were taken, a futex */
	__u32 is_ended;
	__u32 stop;
	__u32 sent[CHANNELS];		/* when all are sent */
	__u32 received[CHANNELS];	/* until now */
	unsigned char data[256];
};

static struct ring *ring;
static int in[CHANNELS], out[CHANNELS];
static int first_number;

static ssize_t put_ring(const unsigned char *buf, size_t len)
{
	__u32 head = ring->head, tail;
	size_t i;

	while ((tail = load(&ring->tail)) == head - sizeof(ring->data))
		futex_wait(&ring->tail, tail, 0, -1);
	if (len > sizeof(ring->data) - (head - tail))
		len = sizeof(ring->data) - (head - tail);
	for (i = 0; i < len; i++)
		ring->data[(head + i) % sizeof(ring->data)] = buf[i];
	store(&ring->head, head + len);
	futex_wake(&ring->head, 1, 0);
	return len;
}

/* Waits for ever if neither the bytes nor the end are there. */
static ssize_t get_ring(unsigned char *buf, size_t len)
{
	__u32 tail = ring->tail, head;
	size_t i;

	while ((head = load(&ring->head)) == tail) {
		if (load(&ring->is_ended) && load(&ring->head) == tail)
			return 0;
		futex_wait(&ring->head, head, 0, 1000);
	}
	if (len > head - tail)
		len = head - tail;
	for (i = 0; i < len; i++)
		buf[i] = ring->data[(tail + i) % sizeof(ring->data)];
	store(&ring->tail, tail + len);
	futex_wake(&ring->tail, 1, 0);
	return len;
}

static ssize_t put_bytes(enum channel c, const unsigned char *buf, size_t len)
{
	return c == CHANNEL_RING ? put_ring(buf, len) : write(out[c], buf, len);
}

static ssize_t get_bytes(enum channel c, unsigned char *buf, size_t len)
{
	return c == CHANNEL_RING ? get_ring(buf, len) : read(in[c], buf, len);
}

static void end_channel(enum channel c, __u32 sent)
{
	store(&ring->sent[c], sent);
	switch (c) {
	case CHANNEL_PIPE:
		replica_assert_eq(0, close(out[c]));
		break;
	case CHANNEL_SOCKET:
		replica_assert_eq(0, shutdown(out[c], SHUT_WR));
		break;
	default:
		store(&ring->is_ended, 1);
		futex_wake(&ring->head, 1, 0);
	}
}

static void send_bytes(enum channel c)
{
	unsigned char buf[LARGEST];
	__u32 pos = 0;
	ssize_t len, i;

	while (!load(&ring->stop)) {
		len = 1 + pos % LARGEST;
		for (i = 0; i < len; i++)
			buf[i] = pattern_at(pos + i);
		len = put_bytes(c, buf, len);
		replica_assert(len > 0);
		pos += len;
	}
	end_channel(c, pos);
}

/* False if it was the last of them. */
static bool receive_some(enum channel c)
{
	__u32 pos = ring->received[c];
	unsigned char buf[LARGEST];
	ssize_t len, i;

	len = get_bytes(c, buf, 1 + pos % (LARGEST - 6));
	replica_assert(len >= 0);
	if (!len) {
		replica_assert_eq(load(&ring->sent[c]), pos);
		return false;
	}
	for (i = 0; i < len; i++)
		replica_assert_eq(pattern_at(pos + i), buf[i]);
	store(&ring->received[c], pos + len);
	return true;
}

static void *sender(void *arg)
{
	send_bytes((long)arg);
	return NULL;
}

static void *receiver(void *arg)
{
	while (receive_some((long)arg))
		;
	return NULL;
}

static pthread_t start(void *(*fn)(void *arg), enum channel c)
{
	pthread_t thread;

	replica_assert_eq(0, pthread_create(&thread, NULL, fn, (void *)(long)c));
	return thread;
}

/* /proc shows the PID that the test sees: it is all that is not as before. */
static int own_number(void)
{
	char link[16] = "";

	replica_assert(readlink("/proc/self", link, sizeof(link) - 1) > 0);
	return atoi(link);
}

static void see_copies(void)
{
	replica_assert_fdinfo("copied", out[CHANNEL_PIPE]);
	replica_assert_fdinfo("copied", in[CHANNEL_SOCKET]);
}

/*
 * Who is told to end, or finds that it is a replica, does so when enough has
 * gone through each channel from then on.
 */
static void stop_in_time(void)
{
	static __u32 goal[CHANNELS];
	bool is_replica;
	int c;

	if (!goal[0]) {
		is_replica = own_number() != first_number;
		if (!is_replica && !load(&report->word[WORD_STOP])) {
			store(&report->word[WORD_PROGRESS],
			      ring->received[CHANNEL_SOCKET]);
			return;
		}
		if (is_replica)
			see_copies();
		for (c = 0; c < CHANNELS; c++)
			goal[c] = load(&ring->received[c]) + BYTES_MORE;
	}
	for (c = 0; c < CHANNELS; c++)
		if (load(&ring->received[c]) < goal[c])
			return;
	store(&ring->stop, 1);
}

static int run_second(void)
{
	pthread_t of_pipe = start(receiver, CHANNEL_PIPE);
	pthread_t of_ring = start(receiver, CHANNEL_RING);

	send_bytes(CHANNEL_SOCKET);
	replica_assert_eq(0, pthread_join(of_pipe, NULL));
	replica_assert_eq(0, pthread_join(of_ring, NULL));
	return REPLICA_PASS;
}

static int run_first(pid_t second)
{
	pthread_t of_pipe = start(sender, CHANNEL_PIPE);
	pthread_t of_ring = start(sender, CHANNEL_RING);
	int status;

	while (receive_some(CHANNEL_SOCKET))
		stop_in_time();
	replica_assert_eq(0, pthread_join(of_pipe, NULL));
	replica_assert_eq(0, pthread_join(of_ring, NULL));
	replica_assert_eq(second, waitpid(-1, &status, 0));
	replica_assert_eq(REPLICA_PASS << 8, status);
	return REPLICA_PASS;
}

static int run_program(void)
{
	int ends[2], sockets[2], size = 1;
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	first_number = own_number();
	replica_assert_eq(0, pipe(ends));
	replica_assert(fcntl(ends[1], F_SETPIPE_SZ, 4096) > 0);
	replica_assert_eq(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	replica_assert_eq(0, setsockopt(sockets[1], SOL_SOCKET, SO_SNDBUF, &size,
					sizeof(size)));
	ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	replica_assert(ring != MAP_FAILED);
	in[CHANNEL_PIPE] = ends[0];
	out[CHANNEL_PIPE] = ends[1];
	in[CHANNEL_SOCKET] = sockets[0];
	out[CHANNEL_SOCKET] = sockets[1];

	pid = fork();
	replica_assert(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(out[CHANNEL_PIPE]);
		close(in[CHANNEL_SOCKET]);
		return run_second();
	}
	close(in[CHANNEL_PIPE]);
	close(out[CHANNEL_SOCKET]);
	return run_first(pid);
}

FIXTURE(often)
{
	pid_t pid;
	int pidfd;
	int rounds;
};

FIXTURE_SETUP(often)
{
	const char *rounds = getenv("FULLFORK_ROUNDS");

	setup_threads(_metadata);
	self->rounds = access("/proc/lockdep", F_OK) ? ROUNDS : ROUNDS_LOCKDEP;
	if (rounds)
		self->rounds = atoi(rounds);
	self->pid = fork();
	ASSERT_LE(0, self->pid);
	if (!self->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		replica_exit(run_program());
	}
	self->pidfd = sys_pidfd_open(self->pid);
	ASSERT_LE(0, self->pidfd);
}

FIXTURE_TEARDOWN(often)
{
}

/* The original goes on; if it has failed, it has said why. */
static void expect_progress(struct __test_metadata *_metadata, pid_t pid)
{
	__u32 before = load(&report->word[WORD_PROGRESS]);
	int status = 0;

	ASSERT_TRUE(wait_until(waitpid(pid, &status, WNOHANG) ||
			       load(&report->word[WORD_PROGRESS]) != before,
			       DEADLINE))
	{
		dump_process(pid);
	}
	ASSERT_EQ(0, status)
	{
		TH_LOG("the original ended: %s", report->failure);
	}
}

static void copy_once(struct __test_metadata *_metadata, int pidfd)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_FROM_PIDFD |
			 CLONE_KEEP_TIDS | CLONE_NEWPID | CLONE_ISOLATE,
		.exit_signal = SIGCHLD,
		.source_pidfd = pidfd,
	};
	long pid = sys_clone3(&args, sizeof(args));

	ASSERT_LT(0, pid)
	{
		TH_LOG("full fork: %s", strerror(-pid));
	}
	expect_pass(_metadata, pid);
	ASSERT_EQ(0, load(&report->failures));
}

TEST_F_LONG(often, no_byte_is_lost_in_any_copy_or_the_original)
{
	int round;

	expect_progress(_metadata, self->pid);
	for (round = 0; round < self->rounds; round++) {
		copy_once(_metadata, self->pidfd);
		expect_progress(_metadata, self->pid);
	}
	store(&report->word[WORD_STOP], 1);
	expect_pass(_metadata, self->pid);
	EXPECT_TRUE(reap_all(DEADLINE));
}

TEST_HARNESS_MAIN
