// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: files whose owner gets signals.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: owners of files
 *
 * A file may have an owner (F_SETOWN), to whom it sends a signal (F_SETSIG) when
 * there is something to read or to write, if it has O_ASYNC, and SIGURG without it.
 * What the owner of an original is told of is not for others, and the replica of the
 * owner waits for it as well:
 *
 * 1. A file whose owner is somebody else is held by him: he waits for what can be read
 *    there, so it is shared.  Whom it names is the thread or the process, or the
 *    process group, which is copied if its leader is.  If nobody is left there to be
 *    named, nobody is told by the copy either.  It is shared, too, if a security module
 *    keeps away the signals of who has named the owner, as it is not known of whom the
 *    copy's would be.
 * 2. When there are all replicas and all copies are linked, the copy gets O_ASYNC, with
 *    the number that the original tells (si_fd), which need not be a descriptor of it
 *    any more.  Then it gets the replica as its owner.
 * 3. Pending signals are copied after that.  So of what others do meanwhile, which only
 *    an inotify instance is told of, the replica has a signal: the one that the
 *    original has got, or its own, or both.
 *
 * A replica that has a signal before it is certain that it will run is nothing
 * special: everybody can send it one.  A process group is joined later, at commit.  Until
 * then replicas are in that of their originals, and get what is sent there.
 *
 * Leases and F_NOTIFY use the same fields, but know the file by which they were asked
 * for.  They are not copied, so that these files are shared.
 */

#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/fullfork.h>
#include <linux/fullfork_isolate.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/security.h>

#include "internal.h"

/* In @owner, what a file says of its owner, who is held; false if it says nothing. */
static bool get_owner(const struct file *file, struct fown_struct *owner)
{
	struct fown_struct *from = file_f_owner(file);

	if (!from)
		return false;
	guard(read_lock_irq)(&from->lock);
	owner->pid = get_pid(from->pid);
	owner->pid_type = from->pid_type;
	owner->uid = from->uid;
	owner->euid = from->euid;
	owner->signum = READ_ONCE(from->signum);
	return true;
}

/* Would security modules let the owner get the signals from who has named it? */
static bool may_signal(struct fown_struct *from)
{
	struct task_struct *t;
	bool may = true;

	guard(read_lock_irq)(&from->lock);
	guard(rcu)();
	do_each_pid_task(from->pid, from->pid_type, t) {
		may &= !security_file_send_sigiotask(t, from, from->signum);
	} while_each_pid_task(from->pid, from->pid_type, t);
	return may;
}

static bool has_lease(const struct file *file)
{
	struct file_lock_context *ctx = locks_inode_context(file_inode(file));
	struct file_lease *lease;

	if (!ctx)
		return false;
	guard(spinlock)(&ctx->flc_lock);
	list_for_each_entry(lease, &ctx->flc_lease, c.flc_list)
		if (lease->c.flc_file == file)
			return true;
	return false;
}

/* Is there anybody who gets the signals, or may lead a group that does? */
static bool is_there(const struct fown_struct *owner)
{
	guard(rcu)();
	return pid_task(owner->pid, PIDTYPE_PID) || pid_task(owner->pid, owner->pid_type);
}

/**
 * fullfork_owned_outside() - has a file to do with signals to who is no member?
 * @op: the operation, with all members linked
 * @file: the file
 *
 * Return: true, too, if its signals are not its own.
 */
bool fullfork_owned_outside(struct fullfork *op, const struct file *file)
{
	struct fown_struct owner;
	bool outside;

	if (has_lease(file))
		return true;
	if (!get_owner(file, &owner))
		return false;
	/* A directory is one of F_NOTIFY. */
	outside = S_ISDIR(file_inode(file)->i_mode) ||
		  (is_there(&owner) && !fullfork_find_meant(op, owner.pid, owner.pid_type)) ||
		  !may_signal(file_f_owner(file));
	put_pid(owner.pid);
	return outside;
}

/* The number that is told of @file, if it is in the list. */
static bool find_fd(struct fasync_struct **list, const struct file *file, int *fd)
{
	struct fasync_struct *fa;

	guard(rcu)();
	for (fa = rcu_dereference_raw(*list); fa; fa = rcu_dereference_raw(fa->fa_next)) {
		guard(read_lock_irq)(&fa->fa_lock);
		if (fa->fa_file == file) {
			*fd = fa->fa_fd;
			return true;
		}
	}
	return false;
}

/* Not by its f_op->fasync(): that waits for locks, and others may have the copy by now. */
static int copy_async(struct file *file, struct file *copy, const struct fullfork_file_ops *ops)
{
	struct fasync_struct **list = ops->fasync ? ops->fasync(file, false) : NULL;
	int fd;

	if (!list || !find_fd(list, file, &fd)) {
		/* It was given to open(), which keeps it, and does nothing. */
		guard(spinlock)(&copy->f_lock);
		copy->f_flags |= FASYNC;
		return 0;
	}
	if (fasync_helper(fd, copy, 1, ops->fasync(copy, false)) < 0)
		return -ENOMEM;
	list = ops->fasync(copy, true);
	return list && fasync_helper(fd, copy, 1, list) < 0 ? -ENOMEM : 0;
}

/* Nobody, if it is somebody else by now: he was not there when it was compared. */
static struct pid *replica_owner(struct fullfork_isolation *isolation, const struct file *file,
				 const struct fown_struct *owner)
{
	struct pid *pid = fullfork_replica_pid(isolation, owner->pid, owner->pid_type);

	if (pid)
		return may_signal(file_f_owner(file)) ? pid : NULL;
	return is_there(owner) ? NULL : owner->pid;
}

/* At once, unlike F_SETOWN and F_SETSIG, as it may send signals. */
static void set_owner(struct file *copy, const struct fown_struct *owner, struct pid *pid)
{
	struct fown_struct *to = file_f_owner(copy);

	guard(write_lock_irq)(&to->lock);
	put_pid(to->pid);
	to->pid = get_pid(pid);
	to->pid_type = owner->pid_type;
	to->uid = owner->uid;
	to->euid = owner->euid;
	WRITE_ONCE(to->signum, owner->signum);
	if (pid)
		security_file_set_fowner(copy);
}

/**
 * fullfork_copy_owner() - let a copy send signals to replicas
 * @isolation: what was copied, with all replicas prepared and all copies linked
 * @file: a file that was copied
 * @copy: its copy, without O_ASYNC
 * @ops: how they are copied
 *
 * With the credentials of a member that has @file.
 *
 * Return: 0 or -ENOMEM.
 */
int fullfork_copy_owner(struct fullfork_isolation *isolation, struct file *file,
			struct file *copy, const struct fullfork_file_ops *ops)
{
	struct fown_struct owner;
	int err = 0;

	if (READ_ONCE(file->f_flags) & FASYNC)
		err = copy_async(file, copy, ops);
	if (err || !get_owner(file, &owner))
		return err;
	err = file_f_owner_allocate(copy);
	if (!err)
		set_owner(copy, &owner, replica_owner(isolation, file, &owner));
	put_pid(owner.pid);
	return err;
}
