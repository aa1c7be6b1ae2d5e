// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: several callers copy the same processes at once
 *
 * They wait for each other, and never for ever.  In a replica, who was inside
 * a call gets EAGAIN, and who was just before one makes it there: so every
 * process ends itself as soon as one of its threads sees that it is a replica.
 */

#include "fullfork_manager.h"

#define PROCESSES 4
#define MANAGERS 3
#define MIN_CALLS 3
#define MAX_CALLS 30
#define SECONDS 10

/* Words of the report */
enum {
	WORD_READY,
	WORD_GO,
	WORD_ENDED,		/* callers that have done all their calls */
	WORD_AGAIN,		/* replicas that got EAGAIN */
	WORD_CALLS,
};

/* What one process of the tree copies again and again. */
struct call {
	__u64 flags;
	/* It names the root, of which it is a descendant. */
	bool of_root;
};

struct callers {
	struct call call[PROCESSES];
	int managers;
	__u64 manager_flags;
};

static const struct callers *callers;
static int root_pidfd;
static long long end_time;

/* The root, two children, and a grandchild below the second of them. */
static const int parents[PROCESSES] = { -1, 0, 0, 2 };

static bool goes_on(int calls)
{
	return calls < MIN_CALLS || (calls < MAX_CALLS && now_ms() < end_time);
}

static void end_if_replica(void)
{
	if (in_replica())
		replica_exit(REPLICA_PASS);
}

static void *call_often(void *arg)
{
	const struct call *call = arg;
	struct fullfork_args args;
	int status, calls;
	long ret;

	add(&report->word[WORD_READY], 1);
	await_word(&report->word[WORD_GO], 1);
	for (calls = 0; goes_on(calls); calls++) {
		end_if_replica();
		init_args(&args, root_pidfd, call->flags |
			  (call->of_root ? CLONE_FROM_PIDFD : 0));
		ret = sys_clone3(&args, sizeof(args));
		if (in_replica()) {
			if (ret == -EAGAIN)
				add(&report->word[WORD_AGAIN], 1);
			else
				replica_assert(ret >= 0);
			replica_exit(REPLICA_PASS);
		}
		side_assert(ret > 0 || (errno = -ret, false));
		add(&report->word[WORD_CALLS], 1);
		if (waitpid(ret, &status, __WALL) == ret && !in_replica())
			side_assert(status == REPLICA_PASS << 8 ||
				    status == SIGKILL);
		end_if_replica();
	}
	end_if_replica();
	add(&report->word[WORD_ENDED], 1);
	return NULL;
}

static __noreturn void run_caller_process(int number)
{
	const struct call *call = &callers->call[number];
	pthread_t thread;
	int i;

	original_pid = sys_getpid();
	report->slot[number].pid = sys_getpid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!number)
		root_pidfd = sys_pidfd_open(sys_getpid());
	for (i = number + 1; i < PROCESSES; i++) {
		pid_t pid = parents[i] == number ? fork() : 1;

		side_assert(pid >= 0);
		if (!pid)
			run_caller_process(i);
	}
	if (call->flags)
		side_assert_eq(0, pthread_create(&thread, NULL, call_often,
						 (void *)call));
	add(&report->word[WORD_READY], 1);
	for (;;) {
		poll_pause();
		end_if_replica();
		add(&report->slot[number].recorded, 1);
	}
}

/* Every other copy is stopped, and never runs. */
static __noreturn void run_manager(int pidfd)
{
	pid_t test = getppid();
	int i, status, calls;
	long ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The table is its own, and not the one that all share. */
	shared = malloc(sizeof(*shared));
	replica_assert(shared);
	add(&report->word[WORD_READY], 1);
	await_word(&report->word[WORD_GO], 1);
	for (calls = 0; goes_on(calls); calls++) {
		ret = copy_with_map(pidfd, callers->manager_flags |
				    (calls & 1 ? CLONE_STOPPED : 0),
				    MAP_ENTRIES);
		replica_assert(ret > 0 || (errno = -ret, false));
		add(&report->word[WORD_CALLS], 1);
		for (i = 0; calls & 1 && map_has(i); i++)
			kill(shared->map[i].replica, SIGKILL);
		replica_assert_eq(ret, waitpid(ret, &status, 0));
		replica_assert(status == (calls & 1 ? SIGKILL :
					  REPLICA_PASS << 8));
	}
	replica_assert_eq(test, getppid());
	add(&report->word[WORD_ENDED], 1);
	replica_exit(REPLICA_PASS);
}

FIXTURE(tree)
{
	pid_t root;
	int callers;
	int ready;
};

FIXTURE_VARIANT(tree)
{
	struct callers callers;
};

FIXTURE_VARIANT_ADD(tree, with_ancestor_and_descendant) {
	{ .call = { [0] = { WHOLE_TREE }, [2] = { WHOLE_TREE } } },
};

FIXTURE_VARIANT_ADD(tree, with_every_process) {
	{
		.call = {
			{ WHOLE_TREE }, { WHOLE_TREE },
			{ WHOLE_TREE }, { WHOLE_TREE },
		},
	},
};

FIXTURE_VARIANT_ADD(tree, with_a_process_that_copies_itself_alone) {
	{ .call = { [0] = { WHOLE_TREE }, [3] = { CLONE_ALL_THREADS } } },
};

FIXTURE_VARIANT_ADD(tree, with_descendants_that_copy_the_root) {
	{
		.call = {
			[1] = { WHOLE_TREE, .of_root = true },
			[3] = { WHOLE_TREE, .of_root = true },
		},
	},
};

FIXTURE_VARIANT_ADD(tree, with_two_managers) {
	{ .managers = 2, .manager_flags = WHOLE_TREE },
};

FIXTURE_VARIANT_ADD(tree, with_a_manager_and_a_root_that_copies_itself) {
	{
		.call = { [0] = { CLONE_ALL_THREADS } },
		.managers = 1,
		.manager_flags = WHOLE_TREE,
	},
};

FIXTURE_VARIANT_ADD(tree, with_managers_of_the_root_alone_and_a_descendant) {
	{
		.call = { [3] = { WHOLE_TREE, .of_root = true } },
		.managers = 2,
		.manager_flags = CLONE_ALL_THREADS,
	},
};

FIXTURE_VARIANT_ADD(tree, with_everybody) {
	{
		.call = {
			{ WHOLE_TREE }, { WHOLE_TREE, .of_root = true },
			{ CLONE_ALL_THREADS }, { WHOLE_TREE },
		},
		.managers = 2,
		.manager_flags = WHOLE_TREE,
	},
};

FIXTURE_SETUP(tree)
{
	int i, pidfd;
	pid_t pid;

	setup_manager(_metadata);
	ASSERT_EQ(0, change_bound(60));
	callers = &variant->callers;
	end_time = now_ms() + SECONDS * 1000;
	self->root = fork();
	ASSERT_LE(0, self->root);
	if (!self->root)
		run_caller_process(0);
	keep(self->root);
	for (i = 0; i < PROCESSES; i++)
		self->callers += !!callers->call[i].flags;
	self->callers += callers->managers;
	self->ready = PROCESSES + self->callers - callers->managers;
	ASSERT_TRUE(wait_until(load(&report->word[WORD_READY]) == self->ready,
			       DEADLINE));
	pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, pidfd);
	for (i = 0; i < callers->managers; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			run_manager(pidfd);
		keep(pid);
	}
	self->ready += callers->managers;
	ASSERT_TRUE(wait_until(load(&report->word[WORD_READY]) == self->ready,
			       DEADLINE));
}

FIXTURE_TEARDOWN(tree)
{
	teardown_manager(_metadata);
}

/* Replicas whose parent has ended come to the test. */
static bool all_have_called(int callers_left)
{
	return wait_until(({
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		load(&report->word[WORD_ENDED]) == callers_left ||
		load(&report->failures);
	}), 2 * DEADLINE);
}

TEST_F_GUARDED(tree, never_fails_and_goes_on)
{
	__u32 before;
	int i;

	set_word(&report->word[WORD_GO], 1);
	EXPECT_TRUE(all_have_called(self->callers))
	{
		TH_LOG("%u of %d callers, %u calls",
		       load(&report->word[WORD_ENDED]), self->callers,
		       load(&report->word[WORD_CALLS]));
		dump_listed(list_below(getpid()));
	}
	ASSERT_EQ(0, load(&report->failures))
	{
		TH_LOG("%s", report->failure);
	}
	EXPECT_LE(MIN_CALLS * self->callers, load(&report->word[WORD_CALLS]));
	for (i = 0; i < PROCESSES; i++) {
		before = load(&report->slot[i].recorded);
		EXPECT_TRUE(wait_until(load(&report->slot[i].recorded) !=
				       before, DEADLINE));
	}
	TH_LOG("%u calls, %u replicas of callers got EAGAIN",
	       load(&report->word[WORD_CALLS]),
	       load(&report->word[WORD_AGAIN]));

	/* All replicas end by themselves. */
	EXPECT_TRUE(wait_until(list_below(self->root) == PROCESSES - 1,
			       DEADLINE));
	EXPECT_TRUE(end_others());
}

TEST_HARNESS_MAIN
