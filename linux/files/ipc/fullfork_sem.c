// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: semaphores.  A part of sem.c, which alone knows what they are made of.
 *
 * Copyright (c) 2026 The full fork developers
 */
#ifdef CONFIG_FULLFORK

#include "fullfork.h"

/**
 * fullfork_copy_semundo() - give a replica a list of undo adjustments, an empty one
 * @p: the replica, which does not run yet
 * @sib: the replica that has the list, as their originals share one; or NULL
 *
 * Return: 0 or -ENOMEM.
 */
int fullfork_copy_semundo(struct task_struct *p, struct task_struct *sib)
{
	struct sem_undo_list *ulp;

	if (sib) {
		ulp = sib->sysvsem.undo_list;
		refcount_inc(&ulp->refcnt);
	} else {
		ulp = kzalloc_obj(*ulp, GFP_KERNEL_ACCOUNT);
		if (!ulp)
			return -ENOMEM;
		spin_lock_init(&ulp->lock);
		refcount_set(&ulp->refcnt, 1);
		INIT_LIST_HEAD(&ulp->list_proc);
	}
	p->sysvsem.undo_list = ulp;
	return 0;
}

static struct sem_array *sem_new_copy(int nsems)
{
	struct sem_array *sma = sem_alloc(nsems);
	int i, err;

	if (!sma)
		return ERR_PTR(-ENOMEM);
	err = security_sem_alloc(&sma->sem_perm);
	if (err) {
		kvfree(sma);
		return ERR_PTR(err);
	}
	/* As newary() has it. */
	for (i = 0; i < nsems; i++) {
		INIT_LIST_HEAD(&sma->sems[i].pending_alter);
		INIT_LIST_HEAD(&sma->sems[i].pending_const);
		spin_lock_init(&sma->sems[i].lock);
	}
	sma->use_global_lock = USE_GLOBAL_LOCK_HYSTERESIS;
	INIT_LIST_HEAD(&sma->pending_alter);
	INIT_LIST_HEAD(&sma->pending_const);
	INIT_LIST_HEAD(&sma->list_id);
	sma->sem_nsems = nsems;
	return sma;
}

static void sem_free_copy(struct sem_array *copy)
{
	int i;

	for (i = 0; i < copy->sem_nsems; i++)
		put_pid(copy->sems[i].sempid);
	call_rcu(&copy->sem_perm.rcu, sem_rcu_free);
}

/* The number of semaphores of an array never changes; with its ID, it does. */
static int sem_count(struct ipc_namespace *ns, int id)
{
	struct sem_array *sma;

	guard(rcu)();
	sma = sem_obtain_object_check(ns, id);
	return IS_ERR(sma) ? PTR_ERR(sma) : sma->sem_nsems;
}

/*
 * At one instant.  Operations that wait are those of members, who were interrupted
 * and start them again, here and there.
 */
static int sem_copy_state(struct ipc_namespace *ns, int id, struct sem_array *copy,
			  struct ipc_identity *identity)
{
	struct sem_array *sma;
	int i, err = -EAGAIN;

	guard(rcu)();
	sma = sem_obtain_object_check(ns, id);
	if (IS_ERR(sma))
		return -EAGAIN;
	sem_lock(sma, NULL, -1);
	if (ipc_is_labelled(&sma->sem_perm)) {
		err = -EBUSY;
	} else if (ipc_valid_object(&sma->sem_perm) && sma->sem_nsems == copy->sem_nsems) {
		ipc_get_identity(&sma->sem_perm, identity);
		copy->sem_ctime = sma->sem_ctime;
		for (i = 0; i < sma->sem_nsems; i++) {
			copy->sems[i].semval = sma->sems[i].semval;
			copy->sems[i].sempid = get_pid(sma->sems[i].sempid);
			copy->sems[i].sem_otime = sma->sems[i].sem_otime;
		}
		err = 0;
	}
	sem_unlock(sma, -1);
	return err;
}

static int sem_add_copy(struct ipc_namespace *ns, struct sem_array *copy,
			const struct ipc_identity *identity)
{
	int err;

	guard(rwsem_write)(&sem_ids(ns).rwsem);
	err = ipc_add_copy(&sem_ids(ns), &copy->sem_perm, identity, ns->sc_semmni, true);
	if (err)
		return err;
	ns->used_sems += copy->sem_nsems;
	sem_unlock(copy, -1);
	rcu_read_unlock();
	return 0;
}

/**
 * fullfork_copy_sem() - copy a semaphore array with its values
 * @from: the namespace that has it
 * @id: its ID
 * @to: the namespace that is to have the same
 *
 * Return: 0, -ENOMEM, -EAGAIN, what a security module says, or -EBUSY if it has to be
 * shared.
 */
int fullfork_copy_sem(struct ipc_namespace *from, int id, struct ipc_namespace *to)
{
	struct ipc_identity identity = {};
	struct sem_array *copy;
	int err, nsems = sem_count(from, id);

	if (nsems < 0)
		return -EAGAIN;
	copy = sem_new_copy(nsems);
	if (IS_ERR(copy))
		return PTR_ERR(copy);
	err = sem_copy_state(from, id, copy, &identity) ?: sem_add_copy(to, copy, &identity);
	if (err)
		sem_free_copy(copy);
	return err;
}

/**
 * fullfork_link_sem() - who operated last, was a member, and is its replica
 * @from: not looked at
 * @id: the ID of the array
 * @to: the namespace that has the copy
 * @isolation: what was copied, with all replicas prepared
 *
 * Return: 0.
 */
int fullfork_link_sem(struct ipc_namespace *from, int id, struct ipc_namespace *to,
		      struct fullfork_isolation *isolation)
{
	struct pid *pid, *last = NULL, *replica = NULL;
	struct sem_array *sma;
	int i;

	guard(rcu)();
	sma = sem_obtain_object_check(to, id);
	if (IS_ERR(sma))
		return 0;
	sem_lock(sma, NULL, -1);
	for (i = 0; i < sma->sem_nsems; i++) {
		pid = sma->sems[i].sempid;
		/* Mostly, one has operated on several. */
		if (pid != last)
			replica = fullfork_replica_pid(isolation, pid, PIDTYPE_TGID);
		last = pid;
		if (replica)
			ipc_update_pid(&sma->sems[i].sempid, replica);
	}
	sem_unlock(sma, -1);
	return 0;
}

/* The arrays that @ulp has adjustments for: how many of them were put in @ids. */
static unsigned int sem_list_undo(struct sem_undo_list *ulp, int *ids, unsigned int max)
{
	unsigned int nr = 0;
	struct sem_undo *un;

	guard(spinlock)(&ulp->lock);
	list_for_each_entry(un, &ulp->list_proc, list_proc) {
		if (nr < max)
			ids[nr] = un->semid;
		nr++;
	}
	return nr;
}

static bool sem_get_undo(struct sem_undo_list *ulp, int id, struct sem_undo *copy, int nsems)
{
	struct sem_undo *un;

	guard(spinlock)(&ulp->lock);
	un = __lookup_undo(ulp, id);
	if (un)
		memcpy(copy->semadj, un->semadj, array_size(nsems, sizeof(un->semadj[0])));
	return un;
}

static bool sem_put_undo(struct ipc_namespace *ns, int id, struct sem_undo_list *ulp,
			 struct sem_undo *copy, int nsems)
{
	struct sem_array *sma;
	bool valid;

	guard(rcu)();
	sma = sem_obtain_object_check(ns, id);
	if (IS_ERR(sma))
		return false;
	sem_lock(sma, NULL, -1);
	valid = ipc_valid_object(&sma->sem_perm) && sma->sem_nsems == nsems;
	if (valid) {
		copy->ulp = ulp;
		copy->semid = id;
		list_add(&copy->list_id, &sma->list_id);
		spin_lock(&ulp->lock);
		list_add_rcu(&copy->list_proc, &ulp->list_proc);
		spin_unlock(&ulp->lock);
	}
	sem_unlock(sma, -1);
	return valid;
}

static int sem_copy_undo(struct ipc_namespace *ns, int id, struct sem_undo_list *from,
			 struct sem_undo_list *to)
{
	int nsems = sem_count(ns, id);
	struct sem_undo *copy;

	/* It is gone, on both sides. */
	if (nsems < 0)
		return 0;
	copy = kvzalloc_flex(*copy, semadj, nsems, GFP_KERNEL_ACCOUNT);
	if (!copy)
		return -ENOMEM;
	if (!sem_get_undo(from, id, copy, nsems) || !sem_put_undo(ns, id, to, copy, nsems))
		kvfree(copy);
	return 0;
}

/**
 * fullfork_copy_adjustments() - let a replica undo what its original would
 * @original: a member that copied the list, with its adjustments to what was copied
 * @p: its replica, in the namespace that has the copies
 *
 * Return: 0 or -ENOMEM.
 */
int fullfork_copy_adjustments(const struct task_struct *original, struct task_struct *p)
{
	struct sem_undo_list *from = original->sysvsem.undo_list;
	struct sem_undo_list *to = p->sysvsem.undo_list;
	unsigned int i, nr, max;
	int err = 0, *ids;

	if (!from || !to)
		return 0;
	max = sem_list_undo(from, NULL, 0);
	if (!max)
		return 0;
	ids = kvmalloc_array(max, sizeof(*ids), GFP_KERNEL_ACCOUNT);
	if (!ids)
		return -ENOMEM;
	/* Arrays are removed meanwhile, perhaps, but the original adds none. */
	nr = min(sem_list_undo(from, ids, max), max);
	for (i = 0; !err && i < nr; i++)
		err = sem_copy_undo(p->nsproxy->ipc_ns, ids[i], from, to);
	kvfree(ids);
	return err;
}

#endif /* CONFIG_FULLFORK */
