/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_ARM64_FULLFORK_H
#define _ASM_ARM64_FULLFORK_H

#include <linux/sched.h>
#include <asm/fpsimd.h>
#include <asm/gcs.h>

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

#endif /* _ASM_ARM64_FULLFORK_H */
