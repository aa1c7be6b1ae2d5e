/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_X86_FULLFORK_H
#define _ASM_X86_FULLFORK_H

#include <linux/sched.h>
#include <asm/fpu/sched.h>
#include <asm/fpu/types.h>
#include <asm/fpu/xstate.h>

/* fork() drops the AMX tiles, which belong to the caller of a function. */
static inline bool arch_fullfork_supported(struct task_struct *tsk)
{
	return !(x86_task_fpu(tsk)->fpstate->user_xfeatures & XFEATURE_MASK_USER_DYNAMIC);
}

#endif /* _ASM_X86_FULLFORK_H */
