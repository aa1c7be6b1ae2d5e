/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The nodes of a tree of processes: what they are and what they can be asked.
 *
 * A node is a task: a process, or a thread beside its leader.  It does what the
 * test asks it to, one question at a time.  A question is a function: every node
 * is a fork of the test and has the same program.
 *
 * Original and replica have a slot each in memory that all of them share.  A
 * node tells which of both it is by its PID in /proc: in a replica it is not
 * the one that the memory remembers, even if all TIDs were kept.
 *
 * Nodes never use the harness's macros.  They answer with a value, which is a
 * negative errno where something failed.
 */
#ifndef _FULLFORK_NODE_H
#define _FULLFORK_NODE_H

#include "fullfork_threads.h"

#define TREE_NODES 160

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

/*
 * What every node runs: nothing but answers.  It may be copied between any two
 * steps, and what it knows of its slot is out of date then.  So a question is
 * only taken from a slot that is its own after the question was seen: at the
 * time of a copy, nodes have no question but the one that they are inside of.
 */
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
		if (asked == load(&slot->answered))
			tree_syscall(__NR_futex, (long)&slot->asked, FUTEX_WAIT,
				     asked, 0);
		else if (slot == tree_own_slot(&self))
			tree_answer(&self, slot);
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

static inline long get_pid(struct tree_node *self, long arg)
{
	return syscall(__NR_getpid);
}

static inline long get_tid(struct tree_node *self, long arg)
{
	return sys_gettid();
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

static inline long wait_pid_stopped(struct tree_node *self, long pid)
{
	long ret = NOTHING_YET;

	wait_until((ret = wait_pid_stopped_now(self, pid)) != NOTHING_YET,
		   DEADLINE);
	return ret == NOTHING_YET ? TOO_LATE : ret;
}

static inline long wait_stopped(struct tree_node *self, long index)
{
	return wait_pid_stopped(self, tree_peer(self, index)->pid);
}

/* For a child of the calling thread only. */
static inline long wait_own_now(struct tree_node *self, long index)
{
	int status = 0;
	long ret = result_of(waitpid(tree_peer(self, index)->pid, &status,
				     WNOHANG | __WALL | __WNOTHREAD));

	return ret > 0 ? status : ret ?: NOTHING_YET;
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

/* Opens the terminal of that descriptor: a session leader gets it. */
static inline long open_terminal(struct tree_node *self, long master)
{
	char name[64];

	if (ptsname_r(master, name, sizeof(name)))
		return -errno;
	return result_of(open(name, O_RDWR | O_CLOEXEC));
}

static inline long unshare_it(struct tree_node *self, long flags)
{
	return result_of(unshare(flags));
}

/* Children will be born in the PID namespace of @pid. */
static inline long enter_ns_of(struct tree_node *self, long pid)
{
	char path[64];
	long ret;
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/ns/pid", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = result_of(setns(fd, CLONE_NEWPID));
	close(fd);
	return ret;
}

#endif /* _FULLFORK_NODE_H */
