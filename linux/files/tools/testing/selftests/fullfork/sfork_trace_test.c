// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what tracers see of a thread that moves
 */

#include "fullfork_sfork.h"

#include <sys/ptrace.h>
#include <sys/stat.h>

#define INSTANCE "/sys/kernel/tracing/instances/sfork_selftest"

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEVFORK |		\
		 PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)

/* What was seen of one task, by kind. */
struct seen {
	pid_t pid;
	int enters;
	__u64 entered[64];
	__u64 ip[64];		/* behind the instruction of each */
	int exits;
	__s64 returned[64];
	int vforks;
	pid_t vforked;
	int vfork_dones;
	__u64 ip_at_done;
	int execs;
	int status;
};

FIXTURE(trace)
{
	struct seen seen[2];
};

FIXTURE_SETUP(trace)
{
	require_fullfork(_metadata);
}

FIXTURE_TEARDOWN(trace)
{
}

static int move_and_exit(void *arg)
{
	int status;
	long pid;

	raise(SIGSTOP);
	if (sfork())
		return REPLICA_FAIL;
	syscall(__NR_getppid);
	if (arg)
		sfork_exec("/does/not/exist", (char *[]){ "nothing", NULL });
	pid = arg ? sfork_shell("exit 3") : sfork_exit(3);
	if (waitpid(pid, &status, 0) != pid || status != 3 << 8)
		return REPLICA_FAIL;
	return REPLICA_PASS;
}

static struct seen *find(struct seen *seen, pid_t pid)
{
	if (seen[0].pid == pid)
		return &seen[0];
	if (!seen[1].pid)
		seen[1].pid = pid;
	return seen[1].pid == pid ? &seen[1] : NULL;
}

static void see_syscall(struct seen *s, pid_t pid)
{
	struct __ptrace_syscall_info info = {};

	ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info);
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY && s->enters < 64) {
		s->ip[s->enters] = info.instruction_pointer;
		s->entered[s->enters++] = info.entry.nr;
	}
	if (info.op == PTRACE_SYSCALL_INFO_EXIT && s->exits < 64)
		s->returned[s->exits++] = info.exit.rval;
}

/* As strace -f would: until @pid ends. */
static void trace(struct __test_metadata *_metadata, struct seen *seen, pid_t pid)
{
	struct __ptrace_syscall_info info;
	unsigned long message;
	int status, sig;
	struct seen *s;
	pid_t t;

	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, pid, 0, OPTIONS));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, pid, 0, 0));
	seen[0].pid = pid;
	for (;;) {
		t = waitpid(-1, &status, __WALL);
		ASSERT_LT(0, t);
		s = find(seen, t);
		ASSERT_NE(NULL, s);
		if (!WIFSTOPPED(status)) {
			s->status = status;
			if (t == pid)
				return;
			continue;
		}
		sig = 0;
		switch (status >> 8) {
		case SIGTRAP | 0x80:
			see_syscall(s, t);
			break;
		case SIGTRAP | PTRACE_EVENT_VFORK << 8:
			s->vforks++;
			ptrace(PTRACE_GETEVENTMSG, t, 0, &message);
			s->vforked = message;
			break;
		case SIGTRAP | PTRACE_EVENT_VFORK_DONE << 8:
			s->vfork_dones++;
			ptrace(PTRACE_GET_SYSCALL_INFO, t, sizeof(info), &info);
			s->ip_at_done = info.instruction_pointer;
			break;
		case SIGTRAP | PTRACE_EVENT_EXEC << 8:
			s->execs++;
			break;
		default:
			if (!(status >> 16))
				sig = WSTOPSIG(status);
		}
		ptrace(PTRACE_SYSCALL, t, 0, sig);
	}
}

/* The index of the system call, or -1. */
static int entered(const struct seen *s, __u64 nr)
{
	for (int i = 0; i < s->enters; i++)
		if (s->entered[i] == nr)
			return i;
	return -1;
}

TEST_F_LONG(trace, both_tasks_show_a_vfork_and_an_exit)
{
	struct seen *parent = &self->seen[0], *child = &self->seen[1];
	pid_t pid = start_process(_metadata, move_and_exit, NULL);
	int call, exit;

	trace(_metadata, self->seen, pid);
	EXPECT_TRUE(WIFEXITED(parent->status));
	EXPECT_EQ(REPLICA_PASS, WEXITSTATUS(parent->status));
	EXPECT_EQ(3 << 8, child->status);

	EXPECT_EQ(1, parent->vforks);
	EXPECT_EQ(child->pid, parent->vforked);
	EXPECT_EQ(1, parent->vfork_dones);
	EXPECT_LE(0, entered(child, __NR_getppid));
	EXPECT_EQ(-1, entered(parent, __NR_getppid));
	exit = entered(child, __NR_exit_group);
	ASSERT_LE(0, exit);
	/* The parent is where the child called exit_group(). */
	EXPECT_EQ(child->ip[exit], parent->ip_at_done);
	/* It is clone3() that returns. */
	call = entered(parent, __NR_clone3);
	ASSERT_LE(0, call);
	ASSERT_LT(call, parent->exits);
	EXPECT_EQ(child->pid, parent->returned[call]);
	/* exit_group() never returned in the child. */
	EXPECT_GE(child->enters, child->exits);
}

TEST_F_LONG(trace, both_tasks_show_a_vfork_and_an_exec)
{
	struct seen *parent = &self->seen[0], *child = &self->seen[1];
	pid_t pid = start_process(_metadata, move_and_exit, (void *)1);
	int call;

	trace(_metadata, self->seen, pid);
	EXPECT_TRUE(WIFEXITED(parent->status));
	EXPECT_EQ(REPLICA_PASS, WEXITSTATUS(parent->status));
	EXPECT_EQ(1, child->execs);
	EXPECT_EQ(0, parent->execs);
	EXPECT_EQ(1, parent->vfork_dones);
	call = entered(parent, __NR_clone3);
	ASSERT_LE(0, call);
	EXPECT_EQ(child->pid, parent->returned[call]);
	EXPECT_LE(0, entered(child, __NR_execve));
}

/* A tracer that steps through the parent goes on to step where the thread is. */
TEST_F_LONG(trace, parent_is_single_stepped)
{
	pid_t pid = start_process(_metadata, move_and_exit, NULL);
	int status, steps = 0;

	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, pid, 0, 0));
	for (;;) {
		ASSERT_EQ(pid, waitpid(pid, &status, __WALL));
		if (!WIFSTOPPED(status))
			break;
		steps++;
		ptrace(PTRACE_SINGLESTEP, pid, 0, status >> 8 == SIGCHLD ? SIGCHLD : 0);
	}
	EXPECT_LT(30, steps);
	EXPECT_TRUE(WIFEXITED(status))
	{
		TH_LOG("status 0x%x", status);
	}
	EXPECT_EQ(REPLICA_PASS, WEXITSTATUS(status));
}

static int spin_then_exit(void *arg)
{
	int status;
	long pid;

	if (sfork())
		return REPLICA_FAIL;
	store(&report->is_there, raw_getpid());
	while (!load(&report->may_go_on))
		;
	pid = sfork_exit(3);
	if (waitpid(pid, &status, 0) != pid || status != 3 << 8)
		return REPLICA_FAIL;
	return REPLICA_PASS;
}

/* What the tracer of the child needs for that is nothing of the thread. */
TEST_F_LONG(trace, child_is_single_stepped)
{
	pid_t pid = start_process(_metadata, spin_then_exit, NULL), child;
	int status;

	ASSERT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	child = report->is_there;
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, child, 0, 0));
	ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, child, 0, 0));
	store(&report->may_go_on, 1);
	do {
		ASSERT_EQ(child, waitpid(child, &status, __WALL));
		if (WIFSTOPPED(status))
			ASSERT_EQ(0, ptrace(PTRACE_SINGLESTEP, child, 0, 0));
	} while (WIFSTOPPED(status));
	EXPECT_EQ(3 << 8, status);
	expect_pass(_metadata, pid);
}

/* A tracer that ends takes the child with it, and so the parent. */
static void end_tracer(pid_t child)
{
	if (ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_EXITKILL))
		_exit(1);
	_exit(0);
}

TEST_F_LONG(trace, child_is_killed_by_its_tracer)
{
	pid_t pid = start_process(_metadata, spin_then_exit, NULL), tracer;

	ASSERT_TRUE(wait_until(load(&report->is_there), DEADLINE));
	tracer = fork();
	if (!tracer)
		end_tracer(report->is_there);
	expect_exited(0, tracer);
	expect_killed(SIGKILL, pid);
}

/*
 * Tracepoints
 */

static void read_trace(struct __test_metadata *_metadata, char *log, size_t size)
{
	int fd = open(INSTANCE "/trace", O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t len;

	ASSERT_LE(0, fd);
	while ((len = read(fd, log + have, size - 1 - have)) > 0)
		have += len;
	log[have] = '\0';
	close(fd);
}

static int append_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static int kill_inside(void *arg)
{
	if (!sfork())
		syscall(__NR_kill, raw_getpid(), SIGTERM);
	return REPLICA_FAIL;
}

TEST_F_LONG(trace, tracepoints_tell_how_the_thread_came_back)
{
	static char log[65536];
	char line[64];
	long exited, execed;

	require_root(_metadata, "tracing");
	rmdir(INSTANCE);
	ASSERT_EQ(0, mkdir(INSTANCE, 0700));
	ASSERT_EQ(0, write_file(INSTANCE "/events/fullfork/enable", "1"));

	ASSERT_EQ(0, sfork());
	exited = sfork_exit(0);
	ASSERT_EQ(0, sfork());
	execed = sfork_shell("exit 0");
	expect_exited(0, exited);
	expect_exited(0, execed);
	expect_killed(SIGTERM, start_process(_metadata, kill_inside, NULL));

	read_trace(_metadata, log, sizeof(log));
	EXPECT_EQ(0, write_file(INSTANCE "/events/fullfork/enable", "0"));
	EXPECT_EQ(0, rmdir(INSTANCE));
	snprintf(line, sizeof(line), "fullfork_sfork: child=%ld\n", exited);
	EXPECT_NE(NULL, strstr(log, line));
	snprintf(line, sizeof(line), "fullfork_sfork_back: child=%ld end=exit sig=0\n", exited);
	EXPECT_NE(NULL, strstr(log, line));
	snprintf(line, sizeof(line), "fullfork_sfork_back: child=%ld end=exec sig=0\n", execed);
	EXPECT_NE(NULL, strstr(log, line));
	EXPECT_NE(NULL, strstr(log, "end=killed sig=15\n"));
}

/* Returns in the parent from what was called in the child, by way of the probe. */
static __attribute_noinline__ long probed_exit(int code)
{
	long ret = sfork_exit(code);

	keep_in_memory(&ret);
	return ret;
}

/* Called in the parent, returns in the child. */
static __attribute_noinline__ long probed_sfork(void)
{
	long ret = sfork();

	keep_in_memory(&ret);
	return ret;
}

/* Where a function of this program is in its file. */
static unsigned long file_offset(const void *function)
{
	unsigned long start, end, offset, found = 0;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");

	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 &&
		    (unsigned long)function >= start && (unsigned long)function < end)
			found = (unsigned long)function - start + offset;
	if (maps)
		fclose(maps);
	return found;
}

static int count(const char *log, const char *what)
{
	int n = 0;

	for (; (log = strstr(log, what)); log += strlen(what))
		n++;
	return n;
}

TEST_F_LONG(trace, uretprobes_see_the_return_where_it_is)
{
	static char log[65536];
	char probe[PATH_MAX + 128], path[PATH_MAX] = {};
	long left, pid[5];
	int i;

	require_root(_metadata, "tracing");
	ASSERT_LT(0, readlink("/proc/self/exe", path, sizeof(path) - 1));
	rmdir(INSTANCE);
	ASSERT_EQ(0, mkdir(INSTANCE, 0700));
	snprintf(probe, sizeof(probe), "r:sfork_selftest/back %s:0x%lx", path,
		 file_offset(probed_exit));
	ASSERT_EQ(0, write_file("/sys/kernel/tracing/uprobe_events", probe));
	snprintf(probe, sizeof(probe), "r:sfork_selftest/left %s:0x%lx", path,
		 file_offset(probed_sfork));
	ASSERT_EQ(0, append_file("/sys/kernel/tracing/uprobe_events", probe));
	ASSERT_EQ(0, write_file(INSTANCE "/events/sfork_selftest/enable", "1"));

	for (i = 0; i < 5; i++) {
		left = probed_sfork();
		pid[i] = probed_exit(i);
		ASSERT_EQ(0, left);
		ASSERT_LT(0, pid[i]);
		expect_exited(i, pid[i]);
	}

	read_trace(_metadata, log, sizeof(log));
	EXPECT_EQ(0, write_file(INSTANCE "/events/sfork_selftest/enable", "0"));
	EXPECT_EQ(0, rmdir(INSTANCE));
	EXPECT_EQ(0, write_file("/sys/kernel/tracing/uprobe_events", ""));
	EXPECT_EQ(5, count(log, "back: ("));
	EXPECT_EQ(5, count(log, "left: ("));
}

TEST_HARNESS_MAIN
