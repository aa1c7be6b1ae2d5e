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
#include <linux/slab.h>
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
	return err ? fullfork_fail(op, err, FULLFORK_PID_NAMESPACE, current) : 0;
}

/* How the namespace @ns of originals is copied; NULL if replicas are in it too. */
struct fullfork_pid_ns *fullfork_find_pid_ns(struct fullfork *op, struct pid_namespace *ns)
{
	struct fullfork_pid_ns *m;

	list_for_each_entry(m, &op->pid_namespaces, node)
		if (m->original == ns)
			return m;
	return NULL;
}

static int add_pid_ns(struct fullfork *op, struct pid_namespace *original,
		      struct pid_namespace *replica, struct fullfork_group *init)
{
	struct fullfork_pid_ns *m = kmalloc_obj(*m, GFP_KERNEL_ACCOUNT);

	if (!m) {
		put_pid_ns(replica);
		return fullfork_fail(op, -ENOMEM, FULLFORK_MEMORY, current);
	}
	m->original = original;
	m->replica = replica;
	m->init = init;
	list_add_tail(&m->node, &op->pid_namespaces);
	return 0;
}

void fullfork_put_pid_namespaces(struct fullfork *op)
{
	struct fullfork_pid_ns *m, *next;

	list_for_each_entry_safe(m, next, &op->pid_namespaces, node) {
		put_pid_ns(m->replica);
		kfree(m);
	}
}

/* The process that is the init of @ns, if it is copied. */
static struct fullfork_group *find_init(struct fullfork *op, struct pid_namespace *ns)
{
	struct task_struct *init;
	struct fullfork_group *g;

	/* Not by ns->child_reaper, which nobody clears. */
	guard(rcu)();
	guard(read_lock)(&tasklist_lock);
	init = pid_task(find_pid_ns(1, ns), PIDTYPE_TGID);
	if (!init)
		return NULL;
	guard(spinlock_irq)(fullfork_siglock(init));
	g = init->signal->fullfork;
	return g && g->op == op ? g : NULL;
}

static int copy_pid_namespace(struct fullfork *op, struct pid_namespace *ns,
			      struct fullfork_group *init)
{
	struct fullfork_pid_ns *parent = fullfork_find_pid_ns(op, ns->parent);
	struct pid_namespace *replica;

	if (!ns_capable(ns->user_ns, CAP_SYS_ADMIN))
		return fullfork_fail(op, -EPERM, FULLFORK_PID_NAMESPACE, current);
	replica = create_pid_namespace(ns->user_ns, parent ? parent->replica : ns->parent);
	if (IS_ERR(replica))
		return fullfork_fail(op, PTR_ERR(replica), FULLFORK_PID_NAMESPACE, current);
	replica->pid_max = READ_ONCE(ns->pid_max);
#if defined(CONFIG_SYSCTL) && defined(CONFIG_MEMFD_CREATE)
	replica->memfd_noexec_scope = READ_ONCE(ns->memfd_noexec_scope);
#endif
	return add_pid_ns(op, ns, replica, init);
}

/*
 * A namespace below the caller's own is copied if its init is; or if it has
 * none yet and replicas would create it, in a copied one.
 */
static int map_pid_ns(struct fullfork *op, struct pid_namespace *ns)
{
	struct fullfork_group *init;
	int err;

	if (ns == task_active_pid_ns(current) || !ns->parent || fullfork_find_pid_ns(op, ns))
		return 0;
	err = map_pid_ns(op, ns->parent);
	if (err)
		return err;

	init = find_init(op, ns);
	if (init || (!READ_ONCE(ns->child_reaper) && fullfork_find_pid_ns(op, ns->parent)))
		return copy_pid_namespace(op, ns, init);
	/* Here there is another init, so that TIDs may be taken. */
	if (op->pid_ns && ns != op->pid_ns)
		return fullfork_fail(op, -EOPNOTSUPP, FULLFORK_PID_NAMESPACE, current);
	return 0;
}

/* CLONE_KEEP_TIDS: the namespace that the root is in. */
static int map_root_pid_ns(struct fullfork *op)
{
	struct task_struct *root = op->root->leader->original;

	if (!op->pid_ns)
		return 0;
	return add_pid_ns(op, task_active_pid_ns(root), get_pid_ns(op->pid_ns),
			  task_pid_nr_ns(root, task_active_pid_ns(root)) == 1 ? op->root : NULL);
}

/**
 * fullfork_map_pid_namespaces() - find or make the namespaces of replicas
 * @op: the operation, with every original quiesced
 *
 * Return: 0; -EPERM; -EOPNOTSUPP where TIDs cannot be kept; or what the
 * creation of a namespace returns.
 */
int fullfork_map_pid_namespaces(struct fullfork *op)
{
	struct fullfork_group *g;
	struct fullfork_member *m;
	int err = map_root_pid_ns(op);

	list_for_each_entry(g, &op->groups, node) {
		err = err ?: map_pid_ns(op, task_active_pid_ns(g->leader->original));
		list_for_each_entry(m, &g->members, node) {
			if (!err && !fullfork_has_exited(m))
				err = map_pid_ns(op, m->original->nsproxy->pid_ns_for_children);
		}
	}
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
 * The reaper is started when the operation is committed, or aborted to die.
 *
 * Return: 0 or what copy_process() returns.
 */
int fullfork_prepare_reaper(struct fullfork *op)
{
	pid_t tid = 1;
	struct fullfork_member m = {
		.place.siblings	= {
			[FULLFORK_GROUP]	= current,
			[FULLFORK_SIGHAND]	= current,
			/* Without an mm. */
			[FULLFORK_MM]		= &init_task,
			[FULLFORK_FILES]	= current,
			[FULLFORK_FS]		= current,
			[FULLFORK_NSPROXY]	= current,
		},
		.pid_ns		= op->pid_ns,
		.pid_ns_for_children = op->pid_ns,
	};
	struct kernel_clone_args args = {
		.flags		= CLONE_CLEAR_SIGHAND | CLONE_AUTOREAP,
		.name		= "fullfork-reaper",
		.user_worker	= 1,
		.no_files	= 1,
		.fn		= reaper,
		.set_tid	= &tid,
		.set_tid_size	= 1,
		.fullfork	= &m.place,
	};
	struct fullfork_pid_ns *ns;
	struct task_struct *p;

	if (!(op->kargs->flags & CLONE_NEWPID))
		return 0;
	ns = list_first_entry(&op->pid_namespaces, struct fullfork_pid_ns, node);
	if (ns->init)
		return 0;

	p = copy_process(NULL, 0, NUMA_NO_NODE, &args);
	if (IS_ERR(p))
		return fullfork_fail(op, PTR_ERR(p), FULLFORK_PID_NAMESPACE, current);

	scoped_guard(spinlock_irq, fullfork_siglock(p)) {
		struct sighand_struct *sighand = rcu_dereference_protected(p->sighand, true);

		sighand->action[SIGCHLD - 1].sa.sa_handler = SIG_IGN;
	}
	op->reaper = p;
	return 0;
}
