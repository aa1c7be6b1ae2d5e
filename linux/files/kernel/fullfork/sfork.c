// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_SFORK: the thread that calls clone3() moves into the child, and comes
 * back when it there calls exec or exit.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: sfork
 *
 * A thread of control is user registers and a stack.  The child of a vfork() has
 * the memory with the stack and a copy of the registers, so that its parent, which
 * sleeps meanwhile, only has to take over registers from it in the end for the
 * thread to be back.
 *
 * Who waits for whom: the parent waits for the child as in vfork(), killably, in
 * wait_for_vfork_done().  The child waits for nobody.
 *
 * 1. Leave.  clone3() puts a struct sfork on the stack of the parent.
 *    &task_struct.vfork_done of the child points to it, marked by bit 0
 *    (FULLFORK_HAS_THREAD).  The pointer is valid while it is not NULL under
 *    task_lock() of the child: a parent that is killed sets it to NULL before it
 *    leaves, and the child is an ordinary process from then on.
 * 2. Send back.  exec and exit end in mm_release(), called by the child itself.
 *    There, before anything of the user state is torn down, its registers are
 *    copied into the struct sfork and the mark is removed, so that this happens
 *    once; then the completion of vfork() wakes the parent.  In exec that is
 *    behind everything that may fail and return: exec either returns its error in
 *    the child, which goes on, or the thread is back.
 *    In exit() and exit_group() the child says so first.  Otherwise it does not
 *    exit by its own call: it was killed by a signal, or another thread that it
 *    has made called exec or exit_group().
 * 3. Come back.  The parent takes over the registers before a tracer sees the end
 *    of vfork(), and clone3() returns the PID of the child in the place where
 *    exec or exit was called.  If the thread ended in the child in another way,
 *    the parent is killed by the signal that the child died of, or by SIGKILL if
 *    there was none: it has no user instruction where it could go on.  No handler
 *    and no signal mask of its own hold that up.
 *
 * Only the leader of the child has the thread.  Its other threads and children
 * are what they are in every process; so are replicas: who copies the child copies
 * a process without the mark.
 *
 * What goes with the thread, there and back: the registers in pt_regs, the bases
 * of TLS, the registration with rseq (it describes memory that belongs to the
 * thread), the returns that uretprobes wait for (they are on its stack), and where
 * the ABI has some, callee-saved vector registers.  What stays
 * with each task: FPU control state, vector registers that calls may
 * clobber, protection keys, signal mask, alternate signal stack, robust list,
 * the word of set_tid_address(), seccomp, credentials, timers.
 *
 * The child could have changed nothing of what the parent takes that the memory
 * and the instructions of the parent could not: the registers are those with which
 * a task with the same memory entered the kernel.  Selectors and flags are made fit
 * for user mode once more, as in sigreturn().  The tracer of the child may write
 * them; it may also write the memory of the parent.  Credentials that exec gives
 * do not matter, the thread is back before.
 *
 * Signals for the process of the parent go to its other threads if one of them
 * takes them, see prefer_present() in kernel/signal.c, or wait; they are handled
 * with the registers that came back.
 */

#include <linux/completion.h>
#include <linux/fullfork.h>
#include <linux/ptrace.h>
#include <linux/rseq.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/uprobes.h>
#include <asm/fullfork.h>
#include <asm/syscall.h>
#include <trace/events/fullfork.h>

#include "internal.h"

#define SFORK_BESIDE (CLONE_VM | CLONE_VFORK | CLONE_SFORK | CLONE_PIDFD |	\
		      CLONE_FILES | CLONE_FS | CLONE_CLEAR_SIGHAND |		\
		      CLONE_INTO_CGROUP | CLONE_NEWCGROUP | CLONE_NEWIPC |	\
		      CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID |		\
		      CLONE_NEWTIME | CLONE_NEWUSER | CLONE_NEWUTS)

/**
 * struct sfork - a thread that is away, on the stack of its parent task
 * @args: of the call; kernel_clone() hands them on
 * @parent: the task that waits
 * @vfork: what it waits with
 * @back: it has taken over the registers, or is about to die
 *
 * @end: how the thread ended in the child.  This and what follows is written by
 *	the child under its task_lock(), and read when @vfork is complete.
 * @sig: the signal to die of, if it was killed
 * @child: TID of the child, for the tracepoint
 * @exit_called: it called exit() or exit_group() itself
 * @regs: its user registers
 * @arch: those that are not in pt_regs
 * @rseq: its registration
 * @utask: its uretprobes
 */
struct sfork {
	struct kernel_clone_args	args;
	struct task_struct		*parent;
	struct completion		*vfork;
	bool				back;

	enum sfork_end			end;
	int				sig;
	pid_t				child;
	bool				exit_called;
	struct pt_regs			regs;
	struct arch_sfork		arch;
	struct rseq_data		rseq;
#ifdef CONFIG_UPROBES
	struct uprobe_task		*utask;
#endif
};

static_assert(__alignof__(struct sfork) > FULLFORK_HAS_THREAD);

/**
 * sfork_args_valid() - do the flags and fields go together with CLONE_SFORK?
 * @kargs: arguments that clone3() itself accepts
 *
 * Return: false for EINVAL.
 */
bool sfork_args_valid(const struct kernel_clone_args *kargs)
{
	u64 flags = kargs->flags;

	if ((flags & ~SFORK_BESIDE) || !(flags & CLONE_VM) || !(flags & CLONE_VFORK))
		return false;
	if (!(flags & CLONE_INTO_CGROUP) && kargs->cgroup)
		return false;
	return !kargs->stack && !kargs->stack_size && !kargs->tls &&
	       !kargs->child_tid && !kargs->set_tid_size;
}

static struct sfork *to_sfork(struct kernel_clone_args *args)
{
	return container_of(args, struct sfork, args);
}

/* Of current, with its task_lock() held; NULL if it has no thread of its parent. */
static struct sfork *current_sfork(void)
{
	unsigned long mark = (unsigned long)current->vfork_done;

	lockdep_assert_held(&current->alloc_lock);

	if (!(mark & FULLFORK_HAS_THREAD))
		return NULL;
	return (struct sfork *)(mark & ~FULLFORK_HAS_THREAD);
}

/* The child is about to run for the first time. */
struct completion *__fullfork_vfork_done(struct kernel_clone_args *args,
					 struct task_struct *child,
					 struct completion *vfork)
{
	struct sfork *s = to_sfork(args);

	s->vfork = vfork;
	trace_fullfork_sfork(child);
	return (struct completion *)((unsigned long)s | FULLFORK_HAS_THREAD);
}

/* current calls exit() or exit_group(), and nothing takes that back. */
void __fullfork_exit_called(void)
{
	struct sfork *s;

	task_lock(current);
	s = current_sfork();
	if (s)
		s->exit_called = true;
	task_unlock(current);
}

/* The TID word of the thread says that it exists, which is so in the parent. */
static void keep_tid_word(struct task_struct *tsk, struct sfork *s)
{
	if (tsk->clear_child_tid == s->parent->clear_child_tid)
		tsk->clear_child_tid = NULL;
}

#ifdef CONFIG_UPROBES
static void send_uprobes(struct task_struct *tsk, struct sfork *s)
{
	s->utask = tsk->utask;
	tsk->utask = NULL;
}

/* Those of the parent are older ones of the same stack. */
static void take_uprobes(struct sfork *s)
{
	uprobe_free_utask(current);
	current->utask = s->utask;
}
#else
static void send_uprobes(struct task_struct *tsk, struct sfork *s) { }
static void take_uprobes(struct sfork *s) { }
#endif

void __fullfork_send_back(struct task_struct *tsk)
{
	struct sfork *s;

	task_lock(tsk);
	s = current_sfork();
	if (s) {
		if (!(tsk->flags & PF_EXITING))
			s->end = SFORK_EXEC;
		else
			s->end = s->exit_called ? SFORK_EXIT : SFORK_KILLED;
		if (s->end == SFORK_KILLED)
			s->sig = (tsk->exit_code & 0x7f) ?: SIGKILL;
		s->child = tsk->pid;
		s->regs = *task_pt_regs(tsk);
		s->rseq = tsk->rseq;
		send_uprobes(tsk, s);
		arch_sfork_save(&s->arch, &s->regs);
		keep_tid_word(tsk, s);
		tsk->vfork_done = s->vfork;
	}
	task_unlock(tsk);
}

static void take_registers(struct sfork *s)
{
	struct pt_regs *regs = current_pt_regs();
	struct pt_regs own = *regs;

	*regs = s->regs;
	/* It is clone3() that returns. */
	syscall_set_nr(current, regs, syscall_get_nr(current, &own));
	arch_sfork_load(&s->arch, regs, &own);
}

/* What the thread last saw in its memory, where it may have been another CPU's. */
static void take_rseq(struct sfork *s)
{
	/* Against preemption and the IPI of membarrier(), as in rseq_reset(). */
	scoped_guard(irqsave)
		current->rseq = s->rseq;
	rseq_force_update();
}

/*
 * Nothing but @sig is taken any more, so that no handler is set up before, whose
 * mask could block it.
 */
static void die(int sig)
{
	sigset_t mask;

	sigfillset(&mask);
	sigdelset(&mask, sig);
	set_current_blocked(&mask);
	force_exit_sig(sig);
}

/* The registers are those of the thread also if it is dead: for the core dump. */
void __fullfork_come_back(struct kernel_clone_args *args)
{
	struct sfork *s = to_sfork(args);

	trace_fullfork_sfork_back(s->child, s->end, s->sig);
	take_registers(s);
	take_rseq(s);
	/* Or the process dies already: of what it then dies of. */
	if (s->end == SFORK_KILLED && !fatal_signal_pending(current))
		die(s->sig);
	s->back = true;
}

static void set_away(bool away)
{
	guard(spinlock_irq)(fullfork_siglock(current));
	if (away) {
		current->jobctl |= JOBCTL_SFORK;
		return;
	}
	current->jobctl &= ~JOBCTL_SFORK;
	/* What has waited for it. */
	recalc_sigpending();
}

/**
 * sfork() - move the calling thread into a new child
 * @kargs: what sfork_args_valid() accepts
 *
 * Return: the TID of the child in the caller's PID namespace, with other user
 * registers than it was called with; 0 in the child; -EOPNOTSUPP if there are
 * registers that could not be taken over; an error of clone3().
 */
pid_t sfork(struct kernel_clone_args *kargs)
{
	struct sfork s = {
		.args	= *kargs,
		.parent	= current,
	};
	pid_t ret;

	if (!arch_sfork_supported())
		return -EOPNOTSUPP;

	set_away(true);
	ret = kernel_clone(&s.args);
	set_away(false);

	/* They are nobody else's, also if nothing more is done with them. */
	if (s.end != SFORK_AWAY)
		take_uprobes(&s);

	/* Killed while the thread is away: it goes on there, and never here. */
	if (ret > 0 && !s.back && WARN_ON_ONCE(!fatal_signal_pending(current)))
		force_exit_sig(SIGKILL);
	return ret;
}
