// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: bring the threads of a group to a stand-still, and release them.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/compat.h>
#include <linux/fullfork.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/wake_q.h>
#include <linux/syscalls.h>
#include <linux/uprobes.h>
#include <asm/syscall.h>
#include <trace/events/fullfork.h>

#include "internal.h"

unsigned int sysctl_fullfork_timeout_secs __read_mostly = 5;

#ifdef CONFIG_SYSCTL
static const unsigned int timeout_secs_max = 3600;

static const struct ctl_table fullfork_sysctls[] = {
	{
		.procname	= "fullfork_timeout_secs",
		.data		= &sysctl_fullfork_timeout_secs,
		.maxlen		= sizeof(unsigned int),
		.mode		= 0644,
		.proc_handler	= proc_douintvec_minmax,
		.extra1		= SYSCTL_ONE,
		.extra2		= (void *)&timeout_secs_max,
	},
};

static int __init fullfork_sysctl_init(void)
{
	register_sysctl_init("kernel", fullfork_sysctls);
	return 0;
}
late_initcall(fullfork_sysctl_init);
#endif

/* Record an error unless there is one already. */
void fullfork_set_error(struct fullfork *op, int err, enum fullfork_reason reason,
			struct task_struct *culprit)
{
	lockdep_assert_held(&op->lock);

	if (op->err)
		return;
	op->err = err;
	op->reason = reason;
	op->culprit = task_pid_nr(culprit);
}

/* Return: the first error. */
int fullfork_fail(struct fullfork *op, int err, enum fullfork_reason reason,
		  struct task_struct *culprit)
{
	guard(spinlock_irq)(&op->lock);
	fullfork_set_error(op, err, reason, culprit);
	return op->err;
}

/* Does the caller come and go with @g? */
static bool is_callers_group(const struct fullfork_group *g)
{
	return g->signal == g->op->caller->signal;
}

void fullfork_init_member(struct fullfork_member *m, struct fullfork_group *g,
			  struct task_struct *original)
{
	m->group = g;
	m->original = original;
	m->maker = m;
	m->state = FULLFORK_QUIESCED;
	INIT_LIST_HEAD(&m->todo);
	INIT_LIST_HEAD(&m->dependents);
}

static void add_member(struct fullfork_group *g, struct fullfork_member *m,
		       struct task_struct *original)
{
	lockdep_assert_held(&g->op->lock);

	fullfork_init_member(m, g, original);
	if (thread_group_leader(original))
		g->leader = m;
	list_add_tail(&m->node, &g->members);
	g->nr_members++;
	g->op->nr_members++;
}

/*
 * An original that was marked is no longer waited for.  The caller is woken
 * under @op->lock: without the lock, it may find out by itself, and @op be gone.
 */
static void unmark(struct fullfork *op)
{
	lockdep_assert_held(&op->lock);

	if (!--op->nr_marked || op->err)
		wake_up_process(op->caller);
}

/* Ask @t to quiesce. */
static void mark_thread(struct fullfork *op, struct task_struct *t)
{
	lockdep_assert_held(fullfork_siglock(t));
	lockdep_assert_held(&op->lock);

	if (t->flags & (PF_KTHREAD | PF_USER_WORKER | PF_IO_WORKER))
		return;

	t->jobctl |= JOBCTL_TRAP_FULLFORK;
	/* Pairs with the barrier between exit_mm() and fullfork_exit(). */
	smp_mb();
	if ((t->flags & PF_EXITING) && !READ_ONCE(t->mm)) {
		t->jobctl &= ~JOBCTL_TRAP_FULLFORK;
		return;
	}
	op->nr_marked++;

	if (t->jobctl & JOBCTL_STOPPED) {
		/*
		 * Quiesce on the way back into the same stop.  Nobody is told
		 * about it again, as the thread is not counted for the stop.
		 */
		t->jobctl &= ~JOBCTL_STOPPED;
		t->jobctl |= JOBCTL_STOP_PENDING;
		signal_wake_up_state(t, __TASK_STOPPED);
	} else {
		signal_wake_up(t, 0);
	}
}

/**
 * fullfork_mark_group() - mark every thread of a process at one instant
 * @g: its group
 * @any: a thread of it, whose siglock is held
 *
 * No thread is missed: one that copy_process() adds needs tasklist_lock for
 * writing, and none is added by a marked thread, see fullfork_may_add().  The
 * caller of the operation is a member at once.
 *
 * A process that exits, or dumps core, is attached but not marked: it is soon
 * a zombie, or gone.
 */
void fullfork_mark_group(struct fullfork_group *g, struct task_struct *any)
{
	struct fullfork *op = g->op;
	struct task_struct *t;

	lockdep_assert_held(&tasklist_lock);
	lockdep_assert_held(fullfork_siglock(any));

	g->signal->fullfork = g;
	if (g->signal->flags & SIGNAL_GROUP_EXIT)
		return;

	guard(spinlock)(&op->lock);
	__for_each_thread(g->signal, t) {
		if (t == op->caller)
			add_member(g, op->self, t);
		else
			mark_thread(op, t);
	}
}

/* The task that the operation waits for in vain, or the caller. */
static struct task_struct *find_marked_thread(struct fullfork *op)
{
	struct fullfork_group *g;
	struct task_struct *t;

	list_for_each_entry(g, &op->groups, node) {
		__for_each_thread(g->signal, t)
			if (READ_ONCE(t->jobctl) & JOBCTL_TRAP_FULLFORK)
				return t;
	}
	return op->caller;
}

static bool all_quiesced(struct fullfork *op)
{
	guard(spinlock_irq)(&op->lock);
	return !op->nr_marked || op->err;
}

/**
 * fullfork_wait_quiesced() - wait for all marked threads
 * @op: the operation
 *
 * Return: 0; -EBUSY after the time that the sysctl allows; -EINTR if the caller
 * is killed; -ERESTARTNOINTR if it has to quiesce for another operation.
 */
int fullfork_wait_quiesced(struct fullfork *op)
{
	DEFINE_WAIT(wait);
	long left;

	for (;;) {
		/* The caller may be marked itself if its own process is not copied. */
		if (op->kargs->flags & CLONE_FROM_PIDFD)
			prepare_to_wait(&fullfork_waiters, &wait, TASK_KILLABLE);
		else
			set_current_state(TASK_KILLABLE);
		if (all_quiesced(op) || fullfork_lose(op, false))
			break;
		if (fatal_signal_pending(current)) {
			fullfork_fail(op, -EINTR, FULLFORK_KILLED, current);
			break;
		}
		left = op->deadline - jiffies;
		if (left <= 0) {
			guard(rcu)();
			fullfork_fail(op, -EBUSY, FULLFORK_TIMEOUT, find_marked_thread(op));
			break;
		}
		schedule_timeout(left);
	}
	finish_wait(&fullfork_waiters, &wait);
	return READ_ONCE(op->err);
}

/*
 * Let every member go on.  They do not touch the operation afterwards.  As nobody
 * joins or leaves a group that is detached, there is no lock to hold meanwhile.
 */
static void release_group(struct fullfork_group *g)
{
	struct fullfork *op = g->op;
	struct fullfork_member *m, *next;

	list_splice_init(&g->bystanders, &g->members);
	list_for_each_entry_safe(m, next, &g->members, node) {
		struct task_struct *original;

		if (fullfork_has_exited(m))
			continue;
		if (m == op->self) {
			m->group = NULL;
			continue;
		}
		original = get_task_struct(m->original);

		/* Pairs with the acquire in wait_state(): @m is gone then. */
		smp_store_release(&m->state, FULLFORK_RELEASED);
		wake_up_process(original);
		put_task_struct(original);
	}
	INIT_LIST_HEAD(&g->members);

	guard(spinlock_irq)(&op->lock);
	op->nr_members -= g->nr_members;
	g->nr_members = 0;
}

/**
 * fullfork_release() - let originals go on
 * @op: the operation
 * @groups: the processes, detached
 */
void fullfork_release(struct fullfork *op, struct list_head *groups)
{
	struct fullfork_group *g;

	list_for_each_entry(g, groups, node)
		release_group(g);
}

/**
 * wait_state() - sleep until a member leaves a state
 * @m: the member of current
 * @state: the state
 * @sleep_state: TASK_KILLABLE, to return for a fatal signal too, or
 *	TASK_UNINTERRUPTIBLE
 *
 * Return: the state of @m.
 */
static enum fullfork_member_state wait_state(struct fullfork_member *m,
					     enum fullfork_member_state state,
					     unsigned int sleep_state)
{
	enum fullfork_member_state now;

	for (;;) {
		set_current_state(sleep_state);
		/* Pairs with the release in release_group(). */
		now = smp_load_acquire(&m->state);
		if (now != state || signal_pending_state(sleep_state, current))
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	return now;
}

/*
 * Leave because of a fatal signal; false if it is too late for that.  The
 * process exits, and the operation goes on without it unless it is the caller's
 * own.
 */
static bool leave(struct fullfork_member *m)
{
	struct fullfork_group *g = m->group;
	struct fullfork *op;

	/* While it is attached, and we hold the siglock, the operation stays. */
	guard(spinlock_irq)(fullfork_siglock(current));
	if (READ_ONCE(m->state) != FULLFORK_QUIESCED || current->signal->fullfork != g)
		return false;

	op = g->op;
	guard(spinlock)(&op->lock);
	if (op->preparing)
		return false;
	if (is_callers_group(g))
		fullfork_set_error(op, -EINTR, FULLFORK_KILLED, current);

	list_del(&m->node);
	g->nr_members--;
	if (g->leader == m)
		g->leader = NULL;
	op->nr_members--;
	op->nr_changes++;
	wake_up_process(op->caller);
	return true;
}

/*
 * Is the replica of current to be begun on the way, before it is known whether
 * it will be made?  Nobody has to wake us once more then to do it.
 */
static bool begins_replica(void)
{
	struct fullfork_group *g;

	/* sched_ext does not let a fork take its time. */
	if (IS_ENABLED(CONFIG_SCHED_CLASS_EXT) || thread_group_leader(current))
		return false;
	guard(spinlock_irq)(fullfork_siglock(current));
	g = current->signal->fullfork;
	return g && (g->op->kargs->flags & CLONE_ALL_THREADS) && !READ_ONCE(g->op->err);
}

static void be_member(struct fullfork_member *m)
{
	unsigned int sleep_state = TASK_KILLABLE;

	for (;;) {
		switch (wait_state(m, FULLFORK_QUIESCED, sleep_state)) {
		case FULLFORK_QUIESCED:
			if (leave(m))
				return;
			break;
		case FULLFORK_PREPARING:
			fullfork_work(m);
			break;
		case FULLFORK_RELEASED:
			return;
		}
		/* The caller always comes to release us, killed or not. */
		sleep_state = TASK_UNINTERRUPTIBLE;
	}
}

/* The mark is taken off; false if there is no operation to join. */
static bool join(struct fullfork_member *m)
{
	struct fullfork_group *g = current->signal->fullfork;
	struct fullfork *op;

	lockdep_assert_held(fullfork_siglock(current));

	current->jobctl &= ~JOBCTL_TRAP_FULLFORK;
	m->lost = current->jobctl & JOBCTL_FULLFORK_LOST;
	current->jobctl &= ~JOBCTL_FULLFORK_LOST;
	if (!g)
		return false;

	op = g->op;
	guard(spinlock)(&op->lock);
	if (__fatal_signal_pending(current) ||
	    (current->signal->flags & SIGNAL_GROUP_EXIT)) {
		op->nr_changes++;
		unmark(op);
		return false;
	}
	add_member(g, m, current);
	unmark(op);
	return true;
}

/*
 * System calls that return EINTR whenever they are interrupted, even if no
 * handler is to run, though they did nothing that would be done twice.  The
 * ones that wait on sockets do so if the socket has a timeout.
 */
static const int eintr_calls[] = {
	__NR_read, __NR_readv, __NR_write, __NR_writev,
	__NR_epoll_pwait, __NR_epoll_pwait2,
#ifdef __NR_epoll_wait
	__NR_epoll_wait,
#endif
#ifdef __NR_semop
	__NR_semop,
#endif
#ifdef __NR_semtimedop
	__NR_semtimedop,
#endif
#ifdef __NR_rt_sigtimedwait
	__NR_rt_sigtimedwait,
#endif
#ifdef __NR_io_getevents
	__NR_io_getevents,
#endif
#ifdef __NR_io_pgetevents
	__NR_io_pgetevents,
#endif
#ifdef __NR_accept
	__NR_accept,
#endif
	__NR_accept4, __NR_connect,
	__NR_recvfrom, __NR_recvmsg, __NR_sendto, __NR_sendmsg, __NR_sendmmsg,
	__NR_splice, __NR_sendfile,
#ifdef __NR_recvmmsg
	__NR_recvmmsg,
#endif
	/* What was allocated on tmpfs or hugetlbfs is undone, or there already. */
	__NR_fallocate,
	/* With nothing submitted.  Its process is not copied, but goes on. */
	__NR_io_uring_enter,
};

/* Is current in such a call, with user registers @regs? */
bool fullfork_restarts_eintr(struct pt_regs *regs)
{
	int i, nr = syscall_get_nr(current, regs);

	if (nr == -1 || syscall_get_error(current, regs) != -EINTR || in_compat_syscall())
		return false;

	for (i = 0; i < ARRAY_SIZE(eintr_calls); i++)
		if (nr == eintr_calls[i])
			return true;
	return false;
}

/* A single step of a uprobe is finished first, and the mark kept. */
static bool in_uprobe_step(void)
{
#ifdef CONFIG_UPROBES
	return current->utask && current->utask->active_uprobe;
#else
	return false;
#endif
}

/**
 * fullfork_quiesce() - quiesce on the way to user mode
 * @regs: the user registers, as the system call or interrupt left them
 *
 * Called with the mark set.  Comes before signals are taken and before the
 * registers are changed for the restart of a system call, so that both are the
 * replica's business as much as the original's.
 */
void fullfork_quiesce(struct pt_regs *regs)
{
	struct fullfork_member m = {};
	bool joined;

	if (in_uprobe_step())
		return;

	m.restarts_eintr = fullfork_restarts_eintr(regs);
	if (begins_replica())
		fullfork_begin_replica(&m);
	scoped_guard(spinlock_irq, fullfork_siglock(current)) {
		joined = join(&m);
		/* Was it a signal too that interrupted the system call? */
		recalc_sigpending();
		if (!task_sigpending(current) && m.restarts_eintr)
			syscall_set_return_value(current, regs, -ERESTARTNOINTR, 0);
	}
	if (joined)
		be_member(&m);
	fullfork_cancel_replica(&m);
}

/**
 * fullfork_quiesce_stopped() - quiesce inside get_signal()
 *
 * For a thread that was marked while it was about to stop, stopped or frozen.
 * It is neither as long as it is quiesced, and becomes it again afterwards.
 */
void fullfork_quiesce_stopped(void)
{
	struct fullfork_member m = {};
	bool joined;

	m.restarts_eintr = fullfork_restarts_eintr(current_pt_regs());
	if (begins_replica())
		fullfork_begin_replica(&m);
	scoped_guard(spinlock_irq, fullfork_siglock(current))
		joined = join(&m);
	if (joined)
		be_member(&m);
	fullfork_cancel_replica(&m);
}

/**
 * fullfork_leave() - give up the mark, if there is one
 * @tsk: a thread that will not come to quiesce; its siglock is held
 */
void fullfork_leave(struct task_struct *tsk)
{
	struct fullfork_group *g = tsk->signal->fullfork;

	lockdep_assert_held(fullfork_siglock(tsk));

	if (!(tsk->jobctl & JOBCTL_TRAP_FULLFORK))
		return;
	tsk->jobctl &= ~JOBCTL_TRAP_FULLFORK;
	if (!g)
		return;

	guard(spinlock)(&g->op->lock);
	g->op->nr_changes++;
	unmark(g->op);
}

/* A marked thread exits: it is not copied, and not waited for. */
void __fullfork_exit(struct task_struct *tsk)
{
	guard(spinlock_irq)(fullfork_siglock(tsk));
	fullfork_leave(tsk);
}
