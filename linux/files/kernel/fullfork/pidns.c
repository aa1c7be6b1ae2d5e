// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: the PID namespace in which replicas keep the TIDs of originals.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/cred.h>
#include <linux/fs_struct.h>
#include <linux/fullfork.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/syscalls.h>

#include "internal.h"

/**
 * fullfork_get_pid_ns() - find or make the namespace for CLONE_KEEP_TIDS
 * @op: the operation; nothing is quiesced yet
 *
 * Return: 0; -EPERM; -EINVAL where there is no other namespace, or none with
 * an init; or what the creation of a namespace returns.
 */
int fullfork_get_pid_ns(struct fullfork *op)
{
	struct pid_namespace *active = task_active_pid_ns(current);
	struct pid_namespace *ns = current->nsproxy->pid_ns_for_children;
	int err = 0;

	if (!(op->kargs->flags & CLONE_KEEP_TIDS))
		return 0;

	if (op->kargs->flags & CLONE_NEWPID) {
		ns = ns_capable(current_user_ns(), CAP_SYS_ADMIN) ?
		     copy_pid_ns(CLONE_NEWPID, current_user_ns(), ns) : ERR_PTR(-EPERM);
		if (IS_ERR(ns))
			err = PTR_ERR(ns);
	} else if (ns != active && READ_ONCE(ns->child_reaper)) {
		get_pid_ns(ns);
	} else {
		err = -EINVAL;
	}

	if (!err) {
		op->pid_ns = ns;
		err = checkpoint_restore_ns_capable(ns->user_ns) ? 0 : -EPERM;
	}
	if (err)
		fullfork_fail(op, err, FULLFORK_PID_NAMESPACE, current);
	return err;
}

/*
 * The reaper runs no user code and has no memory and no files.  It ignores
 * SIGCHLD, so that whoever is reparented to it is reaped by its own exit.
 * Its namespace ends with it: when it is killed, from outside, or when it is
 * the last process there.
 */
static int reaper(void *unused)
{
	struct pid_namespace *ns = task_active_pid_ns(current);
	struct ksignal ksig;

	/* Do not pin the directories of the caller, nor be in its session. */
	exit_fs(current);
	ksys_setsid();

	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (disable_idle_pid_allocation(ns))
			break;
		if (signal_pending(current)) {
			__set_current_state(TASK_RUNNING);
			if (get_signal(&ksig))
				break;
			continue;
		}
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	do_exit(0);
}

/**
 * fullfork_prepare_reaper() - make TID 1 of a new PID namespace, unless the
 * replica of some member will be it
 * @op: the operation, with every original quiesced
 *
 * The reaper is started by fullfork_commit(), or by fullfork_abort() to die.
 *
 * Return: 0 or what copy_process() returns.
 */
int fullfork_prepare_reaper(struct fullfork *op)
{
	pid_t tid = 1;
	struct fullfork_member m = {
		.op		= op,
		.sibling	= current,
		/* Without an mm. */
		.mm_sibling	= &init_task,
		.files_sibling	= current,
		.fs_sibling	= current,
	};
	struct kernel_clone_args args = {
		.flags		= CLONE_CLEAR_SIGHAND | CLONE_AUTOREAP,
		.name		= "fullfork-reaper",
		.user_worker	= 1,
		.no_files	= 1,
		.fn		= reaper,
		.set_tid	= &tid,
		.set_tid_size	= 1,
		.fullfork	= &m,
	};
	struct task_struct *p;

	if (!(op->kargs->flags & CLONE_NEWPID) || task_tgid_vnr(current) == 1)
		return 0;

	p = copy_process(NULL, 0, NUMA_NO_NODE, &args);
	if (IS_ERR(p)) {
		fullfork_fail(op, PTR_ERR(p), FULLFORK_PID_NAMESPACE, current);
		return PTR_ERR(p);
	}

	scoped_guard(spinlock_irq, fullfork_siglock(p)) {
		struct sighand_struct *sighand = rcu_dereference_protected(p->sighand, true);

		sighand->action[SIGCHLD - 1].sa.sa_handler = SIG_IGN;
	}
	op->reaper = p;
	return 0;
}
