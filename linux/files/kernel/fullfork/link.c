// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: who shares what with whom, and who has to be prepared first.
 *
 * Members that have an object in common share one copy of it.  The first of
 * them makes it, the others wait for that one.  "First" is the order of the
 * lists, in which parents come before children and leaders before their
 * threads, so that nobody waits in a circle.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/fullfork.h>
#include <linux/fullfork_ipc.h>
#include <linux/hash.h>
#include <linux/log2.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "internal.h"

static struct hlist_head *bucket(struct fullfork *op, const void *object)
{
	return &op->objects[hash_ptr(object, op->objects_bits)];
}

static struct fullfork_member *find_owner(struct fullfork *op, const void *object)
{
	struct fullfork_object *o;

	hlist_for_each_entry(o, bucket(op, object), node)
		if (o->object == object)
			return o->owner;
	return NULL;
}

/* The member of a task, NULL if it is none. */
struct fullfork_member *fullfork_find_member(struct fullfork *op,
					     const struct task_struct *original)
{
	return find_owner(op, original);
}

static void add_need(struct fullfork_member *m, struct fullfork_member *on)
{
	struct fullfork_need *need;
	unsigned int i;

	if (on == m)
		return;
	for (i = 0; i < m->nr_needs; i++)
		if (m->needs[i].on == on)
			return;

	need = &m->needs[m->nr_needs++];
	need->of = m;
	need->on = on;
	list_add_tail(&need->node, &on->dependents);
}

static const void *shared_object(const struct task_struct *t, enum fullfork_shared what)
{
	switch (what) {
	case FULLFORK_SIGHAND:
		return rcu_access_pointer(t->sighand);
	case FULLFORK_MM:
		return t->mm;
	case FULLFORK_FILES:
		return t->files;
	case FULLFORK_FS:
		return t->fs;
	case FULLFORK_NSPROXY:
		return t->nsproxy;
	case FULLFORK_SYSVSEM:
		return fullfork_semundo(t);
	default:
		return NULL;
	}
}

static void share_object(struct fullfork_member *m, enum fullfork_shared what,
			 struct fullfork_member *owner)
{
	m->owners[what] = owner;
	owner->objects[what].nr_sharers++;
	add_need(m, owner);
}

/* @original: whose object it is. */
static void link_object(struct fullfork_member *m, enum fullfork_shared what,
			const struct task_struct *original)
{
	const void *object = shared_object(original, what);
	struct fullfork_object *o = &m->objects[what];
	struct fullfork *op = m->group->op;
	struct fullfork_member *owner;

	/* Who has no list of undo adjustments shares none, and waits for nobody. */
	if (!object) {
		m->owners[what] = m->group->leader;
		return;
	}
	owner = find_owner(op, object);
	if (owner) {
		share_object(m, what, owner);
		return;
	}
	m->owners[what] = m;
	o->object = object;
	o->owner = m;
	o->nr_sharers = 1;
	hlist_add_head(&o->node, bucket(op, object));
}

/*
 * A thread that has exited has no memory and no files.  The replica of a zombie
 * has handlers of its own, which are not called; that of a leader shares those
 * of its threads.
 */
static void link_exited(struct fullfork_member *m)
{
	enum fullfork_shared what;

	for (what = FULLFORK_GROUP; what < FULLFORK_NR_SHARED; what++)
		m->owners[what] = m;
	if (m->group->nr_members > 1)
		link_object(m, FULLFORK_SIGHAND, m->maker->original);
}

static struct pid_namespace *replica_pid_ns(struct fullfork *op, struct pid_namespace *ns)
{
	struct fullfork_pid_ns *copied = fullfork_find_pid_ns(op, ns);

	return copied ? copied->replica : NULL;
}

static void link_pid_ns(struct fullfork_member *m)
{
	struct task_struct *original = m->original;
	struct fullfork *op = m->group->op;

	m->pid_ns = replica_pid_ns(op, task_active_pid_ns(original));
	if (!fullfork_has_exited(m))
		m->pid_ns_for_children =
			replica_pid_ns(op, original->nsproxy->pid_ns_for_children);
}

/* As threads do, mostly: no look into the table is needed. */
static bool has_all_of(const struct task_struct *t, const struct task_struct *lead)
{
	return rcu_access_pointer(t->sighand) == rcu_access_pointer(lead->sighand) &&
	       t->mm == lead->mm && t->files == lead->files && t->fs == lead->fs &&
	       t->nsproxy == lead->nsproxy && fullfork_semundo(t) == fullfork_semundo(lead);
}

static void link_member(struct fullfork_member *m)
{
	struct fullfork_member *lead = m->group->leader;
	enum fullfork_shared what;

	link_pid_ns(m);
	if (fullfork_has_exited(m)) {
		link_exited(m);
		return;
	}

	m->owners[FULLFORK_GROUP] = lead;
	add_need(m, lead);
	if (m != lead && !fullfork_has_exited(lead) &&
	    has_all_of(m->original, lead->original)) {
		for (what = FULLFORK_SIGHAND; what < FULLFORK_NR_SHARED; what++)
			share_object(m, what, lead->owners[what]);
		return;
	}
	for (what = FULLFORK_SIGHAND; what < FULLFORK_NR_SHARED; what++)
		link_object(m, what, m->original);
}

/* A live member of @g. */
static struct fullfork_member *first_member(struct fullfork_group *g)
{
	struct fullfork_member *m;

	list_for_each_entry(m, &g->members, node)
		if (!fullfork_has_exited(m))
			return m;
	return NULL;
}

/*
 * The parent of @g's process is a thread, for wait() and for the signal that
 * tells of its death.  One that is just exiting will hand its children on.
 */
static struct fullfork_member *find_parent(struct fullfork_group *g)
{
	struct fullfork_group *parent_group;
	struct task_struct *parent;
	struct fullfork_member *m;

	guard(read_lock)(&tasklist_lock);
	parent = rcu_dereference_protected(g->leader->original->real_parent,
					   lockdep_is_held(&tasklist_lock));
	m = find_owner(g->op, parent);
	if (m)
		return m;

	guard(spinlock_irq)(fullfork_siglock(parent));
	parent_group = parent->signal->fullfork;
	return parent_group && parent_group->op == g->op ? first_member(parent_group) : NULL;
}

static int link_parent(struct fullfork_group *g)
{
	struct fullfork_member *m = g->leader;
	struct fullfork *op = g->op;
	struct fullfork_pid_ns *ns;

	ns = fullfork_find_pid_ns(op, task_active_pid_ns(m->original));
	if (ns && ns->init)
		add_need(m, ns->init->leader);
	if (g == op->root)
		return 0;
	m->parent = find_parent(g);
	/* Another process has it by now. */
	if (!m->parent)
		return fullfork_fail(op, -EAGAIN, FULLFORK_MEMBER_KILLED, g->task);
	add_need(m, m->parent);
	if (fullfork_is_zombie(g))
		m->maker = m->parent->maker;
	return 0;
}

/* So that children find @m, and others the init of their PID namespace. */
static void link_self(struct fullfork_member *m)
{
	struct fullfork_object *o = &m->objects[FULLFORK_GROUP];

	o->object = m->original;
	o->owner = m;
	hlist_add_head(&o->node, bucket(m->group->op, m->original));
}

/* Of its own process, the caller copies itself alone, as with fork(). */
static void keep_only_caller(struct fullfork_group *g)
{
	struct fullfork *op = g->op;
	struct fullfork_member *self = op->self;

	guard(spinlock_irq)(&op->lock);
	list_del(&self->node);
	list_splice_init(&g->members, &g->bystanders);
	list_add(&self->node, &g->members);
	op->nr_members -= g->nr_members - 1;
	g->nr_members = 1;
	g->leader = self;
}

/*
 * Stand in for a leader that has exited.  It is not reaped: a quiesced parent
 * does not wait for it, and there is no tracer.
 */
static int link_exited_leader(struct fullfork_group *g)
{
	struct fullfork_member *m = &g->exited;
	struct fullfork *op = g->op;
	struct task_struct *t;

	guard(read_lock)(&tasklist_lock);
	t = pid_task(g->signal->pids[PIDTYPE_TGID], PIDTYPE_TGID);
	if (!t || t->ptrace)
		return fullfork_fail(op, -EBUSY, FULLFORK_TRACED, g->task);

	fullfork_init_member(m, g, t);
	if (g->nr_members)
		m->maker = first_member(g);
	list_add(&m->node, &g->members);
	g->leader = m;
	guard(spinlock_irq)(&op->lock);
	g->nr_members++;
	op->nr_members++;
	return 0;
}

/* The leader is the first of its group. */
static int link_leader(struct fullfork_group *g)
{
	struct fullfork *op = g->op;

	if (!(op->kargs->flags & CLONE_ALL_THREADS) && op->self->group == g)
		keep_only_caller(g);
	if (!g->leader)
		return link_exited_leader(g);
	list_move(&g->leader->node, &g->members);
	return 0;
}

static int alloc_buckets(struct fullfork *op)
{
	op->objects_bits = ilog2(op->nr_members) + 1;
	op->objects = op->few_objects;
	if (1U << op->objects_bits <= FULLFORK_FEW_OBJECTS)
		return 0;
	op->objects = kvcalloc(1UL << op->objects_bits, sizeof(*op->objects),
			       GFP_KERNEL_ACCOUNT);
	if (!op->objects)
		return fullfork_fail(op, -ENOMEM, FULLFORK_MEMORY, current);
	return 0;
}

/**
 * fullfork_link_members() - find out what members share
 * @op: the operation, with every original quiesced
 *
 * Return: 0, -ENOMEM, -EBUSY for a zombie that is traced, or what the creation of
 * a PID namespace returns.
 */
int fullfork_link_members(struct fullfork *op)
{
	struct fullfork_member *m;
	struct fullfork_group *g;
	int err;

	list_for_each_entry(g, &op->groups, node) {
		err = link_leader(g);
		if (err)
			return err;
	}
	err = fullfork_map_pid_namespaces(op) ?: alloc_buckets(op);
	if (err)
		return err;

	list_for_each_entry(g, &op->groups, node) {
		err = link_parent(g);
		if (err)
			return err;
		list_for_each_entry(m, &g->members, node) {
			link_member(m);
			link_self(m);
		}
	}
	return 0;
}
