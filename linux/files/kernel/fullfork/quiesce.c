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

void fullfork_fail(struct fullfork *op, int err, enum fullfork_reason reason,
		   struct task_struct *culprit)
{
	guard(spinlock_irq)(&op->lock);
	fullfork_set_error(op, err, reason, culprit);
}

static void add_member(struct fullfork *op, struct fullfork_member *m)
{
	lockdep_assert_held(&op->lock);

	m->op = op;
	m->original = current;
	m->state = FULLFORK_QUIESCED;
	if (thread_group_leader(current))
		op->leader = m;
	list_add_tail(&m->node, &op->members);
	op->nr_members++;
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
		if (thread_group_leader(t))
			fullfork_set_error(op, -EOPNOTSUPP, FULLFORK_LEADER_EXITED, t);
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

/*
 * Mark every other thread of the group at one instant.  No thread is missed:
 * one that copy_process() adds needs tasklist_lock for writing, and none is
 * added by a marked thread, see fullfork_may_add().
 */
static int mark_threads(struct fullfork *op, struct fullfork_member *self)
{
	struct signal_struct *signal = current->signal;
	struct task_struct *t;

	guard(read_lock)(&tasklist_lock);
	guard(spinlock_irq)(fullfork_siglock(current));

	current->jobctl &= ~JOBCTL_FULLFORK_LOST;
	if ((signal->flags & SIGNAL_GROUP_EXIT) || signal->group_exec_task) {
		guard(spinlock)(&op->lock);
		fullfork_set_error(op, -EINTR, FULLFORK_KILLED, current);
		return op->err;
	}

	if (signal->fullfork) {
		/* Quiesce for the other thread's call, then try again. */
		current->jobctl |= JOBCTL_FULLFORK_LOST;
		set_thread_flag(TIF_SIGPENDING);
		guard(spinlock)(&op->lock);
		fullfork_set_error(op, -ERESTARTNOINTR, FULLFORK_OTHER_CALLER, current);
		return op->err;
	}

	guard(spinlock)(&op->lock);
	signal->fullfork = op;
	op->group = signal;
	add_member(op, self);
	for_other_threads(current, t)
		mark_thread(op, t);
	return 0;
}

/* The task that the operation waits for in vain, or the caller. */
static struct task_struct *find_marked_thread(struct fullfork *op)
{
	struct task_struct *t;

	for_other_threads(op->caller, t)
		if (READ_ONCE(t->jobctl) & JOBCTL_TRAP_FULLFORK)
			return t;
	return op->caller;
}

static bool all_quiesced(struct fullfork *op)
{
	guard(spinlock_irq)(&op->lock);
	return !op->nr_marked || op->err;
}

static int wait_quiesced(struct fullfork *op)
{
	long timeout = READ_ONCE(sysctl_fullfork_timeout_secs) * HZ;

	for (;;) {
		set_current_state(TASK_KILLABLE);
		if (all_quiesced(op))
			break;
		if (fatal_signal_pending(current)) {
			fullfork_fail(op, -EINTR, FULLFORK_KILLED, current);
			break;
		}
		if (!timeout) {
			guard(rcu)();
			fullfork_fail(op, -EBUSY, FULLFORK_TIMEOUT, find_marked_thread(op));
			break;
		}
		timeout = schedule_timeout(timeout);
	}
	__set_current_state(TASK_RUNNING);
	return READ_ONCE(op->err);
}

/**
 * fullfork_quiesce_threads() - bring every other thread to a stand-still
 * @op: the operation
 * @self: the member of the caller
 *
 * Return: 0; -EBUSY after the time that the sysctl allows; -EOPNOTSUPP if the
 * group leader has exited; -EINTR if the group dies; -ERESTARTNOINTR, with
 * nothing begun, if another thread did the same before.  After other errors
 * the caller has to detach and release.
 */
int fullfork_quiesce_threads(struct fullfork *op, struct fullfork_member *self)
{
	int err = mark_threads(op, self);

	return err ?: wait_quiesced(op);
}

/* No thread joins the operation from here on; marks that are left are void. */
void fullfork_detach(struct fullfork *op)
{
	guard(spinlock_irq)(fullfork_siglock(current));
	if (op->group)
		op->group->fullfork = NULL;
}

/* Let every member go on.  They do not touch @op afterwards. */
void fullfork_release(struct fullfork *op)
{
	struct fullfork_member *m, *next;
	DEFINE_WAKE_Q(wake_q);

	spin_lock_irq(&op->lock);
	list_for_each_entry_safe(m, next, &op->members, node) {
		struct task_struct *original = get_task_struct(m->original);

		/*
		 * Pairs with the acquire in wait_for_state_change(): @m is gone
		 * then.  The wake-up may come at once, so it is queued after.
		 */
		smp_store_release(&m->state, FULLFORK_RELEASED);
		wake_q_add_safe(&wake_q, original);
	}
	INIT_LIST_HEAD(&op->members);
	spin_unlock_irq(&op->lock);
	wake_up_q(&wake_q);
}

static bool none_preparing(struct fullfork *op)
{
	guard(spinlock_irq)(&op->lock);
	return !op->nr_preparing;
}

/* Not to be interrupted: members at work refer to @op. */
void fullfork_wait_prepared(struct fullfork *op)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		if (none_preparing(op))
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
}

/*
 * Have one member prepare its replica, and wait for that: the leader, or the
 * next one with tables of its own.  False if there is none, or an error.
 */
bool fullfork_start_member(struct fullfork *op, bool leader)
{
	struct fullfork_member *m, *next = NULL;

	scoped_guard(spinlock_irq, &op->lock) {
		if (op->err)
			return false;
		list_for_each_entry(m, &op->members, node) {
			if (m->state == FULLFORK_QUIESCED &&
			    (leader ? m == op->leader : fullfork_find_siblings(op, m))) {
				next = m;
				break;
			}
		}
		if (!next)
			return false;
		next->state = FULLFORK_PREPARING;
		op->nr_preparing++;
		if (next->original != op->caller)
			wake_up_process(next->original);
	}
	if (next->original == op->caller)
		fullfork_prepare_member(next);
	fullfork_wait_prepared(op);
	return !READ_ONCE(op->err);
}

/* Have all members that did not yet prepare their replicas do so in parallel. */
void fullfork_start_members(struct fullfork *op)
{
	struct fullfork_member *m, *self = NULL;
	DEFINE_WAKE_Q(wake_q);

	scoped_guard(spinlock_irq, &op->lock) {
		if (op->err)
			return;
		list_for_each_entry(m, &op->members, node) {
			if (m->state != FULLFORK_QUIESCED)
				continue;
			m->state = FULLFORK_PREPARING;
			op->nr_preparing++;
			if (m->original == op->caller)
				self = m;
			else
				wake_q_add(&wake_q, m->original);
		}
	}
	wake_up_q(&wake_q);
	if (self)
		fullfork_prepare_member(self);
	fullfork_wait_prepared(op);
}

/* Sleep until @m leaves @state, or until a fatal signal if that is allowed. */
static void wait_for_state_change(struct fullfork_member *m,
				  enum fullfork_member_state state,
				  unsigned int sleep_state)
{
	for (;;) {
		set_current_state(sleep_state);
		/* Pairs with the release in fullfork_release(). */
		if (smp_load_acquire(&m->state) != state)
			break;
		if (signal_pending_state(sleep_state, current))
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
}

/* Leave because of a fatal signal; false if it is too late for that. */
static bool leave(struct fullfork_member *m)
{
	struct fullfork *op = m->op;

	/* While it is attached, and we hold the siglock, @op stays. */
	guard(spinlock_irq)(fullfork_siglock(current));
	if (current->signal->fullfork != op)
		return false;

	guard(spinlock)(&op->lock);
	if (m->state != FULLFORK_QUIESCED)
		return false;
	list_del(&m->node);
	op->nr_members--;
	if (op->leader == m)
		op->leader = NULL;
	fullfork_set_error(op, -EINTR, FULLFORK_KILLED, current);
	wake_up_process(op->caller);
	return true;
}

static void be_member(struct fullfork_member *m)
{
	wait_for_state_change(m, FULLFORK_QUIESCED, TASK_KILLABLE);
	if (READ_ONCE(m->state) == FULLFORK_QUIESCED && leave(m))
		return;
	/* Detached but not yet released, or the turn of this member. */
	wait_for_state_change(m, FULLFORK_QUIESCED, TASK_UNINTERRUPTIBLE);

	if (READ_ONCE(m->state) == FULLFORK_PREPARING)
		fullfork_prepare_member(m);
	/* The caller always comes to release us, killed or not. */
	wait_for_state_change(m, FULLFORK_PREPARED, TASK_UNINTERRUPTIBLE);
}

/* The mark is taken off; false if there is no operation to join. */
static bool join(struct fullfork_member *m)
{
	struct fullfork *op = current->signal->fullfork;

	lockdep_assert_held(fullfork_siglock(current));

	current->jobctl &= ~JOBCTL_TRAP_FULLFORK;
	m->lost = current->jobctl & JOBCTL_FULLFORK_LOST;
	current->jobctl &= ~JOBCTL_FULLFORK_LOST;
	if (!op)
		return false;

	guard(spinlock)(&op->lock);
	if (__fatal_signal_pending(current) ||
	    (current->signal->flags & SIGNAL_GROUP_EXIT)) {
		fullfork_set_error(op, -EINTR, FULLFORK_KILLED, current);
		unmark(op);
		return false;
	}
	add_member(op, m);
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
#ifdef __NR_recvmmsg
	__NR_recvmmsg,
#endif
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

	scoped_guard(spinlock_irq, fullfork_siglock(current)) {
		joined = join(&m);
		/* Was it a signal too that interrupted the system call? */
		recalc_sigpending();
		if (!task_sigpending(current) && fullfork_restarts_eintr(regs))
			syscall_set_return_value(current, regs, -ERESTARTNOINTR, 0);
	}
	if (joined)
		be_member(&m);
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

	scoped_guard(spinlock_irq, fullfork_siglock(current))
		joined = join(&m);
	if (joined)
		be_member(&m);
}

/* A marked thread exits: it is not copied, and not waited for. */
void __fullfork_exit(struct task_struct *tsk)
{
	struct fullfork *op;

	guard(spinlock_irq)(fullfork_siglock(tsk));
	if (!(tsk->jobctl & JOBCTL_TRAP_FULLFORK))
		return;
	tsk->jobctl &= ~JOBCTL_TRAP_FULLFORK;
	op = tsk->signal->fullfork;
	if (!op)
		return;

	guard(spinlock)(&op->lock);
	if (thread_group_leader(tsk))
		fullfork_set_error(op, -EOPNOTSUPP, FULLFORK_LEADER_EXITED, tsk);
	unmark(op);
}
