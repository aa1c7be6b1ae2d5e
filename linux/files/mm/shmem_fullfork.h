/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Full fork: copies of shared memory that are made page by page, later.
 * What mm/shmem.c has to call, and when, is described in mm/shmem_fullfork.c.
 */
#ifndef _MM_SHMEM_FULLFORK_H
#define _MM_SHMEM_FULLFORK_H

#include <linux/fullfork_isolate.h>
#include <linux/shmem_fs.h>

#ifdef CONFIG_FULLFORK_SHMEM

extern const struct vm_operations_struct shmem_fullfork_vm_ops;

void shmem_fullfork_init(const struct file_operations *fops,
			 const struct vm_operations_struct *vm_ops);
int __shmem_fullfork_pull(struct inode *inode, pgoff_t index);
int __shmem_fullfork_pull_all(struct inode *inode);
int __shmem_fullfork_push(struct inode *inode, struct folio *folio, pgoff_t index,
			  unsigned long nr);
int __shmem_fullfork_truncate(struct inode *inode, loff_t lstart, u64 lend);
int shmem_fullfork_pinned(struct file *file, loff_t start, loff_t end);
vm_fault_t shmem_fullfork_mkwrite(struct vm_fault *vmf);
unsigned long __shmem_fullfork_pending(struct inode *inode);
blkcnt_t __shmem_fullfork_blocks(struct inode *inode);
bool __shmem_fullfork_is_source(struct inode *inode);
void __shmem_fullfork_evict(struct inode *inode);

static inline bool shmem_in_fullfork(struct inode *inode)
{
	return unlikely(READ_ONCE(SHMEM_I(inode)->fullfork));
}

/* Before a page of a copy, or that there is none, is looked at */
static inline int shmem_fullfork_pull(struct inode *inode, pgoff_t index)
{
	return shmem_in_fullfork(inode) ? __shmem_fullfork_pull(inode, index) : 0;
}

/* Before it is looked at where there are pages */
static inline int shmem_fullfork_pull_all(struct inode *inode)
{
	return shmem_in_fullfork(inode) ? __shmem_fullfork_pull_all(inode) : 0;
}

/* Before pages in a locked folio change; if it fails, this unlocks and puts the folio */
static inline int shmem_fullfork_push(struct inode *inode, struct folio *folio, pgoff_t index,
				      unsigned long nr)
{
	int err;

	if (!shmem_in_fullfork(inode))
		return 0;
	err = __shmem_fullfork_push(inode, folio, index, nr);
	if (err) {
		folio_unlock(folio);
		folio_put(folio);
	}
	return err;
}

/* A page is there, locked, where there was none: copies have none.  Cannot fail. */
static inline void shmem_fullfork_push_hole(struct inode *inode, pgoff_t index)
{
	if (shmem_in_fullfork(inode))
		__shmem_fullfork_push(inode, NULL, index, 1);
}

/* Before all between these two bytes is removed, under the lock of the inode */
static inline int shmem_fullfork_truncate(struct inode *inode, loff_t lstart, u64 lend)
{
	return shmem_in_fullfork(inode) ? __shmem_fullfork_truncate(inode, lstart, lend) : 0;
}

/* How many pages will be there as soon as somebody looks */
static inline unsigned long shmem_fullfork_pending(struct inode *inode)
{
	return shmem_in_fullfork(inode) ? __shmem_fullfork_pending(inode) : 0;
}

/* How many blocks stat() tells of: those of pages that are pending, too */
static inline blkcnt_t shmem_fullfork_blocks(struct inode *inode)
{
	return shmem_in_fullfork(inode) ? __shmem_fullfork_blocks(inode) : inode->i_blocks;
}

/* Is it to be mapped with shmem_fullfork_vm_ops? */
static inline bool shmem_fullfork_is_source(struct inode *inode)
{
	return shmem_in_fullfork(inode) && __shmem_fullfork_is_source(inode);
}

static inline void shmem_fullfork_evict(struct inode *inode)
{
	if (shmem_in_fullfork(inode))
		__shmem_fullfork_evict(inode);
}

static inline bool vma_is_shmem_fullfork(const struct vm_area_struct *vma)
{
	return vma->vm_ops == &shmem_fullfork_vm_ops;
}

#else

/* Never used: there is no such inode. */
#define shmem_fullfork_vm_ops shmem_anon_vm_ops

static inline void shmem_fullfork_init(const struct file_operations *fops,
				       const struct vm_operations_struct *vm_ops) { }

static inline int shmem_fullfork_pull(struct inode *inode, pgoff_t index)
{
	return 0;
}

static inline int shmem_fullfork_pull_all(struct inode *inode)
{
	return 0;
}

static inline int shmem_fullfork_push(struct inode *inode, struct folio *folio, pgoff_t index,
				      unsigned long nr)
{
	return 0;
}

static inline void shmem_fullfork_push_hole(struct inode *inode, pgoff_t index) { }

static inline int shmem_fullfork_truncate(struct inode *inode, loff_t lstart, u64 lend)
{
	return 0;
}

static inline int shmem_fullfork_pinned(struct file *file, loff_t start, loff_t end)
{
	return 0;
}

static inline unsigned long shmem_fullfork_pending(struct inode *inode)
{
	return 0;
}

static inline blkcnt_t shmem_fullfork_blocks(struct inode *inode)
{
	return inode->i_blocks;
}

static inline bool shmem_fullfork_is_source(struct inode *inode)
{
	return false;
}

static inline void shmem_fullfork_evict(struct inode *inode) { }

static inline bool vma_is_shmem_fullfork(const struct vm_area_struct *vma)
{
	return false;
}

#endif /* CONFIG_FULLFORK_SHMEM */

#endif /* _MM_SHMEM_FULLFORK_H */
