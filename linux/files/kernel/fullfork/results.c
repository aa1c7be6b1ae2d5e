// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: write the results to the memory of the caller.
 *
 * All of them or none: the pages are pinned while the call may still fail, and
 * what is written to them then cannot.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/fullfork.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/pagemap.h>
#include <linux/pid.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static bool may_write(const void __user *addr, size_t size)
{
	return !fault_in_safe_writeable(addr, size);
}

/**
 * fullfork_check_results() - can the results be written?
 * @op: the operation
 *
 * Called before anything is quiesced, to have slow page faults while the
 * originals still run; and again when nothing but the caller can unmap what is
 * seen, so that nothing is copied in vain.
 *
 * Return: 0 or -EFAULT.
 */
int fullfork_check_results(struct fullfork *op)
{
	struct kernel_clone_args *kargs = op->kargs;
	size_t size;

	if ((kargs->flags & CLONE_PIDFD) && !may_write(kargs->pidfd, sizeof(int)))
		goto fault;
	if ((kargs->flags & CLONE_PARENT_SETTID) &&
	    !may_write(kargs->parent_tid, sizeof(int)))
		goto fault;
	if (!kargs->tid_map)
		return 0;

	if (check_mul_overflow(kargs->tid_map_size, sizeof(*kargs->tid_map), &size) ||
	    !access_ok(kargs->tid_map, size) || !may_write(kargs->tid_map, size))
		goto fault;
	return 0;
fault:
	return fullfork_fail(op, -EFAULT, FULLFORK_RESULT_ADDRESS, current);
}

static int pin_result(struct fullfork_result *r, const void __user *addr, size_t size)
{
	unsigned long start = (unsigned long)addr & PAGE_MASK, nr;
	int got;

	r->offset = offset_in_page(addr);
	nr = DIV_ROUND_UP(r->offset + size, PAGE_SIZE);
	if (nr > INT_MAX)
		return -EFAULT;
	r->pages = kvmalloc_array(nr, sizeof(*r->pages), GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!r->pages)
		return -ENOMEM;

	/* If only some could be pinned, the next one tells why. */
	while (r->nr_pages < nr) {
		got = pin_user_pages_fast(start + r->nr_pages * PAGE_SIZE, nr - r->nr_pages,
					  FOLL_WRITE, r->pages + r->nr_pages);
		if (got <= 0)
			return got == -ENOMEM || got == -EINTR ? got : -EFAULT;
		r->nr_pages += got;
	}
	return 0;
}

/**
 * fullfork_pin_results() - make sure that the results can be written
 * @op: the operation, with all replicas prepared
 *
 * Return: 0, -EFAULT, -ENOMEM or -EINTR.
 */
int fullfork_pin_results(struct fullfork *op)
{
	struct kernel_clone_args *kargs = op->kargs;
	int err = 0;

	if (kargs->flags & CLONE_PIDFD)
		err = pin_result(&op->results[FULLFORK_RESULT_PIDFD], kargs->pidfd,
				 sizeof(int));
	if (!err && (kargs->flags & CLONE_PARENT_SETTID))
		err = pin_result(&op->results[FULLFORK_RESULT_TID], kargs->parent_tid,
				 sizeof(pid_t));
	if (!err && kargs->tid_map && kargs->tid_map_size)
		err = pin_result(&op->results[FULLFORK_RESULT_MAP], kargs->tid_map,
				 kargs->tid_map_size * sizeof(*kargs->tid_map));
	return err ? fullfork_fail(op, err, FULLFORK_RESULT_ADDRESS, current) : 0;
}

/* Of the pages of @r; at @pos from its start, zeros if there is no @data. */
static void write_result(struct fullfork_result *r, size_t pos, const void *data, size_t size)
{
	size_t part;

	r->written = true;
	for (pos += r->offset; size; pos += part, size -= part) {
		struct page *page = r->pages[pos >> PAGE_SHIFT];

		part = min(size, PAGE_SIZE - offset_in_page(pos));
		if (data) {
			memcpy_to_page(page, offset_in_page(pos), data, part);
			data += part;
		} else {
			memzero_page(page, offset_in_page(pos), part);
		}
	}
}

/* Parents first, and of each process its leader first. */
static void write_tid_map(struct fullfork *op)
{
	struct fullfork_result *r = &op->results[FULLFORK_RESULT_MAP];
	size_t size = op->kargs->tid_map_size * sizeof(struct clone_tid_map), pos = 0;
	struct fullfork_member *m;
	struct fullfork_group *g;

	if (!r->pages)
		return;
	list_for_each_entry(g, &op->groups, node) {
		list_for_each_entry(m, &g->members, node) {
			struct clone_tid_map entry = {
				.original	= task_pid_vnr(m->original),
				.replica	= task_pid_vnr(m->replica),
			};

			write_result(r, pos, &entry, sizeof(entry));
			pos += sizeof(entry);
		}
	}
	write_result(r, pos, NULL, size - pos);
}

/**
 * fullfork_write_results() - tell the caller what was made
 * @op: the operation, with the results pinned
 * @pidfd: of the root's replica, if it was asked for
 * @nr: its PID
 */
void fullfork_write_results(struct fullfork *op, int pidfd, pid_t nr)
{
	u64 flags = op->kargs->flags;

	write_tid_map(op);
	if (flags & CLONE_PIDFD)
		write_result(&op->results[FULLFORK_RESULT_PIDFD], 0, &pidfd, sizeof(pidfd));
	if (flags & CLONE_PARENT_SETTID)
		write_result(&op->results[FULLFORK_RESULT_TID], 0, &nr, sizeof(nr));
}

void fullfork_unpin_results(struct fullfork *op)
{
	for (int i = 0; i < FULLFORK_NR_RESULTS; i++) {
		struct fullfork_result *r = &op->results[i];

		unpin_user_pages_dirty_lock(r->pages, r->nr_pages, r->written);
		kvfree(r->pages);
	}
}
