/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trees of processes, for the selftests of CLONE_SUBTREE
 *
 *	test		looks on, and asks: it alone uses the harness's macros
 *	  guard		ends a test that hangs
 *	  node 0	usually the caller, and so the root of what is copied
 *	    node 1 ...
 *
 * The test knows the tree that it has had made.  After a copy it looks for the
 * replica of every member by its name, and for anything else that is there.
 */
#ifndef _FULLFORK_TREE_H
#define _FULLFORK_TREE_H

#include "fullfork_node.h"

#define TREE_PROCESSES 8192		/* that the machine may have */

/* A status as waitpid() has it for a stop. */
#define stopped_by(sig) ((sig) << 8 | 0x7f)

/*
 * What the test does: /proc
 */

struct proc_stat {
	char comm[32];
	char state;
	int parent;
	int group;
	int session;
	int tty;
	int tty_group;
	int threads;
	int exit_signal;
};

/* /proc/@pid/stat; false if there is no such process. */
static inline bool read_stat(pid_t pid, struct proc_stat *st)
{
	char path[64], text[1024], *name, *rest;

	memset(st, 0, sizeof(*st));
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return false;
	name = strchr(text, '(');
	rest = strrchr(text, ')');
	if (!name || !rest)
		return false;
	*rest = '\0';
	snprintf(st->comm, sizeof(st->comm), "%.31s", name + 1);
	/* From the third field on, which is the state. */
	return sscanf(rest + 1,
		      " %c %d %d %d %d %d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %d %*d %*u %*u %*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %d",
		      &st->state, &st->parent, &st->group, &st->session,
		      &st->tty, &st->tty_group, &st->threads,
		      &st->exit_signal) == 8;
}

/*
 * The PIDs of @root (if there) and of all that descend from it, parents
 * before children; returns how many.
 */
static inline int list_tree(pid_t root, pid_t *pids, int max)
{
	static pid_t all[TREE_PROCESSES], parent[TREE_PROCESSES];
	struct dirent *entry;
	int i, next, n = 0, count = 0;
	struct proc_stat st;
	DIR *dir = opendir("/proc");

	if (!dir)
		return 0;
	while ((entry = readdir(dir)) && n < TREE_PROCESSES) {
		pid_t pid = atoi(entry->d_name);

		if (pid <= 0 || !read_stat(pid, &st))
			continue;
		if (pid == root && count < max)
			pids[count++] = pid;
		all[n] = pid;
		parent[n++] = st.parent;
	}
	closedir(dir);
	for (next = 0; next < count; next++)
		for (i = 0; i < n && count < max; i++)
			if (parent[i] == pids[next])
				pids[count++] = all[i];
	return count;
}

static inline int count_tree(pid_t root)
{
	pid_t pids[2 * TREE_NODES];

	return list_tree(root, pids, ARRAY_SIZE(pids));
}

static inline void dump_tree(pid_t root)
{
	pid_t pids[2 * TREE_NODES];
	int i, count = list_tree(root, pids, ARRAY_SIZE(pids));

	for (i = 0; i < count; i++)
		dump_process(pids[i]);
}

/* True if every task of the process is in that state. */
static inline bool all_in_state(pid_t pid, char state)
{
	struct dirent *entry;
	char path[64];
	bool all = true;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while ((entry = readdir(dir)))
		all &= entry->d_name[0] == '.' ||
		       task_state(pid, atoi(entry->d_name)) == state;
	closedir(dir);
	return all;
}

/* The last of the numbers of a status field: that of the innermost namespace. */
static inline pid_t innermost(pid_t pid, pid_t tid, const char *field)
{
	char buf[128], *last;

	if (!read_status_field(pid, tid, field, buf, sizeof(buf)))
		return -1;
	last = strrchr(buf, '\t');
	return atoi(last ? last + 1 : buf);
}

/*
 * What the test does: the tree.  Kept by the test alone.
 */

enum node_state {
	NODE_IDLE,		/* answers */
	NODE_BUSY,		/* is in a question that does not end */
	NODE_ENDED,		/* a zombie */
	NODE_GONE,
};

static struct {
	enum node_state state;
	unsigned int maker;	/* the task that made it, or its new parent */
	unsigned int process;	/* the leader of its process */
} tree_nodes[TREE_NODES];

static unsigned int tree_count;
static int tree_strangers;		/* processes of the tree, but no nodes */
static pid_t tree_guard;

static inline struct tree_slot *slot_of(enum side side, unsigned int node)
{
	return &tree->slot[side][node];
}

/* As /proc shows them to the test */
#define pid_of(side, node) (slot_of(side, node)->outer_pid)
#define tid_of(side, node) (slot_of(side, node)->outer_tid)

/*
 * The ASSERT of these helpers.  On success it leaves alone what an EXPECT may
 * have noted before: they are called from inside of one.
 */
#define tree_check(cond, fmt, ...)					\
do {									\
	if (!(cond)) {							\
		TH_LOG(fmt, ##__VA_ARGS__);				\
		dump_tree(getpid());					\
		ASSERT_STREQ("", #cond);				\
	}								\
} while (0)

static inline void tree_post(struct __test_metadata *_metadata, enum side side,
			     unsigned int node, tree_fn fn, long arg)
{
	struct tree_slot *slot = slot_of(side, node);

	tree_check(load(&slot->asked) == load(&slot->answered),
		   "node %u is asked while it is busy", node);
	slot->fn = fn;
	slot->arg = arg;
	add(&slot->asked, 1);
	futex_wake(&slot->asked, INT_MAX, 0);
}

static inline bool has_answered(enum side side, unsigned int node)
{
	struct tree_slot *slot = slot_of(side, node);

	return load(&slot->asked) == load(&slot->answered);
}

static inline long tree_await(struct __test_metadata *_metadata, enum side side,
			      unsigned int node)
{
	tree_check(wait_until(has_answered(side, node), ANSWER_DEADLINE),
		   "node %u of the %s does not answer", node,
		   side == ORIGINAL ? "original" : "replica");
	return slot_of(side, node)->value;
}

static inline long tree_ask(struct __test_metadata *_metadata, enum side side,
			    unsigned int node, tree_fn fn, long arg)
{
	tree_post(_metadata, side, node, fn, arg);
	return tree_await(_metadata, side, node);
}

static inline void tree_wait_there(struct __test_metadata *_metadata,
				   enum side side, unsigned int node)
{
	struct tree_slot *slot = slot_of(side, node);

	tree_check(wait_until(load(&slot->there), DEADLINE),
		   "node %u is not there", node);
}

static inline unsigned int tree_new_node(struct __test_metadata *_metadata,
					 unsigned int maker, bool thread)
{
	unsigned int node = tree_count;

	tree_check(node < TREE_NODES, "too many nodes");
	tree_count++;
	tree_nodes[node].maker = maker;
	tree_nodes[node].process = thread ? tree_nodes[maker].process : node;
	return node;
}

/* Node 0, a child of the test. */
static inline unsigned int tree_start(struct __test_metadata *_metadata)
{
	unsigned int node = tree_new_node(_metadata, tree_count, false);
	pid_t pid = fork();

	tree_check(pid >= 0, "fork: %s", strerror(errno));
	if (!pid)
		tree_serve(node, SIDE_ORIGINAL);
	tree_wait_there(_metadata, ORIGINAL, node);
	return node;
}

static inline unsigned int tree_add(struct __test_metadata *_metadata,
				    enum side side, unsigned int maker,
				    bool thread, __u64 flags, int exit_signal)
{
	unsigned int node = tree_new_node(_metadata, maker, thread);
	struct tree_slot *slot = slot_of(side, node);
	long ret;

	slot->flags = flags;
	slot->exit_signal = exit_signal;
	ret = tree_ask(_metadata, side, maker, thread ? make_thread : make_child,
		       node);
	tree_check(ret >= 0, "node %u: %s", node, strerror(-ret));
	tree_wait_there(_metadata, side, node);
	return node;
}

/* Is the process of @node that of @caller, or one below it? */
static inline bool is_below(unsigned int node, unsigned int caller)
{
	unsigned int top = tree_nodes[caller].process;

	while (tree_nodes[node].process != top) {
		node = tree_nodes[node].process;
		if (tree_nodes[node].maker == node)
			return false;
		node = tree_nodes[node].maker;
	}
	return true;
}

/* Is @node copied by a call of @caller, or of one that names @caller? */
static inline bool is_member(unsigned int node, unsigned int caller)
{
	if (tree_nodes[node].state == NODE_GONE || !is_below(node, caller))
		return false;
	return tree_nodes[node].process != tree_nodes[caller].process ||
	       tree->args.flags & CLONE_ALL_THREADS || node == caller;
}

static inline bool is_found(unsigned int node)
{
	return pid_of(REPLICA, node);
}

/* Finds replicas, whatever they do, by the names that their originals have. */
static inline void tree_find_tasks(pid_t pid)
{
	struct tree_slot *slot;
	char path[400], comm[32];
	struct dirent *entry;
	unsigned int node;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		pid_t tid = atoi(entry->d_name);

		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", pid,
			 entry->d_name);
		if (tid <= 0 || read_file(path, comm, sizeof(comm)) <= 0 ||
		    sscanf(comm, "node-%u", &node) != 1 || node >= TREE_NODES)
			continue;
		slot = slot_of(REPLICA, node);
		slot->pid = innermost(pid, tid, "NStgid");
		slot->tid = innermost(pid, tid, "NSpid");
		slot->outer_tid = tid;
		slot->outer_pid = pid;
	}
	closedir(dir);
}

static inline int count_member_processes(unsigned int caller)
{
	unsigned int node;
	int count = 0;

	for (node = 0; node < tree_count; node++)
		count += tree_nodes[node].process == node &&
			 (is_member(node, caller) ||
			  node == tree_nodes[caller].process);
	return count;
}

/* Expects the replica of each node below @caller's, and no other process. */
static inline void tree_find_replicas(struct __test_metadata *_metadata,
				      unsigned int caller, pid_t root)
{
	pid_t pids[2 * TREE_NODES];
	int i, count = list_tree(root, pids, ARRAY_SIZE(pids));
	unsigned int node;

	for (i = 0; i < count; i++)
		tree_find_tasks(pids[i]);
	for (node = 0; node < tree_count; node++) {
		EXPECT_EQ(is_member(node, caller), is_found(node))
		{
			TH_LOG("replica of node %u", node);
		}
	}
	EXPECT_EQ(count_member_processes(caller) + tree_strangers, count);
	if (_metadata->exit_code)
		dump_tree(getpid());
}

static inline void tree_set_args(__u64 flags)
{
	tree->args = (struct fullfork_args) {
		.flags = flags,
		.exit_signal = flags & (CLONE_PARENT | CLONE_AUTOREAP) ?
				0 : SIGCHLD,
	};
}

/* Replicas of one copy at a time have the slots. */
static inline void tree_clear_replicas(struct __test_metadata *_metadata)
{
	unsigned int node;
	char state;

	for (node = 0; node < tree_count; node++) {
		state = task_state(pid_of(REPLICA, node), tid_of(REPLICA, node));
		tree_check(!is_found(node) || !state || state == 'Z',
			   "the last replica of node %u is still there", node);
	}
	memset(tree->slot[REPLICA], 0, sizeof(tree->slot[REPLICA]));
}

/* The call with tree->args by node @caller: what it returns there. */
static inline long tree_call(struct __test_metadata *_metadata,
			     unsigned int caller)
{
	tree_clear_replicas(_metadata);
	return tree_ask(_metadata, ORIGINAL, caller, call_clone3, 0);
}

/* The same, which must succeed, and what it made is looked for. */
static inline pid_t tree_copy(struct __test_metadata *_metadata,
			      unsigned int caller)
{
	long pid = tree_call(_metadata, caller);

	tree_check(pid > 0, "clone3: %s", strerror(-pid));
	tree_find_replicas(_metadata, caller, pid);
	tree_check(is_found(caller), "there is no replica of the caller");
	return pid;
}

/* Wakes a replica that still waits in the slot of its original. */
static inline bool tree_nudge(unsigned int node)
{
	futex_wake(&slot_of(ORIGINAL, node)->asked, INT_MAX, 0);
	return load(&slot_of(REPLICA, node)->there);
}

/* Waits until the replica of a node has come to its own slot. */
static inline void tree_meet(struct __test_metadata *_metadata,
			     unsigned int node)
{
	tree_check(wait_until(tree_nudge(node), DEADLINE),
		   "the replica of node %u does not go on", node);
}

/* All that are not in a question; the caller's must have got its zero. */
static inline void tree_meet_all(struct __test_metadata *_metadata,
				 unsigned int caller)
{
	unsigned int node;

	for (node = 0; node < tree_count; node++)
		if (is_found(node) && tree_nodes[node].state == NODE_IDLE)
			tree_meet(_metadata, node);
	if (!is_found(caller))
		return;
	tree_check(load(&slot_of(REPLICA, caller)->returned) == 1 &&
		   !slot_of(REPLICA, caller)->value,
		   "the caller's replica got %ld",
		   slot_of(REPLICA, caller)->value);
}

/* A copy that goes on at once: the PID of the root's replica. */
static inline pid_t tree_copy_by(struct __test_metadata *_metadata,
				 unsigned int caller, __u64 flags)
{
	pid_t pid;

	tree_set_args(flags);
	pid = tree_copy(_metadata, caller);
	tree_meet_all(_metadata, caller);
	return pid;
}

/* A copy by the test itself, of the process that @root is and what is below. */
static inline pid_t tree_copy_named(struct __test_metadata *_metadata,
				    unsigned int root, __u64 flags)
{
	int pidfd = sys_pidfd_open(pid_of(ORIGINAL, root));
	unsigned int node;
	long pid;

	tree_check(pidfd >= 0, "pidfd_open: %s", strerror(errno));
	tree_set_args(flags | CLONE_FROM_PIDFD);
	tree->args.source_pidfd = pidfd;
	tree_clear_replicas(_metadata);
	pid = sys_clone3(&tree->args, sizeof(tree->args));
	tree_check(pid > 0, "clone3: %s", strerror(-pid));
	close(pidfd);
	tree_find_replicas(_metadata, root, pid);
	for (node = 0; node < tree_count; node++)
		if (is_found(node) && tree_nodes[node].state == NODE_IDLE)
			tree_meet(_metadata, node);
	return pid;
}

/* Asks for something that the node will not come back from soon. */
static inline void tree_keep_busy(struct __test_metadata *_metadata,
				  unsigned int node, tree_fn fn, long arg)
{
	tree_post(_metadata, ORIGINAL, node, fn, arg);
	tree_nodes[node].state = NODE_BUSY;
}

static inline bool has_returned(enum side side, unsigned int node)
{
	return side == ORIGINAL ? has_answered(side, node) :
	       load(&slot_of(side, node)->returned);
}

/* What kept a node busy has ended: with what. */
static inline long tree_release(struct __test_metadata *_metadata,
				enum side side, unsigned int node)
{
	tree_check(wait_until(has_returned(side, node), DEADLINE),
		   "node %u of the %s is still busy", node,
		   side == ORIGINAL ? "original" : "replica");
	return slot_of(side, node)->value;
}

/* A zombie with several threads cannot be waited for yet. */
static inline bool has_ended(pid_t pid)
{
	struct proc_stat st;

	return read_stat(pid, &st) && st.state == 'Z' && st.threads <= 1;
}

/* Has a node end itself, by @fn, and stay as a zombie. */
static inline void tree_end(struct __test_metadata *_metadata, enum side side,
			    unsigned int node, tree_fn fn, long arg)
{
	pid_t pid = pid_of(side, node);

	tree_post(_metadata, side, node, fn, arg);
	tree_check(wait_until(has_ended(pid), DEADLINE),
		   "node %u does not end", node);
	if (side == ORIGINAL)
		tree_nodes[node].state = NODE_ENDED;
}

/* Has one thread end, the others live on. */
static inline void tree_end_thread(struct __test_metadata *_metadata,
				   enum side side, unsigned int node, long code)
{
	pid_t pid = pid_of(side, node), tid = tid_of(side, node);

	tree_post(_metadata, side, node, end_node_thread, code);
	tree_check(wait_until(!task_state(pid, tid) ||
			      task_state(pid, tid) == 'Z', DEADLINE),
		   "thread %u does not end", node);
	if (side == ORIGINAL)
		tree_nodes[node].state = pid == tid ? NODE_ENDED : NODE_GONE;
}

/* A signal from the test, which sees every node. */
static inline void tree_signal(struct __test_metadata *_metadata, enum side side,
			       unsigned int node, int sig)
{
	tree_check(!kill(pid_of(side, node), sig), "kill: %s", strerror(errno));
}

static inline bool is_gone(pid_t pid)
{
	return kill(pid, 0) < 0 && errno == ESRCH;
}

/* Every node that answers must do so. */
static inline void tree_expect_alive(struct __test_metadata *_metadata,
				     enum side side)
{
	unsigned int node;

	for (node = 0; node < tree_count; node++) {
		if (tree_nodes[node].state != NODE_IDLE ||
		    (side == REPLICA && !is_found(node)))
			continue;
		EXPECT_EQ(0, tree_ask(_metadata, side, node, be_there, 0));
	}
}

/*
 * Short forms, for the body of a test
 */

#define start_tree() tree_start(_metadata)
#define child_of(node)							\
	tree_add(_metadata, ORIGINAL, node, false, 0, SIGCHLD)
#define clone_of(node, flags, sig)					\
	tree_add(_metadata, ORIGINAL, node, false, flags, sig)
#define thread_of(node)							\
	tree_add(_metadata, ORIGINAL, node, true, 0, 0)
#define ask(side, node, fn, arg) tree_ask(_metadata, side, node, fn, arg)
#define tell(side, node, fn, arg) tree_post(_metadata, side, node, fn, arg)
#define keep_busy(node, fn, arg) tree_keep_busy(_metadata, node, fn, arg)
#define release(side, node) tree_release(_metadata, side, node)
#define end_node(side, node, code)					\
	tree_end(_metadata, side, node, end_process, code)
#define end_node_by(node, fn, arg)					\
	tree_end(_metadata, ORIGINAL, node, fn, arg)
#define signal_node(side, node, sig) tree_signal(_metadata, side, node, sig)
#define call_by(node) tree_call(_metadata, node)

#define copy_by(node, flags) tree_copy_by(_metadata, node, flags)
#define copy_named(node, flags) tree_copy_named(_metadata, node, flags)

/*
 * Set-up and tear-down
 */

/* Kills @root's descendants (not @root) but for @except; true when done. */
static inline bool kill_descendants(pid_t root, pid_t except)
{
	pid_t pids[2 * TREE_NODES];
	int i, left = 0, count = list_tree(root, pids, ARRAY_SIZE(pids));
	struct proc_stat st;

	for (i = 1; i < count; i++) {
		if (pids[i] == except || !read_stat(pids[i], &st))
			continue;
		/* A zombie with several threads is not yet dead. */
		if (st.state == 'Z' && st.threads <= 1)
			continue;
		kill(pids[i], SIGKILL);
		left++;
	}
	return !left;
}

/* What the test has not killed itself, because it is not there any more. */
static inline void kill_recorded_nodes(void)
{
	struct proc_stat st;
	int side, i;

	for (side = SIDE_ORIGINAL; side <= SIDE_REPLICA; side++) {
		for (i = 0; i < TREE_NODES; i++) {
			pid_t pid = pid_of(side, i);

			if (pid && read_stat(pid, &st) &&
			    !strncmp(st.comm, "node-", 5))
				kill(pid, SIGKILL);
		}
	}
}

static inline __noreturn void run_tree_guard(pid_t test)
{
	prctl(PR_SET_NAME, "guard");
	wait_until(getppid() != test, TEST_DEADLINE);
	if (getppid() == test) {
		fprintf(stderr, "# the test hangs:\n");
		dump_tree(test);
		wait_until(kill_descendants(test, getpid()), DEADLINE);
		kill(test, SIGKILL);
	} else {
		kill_recorded_nodes();
	}
	_exit(0);
}

static inline int try_subtree(void *unused)
{
	return REPLICA_PASS;
}

/* Skips or fails, as require_fullfork() does, where there is no subtree. */
static inline void require_subtree(struct __test_metadata *_metadata)
{
	struct fullfork_args args = {
		.flags = CLONE_SUBTREE,
		.exit_signal = SIGCHLD,
	};
	long pid;

	require_fullfork(_metadata);
	pid = replica_main(sys_clone3(&args, sizeof(args)), try_subtree, NULL);
	skip_unless(pid != -EINVAL, _exit(0), "the kernel has no CLONE_SUBTREE");
	ASSERT_LT(0, pid)
	{
		TH_LOG("CLONE_SUBTREE: %s", strerror(-pid));
	}
	expect_pass(_metadata, pid);
}

/* To be called first in each FIXTURE_SETUP. */
static inline void setup_tree(struct __test_metadata *_metadata)
{
	pid_t test = getpid();

	require_subtree(_metadata);
	tree = mmap(NULL, sizeof(*tree), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, tree);
	/* Orphans come to the test, which ends them. */
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	tree_guard = fork();
	ASSERT_LE(0, tree_guard);
	if (!tree_guard)
		run_tree_guard(test);
}

static inline void reap_children(void)
{
	int status;

	while (waitpid(-1, &status, WNOHANG | __WALL) > 0)
		;
}

/* To be called in each FIXTURE_TEARDOWN: ends whatever the test has started. */
static inline void teardown_tree(struct __test_metadata *_metadata)
{
	unsigned int node;
	bool gone;

	if (!tree_guard)
		return;
	/* A reaper in a PID namespace of its own may have adopted some. */
	for (node = 0; node < tree_count; node++)
		if (is_found(node))
			kill(pid_of(REPLICA, node), SIGKILL);
	gone = wait_until(({
		bool killed = kill_descendants(getpid(), tree_guard);

		reap_children();
		killed && count_tree(getpid()) <= 2;
	}), 6 * DEADLINE);
	if (!gone) {
		_metadata->exit_code = KSFT_FAIL;
		fprintf(stderr, "# something cannot be ended:\n");
		dump_tree(getpid());
	}
	if (report->failures) {
		_metadata->exit_code = KSFT_FAIL;
		fprintf(stderr, "# %s\n", report->failure);
	}
	kill(tree_guard, SIGKILL);
	waitpid(tree_guard, NULL, 0);
}

/* Ends a replica tree of which no test wants more; a new copy may be made. */
static inline void tree_end_replicas(struct __test_metadata *_metadata,
				     unsigned int caller, pid_t root)
{
	tree_check(wait_until(kill_descendants(root, 0), DEADLINE) &&
		   !kill(root, SIGKILL), "replicas cannot be ended");
	tree_check(tree_ask(_metadata, ORIGINAL, caller, wait_pid_for,
			    root) >= 0, "the root's replica does not end");
}

#define end_replicas(caller, root) tree_end_replicas(_metadata, caller, root)

#endif /* _FULLFORK_TREE_H */
