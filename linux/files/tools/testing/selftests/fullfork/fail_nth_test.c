// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: every allocation, and every access to user memory, fails
 *
 * Not run by default: it needs CONFIG_FAULT_INJECTION, FAILSLAB, FAIL_PAGE_ALLOC
 * and FAULT_INJECTION_USERCOPY.
 *
 * Originals make their replicas themselves.  So for one task after the other
 * the n-th fault that it could meet during the call is injected, for n = 1, 2,
 * 3, ..., until the call is over before the n-th.  What fails does so as a
 * whole, leaves nothing behind, and disturbs nobody.
 *
 * FULLFORK_FAULTS=all walks every task; else one thread of each process is as
 * good as the others.  FULLFORK_FAULTS_STEP=k takes only every k-th n.
 */

/* One walk makes thousands of calls, each of which takes its time on a debug kernel. */
#define TEST_DEADLINE 7000

#include "fullfork_answers.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#define FAULTS		"/sys/kernel/debug/"
#define KMEMLEAK	"/sys/kernel/debug/kmemleak"

/* Nobody has as many. */
#define MOST_POINTS	5000

/* What a task may keep in caches of its CPU, in bytes. */
#define SLACK		(2 << 20)

static char group[64];

/* What is done, and what was met. */
static struct {
	__u64 flags;
	bool by_manager;
	int pidfd;
	int tasks;
	unsigned int step;
	bool all;
	long charge;
	unsigned int points;		/* that were passed */
	unsigned int swallowed;		/* the call worked all the same */
	unsigned int errors[256];
} walker;

/* Run by the root before it has children, so that all are there. */
static void enter_group(int unused)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	side_assert_eq(0, write_file(path, "0"));
}

/* A pipe that members alone have */
#define OBJECT 200

/* A socket that its owner gets signals of, though nothing happens there */
#define ASYNC_OBJECT 201

static void make_async(int fd)
{
	side_assert_eq(0, fcntl(fd, F_SETOWN, getpid()));
	side_assert_eq(0, fcntl(fd, F_SETFL, O_ASYNC));
}

/* So do they have one of each kind that CLONE_ISOLATE copies. */
static void enter_group_with_objects(int unused)
{
	struct itimerspec soon = { .it_interval.tv_sec = 1, .it_value.tv_sec = 1 };
	struct epoll_event event = { .events = EPOLLIN };
	int ends[2], sockets[2], fds[4], master, slave, i;
	char *shared_memory;
	mqd_t mq;

	enter_group(0);
	side_assert_eq(0, pipe(ends));
	side_assert_eq(4, write(ends[1], "pipe", 4));
	side_assert_eq(OBJECT, dup2(ends[0], OBJECT));
	side_assert_eq(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	side_assert_eq(6, write(sockets[0], "socket", 6));

	fds[0] = eventfd(1, 0);
	fds[1] = timerfd_create(CLOCK_MONOTONIC, 0);
	fds[2] = epoll_create1(0);
	fds[3] = memfd_create("memory", 0);
	side_assert(fds[0] >= 0 && fds[1] >= 0 && fds[2] >= 0 && fds[3] >= 0);
	/* So many that they are counted first. */
	for (i = 0; i < 40; i++)
		side_assert(dup(fds[0]) >= 0);
	side_assert_eq(0, timerfd_settime(fds[1], 0, &soon, NULL));
	side_assert_eq(0, epoll_ctl(fds[2], EPOLL_CTL_ADD, ends[0], &event));
	side_assert_eq(0, epoll_ctl(fds[2], EPOLL_CTL_ADD, fds[0], &event));
	side_assert_eq(6, write(fds[3], "memory", 6));
	side_assert(sys_pidfd_open(getpid()) >= 0);

	mq = mq_open("/fullfork", O_CREAT | O_EXCL | O_RDWR, 0600, NULL);
	side_assert(mq >= 0);
	side_assert_eq(0, mq_unlink("/fullfork"));
	side_assert_eq(0, mq_send(mq, "queue", 5, 1));
	side_assert_eq(0, mq_send(mq, "queue", 5, 2));

	master = posix_openpt(O_RDWR | O_NOCTTY);
	side_assert(master >= 0);
	side_assert_eq(0, unlockpt(master));
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	side_assert(slave >= 0);
	side_assert_eq(6, write(slave, "output", 6));

	side_assert_eq(ASYNC_OBJECT, dup2(sockets[1], ASYNC_OBJECT));
	make_async(ASYNC_OBJECT);
	make_async(ends[0]);
	make_async(slave);

	shared_memory = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	side_assert(shared_memory != MAP_FAILED);
	memset(shared_memory, 1, 8 * 4096);
}

/* 8 tasks */
static const struct plan process[] = {
	{ .threads = 7, .caller = 1, .before = enter_group },
};

/* 12 tasks: some of them alone, some with threads, three generations */
static const struct plan tree[] = {
	{ .threads = 2, .caller = 1, .before = enter_group },
	{ .parent = 0, .threads = 1 },
	{ .parent = 0 },
	{ .parent = 1, .threads = 2 },
	{ .parent = 1 },
	{ .parent = 2, .threads = 1 },
};

/* 3 tasks */
static const struct plan tree_with_objects[] = {
	{ .threads = 1, .caller = 1, .before = enter_group_with_objects },
	{ .parent = 0 },
};

/* A cgroup for the tree, in a hierarchy mounted for this test alone. */
FIXTURE(fault)
{
	char mount[32];
};

FIXTURE_VARIANT(fault)
{
	const struct plan *plan;
	int size;
	__u64 flags;
	bool by_manager;
};

FIXTURE_VARIANT_ADD(fault, in_a_process) {
	.plan = process,
	.size = ARRAY_SIZE(process),
	.flags = CLONE_ALL_THREADS,
};

FIXTURE_VARIANT_ADD(fault, in_a_process_with_kept_tids) {
	.plan = process,
	.size = ARRAY_SIZE(process),
	.flags = CLONE_ALL_THREADS | CLONE_KEEP_TIDS | CLONE_NEWPID |
		 CLONE_STOPPED,
};

FIXTURE_VARIANT_ADD(fault, in_a_tree) {
	.plan = tree,
	.size = ARRAY_SIZE(tree),
	.flags = WHOLE_TREE,
};

FIXTURE_VARIANT_ADD(fault, in_a_tree_with_kept_tids) {
	.plan = tree,
	.size = ARRAY_SIZE(tree),
	.flags = WHOLE_TREE | CLONE_KEEP_TIDS | CLONE_NEWPID | CLONE_STOPPED,
};

FIXTURE_VARIANT_ADD(fault, in_a_tree_that_is_isolated) {
	.plan = tree_with_objects,
	.size = ARRAY_SIZE(tree_with_objects),
	.flags = WHOLE_TREE | CLONE_ISOLATE,
};

FIXTURE_VARIANT_ADD(fault, in_a_manager_of_a_tree) {
	.plan = tree,
	.size = ARRAY_SIZE(tree),
	.flags = WHOLE_TREE | CLONE_FROM_PIDFD,
	.by_manager = true,
};

static long read_number(const char *name)
{
	char path[96], text[32];

	snprintf(path, sizeof(path), "%s/%s", group, name);
	return read_file(path, text, sizeof(text)) > 0 ? atol(text) : -1;
}

/* Of every kind, however small, and without a word about each. */
static void ask_for_faults(struct __test_metadata *_metadata)
{
	skip_unless(!access("/proc/thread-self/fail-nth", F_OK), _exit(0),
		    "the kernel has no CONFIG_FAULT_INJECTION");
	ASSERT_EQ(0, change_file(FAULTS "failslab/ignore-gfp-wait", "N"));
	ASSERT_EQ(0, change_file(FAULTS "failslab/verbose", "0"));
	ASSERT_EQ(0, change_file(FAULTS "fail_page_alloc/ignore-gfp-wait", "N"));
	ASSERT_EQ(0, change_file(FAULTS "fail_page_alloc/ignore-gfp-highmem",
				 "N"));
	ASSERT_EQ(0, change_file(FAULTS "fail_page_alloc/min-order", "0"));
	ASSERT_EQ(0, change_file(FAULTS "fail_page_alloc/verbose", "0"));
	ASSERT_EQ(0, change_file(FAULTS "fail_usercopy/verbose", "0"));
}

FIXTURE_SETUP(fault)
{
	const char *step = getenv("FULLFORK_FAULTS_STEP");
	const char *which = getenv("FULLFORK_FAULTS");
	char path[96];

	setup_manager(_metadata);
	ask_for_faults(_metadata);
	walker.flags = variant->flags;
	walker.by_manager = variant->by_manager;
	walker.all = which && !strcmp(which, "all");
	walker.step = step ? atoi(step) : 1;
	ASSERT_LT(0, walker.step);

	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(self->mount, sizeof(self->mount), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->mount));
	ASSERT_EQ(0, mount("none", self->mount, "cgroup2", 0, NULL))
	{
		TH_LOG("mount cgroup2: %s", strerror(errno));
	}
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", self->mount);
	ASSERT_EQ(0, write_file(path, "+pids +memory"));
	snprintf(group, sizeof(group), "%s/fullfork.%d", self->mount, getpid());
	ASSERT_EQ(0, mkdir(group, 0755));

	start_tree(_metadata, variant->plan, variant->size, RELATION_CHILD);
	walker.tasks = nr_tasks();
	walker.pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, walker.pidfd);
}

FIXTURE_TEARDOWN(fault)
{
	teardown_manager(_metadata);
	EXPECT_TRUE(wait_until(!rmdir(group), DEADLINE));
	EXPECT_EQ(0, umount2(self->mount, MNT_DETACH));
	EXPECT_EQ(0, rmdir(self->mount));
}

/*
 * The place of a task in the report, or of the test itself, which is the
 * manager.
 */
#define MANAGER -1

static int open_fail_nth(int task)
{
	char path[64];

	if (task == MANAGER)
		return open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/fail-nth",
		 report->slot[task].pid, report->slot[task].tid);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void set_fail_nth(struct __test_metadata *_metadata, int fd, unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	ASSERT_EQ(len, pwrite(fd, text, len, 0));
}

/* How many more there would have been to pass: 0 if the fault was injected. */
static unsigned int end_faults(struct __test_metadata *_metadata, int fd)
{
	char text[16] = {};

	/* It may be the reader itself that cannot copy the answer. */
	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		memset(text, 0, sizeof(text));
	set_fail_nth(_metadata, fd, 0);
	return atoi(text);
}

static long copy(struct __test_metadata *_metadata, int fd, unsigned int n)
{
	struct fullfork_args args;

	shared->pidfd = -1;
	shared->parent_tid = -1;
	/* Nobody has to wait for what is made, nor is told. */
	init_args(&args, walker.pidfd, walker.flags | CLONE_PIDFD |
		  CLONE_PARENT_SETTID | CLONE_AUTOREAP);
	ask_for_map(&args, MAP_ENTRIES);
	set_fail_nth(_metadata, fd, n);
	return walker.by_manager ? call_as_manager(&args) :
		have_called(0, &args, 0);
}

/* Tasks, zombies among them, are counted by the cgroup of the tree. */
static bool only_originals(int tasks)
{
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
		;
	return read_number("pids.current") == tasks;
}

static void expect_as_before(struct __test_metadata *_metadata)
{
	int i;

	EXPECT_EQ(plan_size, list_below(getpid()))
	{
		dump_listed(list_below(getpid()));
	}
	for (i = 0; i < plan_size; i++)
		EXPECT_EQ(1 + plan[i].threads, count_threads(pid_of(i)));
	EXPECT_TRUE(wait_until(read_number("memory.current") <
			       walker.charge + SLACK, DEADLINE))
	{
		TH_LOG("%ld bytes are charged, %ld before",
		       read_number("memory.current"), walker.charge);
	}
}

static void expect_failure(struct __test_metadata *_metadata, long ret)
{
	int i;

	EXPECT_TRUE(ret == -ENOMEM || ret == -EAGAIN || ret == -EFAULT)
	{
		TH_LOG("%s", strerror(-ret));
	}
	EXPECT_EQ(walker.tasks, read_number("pids.current"));
	EXPECT_EQ(-1, shared->pidfd);
	EXPECT_EQ(-1, shared->parent_tid);
	for (i = 0; i <= walker.tasks; i++) {
		EXPECT_EQ(UNWRITTEN, shared->map[i].original);
		EXPECT_EQ(UNWRITTEN, shared->map[i].replica);
	}
	EXPECT_FALSE(sigchld_is_pending());
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
}

/* Their objects are their own. */
static void expect_isolated(struct __test_metadata *_metadata)
{
	char path[64], text[1024] = {};
	const char *flags;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", replica_of(pid_of(0)), OBJECT);
	EXPECT_LT(0, read_file(path, text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "fullfork:\tcopied"))
	{
		TH_LOG("%s", text);
	}
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", replica_of(pid_of(0)), ASYNC_OBJECT);
	EXPECT_LT(0, read_file(path, text, sizeof(text)));
	flags = strstr(text, "flags:\t");
	EXPECT_TRUE(flags && strtoul(flags + strlen("flags:\t"), NULL, 8) & O_ASYNC)
	{
		TH_LOG("%s", text);
	}
}

/* It is whole, and then ended. */
static void expect_success(struct __test_metadata *_metadata)
{
	int i;

	EXPECT_EQ(walker.tasks, map_length());
	EXPECT_EQ(replica_of(pid_of(0)), shared->parent_tid);
	EXPECT_LE(0, shared->pidfd);
	for (i = 0; i < plan_size; i++)
		EXPECT_EQ(1 + plan[i].threads,
			  count_threads(replica_of(pid_of(i))))
		{
			TH_LOG("threads of the replica of process %d", i);
		}
	if (!(walker.flags & CLONE_STOPPED))
		EXPECT_TRUE(replicas_answer());
	if (walker.flags & CLONE_ISOLATE)
		expect_isolated(_metadata);
	for (i = 0; i < plan_size; i++)
		kill(replica_of(pid_of(i)), SIGKILL);
	EXPECT_TRUE(wait_until(only_originals(walker.tasks), DEADLINE))
	{
		dump_listed(list_below(getpid()));
	}
	discard_sigchld();
	/* That its replica is stopped is what a parent can wait for. */
	if (walker.flags & CLONE_STOPPED)
		store(&report->word[WORD_EVENTS], 0);
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
}

/* In the process that made it: what a call that worked has left open. */
static void close_pidfd(struct __test_metadata *_metadata)
{
	/* The tree keeps its own; the replica is gone, and they are few. */
	if (walker.by_manager)
		EXPECT_EQ(0, close(shared->pidfd));
}

/*
 * The n-th fault of one task; false if it would have met fewer.  Whether one was
 * injected is not known if the call worked and the counter says nothing.
 */
static bool pass_point(struct __test_metadata *_metadata, int task,
		       unsigned int n)
{
	int fd = open_fail_nth(task);
	unsigned int left;
	long ret;

	ASSERT_LE(0, fd);
	ret = copy(_metadata, fd, n);
	left = end_faults(_metadata, fd);
	close(fd);
	if (ret > 0) {
		expect_success(_metadata);
		close_pidfd(_metadata);
		walker.swallowed += !left;
	} else {
		/* Not by itself. */
		EXPECT_EQ(0, left);
		expect_failure(_metadata, ret);
		if (ret > -256)
			walker.errors[-ret]++;
	}
	walker.points += !left;
	return !left;
}

static void walk(struct __test_metadata *_metadata, int task)
{
	unsigned int n = 1, points = walker.points;

	while (pass_point(_metadata, task, n)) {
		n += walker.step;
		ASSERT_GT(MOST_POINTS, n);
		if (_metadata->exit_code) {
			TH_LOG("fault %u of task %d", n - walker.step, task);
			return;
		}
	}
	/* There is something to fail for everybody. */
	EXPECT_LT(points, walker.points);
	expect_as_before(_metadata);
	fprintf(stderr, "# task %d: %u points\n", task, walker.points - points);
}

/* One call that works, so that what it leaves in caches is there. */
static void warm_up(struct __test_metadata *_metadata)
{
	int fd = open_fail_nth(0);

	ASSERT_LT(0, copy(_metadata, fd, 0));
	close(fd);
	expect_success(_metadata);
	close_pidfd(_metadata);
	walker.charge = read_number("memory.current");
	ASSERT_LT(0, walker.charge);
}

/* The caller, every leader, and a thread of each process; or everybody. */
static bool is_walked(int number, int thread)
{
	return walker.all || thread < 2 ||
	       (plan[number].caller && thread == plan[number].threads);
}

TEST_F_TIMEOUT(fault, leaves_nothing, TEST_DEADLINE + 5)
{
	int i, thread;

	warm_up(_metadata);
	if (walker.by_manager)
		walk(_metadata, MANAGER);
	for (i = 0; i < plan_size && !walker.by_manager; i++)
		for (thread = 0; thread <= plan[i].threads; thread++)
			if (is_walked(i, thread) && !_metadata->exit_code)
				walk(_metadata, first_task(i) + thread);
	fprintf(stderr,
		"# %u injection points passed: ENOMEM %u, EAGAIN %u, EFAULT %u, worked all the same %u\n",
		walker.points, walker.errors[ENOMEM], walker.errors[EAGAIN],
		walker.errors[EFAULT], walker.swallowed);

	/* Does kmemleak go on to look?  What it found is read at the end. */
	if (!access(KMEMLEAK, F_OK))
		EXPECT_EQ(0, write_file(KMEMLEAK, "scan"));
}

TEST_HARNESS_MAIN
