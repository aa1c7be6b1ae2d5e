// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE, while somebody else who has an object, or gets it, does at a certain
 * time what could mislead or hold up the call
 */
#include "fullfork_outsiders.h"

#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#define RECORD_SIZE	64
#define FIRST_DELAY	100		/* us, to when the outsider acts */
#define LAST_DELAY	1000000

/* A kernel that checks everything takes as long for less. */
static bool is_slow(void)
{
	return !access("/proc/lockdep", F_OK);
}

/*
 * An outsider has had an object since before the call, and keeps it, but changes
 * meanwhile by what.  A socket with a long queue is searched after all others, so
 * that this is most of the time before what was found is compared; or what holds an
 * object is compared long after it, after epolls with many items.
 */

#define MESSAGES	60000
#define MESSAGES_LOCKDEP 6000
#define LAST_FD		200
#define EPOLLS		4
#define ITEMS		20000
#define ITEMS_LOCKDEP	2000
#define LOW_FDS		100

FIXTURE(keeper)
{
	pid_t pid;
	pid_t outsider;
};

/*
 * @has_epolls: between the eventfd and the sockets
 * @step: by how many percent the time grows
 * @from: the descriptor that the outsider has before
 * @kept: what is then shared
 * @get: with the first one, for what is kept; ends before the first one is closed
 * @undo: with what is kept
 */
FIXTURE_VARIANT(keeper)
{
	bool has_epolls;
	unsigned int step;
	unsigned int from;
	unsigned int kept;
	int (*get)(int fd);
	void (*undo)(int kept);
};

static int get_by_receiving(int fd)
{
	return receive_fd(fd, 0);
}

static int get_by_peeking(int fd)
{
	return receive_fd(fd, MSG_PEEK);
}

static int get_by_opening(int fd)
{
	return open_again(fd, O_RDONLY);
}

static void send_back(int kept)
{
	int fd = get_fd(program_pidfd, race->fd[1]);

	outsider_check(send_fd(fd, kept));
	close(fd);
}

FIXTURE_VARIANT_ADD(keeper, who_receives)
{
	.step = 100,
	.from = 0,
	.kept = 2,
	.get = get_by_receiving,
	.undo = send_back,
};

FIXTURE_VARIANT_ADD(keeper, who_peeks)
{
	.has_epolls = true,
	.step = 25,
	.from = 0,
	.kept = 2,
	.get = get_by_peeking,
};

FIXTURE_VARIANT_ADD(keeper, who_opens_once_more)
{
	.step = 100,
	.from = 3,
	.kept = 3,
	.get = get_by_opening,
};

static int long_queue[2], first_fd;

static void make_for_keeper(void)
{
	int fd;

	syscall(__NR_close_range, LOW_FDS, ~0U, 0);
	fd = eventfd(1, 0);
	race->fd[2] = first_fd;
	replica_assert_eq(first_fd, dup2(fd, first_fd));
	close(fd);
	replica_assert_eq(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, race->fd));
	replica_assert(send_fd(race->fd[1], race->fd[2]));
	replica_assert_eq(0, pipe(race->fd + 3));
	if (!long_queue[0])
		return;
	replica_assert_eq(LAST_FD, dup2(long_queue[0], LAST_FD));
	close(long_queue[0]);
	close(long_queue[1]);
}

static const struct kind of_keeper = { .nr = 5, .make = make_for_keeper };

/* Who is not a member has it, too: it is searched, and not copied. */
static void make_long_queue(struct __test_metadata *_metadata)
{
	int i, size = 1 << 29, nr = is_slow() ? MESSAGES_LOCKDEP : MESSAGES;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, long_queue));
	ASSERT_EQ(0, setsockopt(long_queue[1], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)));
	for (i = 0; i < nr; i++)
		ASSERT_EQ(1, send(long_queue[1], "m", 1, MSG_DONTWAIT));
}

/* They are those of the test, too; and what they look at is only there. */
static void make_epolls(struct __test_metadata *_metadata)
{
	int i, j, nr = is_slow() ? ITEMS_LOCKDEP : ITEMS, epolls[EPOLLS], fd;
	struct epoll_event event = { .events = EPOLLIN };
	struct rlimit limit = { nr + 1000, nr + 1000 };

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	for (i = 0; i < EPOLLS; i++) {
		epolls[i] = epoll_create1(0);
		ASSERT_LE(0, epolls[i]);
	}
	for (j = 0; j < nr; j++) {
		fd = j ? fcntl(fd, F_DUPFD, LOW_FDS) : eventfd(0, 0);
		ASSERT_LE(0, fd);
		for (i = 0; i < EPOLLS; i++)
			ASSERT_EQ(0, epoll_ctl(epolls[i], EPOLL_CTL_ADD, fd, &event));
	}
}

FIXTURE_SETUP(keeper)
{
	setup_threads(_metadata);
	first_fd = open("/dev/null", O_RDONLY);
	ASSERT_LE(0, first_fd);
	if (variant->has_epolls)
		make_epolls(_metadata);
	else
		make_long_queue(_metadata);
	start_program(_metadata, &of_keeper, &self->pid);
}

FIXTURE_TEARDOWN(keeper)
{
}

static void wait_step(__u32 step)
{
	while (load(&race->step) != step)
		poll_pause();
}

static void run_keeper(const FIXTURE_VARIANT(keeper) *variant)
{
	__u32 step;
	int fd, kept;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (step = 0; ; step += 3) {
		wait_step(step + 1);
		fd = get_fd(program_pidfd, race->fd[variant->from]);
		outsider_check(fd >= 0);
		store(&race->reached, step + 1);
		while (load(&race->step) != step + 2)
			;
		spin_us(race->delay_us);
		kept = variant->get(fd);
		close(fd);
		outsider_check(kept >= 0);
		store(&race->reached, step + 2);
		wait_step(step + 3);
		if (variant->undo)
			variant->undo(kept);
		close(kept);
		store(&race->reached, step + 3);
	}
}

static void take_step(struct __test_metadata *_metadata)
{
	ASSERT_TRUE(wait_until(load(&race->reached) == load(&race->step), DEADLINE));
	ASSERT_EQ(0, load(&race->failed_line))
	{
		TH_LOG("line %u: the outsider: %s", race->failed_line,
		       strerror(race->failed_errno));
	}
}

/* Does the replica have it by itself? */
static bool is_copied(struct __test_metadata *_metadata, pid_t pid, unsigned int kept,
		      bool outsider_steps)
{
	pid_t child;
	bool copied;
	long replica;

	if (outsider_steps)
		add(&race->step, 1);
	replica = copy_program(_metadata, 0, &child);
	ASSERT_LT(0, replica)
	{
		TH_LOG("full fork: %s", strerror(-replica));
	}
	copied = !is_same(&of_keeper, pid, replica, kept);
	kill(replica, SIGKILL);
	xwaitpid(_metadata, replica, DEADLINE);
	if (outsider_steps)
		take_step(_metadata);
	return copied;
}

TEST_F_LONG(keeper, is_noticed)
{
	unsigned int delay_us, nr_copied = 0;

	EXPECT_TRUE(is_copied(_metadata, self->pid, variant->kept, false));
	self->outsider = fork();
	ASSERT_LE(0, self->outsider);
	if (!self->outsider)
		run_keeper(variant);
	for (delay_us = FIRST_DELAY; delay_us < LAST_DELAY;
	     delay_us += delay_us * variant->step / 100) {
		race->delay_us = delay_us;
		add(&race->step, 1);
		take_step(_metadata);
		if (is_copied(_metadata, self->pid, variant->kept, true)) {
			TH_LOG("copied, with a delay of %u us", delay_us);
			nr_copied++;
		}
		add(&race->step, 1);
		take_step(_metadata);
	}
	EXPECT_EQ(0, nr_copied);
	EXPECT_TRUE(is_copied(_metadata, self->pid, variant->kept, false));
	end_outsider(_metadata, self->outsider);
}

/*
 * An outsider gets an object while all are copied, and is in a system call that has
 * its lock and waits for memory, until the call is over.  Locked memory is copied
 * before, so that this is most of the time after what was found was compared.
 */

#define LOCKED_SIZE	(32 << 20)
#define LOCKED_SIZE_LOCKDEP (4 << 20)

FIXTURE(stalling)
{
	pid_t pid;
	pid_t outsider;
	unsigned int nr_failed;
};

/*
 * @object: the descriptor
 * @stall: as long as nothing can be written to @buf
 */
FIXTURE_VARIANT(stalling)
{
	unsigned int object;
	void (*stall)(int fd, void *buf);
};

static void read_and_put_back(int fd, void *buf)
{
	int to = get_fd(program_pidfd, race->fd[2]);

	outsider_check(read(fd, buf, RECORD_SIZE) == RECORD_SIZE);
	outsider_check(write(to, buf, RECORD_SIZE) == RECORD_SIZE);
	close(to);
}

static void ask_epoll(int fd, void *buf)
{
	outsider_check(epoll_wait(fd, buf, 1, 0) == 1);
}

FIXTURE_VARIANT_ADD(stalling, pipe)
{
	.object = 1,
	.stall = read_and_put_back,
};

FIXTURE_VARIANT_ADD(stalling, epoll)
{
	.object = 3,
	.stall = ask_epoll,
};

static void make_for_stalling(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	unsigned char record[RECORD_SIZE] = "";
	size_t size = is_slow() ? LOCKED_SIZE_LOCKDEP : LOCKED_SIZE;
	void *memory;

	race->fd[0] = memfd_create("locked", 0);
	replica_assert(race->fd[0] >= 0);
	replica_assert_eq(0, ftruncate(race->fd[0], size));
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, race->fd[0], 0);
	replica_assert(memory != MAP_FAILED);
	replica_assert_eq(0, mlock(memory, size));
	replica_assert_eq(0, pipe(race->fd + 1));
	replica_assert_eq(RECORD_SIZE, write(race->fd[2], record, RECORD_SIZE));
	race->fd[3] = epoll_create1(0);
	race->fd[4] = eventfd(1, 0);
	replica_assert(race->fd[3] >= 0 && race->fd[4] >= 0);
	replica_assert_eq(0, epoll_ctl(race->fd[3], EPOLL_CTL_ADD, race->fd[4], &event));
}

static const struct kind of_stalling = { .nr = 5, .make = make_for_stalling };

FIXTURE_SETUP(stalling)
{
	setup_threads(_metadata);
	start_program(_metadata, &of_stalling, &self->pid);
}

FIXTURE_TEARDOWN(stalling)
{
}

/* A page that is not there before it is put there. */
static void *make_missing_page(int *uffd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.len = getpagesize(),
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	void *page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	reg.range.start = (uintptr_t)page;
	outsider_check(!ioctl(*uffd, UFFDIO_API, &api));
	outsider_check(!ioctl(*uffd, UFFDIO_REGISTER, &reg));
	return page;
}

struct missing {
	int uffd;
	void *page;
};

/* When the call is over; or lasts too long, which the test sees. */
static void *put_page(void *arg)
{
	struct missing *missing = arg;
	struct uffdio_zeropage zero = {
		.range.start = (uintptr_t)missing->page,
		.range.len = getpagesize(),
	};
	__u32 step;

	for (step = 3; ; step += 3) {
		wait_until(load(&race->step) >= step - 1, INT_MAX / 1000);
		wait_until(load(&race->step) >= step, 2 * LONGEST_CALL / 1000);
		outsider_check(!ioctl(missing->uffd, UFFDIO_ZEROPAGE, &zero));
	}
	return NULL;
}

static void run_staller(const FIXTURE_VARIANT(stalling) *variant)
{
	struct missing missing;
	pthread_t thread;
	__u32 step;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	missing.page = make_missing_page(&missing.uffd);
	outsider_check(!pthread_create(&thread, NULL, put_page, &missing));
	for (step = 0; ; step += 3) {
		wait_step(step + 1);
		store(&race->reached, step + 1);
		while (load(&race->step) != step + 2)
			;
		spin_us(race->delay_us);
		fd = get_fd(program_pidfd, race->fd[variant->object]);
		outsider_check(fd >= 0);
		variant->stall(fd, missing.page);
		close(fd);
		outsider_check(!madvise(missing.page, getpagesize(), MADV_DONTNEED));
		wait_step(step + 3);
		store(&race->reached, step + 3);
	}
}

static void copy_stalled(struct __test_metadata *_metadata, FIXTURE_DATA(stalling) *self)
{
	pid_t child;
	long replica;

	add(&race->step, 1);
	take_step(_metadata);
	add(&race->step, 1);
	replica = copy_program(_metadata, 0, &child);
	if (replica != -EAGAIN) {
		ASSERT_LT(0, replica)
		{
			TH_LOG("full fork: %s", strerror(-replica));
		}
		kill(replica, SIGKILL);
		xwaitpid(_metadata, replica, DEADLINE);
	}
	self->nr_failed += replica < 0;
	add(&race->step, 1);
	take_step(_metadata);
}

TEST_F_LONG(stalling, does_not_hold_up_the_call)
{
	unsigned int delay_us, nr = 0;

	EXPECT_TRUE(is_copied(_metadata, self->pid, variant->object, false));
	self->outsider = fork();
	ASSERT_LE(0, self->outsider);
	if (!self->outsider)
		run_staller(variant);
	for (delay_us = FIRST_DELAY; delay_us < LAST_DELAY; delay_us *= 2) {
		race->delay_us = delay_us;
		copy_stalled(_metadata, self);
		nr++;
	}
	TH_LOG("%u of %u calls failed", self->nr_failed, nr);
	end_outsider(_metadata, self->outsider);
	EXPECT_TRUE(is_copied(_metadata, self->pid, variant->object, false));
}

TEST_HARNESS_MAIN
