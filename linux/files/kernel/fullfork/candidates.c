// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: the descriptors that are worth a look, for CLONE_ISOLATE.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: candidates
 *
 * Of a process with many descriptors few are internal, mostly.  To find these should
 * cost about what it costs to copy the table.
 *
 * 1. One look at each descriptor leaves a bitmap of *candidates*: those whose files are of
 *    a kind that can be copied, or have locks.
 * 2. If many of these have more than one reference, their files are counted, without
 *    anything else that is done for a file that may be copied.  Those with more references
 *    than descriptors are *outer* ones: others have them, too.  They are shared, and not
 *    looked at any more, unless
 *
 *    * something refers to them that is no descriptor and may be found later: they are
 *      mapped, or turn up in a message between members;
 *    * there is more to do than to share them: they hold others, or have locks.
 *
 * What is wrong is wrong to the safe side: a file that somebody looked at just then
 * is shared.
 */

#include <linux/bitmap.h>
#include <linux/fdtable.h>
#include <linux/filelock.h>
#include <linux/fullfork_isolate.h>
#include <linux/hash.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "internal.h"

/* So many with more than one reference are not worth to be counted first. */
#define FEW 32

/* And of more files than half of that many none is known to be an outer one. */
#define MOST_BITS 16

/* How many descriptors are looked at until somebody else may run */
#define RESCHED_FDS 1024U

/**
 * struct fullfork_tally - a file that members have open
 * @file: it; NULL if this is free
 * @nr_fds: how many descriptors of it they have
 * @reported: it was, as one that is shared
 */
struct fullfork_tally {
	const struct file	*file;
	unsigned int		nr_fds;
	bool			reported;
};

/* As long as one is like the one before, there is nothing to find out. */
struct kinds_seen {
	const struct file_operations *can_be_copied;
	const struct file_operations *cannot_be_copied;
};

/* Return: 0, or -EINTR if the caller is killed. */
static int wait_a_moment(void)
{
	cond_resched();
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/* No longer needs the lock of a table whose tasks are all quiesced. */
struct fdtable *fullfork_fdtable(struct files_struct *files)
{
	return rcu_dereference_protected(files->fdt, true);
}

/**
 * fullfork_next_file() - walk through candidates
 * @m: a member that has some
 * @fdt: its table, or the replica's
 * @fd: the number to begin with; then, that of what was found
 *
 * Return: the file, or NULL if there is none any more.
 */
struct file *fullfork_next_file(const struct fullfork_member *m, struct fdtable *fdt,
				unsigned int *fd)
{
	unsigned int max_fds = min(m->max_candidates, fdt->max_fds);
	struct file *file;

	for (;; ++*fd) {
		*fd = find_next_bit(m->candidates, max_fds, *fd);
		if (*fd >= max_fds)
			return NULL;
		file = rcu_dereference_protected(fdt->fd[*fd], true);
		if (file)
			return file;
	}
}

/* The table of @m, unless a member before it has it, or who is no member. */
static struct files_struct *own_files(struct fullfork_member *m)
{
	struct files_struct *files = m->original->files;

	if (fullfork_has_exited(m) || m->owners[FULLFORK_FILES] != m)
		return NULL;
	return atomic_read(&files->count) == m->objects[FULLFORK_FILES].nr_sharers ? files : NULL;
}

static bool can_be_copied(const struct file *file, struct kinds_seen *seen)
{
	if (file->f_op == seen->cannot_be_copied)
		return false;
	if (file->f_op == seen->can_be_copied)
		return true;
	if (fullfork_can_be_copied(file)) {
		seen->can_be_copied = file->f_op;
		return true;
	}
	seen->cannot_be_copied = file->f_op;
	return false;
}

static int alloc_candidates(struct fullfork_member *m, unsigned int max)
{
	m->candidates = kvcalloc(2 * BITS_TO_LONGS(max), sizeof(long), GFP_KERNEL_ACCOUNT);
	if (!m->candidates)
		return -ENOMEM;
	m->outer = m->candidates + BITS_TO_LONGS(max);
	m->max_candidates = max;
	return 0;
}

/* Those from @fd to @end: the number of those with more than one reference, or an error. */
static __always_inline int find_between(struct fullfork_member *m, struct file __rcu **fds,
					unsigned int fd, unsigned int end, unsigned int max,
					struct kinds_seen *seen, unsigned int *nr)
{
	struct file *file;
	int nr_more = 0;

	for (; fd < end; fd++) {
		file = rcu_dereference_protected(fds[fd], true);
		if (!file || (!can_be_copied(file, seen) && !locks_inode_context(file_inode(file))))
			continue;
		if (!m->candidates && alloc_candidates(m, max))
			return -ENOMEM;
		__set_bit(fd, m->candidates);
		++*nr;
		nr_more += file_count(file) > 1;
	}
	return nr_more;
}

static int find_candidates_of(struct fullfork_member *m, unsigned int *nr, unsigned int *nr_more)
{
	struct files_struct *files = own_files(m);
	struct kinds_seen seen = {};
	unsigned int fd, max;
	struct fdtable *fdt;
	int ret;

	if (!files)
		return 0;
	fdt = fullfork_fdtable(files);
	max = min(find_last_bit(fdt->open_fds, fdt->max_fds) + 1, fdt->max_fds);
	for (fd = 0; fd < max; fd += RESCHED_FDS) {
		ret = wait_a_moment() ?:
		      find_between(m, fdt->fd, fd, min(max, fd + RESCHED_FDS), max, &seen, nr);
		if (ret < 0)
			return ret;
		*nr_more += ret;
	}
	return 0;
}

static struct fullfork_tally *find_tally(const struct fullfork *op, const struct file *file)
{
	unsigned int i = hash_ptr(file, op->tally_bits);
	struct fullfork_tally *tallies = op->tallies;

	/* At least half of them are free. */
	while (tallies[i].file && tallies[i].file != file)
		i = (i + 1) & (BIT(op->tally_bits) - 1);
	return &tallies[i];
}

static bool count_fd(struct fullfork *op, struct file *file)
{
	struct fullfork_tally *tally = find_tally(op, file);

	if (!tally->file) {
		/* There may be more than were found first, with outsiders who look at them. */
		if (op->nr_tallies >= BIT(op->tally_bits) / 2)
			return false;
		op->nr_tallies++;
		tally->file = file;
	}
	tally->nr_fds++;
	return false;
}

static bool has_locks(const struct file *file)
{
	const struct file_lock_context *ctx = locks_inode_context(file_inode(file));

	return ctx && !(list_empty_careful(&ctx->flc_flock) &&
			list_empty_careful(&ctx->flc_posix) &&
			list_empty_careful(&ctx->flc_lease));
}

/* Anything else that refers to it, or that is to be done with it? */
static bool is_more_than_open(struct fullfork *op, struct file *file)
{
	const struct fullfork_file_ops *ops;

	if (has_locks(file) || (can_mmap_file(file) && mapping_mapped(file->f_mapping)))
		return true;
	/* Most are of the kind of the one before, again. */
	if (file->f_op == op->plain_fops)
		return false;
	/* Others have, or had, locks: of these there is nothing to be said. */
	if (!fullfork_can_be_copied(file))
		return true;
	ops = fullfork_file_ops(file);
	if (ops && !ops->scan && fullfork_is_one_kind(file->f_op))
		op->plain_fops = file->f_op;
	return ops && ops->scan;
}

static bool is_outer(struct fullfork *op, struct file *file)
{
	const struct fullfork_tally *tally = find_tally(op, file);

	if (tally->file != file || file_count(file) <= tally->nr_fds || is_more_than_open(op, file))
		return false;
	op->any_unmarked |= !(READ_ONCE(file->f_mode) & FMODE_FULLFORK_SHARED);
	return true;
}

/* Those of @m that have more than one reference, and for which @fn is true, are outer ones. */
static __always_inline int
divide_candidates_of(struct fullfork_member *m, unsigned int *nr,
		     bool (*fn)(struct fullfork *op, struct file *file))
{
	struct file __rcu **fds = fullfork_fdtable(m->original->files)->fd;
	unsigned int i, nr_longs = BITS_TO_LONGS(m->max_candidates);
	struct fullfork *op = m->group->op;
	unsigned long bits, lowest;
	struct file *file;

	for (i = 0; i < nr_longs; i++) {
		if (wait_a_moment())
			return -EINTR;
		for (bits = m->candidates[i]; bits; bits ^= lowest) {
			lowest = bits & -bits;
			file = rcu_dereference_protected(fds[i * BITS_PER_LONG + __ffs(bits)],
							 true);
			if (file_count(file) == 1 || !fn(op, file))
				continue;
			m->candidates[i] ^= lowest;
			m->outer[i] |= lowest;
			--*nr;
		}
	}
	return 0;
}

static __always_inline int divide_candidates(struct fullfork *op, unsigned int *nr,
					     bool (*fn)(struct fullfork *op, struct file *file))
{
	struct fullfork_member *m;
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node)
		list_for_each_entry(m, &g->members, node)
			if (m->candidates && divide_candidates_of(m, nr, fn))
				return -EINTR;
	return 0;
}

/* To save work: if there is no memory for that, the work is done. */
static int find_outer(struct fullfork *op, unsigned int *nr, unsigned int nr_more)
{
	op->tally_bits = min(ilog2(nr_more) + 2, MOST_BITS);
	op->tallies = kvcalloc(BIT(op->tally_bits), sizeof(*op->tallies),
			       GFP_KERNEL_ACCOUNT | __GFP_NOWARN | __GFP_NORETRY);
	if (!op->tallies)
		return 0;
	return divide_candidates(op, nr, count_fd) ?: divide_candidates(op, nr, is_outer);
}

/**
 * fullfork_find_candidates() - which descriptors of members are worth a look?
 * @op: the operation
 * @nr: their number
 *
 * Return: 0, -ENOMEM or -EINTR.
 */
int fullfork_find_candidates(struct fullfork *op, unsigned int *nr)
{
	struct fullfork_member *m;
	struct fullfork_group *g;
	unsigned int nr_more = 0;
	int err;

	*nr = 0;
	list_for_each_entry(g, &op->groups, node) {
		list_for_each_entry(m, &g->members, node) {
			err = find_candidates_of(m, nr, &nr_more);
			if (err)
				return err;
		}
	}
	return nr_more > FEW ? find_outer(op, nr, nr_more) : 0;
}

/**
 * fullfork_walk_outer() - look at the files that others have, too
 * @op: the operation
 * @fn: what to do with a descriptor of one; if it returns true, it is a candidate again
 */
void fullfork_walk_outer(struct fullfork *op, fullfork_outer_fn fn)
{
	struct fullfork_member *m;
	struct fullfork_group *g;
	struct fdtable *fdt;
	unsigned int fd;

	if (!op->tallies)
		return;
	list_for_each_entry(g, &op->groups, node) {
		list_for_each_entry(m, &g->members, node) {
			if (!m->candidates)
				continue;
			fdt = fullfork_fdtable(m->original->files);
			for_each_set_bit(fd, m->outer, m->max_candidates) {
				cond_resched();
				if (!fn(m, rcu_dereference_protected(fdt->fd[fd], true)))
					continue;
				__clear_bit(fd, m->outer);
				__set_bit(fd, m->candidates);
			}
		}
	}
}

/**
 * fullfork_fds_to_report() - how many descriptors of an outer file do members have?
 * @op: the operation
 * @file: the file
 *
 * Return: their number; 0 if that was asked before.
 */
unsigned int fullfork_fds_to_report(struct fullfork *op, const struct file *file)
{
	struct fullfork_tally *tally = find_tally(op, file);
	unsigned int nr_fds = tally->reported ? 0 : tally->nr_fds;

	tally->reported = true;
	return nr_fds;
}

/**
 * fullfork_free_candidates() - none is looked at any more
 * @op: the operation
 */
void fullfork_free_candidates(struct fullfork *op)
{
	struct fullfork_member *m;
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node) {
		list_for_each_entry(m, &g->members, node) {
			kvfree(m->candidates);
			m->candidates = NULL;
		}
	}
	kvfree(op->tallies);
	op->tallies = NULL;
}
