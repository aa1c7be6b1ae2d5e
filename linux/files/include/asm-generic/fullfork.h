/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_GENERIC_FULLFORK_H
#define _ASM_GENERIC_FULLFORK_H

#include <linux/types.h>

struct task_struct;

/*
 * Can fork() copy all of the register state of @tsk, a task that is quiesced?
 * Architectures whose fork() drops state that a thread interrupted in user mode
 * still needs say no here.
 */
static inline bool arch_fullfork_supported(struct task_struct *tsk)
{
	return true;
}

#endif /* _ASM_GENERIC_FULLFORK_H */
