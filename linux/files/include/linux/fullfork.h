/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_FULLFORK_H
#define _LINUX_FULLFORK_H

#include <linux/bits.h>
#include <linux/sched.h>
#include <linux/sched/jobctl.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/pid_namespace.h>

/*
 * Full fork: hooks for the upstream code that a full fork passes through.
 * The protocol is described in kernel/fullfork/core.c.
 */

struct completion;
struct pt_regs;

/* What a replica has in common with another one, or alone. */
enum fullfork_shared {
	FULLFORK_GROUP,
	FULLFORK_SIGHAND,
	FULLFORK_MM,
	FULLFORK_FILES,
	FULLFORK_FS,
	FULLFORK_NSPROXY,
	FULLFORK_SYSVSEM,	/* only those that have a list of undo adjustments */
	FULLFORK_NR_SHARED,
};

/* What copy_process() is to do for a replica. */
enum fullfork_step {
	FULLFORK_COPY,		/* all of it */
	FULLFORK_BEGIN,		/* what needs no other replica */
	FULLFORK_FINISH,	/* the rest */
	FULLFORK_CANCEL,	/* undo what FULLFORK_BEGIN did; not in place of FINISH */
};

/**
 * struct fullfork_place - where a replica goes among the others
 * @step: of a replica that is begun before it is known where it goes
 * @begun: the replica, for FULLFORK_FINISH and FULLFORK_CANCEL
 * @share_flags: CLONE_* flags for what it shares with its siblings
 * @siblings: for each of &enum fullfork_shared, the replica to share it with,
 *	or the original to copy it from
 * @parent: the parent of a group leader; NULL for the reaper of a PID namespace
 */
struct fullfork_place {
	enum fullfork_step	step;
	struct task_struct	*begun;
	u64			share_flags;
	struct task_struct	*siblings[FULLFORK_NR_SHARED];
	struct task_struct	*parent;
};

/*
 * A thread that is away in a child made with CLONE_SFORK, see sfork.c.  Bits of
 * task_struct::jobctl are in linux/sched/jobctl.h, this one is but for signal.c.
 */
#define JOBCTL_SFORK_BIT	29

#ifdef CONFIG_FULLFORK

#define JOBCTL_SFORK		BIT(JOBCTL_SFORK_BIT)

/*
 * In task_struct::vfork_done of a child that has the thread of its parent: the
 * rest is a pointer to the struct sfork of the parent.  Nobody else looks at more
 * than whether it is NULL.
 */
#define FULLFORK_HAS_THREAD	1UL

/* The flags that are built so far, the others are unknown. */
#define CLONE_FULLFORK_FLAGS	(CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_STOPPED | \
				 CLONE_FROM_PIDFD | CLONE_KEEP_TIDS | CLONE_ISOLATE | \
				 CLONE_SFORK)

pid_t fullfork(struct kernel_clone_args *kargs);
bool fullfork_args_valid(const struct kernel_clone_args *kargs);

void fullfork_quiesce(struct pt_regs *regs);
void fullfork_quiesce_stopped(void);
void fullfork_leave(struct task_struct *tsk);
void __fullfork_exit(struct task_struct *tsk);

void __fullfork_init_replica(struct fullfork_place *place, struct task_struct *p);
void __fullfork_copy_thread(struct fullfork_place *place, struct task_struct *p);
int fullfork_copy_mm_and_namespaces(const struct kernel_clone_args *args,
				    struct task_struct *p);
struct pid_namespace *__fullfork_pid_ns(struct fullfork_place *place);
int __fullfork_may_add(const struct kernel_clone_args *args, struct task_struct *p);

struct completion *__fullfork_vfork_done(struct kernel_clone_args *args,
					 struct task_struct *child,
					 struct completion *vfork);
void __fullfork_exit_called(void);
void __fullfork_send_back(struct task_struct *tsk);
void __fullfork_come_back(struct kernel_clone_args *args);

/* Of a task that is not unhashed meanwhile: current, or one that never ran. */
static inline spinlock_t *fullfork_siglock(struct task_struct *t)
{
	return &rcu_dereference_protected(t->sighand, true)->siglock;
}

static inline int fullfork_copy_args(struct kernel_clone_args *kargs,
				     const struct clone_args *args)
{
	kargs->source_pidfd = args->source_pidfd;
	kargs->tid_map = u64_to_user_ptr(args->tid_map);
	kargs->tid_map_size = args->tid_map_size;
	if (!(kargs->flags & (CLONE_ALL_THREADS | CLONE_SUBTREE)) &&
	    (kargs->source_pidfd || kargs->tid_map || kargs->tid_map_size))
		return -EINVAL;
	/* The int in @kargs is the lower half of it. */
	if ((kargs->flags & CLONE_FULLFORK_FLAGS) && !(kargs->flags & CLONE_INTO_CGROUP) &&
	    args->cgroup)
		return -EINVAL;
	return 0;
}

static inline bool fullfork_requested(const struct kernel_clone_args *kargs)
{
	return kargs->flags & CLONE_FULLFORK_FLAGS;
}

static inline struct fullfork_place *fullfork_place(const struct kernel_clone_args *args)
{
	return args->fullfork;
}

/* Called once the mm of an exiting task is gone, with all its words written. */
static inline void fullfork_exit(struct task_struct *tsk)
{
	/*
	 * Pairs with the barrier in mark_thread(): either the mark is seen
	 * here, or mark_thread() sees that the mm is gone.  mmput() in
	 * exit_mm() is the full barrier between the two accesses on this side.
	 */
	if (unlikely(READ_ONCE(tsk->jobctl) & JOBCTL_TRAP_FULLFORK))
		__fullfork_exit(tsk);
}

static inline void fullfork_init_replica(const struct kernel_clone_args *args,
					 struct task_struct *p)
{
	if (unlikely(args->fullfork))
		__fullfork_init_replica(args->fullfork, p);
}

static inline void fullfork_copy_thread(const struct kernel_clone_args *args,
					struct task_struct *p)
{
	if (unlikely(args->fullfork))
		__fullfork_copy_thread(args->fullfork, p);
}

static inline struct pid_namespace *fullfork_pid_ns(const struct kernel_clone_args *args,
						    struct task_struct *p)
{
	if (unlikely(args->fullfork))
		return __fullfork_pid_ns(args->fullfork);
	return p->nsproxy->pid_ns_for_children;
}

/*
 * Called with the siglock of current held.  A replica thread joins a group
 * that is already visible, so its siglock is needed too.
 */
static inline void fullfork_lock_group(const struct kernel_clone_args *args,
				       struct task_struct *p)
	__context_unsafe(/* conditional */)
{
	if (unlikely(args->fullfork) && args->fullfork->share_flags & CLONE_THREAD)
		spin_lock_nested(fullfork_siglock(p), SINGLE_DEPTH_NESTING);
}

static inline void fullfork_unlock_group(const struct kernel_clone_args *args,
					 struct task_struct *p)
	__context_unsafe(/* conditional */)
{
	if (unlikely(args->fullfork) && args->fullfork->share_flags & CLONE_THREAD)
		spin_unlock(fullfork_siglock(p));
}

/* The last check before @p becomes visible, with both siglocks held. */
static inline int fullfork_may_add(const struct kernel_clone_args *args,
				   struct task_struct *p)
{
	if (unlikely(args->fullfork))
		return __fullfork_may_add(args, p);

	/*
	 * A thread that is to be quiesced makes no tasks that would have to be
	 * found too.  It comes back here once it was released.
	 */
	if (unlikely(current->jobctl & JOBCTL_TRAP_FULLFORK) &&
	    !args->kthread && !args->io_thread && !args->user_worker)
		return -ERESTARTNOINTR;
	return 0;
}

/* @reaper: the child reaper of a pid namespace where it is the last process. */
static inline void fullfork_wake_reaper(struct task_struct *reaper)
{
	/* Only the reapers made by full fork are user workers. */
	if (reaper && reaper->flags & PF_USER_WORKER)
		wake_up_process(reaper);
}

/* What is in vfork_done of @child, for which its parent waits with @vfork. */
static inline struct completion *fullfork_vfork_done(struct kernel_clone_args *args,
						     struct task_struct *child,
						     struct completion *vfork)
{
	if (unlikely(args->flags & CLONE_SFORK))
		return __fullfork_vfork_done(args, child, vfork);
	return vfork;
}

/* Does @tsk have the thread of its parent? */
static inline bool fullfork_has_thread(struct task_struct *tsk)
{
	return unlikely((unsigned long)READ_ONCE(tsk->vfork_done) & FULLFORK_HAS_THREAD);
}

/* The first thing in exit() and exit_group(). */
static inline void fullfork_exit_called(void)
{
	if (fullfork_has_thread(current))
		__fullfork_exit_called();
}

/* @tsk, which is current, lets go of its mm, which is still whole, as its registers. */
static inline void fullfork_send_back(struct task_struct *tsk)
{
	if (fullfork_has_thread(tsk))
		__fullfork_send_back(tsk);
}

/* In the parent, when the child has let go of the mm. */
static inline void fullfork_come_back(struct kernel_clone_args *args)
{
	if (unlikely(args->flags & CLONE_SFORK))
		__fullfork_come_back(args);
}

/* Threads of their own register with rseq themselves; one that moves is registered. */
static inline u64 fullfork_rseq_flags(u64 clone_flags)
{
	return clone_flags & CLONE_SFORK ? clone_flags & ~CLONE_VM : clone_flags;
}

#else /* CONFIG_FULLFORK */

#define JOBCTL_SFORK		0UL
#define CLONE_FULLFORK_FLAGS	0

static inline pid_t fullfork(struct kernel_clone_args *kargs) { return -EINVAL; }
static inline bool fullfork_args_valid(const struct kernel_clone_args *kargs) { return true; }
static inline void fullfork_quiesce(struct pt_regs *regs) { }
static inline void fullfork_quiesce_stopped(void) { }
static inline void fullfork_leave(struct task_struct *tsk) { }
static inline void fullfork_exit(struct task_struct *tsk) { }
static inline void fullfork_init_replica(const struct kernel_clone_args *args,
					 struct task_struct *p) { }
static inline void fullfork_copy_thread(const struct kernel_clone_args *args,
					struct task_struct *p) { }
static inline int fullfork_copy_mm_and_namespaces(const struct kernel_clone_args *args,
						  struct task_struct *p) { return 0; }
static inline void fullfork_lock_group(const struct kernel_clone_args *args,
				       struct task_struct *p) { }
static inline void fullfork_unlock_group(const struct kernel_clone_args *args,
					 struct task_struct *p) { }
static inline int fullfork_may_add(const struct kernel_clone_args *args,
				   struct task_struct *p) { return 0; }
static inline void fullfork_wake_reaper(struct task_struct *reaper) { }
static inline void fullfork_exit_called(void) { }
static inline void fullfork_send_back(struct task_struct *tsk) { }
static inline void fullfork_come_back(struct kernel_clone_args *args) { }
static inline u64 fullfork_rseq_flags(u64 clone_flags) { return clone_flags; }

static inline struct completion *fullfork_vfork_done(struct kernel_clone_args *args,
						     struct task_struct *child,
						     struct completion *vfork)
{
	return vfork;
}

static inline int fullfork_copy_args(struct kernel_clone_args *kargs,
				     const struct clone_args *args)
{
	if (args->source_pidfd || args->tid_map || args->tid_map_size)
		return -EINVAL;
	return 0;
}

static inline bool fullfork_requested(const struct kernel_clone_args *kargs)
{
	return false;
}

static inline struct fullfork_place *fullfork_place(const struct kernel_clone_args *args)
{
	return NULL;
}

static inline struct pid_namespace *fullfork_pid_ns(const struct kernel_clone_args *args,
						    struct task_struct *p)
{
	return p->nsproxy->pid_ns_for_children;
}

#endif /* CONFIG_FULLFORK */

static inline bool fullfork_is_replica(const struct kernel_clone_args *args)
{
	return fullfork_place(args);
}

/* Does copy_process() leave the rest for later? */
static inline bool fullfork_begins(const struct kernel_clone_args *args)
{
	struct fullfork_place *place = fullfork_place(args);

	return unlikely(place) && place->step == FULLFORK_BEGIN;
}

/* The task that copy_process() goes on with, or NULL. */
static inline struct task_struct *fullfork_begun(const struct kernel_clone_args *args)
{
	struct fullfork_place *place = fullfork_place(args);

	return unlikely(place) && place->step >= FULLFORK_FINISH ? place->begun : NULL;
}

static inline bool fullfork_cancels(const struct kernel_clone_args *args)
{
	struct fullfork_place *place = fullfork_place(args);

	return unlikely(place) && place->step == FULLFORK_CANCEL;
}

/* CLONE_* flags for what a new task shares with its siblings. */
static inline u64 fullfork_share_flags(const struct kernel_clone_args *args)
{
	struct fullfork_place *place = fullfork_place(args);

	return place ? place->share_flags | args->flags : args->flags;
}

/* The task with whom a new one shares @what, or from whom it copies it. */
static inline struct task_struct *fullfork_sibling(const struct kernel_clone_args *args,
						   enum fullfork_shared what)
{
	struct fullfork_place *place = fullfork_place(args);

	return place ? place->siblings[what] : current;
}

/* Called with tasklist_lock held, which keeps the child reaper alive. */
static inline struct task_struct *fullfork_parent(const struct kernel_clone_args *args)
{
	struct fullfork_place *place = fullfork_place(args);

	if (likely(!place))
		return current;
	return place->parent ?: task_active_pid_ns(current)->child_reaper;
}

#endif /* _LINUX_FULLFORK_H */
