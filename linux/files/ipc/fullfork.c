// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: IPC namespaces.  A part of namespace.c, which frees what fails.
 *
 * Copyright (c) 2026 The full fork developers
 */
#if defined(CONFIG_FULLFORK) && defined(CONFIG_SYSVIPC)

/**
 * DOC: IPC namespaces
 *
 * IDs and keys are names in an IPC namespace: who is in the namespace can use them, and
 * to copy an object under its name, that of a replica has to be another one.  So it is all
 * of a namespace, or nothing of it.
 *
 * A namespace is internal if all that refers to it is of members.  These are
 *
 * 1. namespace proxies (&struct nsproxy).  All tasks that have one are members: there
 *    are as many as it has references.  setns(), and whoever looks up the namespaces of a
 *    task by /proc or a pidfd, takes a reference to it or to the namespace;
 * 2. attaches of shared memory, which stay when a task leaves the namespace.  Each of them
 *    is found in the mappings of members, and nobody else has it or its segment, as it is
 *    told for files in isolate.c.
 *
 * If there are more references than those, somebody else can get there: a task of the
 * namespace that is no member, a descriptor or a bind mount of /proc/PID/ns/ipc, which may be
 * that of a member but is not looked for, a file in /proc/sysvipc, a mount of mqueue that is
 * being made.  A mount of mqueue that is there has no reference to the namespace, and is no
 * way to System V objects.  It is one to named message queues, and there may be
 * descriptors of them: where there is a named queue, the namespace is shared.
 *
 * Members that are quiesced drop no reference, so that those of others are not missed:
 * the sum is only right if there are none at that moment.  Who comes afterwards, by
 * setns() or by a file handle of the namespace, or attaches to a member with ptrace(), gets
 * the namespace of the originals.  What it then does there is done under the locks of the
 * objects, and each is copied at one instant under the same locks.  If an
 * object is gone or has grown between two looks, the call fails with EAGAIN.
 *
 * The copy belongs to the same user namespace, and is counted (max_ipc_namespaces) for
 * the user that a member in it is.  No capability is asked for: it has the limits of the
 * original's, the rights to each object are the same, and there is at most one for each
 * call, which makes a process, too.
 *
 * Objects are made before there are replicas.  What refers to members is replaced, and
 * undo adjustments are copied, when there are all replicas.  A failure leaves a namespace
 * that nobody has seen, and drops it.
 */

#include "fullfork.h"

typedef int (*ipc_copy_fn)(struct ipc_namespace *from, int id, struct ipc_namespace *to);
typedef int (*ipc_link_fn)(struct ipc_namespace *from, int id, struct ipc_namespace *to,
			   struct fullfork_isolation *isolation);

static const ipc_copy_fn ipc_copy_fns[] = {
	[IPC_SEM_IDS]	= fullfork_copy_sem,
	[IPC_MSG_IDS]	= fullfork_copy_msg,
	[IPC_SHM_IDS]	= fullfork_copy_shm,
};

static const ipc_link_fn ipc_link_fns[] = {
	[IPC_SEM_IDS]	= fullfork_link_sem,
	[IPC_MSG_IDS]	= fullfork_link_msg,
	[IPC_SHM_IDS]	= fullfork_link_shm,
};

/* The ID of the object with index @idx, or of the next one, and then of that; or -1. */
static int next_ipc_id(struct ipc_ids *ids, int *idx)
{
	struct kern_ipc_perm *perm;

	guard(rwsem_read)(&ids->rwsem);
	guard(rcu)();
	perm = idr_get_next(&ids->ipcs_idr, idx);
	return perm ? perm->id : -1;
}

/* So that new IDs are the same on both sides. */
static void copy_ids_state(struct ipc_ids *from, struct ipc_ids *to)
{
	guard(rwsem_read)(&from->rwsem);
	to->seq = from->seq;
	to->last_idx = from->last_idx;
#ifdef CONFIG_CHECKPOINT_RESTORE
	to->next_id = from->next_id;
#endif
	idr_set_cursor(&to->ipcs_idr, idr_get_cursor(&from->ipcs_idr));
}

static int copy_ids(struct ipc_namespace *from, struct ipc_namespace *to, unsigned int kind)
{
	int id, err, idx = 0;

	for (; (id = next_ipc_id(&from->ids[kind], &idx)) >= 0; idx++) {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		err = ipc_copy_fns[kind](from, id, to);
		if (err)
			return err;
	}
	copy_ids_state(&from->ids[kind], &to->ids[kind]);
	return 0;
}

static void copy_limits(struct ipc_namespace *from, struct ipc_namespace *to)
{
	memcpy(to->sem_ctls, from->sem_ctls, sizeof(to->sem_ctls));
	to->msg_ctlmax = from->msg_ctlmax;
	to->msg_ctlmnb = from->msg_ctlmnb;
	to->msg_ctlmni = from->msg_ctlmni;
	to->shm_ctlmax = from->shm_ctlmax;
	to->shm_ctlall = from->shm_ctlall;
	to->shm_ctlmni = from->shm_ctlmni;
	to->shm_rmid_forced = from->shm_rmid_forced;
	to->mq_queues_max = from->mq_queues_max;
	to->mq_msg_max = from->mq_msg_max;
	to->mq_msgsize_max = from->mq_msgsize_max;
	to->mq_msg_default = from->mq_msg_default;
	to->mq_msgsize_default = from->mq_msgsize_default;
}

static bool has_named_mqueues(struct ipc_namespace *ns)
{
	return ns->mq_mnt && !simple_empty(ns->mq_mnt->mnt_root);
}

/**
 * fullfork_copy_ipc_ns() - a namespace with the same objects under the same names
 * @ns: a namespace that only members use
 *
 * Return: the copy, which nobody else can see; NULL if @ns has to be shared; or an
 * ERR_PTR(): -ENOMEM, -EINTR, or another one for a limit.
 */
struct ipc_namespace *fullfork_copy_ipc_ns(struct ipc_namespace *ns)
{
	struct ipc_namespace *copy;
	unsigned int kind;
	int err = 0;

	if (!IS_ENABLED(CONFIG_CHECKPOINT_RESTORE) || has_named_mqueues(ns))
		return NULL;
	copy = copy_ipcs(CLONE_NEWIPC, ns->user_ns, ns);
	if (IS_ERR(copy))
		return copy;
	copy_limits(ns, copy);
	for (kind = 0; !err && kind < ARRAY_SIZE(ipc_copy_fns); kind++)
		err = copy_ids(ns, copy, kind);
	if (!err)
		return copy;
	put_ipc_ns(copy);
	return err == -EBUSY ? NULL : ERR_PTR(err);
}

/**
 * fullfork_link_ipc_ns() - let objects refer to replicas in place of members
 * @ns: what was copied
 * @copy: its copy
 * @isolation: with all replicas prepared
 *
 * Return: 0 or -EINTR.
 */
int fullfork_link_ipc_ns(struct ipc_namespace *ns, struct ipc_namespace *copy,
			 struct fullfork_isolation *isolation)
{
	unsigned int kind;
	int id, idx;

	for (kind = 0; kind < ARRAY_SIZE(ipc_link_fns); kind++) {
		idx = 0;
		for (; (id = next_ipc_id(&copy->ids[kind], &idx)) >= 0; idx++) {
			if (fatal_signal_pending(current))
				return -EINTR;
			cond_resched();
			ipc_link_fns[kind](ns, id, copy, isolation);
		}
	}
	return 0;
}

#endif /* CONFIG_FULLFORK && CONFIG_SYSVIPC */
