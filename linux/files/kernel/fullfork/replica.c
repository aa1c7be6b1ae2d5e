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
#include <linux/cred.h>
#include <linux/fullfork.h>
#include <linux/fullfork_ipc.h>
#include <linux/futex.h>
#include <linux/highmem.h>
#include <linux/ipc_namespace.h>
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/pagewalk.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/thread_info.h>
#include <linux/uaccess.h>
#include <asm/syscall.h>

#include "internal.h"

/* Right after the task_struct was duplicated. */
void __fullfork_init_replica(struct fullfork_place *place, struct task_struct *p)
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
void __fullfork_copy_thread(struct fullfork_place *place, struct task_struct *p)
{
	struct fullfork_member *m = to_member(place);
	struct pt_regs *regs = task_pt_regs(p);
	/* Current, or a thread of the same process that began the replica. */
	struct task_struct *original = p->mm ? m->original : current;

	p->sched_reset_on_fork = original->sched_reset_on_fork;
	p->default_timer_slack_ns = original->default_timer_slack_ns;
	if (!p->mm) {
		/* A reaper or a zombie has nothing to do with current's memory. */
#ifdef CONFIG_UPROBES
		p->utask = NULL;
#endif
#ifdef CONFIG_USER_EVENTS
		p->user_event_mm = NULL;
#endif
		return;
	}

	p->clear_child_tid = original->clear_child_tid;
#ifdef CONFIG_FUTEX
	p->futex.robust_list = original->futex.robust_list;
#ifdef CONFIG_COMPAT
	p->futex.compat_robust_list = original->futex.compat_robust_list;
#endif
#endif
#ifdef CONFIG_GENERIC_ENTRY
	if (test_task_syscall_work(original, SYSCALL_USER_DISPATCH))
		set_task_syscall_work(p, SYSCALL_USER_DISPATCH);
#endif
	if (original == m->group->op->caller)
		return;

	if (m->lost)
		syscall_set_return_value(p, regs, -EAGAIN, 0);
	else if (m->restarts_eintr)
		/* The signal that interrupted it is not for the replica. */
		syscall_set_return_value(p, regs, -ERESTARTNOINTR, 0);
	else
		syscall_set_return_value(p, regs, 0, regs_return_value(task_pt_regs(original)));

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

static int copy_replica_namespaces(struct fullfork_place *place, struct task_struct *p)
{
	struct fullfork_member *m = to_member(place);
	struct task_struct *sib = place->siblings[FULLFORK_NSPROXY];
	struct nsproxy *nsproxy = current->nsproxy;
	struct ipc_namespace *ipc_ns, *own = NULL;
	int err;

	if (sib != current) {
		get_nsproxy(sib->nsproxy);
		p->nsproxy = sib->nsproxy;
		return 0;
	}
	ipc_ns = m->group ? fullfork_copied_ipc_ns(m->group->op, nsproxy->ipc_ns) : NULL;
	if (!m->pid_ns_for_children && !ipc_ns) {
		/*
		 * Nothing is entered that the original did not enter: no
		 * time_ns_for_children.
		 */
		get_nsproxy(p->nsproxy);
		return 0;
	}
	/* A reaper is in none that somebody may want to copy, or could not get at. */
	if (!m->group)
		own = fullfork_new_ipc_ns();
	if (IS_ERR(own))
		return PTR_ERR(own);
	err = copy_namespaces_to_pid_ns(p, m->pid_ns_for_children ?:
					   nsproxy->pid_ns_for_children);
	if (!err && (own || ipc_ns))
		fullfork_enter_ipc_ns(p, own ?: ipc_ns);
	if (own)
		put_ipc_ns(own);
	return err;
}

/* The adjustments stay with the originals, as after fork(); who shares them does not. */
static int copy_replica_semundo(struct fullfork_place *place, struct task_struct *p)
{
	struct task_struct *sib = place->siblings[FULLFORK_SYSVSEM];

	/* A reaper or a zombie has none. */
	if (!p->mm || !fullfork_semundo(to_member(place)->original))
		return 0;
	return fullfork_copy_semundo(p, sib == current ? NULL : sib);
}

/* On error the caller drops @p->mm and the undo list, but nothing of the namespaces. */
int fullfork_copy_mm_and_namespaces(const struct kernel_clone_args *args,
				    struct task_struct *p)
{
	struct fullfork_place *place = args->fullfork;
	int err = 0;

	if (p->files && !(place->share_flags & CLONE_FILES))
		fullfork_isolate_files(to_member(place), p->files);
	if (p->mm && !(place->share_flags & CLONE_VM))
		err = keep_mm_state(p->mm, current->mm) ?:
		      fullfork_isolate_mm(to_member(place)->group->op, p->mm);
	err = err ?: copy_replica_semundo(place, p);
	return err ?: copy_replica_namespaces(place, p);
}

int __fullfork_may_add(const struct kernel_clone_args *args, struct task_struct *p)
{
	struct fullfork_place *place = args->fullfork;

	lockdep_assert_held_write(&tasklist_lock);
	lockdep_assert_held(fullfork_siglock(current));
	/* The leader's replica is not visible yet. */
	if (place->share_flags & CLONE_THREAD)
		lockdep_assert_held(fullfork_siglock(p));

	/* Someone killed the replica while it was made. */
	if (p->signal->flags & SIGNAL_GROUP_EXIT)
		return -EAGAIN;
#ifdef CONFIG_CGROUPS
	/*
	 * Or moved what there was of it into another domain cgroup, where all
	 * of its threads must be.  Nobody does until cgroup_post_fork().
	 */
	if (place->share_flags & CLONE_THREAD) {
		guard(rcu)();
		if (task_css_set(place->siblings[FULLFORK_GROUP])->dom_cset->dfl_cgrp !=
		    args->cset->dom_cset->dfl_cgrp)
			return -EAGAIN;
	}
#endif
	return 0;
}

struct pid_namespace *__fullfork_pid_ns(struct fullfork_place *place)
{
	struct fullfork_member *m = to_member(place);

	return m->pid_ns ?: task_active_pid_ns(m->original);
}

/* A shared mapping has one word for both: it is left alone. */
static struct vm_area_struct *find_private_area(struct mm_struct *mm, unsigned long addr)
{
	struct vm_area_struct *vma = vma_lookup(mm, untagged_addr_remote(mm, addr));

	return vma && !(vma->vm_flags & VM_SHARED) ? vma : NULL;
}

static int is_private_word(struct mm_struct *mm, unsigned long addr)
{
	bool private;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	private = find_private_area(mm, addr);
	mmap_read_unlock(mm);
	return private;
}

/* Zero where there is no word; but an error if it could be read, were there memory. */
static int read_tid_word(pid_t __user *addr, pid_t *word)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	bool readable;

	*word = 0;
	if (!addr || likely(!get_user(*word, addr)))
		return 0;
	*word = 0;
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = vma_lookup(mm, untagged_addr_remote(mm, (unsigned long)addr));
	readable = vma && (vma->vm_flags & VM_READ);
	mmap_read_unlock(mm);
	return readable ? -ENOMEM : 0;
}

static void write_to_page(struct vm_area_struct *vma, struct page *page,
			  unsigned long addr, pid_t tid)
{
	void *kaddr = kmap_local_page(page);

	copy_to_user_page(vma, page, addr, kaddr + offset_in_page(addr), &tid, sizeof(tid));
	kunmap_local(kaddr);
}

/* As in user mode: what is mapped, and may be written to, is dirty already. */
static bool write_where_mapped(struct vm_area_struct *vma, unsigned long addr, pid_t tid)
{
	struct folio_walk fw;
	bool writable;

	if (!folio_walk_start(&fw, vma, addr, 0))
		return false;
	writable = fw.level == FW_LEVEL_PTE && pte_write(fw.pte) && pte_dirty(fw.pte);
	if (writable)
		write_to_page(vma, fw.page, addr, tid);
	folio_walk_end(&fw, vma);
	return writable;
}

/* Break the sharing of the page, and write to it.  Return: 1, or it failed. */
static long write_private_word(struct vm_area_struct *vma, unsigned long addr, pid_t tid)
{
	struct page *page;
	long got;

	/* Nearly always this is enough, and get_user_pages_remote() costs more. */
	if ((vma->vm_flags & (VM_WRITE | VM_SHADOW_STACK)) == VM_WRITE) {
		if (handle_mm_fault(vma, addr, FAULT_FLAG_WRITE | FAULT_FLAG_REMOTE, NULL) &
		    VM_FAULT_ERROR)
			return -ENOMEM;
		if (write_where_mapped(vma, addr, tid))
			return 1;
	}

	got = get_user_pages_remote(vma->vm_mm, addr, 1, FOLL_WRITE, &page, NULL);
	if (got == 1) {
		write_to_page(vma, page, addr, tid);
		set_page_dirty_lock(page);
		put_page(page);
	}
	return got;
}

/* As access_process_vm(), for a word that does not cross pages of a replica. */
static int write_tid_word(struct mm_struct *mm, unsigned long addr, pid_t tid)
{
	struct vm_area_struct *vma;
	long got = 1;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	addr = untagged_addr_remote(mm, addr);
	vma = find_private_area(mm, addr);
	if (vma)
		got = write_private_word(vma, addr, tid);
	mmap_read_unlock(mm);
	if (got == 1)
		return 0;
	return fatal_signal_pending(current) ? -EINTR : -ENOMEM;
}

/*
 * A process of one thread writes the word by itself before it comes to user mode,
 * as after CLONE_CHILD_SETTID.  One that is to be stopped may be looked at before.
 */
static bool writes_own_word(struct fullfork_member *m)
{
	return m->owners[FULLFORK_MM] == m && atomic_read(&current->mm->mm_users) == 1 &&
	       !(m->group->op->kargs->flags & CLONE_STOPPED);
}

/*
 * glibc finds the TID of a thread in the word that is to be cleared when the
 * thread exits.  Write the new one where the old one is.  No thread of the
 * original runs, so its word is that of the replica; and the replica does not
 * run either.
 */
static int update_tid_word(struct fullfork_member *m, struct task_struct *p)
{
	pid_t word, tid = task_pid_nr_ns(p, task_active_pid_ns(p));
	unsigned long addr = (unsigned long)p->clear_child_tid;
	int err = read_tid_word(p->clear_child_tid, &word);

	if (err || word != task_pid_vnr(m->original) || word == tid)
		return err;
	if (!writes_own_word(m) && IS_ALIGNED(addr, sizeof(tid)))
		return write_tid_word(p->mm, addr, tid);
	err = is_private_word(p->mm, addr);
	if (err <= 0)
		return err;
	if (writes_own_word(m)) {
		p->set_child_tid = p->clear_child_tid;
		return 0;
	}
	if (access_process_vm(p, addr, &tid, sizeof(tid), FOLL_WRITE) == sizeof(tid))
		return 0;
	return fatal_signal_pending(current) ? -EINTR : -ENOMEM;
}

static const u64 share_flags[FULLFORK_NR_SHARED] = {
	[FULLFORK_GROUP]	= CLONE_THREAD,
	[FULLFORK_SIGHAND]	= CLONE_SIGHAND,
	[FULLFORK_MM]		= CLONE_VM,
	[FULLFORK_FILES]	= CLONE_FILES,
	[FULLFORK_FS]		= CLONE_FS,
};

/* All that this member needs is there. */
static void place_member(struct fullfork_member *m)
{
	struct fullfork_place *place = &m->place;
	struct fullfork *op = m->group->op;
	enum fullfork_shared what;

	for (what = FULLFORK_GROUP; what < FULLFORK_NR_SHARED; what++) {
		if (m->owners[what] == m) {
			place->siblings[what] = current;
		} else {
			place->siblings[what] = m->owners[what]->replica;
			place->share_flags |= share_flags[what];
		}
	}
	/* It has no memory any more. */
	if (fullfork_has_exited(m))
		place->siblings[FULLFORK_MM] = &init_task;

	if (m != m->group->leader)
		place->parent = m->group->leader->replica;
	else if (m->parent)
		place->parent = m->parent->replica;
	else if (op->kargs->flags & CLONE_PARENT)
		place->parent = m->original;
	else
		place->parent = op->caller;
}

/* Which TIDs the replica has, from its own PID namespace outwards. */
static size_t choose_tids(const struct fullfork_member *m, pid_t *tids)
{
	struct fullfork *op = m->group->op;
	struct pid_namespace *ns;
	size_t n = 0;

	for (ns = task_active_pid_ns(m->original); ns && fullfork_find_pid_ns(op, ns);
	     ns = ns->parent)
		tids[n++] = task_pid_nr_ns(m->original, ns);
	return n;
}

/* The replica of a thread that has exited does so too. */
static int exit_again(void *code)
{
	do_exit((long)code);
}

/* For the kernel to exit with; what wait() tells about a process. */
static long exit_code(struct fullfork_member *m)
{
	struct signal_struct *signal = m->group->signal;

	if (fullfork_is_zombie(m->group) && (signal->flags & SIGNAL_GROUP_EXIT))
		return signal->group_exit_code;
	return m->original->exit_code;
}

static struct task_struct *copy_original(struct fullfork_member *m)
{
	u64 flags = m->group->op->kargs->flags;
	pid_t tids[MAX_PID_NS_LEVEL + 1];
	struct kernel_clone_args args = {
		.flags		= flags & CLONE_NNP,
		.exit_signal	= -1,
		.set_tid	= tids,
		.set_tid_size	= choose_tids(m, tids),
		.fullfork	= &m->place,
	};

	if (m == m->group->leader)
		args.exit_signal = m->original->group_leader->exit_signal;
	if (m == m->group->op->root->leader) {
		args.flags |= flags & (CLONE_PARENT | CLONE_AUTOREAP);
		args.exit_signal = m->group->op->kargs->exit_signal;
	}
	if (fullfork_has_exited(m)) {
		args.user_worker = 1;
		args.no_files = 1;
		args.fn = exit_again;
		args.fn_arg = (void *)exit_code(m);
		/* Nobody is told once more that a zombie has exited. */
		if (fullfork_is_zombie(m->group))
			args.exit_signal = 0;
	}
	return copy_process(NULL, 0, NUMA_NO_NODE, &args);
}

static struct task_struct *do_step(struct fullfork_member *m, enum fullfork_step step)
{
	struct fullfork_place *place = &m->place;
	struct kernel_clone_args args = {
		.exit_signal	= -1,
		.fullfork	= place,
	};
	struct task_struct *p;

	place->step = step;
	place->share_flags = CLONE_THREAD;
	p = copy_process(NULL, 0, NUMA_NO_NODE, &args);
	place->step = FULLFORK_COPY;
	place->share_flags = 0;
	return p;
}

/**
 * fullfork_begin_replica() - do what a replica thread needs of its original alone
 * @m: the member of current, which is no leader
 *
 * It costs most of a replica, and current is running now; the rest can be done
 * by another thread, see may_finish().  Should it fail, all of it is tried when
 * it is the turn of @m.
 */
void fullfork_begin_replica(struct fullfork_member *m)
{
	struct task_struct *p = do_step(m, FULLFORK_BEGIN);

	if (!IS_ERR(p))
		m->place.begun = p;
}

/**
 * fullfork_cancel_replica() - undo fullfork_begin_replica(), if it is not finished
 * @m: the member of current
 */
void fullfork_cancel_replica(struct fullfork_member *m)
{
	if (likely(!m->place.begun))
		return;
	do_step(m, FULLFORK_CANCEL);
	m->place.begun = NULL;
}

/*
 * Is what others may change of @t as it was when its replica @p was begun?  Of the
 * rest, copy_process() takes the present value when it is finished.
 */
static bool is_unchanged(const struct task_struct *t, const struct task_struct *p)
{
	if (t->policy != p->policy || t->static_prio != p->static_prio ||
	    t->normal_prio != p->normal_prio || t->rt_priority != p->rt_priority ||
	    t->se.custom_slice != p->se.custom_slice || t->se.slice != p->se.slice ||
	    t->timer_slack_ns != p->timer_slack_ns || t->atomic_flags != p->atomic_flags ||
	    t->user_cpus_ptr || p->user_cpus_ptr ||
	    !cpumask_equal(&t->cpus_mask, &p->cpus_mask) ||
	    memcmp(t->comm, p->comm, sizeof(t->comm)))
		return false;
#ifdef CONFIG_UCLAMP_TASK
	if (memcmp(t->uclamp_req, p->uclamp_req, sizeof(t->uclamp_req)))
		return false;
#endif
#ifdef CONFIG_CPUSETS
	if (!nodes_equal(t->mems_allowed, p->mems_allowed))
		return false;
#endif
#ifdef CONFIG_NUMA
	if (t->mempolicy)
		return false;
#endif
#ifdef CONFIG_BLOCK
	/* An I/O priority. */
	if (t->io_context)
		return false;
#endif
	return true;
}

/* Does copy_process() take the same from current as from @t when it finishes? */
static bool is_as_current(const struct task_struct *t)
{
	if (!cpumask_equal(&t->cpus_mask, &current->cpus_mask))
		return false;
#ifdef CONFIG_SECCOMP
	if (t->seccomp.mode != current->seccomp.mode ||
	    t->seccomp.filter != current->seccomp.filter ||
	    (t->atomic_flags ^ current->atomic_flags) & BIT(PFA_NO_NEW_PRIVS))
		return false;
#endif
#ifdef CONFIG_SCHED_CORE
	if (t->core_cookie != current->core_cookie)
		return false;
#endif
#ifdef CONFIG_UPROBES
	if (t->utask || current->utask)
		return false;
#endif
#ifdef CONFIG_USER_EVENTS
	if (t->user_event_mm != current->user_event_mm)
		return false;
#endif
#ifdef TIF_IO_BITMAP
	if (test_tsk_thread_flag((struct task_struct *)t, TIF_IO_BITMAP))
		return false;
#endif
#ifdef CONFIG_CGROUPS
	guard(rcu)();
	return task_css_set((struct task_struct *)t) == task_css_set(current);
#else
	return true;
#endif
}

/*
 * Can current, which made the leader's replica, finish that of @m?  Else @m has
 * to be woken for that, and to be scheduled twice.
 */
static bool may_finish(const struct fullfork_member *m)
{
	enum fullfork_shared what;

	if (!m->place.begun || !same_thread_group(m->original, current))
		return false;
	for (what = FULLFORK_GROUP; what < FULLFORK_NR_SHARED; what++)
		if (m->owners[what] == m)
			return false;
	return is_unchanged(m->original, m->place.begun) && is_as_current(m->original);
}

/*
 * Who finishes the replica of @m?  Where there are several CPUs, members that are
 * like the maker of the leader's replica, and so like each other, share the work.
 */
static struct fullfork_member *pick_finisher(struct fullfork_member *m,
					     struct fullfork_member *maker)
{
	struct fullfork_group *g = m->group;
	unsigned int nr = min(num_online_cpus(), FULLFORK_MAX_FINISHERS);
	unsigned int i;

	lockdep_assert_held(&g->op->lock);

	/* They need not be like the owner of something that only some share. */
	if (g->nr_to_finish && g->finishers[0] != maker)
		return maker;
	i = g->nr_to_finish++;
	if (i < nr)
		g->finishers[i] = i ? m : maker;
	/* CPUs may come and go. */
	return g->finishers[i % nr] ?: maker;
}

/* A zombie has the credentials that its parent's wait() tells about. */
static void keep_creds(struct task_struct *p, struct task_struct *original)
{
	const struct cred *cred = get_task_cred(original);
	const struct cred *old = rcu_dereference_protected(p->cred, true);

	inc_rlimit_ucounts(cred->ucounts, UCOUNT_RLIMIT_NPROC, 1);
	dec_rlimit_ucounts(old->ucounts, UCOUNT_RLIMIT_NPROC, 1);
	switch_cred_namespaces(old, cred);
	rcu_assign_pointer(p->real_cred, get_cred(cred));
	rcu_assign_pointer(p->cred, cred);
	put_cred_many(old, 2);
}

/* What fork() does not give to a child, and a replica below the root has. */
static void keep_family_state(struct fullfork_member *m, struct task_struct *p)
{
	struct task_struct *original = m->original;

	if (fullfork_has_exited(m)) {
		p->flags &= ~PF_USER_WORKER;
		keep_creds(p, original);
		set_task_comm(p, original->comm);
	}
	/* The root's relation to its own descendants is no other one if it stands alone. */
	if (m == m->group->leader &&
	    (m->group != m->group->op->root || m->group->op->isolation))
		p->signal->is_child_subreaper = m->group->signal->is_child_subreaper;
	if (m->group == m->group->op->root)
		return;

	p->pdeath_signal = original->pdeath_signal;
	if (m != m->group->leader)
		return;
	p->signal->autoreap = m->group->signal->autoreap;
	if (!fullfork_is_zombie(m->group))
		p->parent_exec_id = original->parent_exec_id;
}

static void fail_prepare(struct fullfork *op, int err, enum fullfork_reason reason)
{
	/* If current was killed, and not the caller, others can still be copied. */
	if (!same_thread_group(current, op->caller)) {
		if (fatal_signal_pending(current))
			reason = FULLFORK_MEMBER_KILLED;
		if (fatal_signal_pending(current) || err == -EINTR)
			err = -EAGAIN;
	}
	fullfork_fail(op, err, reason, current);
}

/*
 * Make the replica of @m, as the maker.  It is visible, as the child of a fork()
 * before it is woken, and does not run.
 */
static void prepare_member(struct fullfork_member *m)
{
	struct fullfork *op = m->group->op;
	struct task_struct *p;
	int err;

	if (m->maker == m && (m->place.step != FULLFORK_FINISH || READ_ONCE(op->err)))
		fullfork_cancel_replica(m);
	if (READ_ONCE(op->err))
		return;

	place_member(m);
	p = copy_original(m);
	m->place.begun = NULL;
	m->place.step = FULLFORK_COPY;
	if (IS_ERR(p)) {
		fail_prepare(op, PTR_ERR(p), FULLFORK_PREPARE);
		return;
	}
	m->replica = p;
	keep_family_state(m, p);
	err = p->mm ? update_tid_word(m, p) : 0;
	if (err)
		fail_prepare(op, err, FULLFORK_TID_WORD);
}

static void start_member(struct fullfork_member *m, struct wake_q_head *wake_q)
{
	struct fullfork_member *maker = m->maker;
	struct fullfork *op = m->group->op;

	lockdep_assert_held(&op->lock);

	list_add_tail(&m->todo_node, &maker->todo);
	op->nr_preparing++;
	if (maker->state == FULLFORK_PREPARING)
		return;
	/* Pairs with the acquire in wait_state(). */
	smp_store_release(&maker->state, FULLFORK_PREPARING);
	wake_q_add(wake_q, maker->original);
}

/* @m is done: start those that waited for it alone.  Return: what to do next. */
static struct fullfork_member *finish_member(struct fullfork_member *m,
					     struct wake_q_head *wake_q)
{
	struct fullfork_member *next, *maker = m->maker;
	struct fullfork *op = m->group->op;
	struct fullfork_need *need;

	/* They stay, and @op does, as @m is still counted. */
	list_for_each_entry(need, &m->dependents, node) {
		guard(spinlock_irq)(&op->lock);
		if (op->err || --need->of->nr_needs)
			continue;
		if (may_finish(need->of)) {
			need->of->maker = pick_finisher(need->of, maker);
			need->of->place.step = FULLFORK_FINISH;
		}
		start_member(need->of, wake_q);
	}

	guard(spinlock_irq)(&op->lock);
	if (!op->err)
		op->nr_prepared++;
	list_del(&m->todo_node);
	next = list_first_entry_or_null(&maker->todo, struct fullfork_member, todo_node);
	if (!next)
		maker->state = FULLFORK_QUIESCED;
	/* Under the lock: the operation is gone soon after. */
	if (!--op->nr_preparing)
		wake_up_process(op->caller);
	return next;
}

/**
 * fullfork_work() - prepare replicas
 * @maker: the member of current, in state FULLFORK_PREPARING
 */
void fullfork_work(struct fullfork_member *maker)
{
	struct fullfork_member *m;

	m = list_first_entry(&maker->todo, struct fullfork_member, todo_node);
	while (m) {
		DEFINE_WAKE_Q(wake_q);

		prepare_member(m);
		m = finish_member(m, &wake_q);
		wake_up_q(&wake_q);
	}
}

static bool none_preparing(struct fullfork *op)
{
	guard(spinlock_irq)(&op->lock);
	return !op->nr_preparing;
}

static void wait_none_preparing(struct fullfork *op)
{
	/* Not to be interrupted: members at work refer to @op. */
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		if (none_preparing(op))
			break;
		/* Pairs with the release in start_member(). */
		if (smp_load_acquire(&op->self->state) == FULLFORK_PREPARING) {
			__set_current_state(TASK_RUNNING);
			fullfork_work(op->self);
			continue;
		}
		schedule();
	}
	__set_current_state(TASK_RUNNING);
}

/**
 * fullfork_cancel_replicas() - have members undo what they began
 * @op: the operation, detached and with an error
 *
 * So that nothing is charged any more when the call returns.
 */
void fullfork_cancel_replicas(struct fullfork *op)
{
	struct fullfork_member *m;
	struct fullfork_group *g;
	DEFINE_WAKE_Q(wake_q);

	list_for_each_entry(g, &op->groups, node) {
		list_for_each_entry(m, &g->members, node) {
			if (!m->place.begun)
				continue;
			guard(spinlock_irq)(&op->lock);
			m->maker = m;
			start_member(m, &wake_q);
		}
	}
	wake_up_q(&wake_q);
	wait_none_preparing(op);
}

/**
 * fullfork_prepare_replicas() - have all members make their replicas
 * @op: the operation, with all members linked
 *
 * The root's leader begins; each starts those that only waited for it.
 *
 * Return: 0, or the first error, with nobody at work any more.
 */
int fullfork_prepare_replicas(struct fullfork *op)
{
	DEFINE_WAKE_Q(wake_q);

	scoped_guard(spinlock_irq, &op->lock)
		start_member(op->root->leader, &wake_q);
	wake_up_q(&wake_q);

	wait_none_preparing(op);

	/*
	 * A circle: the init of a PID namespace shares something with a process
	 * that entered the namespace, is not below it, and comes first.
	 */
	if (!op->err && op->nr_prepared != op->nr_members)
		fullfork_fail(op, -EOPNOTSUPP, FULLFORK_PID_NAMESPACE, current);
	return READ_ONCE(op->err);
}
