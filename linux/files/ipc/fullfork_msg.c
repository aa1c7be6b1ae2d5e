// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: message queues.  A part of msg.c, which alone knows what they are made of.
 *
 * Copyright (c) 2026 The full fork developers
 */
#ifdef CONFIG_FULLFORK

#include <linux/sizes.h>

#include "fullfork.h"

/* More is not copied: it would be done under the lock of the queue. */
#define MOST_MESSAGES	16384
#define MOST_BYTES	SZ_4M

static struct msg_queue *msg_new_copy(void)
{
	struct msg_queue *copy = kzalloc_obj(*copy, GFP_KERNEL_ACCOUNT);
	int err;

	if (!copy)
		return ERR_PTR(-ENOMEM);
	err = security_msg_queue_alloc(&copy->q_perm);
	if (err) {
		kfree(copy);
		return ERR_PTR(err);
	}
	INIT_LIST_HEAD(&copy->q_messages);
	INIT_LIST_HEAD(&copy->q_receivers);
	INIT_LIST_HEAD(&copy->q_senders);
	return copy;
}

static void msg_free_copy(struct msg_queue *copy)
{
	struct msg_msg *msg, *next;

	list_for_each_entry_safe(msg, next, &copy->q_messages, m_list)
		free_msg(msg);
	put_pid(copy->q_lspid);
	put_pid(copy->q_lrpid);
	call_rcu(&copy->q_perm.rcu, msg_rcu_free);
}

/* The queue with that ID, locked, with RCU read lock; or an ERR_PTR() without. */
static struct msg_queue *msg_lock(struct ipc_namespace *ns, int id)
{
	struct msg_queue *msq;

	rcu_read_lock();
	msq = msq_obtain_object_check(ns, id);
	if (!IS_ERR(msq)) {
		ipc_lock_object(&msq->q_perm);
		if (ipc_valid_object(&msq->q_perm))
			return msq;
		ipc_unlock_object(&msq->q_perm);
	}
	rcu_read_unlock();
	return ERR_PTR(-EAGAIN);
}

/* How long its messages are: how many sizes there are, or an error. */
static long msg_list_sizes(struct ipc_namespace *ns, int id, size_t *sizes, unsigned long max)
{
	struct msg_queue *msq = msg_lock(ns, id);
	unsigned long nr = 0;
	struct msg_msg *msg;

	if (IS_ERR(msq))
		return PTR_ERR(msq);
	if (ipc_is_labelled(&msq->q_perm) || msq->q_qnum > MOST_MESSAGES ||
	    msq->q_cbytes > MOST_BYTES) {
		ipc_unlock(&msq->q_perm);
		return -EBUSY;
	}
	list_for_each_entry(msg, &msq->q_messages, m_list) {
		if (nr < max)
			sizes[nr] = msg->m_ts;
		nr++;
	}
	ipc_unlock(&msq->q_perm);
	return nr;
}

/* Messages with room for those of the queue, which cannot be made under its lock. */
static int msg_make_room(struct ipc_namespace *ns, int id, struct msg_queue *copy)
{
	long i, nr, max = msg_list_sizes(ns, id, NULL, 0);
	struct msg_msg *msg;
	size_t *sizes;
	int err = 0;

	if (max <= 0)
		return max;
	sizes = kvmalloc_array(max, sizeof(*sizes), GFP_KERNEL_ACCOUNT);
	if (!sizes)
		return -ENOMEM;
	nr = msg_list_sizes(ns, id, sizes, max);
	/* Somebody found the queue, and uses it. */
	if (nr != max)
		err = -EAGAIN;
	for (i = 0; !err && i < nr; i++) {
		msg = new_msg(sizes[i]);
		if (IS_ERR(msg))
			err = PTR_ERR(msg);
		else
			list_add_tail(&msg->m_list, &copy->q_messages);
		if (fatal_signal_pending(current))
			err = -EINTR;
	}
	kvfree(sizes);
	return err;
}

static int msg_fill(struct msg_queue *msq, struct msg_queue *copy)
{
	struct msg_msg *from, *to;

	to = list_first_entry(&copy->q_messages, struct msg_msg, m_list);
	list_for_each_entry(from, &msq->q_messages, m_list) {
		if (list_entry_is_head(to, &copy->q_messages, m_list) ||
		    IS_ERR(copy_msg(from, to)))
			return -EAGAIN;
		copy->q_cbytes += to->m_ts;
		copy->q_qnum++;
		to = list_next_entry(to, m_list);
	}
	return list_entry_is_head(to, &copy->q_messages, m_list) ? 0 : -EAGAIN;
}

/* At one instant.  Who waits to send or to receive is a member, and does so again. */
static int msg_copy_state(struct ipc_namespace *ns, int id, struct msg_queue *copy,
			  struct ipc_identity *identity)
{
	struct msg_queue *msq = msg_lock(ns, id);
	int err;

	if (IS_ERR(msq))
		return PTR_ERR(msq);
	ipc_get_identity(&msq->q_perm, identity);
	copy->q_stime = msq->q_stime;
	copy->q_rtime = msq->q_rtime;
	copy->q_ctime = msq->q_ctime;
	copy->q_qbytes = msq->q_qbytes;
	copy->q_lspid = get_pid(msq->q_lspid);
	copy->q_lrpid = get_pid(msq->q_lrpid);
	err = msg_fill(msq, copy);
	ipc_unlock(&msq->q_perm);
	return err;
}

static int msg_add_copy(struct ipc_namespace *ns, struct msg_queue *copy,
			const struct ipc_identity *identity)
{
	int err;

	guard(rwsem_write)(&msg_ids(ns).rwsem);
	err = ipc_add_copy(&msg_ids(ns), &copy->q_perm, identity, ns->msg_ctlmni, true);
	if (err)
		return err;
	percpu_counter_add_local(&ns->percpu_msg_bytes, copy->q_cbytes);
	percpu_counter_add_local(&ns->percpu_msg_hdrs, copy->q_qnum);
	ipc_unlock(&copy->q_perm);
	return 0;
}

/**
 * fullfork_copy_msg() - copy a message queue with its messages
 * @from: the namespace that has it
 * @id: its ID
 * @to: the namespace that is to have the same
 *
 * Return: 0, -ENOMEM, -EINTR, -EAGAIN or what a security module says.
 */
int fullfork_copy_msg(struct ipc_namespace *from, int id, struct ipc_namespace *to)
{
	struct msg_queue *copy = msg_new_copy();
	struct ipc_identity identity = {};
	int err;

	if (IS_ERR(copy))
		return PTR_ERR(copy);
	err = msg_make_room(from, id, copy) ?: msg_copy_state(from, id, copy, &identity) ?:
	      msg_add_copy(to, copy, &identity);
	if (err)
		msg_free_copy(copy);
	return err;
}

/**
 * fullfork_link_msg() - who sent and received last, was a member, and is its replica
 * @from: not looked at
 * @id: the ID of the queue
 * @to: the namespace that has the copy
 * @isolation: what was copied, with all replicas prepared
 *
 * Return: 0.
 */
int fullfork_link_msg(struct ipc_namespace *from, int id, struct ipc_namespace *to,
		      struct fullfork_isolation *isolation)
{
	struct msg_queue *msq = msg_lock(to, id);

	if (IS_ERR(msq))
		return 0;
	ipc_replace_pid(&msq->q_lspid, isolation);
	ipc_replace_pid(&msq->q_lrpid, isolation);
	ipc_unlock(&msq->q_perm);
	return 0;
}

#endif /* CONFIG_FULLFORK */
