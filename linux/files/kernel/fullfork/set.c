// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: for callers in the kernel, who hold the replicas as a set.
 *
 * A set that was made with CLONE_STOPPED can be the template of others: they are
 * copies of it that run.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/export.h>
#include <linux/fullfork.h>
#include <linux/fullfork_set.h>
#include <linux/pid.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "internal.h"

#define FULLFORK_SET_FLAGS (CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_STOPPED |	\
			    CLONE_KEEP_TIDS | CLONE_NEWPID | CLONE_PIDFD |	\
			    CLONE_PARENT | CLONE_PARENT_SETTID | CLONE_AUTOREAP | \
			    CLONE_NNP | CLONE_ISOLATE)

/**
 * fullfork_was_stopped() - is the replica of a process to be stopped?
 * @g: its group, quiesced and linked
 *
 * A process that is stopped as part of a template is not, unless its original
 * was stopped itself.
 */
bool fullfork_was_stopped(const struct fullfork_group *g)
{
	/* SIGCONT may come at this moment: before the copy, or after it. */
	if (!(READ_ONCE(g->signal->flags) & SIGNAL_STOP_STOPPED))
		return false;
	return !g->made_as || g->made_as->stopped;
}

static bool find_in_operation(struct fullfork *op, const struct fullfork_replica *r)
{
	struct fullfork_group *g;
	struct task_struct *t;

	guard(read_lock)(&tasklist_lock);
	t = pid_task(r->pid, PIDTYPE_TGID);
	g = t ? fullfork_find_group(op, t) : NULL;
	if (!g || (fullfork_is_zombie(g) && !r->zombie))
		return false;
	g->made_as = r;
	return true;
}

/**
 * fullfork_check_template() - is all there that the template is made of?
 * @op: the operation, with all members linked
 *
 * Return: 0, or -ESRCH if a process was killed.
 */
int fullfork_check_template(struct fullfork *op)
{
	const struct fullfork_set *template = op->request ? op->request->template : NULL;

	if (!template)
		return 0;
	for (unsigned int i = 0; i < template->nr; i++)
		if (!find_in_operation(op, &template->replicas[i]))
			return fullfork_fail(op, -ESRCH, FULLFORK_TEMPLATE, current);
	return 0;
}

/**
 * fullfork_make_set() - note the replicas for the one who asked
 * @op: the operation, with all replicas prepared
 *
 * Return: 0 or -ENOMEM.
 */
int fullfork_make_set(struct fullfork *op)
{
	unsigned int nr = list_count_nodes(&op->groups);
	struct fullfork_replica *r;
	struct fullfork_group *g;

	if (!op->request)
		return 0;
	op->set = kvzalloc_flex(*op->set, replicas, nr, GFP_KERNEL_ACCOUNT);
	if (!op->set)
		return fullfork_fail(op, -ENOMEM, FULLFORK_MEMORY, current);

	op->set->flags = op->kargs->flags;
	op->set->nr = nr;
	r = op->set->replicas;
	list_for_each_entry(g, &op->groups, node) {
		r->pid = get_pid(task_pid(g->leader->replica));
		r->original = get_pid(g->signal->pids[PIDTYPE_TGID]);
		r->nr_threads = g->nr_members;
		r->stopped = fullfork_was_stopped(g);
		r->zombie = fullfork_is_zombie(g);
		r++;
	}
	return 0;
}

/* A template is copied as what it is. */
static u64 request_flags(const struct fullfork_request *request)
{
	u64 flags = request->flags | CLONE_FROM_PIDFD;

	if (request->template)
		flags |= request->template->flags &
			 (CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_ISOLATE);
	return flags;
}

/**
 * fullfork_copy() - copy a process, or a tree of processes, for the kernel
 * @request: what to copy, and how
 *
 * As clone3() with CLONE_FROM_PIDFD, with the same checks of what the current
 * process may do, whose child the replica of the root becomes.  If current is a
 * member, its replica comes back to user mode with 0 as the result of the system
 * call.  Sleeps until all of it is done; no lock may be held that a member needs
 * on its way to user mode.
 *
 * Return: the replicas, for fullfork_set_free(), or an ERR_PTR() as the
 * document of full fork has it.  -ERESTARTNOINTR is to be returned to user mode:
 * another full fork copies current first.
 */
struct fullfork_set *fullfork_copy(const struct fullfork_request *request)
{
	struct kernel_clone_args kargs = {
		.flags		= request_flags(request),
		.exit_signal	= request->exit_signal,
		.pidfd		= request->pidfd,
		.parent_tid	= request->parent_tid,
	};
	struct fullfork_set *set = NULL;
	pid_t ret;

	might_sleep();

	/* What is made is the child of a process. */
	if (current->flags & PF_KTHREAD)
		return ERR_PTR(-EINVAL);
	if ((request->flags & ~FULLFORK_SET_FLAGS) || !fullfork_args_valid(&kargs))
		return ERR_PTR(-EINVAL);

	ret = fullfork_run(&kargs, request, &set);
	return ret < 0 ? ERR_PTR(ret) : set;
}
EXPORT_SYMBOL_GPL(fullfork_copy);

/**
 * fullfork_set_continue() - let the replicas of a stopped set run
 * @set: the replicas
 *
 * As with SIGCONT.  Those whose originals were stopped themselves stay so.
 */
void fullfork_set_continue(const struct fullfork_set *set)
{
	/* Parents last, so that none runs while its children are not. */
	for (unsigned int i = set->nr; i-- > 0;)
		if (!set->replicas[i].stopped)
			kill_pid(set->replicas[i].pid, SIGCONT, 1);
}
EXPORT_SYMBOL_GPL(fullfork_set_continue);

/**
 * fullfork_set_kill() - kill the replicas
 * @set: the replicas
 *
 * Does not wait for their end.
 */
void fullfork_set_kill(const struct fullfork_set *set)
{
	for (unsigned int i = 0; i < set->nr; i++)
		kill_pid(set->replicas[i].pid, SIGKILL, 1);
}
EXPORT_SYMBOL_GPL(fullfork_set_kill);

/**
 * fullfork_replica_is_gone() - has a process of a set ended since it was made?
 * @r: the process
 *
 * Return: true if a template that it is of cannot be copied any more.
 */
bool fullfork_replica_is_gone(const struct fullfork_replica *r)
{
	struct task_struct *t;

	guard(rcu)();
	t = pid_task(r->pid, PIDTYPE_TGID);
	if (!t)
		return true;
	/* A leader that has exited waits for the other threads. */
	return !r->zombie && READ_ONCE(t->exit_state) && !delay_group_leader(t);
}
EXPORT_SYMBOL_GPL(fullfork_replica_is_gone);

/**
 * fullfork_set_free() - forget about the replicas
 * @set: the replicas, which go on as they are; or NULL
 */
void fullfork_set_free(struct fullfork_set *set)
{
	if (!set)
		return;
	for (unsigned int i = 0; i < set->nr; i++) {
		put_pid(set->replicas[i].pid);
		put_pid(set->replicas[i].original);
	}
	kvfree(set);
}
EXPORT_SYMBOL_GPL(fullfork_set_free);
