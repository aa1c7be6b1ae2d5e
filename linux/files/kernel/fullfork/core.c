// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: clone3(CLONE_ALL_THREADS) copies a process with all its threads.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: protocol
 *
 * 1. Quiesce.  The caller marks every other thread of the group with
 *    JOBCTL_TRAP_FULLFORK at one instant and interrupts it.  A thread goes to
 *    sleep on its way to user mode, where its registers are all in pt_regs and
 *    its signals still queued, or leaves by exiting.  The caller waits for all
 *    of them, for a bounded time.
 * 2. Check.  What cannot be copied truly is refused.  Nothing was copied yet.
 * 3. Prepare.  Each original makes its own replica with copy_process(): first
 *    the leader, whose replica starts the new group, then the others, in
 *    parallel.  Replicas are visible but do not run.  All may fail; the first
 *    error is kept, and every member still comes to the end of this step.
 * 4. Commit, which cannot fail, or abort.  The caller starts all replicas; or
 *    it has them killed before they run a user instruction.
 * 5. Release.  The caller lets the originals go on.
 *
 * Who waits for whom: the caller for marked threads, then for members at work;
 * members for the caller.  A fatal signal ends every wait of step 1, and has
 * members leave that are not at work.  At work, they fail by it soon.  Members
 * that made a replica wait for the caller uninterruptibly: the caller always
 * comes to release them.  Other signals stay queued until release.
 *
 * The operation is on the stack of the caller, a member on the stack of its
 * original.  signal->fullfork, protected by the siglock, is what threads join by:
 * at most one operation per group.
 *
 * Locks: tasklist_lock, siglock of originals, siglock of replicas or
 * fullfork.lock, pi_lock.  None is held across a wait for a member, nor are
 * cred_guard_mutex, exec_update_lock and mmap_lock: threads that are quiesced
 * change no credentials and do not exec.
 */

#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fullfork.h>
#include <linux/mm_inline.h>
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/uaccess.h>
#include <trace/events/sched.h>
#include <uapi/linux/pidfd.h>

#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/fullfork.h>

#define FULLFORK_BESIDE (CLONE_PIDFD | CLONE_PARENT | CLONE_PARENT_SETTID |	\
			 CLONE_AUTOREAP | CLONE_NNP | CLONE_PIDFD_AUTOKILL)

/* Addresses that are set need the flag that says what they are for. */
static bool results_valid(const struct kernel_clone_args *kargs)
{
	u64 flags = kargs->flags;

	if (!(flags & CLONE_PIDFD) && kargs->pidfd)
		return false;
	if (!(flags & CLONE_PARENT_SETTID) && kargs->parent_tid)
		return false;
	return !(flags & CLONE_PIDFD) || !(flags & CLONE_PARENT_SETTID) ||
	       kargs->pidfd != kargs->parent_tid;
}

/* The rules of copy_process() and kernel_clone() for what is allowed beside. */
static bool beside_valid(const struct kernel_clone_args *kargs)
{
	u64 flags = kargs->flags;

	if (flags & CLONE_AUTOREAP && (flags & CLONE_PARENT || kargs->exit_signal))
		return false;
	if (flags & CLONE_PIDFD_AUTOKILL &&
	    (~flags & (CLONE_PIDFD | CLONE_AUTOREAP)))
		return false;
	if (flags & CLONE_PARENT &&
	    (current->signal->flags & SIGNAL_UNKILLABLE || current->signal->autoreap))
		return false;
	return valid_signal(kargs->exit_signal);
}

/**
 * fullfork_args_valid() - do the arguments of clone3() go together?
 * @kargs: arguments that clone3() itself accepts
 *
 * Return: false for EINVAL.
 */
bool fullfork_args_valid(const struct kernel_clone_args *kargs)
{
	u64 flags = kargs->flags;
	u64 allowed = CLONE_FULLFORK_FLAGS | FULLFORK_BESIDE;

	if (!(flags & CLONE_FULLFORK_FLAGS))
		return true;
	if (!(flags & CLONE_ALL_THREADS))
		return false;
	if (flags & CLONE_KEEP_TIDS)
		allowed |= CLONE_NEWPID;
	if (flags & ~allowed)
		return false;
	if (kargs->stack || kargs->stack_size || kargs->tls || kargs->set_tid_size ||
	    kargs->child_tid || kargs->cgroup || kargs->source_pidfd)
		return false;
	return results_valid(kargs) && beside_valid(kargs);
}

/* As copy_process() has it. */
static int check_autokill(const struct kernel_clone_args *kargs)
{
	if ((kargs->flags & CLONE_PIDFD_AUTOKILL) && !(kargs->flags & CLONE_NNP) &&
	    !ns_capable(current_user_ns(), CAP_SYS_ADMIN))
		return -EPERM;
	if (kargs->tid_map_size && !kargs->tid_map)
		return -EFAULT;
	return 0;
}

static int put_tid_map_entry(struct fullfork *op, u64 i, struct fullfork_member *m)
{
	struct clone_tid_map entry = {
		.original	= task_pid_vnr(m->original),
		.replica	= task_pid_vnr(m->replica),
	};

	return copy_to_user(&op->kargs->tid_map[i], &entry, sizeof(entry)) ? -EFAULT : 0;
}

/* The leader first, then the threads in the order in which they quiesced. */
static int put_tid_map(struct fullfork *op)
{
	struct clone_tid_map __user *map = op->kargs->tid_map;
	struct fullfork_member *m;
	u64 i = 0;
	int err;

	if (!map)
		return 0;
	err = put_tid_map_entry(op, i++, op->leader);
	list_for_each_entry(m, &op->members, node) {
		if (!err && m != op->leader)
			err = put_tid_map_entry(op, i++, m);
	}
	if (!err && clear_user(&map[i], (op->kargs->tid_map_size - i) * sizeof(*map)))
		err = -EFAULT;
	return err;
}

static int put_results(struct fullfork *op, int pidfd, pid_t nr)
{
	struct kernel_clone_args *kargs = op->kargs;
	int err = put_tid_map(op);

	if (!err && (kargs->flags & CLONE_PIDFD))
		err = put_user(pidfd, kargs->pidfd);
	if (!err && (kargs->flags & CLONE_PARENT_SETTID))
		err = put_user(nr, kargs->parent_tid);
	return err;
}

/* Killed, say by the OOM killer, though no instruction ran. */
static bool replica_was_killed(struct task_struct *lead)
{
	guard(spinlock_irq)(fullfork_siglock(lead));
	return lead->signal->flags & SIGNAL_GROUP_EXIT;
}

/*
 * The last steps that may fail.  The addresses were found to be writable, so
 * that writing the results is not expected to.
 */
static int prepare_results(struct fullfork *op, int *pidfd, struct file **pidfile)
{
	struct task_struct *lead = op->leader->replica;
	u64 flags = op->kargs->flags;
	int err;

	if (flags & CLONE_PIDFD) {
		*pidfd = pidfd_prepare(task_pid(lead),
				       flags & CLONE_PIDFD_AUTOKILL ? PIDFD_AUTOKILL : 0,
				       pidfile);
		if (*pidfd < 0) {
			fullfork_fail(op, *pidfd, FULLFORK_PIDFD, current);
			return op->err;
		}
	}

	if (fatal_signal_pending(current))
		fullfork_fail(op, -EINTR, FULLFORK_KILLED, current);
	else if (replica_was_killed(lead))
		fullfork_fail(op, -EAGAIN, FULLFORK_REPLICA_KILLED, lead);
	if (op->err)
		return op->err;

	err = put_results(op, *pidfd, task_pid_vnr(lead));
	if (err)
		fullfork_fail(op, err, FULLFORK_RESULT_ADDRESS, current);
	return err;
}

static int prepare_replicas(struct fullfork *op)
{
	int err = fullfork_check_supported(op) ?: fullfork_prepare_reaper(op);

	if (err)
		return err;
	if (fullfork_start_member(op, true)) {
		while (fullfork_start_member(op, false))
			;
	}
	fullfork_start_members(op);
	return READ_ONCE(op->err);
}

/*
 * CLONE_STOPPED: the stop is complete as far as a waiting parent is concerned,
 * and nobody gets a signal for it.  The threads enter it before they would run
 * in user mode.
 */
static void stop_replicas(struct task_struct *lead)
{
	struct signal_struct *signal = lead->signal;
	struct task_struct *t;

	guard(read_lock)(&tasklist_lock);
	scoped_guard(spinlock_irq, fullfork_siglock(lead)) {
		if (signal->flags & SIGNAL_GROUP_EXIT)
			return;
		signal_set_stop_flags(signal, SIGNAL_STOP_STOPPED);
		signal->group_exit_code = SIGSTOP;
		for_each_thread(lead, t) {
			t->jobctl |= JOBCTL_STOP_PENDING | SIGSTOP;
			set_tsk_thread_flag(t, TIF_SIGPENDING);
		}
	}
	__wake_up_parent(lead, rcu_dereference_protected(lead->parent,
							 lockdep_is_held(&tasklist_lock)));
}

/*
 * A tracer that asked to trace the children of an original traces its replica,
 * as with fork(): no thread gets away from it.
 */
static void trace_replica(struct fullfork_member *m, int event)
{
	struct task_struct *original = m->original, *p = m->replica;

	if (likely(!READ_ONCE(original->ptrace)))
		return;

	guard(write_lock_irq)(&tasklist_lock);
	if (!ptrace_event_enabled(original, event) || p->ptrace)
		return;
	p->ptrace = original->ptrace;
	__ptrace_link(p, rcu_dereference_protected(original->parent, true),
		      rcu_dereference_protected(original->ptracer_cred, true));

	guard(spinlock)(fullfork_siglock(p));
	if (p->ptrace & PT_SEIZED)
		task_set_jobctl_pending(p, JOBCTL_TRAP_STOP);
	else
		sigaddset(&p->pending.signal, SIGSTOP);
	set_tsk_thread_flag(p, TIF_SIGPENDING);
}

static void add_lru_gen_mm(struct task_struct *lead)
{
	if (!IS_ENABLED(CONFIG_LRU_GEN_WALKS_MMU))
		return;
	/* As in kernel_clone(): synchronize with memcg migration. */
	task_lock(lead);
	lru_gen_add_mm(lead->mm);
	task_unlock(lead);
}

/* Nothing fails from here on. */
static void fullfork_commit(struct fullfork *op, int event)
{
	struct task_struct *lead = op->leader->replica;
	struct fullfork_member *m;

	trace_fullfork_commit(lead, op->nr_members);

	list_for_each_entry(m, &op->members, node) {
		trace_fullfork_replica(m->original, m->replica);
		trace_sched_process_fork(m->original, m->replica);
		trace_replica(m, event);
	}
	if (op->kargs->flags & CLONE_STOPPED)
		stop_replicas(lead);
	add_lru_gen_mm(lead);

	/* A replica that runs may create threads, so walk the members. */
	if (op->reaper)
		wake_up_new_task(op->reaper);
	list_for_each_entry(m, &op->members, node)
		wake_up_new_task(m->replica);

	fullfork_detach(op);
	fullfork_release(op);
}

/* What a dying task would do that others could see. */
static void disarm_replica(struct task_struct *p)
{
	p->clear_child_tid = NULL;
#ifdef CONFIG_FUTEX
	p->futex.robust_list = NULL;
#ifdef CONFIG_COMPAT
	p->futex.compat_robust_list = NULL;
#endif
#endif
}

static struct pid *kill_group(struct task_struct *lead)
{
	struct pid *pid = get_task_pid(lead, PIDTYPE_PID);

	/* Nobody is told, nobody has to wait for it. */
	lead->signal->autoreap = 1;
	do_send_sig_info(SIGKILL, SEND_SIG_PRIV, lead, PIDTYPE_TGID);
	return pid;
}

static bool group_is_gone(struct pid *pid)
{
	struct task_struct *lead;

	guard(rcu)();
	lead = pid_task(pid, PIDTYPE_PID);
	/* It is left to a tracer that was fast enough to attach. */
	return !lead || READ_ONCE(lead->ptrace);
}

/* When the call returns, no replica is left, unless the caller is killed too. */
static void wait_group_gone(struct pid *pid)
{
	if (pid)
		wait_event_killable(pid->wait_pidfd, group_is_gone(pid));
	put_pid(pid);
}

static void fullfork_abort(struct fullfork *op)
{
	struct pid *pid = NULL, *reaper_pid = NULL;
	struct task_struct *lead;
	struct fullfork_member *m;

	trace_fullfork_abort(op->err, op->reason, op->culprit);

	/* No member leaves from here on, not even the leader. */
	fullfork_detach(op);
	lead = op->leader ? op->leader->replica : NULL;
	if (lead) {
		pid = kill_group(lead);
		add_lru_gen_mm(lead);
	}
	if (op->reaper) {
		reaper_pid = kill_group(op->reaper);
		wake_up_new_task(op->reaper);
	}

	/* A new task cannot die unless it runs: it does so in the kernel. */
	scoped_guard(rcu) {
		list_for_each_entry(m, &op->members, node) {
			if (!m->replica)
				continue;
			disarm_replica(m->replica);
			wake_up_new_task(m->replica);
		}
	}
	fullfork_release(op);

	wait_group_gone(pid);
	wait_group_gone(reaper_pid);
}

/* The caller has to come back from its own call before it can be a member. */
static pid_t copy_group(struct fullfork *op, int event)
{
	struct file *pidfile = NULL;
	int err, pidfd = -1;
	struct pid *pid;
	pid_t nr;

	trace_fullfork_quiesced(op->nr_members);
	err = prepare_replicas(op) ?: prepare_results(op, &pidfd, &pidfile);
	if (err) {
		fullfork_abort(op);
		if (pidfile) {
			put_unused_fd(pidfd);
			fput(pidfile);
		}
		return err;
	}

	pid = get_task_pid(op->leader->replica, PIDTYPE_PID);
	nr = pid_vnr(pid);
	if (pidfile)
		fd_install(pidfd, pidfile);
	fullfork_commit(op, event);

	if (unlikely(ptrace_event_enabled(current, event)))
		ptrace_event_pid(event, pid);
	put_pid(pid);
	return nr;
}

/**
 * fullfork() - copy every thread of the calling process
 * @kargs: what fullfork_args_valid() accepts
 *
 * Return: the TID of the leader's replica in the caller's PID namespace, 0 in
 * the replica of the caller, or an error; see
 * Documentation/userspace-api/fullfork.rst.
 */
pid_t fullfork(struct kernel_clone_args *kargs)
{
	int event = kargs->exit_signal == SIGCHLD ? PTRACE_EVENT_FORK : PTRACE_EVENT_CLONE;
	struct fullfork_member self = {};
	struct fullfork op = {
		.caller		= current,
		.kargs		= kargs,
		.members	= LIST_HEAD_INIT(op.members),
	};
	int err = check_autokill(kargs);
	pid_t ret;

	spin_lock_init(&op.lock);

	if (err)
		return err;
	trace_fullfork_start(kargs->flags, get_nr_threads(current));

	err = fullfork_check_results(&op) ?: fullfork_get_pid_ns(&op) ?:
	      fullfork_quiesce_threads(&op, &self);
	if (!err) {
		ret = copy_group(&op, event);
	} else {
		fullfork_abort(&op);
		ret = err;
	}
	put_pid_ns(op.pid_ns);
	return ret;
}
