// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: clone3() copies processes with all their threads, and trees of them.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: protocol
 *
 * 1. Quiesce.  From the root down, the caller claims every process that is to
 *    be copied: it marks all threads with JOBCTL_TRAP_FULLFORK at one instant
 *    and interrupts them.  A thread goes to sleep on its way to user mode, where
 *    its registers are all in pt_regs and its signals still queued, or leaves by
 *    exiting.  A thread that leads no process first begins its replica: that is
 *    most of what copy_process() does for one, concerns nobody else, and nobody
 *    sees it.  A marked thread makes no thread and no process.  The caller waits
 *    for all of them, and for processes that exit to become zombies, for a
 *    bounded time.  Then it looks again, since what was not claimed yet went on,
 *    until it finds nothing new.  Rights are checked before anybody is marked.
 * 2. Check.  Rights once more, as nobody can change theirs any more.  What cannot
 *    be copied truly is refused.  No memory was copied yet.  With CLONE_ISOLATE, the
 *    caller then copies the objects that only members can reach, see isolate.c.
 * 3. Prepare.  Each original makes its own replica with copy_process(), as soon
 *    as those are there that it needs: its parent, its leader, and whoever copies
 *    an object that it shares; all else in parallel.  What threads have begun is
 *    finished by the thread that made their leader's replica; who has something
 *    that this one has not, or was changed meanwhile, undoes it and starts anew.
 *    Who has exited is copied by somebody near.  Replicas are visible but do not
 *    run.  All may fail; the first error is kept, and nobody starts after it.
 * 4. Commit, which cannot fail, or abort.  The caller lets the replicas of zombies
 *    exit; or it has members undo what they began, and all replicas killed before
 *    they run a user instruction.
 * 5. Release.  The caller lets the originals go on, and then starts all replicas
 *    but those of zombies: originals need not stand still for that.
 *
 * Who waits for whom: the caller for marked threads, then for members at work;
 * members for the caller.  A fatal signal ends every wait of step 1, and a member
 * that dies there is left out.  From then on nobody leaves: members wait
 * uninterruptibly for the caller, which always comes to release them.  A copy
 * that fails because its original is killed fails the others, and all is tried
 * again.  Other signals stay queued until release.
 *
 * Not marked, until it is over, is a vfork() child before exec: its parent waits
 * for it.
 *
 * The operation is on the stack of the caller, a member on the stack of its
 * original.  signal->fullfork, protected by the siglock, is what threads join by:
 * at most one operation per process.  Another one waits for it.  Trees overlap
 * only if one contains the root of the other and are claimed from the root, so
 * that of two operations one does not wait.
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
#include <linux/sched/wake_q.h>
#include <linux/tty.h>
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
	u64 allowed = (CLONE_FULLFORK_FLAGS & ~CLONE_SFORK) | FULLFORK_BESIDE;

	if (!(flags & CLONE_FULLFORK_FLAGS))
		return true;
	if (flags & CLONE_SFORK)
		return sfork_args_valid(kargs) && results_valid(kargs) && beside_valid(kargs);
	if (!(flags & (CLONE_ALL_THREADS | CLONE_SUBTREE)))
		return false;
	if (flags & CLONE_KEEP_TIDS)
		allowed |= CLONE_NEWPID;
	if (flags & ~allowed)
		return false;
	if (kargs->stack || kargs->stack_size || kargs->tls || kargs->set_tid_size ||
	    kargs->child_tid || kargs->cgroup)
		return false;
	if (!(flags & CLONE_FROM_PIDFD) && kargs->source_pidfd)
		return false;
	return results_valid(kargs) && beside_valid(kargs);
}

/* Early, before anybody is disturbed.  As copy_process() has it. */
static int check_caller(const struct kernel_clone_args *kargs)
{
	if ((kargs->flags & CLONE_PIDFD_AUTOKILL) && !(kargs->flags & CLONE_NNP) &&
	    !ns_capable(current_user_ns(), CAP_SYS_ADMIN))
		return -EPERM;
	if (kargs->tid_map_size && !kargs->tid_map)
		return -EFAULT;
	return 0;
}

/* Killed, say by the OOM killer, though no instruction ran. */
static bool replica_was_killed(struct task_struct *lead)
{
	guard(spinlock_irq)(fullfork_siglock(lead));
	return lead->signal->flags & SIGNAL_GROUP_EXIT;
}

/* The last steps that may fail. */
static int prepare_results(struct fullfork *op, int *pidfd, struct file **pidfile)
{
	struct task_struct *lead = op->root->leader->replica;
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

	err = fullfork_make_set(op) ?: fullfork_pin_results(op);
	if (!err)
		fullfork_write_results(op, *pidfd, task_pid_vnr(lead));
	return err;
}

static int prepare_replicas(struct fullfork *op)
{
	return fullfork_check_rights(op) ?: fullfork_check_supported(op) ?:
	       fullfork_link_members(op) ?: fullfork_check_template(op) ?:
	       fullfork_check_results(op) ?: fullfork_isolate(op) ?:
	       fullfork_prepare_reaper(op) ?: fullfork_prepare_replicas(op) ?:
	       fullfork_link_isolation(op);
}

/*
 * The replica of @g is stopped if the original is, or if that was asked for.
 * The stop is complete as far as a waiting parent is concerned, and nobody gets
 * a signal for it.  The threads enter it before they would run in user mode.
 */
static void stop_replica(struct fullfork_group *g)
{
	struct task_struct *t, *original, *lead = g->leader->replica;
	bool asked = g->op->kargs->flags & CLONE_STOPPED;
	struct signal_struct *signal = lead->signal;
	int signr = SIGSTOP, code = SIGSTOP;

	/* An original that is quiesced stays stopped, unless SIGCONT comes now. */
	original = g->leader->maker->original;
	if (fullfork_was_stopped(g)) {
		signr = READ_ONCE(original->jobctl) & JOBCTL_STOP_SIGMASK ?: SIGSTOP;
		/* Unless somebody waited for it already. */
		if (!asked || g != g->op->root)
			code = READ_ONCE(g->signal->group_exit_code);
	} else if (!asked) {
		return;
	}

	guard(read_lock)(&tasklist_lock);
	scoped_guard(spinlock_irq, fullfork_siglock(lead)) {
		if (signal->flags & SIGNAL_GROUP_EXIT)
			return;
		signal_set_stop_flags(signal, SIGNAL_STOP_STOPPED);
		signal->group_exit_code = code;
		for_each_thread(lead, t) {
			t->jobctl |= JOBCTL_STOP_PENDING | signr;
			set_tsk_thread_flag(t, TIF_SIGPENDING);
		}
	}
	__wake_up_parent(lead, rcu_dereference_protected(lead->parent,
							 lockdep_is_held(&tasklist_lock)));
}

/* The replica of the process that leads @pid, a process group or a session. */
static struct task_struct *replica_of_leader(struct fullfork *op, struct pid *pid)
{
	struct task_struct *original = pid_task(pid, PIDTYPE_TGID);
	struct fullfork_group *g;

	if (!original)
		return NULL;
	guard(spinlock)(fullfork_siglock(original));
	g = original->signal->fullfork;
	return g && g->op == op ? g->leader->replica : NULL;
}

/* Of @type, what the replica of @g is in: what the original is in, or its copy. */
static struct pid *replica_pid(struct fullfork_group *g, enum pid_type type)
{
	struct pid *pid = g->signal->pids[type];
	struct task_struct *leader = replica_of_leader(g->op, pid);

	return leader ? task_pid(leader) : pid;
}

static void join_replica_pid(struct fullfork_group *g, enum pid_type type, struct pid **pids)
{
	struct task_struct *p = g->leader->replica;
	struct pid *pid = replica_pid(g, type);

	if (p->signal->pids[type] != pid)
		change_pid(pids, p, type, pid);
}

/* Was it copied, and is the copy that of the session? */
static bool has_terminal_of_session(struct task_struct *p)
{
	struct tty_struct *tty;

	guard(spinlock_irq)(fullfork_siglock(p));
	tty = p->signal->tty;
	return tty && READ_ONCE(tty->ctrl.session) == task_session(p);
}

/*
 * Process groups and sessions that are led by members get copies of their own.
 * The terminal stays that of the originals, unless there is a copy.
 */
static void join_replica_session(struct fullfork_group *g)
{
	struct task_struct *p = g->leader->replica;
	struct pid *pids[PIDTYPE_MAX] = {};
	bool other_session;

	scoped_guard(write_lock_irq, &tasklist_lock) {
		join_replica_pid(g, PIDTYPE_PGID, pids);
		join_replica_pid(g, PIDTYPE_SID, pids);
		p->signal->leader = task_session(p) == task_pid(p);
		other_session = task_session(p) != g->signal->pids[PIDTYPE_SID];
	}
	free_pids(pids);
	if (other_session && !has_terminal_of_session(p))
		proc_clear_tty(p);
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

static void add_lru_gen_mm(struct fullfork_member *m)
{
	struct task_struct *p = m->replica;

	if (!IS_ENABLED(CONFIG_LRU_GEN_WALKS_MMU) || !p->mm || m->owners[FULLFORK_MM] != m)
		return;
	/* As in kernel_clone(): synchronize with memcg migration. */
	task_lock(p);
	lru_gen_add_mm(p->mm);
	task_unlock(p);
}

static bool has_become_zombie(struct task_struct *p)
{
	/* Or is left to a tracer that was fast enough to attach. */
	return READ_ONCE(p->exit_state) || READ_ONCE(p->ptrace);
}

/* Parents do not run before their children are zombies, as they were. */
static void start_zombies(struct fullfork *op)
{
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node)
		if (fullfork_has_exited(g->leader))
			wake_up_new_task(g->leader->replica);

	list_for_each_entry(g, &op->groups, node) {
		struct task_struct *p = g->leader->replica;

		if (!fullfork_is_zombie(g))
			continue;
		/* Unless a tracer holds it, and we are killed. */
		wait_event_killable(task_pid(p)->wait_pidfd, has_become_zombie(p));
		guard(write_lock_irq)(&tasklist_lock);
		p->exit_signal = g->leader->original->exit_signal;
	}
}

/* Replicas are listed as what is to be woken: nobody else wakes a new task. */
static void list_replicas(struct fullfork *op, struct wake_q_head *replicas)
{
	struct fullfork_member *m;
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node)
		list_for_each_entry(m, &g->members, node)
			if (!fullfork_has_exited(m))
				wake_q_add(replicas, m->replica);
}

static void start_replicas(struct wake_q_head *replicas)
{
	struct wake_q_node *node = replicas->first;

	while (node != WAKE_Q_TAIL) {
		struct task_struct *p = container_of(node, struct task_struct, wake_q);

		node = node->next;
		/* It may be woken in another queue as soon as it runs. */
		WRITE_ONCE(p->wake_q.next, NULL);
		wake_up_new_task(p);
		put_task_struct(p);
	}
}

/* Nothing fails from here on. */
static void fullfork_commit(struct fullfork *op, int event)
{
	struct fullfork_member *m;
	struct fullfork_group *g;
	DEFINE_WAKE_Q(replicas);

	trace_fullfork_commit(op->root->leader->replica, op->nr_members);
	fullfork_report_isolation(op);
	/* A replica that copies itself at once must find no reference of ours. */
	fullfork_free_isolation(op);

	list_for_each_entry(g, &op->groups, node) {
		join_replica_session(g);
		list_for_each_entry(m, &g->members, node) {
			trace_fullfork_replica(m->original, m->replica);
			trace_sched_process_fork(m->original, m->replica);
			if (!fullfork_has_exited(m))
				trace_replica(m, event);
			add_lru_gen_mm(m);
		}
		if (!fullfork_is_zombie(g))
			stop_replica(g);
	}

	if (op->reaper)
		wake_up_new_task(op->reaper);
	start_zombies(op);
	list_replicas(op, &replicas);

	fullfork_detach(op, &op->groups);
	fullfork_release(op, &op->groups);
	trace_fullfork_release(ktime_to_ns(ktime_sub(ktime_get(), op->start)));
	/* Members are gone, with the stacks of originals. */
	start_replicas(&replicas);
}

/* What a dying task would do that others could see. */
static void disarm_replica(struct task_struct *p)
{
	p->set_child_tid = NULL;
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
}

static void abort_group(struct fullfork_group *g)
{
	struct fullfork_member *m;

	/* A new task cannot die unless it runs: it does so in the kernel. */
	scoped_guard(rcu) {
		list_for_each_entry(m, &g->members, node) {
			if (!m->replica)
				continue;
			disarm_replica(m->replica);
			add_lru_gen_mm(m);
			wake_up_new_task(m->replica);
		}
	}
}

/*
 * Nor does it leave a process group with stopped originals in it, which would
 * then seem to be orphaned.
 */
static void leave_process_group(struct task_struct *p)
{
	struct pid *pids[PIDTYPE_MAX] = {};

	scoped_guard(write_lock_irq, &tasklist_lock)
		change_pid(pids, p, PIDTYPE_PGID, task_pid(p));
	free_pids(pids);
}

static void fullfork_abort(struct fullfork *op)
{
	struct pid *reaper_pid = NULL;
	struct fullfork_group *g;

	trace_fullfork_abort(op->err, op->reason, op->culprit);

	fullfork_free_isolation(op);
	/* No member leaves from here on. */
	fullfork_detach(op, &op->groups);
	fullfork_cancel_replicas(op);
	list_for_each_entry(g, &op->groups, node) {
		if (!g->leader || !g->leader->replica)
			continue;
		leave_process_group(g->leader->replica);
		g->pid = kill_group(g->leader->replica);
	}
	if (op->reaper) {
		reaper_pid = kill_group(op->reaper);
		wake_up_new_task(op->reaper);
	}
	list_for_each_entry(g, &op->groups, node)
		abort_group(g);
	fullfork_release(op, &op->groups);

	list_for_each_entry(g, &op->groups, node)
		wait_group_gone(g->pid);
	wait_group_gone(reaper_pid);
	put_pid(reaper_pid);
}

static pid_t copy_all(struct fullfork *op, int event)
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

	pid = get_task_pid(op->root->leader->replica, PIDTYPE_PID);
	nr = pid_vnr(pid);
	if (pidfile)
		fd_install(pidfd, pidfile);
	fullfork_commit(op, event);

	if (unlikely(ptrace_event_enabled(current, event)))
		ptrace_event_pid(event, pid);
	put_pid(pid);
	return nr;
}

/* Before anybody is disturbed. */
static int begin(struct fullfork *op)
{
	struct kernel_clone_args *kargs = op->kargs;
	struct signal_struct *signal;
	int err;

	err = fullfork_find_root(op) ?: fullfork_check_rights(op);
	if (err)
		return err;

	/* As copy_process() has it. */
	signal = op->root->signal;
	if ((kargs->flags & CLONE_PARENT) &&
	    (signal->flags & SIGNAL_UNKILLABLE || signal->autoreap))
		return fullfork_fail(op, -EINVAL, FULLFORK_ROOT, current);
	return fullfork_check_results(op) ?: fullfork_get_pid_ns(op);
}

static pid_t try_fullfork(struct kernel_clone_args *kargs,
			  const struct fullfork_request *request,
			  struct fullfork_set **set, unsigned long deadline,
			  enum fullfork_reason *reason)
{
	int event = kargs->exit_signal == SIGCHLD ? PTRACE_EVENT_FORK : PTRACE_EVENT_CLONE;
	struct fullfork_member self = {};
	struct fullfork op = {
		.caller		= current,
		.self		= &self,
		.kargs		= kargs,
		.request	= request,
		.groups		= LIST_HEAD_INIT(op.groups),
		.spare		= LIST_HEAD_INIT(op.spare),
		.start		= ktime_get(),
		.deadline	= deadline,
		.pid_namespaces	= LIST_HEAD_INIT(op.pid_namespaces),
		.ipc_namespaces	= LIST_HEAD_INIT(op.ipc_namespaces),
	};
	pid_t ret;

	spin_lock_init(&op.lock);

	ret = begin(&op) ?: fullfork_quiesce_all(&op);
	if (!ret)
		ret = copy_all(&op, event);
	else
		fullfork_abort(&op);

	if (ret < 0)
		fullfork_set_free(op.set);
	else if (set)
		*set = op.set;
	*reason = op.reason;
	fullfork_unpin_results(&op);
	if (op.objects != op.few_objects)
		kvfree(op.objects);
	fullfork_put_pid_namespaces(&op);
	fullfork_free_groups(&op);
	put_pid_ns(op.pid_ns);
	return ret;
}

/**
 * fullfork_run() - copy processes with all their threads
 * @kargs: what fullfork_args_valid() accepts
 * @request: where they came from, or NULL for clone3()
 * @set: if there is a request, the replicas are put here
 *
 * Return: as fullfork().
 */
pid_t fullfork_run(struct kernel_clone_args *kargs,
		   const struct fullfork_request *request, struct fullfork_set **set)
{
	unsigned long deadline = jiffies + READ_ONCE(sysctl_fullfork_timeout_secs) * HZ;
	enum fullfork_reason reason;
	int err = check_caller(kargs);
	pid_t ret;

	if (err)
		return err;
	trace_fullfork_start(kargs->flags, get_nr_threads(current));

	/* If members are killed in the middle, those that are left are copied. */
	do {
		ret = try_fullfork(kargs, request, set, deadline, &reason);
	} while (reason == FULLFORK_MEMBER_KILLED && !fatal_signal_pending(current) &&
		 time_before(jiffies, deadline));
	if (ret == -ERESTARTNOINTR)
		set_thread_flag(TIF_SIGPENDING);
	return ret;
}

/**
 * fullfork() - copy processes with all their threads, or move the calling one
 * @kargs: what fullfork_args_valid() accepts
 *
 * Return: the TID of the replica of the root's leader in the caller's PID
 * namespace, 0 in the replica of the caller, or an error; see
 * Documentation/userspace-api/fullfork.rst.  With CLONE_SFORK as sfork().
 */
pid_t fullfork(struct kernel_clone_args *kargs)
{
	if (kargs->flags & CLONE_SFORK)
		return sfork(kargs);
	return fullfork_run(kargs, NULL, NULL);
}
