// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE, while others look at what members have, change it and pass it on
 *
 * A program of two processes is copied again and again.  Outsiders, which are no
 * members, get its descriptors by pidfd_getfd() and by /proc all the time.  An
 * object is then either shared or copied, and in both cases whole: what is in it is
 * numbered, or a pattern.
 */
#include "fullfork_outsiders.h"

#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>

/* Full queues of datagrams and messages have ten. */
#define RECORDS		8
#define RECORD_SIZE	64

/* Enough to be copied page by page. */
#define MEMORY_SIZE	(32 * 4096)
#define BACKWARDS	5

enum { OWN = 1, OF_OUTSIDER };

/* Records in a queue of some kind */
struct queue {
	bool (*take)(const int *fd, unsigned char *record);
	bool (*put)(const int *fd, const unsigned char *record);
};

static unsigned char *memory, *memory_again;

/*
 * Records
 */

static void fill_record(unsigned char *record, unsigned int number)
{
	fill_pattern(record, RECORD_SIZE);
	record[0] = number;
}

static bool is_record(const unsigned char *record, unsigned int number)
{
	unsigned char wanted[RECORD_SIZE];

	fill_record(wanted, number);
	return !memcmp(record, wanted, sizeof(wanted));
}

static bool is_full(const struct queue *q, const int *fd, unsigned int nr_taken)
{
	unsigned char record[RECORD_SIZE];
	unsigned int nr, first = 0;

	for (nr = 0; q->take(fd, record); nr++) {
		if (!nr)
			first = record[0];
		if (!is_record(record, (first + nr) % RECORDS))
			return false;
	}
	return nr <= RECORDS && nr >= RECORDS - nr_taken;
}

static void fill(const struct queue *q, const int *fd)
{
	unsigned char record[RECORD_SIZE];
	unsigned int i;

	for (i = 0; i < RECORDS; i++) {
		fill_record(record, i);
		replica_assert(q->put(fd, record));
	}
}

/* The first one becomes the last one. */
static void rotate(const struct queue *q, const int *fd)
{
	unsigned char record[RECORD_SIZE];

	outsider_check(q->take(fd, record));
	outsider_check(q->put(fd, record));
}

/*
 * Pipe
 */

static bool take_by_read(const int *fd, unsigned char *record)
{
	return read(fd[0], record, RECORD_SIZE) == RECORD_SIZE;
}

static bool put_by_write(const int *fd, const unsigned char *record)
{
	return write(fd[1], record, RECORD_SIZE) == RECORD_SIZE;
}

static const struct queue pipe_queue = { take_by_read, put_by_write };

static void make_pipe(void)
{
	replica_assert_eq(0, pipe2(race->fd, O_NONBLOCK));
	fill(&pipe_queue, race->fd);
}

/* A record goes through a pipe of the outsider. */
static void splice_through(const int *fd)
{
	int own[2];

	outsider_check(!pipe2(own, O_NONBLOCK));
	outsider_check(tee(fd[0], own[1], RECORD_SIZE, SPLICE_F_NONBLOCK) == RECORD_SIZE);
	close(own[0]);
	close(own[1]);
	outsider_check(!pipe2(own, O_NONBLOCK));
	outsider_check(splice(fd[0], NULL, own[1], NULL, RECORD_SIZE, SPLICE_F_NONBLOCK) ==
		       RECORD_SIZE);
	outsider_check(splice(own[0], NULL, fd[1], NULL, RECORD_SIZE, SPLICE_F_NONBLOCK) ==
		       RECORD_SIZE);
	close(own[0]);
	close(own[1]);
}

static void meddle_with_pipe(const int *fd, unsigned int turn)
{
	switch (turn % 4) {
	case 0:
		rotate(&pipe_queue, fd);
		break;
	case 1:
		splice_through(fd);
		break;
	case 2:
		outsider_check(fcntl(fd[0], F_SETPIPE_SZ, turn & 4 ? 65536 : 32768) > 0);
		break;
	case 3:
		outsider_check(!fcntl(fd[0], F_SETFL, O_NONBLOCK | (turn & 4 ? O_DIRECT : 0)));
		outsider_check(!fcntl(fd[0], F_SETFL, O_NONBLOCK));
	}
}

static bool is_pipe_whole(const int *fd, unsigned int nr_taken)
{
	return is_full(&pipe_queue, fd, nr_taken);
}

/*
 * Eventfd: the records are not numbered
 */

static void make_eventfd(void)
{
	race->fd[0] = eventfd(RECORDS, EFD_SEMAPHORE | EFD_NONBLOCK);
	replica_assert(race->fd[0] >= 0);
}

static void meddle_with_eventfd(const int *fd, unsigned int turn)
{
	__u64 value;

	outsider_check(read(fd[0], &value, sizeof(value)) == sizeof(value));
	outsider_check(write(fd[0], &value, sizeof(value)) == sizeof(value));
}

static bool is_eventfd_whole(const int *fd, unsigned int nr_taken)
{
	unsigned int nr = 0;
	__u64 value;

	while (read(fd[0], &value, sizeof(value)) == sizeof(value))
		nr++;
	return nr <= RECORDS && nr >= RECORDS - nr_taken;
}

/*
 * Two sockets, connected with each other
 */

static bool take_by_recv(const int *fd, unsigned char *record)
{
	return recv(fd[0], record, RECORD_SIZE, MSG_DONTWAIT) == RECORD_SIZE;
}

static bool put_by_send(const int *fd, const unsigned char *record)
{
	return send(fd[1], record, RECORD_SIZE, MSG_DONTWAIT) == RECORD_SIZE;
}

static const struct queue socket_queue = { take_by_recv, put_by_send };

static void make_sockets(int type)
{
	replica_assert_eq(0, socketpair(AF_UNIX, type, 0, race->fd));
	fill(&socket_queue, race->fd);
}

static void make_stream(void)
{
	make_sockets(SOCK_STREAM);
}

static void make_dgram(void)
{
	make_sockets(SOCK_DGRAM);
}

static void meddle_with_sockets(const int *fd, unsigned int turn)
{
	unsigned char record[RECORD_SIZE];
	int size = turn & 4 ? 100000 : 50000;

	switch (turn % 3) {
	case 0:
		rotate(&socket_queue, fd);
		break;
	case 1:
		outsider_check(recv(fd[0], record, sizeof(record), MSG_PEEK) == RECORD_SIZE);
		break;
	case 2:
		outsider_check(!setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
	}
}

static bool are_sockets_whole(const int *fd, unsigned int nr_taken)
{
	return is_full(&socket_queue, fd, nr_taken);
}

/*
 * Sockets by themselves: the first one stays alone, the second one is connected and
 * disconnected, the others get a name, each once.
 */

static void make_lone_sockets(void)
{
	unsigned int i;

	for (i = 0; i < MAX_FDS; i++) {
		race->fd[i] = socket(AF_UNIX, SOCK_DGRAM, 0);
		replica_assert(race->fd[i] >= 0);
	}
}

static void connect_and_disconnect(int fd)
{
	static const struct sockaddr none = { .sa_family = AF_UNSPEC };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(sa_family_t);
	int own = socket(AF_UNIX, SOCK_DGRAM, 0);

	outsider_check(!bind(own, (void *)&addr, len));
	len = sizeof(addr);
	outsider_check(!getsockname(own, (void *)&addr, &len));
	outsider_check(!connect(fd, (void *)&addr, len));
	outsider_check(!connect(fd, &none, sizeof(none)));
	close(own);
}

static void meddle_with_lone_sockets(const int *fd, unsigned int turn)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	unsigned int i = 2 + turn / 8;

	connect_and_disconnect(fd[1]);
	if (i < MAX_FDS && turn % 8 == 7)
		outsider_check(!bind(fd[i], (void *)&addr, sizeof(sa_family_t)));
}

/* A copy has neither a name nor a peer.  To look is no harm to what is shared. */
static bool are_lone_sockets_whole(const int *fd, unsigned int nr_taken)
{
	struct sockaddr_un addr;
	socklen_t len;
	unsigned int i;

	for (i = 0; i < MAX_FDS; i++) {
		if (!load(&race->is_copied[i]))
			continue;
		len = sizeof(addr);
		if (getsockname(fd[i], (void *)&addr, &len) || len != sizeof(sa_family_t))
			return false;
		len = sizeof(addr);
		if (!getpeername(fd[i], (void *)&addr, &len) || errno != ENOTCONN)
			return false;
	}
	return true;
}

/*
 * Two sockets, in which an eventfd is on its way
 */

static void make_flight(void)
{
	unsigned int i;

	replica_assert_eq(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, race->fd));
	race->fd[2] = eventfd(1, 0);
	replica_assert(race->fd[2] >= 0);
	for (i = 0; i < RECORDS; i++)
		replica_assert(send_fd(race->fd[1], race->fd[2]));
}

static void meddle_with_flight(const int *fd, unsigned int turn)
{
	int received = receive_fd(fd[0], turn & 1 ? MSG_PEEK : 0);

	outsider_check(received >= 0);
	if (!(turn & 1))
		outsider_check(send_fd(fd[1], received));
	close(received);
}

/* Whoever has the sockets can get the eventfd.  It is everywhere the same one. */
static bool is_flight_whole(const int *fd, unsigned int nr_taken)
{
	unsigned int nr = 0;
	int received;

	if (load(&race->is_copied[2]) && !load(&race->is_copied[0]))
		return false;
	if (!load(&race->is_copied[0]))
		return true;
	for (; (received = receive_fd(fd[0], 0)) >= 0; nr++) {
		if (!is_same_file(received, fd[2]))
			return false;
		close(received);
	}
	return nr <= RECORDS && nr >= RECORDS - nr_taken;
}

/*
 * Epoll, with an eventfd that is ready
 */

static void make_epoll(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = OWN };

	race->fd[0] = epoll_create1(0);
	race->fd[1] = eventfd(1, 0);
	replica_assert(race->fd[0] >= 0 && race->fd[1] >= 0);
	replica_assert_eq(0, epoll_ctl(race->fd[0], EPOLL_CTL_ADD, race->fd[1], &event));
}

/* By its own eventfd, or by that of the program under another number. */
static void meddle_with_epoll(const int *fd, unsigned int turn)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = OF_OUTSIDER };
	int own = eventfd(1, 0);
	int target = turn & 1 ? own : fcntl(fd[1], F_DUPFD, 100);

	outsider_check(!epoll_ctl(fd[0], EPOLL_CTL_ADD, target, &event));
	outsider_check(epoll_wait(fd[0], &event, 1, 0) == 1);
	outsider_check(!epoll_ctl(fd[0], EPOLL_CTL_DEL, target, NULL));
	if (target != own)
		close(target);
	close(own);
}

static bool is_epoll_whole(const int *fd, unsigned int nr_taken)
{
	struct epoll_event events[8];
	int i, nr = epoll_wait(fd[0], events, ARRAY_SIZE(events), 0), nr_own = 0;

	for (i = 0; i < nr; i++)
		nr_own += events[i].data.u32 == OWN;
	return nr_own == 1 && nr <= 1 + (int)nr_taken;
}

/*
 * Memory: a memfd, which is mapped too
 */

static void make_memfd(void)
{
	race->fd[0] = memfd_create("race", MFD_ALLOW_SEALING);
	replica_assert(race->fd[0] >= 0);
	replica_assert_eq(0, ftruncate(race->fd[0], MEMORY_SIZE));
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, race->fd[0], 0);
	replica_assert(memory != MAP_FAILED);
	fill_pattern(memory, MEMORY_SIZE);
}

static void meddle_with_memfd(const int *fd, unsigned int turn)
{
	struct flock lock = { .l_type = F_RDLCK };
	unsigned char buf[RECORD_SIZE], *map;
	off_t pos = turn % 32 * 4096;
	int own = open_again(fd[0], O_RDWR);

	outsider_check(own >= 0);
	switch (turn % 4) {
	case 0:
		outsider_check(pread(own, buf, sizeof(buf), pos) == sizeof(buf));
		outsider_check(pwrite(own, buf, sizeof(buf), pos) == sizeof(buf));
		break;
	case 1:
		map = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
		outsider_check(map != MAP_FAILED);
		close(own);
		map[pos] = pattern_at(pos);
		munmap(map, MEMORY_SIZE);
		return;
	case 2:
		outsider_check(!fcntl(own, F_OFD_SETLK, &lock));
		break;
	case 3:
		outsider_check(!ftruncate(own, MEMORY_SIZE));
		outsider_check(!fcntl(own, F_GET_SEALS));
	}
	close(own);
}

static bool is_memfd_whole(const int *fd, unsigned int nr_taken)
{
	unsigned char buf[RECORD_SIZE];
	off_t pos;

	for (pos = 0; pos < MEMORY_SIZE; pos += sizeof(buf)) {
		if (pread(fd[0], buf, sizeof(buf), pos) != sizeof(buf) ||
		    memcmp(buf, memory + pos, sizeof(buf)))
			return false;
	}
	return is_pattern(memory, MEMORY_SIZE);
}

/*
 * System V shared memory that is marked for destruction, attached twice
 */

static void make_shm(void)
{
	race->shm_id = shmget(IPC_PRIVATE, MEMORY_SIZE, 0600);
	replica_assert(race->shm_id >= 0);
	memory = shmat(race->shm_id, NULL, 0);
	memory_again = shmat(race->shm_id, NULL, 0);
	replica_assert(memory != (void *)-1 && memory_again != (void *)-1);
	replica_assert_eq(0, shmctl(race->shm_id, IPC_RMID, NULL));
	fill_pattern(memory, MEMORY_SIZE);
}

static void meddle_with_shm(const int *fd, unsigned int turn)
{
	struct shmid_ds ds;
	unsigned char *map;

	outsider_check(!shmctl(race->shm_id, IPC_STAT, &ds));
	map = shmat(race->shm_id, NULL, 0);
	outsider_check(map != (void *)-1);
	map[turn % MEMORY_SIZE] = pattern_at(turn % MEMORY_SIZE);
	outsider_check(!shmdt(map));
}

/* The ID of each attach of a process is what its mapping has as inode number. */
static void read_shm_ids(pid_t pid, unsigned long *ids)
{
	char path[32], line[256];
	unsigned int i = 0;
	FILE *maps;

	ids[0] = 0;
	ids[1] = 0;
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "r");
	while (maps && i < 2 && fgets(line, sizeof(line), maps))
		if (strstr(line, "/SYSV"))
			sscanf(line, "%*s %*s %*s %*s %lu", &ids[i++]);
	if (maps)
		fclose(maps);
}

static bool is_same_shm(pid_t pid, pid_t replica, unsigned int i)
{
	unsigned long of_original[2], of_replica[2];

	read_shm_ids(pid, of_original);
	read_shm_ids(replica, of_replica);
	return of_original[i] == of_replica[i];
}

static bool is_shm_whole(const int *fd, unsigned int nr_taken)
{
	return is_pattern(memory, MEMORY_SIZE) && is_pattern(memory_again, MEMORY_SIZE);
}

/*
 * Message queue without a name
 */

static bool take_by_mq(const int *fd, unsigned char *record)
{
	return mq_receive(fd[0], (char *)record, RECORD_SIZE, NULL) == RECORD_SIZE;
}

static bool put_by_mq(const int *fd, const unsigned char *record)
{
	return !mq_send(fd[0], (const char *)record, RECORD_SIZE, 0);
}

static const struct queue mq_queue = { take_by_mq, put_by_mq };

static void make_mq(void)
{
	struct mq_attr attr = { .mq_maxmsg = RECORDS, .mq_msgsize = RECORD_SIZE };
	char name[32];

	snprintf(name, sizeof(name), "/race.%d", getpid());
	race->fd[0] = mq_open(name, O_CREAT | O_RDWR | O_NONBLOCK, 0600, &attr);
	replica_assert(race->fd[0] >= 0);
	replica_assert_eq(0, mq_unlink(name));
	fill(&mq_queue, race->fd);
}

static void meddle_with_mq(const int *fd, unsigned int turn)
{
	struct sigevent event = { .sigev_notify = SIGEV_NONE };
	int own = open_again(fd[0], O_RDWR);

	outsider_check(own >= 0);
	if (turn & 1) {
		rotate(&mq_queue, turn & 2 ? &own : fd);
	} else {
		outsider_check(!mq_notify(fd[0], &event));
		outsider_check(!mq_notify(fd[0], NULL));
	}
	close(own);
}

static bool is_mq_whole(const int *fd, unsigned int nr_taken)
{
	return is_full(&mq_queue, fd, nr_taken);
}

/*
 * Pseudo-terminal.  What is typed comes a moment later.
 */

#define PATIENCE_MS 5000

static int patience_ms;

static bool take_typed(const int *fd, unsigned char *record)
{
	struct pollfd pfd = { .fd = fd[0], .events = POLLIN };
	size_t len = 0;
	ssize_t ret;

	while (len < RECORD_SIZE && poll(&pfd, 1, patience_ms) == 1) {
		ret = read(fd[0], record + len, RECORD_SIZE - len);
		if (ret <= 0)
			return false;
		len += ret;
	}
	return len == RECORD_SIZE;
}

static const struct queue pty_queue = { take_typed, put_by_write };

static void make_pty(void)
{
	struct termios termios;

	race->fd[1] = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
	replica_assert_eq(0, unlockpt(race->fd[1]));
	race->fd[0] = ioctl(race->fd[1], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
	replica_assert_eq(0, tcgetattr(race->fd[0], &termios));
	cfmakeraw(&termios);
	replica_assert_eq(0, tcsetattr(race->fd[0], TCSANOW, &termios));
	fill(&pty_queue, race->fd);
}

static void meddle_with_pty(const int *fd, unsigned int turn)
{
	struct termios termios;
	struct winsize size;
	int own;

	switch (turn % 4) {
	case 0:
		patience_ms = PATIENCE_MS;
		rotate(&pty_queue, fd);
		break;
	case 1:
		outsider_check(!tcgetattr(fd[0], &termios));
		outsider_check(!tcsetattr(fd[0], TCSANOW, &termios));
		break;
	case 2:
		own = ioctl(fd[1], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
		outsider_check(own >= 0);
		close(own);
		break;
	case 3:
		outsider_check(!ioctl(fd[1], TIOCGWINSZ, &size));
		size.ws_row = turn;
		outsider_check(!ioctl(fd[1], TIOCSWINSZ, &size));
	}
}

static bool is_pty_whole(const int *fd, unsigned int nr_taken)
{
	unsigned int nr, first = 0, least = RECORDS - nr_taken;
	unsigned char record[RECORD_SIZE];

	for (nr = 0; ; nr++) {
		patience_ms = nr < least ? PATIENCE_MS : 0;
		if (!take_typed(fd, record))
			return nr <= RECORDS && nr >= least;
		if (!nr)
			first = record[0];
		if (!is_record(record, (first + nr) % RECORDS))
			return false;
	}
}

/*
 * Regular file, by a description with a read lock; and by one that gets leases
 */

static char file_path[64];

static void make_file(void)
{
	unsigned char buf[RECORD_SIZE];

	fill_pattern(buf, sizeof(buf));
	race->fd[0] = open(file_path, O_CREAT | O_RDWR, 0600);
	replica_assert(race->fd[0] >= 0);
	replica_assert_eq(RECORD_SIZE, write(race->fd[0], buf, sizeof(buf)));
	replica_assert_eq(RECORD_SIZE - BACKWARDS,
			  lseek(race->fd[0], -BACKWARDS, SEEK_CUR));
	replica_assert_eq(0, flock(race->fd[0], LOCK_SH));
	strcat(file_path, ".lease");
	race->fd[1] = open(file_path, O_CREAT | O_RDWR, 0600);
	replica_assert(race->fd[1] >= 0);
}

static void meddle_with_file(const int *fd, unsigned int turn)
{
	struct flock lock = { .l_type = turn & 4 ? F_RDLCK : F_WRLCK };
	int own = open(file_path, O_RDWR);

	outsider_check(own >= 0);
	switch (turn % 4) {
	case 0:
		outsider_check(flock(own, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK);
		outsider_check(!flock(own, LOCK_SH | LOCK_NB));
		break;
	case 1:
		outsider_check(!fcntl(own, F_OFD_SETLK, &lock));
		break;
	case 2:
		/* Refused as long as somebody else has it open. */
		if (!fcntl(fd[1], F_SETLEASE, F_WRLCK))
			outsider_check(!fcntl(fd[1], F_SETLEASE, F_UNLCK));
		break;
	case 3:
		outsider_check(lseek(fd[0], 0, SEEK_CUR) == RECORD_SIZE - BACKWARDS);
		outsider_check(!fcntl(fd[0], F_SETFL, turn & 4 ? O_APPEND : 0));
	}
	close(own);
}

static bool is_file_whole(const int *fd, unsigned int nr_taken)
{
	unsigned char buf[RECORD_SIZE];

	return lseek(fd[0], 0, SEEK_CUR) == RECORD_SIZE - BACKWARDS &&
	       pread(fd[0], buf, sizeof(buf), 0) == RECORD_SIZE &&
	       is_pattern(buf, sizeof(buf)) && !flock(fd[0], LOCK_SH | LOCK_NB);
}

/*
 * Timerfd: what is in it is when it expires
 */

#define INTERVAL_NS	20000000

static bool set_timer(int fd)
{
	struct itimerspec its = {
		.it_interval.tv_nsec = INTERVAL_NS,
		.it_value.tv_nsec = INTERVAL_NS,
	};

	return !timerfd_settime(fd, 0, &its, NULL);
}

/* There is nothing left of the time if the timer is late. */
static bool is_timer_set(int fd)
{
	struct itimerspec its;

	return !timerfd_gettime(fd, &its) && its.it_interval.tv_nsec == INTERVAL_NS &&
	       !its.it_value.tv_sec && its.it_value.tv_nsec <= INTERVAL_NS;
}

static void make_timerfd(void)
{
	race->fd[0] = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	replica_assert(race->fd[0] >= 0 && set_timer(race->fd[0]));
}

static void meddle_with_timerfd(const int *fd, unsigned int turn)
{
	__u64 count;

	switch (turn % 3) {
	case 0:
		outsider_check(read(fd[0], &count, sizeof(count)) == sizeof(count) ||
			       errno == EAGAIN);
		break;
	case 1:
		outsider_check(is_timer_set(fd[0]));
		break;
	case 2:
		outsider_check(set_timer(fd[0]));
	}
}

static bool is_timerfd_whole(const int *fd, unsigned int nr_taken)
{
	struct pollfd pfd = { .fd = fd[0], .events = POLLIN };
	__u64 count;
	int i;

	/* One expiry may have been there, the next one is its own. */
	for (i = 0; i < 2; i++)
		if (!is_timer_set(fd[0]) || poll(&pfd, 1, DEADLINE * 1000) != 1 ||
		    read(fd[0], &count, sizeof(count)) != sizeof(count) || !count)
			return false;
	return true;
}

/*
 * Signalfd: one mask or the other
 */

static int set_mask(int fd, bool both)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	if (both)
		sigaddset(&mask, SIGUSR2);
	return signalfd(fd, &mask, SFD_NONBLOCK);
}

static void make_signalfd(void)
{
	race->fd[0] = set_mask(-1, false);
	replica_assert(race->fd[0] >= 0);
}

static void meddle_with_signalfd(const int *fd, unsigned int turn)
{
	outsider_check(set_mask(fd[0], turn & 1) == fd[0]);
}

static bool is_signalfd_whole(const int *fd, unsigned int nr_taken)
{
	unsigned long long one = 1ULL << (SIGUSR1 - 1), both = one | 1ULL << (SIGUSR2 - 1), mask;
	char path[64], text[512], *line;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd[0]);
	if (read_file(path, text, sizeof(text)) <= 0)
		return false;
	line = strstr(text, "sigmask:");
	return line && sscanf(line, "sigmask: %llx", &mask) == 1 && (mask == one || mask == both);
}

/*
 * Inotify: the records are what was created in a directory.  A copy watches that, too.
 */

#define ONE_EVENT	(sizeof(struct inotify_event) + 16)

/* More than are created while an instance is copied */
#define CREATED		64

static void name_in_directory(char *path, size_t size, int number)
{
	int len = snprintf(path, size, "%s.dir", file_path);

	if (number >= 0)
		snprintf(path + len, size - len, "/%d", number);
}

static bool create_in_directory(int number)
{
	char path[96];
	int fd;

	name_in_directory(path, sizeof(path), number);
	unlink(path);
	fd = open(path, O_CREAT | O_EXCL, 0600);
	close(fd);
	return fd >= 0;
}

static bool watch_directory(int fd, unsigned int mask)
{
	char path[96];

	name_in_directory(path, sizeof(path), -1);
	return inotify_add_watch(fd, path, mask) == 1;
}

static void remove_directory(void)
{
	char path[96];
	int i;

	for (i = CREATED - 1; i >= -1; i--) {
		name_in_directory(path, sizeof(path), i);
		remove(path);
	}
}

/* The number of what was created, or -1. */
static int take_event(int fd)
{
	union {
		char buf[ONE_EVENT];
		struct inotify_event event;
	} u;

	/* One does not say that, but that a watch was removed. */
	while (read(fd, u.buf, sizeof(u.buf)) > 0)
		if (u.event.mask & IN_CREATE)
			return atoi(u.buf + sizeof(u.event));
	return -1;
}

static void make_inotify(void)
{
	char path[96];
	int i;

	name_in_directory(path, sizeof(path), -1);
	replica_assert_eq(0, mkdir(path, 0700));
	race->fd[0] = inotify_init1(IN_NONBLOCK);
	replica_assert(race->fd[0] >= 0 && watch_directory(race->fd[0], IN_CREATE));
	for (i = 0; i < CREATED; i++)
		replica_assert(create_in_directory(i));
}

static void meddle_with_inotify(const int *fd, unsigned int turn)
{
	int wd;

	switch (turn % 3) {
	case 0:
		outsider_check(create_in_directory(take_event(fd[0])));
		break;
	case 1:
		outsider_check(watch_directory(fd[0], IN_CREATE | (turn & 2 ? IN_MOVE_SELF : 0)));
		break;
	case 2:
		wd = inotify_add_watch(fd[0], "/proc", IN_MOVE_SELF);
		outsider_check(wd > 1 && !inotify_rm_watch(fd[0], wd));
	}
}

/* A copy may be told twice, one time after the other, what was created just then. */
static bool is_inotify_whole(const int *fd, unsigned int nr_taken)
{
	unsigned int nr, back, nr_back = 0;
	int number, last = -1;

	for (nr = 0; nr < 4 * CREATED && (number = take_event(fd[0])) >= 0; nr++) {
		back = last < 0 ? 0 : (last + 1 + CREATED - number) % CREATED;
		nr_back += !!back;
		/* None is left out: that would be far back. */
		if (back > CREATED / 2 || nr_back > 1) {
			fprintf(stderr, "# %d was created after %d\n", number, last);
			return false;
		}
		last = number;
	}
	return nr >= CREATED - nr_taken;
}

/*
 * Outsiders
 */

static void read_fdinfo(int fd)
{
	char path[64], text[512];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	outsider_check(read_file(path, text, sizeof(text)) > 0);
}

/* By a message of one's own. */
static void send_to_self(int fd)
{
	int ends[2], received;

	outsider_check(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	outsider_check(send_fd(ends[0], fd));
	received = receive_fd(ends[1], 0);
	outsider_check(received >= 0);
	close(received);
	close(ends[0]);
	close(ends[1]);
}

/* As tools do that look at everything.  What cannot be opened cannot be. */
static void look_at(pid_t pid, int number, unsigned int turn)
{
	char path[64], text[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, number);
	switch (turn % 6) {
	case 0:
		outsider_check(readlink(path, text, sizeof(text)) > 0);
		break;
	case 1:
		fd = open(path, O_PATH);
		outsider_check(fd >= 0);
		close(fd);
		break;
	case 2:
		fd = open(path, O_RDONLY | O_NONBLOCK);
		if (fd >= 0)
			close(fd);
		break;
	default:
		fd = get_fd(program_pidfd, number);
		outsider_check(fd >= 0);
		if (turn % 6 == 3)
			read_fdinfo(fd);
		else
			send_to_self(fd);
		close(fd);
	}
}

static void meddle_once(const struct kind *kind, unsigned int turn)
{
	int fd[MAX_FDS];
	unsigned int i;

	for (i = 0; i < kind->nr && !kind->is_same; i++) {
		fd[i] = get_fd(program_pidfd, race->fd[i]);
		outsider_check(fd[i] >= 0);
	}
	kind->meddle(fd, turn);
	for (i = 0; i < kind->nr && !kind->is_same; i++)
		close(fd[i]);
}

/* Most turns are one after the other; but some calls are to see no outsider at all. */
static void pause_sometimes(unsigned int *seed)
{
	struct timespec ts = {};

	switch (rand_r(seed) % 32) {
	case 0:
		ts.tv_nsec = 20000000;
		break;
	case 1 ... 8:
		ts.tv_nsec = rand_r(seed) % 500000;
		break;
	default:
		spin_us(rand_r(seed) % 100);
		return;
	}
	nanosleep(&ts, NULL);
}

static void run_outsider(const struct kind *kind, pid_t pid, unsigned int index)
{
	unsigned int turn, seed = index;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (turn = 0; !load(&race->stop); turn++) {
		if (!index)
			meddle_once(kind, turn);
		else if (!kind->is_same)
			look_at(pid, race->fd[turn % kind->nr], turn);
		else
			kind->is_same(pid, pid, 0);
		store(&race->turns[index], turn + 1);
		pause_sometimes(&seed);
	}
	_exit(REPLICA_PASS);
}

/*
 * The test, which copies the program
 */

FIXTURE(outsiders)
{
	pid_t pid;
	pid_t outsider[OUTSIDERS];
	unsigned int nr[3];		/* copied, shared, failed */
	long files;
};

FIXTURE_VARIANT(outsiders)
{
	struct kind kind;
};

FIXTURE_VARIANT_ADD(outsiders, pipe)
{
	.kind = {
		.nr = 2,
		.make = make_pipe,
		.meddle = meddle_with_pipe,
		.is_whole = is_pipe_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, eventfd)
{
	.kind = {
		.nr = 1,
		.make = make_eventfd,
		.meddle = meddle_with_eventfd,
		.is_whole = is_eventfd_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, stream_sockets)
{
	.kind = {
		.nr = 2,
		.error = EAGAIN,
		.make = make_stream,
		.meddle = meddle_with_sockets,
		.is_whole = are_sockets_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, dgram_sockets)
{
	.kind = {
		.nr = 2,
		.error = EAGAIN,
		.make = make_dgram,
		.meddle = meddle_with_sockets,
		.is_whole = are_sockets_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, lone_sockets)
{
	.kind = {
		.nr = MAX_FDS,
		.object = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
			    19, 20, 21, 22, 23 },
		.error = EAGAIN,
		.make = make_lone_sockets,
		.meddle = meddle_with_lone_sockets,
		.is_whole = are_lone_sockets_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, descriptors_in_flight)
{
	.kind = {
		.nr = 3,
		.object = { 0, 0, 2 },
		.error = EAGAIN,
		.make = make_flight,
		.meddle = meddle_with_flight,
		.is_whole = is_flight_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, epoll)
{
	.kind = {
		.nr = 2,
		.object = { 0, 1 },
		.error = EAGAIN,
		.make = make_epoll,
		.meddle = meddle_with_epoll,
		.is_whole = is_epoll_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, memfd)
{
	.kind = {
		.nr = 1,
		.make = make_memfd,
		.meddle = meddle_with_memfd,
		.is_whole = is_memfd_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, shm)
{
	.kind = {
		.nr = 2,
		.make = make_shm,
		.is_same = is_same_shm,
		.meddle = meddle_with_shm,
		.is_whole = is_shm_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, mqueue)
{
	.kind = {
		.nr = 1,
		.error = EAGAIN,
		.make = make_mq,
		.meddle = meddle_with_mq,
		.is_whole = is_mq_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, pty)
{
	.kind = {
		.nr = 2,
		.make = make_pty,
		.meddle = meddle_with_pty,
		.is_whole = is_pty_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, file)
{
	.kind = {
		.nr = 2,
		.object = { 0, 1 },
		.make = make_file,
		.meddle = meddle_with_file,
		.is_whole = is_file_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, timerfd)
{
	.kind = {
		.nr = 1,
		.make = make_timerfd,
		.meddle = meddle_with_timerfd,
		.is_whole = is_timerfd_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, signalfd)
{
	.kind = {
		.nr = 1,
		.make = make_signalfd,
		.meddle = meddle_with_signalfd,
		.is_whole = is_signalfd_whole,
	},
};

FIXTURE_VARIANT_ADD(outsiders, inotify)
{
	.kind = {
		.nr = 1,
		.make = make_inotify,
		.meddle = meddle_with_inotify,
		.is_whole = is_inotify_whole,
	},
};

/* All that are open in the system. */
static long count_files(void)
{
	char text[64];

	return read_file("/proc/sys/fs/file-nr", text, sizeof(text)) > 0 ? atol(text) : -1;
}

FIXTURE_SETUP(outsiders)
{
	setup_threads(_metadata);
	snprintf(file_path, sizeof(file_path), "/dev/shm/race.%d", getpid());
	start_program(_metadata, &variant->kind, &self->pid);
}

FIXTURE_TEARDOWN(outsiders)
{
	remove_directory();
	unlink(file_path);
	strcat(file_path, ".lease");
	unlink(file_path);
}

static void start_outsiders(struct __test_metadata *_metadata, const struct kind *kind,
			    FIXTURE_DATA(outsiders) *self)
{
	unsigned int i;

	self->files = count_files();
	for (i = 0; i < OUTSIDERS; i++) {
		self->outsider[i] = fork();
		ASSERT_LE(0, self->outsider[i]);
		if (!self->outsider[i])
			run_outsider(kind, self->pid, i);
		ASSERT_TRUE(wait_until(load(&race->turns[i]), DEADLINE));
	}
}

static void end_outsiders(struct __test_metadata *_metadata, FIXTURE_DATA(outsiders) *self)
{
	unsigned int i;

	store(&race->stop, 1);
	for (i = 0; i < OUTSIDERS; i++)
		expect_pass(_metadata, self->outsider[i]);
	ASSERT_EQ(0, load(&race->failed_line))
	{
		TH_LOG("line %u: an outsider: %s", race->failed_line,
		       strerror(race->failed_errno));
	}
}

/* It is stopped, as is the replica of the child: both have the same.  Or it is killed. */
static void look_at_replica(struct __test_metadata *_metadata, const struct kind *kind,
			    pid_t pid, pid_t replica, pid_t child)
{
	unsigned int i, first, nr_half = 0, nr_different = 0;

	for (i = 0; i < kind->nr; i++) {
		first = kind->object[i];
		store(&race->is_copied[i], !is_same(kind, pid, replica, i));
		nr_half += race->is_copied[first] != race->is_copied[i];
		nr_different += !is_same(kind, replica, child, i);
	}
	if (nr_half || nr_different)
		kill(replica, SIGKILL);
	ASSERT_EQ(0, nr_half);
	ASSERT_EQ(0, nr_different);
}

/* What it has is told, and looked at there.  False if it failed, as it may. */
static bool copy_once(struct __test_metadata *_metadata, const struct kind *kind,
		      FIXTURE_DATA(outsiders) *self, __u64 flags)
{
	pid_t child;
	long pid = copy_program(_metadata, flags, &child);

	if (kind->error && pid == -kind->error) {
		self->nr[2]++;
		return false;
	}
	ASSERT_LT(0, pid)
	{
		TH_LOG("full fork: %s", strerror(-pid));
	}
	look_at_replica(_metadata, kind, self->pid, pid, child);
	self->nr[!race->is_copied[0]]++;
	ASSERT_EQ(0, kill(pid, SIGCONT));
	add(&race->question, 1);
	futex_wake(&race->question, INT_MAX, 0);
	expect_pass(_metadata, pid);
	ASSERT_EQ(0, load(&report->failures));
	return true;
}

/* With the eyes of the test, which gets what the original has. */
static void expect_whole(struct __test_metadata *_metadata, const struct kind *kind)
{
	int fd[MAX_FDS];
	unsigned int i;

	/* Mapped, it is looked at in a copy, of which nothing is shared. */
	if (kind->is_same)
		return;
	for (i = 0; i < kind->nr; i++) {
		fd[i] = get_fd(program_pidfd, race->fd[i]);
		ASSERT_LE(0, fd[i]);
	}
	if (kind->make == make_memfd)
		memory = mmap(NULL, MEMORY_SIZE, PROT_READ, MAP_SHARED, fd[0], 0);
	EXPECT_TRUE(kind->is_whole(fd, 0));
	for (i = 0; i < kind->nr; i++)
		close(fd[i]);
}

TEST_F_LONG(outsiders, leave_all_objects_whole)
{
	const struct kind *kind = &variant->kind;
	struct rounds r = { .least = 10, .most = 200 };

	start_outsiders(_metadata, kind, self);
	while (next_round(&r))
		copy_once(_metadata, kind, self, r.nr & 1 ? CLONE_KEEP_TIDS | CLONE_NEWPID : 0);
	TH_LOG("%u rounds: %u copied, %u shared, %u failed; %u and %u turns", r.nr, self->nr[0],
	       self->nr[1], self->nr[2], load(&race->turns[0]), load(&race->turns[1]));
	end_outsiders(_metadata, self);

	/* Nobody else has it now. */
	ASSERT_TRUE(copy_once(_metadata, kind, self, 0));
	EXPECT_EQ(1, race->is_copied[0]);
	expect_whole(_metadata, kind);
	EXPECT_TRUE(wait_until(count_files() <= self->files, DEADLINE))
	{
		TH_LOG("%ld files more", count_files() - self->files);
	}
}

TEST_HARNESS_MAIN
