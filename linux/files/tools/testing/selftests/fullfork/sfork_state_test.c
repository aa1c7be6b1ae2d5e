// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what a thread that moves takes along, and what it does not
 */

#include "fullfork_sfork.h"
#include "fullfork_cgroup.h"

#include <linux/filter.h>
#include <linux/rseq.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/rseq.h>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP	(1ULL << 33)
#endif
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND	(1ULL << 32)
#endif

FIXTURE(state)
{
};

FIXTURE_SETUP(state)
{
	require_fullfork(_metadata);
}

FIXTURE_TEARDOWN(state)
{
}

/*
 * Signals
 */

static __u32 handled, handled_pid, handled_tid;

static void handle(int sig)
{
	store(&handled_pid, raw_getpid());
	store(&handled_tid, sys_gettid());
	store(&handled, sig);
}

TEST_F_LONG(state, signal_mask_is_the_parents_own)
{
	sigset_t fill, old, now, inside;
	long pid;

	sigfillset(&fill);
	ASSERT_EQ(0, sigprocmask(SIG_SETMASK, NULL, &old));
	ASSERT_EQ(0, sfork());
	sigprocmask(SIG_SETMASK, &fill, &inside);
	pid = sfork_exit(0);

	ASSERT_EQ(0, sigprocmask(SIG_SETMASK, NULL, &now));
	EXPECT_EQ(0, memcmp(&old, &now, sizeof(long)));
	EXPECT_EQ(0, memcmp(&old, &inside, sizeof(long)));
	expect_exited(0, pid);
}

TEST_F_LONG(state, alternate_stack_is_the_parents_own)
{
	static char mine[65536], other[65536];
	stack_t ss = { .ss_sp = mine, .ss_size = sizeof(mine) }, inside, now;
	int set;
	long pid;

	ASSERT_EQ(0, sigaltstack(&ss, NULL));
	ASSERT_EQ(0, sfork());
	ss.ss_sp = other;
	set = sigaltstack(&ss, &inside);
	pid = sfork_exit(0);

	EXPECT_EQ(0, set);
	EXPECT_EQ((void *)mine, inside.ss_sp);
	ASSERT_EQ(0, sigaltstack(NULL, &now));
	EXPECT_EQ((void *)mine, now.ss_sp);
	expect_exited(0, pid);
}

TEST_F_LONG(state, handlers_are_the_parents_own)
{
	struct sigaction now;
	long pid;

	ASSERT_NE(SIG_ERR, signal(SIGUSR1, handle));
	ASSERT_EQ(0, sfork());
	signal(SIGUSR1, SIG_IGN);
	pid = sfork_exit(0);

	ASSERT_EQ(0, sigaction(SIGUSR1, NULL, &now));
	EXPECT_TRUE(now.sa_handler == handle);
	expect_exited(0, pid);
}

/* With the registers that came back: the handler's frame is on the stack as it is. */
TEST_F_LONG(state, signals_to_the_only_thread_wait_until_it_is_back)
{
	pid_t parent = raw_getpid();
	int before, sent;
	long pid;

	ASSERT_NE(SIG_ERR, signal(SIGUSR1, handle));
	ASSERT_EQ(0, sfork());
	sent = kill(parent, SIGUSR1);
	for (int i = 0; i < 20; i++)
		poll_pause();
	before = load(&handled);
	pid = sfork_exit(2);

	EXPECT_EQ(0, sent);
	EXPECT_EQ(0, before);
	EXPECT_EQ(SIGUSR1, load(&handled));
	EXPECT_EQ(parent, handled_pid);
	expect_exited(2, pid);
}

TEST_F_LONG(state, exit_signal_is_handled_after_the_return)
{
	pid_t parent = raw_getpid();
	int status;
	long pid;

	ASSERT_NE(SIG_ERR, signal(SIGCHLD, handle));
	ASSERT_EQ(0, sfork());
	pid = sfork_exit(2);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(wait_until(load(&handled), DEADLINE));
	EXPECT_EQ(SIGCHLD, load(&handled));
	EXPECT_EQ(parent, handled_pid);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(2 << 8, status);
}

struct other {
	__u32 tid;
	__u32 stop;
};

static void *be_there(void *arg)
{
	struct other *other = arg;

	store(&other->tid, sys_gettid());
	while (!load(&other->stop))
		futex_wait(&other->stop, 0, FUTEX_PRIVATE_FLAG, 1000);
	return NULL;
}

TEST_F_LONG(state, signals_go_to_other_threads_of_the_parent)
{
	struct other other = {};
	pid_t parent = raw_getpid();
	pthread_t thread;
	bool met;
	long pid;

	ASSERT_NE(SIG_ERR, signal(SIGUSR1, handle));
	ASSERT_EQ(0, pthread_create(&thread, NULL, be_there, &other));
	ASSERT_TRUE(wait_until(load(&other.tid), DEADLINE));
	ASSERT_EQ(0, sfork());
	kill(parent, SIGUSR1);
	met = wait_until(load(&handled), DEADLINE);
	pid = sfork_exit(0);

	EXPECT_TRUE(met);
	EXPECT_EQ(other.tid, handled_tid);
	expect_exited(0, pid);
	store(&other.stop, 1);
	futex_wake(&other.stop, 1, FUTEX_PRIVATE_FLAG);
	EXPECT_EQ(0, pthread_join(thread, NULL));
}

/* A signal for the thread alone waits for it. */
TEST_F_LONG(state, signals_to_the_thread_wait_though_there_are_others)
{
	struct other other = {};
	pid_t parent = raw_getpid();
	pthread_t thread;
	int before;
	long pid;

	ASSERT_NE(SIG_ERR, signal(SIGUSR1, handle));
	ASSERT_EQ(0, pthread_create(&thread, NULL, be_there, &other));
	ASSERT_TRUE(wait_until(load(&other.tid), DEADLINE));
	ASSERT_EQ(0, sfork());
	syscall(__NR_tgkill, parent, parent, SIGUSR1);
	for (int i = 0; i < 20; i++)
		poll_pause();
	before = load(&handled);
	pid = sfork_exit(0);

	EXPECT_EQ(0, before);
	EXPECT_EQ(SIGUSR1, load(&handled));
	EXPECT_EQ(parent, handled_tid);
	expect_exited(0, pid);
	store(&other.stop, 1);
	futex_wake(&other.stop, 1, FUTEX_PRIVATE_FLAG);
	EXPECT_EQ(0, pthread_join(thread, NULL));
}

/* A handler may leave by sfork() and come back in its own frame. */
static void move_in_handler(int sig)
{
	pid_t inside;
	int status;
	long pid;

	if (sfork())
		return;
	inside = raw_getpid();
	pid = sfork_exit(7);
	if (pid == inside && waitpid(pid, &status, 0) == pid && status == 7 << 8)
		store(&handled, sig);
}

TEST_F_LONG(state, a_handler_moves_and_returns)
{
	ASSERT_NE(SIG_ERR, signal(SIGUSR1, move_in_handler));
	ASSERT_EQ(0, raise(SIGUSR1));
	EXPECT_EQ(SIGUSR1, load(&handled));
}

/*
 * Registers
 */

#ifdef __x86_64__
#include <asm/prctl.h>

/*
 * Moves, sets every register that a system call preserves, and exits: all of them
 * must be back, and the flags.
 */
static __attribute_noinline__ long move_with_registers(struct fullfork_args *args, __u64 *seen)
{
	size_t size = sizeof(*args);
	long ret;

	asm volatile("lea	-128(%%rsp), %%rsp\n\t"	/* the red zone */
		     "push	%%rbp\n\t"
		     "push	%%rbx\n\t"
		     "push	%[seen]\n\t"
		     "mov	%[nr_clone3], %%eax\n\t"
		     "syscall\n\t"
		     "test	%%rax, %%rax\n\t"
		     "jnz	1f\n\t"
		     "mov	$0x1001, %%rbx\n\t"
		     "mov	$0x1002, %%rbp\n\t"
		     "mov	$0x1003, %%rdx\n\t"
		     "mov	$0x1004, %%rsi\n\t"
		     "mov	$0x1005, %%r8\n\t"
		     "mov	$0x1006, %%r9\n\t"
		     "mov	$0x1007, %%r10\n\t"
		     "mov	$0x1008, %%r12\n\t"
		     "mov	$0x1009, %%r13\n\t"
		     "mov	$0x100a, %%r14\n\t"
		     "mov	$0x100b, %%r15\n\t"
		     "mov	$19, %%edi\n\t"
		     "mov	%[nr_exit], %%eax\n\t"
		     "stc\n\t"
		     "syscall\n\t"
		     "1:\n\t"
		     "mov	(%%rsp), %%rcx\n\t"
		     "mov	%%rbx, 0(%%rcx)\n\t"
		     "mov	%%rbp, 8(%%rcx)\n\t"
		     "mov	%%rdx, 16(%%rcx)\n\t"
		     "mov	%%rsi, 24(%%rcx)\n\t"
		     "mov	%%r8, 32(%%rcx)\n\t"
		     "mov	%%r9, 40(%%rcx)\n\t"
		     "mov	%%r10, 48(%%rcx)\n\t"
		     "mov	%%r12, 56(%%rcx)\n\t"
		     "mov	%%r13, 64(%%rcx)\n\t"
		     "mov	%%r14, 72(%%rcx)\n\t"
		     "mov	%%r15, 80(%%rcx)\n\t"
		     "mov	%%rdi, 88(%%rcx)\n\t"
		     "pushf\n\t"
		     "pop	96(%%rcx)\n\t"
		     "add	$8, %%rsp\n\t"
		     "pop	%%rbx\n\t"
		     "pop	%%rbp\n\t"
		     "lea	128(%%rsp), %%rsp\n\t"
		     : "=a"(ret), "+D"(args), "+S"(size)
		     : [seen] "r"(seen),
		       [nr_clone3] "i"(__NR_clone3), [nr_exit] "i"(__NR_exit_group)
		     : "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
		       "memory", "cc");
	return ret;
}

TEST_F_LONG(state, general_registers_and_flags_come_back)
{
	struct fullfork_args args = {
		.flags = SFORK_FLAGS,
		.exit_signal = SIGCHLD,
	};
	__u64 seen[13] = {};
	long pid = move_with_registers(&args, seen);

	ASSERT_LT(0, pid);
	for (int i = 0; i < 11; i++)
		EXPECT_EQ(0x1001 + i, seen[i]);
	EXPECT_EQ(19, seen[11]);
	/* The carry flag. */
	EXPECT_EQ(1, seen[12] & 1);
	expect_exited(19, pid);
}

TEST_F_LONG(state, fpu_control_is_the_parents_own)
{
	unsigned int mxcsr = 0x1f80, inside_mxcsr, up = 0x5f80, now_mxcsr;
	unsigned short cw = 0x37f, inside_cw, single = 0x07f, now_cw;
	long pid;

	asm volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(cw));
	ASSERT_EQ(0, sfork());
	asm volatile("stmxcsr %0; fnstcw %1" : "=m"(inside_mxcsr), "=m"(inside_cw));
	asm volatile("ldmxcsr %0; fldcw %1" : : "m"(up), "m"(single));
	pid = sfork_exit(0);
	asm volatile("stmxcsr %0; fnstcw %1" : "=m"(now_mxcsr), "=m"(now_cw));

	EXPECT_EQ(mxcsr, inside_mxcsr & ~0x3f);
	EXPECT_EQ(cw, inside_cw);
	EXPECT_EQ(mxcsr, now_mxcsr & ~0x3f);
	EXPECT_EQ(cw, now_cw);
	expect_exited(0, pid);
}

static long arch_prctl(int code, unsigned long addr)
{
	return syscall(__NR_arch_prctl, code, addr);
}

TEST_F_LONG(state, tls_base_goes_with_the_thread)
{
	unsigned long before = 0, inside = 0, after = 0, word[2] = { 0x11, 0x22 }, read_back = 0;
	int set;
	long pid;

	ASSERT_EQ(0, arch_prctl(ARCH_SET_GS, (unsigned long)&word[0]));
	ASSERT_EQ(0, arch_prctl(ARCH_GET_GS, (unsigned long)&before));
	ASSERT_EQ(0, sfork());
	arch_prctl(ARCH_GET_GS, (unsigned long)&inside);
	set = arch_prctl(ARCH_SET_GS, (unsigned long)&word[1]);
	pid = sfork_exit(0);
	ASSERT_EQ(0, arch_prctl(ARCH_GET_GS, (unsigned long)&after));
	asm volatile("mov %%gs:0, %0" : "=r"(read_back));

	EXPECT_EQ(0, set);
	EXPECT_EQ((unsigned long)&word[0], before);
	EXPECT_EQ(before, inside);
	EXPECT_EQ((unsigned long)&word[1], after);
	EXPECT_EQ(0x22, read_back);
	expect_exited(0, pid);
}

/* The base of the C library's TLS, for the few instructions in which it is another. */
TEST_F_LONG(state, fs_base_goes_with_the_thread)
{
	static unsigned long tls[512];
	register unsigned long seen asm("r13");
	unsigned long old = 0, found, ret;
	struct fullfork_args args = {
		.flags = SFORK_FLAGS,
		.exit_signal = SIGCHLD,
	};

	ASSERT_EQ(0, arch_prctl(ARCH_GET_FS, (unsigned long)&old));
	tls[256] = 0x7755;
	asm volatile("mov	%[nr_clone3], %%eax\n\t"
		     "mov	%[args], %%rdi\n\t"
		     "mov	%[size], %%esi\n\t"
		     "syscall\n\t"
		     "test	%%rax, %%rax\n\t"
		     "jnz	1f\n\t"
		     "mov	%[nr_prctl], %%eax\n\t"
		     "mov	%[set_fs], %%edi\n\t"
		     "mov	%[tls], %%rsi\n\t"
		     "syscall\n\t"
		     "mov	%[nr_exit], %%eax\n\t"
		     "mov	$0, %%edi\n\t"
		     "syscall\n\t"
		     /* In the parent. */
		     "mov	%%rax, %%r12\n\t"
		     "mov	%%fs:0, %%r13\n\t"
		     "mov	%[nr_prctl], %%eax\n\t"
		     "mov	%[set_fs], %%edi\n\t"
		     "mov	%[old], %%rsi\n\t"
		     "syscall\n\t"
		     "mov	%%r12, %%rax\n\t"
		     "1:\n\t"
		     : "=&a"(ret), "=&r"(seen)
		     : [args] "r"(&args), [size] "i"(sizeof(args)), [tls] "r"(&tls[256]),
		       [old] "r"(old), [nr_clone3] "i"(__NR_clone3),
		       [nr_prctl] "i"(__NR_arch_prctl), [nr_exit] "i"(__NR_exit_group),
		       [set_fs] "i"(ARCH_SET_FS)
		     : "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12",
		       "memory", "cc");
	found = seen;
	ASSERT_LT(0, (long)ret);
	EXPECT_EQ(0x7755, found);
	expect_exited(0, ret);
}
/* The ways into the kernel differ, and the way back is that of the parent. */
TEST_F_LONG(state, exit_by_the_32_bit_entry_comes_back)
{
	pid_t inside;
	long pid;

	ASSERT_EQ(0, sfork());
	inside = raw_getpid();
	/* 252 is exit_group() there. */
	asm volatile("int $0x80" : "=a"(pid) : "0"(252L), "b"(21L) :
		     "r8", "r9", "r10", "r11", "memory");
	EXPECT_EQ(inside, pid);
	EXPECT_NE(inside, raw_getpid());
	expect_exited(21, pid);
}
#endif /* __x86_64__ */

/*
 * What the C library registers
 */

static struct rseq *own_rseq(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static unsigned int real_cpu(void)
{
	unsigned int cpu = -1;

	syscall(__NR_getcpu, &cpu, NULL, NULL);
	return cpu;
}

static int run_on(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

TEST_F_LONG(state, rseq_goes_with_the_thread)
{
	unsigned int there = 0, real_there = 0, back, moved;
	long pid;

	ASSERT_NE(0, __rseq_size);
	skip_unless(sysconf(_SC_NPROCESSORS_ONLN) > 1, return, "needs two CPUs");
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, run_on(0));
		ASSERT_EQ(0, sfork());
		moved = run_on(1);
		there = __atomic_load_n(&own_rseq()->cpu_id, __ATOMIC_RELAXED);
		real_there = real_cpu();
		pid = sfork_exit(0);
		back = __atomic_load_n(&own_rseq()->cpu_id, __ATOMIC_RELAXED);

		ASSERT_EQ(0, moved);
		ASSERT_EQ(1, real_there);
		ASSERT_EQ(1, there);
		ASSERT_EQ(0, back);
		ASSERT_EQ(0, real_cpu());
		expect_exited(0, pid);
	}
}

TEST_F_LONG(state, a_thread_that_moved_is_still_there_for_its_joiner)
{
	static __u32 word = 77;
	__u32 during;
	pid_t tid;
	long pid;

	/* The same word for both: it belongs to the thread. */
	tid = syscall(__NR_set_tid_address, &word);
	EXPECT_EQ(raw_getpid(), tid);
	ASSERT_EQ(0, sfork());
	syscall(__NR_set_tid_address, &word);
	during = word;
	pid = sfork_exit(0);
	EXPECT_EQ(77, during);
	EXPECT_EQ(77, load(&word));
	expect_exited(0, pid);
	EXPECT_EQ(77, load(&word));
}

TEST_F_LONG(state, a_tid_word_of_the_child_is_cleared)
{
	static __u32 word = 78;
	long pid;

	ASSERT_EQ(0, sfork());
	syscall(__NR_set_tid_address, &word);
	pid = sfork_exit(0);
	EXPECT_EQ(0, load(&word));
	expect_exited(0, pid);
}

static __thread int tls_word = 5;

TEST_F_LONG(state, thread_local_variables_are_the_same)
{
	int inside;
	long pid;

	tls_word = 6;
	ASSERT_EQ(0, sfork());
	inside = tls_word;
	tls_word = 7;
	pid = sfork_exit(0);
	EXPECT_EQ(6, inside);
	EXPECT_EQ(7, tls_word);
	expect_exited(0, pid);
}

/*
 * Rights and limits: the child's own
 */

TEST_F_LONG(state, seccomp_of_the_child_stays_there)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	int set, inside, error;
	long pid;

	ASSERT_EQ(0, sfork());
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	set = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
	inside = syscall(__NR_getppid);
	error = errno;
	pid = sfork_exit(0);

	EXPECT_EQ(0, set);
	EXPECT_EQ(-1, inside);
	EXPECT_EQ(77, error);
	EXPECT_LT(0, syscall(__NR_getppid));
	EXPECT_EQ(0, prctl(PR_GET_SECCOMP));
	EXPECT_EQ(0, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	expect_exited(0, pid);
}

TEST_F_LONG(state, credentials_of_the_child_stay_there)
{
	long set, pid;
	uid_t inside;

	require_root(_metadata, "setuid()");
	ASSERT_EQ(0, sfork());
	/* Not the C library's, which is for all threads of a process. */
	set = syscall(__NR_setresuid, 1234, 1234, 1234);
	inside = syscall(__NR_getuid);
	pid = sfork_shell("test $(id -u) = 1234");

	EXPECT_EQ(0, set);
	EXPECT_EQ(1234, inside);
	EXPECT_EQ(0, syscall(__NR_getuid));
	EXPECT_EQ(0, syscall(__NR_geteuid));
	expect_exited(0, pid);
}

/* A program that gets rights by exec gives nothing back but the PID. */
TEST_F_LONG(state, setuid_program_runs_with_its_rights)
{
	char path[] = "/tmp/sfork_setuid.XXXXXX", script[128];
	char * const argv[] = { path, "-u", NULL };
	int fds[2], fd = mkstemp(path);
	char text[64] = {};
	long set, pid;
	uid_t uid, euid;

	require_root(_metadata, "a setuid program");
	ASSERT_LE(0, fd);
	close(fd);
	snprintf(script, sizeof(script), "cp /usr/bin/id %s && chmod 4755 %s", path, path);
	ASSERT_EQ(0, system(script));
	ASSERT_EQ(0, pipe(fds));

	ASSERT_EQ(0, sfork());
	dup2(fds[1], STDOUT_FILENO);
	set = syscall(__NR_setresuid, 1234, 1234, 1234);
	pid = sfork_exec(path, argv);
	uid = syscall(__NR_getuid);
	euid = syscall(__NR_geteuid);

	EXPECT_EQ(0, set);
	ASSERT_LT(0, pid);
	EXPECT_EQ(0, uid);
	EXPECT_EQ(0, euid);
	expect_exited(0, pid);
	close(fds[1]);
	EXPECT_LT(0, read(fds[0], text, sizeof(text) - 1));
	EXPECT_STREQ("0\n", text);
	close(fds[0]);
	unlink(path);
}

/*
 * What clone3() allows beside it
 */

TEST_F_LONG(state, files_are_shared_if_asked_for)
{
	int opened, own;
	long pid;

	ASSERT_EQ(0, sfork());
	own = open("/dev/null", O_RDONLY);
	pid = sfork_exit(0);
	EXPECT_LE(0, own);
	EXPECT_EQ(-1, fcntl(own, F_GETFD));
	expect_exited(0, pid);

	ASSERT_EQ(0, sfork_with(CLONE_FILES));
	opened = open("/dev/null", O_RDONLY);
	pid = sfork_exit(0);
	EXPECT_LE(0, opened);
	EXPECT_LE(0, fcntl(opened, F_GETFD));
	expect_exited(0, pid);
	close(opened);
}

TEST_F_LONG(state, working_directory_is_shared_if_asked_for)
{
	char cwd[PATH_MAX];
	long pid;

	ASSERT_EQ(0, chdir("/tmp"));
	ASSERT_EQ(0, sfork());
	pid = chdir("/proc") ? -1 : sfork_exit(0);
	expect_exited(0, pid);
	EXPECT_STREQ("/tmp", getcwd(cwd, sizeof(cwd)));

	ASSERT_EQ(0, sfork_with(CLONE_FS));
	pid = chdir("/proc") ? -1 : sfork_exit(0);
	expect_exited(0, pid);
	EXPECT_STREQ("/proc", getcwd(cwd, sizeof(cwd)));
}

TEST_F_LONG(state, pidfd_is_of_the_child)
{
	int pidfd = -1;
	struct fullfork_args args = {
		.flags = SFORK_FLAGS | CLONE_PIDFD,
		.exit_signal = SIGCHLD,
		.pidfd = ptr_to_u64(&pidfd),
	};
	int known, inside;
	long pid;

	ASSERT_EQ(0, sys_clone3(&args, sizeof(args)));
	/* It is the parent's, but memory tells its number. */
	known = pidfd;
	inside = fcntl(known, F_GETFD);
	pid = sfork_exit(13);

	EXPECT_LE(0, known);
	EXPECT_EQ(-1, inside);
	EXPECT_EQ(known, pidfd);
	EXPECT_TRUE(wait_pidfd(pidfd, DEADLINE));
	expect_exited(13, pid);
	close(pidfd);
}

TEST_F_LONG(state, pid_is_that_of_the_parents_namespace)
{
	pid_t inside;
	long pid;

	require_root(_metadata, "a PID namespace");
	ASSERT_EQ(0, sfork_with(CLONE_NEWPID));
	inside = raw_getpid();
	pid = sfork_shell("exit 15");

	EXPECT_EQ(1, inside);
	EXPECT_LT(1, pid);
	expect_exited(15, pid);
}

TEST_F_LONG(state, namespaces_are_the_childs_own)
{
	char before[256], after[256], inside[256];
	long pid;

	require_root(_metadata, "namespaces");
	ASSERT_EQ(0, gethostname(before, sizeof(before)));
	ASSERT_EQ(0, sfork_with(CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET |
				CLONE_NEWCGROUP));
	sethostname("inside", 6);
	gethostname(inside, sizeof(inside));
	pid = sfork_exit(0);

	EXPECT_STREQ("inside", inside);
	ASSERT_EQ(0, gethostname(after, sizeof(after)));
	EXPECT_STREQ(before, after);
	expect_exited(0, pid);
}

TEST_F_LONG(state, user_namespace_is_the_childs_own)
{
	uid_t inside;
	long pid;

	ASSERT_EQ(0, sfork_with(CLONE_NEWUSER));
	inside = syscall(__NR_getuid);
	pid = sfork_exit(0);
	EXPECT_EQ(65534, inside);
	EXPECT_EQ(geteuid(), syscall(__NR_geteuid));
	expect_exited(0, pid);
}

TEST_F_LONG(state, cgroup_is_what_was_asked_for)
{
	struct fullfork_args args = {
		.flags = SFORK_FLAGS | CLONE_INTO_CGROUP,
		.exit_signal = SIGCHLD,
	};
	char inside[256] = {}, outside[256] = {};
	struct cgroup cg;
	int fd;
	long pid;

	mount_cgroup(_metadata, &cg, "cgroup2", NULL);
	fd = open(cg.path, O_PATH | O_CLOEXEC);
	ASSERT_LE(0, fd);
	args.cgroup = fd;
	ASSERT_EQ(0, sys_clone3(&args, sizeof(args)));
	read_file("/proc/self/cgroup", inside, sizeof(inside));
	pid = sfork_exit(0);
	read_file("/proc/self/cgroup", outside, sizeof(outside));
	close(fd);

	EXPECT_NE(NULL, strstr(inside, strrchr(cg.path, '/')))
	{
		TH_LOG("in %s", inside);
	}
	EXPECT_EQ(NULL, strstr(outside, strrchr(cg.path, '/')));
	expect_exited(0, pid);
	umount_cgroup(_metadata, &cg);
}

TEST_F_LONG(state, handlers_are_cleared_if_asked_for)
{
	struct sigaction inside, now;
	long pid;

	ASSERT_NE(SIG_ERR, signal(SIGUSR1, handle));
	ASSERT_EQ(0, sfork_with(CLONE_CLEAR_SIGHAND));
	sigaction(SIGUSR1, NULL, &inside);
	pid = sfork_exit(0);
	ASSERT_EQ(0, sigaction(SIGUSR1, NULL, &now));
	EXPECT_TRUE(inside.sa_handler == SIG_DFL);
	EXPECT_TRUE(now.sa_handler == handle);
	expect_exited(0, pid);
}

TEST_F_LONG(state, exit_signal_is_what_was_asked_for)
{
	struct fullfork_args args = { .flags = SFORK_FLAGS };
	long pid;

	ASSERT_NE(SIG_ERR, signal(SIGCHLD, handle));
	ASSERT_NE(SIG_ERR, signal(SIGUSR2, handle));
	ASSERT_EQ(0, sys_clone3(&args, sizeof(args)));
	pid = sfork_exit(0);
	EXPECT_EQ(-1, waitpid(pid, NULL, 0));
	expect_exited(0, pid);
	EXPECT_EQ(0, load(&handled));

	args.exit_signal = SIGUSR2;
	ASSERT_EQ(0, sys_clone3(&args, sizeof(args)));
	pid = sfork_exit(0);
	expect_exited(0, pid);
	EXPECT_EQ(SIGUSR2, load(&handled));
}

TEST_HARNESS_MAIN
