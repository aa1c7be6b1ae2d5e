/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_FULLFORK_SET_H
#define _LINUX_FULLFORK_SET_H

#include <linux/compiler_types.h>
#include <linux/types.h>

/*
 * Full fork for callers in the kernel, who hold what one full fork made.  See
 * Documentation/userspace-api/fullfork.rst for what user space is promised.
 */

struct pid;

/**
 * struct fullfork_replica - a process that a full fork made
 * @pid: its PID, held
 * @original: PID of the original, held
 * @nr_threads: how many threads were copied
 * @stopped: the original was stopped itself
 * @zombie: the original had exited
 */
struct fullfork_replica {
	struct pid	*pid;
	struct pid	*original;
	unsigned int	nr_threads;
	bool		stopped;
	bool		zombie;
};

/**
 * struct fullfork_set - the processes that one full fork made
 * @flags: CLONE_* that it was asked for with
 * @nr: number of @replicas
 * @replicas: that of the root first, parents before children
 */
struct fullfork_set {
	u64			flags;
	unsigned int		nr;
	struct fullfork_replica	replicas[] __counted_by(nr);
};

/**
 * struct fullfork_request - what fullfork_copy() is to do
 * @source: the process at the top of what is to be copied
 * @template: if not NULL, the stopped set that @source leads
 * @flags: CLONE_* as of clone3(); CLONE_FROM_PIDFD is implied
 * @exit_signal: of the root's replica
 * @pidfd: where a pidfd is put with CLONE_PIDFD
 * @parent_tid: where the TID is put with CLONE_PARENT_SETTID
 */
struct fullfork_request {
	struct pid			*source;
	const struct fullfork_set	*template;
	u64				flags;
	int				exit_signal;
	int __user			*pidfd;
	int __user			*parent_tid;
};

struct fullfork_set *fullfork_copy(const struct fullfork_request *request);
void fullfork_set_continue(const struct fullfork_set *set);
void fullfork_set_kill(const struct fullfork_set *set);
bool fullfork_replica_is_gone(const struct fullfork_replica *r);
void fullfork_set_free(struct fullfork_set *set);

#endif /* _LINUX_FULLFORK_SET_H */
