// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: refuse what cannot be copied truly, before anything is copied.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/aio.h>
#include <linux/fullfork.h>
#include <linux/io_uring_types.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/userfaultfd_k.h>
#include <asm/fullfork.h>

#include "internal.h"

static enum fullfork_reason check_thread(struct task_struct *t)
{
	/* They write to the memory and cannot be quiesced. */
	if (t->flags & (PF_USER_WORKER | PF_IO_WORKER))
		return FULLFORK_KERNEL_WORKER;
	/* Its bandwidth would have to be admitted once more. */
	if (t->policy == SCHED_DEADLINE)
		return FULLFORK_DEADLINE_POLICY;
#ifdef CONFIG_IO_URING
	if (t->io_uring && !xa_empty(&t->io_uring->xa))
		return FULLFORK_IO_URING;
#endif
	if (!arch_fullfork_supported(t))
		return FULLFORK_ARCH_STATE;
	return FULLFORK_OK;
}

static int check_threads(struct fullfork_group *g)
{
	struct fullfork *op = g->op;
	enum fullfork_reason reason;
	struct task_struct *t;

	guard(rcu)();
	__for_each_thread(g->signal, t) {
		reason = check_thread(t);
		if (reason != FULLFORK_OK)
			return fullfork_fail(op, -EOPNOTSUPP, reason, t);
	}
	return 0;
}

/* The instructions that uprobes step over: a new process gets its own area. */
static bool is_uprobes_area(struct vm_area_struct *vma)
{
	return vma->vm_ops && vma->vm_ops->name &&
	       !strcmp(vma->vm_ops->name(vma) ?: "", "[uprobes]");
}

static enum fullfork_reason check_vma(struct vm_area_struct *vma)
{
	if (userfaultfd_armed(vma))
		return FULLFORK_USERFAULTFD;
	if ((vma->vm_flags & VM_DONTCOPY) && !is_uprobes_area(vma))
		return FULLFORK_DONTFORK;
	return FULLFORK_OK;
}

static enum fullfork_reason check_vmas(struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	enum fullfork_reason reason = FULLFORK_OK;
	struct vm_area_struct *vma;

	if (mmap_read_lock_killable(mm))
		return FULLFORK_KILLED;
	for_each_vma(vmi, vma) {
		reason = check_vma(vma);
		if (reason != FULLFORK_OK)
			break;
	}
	mmap_read_unlock(mm);
	return reason;
}

static int check_mm(struct fullfork_group *g)
{
	enum fullfork_reason reason = FULLFORK_AIO;
	struct task_struct *original;
	struct mm_struct *mm;

	original = list_first_entry(&g->members, struct fullfork_member, node)->original;
	mm = original->mm;
	if (!mm_has_aio(mm))
		reason = check_vmas(mm);
	if (reason == FULLFORK_KILLED)
		return fullfork_fail(g->op, -EINTR, reason, current);
	if (reason != FULLFORK_OK)
		return fullfork_fail(g->op, -EOPNOTSUPP, reason, original);
	return 0;
}

/* Without CLONE_ALL_THREADS a process other than the caller's has one thread. */
static int check_nr_threads(struct fullfork_group *g)
{
	if ((g->op->kargs->flags & CLONE_ALL_THREADS) || g == g->op->self->group ||
	    (g->nr_members == 1 && g->leader))
		return 0;
	return fullfork_fail(g->op, -EOPNOTSUPP, FULLFORK_THREADS, g->task);
}

static bool is_traced_by_member(struct fullfork *op, struct task_struct *t)
{
	struct task_struct *tracer;
	struct fullfork_group *g;

	if (likely(!t->ptrace))
		return false;
	tracer = rcu_dereference_protected(t->parent, lockdep_is_held(&tasklist_lock));
	guard(spinlock_irq)(fullfork_siglock(tracer));
	g = tracer->signal->fullfork;
	return g && g->op == op;
}

/* A tracer and its tracee would have to be related in the same way. */
static int check_tracers(struct fullfork_group *g)
{
	struct fullfork_member *m;

	guard(read_lock)(&tasklist_lock);
	list_for_each_entry(m, &g->members, node)
		if (is_traced_by_member(g->op, m->original))
			return fullfork_fail(g->op, -EBUSY, FULLFORK_TRACED, m->original);
	return 0;
}

static int check_group(struct fullfork_group *g)
{
	/* A zombie holds nothing. */
	if (!g->nr_members)
		return 0;
	return check_nr_threads(g) ?: check_threads(g) ?: check_tracers(g) ?: check_mm(g);
}

/* Zombies are not members yet, but will have an entry. */
static int check_tid_map_size(struct fullfork *op)
{
	u64 nr = 0;
	struct fullfork_group *g;

	if (!op->kargs->tid_map)
		return 0;
	list_for_each_entry(g, &op->groups, node) {
		if (!(op->kargs->flags & CLONE_ALL_THREADS))
			nr++;
		else
			nr += g->nr_members + !g->leader;
	}
	if (op->kargs->tid_map_size < nr)
		return fullfork_fail(op, -E2BIG, FULLFORK_TID_MAP_SIZE, current);
	return 0;
}

/**
 * fullfork_check_supported() - is there anything that cannot be copied truly?
 * @op: the operation, with every original quiesced
 *
 * Return: 0, -EOPNOTSUPP, -EBUSY, -E2BIG or -EINTR.
 */
int fullfork_check_supported(struct fullfork *op)
{
	struct fullfork_group *g;
	int err = 0;

	list_for_each_entry(g, &op->groups, node) {
		err = check_group(g);
		if (err)
			return err;
	}
	return check_tid_map_size(op);
}
