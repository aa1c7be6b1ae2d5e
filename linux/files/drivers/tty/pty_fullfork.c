// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: copy pseudo-terminals.
 *
 * Copyright (c) 2026 The full fork developers
 */

/*
 * Both ends are one object, since what is written to one is on its way to the other.
 * It is internal if only members have either end open, and if only members are in the
 * session that it controls.  That there is a name, /dev/pts/N, by which others with
 * the rights could open it, does not make it external.
 *
 * The copy is made by opening /dev/ptmx once more, so that it has a number and a name
 * of its own, then its slave by that name.  It is locked (TIOCSPTLCK) for all others
 * until it has what the original has.  Settings and characters are copied after what
 * members have written has gone where it can go: the rest waits until they read.
 *
 * Lock order, as elsewhere: tty_buffer lock of the slave, its termios_rwsem, output_lock
 * and port->lock; then those of the master, whose tty_buffer lock a slave may take while
 * it has its termios_rwsem.
 */

#include <linux/cdev.h>
#include <linux/devpts_fs.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fsnotify.h>
#include <linux/fullfork.h>
#include <linux/fullfork_isolate.h>
#include <linux/magic.h>
#include <linux/major.h>
#include <linux/mount.h>
#include <linux/pid.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/tty.h>
#include <linux/tty_driver.h>
#include <linux/tty_flip.h>

#include "pty_fullfork.h"
#include "tty.h"

static struct tty_struct *tty_of(const struct file *file)
{
	return ((struct tty_file_private *)file->private_data)->tty;
}

static bool is_master(const struct tty_struct *tty)
{
	return tty->driver->subtype == PTY_TYPE_MASTER;
}

static struct tty_struct *master_of(const struct file *file)
{
	struct tty_struct *tty = tty_of(file);

	return is_master(tty) ? tty : tty->link;
}

/* There are some that are older, and have no file system. */
static bool is_unix98(struct file *file)
{
	const struct tty_driver *driver = tty_of(file)->driver;

	return driver->type == TTY_DRIVER_TYPE_PTY && driver->flags & TTY_DRIVER_DEVPTS_MEM;
}

static unsigned int count_files(struct tty_struct *tty)
{
	guard(spinlock)(&tty->files_lock);
	return list_count_nodes(&tty->tty_files);
}

static bool has_n_tty(struct tty_struct *tty)
{
	struct tty_ldisc *ld = tty_ldisc_ref(tty);
	bool has;

	if (!ld)
		return false;
	has = ld->ops->num == N_TTY;
	tty_ldisc_deref(ld);
	return has;
}

/* Would who opens it wait for a permission? */
static bool is_watched(struct super_block *sb)
{
	return fsnotify_sb_has_priority_watchers(sb, FSNOTIFY_PRIO_CONTENT);
}

/* It may be the only file that its mount shows. */
static bool sees_all_of_devpts(const struct file *file)
{
	const struct vfsmount *mnt = file->f_path.mnt;

	return mnt->mnt_sb->s_magic != DEVPTS_SUPER_MAGIC || mnt->mnt_root == mnt->mnt_sb->s_root;
}

/* Files of a slave that was hung up count, and are not found: it is shared. */
static const void *pty_fullfork_object(struct file *file, unsigned int *nr_files)
{
	struct tty_struct *master;
	struct dentry *dentry;

	if (!is_unix98(file))
		return NULL;
	master = master_of(file);
	if (!master || !has_n_tty(master) || !has_n_tty(master->link))
		return NULL;
	dentry = master->link->driver_data;
	if (!dentry || is_watched(dentry->d_sb) || is_watched(file_inode(file)->i_sb) ||
	    !sees_all_of_devpts(file))
		return NULL;
	*nr_files = count_files(master) + count_files(master->link);
	return master;
}

/* The slave is opened by the name that the copy of its master has. */
static bool pty_fullfork_leads(struct file *file)
{
	return is_master(tty_of(file));
}

static struct pid *get_session(struct tty_struct *tty)
{
	guard(spinlock_irqsave)(&tty->ctrl.lock);
	return get_pid(tty->ctrl.session);
}

/* Who is in the session can open the slave as /dev/tty. */
static int pty_fullfork_scan(struct file *file, struct fullfork_isolation *isolation)
{
	struct tty_struct *slave = master_of(file)->link;
	struct pid *session = get_session(slave);
	struct task_struct *p;

	read_lock(&tasklist_lock);
	do_each_pid_task(session, PIDTYPE_SID, p) {
		if (READ_ONCE(p->signal->tty) == slave && !fullfork_has_member(isolation, p))
			fullfork_held_outside(isolation);
	} while_each_pid_task(session, PIDTYPE_SID, p);
	read_unlock(&tasklist_lock);
	put_pid(session);
	return 0;
}

static int copy_end(struct tty_struct *tty, struct tty_struct *copy)
{
	int err;

	down_write(&tty->termios_rwsem);
	copy->termios = tty->termios;
	copy->termios_locked = tty->termios_locked;
	err = n_tty_fullfork_copy(tty, copy) ?: tty_buffer_fullfork_copy(tty->port, copy->port);
	up_write(&tty->termios_rwsem);
	if (err)
		return err;

	scoped_guard(mutex, &tty->winsize_mutex)
		copy->winsize = tty->winsize;
	scoped_guard(spinlock_irq, &tty->flow.lock) {
		copy->flow.stopped = tty->flow.stopped;
		copy->flow.tco_stopped = tty->flow.tco_stopped;
	}
	scoped_guard(spinlock_irq, &tty->ctrl.lock) {
		copy->ctrl.packet = tty->ctrl.packet;
		copy->ctrl.pktstatus = tty->ctrl.pktstatus;
	}
	return 0;
}

static void copy_flag(struct tty_struct *tty, struct tty_struct *copy, int nr)
{
	assign_bit(nr, &copy->flags, test_bit(nr, &tty->flags));
}

/* Both at one instant: what the slave receives may be echoed to the master. */
static int copy_ends(struct tty_struct *master, struct tty_struct *copy)
{
	struct tty_struct *slave = master->link;
	int err;

	tty_buffer_lock_exclusive(slave->port);
	err = copy_end(slave, copy->link);
	tty_buffer_lock_exclusive(master->port);
	err = err ?: copy_end(master, copy);
	tty_buffer_unlock_exclusive(master->port);
	tty_buffer_unlock_exclusive(slave->port);
	return err;
}

/* Nobody has the slave of @copy open yet. */
static int copy_pty(struct tty_struct *master, struct tty_struct *copy)
{
	struct inode *inode = d_inode(copy->link->driver_data);
	const struct inode *from = d_inode(master->link->driver_data);
	int err;

	inode_lock(inode);
	inode->i_uid = from->i_uid;
	inode->i_gid = from->i_gid;
	inode->i_mode = from->i_mode;
	inode_unlock(inode);
	/* The slave first, which echoes what it gets. */
	tty_buffer_flush_work(master->link->port);
	tty_buffer_flush_work(master->port);
	err = copy_ends(master, copy);
	if (err)
		return err;
	/* Has there been a slave? */
	copy_flag(master, copy, TTY_OTHER_CLOSED);
	/* Does an owner wait for room? */
	copy_flag(master, copy, TTY_DO_WRITE_WAKEUP);
	copy_flag(master->link, copy->link, TTY_DO_WRITE_WAKEUP);
	/* Only we can open the slave until it is what the original is. */
	WRITE_ONCE(copy->port->client_data, current);
	return 0;
}

static struct file *copy_master(struct file *file)
{
	struct file *copy_file = fullfork_reopen(file, NULL);
	struct tty_struct *master, *copy;
	int err;

	/* A security module, or what is at /dev/pts by now, may be against it. */
	if (copy_file == ERR_PTR(-EACCES) || copy_file == ERR_PTR(-EPERM) ||
	    copy_file == ERR_PTR(-ENODEV) || copy_file == ERR_PTR(-ENOENT))
		return NULL;
	if (IS_ERR(copy_file))
		return copy_file;
	master = tty_of(file);
	copy = tty_of(copy_file);
	if (copy->driver_data != master->driver_data) {
		fput(copy_file);
		return NULL;
	}
	err = copy_pty(master, copy);
	if (err) {
		fput(copy_file);
		return ERR_PTR(err);
	}
	return copy_file;
}

static const struct file_operations no_fops;

/* What was opened as /dev/tty, by whoever it was. */
static struct file *copy_dev_tty(struct file *file, struct tty_struct *slave)
{
	struct cdev *cdev = file_inode(file)->i_cdev;
	struct file *copy;
	int err;

	copy = alloc_file_clone(file, file->f_flags, cdev->ops);
	if (IS_ERR(copy))
		return copy;
	/* As the original has it, it is there. */
	__module_get(cdev->owner);
	kobject_get(&cdev->kobj);
	nonseekable_open(file_inode(file), copy);
	scoped_with_creds(file->f_cred)
		err = security_file_open(copy);
	err = err ?: tty_alloc_file(copy);
	if (err) {
		/* There is nothing to release. */
		copy->f_op = &no_fops;
		fput(copy);
		return ERR_PTR(err);
	}

	tty_lock(slave);
	slave->count++;
	tty_add_file(slave, copy);
	err = slave->ops->open(slave, copy);
	tty_unlock(slave);
	if (err) {
		fput(copy);
		return ERR_PTR(err);
	}
	return copy;
}

static struct file *copy_slave(struct file *file, struct tty_struct *slave)
{
	struct file *copy;

	/* A signal that is not fatal waits. */
	do {
		copy = file_inode(file)->i_rdev == MKDEV(TTYAUX_MAJOR, 0) ?
		       copy_dev_tty(file, slave) : fullfork_reopen(file, slave->driver_data);
	} while (copy == ERR_PTR(-ERESTARTSYS) && !fatal_signal_pending(current));
	/* As its master is copied, it is too late to share it. */
	if (copy == ERR_PTR(-EACCES) || copy == ERR_PTR(-EPERM))
		return ERR_PTR(-EOPNOTSUPP);
	return copy;
}

static struct file *pty_fullfork_copy(struct file *file, struct file *first)
{
	return first ? copy_slave(file, master_of(first)->link) : copy_master(file);
}

static void set_terminal(struct task_struct *p, struct tty_struct *tty)
{
	struct tty_struct *old;

	scoped_guard(spinlock_irq, fullfork_siglock(p)) {
		old = p->signal->tty;
		p->signal->tty = tty_kref_get(tty);
	}
	tty_kref_put(old);
}

/* The terminal of the replicas of those whose terminal @slave is. */
static void set_terminals(struct pid *session, struct tty_struct *slave,
			  struct tty_struct *copy, struct fullfork_isolation *isolation)
{
	struct task_struct *p;
	struct pid *pid;

	read_lock(&tasklist_lock);
	do_each_pid_task(session, PIDTYPE_SID, p) {
		if (READ_ONCE(p->signal->tty) != slave)
			continue;
		pid = fullfork_replica_pid(isolation, task_pid(p), PIDTYPE_TGID);
		if (pid)
			set_terminal(pid_task(pid, PIDTYPE_PID), copy);
	} while_each_pid_task(session, PIDTYPE_SID, p);
	read_unlock(&tasklist_lock);
}

/*
 * A process group whose leader is gone is joined by replicas, and not copied.  It is
 * not in the foreground of the copy: what is typed there is not for originals.
 */
static void copy_session(struct tty_struct *slave, struct tty_struct *copy,
			 struct fullfork_isolation *isolation)
{
	struct pid *session = get_session(slave), *leader, *pgrp;

	leader = fullfork_replica_pid(isolation, session, PIDTYPE_TGID);
	if (!leader) {
		put_pid(session);
		return;
	}
	scoped_guard(spinlock_irq, &slave->ctrl.lock)
		pgrp = get_pid(slave->ctrl.pgrp);
	tty_lock(copy);
	scoped_guard(spinlock_irq, &copy->ctrl.lock) {
		copy->ctrl.session = get_pid(leader);
		copy->ctrl.pgrp = get_pid(fullfork_replica_pid(isolation, pgrp, PIDTYPE_TGID) ?:
					  leader);
	}
	tty_unlock(copy);
	put_pid(pgrp);
	set_terminals(session, slave, copy, isolation);
	put_pid(session);
}

static int pty_fullfork_link(struct file *file, struct file *copy,
			     struct fullfork_isolation *isolation)
{
	if (is_master(tty_of(copy)))
		copy_session(tty_of(file)->link, tty_of(copy)->link, isolation);
	return 0;
}

static struct fasync_struct **pty_fullfork_fasync(struct file *file, bool second)
{
	return second ? NULL : &tty_of(file)->fasync;
}

/* All files are there: it may be for one only, and others may open it. */
static void pty_fullfork_start(struct file *file, struct file *copy_file)
{
	struct tty_struct *tty = tty_of(file), *copy = tty_of(copy_file);

	if (!is_master(copy))
		return;
	copy_flag(tty, copy, TTY_EXCLUSIVE);
	copy_flag(tty->link, copy->link, TTY_EXCLUSIVE);
	WRITE_ONCE(copy->port->client_data, NULL);
	copy_flag(tty, copy, TTY_PTY_LOCK);
	tty_buffer_restart_work(copy->port);
	tty_buffer_restart_work(copy->link->port);
}

const struct fullfork_file_ops pty_fullfork_ops = {
	.name		= "pty",
	.close_waits	= true,
	.object		= pty_fullfork_object,
	.leads		= pty_fullfork_leads,
	.scan		= pty_fullfork_scan,
	.copy		= pty_fullfork_copy,
	.link		= pty_fullfork_link,
	.fasync		= pty_fullfork_fasync,
	.start		= pty_fullfork_start,
};
