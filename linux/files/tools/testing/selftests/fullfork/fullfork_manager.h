/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the full fork selftests in which a manager copies a process that
 * a pidfd names, or the tree below it
 *
 * The test is the manager, and subreaper: what is left of a replica tree comes
 * to it, is counted, and is ended.
 */
#ifndef _FULLFORK_MANAGER_H
#define _FULLFORK_MANAGER_H

#include "fullfork_threads.h"
#include <ctype.h>
#include <sys/stat.h>

/* The whole tree, with all threads. */
#define WHOLE_TREE (CLONE_ALL_THREADS | CLONE_SUBTREE)

#define MAX_PROCESSES	8192
#define MAP_ENTRIES	4400
#define SAVED_FILES	8
#define KEPT_PROCESSES	64

/* Of the table of TIDs, before a call */
#define UNWRITTEN	0xffffffff

/* A call that a process of the tree is to make. */
struct command {
	struct fullfork_args args;
	pid_t source;			/* its pidfd is opened, if not 0 */
	__u32 question;			/* that goes with it */
	__s32 process;
	long ret;			/* in the original */
	long replica_ret;
	__u32 replica_returns;
};

struct saved_file {
	char path[96];
	char text[256];
};

/* What all processes share beside the report. */
struct shared {
	struct command command;
	int saved_files;
	struct saved_file saved[SAVED_FILES];
	int pidfd;
	pid_t parent_tid;
	struct fullfork_tid_map map[MAP_ENTRIES];
};

static struct shared *shared __maybe_unused;

/*
 * Files whose content goes back to what it was
 */

/* Returns 0 or -errno. */
static inline int change_file(const char *path, const char *text)
{
	struct saved_file *saved = &shared->saved[shared->saved_files];
	int i;

	for (i = 0; i < shared->saved_files; i++)
		if (!strcmp(shared->saved[i].path, path))
			return write_file(path, text);
	if (shared->saved_files == SAVED_FILES)
		return -ENOSPC;
	if (read_file(path, saved->text, sizeof(saved->text)) < 0)
		return -errno;
	snprintf(saved->path, sizeof(saved->path), "%s", path);
	shared->saved_files++;
	return write_file(path, text);
}

static inline void restore_files(void)
{
	struct saved_file *saved;

	while (shared->saved_files) {
		saved = &shared->saved[--shared->saved_files];
		write_file(saved->path, saved->text);
	}
}

/* How long a call may wait for originals, in seconds; 0 or -errno. */
static inline int change_bound(int seconds)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", seconds);
	return change_file(TIMEOUT_SYSCTL, text);
}

/*
 * All processes
 */

struct process {
	pid_t pid;
	pid_t parent;
	bool marked;
};

static struct process processes[MAX_PROCESSES] __maybe_unused;

/*
 * Kernel threads are most of what there is, and each look at one of them takes a
 * debug kernel milliseconds.  Those that are there when the program starts are left
 * out, where /proc is the one that showed them.
 */
#define KTHREADD	2
static bool is_kernel_thread[1 << 16] __maybe_unused;
static dev_t proc_of_kernel_threads __maybe_unused;

static inline dev_t device_of_proc(void)
{
	struct stat st;

	return stat("/proc", &st) ? 0 : st.st_dev;
}

static inline int list_processes(void)
{
	unsigned int nr_known = device_of_proc() == proc_of_kernel_threads ?
				ARRAY_SIZE(is_kernel_thread) : 0;
	char path[300], text[512], *end;
	struct dirent *entry;
	DIR *dir = opendir("/proc");
	int pid, parent, count = 0;

	while (dir && count < MAX_PROCESSES && (entry = readdir(dir))) {
		if (!isdigit(entry->d_name[0]))
			continue;
		pid = atoi(entry->d_name);
		if (pid < nr_known && is_kernel_thread[pid])
			continue;
		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		if (read_file(path, text, sizeof(text)) <= 0)
			continue;
		end = strrchr(text, ')');
		if (!end || sscanf(end + 1, " %*c %d", &parent) != 1)
			continue;
		processes[count++] = (struct process) {
			.pid = pid,
			.parent = parent,
		};
	}
	if (dir)
		closedir(dir);
	return count;
}

static inline bool is_kthreadd(const struct process *p)
{
	char name[16] = "";

	return p->pid == KTHREADD && read_file("/proc/2/comm", name, sizeof(name)) > 0 &&
	       !strncmp(name, "kthreadd", strlen("kthreadd"));
}

static __attribute__((constructor)) void find_kernel_threads(void)
{
	int i, count = list_processes();
	bool found = false;

	for (i = 0; i < count; i++)
		found |= is_kthreadd(&processes[i]);
	for (i = 0; found && i < count; i++)
		if (processes[i].parent == KTHREADD &&
		    processes[i].pid < ARRAY_SIZE(is_kernel_thread))
			is_kernel_thread[processes[i].pid] = true;
	proc_of_kernel_threads = device_of_proc();
}

static inline struct process *find_process(int count, pid_t pid)
{
	int i;

	for (i = 0; i < count; i++)
		if (processes[i].pid == pid)
			return &processes[i];
	return NULL;
}

/* Marks what is below @top. */
static inline void mark_below(int count, pid_t top)
{
	struct process *parent;
	bool more = true;
	int i;

	while (more) {
		more = false;
		for (i = 0; i < count; i++) {
			if (processes[i].marked)
				continue;
			parent = processes[i].parent == top ? NULL :
				 find_process(count, processes[i].parent);
			if (processes[i].parent != top &&
			    !(parent && parent->marked))
				continue;
			processes[i].marked = true;
			more = true;
		}
	}
}

static inline void unmark(int count, pid_t top)
{
	struct process *process;
	int i;

	process = find_process(count, top);
	if (process)
		process->marked = false;
	for (i = 0; i < count; i++)
		if (processes[i].marked && processes[i].parent == top)
			unmark(count, processes[i].pid);
}

/* Puts the marked ones first; returns how many. */
static inline int marked_first(int count)
{
	int i, n = 0;

	for (i = 0; i < count; i++)
		if (processes[i].marked)
			processes[n++] = processes[i];
	return n;
}

/* The processes below @top, zombies included, but without the guard. */
static inline int list_below(pid_t top)
{
	int count = list_processes();

	mark_below(count, top);
	if (guard_pid > 0)
		unmark(count, guard_pid);
	return marked_first(count);
}

/* A root that is not below the test. */
static pid_t stranger __maybe_unused;

/* What is below the test and is no replica. */
static pid_t kept[KEPT_PROCESSES] __maybe_unused;
static int nr_kept;

static inline void keep(pid_t pid)
{
	kept[nr_kept++ % KEPT_PROCESSES] = pid;
}

static inline void forget(pid_t pid)
{
	int i;

	for (i = 0; i < nr_kept && kept[i] != pid; i++)
		;
	if (i < nr_kept)
		kept[i] = kept[--nr_kept];
}

/* What else is below the test: replicas and what they leave. */
static inline int list_others(void)
{
	int i, count = list_processes();

	mark_below(count, getpid());
	if (guard_pid > 0)
		unmark(count, guard_pid);
	for (i = 0; i < nr_kept; i++)
		unmark(count, kept[i]);
	return marked_first(count);
}

static inline void dump_listed(int count)
{
	int i;

	for (i = 0; i < count && i < 50; i++)
		dump_process(processes[i].pid);
}

static inline int kill_listed(int count)
{
	int i;

	for (i = 0; i < count; i++)
		kill(processes[i].pid, SIGKILL);
	for (i = 0; i < count; i++)
		waitpid(processes[i].pid, NULL, WNOHANG | __WALL);
	return count;
}

/* Ends all others; false if some do not end. */
static inline bool end_others(void)
{
	bool ended = wait_until(!kill_listed(list_others()), DEADLINE);

	if (!ended)
		dump_listed(list_others());
	return ended;
}

/* True if nothing else is, or if what is just ending has ended. */
static inline bool no_others(void)
{
	bool none = wait_until(!list_others(), 5);

	if (!none)
		dump_listed(list_others());
	return none;
}

static inline bool end_kept(pid_t pid)
{
	forget(pid);
	return end_others();
}

/*
 * Setting up
 */

/* Ends a test that hangs, with all that it started; says where it hangs. */
static inline void start_watchdog(struct __test_metadata *_metadata)
{
	pid_t test = getpid();
	int i, pidfd;

	guard_pid = fork();
	ASSERT_LE(0, guard_pid);
	if (guard_pid)
		return;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "guard");
	guard_pid = getpid();
	pidfd = sys_pidfd_open(test);
	if (getppid() != test || pidfd < 0 || wait_pidfd(pidfd, TEST_DEADLINE))
		_exit(0);
	fprintf(stderr, "# the test hangs:\n");
	dump_process(test);
	dump_listed(list_below(test));
	restore_files();
	kill(test, SIGSTOP);
	for (i = 0; i < 100 && kill_listed(list_below(test)); i++)
		poll_pause();
	kill(test, SIGKILL);
	_exit(0);
}

/*
 * Calls
 */

static inline void init_args(struct fullfork_args *args, int pidfd, __u64 flags)
{
	memset(args, 0, sizeof(*args));
	args->flags = flags;
	if (flags & CLONE_FROM_PIDFD)
		args->source_pidfd = pidfd;
	if (!(flags & (CLONE_PARENT | CLONE_AUTOREAP)))
		args->exit_signal = SIGCHLD;
	if (flags & CLONE_PIDFD)
		args->pidfd = ptr_to_u64(&shared->pidfd);
	if (flags & CLONE_PARENT_SETTID)
		args->parent_tid = ptr_to_u64(&shared->parent_tid);
}

static inline void ask_for_map(struct fullfork_args *args, unsigned int entries)
{
	memset(shared->map, 0xff, sizeof(shared->map));
	args->tid_map = ptr_to_u64(shared->map);
	args->tid_map_size = entries;
}

/* A manager is no member: a replica of it that returns is a failure. */
static inline long call_as_manager(struct fullfork_args *args)
{
	long ret = sys_clone3(args, sizeof(*args));

	if (!ret)
		replica_fail(__FILE__, __LINE__, "the manager was copied", 0);
	return ret;
}

static inline long copy_from(int pidfd, __u64 flags)
{
	struct fullfork_args args;

	init_args(&args, pidfd, CLONE_FROM_PIDFD | flags);
	return call_as_manager(&args);
}

/* The same with the table of TIDs in shared->map. */
static inline long copy_with_map(int pidfd, __u64 flags, unsigned int entries)
{
	struct fullfork_args args;

	init_args(&args, pidfd, CLONE_FROM_PIDFD | flags);
	ask_for_map(&args, entries);
	return call_as_manager(&args);
}

static inline bool map_has(int i)
{
	return i < MAP_ENTRIES && shared->map[i].original &&
	       shared->map[i].original != UNWRITTEN;
}

static inline int map_length(void)
{
	int i;

	for (i = 0; map_has(i); i++)
		;
	return i;
}

/* The place of an original's TID in the table, or -1. */
static inline int place_of(pid_t original)
{
	int i;

	for (i = 0; map_has(i); i++)
		if (shared->map[i].original == (__u32)original)
			return i;
	return -1;
}

/* The TID that the table gives for one of an original, or 0. */
static inline pid_t replica_of(pid_t original)
{
	int place = place_of(original);

	return place < 0 ? 0 : shared->map[place].replica;
}

/* Reads memory of a process that has the test's addresses. */
static inline bool peek(pid_t pid, const void *addr, void *buf, size_t size)
{
	char path[32];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = pread(fd, buf, size, (off_t)addr);
	close(fd);
	return got == (ssize_t)size;
}

/* Every thread of a process is in @state. */
static inline bool all_threads_in(pid_t pid, char state)
{
	char path[64];
	struct dirent *entry;
	bool all = true;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (all && (entry = readdir(dir)))
		all = entry->d_name[0] == '.' ||
		      task_state(pid, atoi(entry->d_name)) == state;
	closedir(dir);
	return all;
}

/* Nothing to report to the parent, which is the caller. */
static inline bool has_no_event(pid_t pid)
{
	siginfo_t info = {};

	return !waitid(P_PID, pid, &info, WEXITED | WSTOPPED | WCONTINUED |
		       WNOHANG | WNOWAIT | __WALL) && !info.si_pid;
}

/* What the test blocks, so that it sees each. */
static inline bool sigchld_is_pending(void)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, SIGCHLD);
}

static inline void discard_sigchld(void)
{
	struct timespec now = {};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
}

static inline void probe_manager(struct __test_metadata *_metadata)
{
	pid_t child;
	long pid;
	int pidfd;

	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	pidfd = sys_pidfd_open(child);
	ASSERT_LE(0, pidfd);
	pid = copy_from(pidfd, WHOLE_TREE | CLONE_STOPPED);
	close(pidfd);
	keep(child);
	ASSERT_TRUE(end_others());
	ASSERT_TRUE(end_kept(child));
	skip_unless(pid != -EINVAL, _exit(0), "the kernel has no CLONE_FROM_PIDFD");
	ASSERT_LT(0, pid)
	{
		TH_LOG("CLONE_FROM_PIDFD: %s", strerror(-pid));
	}
}

/* To be called first in each FIXTURE_SETUP of a test with a manager. */
static inline void setup_manager(struct __test_metadata *_metadata)
{
	sigset_t set;

	require_fullfork(_metadata);
	require_root(_metadata, "a manager");
	original_pid = sys_getpid();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	probe_manager(_metadata);
	start_watchdog(_metadata);
	discard_sigchld();
}

/*
 * How long a call takes here, in microseconds: from some hundred on a real CPU
 * to many thousand under emulation.
 */
static inline long time_copy(struct __test_metadata *_metadata, int pidfd)
{
	struct timespec start, end;
	long pid;

	clock_gettime(CLOCK_MONOTONIC, &start);
	pid = copy_from(pidfd, WHOLE_TREE | CLONE_STOPPED);
	clock_gettime(CLOCK_MONOTONIC, &end);
	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	ASSERT_TRUE(end_others());
	discard_sigchld();
	return (end.tv_sec - start.tv_sec) * 1000000 +
	       (end.tv_nsec - start.tv_nsec) / 1000;
}

/* What each FIXTURE_TEARDOWN ends with. */
static inline void teardown_manager(struct __test_metadata *_metadata)
{
	nr_kept = 0;
	restore_files();
	/* Threads that the test has traced are its to bury, too. */
	EXPECT_TRUE(wait_until(({
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		!kill_listed(list_others());
	}), DEADLINE))
	{
		dump_listed(list_others());
	}
	if (stranger) {
		kill_listed(list_below(stranger));
		kill(stranger, SIGKILL);
	}
	EXPECT_EQ(0, load(&report->failures))
	{
		TH_LOG("%s", report->failure);
	}
}

/*
 * Programs that tests execute are this one again: called first, it executes
 * itself as often as the environment says, then ends with @code.
 */
static inline void exec_again(int code)
{
	const char *left = getenv("FULLFORK_TEST_EXECS");
	char text[16];

	if (!left)
		return;
	if (atoi(left) > 1) {
		snprintf(text, sizeof(text), "%d", atoi(left) - 1);
		setenv("FULLFORK_TEST_EXECS", text, 1);
		execl("/proc/self/exe", "fullfork", NULL);
	}
	_exit(code);
}

#endif /* _FULLFORK_MANAGER_H */
