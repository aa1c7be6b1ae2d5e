// SPDX-License-Identifier: GPL-2.0
/*
 * A tree like a container: a PID namespace with a /proc of its own, and in it a
 * shell, a Python program and a program with four threads, none of which know
 * that they are copied.
 */
#include "fullfork_tree.h"
#include "fullfork_pidns.h"

/* What waits for a child remembers its PID: unshare itself does. */
#define WHOLE (CLONE_SUBTREE | CLONE_ALL_THREADS | CLONE_KEEP_TIDS | CLONE_NEWPID)

#define THREADS_VARIABLE "FULLFORK_TREE_THREADS"
#define THREADS 4

/*
 * Each program appends a line to a file when it is ready, and one when it gets
 * SIGUSR1: its name, its own PID, and how far it has come.
 */
static const char script[] =
	"i=0\n"
	"trap 'i=$((i + 1)); echo shell $$ $i >>\"$1\"' USR1\n"
	"python3 -c \"$3\" \"$1\" &\n"
	"\"$2\" &\n"
	"echo ready >>\"$1\"\n"
	"while :; do wait; done\n";

static const char python[] =
	"import os, signal, sys, time\n"
	"n = 0\n"
	"def tell(text):\n"
	"    with open(sys.argv[1], 'a') as f:\n"
	"        f.write(text + '\\n')\n"
	"def answer(signum, frame):\n"
	"    tell('python %d %d' % (os.getpid(), n))\n"
	"signal.signal(signal.SIGUSR1, answer)\n"
	"tell('ready')\n"
	"while True:\n"
	"    n += 1\n"
	"    time.sleep(0.001)\n";

static __u32 rounds[THREADS];

static void *count_rounds(void *arg)
{
	__u32 *count = arg;

	for (;;) {
		add(count, 1);
		poll_pause();
	}
	return NULL;
}

static void append_line(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		_exit(1);
	close(fd);
}

/* All of its threads must go on for the program to answer. */
static void answer_signals(const char *path, sigset_t *set)
{
	__u32 before[THREADS];
	char line[64];
	int i, sig;

	while (!sigwait(set, &sig)) {
		for (i = 0; i < THREADS; i++)
			before[i] = load(&rounds[i]);
		for (i = 0; i < THREADS; i++)
			wait_until(load(&rounds[i]) != before[i], DEADLINE);
		snprintf(line, sizeof(line), "threads %d %u\n", getpid(),
			 load(&rounds[THREADS - 1]));
		append_line(path, line);
	}
}

/* The program with four threads is this one, with that in the environment. */
static __attribute__((constructor)) void be_program_with_threads(void)
{
	const char *path = getenv(THREADS_VARIABLE);
	pthread_t thread;
	sigset_t set;
	int i;

	if (!path)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&thread, NULL, count_rounds, &rounds[i]))
			_exit(1);
	append_line(path, "ready\n");
	answer_signals(path, &set);
	_exit(1);
}

static char result_file[64], program[PATH_MAX];

static long run_container(struct tree_node *self, long arg)
{
	pid_t pid = fork();

	if (pid)
		return pid < 0 ? -errno : pid;
	setenv(THREADS_VARIABLE, result_file, 1);
	/* It ends with its parent, if the test ends early. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execlp("unshare", "unshare", "--pid", "--fork", "--kill-child",
	       "--mount-proc", "sh", "-c", script, "sh", result_file, program,
	       python, NULL);
	_exit(127);
}

static bool can_run(const char *name)
{
	char path[PATH_MAX], *dirs = strdup(getenv("PATH") ?: "/usr/bin:/bin");
	char *dir, *save = NULL;
	bool found = false;

	for (dir = strtok_r(dirs, ":", &save); dir && !found;
	     dir = strtok_r(NULL, ":", &save)) {
		snprintf(path, sizeof(path), "%s/%s", dir, name);
		found = !access(path, X_OK);
	}
	free(dirs);
	return found;
}

/* The text of the file from line @first on; returns how many lines it has. */
static int read_result(int first, char *text, size_t size)
{
	char buf[4096], *line = buf;
	int lines = 0;

	*text = '\0';
	if (read_file(result_file, buf, sizeof(buf)) <= 0)
		return 0;
	for (;;) {
		if (lines == first)
			snprintf(text, size, "%.*s", (int)size - 1, line);
		lines++;
		line = strchr(line, '\n');
		if (!line)
			return lines;
		line++;
	}
}

enum program { UNSHARE, SHELL, PYTHON, WITH_THREADS, PROGRAMS };

static const char * const names[] = { "unshare", "shell", "python", "threads" };

/* The processes of a container whose first one is @pid; false if one lacks. */
static bool find_programs(pid_t pid, pid_t programs[PROGRAMS])
{
	struct proc_stat st;
	pid_t pids[8];
	int i;

	if (list_tree(pid, pids, ARRAY_SIZE(pids)) != PROGRAMS)
		return false;
	memset(programs, 0, PROGRAMS * sizeof(*programs));
	programs[UNSHARE] = pids[0];
	programs[SHELL] = pids[1];
	for (i = 2; i < PROGRAMS; i++) {
		if (!read_stat(pids[i], &st))
			return false;
		if (!strncmp(st.comm, "python", 6))
			programs[PYTHON] = pids[i];
		else
			programs[WITH_THREADS] = pids[i];
	}
	return programs[PYTHON] && programs[WITH_THREADS];
}

FIXTURE(container)
{
	unsigned int manager;
	pid_t programs[SIDE_REPLICA + 1][PROGRAMS];
	pid_t root;
};

FIXTURE_VARIANT(container)
{
	bool from_outside;
};

FIXTURE_VARIANT_ADD(container, copied_with_its_parent) { };
FIXTURE_VARIANT_ADD(container, copied_from_outside) { .from_outside = true };

FIXTURE_SETUP(container)
{
	char text[256];
	long pid;
	int fd;

	setup_tree(_metadata);
	require_root(_metadata, "PID namespaces");
	skip_unless(can_run("unshare") && can_run("python3"), _exit(0),
		    "needs unshare and python3");
	snprintf(result_file, sizeof(result_file), "/tmp/fullfork.XXXXXX");
	fd = mkstemp(result_file);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_LT(0, readlink("/proc/self/exe", program, sizeof(program) - 1));

	self->manager = start_tree();
	pid = ask(ORIGINAL, self->manager, run_container, 0);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(wait_until(read_result(0, text, sizeof(text)) == 3 &&
			       find_programs(pid, self->programs[ORIGINAL]),
			       DEADLINE))
	{
		dump_tree(getpid());
	}
}

FIXTURE_TEARDOWN(container)
{
	teardown_tree(_metadata);
	unlink(result_file);
}

/* A copy of everything, by a node or by the test. */
static void copy_container(struct __test_metadata *_metadata,
			   unsigned int manager, bool from_outside,
			   pid_t programs[SIDE_REPLICA + 1][PROGRAMS],
			   pid_t *root)
{
	pid_t pids[8], first;

	if (from_outside) {
		struct fullfork_args args = {
			.flags = WHOLE | CLONE_FROM_PIDFD,
			.exit_signal = SIGCHLD,
		};

		args.source_pidfd = sys_pidfd_open(programs[ORIGINAL][UNSHARE]);
		*root = sys_clone3(&args, sizeof(args));
		ASSERT_LT(0, *root)
		{
			TH_LOG("clone3: %s", strerror(-*root));
		}
		close(args.source_pidfd);
		first = *root;
	} else {
		tree_strangers = PROGRAMS;
		*root = copy_by(manager, WHOLE);
		ASSERT_EQ(PROGRAMS + 1, list_tree(*root, pids,
						  ARRAY_SIZE(pids)));
		first = pids[1];
	}
	ASSERT_TRUE(find_programs(first, programs[REPLICA]))
	{
		dump_tree(getpid());
	}
}

#define make_copy()							\
	copy_container(_metadata, self->manager, variant->from_outside,	\
		       self->programs, &self->root)

/* Asks a program how far it has come: the number, with its PID inside. */
static long ask_program(struct __test_metadata *_metadata,
			pid_t programs[PROGRAMS], enum program which,
			int *inner)
{
	char line[256] = "", name[16] = "";
	unsigned long value = 0;
	int lines, fields;

	lines = read_result(1000, line, sizeof(line));
	ASSERT_EQ(0, kill(programs[which], SIGUSR1));
	ASSERT_TRUE(wait_until(read_result(lines, line, sizeof(line)) > lines,
			       DEADLINE))
	{
		TH_LOG("%s does not answer", names[which]);
		dump_tree(getpid());
	}
	fields = sscanf(line, "%15s %d %lu", name, inner, &value);
	ASSERT_EQ(3, fields)
	{
		TH_LOG("%s said: %s", names[which], line);
	}
	ASSERT_STREQ(names[which], name);
	return value;
}

TEST_F_GUARDED(container, has_the_same_shape)
{
	char comm[2][32], path[64];
	int side;
	pid_t pid;

	make_copy();
	for (pid = UNSHARE; pid < PROGRAMS; pid++) {
		for (side = ORIGINAL; side <= REPLICA; side++) {
			snprintf(path, sizeof(path), "/proc/%d/comm",
				 self->programs[side][pid]);
			EXPECT_LT(0, read_file(path, comm[side - ORIGINAL],
					       sizeof(comm[0])));
		}
		EXPECT_STREQ(comm[0], comm[1]);
		EXPECT_EQ(count_threads(self->programs[ORIGINAL][pid]),
			  count_threads(self->programs[REPLICA][pid]));
	}
	EXPECT_EQ(THREADS + 1,
		  count_threads(self->programs[REPLICA][WITH_THREADS]));
}

TEST_F_GUARDED(container, has_a_namespace_of_its_own)
{
	char original[NS_LINK_SIZE], replica[NS_LINK_SIZE], own[NS_LINK_SIZE];
	pid_t *programs = self->programs[REPLICA];
	int i;

	make_copy();
	ASSERT_TRUE(pid_ns_of(programs[UNSHARE], own));
	ASSERT_TRUE(pid_ns_of(self->programs[ORIGINAL][SHELL], original));
	ASSERT_TRUE(pid_ns_of(programs[SHELL], replica));
	EXPECT_STRNE(own, replica);
	EXPECT_STRNE(original, replica);
	EXPECT_EQ(PROGRAMS - 1, count_in_pid_ns(replica, NULL));
	EXPECT_EQ(PROGRAMS - 1, count_in_pid_ns(original, NULL));
	for (i = SHELL; i < PROGRAMS; i++) {
		pid_t pid = self->programs[ORIGINAL][i];

		EXPECT_EQ(inner_tid(pid, pid),
			  inner_tid(programs[i], programs[i]));
	}
	EXPECT_EQ(1, inner_tid(programs[SHELL], programs[SHELL]));
}

TEST_F_GUARDED(container, goes_on_in_both)
{
	long before[PROGRAMS], now;
	int i, side, inner, known[PROGRAMS];

	for (i = SHELL; i < PROGRAMS; i++)
		before[i] = ask_program(_metadata, self->programs[ORIGINAL], i,
					&known[i]);
	make_copy();
	for (i = SHELL; i < PROGRAMS; i++) {
		for (side = REPLICA; side >= ORIGINAL; side--) {
			now = ask_program(_metadata, self->programs[side], i,
					  &inner);
			EXPECT_LE(before[i], now);
			EXPECT_EQ(known[i], inner);
		}
	}

	/* The shell counts what it was asked, on each side for itself. */
	for (side = REPLICA; side >= ORIGINAL; side--)
		EXPECT_EQ(before[SHELL] + 2,
			  ask_program(_metadata, self->programs[side], SHELL,
				      &inner));
}

TEST_F_GUARDED(container, ends_alone)
{
	pid_t *programs = self->programs[REPLICA];
	char ns[NS_LINK_SIZE];
	int i, inner;

	make_copy();
	ASSERT_TRUE(pid_ns_of(programs[SHELL], ns));
	ASSERT_EQ(0, kill(programs[SHELL], SIGKILL));
	EXPECT_TRUE(wait_until(!count_in_pid_ns(ns, NULL), DEADLINE));
	/* Its parent was waiting for it, and ends as well. */
	EXPECT_TRUE(wait_until(task_state(programs[UNSHARE],
					  programs[UNSHARE]) == 'Z',
			       DEADLINE));
	for (i = SHELL; i < PROGRAMS; i++)
		EXPECT_LE(0, ask_program(_metadata, self->programs[ORIGINAL], i,
					 &inner));
}

TEST_HARNESS_MAIN
