// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a thread that moved into a child and is killed there, or
 * whose parent is killed
 *
 * Nothing may go on with registers that do not belong to a thread: after each of
 * these, the parent has run no further user instruction.
 */

#include "fullfork_sfork.h"
#include "fullfork_cgroup.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* Words of the report. */
enum { INSIDE, WENT_ON, HANDLED, THREAD };

FIXTURE(killed)
{
};

FIXTURE_SETUP(killed)
{
	struct rlimit none = {};

	require_fullfork(_metadata);
	ASSERT_EQ(0, setrlimit(RLIMIT_CORE, &none));
	/* The children of parents that die are ours. */
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
}

FIXTURE_TEARDOWN(killed)
{
}

static void handle(int sig)
{
	store(&report->word[HANDLED], sig);
}

/* A way in which the child dies. */
struct death {
	int sig;
	void (*cause)(void);
};

/* In the parent: nothing may save it. */
static void catch_and_block(int sig)
{
	struct sigaction sa = { .sa_handler = handle };
	sigset_t set;

	sigfillset(&sa.sa_mask);
	for (int i = 1; i < SIGRTMAX; i++)
		sigaction(i, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void uncatch(int sig)
{
	sigset_t set;

	/* In the child alone, which has handlers of its own. */
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static int die_inside(void *arg)
{
	const struct death *death = arg;

	catch_and_block(death->sig);
	if (sfork())
		return REPLICA_FAIL;
	store(&report->word[INSIDE], raw_getpid());
	uncatch(death->sig);
	if (death->cause)
		death->cause();
	else
		syscall(__NR_kill, raw_getpid(), death->sig);
	store(&report->word[WENT_ON], 1);
	return REPLICA_FAIL;
}

FIXTURE(death)
{
};

FIXTURE_VARIANT(death)
{
	struct death death;
	int child_exits;
};

static void fault(void)
{
	int *nowhere = (int *)8;

	asm volatile("" : "+r"(nowhere));
	*nowhere = 1;
}

static void divide(void)
{
#ifdef __x86_64__
	asm volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx" : : :
		     "eax", "ecx", "edx");
#else
	raise(SIGFPE);
#endif
}

static void break_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
	syscall(__NR_getppid);
}

static void *end_group(void *arg)
{
	replica_exit(44);
}

static void wait_for_end(void *(*fn)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, fn, NULL))
		return;
	for (;;)
		pause();
}

static void thread_exits_group(void)
{
	wait_for_end(end_group);
}

static void *exec_shell(void *arg)
{
	sfork_shell("exit 45");
	return NULL;
}

static void thread_execs(void)
{
	wait_for_end(exec_shell);
}

FIXTURE_VARIANT_ADD(death, sigkill) { .death = { SIGKILL } };
FIXTURE_VARIANT_ADD(death, sigterm) { .death = { SIGTERM } };
FIXTURE_VARIANT_ADD(death, sigint) { .death = { SIGINT } };
FIXTURE_VARIANT_ADD(death, sigusr1) { .death = { SIGUSR1 } };
FIXTURE_VARIANT_ADD(death, sigalrm) { .death = { SIGALRM } };
FIXTURE_VARIANT_ADD(death, real_time) { .death = { 40 } };
FIXTURE_VARIANT_ADD(death, abort) { .death = { SIGABRT } };
FIXTURE_VARIANT_ADD(death, fault) { .death = { SIGSEGV, fault } };
FIXTURE_VARIANT_ADD(death, arithmetic) { .death = { SIGFPE, divide } };
FIXTURE_VARIANT_ADD(death, seccomp) { .death = { SIGSYS, break_filter } };
/* Its thread is killed by another one of the child: there is no signal. */
FIXTURE_VARIANT_ADD(death, exit_group_of_another_thread) {
	.death = { SIGKILL, thread_exits_group }, .child_exits = 44,
};
FIXTURE_VARIANT_ADD(death, exec_of_another_thread) {
	.death = { SIGKILL, thread_execs }, .child_exits = 45,
};

FIXTURE_SETUP(death)
{
	struct rlimit none = {};

	require_fullfork(_metadata);
	ASSERT_EQ(0, setrlimit(RLIMIT_CORE, &none));
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
}

FIXTURE_TEARDOWN(death)
{
}

TEST_F_LONG(death, takes_the_thread_of_the_parent_with_it)
{
	pid_t process = start_process(_metadata, die_inside, (void *)&variant->death);
	int status;

	expect_killed(variant->death.sig, process);
	EXPECT_EQ(0, report->word[WENT_ON]);
	EXPECT_EQ(0, report->word[HANDLED]);

	/* The child: killed as well, or what its other thread made of it. */
	status = xwaitpid(_metadata, report->word[INSIDE], DEADLINE);
	EXPECT_EQ(variant->child_exits, WIFEXITED(status) ? WEXITSTATUS(status) : 0);
	EXPECT_EQ(variant->child_exits ? 0 : variant->death.sig, WTERMSIG(status));
}

/* All threads of the parent go, and parents of parents too. */
static void *spin(void *arg)
{
	for (;;)
		sched_yield();
	return NULL;
}

static int die_nested(void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, spin, NULL))
		return REPLICA_FAIL;
	for (int i = 0; i < 10; i++) {
		if (sfork())
			return REPLICA_FAIL;
		report->word[10 + i] = raw_getpid();
	}
	syscall(__NR_kill, raw_getpid(), SIGTERM);
	return REPLICA_FAIL;
}

TEST_F_LONG(killed, a_nested_death_unwinds_through_all_parents)
{
	pid_t process = start_process(_metadata, die_nested, NULL);

	expect_killed(SIGTERM, process);
	for (int i = 0; i < 10; i++)
		expect_killed(SIGTERM, report->word[10 + i]);
}

/* A signal that is handled in the child kills nobody. */
static int handle_inside(void *arg)
{
	int status;
	long pid;

	signal(SIGUSR1, handle);
	if (sfork())
		return REPLICA_FAIL;
	syscall(__NR_kill, raw_getpid(), SIGUSR1);
	pid = sfork_exit(3);
	if (load(&report->word[HANDLED]) != SIGUSR1)
		return REPLICA_FAIL;
	return waitpid(pid, &status, 0) == pid && status == 3 << 8 ? REPLICA_PASS : REPLICA_FAIL;
}

TEST_F_LONG(killed, a_signal_that_is_handled_in_the_child_kills_nobody)
{
	expect_pass(_metadata, start_process(_metadata, handle_inside, NULL));
}

/*
 * A parent that is killed while its thread is away: the child goes on.  The way
 * in which it then ends is @arg.
 */
enum way { BY_EXIT, BY_EXIT_OF_THREAD, BY_EXEC, BY_SFORK };

static int go_on_alone(void *arg)
{
	enum way way = (uintptr_t)arg;
	pid_t parent = raw_getpid(), grandchild;
	long pid;

	if (sfork())
		return REPLICA_FAIL;
	store(&report->word[INSIDE], raw_getpid());
	/* Until the parent is gone. */
	while (syscall(__NR_getppid) == parent)
		poll_pause();
	switch (way) {
	case BY_EXIT:
		sfork_exit(61);
		break;
	case BY_EXIT_OF_THREAD:
		syscall(__NR_exit, 61);
		break;
	case BY_EXEC:
		sfork_shell("exit 61");
		break;
	case BY_SFORK:
		if (sfork())
			break;
		grandchild = raw_getpid();
		pid = sfork_exit(1);
		if (pid == grandchild)
			sfork_exit(61);
		break;
	}
	store(&report->word[WENT_ON], 1);
	return REPLICA_FAIL;
}

FIXTURE(alone)
{
};

FIXTURE_VARIANT(alone)
{
	enum way way;
	int sig;
};

FIXTURE_VARIANT_ADD(alone, exit) { BY_EXIT, SIGKILL };
FIXTURE_VARIANT_ADD(alone, exit_of_thread) { BY_EXIT_OF_THREAD, SIGKILL };
FIXTURE_VARIANT_ADD(alone, exec) { BY_EXEC, SIGKILL };
FIXTURE_VARIANT_ADD(alone, sfork) { BY_SFORK, SIGKILL };
FIXTURE_VARIANT_ADD(alone, exit_after_sigterm) { BY_EXIT, SIGTERM };

FIXTURE_SETUP(alone)
{
	require_fullfork(_metadata);
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
}

FIXTURE_TEARDOWN(alone)
{
}

TEST_F_LONG(alone, child_of_a_killed_parent_is_an_ordinary_process)
{
	pid_t process = start_process(_metadata, go_on_alone,
				      (void *)(uintptr_t)variant->way);

	ASSERT_TRUE(wait_until(load(&report->word[INSIDE]), DEADLINE));
	ASSERT_EQ(0, kill(process, variant->sig));
	expect_killed(variant->sig, process);
	expect_exited(61, report->word[INSIDE]);
	EXPECT_EQ(0, report->word[WENT_ON]);
}

/* Another thread of the parent calls exec, or exit_group(). */
static void *end_parent(void *arg)
{
	while (!load(&report->word[INSIDE]))
		poll_pause();
	if (arg)
		sfork_shell("exit 62");
	else
		replica_exit(62);
	return NULL;
}

static int end_parent_from_thread(void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, end_parent, arg))
		return REPLICA_FAIL;
	return go_on_alone((void *)BY_EXIT);
}

TEST_F_LONG(killed, exit_group_in_the_parent_leaves_the_child)
{
	pid_t process = start_process(_metadata, end_parent_from_thread, NULL);

	expect_exited(62, process);
	expect_exited(61, report->word[INSIDE]);
	EXPECT_EQ(0, report->word[WENT_ON]);
}

/* Its parent is still there, under the same PID. */
static int be_left_by_exec(void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, end_parent, arg))
		return REPLICA_FAIL;
	if (sfork())
		return REPLICA_FAIL;
	store(&report->word[INSIDE], raw_getpid());
	while (!load(&report->may_go_on))
		futex_wait(&report->may_go_on, 0, 0, 100);
	sfork_exit(61);
	store(&report->word[WENT_ON], 1);
	return REPLICA_FAIL;
}

TEST_F_LONG(killed, exec_in_the_parent_leaves_the_child)
{
	pid_t process = start_process(_metadata, be_left_by_exec, (void *)1);

	expect_exited(62, process);
	store(&report->may_go_on, 1);
	futex_wake(&report->may_go_on, INT_MAX, 0);
	expect_exited(61, report->word[INSIDE]);
	EXPECT_EQ(0, report->word[WENT_ON]);
}

/* Out of memory: all who share it are killed, wherever the thread is. */
static int eat_memory_inside(void *arg)
{
	size_t size = 1 << 20;
	char *more;

	if (sfork())
		return REPLICA_FAIL;
	store(&report->word[INSIDE], raw_getpid());
	while ((more = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0)) != MAP_FAILED)
		memset(more, 1, size);
	store(&report->word[WENT_ON], 1);
	return REPLICA_FAIL;
}

TEST_F_LONG(killed, the_oom_killer_takes_both)
{
	struct cgroup cg;
	pid_t process;

	mount_cgroup(_metadata, &cg, "cgroup2", NULL);
	ASSERT_EQ(0, write_cgroup(&cg, "/..", "cgroup.subtree_control", "+memory"));
	ASSERT_EQ(0, write_cgroup(&cg, "", "memory.max", "40M"));
	ASSERT_EQ(0, write_cgroup(&cg, "", "cgroup.procs", "0"));
	process = start_process(_metadata, eat_memory_inside, NULL);
	EXPECT_EQ(0, leave_cgroup(&cg));
	expect_killed(SIGKILL, process);
	expect_killed(SIGKILL, report->word[INSIDE]);
	EXPECT_EQ(0, report->word[WENT_ON]);
	umount_cgroup(_metadata, &cg);
}

/*
 * SIGKILL at any moment, to the child or to the parent.  Whatever it meets, no
 * instruction runs in a place where the thread is not.
 */
static int move_for_ever(void *arg)
{
	pid_t parent = raw_getpid(), inside;
	long pid;

	for (;;) {
		if (sfork())
			return REPLICA_FAIL;
		inside = raw_getpid();
		store(&report->word[INSIDE], inside);
		if (inside == parent)
			store(&report->word[WENT_ON], 1);
		pid = add(&report->word[THREAD], 1) % 8 ? sfork_exit(0) : sfork_shell("exit 0");
		if (raw_getpid() != parent) {
			/* Left alone by a parent that was killed: not possible here. */
			store(&report->word[WENT_ON], 2);
			return REPLICA_FAIL;
		}
		if (pid != inside)
			store(&report->word[WENT_ON], 3);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

static void storm(struct __test_metadata *_metadata, bool kill_child)
{
	struct rounds rounds = { .least = 30, .most = 400 };
	unsigned int seed = 7;
	int status, i;

	while (next_round(&rounds)) {
		pid_t process;

		report->word[INSIDE] = 0;
		process = start_process(_metadata, move_for_ever, NULL);
		ASSERT_TRUE(wait_until(load(&report->word[INSIDE]), DEADLINE));
		for (i = rand_r(&seed) % 3000; i; i--)
			asm volatile("" : : : "memory");
		if (!kill_child)
			kill(process, SIGKILL);
		/* The thread may be back before it is hit, so try again. */
		for (i = 0; kill_child && !waitpid(process, &status, WNOHANG); i++) {
			kill(load(&report->word[INSIDE]), SIGKILL);
			if (i > 1000)
				kill(process, SIGKILL);
			sched_yield();
		}
		if (!kill_child)
			status = xwaitpid(_metadata, process, DEADLINE);
		ASSERT_TRUE(WIFSIGNALED(status));
		ASSERT_EQ(SIGKILL, WTERMSIG(status));
		/* Children that are left over end by themselves. */
		ASSERT_TRUE(wait_until(waitpid(-1, &status, WNOHANG) < 0 && errno == ECHILD,
				       DEADLINE));
		ASSERT_EQ(0, report->word[WENT_ON]);
	}
}

TEST_F_LONG(killed, storm_of_sigkill_at_children)
{
	storm(_metadata, true);
}

TEST_F_LONG(killed, storm_of_sigkill_at_parents)
{
	storm(_metadata, false);
}

TEST_HARNESS_MAIN
