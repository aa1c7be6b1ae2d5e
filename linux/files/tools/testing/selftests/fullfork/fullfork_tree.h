/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trees of processes, for the selftests of CLONE_SUBTREE
 *
 * A node is a task of the tree: a process, or a thread beside its leader.  It
 * does what the test asks it to, one question at a time.  A question is a
 * function: every node is a fork of the test and has the same program.
 *
 *	test		looks on, has no member below it that it copies itself
 *	  guard		ends a test that hangs
 *	  node 0	usually the caller, and so the root of what is copied
 *	    node 1 ...
 *
 * Original and replica have a slot each in memory that all of them share.  A
 * node tells which of both it is by its PID in /proc: in a replica it is not
 * the one that the memory remembers, even if all TIDs were kept.
 *
 * The test alone uses the harness's macros.  Nodes answer with a value, which
 * is a negative errno where something failed.
 */
#ifndef _FULLFORK_TREE_H
#define _FULLFORK_TREE_H

#include "fullfork_threads.h"

#define TREE_NODES 160
#define TREE_PROCESSES 8192		/* that the machine may have */

#define ORIGINAL SIDE_ORIGINAL
#define REPLICA SIDE_REPLICA

/* A question must be answered a little later than it gives up by itself. */
#define ANSWER_DEADLINE (DEADLINE + 15)

/* What a task keeps on its own stack. */
struct tree_node {
	unsigned int index;
	enum side born;
	pid_t home;			/* its PID in /proc, as it was born */
	__u64 counter;			/* free for the tests */
};

typedef long (*tree_fn)(struct tree_node *self, long arg);

struct tree_slot {
	__u32 asked;			/* number of the question: a futex */
	__u32 answered;
	__u32 there;			/* introduced itself */
	__u32 returned;			/* from what it was copied inside */
	tree_fn fn;
	long arg;
	long value;
	/* As it sees itself, and as /proc shows it. */
	__s32 pid;
	__s32 tid;
	__s32 outer_pid;
	__s32 outer_tid;
	/* How it is to be made */
	__u64 flags;
	int exit_signal;
	/* Free for the tests */
	__u32 steps;
	char text[128];
};

struct tree {
	struct fullfork_args args;	/* of the call */
	int pidfd;
	__s32 parent_tid;
	__u32 word[REPORT_WORDS];	/* free for the tests */
	struct fullfork_tid_map map[TREE_NODES];
	struct tree_slot slot[SIDE_REPLICA + 1][TREE_NODES];
};

static struct tree *tree;

/* Private memory of each process, free for the tests */
static __u64 private_word[TREE_NODES] __maybe_unused;

/*
 * What the nodes do
 */

/* Processes that share their memory share errno as well: do without. */
static inline long tree_syscall(long nr, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	register long r10 asm("r10") = d;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
		     : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 asm("x8") = nr;
	register long x0 asm("x0") = a;
	register long x1 asm("x1") = b;
	register long x2 asm("x2") = c;
	register long x3 asm("x3") = d;

	asm volatile("svc #0" : "+r"(x0)
		     : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
#else
	long ret = syscall(nr, a, b, c, d);

	return ret < 0 ? -errno : ret;
#endif
}

static inline int read_number(const char **text)
{
	int value = 0;

	while (**text >= '0' && **text <= '9')
		value = value * 10 + *(*text)++ - '0';
	return value;
}

/* The PID and TID of the calling task in /proc; 0 if that is not its /proc. */
static inline pid_t outer_pid(pid_t *tid)
{
	char link[64] = "";
	const char *pos = link;
	pid_t pid;

	if (tree_syscall(__NR_readlinkat, AT_FDCWD, (long)"/proc/thread-self",
			 (long)link, sizeof(link) - 1) <= 0)
		return 0;
	pid = read_number(&pos);
	pos += strlen("/task/");
	if (tid)
		*tid = read_number(&pos);
	return pid;
}

static inline enum side tree_side(const struct tree_node *self)
{
	return outer_pid(NULL) == self->home ? self->born : SIDE_REPLICA;
}

static inline struct tree_slot *tree_own_slot(const struct tree_node *self)
{
	return &tree->slot[tree_side(self)][self->index];
}

/* The slot of another node on the same side. */
static inline struct tree_slot *tree_peer(const struct tree_node *self,
					  unsigned int index)
{
	return &tree->slot[tree_side(self)][index];
}

static inline void tree_introduce(struct tree_slot *slot)
{
	slot->pid = tree_syscall(__NR_getpid, 0, 0, 0, 0);
	slot->tid = tree_syscall(__NR_gettid, 0, 0, 0, 0);
	slot->outer_pid = outer_pid(&slot->outer_tid);
	store(&slot->there, 1);
}

static inline void tree_answer(struct tree_node *self, struct tree_slot *slot)
{
	long value = slot->fn(self, slot->arg);
	struct tree_slot *now = tree_own_slot(self);

	now->value = value;
	if (now == slot)
		store(&slot->answered, load(&slot->asked));
	else
		add(&now->returned, 1);
}

/* What every node runs: nothing but answers. */
static inline __noreturn void tree_serve(unsigned int index, enum side born)
{
	struct tree_node self = {
		.index = index,
		.born = born,
		.home = outer_pid(NULL),
	};
	char name[16];

	snprintf(name, sizeof(name), "node-%u", index);
	tree_syscall(__NR_prctl, PR_SET_NAME, (long)name, 0, 0);
	for (;;) {
		struct tree_slot *slot = tree_own_slot(&self);
		__u32 asked = load(&slot->asked);

		if (!load(&slot->there))
			tree_introduce(slot);
		if (asked != load(&slot->answered))
			tree_answer(&self, slot);
		else
			tree_syscall(__NR_futex, (long)&slot->asked, FUTEX_WAIT,
				     asked, 0);
	}
}

/*
 * Questions
 */

/* What else a question may be answered with */
#define NOTHING_YET (-EAGAIN)
#define TOO_LATE (-ETIME)

/* 0 or more, or the negative errno. */
#define result_of(call)							\
({									\
	long __ret = (call);						\
									\
	__ret < 0 ? -(long)errno : __ret;				\
})

static inline long be_there(struct tree_node *self, long arg)
{
	return 0;
}

static inline void *tree_thread(void *arg)
{
	unsigned long start = (unsigned long)arg;

	tree_serve(start / 4, start % 4);
}

static inline int tree_sharer(void *arg)
{
	unsigned long start = (unsigned long)arg;

	tree_serve(start / 4, start % 4);
}

/* A process that shares the memory needs a stack of its own there. */
static inline long tree_clone_vm(struct tree_slot *slot, unsigned long start)
{
	const size_t size = 256 * 1024;
	char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

	if (stack == MAP_FAILED)
		return -errno;
	return result_of(clone(tree_sharer, stack + size,
			       slot->flags | slot->exit_signal, (void *)start));
}

/* Makes node @index, a child of the calling task: its PID. */
static inline long make_child(struct tree_node *self, long index)
{
	enum side side = tree_side(self);
	struct tree_slot *slot = tree_peer(self, index);
	struct fullfork_args args = {
		.flags = slot->flags,
		.exit_signal = slot->exit_signal,
	};
	long pid;

	if (args.flags & CLONE_VM)
		return tree_clone_vm(slot, index * 4 + side);
	if (args.flags || args.exit_signal != SIGCHLD)
		pid = sys_clone3(&args, sizeof(args));
	else
		pid = result_of(fork());
	if (!pid)
		tree_serve(index, side);
	return pid;
}

/* Makes node @index, a thread of the calling process. */
static inline long make_thread(struct tree_node *self, long index)
{
	unsigned long start = index * 4 + tree_side(self);
	pthread_attr_t attr;
	pthread_t thread;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	error = pthread_create(&thread, &attr, tree_thread, (void *)start);
	pthread_attr_destroy(&attr);
	return -error;
}

static inline long call_clone3(struct tree_node *self, long arg)
{
	return sys_clone3(&tree->args, sizeof(tree->args));
}

static inline long end_process(struct tree_node *self, long code)
{
	replica_exit(code);
	return 0;
}

static inline long end_node_thread(struct tree_node *self, long code)
{
	for (;;)
		syscall(__NR_exit, code);
	return 0;
}

static inline long get_parent(struct tree_node *self, long arg)
{
	return syscall(__NR_getppid);
}

static inline long get_group(struct tree_node *self, long arg)
{
	return result_of(getpgid(0));
}

static inline long get_session(struct tree_node *self, long arg)
{
	return result_of(getsid(0));
}

/* Joins the process group that node @index leads, or leads one if it is that. */
static inline long join_group(struct tree_node *self, long index)
{
	pid_t group = index == self->index ? 0 : tree_peer(self, index)->pid;

	return result_of(setpgid(0, group));
}

static inline long lead_session(struct tree_node *self, long arg)
{
	return result_of(setsid());
}

/* The status of a child that ended, by its PID, or NOTHING_YET. */
static inline long wait_pid_now(struct tree_node *self, long pid)
{
	int status = 0;
	long ret = result_of(waitpid(pid, &status, WNOHANG | __WALL));

	return ret > 0 ? status : ret ?: NOTHING_YET;
}

/* The same with stops. */
static inline long wait_pid_stopped_now(struct tree_node *self, long pid)
{
	int status = 0;
	long ret = result_of(waitpid(pid, &status,
				     WNOHANG | WUNTRACED | __WALL));

	return ret > 0 ? status : ret ?: NOTHING_YET;
}

/* Children are named by node; the PIDs are those of the same side. */
static inline long wait_now(struct tree_node *self, long index)
{
	return wait_pid_now(self, tree_peer(self, index)->pid);
}

static inline long wait_stopped_now(struct tree_node *self, long index)
{
	return wait_pid_stopped_now(self, tree_peer(self, index)->pid);
}

static inline long wait_pid_for(struct tree_node *self, long pid)
{
	long ret = NOTHING_YET;

	wait_until((ret = wait_pid_now(self, pid)) != NOTHING_YET, DEADLINE);
	return ret == NOTHING_YET ? TOO_LATE : ret;
}

static inline long wait_for(struct tree_node *self, long index)
{
	return wait_pid_for(self, tree_peer(self, index)->pid);
}

static inline long wait_stopped(struct tree_node *self, long index)
{
	long ret = NOTHING_YET;

	wait_until((ret = wait_stopped_now(self, index)) != NOTHING_YET,
		   DEADLINE);
	return ret == NOTHING_YET ? TOO_LATE : ret;
}

static inline long block_node_signal(struct tree_node *self, long sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return result_of(sigprocmask(SIG_BLOCK, &set, NULL));
}

static inline long ignore_signal(struct tree_node *self, long sig)
{
	return signal(sig, SIG_IGN) == SIG_ERR ? -(long)errno : 0;
}

static inline long default_signal(struct tree_node *self, long sig)
{
	return signal(sig, SIG_DFL) == SIG_ERR ? -(long)errno : 0;
}

/* Takes a blocked signal that comes: the PID of the sender. */
static inline long take_signal(struct tree_node *self, long sig)
{
	struct timespec wait = { .tv_sec = DEADLINE };
	siginfo_t info = {};
	sigset_t set;
	long ret;

	sigemptyset(&set);
	sigaddset(&set, sig);
	ret = result_of(sigtimedwait(&set, &info, &wait));
	return ret < 0 ? ret : info.si_pid;
}

/* Takes a blocked signal that has come: its number, or NOTHING_YET. */
static inline long take_signal_now(struct tree_node *self, long sig)
{
	struct timespec now = {};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return result_of(sigtimedwait(&set, NULL, &now));
}

/* A signal to a node, or with GROUP to the process group that it leads. */
#define GROUP 0x10000
#define signal_to(node, sig) ((node) * 256 + (sig))

static inline long send_signal(struct tree_node *self, long arg)
{
	pid_t pid = tree_peer(self, arg % GROUP / 256)->pid;

	return result_of(kill(arg & GROUP ? -pid : pid, arg % 256));
}

/* An attribute of prctl() that is on or off. */
static inline long set_option(struct tree_node *self, long option)
{
	return result_of(prctl(option, 1, 0, 0, 0));
}

/* A process, or a group if it is negative, by a number that is remembered. */
static inline long terminate(struct tree_node *self, long pid)
{
	return result_of(kill(pid, SIGTERM));
}

static inline long set_private_word(struct tree_node *self, long value)
{
	private_word[self->index] = value;
	self->counter = ~value;
	keep_in_memory(self);
	return 0;
}

/* What set_private_word() has left, or -EILSEQ. */
static inline long get_private_word(struct tree_node *self, long arg)
{
	keep_in_memory(private_word);
	keep_in_memory(self);
	if (private_word[self->index] != ~self->counter)
		return -EILSEQ;
	return private_word[self->index];
}

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
	char path[64], text[1024], *open, *close;

	memset(st, 0, sizeof(*st));
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return false;
	open = strchr(text, '(');
	close = strrchr(text, ')');
	if (!open || !close)
		return false;
	*close = '\0';
	snprintf(st->comm, sizeof(st->comm), "%s", open + 1);
	/* The fields are numbered from 1: state is the third. */
	return sscanf(close + 1,
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

/* True if a member of what @caller copies has become this node's ancestor. */
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

/* Is @node copied by a call of @caller, or @caller the root that is named? */
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

/* The call with tree->args by node @caller: what it returns there. */
static inline long tree_call(struct __test_metadata *_metadata,
			     unsigned int caller)
{
	memset(tree->slot[REPLICA], 0, sizeof(tree->slot[REPLICA]));
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
	memset(tree->slot[REPLICA], 0, sizeof(tree->slot[REPLICA]));
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

/* Has a node end itself, by @fn, and stay as a zombie. */
static inline void tree_end(struct __test_metadata *_metadata, enum side side,
			    unsigned int node, tree_fn fn, long arg)
{
	pid_t pid = pid_of(side, node);

	tree_post(_metadata, side, node, fn, arg);
	tree_check(wait_until(task_state(pid, pid) == 'Z', DEADLINE),
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
	if (pid == -EINVAL && !getenv("KSFT_FULLFORK_EXPECT"))
		SKIP(_exit(0), "the kernel has no CLONE_SUBTREE");
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
	bool gone;

	if (!tree_guard)
		return;
	gone = wait_until(({
		bool killed = kill_descendants(getpid(), tree_guard);

		reap_children();
		killed && count_tree(getpid()) <= 2;
	}), DEADLINE);
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
