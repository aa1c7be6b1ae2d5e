// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: registers of threads that run in user mode
 *
 * Every thread keeps values of its own in all registers, in a loop that makes
 * no system call.  A full fork meets them between any two instructions.
 */

#include "fullfork_threads.h"
#include "fullfork_registers.h"

/*
 * A spin should be longer than a full fork, so that a thread is nearly always
 * copied inside the loop: with this many rounds it takes about 0.1 ms on a
 * real CPU and some milliseconds under emulation.
 */
#define SPIN_ROUNDS 200000

#define MAX_SPINNERS 4

struct spinner {
	pthread_t thread;
	unsigned int seed;
	__u32 rounds;
	__u32 bad;
};

static struct spinner spinners[MAX_SPINNERS];
static unsigned int spinner_count;
static unsigned int watched;	/* the BAD_* bits that the variant is about */
static __u32 stop;
static __thread __u64 tls_canary;

static void *spin(void *arg)
{
	struct spinner *s = arg;
	unsigned int bad;

	tls_canary = s->seed;
	while (!load(&stop)) {
		bad = spin_and_compare(s->seed, SPIN_ROUNDS);
		if (tls_canary != s->seed)
			bad |= BAD_TLS;
		__atomic_or_fetch(&s->bad, bad, __ATOMIC_SEQ_CST);
		add(&s->rounds, 1);
	}
	return NULL;
}

FIXTURE(spinning)
{
};

FIXTURE_VARIANT(spinning)
{
	unsigned int threads;
	unsigned int forks;
	unsigned int mask;
};

/*
 * One thread on the CPU that the caller leaves free is preempted seldom, so
 * it is met by the kick alone.  Four on any number of CPUs up to four are
 * also met while they are preempted, with their registers already saved.
 * Forks are as many as that where they take no time, and fewer elsewhere.
 */
FIXTURE_VARIANT_ADD(spinning, one_with_general_registers) { 1, 200, BAD_GPR };
FIXTURE_VARIANT_ADD(spinning, four_with_general_registers) { 4, 40, BAD_GPR };
FIXTURE_VARIANT_ADD(spinning, four_with_flags) { 4, 15, BAD_FLAGS };
FIXTURE_VARIANT_ADD(spinning, four_with_vector_registers) { 4, 15, BAD_VECTOR };
FIXTURE_VARIANT_ADD(spinning, four_with_x87_stack) { 4, 15, BAD_X87 };
FIXTURE_VARIANT_ADD(spinning, four_with_control_words) { 4, 15, BAD_CONTROL };
FIXTURE_VARIANT_ADD(spinning, four_with_tls) { 4, 15, BAD_TLS };

FIXTURE_SETUP(spinning)
{
	unsigned int i;

	setup_threads(_metadata);
	watched = variant->mask;
	spinner_count = variant->threads;
	for (i = 0; i < variant->threads; i++) {
		spinners[i].seed = i + 1;
		start_thread(&spinners[i].thread, spin, &spinners[i]);
	}
	for (i = 0; i < variant->threads; i++)
		ASSERT_TRUE(wait_until(load(&spinners[i].rounds), DEADLINE));
}

FIXTURE_TEARDOWN(spinning)
{
	unsigned int i;

	store(&stop, 1);
	for (i = 0; i < variant->threads; i++)
		join_thread(spinners[i].thread);
}

/* Two more rounds: the first is the one that the fork was in. */
static int check_spinners(void *arg)
{
	__u32 before[MAX_SPINNERS];
	struct spinner *s;
	unsigned int i;

	for (i = 0; i < spinner_count; i++)
		before[i] = load(&spinners[i].rounds);
	for (i = 0; i < spinner_count; i++) {
		s = &spinners[i];
		replica_assert(wait_until(load(&s->rounds) - before[i] >= 2,
					  DEADLINE / 2));
		replica_assert_eq(0, load(&s->bad) & watched);
	}
	return REPLICA_PASS;
}

TEST_F_GUARDED(spinning, are_unchanged_in_original_and_replica)
{
	struct rounds rounds = { .least = 5, .most = variant->forks };
	unsigned int i;

	while (next_round(&rounds) && !_metadata->exit_code)
		fork_and_pass(_metadata, 0, check_spinners, NULL);
	for (i = 0; i < variant->threads; i++)
		EXPECT_EQ(0, load(&spinners[i].bad) & watched);
}

static void *fork_in_thread(void *arg)
{
	long *pid = arg;
	long ret;

	tls_canary = 99;
	ret = replica_main(full_fork(0), check_spinners, NULL);
	__atomic_store_n(pid, ret, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Here the leader spins as well, and its replica leads the new process. */
TEST_F_GUARDED(spinning, are_unchanged_when_the_leader_is_copied_spinning)
{
	unsigned int bad;
	pthread_t thread;
	long pid = 0;

	tls_canary = 77;
	start_thread(&thread, fork_in_thread, &pid);
	do {
		bad = spin_and_compare(77, SPIN_ROUNDS);
		if (tls_canary != 77)
			bad |= BAD_TLS;
		if (bad & watched)
			break;
		/* The replica ends by the caller's replica_exit(). */
	} while (in_replica() || !__atomic_load_n(&pid, __ATOMIC_SEQ_CST));
	if (in_replica())
		replica_fail(__FILE__, __LINE__, "leader's registers", bad);
	EXPECT_EQ(0, bad & watched);
	join_thread(thread);
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
}

TEST_HARNESS_MAIN
