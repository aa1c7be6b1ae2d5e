// SPDX-License-Identifier: GPL-2.0
/*
 * PID namespaces inside the tree: where a member is the init of one, replicas
 * have one of their own, with the same TIDs inside.  Others are joined.
 */
#include "fullfork_tree.h"
#include "fullfork_pidns.h"

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/* An ID that no other process has. */
#define LONELY_ID 54321

static long keep_capabilities(struct tree_node *self, long mask)
{
	return result_of(set_capabilities(mask));
}

static long become(struct tree_node *self, long uid)
{
	return result_of(syscall(__NR_setresuid, uid, uid, uid)) ?:
	       result_of(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

static long kill_pid(struct tree_node *self, long pid)
{
	return result_of(kill(pid, SIGKILL));
}

/* What names the PID namespace of a node; empty if it is not there. */
static const char *ns_of(enum side side, unsigned int node)
{
	static char link[8][NS_LINK_SIZE];
	static unsigned int next;
	char *ns = link[next++ % ARRAY_SIZE(link)];

	if (!pid_ns_of(pid_of(side, node), ns))
		*ns = '\0';
	return ns;
}

/* The TIDs of a task in all namespaces below the one that the test is in. */
static const char *tids_below(enum side side, unsigned int node, int levels)
{
	static char text[4][128];
	static unsigned int next;
	char *tids = text[next++ % ARRAY_SIZE(text)];

	if (!read_status_field(pid_of(side, node), tid_of(side, node), "NSpid",
			       tids, sizeof(text[0])))
		return "none";
	while (levels-- && tids)
		tids = strchr(tids, '\t') ? strchr(tids, '\t') + 1 : NULL;
	return tids ?: "none";
}

/*
 *	root -> holder -> init of a namespace, and a thread of it
 *				inner -> leaf
 *				zombie
 */
FIXTURE(nested)
{
	unsigned int root, holder, init, thread, inner, leaf, zombie;
};

FIXTURE_SETUP(nested)
{
	setup_tree(_metadata);
	require_root(_metadata, "PID namespaces");
	self->root = start_tree();
	self->holder = child_of(self->root);
	self->init = clone_of(self->holder, CLONE_NEWPID, SIGCHLD);
	self->thread = thread_of(self->init);
	self->inner = child_of(self->thread);
	self->leaf = child_of(self->inner);
	self->zombie = child_of(self->init);
	end_node(ORIGINAL, self->zombie, 3);
}

FIXTURE_TEARDOWN(nested)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(nested, namespace_is_another_one)
{
	const char *ns;

	copy_by(self->root, BOTH);
	ns = ns_of(REPLICA, self->init);
	EXPECT_STRNE("", ns);
	EXPECT_STRNE(ns_of(ORIGINAL, self->init), ns);
	EXPECT_STREQ(ns, ns_of(REPLICA, self->inner));
	EXPECT_STREQ(ns, ns_of(REPLICA, self->leaf));
	EXPECT_STREQ(ns_of(ORIGINAL, self->root), ns_of(REPLICA, self->holder));
	EXPECT_STREQ(ns_of(ORIGINAL, self->root), ns_of(REPLICA, self->root));
	/* With the zombie. */
	EXPECT_EQ(4, count_in_pid_ns(ns_of(ORIGINAL, self->init), NULL));
	EXPECT_EQ(4, count_in_pid_ns(ns, NULL));
}

TEST_F_GUARDED(nested, namespace_keeps_tids)
{
	unsigned int node;

	copy_by(self->root, BOTH);
	for (node = self->init; node < tree_count; node++) {
		EXPECT_STREQ(tids_below(ORIGINAL, node, 1),
			     tids_below(REPLICA, node, 1));
		EXPECT_NE(tid_of(ORIGINAL, node), tid_of(REPLICA, node));
	}
	EXPECT_EQ(1, ask(REPLICA, self->init, get_pid, 0));
	EXPECT_EQ(slot_of(ORIGINAL, self->leaf)->pid,
		  ask(REPLICA, self->leaf, get_pid, 0));
	/* But outside of it they are new. */
	EXPECT_STREQ("none", tids_below(REPLICA, self->holder, 1));
	EXPECT_NE(pid_of(ORIGINAL, self->holder), pid_of(REPLICA, self->holder));
}

TEST_F_GUARDED(nested, namespace_keeps_parents)
{
	copy_by(self->root, BOTH);
	EXPECT_EQ(0, ask(REPLICA, self->init, get_parent, 0));
	EXPECT_EQ(1, ask(REPLICA, self->inner, get_parent, 0));
	EXPECT_EQ(slot_of(ORIGINAL, self->inner)->pid,
		  ask(REPLICA, self->leaf, get_parent, 0));
	EXPECT_EQ(pid_of(REPLICA, self->holder),
		  status_number(pid_of(REPLICA, self->init), "PPid"));
}

TEST_F_GUARDED(nested, namespace_keeps_zombies)
{
	copy_by(self->root, BOTH);
	EXPECT_EQ('Z', task_state(pid_of(REPLICA, self->zombie),
				  pid_of(REPLICA, self->zombie)));
	/* By the PID that the original has known it by. */
	EXPECT_EQ(3 << 8, ask(REPLICA, self->init, wait_pid_now,
			      slot_of(ORIGINAL, self->zombie)->pid));
	EXPECT_EQ(3 << 8, ask(ORIGINAL, self->init, wait_now, self->zombie));
}

TEST_F_GUARDED(nested, namespace_ends_alone_with_its_init)
{
	char ns[NS_LINK_SIZE];
	pid_t pid;

	copy_by(self->root, BOTH);
	ASSERT_TRUE(pid_ns_of(pid_of(REPLICA, self->init), ns));
	pid = pid_of(REPLICA, self->init);
	signal_node(REPLICA, self->init, SIGKILL);
	EXPECT_EQ(SIGKILL, ask(REPLICA, self->holder, wait_pid_for, pid));
	EXPECT_TRUE(is_gone(pid_of(REPLICA, self->inner)));
	EXPECT_TRUE(is_gone(pid_of(REPLICA, self->leaf)));
	EXPECT_EQ(0, count_in_pid_ns(ns, NULL));
	tree_expect_alive(_metadata, ORIGINAL);
	EXPECT_EQ(0, ask(REPLICA, self->root, be_there, 0));
}

TEST_F_GUARDED(nested, namespace_of_originals_ends_alone_with_its_init)
{
	pid_t pid = pid_of(ORIGINAL, self->init);

	copy_by(self->root, BOTH);
	signal_node(ORIGINAL, self->init, SIGKILL);
	EXPECT_EQ(SIGKILL, ask(ORIGINAL, self->holder, wait_pid_for, pid));
	EXPECT_TRUE(is_gone(pid_of(ORIGINAL, self->leaf)));
	tree_expect_alive(_metadata, REPLICA);
}

TEST_F_GUARDED(nested, namespace_has_its_init_adopt_orphans)
{
	copy_by(self->root, BOTH);
	tell(REPLICA, self->inner, end_process, 4);
	EXPECT_EQ(4 << 8, ask(REPLICA, self->init, wait_for, self->inner));
	EXPECT_EQ(1, ask(REPLICA, self->leaf, get_parent, 0));
	end_node(REPLICA, self->leaf, 5);
	EXPECT_EQ(5 << 8, ask(REPLICA, self->init, wait_for, self->leaf));
}

/* Signals from inside that it does not handle do nothing to an init. */
TEST_F_GUARDED(nested, namespace_protects_its_init)
{
	copy_by(self->root, BOTH);
	EXPECT_EQ(0, ask(REPLICA, self->inner, terminate, 1));
	EXPECT_EQ(0, ask(REPLICA, self->inner, kill_pid, 1));
	EXPECT_EQ(0, ask(REPLICA, self->init, be_there, 0));
	EXPECT_EQ(0, ask(REPLICA, self->leaf, be_there, 0));
	/* Its children are not protected. */
	EXPECT_EQ(0, ask(REPLICA, self->init, terminate,
			 slot_of(ORIGINAL, self->leaf)->pid));
	EXPECT_EQ(SIGTERM, ask(REPLICA, self->inner, wait_for, self->leaf));
}

TEST_F_GUARDED(nested, namespace_is_where_new_members_are_born)
{
	unsigned int node;

	copy_by(self->root, BOTH);
	node = tree_add(_metadata, REPLICA, self->leaf, false, 0, SIGCHLD);
	EXPECT_STREQ(ns_of(REPLICA, self->init), ns_of(REPLICA, node));
	EXPECT_EQ(slot_of(ORIGINAL, self->leaf)->pid,
		  ask(REPLICA, node, get_parent, 0));
	node = tree_add(_metadata, REPLICA, self->holder, false, 0, SIGCHLD);
	EXPECT_STREQ(ns_of(ORIGINAL, self->root), ns_of(REPLICA, node));
}

TEST_F_GUARDED(nested, namespaces_two_deep_are_copied)
{
	unsigned int init, thread, leaf, node;

	init = clone_of(self->leaf, CLONE_NEWPID, SIGCHLD);
	thread = thread_of(init);
	leaf = child_of(thread);
	copy_by(self->root, BOTH);
	EXPECT_STRNE(ns_of(ORIGINAL, init), ns_of(REPLICA, init));
	EXPECT_STRNE(ns_of(REPLICA, self->leaf), ns_of(REPLICA, init));
	EXPECT_STREQ(ns_of(REPLICA, init), ns_of(REPLICA, leaf));
	EXPECT_STREQ(ns_of(REPLICA, self->init), ns_of(REPLICA, self->leaf));
	/* In both of them. */
	for (node = init; node <= leaf; node++)
		EXPECT_STREQ(tids_below(ORIGINAL, node, 1),
			     tids_below(REPLICA, node, 1));
	EXPECT_STRNE("none", tids_below(REPLICA, leaf, 2));

	/* The inner one ends alone. */
	signal_node(REPLICA, init, SIGKILL);
	EXPECT_TRUE(wait_until(is_gone(pid_of(REPLICA, leaf)), DEADLINE));
	EXPECT_EQ(0, ask(REPLICA, self->leaf, be_there, 0));
	EXPECT_EQ(0, ask(ORIGINAL, leaf, be_there, 0));
}

TEST_F_GUARDED(nested, namespaces_side_by_side_are_told_apart)
{
	unsigned int init = clone_of(self->holder, CLONE_NEWPID, SIGCHLD);
	unsigned int child = child_of(init);

	copy_by(self->root, BOTH);
	EXPECT_STRNE(ns_of(REPLICA, self->init), ns_of(REPLICA, init));
	EXPECT_STREQ(ns_of(REPLICA, init), ns_of(REPLICA, child));
	EXPECT_EQ(1, ask(REPLICA, init, get_pid, 0));
	EXPECT_EQ(1, ask(REPLICA, self->init, get_pid, 0));
	signal_node(REPLICA, init, SIGKILL);
	EXPECT_TRUE(wait_until(is_gone(pid_of(REPLICA, child)), DEADLINE));
	EXPECT_EQ(0, ask(REPLICA, self->leaf, be_there, 0));
}

TEST_F_GUARDED(nested, namespace_is_copied_from_outside)
{
	pid_t pid = copy_named(self->init, BOTH);

	EXPECT_EQ(getpid(), status_number(pid, "PPid"));
	EXPECT_EQ(1, inner_tid(pid, pid));
	EXPECT_STRNE(ns_of(ORIGINAL, self->init), ns_of(REPLICA, self->init));
	EXPECT_STREQ(ns_of(REPLICA, self->init), ns_of(REPLICA, self->leaf));
	EXPECT_STREQ(tids_below(ORIGINAL, self->leaf, 1),
		     tids_below(REPLICA, self->leaf, 1));
	EXPECT_EQ(1, ask(REPLICA, self->inner, get_parent, 0));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	xwaitpid(_metadata, pid, DEADLINE);
	EXPECT_TRUE(is_gone(pid_of(REPLICA, self->leaf)));
	tree_expect_alive(_metadata, ORIGINAL);
}

/* One level deeper than the original: that of the root is in the new one. */
TEST_F_GUARDED(nested, namespace_keeps_tids_below_kept_ones)
{
	unsigned int node;

	copy_by(self->root, BOTH | CLONE_KEEP_TIDS | CLONE_NEWPID);
	for (node = 0; node < tree_count; node++)
		EXPECT_STREQ(tids_below(ORIGINAL, node, 0),
			     tids_below(REPLICA, node, 1));
	EXPECT_STRNE(ns_of(REPLICA, self->root), ns_of(REPLICA, self->init));
	EXPECT_STREQ(ns_of(REPLICA, self->init), ns_of(REPLICA, self->leaf));
	EXPECT_EQ(pid_of(ORIGINAL, self->holder),
		  ask(REPLICA, self->holder, get_pid, 0));
	EXPECT_EQ(1, ask(REPLICA, self->init, get_pid, 0));

	/* So its holder still knows it. */
	EXPECT_EQ(0, ask(REPLICA, self->holder, kill_pid,
			 pid_of(ORIGINAL, self->init)));
	EXPECT_EQ(SIGKILL, ask(REPLICA, self->holder, wait_pid_for,
			       pid_of(ORIGINAL, self->init)));
	tree_expect_alive(_metadata, ORIGINAL);
}

TEST_F_GUARDED(nested, namespace_is_rejected_without_capability)
{
	const long mask = 1L << CAP_KILL;
	unsigned int node;
	int before;

	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));
	ASSERT_EQ(3 << 8, ask(ORIGINAL, self->init, wait_now, self->zombie));
	tree_nodes[self->zombie].state = NODE_GONE;
	end_replicas(self->root, copy_by(self->root, BOTH));
	reap_children();
	ASSERT_EQ(SIGCHLD, ask(ORIGINAL, self->root, take_signal_now, SIGCHLD));

	/* The same for all, so that each may be copied by the caller. */
	for (node = 0; node < tree_count; node++)
		if (tree_nodes[node].state == NODE_IDLE)
			ask(ORIGINAL, node, keep_capabilities, mask);
	before = count_tree(getpid());
	tree_set_args(BOTH);
	EXPECT_EQ(-EPERM, call_by(self->root));
	EXPECT_EQ(before, count_tree(getpid()));
	EXPECT_EQ(NOTHING_YET, ask(ORIGINAL, self->root, take_signal_now,
				   SIGCHLD));
	tree_expect_alive(_metadata, ORIGINAL);

	/* It is the namespace that it is about. */
	signal_node(ORIGINAL, self->init, SIGKILL);
	EXPECT_EQ(SIGKILL, ask(ORIGINAL, self->holder, wait_pid_for,
			       pid_of(ORIGINAL, self->init)));
	for (node = self->init; node < tree_count; node++)
		tree_nodes[node].state = NODE_GONE;
	copy_by(self->root, BOTH);
}

/* Namespaces that a member has entered, or made for its children only. */
FIXTURE(namespace)
{
	unsigned int root, holder;
	pid_t init;
};

FIXTURE_SETUP(namespace)
{
	setup_tree(_metadata);
	require_root(_metadata, "PID namespaces");
	self->root = start_tree();
	self->holder = child_of(self->root);
	self->init = start_init(_metadata, CLONE_NEWPID);
}

FIXTURE_TEARDOWN(namespace)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(namespace, of_an_init_outside_is_joined)
{
	unsigned int child, grandchild;
	char ns[NS_LINK_SIZE];

	ASSERT_TRUE(pid_ns_of(self->init, ns));
	ASSERT_EQ(0, ask(ORIGINAL, self->holder, enter_ns_of, self->init));
	child = child_of(self->holder);
	grandchild = child_of(child);
	ASSERT_STREQ(ns, ns_of(ORIGINAL, child));
	copy_by(self->root, BOTH);
	EXPECT_STREQ(ns, ns_of(REPLICA, child));
	EXPECT_STREQ(ns, ns_of(REPLICA, grandchild));
	EXPECT_EQ(5, count_in_pid_ns(ns, NULL));
	/* Where the TIDs of the originals are taken. */
	EXPECT_NE(slot_of(ORIGINAL, child)->pid,
		  ask(REPLICA, child, get_pid, 0));
	EXPECT_EQ(ask(REPLICA, child, get_pid, 0),
		  ask(REPLICA, grandchild, get_parent, 0));
}

TEST_F_GUARDED(namespace, that_is_joined_is_where_children_are_born)
{
	unsigned int node;
	char ns[NS_LINK_SIZE];

	ASSERT_TRUE(pid_ns_of(self->init, ns));
	ASSERT_EQ(0, ask(ORIGINAL, self->holder, enter_ns_of, self->init));
	copy_by(self->root, BOTH);
	node = tree_add(_metadata, REPLICA, self->holder, false, 0, SIGCHLD);
	EXPECT_STREQ(ns, ns_of(REPLICA, node));
	node = tree_add(_metadata, ORIGINAL, self->holder, false, 0, SIGCHLD);
	EXPECT_STREQ(ns, ns_of(ORIGINAL, node));
}

/* As unshare(1) does it: the maker itself stays where it was. */
TEST_F_GUARDED(namespace, that_was_unshared_is_copied_for_new_children)
{
	unsigned int init, second, node;

	ASSERT_EQ(0, ask(ORIGINAL, self->holder, unshare_it, CLONE_NEWPID));
	init = child_of(self->holder);
	second = child_of(self->holder);
	ASSERT_STREQ(ns_of(ORIGINAL, init), ns_of(ORIGINAL, second));
	copy_by(self->root, BOTH);
	EXPECT_STRNE(ns_of(ORIGINAL, init), ns_of(REPLICA, init));
	EXPECT_STREQ(ns_of(REPLICA, init), ns_of(REPLICA, second));
	EXPECT_EQ(1, ask(REPLICA, init, get_pid, 0));
	/* Not into the namespace of the originals. */
	node = tree_add(_metadata, REPLICA, self->holder, false, 0, SIGCHLD);
	EXPECT_STREQ(ns_of(REPLICA, init), ns_of(REPLICA, node));
}

TEST_F_GUARDED(namespace, is_copied_without_all_threads)
{
	unsigned int init = clone_of(self->holder, CLONE_NEWPID, SIGCHLD);
	unsigned int child = child_of(init);

	copy_by(self->root, CLONE_SUBTREE);
	EXPECT_STRNE(ns_of(ORIGINAL, init), ns_of(REPLICA, init));
	EXPECT_STREQ(ns_of(REPLICA, init), ns_of(REPLICA, child));
	EXPECT_STREQ(tids_below(ORIGINAL, child, 1),
		     tids_below(REPLICA, child, 1));
}

/* A user who has capabilities over what is below its own user namespace. */
TEST_F_GUARDED(namespace, of_its_own_user_namespace_needs_no_privilege)
{
	unsigned int init, child;

	ASSERT_EQ(0, ask(ORIGINAL, self->root, become, LONELY_ID));
	ASSERT_EQ(0, ask(ORIGINAL, self->holder, become, LONELY_ID));
	init = clone_of(self->root, CLONE_NEWUSER | CLONE_NEWPID, SIGCHLD);
	child = child_of(init);
	copy_by(self->root, BOTH);
	EXPECT_STRNE(ns_of(ORIGINAL, init), ns_of(REPLICA, init));
	EXPECT_STREQ(ns_of(REPLICA, init), ns_of(REPLICA, child));
	EXPECT_EQ(1, ask(REPLICA, init, get_pid, 0));
}

TEST_HARNESS_MAIN
