/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _IPC_FULLFORK_H
#define _IPC_FULLFORK_H

/*
 * Full fork: what the copies of all kinds of System V objects have in common.
 */

#include <linux/fullfork_ipc.h>
#include <linux/fullfork_isolate.h>
#include <linux/ipc_namespace.h>
#include <linux/security.h>

#include "util.h"

/**
 * struct ipc_identity - how an object is found, and by whom
 * @id: its ID
 * @key: its key
 * @uid: the owner
 * @cuid: who made it
 * @gid: the group of the owner
 * @cgid: that of who made it
 * @mode: what they may do, and flags
 */
struct ipc_identity {
	int		id;
	key_t		key;
	kuid_t		uid;
	kuid_t		cuid;
	kgid_t		gid;
	kgid_t		cgid;
	umode_t		mode;
};

static inline void ipc_get_identity(const struct kern_ipc_perm *perm,
				    struct ipc_identity *identity)
{
	*identity = (struct ipc_identity){
		.id	= perm->id,
		.key	= perm->key,
		.uid	= perm->uid,
		.cuid	= perm->cuid,
		.gid	= perm->gid,
		.cgid	= perm->cgid,
		.mode	= perm->mode,
	};
}

/*
 * As ipc_addid(), of which @perm is locked if this returns zero.  @keep_id: @ids is
 * the copy of those that have the object that @perm is of a copy of.
 */
static inline int ipc_add_copy(struct ipc_ids *ids, struct kern_ipc_perm *perm,
			       const struct ipc_identity *identity, int limit, bool keep_id)
{
	int err;

	perm->key = identity->key;
	/* Nobody gets it before its owner is known. */
	perm->mode = 0;
#ifdef CONFIG_CHECKPOINT_RESTORE
	if (keep_id) {
		ids->next_id = identity->id;
		/* That of the original's may be less by now than what there is. */
		limit = ipc_mni;
	}
#endif
	err = ipc_addid(ids, perm, limit);
	if (err < 0)
		return err;
	perm->uid = identity->uid;
	perm->cuid = identity->cuid;
	perm->gid = identity->gid;
	perm->cgid = identity->cgid;
	/* Pairs with ipcperms(), which does not take the lock. */
	smp_store_release(&perm->mode, identity->mode);
	return 0;
}

/* A copy would have the label of the member that it is made for, and messages none. */
static inline bool ipc_is_labelled(struct kern_ipc_perm *perm)
{
	struct lsm_prop prop = {};

	security_ipc_getlsmprop(perm, &prop);
	return lsmprop_is_set(&prop);
}

/* Who was a member is its replica. */
static inline void ipc_replace_pid(struct pid **pos, struct fullfork_isolation *isolation)
{
	struct pid *replica = fullfork_replica_pid(isolation, *pos, PIDTYPE_TGID);

	if (replica)
		ipc_update_pid(pos, replica);
}

/* Each kind: make what @from has with @id in @to, under the same ID. */
int fullfork_copy_sem(struct ipc_namespace *from, int id, struct ipc_namespace *to);
int fullfork_copy_msg(struct ipc_namespace *from, int id, struct ipc_namespace *to);
int fullfork_copy_shm(struct ipc_namespace *from, int id, struct ipc_namespace *to);

/* Each kind: let it refer to replicas, as the original's does to members. */
int fullfork_link_sem(struct ipc_namespace *from, int id, struct ipc_namespace *to,
		      struct fullfork_isolation *isolation);
int fullfork_link_msg(struct ipc_namespace *from, int id, struct ipc_namespace *to,
		      struct fullfork_isolation *isolation);
int fullfork_link_shm(struct ipc_namespace *from, int id, struct ipc_namespace *to,
		      struct fullfork_isolation *isolation);

#endif /* _IPC_FULLFORK_H */
