// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: threads that wait for a futex, IPC, a signal, a child
 */

#include "fullfork_blocked.h"
#include <sys/msg.h>
#include <sys/sem.h>

struct message {
	long type;
	char text[8];
};

static __u32 word;			/* private memory: one for each side */
static __u32 handled;
static int ipc_id = -1;
static bool is_queue;
static mqd_t queue;
static pid_t child;

static void nop_handler(int sig)
{
	add(&handled, 1);
}

static void prepare_handler(struct __test_metadata *_metadata)
{
	struct sigaction sa = { .sa_handler = nop_handler };

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
}

static void prepare_blocked_signal(struct __test_metadata *_metadata)
{
	prepare_handler(_metadata);
	block_signal(_metadata, SIGUSR1);
}

static void prepare_semaphore(struct __test_metadata *_metadata)
{
	ipc_id = semget(IPC_PRIVATE, 1, 0600);
	ASSERT_LE(0, ipc_id);
}

static void prepare_messages(struct __test_metadata *_metadata)
{
	ipc_id = msgget(IPC_PRIVATE, 0600);
	ASSERT_LE(0, ipc_id);
	is_queue = true;
}

static void prepare_full_messages(struct __test_metadata *_metadata)
{
	struct message msg = { .type = 1 };
	struct msqid_ds ds;

	prepare_messages(_metadata);
	ASSERT_EQ(0, msgctl(ipc_id, IPC_STAT, &ds));
	ds.msg_qbytes = sizeof(msg.text);
	ASSERT_EQ(0, msgctl(ipc_id, IPC_SET, &ds));
	ASSERT_EQ(0, msgsnd(ipc_id, &msg, sizeof(msg.text), IPC_NOWAIT));
}

static void prepare_queue(struct __test_metadata *_metadata)
{
	queue = create_queue(_metadata, 2);
}

static void prepare_full_queue(struct __test_metadata *_metadata)
{
	prepare_queue(_metadata);
	ASSERT_EQ(0, mq_send(queue, "full", 4, 0));
	ASSERT_EQ(0, mq_send(queue, "full", 4, 0));
}

static long lock_pi(__u32 *futex)
{
	return syscall(__NR_futex, futex, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
}

static long unlock_pi(__u32 *futex)
{
	return syscall(__NR_futex, futex, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
}

/*
 * The owner is a process that is not copied: an owner that is a member has
 * another TID in the replica, which is the limit of the form without
 * CLONE_KEEP_TIDS.
 */
static void hold_pi_lock(void)
{
	hold_lock(lock_pi(&report->word[WORD_FUTEX]));
	unlock_pi(&report->word[WORD_FUTEX]);
}

static void prepare_pi_lock(struct __test_metadata *_metadata)
{
	start_lock_holder(_metadata, hold_pi_lock);
}

static void be_child(void)
{
	await_word(&report->word[WORD_RELEASE], 1);
	_exit(7);
}

static void prepare_child(struct __test_metadata *_metadata)
{
	child = start_process(_metadata, be_child);
}

static long call_futex_wait(void)
{
	return outcome(!futex_wait(&word, 0, FUTEX_PRIVATE_FLAG, -1) &&
		       load(&word) == own_side());
}

static long call_futex_wait_timeout(void)
{
	return outcome(!futex_wait(&word, 0, FUTEX_PRIVATE_FLAG, 100000) &&
		       load(&word) == own_side());
}

static long call_futex_wait_shared(void)
{
	return outcome(!futex_wait(&report->word[WORD_FUTEX], 0, 0, -1));
}

static long call_futex_wait_bitset(void)
{
	return outcome(!syscall(__NR_futex, &word, FUTEX_WAIT_BITSET_PRIVATE,
				0, NULL, NULL, 0x10));
}

static long call_futex_waitv(void)
{
	static __u32 other;
	struct futex_waitv waiters[] = { {
		.uaddr = ptr_to_u64(&other),
		.flags = FUTEX_32 | FUTEX_PRIVATE_FLAG,
	}, {
		.uaddr = ptr_to_u64(&word),
		.flags = FUTEX_32 | FUTEX_PRIVATE_FLAG,
	} };

	return outcome(syscall(__NR_futex_waitv, waiters, 2, 0, NULL, 0) == 1);
}

/* The lock goes from one side to the other. */
static long call_lock_pi(void)
{
	__u32 *futex = &report->word[WORD_FUTEX];

	if (lock_pi(futex))
		return outcome(false);
	if ((load(futex) & FUTEX_TID_MASK) != sys_gettid())
		return __LINE__;
	return outcome(!unlock_pi(futex));
}

static long call_semop(void)
{
	struct sembuf op = { .sem_op = -1 };

	return outcome(!semop(ipc_id, &op, 1));
}

static long call_semtimedop(void)
{
	struct timespec ts = { .tv_sec = 100 };
	struct sembuf op = { .sem_op = -1 };

	return outcome(!semtimedop(ipc_id, &op, 1, &ts));
}

static long call_msgrcv(void)
{
	struct message msg = {};

	return outcome(msgrcv(ipc_id, &msg, sizeof(msg.text), 5, 0) == 3 &&
		       msg.type == 5 && !strcmp(msg.text, "hi"));
}

static long call_msgsnd(void)
{
	struct message msg = { .type = 5, .text = "hi" };

	return outcome(!msgsnd(ipc_id, &msg, sizeof(msg.text), 0));
}

static long call_mq_receive(void)
{
	char text[8] = "";

	return outcome(mq_receive(queue, text, sizeof(text), NULL) == 3 &&
		       !strcmp(text, "hi"));
}

static long call_mq_timedreceive(void)
{
	struct timespec ts;
	char text[8] = "";

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 100;
	return outcome(mq_timedreceive(queue, text, sizeof(text), NULL,
				       &ts) == 3 && !strcmp(text, "hi"));
}

static long call_mq_send(void)
{
	return outcome(!mq_send(queue, "hi", 3, 0));
}

static bool is_own_signal(const siginfo_t *info)
{
	return info->si_signo == SIGUSR1 && info->si_pid == sys_getpid();
}

static long wait_signal(const struct timespec *ts)
{
	siginfo_t info = {};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return outcome(sigtimedwait(&set, &info, ts) == SIGUSR1 &&
		       is_own_signal(&info) && !load(&handled));
}

static long call_sigwaitinfo(void)
{
	return wait_signal(NULL);
}

static long call_sigtimedwait(void)
{
	struct timespec ts = { .tv_sec = 100 };

	return wait_signal(&ts);
}

/* As far as these do, EINTR is right: once, and after the handler ran. */
static long interrupted(int ret)
{
	return outcome(ret == -1 && errno == EINTR && load(&handled) == 1);
}

static long call_sigsuspend(void)
{
	sigset_t set, after;
	long ret;

	sigfillset(&set);
	sigdelset(&set, SIGUSR1);
	ret = interrupted(sigsuspend(&set));
	sigprocmask(SIG_BLOCK, NULL, &after);
	if (!sigismember(&after, SIGUSR1) || sigismember(&after, SIGUSR2))
		return __LINE__;
	return ret;
}

static long call_pause(void)
{
	return interrupted(pause());
}

/* The replica has no children, as after fork(). */
static long call_wait4(void)
{
	pid_t ret;
	int status = 0;

	ret = wait4(child, &status, 0, NULL);
	if (in_replica())
		return outcome(ret == -1 && errno == ECHILD);
	return outcome(ret == child && WEXITSTATUS(status) == 7);
}

static long call_waitid(void)
{
	siginfo_t info = {};
	int ret = waitid(P_PID, child, &info, WEXITED);

	if (in_replica())
		return outcome(ret == -1 && errno == ECHILD);
	return outcome(!ret && info.si_pid == child && info.si_status == 7);
}

static void wake_word(void)
{
	store(&word, own_side());
	futex_wake(&word, 1, FUTEX_PRIVATE_FLAG);
}

static void wake_bit(void)
{
	syscall(__NR_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL,
		0x10);
}

static void wake_shared(void)
{
	set_word(&report->word[WORD_FUTEX], 1);
}

static void raise_semaphore(void)
{
	struct sembuf op = { .sem_op = 1 };

	semop(ipc_id, &op, 1);
}

static void send_message(void)
{
	struct message msg = { .type = 5, .text = "hi" };

	msgsnd(ipc_id, &msg, 3, IPC_NOWAIT);
}

static void take_message(void)
{
	struct message msg;

	msgrcv(ipc_id, &msg, sizeof(msg.text), 0, 0);
}

static void send_to_queue(void)
{
	mq_send(queue, "hi", 3, 0);
}

static void take_from_queue(void)
{
	char text[8];

	mq_receive(queue, text, sizeof(text), NULL);
}

static void signal_thread(void)
{
	syscall(__NR_tgkill, sys_getpid(), blocked.tid, SIGUSR1);
}

FIXTURE(waiting)
{
};

FIXTURE_VARIANT(waiting)
{
	struct blocking_call call;
};

FIXTURE_VARIANT_ADD(waiting, in_futex_wait) {
	.call = { .call = call_futex_wait, .complete = wake_word },
};
FIXTURE_VARIANT_ADD(waiting, in_futex_wait_timeout) {
	.call = { .call = call_futex_wait_timeout, .complete = wake_word },
};
FIXTURE_VARIANT_ADD(waiting, in_futex_wait_shared) {
	.call = { .call = call_futex_wait_shared, .complete = wake_shared },
};
FIXTURE_VARIANT_ADD(waiting, in_futex_wait_bitset) {
	.call = { .call = call_futex_wait_bitset, .complete = wake_bit },
};
FIXTURE_VARIANT_ADD(waiting, in_futex_waitv) {
	.call = { .call = call_futex_waitv, .complete = wake_word },
};
FIXTURE_VARIANT_ADD(waiting, in_lock_pi) {
	.call = { .prepare = prepare_pi_lock, .call = call_lock_pi,
		  .complete = release },
};
FIXTURE_VARIANT_ADD(waiting, in_semop) {
	.call = { .prepare = prepare_semaphore, .call = call_semop,
		  .complete = raise_semaphore },
};
FIXTURE_VARIANT_ADD(waiting, in_semtimedop) {
	.call = { .prepare = prepare_semaphore, .call = call_semtimedop,
		  .complete = raise_semaphore },
};
FIXTURE_VARIANT_ADD(waiting, in_msgrcv) {
	.call = { .prepare = prepare_messages, .call = call_msgrcv,
		  .complete = send_message },
};
FIXTURE_VARIANT_ADD(waiting, in_msgsnd) {
	.call = { .prepare = prepare_full_messages, .call = call_msgsnd,
		  .complete = take_message },
};
FIXTURE_VARIANT_ADD(waiting, in_mq_receive) {
	.call = { .prepare = prepare_queue, .call = call_mq_receive,
		  .complete = send_to_queue },
};
FIXTURE_VARIANT_ADD(waiting, in_mq_timedreceive) {
	.call = { .prepare = prepare_queue, .call = call_mq_timedreceive,
		  .complete = send_to_queue },
};
FIXTURE_VARIANT_ADD(waiting, in_mq_send) {
	.call = { .prepare = prepare_full_queue, .call = call_mq_send,
		  .complete = take_from_queue },
};
FIXTURE_VARIANT_ADD(waiting, in_sigwaitinfo) {
	.call = { .prepare = prepare_blocked_signal, .call = call_sigwaitinfo,
		  .complete = signal_process },
};
FIXTURE_VARIANT_ADD(waiting, in_sigtimedwait) {
	.call = { .prepare = prepare_blocked_signal, .call = call_sigtimedwait,
		  .complete = signal_thread },
};
FIXTURE_VARIANT_ADD(waiting, in_sigsuspend) {
	.call = { .prepare = prepare_blocked_signal, .call = call_sigsuspend,
		  .complete = signal_thread },
};
FIXTURE_VARIANT_ADD(waiting, in_pause) {
	.call = { .prepare = prepare_handler, .call = call_pause,
		  .complete = signal_thread },
};
FIXTURE_VARIANT_ADD(waiting, in_wait4) {
	.call = { .prepare = prepare_child, .call = call_wait4,
		  .complete = release },
};
FIXTURE_VARIANT_ADD(waiting, in_waitid) {
	.call = { .prepare = prepare_child, .call = call_waitid,
		  .complete = release },
};

FIXTURE_SETUP(waiting)
{
	setup_threads(_metadata);
}

FIXTURE_TEARDOWN(waiting)
{
	if (ipc_id >= 0 && is_queue)
		msgctl(ipc_id, IPC_RMID, NULL);
	else if (ipc_id >= 0)
		semctl(ipc_id, 0, IPC_RMID);
}

TEST_F_GUARDED(waiting, goes_on_in_both)
{
	expect_goes_on(_metadata, &variant->call, false);
}

TEST_F_GUARDED(waiting, goes_on_in_both_when_the_leader_waits)
{
	expect_goes_on(_metadata, &variant->call, true);
}

TEST_HARNESS_MAIN
