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
#include <linux/pagemap.h>
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

static int check_threads(struct fullfork *op)
{
	enum fullfork_reason reason;
	struct task_struct *t;

	guard(rcu)();
	for_each_thread(current, t) {
		reason = check_thread(t);
		if (reason != FULLFORK_OK) {
			fullfork_fail(op, -EOPNOTSUPP, reason, t);
			break;
		}
	}
	return READ_ONCE(op->err);
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

static int check_mm(struct fullfork *op)
{
	enum fullfork_reason reason = FULLFORK_AIO;

	if (!mm_has_aio(current->mm))
		reason = check_vmas(current->mm);
	if (reason == FULLFORK_KILLED)
		fullfork_fail(op, -EINTR, reason, current);
	else if (reason != FULLFORK_OK)
		fullfork_fail(op, -EOPNOTSUPP, reason, current);
	return READ_ONCE(op->err);
}

static bool may_write(const void __user *addr, size_t size)
{
	return !fault_in_safe_writeable(addr, size);
}

/**
 * fullfork_check_results() - can the results be written?
 * @op: the operation
 *
 * Called before anything is quiesced, to have slow page faults while the
 * originals still run; and again when nothing but the caller can unmap what is
 * seen, so that no word is changed by a call that fails.
 *
 * Return: 0 or -EFAULT.
 */
int fullfork_check_results(struct fullfork *op)
{
	struct kernel_clone_args *kargs = op->kargs;
	size_t size;

	if ((kargs->flags & CLONE_PIDFD) && !may_write(kargs->pidfd, sizeof(int)))
		goto fault;
	if ((kargs->flags & CLONE_PARENT_SETTID) &&
	    !may_write(kargs->parent_tid, sizeof(int)))
		goto fault;
	if (!kargs->tid_map)
		return 0;

	if (check_mul_overflow(kargs->tid_map_size, sizeof(*kargs->tid_map), &size) ||
	    !access_ok(kargs->tid_map, size) || !may_write(kargs->tid_map, size))
		goto fault;
	return 0;
fault:
	fullfork_fail(op, -EFAULT, FULLFORK_RESULT_ADDRESS, current);
	return op->err;
}

static int check_tid_map_size(struct fullfork *op)
{
	if (op->kargs->tid_map && op->kargs->tid_map_size < op->nr_members)
		fullfork_fail(op, -E2BIG, FULLFORK_TID_MAP_SIZE, current);
	return READ_ONCE(op->err);
}

/**
 * fullfork_check_supported() - is there anything that cannot be copied truly?
 * @op: the operation, with every original quiesced
 *
 * Return: 0, -EOPNOTSUPP, -E2BIG, -EFAULT or -EINTR.
 */
int fullfork_check_supported(struct fullfork *op)
{
	return check_threads(op) ?: check_mm(op) ?: check_tid_map_size(op) ?:
	       fullfork_check_results(op);
}
