// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: copy what only members can reach, for CLONE_ISOLATE.
 *
 * Copyright (c) 2026 The full fork developers
 */

/**
 * DOC: isolation
 *
 * Once all originals are quiesced and linked, and before there is a replica, the
 * caller
 *
 * 1. finds every file of a kind that can be copied (for which fullfork_register() was called)
 *    in the descriptor tables and mappings of members, and in the objects that it
 *    finds on the way, and counts how often; and every other one that can be
 *    opened once more (FOP_FULLFORK_REOPEN), which is an object by itself.  Those in
 *    tables of which it is soon clear that others have them are left out, see candidates.c;
 * 2. compares.  A file that has more references than were found is held by
 *    somebody else too, and an object with more files than were found, with one
 *    that is held by somebody else, or out of which somebody has got a file since 1,
 *    is reachable from outside.  So is one that sends signals to somebody else, see
 *    async.c.  What it holds is then held from outside.  The rest is internal;
 * 3. copies the internal objects; or fails, if there is one that can be neither copied
 *    nor shared.
 *
 * Each owner of a descriptor table or of memory then exchanges the files in the
 * copy of it while that is not visible yet.  When there are all replicas, the caller
 *
 * 4. lets the copies refer to each other and to replicas as the originals do, to send
 *    them signals for one, and starts those that act by themselves.
 *
 * Members do not change their tables, mappings and objects while they are
 * quiesced.  Others may: they can look up a file of a member through /proc or
 * pidfd_getfd() at any time.  Before the comparison, it is then shared.  Afterwards
 * they get the file of the original, which is what they asked for, and the copy is
 * that of the instant at which it was made under the lock of the object.
 *
 * One mistake may be made: to share an object because somebody had a look at it.  The
 * other one may not: to copy one that somebody has had since before the call, and keeps.
 * Who does may have it by one file when one looks for that, and by another when one
 * looks for the other: open it once more, or get a file out of a socket, and close what
 * was there.  So it matters in which order one looks, for each object by itself:
 *
 * * (a) references of each of its files, after all was found (1).  Who keeps a file is
 *   seen;
 * * (b) how many files it has, after (a).  Who opened it once more before (b) is seen.
 *   Who does so later had it by another file after (a) of that;
 * * (c) what was taken out of it, or peeked at there, after (a), as a number that is
 *   compared with the one from before it was searched (1).  Who took out a file before
 *   that is seen in (a) of the file, which was not found there any more.  Who took it
 *   out since then is seen.  Who does so later had the holder after (a) of that.
 *
 * So who keeps a file and is not seen got it by another one, and had that one after (a)
 * of it.  The same is then true of the other one, and so on up to a first one that
 * was looked up after its (a), as it could have been at any time.  This holds in
 * whatever order objects are looked at, and if they hold each other.
 *
 * All may fail up to the end of step 4, and leaves nothing but copies that nobody
 * has seen; nothing waits for a member.
 */

#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/fullfork.h>
#include <linux/fullfork_ipc.h>
#include <linux/fullfork_isolate.h>
#include <linux/hash.h>
#include <linux/jiffies.h>
#include <linux/log2.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <trace/events/fullfork.h>

#include "internal.h"

/**
 * struct isolated_ref - a reference that an object holds
 * @list: in &isolated_object.refs
 * @file: to what
 */
struct isolated_ref {
	struct list_head	list;
	struct isolated_file	*file;
};

/**
 * struct isolated_object - an object that files refer to
 * @node: in the hash table
 * @list: in &fullfork_isolation.objects
 * @todo: among those that may be external, or empty
 * @object: its address
 * @files: those that were found
 * @refs: what it holds itself, as it was when it was looked at
 * @nr_found: number of @files
 * @nr_files: how many refer to it, when it was last compared
 * @held: somebody else can reach it, and not by a file
 * @external: not only members can reach it
 */
struct isolated_object {
	struct hlist_node	node;
	struct list_head	list;
	struct list_head	todo;
	const void		*object;
	struct list_head	files;
	struct list_head	refs;
	unsigned int		nr_found;
	unsigned int		nr_files;
	bool			held;
	bool			external;
};

/**
 * struct isolated_file - a file that members have, of a kind that can be copied
 * @node: in the hash table
 * @list: in &fullfork_isolation.files
 * @object_node: in &isolated_object.files
 * @file: it, held
 * @ops: how to copy it
 * @owner: a member that has it
 * @object: what it refers to; NULL if that cannot be copied
 * @own: that object, unless it was found by another file before
 * @nr_refs: how often it was found
 * @nr_taken: what was taken out of @object when it was searched, see @ops
 * @count: how many references there were
 * @has_fds: there are descriptors of it, which were found later
 * @linked: @copy refers to others, or is about to
 * @copy: the one for the replicas, or NULL
 */
struct isolated_file {
	struct hlist_node	node;
	struct list_head	list;
	struct list_head	object_node;
	struct file		*file;
	const struct fullfork_file_ops *ops;
	struct fullfork_member	*owner;
	struct isolated_object	*object;
	struct isolated_object	own;
	unsigned int		nr_refs;
	unsigned int		nr_taken;
	unsigned long		count;
	bool			has_fds;
	bool			linked;
	struct file		*copy;
};

/**
 * struct isolated_chunk - memory for files, which may be many, and have to cost little
 * @next: the one that was taken before
 * @files: in the order of &fullfork_isolation.files
 */
struct isolated_chunk {
	struct isolated_chunk	*next;
	struct isolated_file	files[];
};

#define CHUNK_SIZE	SZ_4K
#define FILES_PER_CHUNK \
	((CHUNK_SIZE - sizeof(struct isolated_chunk)) / sizeof(struct isolated_file))

/**
 * struct fullfork_isolation - what there is to copy
 * @op: the operation
 * @files: all that were found; those that others hold are found last
 * @objects: what they refer to
 * @owner: the member for which is searched, or copied
 * @holder: the object in which is searched, or NULL
 * @nr_files: number of @files
 * @found_held: some of these were found in objects
 * @chunks: where they are, the last one first
 * @bits: size of the hash tables
 * @file_table: of files
 * @object_table: of objects
 */
struct fullfork_isolation {
	struct fullfork		*op;
	struct list_head	files;
	struct list_head	objects;
	struct fullfork_member	*owner;
	struct isolated_object	*holder;
	unsigned int		nr_files;
	bool			found_held;
	struct isolated_chunk	*chunks;
	unsigned int		bits;
	struct hlist_head	*file_table;
	struct hlist_head	*object_table;
};

/* The kinds that can be copied.  Few enough for a table that is never full. */
#define KINDS_BITS 5

static struct fullfork_kind {
	const struct file_operations	*fops;
	const struct fullfork_file_ops	*ops;
} kinds[1 << KINDS_BITS] __ro_after_init;

static struct fullfork_kind *find_kind(const struct file_operations *fops)
{
	unsigned int i = hash_ptr(fops, KINDS_BITS);

	while (kinds[i].fops && kinds[i].fops != fops)
		i = (i + 1) % ARRAY_SIZE(kinds);
	return &kinds[i];
}

/**
 * fullfork_register() - files of this kind can be copied
 * @fops: their operations
 * @ops: how
 */
void __init fullfork_register(const struct file_operations *fops,
			      const struct fullfork_file_ops *ops)
{
	static unsigned int nr_kinds __initdata;

	if (WARN_ON(++nr_kinds == ARRAY_SIZE(kinds)))
		return;
	*find_kind(fops) = (struct fullfork_kind){ .fops = fops, .ops = ops };
}

/**
 * fullfork_file_ops() - how can it be copied?
 * @file: a file that is open
 *
 * Return: NULL if it cannot be.
 */
const struct fullfork_file_ops *fullfork_file_ops(const struct file *file)
{
	const struct fullfork_file_ops *ops = find_kind(file->f_op)->ops;

	while (ops && ops->of)
		ops = ops->of(file);
	return ops;
}

/**
 * fullfork_is_one_kind() - can all of them be copied in the same way, if they can?
 * @fops: operations of files
 */
bool fullfork_is_one_kind(const struct file_operations *fops)
{
	const struct fullfork_file_ops *ops = find_kind(fops)->ops;

	return ops && !ops->of;
}

static const struct fullfork_file_ops *regular_ops(const struct file *file)
{
	return file->f_op->fop_flags & FOP_FULLFORK_REOPEN ? &fullfork_regular_ops : NULL;
}

/**
 * fullfork_can_be_copied() - is it of a kind of which some, or all, can be copied?
 * @file: a file that is open
 */
bool fullfork_can_be_copied(const struct file *file)
{
	return find_kind(file->f_op)->ops || regular_ops(file);
}

static struct isolated_file *find_file(struct fullfork_isolation *isolation,
				       const struct file *file)
{
	struct isolated_file *f;

	hlist_for_each_entry(f, &isolation->file_table[hash_ptr(file, isolation->bits)], node)
		if (f->file == file)
			return f;
	return NULL;
}

static struct isolated_object *get_object(struct fullfork_isolation *isolation,
					  struct isolated_file *f, struct file *file,
					  const struct fullfork_file_ops *ops)
{
	struct isolated_object *o;
	struct hlist_head *bucket;
	unsigned int nr_files;
	const void *object;

	/* They are counted when they are compared. */
	object = ops && ops->object ? ops->object(file, &nr_files) : NULL;
	if (!object)
		return NULL;

	bucket = &isolation->object_table[hash_ptr(object, isolation->bits)];
	hlist_for_each_entry(o, bucket, node)
		if (o->object == object)
			return o;

	o = &f->own;
	o->object = object;
	INIT_LIST_HEAD(&o->todo);
	INIT_LIST_HEAD(&o->files);
	INIT_LIST_HEAD(&o->refs);
	hlist_add_head(&o->node, bucket);
	list_add_tail(&o->list, &isolation->objects);
	return o;
}

static struct isolated_file *next_isolated_file(struct fullfork_isolation *isolation)
{
	struct isolated_chunk *chunk = isolation->chunks;
	unsigned int i = isolation->nr_files % FILES_PER_CHUNK;

	if (!i) {
		chunk = kzalloc(CHUNK_SIZE, GFP_KERNEL_ACCOUNT);
		if (!chunk)
			return NULL;
		chunk->next = isolation->chunks;
		isolation->chunks = chunk;
	}
	return &chunk->files[i];
}

static struct isolated_file *add_file(struct fullfork_isolation *isolation,
				      struct file *file)
{
	const struct fullfork_file_ops *ops = fullfork_file_ops(file);
	struct isolated_file *f = next_isolated_file(isolation);
	struct isolated_object *o;

	if (!f)
		return NULL;
	o = get_object(isolation, f, file, ops);
	/* A file that has a name, or can get one, of a kind that is else copied whole? */
	if (!o && regular_ops(file) && (!ops || fullfork_may_have_name(file_inode(file)))) {
		ops = regular_ops(file);
		o = get_object(isolation, f, file, ops);
	}

	f->file = get_file(file);
	f->ops = ops;
	f->owner = isolation->owner;
	f->object = o;
	if (o) {
		if (ops->leads && ops->leads(file))
			list_add(&f->object_node, &o->files);
		else
			list_add_tail(&f->object_node, &o->files);
		o->nr_found++;
	}
	hlist_add_head(&f->node, &isolation->file_table[hash_ptr(file, isolation->bits)]);
	list_add_tail(&f->list, &isolation->files);
	isolation->nr_files++;
	return f;
}

static int alloc_tables(struct fullfork_isolation *isolation, unsigned int bits)
{
	struct hlist_head *tables;

	tables = kvcalloc(2UL << bits, sizeof(struct hlist_head), GFP_KERNEL_ACCOUNT);
	if (!tables)
		return -ENOMEM;
	kvfree(isolation->file_table);
	isolation->bits = bits;
	isolation->file_table = tables;
	isolation->object_table = tables + (1UL << bits);
	return 0;
}

/* How many there are in messages is known when they are found. */
static int grow_tables(struct fullfork_isolation *isolation)
{
	struct isolated_object *o;
	struct isolated_file *f;

	if (isolation->nr_files >> isolation->bits < 2)
		return 0;
	if (alloc_tables(isolation, isolation->bits + 2))
		return -ENOMEM;
	list_for_each_entry(f, &isolation->files, list)
		hlist_add_head(&f->node,
			       &isolation->file_table[hash_ptr(f->file, isolation->bits)]);
	list_for_each_entry(o, &isolation->objects, list)
		hlist_add_head(&o->node,
			       &isolation->object_table[hash_ptr(o->object, isolation->bits)]);
	return 0;
}

static int add_ref(struct isolated_object *holder, struct isolated_file *f)
{
	struct isolated_ref *ref = kmalloc_obj(*ref, GFP_KERNEL_ACCOUNT);

	if (!ref)
		return -ENOMEM;
	ref->file = f;
	list_add(&ref->list, &holder->refs);
	return 0;
}

/**
 * fullfork_found_file() - a member, or an object of members, refers to a file
 * @isolation: what there is to copy
 * @file: the file, which stays where it was found
 *
 * Return: 0 or -ENOMEM.
 */
int fullfork_found_file(struct fullfork_isolation *isolation, struct file *file)
{
	struct isolated_file *f;

	if (!fullfork_can_be_copied(file))
		return 0;
	if (grow_tables(isolation))
		return -ENOMEM;
	f = find_file(isolation, file) ?: add_file(isolation, file);
	if (!f)
		return -ENOMEM;
	f->nr_refs++;
	if (!isolation->holder)
		return 0;
	isolation->found_held = true;
	return add_ref(isolation->holder, f);
}

/**
 * fullfork_held_outside() - somebody who is no member can reach what is scanned
 * @isolation: what there is to copy
 */
void fullfork_held_outside(struct fullfork_isolation *isolation)
{
	isolation->holder->held = true;
}

/**
 * fullfork_has_member() - is a process, by its leader, copied?
 * @isolation: what there is to copy
 * @task: the leader, which may have exited
 */
bool fullfork_has_member(struct fullfork_isolation *isolation, const struct task_struct *task)
{
	struct fullfork_group *g;

	if (fullfork_find_member(isolation->op, task))
		return true;
	/* It may be one of the threads that are not copied. */
	list_for_each_entry(g, &isolation->op->groups, node)
		if (g->signal == task->signal)
			return true;
	return false;
}

/**
 * fullfork_is_memory() - may it be changed by those who have it mapped, or open?
 * @page: in a pipe or a message, to which it was lent by vmsplice() or sendfile() if so
 *
 * It is not shared with a copy then, whose memory is another.
 */
bool fullfork_is_memory(struct page *page)
{
	struct folio *folio = page_folio(page);
	struct address_space *mapping = folio_mapping(folio);

	return folio_test_anon(folio) || (mapping && shmem_mapping(mapping));
}

/**
 * fullfork_try_again() - sleep a little before a lock is tried once more
 * @begin: when it was tried first, in jiffies
 *
 * Return: 0, -EINTR, or -EAGAIN if it was not to be had for a second.
 */
int fullfork_try_again(unsigned long begin)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	if (time_after(jiffies, begin + HZ))
		return -EAGAIN;
	schedule_timeout_killable(1);
	return 0;
}

/**
 * fullfork_lock() - take the lock of an object that is copied
 * @lock: one that is held only while something is done
 *
 * Somebody else may have it who got hold of the object just now, and does something
 * that a member is needed for: reads to memory that it serves, say.
 *
 * Return: 0, -EINTR, or -EAGAIN if it is not to be had soon.
 */
int fullfork_lock(struct mutex *lock)
{
	unsigned long begin = jiffies;
	int err = 0;

	while (!err && !mutex_trylock(lock))
		err = fullfork_try_again(begin);
	return err;
}

/**
 * fullfork_copied_file() - what a replica has in place of a file
 * @isolation: what there is to copy, and was copied
 * @file: a file of an original
 *
 * Return: its copy, or @file itself if that is shared.
 */
struct file *fullfork_copied_file(struct fullfork_isolation *isolation, struct file *file)
{
	struct isolated_file *f;

	if (!fullfork_can_be_copied(file))
		return file;
	f = find_file(isolation, file);
	return f && f->copy ? f->copy : file;
}

/* Are there others, too, that have the memory?  Rarely more than looks at it. */
static bool has_other_users(struct mm_struct *mm, unsigned int nr_members)
{
	struct task_struct *p, *t;
	unsigned int nr = 0;

	if (atomic_read(&mm->mm_users) <= nr_members)
		return false;
	guard(rcu)();
	for_each_process_thread(p, t)
		nr += READ_ONCE(t->mm) == mm;
	return nr > nr_members;
}

static struct mm_struct *own_mm(struct fullfork_member *m)
{
	struct mm_struct *mm = m->original->mm;

	if (fullfork_has_exited(m) || m->owners[FULLFORK_MM] != m)
		return NULL;
	return has_other_users(mm, m->objects[FULLFORK_MM].nr_sharers) ? NULL : mm;
}

static int find_in_files(struct fullfork_isolation *isolation, struct fullfork_member *m)
{
	struct fdtable *fdt = fullfork_fdtable(m->original->files);
	struct file *file;
	unsigned int fd;
	int err;

	for (fd = 0; (file = fullfork_next_file(m, fdt, &fd)); fd++) {
		err = fullfork_found_file(isolation, file);
		if (err)
			return err;
	}
	return 0;
}

/*
 * What is only mapped is not opened once more: a mapping has no position.  If it
 * is mapped and open, all mappings count.
 */
static int find_mapped_file(struct fullfork_isolation *isolation, struct vm_area_struct *vma)
{
	struct isolated_file *f = find_file(isolation, vma->vm_file);

	if (f && f->ops == &fullfork_regular_ops)
		return fullfork_found_file(isolation, vma->vm_file);
	/* What a private mapping has not changed yet would have to be copied, too. */
	if (!(vma->vm_flags & VM_MAYSHARE) || !fullfork_file_ops(vma->vm_file))
		return 0;
	return fullfork_found_file(isolation, vma->vm_file);
}

static int find_in_mm(struct fullfork_isolation *isolation, struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;
	int err = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for_each_vma(vmi, vma) {
		err = vma->vm_file ? find_mapped_file(isolation, vma) : 0;
		if (err)
			break;
	}
	mmap_read_unlock(mm);
	return err;
}

static int find_in_member(struct fullfork_isolation *isolation, struct fullfork_member *m,
			  bool memory)
{
	struct mm_struct *mm = memory ? own_mm(m) : NULL;

	isolation->owner = m;
	if (!memory)
		return m->candidates ? find_in_files(isolation, m) : 0;
	return mm ? find_in_mm(isolation, mm) : 0;
}

static int find_in_members(struct fullfork_isolation *isolation, bool memory)
{
	struct fullfork_member *m;
	struct fullfork_group *g;
	int err;

	list_for_each_entry(g, &isolation->op->groups, node) {
		list_for_each_entry(m, &g->members, node) {
			err = find_in_member(isolation, m, memory);
			if (err)
				return err;
		}
	}
	return 0;
}

/* There are descriptors of it, too: is it known, and are they not yet? */
static bool found_outer(struct fullfork_member *m, struct file *file)
{
	struct isolated_file *f = find_file(m->group->op->isolation, file);

	if (!f)
		return false;
	/* The first one that has it: up to now, that was who has it in a message. */
	if (!f->has_fds)
		f->owner = m;
	f->has_fds = true;
	f->nr_refs++;
	return true;
}

static int find_files(struct fullfork_isolation *isolation)
{
	struct isolated_file *f;
	int err;

	/* What is mapped counts differently if it is open, too. */
	err = find_in_members(isolation, false) ?: find_in_members(isolation, true);
	if (err)
		return err;

	/* The list grows while it is walked. */
	list_for_each_entry(f, &isolation->files, list) {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		if (!f->object || !f->ops->scan)
			continue;
		isolation->owner = f->owner;
		isolation->holder = f->object;
		if (f->ops->nr_taken)
			f->nr_taken = f->ops->nr_taken(f->file);
		err = f->ops->scan(f->file, isolation);
		isolation->holder = NULL;
		if (err)
			return err;
	}
	if (isolation->found_held)
		fullfork_walk_outer(isolation->op, found_outer);
	return 0;
}

/* Does anybody else hold it, or expect signals from it? */
static bool is_held_outside(struct fullfork *op, struct isolated_file *f)
{
	/* But for our own. */
	f->count = file_count(f->file) - 1;
	return f->count != f->nr_refs || fullfork_owned_outside(op, f->file);
}

/* How many files refer to it, as far as is seen by this one?  False if it is another one now. */
static bool count_files(struct isolated_object *o, struct isolated_file *f)
{
	unsigned int nr_files = 0;
	const void *object = f->ops->object(f->file, &nr_files);

	o->nr_files = max(o->nr_files, nr_files);
	return object == o->object;
}

static bool is_external(struct fullfork *op, struct isolated_object *o)
{
	struct isolated_file *f;
	bool held = o->held;

	/* All are looked at, for what is reported. */
	list_for_each_entry(f, &o->files, object_node)
		held |= is_held_outside(op, f);

	/* Pairs with the release in fput(): what was done by a file is seen when it is closed. */
	smp_rmb();
	o->nr_files = 0;
	list_for_each_entry(f, &o->files, object_node) {
		held |= !count_files(o, f);
		held |= f->ops->nr_taken && f->ops->nr_taken(f->file) != f->nr_taken;
	}
	return held || o->nr_found != o->nr_files;
}

/* What it holds can be had from outside. */
static void set_external(struct isolated_object *o, struct list_head *todo)
{
	struct isolated_object *held;
	struct isolated_ref *ref;

	o->external = true;
	list_for_each_entry(ref, &o->refs, list) {
		ref->file->nr_refs--;
		held = ref->file->object;
		if (held && !held->external && list_empty(&held->todo))
			list_add_tail(&held->todo, todo);
	}
}

/* Each is looked at once, and again when somebody else has what holds it. */
static int find_external(struct fullfork_isolation *isolation)
{
	struct isolated_object *o;
	LIST_HEAD(todo);

	list_for_each_entry(o, &isolation->objects, list)
		list_add_tail(&o->todo, &todo);
	while (!list_empty(&todo)) {
		if (fatal_signal_pending(current))
			return -EINTR;
		o = list_first_entry(&todo, struct isolated_object, todo);
		list_del_init(&o->todo);
		if (is_external(isolation->op, o))
			set_external(o, &todo);
		cond_resched();
	}
	return 0;
}

static bool is_internal(const struct isolated_file *f)
{
	return f->object && !f->object->external;
}

static void report_file(const struct isolated_file *f)
{
	const struct isolated_object *o = f->object;

	trace_fullfork_object(f->ops->name, f->file,
			      !is_internal(f) ? "shared" : f->ops->refused ? "refused" : "copied",
			      f->count, f->nr_refs, o ? o->nr_found : 0, o ? o->nr_files : 0);
}

static int refuse_object(struct fullfork *op, struct isolated_object *o)
{
	struct isolated_file *f;

	list_for_each_entry(f, &o->files, object_node)
		report_file(f);
	f = list_first_entry(&o->files, struct isolated_file, object_node);
	return fullfork_fail(op, -EOPNOTSUPP, f->ops->refused, f->owner->original);
}

/* Before anything is copied. */
static int check_refused(struct fullfork_isolation *isolation)
{
	struct isolated_object *o;
	struct isolated_file *f;

	list_for_each_entry(o, &isolation->objects, list) {
		f = list_first_entry(&o->files, struct isolated_file, object_node);
		if (!o->external && f->ops->refused)
			return refuse_object(isolation->op, o);
	}
	return 0;
}

/**
 * fullfork_enter_scope() - act with the rights, and at the cost, of a member
 * @scope: for fullfork_leave_scope()
 * @m: one that has what is copied
 */
void fullfork_enter_scope(struct isolate_scope *scope, struct fullfork_member *m)
{
	scope->memcg = get_mem_cgroup_from_mm(m->original->mm);
	scope->old_memcg = set_active_memcg(scope->memcg);
	scope->cred = get_task_cred(m->original);
	scope->old_cred = override_creds(scope->cred);
}

/**
 * fullfork_leave_scope() - act as the caller again
 * @scope: of fullfork_enter_scope()
 */
void fullfork_leave_scope(struct isolate_scope *scope)
{
	revert_creds(scope->old_cred);
	put_cred(scope->cred);
	set_active_memcg(scope->old_memcg);
	mem_cgroup_put(scope->memcg);
}

static int set_copy(struct isolated_file *f, struct file *copy)
{
	if (IS_ERR(copy))
		return PTR_ERR(copy);
	if (!copy) {
		f->object->external = true;
		return 0;
	}
	/* Signals come later. */
	copy->f_flags = f->file->f_flags & ~FASYNC;
	copy->f_iocb_flags = f->file->f_iocb_flags;
	copy->f_pos = f->file->f_pos;
	copy->f_mode |= FMODE_FULLFORK_COPIED;
	/* What it may is up to who opened the original's. */
	if (copy->f_cred != f->file->f_cred) {
		put_cred(copy->f_cred);
		copy->f_cred = get_cred(f->file->f_cred);
	}
	f->copy = copy;
	return 0;
}

static int copy_file(struct isolated_file *f, struct file *first)
{
	struct file *file = f->file, *copy;
	struct isolate_scope scope;

	fullfork_enter_scope(&scope, f->owner);
	copy = f->ops->copy(file, first);
	fullfork_leave_scope(&scope);
	return set_copy(f, copy);
}

static int copy_object(struct isolated_object *o)
{
	struct isolated_file *first = NULL, *f;
	int err;

	list_for_each_entry(f, &o->files, object_node) {
		if (!f->ops->copy || f->copy)
			continue;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		err = copy_file(f, first ? first->copy : NULL);
		/* The first one may say that it has to be shared. */
		if (err || o->external)
			return err;
		first = first ?: f;
	}
	return 0;
}

static int link_file(struct fullfork_isolation *isolation, struct isolated_file *f)
{
	struct isolate_scope scope;
	int err;

	if (f->linked || !f->copy || !f->ops->link)
		return 0;
	if (fatal_signal_pending(current))
		return -EINTR;
	cond_resched();
	f->linked = true;
	fullfork_enter_scope(&scope, f->owner);
	err = f->ops->link(f->file, f->copy, isolation);
	fullfork_leave_scope(&scope);
	return err;
}

/**
 * fullfork_linked_file() - what a replica has in place of a file, linked
 * @isolation: what there is to copy, and was copied
 * @file: a file of an original
 *
 * Return: as fullfork_copied_file(), or an ERR_PTR().
 */
struct file *fullfork_linked_file(struct fullfork_isolation *isolation, struct file *file)
{
	struct isolated_file *f = fullfork_can_be_copied(file) ? find_file(isolation, file) : NULL;
	int err;

	if (!f || !f->copy)
		return file;
	err = link_file(isolation, f);
	return err ? ERR_PTR(err) : f->copy;
}

static int copy_objects(struct fullfork_isolation *isolation)
{
	struct isolated_object *o;
	int err;

	list_for_each_entry(o, &isolation->objects, list) {
		err = o->external ? 0 : copy_object(o);
		if (err)
			return err;
	}
	return 0;
}

/* To what was copied with its namespace. */
static int copy_attach(struct fullfork_isolation *isolation, struct isolated_file *f,
		       struct ipc_namespace *ns)
{
	struct ipc_namespace *copied = fullfork_copied_ipc_ns(isolation->op, ns);
	struct isolate_scope scope;
	struct file *copy;

	if (!copied) {
		/* It is an object by itself then, and to be shared if it can be found. */
		if (!fullfork_shm_is_marked(f->file))
			f->object->external = true;
		return 0;
	}
	fullfork_enter_scope(&scope, f->owner);
	copy = fullfork_shm_attach(f->file, copied);
	fullfork_leave_scope(&scope);
	return set_copy(f, copy);
}

/* What has names in a namespace is copied with the namespace, or not. */
static int copy_ipc(struct fullfork_isolation *isolation)
{
	struct ipc_namespace *ns;
	struct isolated_file *f;
	int err = fullfork_find_ipc_namespaces(isolation->op);

	if (err)
		return err;
	list_for_each_entry(f, &isolation->files, list) {
		ns = fullfork_shm_ns(f->file);
		if (ns)
			fullfork_found_attach(isolation->op, ns, is_internal(f));
	}
	err = fullfork_copy_ipc_namespaces(isolation->op);
	list_for_each_entry(f, &isolation->files, list) {
		ns = fullfork_shm_ns(f->file);
		if (!err && ns && is_internal(f))
			err = copy_attach(isolation, f, ns);
	}
	return err;
}

static int alloc_isolation(struct fullfork *op)
{
	struct fullfork_isolation *isolation = kzalloc_obj(*isolation, GFP_KERNEL_ACCOUNT);
	unsigned int nr;

	if (!isolation)
		return -ENOMEM;
	isolation->op = op;
	INIT_LIST_HEAD(&isolation->files);
	INIT_LIST_HEAD(&isolation->objects);
	op->isolation = isolation;
	return fullfork_find_candidates(op, &nr) ?: alloc_tables(isolation, ilog2(nr | 1) + 1);
}

/* Limits have the errno that the contract of full fork has for limits. */
static int isolation_error(int err)
{
	switch (err) {
	case -ENOMEM:
	case -EINTR:
	case -EOPNOTSUPP:
		return err;
	default:
		return -EAGAIN;
	}
}

static void finish_fputs(struct fullfork *op)
{
	struct fullfork_member *m;
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node)
		list_for_each_entry(m, &g->members, node)
			if (!fullfork_has_exited(m))
				fullfork_finish_fputs(m->original);
}

/**
 * fullfork_isolate() - copy what only members can reach
 * @op: the operation, with all members linked and no replica yet
 *
 * Return: 0; -ENOMEM; -EAGAIN for a limit; -EINTR; -EOPNOTSUPP for what is refused.
 */
int fullfork_isolate(struct fullfork *op)
{
	int err;

	if (!(op->kargs->flags & CLONE_ISOLATE))
		return 0;

	finish_fputs(op);
	err = alloc_isolation(op);
	if (err)
		return fullfork_fail(op, err, err == -ENOMEM ? FULLFORK_MEMORY : FULLFORK_KILLED,
				     current);

	err = find_files(op->isolation) ?: find_external(op->isolation) ?:
	      check_refused(op->isolation) ?: copy_ipc(op->isolation) ?:
	      copy_objects(op->isolation);
	if (err)
		return fullfork_fail(op, isolation_error(err), FULLFORK_ISOLATION, current);
	return 0;
}

/**
 * fullfork_isolate_files() - exchange what was copied in a descriptor table
 * @m: who has the table of the originals
 * @files: its copy, whose tasks do not run yet
 */
void fullfork_isolate_files(const struct fullfork_member *m, struct files_struct *files)
{
	struct file *file, *copy;
	struct fdtable *fdt;
	unsigned int fd;

	if (!m->candidates)
		return;
	fdt = fullfork_fdtable(files);
	for (fd = 0; (file = fullfork_next_file(m, fdt, &fd)); fd++) {
		copy = fullfork_copied_file(m->group->op->isolation, file);
		if (copy == file)
			continue;
		/* Others may look it up, if the replica is there. */
		scoped_guard(spinlock, &files->file_lock)
			rcu_assign_pointer(fdt->fd[fd], get_file(copy));
		/* Not the last reference: the original has it, and is quiesced. */
		fput(file);
	}
}

static void exchange_mapped(struct vm_area_struct *vma, struct file *copy)
{
	/* The original's mapping keeps it. */
	struct file *file = vma->vm_file;
	const struct fullfork_file_ops *ops = fullfork_file_ops(file);

	vma_exchange_file(vma, copy);
	if (ops && ops->mapped)
		ops->mapped(vma, file);
}

/**
 * fullfork_isolate_mm() - exchange what was copied in the memory of a replica
 * @op: the operation
 * @mm: the copy of the memory of an original, which nobody else can see yet
 *
 * Pages of shared mappings were not copied, they are there when they are needed.
 *
 * Return: 0 or -EINTR.
 */
int fullfork_isolate_mm(struct fullfork *op, struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;
	struct file *copy;

	if (!op->isolation)
		return 0;
	if (mmap_write_lock_killable(mm))
		return -EINTR;
	for_each_vma(vmi, vma) {
		if (!vma->vm_file)
			continue;
		copy = fullfork_copied_file(op->isolation, vma->vm_file);
		/* A private mapping is none of another file, but may be by another one. */
		if (copy == vma->vm_file || (!(vma->vm_flags & VM_MAYSHARE) &&
					     copy->f_mapping != vma->vm_file->f_mapping))
			continue;
		exchange_mapped(vma, copy);
	}
	mmap_write_unlock(mm);
	return 0;
}

/**
 * fullfork_replica_with() - one who has what was copied
 * @isolation: what was copied, with all replicas prepared
 * @file: a file that was copied
 *
 * Return: the replica of the first member that has @file.
 */
struct task_struct *fullfork_replica_with(struct fullfork_isolation *isolation, struct file *file)
{
	return find_file(isolation, file)->owner->replica;
}

/* Of a process whose leader may be one of the threads that are not copied. */
static struct fullfork_member *find_leader(struct fullfork *op, struct task_struct *leader)
{
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node)
		if (g->signal == leader->signal)
			return g->leader;
	return NULL;
}

/**
 * fullfork_find_meant() - which member is it?
 * @op: the operation, with all members linked
 * @pid: a task, or NULL
 * @type: as fullfork_replica_pid()
 *
 * Return: NULL if it is none.
 */
struct fullfork_member *fullfork_find_meant(struct fullfork *op, struct pid *pid,
					    enum pid_type type)
{
	struct fullfork_member *m = NULL;
	struct task_struct *original;

	guard(rcu)();
	original = pid_task(pid, PIDTYPE_PID);
	if (original)
		m = fullfork_find_member(op, original);
	if (original && !m && type != PIDTYPE_PID && pid_has_task(pid, PIDTYPE_TGID))
		m = find_leader(op, original);
	return m;
}

/**
 * fullfork_replica_pid() - who is meant in what was copied
 * @isolation: what was copied, with all replicas prepared
 * @pid: a task, or NULL
 * @type: PIDTYPE_PID, it stands for a thread; PIDTYPE_TGID, for a process; PIDTYPE_PGID,
 *	for the process group that has this leader, who may be in another one by now
 *
 * Return: its replica; NULL if it was not copied.
 */
struct pid *fullfork_replica_pid(struct fullfork_isolation *isolation, struct pid *pid,
				 enum pid_type type)
{
	struct fullfork_member *m = fullfork_find_meant(isolation->op, pid, type);

	return m ? task_pid(m->replica) : NULL;
}

static int remake_file(struct fullfork_isolation *isolation, struct isolated_file *f)
{
	struct isolate_scope scope;
	struct file *copy;

	fullfork_enter_scope(&scope, f->owner);
	copy = f->ops->remake(f->file, isolation);
	fullfork_leave_scope(&scope);
	return set_copy(f, copy);
}

static int remake_files(struct fullfork_isolation *isolation, bool *any)
{
	struct isolated_file *f;
	int err;

	list_for_each_entry(f, &isolation->files, list) {
		if (!is_internal(f) || !f->ops->remake)
			continue;
		err = remake_file(isolation, f);
		if (err)
			return err;
		*any |= !!f->copy;
	}
	return 0;
}

static void exchange_remade(struct fullfork *op)
{
	struct fullfork_member *m;
	struct fullfork_group *g;

	list_for_each_entry(g, &op->groups, node)
		list_for_each_entry(m, &g->members, node)
			if (m->candidates)
				fullfork_isolate_files(m, m->replica->files);
}

static int copy_owners(struct fullfork_isolation *isolation)
{
	struct isolate_scope scope;
	struct isolated_file *f;
	int err;

	list_for_each_entry(f, &isolation->files, list) {
		if (!f->copy || (!READ_ONCE(f->file->f_owner) &&
				 !(READ_ONCE(f->file->f_flags) & FASYNC)))
			continue;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		fullfork_enter_scope(&scope, f->owner);
		err = fullfork_copy_owner(isolation, f->file, f->copy, f->ops);
		fullfork_leave_scope(&scope);
		if (err)
			return err;
	}
	return 0;
}

/* After what else refers to replicas: those that have a file have its locks. */
static int copy_locks(struct fullfork_isolation *isolation)
{
	struct isolate_scope scope;
	struct isolated_file *f;
	int err;

	list_for_each_entry(f, &isolation->files, list) {
		if (!locks_inode_context(file_inode(f->file)))
			continue;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		fullfork_enter_scope(&scope, f->owner);
		err = fullfork_copy_locks(isolation->op, f->file, f->copy, f->owner->replica);
		fullfork_leave_scope(&scope);
		if (err)
			return err;
	}
	return 0;
}

/* Those of processes, on files that were not looked for. */
static int copy_locks_on_others(struct fullfork_isolation *isolation, struct fullfork_member *m)
{
	struct isolate_scope scope;
	struct fdtable *fdt;
	struct file *file;
	unsigned int fd;
	int err = 0;

	if (!m->candidates)
		return 0;
	fdt = fullfork_fdtable(m->original->files);
	fullfork_enter_scope(&scope, m);
	for (fd = 0; !err && (file = fullfork_next_file(m, fdt, &fd)); fd++) {
		if (!S_ISREG(file_inode(file)->i_mode) || !locks_inode_context(file_inode(file)) ||
		    find_file(isolation, file))
			continue;
		err = fatal_signal_pending(current) ? -EINTR :
		      fullfork_copy_locks(isolation->op, file, NULL, m->replica);
	}
	fullfork_leave_scope(&scope);
	return err;
}

static int copy_all_locks(struct fullfork_isolation *isolation)
{
	int err = copy_locks(isolation);
	struct fullfork_member *m;
	struct fullfork_group *g;

	list_for_each_entry(g, &isolation->op->groups, node)
		list_for_each_entry(m, &g->members, node)
			err = err ?: copy_locks_on_others(isolation, m);
	return err;
}

/* What is pending, and what will be.  The first member stands for its process. */
static int copy_signals(struct fullfork *op)
{
	struct isolate_scope scope;
	struct fullfork_group *g;
	int err = 0;

	list_for_each_entry(g, &op->groups, node) {
		struct fullfork_member *m;
		bool whole = true;

		list_for_each_entry(m, &g->members, node) {
			if (fullfork_has_exited(m))
				continue;
			fullfork_enter_scope(&scope, m);
			if (whole)
				err = fullfork_copy_timers(m->original, m->replica, op->isolation);
			if (!err)
				err = fullfork_copy_pending(m->original, m->replica, whole);
			fullfork_leave_scope(&scope);
			if (err)
				return err;
			whole = false;
		}
	}
	return err;
}

/**
 * fullfork_link_isolation() - let copies refer to each other, and to replicas
 * @op: the operation, with all replicas prepared
 *
 * Return: as fullfork_isolate().
 */
int fullfork_link_isolation(struct fullfork *op)
{
	struct fullfork_isolation *isolation = op->isolation;
	struct isolated_file *f;
	bool remade = false;
	int err;

	if (!isolation)
		return 0;
	err = remake_files(isolation, &remade);
	if (remade)
		exchange_remade(op);
	list_for_each_entry(f, &isolation->files, list)
		err = err ?: link_file(isolation, f);
	err = err ?: copy_owners(isolation);
	err = err ?: copy_all_locks(isolation);
	err = err ?: copy_signals(op);
	err = err ?: fullfork_link_ipc_namespaces(op);
	if (err)
		return fullfork_fail(op, isolation_error(err), FULLFORK_ISOLATION, current);

	list_for_each_entry(f, &isolation->files, list)
		if (f->copy && f->ops->start)
			f->ops->start(f->file, f->copy);
	return 0;
}

static void mark_shared(struct file *file, bool shared)
{
	if (shared == !!(READ_ONCE(file->f_mode) & FMODE_FULLFORK_SHARED))
		return;
	guard(spinlock)(&file->f_lock);
	if (shared)
		file->f_mode |= FMODE_FULLFORK_SHARED;
	else
		file->f_mode &= ~FMODE_FULLFORK_SHARED;
}

static bool report_outer(struct fullfork_member *m, struct file *file)
{
	const struct fullfork_file_ops *ops;
	unsigned int nr_fds;

	mark_shared(file, true);
	if (!trace_fullfork_object_enabled())
		return false;
	nr_fds = fullfork_fds_to_report(m->group->op, file);
	ops = fullfork_file_ops(file);
	if (!ops || (regular_ops(file) && fullfork_may_have_name(file_inode(file))))
		ops = &fullfork_regular_ops;
	if (nr_fds)
		trace_fullfork_object(ops->name, file, "shared", file_count(file), nr_fds, 0, 0);
	return false;
}

/**
 * fullfork_report_isolation() - say what is copied and what is shared
 * @op: the operation, which is committed
 */
void fullfork_report_isolation(struct fullfork *op)
{
	struct fullfork_isolation *isolation = op->isolation;
	struct isolated_file *f;

	if (!isolation)
		return;

	list_for_each_entry(f, &isolation->files, list) {
		report_file(f);
		mark_shared(f->file, !is_internal(f));
	}
	if (op->any_unmarked || trace_fullfork_object_enabled())
		fullfork_walk_outer(op, report_outer);
}

static void free_refs(struct isolated_object *o)
{
	struct isolated_ref *ref, *next;

	list_for_each_entry_safe(ref, next, &o->refs, list)
		kfree(ref);
}

/**
 * fullfork_free_isolation() - drop what is not needed any more
 * @op: the operation, whose replicas have all that was copied, or are not made
 *
 * Before the originals are released: they close files when they say so.
 */
void fullfork_free_isolation(struct fullfork *op)
{
	struct fullfork_isolation *isolation = op->isolation;
	struct isolated_object *o;
	struct isolated_chunk *chunk;
	struct isolated_file *f;

	if (!isolation)
		return;
	list_for_each_entry(f, &isolation->files, list) {
		if (f->copy && f->ops->drop)
			f->ops->drop(f->copy);
		if (f->copy)
			fput(f->copy);
		fput(f->file);
	}
	list_for_each_entry(o, &isolation->objects, list)
		free_refs(o);
	while ((chunk = isolation->chunks)) {
		isolation->chunks = chunk->next;
		kfree(chunk);
	}
	fullfork_put_ipc_namespaces(op);
	fullfork_free_candidates(op);
	kvfree(isolation->file_table);
	kfree(isolation);
	op->isolation = NULL;
}
