// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: POSIX message queues that have no name any more, and that only
 * members have, are copied, with the messages that were not received.
 */
#include "fullfork_isolate.h"

#include <linux/netlink.h>
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define MOST 10
#define SIZE 8192

/* What a queue is charged, a little more than what its messages are. */
#define COST (MOST * SIZE)

FIXTURE(mqueue)
{
	char name[32];
	int mq;
	int other;
	int ep;
	int sig;
};

static int make_queue(const char *name, int flags)
{
	struct mq_attr attr = { .mq_maxmsg = MOST, .mq_msgsize = SIZE };

	return mq_open(name, O_CREAT | flags, 0640, &attr);
}

FIXTURE_SETUP(mqueue)
{
	require_isolate(_metadata);
	self->sig = SIGUSR1;
	snprintf(self->name, sizeof(self->name), "/fullfork.%d", getpid());
	self->mq = make_queue(self->name, O_EXCL | O_RDWR | O_NONBLOCK);
	ASSERT_LE(0, self->mq)
	{
		TH_LOG("mq_open: %s", strerror(errno));
	}
	ASSERT_EQ(0, mq_unlink(self->name));
}

FIXTURE_TEARDOWN(mqueue)
{
	mq_unlink(self->name);
}

/* Of that size, as a message of that number. */
static bool sends(int mq, unsigned int number, size_t size, unsigned int priority)
{
	unsigned char buf[SIZE];

	fill_pattern(buf, size);
	buf[0] = number;
	return !mq_send(mq, (char *)buf, size, priority);
}

static bool gives(int mq, unsigned int number, size_t size, unsigned int priority)
{
	unsigned char buf[SIZE];
	unsigned int seen = ~0;

	if (mq_receive(mq, (char *)buf, SIZE, &seen) != (ssize_t)size || seen != priority ||
	    buf[0] != number)
		return false;
	buf[0] = pattern_at(0);
	return is_pattern(buf, size);
}

static bool is_empty(int mq)
{
	char buf[SIZE];

	return mq_receive(mq, buf, SIZE, NULL) < 0 && errno == EAGAIN;
}

static bool gives_all(int mq)
{
	return gives(mq, 4, SIZE, 9) && gives(mq, 2, 100, 5) && gives(mq, 3, 4096, 5) &&
	       gives(mq, 5, 200, 5) && gives(mq, 1, 1, 0) && is_empty(mq);
}

static int see_messages(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->mq);
	replica_assert(gives_all(self->mq));
	replica_assert(sends(self->mq, 7, 30, 1));
	return REPLICA_PASS;
}

/* By priority, and by age; of one page and of more. */
TEST_F(mqueue, has_its_messages_on_both_sides)
{
	long pid;

	ASSERT_TRUE(sends(self->mq, 1, 1, 0));
	ASSERT_TRUE(sends(self->mq, 2, 100, 5));
	ASSERT_TRUE(sends(self->mq, 3, 4096, 5));
	ASSERT_TRUE(sends(self->mq, 4, SIZE, 9));
	ASSERT_TRUE(sends(self->mq, 5, 200, 5));
	pid = isolate(_metadata, 0, see_messages, self);
	EXPECT_TRUE(gives_all(self->mq));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(is_empty(self->mq));
}

static int see_full(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;
	int i;

	replica_assert(!sends(self->mq, MOST, 10, 0) && errno == EAGAIN);
	for (i = 0; i < MOST; i++)
		replica_assert(gives(self->mq, i, 10, 0));
	replica_assert(is_empty(self->mq));
	for (i = 0; i < MOST; i++)
		replica_assert(sends(self->mq, i, SIZE, i));
	replica_assert(!sends(self->mq, MOST, 10, 0) && errno == EAGAIN);
	return REPLICA_PASS;
}

TEST_F(mqueue, is_full_if_it_was)
{
	int i;

	for (i = 0; i < MOST; i++)
		ASSERT_TRUE(sends(self->mq, i, 10, 0));
	isolate_and_pass(_metadata, 0, see_full, self);
	for (i = 0; i < MOST; i++)
		EXPECT_TRUE(gives(self->mq, i, 10, 0));
}

/* What a descriptor says of its queue. */
struct looks {
	struct mq_attr attr;
	struct stat st;
	char state[80];
	char link[64];
};

static void look(int mq, struct looks *looks)
{
	char path[64];
	ssize_t len;

	memset(looks, 0, sizeof(*looks));
	mq_getattr(mq, &looks->attr);
	fstat(mq, &looks->st);
	len = pread(mq, looks->state, sizeof(looks->state) - 1, 0);
	looks->state[len < 0 ? 0 : len] = '\0';
	snprintf(path, sizeof(path), "/proc/self/fd/%d", mq);
	len = readlink(path, looks->link, sizeof(looks->link) - 1);
	looks->link[len < 0 ? 0 : len] = '\0';
}

static struct looks before;

static int see_looks(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;
	struct mq_attr blocking = {};
	struct looks now;

	look(self->mq, &now);
	replica_assert_eq(before.attr.mq_flags, now.attr.mq_flags);
	replica_assert_eq(MOST, now.attr.mq_maxmsg);
	replica_assert_eq(SIZE, now.attr.mq_msgsize);
	replica_assert_eq(2, now.attr.mq_curmsgs);
	replica_assert_eq(before.st.st_mode, now.st.st_mode);
	replica_assert_eq(before.st.st_uid, now.st.st_uid);
	replica_assert_eq(before.st.st_size, now.st.st_size);
	replica_assert_eq(0, now.st.st_nlink);
	replica_assert_eq(before.st.st_mtim.tv_nsec, now.st.st_mtim.tv_nsec);
	replica_assert(before.st.st_ino != now.st.st_ino);
	replica_assert(!strcmp(before.state, now.state));
	replica_assert(!strcmp(before.link, now.link));
	replica_assert_eq(FD_CLOEXEC, fcntl(self->mq, F_GETFD));
	/* Flags are those of each side from now on. */
	replica_assert_eq(0, mq_setattr(self->mq, &blocking, NULL));
	return REPLICA_PASS;
}

TEST_F(mqueue, keeps_its_attributes)
{
	struct mq_attr attr;

	ASSERT_TRUE(sends(self->mq, 1, 5000, 0));
	ASSERT_TRUE(sends(self->mq, 2, 100, 3));
	look(self->mq, &before);
	ASSERT_EQ(0, strncmp(before.state, "QSIZE:5100 ", 11));
	isolate_and_pass(_metadata, 0, see_looks, self);
	ASSERT_EQ(0, mq_getattr(self->mq, &attr));
	EXPECT_EQ(O_NONBLOCK, attr.mq_flags);
	EXPECT_EQ(2, attr.mq_curmsgs);
}

static int see_one_copy(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;

	replica_assert_fdinfo("copied", self->mq);
	replica_assert_fdinfo("copied", self->other);
	replica_assert(!is_same_file(self->mq, self->other));
	replica_assert(!sends(self->mq, 1, 1, 1) && errno == EBADF);
	replica_assert(!gives(self->other, 1, 8, 2) && errno == EBADF);
	replica_assert(gives(self->mq, 1, 8, 2));
	replica_assert(sends(self->other, 2, 9, 2));
	replica_assert(gives(self->mq, 2, 9, 2));
	replica_assert(is_same_file(self->mq, self->ep));
	return REPLICA_PASS;
}

TEST_F(mqueue, is_one_copy_for_all_descriptions)
{
	ASSERT_EQ(0, close(self->mq));
	self->mq = make_queue(self->name, O_RDONLY | O_NONBLOCK);
	self->other = make_queue(self->name, O_WRONLY);
	ASSERT_LE(0, self->other);
	self->ep = dup(self->mq);
	ASSERT_EQ(0, mq_unlink(self->name));
	ASSERT_TRUE(sends(self->other, 1, 8, 2));
	isolate_and_pass(_metadata, 0, see_one_copy, self);
	EXPECT_TRUE(gives(self->mq, 1, 8, 2));
	EXPECT_TRUE(is_empty(self->mq));
}

static bool is_told(int sig, int value)
{
	struct timespec now = {};
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return sigtimedwait(&set, &info, &now) == sig && info.si_code == SI_MESGQ &&
	       info.si_value.sival_int == value;
}

static int see_notification(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;
	struct sigevent event = { .sigev_notify = SIGEV_NONE };

	replica_assert_eq(-1, mq_notify(self->mq, &event));
	replica_assert_eq(EBUSY, errno);
	wait_turn();
	replica_assert(!is_told(self->sig, 77));
	replica_assert(sends(self->mq, 1, 1, 0));
	replica_assert(is_told(self->sig, 77));
	/* Once only. */
	replica_assert(gives(self->mq, 1, 1, 0));
	replica_assert(sends(self->mq, 1, 1, 0));
	replica_assert(!is_told(self->sig, 77));
	replica_assert_eq(0, mq_notify(self->mq, &event));
	return REPLICA_PASS;
}

TEST_F(mqueue, notifies_its_own_process)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_SIGNAL,
		.sigev_signo = self->sig,
		.sigev_value.sival_int = 77,
	};
	long pid;

	block_signal(_metadata, self->sig);
	ASSERT_EQ(0, mq_notify(self->mq, &event));
	pid = isolate(_metadata, 0, see_notification, self);
	EXPECT_TRUE(sends(self->mq, 2, 1, 0));
	EXPECT_TRUE(is_told(self->sig, 77));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_FALSE(is_told(self->sig, 77));
	EXPECT_TRUE(gives(self->mq, 2, 1, 0));
}

static int remove_notification(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;
	struct sigevent event = { .sigev_notify = SIGEV_NONE };

	replica_assert_eq(0, mq_notify(self->mq, NULL));
	replica_assert_eq(0, mq_notify(self->mq, &event));
	return REPLICA_PASS;
}

TEST_F(mqueue, can_be_told_by_a_replica_to_notify_no_more)
{
	struct sigevent event = { .sigev_notify = SIGEV_NONE };

	ASSERT_EQ(0, mq_notify(self->mq, &event));
	isolate_and_pass(_metadata, 0, remove_notification, self);
	EXPECT_EQ(-1, mq_notify(self->mq, &event));
	EXPECT_EQ(EBUSY, errno);
}

static int see_epoll(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;
	struct epoll_event event;

	wait_turn();
	replica_assert_eq(0, epoll_wait(self->ep, &event, 1, 0));
	replica_assert(sends(self->mq, 1, 1, 0));
	replica_assert_eq(1, epoll_wait(self->ep, &event, 1, 0));
	return REPLICA_PASS;
}

TEST_F(mqueue, is_looked_at_by_an_epoll)
{
	struct epoll_event event = { .events = EPOLLIN };
	long pid;

	self->ep = epoll_create1(0);
	ASSERT_EQ(0, epoll_ctl(self->ep, EPOLL_CTL_ADD, self->mq, &event));
	pid = isolate(_metadata, 0, see_epoll, self);
	ASSERT_TRUE(sends(self->mq, 2, 1, 0));
	ASSERT_EQ(1, epoll_wait(self->ep, &event, 1, 0));
	ASSERT_TRUE(gives(self->mq, 2, 1, 0));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, epoll_wait(self->ep, &event, 1, 0));
}

static void *receive_in_thread(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;
	char buf[SIZE];

	if (mq_receive(self->mq, buf, SIZE, NULL) == 1)
		record(buf[0], 0);
	return NULL;
}

static bool is_blocked_in_receive(pid_t pid, pid_t tid)
{
	return is_blocked(pid, tid, __NR_mq_timedreceive);
}

/* A thread that waits for a message gets the one of its own side. */
TEST_F(mqueue, is_read_by_a_thread_on_each_side)
{
	struct mq_attr blocking = {};
	pthread_t thread;
	long pid;

	ASSERT_EQ(0, mq_setattr(self->mq, &blocking, NULL));
	ASSERT_EQ(0, pthread_create(&thread, NULL, receive_in_thread, self));
	ASSERT_TRUE(wait_until(count_tasks(getpid(), is_blocked_in_receive) == 1, DEADLINE));
	pid = full_fork(CLONE_ISOLATE);
	if (!pid) {
		replica_assert(sends(self->mq, 1, 1, 0));
		replica_assert(wait_until(load(&report->slot[1].recorded), DEADLINE));
		replica_exit(REPLICA_PASS);
	}
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, report->slot[2].recorded);
	ASSERT_TRUE(sends(self->mq, 2, 1, 0));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(1, report->slot[1].recorded);
	EXPECT_EQ(1, report->slot[2].recorded);
}

static int see_shared(void *arg)
{
	FIXTURE_DATA(mqueue) *self = arg;

	replica_assert_fdinfo("shared", self->mq);
	replica_assert(gives(self->mq, 1, 1, 0));
	return REPLICA_PASS;
}

static void expect_shared(struct __test_metadata *_metadata, FIXTURE_DATA(mqueue) *self)
{
	ASSERT_TRUE(sends(self->mq, 1, 1, 0));
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_TRUE(is_empty(self->mq));
}

TEST_F(mqueue, is_shared_if_it_has_a_name)
{
	ASSERT_EQ(0, close(self->mq));
	self->mq = make_queue(self->name, O_RDWR | O_NONBLOCK);
	ASSERT_LE(0, self->mq);
	expect_shared(_metadata, self);
}

TEST_F(mqueue, is_shared_if_somebody_else_has_it)
{
	pid_t outsider = start_outsider(_metadata, self->mq);

	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
}

/* By another description, which was opened while there was a name. */
TEST_F(mqueue, is_shared_if_somebody_else_has_opened_it)
{
	pid_t outsider;

	ASSERT_EQ(0, close(self->mq));
	self->mq = make_queue(self->name, O_RDWR | O_NONBLOCK);
	self->other = make_queue(self->name, O_RDONLY);
	ASSERT_LE(0, self->other);
	ASSERT_EQ(0, mq_unlink(self->name));
	outsider = start_outsider(_metadata, self->other);
	ASSERT_EQ(0, close(self->other));
	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
}

/* It can be opened by /proc/self/fd. */
TEST_F(mqueue, is_shared_if_somebody_else_has_its_path)
{
	char path[64];
	pid_t outsider;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->mq);
	self->other = open(path, O_PATH);
	ASSERT_LE(0, self->other);
	outsider = start_outsider(_metadata, self->other);
	ASSERT_EQ(0, close(self->other));
	expect_shared(_metadata, self);
	end_outsider(_metadata, outsider);
}

TEST_F(mqueue, is_shared_if_it_is_locked)
{
	ASSERT_EQ(0, flock(self->mq, LOCK_EX));
	expect_shared(_metadata, self);
}

/* The socket by which a thread is told is shared, too. */
TEST_F(mqueue, is_shared_if_it_notifies_a_thread)
{
	char cookie[32] = {};
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD,
		.sigev_value.sival_ptr = cookie,
	};

	event.sigev_signo = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	ASSERT_LE(0, event.sigev_signo);
	/* It is told when the queue is not empty any more, and asked only once. */
	ASSERT_TRUE(sends(self->mq, 1, 1, 0));
	ASSERT_EQ(0, syscall(__NR_mq_notify, self->mq, &event));
	isolate_and_pass(_metadata, 0, see_shared, self);
	EXPECT_TRUE(is_empty(self->mq));
	EXPECT_TRUE(sends(self->mq, 2, 1, 0));
	EXPECT_EQ(sizeof(cookie), recv(event.sigev_signo, cookie, sizeof(cookie), MSG_DONTWAIT));
}

/* Limits: @halves of what two queues are charged */
static void set_limit(struct __test_metadata *_metadata, int halves)
{
	struct rlimit limit;

	ASSERT_EQ(0, getrlimit(RLIMIT_MSGQUEUE, &limit));
	limit.rlim_cur = COST * halves / 2;
	ASSERT_EQ(0, setrlimit(RLIMIT_MSGQUEUE, &limit));
}

#define USER 12346

/* A queue that @self's user, who has no other, opens and pays for. */
static void become_user(struct __test_metadata *_metadata, FIXTURE_DATA(mqueue) *self)
{
	require_root(_metadata, "limits of another user");
	ASSERT_EQ(0, close(self->mq));
	ASSERT_EQ(0, setresuid(USER, USER, 0));
	self->mq = make_queue(self->name, O_RDWR | O_NONBLOCK);
	ASSERT_LE(0, self->mq);
	ASSERT_EQ(0, mq_unlink(self->name));
}

static bool can_have_another(FIXTURE_DATA(mqueue) *self)
{
	int mq = make_queue(self->name, O_RDWR);

	if (mq < 0)
		return false;
	mq_unlink(self->name);
	close(mq);
	return true;
}

static int wait_and_pass(void *arg)
{
	wait_turn();
	return REPLICA_PASS;
}

static void expect_limit(struct __test_metadata *_metadata)
{
	struct census census = take_census();
	int i;

	for (i = 0; i < 3; i++)
		EXPECT_EQ(-EAGAIN, replica_main(full_fork(CLONE_ISOLATE), wait_and_pass, NULL));
	expect_census(census);
}

TEST_F(mqueue, is_charged_to_its_user)
{
	long pid;

	become_user(_metadata, self);
	ASSERT_TRUE(sends(self->mq, 1, 5000, 0));
	set_limit(_metadata, 3);
	ASSERT_FALSE(can_have_another(self));
	expect_limit(_metadata);

	/* Nothing is left of those, and the copy is charged until it ends. */
	set_limit(_metadata, 5);
	ASSERT_TRUE(can_have_another(self));
	pid = isolate(_metadata, 0, wait_and_pass, NULL);
	EXPECT_FALSE(can_have_another(self));
	EXPECT_EQ(EMFILE, errno);
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(can_have_another(self));
	EXPECT_TRUE(gives(self->mq, 1, 5000, 0));
}

/* Not to who opened it. */
TEST_F(mqueue, is_charged_to_who_has_it)
{
	long pid;

	become_user(_metadata, self);
	set_limit(_metadata, 3);
	ASSERT_EQ(0, seteuid(0));
	ASSERT_EQ(0, setresuid(USER + 1, USER + 1, 0));
	ASSERT_TRUE(can_have_another(self));
	pid = isolate(_metadata, 0, wait_and_pass, NULL);
	EXPECT_FALSE(can_have_another(self));
	EXPECT_EQ(EMFILE, errno);
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(can_have_another(self));
}

static void copy_from_outside(struct __test_metadata *_metadata, pid_t child, bool fits)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_ISOLATE | CLONE_FROM_PIDFD,
		.exit_signal = SIGCHLD,
		.source_pidfd = sys_pidfd_open(child),
	};
	long pid = sys_clone3(&args, sizeof(args));

	if (!fits) {
		ASSERT_EQ(-EAGAIN, pid);
		return;
	}
	ASSERT_LT(0, pid)
	{
		TH_LOG("full fork: %s", strerror(-pid));
	}
	ASSERT_EQ(0, kill(pid, SIGKILL));
	xwaitpid(_metadata, pid, DEADLINE);
}

static void expect_limit_of_child(struct __test_metadata *_metadata,
				  FIXTURE_DATA(mqueue) *self, int of_child, int own, bool fits)
{
	pid_t child;

	require_root(_metadata, "limits of another user");
	set_limit(_metadata, 5);
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		become_user(_metadata, self);
		set_limit(_metadata, of_child);
		store(&report->word[WORD_FREE], 1);
		for (;;)
			pause();
	}
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	set_limit(_metadata, own);
	copy_from_outside(_metadata, child, fits);
	ASSERT_EQ(0, kill(child, SIGKILL));
	xwaitpid(_metadata, child, DEADLINE);
}

/* Not of who makes the copy. */
TEST_F(mqueue, has_the_limit_of_a_member)
{
	expect_limit_of_child(_metadata, self, 5, 0, true);
}

TEST_F(mqueue, has_not_the_limit_of_the_caller)
{
	expect_limit_of_child(_metadata, self, 3, 9, false);
}

/* The IPC namespace has a limit for the number of queues, too. */
TEST_F(mqueue, is_counted_by_its_namespace)
{
	require_root(_metadata, "a limit of its own");
	ASSERT_EQ(0, unshare(CLONE_NEWIPC));
	ASSERT_EQ(0, write_file("/proc/sys/fs/mqueue/queues_max", "1"));
	become_user(_metadata, self);
	ASSERT_FALSE(can_have_another(self));
	expect_limit(_metadata);
	ASSERT_EQ(0, seteuid(0));
	ASSERT_EQ(0, write_file("/proc/sys/fs/mqueue/queues_max", "2"));
	ASSERT_EQ(0, seteuid(USER));
	give_turn();
	isolate_and_pass(_metadata, 0, wait_and_pass, NULL);
	EXPECT_TRUE(can_have_another(self));
}

TEST_HARNESS_MAIN
