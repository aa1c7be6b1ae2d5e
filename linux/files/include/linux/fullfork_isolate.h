/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_FULLFORK_ISOLATE_H
#define _LINUX_FULLFORK_ISOLATE_H

#include <linux/fs.h>
#include <linux/pid_types.h>
#include <linux/seq_file.h>

/*
 * Full fork with CLONE_ISOLATE: how a subsystem lets its objects be copied for
 * the replicas.  What is done with it is described in kernel/fullfork/isolate.c.
 */

struct fasync_struct;
struct fullfork_isolation;
struct mutex;
struct pid;
struct sigqueue;
struct task_struct;
struct vm_area_struct;

/* Why an operation was aborted, for the tracepoint. */
enum fullfork_reason {
	FULLFORK_OK,
	FULLFORK_KILLED,		/* a fatal signal for the caller */
	FULLFORK_TIMEOUT,		/* an original could not be quiesced */
	FULLFORK_ROOT,			/* it may not be copied, or has exited */
	FULLFORK_RIGHTS,		/* a process that the caller may not copy */
	FULLFORK_TRACED,		/* by another member */
	FULLFORK_THREADS,		/* a descendant has several, one was asked for */
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
	FULLFORK_MEMORY,
	FULLFORK_PREPARE,		/* copy_process() failed */
	FULLFORK_TID_WORD,
	FULLFORK_PIDFD,
	FULLFORK_TEMPLATE,		/* not all of it is there any more */
	FULLFORK_REPLICA_KILLED,
	FULLFORK_MEMBER_KILLED,		/* an original, while replicas were prepared */
	FULLFORK_ISOLATION,		/* an object could not be copied */
	FULLFORK_LOOPBACK_TCP,		/* a connection of members with each other */
	FULLFORK_LOOPBACK_UDP,		/* the same */
	FULLFORK_HUGE_PAGES,		/* in shared memory that only members have */
	FULLFORK_SECRET_MEMORY,		/* the same */
	FULLFORK_OTHER_CALLER,		/* another thread's call came first */
};

/**
 * struct fullfork_file_ops - how to copy what a file refers to
 * @name: of the kind, for the tracepoint
 * @close_waits: to close one may wait for somebody, so that this is left to who does
 * @of: those for @file, if files with the same operations are of several kinds; then
 *	there is nothing else here.  They may have an @of, too.  Takes no lock, and
 *	cannot fail
 * @object: the object that the file refers to, and in @nr_files how many files
 *	do so, with anything else that refers to it counted as a file; NULL if it
 *	is one that cannot be copied.  Without it, none can be.  Asked again when
 *	references were counted
 * @refused: why the call fails if only members have an object of the kind, which can
 *	be neither copied nor shared; FULLFORK_OK if it can be
 * @leads: has @file to be copied before the others that refer to its object?  Optional
 * @scan: tell fullfork_found_file() of each file that the object holds, and
 *	fullfork_held_outside() if somebody else can reach it in another way; optional
 * @nr_taken: another number after somebody has got, by @file, one of those that @scan finds;
 *	if that is possible
 * @copy: a new file, in place of @file, for a copy of its object with all that is
 *	in it; or for the copy that @first refers to, if that is not NULL.  NULL if
 *	it has to be shared, for the first one only
 * @remake: in place of @copy, when there are all replicas, a file for what @file
 *	would refer to if it had been opened in a replica; NULL if that is the same
 * @link: let the copy, when there are all copies and replicas, refer to those in
 *	place of what they are copies of, see fullfork_copied_file(),
 *	fullfork_linked_file(), fullfork_replica_with() and
 *	fullfork_replica_pid(); optional
 * @fasync: the list in which @file is if it has O_ASYNC and can send signals, or the
 *	@second one, if there are two, else NULL; optional
 * @start: let the copy do what it does by itself; optional, and cannot fail
 * @mapped: @vma, which fork() made of a mapping of @file, is one of the copy from now
 *	on; the memory of the replica is locked for writing; optional
 * @drop: nothing fails any more, and replicas that have the copy keep it; or nobody has
 *	it.  Optional
 *
 * All but @of, @nr_taken, @fasync and @start may sleep, but not wait for a member, nor for
 * somebody else who may wait for one, see fullfork_lock().  They are called by
 * the caller of the full fork, with the credentials of a member that has @file, and what
 * they allocate is charged to its user and cgroup; @copy->f_cred is set afterwards.
 * @mapped is called by the member whose memory it is.
 * Members do nothing meanwhile, but the rest of the system may still find the object,
 * and change it in ways that @object has ruled out.
 */
struct fullfork_file_ops {
	const char	*name;
	bool		close_waits;
	const struct fullfork_file_ops *(*of)(const struct file *file);
	const void	*(*object)(struct file *file, unsigned int *nr_files);
	enum fullfork_reason refused;
	bool		(*leads)(struct file *file);
	int		(*scan)(struct file *file, struct fullfork_isolation *isolation);
	unsigned int	(*nr_taken)(struct file *file);
	struct file	*(*copy)(struct file *file, struct file *first);
	struct file	*(*remake)(struct file *file, struct fullfork_isolation *isolation);
	int		(*link)(struct file *file, struct file *copy,
				struct fullfork_isolation *isolation);
	struct fasync_struct **(*fasync)(struct file *file, bool second);
	void		(*start)(struct file *file, struct file *copy);
	void		(*mapped)(struct vm_area_struct *vma, struct file *file);
	void		(*drop)(struct file *copy);
};

/* As posixtimer_init_sigqueue(), for another task, which cannot exit. */
bool posixtimer_init_sigqueue_of(struct sigqueue *q, struct task_struct *t);

/*
 * A bit of fop_flags that <linux/fs.h> leaves free: what open() has made of a
 * regular file or a directory is the position, and what can be had by opening it
 * once more, which has no effect on others and does not wait for a server.
 */
#define FOP_FULLFORK_REOPEN	((__force fop_flags_t)(1U << 31))

/* Another one: poll() asks a server, who may be quiesced. */
#define FOP_FULLFORK_POLL_ASKS	((__force fop_flags_t)(1U << 30))

/* Memory that can be neither copied nor shared */
extern const struct fullfork_file_ops fullfork_huge_pages_ops;
extern const struct fullfork_file_ops fullfork_secret_memory_ops;

#ifdef CONFIG_FULLFORK

/* Bits of f_mode that <linux/fs.h> leaves free */

/* A full fork made it, as the copy of a file that only its members had open. */
#define FMODE_FULLFORK_COPIED	((__force fmode_t)(1 << 8))

/* A full fork could have copied it, but shared it: not only members have it. */
#define FMODE_FULLFORK_SHARED	((__force fmode_t)(1 << 30))

void fullfork_register(const struct file_operations *fops,
		       const struct fullfork_file_ops *ops);
void fullfork_register_sockets(int family, const struct fullfork_file_ops *ops);
const struct fullfork_file_ops *fullfork_file_ops(const struct file *file);

int fullfork_found_file(struct fullfork_isolation *isolation, struct file *file);
void fullfork_held_outside(struct fullfork_isolation *isolation);
bool fullfork_has_member(struct fullfork_isolation *isolation, const struct task_struct *task);
struct file *fullfork_copied_file(struct fullfork_isolation *isolation, struct file *file);
struct file *fullfork_linked_file(struct fullfork_isolation *isolation, struct file *file);
struct task_struct *fullfork_replica_with(struct fullfork_isolation *isolation, struct file *file);
struct pid *fullfork_replica_pid(struct fullfork_isolation *isolation, struct pid *pid,
				 enum pid_type type);
int fullfork_try_again(unsigned long begin);
int fullfork_lock(struct mutex *lock);
struct file *fullfork_reopen(struct file *file, struct dentry *dentry);
void fullfork_finish_fputs(struct task_struct *task);
bool fullfork_is_memory(struct page *page);
void vma_exchange_file(struct vm_area_struct *vma, struct file *file);
#ifdef CONFIG_FULLFORK_SHMEM
struct file *shmem_fullfork_copy_now(struct file *file);
#else
static inline struct file *shmem_fullfork_copy_now(struct file *file)
{
	return NULL;
}
#endif
int fullfork_copy_pending(struct task_struct *original, struct task_struct *p, bool whole);
int fullfork_copy_timers(struct task_struct *original, struct task_struct *p,
			 struct fullfork_isolation *isolation);
bool fullfork_copies_timer(const struct sigqueue *q);
void fullfork_copy_itimers(struct task_struct *original, struct task_struct *p);

/* An unlinked one has none any more; what was opened with O_TMPFILE can be linked. */
static inline bool fullfork_may_have_name(const struct inode *inode)
{
	return inode->i_nlink || inode_state_read_once((struct inode *)inode) & I_LINKABLE;
}

static inline void fullfork_show_fdinfo(struct seq_file *m, struct file *file)
{
	fmode_t mode = READ_ONCE(file->f_mode);

	/* The last one counts: what is shared by now may have been a copy. */
	if (mode & FMODE_FULLFORK_SHARED)
		seq_puts(m, "fullfork:\tshared\n");
	else if (mode & FMODE_FULLFORK_COPIED)
		seq_puts(m, "fullfork:\tcopied\n");
}

#else

static inline void fullfork_register(const struct file_operations *fops,
				     const struct fullfork_file_ops *ops) { }

static inline void fullfork_show_fdinfo(struct seq_file *m, struct file *file) { }

#endif /* CONFIG_FULLFORK */

#endif /* _LINUX_FULLFORK_ISOLATE_H */
