// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: memory
 */

#include "fullfork_sync.h"
#include <sys/mman.h>
#include <sys/resource.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#define PR_MDWE_NO_INHERIT 2
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

#define PAGES 64
/* 200 MB: the page tables alone take hundreds of pages to copy. */
#define LARGE_SIZE (200UL << 20)

static long page_size;
static __u32 *pages;		/* one word of each page is looked at */
static __u32 *shared;

static __u32 *word_of_page(__u32 *base, long page)
{
	return (void *)((char *)base + page * page_size);
}

static void fill(__u32 *base, long count, __u32 value)
{
	long i;

	for (i = 0; i < count; i++)
		store(word_of_page(base, i), value + i);
}

static bool is_filled(__u32 *base, long count, __u32 value)
{
	long i;

	for (i = 0; i < count; i++)
		if (load(word_of_page(base, i)) != value + i)
			return false;
	return true;
}

static __u32 *map(size_t size, int flags)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags,
		    -1, 0);
}

FIXTURE(memory)
{
};

FIXTURE_SETUP(memory)
{
	setup_threads(_metadata);
	page_size = sysconf(_SC_PAGESIZE);
	pages = map(PAGES * page_size, MAP_PRIVATE);
	ASSERT_NE(MAP_FAILED, (void *)pages);
	shared = map(PAGES * page_size, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, (void *)shared);
}

FIXTURE_TEARDOWN(memory)
{
}

/* Runs @fn in the replica of the caller with two threads beside it. */
static void run_beside_threads(struct __test_metadata *_metadata,
			       int (*fn)(void *arg))
{
	start_sleepers(_metadata, 2, pass_gate);
	run_in_replica(_metadata, false, fn);
	end_threads(_metadata, 2);
}

enum {
	WORD_ORIGINAL_WROTE,
	WORD_REPLICA_WROTE,
};

/* Here threads write, not the callers: all page tables must have changed. */
static void *write_at_gate(void *arg)
{
	arrive((long)arg);
	pass_own_gate();
	fill(pages, PAGES, 100 * own_side());
	return arg + 100;
}

static int write_replica(void *arg)
{
	replica_assert(wait_until(load(&report->word[WORD_ORIGINAL_WROTE]),
				  DEADLINE));
	replica_assert(is_filled(pages, PAGES, 7));
	open_own_gate();
	replica_assert_eq(REPLICA_PASS, join_threads(1));
	replica_assert(is_filled(pages, PAGES, 100 * SIDE_REPLICA));
	store(&report->word[WORD_REPLICA_WROTE], 1);
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, that_is_private_is_copied_on_write)
{
	struct step step = { .fn = write_replica };

	fill(pages, PAGES, 7);
	start_sleepers(_metadata, 1, write_at_gate);
	fork_in_thread(&step);
	ASSERT_LT(0, step.pid);
	end_threads(_metadata, 1);
	EXPECT_TRUE(is_filled(pages, PAGES, 100 * SIDE_ORIGINAL));
	store(&report->word[WORD_ORIGINAL_WROTE], 1);
	expect_pass(_metadata, step.pid);
	EXPECT_EQ(1, load(&report->word[WORD_REPLICA_WROTE]));
	EXPECT_TRUE(is_filled(pages, PAGES, 100 * SIDE_ORIGINAL));
}

static int write_shared(void *arg)
{
	replica_assert(is_filled(shared, PAGES, 7));
	fill(shared, PAGES, 9);
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, that_is_shared_stays_shared)
{
	fill(shared, PAGES, 7);
	run_beside_threads(_metadata, write_shared);
	EXPECT_TRUE(is_filled(shared, PAGES, 9));
}

static int find_wiped(void *arg)
{
	long i;

	for (i = 0; i < PAGES; i++)
		replica_assert_eq(0, load(word_of_page(pages, i)));
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, with_wipeonfork_is_wiped)
{
	ASSERT_EQ(0, madvise(pages, PAGES * page_size, MADV_WIPEONFORK));
	fill(pages, PAGES, 7);
	run_beside_threads(_metadata, find_wiped);
	EXPECT_TRUE(is_filled(pages, PAGES, 7));
}

static int find_locked(void *arg)
{
	replica_assert_eq(*(long *)arg, status_number(getpid(), "VmLck"));
	return REPLICA_PASS;
}

/* Unlike after fork(): the image did not agree to lose it. */
TEST_F_GUARDED(memory, that_is_locked_stays_locked)
{
	long locked;

	ASSERT_EQ(0, mlock(pages, 8 * page_size));
	start_sleepers(_metadata, 2, pass_gate);
	locked = status_number(getpid(), "VmLck");
	ASSERT_EQ(8 * page_size / 1024, locked);
	fork_and_pass(_metadata, 0, find_locked, &locked);
	EXPECT_EQ(locked, status_number(getpid(), "VmLck"));
	end_threads(_metadata, 2);
}

static int find_new_locked(void *arg)
{
	long before = status_number(getpid(), "VmLck");
	__u32 *mapped;

	replica_assert(before > 0);
	mapped = map(8 * page_size, MAP_PRIVATE);
	replica_assert(mapped != MAP_FAILED);
	replica_assert_eq(before + 8 * page_size / 1024,
			  status_number(getpid(), "VmLck"));
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, is_locked_in_future_too)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	require_root(_metadata, "mlockall");
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	start_sleepers(_metadata, 2, pass_gate);
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	ASSERT_LT(0, status_number(getpid(), "VmLck"));
	run_in_both(_metadata, false, find_new_locked);
	ASSERT_EQ(0, munlockall());
	end_threads(_metadata, 2);
}

static int find_no_exec_gain(void *arg)
{
	replica_assert_eq(PR_MDWE_REFUSE_EXEC_GAIN | PR_MDWE_NO_INHERIT,
			  prctl(PR_GET_MDWE, 0, 0, 0, 0));
	replica_assert_eq(-1, mprotect(pages, page_size, PROT_READ | PROT_EXEC));
	replica_assert_eq(EACCES, errno);
	return REPLICA_PASS;
}

/* NO_INHERIT is about children; a replica is the same image. */
TEST_F_GUARDED(memory, that_may_not_become_executable_stays_so)
{
	ASSERT_EQ(0, prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN |
			   PR_MDWE_NO_INHERIT, 0, 0, 0));
	run_beside_threads(_metadata, find_no_exec_gain);
}

static int find_no_huge_pages(void *arg)
{
	replica_assert_eq(1, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, without_huge_pages_stays_without)
{
	ASSERT_EQ(0, prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	run_beside_threads(_metadata, find_no_huge_pages);
}

static int find_merge(void *arg)
{
	replica_assert_eq(1, prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, that_may_be_merged_stays_so)
{
	int ret = prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);

	skip_unless(!ret || errno != EINVAL, return, "the kernel has no KSM");
	ASSERT_EQ(0, ret);
	run_beside_threads(_metadata, find_merge);
}

/* Touches half a megabyte of stack, page by page, from the top down. */
static int grow_main_stack(void *arg)
{
	char frame[512 << 10];
	long i;

	keep_in_memory(frame);
	for (i = sizeof(frame) - 1; i >= 0; i -= page_size)
		frame[i] = i >> 12;
	keep_in_memory(frame);
	for (i = sizeof(frame) - 1; i >= 0; i -= page_size)
		replica_assert_eq((char)(i >> 12), frame[i]);
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, of_the_stack_grows_in_the_replica)
{
	run_beside_threads(_metadata, grow_main_stack);
}

static int move_break(void *arg)
{
	char *end = sbrk(0);

	replica_assert(end == *(char **)arg);
	replica_assert(sbrk(1 << 20) == end);
	memset(end, 1, 1 << 20);
	replica_assert(sbrk(-(1 << 20)) == end + (1 << 20));
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, of_the_heap_grows_in_the_replica)
{
	char *end;

	start_sleepers(_metadata, 2, pass_gate);
	end = sbrk(0);
	fork_and_pass(_metadata, 0, move_break, &end);
	EXPECT_EQ(end, sbrk(0));
	end_threads(_metadata, 2);
}

static __u32 *large;

static int read_large(void *arg)
{
	replica_assert(is_filled(large, LARGE_SIZE / page_size, 5));
	fill(large, 64, 6);
	replica_assert(is_filled(large, 64, 6));
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, of_200_mb_is_copied)
{
	large = map(LARGE_SIZE, MAP_PRIVATE);
	ASSERT_NE(MAP_FAILED, (void *)large);
	fill(large, LARGE_SIZE / page_size, 5);
	run_beside_threads(_metadata, read_large);
	EXPECT_TRUE(is_filled(large, LARGE_SIZE / page_size, 5));
}

/*
 * One instant: a thread that never stops writes a counter to one page after
 * the other, and before it does so looks whether its last turn is there.  If
 * its memory were copied before its registers, some of its writes would be
 * missing in the replica.  A fork may happen to miss the writer between two
 * writes, so there are 50 of them, or 10 at least.
 */
static __u32 stop;
static __u32 turns;

static void *write_in_turns(void *arg)
{
	__u32 value;

	arrive((long)arg);
	for (value = PAGES; !load(&stop); value++) {
		__u32 *word = word_of_page(pages, value % PAGES);

		thread_check(load(word) == value - PAGES);
		store(word, value);
		if (value % PAGES == 0)
			add(&turns, 1);
	}
	return arg + 100;
}

/* Two turns see every page after the fork. */
static int look_for_writes(void *arg)
{
	__u32 before = load(&turns);

	replica_assert(wait_until(load(&turns) - before >= 2, DEADLINE));
	expect_no_thread_failed();
	return REPLICA_PASS;
}

TEST_F_GUARDED(memory, is_of_the_same_instant_as_registers)
{
	struct rounds rounds = { .least = 10, .most = 50 };

	fill(pages, PAGES, 0);
	start_thread(&threads[0], write_in_turns, NULL);
	ASSERT_TRUE(wait_until(load(&turns), DEADLINE));
	while (next_round(&rounds))
		run_in_replica(_metadata, false, look_for_writes);
	store(&stop, 1);
	EXPECT_EQ(REPLICA_PASS, join_threads(1));
}

TEST_HARNESS_MAIN
