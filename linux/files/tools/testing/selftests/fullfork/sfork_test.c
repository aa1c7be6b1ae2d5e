// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a thread that moves into a child and comes back
 */

#include "fullfork_sfork.h"

#include <sys/stat.h>

FIXTURE(sfork)
{
	pid_t parent;
};

FIXTURE_SETUP(sfork)
{
	require_fullfork(_metadata);
	self->parent = raw_getpid();
}

FIXTURE_TEARDOWN(sfork)
{
}

TEST_F_LONG(sfork, returns_once_and_exit_returns_the_pid)
{
	pid_t inside = 0;
	int returns = 0;
	long ret, pid;

	ret = sfork();
	returns++;
	inside = raw_getpid();
	pid = sfork_exit(23);

	EXPECT_EQ(0, ret);
	EXPECT_EQ(1, returns);
	EXPECT_NE(self->parent, inside);
	EXPECT_EQ(inside, pid);
	EXPECT_EQ(self->parent, raw_getpid());
	expect_exited(23, pid);
	EXPECT_EQ(-1, waitpid(-1, NULL, __WALL));
	EXPECT_EQ(ECHILD, errno);
}

TEST_F_LONG(sfork, exit_of_the_only_thread_returns_too)
{
	long ret = sfork(), pid;
	pid_t inside = raw_getpid();

	pid = syscall(__NR_exit, 5);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(inside, pid);
	EXPECT_EQ(self->parent, raw_getpid());
	expect_exited(5, pid);
}

TEST_F_LONG(sfork, execve_returns_the_pid)
{
	long ret = sfork(), pid;
	pid_t inside = raw_getpid();

	pid = sfork_shell("exit 7");
	EXPECT_EQ(0, ret);
	EXPECT_EQ(inside, pid);
	EXPECT_EQ(self->parent, raw_getpid());
	expect_exited(7, pid);
}

TEST_F_LONG(sfork, execveat_returns_the_pid)
{
	char * const argv[] = { "sh", "-c", "exit 8", NULL };
	int fd = open("/bin/sh", O_PATH | O_CLOEXEC);
	long ret, pid;

	ASSERT_LE(0, fd);
	ret = sfork();
	pid = syscall(__NR_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
	EXPECT_EQ(0, ret);
	EXPECT_LT(0, pid);
	EXPECT_EQ(self->parent, raw_getpid());
	expect_exited(8, pid);
	close(fd);
}

/* The whole point: ordinary code sets the child up, and sees errors as values. */
TEST_F_LONG(sfork, ordinary_code_sets_up_the_child)
{
	char dir[] = "/tmp/sfork_test.XXXXXX", before[PATH_MAX], after[PATH_MAX], buf[PATH_MAX];
	int fds[2], chdirs, dups, groups;
	long ret, pid;
	ssize_t len;

	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_NE(NULL, getcwd(before, sizeof(before)));
	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));

	ret = sfork();
	chdirs = chdir(dir);
	dups = dup2(fds[1], STDOUT_FILENO);
	groups = setpgid(0, 0);
	pid = sfork_shell("pwd");

	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, chdirs);
	EXPECT_EQ(STDOUT_FILENO, dups);
	EXPECT_EQ(0, groups);
	ASSERT_LT(0, pid);
	close(fds[1]);
	len = read(fds[0], buf, sizeof(buf) - 1);
	ASSERT_LT(0, len);
	buf[len - 1] = '\0';
	EXPECT_STREQ(dir, buf);
	close(fds[0]);
	expect_exited(0, pid);
	ASSERT_NE(NULL, getcwd(after, sizeof(after)));
	EXPECT_STREQ(before, after);
	EXPECT_NE(pid, getpgid(0));
	rmdir(dir);
}

TEST_F_LONG(sfork, failed_exec_returns_its_error_in_the_child)
{
	char * const argv[] = { "nothing", NULL };
	long missing, dir, format, fault, pid;
	char script[] = "/tmp/sfork_test.XXXXXX";
	pid_t inside, still;
	int fd = mkstemp(script);

	ASSERT_LE(0, fd);
	ASSERT_EQ(4, write(fd, "\x7f:-(", 4));
	ASSERT_EQ(0, fchmod(fd, 0755));
	close(fd);

	ASSERT_EQ(0, sfork());
	inside = raw_getpid();
	missing = sfork_exec("/does/not/exist", argv);
	dir = sfork_exec("/", argv);
	format = sfork_exec(script, argv);
	fault = sfork_exec((char *)8, argv);
	still = raw_getpid();
	pid = sfork_exit(9);

	EXPECT_EQ(-ENOENT, missing);
	EXPECT_EQ(-EACCES, dir);
	EXPECT_EQ(-ENOEXEC, format);
	EXPECT_EQ(-EFAULT, fault);
	EXPECT_EQ(inside, still);
	EXPECT_EQ(inside, pid);
	expect_exited(9, pid);
	unlink(script);
}

TEST_F_LONG(sfork, memory_is_the_same)
{
	int *heap = malloc(sizeof(*heap)), local = 1;
	char *grown = NULL;
	long pid;

	ASSERT_NE(NULL, heap);
	*heap = 1;
	ASSERT_EQ(0, sfork());
	*heap = 2;
	local = 3;
	grown = malloc(1 << 20);
	if (grown)
		strcpy(grown, "kept");
	pid = sfork_exit(0);

	EXPECT_EQ(2, *heap);
	EXPECT_EQ(3, local);
	ASSERT_NE(NULL, grown);
	EXPECT_STREQ("kept", grown);
	expect_exited(0, pid);
	free(grown);
	free(heap);
}

/* The stack at exit is another one than at sfork(): deeper, or shallower. */
static __attribute_noinline__ long leave_deep(int depth)
{
	char frame[512];
	long ret;

	memset(frame, depth, sizeof(frame));
	keep_in_memory(frame);
	ret = depth ? leave_deep(depth - 1) : sfork();
	keep_in_memory(frame);
	return frame[17] == (char)depth ? ret : -1;
}

static __attribute_noinline__ long exit_deep(int depth)
{
	char frame[512];
	long ret;

	memset(frame, depth + 1, sizeof(frame));
	keep_in_memory(frame);
	ret = depth ? exit_deep(depth - 1) : sfork_exit(4);
	keep_in_memory(frame);
	return frame[99] == (char)(depth + 1) ? ret : -1;
}

TEST_F_LONG(sfork, comes_back_where_exit_was_called)
{
	long ret = leave_deep(20), pid;
	pid_t inside = raw_getpid();

	pid = exit_deep(40);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(inside, pid);
	EXPECT_EQ(self->parent, raw_getpid());
	expect_exited(4, pid);
}

/*
 * The seed's test: every sum is made in two children, whose thread brings the
 * result back in ordinary memory.
 */
static int fibonacci(int n, int *processes)
{
	int a, b, result;
	long pid;

	if (sfork())
		return -1;
	++*processes;
	if (n < 2) {
		result = n;
	} else {
		a = fibonacci(n - 1, processes);
		b = fibonacci(n - 2, processes);
		result = a < 0 || b < 0 ? -1 : a + b;
	}
	pid = sfork_exit(result & 0x7f);
	if (waitpid(pid, &a, 0) != pid || !WIFEXITED(a) || WEXITSTATUS(a) != (result & 0x7f))
		return -1;
	return result;
}

TEST_F_LONG(sfork, computes_fibonacci_in_nested_children)
{
	int processes = 0;

	EXPECT_EQ(21, fibonacci(8, &processes));
	EXPECT_EQ(67, processes);
	EXPECT_EQ(self->parent, raw_getpid());
	EXPECT_EQ(-1, waitpid(-1, NULL, __WALL));
}

#define MAX_DEPTH 40

TEST_F_LONG(sfork, unwinds_in_order)
{
	pid_t at[MAX_DEPTH + 1], back[MAX_DEPTH + 1];
	long pid[MAX_DEPTH + 1];
	int i, bad = 0, status, waits = 0;

	at[0] = raw_getpid();
	for (i = 1; i <= MAX_DEPTH; i++) {
		bad |= sfork();
		at[i] = raw_getpid();
	}
	for (i = MAX_DEPTH; i; i--) {
		/* Exit and exec in turns. */
		pid[i] = i % 2 ? sfork_exit(i) : sfork_shell("exit 3");
		back[i] = raw_getpid();
		waits += waitpid(pid[i], &status, 0) == pid[i] && WIFEXITED(status) &&
			 WEXITSTATUS(status) == (i % 2 ? i : 3);
	}
	EXPECT_EQ(0, bad);
	EXPECT_EQ(MAX_DEPTH, waits);
	for (i = 1; i <= MAX_DEPTH; i++) {
		EXPECT_EQ(at[i], pid[i]);
		EXPECT_EQ(at[i - 1], back[i]);
	}
	EXPECT_EQ(self->parent, raw_getpid());
}

/* What a child makes in other ways is what it always is. */
TEST_F_LONG(sfork, child_forks_and_vforks_as_ever)
{
	static __u32 forked, vforked;
	int status, waits = 0;
	pid_t grandchild;
	long pid;

	ASSERT_EQ(0, sfork());
	grandchild = fork();
	if (!grandchild) {
		store(&forked, 1);	/* in a copy of the memory */
		replica_exit(11);
	}
	waits += waitpid(grandchild, &status, 0) == grandchild && WEXITSTATUS(status) == 11;
	grandchild = vfork();
	if (!grandchild) {
		store(&vforked, 1);
		_exit(12);
	}
	waits += waitpid(grandchild, &status, 0) == grandchild && WEXITSTATUS(status) == 12;
	pid = sfork_exit(0);

	EXPECT_EQ(2, waits);
	EXPECT_EQ(0, forked);
	EXPECT_EQ(1, vforked);
	expect_exited(0, pid);
}

/* The other threads of the parent go on, and share memory with the child. */
struct ping {
	__u32 asked;
	__u32 answered;
	__u32 stop;
};

static void *answer(void *arg)
{
	struct ping *ping = arg;

	while (!load(&ping->stop)) {
		store(&ping->answered, load(&ping->asked));
		sched_yield();
	}
	return NULL;
}

TEST_F_LONG(sfork, other_threads_of_the_parent_go_on)
{
	struct ping ping = {};
	pthread_t thread;
	bool answered;
	long pid;

	ASSERT_EQ(0, pthread_create(&thread, NULL, answer, &ping));
	ASSERT_EQ(0, sfork());
	store(&ping.asked, 17);
	answered = wait_until(load(&ping.answered) == 17, DEADLINE);
	pid = sfork_exit(0);
	EXPECT_TRUE(answered);
	expect_exited(0, pid);
	store(&ping.stop, 1);
	EXPECT_EQ(0, pthread_join(thread, NULL));
}

/* Not only the leader moves, and several at once. */
static void *move_often(void *arg)
{
	long *bad = arg;
	pid_t tid = sys_gettid(), inside;
	int i, status;
	long pid;

	for (i = 0; i < 50; i++) {
		if (sfork()) {
			*bad = 1;
			return NULL;
		}
		inside = raw_getpid();
		pid = sfork_exit(i);
		*bad |= pid != inside || sys_gettid() != tid;
		*bad |= waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != i;
	}
	return NULL;
}

TEST_F_LONG(sfork, many_threads_move_at_once)
{
	pthread_t threads[6];
	long bad[6] = {};
	int i;

	for (i = 0; i < 6; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, move_often, &bad[i]));
	for (i = 0; i < 6; i++) {
		EXPECT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, bad[i]);
	}
}

TEST_F_LONG(sfork, is_the_same_after_ten_thousand_times)
{
	struct rounds rounds = { .least = 300, .most = 10000 };
	struct census before = take_census();
	int status;
	long pid;

	while (next_round(&rounds)) {
		ASSERT_EQ(0, sfork());
		pid = sfork_exit(1);
		ASSERT_LT(0, pid);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		ASSERT_EQ(1 << 8, status);
	}
	expect_census(before);
}

/* Threads that the child makes are those of the child. */
static void *tell_pid(void *arg)
{
	*(pid_t *)arg = raw_getpid();
	return NULL;
}

TEST_F_LONG(sfork, child_makes_threads)
{
	pid_t inside, of_thread = 0;
	int created, joined = -1;
	pthread_t thread;
	long pid;

	ASSERT_EQ(0, sfork());
	inside = raw_getpid();
	created = pthread_create(&thread, NULL, tell_pid, &of_thread);
	if (!created)
		joined = pthread_join(thread, NULL);
	pid = sfork_exit(6);

	EXPECT_EQ(0, created);
	EXPECT_EQ(0, joined);
	EXPECT_EQ(inside, of_thread);
	EXPECT_EQ(inside, pid);
	expect_exited(6, pid);
}

static void *wait_then_end(void *arg)
{
	struct ping *ping = arg;

	store(&ping->answered, raw_getpid());
	while (!load(&ping->stop))
		futex_wait(&ping->stop, 0, 0, 1000);
	replica_exit(31);
}

/* exit() ends the thread in the child only, which the others keep alive. */
TEST_F_LONG(sfork, exit_leaves_the_other_threads_of_the_child)
{
	struct ping ping = {};
	pthread_t thread;
	int created;
	long pid;

	ASSERT_EQ(0, sfork());
	created = pthread_create(&thread, NULL, wait_then_end, &ping);
	while (!created && !load(&ping.answered))
		poll_pause();
	pid = syscall(__NR_exit, 3);

	ASSERT_EQ(0, created);
	EXPECT_EQ(pid, ping.answered);
	EXPECT_EQ(self->parent, raw_getpid());
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	store(&ping.stop, 1);
	futex_wake(&ping.stop, 1, 0);
	expect_exited(31, pid);
}

/* exit_group() and exec end them. */
TEST_F_LONG(sfork, exec_ends_the_other_threads_of_the_child)
{
	struct ping ping = {};
	pthread_t thread;
	int created;
	long pid;

	ASSERT_EQ(0, sfork());
	created = pthread_create(&thread, NULL, wait_then_end, &ping);
	while (!created && !load(&ping.answered))
		poll_pause();
	pid = sfork_shell("exit 14");

	ASSERT_EQ(0, created);
	EXPECT_EQ(self->parent, raw_getpid());
	expect_exited(14, pid);
}

/* Copies of the child have no thread of the parent. */
TEST_F_LONG(sfork, replica_of_the_child_is_an_ordinary_process)
{
	int status = 0;
	pid_t waited;
	long copy, pid;

	ASSERT_EQ(0, sfork());
	copy = full_fork(0);
	if (!copy)
		replica_exit(REPLICA_PASS);
	waited = waitpid(copy, &status, 0);
	pid = sfork_exit(0);

	EXPECT_LT(0, copy);
	EXPECT_EQ(copy, waited);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(REPLICA_PASS, WEXITSTATUS(status));
	EXPECT_EQ(self->parent, raw_getpid());
	expect_exited(0, pid);
}

/* The same from outside, of a tree whose parent cannot be quiesced. */
struct copied {
	__u32 is_there;
	__u32 may_go_on;
};

static int be_copied(void *arg)
{
	int status;
	long pid;

	if (sfork())
		return REPLICA_FAIL;
	store(&report->is_there, raw_getpid());
	while (!load(&report->may_go_on))
		futex_wait(&report->may_go_on, 0, 0, 100);
	pid = sfork_exit(77);
	if (waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 77)
		return REPLICA_FAIL;
	return REPLICA_PASS;
}

static long copy_process_at(pid_t pid, __u64 flags)
{
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_FROM_PIDFD | flags,
		.exit_signal = SIGCHLD,
	};
	int pidfd = sys_pidfd_open(pid);
	long ret;

	args.source_pidfd = pidfd;
	ret = sys_clone3(&args, sizeof(args));
	close(pidfd);
	return ret;
}

TEST_F_LONG(sfork, child_is_copied_from_outside)
{
	pid_t process = start_process(_metadata, be_copied, NULL);
	long copy;

	ASSERT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	copy = copy_process_at(report->is_there, 0);
	ASSERT_LT(0, copy);
	store(&report->may_go_on, 1);
	futex_wake(&report->may_go_on, INT_MAX, 0);
	/* It exits, and is not back anywhere. */
	expect_exited(77, copy);
	expect_pass(_metadata, process);
}

TEST_F_LONG(sfork, parent_is_not_copied_while_its_thread_is_away)
{
	pid_t process = start_process(_metadata, be_copied, NULL);

	ASSERT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	ASSERT_EQ(0, write_file(TIMEOUT_SYSCTL, "1"));
	EXPECT_EQ(-EBUSY, copy_process_at(process, 0));
	EXPECT_EQ(-EBUSY, copy_process_at(process, CLONE_SUBTREE));
	EXPECT_EQ(0, write_file(TIMEOUT_SYSCTL, "5"));
	store(&report->may_go_on, 1);
	futex_wake(&report->may_go_on, INT_MAX, 0);
	expect_pass(_metadata, process);
}

TEST_HARNESS_MAIN
