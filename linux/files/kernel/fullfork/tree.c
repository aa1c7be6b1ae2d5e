// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: which processes are copied, and may they be?
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/fullfork.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/seccomp.h>
#include <linux/slab.h>

#include "internal.h"

/*
 * Callers wait here for a process that another operation has, and those that may
 * be marked by another operation meanwhile.
 */
DECLARE_WAIT_QUEUE_HEAD(fullfork_waiters);

static void wake_waiters(void)
{
	/* Callers look after they queued themselves. */
	if (wq_has_sleeper(&fullfork_waiters))
		wake_up_all(&fullfork_waiters);
}

static int alloc_groups(struct fullfork *op, unsigned int nr)
{
	struct fullfork_group *g;

	while (nr--) {
		g = kzalloc_obj(*g, GFP_KERNEL_ACCOUNT);
		if (!g)
			return fullfork_fail(op, -ENOMEM, FULLFORK_MEMORY, current);
		g->op = op;
		INIT_LIST_HEAD(&g->members);
		INIT_LIST_HEAD(&g->bystanders);
		list_add(&g->node, &op->spare);
	}
	return 0;
}

/* Take a group from the spare ones for the process of @t. */
static struct fullfork_group *init_group(struct fullfork *op, struct task_struct *t)
{
	struct fullfork_group *g;

	g = list_first_entry_or_null(&op->spare, struct fullfork_group, node);
	if (!g)
		return NULL;
	g->task = get_task_struct(t);
	g->signal = t->signal;
	return g;
}

static void free_groups(struct list_head *groups)
{
	struct fullfork_group *g, *next;

	list_for_each_entry_safe(g, next, groups, node) {
		list_del(&g->node);
		put_pid(g->pid);
		if (g->task)
			put_task_struct(g->task);
		kfree(g);
	}
}

void fullfork_free_groups(struct fullfork *op)
{
	free_groups(&op->groups);
	free_groups(&op->spare);
}

static struct pid *get_source_pid(struct fullfork *op)
{
	unsigned int flags;

	if (op->request)
		return get_pid(op->request->source);
	if (op->kargs->source_pidfd > INT_MAX)
		return ERR_PTR(-EBADF);
	return pidfd_get_pid(op->kargs->source_pidfd, &flags);
}

static struct task_struct *get_source(struct fullfork *op)
{
	struct pid *pid = get_source_pid(op);
	struct task_struct *task;

	if (IS_ERR(pid))
		return ERR_CAST(pid);

	task = pid_vnr(pid) ? get_pid_task(pid, PIDTYPE_TGID) : NULL;
	if (!task)
		task = ERR_PTR(pid_has_task(pid, PIDTYPE_PID) && pid_vnr(pid) ?
			       -EINVAL : -ESRCH);
	put_pid(pid);
	return task;
}

/**
 * fullfork_find_root() - find the process at the top of what is to be copied
 * @op: the operation
 *
 * Return: 0; -EBADF, or -ESRCH for a process that has exited, or that the
 * caller does not see; -EINVAL for a thread; -ENOMEM.
 */
int fullfork_find_root(struct fullfork *op)
{
	struct task_struct *root = current;
	int err;

	if (op->kargs->flags & CLONE_FROM_PIDFD) {
		root = get_source(op);
		if (IS_ERR(root))
			return fullfork_fail(op, PTR_ERR(root), FULLFORK_ROOT, current);
	} else {
		get_task_struct(root);
	}

	err = alloc_groups(op, 1);
	if (!err) {
		op->root = init_group(op, root);
		list_move(&op->root->node, &op->groups);
	}
	put_task_struct(root);
	return err;
}

static struct task_struct *any_thread(const struct fullfork_group *g)
{
	lockdep_assert_held(&tasklist_lock);

	return list_first_or_null_rcu(&g->signal->thread_head, struct task_struct,
				      thread_node);
}

static bool is_zombie(const struct fullfork_group *g)
{
	struct task_struct *t = any_thread(g);

	return t && t->exit_state == EXIT_ZOMBIE && list_is_singular(&g->signal->thread_head);
}

static bool has_exited(const struct task_struct *t)
{
	return READ_ONCE(t->exit_state);
}

static bool is_new(struct task_struct *t)
{
	/* Pairs with wake_up_new_task(): what was written before is seen after. */
	guard(raw_spinlock_irq)(&t->pi_lock);
	return READ_ONCE(t->__state) == TASK_NEW;
}

/* May the caller copy @t?  The answer stands for as long as @t is quiesced. */
static bool may_copy(struct task_struct *t)
{
	if (same_thread_group(t, current))
		return true;
	if ((t->flags & PF_KTHREAD) || is_global_init(t))
		return false;
	if ((task_no_new_privs(current) && !task_no_new_privs(t) &&
	     !(t->flags & PF_EXITING)) || !seccomp_confined_as_current(t))
		return false;
	return ptrace_may_access(t, PTRACE_MODE_ATTACH_REALCREDS);
}

static bool may_copy_group(struct signal_struct *signal)
{
	struct task_struct *t;

	lockdep_assert_held(&tasklist_lock);

	__for_each_thread(signal, t)
		if (!may_copy(t))
			return false;
	return true;
}

static int check_descendant(struct task_struct *t, void *refused)
{
	if (may_copy_group(t->signal))
		return 1;
	*(pid_t *)refused = t->pid;
	return -1;
}

/**
 * fullfork_check_rights() - may the caller copy all that it asks for?
 * @op: the operation; nothing is marked yet, or everything quiesced
 *
 * Return: 0 or -EPERM.
 */
int fullfork_check_rights(struct fullfork *op)
{
	struct task_struct *root;
	pid_t refused = 0;

	scoped_guard(rcu) {
		scoped_guard(read_lock, &tasklist_lock) {
			root = any_thread(op->root);
			if (root && !may_copy_group(op->root->signal))
				refused = root->pid;
		}
		if (root && !refused && (op->kargs->flags & CLONE_SUBTREE))
			walk_process_tree(root, check_descendant, &refused);
	}
	if (!refused)
		return 0;

	guard(spinlock_irq)(&op->lock);
	fullfork_set_error(op, -EPERM, FULLFORK_RIGHTS, current);
	op->culprit = refused;
	return op->err;
}

enum claim {
	CLAIMED,	/* all its threads are marked */
	CLAIM_BUSY,	/* another operation has the process */
	CLAIM_FAILED,	/* with an error */
};

/*
 * Take the process of @g for the operation.  It is not the group of the process
 * yet.
 */
static enum claim claim_process(struct fullfork *op, struct fullfork_group *g)
{
	struct task_struct *t = any_thread(g);

	if (!t) {
		fullfork_fail(op, -ESRCH, FULLFORK_ROOT, g->task);
		return CLAIM_FAILED;
	}
	if (!may_copy_group(g->signal)) {
		fullfork_fail(op, -EPERM, FULLFORK_RIGHTS, t);
		return CLAIM_FAILED;
	}
	/* The reaper of a namespace that CLONE_KEEP_TIDS made. */
	if (t->flags & PF_USER_WORKER) {
		fullfork_fail(op, -EOPNOTSUPP, FULLFORK_KERNEL_WORKER, t);
		return CLAIM_FAILED;
	}

	/* It may be a replica that gets threads, which would not be marked. */
	if (is_new(t))
		return CLAIM_BUSY;

	guard(spinlock_irq)(fullfork_siglock(t));
	if (!g->signal->fullfork) {
		fullfork_mark_group(g, t);
		return CLAIMED;
	}
	if (g->signal != current->signal)
		return CLAIM_BUSY;

	/* We are marked: quiesce for the other operation, then try again. */
	current->jobctl |= JOBCTL_FULLFORK_LOST;
	guard(spinlock)(&op->lock);
	fullfork_set_error(op, -ERESTARTNOINTR, FULLFORK_OTHER_CALLER, current);
	return CLAIM_FAILED;
}

/* The group of @t in this operation, or NULL. */
struct fullfork_group *fullfork_find_group(struct fullfork *op, struct task_struct *t)
{
	struct fullfork_group *g;

	lockdep_assert_held(&tasklist_lock);

	guard(spinlock_irq)(fullfork_siglock(t));
	g = t->signal->fullfork;
	return g && g->op == op ? g : NULL;
}

static bool is_marked(struct task_struct *t)
{
	return READ_ONCE(t->jobctl) & JOBCTL_TRAP_FULLFORK;
}

/**
 * fullfork_lose() - if current is marked, quiesce for the other operation first
 * @op: the operation of current, which fails and is tried again
 * @always: else only if the other operation takes precedence: where several wait
 *	for each other's callers, some do not lose
 */
bool fullfork_lose(struct fullfork *op, bool always)
{
	struct fullfork_group *g;

	if (!is_marked(current))
		return false;

	guard(spinlock_irq)(fullfork_siglock(current));
	g = current->signal->fullfork;
	if (!is_marked(current) || !g || (!always && g->op > op))
		return false;
	current->jobctl |= JOBCTL_FULLFORK_LOST;
	guard(spinlock)(&op->lock);
	fullfork_set_error(op, -ERESTARTNOINTR, FULLFORK_OTHER_CALLER, current);
	return true;
}

/*
 * Another operation has @signal.  It needs nothing that we have: of two trees
 * that overlap one has the root of the other in it, and is claimed from the top.
 * It may need us.
 */
static int wait_other(struct fullfork *op, struct signal_struct *signal)
{
	long left;

	/* If it is new, it is woken within microseconds. */
	if (!READ_ONCE(signal->fullfork))
		schedule_timeout_killable(1);
	left = op->deadline - jiffies;
	left = wait_event_killable_timeout(fullfork_waiters,
					   !READ_ONCE(signal->fullfork) || is_marked(current),
					   max(left, 0L));
	if (left < 0 || fatal_signal_pending(current))
		return fullfork_fail(op, -EINTR, FULLFORK_KILLED, current);
	if (fullfork_lose(op, true))
		return READ_ONCE(op->err);
	if (!left || time_after(jiffies, op->deadline))
		return fullfork_fail(op, -EBUSY, FULLFORK_TIMEOUT, current);
	return 0;
}

/*
 * Is @t a child that its creator waits for in vfork()?  The creator is a member
 * too.  It will be quiesced when @t has let go of its memory.
 */
static bool is_vfork_child(struct task_struct *t)
{
	return READ_ONCE(t->vfork_done) && !has_exited(t);
}

/*
 * One look at the children of @g: those that are known go to the end of the
 * list of groups, those that are new are claimed.  Sets @nr_missing if there
 * were not enough spare groups, and @busy if another operation has a child.
 */
static int scan_children(struct fullfork_group *parent, unsigned int *nr_missing,
			 struct task_struct **busy)
{
	struct fullfork *op = parent->op;
	struct task_struct *t, *child;
	struct fullfork_group *g;

	*nr_missing = 0;
	guard(read_lock)(&tasklist_lock);
	parent->zombie = is_zombie(parent);
	__for_each_thread(parent->signal, t) {
		list_for_each_entry(child, &t->children, sibling) {
			if (is_new(child)) {
				/* Its creator wakes it soon, but need not be a member. */
				op->look_again = true;
				op->saw_new = true;
				continue;
			}
			if (child->exit_state == EXIT_DEAD || is_vfork_child(child))
				continue;
			g = fullfork_find_group(op, child);
			if (!g)
				g = init_group(op, child);
			if (!g) {
				++*nr_missing;
				continue;
			}
			if (g->signal->fullfork != g) {
				switch (claim_process(op, g)) {
				case CLAIMED:
					op->look_again = true;
					break;
				case CLAIM_BUSY:
					*busy = get_task_struct(child);
					fallthrough;
				case CLAIM_FAILED:
					put_task_struct(g->task);
					g->task = NULL;
					return READ_ONCE(op->err);
				}
			}
			list_move_tail(&g->node, &op->groups);
		}
	}
	return 0;
}

static int claim_children(struct fullfork_group *g)
{
	struct fullfork *op = g->op;
	struct task_struct *busy = NULL;
	unsigned int nr_missing;
	int err;

	for (;;) {
		err = scan_children(g, &nr_missing, &busy);
		/* One of those that were marked may wait there. */
		wake_waiters();
		if (busy) {
			err = err ?: wait_other(op, busy->signal);
			put_task_struct(busy);
			busy = NULL;
		} else if (err) {
			return err;
		} else if (nr_missing) {
			err = alloc_groups(op, nr_missing);
		} else {
			return 0;
		}
		if (err)
			return err;
	}
}

static int claim_root(struct fullfork *op)
{
	struct fullfork_group *g = op->root;
	enum claim claim = CLAIM_BUSY;
	int err;

	if (READ_ONCE(g->signal->fullfork) == g)
		return 0;
	while (claim != CLAIMED) {
		scoped_guard(read_lock, &tasklist_lock)
			claim = claim_process(op, g);
		if (claim == CLAIM_FAILED)
			return READ_ONCE(op->err);
		if (claim == CLAIM_BUSY) {
			err = wait_other(op, g->signal);
			if (err)
				return err;
		}
	}
	op->look_again = true;
	wake_waiters();
	return 0;
}

/* They are not, or no longer, below the root. */
static void drop_groups(struct fullfork *op, struct list_head *groups)
{
	if (list_empty(groups))
		return;
	fullfork_detach(op, groups);
	fullfork_release(op, groups);
	free_groups(groups);
}

/*
 * Go over all processes that are to be copied, from the top, and claim those
 * that are new.
 */
static int claim_all(struct fullfork *op)
{
	struct fullfork_group *g;
	LIST_HEAD(before);
	int err;

	op->look_again = false;
	err = claim_root(op);
	if (err)
		return err;
	if (!(op->kargs->flags & CLONE_SUBTREE)) {
		guard(read_lock)(&tasklist_lock);
		op->root->zombie = is_zombie(op->root);
		return 0;
	}

	list_splice_init(&op->groups, &before);
	list_move(&op->root->node, &op->groups);
	list_for_each_entry(g, &op->groups, node) {
		err = claim_children(g);
		if (err) {
			list_splice_tail(&before, &op->groups);
			return err;
		}
	}
	drop_groups(op, &before);
	return 0;
}

/* Or is it gone, as nobody would wait for it? */
static bool is_zombie_or_gone(struct fullfork_group *g)
{
	guard(read_lock)(&tasklist_lock);
	return is_zombie(g) || !any_thread(g);
}

/* Processes without a member exit.  Wait until their parents may wait for them. */
static int wait_exits(struct fullfork *op)
{
	struct fullfork_group *g;
	struct pid *pid;
	long left;

	list_for_each_entry(g, &op->groups, node) {
		/* A zombie had no children any more when it was looked at. */
		if (READ_ONCE(g->nr_members) || g->zombie)
			continue;
		/* It may be gone, and others have its children: look again. */
		op->look_again = true;
		scoped_guard(read_lock, &tasklist_lock)
			pid = get_pid(g->signal->pids[PIDTYPE_TGID]);
		if (!pid && g == op->root)
			return fullfork_fail(op, -ESRCH, FULLFORK_ROOT, g->task);
		if (!pid)
			continue;
		left = op->deadline - jiffies;
		left = wait_event_killable_timeout(pid->wait_pidfd, is_zombie_or_gone(g),
						   max(left, 0L));
		put_pid(pid);
		if (left < 0)
			return fullfork_fail(op, -EINTR, FULLFORK_KILLED, current);
		if (!left)
			return fullfork_fail(op, -EBUSY, FULLFORK_TIMEOUT, g->task);
	}
	return 0;
}

/* Was nothing new found, and did nobody go?  Then nobody goes from here on. */
static bool is_complete(struct fullfork *op, unsigned int nr_changes)
{
	guard(spinlock_irq)(&op->lock);
	op->preparing = !op->look_again && op->nr_changes == nr_changes;
	return op->preparing;
}

/**
 * fullfork_quiesce_all() - bring all that is to be copied to a stand-still
 * @op: the operation
 *
 * While processes are claimed, others below them may still fork, exit and be
 * adopted by members.  So it goes on until it finds nothing new.
 *
 * Return: 0; -EBUSY after the time that the sysctl allows; -EPERM; -EINTR if
 * the caller is killed; -ESRCH if the root has exited; -ENOMEM;
 * -ERESTARTNOINTR if another operation copies the caller first.
 */
int fullfork_quiesce_all(struct fullfork *op)
{
	unsigned int nr_changes, nr_looks = 0;
	int err;

	do {
		if (fatal_signal_pending(current))
			return fullfork_fail(op, -EINTR, FULLFORK_KILLED, current);
		if (nr_looks++ && time_after(jiffies, op->deadline))
			return fullfork_fail(op, -EBUSY, FULLFORK_TIMEOUT, op->root->task);
		/* As in wait_other() */
		if (op->saw_new)
			schedule_timeout_killable(1);
		op->saw_new = false;
		scoped_guard(spinlock_irq, &op->lock)
			nr_changes = op->nr_changes;
		err = claim_all(op) ?: fullfork_wait_quiesced(op) ?: wait_exits(op);
		if (err)
			return err;
	} while (!is_complete(op, nr_changes));

	if (!op->root->nr_members)
		return fullfork_fail(op, fatal_signal_pending(current) ? -EINTR : -ESRCH,
				     FULLFORK_ROOT, op->root->task);
	return 0;
}

static void detach_group(struct fullfork *op, struct fullfork_group *g)
{
	struct task_struct *t;

	guard(read_lock)(&tasklist_lock);
	t = any_thread(g);
	if (!t) {
		if (g->signal->fullfork == g)
			g->signal->fullfork = NULL;
		return;
	}

	guard(spinlock_irq)(fullfork_siglock(t));
	if (g->signal->fullfork != g)
		return;
	g->signal->fullfork = NULL;

	/* Those that did not come need not come any more. */
	guard(spinlock)(&op->lock);
	__for_each_thread(g->signal, t) {
		if (!(t->jobctl & JOBCTL_TRAP_FULLFORK))
			continue;
		t->jobctl &= ~(JOBCTL_TRAP_FULLFORK | JOBCTL_FULLFORK_LOST);
		op->nr_marked--;
	}
}

/**
 * fullfork_detach() - take processes out of the operation
 * @op: the operation
 * @groups: the processes
 *
 * No thread joins or leaves from here on, and other operations may have them.
 */
void fullfork_detach(struct fullfork *op, struct list_head *groups)
{
	struct fullfork_group *g;

	list_for_each_entry(g, groups, node)
		detach_group(op, g);
	wake_waiters();
}
