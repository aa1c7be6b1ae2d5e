/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _IPC_FULLFORK_H
#define _IPC_FULLFORK_H

/*
 * Full fork: what the copies of all kinds of System V objects have in common.
 */

#include <linux/fullfork_ipc.h>
#include <linux/fullfork_isolate.h>
#include <linux/ipc_namespace.h>

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

/* As ipc_addid(), of which @perm is locked if this returns zero. */
static inline int ipc_add_copy(struct ipc_ids *ids, struct kern_ipc_perm *perm,
			       const struct ipc_identity *identity, int limit)
{
	int err;

	perm->key = identity->key;
	perm->mode = identity->mode;
	err = ipc_addid(ids, perm, limit);
	if (err < 0)
		return err;
	perm->uid = identity->uid;
	perm->cuid = identity->cuid;
	perm->gid = identity->gid;
	perm->cgid = identity->cgid;
	return 0;
}

/* Who was a member is its replica. */
static inline void ipc_replace_pid(struct pid **pos, struct fullfork_isolation *isolation)
{
	struct pid *replica = fullfork_replica_pid(isolation, *pos, PIDTYPE_TGID);

	if (replica)
		ipc_update_pid(pos, replica);
}

#endif /* _IPC_FULLFORK_H */
