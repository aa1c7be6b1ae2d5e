// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: which IPC namespaces do only members use?
 *
 * They are copied, see ipc/fullfork.c, and replicas are in the copies.
 *
 * Copyright (c) 2026 The full fork developers
 */

#include <linux/fullfork.h>
#include <linux/fullfork_ipc.h>
#include <linux/ipc_namespace.h>
#include <linux/nsproxy.h>
#include <linux/slab.h>

#include "internal.h"

static struct fullfork_ipc_ns *find_ipc_ns(struct fullfork *op, const struct ipc_namespace *ns)
{
	struct fullfork_ipc_ns *entry;

	list_for_each_entry(entry, &op->ipc_namespaces, node)
		if (entry->original == ns)
			return entry;
	return NULL;
}

static int add_ipc_ns(struct fullfork *op, struct fullfork_member *m)
{
	struct nsproxy *nsproxy = m->original->nsproxy;
	struct fullfork_ipc_ns *entry;

	/* It has no count, and all that there is. */
	if (nsproxy->ipc_ns == init_nsproxy.ipc_ns)
		return 0;
	entry = find_ipc_ns(op, nsproxy->ipc_ns);
	if (!entry) {
		entry = kzalloc_obj(*entry, GFP_KERNEL_ACCOUNT);
		if (!entry)
			return -ENOMEM;
		entry->original = nsproxy->ipc_ns;
		entry->owner = m;
		list_add_tail(&entry->node, &op->ipc_namespaces);
	}
	entry->nr_refs++;
	if (refcount_read(&nsproxy->count) != m->objects[FULLFORK_NSPROXY].nr_sharers)
		entry->external = true;
	return 0;
}

/**
 * fullfork_find_ipc_namespaces() - find those that members are in
 * @op: the operation, with all members linked
 *
 * Return: 0 or -ENOMEM.
 */
int fullfork_find_ipc_namespaces(struct fullfork *op)
{
	struct fullfork_member *m;
	struct fullfork_group *g;
	int err;

	list_for_each_entry(g, &op->groups, node) {
		list_for_each_entry(m, &g->members, node) {
			if (fullfork_has_exited(m) || m->owners[FULLFORK_NSPROXY] != m)
				continue;
			err = add_ipc_ns(op, m);
			if (err)
				return err;
		}
	}
	return 0;
}

/**
 * fullfork_found_attach() - members have an attach of shared memory
 * @op: the operation
 * @ns: the namespace that the attach refers to
 * @internal: only members have it
 */
void fullfork_found_attach(struct fullfork *op, const struct ipc_namespace *ns, bool internal)
{
	struct fullfork_ipc_ns *entry = find_ipc_ns(op, ns);

	if (!entry)
		return;
	entry->nr_refs++;
	if (!internal)
		entry->external = true;
}

static int copy_ipc_ns(struct fullfork_ipc_ns *entry)
{
	struct isolate_scope scope;
	struct ipc_namespace *copy;

	if (entry->external || ns_ref_read(entry->original) != entry->nr_refs)
		return 0;
	fullfork_enter_scope(&scope, entry->owner);
	copy = fullfork_copy_ipc_ns(entry->original);
	fullfork_leave_scope(&scope);
	if (IS_ERR(copy))
		return PTR_ERR(copy);
	entry->copy = copy;
	return 0;
}

/**
 * fullfork_copy_ipc_namespaces() - copy those that only members refer to
 * @op: the operation, for which all references were found
 *
 * Return: 0, -ENOMEM, -EINTR or another error for a limit.
 */
int fullfork_copy_ipc_namespaces(struct fullfork *op)
{
	struct fullfork_ipc_ns *entry;
	int err;

	list_for_each_entry(entry, &op->ipc_namespaces, node) {
		err = copy_ipc_ns(entry);
		if (err)
			return err;
	}
	return 0;
}

/**
 * fullfork_copied_ipc_ns() - what a replica has in place of an IPC namespace
 * @op: the operation
 * @ns: that of originals
 *
 * Return: the copy, or NULL if it is shared.
 */
struct ipc_namespace *fullfork_copied_ipc_ns(struct fullfork *op, const struct ipc_namespace *ns)
{
	struct fullfork_ipc_ns *entry = find_ipc_ns(op, ns);

	return entry ? entry->copy : NULL;
}

static int copy_adjustments(struct fullfork *op, struct fullfork_member *m)
{
	struct isolate_scope scope;
	int err;

	if (fullfork_has_exited(m) || m->owners[FULLFORK_SYSVSEM] != m ||
	    !fullfork_copied_ipc_ns(op, m->original->nsproxy->ipc_ns))
		return 0;
	fullfork_enter_scope(&scope, m);
	err = fullfork_copy_adjustments(m->original, m->replica);
	fullfork_leave_scope(&scope);
	return err;
}

/**
 * fullfork_link_ipc_namespaces() - let what is in them refer to replicas
 * @op: the operation, with all replicas prepared
 *
 * Return: 0, -ENOMEM or -EINTR.
 */
int fullfork_link_ipc_namespaces(struct fullfork *op)
{
	struct fullfork_ipc_ns *entry;
	struct fullfork_member *m;
	struct fullfork_group *g;
	int err = 0;

	if (list_empty(&op->ipc_namespaces))
		return 0;
	list_for_each_entry(entry, &op->ipc_namespaces, node)
		if (!err && entry->copy)
			err = fullfork_link_ipc_ns(entry->original, entry->copy, op->isolation);
	list_for_each_entry(g, &op->groups, node)
		list_for_each_entry(m, &g->members, node)
			err = err ?: copy_adjustments(op, m);
	return err;
}

/**
 * fullfork_enter_ipc_ns() - let a task be in another IPC namespace
 * @p: a task that nobody can see yet, with an nsproxy of its own
 * @ns: the namespace
 */
void fullfork_enter_ipc_ns(struct task_struct *p, struct ipc_namespace *ns)
{
	struct nsproxy *nsproxy = p->nsproxy;
	struct ipc_namespace *old = nsproxy->ipc_ns;

	nsproxy->ipc_ns = get_ipc_ns(ns);
	ns_ref_active_get(ns);
	ns_ref_active_put(old);
	put_ipc_ns(old);
}

/**
 * fullfork_new_ipc_ns() - an IPC namespace that nobody is in
 *
 * It is like that of current, but there is nothing in it.
 *
 * Return: the namespace; NULL if current is in the initial one; -ENOMEM or -EAGAIN.
 */
struct ipc_namespace *fullfork_new_ipc_ns(void)
{
	struct ipc_namespace *ns = current->nsproxy->ipc_ns;

	if (ns == init_nsproxy.ipc_ns)
		return NULL;
	ns = copy_ipcs(CLONE_NEWIPC, ns->user_ns, ns);
	if (IS_ERR(ns))
		return ERR_PTR(PTR_ERR(ns) == -ENOMEM ? -ENOMEM : -EAGAIN);
	return ns;
}

/**
 * fullfork_put_ipc_namespaces() - those that have replicas keep them
 * @op: the operation
 */
void fullfork_put_ipc_namespaces(struct fullfork *op)
{
	struct fullfork_ipc_ns *entry, *next;

	list_for_each_entry_safe(entry, next, &op->ipc_namespaces, node) {
		if (entry->copy)
			put_ipc_ns(entry->copy);
		kfree(entry);
	}
	INIT_LIST_HEAD(&op->ipc_namespaces);
}
