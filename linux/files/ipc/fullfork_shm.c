// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: shared memory.  A part of shm.c, which alone knows what it is made of.
 *
 * Copyright (c) 2026 The full fork developers
 */
#ifdef CONFIG_FULLFORK

/**
 * DOC: System V shared memory
 *
 * An attach is a mapping of a file of its own, which stands for the file of tmpfs
 * that the segment is, and holds its dentry.  So the segment is an object whose files
 * are found in mappings; there is one more reference to the dentry, that of the
 * segment itself.  A mapping that is not found, or one by /proc/PID/map_files, is a
 * reference too many, as for a memfd.
 *
 * Then there is the ID.  Linux lets everybody with the rights attach by it as long as
 * there is an attach, even after IPC_RMID.  Whoever did so before the comparison is a
 * reference too many; who does so afterwards gets the segment of the original, which
 * is what it asked for.  So the ID alone keeps nobody from making the copy.  What
 * does is that the replica, too, could be asked to attach by that ID, and would get the
 * other segment.  After IPC_RMID nobody may expect that any more: elsewhere the ID is
 * gone, and all that attach have been told before.  The copy has an ID of its own
 * then, and goes with its last attach.
 *
 * Locks: rwsem of the IDs, the segment.  Nothing that sleeps is done under the latter.
 */

#include "fullfork.h"

/* One attach less.  It may have been the last. */
static void shm_fullfork_detach(struct ipc_namespace *ns, int id)
{
	struct shmid_kernel *shp;

	guard(rwsem_write)(&shm_ids(ns).rwsem);
	shp = shm_lock(ns, id);
	if (WARN_ON_ONCE(IS_ERR(shp)))
		return;
	shp->shm_nattch--;
	if (shm_may_destroy(shp))
		shm_destroy(ns, shp);
	else
		shm_unlock(shp);
}

/* A file for mappings of the segment with that ID, as @like is one, attached itself. */
static struct file *shm_fullfork_attach(struct ipc_namespace *ns, int id, struct file *like)
{
	struct shm_file_data *sfd = kzalloc_obj(*sfd, GFP_KERNEL_ACCOUNT);
	struct shmid_kernel *shp;
	struct file *base, *file;

	if (!sfd)
		return ERR_PTR(-ENOMEM);
	/* It stays there: it has an attach, or is in a namespace that nobody has yet. */
	shp = shm_lock(ns, id);
	if (IS_ERR(shp)) {
		kfree(sfd);
		return ERR_CAST(shp);
	}
	base = get_file(shp->shm_file);
	shp->shm_nattch++;
	shm_unlock(shp);

	file = alloc_file_clone(base, like->f_flags, &shm_file_operations);
	if (IS_ERR(file)) {
		shm_fullfork_detach(ns, id);
		fput(base);
		kfree(sfd);
		return file;
	}
	sfd->id = id;
	sfd->ns = get_ipc_ns(ns);
	sfd->file = base;
	sfd->vm_ops = shm_file_data(like)->vm_ops;
	file->private_data = sfd;
	return file;
}

/*
 * What is in it, as it is.  -EBUSY if it has to be shared.  Not page by page, later:
 * an attach would not notice writes.
 */
static struct file *shm_copy_contents(struct file *base)
{
	struct file *copy = NULL;

	if (!is_file_hugepages(base))
		copy = shmem_fullfork_copy_now(base);
	return copy ?: ERR_PTR(-EBUSY);
}

/* Who locked it is charged once more. */
static int shm_lock_copy(struct shmid_kernel *copy, struct ucounts *ucounts)
{
	if (!ucounts)
		return 0;
	if (shmem_lock(copy->shm_file, 1, ucounts))
		return -EAGAIN;
	copy->mlock_ucounts = ucounts;
	return 0;
}

static int shm_add_copy(struct ipc_namespace *ns, struct shmid_kernel *copy,
			const struct ipc_identity *identity, bool keep_id)
{
	unsigned long pages = DIV_ROUND_UP(copy->shm_segsz, PAGE_SIZE);
	int err;

	guard(rwsem_write)(&shm_ids(ns).rwsem);
	if (!keep_id && (ns->shm_tot + pages < ns->shm_tot ||
			 ns->shm_tot + pages > ns->shm_ctlall))
		return -ENOSPC;
	err = ipc_add_copy(&shm_ids(ns), &copy->shm_perm, identity, ns->shm_ctlmni, keep_id);
	if (err)
		return err;
	ns->shm_tot += pages;
	/* As newseg() has it. */
	file_inode(copy->shm_file)->i_ino = copy->shm_perm.id;
	shm_unlock(copy);
	return 0;
}

static void shm_free_copy(struct shmid_kernel *copy)
{
	if (copy->shm_file) {
		shmem_lock(copy->shm_file, 0, copy->mlock_ucounts);
		fput(copy->shm_file);
	}
	put_pid(copy->shm_cprid);
	put_pid(copy->shm_lprid);
	call_rcu(&copy->shm_perm.rcu, shm_rcu_free);
}

/* All that the segment is but for its contents, and its file. */
static struct file *shm_copy_state(struct ipc_namespace *ns, int id, struct shmid_kernel *copy,
				   struct ipc_identity *identity, struct ucounts **ucounts)
{
	struct shmid_kernel *shp = shm_lock(ns, id);
	struct file *base;

	if (IS_ERR(shp))
		return ERR_CAST(shp);
	if (ipc_is_labelled(&shp->shm_perm)) {
		shm_unlock(shp);
		return ERR_PTR(-EBUSY);
	}
	ipc_get_identity(&shp->shm_perm, identity);
	copy->shm_segsz = shp->shm_segsz;
	copy->shm_atim = shp->shm_atim;
	copy->shm_dtim = shp->shm_dtim;
	copy->shm_ctim = shp->shm_ctim;
	copy->shm_cprid = get_pid(shp->shm_cprid);
	copy->shm_lprid = get_pid(shp->shm_lprid);
	/* Who unlocks it meanwhile, from outside, drops those. */
	*ucounts = shp->mlock_ucounts ? get_ucounts(shp->mlock_ucounts) : NULL;
	base = get_file(shp->shm_file);
	shm_unlock(shp);
	return base;
}

static int shm_fill_copy(struct ipc_namespace *from, int id, struct ipc_namespace *ns,
			 struct shmid_kernel *copy)
{
	struct ipc_identity identity = {};
	struct ucounts *ucounts;
	struct file *base, *file;
	int err;

	base = shm_copy_state(from, id, copy, &identity, &ucounts);
	if (IS_ERR(base))
		return PTR_ERR(base);
	file = shm_copy_contents(base);
	fput(base);
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
	} else {
		copy->shm_file = file;
		err = shm_lock_copy(copy, ucounts);
	}
	if (ucounts)
		put_ucounts(ucounts);
	return err ?: shm_add_copy(ns, copy, &identity, ns != from);
}

/*
 * A segment in @ns, for which its ID is returned.  Among those of the original it has
 * an attach that is the caller's, else it would go before it is mapped.  In a
 * namespace of its own it has the same ID, and no attach.
 */
static int shm_copy_segment(struct ipc_namespace *from, int id, struct ipc_namespace *ns)
{
	struct shmid_kernel *copy = kzalloc_obj(*copy, GFP_KERNEL_ACCOUNT);
	int err;

	if (!copy)
		return -ENOMEM;
	copy->ns = ns;
	copy->shm_nattch = ns == from;
	/* As if who made it had ended. */
	INIT_LIST_HEAD(&copy->shm_clist);
	err = security_shm_alloc(&copy->shm_perm);
	if (err) {
		kfree(copy);
		return err;
	}
	err = shm_fill_copy(from, id, ns, copy);
	if (err) {
		shm_free_copy(copy);
		return err;
	}
	return copy->shm_perm.id;
}

static const void *shm_fullfork_object(struct file *file, unsigned int *nr_files)
{
	struct shm_file_data *sfd = shm_file_data(file);
	struct shmid_kernel *shp;

	shp = shm_lock(sfd->ns, sfd->id);
	if (IS_ERR(shp))
		return NULL;
	if (shp->shm_file != sfd->file) {
		shm_unlock(shp);
		return NULL;
	}
	shm_unlock(shp);
	/* But for the segment itself. */
	*nr_files = d_count(file->f_path.dentry) + icount_read_once(file_inode(file)) - 2;
	return shp;
}

static struct file *shm_fullfork_copy(struct file *file, struct file *first)
{
	struct shm_file_data *sfd = shm_file_data(file);
	struct file *copy;
	int id;

	if (first)
		return shm_fullfork_attach(sfd->ns, shm_file_data(first)->id, file);
	id = shm_copy_segment(sfd->ns, sfd->id, sfd->ns);
	if (id < 0)
		return id == -EBUSY ? NULL : ERR_PTR(id);
	copy = shm_fullfork_attach(sfd->ns, id, file);
	shm_fullfork_detach(sfd->ns, id);
	return copy;
}

static void shm_add_attaches(struct file *file, int nr)
{
	struct shm_file_data *sfd = shm_file_data(file);
	struct shmid_kernel *shp = shm_lock(sfd->ns, sfd->id);

	if (WARN_ON_ONCE(IS_ERR(shp)))
		return;
	shp->shm_nattch += nr;
	shm_unlock(shp);
}

/* fork() has counted the mapping, which it made of the segment of the original. */
static void shm_fullfork_mapped(struct vm_area_struct *vma, struct file *file)
{
	shm_add_attaches(vma->vm_file, 1);
	shm_add_attaches(file, -1);
}

static int shm_fullfork_link(struct file *file, struct file *copy,
			     struct fullfork_isolation *isolation)
{
	struct shm_file_data *sfd = shm_file_data(copy);
	struct shmid_kernel *shp = shm_lock(sfd->ns, sfd->id);

	if (WARN_ON_ONCE(IS_ERR(shp)))
		return 0;
	ipc_replace_pid(&shp->shm_cprid, isolation);
	ipc_replace_pid(&shp->shm_lprid, isolation);
	shm_unlock(shp);
	return 0;
}

/* Those that have mapped it keep it. */
static void shm_fullfork_drop(struct file *copy)
{
	struct shm_file_data *sfd = shm_file_data(copy);

	shm_fullfork_detach(sfd->ns, sfd->id);
}

/**
 * fullfork_shm_ns() - what namespace does an attach refer to?
 * @file: any file that is mapped
 *
 * Return: the namespace, or NULL if it is no attach, or one of huge pages.
 */
struct ipc_namespace *fullfork_shm_ns(struct file *file)
{
	return file->f_op == &shm_file_operations ? shm_file_data(file)->ns : NULL;
}

/**
 * fullfork_shm_is_marked() - is nobody expected to attach it any more?
 * @file: an attach of the segment
 *
 * Return: true after IPC_RMID.
 */
bool fullfork_shm_is_marked(struct file *file)
{
	struct shm_file_data *sfd = shm_file_data(file);
	struct shmid_kernel *shp = shm_lock(sfd->ns, sfd->id);
	bool marked;

	if (IS_ERR(shp))
		return false;
	marked = shp->shm_perm.mode & SHM_DEST;
	shm_unlock(shp);
	return marked;
}

/**
 * fullfork_shm_attach() - an attach of a copy
 * @file: an attach of the segment of the original
 * @ns: the namespace that has the copy, with the same ID
 *
 * Return: a file, or an ERR_PTR().
 */
struct file *fullfork_shm_attach(struct file *file, struct ipc_namespace *ns)
{
	return shm_fullfork_attach(ns, shm_file_data(file)->id, file);
}

/**
 * fullfork_copy_shm() - copy a shared memory segment with its contents
 * @from: the namespace that has it
 * @id: its ID
 * @to: the namespace that is to have the same
 *
 * Return: 0, -ENOMEM, -EINTR, -EAGAIN, or -EBUSY if it has to be shared.
 */
int fullfork_copy_shm(struct ipc_namespace *from, int id, struct ipc_namespace *to)
{
	return min(shm_copy_segment(from, id, to), 0);
}

/* The member, a thread, with whose end an unused segment may end, too. */
static struct pid *shm_creator_pid(struct ipc_namespace *ns, int id)
{
	struct shmid_kernel *shp = shm_lock(ns, id);
	struct pid *pid = NULL;

	if (IS_ERR(shp))
		return NULL;
	/* RCU keeps it, as in shm_clist_rm(). */
	if (!list_empty(&shp->shm_clist))
		pid = get_pid(task_pid(shp->shm_creator));
	shm_unlock(shp);
	return pid;
}

static void shm_set_creator(struct shmid_kernel *shp, struct pid *pid)
{
	struct task_struct *p = pid ? pid_task(pid, PIDTYPE_PID) : NULL;

	if (!p)
		return;
	shp->shm_creator = p;
	task_lock(p);
	list_add(&shp->shm_clist, &p->sysvshm.shm_clist);
	task_unlock(p);
}

/**
 * fullfork_link_shm() - who made, attached and detached it, was a member, and is its replica
 * @from: the namespace that has the segment of the original
 * @id: its ID
 * @to: the namespace that has the copy
 * @isolation: what was copied, with all replicas prepared
 *
 * Return: 0.
 */
int fullfork_link_shm(struct ipc_namespace *from, int id, struct ipc_namespace *to,
		      struct fullfork_isolation *isolation)
{
	struct pid *creator = shm_creator_pid(from, id);
	struct shmid_kernel *shp = shm_lock(to, id);

	if (!IS_ERR(shp)) {
		ipc_replace_pid(&shp->shm_cprid, isolation);
		ipc_replace_pid(&shp->shm_lprid, isolation);
		/* It cannot exit before it runs. */
		if (creator && list_empty(&shp->shm_clist))
			shm_set_creator(shp, fullfork_replica_pid(isolation, creator,
								  PIDTYPE_PID));
		shm_unlock(shp);
	}
	put_pid(creator);
	return 0;
}

static const struct fullfork_file_ops shm_fullfork_ops = {
	.name	= "shm",
	.object	= shm_fullfork_object,
	.copy	= shm_fullfork_copy,
	.mapped	= shm_fullfork_mapped,
	.link	= shm_fullfork_link,
	.drop	= shm_fullfork_drop,
};

/* Others can attach one that is not marked by its ID. */
static const void *shm_fullfork_huge_object(struct file *file, unsigned int *nr_files)
{
	return fullfork_shm_is_marked(file) ? shm_fullfork_object(file, nr_files) : NULL;
}

static const struct fullfork_file_ops shm_fullfork_huge_ops = {
	.name	= "shm",
	.object	= shm_fullfork_huge_object,
	.refused = FULLFORK_HUGE_PAGES,
};

static int __init shm_fullfork_init(void)
{
	fullfork_register(&shm_file_operations, &shm_fullfork_ops);
	fullfork_register(&shm_file_operations_huge, &shm_fullfork_huge_ops);
	return 0;
}
late_initcall(shm_fullfork_init);

#endif /* CONFIG_FULLFORK */
