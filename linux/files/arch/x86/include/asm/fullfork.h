/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_X86_FULLFORK_H
#define _ASM_X86_FULLFORK_H

#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <asm/desc.h>
#include <asm/fsgsbase.h>
#include <asm/gsseg.h>
#include <asm/fpu/sched.h>
#include <asm/fpu/types.h>
#include <asm/fpu/xstate.h>
#include <asm/prctl.h>
#include <asm/sighandling.h>

/* fork() drops the AMX tiles, which belong to the caller of a function. */
static inline bool arch_fullfork_supported(struct task_struct *tsk)
{
	return !(x86_task_fpu(tsk)->fpstate->user_xfeatures & XFEATURE_MASK_USER_DYNAMIC);
}

/* A thread that moves would need the pointer to its shadow stack too. */
static inline bool arch_sfork_supported(void)
{
#ifdef CONFIG_X86_USER_SHADOW_STACK
	return !(current->thread.features & ARCH_SHSTK_SHSTK);
#else
	return true;
#endif
}

/* What a thread has that is not in pt_regs: the bases of its TLS. */
struct arch_sfork {
	unsigned long		fsbase;
	unsigned long		gsbase;
	unsigned short		fsindex;
	unsigned short		gsindex;
	unsigned short		ds;
	unsigned short		es;
	struct desc_struct	tls_array[GDT_ENTRY_TLS_ENTRIES];
};

static inline void sfork_read_tls(struct arch_sfork *a)
{
	struct thread_struct *t = &current->thread;

	current_save_fsgs();
	a->fsbase = t->fsbase;
	a->gsbase = t->gsbase;
	a->fsindex = t->fsindex;
	a->gsindex = t->gsindex;
	savesegment(ds, a->ds);
	savesegment(es, a->es);
	memcpy(a->tls_array, t->tls_array, sizeof(a->tls_array));
}

/* Of current, whose registers @regs is a copy of. */
static inline void arch_sfork_save(struct arch_sfork *a, struct pt_regs *regs)
{
	sfork_read_tls(a);
	/* That is its tracer's. */
	if (test_thread_flag(TIF_FORCED_TF))
		regs->flags &= ~X86_EFLAGS_TF;
}

/* For segments with a descriptor it has the base. */
static inline bool sfork_sets_base(unsigned short selector)
{
	return selector <= 3 || boot_cpu_has(X86_FEATURE_FSGSBASE);
}

static inline void sfork_write_tls(const struct arch_sfork *a)
{
	struct thread_struct *t = &current->thread;

	guard(preempt)();
	memcpy(t->tls_array, a->tls_array, sizeof(a->tls_array));
	load_TLS(t, smp_processor_id());
	loadsegment(ds, a->ds);
	loadsegment(es, a->es);
	loadsegment(fs, a->fsindex);
	load_gs_index(a->gsindex);
	if (sfork_sets_base(a->fsindex))
		x86_fsbase_write_cpu(a->fsbase);
	if (sfork_sets_base(a->gsindex))
		x86_gsbase_write_cpu_inactive(a->gsbase);
	t->fsindex = a->fsindex;
	t->gsindex = a->gsindex;
	t->fsbase = a->fsbase;
	t->gsbase = a->gsbase;
}

/*
 * current has the registers @regs from another task, in place of @own.  What may
 * not be changed in user mode stays, as in sigreturn().
 */
static inline void arch_sfork_load(const struct arch_sfork *a, struct pt_regs *regs,
				   const struct pt_regs *own)
{
	u16 cs = regs->cs, ss = regs->ss;
	struct arch_sfork now;

	regs->csx = own->csx;
	regs->cs = cs | 3;
	regs->ssx = own->ssx;
	regs->ss = ss | 3;
	regs->flags = (own->flags & ~FIX_EFLAGS) | (regs->flags & FIX_EFLAGS);
	if (test_thread_flag(TIF_FORCED_TF))
		regs->flags |= X86_EFLAGS_TF;

	sfork_read_tls(&now);
	if (memcmp(&now, a, sizeof(now)))
		sfork_write_tls(a);
}

#endif /* _ASM_X86_FULLFORK_H */
