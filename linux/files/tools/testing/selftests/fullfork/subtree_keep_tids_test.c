// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_KEEP_TIDS for a tree: every member has its TID in another namespace,
 * and all that programs remember of TIDs stays true.
 */
#include "fullfork_tree.h"
#include "fullfork_pidns.h"

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/* A file that processes share which are not of this program's making. */
#define JOB_VARIABLE "FULLFORK_TREE_JOB"
#define JOB_CODE 7

enum { JOB_MAY_END, JOB_WORDS = 1024 };

static __u32 *map_job(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	__u32 *word;

	if (fd < 0 || ftruncate(fd, JOB_WORDS * sizeof(*word)))
		return MAP_FAILED;
	word = mmap(NULL, JOB_WORDS * sizeof(*word), PROT_READ | PROT_WRITE,
		    MAP_SHARED, fd, 0);
	close(fd);
	return word;
}

/* The job of a shell is this program, with that in the environment. */
static __attribute__((constructor)) void be_job(void)
{
	const char *path = getenv(JOB_VARIABLE);
	__u32 *word;

	if (!path)
		return;
	/* With the shell, that is, if the test ends early. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	word = map_job(path);
	if (word == MAP_FAILED)
		_exit(1);
	while (!load(&word[JOB_MAY_END]))
		futex_wait(&word[JOB_MAY_END], 0, 0, -1);
	_exit(JOB_CODE);
}

/* The init is a child of the test, as it is to be no member. */
static long unshare_ns(struct tree_node *self, long arg)
{
	struct fullfork_args args = { .flags = CLONE_PARENT };
	long pid;

	if (unshare(CLONE_NEWPID))
		return -errno;
	pid = sys_clone3(&args, sizeof(args));
	if (!pid) {
		signal(SIGCHLD, SIG_IGN);
		for (;;)
			pause();
	}
	return pid;
}

/*
 * The root has a child with two threads, a grandchild that is the child of one
 * of these, a zombie, and a child that leads a group.
 */
FIXTURE(tree)
{
	unsigned int root, child, thread, grandchild, zombie, job;
	__u64 flags;
	pid_t init;
};

FIXTURE_VARIANT(tree)
{
	bool unshared;
	bool entered;
};

FIXTURE_VARIANT_ADD(tree, in_a_namespace_unshared) { .unshared = true };
FIXTURE_VARIANT_ADD(tree, in_a_namespace_entered) { .entered = true };
FIXTURE_VARIANT_ADD(tree, in_a_namespace_made_by_the_call) { };

/* Children that the caller makes from then on are born there. */
static void go_to_namespace(struct __test_metadata *_metadata,
			    unsigned int caller, bool unshared, pid_t init)
{
	if (unshared)
		ASSERT_LT(0, ask(ORIGINAL, caller, unshare_ns, 0));
	if (init)
		ASSERT_EQ(0, ask(ORIGINAL, caller, enter_ns_of, init));
}

FIXTURE_SETUP(tree)
{
	setup_tree(_metadata);
	require_root(_metadata, "PID namespaces");
	self->root = start_tree();
	self->child = child_of(self->root);
	self->thread = thread_of(self->child);
	self->grandchild = child_of(self->thread);
	self->zombie = child_of(self->child);
	self->job = child_of(self->root);
	end_node(ORIGINAL, self->zombie, 3);
	ASSERT_EQ(0, ask(ORIGINAL, self->job, join_group, self->job));

	self->flags = BOTH | CLONE_KEEP_TIDS;
	if (variant->entered)
		self->init = start_init(_metadata, CLONE_NEWPID);
	if (!variant->entered && !variant->unshared)
		self->flags |= CLONE_NEWPID;
	go_to_namespace(_metadata, self->root, variant->unshared, self->init);
}

FIXTURE_TEARDOWN(tree)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(tree, keeps_every_tid)
{
	unsigned int node;

	copy_by(self->root, self->flags);
	for (node = 0; node < tree_count; node++) {
		EXPECT_EQ(tid_of(ORIGINAL, node),
			  inner_tid(pid_of(REPLICA, node),
				    tid_of(REPLICA, node)));
		if (tree_nodes[node].state != NODE_IDLE)
			continue;
		EXPECT_EQ(tid_of(ORIGINAL, node),
			  ask(REPLICA, node, get_tid, 0));
		EXPECT_EQ(pid_of(ORIGINAL, node),
			  ask(REPLICA, node, get_pid, 0));
	}
}

TEST_F_GUARDED(tree, keeps_every_tid_without_all_threads)
{
	unsigned int node;

	tree_end_thread(_metadata, ORIGINAL, self->thread, 0);
	ASSERT_TRUE(wait_until(count_threads(pid_of(ORIGINAL, self->child)) == 1,
			       DEADLINE));
	tree_nodes[self->grandchild].maker = self->child;
	copy_by(self->root, self->flags & ~CLONE_ALL_THREADS);
	for (node = 0; node < tree_count; node++) {
		if (node == self->thread)
			continue;
		EXPECT_EQ(tid_of(ORIGINAL, node),
			  inner_tid(pid_of(REPLICA, node),
				    tid_of(REPLICA, node)));
	}
}

TEST_F_GUARDED(tree, is_in_one_namespace)
{
	char own[NS_LINK_SIZE], root[NS_LINK_SIZE], ns[NS_LINK_SIZE];
	unsigned int node;

	copy_by(self->root, self->flags);
	ASSERT_TRUE(pid_ns_of(getpid(), own));
	ASSERT_TRUE(pid_ns_of(pid_of(REPLICA, self->root), root));
	EXPECT_STRNE(own, root);
	for (node = 0; node < tree_count; node++) {
		if (tree_nodes[node].state != NODE_IDLE)
			continue;
		EXPECT_TRUE(pid_ns_of(pid_of(REPLICA, node), ns));
		EXPECT_STREQ(root, ns);
		EXPECT_TRUE(pid_ns_of(pid_of(ORIGINAL, node), ns));
		EXPECT_STREQ(own, ns);
	}
}

TEST_F_GUARDED(tree, has_a_root_that_the_caller_can_name)
{
	struct fullfork_tid_map *entry;
	unsigned int node;
	pid_t pid;

	tree_set_args(self->flags);
	tree->args.tid_map = ptr_to_u64(tree->map);
	tree->args.tid_map_size = ARRAY_SIZE(tree->map);
	pid = tree_copy(_metadata, self->root);
	EXPECT_NE(pid_of(ORIGINAL, self->root), pid);
	EXPECT_EQ(pid_of(ORIGINAL, self->root), status_number(pid, "PPid"));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, wait_pid_now, pid));
	/* The table is in the caller's view as well. */
	for (entry = tree->map; entry->replica; entry++) {
		for (node = 0; node < tree_count; node++)
			if (tid_of(REPLICA, node) == entry->replica)
				break;
		ASSERT_GT(tree_count, node);
		EXPECT_EQ(tid_of(ORIGINAL, node), entry->original);
	}
	EXPECT_EQ(tree_count, entry - tree->map);
}

TEST_F_GUARDED(tree, keeps_what_is_known_of_parents)
{
	copy_by(self->root, self->flags);
	EXPECT_EQ(pid_of(ORIGINAL, self->root),
		  ask(REPLICA, self->child, get_parent, 0));
	EXPECT_EQ(pid_of(ORIGINAL, self->child),
		  ask(REPLICA, self->grandchild, get_parent, 0));
}

TEST_F_GUARDED(tree, keeps_what_is_known_of_groups)
{
	pid_t group = pid_of(ORIGINAL, self->job);

	copy_by(self->root, self->flags);
	EXPECT_EQ(group, ask(REPLICA, self->job, get_group, 0));
	EXPECT_EQ(0, ask(REPLICA, self->root, terminate, -group));
	EXPECT_EQ(SIGTERM, ask(REPLICA, self->root, wait_pid_for, group));
	EXPECT_EQ(0, ask(ORIGINAL, self->job, be_there, 0));
}

TEST_F_GUARDED(tree, has_its_own_children_signalled)
{
	pid_t pid = pid_of(ORIGINAL, self->child);

	copy_by(self->root, self->flags);
	EXPECT_EQ(0, ask(REPLICA, self->root, terminate, pid));
	EXPECT_EQ(SIGTERM, ask(REPLICA, self->root, wait_pid_for, pid));
	tree_expect_alive(_metadata, ORIGINAL);
}

TEST_F_GUARDED(tree, has_its_own_children_waited_for)
{
	pid_t pid = pid_of(ORIGINAL, self->grandchild);

	copy_by(self->root, self->flags);
	EXPECT_EQ(NOTHING_YET, ask(REPLICA, self->child, wait_pid_now, pid));
	end_node(REPLICA, self->grandchild, 4);
	EXPECT_EQ(4 << 8, ask(REPLICA, self->child, wait_pid_for, pid));
	EXPECT_EQ(3 << 8, ask(REPLICA, self->child, wait_pid_now,
			      pid_of(ORIGINAL, self->zombie)));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->child, wait_pid_now, pid));
}

static long wait_blocked_for(struct tree_node *self, long pid)
{
	int status = 0;
	long ret = result_of(waitpid(pid, &status, 0));

	return ret < 0 ? ret : status;
}

TEST_F_GUARDED(tree, goes_on_waiting_for_a_child)
{
	keep_busy(self->thread, wait_blocked_for,
		  pid_of(ORIGINAL, self->grandchild));
	ASSERT_TRUE(wait_until(is_blocked(pid_of(ORIGINAL, self->thread),
					  tid_of(ORIGINAL, self->thread),
					  __NR_wait4), DEADLINE));
	copy_by(self->root, self->flags);
	tell(REPLICA, self->grandchild, end_process, 5);
	EXPECT_EQ(5 << 8, release(REPLICA, self->thread));
	EXPECT_FALSE(has_returned(ORIGINAL, self->thread));
	tell(ORIGINAL, self->grandchild, end_process, 6);
	EXPECT_EQ(6 << 8, release(ORIGINAL, self->thread));
}

TEST_F_GUARDED(tree, has_new_members_born_there)
{
	char ns[NS_LINK_SIZE], root[NS_LINK_SIZE];
	unsigned int node, thread;

	copy_by(self->root, self->flags);
	node = tree_add(_metadata, REPLICA, self->child, false, 0, SIGCHLD);
	thread = tree_add(_metadata, REPLICA, self->child, true, 0, 0);
	EXPECT_EQ(pid_of(ORIGINAL, self->child),
		  ask(REPLICA, node, get_parent, 0));
	ASSERT_TRUE(pid_ns_of(pid_of(REPLICA, self->root), root));
	ASSERT_TRUE(pid_ns_of(pid_of(REPLICA, node), ns));
	EXPECT_STREQ(root, ns);
	EXPECT_EQ(pid_of(ORIGINAL, self->child),
		  ask(REPLICA, thread, get_pid, 0));

	/* So are the children of the root, which lives in it now. */
	node = tree_add(_metadata, REPLICA, self->root, false, 0, SIGCHLD);
	ASSERT_TRUE(pid_ns_of(pid_of(REPLICA, node), ns));
	EXPECT_STREQ(root, ns);
}

/* A descendant's locks that remember the TID of their owner. */
static pthread_mutex_t recursive, checking;
static pthread_t joinable;
static __u32 joinable_gate;

static void *wait_at_gate(void *arg)
{
	while (!load(&joinable_gate))
		futex_wait(&joinable_gate, 0, FUTEX_PRIVATE_FLAG, -1);
	return arg;
}

static long take_locks(struct tree_node *self, long arg)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&recursive, &attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&checking, &attr);
	pthread_create(&joinable, NULL, wait_at_gate, &joinable_gate);
	return -(pthread_mutex_lock(&recursive) ?:
		 pthread_mutex_lock(&checking));
}

static long release_locks(struct tree_node *self, long arg)
{
	return -(pthread_mutex_lock(&recursive) ?:
		 pthread_mutex_unlock(&recursive) ?:
		 pthread_mutex_unlock(&recursive) ?:
		 pthread_mutex_unlock(&checking));
}

static long try_locks(struct tree_node *self, long arg)
{
	return -(pthread_mutex_trylock(&recursive) ?:
		 pthread_mutex_trylock(&checking));
}

static long join_thread_at_gate(struct tree_node *self, long arg)
{
	void *result = NULL;
	struct timespec ts;
	int error;

	store(&joinable_gate, 1);
	futex_wake(&joinable_gate, 1, FUTEX_PRIVATE_FLAG);
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += DEADLINE;
	error = pthread_timedjoin_np(joinable, &result, &ts);
	return error ? -error : result == &joinable_gate;
}

TEST_F_GUARDED(tree, keeps_locks_of_descendants)
{
	int side;

	ASSERT_EQ(0, ask(ORIGINAL, self->thread, take_locks, 0));
	copy_by(self->root, self->flags);
	for (side = REPLICA; side >= ORIGINAL; side--) {
		EXPECT_EQ(-EBUSY, ask(side, self->child, try_locks, 0));
		EXPECT_EQ(0, ask(side, self->thread, release_locks, 0));
		EXPECT_EQ(0, ask(side, self->child, try_locks, 0));
		EXPECT_EQ(1, ask(side, self->child, join_thread_at_gate, 0));
	}
}

/*
 * A shell that waits for its job: it knows it by its PID alone.
 */
static char job_file[64], result_file[80], program[PATH_MAX];

static long run_shell(struct tree_node *self, long arg)
{
	pid_t pid = fork();

	if (pid)
		return pid < 0 ? -errno : pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setenv(JOB_VARIABLE, job_file, 1);
	execl("/bin/sh", "sh", "-c",
	      "\"$0\" & job=$!; wait $job; echo $job $? >>\"$1\"", program,
	      result_file, NULL);
	_exit(127);
}

static pid_t only_child_of(pid_t pid)
{
	pid_t pids[4];

	return list_tree(pid, pids, ARRAY_SIZE(pids)) == 2 ? pids[1] : 0;
}

static bool has_line_twice(const char *line)
{
	char text[256], twice[128];

	snprintf(twice, sizeof(twice), "%s\n%s", line, line);
	return read_file(result_file, text, sizeof(text)) > 0 &&
	       !strcmp(text, twice);
}

TEST_F_GUARDED(tree, with_a_shell_has_it_wait_for_its_job)
{
	pid_t shell, job = 0;
	char line[32];
	__u32 *word;

	snprintf(job_file, sizeof(job_file), "/tmp/fullfork.%d", getpid());
	snprintf(result_file, sizeof(result_file), "%s.result", job_file);
	ASSERT_LT(0, readlink("/proc/self/exe", program, sizeof(program) - 1));
	word = map_job(job_file);
	ASSERT_NE(MAP_FAILED, word);

	/* Other nodes know nothing of what the test has just written. */
	self->root = start_tree();
	self->child = child_of(self->root);
	go_to_namespace(_metadata, self->root, variant->unshared, self->init);
	shell = ask(ORIGINAL, self->child, run_shell, 0);
	ASSERT_LT(0, shell);
	ASSERT_TRUE(wait_until((job = only_child_of(shell)) &&
			       is_blocked(job, job, __NR_futex) &&
			       is_sleeping(shell, shell), DEADLINE))
	{
		dump_tree(getpid());
	}
	tree_strangers = 2;
	copy_by(self->root, self->flags);

	store(&word[JOB_MAY_END], 1);
	futex_wake(&word[JOB_MAY_END], INT_MAX, 0);
	snprintf(line, sizeof(line), "%d %d", job, JOB_CODE);
	EXPECT_TRUE(wait_until(has_line_twice(line), DEADLINE))
	{
		dump_tree(getpid());
	}
	unlink(job_file);
	unlink(result_file);
}

TEST_HARNESS_MAIN
