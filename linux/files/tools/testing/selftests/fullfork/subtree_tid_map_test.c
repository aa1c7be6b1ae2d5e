// SPDX-License-Identifier: GPL-2.0
/*
 * The table of TIDs of a copied tree: one entry for each member.
 */
#include "fullfork_tree.h"

#define SPARE 3

/* Where the table is; behind it is a page that nobody may access. */
static char *area;
static size_t area_bytes;

/*
 * A root with a child that has children, one of which is a zombie.  In the
 * variant with threads, each process has some, and children of threads.
 */
FIXTURE(tree)
{
	unsigned int root, thread, child, zombie, members;
	struct fullfork_tid_map *map;
	int processes;
};

FIXTURE_VARIANT(tree)
{
	__u64 flags;
	bool threads;
	unsigned int many;
};

FIXTURE_VARIANT_ADD(tree, of_single_threads) {
	.flags = CLONE_SUBTREE,
};

FIXTURE_VARIANT_ADD(tree, with_threads) {
	.flags = CLONE_SUBTREE | CLONE_ALL_THREADS, .threads = true,
};

FIXTURE_VARIANT_ADD(tree, of_many_with_threads) {
	.flags = CLONE_SUBTREE | CLONE_ALL_THREADS, .threads = true, .many = 40,
};

static unsigned int count_members(unsigned int caller)
{
	unsigned int node, count = 0;

	for (node = 0; node < tree_count; node++)
		count += is_member(node, caller);
	return count;
}

FIXTURE_SETUP(tree)
{
	size_t page = sysconf(_SC_PAGESIZE);
	unsigned int i, last, inner;

	setup_tree(_metadata);
	area_bytes = 4 * page;
	area = mmap(NULL, area_bytes + page, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, area);
	ASSERT_EQ(0, mprotect(area + area_bytes, page, PROT_NONE));

	self->root = start_tree();
	self->thread = self->root;
	if (variant->threads)
		self->thread = thread_of(self->root);
	self->child = child_of(self->thread);
	inner = self->child;
	if (variant->threads) {
		inner = thread_of(self->child);
		thread_of(self->child);
	}
	self->zombie = child_of(inner);
	last = child_of(inner);
	if (variant->threads)
		thread_of(last);
	child_of(self->root);
	child_of(last);
	for (i = 0; i < variant->many; i++)
		child_of(i & 1 ? last : self->thread);
	end_node(ORIGINAL, self->zombie, 1);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, block_node_signal, SIGCHLD));

	tree_set_args(variant->flags);
	self->members = count_members(self->root);
	self->map = (void *)(area + area_bytes);
	self->map -= self->members + SPARE;
	poison(self->map, self->members + SPARE);
	tree->args.tid_map = ptr_to_u64(self->map);
	tree->args.tid_map_size = self->members + SPARE;
	self->processes = count_tree(getpid());
}

FIXTURE_TEARDOWN(tree)
{
	teardown_tree(_metadata);
}

/* The index of a node in the table, or of none, the number of entries. */
static unsigned int find_entry(struct fullfork_tid_map *map,
			       unsigned int entries, unsigned int node)
{
	unsigned int i;

	for (i = 0; i < entries; i++)
		if (map[i].original == tid_of(ORIGINAL, node))
			break;
	return i;
}

#define entry_of(node) find_entry(self->map, self->members, node)

TEST_F_GUARDED(tree, has_an_entry_for_each_member)
{
	unsigned int node, entry, used = 0;
	pid_t pid = tree_copy(_metadata, self->root);

	for (node = 0; node < tree_count; node++) {
		if (!is_member(node, self->root))
			continue;
		entry = entry_of(node);
		ASSERT_GT(self->members, entry)
		{
			TH_LOG("no entry for node %u", node);
		}
		EXPECT_EQ(tid_of(REPLICA, node), self->map[entry].replica);
		used++;
	}
	/* So each is there once, and nobody else. */
	EXPECT_EQ(self->members, used);
	EXPECT_LT(0, pid);
}

TEST_F_GUARDED(tree, has_the_root_first)
{
	pid_t pid = tree_copy(_metadata, self->root);

	EXPECT_EQ(tid_of(ORIGINAL, self->root), self->map[0].original);
	EXPECT_EQ(pid, self->map[0].replica);
}

TEST_F_GUARDED(tree, has_parents_before_children)
{
	unsigned int node;

	tree_copy(_metadata, self->root);
	for (node = 0; node < tree_count; node++) {
		unsigned int maker = tree_nodes[node].maker;
		unsigned int leader = tree_nodes[maker].process;

		if (node == self->root || tree_nodes[node].process != node)
			continue;
		EXPECT_LT(entry_of(maker), entry_of(node))
		{
			TH_LOG("parent thread %u of node %u", maker, node);
		}
		EXPECT_LT(entry_of(leader), entry_of(node))
		{
			TH_LOG("parent %u of node %u", leader, node);
		}
	}
}

TEST_F_GUARDED(tree, has_leaders_before_their_threads)
{
	unsigned int node, leader, threads = 0;

	tree_copy(_metadata, self->root);
	for (node = 0; node < tree_count; node++) {
		leader = tree_nodes[node].process;
		if (leader == node)
			continue;
		threads++;
		EXPECT_LT(entry_of(leader), entry_of(node))
		{
			TH_LOG("thread %u of node %u", node, leader);
		}
	}
	EXPECT_EQ(variant->threads, threads > 0);
}

TEST_F_GUARDED(tree, has_an_entry_for_a_zombie)
{
	unsigned int entry;
	pid_t pid;

	tree_copy(_metadata, self->root);
	entry = entry_of(self->zombie);
	ASSERT_GT(self->members, entry);
	pid = self->map[entry].replica;
	EXPECT_EQ('Z', task_state(pid, pid));
}

TEST_F_GUARDED(tree, has_the_other_entries_cleared)
{
	unsigned int i;

	tree_copy(_metadata, self->root);
	for (i = self->members; i < self->members + SPARE; i++) {
		EXPECT_EQ(0, self->map[i].original);
		EXPECT_EQ(0, self->map[i].replica);
	}
}

TEST_F_GUARDED(tree, fits_in_a_table_of_its_size)
{
	tree->args.tid_map_size = self->members;
	tree_copy(_metadata, self->root);
	EXPECT_EQ(tid_of(ORIGINAL, self->root), self->map[0].original);
	EXPECT_FALSE(is_poisoned(self->map + self->members - 1, 1));
	EXPECT_TRUE(is_poisoned(self->map + self->members, SPARE));
}

TEST_F_GUARDED(tree, needs_no_table)
{
	tree->args.tid_map = 0;
	tree->args.tid_map_size = 0;
	tree_copy(_metadata, self->root);
	EXPECT_TRUE(is_poisoned(self->map, self->members + SPARE));
}

/* The call fails and leaves nothing. */
#define expect_refused(error)						\
do {									\
	EXPECT_EQ(-(error), call_by(self->root));			\
	EXPECT_TRUE(is_poisoned(self->map, self->members + SPARE));	\
	EXPECT_EQ(self->processes, count_tree(getpid()));		\
	EXPECT_EQ(NOTHING_YET,						\
		  ask(ORIGINAL, self->root, take_signal_now, SIGCHLD));	\
	EXPECT_EQ(NOTHING_YET,						\
		  ask(ORIGINAL, self->root, wait_pid_stopped_now, -1));	\
	tree_expect_alive(_metadata, ORIGINAL);				\
} while (0)

/* The control. */
#define expect_taken()							\
do {									\
	tree->args.tid_map = ptr_to_u64(self->map);			\
	tree->args.tid_map_size = self->members;			\
	tree_copy(_metadata, self->root);				\
	tree_meet_all(_metadata, self->root);				\
	EXPECT_FALSE(is_poisoned(self->map + self->members - 1, 1));	\
} while (0)

TEST_F_GUARDED(tree, rejects_a_table_that_is_too_small)
{
	tree->args.tid_map_size = self->members - 1;
	expect_refused(E2BIG);
	tree->args.tid_map_size = 1;
	expect_refused(E2BIG);
	expect_taken();
}

TEST_F_GUARDED(tree, rejects_a_table_at_a_bad_address)
{
	tree->args.tid_map = ptr_to_u64(area + area_bytes);
	expect_refused(EFAULT);
	tree->args.tid_map = 8;
	expect_refused(EFAULT);
	tree->args.tid_map = 1ULL << 63;
	expect_refused(EFAULT);
	expect_taken();
}

TEST_F_GUARDED(tree, rejects_a_table_with_a_bad_end)
{
	tree->args.tid_map_size = self->members + SPARE + 1;
	expect_refused(EFAULT);
	expect_taken();
}

static long protect_area(struct tree_node *self, long prot)
{
	return result_of(mprotect(area, area_bytes, prot));
}

TEST_F_GUARDED(tree, rejects_a_read_only_table)
{
	ASSERT_EQ(0, ask(ORIGINAL, self->root, protect_area, PROT_READ));
	expect_refused(EFAULT);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, protect_area,
			 PROT_READ | PROT_WRITE));
	expect_taken();
}

TEST_F_GUARDED(tree, rejects_a_size_without_address)
{
	tree->args.tid_map = 0;
	expect_refused(EFAULT);
	expect_taken();
}

TEST_F_GUARDED(tree, rejects_a_table_without_its_flags)
{
	__u64 flags = tree->args.flags;

	tree->args.flags = 0;
	expect_refused(EINVAL);
	tree->args.flags = flags;
	expect_taken();
}

TEST_F_GUARDED(tree, leaves_all_results_alone_when_it_fails)
{
	tree->args.flags |= CLONE_PIDFD | CLONE_PARENT_SETTID;
	tree->args.pidfd = ptr_to_u64(&tree->pidfd);
	tree->args.parent_tid = ptr_to_u64(&tree->parent_tid);
	tree->args.tid_map_size = self->members - 1;
	tree->pidfd = -11;
	tree->parent_tid = -12;
	expect_refused(E2BIG);
	EXPECT_EQ(-11, tree->pidfd);
	EXPECT_EQ(-12, tree->parent_tid);
	expect_taken();
	EXPECT_LE(0, tree->pidfd);
	EXPECT_EQ(self->map[0].replica, tree->parent_tid);
}

/* The caller leads its replica if it is all that is copied of its process. */
FIXTURE(second_thread)
{
	unsigned int root, thread;
};

FIXTURE_SETUP(second_thread)
{
	setup_tree(_metadata);
	self->root = start_tree();
	self->thread = thread_of(self->root);
	child_of(self->root);
	child_of(self->thread);
	poison(tree->map, 5);
}

FIXTURE_TEARDOWN(second_thread)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(second_thread, is_first_if_it_is_copied_alone)
{
	pid_t pid;

	tree_set_args(CLONE_SUBTREE);
	tree->args.tid_map = ptr_to_u64(tree->map);
	tree->args.tid_map_size = 4;
	pid = tree_copy(_metadata, self->thread);
	EXPECT_EQ(tid_of(ORIGINAL, self->thread), tree->map[0].original);
	EXPECT_EQ(pid, tree->map[0].replica);
	EXPECT_NE(0, tree->map[2].replica);
	EXPECT_EQ(0, tree->map[3].replica);
	EXPECT_EQ(POISON, tree->map[4].replica);
}

TEST_F_GUARDED(second_thread, comes_after_its_leader_if_all_are_copied)
{
	pid_t pid;

	tree_set_args(CLONE_SUBTREE | CLONE_ALL_THREADS);
	tree->args.tid_map = ptr_to_u64(tree->map);
	tree->args.tid_map_size = 4;
	pid = tree_copy(_metadata, self->thread);
	EXPECT_EQ(tid_of(ORIGINAL, self->root), tree->map[0].original);
	EXPECT_EQ(pid, tree->map[0].replica);
	EXPECT_NE(0, tree->map[3].replica);
	EXPECT_EQ(POISON, tree->map[4].replica);
}

TEST_HARNESS_MAIN
