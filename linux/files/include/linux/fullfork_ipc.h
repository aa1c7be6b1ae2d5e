/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_FULLFORK_IPC_H
#define _LINUX_FULLFORK_IPC_H

#include <linux/sched.h>

/*
 * Full fork and System V IPC: what the core calls, built together with what it
 * copies, see ipc/fullfork_*.c.
 */

#ifdef CONFIG_SYSVIPC

int fullfork_copy_semundo(struct task_struct *p, struct task_struct *sib);

/* The list of undo adjustments of @t, which it shares with others or not, or NULL. */
static inline const void *fullfork_semundo(const struct task_struct *t)
{
	return t->sysvsem.undo_list;
}

#else

static inline const void *fullfork_semundo(const struct task_struct *t) { return NULL; }

static inline int fullfork_copy_semundo(struct task_struct *p, struct task_struct *sib)
{
	return 0;
}

#endif /* CONFIG_SYSVIPC */

#endif /* _LINUX_FULLFORK_IPC_H */
