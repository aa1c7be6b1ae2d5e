// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: large trees in one call
 *
 * Whatever a process does for itself is kept small: the test is about what the
 * kernel does for all of them.
 */

#include "fullfork_manager.h"

#define MAX_TREE 1000
#define STACK_SIZE 32768
#define SLOWER_WITH_LOCKDEP 10

/* Words of the report */
enum {
	WORD_READY,
	WORD_ANSWERS,
	WORD_REPLICA_ANSWERS,
	WORD_ASK,
};

/* So many processes, each but for leaves with so many children. */
struct shape {
	int processes;
	int children;
	int threads;			/* beside the leader */
};

static struct shape shape;

static pid_t *tree_pid;			/* shared, by number */

static int nr_all_tasks(void)
{
	return shape.processes * (1 + shape.threads);
}

static void sleep_and_answer(void)
{
	__u32 *word = &report->word[WORD_ASK], seen = 0;

	add(&report->word[WORD_READY], 1);
	for (;;) {
		while (load(word) == seen)
			futex_wait(word, seen, 0, -1);
		seen = load(word);
		add(&report->word[in_replica() ? WORD_REPLICA_ANSWERS :
				  WORD_ANSWERS], 1);
	}
}

static void *sleep_in_thread(void *arg)
{
	sleep_and_answer();
	return NULL;
}

static __noreturn void run_small_process(int number)
{
	int i, child = number * shape.children + 1;
	pthread_attr_t attr;
	pthread_t thread;
	pid_t pid;

	original_pid = sys_getpid();
	tree_pid[number] = original_pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = 0; i < shape.children && child + i < shape.processes; i++) {
		pid = fork();
		side_assert(pid >= 0);
		if (!pid)
			run_small_process(child + i);
	}
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	for (i = 0; i < shape.threads; i++)
		side_assert_eq(0, pthread_create(&thread, &attr,
						 sleep_in_thread, NULL));
	sleep_and_answer();
	replica_exit(REPLICA_FAIL);
}

FIXTURE(tree)
{
	pid_t root;
	int pidfd;
};

FIXTURE_VARIANT(tree)
{
	struct shape shape;
};

FIXTURE_VARIANT_ADD(tree, of_1000_processes) {
	{ .processes = 1000, .children = 32 },
};

FIXTURE_VARIANT_ADD(tree, of_300_generations) {
	{ .processes = 300, .children = 1 },
};

FIXTURE_VARIANT_ADD(tree, of_4000_threads_in_100_processes) {
	{ .processes = 100, .children = 10, .threads = 39 },
};

static int raise_limit(const char *path, long wanted)
{
	char text[32];

	if (read_file(path, text, sizeof(text)) < 0)
		return -errno;
	if (atol(text) >= wanted)
		return 0;
	snprintf(text, sizeof(text), "%ld", wanted);
	return change_file(path, text);
}

FIXTURE_SETUP(tree)
{
	setup_manager(_metadata);
	shape = variant->shape;
	/* A chain of memory that is shared is undone in as many steps as it is long. */
	if (!access("/proc/lockdep", F_OK))
		shape.processes /= SLOWER_WITH_LOCKDEP;
	/* Twice as many tasks as the tree has, and those of the machine. */
	ASSERT_EQ(0, raise_limit("/proc/sys/kernel/threads-max", 12000));
	ASSERT_EQ(0, raise_limit("/proc/sys/kernel/pid_max", 32768));
	ASSERT_EQ(0, change_bound(120));
	tree_pid = mmap(NULL, MAX_TREE * sizeof(*tree_pid),
			PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			0);
	ASSERT_NE(MAP_FAILED, tree_pid);
	self->root = fork();
	ASSERT_LE(0, self->root);
	if (!self->root)
		run_small_process(0);
	keep(self->root);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_READY]) ==
			       nr_all_tasks(), 2 * DEADLINE))
	{
		TH_LOG("%u of %d tasks %s", load(&report->word[WORD_READY]),
		       nr_all_tasks(), report->failure);
	}
}

FIXTURE_TEARDOWN(tree)
{
	teardown_manager(_metadata);
}

static bool all_have_answered(int word)
{
	bool all = wait_until(load(&report->word[word]) == nr_all_tasks(),
			      DEADLINE);

	store(&report->word[word], 0);
	return all;
}

/* Every thread has another replica, and every process its parent's replica. */
static void check_tree(struct __test_metadata *_metadata, long root)
{
	int i, bad = 0, count = list_processes();
	struct process *process;

	for (i = 0; i < shape.processes; i++) {
		int parent = (i - 1) / shape.children;

		process = find_process(count, replica_of(tree_pid[i]));
		if (!process || process->parent !=
		    (i ? replica_of(tree_pid[parent]) : getpid()))
			bad++;
	}
	EXPECT_EQ(0, bad);
	EXPECT_EQ(root, replica_of(tree_pid[0]));
}

static int compare_replicas(const void *a, const void *b)
{
	const struct fullfork_tid_map *left = a, *right = b;

	return left->replica < right->replica ? -1 :
	       left->replica > right->replica;
}

static int count_twins(void)
{
	int i, twins = 0, length = map_length();

	qsort(shared->map, length, sizeof(shared->map[0]), compare_replicas);
	for (i = 1; i < length; i++)
		twins += shared->map[i].replica == shared->map[i - 1].replica;
	return twins;
}

TEST_F_GUARDED(tree, is_copied_whole)
{
	long long start = now_ms();
	long pid = copy_with_map(self->pidfd, WHOLE_TREE | CLONE_STOPPED,
				 MAP_ENTRIES);
	int i;

	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	TH_LOG("%d tasks in %lld ms", nr_all_tasks(), now_ms() - start);
	EXPECT_EQ(nr_all_tasks(), map_length());
	EXPECT_EQ(shape.processes, list_others());
	check_tree(_metadata, pid);

	set_word(&report->word[WORD_ASK], 1);
	EXPECT_TRUE(all_have_answered(WORD_ANSWERS));
	EXPECT_EQ(0, load(&report->word[WORD_REPLICA_ANSWERS]));
	for (i = 0; i < shape.processes; i++)
		kill(replica_of(tree_pid[i]), SIGCONT);
	EXPECT_TRUE(all_have_answered(WORD_REPLICA_ANSWERS));
	EXPECT_EQ(0, count_twins());

	/* All end, and nothing is left; the originals go on. */
	EXPECT_TRUE(end_others());
	set_word(&report->word[WORD_ASK], 2);
	EXPECT_TRUE(all_have_answered(WORD_ANSWERS));
	EXPECT_EQ(0, load(&report->failures));
}

TEST_HARNESS_MAIN
