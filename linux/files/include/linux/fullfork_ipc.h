/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_FULLFORK_IPC_H
#define _LINUX_FULLFORK_IPC_H

#include <linux/err.h>
#include <linux/sched.h>

/*
 * Full fork and System V IPC: what the core calls, built together with what it
 * copies, see ipc/fullfork*.c.
 */

struct file;
struct fullfork_isolation;
struct ipc_namespace;

#ifdef CONFIG_SYSVIPC

int fullfork_copy_semundo(struct task_struct *p, struct task_struct *sib);
int fullfork_copy_adjustments(const struct task_struct *original, struct task_struct *p);
struct ipc_namespace *fullfork_shm_ns(struct file *file);
bool fullfork_shm_is_marked(struct file *file);
struct file *fullfork_shm_attach(struct file *file, struct ipc_namespace *ns);

/* The list of undo adjustments of @t, which it shares with others or not, or NULL. */
static inline const void *fullfork_semundo(const struct task_struct *t)
{
	return t->sysvsem.undo_list;
}

#else

static inline const void *fullfork_semundo(const struct task_struct *t) { return NULL; }
static inline struct ipc_namespace *fullfork_shm_ns(struct file *file) { return NULL; }
static inline bool fullfork_shm_is_marked(struct file *file) { return false; }

static inline int fullfork_copy_semundo(struct task_struct *p, struct task_struct *sib)
{
	return 0;
}

static inline int fullfork_copy_adjustments(const struct task_struct *original,
					    struct task_struct *p)
{
	return 0;
}

static inline struct file *fullfork_shm_attach(struct file *file, struct ipc_namespace *ns)
{
	return ERR_PTR(-EINVAL);
}

#endif /* CONFIG_SYSVIPC */

#if defined(CONFIG_SYSVIPC) && defined(CONFIG_IPC_NS)

struct ipc_namespace *fullfork_copy_ipc_ns(struct ipc_namespace *ns);
int fullfork_link_ipc_ns(struct ipc_namespace *ns, struct ipc_namespace *copy,
			 struct fullfork_isolation *isolation);

#else

static inline struct ipc_namespace *fullfork_copy_ipc_ns(struct ipc_namespace *ns)
{
	return NULL;
}

static inline int fullfork_link_ipc_ns(struct ipc_namespace *ns, struct ipc_namespace *copy,
				       struct fullfork_isolation *isolation)
{
	return 0;
}

#endif

#endif /* _LINUX_FULLFORK_IPC_H */
