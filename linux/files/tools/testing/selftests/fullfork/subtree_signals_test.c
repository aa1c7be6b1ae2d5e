// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: signals to callers and members while a tree is copied
 */

#include "fullfork_answers.h"

/* Words of the report */
enum {
	WORD_HANDLED,		/* signals, by all sides */
	WORD_MANAGER_READY,
	WORD_STORM_ENDS,
	WORD_STORM_TURNS,
};

static void count_handled(int sig)
{
	add(&report->word[WORD_HANDLED], 1);
}

/* Threads that sleep for a question go on sleeping after the handler. */
static void handle_signals(int number)
{
	struct sigaction sa = {
		.sa_handler = count_handled,
		.sa_flags = SA_RESTART,
	};

	side_assert_eq(0, sigaction(SIGUSR1, &sa, NULL));
	side_assert_eq(0, sigaction(SIGUSR2, &sa, NULL));
}

static const struct plan family[] = {
	{ .threads = 2, .caller = 1, .before = handle_signals },
	{ .parent = 0, .threads = 1 },
	{ .parent = 1, .threads = 1 },
	{ .parent = 0 },
	{ .parent = 3 },
};

#define PROCESSES ARRAY_SIZE(family)

FIXTURE(tree)
{
	pid_t root;
	int pidfd;
	pid_t stormer;
};

FIXTURE_SETUP(tree)
{
	setup_manager(_metadata);
	ASSERT_EQ(0, change_bound(60));
	self->root = start_tree(_metadata, family, PROCESSES, RELATION_CHILD);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
}

FIXTURE_TEARDOWN(tree)
{
	if (self->stormer > 0)
		kill(self->stormer, SIGKILL);
	teardown_manager(_metadata);
}

/* A manager that makes one call, and stays there if it comes back. */
static __noreturn void call_once(int pidfd)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	store(&report->word[WORD_MANAGER_READY], 1);
	copy_with_map(pidfd, WHOLE_TREE | CLONE_STOPPED, MAP_ENTRIES);
	for (;;)
		pause();
}

static bool replica_is_stopped(int number)
{
	pid_t pid = replica_of(pid_of(number));

	return wait_until(all_threads_in(pid, 'T'), DEADLINE);
}

/*
 * 40 managers, each is killed some later than the one before: the first while
 * it marks the members, the last when its call is long done.  The table of
 * TIDs, which the test sees, is the last that is written before all replicas
 * are let go: where it is, they are there, and where it is not, none is.
 */
TEST_F_GUARDED(tree, is_copied_whole_or_not_when_the_manager_is_killed)
{
	long call_us = time_copy(_metadata, self->pidfd);
	int i, k, whole = 0;
	pid_t manager;

	for (i = 0; i < 40 && !_metadata->exit_code; i++) {
		store(&report->word[WORD_MANAGER_READY], 0);
		memset(shared->map, 0xff, sizeof(shared->map));
		manager = fork();
		ASSERT_LE(0, manager);
		if (!manager)
			call_once(self->pidfd);
		keep(manager);
		ASSERT_TRUE(wait_until(load(&report->word[WORD_MANAGER_READY]),
				       DEADLINE));
		spin_us(call_us * i / 20);
		ASSERT_EQ(0, kill(manager, SIGKILL));
		EXPECT_EQ(SIGKILL, xwaitpid(_metadata, manager, DEADLINE));
		forget(manager);

		if (map_has(0)) {
			whole++;
			EXPECT_EQ(nr_tasks(), map_length());
			EXPECT_EQ(PROCESSES, list_others());
			for (k = 0; k < PROCESSES; k++)
				EXPECT_TRUE(replica_is_stopped(k));
			EXPECT_TRUE(end_others());
		} else {
			EXPECT_TRUE(no_others());
		}
		EXPECT_TRUE(originals_answer());
		expect_undisturbed();
	}
	TH_LOG("%d of %d calls were done", whole, i);
}

static const struct plan orphans[] = {
	{ .threads = 2, .caller = 1 },
	{ .parent = 0, .threads = 1, .outlives_parent = true },
	{ .parent = 1, .threads = 1 },
	{ .parent = 0, .outlives_parent = true },
};

/* Tells the root to copy its tree, and does not wait for it. */
static void start_call_of_root(void)
{
	struct command *c = &shared->command;

	init_args(&c->args, -1, WHOLE_TREE | CLONE_STOPPED);
	ask_for_map(&c->args, MAP_ENTRIES);
	c->source = 0;
	c->process = 0;
	c->question = load(&report->word[WORD_QUESTION]) + 1;
	ask();
}

FIXTURE(root)
{
};

FIXTURE_SETUP(root)
{
	setup_manager(_metadata);
}

FIXTURE_TEARDOWN(root)
{
	teardown_manager(_metadata);
}

/* The caller is a member here, and the others go on without it. */
TEST_F_GUARDED(root, is_killed_in_its_call_and_the_others_go_on)
{
	int i, first, count, pidfd, whole = 0;
	long call_us = 0;
	pid_t root;

	for (i = 0; i < 12 && !_metadata->exit_code; i++) {
		root = start_tree(_metadata, orphans, ARRAY_SIZE(orphans),
				  RELATION_CHILD);
		pidfd = sys_pidfd_open(root);
		if (!i)
			call_us = time_copy(_metadata, pidfd);
		ASSERT_EQ(0, close(pidfd));
		first = first_task(1);
		count = nr_tasks() - first;
		keep(pid_of(1));
		keep(pid_of(3));
		start_call_of_root();
		spin_us(call_us * i / 6);
		ASSERT_EQ(0, kill(root, SIGKILL));
		EXPECT_EQ(SIGKILL, xwaitpid(_metadata, root, DEADLINE));
		EXPECT_TRUE(tasks_answer(SIDE_ORIGINAL, first, count));
		EXPECT_EQ(getpid(), status_number(pid_of(1), "PPid"));
		if (map_has(0)) {
			whole++;
			EXPECT_EQ(nr_tasks(), map_length());
			EXPECT_EQ(ARRAY_SIZE(orphans), list_others());
		} else {
			EXPECT_TRUE(no_others());
		}
		nr_kept = 0;
		EXPECT_TRUE(end_others());
	}
	TH_LOG("%d of %d calls were done", whole, i);
}

/* To all members, process by process and thread by thread. */
static void send_to_all(int sig)
{
	int i;

	for (i = 0; i < PROCESSES; i++)
		kill(pid_of(i), sig);
	for (i = 0; i < nr_tasks(); i++)
		syscall(__NR_tgkill, report->slot[i].pid, report->slot[i].tid,
			sig);
}

static __noreturn void run_signal_storm(pid_t test)
{
	while (!load(&report->word[WORD_STORM_ENDS])) {
		send_to_all(SIGUSR1);
		/* The manager, to which nobody has to be kind. */
		kill(test, SIGUSR2);
		add(&report->word[WORD_STORM_TURNS], 1);
		spin_us(500);
	}
	_exit(REPLICA_PASS);
}

/* Each of two processes, so that a SIGCONT can meet a stop that is coming. */
static __noreturn void run_stop_storm(pid_t test)
{
	unsigned int seed = 1, i;

	while (!load(&report->word[WORD_STORM_ENDS])) {
		i = rand_r(&seed) % PROCESSES;
		kill(pid_of(i), rand_r(&seed) % 2 ? SIGSTOP : SIGTSTP);
		spin_us(rand_r(&seed) % 1000);
		kill(pid_of(i), SIGCONT);
		add(&report->word[WORD_STORM_TURNS], 1);
		spin_us(rand_r(&seed) % 1000);
	}
	_exit(REPLICA_PASS);
}

static void start_storm(struct __test_metadata *_metadata, pid_t *stormer,
			void (*storm)(pid_t test))
{
	pid_t test = getpid();

	*stormer = fork();
	ASSERT_LE(0, *stormer);
	if (!*stormer) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		storm(test);
	}
	keep(*stormer);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_STORM_TURNS]) > 10,
			       DEADLINE));
}

static void end_storm(struct __test_metadata *_metadata, pid_t *stormer)
{
	store(&report->word[WORD_STORM_ENDS], 1);
	expect_pass(_metadata, *stormer);
	forget(*stormer);
	*stormer = 0;
}

/* Signals neither end the call, nor make it start anew for ever. */
TEST_F_GUARDED(tree, is_copied_in_a_storm_of_signals)
{
	struct sigaction sa = { .sa_handler = count_handled };
	long long end = now_ms() + 10000;
	int round;
	long pid;

	/* SA_RESTART is left out: an EINTR would be seen. */
	ASSERT_EQ(0, sigaction(SIGUSR2, &sa, NULL));
	start_storm(_metadata, &self->stormer, run_signal_storm);
	for (round = 0; round < 3 || (round < 40 && now_ms() < end); round++) {
		pid = round & 1 ? copy_from(self->pidfd, WHOLE_TREE) :
				  have_copied(0, WHOLE_TREE | CLONE_STOPPED);
		ASSERT_LT(0, pid)
		{
			TH_LOG("round %d: %s", round, strerror(-pid));
		}
		if (round & 1) {
			EXPECT_TRUE(replicas_answer());
			EXPECT_TRUE(end_others());
		} else {
			/* It is a child of the root, and not to be copied. */
			EXPECT_TRUE(wait_until(all_threads_in(pid, 'T'),
					       DEADLINE));
			kill_listed(list_below(pid));
			kill(pid, SIGKILL);
		}
		EXPECT_TRUE(originals_answer());
		if (_metadata->exit_code)
			break;
	}
	end_storm(_metadata, &self->stormer);
	EXPECT_LT(0, load(&report->word[WORD_HANDLED]));
	EXPECT_TRUE(originals_answer());
	EXPECT_EQ(0, load(&report->word[WORD_EINTRS]));
}

/* Originals stop and go on at any moment of a call: it works all the same. */
TEST_F_GUARDED(tree, is_copied_in_a_storm_of_stops)
{
	long long end = now_ms() + 10000;
	int round, i;
	long pid;

	start_storm(_metadata, &self->stormer, run_stop_storm);
	for (round = 0; round < 3 || (round < 60 && now_ms() < end); round++) {
		pid = copy_with_map(self->pidfd, WHOLE_TREE, MAP_ENTRIES);
		ASSERT_LT(0, pid)
		{
			TH_LOG("round %d: %s", round, strerror(-pid));
		}
		EXPECT_EQ(nr_tasks(), map_length());
		/* Whatever was stopped can be continued. */
		for (i = 0; i < PROCESSES; i++)
			EXPECT_EQ(0, kill(replica_of(pid_of(i)), SIGCONT));
		EXPECT_TRUE(replicas_answer());
		EXPECT_TRUE(end_others());
		if (_metadata->exit_code)
			break;
	}
	end_storm(_metadata, &self->stormer);
	send_to_all(SIGCONT);
	EXPECT_TRUE(originals_answer());
	EXPECT_EQ(0, load(&report->word[WORD_EINTRS]));
	/* As without any storm. */
	ASSERT_LT(0, copy_from(self->pidfd, WHOLE_TREE));
	EXPECT_TRUE(replicas_answer());
}

/*
 * A stop that came before its SIGCONT is over, and one that was continued by
 * the copied SIGCONT as well: no replica stays stopped by a stop that was
 * over in its original.
 */
TEST_F_GUARDED(tree, has_no_stopped_replica_after_it_was_continued)
{
	int round, i;
	long pid;

	for (round = 0; round < 10; round++) {
		i = round % PROCESSES;
		ASSERT_EQ(0, kill(pid_of(i), SIGSTOP));
		ASSERT_TRUE(wait_until(all_threads_in(pid_of(i), 'T'),
				       DEADLINE));
		ASSERT_EQ(0, kill(pid_of(i), SIGCONT));
		pid = copy_from(self->pidfd, WHOLE_TREE);
		ASSERT_LT(0, pid);
		EXPECT_TRUE(replicas_answer());
		EXPECT_TRUE(originals_answer());
		EXPECT_TRUE(end_others());
	}
}

TEST_HARNESS_MAIN
