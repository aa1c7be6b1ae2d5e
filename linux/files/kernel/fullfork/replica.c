// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: what a member does for its own replica.
 *
 * Every original runs copy_process() on itself, as in fork(), and what it owns
 * as current is what is copied.  The functions here place the copy among the
 * other replicas and keep the state that fork() drops.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/cgroup.h>
#include <linux/fullfork.h>
#include <linux/futex.h>
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/thread_info.h>
#include <linux/uaccess.h>
#include <asm/syscall.h>

#include "internal.h"

/* Right after the task_struct was duplicated. */
void __fullfork_init_replica(const struct fullfork_member *m, struct task_struct *p)
{
#ifdef CONFIG_CGROUPS
	/* The original may be stopped or frozen, its replica is counted by itself. */
	p->frozen = 0;
#endif
	/* A replica is no child, see __fullfork_copy_thread(). */
	p->sched_reset_on_fork = 0;
}

/*
 * After copy_thread() and all the resets of fork().  The registers are those of
 * the original but for the return register, which fork() sets to zero, and
 * which is right for the replica of the caller.
 */
void __fullfork_copy_thread(const struct fullfork_member *m, struct task_struct *p)
{
	struct pt_regs *regs = task_pt_regs(p);

	p->sched_reset_on_fork = current->sched_reset_on_fork;
	p->default_timer_slack_ns = current->default_timer_slack_ns;
	if (!p->mm) {
		/* The reaper has nothing to do with the memory of the caller. */
#ifdef CONFIG_UPROBES
		p->utask = NULL;
#endif
#ifdef CONFIG_USER_EVENTS
		p->user_event_mm = NULL;
#endif
		return;
	}

	p->clear_child_tid = current->clear_child_tid;
#ifdef CONFIG_FUTEX
	p->futex.robust_list = current->futex.robust_list;
#ifdef CONFIG_COMPAT
	p->futex.compat_robust_list = current->futex.compat_robust_list;
#endif
#endif
#ifdef CONFIG_GENERIC_ENTRY
	if (test_task_syscall_work(current, SYSCALL_USER_DISPATCH))
		set_task_syscall_work(p, SYSCALL_USER_DISPATCH);
#endif
	if (current == m->op->caller)
		return;

	if (m->lost)
		syscall_set_return_value(p, regs, -EAGAIN, 0);
	else if (fullfork_restarts_eintr(current_pt_regs()))
		/* The signal that interrupted it is not for the replica. */
		syscall_set_return_value(p, regs, -ERESTARTNOINTR, 0);
	else
		syscall_set_return_value(p, regs, 0, regs_return_value(current_pt_regs()));

	/*
	 * Go through the exit work once to restart an interrupted system call:
	 * schedule_tail() drops TIF_SIGPENDING if no signal is pending.
	 */
	set_tsk_thread_flag(p, TIF_NOTIFY_SIGNAL);
}

/* Locked memory stays locked, as mlockall() and mlock() promised it. */
static int keep_locked_memory(struct mm_struct *mm, struct mm_struct *oldmm)
{
	VMA_ITERATOR(vmi, oldmm, 0);
	struct vm_area_struct *vma, *oldvma;

	mm->def_flags |= oldmm->def_flags & VM_LOCKED_MASK;
	if (!oldmm->locked_vm)
		return 0;

	if (mmap_read_lock_killable(oldmm))
		return -EINTR;
	mmap_write_lock_nested(mm, SINGLE_DEPTH_NESTING);
	for_each_vma(vmi, oldvma) {
		if (!(oldvma->vm_flags & VM_LOCKED_MASK))
			continue;
		vma = vma_lookup(mm, oldvma->vm_start);
		if (!vma)
			continue;
		/*
		 * The pages are not counted as mlocked once more.  Reclaim does
		 * that when it meets them in a locked area.
		 */
		vm_flags_set(vma, oldvma->vm_flags & VM_LOCKED_MASK);
		mm->locked_vm += vma_pages(vma);
	}
	mmap_write_unlock(mm);
	mmap_read_unlock(oldmm);
	return 0;
}

/* What protects the image is kept: it did not agree to lose it. */
static int keep_mm_state(struct mm_struct *mm, struct mm_struct *oldmm)
{
	int err;

	if (mm_flags_test(MMF_HAS_MDWE, oldmm))
		mm_flags_set(MMF_HAS_MDWE, mm);
	if (mm_flags_test(MMF_HAS_MDWE_NO_INHERIT, oldmm))
		mm_flags_set(MMF_HAS_MDWE_NO_INHERIT, mm);

	err = keep_locked_memory(mm, oldmm);
	return err ?: futex_hash_copy(mm, oldmm);
}

static int copy_replica_namespaces(const struct fullfork_member *m, struct task_struct *p)
{
	struct task_struct *sib = m->sibling;

	/* Nothing is entered that the original did not enter: no time_ns_for_children. */
	if (!m->op->pid_ns) {
		get_nsproxy(p->nsproxy);
		return 0;
	}

	/* Threads with the same proxy as the leader share the leader's new one. */
	if (sib != current && current->nsproxy == current->group_leader->nsproxy) {
		get_nsproxy(sib->nsproxy);
		p->nsproxy = sib->nsproxy;
		return 0;
	}
	return copy_namespaces_to_pid_ns(p, m->op->pid_ns);
}

/* On error the caller drops @p->mm, but nothing of the namespaces. */
int fullfork_copy_mm_and_namespaces(const struct kernel_clone_args *args,
				    struct task_struct *p)
{
	const struct fullfork_member *m = args->fullfork;
	int err = 0;

	if (p->mm && !(m->share_flags & CLONE_VM))
		err = keep_mm_state(p->mm, current->mm);
	return err ?: copy_replica_namespaces(m, p);
}

int __fullfork_may_add(const struct kernel_clone_args *args, struct task_struct *p)
{
	const struct fullfork_member *m = args->fullfork;

	lockdep_assert_held_write(&tasklist_lock);
	lockdep_assert_held(fullfork_siglock(current));
	/* The leader's replica is not visible yet. */
	if (m->share_flags & CLONE_THREAD)
		lockdep_assert_held(fullfork_siglock(p));

	/* Someone killed the replica while it was made. */
	if (p->signal->flags & SIGNAL_GROUP_EXIT)
		return -EAGAIN;
#ifdef CONFIG_CGROUPS
	/*
	 * Or moved what there was of it into another domain cgroup, where all
	 * of its threads must be.  Nobody does until cgroup_post_fork().
	 */
	if (m->share_flags & CLONE_THREAD) {
		guard(rcu)();
		if (task_css_set(m->sibling)->dom_cset->dfl_cgrp !=
		    args->cset->dom_cset->dfl_cgrp)
			return -EAGAIN;
	}
#endif
	return 0;
}

struct pid_namespace *__fullfork_pid_ns(const struct fullfork_member *m)
{
	return m->op->pid_ns ?: task_active_pid_ns(current);
}

/*
 * glibc finds the TID of a thread in the word that is to be cleared when the
 * thread exits.  A shared mapping has one word for both: it is left alone.
 */
static bool tid_word_is_private(struct mm_struct *mm, unsigned long addr)
{
	struct vm_area_struct *vma;
	bool private = false;

	if (mmap_read_lock_killable(mm))
		return false;
	vma = vma_lookup(mm, addr);
	if (vma)
		private = !(vma->vm_flags & VM_SHARED);
	mmap_read_unlock(mm);
	return private;
}

/*
 * Write the new TID where the old one is.  No thread of the original runs, so
 * its word is that of the replica; and the replica does not run either.
 */
static int update_tid_word(struct task_struct *p)
{
	unsigned long addr = (unsigned long)p->clear_child_tid;
	pid_t word, tid = task_pid_nr_ns(p, task_active_pid_ns(p));

	if (!addr || get_user(word, p->clear_child_tid) || word != task_pid_vnr(current) ||
	    !tid_word_is_private(p->mm, addr))
		return 0;

	if (access_process_vm(p, addr, &tid, sizeof(tid), FOLL_WRITE) != sizeof(tid))
		return fatal_signal_pending(current) ? -EINTR : -ENOMEM;
	return 0;
}

/*
 * Threads share what the leader's original shares with them.  One that has a
 * table of its own shares it with others of this kind, so they come one by one.
 */
bool fullfork_find_siblings(struct fullfork *op, struct fullfork_member *m)
{
	struct task_struct *lead = op->leader->original;
	struct fullfork_member *other;

	lockdep_assert_held(&op->lock);

	if (m->original->files == lead->files && m->original->fs == lead->fs)
		return false;

	list_for_each_entry(other, &op->members, node) {
		if (other->state != FULLFORK_PREPARED || other == m || !other->replica)
			continue;
		if (other->original->files == m->original->files)
			m->files_sibling = other->replica;
		if (other->original->fs == m->original->fs)
			m->fs_sibling = other->replica;
	}
	return true;
}

/* Runs while no other member with tables of its own is at work. */
static void place_member(struct fullfork_member *m)
{
	struct fullfork *op = m->op;
	struct task_struct *lead;

	if (m == op->leader) {
		m->sibling = current;
		m->mm_sibling = current;
		m->files_sibling = current;
		m->fs_sibling = current;
		m->parent = op->caller;
		return;
	}

	lead = op->leader->replica;
	m->share_flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
	m->sibling = lead;
	m->mm_sibling = lead;
	m->parent = lead;
	if (current->files == op->leader->original->files)
		m->files_sibling = lead;
	if (current->fs == op->leader->original->fs)
		m->fs_sibling = lead;

	if (m->files_sibling)
		m->share_flags |= CLONE_FILES;
	else
		m->files_sibling = current;
	if (m->fs_sibling)
		m->share_flags |= CLONE_FS;
	else
		m->fs_sibling = current;
}

static struct task_struct *copy_original(struct fullfork_member *m)
{
	struct fullfork *op = m->op;
	pid_t tid = task_pid_vnr(current);
	struct kernel_clone_args args = {
		.flags		= op->kargs->flags & CLONE_NNP,
		.exit_signal	= op->kargs->exit_signal,
		.fullfork	= m,
	};

	if (m == op->leader)
		args.flags |= op->kargs->flags & (CLONE_PARENT | CLONE_AUTOREAP);
	if (op->pid_ns) {
		args.set_tid = &tid;
		args.set_tid_size = 1;
	}
	return copy_process(NULL, 0, NUMA_NO_NODE, &args);
}

/**
 * fullfork_prepare_member() - make the replica of current
 * @m: the member, in state FULLFORK_PREPARING
 *
 * The replica is visible, as the child of a fork() before it is woken, and
 * does not run.  After this the member is in state FULLFORK_PREPARED.
 */
void fullfork_prepare_member(struct fullfork_member *m)
{
	enum fullfork_reason reason = FULLFORK_PREPARE;
	struct fullfork *op = m->op;
	struct task_struct *p;
	int err = 0;

	place_member(m);
	p = copy_original(m);
	if (IS_ERR(p)) {
		err = PTR_ERR(p);
		p = NULL;
	} else if (!op->pid_ns) {
		reason = FULLFORK_TID_WORD;
		err = update_tid_word(p);
	}

	guard(spinlock_irq)(&op->lock);
	m->replica = p;
	if (err)
		fullfork_set_error(op, err, reason, current);
	m->state = FULLFORK_PREPARED;
	if (!--op->nr_preparing)
		wake_up_process(op->caller);
}
