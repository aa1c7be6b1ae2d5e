// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: regular files and directories, and locks on them.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: regular files
 *
 * What is in a file system is not copied, but the description by which it is open
 * can be: replicas get one of their own, with the same flags and position.  It is
 * opened once more, by the path that the description has, with the credentials
 * that opened it.  This is done only where nobody is asked and nobody notices: a
 * file system has to say so (FOP_FULLFORK_REOPEN), and the one below an overlay,
 * too.  If it cannot be opened, since a security module refuses it say, it is
 * shared.
 *
 * Two owners can hold a read lock of a file, but not a write lock:
 *
 * * read locks of members are copied;
 * * a description with a write lock of flock() or F_OFD_SETLK is shared, and the
 *   lock with it, as after fork(): others are locked out as long as the original
 *   or the replica has it;
 * * a write lock of F_SETLK belongs to a process, and stays with the original, as
 *   after fork().
 *
 * To copy a lock does not fail because of another one, as the lock of the original
 * keeps away all that would conflict with it.
 *
 * Where the file itself is copied, since it has no name, its copy has all locks that the
 * original's has: who holds one has a descriptor, and is a member.
 */

#include <linux/dcache.h>
#include <linux/fdtable.h>
#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/fsnotify.h>
#include <linux/fullfork.h>
#include <linux/fullfork_isolate.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"

/* Would it wait for a permission? */
static bool is_watched(const struct inode *inode)
{
	return fsnotify_sb_has_priority_watchers(inode->i_sb, FSNOTIFY_PRIO_CONTENT);
}

/* A lock of the description, and not of a process that has it? */
static bool is_of_description(const struct file_lock *fl)
{
	return fl->c.flc_flags & (FL_FLOCK | FL_OFDLCK);
}

static bool is_write_lock_of(const struct file_lock *fl, const struct file *file)
{
	return is_of_description(fl) && fl->c.flc_file == file && fl->c.flc_type != F_RDLCK;
}

static bool has_write_lock(struct file *file)
{
	struct file_lock_context *ctx = locks_inode_context(file_inode(file));
	struct file_lock *fl;

	if (!ctx)
		return false;
	guard(spinlock)(&ctx->flc_lock);
	list_for_each_entry(fl, &ctx->flc_flock, c.flc_list)
		if (is_write_lock_of(fl, file))
			return true;
	list_for_each_entry(fl, &ctx->flc_posix, c.flc_list)
		if (is_write_lock_of(fl, file))
			return true;
	return false;
}

/* Others have descriptions of their own of the same file: it is about this one. */
static const void *regular_object(struct file *file, unsigned int *nr_files)
{
	struct inode *inode = file_inode(file), *real;

	if (!S_ISREG(inode->i_mode) && !S_ISDIR(inode->i_mode))
		return NULL;
	/* Was it opened, and in the way that it would be opened again? */
	if (!(file->f_mode & FMODE_OPENED) || (file->f_mode & FMODE_BACKING) ||
	    file->f_op != inode->i_fop || file->f_mapping != inode->i_mapping)
		return NULL;
	real = d_real_inode(file->f_path.dentry);
	if (!(real->i_fop->fop_flags & FOP_FULLFORK_REOPEN))
		return NULL;
	if (is_watched(inode) || is_watched(real) || has_write_lock(file))
		return NULL;
	*nr_files = 1;
	return file;
}

static struct file *regular_copy(struct file *file, struct file *first)
{
	struct file *copy = fullfork_reopen(file, NULL);

	if (!IS_ERR(copy) || copy == ERR_PTR(-ENOMEM) || copy == ERR_PTR(-ENFILE))
		return copy;
	return NULL;
}

const struct fullfork_file_ops fullfork_regular_ops = {
	.name	= "regular",
	.object	= regular_object,
	.copy	= regular_copy,
};

/*
 * Memory that cannot be copied, and has no name by which others can open it.  If it had
 * several, it is there by several dentries, each of which holds the inode.
 */
static const void *unnamed_object(struct file *file, unsigned int *nr_files)
{
	struct dentry *dentry = file->f_path.dentry;

	/* One that never had a name is a root by itself. */
	if (!IS_ROOT(dentry) && fullfork_may_have_name(d_inode(dentry)))
		return NULL;
	*nr_files = d_count(dentry) + icount_read_once(d_inode(dentry)) - 1;
	return d_inode(dentry);
}

const struct fullfork_file_ops fullfork_huge_pages_ops = {
	.name	= "hugetlb",
	.object	= unnamed_object,
	.refused = FULLFORK_HUGE_PAGES,
};

const struct fullfork_file_ops fullfork_secret_memory_ops = {
	.name	= "secretmem",
	.object	= unnamed_object,
	.refused = FULLFORK_SECRET_MEMORY,
};

/* A member that has the descriptor table, by which a process owns its locks. */
static struct fullfork_member *find_owner(struct fullfork *op, fl_owner_t owner)
{
	struct fullfork_member *m;
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node)
		list_for_each_entry(m, &g->members, node)
			if (!fullfork_has_exited(m) && m->original->files == owner)
				return m;
	return NULL;
}

/**
 * struct locked_file - a file by which originals may have locks
 * @op: the operation
 * @file: the file
 * @copy: what replicas have in its place, or NULL
 * @replica: of a member that has @file
 */
struct locked_file {
	struct fullfork		*op;
	struct file		*file;
	struct file		*copy;
	struct task_struct	*replica;
};

/* Only members could lock it; anybody can what is made anew, a pidfd of a replica say. */
static bool is_of_copied_inode(const struct locked_file *f)
{
	const struct fullfork_file_ops *ops = fullfork_file_ops(f->file);

	return f->copy && file_inode(f->copy) != file_inode(f->file) && !(ops && ops->remake);
}

/* In @to, what replicas are to have for @fl, if anything. */
static bool copy_lock(const struct locked_file *f, const struct file_lock *fl,
		      struct file_lock *to)
{
	struct task_struct *replica = f->replica;
	struct fullfork_member *m;
	fl_owner_t owner = f->copy;

	if (fl->c.flc_file != f->file || fl->fl_lmops ||
	    (fl->c.flc_type != F_RDLCK && !is_of_copied_inode(f)))
		return false;
	if (!is_of_description(fl)) {
		m = find_owner(f->op, fl->c.flc_owner);
		replica = m ? m->replica : NULL;
		owner = m ? replica->files : NULL;
	}
	if (!owner)
		return false;

	locks_init_lock(to);
	to->c.flc_flags = fl->c.flc_flags & (FL_POSIX | FL_FLOCK | FL_OFDLCK);
	to->c.flc_type = fl->c.flc_type;
	to->c.flc_file = f->copy ?: f->file;
	to->c.flc_owner = owner;
	to->c.flc_pid = fl->c.flc_flags & FL_OFDLCK ? -1 : task_tgid_nr(replica);
	to->fl_start = fl->fl_start;
	to->fl_end = fl->fl_end;
	return true;
}

static unsigned int copy_list(const struct locked_file *f, struct list_head *list,
			      struct file_lock *locks, unsigned int max)
{
	unsigned int nr = 0;
	struct file_lock *fl;

	list_for_each_entry(fl, list, c.flc_list) {
		if (nr == max)
			break;
		nr += copy_lock(f, fl, &locks[nr]);
	}
	return nr;
}

static unsigned int count_locks(const struct locked_file *f, struct list_head *list)
{
	struct file_lock *fl;
	unsigned int nr = 0;

	list_for_each_entry(fl, list, c.flc_list)
		nr += fl->c.flc_file == f->file;
	return nr;
}

/* Members take no more of them meanwhile. */
static struct file_lock *get_locks(const struct locked_file *f, struct file_lock_context *ctx,
				   unsigned int *nr)
{
	struct file_lock *locks;
	unsigned int max;

	scoped_guard(spinlock, &ctx->flc_lock)
		max = count_locks(f, &ctx->flc_flock) + count_locks(f, &ctx->flc_posix);
	locks = kvmalloc_objs(*locks, max, GFP_KERNEL_ACCOUNT);
	if (!locks)
		return NULL;
	guard(spinlock)(&ctx->flc_lock);
	*nr = copy_list(f, &ctx->flc_flock, locks, max);
	*nr += copy_list(f, &ctx->flc_posix, locks + *nr, max - *nr);
	return locks;
}

/**
 * fullfork_copy_locks() - let replicas have the locks of originals: on the same file, to read
 * @op: the operation, with all replicas prepared
 * @file: a file by which originals may have some
 * @copy: what replicas have in its place, or NULL
 * @replica: of a member that has @file
 *
 * Return: 0, -ENOMEM, -EINTR, or -EAGAIN if somebody has found the copy, and locked it.
 */
int fullfork_copy_locks(struct fullfork *op, struct file *file, struct file *copy,
			struct task_struct *replica)
{
	struct locked_file f = { .op = op, .file = file, .copy = copy, .replica = replica };
	struct file_lock_context *ctx = locks_inode_context(file_inode(file));
	struct file_lock *locks;
	unsigned int i, nr;
	int err = 0;

	if (!ctx || file->f_op->lock || file->f_op->flock ||
	    (list_empty(&ctx->flc_flock) && list_empty(&ctx->flc_posix)))
		return 0;
	locks = get_locks(&f, ctx, &nr);
	if (!locks)
		return -ENOMEM;
	for (i = 0; i < nr && !err; i++) {
		err = fatal_signal_pending(current) ? -EINTR :
		      locks_lock_inode_wait(file_inode(copy ?: file), &locks[i]);
		cond_resched();
	}
	kvfree(locks);
	return err == -ENOLCK ? -ENOMEM : err;
}
