// SPDX-License-Identifier: GPL-2.0
/*
 * The table of TIDs that a full fork hands to its caller.
 */
#include "fullfork_selftest.h"

FIXTURE(process)
{
	struct workers ws;
	struct fullfork_args args;
	struct fullfork_tid_map *map;
	unsigned int entries;
	size_t map_bytes;
	struct census census;
	sigset_t sigchld;
};

FIXTURE_VARIANT(process)
{
	unsigned int threads;
};

FIXTURE_VARIANT_ADD(process, with_1_thread) { .threads = 1 };
FIXTURE_VARIANT_ADD(process, with_2_threads) { .threads = 2 };
FIXTURE_VARIANT_ADD(process, with_8_threads) { .threads = 8 };
/* The table is larger than a page. */
FIXTURE_VARIANT_ADD(process, with_520_threads) { .threads = 520 };

/* The table ends where its mapping ends, and no page follows. */
FIXTURE_SETUP(process)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *addr;

	require_fullfork(_metadata);
	self->sigchld = block_signal(_metadata, SIGCHLD);
	start_workers(_metadata, &self->ws, variant->threads - 1, NULL,
		      record_worker);

	self->entries = variant->threads + 3;
	self->map_bytes = self->entries * sizeof(*self->map);
	self->map_bytes = (self->map_bytes + page - 1) / page * page;
	addr = mmap(NULL, self->map_bytes + page, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, addr);
	ASSERT_EQ(0, mprotect(addr + self->map_bytes, page, PROT_NONE));
	self->map = (void *)(addr + self->map_bytes);
	self->map -= self->entries;
	poison(self->map, self->entries);

	self->args.flags = CLONE_ALL_THREADS;
	self->args.exit_signal = SIGCHLD;
	self->args.tid_map = ptr_to_u64(self->map);
	self->args.tid_map_size = self->entries;
	self->census = take_census();
}

FIXTURE_TEARDOWN(process)
{
	join_workers(_metadata, &self->ws);
}

static long call(struct fullfork_args *args, struct workers *ws)
{
	return replica_main(sys_clone3(args, sizeof(*args)),
			    run_replica_workers, ws);
}

/* The control of the tests that expect a refusal. */
#define expect_call_passes()						\
do {									\
	long __pid = call(&self->args, &self->ws);			\
									\
	ASSERT_LT(0, __pid);						\
	expect_pass(_metadata, __pid);					\
	EXPECT_EQ(self->ws.count, report->recorded);			\
} while (0)

TEST_F_LONG(process, names_every_thread)
{
	unsigned int i, k;
	long pid;

	pid = call(&self->args, &self->ws);
	ASSERT_LT(0, pid);
	/* Complete when the call returns, not some time later. */
	EXPECT_EQ(getpid(), self->map[0].original);
	EXPECT_EQ(pid, self->map[0].replica);
	for (i = 1; i < variant->threads; i++)
		EXPECT_NE(0, self->map[i].replica);
	expect_pass(_metadata, pid);

	/* Each replica has told its TID and that of its original. */
	EXPECT_EQ(self->ws.count, report->recorded);
	for (i = 0; i < self->ws.count; i++) {
		struct report_slot *slot = &report->slot[i];
		unsigned int found = 0;

		for (k = 1; k < variant->threads; k++)
			found += self->map[k].original == slot->value[0] &&
				 self->map[k].replica == (__u32)slot->tid;
		EXPECT_EQ(1, found);
	}
}

TEST_F_LONG(process, clears_the_other_entries)
{
	unsigned int i;
	long pid;

	pid = call(&self->args, &self->ws);
	ASSERT_LT(0, pid);
	for (i = variant->threads; i < self->entries; i++) {
		EXPECT_EQ(0, self->map[i].original);
		EXPECT_EQ(0, self->map[i].replica);
	}
	expect_pass(_metadata, pid);
}

TEST_F_LONG(process, takes_a_table_that_just_fits)
{
	self->args.tid_map_size = variant->threads;
	expect_call_passes();
	EXPECT_TRUE(is_poisoned(self->map + variant->threads, 3));
}

TEST_F_LONG(process, rejects_too_few_entries)
{
	self->args.tid_map_size = variant->threads - 1;
	EXPECT_EQ(-E2BIG, call(&self->args, &self->ws));
	EXPECT_TRUE(is_poisoned(self->map, self->entries));
	expect_nothing_left(_metadata, self->census, &self->sigchld);

	self->args.tid_map_size++;
	expect_call_passes();
}

TEST_F_LONG(process, rejects_size_without_address)
{
	self->args.tid_map = 0;
	EXPECT_EQ(-EFAULT, call(&self->args, &self->ws));
	expect_nothing_left(_metadata, self->census, &self->sigchld);

	self->args.tid_map = ptr_to_u64(self->map);
	expect_call_passes();
}

TEST_F_LONG(process, rejects_bad_address)
{
	/* Behind the table, and in the upper half of the address space. */
	self->args.tid_map = ptr_to_u64(self->map + self->entries);
	EXPECT_EQ(-EFAULT, call(&self->args, &self->ws));
	self->args.tid_map = 1ULL << 63;
	EXPECT_EQ(-EFAULT, call(&self->args, &self->ws));
	expect_nothing_left(_metadata, self->census, &self->sigchld);

	self->args.tid_map = ptr_to_u64(self->map);
	expect_call_passes();
}

TEST_F_LONG(process, rejects_table_with_a_bad_end)
{
	/* The last entry is the one that cannot be written. */
	self->args.tid_map_size = self->entries + 1;
	EXPECT_EQ(-EFAULT, call(&self->args, &self->ws));
	EXPECT_TRUE(is_poisoned(self->map, self->entries));
	expect_nothing_left(_metadata, self->census, &self->sigchld);

	self->args.tid_map_size = self->entries;
	expect_call_passes();
}

TEST_F_LONG(process, rejects_read_only_table)
{
	void *start = (char *)(self->map + self->entries) - self->map_bytes;

	ASSERT_EQ(0, mprotect(start, self->map_bytes, PROT_READ));
	EXPECT_EQ(-EFAULT, call(&self->args, &self->ws));
	EXPECT_TRUE(is_poisoned(self->map, self->entries));
	expect_nothing_left(_metadata, self->census, &self->sigchld);

	ASSERT_EQ(0, mprotect(start, self->map_bytes, PROT_READ | PROT_WRITE));
	expect_call_passes();
}

TEST_HARNESS_MAIN
