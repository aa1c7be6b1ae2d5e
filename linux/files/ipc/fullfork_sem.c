// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: semaphores.  A part of sem.c, which alone knows what they are made of.
 *
 * Copyright (c) 2026 The full fork developers
 */
#ifdef CONFIG_FULLFORK

#include <linux/fullfork_ipc.h>

/**
 * fullfork_copy_semundo() - give a replica a list of undo adjustments, an empty one
 * @p: the replica, which does not run yet
 * @sib: the replica that has the list, as their originals share one; or NULL
 *
 * Return: 0 or -ENOMEM.
 */
int fullfork_copy_semundo(struct task_struct *p, struct task_struct *sib)
{
	struct sem_undo_list *ulp;

	if (sib) {
		ulp = sib->sysvsem.undo_list;
		refcount_inc(&ulp->refcnt);
	} else {
		ulp = kzalloc_obj(*ulp, GFP_KERNEL_ACCOUNT);
		if (!ulp)
			return -ENOMEM;
		spin_lock_init(&ulp->lock);
		refcount_set(&ulp->refcnt, 1);
		INIT_LIST_HEAD(&ulp->list_proc);
	}
	p->sysvsem.undo_list = ulp;
	return 0;
}

#endif /* CONFIG_FULLFORK */
