/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Driver of the tests of blocked system calls
 *
 * One thread sleeps in a system call while another makes a full fork.  Then
 * each side does what lets its own call end, as objects are shared: a byte
 * for each of two readers.  No side does so before both calls sleep again, as
 * a call that finds its event at once would hide a restart that went wrong.
 */
#ifndef _FULLFORK_BLOCKED_H
#define _FULLFORK_BLOCKED_H

#include "fullfork_threads.h"
#include <mqueue.h>
#include <sys/epoll.h>

struct blocking_call {
	/* Makes the objects, in the original, before there are threads. */
	void (*prepare)(struct __test_metadata *_metadata);
	/* The call: 0 if it returned what it should, see outcome(). */
	long (*call)(void);
	/* Lets the call of this side end; NULL if it does so by itself. */
	void (*complete)(void);
	/* How long it takes if it ends by a timeout, in milliseconds. */
	long msec;
	/* It may start anew, and then end as much later. */
	bool anew;
};

/* 0, or the negative errno, or a line number where errno has nothing to say. */
#define outcome(right) ((right) ? 0 : errno ? -(long)errno : __LINE__)

static struct {
	const struct blocking_call *call;
	/* These are of one side each. */
	pid_t tid;
	long long start;
	__u32 about;
	__u32 done;
	long result;
	long took;
} blocked;

enum {
	WORD_READY,			/* and one for each side */
	WORD_RELEASE = WORD_READY + 3,	/* for the tests */
	WORD_LOCKED,
	WORD_FUTEX,
	WORD_FORKED_AT,
};

/*
 * What some calls need
 */

/* What an epoll instance tells of the file that it watches. */
#define EPOLL_TOKEN 0x1234

static inline int create_epoll(struct __test_metadata *_metadata, int fd)
{
	struct epoll_event event = {
		.events = EPOLLIN,
		.data.u32 = EPOLL_TOKEN,
	};
	int epfd = epoll_create1(0);

	ASSERT_LE(0, epfd);
	ASSERT_EQ(0, epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event));
	return epfd;
}

/* A message queue with room for @maxmsg messages, that has no name any more. */
static inline mqd_t create_queue(struct __test_metadata *_metadata, long maxmsg)
{
	struct mq_attr attr = { .mq_maxmsg = maxmsg, .mq_msgsize = 8 };
	char name[32];
	mqd_t queue;

	snprintf(name, sizeof(name), "/fullfork.%d", sys_getpid());
	queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
	ASSERT_LE(0, queue);
	ASSERT_EQ(0, mq_unlink(name));
	return queue;
}

/* Run by another process: holds a lock until it is told to give it back. */
static inline void hold_lock(int error)
{
	set_word(&report->word[WORD_LOCKED], error ? 2 : 1);
	await_word(&report->word[WORD_RELEASE], 1);
}

/* Starts that process: @hold takes the lock and calls hold_lock(). */
static inline void start_lock_holder(struct __test_metadata *_metadata,
				     void (*hold)(void))
{
	start_process(_metadata, hold);
	ASSERT_TRUE(wait_word(&report->word[WORD_LOCKED], 0));
	ASSERT_EQ(1, load(&report->word[WORD_LOCKED]));
}

static inline void release(void)
{
	set_word(&report->word[WORD_RELEASE], 1);
}

static inline void signal_process(void)
{
	kill(sys_getpid(), SIGUSR1);
}

/*
 * The thread that is blocked
 */

static inline void block(void)
{
	blocked.tid = sys_gettid();
	blocked.start = now_ms();
	store(&blocked.about, 1);
	errno = 0;
	blocked.result = blocked.call->call();
	blocked.took = now_ms() - blocked.start;
	store(&blocked.done, 1);
	/* The thread that made the call ends the replica. */
	while (in_replica())
		poll_pause();
}

static inline void *block_thread(void *arg)
{
	block();
	return NULL;
}

static inline bool blocked_or_done(void)
{
	return load(&blocked.done) || is_sleeping(sys_getpid(), blocked.tid);
}

/* Run by both sides after the full fork: true if the call has ended. */
static inline bool end_blocked_call(void)
{
	struct report_slot *slot = &report->slot[own_side()];
	unsigned int other = SIDE_ORIGINAL + SIDE_REPLICA - own_side();
	bool ended;

	if (in_replica() && blocked.tid == original_pid)
		blocked.tid = sys_getpid();
	else if (in_replica())
		blocked.tid = other_thread();
	ended = wait_until(blocked_or_done(), DEADLINE);
	set_word(&report->word[WORD_READY + own_side()], 1);
	ended &= wait_until(load(&report->word[WORD_READY + other]), DEADLINE);
	if (ended && blocked.call->complete)
		blocked.call->complete();
	ended &= wait_until(load(&blocked.done), DEADLINE);
	if (!ended)
		dump_process(sys_getpid());
	slot->value[0] = blocked.result;
	slot->value[1] = blocked.took;
	return ended;
}

static inline int end_replica_call(void *arg)
{
	return end_blocked_call() ? REPLICA_PASS : REPLICA_TIMEOUT;
}

/* Returns the replica's PID or an error. */
static inline long fork_while_blocked(void)
{
	long long forked_at;
	long pid;

	if (!wait_until(load(&blocked.about) &&
			is_sleeping(sys_getpid(), blocked.tid), DEADLINE))
		return -ETIME;
	/*
	 * Late in the time that it takes: what restarts from the beginning
	 * then takes so much longer that a slow machine is not mistaken.
	 */
	if (blocked.call->msec)
		wait_until(now_ms() - blocked.start >= blocked.call->msec * 6 / 10,
			   DEADLINE);
	forked_at = now_ms() - blocked.start;
	store(&report->word[WORD_FORKED_AT], forked_at);
	pid = replica_main(full_fork(0), end_replica_call, NULL);
	if (pid > 0 && !end_blocked_call()) {
		kill(pid, SIGKILL);
		return -ETIME;
	}
	return pid;
}

static inline void *fork_while_blocked_thread(void *arg)
{
	*(long *)arg = fork_while_blocked();
	return NULL;
}

static inline void expect_outcome(struct __test_metadata *_metadata,
				  enum side side, const char *name)
{
	long forked_at = load(&report->word[WORD_FORKED_AT]);
	long result = report->slot[side].value[0];
	long took = report->slot[side].value[1];

	EXPECT_EQ(0, result)
	{
		TH_LOG("the call returned the wrong thing in the %s: %s", name,
		       result < 0 ? strerror(-result) : "see that line");
	}
	if (!blocked.call->msec)
		return;
	if (blocked.call->anew)
		forked_at = 2 * DEADLINE * 1000;
	/* A call that starts anew takes at least as much as that longer. */
	EXPECT_LE(blocked.call->msec, took + 1);
	EXPECT_GT(blocked.call->msec + forked_at, took)
	{
		TH_LOG("the call in the %s started anew after %ld ms", name,
		       forked_at);
	}
}

static inline void expect_goes_on(struct __test_metadata *_metadata,
				  const struct blocking_call *call,
				  bool in_leader)
{
	pthread_t thread;
	long pid = 0;

	blocked.call = call;
	if (call->prepare)
		call->prepare(_metadata);
	if (in_leader) {
		blocked.tid = sys_getpid();
		start_thread(&thread, fork_while_blocked_thread, &pid);
		block();
		join_thread(thread);
	} else {
		start_thread(&thread, block_thread, NULL);
		pid = fork_while_blocked();
	}
	ASSERT_LT(0, pid)
	{
		TH_LOG("full fork: %s", strerror(-pid));
	}
	if (!in_leader)
		join_thread(thread);
	expect_pass(_metadata, pid);
	expect_outcome(_metadata, SIDE_ORIGINAL, "original");
	expect_outcome(_metadata, SIDE_REPLICA, "replica");
}

#endif /* _FULLFORK_BLOCKED_H */
