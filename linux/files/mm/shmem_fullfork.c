// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: copy memfds and shared anonymous memory, page by page, later.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: shared memory
 *
 * With CLONE_ISOLATE shared memory that only members can reach is copied.  The copy
 * is another inode.  When the call returns, few or none of its pages are there: they
 * are *pending*, and taken from the inode of the originals, the *source*, one by one.
 *
 * 1. A page of a copy is *pulled* before anybody looks at it, or looks whether there is
 *    one: a fault, read(), write(), fallocate(), lseek() with SEEK_DATA, userfaultfd.
 * 2. A page of a source is *pushed* to every copy for which it is pending before it
 *    changes: a write fault, write(), truncation, a hole, a pin by
 *    memfd_pin_folios(), UFFDIO_CONTINUE.
 *
 * So a page of the source that is pending somewhere has what it had at the call.  Both
 * are the same step: copy one page and forget that it was pending.
 *
 * What is pending is a bitmap in a *link* from the source to the copy.  It only shrinks.
 * The link holds the inode of the source, whose pages outlive the originals then.  A
 * bit is set for each page that was there at the call, in memory or in swap.  Where
 * there was none, or one that fallocate() reserved, there is none in the copy.  A page is
 * pending in one link of its copy at most, and is never pending in that and present in
 * the copy.
 *
 * A source may have many copies.  A copy that is copied becomes a source, too, of what
 * is present in it; what is still pending there becomes pending in the new copy with the
 * same source: a pull never causes another one, however often copies are copied.
 * When a copy has got more than a few sources, it pulls all before it is copied.
 *
 * Write faults are noticed by ->page_mkwrite(), which mappings of a source have and others
 * do not: at the call, after the link is there, each mm that maps it is locked for
 * writing, its mappings are given other vm_operations, and their page tables are zapped.
 * So is a mapping that is made later.  From then on a page table entry is only writable
 * after a push.  Nobody else can have been writing: faults and get_user_pages() without
 * a pin are over when mmap_lock is had for writing; a page that is pinned makes the
 * object shared; mmap() in progress shows in i_mmap_writable; and system calls hold the
 * lock of the inode, as the caller does meanwhile.  Who cannot be excluded like this,
 * because the lock of the inode is taken or a mapping is of another kind, or locked in
 * memory, makes all pages be copied at once.  So are those of a few pages, of a big file
 * with few pages, and of a tmpfs that user space has mounted, which has limits.
 *
 * Locks, in this order: the lock of the folio of the source, by which there is one push or
 * pull of a page at a time; shmem_fullfork.copies_lock of the source, for the list of its
 * copies; shmem_fullfork.pending_lock of the copy; the lock of the folio of the copy.  A
 * push or a pull holds pending_lock for reading, from before it looks at the bit until
 * the page is there and the bit is clear.  Who holds it for writing sees every page either
 * pending or present: stat(), which counts both; truncation of a copy, which forgets what
 * is pending, so that nothing comes back after that; and who copies a copy.  He puts new
 * links behind older ones in the list of the source, and then copies their bits with the
 * lock of the copy held: a push to all copies gets to the older one first, waits there,
 * and finds the bits of the newer one.
 *
 * A pull that fails is a fault that fails: out of memory, or SIGBUS.  A push that fails
 * lets the write fail, as if a private page could not be copied.  Pages that are
 * pulled are charged to the one who does so; those that are pushed to the cgroup of the
 * member for which the copy was made.  A page that is poisoned is not copied: access
 * to it in the copy fails, and as long as there is the copy it cannot be removed from
 * the source.  When there is nobody any more who has the source, its small pages are
 * freed when they are pulled for the last time.
 *
 * Huge pages are not made in a copy as long as something is pending there.  A clean page
 * of zeroes may vanish from the source under memory pressure: where nothing is found,
 * the copy has a hole.
 */

#include <linux/bitmap.h>
#include <linux/blk_types.h>
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fsnotify.h>
#include <linux/fullfork_isolate.h>
#include <linux/highmem.h>
#include <linux/kref.h>
#include <linux/memcontrol.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/rcupdate_wait.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/security.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/userfaultfd_k.h>
#include <linux/workqueue.h>

#include "internal.h"
#include "shmem_fullfork.h"

/* Fewer pages are copied at once: that costs less than to notice writes to them. */
#define LEAST_PAGES 16

/* So many bits for each page that is there, at most */
#define MOST_BITS_PER_PAGE 512

/* When a copy with more sources is copied, it pulls what is pending before. */
#define MOST_SOURCES 8

/**
 * struct shmem_fullfork - what an inode has to do with full forks
 * @ref: one of the inode, one of each link to it
 * @copies_lock: of @copies
 * @copies: links, by &shmem_link.in_source, to copies of this one; older ones first
 * @pending_lock: of @sources, and of what is pending in these
 * @sources: links, by &shmem_link.in_copy, to what this one is a copy of
 * @nr_pending: bits in these
 * @nr_held: references to the inode that @copies have; protected by i_lock
 * @is_source: mappings have shmem_fullfork_vm_ops; never reset
 * @memcg: to whom it is charged what is pushed here, or NULL
 */
struct shmem_fullfork {
	struct kref		ref;
	struct rw_semaphore	copies_lock;
	struct list_head	copies;
	struct rw_semaphore	pending_lock;
	struct list_head	sources;
	atomic_long_t		nr_pending;
	unsigned int		nr_held;
	bool			is_source;
	struct mem_cgroup	*memcg;
};

/**
 * struct shmem_link - what is pending in a copy, and comes from one source
 * @ref: one for each list that it is in, and of those who use it
 * @source: from where, held
 * @copy: to where, not held; valid as long as the link is in a list
 * @from: what @source has to do with full forks
 * @to: what @copy has, held
 * @in_source: in &shmem_fullfork.copies of @source
 * @in_copy: in &shmem_fullfork.sources of @copy
 * @work: lets go of @source
 * @nr: number of pages that are pending, and one as long as more may be added
 * @end: index after the last page that can be
 * @pending: bitmap
 */
struct shmem_link {
	struct kref		ref;
	struct inode		*source;
	struct inode		*copy;
	struct shmem_fullfork	*from;
	struct shmem_fullfork	*to;
	struct list_head	in_source;
	struct list_head	in_copy;
	struct work_struct	work;
	atomic_long_t		nr;
	pgoff_t			end;
	unsigned long		*pending;
};

/* What mappings have that are not of a source */
static const struct vm_operations_struct *plain_vm_ops __ro_after_init;

static struct shmem_fullfork *get_fullfork(struct inode *inode)
{
	return READ_ONCE(SHMEM_I(inode)->fullfork);
}

static void free_fullfork(struct kref *ref)
{
	struct shmem_fullfork *ff = container_of(ref, struct shmem_fullfork, ref);

	mem_cgroup_put(ff->memcg);
	kfree(ff);
}

/* For which nobody else does this: of a copy that is new, or locked. */
static int alloc_fullfork(struct inode *inode)
{
	struct shmem_fullfork *ff;

	if (get_fullfork(inode))
		return 0;
	ff = kzalloc_obj(*ff, GFP_KERNEL_ACCOUNT);
	if (!ff)
		return -ENOMEM;
	kref_init(&ff->ref);
	init_rwsem(&ff->copies_lock);
	INIT_LIST_HEAD(&ff->copies);
	init_rwsem(&ff->pending_lock);
	INIT_LIST_HEAD(&ff->sources);
	/* The one of the member for whom this is done. */
	ff->memcg = get_mem_cgroup_from_mm(NULL);
	/* Pairs with READ_ONCE() in get_fullfork() */
	smp_store_release(&SHMEM_I(inode)->fullfork, ff);
	return 0;
}

static void put_source(struct work_struct *work)
{
	struct shmem_link *link = container_of(work, struct shmem_link, work);

	iput(link->source);
	kfree(link);
}

static void free_link(struct kref *ref)
{
	struct shmem_link *link = container_of(ref, struct shmem_link, ref);
	struct inode *source = link->source;
	bool last;

	kvfree(link->pending);
	kref_put(&link->to->ref, free_fullfork);
	/* Both counts at once, for shmem_fullfork_object(). */
	scoped_guard(spinlock, &source->i_lock) {
		link->from->nr_held--;
		last = !atomic_add_unless(&source->i_count, -1, 1);
	}
	if (!last) {
		kfree(link);
		return;
	}
	/* Not here: that source may have been a copy itself, and so on. */
	INIT_WORK(&link->work, put_source);
	queue_work(system_dfl_wq, &link->work);
}

static void put_link(struct shmem_link *link)
{
	kref_put(&link->ref, free_link);
}

/* A link without pending pages; adding some is over with finish_link(). */
static struct shmem_link *add_link(struct inode *source, struct inode *copy, pgoff_t end)
{
	struct shmem_link *link;

	if (WARN_ON_ONCE(!end))
		return NULL;
	link = kzalloc_obj(*link, GFP_KERNEL_ACCOUNT);
	if (!link)
		return NULL;
	link->pending = kvcalloc(BITS_TO_LONGS(end), sizeof(long), GFP_KERNEL_ACCOUNT);
	if (!link->pending) {
		kfree(link);
		return NULL;
	}
	/* Of the caller, and of the lists */
	kref_init(&link->ref);
	kref_get(&link->ref);
	kref_get(&link->ref);
	atomic_long_set(&link->nr, 1);
	link->end = end;
	link->source = source;
	link->copy = copy;
	link->from = get_fullfork(source);
	link->to = get_fullfork(copy);
	kref_get(&link->to->ref);
	scoped_guard(spinlock, &source->i_lock) {
		ihold(source);
		link->from->nr_held++;
	}
	scoped_guard(rwsem_write, &link->from->copies_lock)
		list_add_tail(&link->in_source, &link->from->copies);
	scoped_guard(rwsem_write, &link->to->pending_lock)
		list_add_tail(&link->in_copy, &link->to->sources);
	return link;
}

/* After that, nobody pushes by it, or pulls who had not begun. */
static void unlink_link(struct shmem_link *link)
{
	bool was_in_source, was_in_copy;

	scoped_guard(rwsem_write, &link->from->copies_lock) {
		was_in_source = !list_empty(&link->in_source);
		list_del_init(&link->in_source);
	}
	scoped_guard(rwsem_write, &link->to->pending_lock) {
		was_in_copy = !list_empty(&link->in_copy);
		list_del_init(&link->in_copy);
	}
	if (was_in_source)
		put_link(link);
	if (was_in_copy)
		put_link(link);
}

static void put_used_link(struct shmem_link *link)
{
	if (!atomic_long_read(&link->nr))
		unlink_link(link);
	put_link(link);
}

static void finish_link(struct shmem_link *link)
{
	atomic_long_dec(&link->nr);
	put_used_link(link);
}

static bool is_pending(const struct shmem_link *link, pgoff_t index)
{
	return index < link->end && test_bit(index, link->pending);
}

/* With pending_lock, and unless that is held for writing the lock of the folio */
static void clear_pending(struct shmem_link *link, pgoff_t index)
{
	if (!test_and_clear_bit(index, link->pending))
		return;
	atomic_long_dec(&link->nr);
	/* Who sees none pending, in __shmem_fullfork_pending(), sees the page. */
	smp_mb__before_atomic();
	atomic_long_dec(&link->to->nr_pending);
}

/* From @index on, up to @last; larger than that if there is none. */
static pgoff_t next_pending(const struct shmem_link *link, pgoff_t index, pgoff_t last)
{
	pgoff_t end = last < link->end ? last + 1 : link->end;
	pgoff_t next;

	if (index >= end)
		return ULONG_MAX;
	/* Bits of other pages may be cleared meanwhile. */
	next = data_race(find_next_bit(link->pending, end, index));
	return next < end ? next : ULONG_MAX;
}

static pgoff_t next_in_copies(struct shmem_fullfork *ff, pgoff_t index, pgoff_t last)
{
	struct shmem_link *link;
	pgoff_t next = ULONG_MAX;

	guard(rwsem_read)(&ff->copies_lock);
	list_for_each_entry(link, &ff->copies, in_source) {
		next = min(next, next_pending(link, index, last));
		/* What an older one has no more, a newer one has, see divide_pending(). */
		smp_rmb();
	}
	return next;
}

static pgoff_t next_in_sources(struct shmem_fullfork *ff, pgoff_t index)
{
	struct shmem_link *link;
	pgoff_t next = ULONG_MAX;

	guard(rwsem_read)(&ff->pending_lock);
	list_for_each_entry(link, &ff->sources, in_copy)
		next = min(next, next_pending(link, index, ULONG_MAX - 1));
	return next;
}

static struct shmem_link *get_done_copy(struct shmem_fullfork *ff)
{
	struct shmem_link *link;

	guard(rwsem_read)(&ff->copies_lock);
	list_for_each_entry(link, &ff->copies, in_source) {
		if (!atomic_long_read(&link->nr)) {
			kref_get(&link->ref);
			return link;
		}
	}
	return NULL;
}

static struct shmem_link *get_done_source(struct shmem_fullfork *ff)
{
	struct shmem_link *link;

	guard(rwsem_read)(&ff->pending_lock);
	list_for_each_entry(link, &ff->sources, in_copy) {
		if (!atomic_long_read(&link->nr)) {
			kref_get(&link->ref);
			return link;
		}
	}
	return NULL;
}

static struct shmem_link *get_link_with(struct shmem_fullfork *ff, pgoff_t index)
{
	struct shmem_link *link;

	guard(rwsem_read)(&ff->pending_lock);
	list_for_each_entry(link, &ff->sources, in_copy) {
		if (is_pending(link, index)) {
			kref_get(&link->ref);
			return link;
		}
	}
	return NULL;
}

static int copy_highpage_mc(struct page *to, struct page *from)
{
	return PageHWPoison(from) || copy_mc_highpage(to, from) ? -EIO : 0;
}

/* SGP_WRITE: it is not pulled, and not cleared. */
static int copy_to(struct inode *copy, pgoff_t index, struct page *from)
{
	unsigned int flags = memalloc_nofs_save();
	struct folio *to;
	int err;

	/* Reclaim may drop the last reference to another copy, and want copies_lock. */
	err = shmem_get_folio(copy, index, 0, &to, SGP_WRITE);
	memalloc_nofs_restore(flags);
	if (err)
		return err;
	/* Somebody may have found a hole in the source just before that was filled. */
	if (!folio_test_uptodate(to)) {
		err = copy_highpage_mc(folio_file_page(to, index), from);
		if (err) {
			truncate_inode_folio(copy->i_mapping, to);
		} else {
			flush_dcache_folio(to);
			folio_mark_uptodate(to);
			folio_mark_dirty(to);
		}
	}
	folio_unlock(to);
	folio_put(to);
	return err;
}

/* @folio is that of the source, locked; or NULL, there is none. */
static int transfer(struct shmem_link *link, struct folio *folio, pgoff_t index)
{
	int err = 0;

	guard(rwsem_read)(&link->to->pending_lock);
	if (!is_pending(link, index))
		return 0;
	if (folio && folio_test_uptodate(folio))
		err = copy_to(link->copy, index, folio_file_page(folio, index));
	if (!err)
		clear_pending(link, index);
	return err;
}

/* What is in the source, locked, or NULL.  What is pending in a copy is within its size. */
static int get_source_folio(struct inode *source, pgoff_t index, struct folio **folio)
{
	int err = shmem_get_folio(source, index, 0, folio, SGP_READ);

	if (err == -EINVAL && index >= DIV_ROUND_UP(i_size_read(source), PAGE_SIZE)) {
		*folio = NULL;
		return 0;
	}
	return err;
}

/* Is there nobody who could look at it, but copies that have it already? */
static bool is_of_no_use(struct inode *source, pgoff_t index)
{
	struct shmem_fullfork *ff = get_fullfork(source);

	scoped_guard(spinlock, &source->i_lock)
		if (icount_read(source) != ff->nr_held)
			return false;
	return next_in_copies(ff, index, index) != index;
}

static int pull_by(struct shmem_link *link, pgoff_t index)
{
	struct inode *source = link->source;
	struct folio *folio;
	int err;

	err = get_source_folio(source, index, &folio);
	if (err)
		return err;
	err = transfer(link, folio, index);
	if (folio) {
		if (!err && !folio_test_large(folio) && is_of_no_use(source, index))
			truncate_inode_folio(source->i_mapping, folio);
		folio_unlock(folio);
		folio_put(folio);
	}
	return err;
}

/**
 * __shmem_fullfork_pull() - let a page be there that is pending
 * @inode: maybe a copy
 * @index: of the page
 *
 * Context: may sleep; without the lock of any folio of @inode.
 *
 * Return: 0, then it is not pending; or an error of getting memory or reading swap, -EIO.
 */
int __shmem_fullfork_pull(struct inode *inode, pgoff_t index)
{
	struct shmem_link *link;
	int err;

	if (!__shmem_fullfork_pending(inode))
		return 0;
	link = get_link_with(get_fullfork(inode), index);
	if (!link)
		return 0;
	err = pull_by(link, index);
	/* Whoever pushed it meanwhile did better; the source may have shrunk and grown. */
	if (err && !is_pending(link, index))
		err = 0;
	put_used_link(link);
	return err;
}

/**
 * __shmem_fullfork_pull_all() - let all pages be there that are pending
 * @inode: maybe a copy
 *
 * Return: as __shmem_fullfork_pull(), or -EINTR.
 */
int __shmem_fullfork_pull_all(struct inode *inode)
{
	struct shmem_fullfork *ff = get_fullfork(inode);
	pgoff_t index = 0;
	int err;

	while ((index = next_in_sources(ff, index)) != ULONG_MAX) {
		if (fatal_signal_pending(current))
			return -EINTR;
		err = __shmem_fullfork_pull(inode, index++);
		if (err)
			return err;
		cond_resched();
	}
	return 0;
}

static int push_by(struct shmem_link *link, struct folio *folio, pgoff_t index, pgoff_t last)
{
	struct mem_cgroup *old = set_active_memcg(link->to->memcg);
	int err = 0;

	while (!err && (index = next_pending(link, index, last)) != ULONG_MAX) {
		err = transfer(link, folio, index++);
		cond_resched();
		/* Who exits still has to write to robust lists. */
		if (fatal_signal_pending(current) && !(current->flags & PF_EXITING))
			err = err ?: -EINTR;
	}
	set_active_memcg(old);
	return err;
}

/**
 * __shmem_fullfork_push() - copy pages to wherever they are pending
 * @inode: maybe a source
 * @folio: of it, locked; NULL if there is none
 * @index: of the first page, which is in it
 * @nr: number of pages that may change; those that are not in it are left out
 *
 * Return: 0, then they are not pending; or an error of getting memory, -EIO.
 */
int __shmem_fullfork_push(struct inode *inode, struct folio *folio, pgoff_t index,
			  unsigned long nr)
{
	struct shmem_fullfork *ff = get_fullfork(inode);
	pgoff_t last = index + nr - 1;
	struct shmem_link *link;
	int err = 0;

	if (list_empty_careful(&ff->copies))
		return 0;
	last = min(last, folio ? folio_next_index(folio) - 1 : index);
	scoped_guard(rwsem_read, &ff->copies_lock) {
		list_for_each_entry(link, &ff->copies, in_source) {
			err = push_by(link, folio, index, last);
			if (err)
				break;
			/* As in next_in_copies() */
			smp_rmb();
		}
	}
	while ((link = get_done_copy(ff)))
		put_used_link(link);
	return err;
}

static int push_range(struct inode *inode, pgoff_t index, pgoff_t last)
{
	struct shmem_fullfork *ff = get_fullfork(inode);
	struct folio *folio;
	int err;

	while ((index = next_in_copies(ff, index, last)) != ULONG_MAX) {
		if (fatal_signal_pending(current))
			return -EINTR;
		err = get_source_folio(inode, index, &folio);
		if (err)
			return err;
		err = __shmem_fullfork_push(inode, folio, index, 1);
		if (folio) {
			folio_unlock(folio);
			folio_put(folio);
		}
		if (err)
			return err;
		index++;
		cond_resched();
	}
	return 0;
}

/* Nothing will be pulled there, or be pushed, up to before @end. */
static void forget_range(struct shmem_fullfork *ff, pgoff_t index, pgoff_t end)
{
	struct shmem_link *link;
	pgoff_t i;

	scoped_guard(rwsem_write, &ff->pending_lock) {
		list_for_each_entry(link, &ff->sources, in_copy)
			for (i = index; i < end; i++) {
				i = next_pending(link, i, end - 1);
				if (i == ULONG_MAX)
					break;
				clear_pending(link, i);
				cond_resched();
			}
	}
	while ((link = get_done_source(ff)))
		put_used_link(link);
}

/**
 * __shmem_fullfork_truncate() - what is in a range will be removed
 * @inode: a source, a copy or both, locked
 * @lstart: first byte
 * @lend: last byte
 *
 * Pages that are removed in part have to be there.
 *
 * Return: 0; -EINTR; or as for a push or a pull, and nothing may be removed.
 */
int __shmem_fullfork_truncate(struct inode *inode, loff_t lstart, u64 lend)
{
	u64 start = DIV_ROUND_UP_ULL(lstart, PAGE_SIZE), end = (lend + 1) >> PAGE_SHIFT;
	int err;

	err = push_range(inode, lstart >> PAGE_SHIFT, lend >> PAGE_SHIFT);
	if (!err && !PAGE_ALIGNED(lstart))
		err = __shmem_fullfork_pull(inode, lstart >> PAGE_SHIFT);
	if (!err && !PAGE_ALIGNED(lend + 1))
		err = __shmem_fullfork_pull(inode, end);
	if (!err && start < end)
		forget_range(get_fullfork(inode), start, end);
	return err;
}

/**
 * shmem_fullfork_pinned() - pages were pinned that may be written to without a fault
 * @file: they are of it
 * @start: first byte
 * @end: last byte
 *
 * Return: as for a push.
 */
int shmem_fullfork_pinned(struct file *file, loff_t start, loff_t end)
{
	struct inode *inode = file_inode(file);

	if (!shmem_file(file))
		return 0;
	/* Pairs with that in has_pinned_pages(): one of both sees the other. */
	smp_mb();
	if (!shmem_in_fullfork(inode))
		return 0;
	return push_range(inode, start >> PAGE_SHIFT, end >> PAGE_SHIFT);
}

/**
 * __shmem_fullfork_pending() - how many pages are pending
 * @inode: maybe a copy
 *
 * Return: their number, which only gets smaller.
 */
unsigned long __shmem_fullfork_pending(struct inode *inode)
{
	return atomic_long_read_acquire(&get_fullfork(inode)->nr_pending);
}

/**
 * __shmem_fullfork_blocks() - how many blocks there are when nothing is pending
 * @inode: maybe a copy
 *
 * Return: what i_blocks will be then, with no page counted twice, or not at all.
 */
blkcnt_t __shmem_fullfork_blocks(struct inode *inode)
{
	struct shmem_fullfork *ff = get_fullfork(inode);

	guard(rwsem_write)(&ff->pending_lock);
	return inode->i_blocks + __shmem_fullfork_pending(inode) * PAGE_SECTORS;
}

/**
 * __shmem_fullfork_is_source() - do mappings have shmem_fullfork_vm_ops?
 * @inode: maybe a source
 *
 * Return: true if they do.
 */
bool __shmem_fullfork_is_source(struct inode *inode)
{
	return READ_ONCE(get_fullfork(inode)->is_source);
}

/* Of a copy that nobody else has yet, or any more */
static void unlink_sources(struct shmem_fullfork *ff)
{
	struct shmem_link *link;

	for (;;) {
		scoped_guard(rwsem_read, &ff->pending_lock) {
			link = list_first_entry_or_null(&ff->sources, struct shmem_link, in_copy);
			if (link)
				kref_get(&link->ref);
		}
		if (!link)
			break;
		unlink_link(link);
		put_link(link);
	}
	atomic_long_set(&ff->nr_pending, 0);
}

/**
 * __shmem_fullfork_evict() - the inode goes away
 * @inode: was a source, a copy or both
 */
void __shmem_fullfork_evict(struct inode *inode)
{
	struct shmem_fullfork *ff = get_fullfork(inode);

	unlink_sources(ff);
	WARN_ON_ONCE(!list_empty(&ff->copies));
	SHMEM_I(inode)->fullfork = NULL;
	kref_put(&ff->ref, free_fullfork);
}

/**
 * shmem_fullfork_mkwrite() - a page of a source gets writable
 * @vmf: the fault
 *
 * Return: VM_FAULT_LOCKED; VM_FAULT_NOPAGE to try again; or an error.
 */
vm_fault_t shmem_fullfork_mkwrite(struct vm_fault *vmf)
{
	struct file *file = vmf->vma->vm_file;
	struct folio *folio = page_folio(vmf->page);
	struct inode *inode = file_inode(file);
	int err;

	/* As is done by fault_dirty_shared_page() for those that do not ask */
	file_update_time(file);
	folio_lock(folio);
	if (folio->mapping != inode->i_mapping) {
		folio_unlock(folio);
		return VM_FAULT_NOPAGE;
	}
	/* All of it may be mapped writable. */
	err = __shmem_fullfork_push(inode, folio, folio->index, folio_nr_pages(folio));
	if (err) {
		folio_unlock(folio);
		return vmf_error(err);
	}
	return VM_FAULT_LOCKED;
}

/* ---- at the call */

/* Only what is in no directory: it was never, as a memfd, or is not any more. */
static const void *shmem_fullfork_object(struct file *file, unsigned int *nr_files)
{
	struct inode *inode = file_inode(file);
	struct shmem_inode_info *info = SHMEM_I(inode);

	if (!S_ISREG(inode->i_mode) || fullfork_may_have_name(inode) ||
	    is_idmapped_mnt(file->f_path.mnt) ||
	    (info->flags & (SHMEM_F_LOCKED | SHMEM_F_MAPPING_FROZEN)) ||
	    !list_empty(&info->xattrs))
		return NULL;
	/* All that can open it once more comes by the dentry.  Copies do not. */
	guard(spinlock)(&inode->i_lock);
	*nr_files = d_count(file->f_path.dentry) + icount_read_once(inode) - 1;
	if (info->fullfork)
		*nr_files -= info->fullfork->nr_held;
	return inode;
}

/* Of a small one, this is told by its references, of which each mapping has one. */
static bool shmem_is_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio) &&
	       (folio_test_large(folio) ||
		folio_ref_count(folio) - folio_mapcount(folio) >= GUP_PIN_COUNTING_BIAS);
}

static int copy_page_now(struct inode *inode, struct inode *copy, pgoff_t index)
{
	struct folio *folio, *to;
	int err;

	err = shmem_get_folio(inode, index, 0, &folio, SGP_READ);
	if (err || !folio)
		return err;
	/* Who could write to it is quiesced.  The reference keeps what is in it. */
	folio_unlock(folio);
	/* Unless a device, or a DMA buffer, has it. */
	if (shmem_is_pinned(folio)) {
		folio_put(folio);
		return -EBUSY;
	}
	err = shmem_get_folio(copy, index, 0, &to, SGP_CACHE);
	if (!err) {
		err = copy_highpage_mc(folio_file_page(to, index),
				       folio_file_page(folio, index));
		folio_mark_dirty(to);
		folio_unlock(to);
		folio_put(to);
	}
	folio_put(folio);
	return err;
}

static int copy_pages_now(struct inode *inode, struct inode *copy)
{
	pgoff_t index = 0, end = DIV_ROUND_UP(i_size_read(inode), PAGE_SIZE);
	int err;

	if (!end)
		return 0;
	err = shmem_fullfork_pull_all(inode);
	if (err)
		return err;
	while (xa_find(&inode->i_mapping->i_pages, &index, end - 1, XA_PRESENT)) {
		if (fatal_signal_pending(current))
			return -EINTR;
		err = copy_page_now(inode, copy, index);
		if (err)
			return err;
		index++;
		cond_resched();
	}
	return 0;
}

static bool is_worth_deferring(struct inode *inode)
{
	pgoff_t end = DIV_ROUND_UP(i_size_read(inode), PAGE_SIZE);
	unsigned long nr;

	/* Without limits of its own, and never unmounted */
	if (!(inode->i_sb->s_flags & SB_KERNMOUNT))
		return false;
	nr = READ_ONCE(inode->i_mapping->nrpages) + READ_ONCE(SHMEM_I(inode)->swapped) +
	     shmem_fullfork_pending(inode);
	return end && nr >= LEAST_PAGES && end / MOST_BITS_PER_PAGE <= nr && end <= INT_MAX;
}

/* Entries may have been split or joined while they were looked at. */
static void count_pending(struct shmem_link *link)
{
	unsigned long nr = bitmap_weight(link->pending, link->end);

	atomic_long_add(nr, &link->nr);
	atomic_long_add(nr, &link->to->nr_pending);
}

/* A folio that was found without a lock: is it there still?  Then it is held. */
static bool get_found_folio(struct xa_state *xas, struct folio *folio)
{
	if (!folio_try_get(folio))
		return false;
	if (xas_reload(xas) == folio)
		return true;
	folio_put(folio);
	return false;
}

/* All that is there, in memory or in swap, but for what is only reserved. */
static void set_pending(struct shmem_link *link)
{
	XA_STATE(xas, &link->source->i_mapping->i_pages, 0);
	unsigned long nr;
	bool uptodate;
	pgoff_t index;
	void *entry;

	guard(rcu)();
	xas_for_each(&xas, entry, link->end - 1) {
		if (xas_retry(&xas, entry))
			continue;
		nr = 1UL << xas_get_order(&xas);
		index = round_down(xas.xa_index, nr);
		if (!xa_is_value(entry)) {
			if (!get_found_folio(&xas, entry)) {
				xas_reset(&xas);
				continue;
			}
			uptodate = folio_test_uptodate(entry);
			folio_put(entry);
			if (!uptodate)
				continue;
		}
		bitmap_set(link->pending, index, min(nr, link->end - index));
		if (need_resched()) {
			xas_pause(&xas);
			cond_resched_rcu();
		}
	}
}

/* Those in memory, of which page tables do not tell */
static bool has_pinned_pages(struct inode *inode)
{
	XA_STATE(xas, &inode->i_mapping->i_pages, 0);
	bool pinned;
	void *entry;

	/* Pairs with that in shmem_fullfork_pinned(): links were made before. */
	smp_mb();
	guard(rcu)();
	xas_for_each(&xas, entry, ULONG_MAX) {
		if (xas_retry(&xas, entry) || xa_is_value(entry))
			continue;
		if (!get_found_folio(&xas, entry)) {
			xas_reset(&xas);
			continue;
		}
		pinned = shmem_is_pinned(entry);
		folio_put(entry);
		if (pinned)
			return true;
		if (need_resched()) {
			xas_pause(&xas);
			cond_resched_rcu();
		}
	}
	return false;
}

/* Links from which something is pending in an inode: their number */
static unsigned int get_sources(struct shmem_fullfork *ff, struct shmem_link **links)
{
	struct shmem_link *link;
	unsigned int nr = 0;

	guard(rwsem_read)(&ff->pending_lock);
	list_for_each_entry(link, &ff->sources, in_copy) {
		if (nr == MOST_SOURCES)
			break;
		kref_get(&link->ref);
		links[nr++] = link;
	}
	return nr;
}

static bool has_many_sources(struct shmem_fullfork *ff)
{
	guard(rwsem_read)(&ff->pending_lock);
	return list_count_nodes(&ff->sources) > MOST_SOURCES;
}

static void divide_pending(struct shmem_link *own, struct shmem_link **news,
			   struct shmem_link **olds, unsigned int nr)
{
	unsigned int i;

	/* Nothing is pulled by who is copied, and no push is counted before the bits are. */
	down_write(&own->from->pending_lock);
	down_write_nested(&own->to->pending_lock, SINGLE_DEPTH_NESTING);
	for (i = 0; i < nr; i++) {
		bitmap_copy(news[i]->pending, olds[i]->pending, olds[i]->end);
		count_pending(news[i]);
	}
	set_pending(own);
	count_pending(own);
	up_write(&own->to->pending_lock);
	up_write(&own->from->pending_lock);
}

/* What is present in @own's source gets pending by @own; what is pending, by others. */
static int inherit_pending(struct shmem_link *own)
{
	struct shmem_link *olds[MOST_SOURCES], *news[MOST_SOURCES];
	unsigned int i, nr, nr_new;
	int err = 0;

	nr = get_sources(own->from, olds);
	for (nr_new = 0; nr_new < nr; nr_new++) {
		news[nr_new] = add_link(olds[nr_new]->source, own->copy, olds[nr_new]->end);
		if (!news[nr_new]) {
			err = -ENOMEM;
			break;
		}
	}
	if (!err)
		divide_pending(own, news, olds, nr);
	for (i = 0; i < nr_new; i++)
		finish_link(news[i]);
	for (i = 0; i < nr; i++)
		put_link(olds[i]);
	return err;
}

static int make_pending(struct inode *inode, struct inode *copy)
{
	struct shmem_link *own;
	int err;

	err = alloc_fullfork(inode) ?: alloc_fullfork(copy);
	if (!err && has_many_sources(get_fullfork(inode)))
		err = __shmem_fullfork_pull_all(inode);
	if (err)
		return err;
	own = add_link(inode, copy, DIV_ROUND_UP(i_size_read(inode), PAGE_SIZE));
	if (!own)
		return -ENOMEM;
	err = inherit_pending(own);
	finish_link(own);
	return err;
}

/* Those who have a mapping by which they can write */
struct writers {
	struct mm_struct	**mms;
	unsigned int		nr;
	unsigned int		max;
};

static bool is_writer(const struct writers *w, const struct mm_struct *mm)
{
	unsigned int i;

	for (i = 0; i < w->nr; i++)
		if (w->mms[i] == mm)
			return true;
	return false;
}

static void put_writers(struct writers *w)
{
	while (w->nr)
		mmput_async(w->mms[--w->nr]);
	kvfree(w->mms);
}

/* Return: 0; or, as from the next two, an error or 1 if writes may go unnoticed. */
static int get_writers(struct address_space *mapping, struct writers *w)
{
	struct vm_area_struct *vma;
	int err = 0;

	w->max = max(atomic_read(&mapping->i_mmap_writable), 0) + 1;
	w->mms = kvmalloc_array(w->max, sizeof(*w->mms), GFP_KERNEL_ACCOUNT);
	if (!w->mms)
		return -ENOMEM;
	i_mmap_lock_read(mapping);
	mapping_rmap_tree_foreach(vma, mapping, 0, ULONG_MAX) {
		cond_resched();
		/* Who has no users any more does not write. */
		if (!vma_is_shared_maywrite(vma) || is_writer(w, vma->vm_mm) ||
		    !mmget_not_zero(vma->vm_mm))
			continue;
		w->mms[w->nr++] = vma->vm_mm;
		if (w->nr == w->max) {
			err = 1;
			break;
		}
	}
	i_mmap_unlock_read(mapping);
	return err;
}

/*
 * Its pages would have to be there, and locked, again at once if it is locked; and
 * userfaultfd would be told of those that it had given.
 */
static int notice_writes_in_vma(struct vm_area_struct *vma)
{
	if ((vma->vm_flags & VM_LOCKED_MASK) || userfaultfd_armed(vma) ||
	    (vma->vm_ops != plain_vm_ops && vma->vm_ops != &shmem_fullfork_vm_ops))
		return 1;
	if (vma_start_write_killable(vma))
		return -EINTR;
	vma->vm_ops = &shmem_fullfork_vm_ops;
	vma_set_page_prot(vma);
	/* Clean entries that are not writable would do; dirty ones would not. */
	zap_vma(vma);
	return 0;
}

static int notice_writes_in_mm(struct mm_struct *mm, struct address_space *mapping)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;
	int err = 0;

	if (mmap_write_lock_killable(mm))
		return -EINTR;
	for_each_vma(vmi, vma) {
		if (!vma->vm_file || vma->vm_file->f_mapping != mapping ||
		    !vma_is_shared_maywrite(vma))
			continue;
		err = notice_writes_in_vma(vma);
		if (err)
			break;
	}
	mmap_write_unlock(mm);
	return err;
}

/* Was there another mapping meanwhile, or is one being made? */
static bool has_other_writers(struct address_space *mapping, const struct writers *w)
{
	struct vm_area_struct *vma;
	bool others = false;
	int nr = 0;

	i_mmap_lock_read(mapping);
	mapping_rmap_tree_foreach(vma, mapping, 0, ULONG_MAX) {
		cond_resched();
		if (!vma_is_shared_maywrite(vma))
			continue;
		nr++;
		others |= atomic_read(&vma->vm_mm->mm_users) &&
			  (vma->vm_ops != &shmem_fullfork_vm_ops || !is_writer(w, vma->vm_mm));
	}
	/* After it is counted there, mmap() looks whether this is a source.  Less than 0: sealed */
	others |= max(atomic_read(&mapping->i_mmap_writable), 0) != nr;
	i_mmap_unlock_read(mapping);
	return others;
}

static int notice_writes(struct inode *inode)
{
	struct address_space *mapping = inode->i_mapping;
	struct writers w = {};
	unsigned int i;
	int err;

	WRITE_ONCE(get_fullfork(inode)->is_source, true);
	/* Pairs with the increment in mapping_map_writable(). */
	smp_mb();
	err = get_writers(mapping, &w);
	for (i = 0; !err && i < w.nr; i++)
		err = notice_writes_in_mm(w.mms[i], mapping);
	if (!err && has_other_writers(mapping, &w))
		err = 1;
	put_writers(&w);
	return err;
}

/* Return: 0; an error, -EBUSY if it has to be shared; 1 if it is to be copied at once. */
static int defer_copy(struct inode *inode, struct inode *copy)
{
	int err;

	if (!inode_trylock(inode))
		return 1;
	/* Its size is not changed any more by those who found it from outside. */
	if (i_size_read(inode) != i_size_read(copy) || !is_worth_deferring(inode)) {
		inode_unlock(inode);
		return 1;
	}
	err = make_pending(inode, copy) ?: notice_writes(inode);
	if (!err && has_pinned_pages(inode))
		err = -EBUSY;
	inode_unlock(inode);
	if (err && get_fullfork(copy))
		unlink_sources(get_fullfork(copy));
	return err;
}

static int copy_contents(struct inode *inode, struct inode *copy, bool now)
{
	int err = now ? 1 : defer_copy(inode, copy);

	return err > 0 ? copy_pages_now(inode, copy) : err;
}

/* As it was made: memory that is mapped only is private to the kernel. */
static struct file *create_copy(struct file *file)
{
	const char *name = file->f_path.dentry->d_name.name;
	struct inode *inode = file_inode(file);
	vma_flags_t flags = SHMEM_I(inode)->flags & SHMEM_F_NORESERVE ?
			    mk_vma_flags(VMA_NORESERVE_BIT) : EMPTY_VMA_FLAGS;

	if (inode->i_flags & S_PRIVATE)
		return shmem_kernel_file_setup(name, i_size_read(inode), flags);
	return shmem_file_setup_with_mnt(file->f_path.mnt, name, i_size_read(inode), flags);
}

static struct file *shmem_copy_inode(struct file *file, bool now)
{
	struct inode *inode = file_inode(file), *to;
	struct file *copy = create_copy(file);
	int err = 0;

	if (IS_ERR(copy))
		return copy;
	to = file_inode(copy);
	to->i_mode = inode->i_mode;
	to->i_uid = inode->i_uid;
	to->i_gid = inode->i_gid;
	/* As memfd_create() */
	if ((inode->i_sb->s_flags & SB_KERNMOUNT) && !(inode->i_flags & S_PRIVATE))
		err = security_inode_init_security_anon(to, &QSTR(MEMFD_ANON_NAME), NULL);
	err = err ?: copy_contents(inode, to, now);
	if (err) {
		fput(copy);
		return ERR_PTR(err);
	}
	SHMEM_I(to)->seals = SHMEM_I(inode)->seals;
	inode_set_atime_to_ts(to, inode_get_atime(inode));
	inode_set_mtime_to_ts(to, inode_get_mtime(inode));
	inode_set_ctime_to_ts(to, inode_get_ctime(inode));
	return copy;
}

static struct file *copy_file(struct file *file, struct file *first, bool now)
{
	struct file *base = first ? get_file(first) : shmem_copy_inode(file, now);
	struct file *copy;

	if (IS_ERR(base))
		return base == ERR_PTR(-EBUSY) ? NULL : base;
	copy = alloc_file_clone(base, file->f_flags, file->f_op);
	/* At once: a replica that copies itself must not find another file. */
	__fput_sync(base);
	if (IS_ERR(copy))
		return copy;
	copy->f_mode |= file->f_mode & (FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE |
					FMODE_CAN_ODIRECT);
	file_set_fsnotify_mode(copy, file->f_mode & FMODE_FSNOTIFY_MASK);
	return copy;
}

static struct file *shmem_fullfork_copy(struct file *file, struct file *first)
{
	return copy_file(file, first, false);
}

/**
 * shmem_fullfork_copy_now() - copy a file whose mappings are not those of mm/shmem.c
 * @file: a file of shared memory, which is none of huge pages
 *
 * Return: as &fullfork_file_ops.copy.
 */
struct file *shmem_fullfork_copy_now(struct file *file)
{
	return copy_file(file, NULL, true);
}

/* The copy is no source, or not yet. */
static void shmem_fullfork_mapped(struct vm_area_struct *vma, struct file *file)
{
	if (vma->vm_ops != &shmem_fullfork_vm_ops)
		return;
	vma->vm_ops = plain_vm_ops;
	vma_set_page_prot(vma);
}

static const struct fullfork_file_ops shmem_fullfork_ops = {
	.name	= "shmem",
	.object	= shmem_fullfork_object,
	.copy	= shmem_fullfork_copy,
	.mapped	= shmem_fullfork_mapped,
};

/**
 * shmem_fullfork_init() - let shared memory be copied
 * @fops: of files of it
 * @vm_ops: of mappings of files without a name
 */
void __init shmem_fullfork_init(const struct file_operations *fops,
				const struct vm_operations_struct *vm_ops)
{
	plain_vm_ops = vm_ops;
	fullfork_register(fops, &shmem_fullfork_ops);
}
