/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_ARM64_FULLFORK_H
#define _ASM_ARM64_FULLFORK_H

#include <linux/preempt.h>
#include <linux/sched.h>
#include <asm/debug-monitors.h>
#include <asm/fpsimd.h>
#include <asm/gcs.h>
#include <asm/ptrace.h>
#include <asm/sysreg.h>

/*
 * fork() drops SVE and streaming mode state, as the system call ABI allows, but
 * a thread that was interrupted in user mode needs it; and it forgets which
 * guarded control stack the kernel is to unmap.
 */
static inline bool arch_fullfork_supported(struct task_struct *tsk)
{
	if (system_supports_sve() && test_tsk_thread_flag(tsk, TIF_SVE))
		return false;
	if (system_supports_sme() && thread_sm_enabled(&tsk->thread))
		return false;
	return !task_gcs_el0_enabled(tsk);
}

/* A thread that moves would need the pointer to its guarded control stack too. */
static inline bool arch_sfork_supported(void)
{
	return !task_gcs_el0_enabled(current);
}

/*
 * What a thread has that is not in pt_regs: the bases of its TLS, and d8 to d15,
 * which a call preserves.
 */
struct arch_sfork {
	unsigned long			tp_value;
	unsigned long			tp2_value;
	u64				tpidr2_el0;
	struct user_fpsimd_state	fpsimd;
};

/* Of current, whose registers @regs is a copy of. */
static inline void arch_sfork_save(struct arch_sfork *a, struct pt_regs *regs)
{
	tls_preserve_current_state();
	a->tp_value = current->thread.uw.tp_value;
	a->tp2_value = current->thread.uw.tp2_value;
	a->tpidr2_el0 = current->thread.tpidr2_el0;

	fpsimd_preserve_current_state();
	fpsimd_sync_from_effective_state(current);
	a->fpsimd = current->thread.uw.fpsimd_state;

	/* That is its tracer's. */
	regs->pstate &= ~DBG_SPSR_SS;
}

static inline void sfork_load_tls(const struct arch_sfork *a)
{
	guard(preempt)();
	current->thread.uw.tp_value = a->tp_value;
	current->thread.uw.tp2_value = a->tp2_value;
	current->thread.tpidr2_el0 = a->tpidr2_el0;
	if (is_compat_task())
		write_sysreg(a->tp_value, tpidrro_el0);
	write_sysreg(*task_user_tls(current), tpidr_el0);
	if (system_supports_tpidr2())
		write_sysreg_s(a->tpidr2_el0, SYS_TPIDR2_EL0);
}

/*
 * current has the registers @regs from another task, in place of @own.  What may
 * not be changed in user mode stays, as in sigreturn().
 */
static inline void arch_sfork_load(const struct arch_sfork *a, struct pt_regs *regs,
				   const struct pt_regs *own)
{
	struct user_fpsimd_state fpsimd = a->fpsimd;

	regs->pstate |= own->pstate & DBG_SPSR_SS;
	valid_user_regs(&regs->user_regs, current);
	sfork_load_tls(a);

	if (!system_supports_fpsimd())
		return;
	fpsimd_save_and_flush_current_state();
	fpsimd_sync_from_effective_state(current);
	fpsimd.fpsr = current->thread.uw.fpsimd_state.fpsr;
	fpsimd.fpcr = current->thread.uw.fpsimd_state.fpcr;
	fpsimd_update_current_state(&fpsimd);
}

#endif /* _ASM_ARM64_FULLFORK_H */
