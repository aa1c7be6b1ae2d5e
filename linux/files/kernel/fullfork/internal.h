/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _FULLFORK_INTERNAL_H
#define _FULLFORK_INTERNAL_H

#include <linux/fullfork.h>
#include <linux/list.h>
#include <linux/spinlock.h>

/* Why an operation was aborted, for the tracepoint. */
enum fullfork_reason {
	FULLFORK_OK,
	FULLFORK_KILLED,		/* a fatal signal for the originals */
	FULLFORK_TIMEOUT,		/* an original could not be quiesced */
	FULLFORK_LEADER_EXITED,
	FULLFORK_DEADLINE_POLICY,
	FULLFORK_KERNEL_WORKER,
	FULLFORK_IO_URING,
	FULLFORK_AIO,
	FULLFORK_USERFAULTFD,
	FULLFORK_DONTFORK,
	FULLFORK_ARCH_STATE,
	FULLFORK_PID_NAMESPACE,
	FULLFORK_RESULT_ADDRESS,	/* pidfd, parent_tid or tid_map */
	FULLFORK_TID_MAP_SIZE,
	FULLFORK_PREPARE,		/* copy_process() failed */
	FULLFORK_TID_WORD,
	FULLFORK_PIDFD,
	FULLFORK_REPLICA_KILLED,
	FULLFORK_OTHER_CALLER,		/* another thread's call came first */
};

/**
 * struct fullfork - one full fork, on the stack of its caller
 * @caller: the task inside clone3()
 * @kargs: its arguments
 * @group: the thread group that is copied
 * @pid_ns: the namespace for the TIDs of CLONE_KEEP_TIDS, else NULL
 * @reaper: the reaper made for @pid_ns, not started yet, else NULL
 * @leader: the member whose original leads @group
 *
 * @lock: protects what follows, and the state of members.  Nests inside the
 *	siglock of @group.
 * @members: every original that is quiesced, the caller first
 * @nr_members: number of entries there
 * @nr_marked: originals asked to quiesce that did not yet do so or exit; the
 *	caller waits for zero
 * @nr_preparing: members at work; the caller waits for zero
 * @err: the first error
 * @reason: where it came from
 * @culprit: PID of the task that it came from
 */
struct fullfork {
	struct task_struct		*caller;
	struct kernel_clone_args	*kargs;
	struct signal_struct		*group;
	struct pid_namespace		*pid_ns;
	struct task_struct		*reaper;
	struct fullfork_member		*leader;

	/* Protects what follows. */
	spinlock_t			lock;
	struct list_head		members;
	unsigned int			nr_members;
	unsigned int			nr_marked;
	unsigned int			nr_preparing;
	int				err;
	enum fullfork_reason		reason;
	pid_t				culprit;
};

extern unsigned int sysctl_fullfork_timeout_secs;

void fullfork_set_error(struct fullfork *op, int err, enum fullfork_reason reason,
			struct task_struct *culprit);
void fullfork_fail(struct fullfork *op, int err, enum fullfork_reason reason,
		   struct task_struct *culprit);

/* quiesce.c */
int fullfork_quiesce_threads(struct fullfork *op, struct fullfork_member *self);
void fullfork_detach(struct fullfork *op);
void fullfork_release(struct fullfork *op);
void fullfork_wait_prepared(struct fullfork *op);
bool fullfork_start_member(struct fullfork *op, bool leader);
bool fullfork_restarts_eintr(struct pt_regs *regs);
void fullfork_start_members(struct fullfork *op);

/* supported.c */
int fullfork_check_results(struct fullfork *op);
int fullfork_check_supported(struct fullfork *op);

/* replica.c */
bool fullfork_find_siblings(struct fullfork *op, struct fullfork_member *m);
void fullfork_prepare_member(struct fullfork_member *m);

/* pidns.c */
int fullfork_get_pid_ns(struct fullfork *op);
int fullfork_prepare_reaper(struct fullfork *op);

#endif /* _FULLFORK_INTERNAL_H */
