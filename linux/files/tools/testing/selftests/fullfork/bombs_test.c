// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: as many callers as there can be, all at once
 *
 * What full forks make is bounded by what bounds fork(): a user's limit, a
 * cgroup's number of tasks, its memory.  Whoever is outside goes on meanwhile,
 * and nothing is left when the callers are killed.
 */

#include "fullfork_manager.h"
#include "fullfork_cgroup.h"

#include <sys/resource.h>

#define LONELY_ID 54325

#define BOMBS		6	/* processes at the beginning */
#define BOMB_THREADS	3	/* of each; all of them call */
#define MOST_TASKS	60

/* Words of the report */
enum {
	WORD_CALLS,
	WORD_REFUSED,		/* because there is no room */
	WORD_OTHER_ERROR,
	WORD_ERROR,		/* the last of them */
};

static __u64 bomb_flags;

/* Originals, replicas and replicas of these: all of them call again. */
static void *call_for_ever(void *unused)
{
	struct fullfork_args args = { .flags = bomb_flags | CLONE_AUTOREAP };
	long ret;

	for (;;) {
		ret = sys_clone3(&args, sizeof(args));
		add(&report->word[WORD_CALLS], 1);
		if (ret == -EAGAIN || ret == -ENOMEM) {
			add(&report->word[WORD_REFUSED], 1);
		} else if (ret < 0) {
			store(&report->word[WORD_ERROR], -ret);
			add(&report->word[WORD_OTHER_ERROR], 1);
		}
	}
	return NULL;
}

static __noreturn void be_bomb(void)
{
	pthread_t thread;
	int i;

	for (i = 1; i < BOMB_THREADS; i++)
		pthread_create(&thread, NULL, call_for_ever, NULL);
	call_for_ever(NULL);
	_exit(1);
}

FIXTURE(bombs)
{
	struct cgroup group;
};

FIXTURE_VARIANT(bombs)
{
	__u64 flags;
	bool by_cgroup;
};

FIXTURE_VARIANT_ADD(bombs, in_a_cgroup) {
	.flags = CLONE_ALL_THREADS,
	.by_cgroup = true,
};

FIXTURE_VARIANT_ADD(bombs, in_a_cgroup_with_trees) {
	.flags = WHOLE_TREE,
	.by_cgroup = true,
};

FIXTURE_VARIANT_ADD(bombs, of_a_user_with_a_limit) {
	.flags = CLONE_ALL_THREADS,
};

FIXTURE_VARIANT_ADD(bombs, of_a_user_with_a_limit_with_trees) {
	.flags = WHOLE_TREE,
};

FIXTURE_SETUP(bombs)
{
	setup_manager(_metadata);
	/* So many that it takes a while until it is one's turn. */
	ASSERT_EQ(0, change_bound(DEADLINE));
	mount_cgroup(_metadata, &self->group, "cgroup2", NULL);
	ASSERT_EQ(0, write_cgroup(&self->group, "/..", "cgroup.subtree_control",
				  "+pids"));
	if (variant->by_cgroup)
		ASSERT_EQ(0, write_cgroup_number(&self->group, "", "pids.max",
						 MOST_TASKS));
	bomb_flags = variant->flags;
}

static long read_number(const struct cgroup *group, const char *file)
{
	char buf[32];

	return read_cgroup(group, "", file, buf, sizeof(buf)) > 0 ?
		atol(buf) : -1;
}

/* Has everybody killed, again and again: who forks may get away once. */
static bool kill_group(const struct cgroup *group)
{
	write_cgroup(group, "", "cgroup.kill", "1");
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
		;
	return !read_number(group, "pids.current");
}

FIXTURE_TEARDOWN(bombs)
{
	kill_group(&self->group);
	teardown_manager(_metadata);
	umount_cgroup(_metadata, &self->group);
}

/* One for each process: the limit is that of who calls. */
static void enter(const struct cgroup *group, bool by_cgroup)
{
	struct rlimit limit = { MOST_TASKS, MOST_TASKS };

	replica_assert_eq(0, write_cgroup(group, "", "cgroup.procs", "0"));
	if (!by_cgroup)
		replica_assert_eq(0, setrlimit(RLIMIT_NPROC, &limit));
	replica_assert_eq(0, setresgid(LONELY_ID, LONELY_ID, LONELY_ID));
	replica_assert_eq(0, setresuid(LONELY_ID, LONELY_ID, LONELY_ID));
	replica_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

static void start_bombs(struct __test_metadata *_metadata,
			const struct cgroup *group, bool by_cgroup)
{
	pid_t pid;
	int i;

	for (i = 0; i < BOMBS; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (pid)
			continue;
		enter(group, by_cgroup);
		be_bomb();
	}
}

static int fork_once(void *unused)
{
	return REPLICA_PASS;
}

/* Somebody else, who has nothing to do with them, makes processes of its own. */
static void work_outside(struct __test_metadata *_metadata)
{
	long pid = replica_main(fork(), fork_once, NULL);

	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	fork_and_pass(_metadata, 0, fork_once, NULL);
	discard_sigchld();
}

TEST_F_GUARDED(bombs, stay_within_the_limit)
{
	struct rounds rounds = { .least = 5, .most = 40 };
	__u32 *word = report->word;
	long tasks, most = 0;

	start_bombs(_metadata, &self->group, variant->by_cgroup);
	while (next_round(&rounds) && !_metadata->exit_code) {
		work_outside(_metadata);
		tasks = read_number(&self->group, "pids.current");
		if (tasks > most)
			most = tasks;
		EXPECT_GE(MOST_TASKS, tasks);
	}
	/* They came to the limit, and were told so. */
	EXPECT_TRUE(wait_until(load(&word[WORD_REFUSED]) > 20, DEADLINE));
	EXPECT_LT(BOMBS * BOMB_THREADS, most);
	EXPECT_EQ(0, load(&word[WORD_OTHER_ERROR]))
	{
		TH_LOG("%u times, at last %s", load(&word[WORD_OTHER_ERROR]),
		       strerror(load(&word[WORD_ERROR])));
	}
	fprintf(stderr, "# %u calls, %u refused, %ld tasks at most\n",
		load(&word[WORD_CALLS]), load(&word[WORD_REFUSED]), most);

	EXPECT_TRUE(wait_until(kill_group(&self->group), DEADLINE))
	{
		dump_listed(list_below(getpid()));
	}
	discard_sigchld();
	EXPECT_EQ(0, list_others());
	EXPECT_EQ(0, load(&report->failures))
	{
		TH_LOG("%s", report->failure);
	}
	work_outside(_metadata);
}

/*
 * A cgroup that has no memory left: somebody is killed, an original or a replica,
 * while a manager outside makes copies.
 */

#define MEGABYTE	(1024 * 1024)
#define ORIGINAL_SIZE	(16 * MEGABYTE)
#define ORIGINAL_THREADS 4

static struct {
	unsigned int calls;
	unsigned int made;
	unsigned int refused;
	unsigned int deaths;
} seen;

FIXTURE(memory)
{
	struct cgroup group;
};

FIXTURE_SETUP(memory)
{
	setup_manager(_metadata);
	/* So many that it takes a while until it is one's turn. */
	ASSERT_EQ(0, change_bound(DEADLINE));
	mount_cgroup(_metadata, &self->group, "cgroup2", NULL);
	ASSERT_EQ(0, write_cgroup(&self->group, "/..", "cgroup.subtree_control",
				  "+pids +memory"));
	ASSERT_EQ(0, write_cgroup(&self->group, "", "memory.max", "67108864"));
}

FIXTURE_TEARDOWN(memory)
{
	kill_group(&self->group);
	teardown_manager(_metadata);
	umount_cgroup(_metadata, &self->group);
}

/* Writes to all it has, again and again, so that no copy shares it for long. */
static void *write_for_ever(void *memory)
{
	unsigned char *byte = memory;
	size_t i;

	for (;;)
		for (i = 0; i < ORIGINAL_SIZE / ORIGINAL_THREADS; i += 4096)
			byte[i]++;
	return NULL;
}

static __noreturn void be_original(const struct cgroup *group)
{
	char *memory = mmap(NULL, ORIGINAL_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;
	long i;

	replica_assert_eq(0, write_cgroup(group, "", "cgroup.procs", "0"));
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	replica_assert(memory != MAP_FAILED);
	memset(memory, 1, ORIGINAL_SIZE);
	/* A child, so that there is a tree. */
	if (fork() < 0)
		_exit(1);
	for (i = 1; i < ORIGINAL_THREADS; i++)
		pthread_create(&thread, NULL, write_for_ever,
			       memory + i * (ORIGINAL_SIZE / ORIGINAL_THREADS));
	add(&report->word[WORD_CALLS], 1);
	write_for_ever(memory);
	_exit(1);
}

static pid_t start_original(struct __test_metadata *_metadata,
			    const struct cgroup *group)
{
	pid_t pid;

	store(&report->word[WORD_CALLS], 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		be_original(group);
	/* Itself, and the child; or it was killed already. */
	ASSERT_TRUE(wait_until(load(&report->word[WORD_CALLS]) == 2 ||
			       task_state(pid, pid) == 'Z', DEADLINE));
	return pid;
}

static long oom_kills(const struct cgroup *group)
{
	char text[512], *found;

	if (read_cgroup(group, "", "memory.events", text, sizeof(text)) <= 0)
		return -1;
	found = strstr(text, "oom_kill ");
	return found ? atol(found + strlen("oom_kill ")) : -1;
}

/* Copies until the original is dead, or there were enough of them. */
static void copy_until_killed(struct __test_metadata *_metadata,
			      const struct cgroup *group)
{
	pid_t pid = start_original(_metadata, group);
	int i, pidfd = sys_pidfd_open(pid);
	long ret;

	ASSERT_LE(0, pidfd);
	for (i = 0; i < 6; i++) {
		ret = copy_from(pidfd, WHOLE_TREE | CLONE_AUTOREAP);
		seen.calls++;
		seen.made += ret > 0;
		seen.refused += ret < 0;
		EXPECT_TRUE(ret > 0 || ret == -ENOMEM || ret == -EAGAIN ||
			    ret == -ESRCH)
		{
			TH_LOG("%s", strerror(-ret));
		}
		if (ret == -ESRCH)
			break;
	}
	seen.deaths += task_state(pid, pid) == 'Z';
	EXPECT_TRUE(wait_until(kill_group(group), DEADLINE))
	{
		dump_listed(list_below(getpid()));
	}
	close(pidfd);
}

TEST_F_GUARDED(memory, that_is_at_its_limit_kills_somebody)
{
	struct rounds rounds = { .least = 2, .most = 12 };

	while (next_round(&rounds) && !_metadata->exit_code) {
		copy_until_killed(_metadata, &self->group);
		discard_sigchld();
		EXPECT_EQ(0, list_others());
		work_outside(_metadata);
	}
	fprintf(stderr,
		"# %u calls, %u made, %u refused; %ld killed, %u times the original\n",
		seen.calls, seen.made, seen.refused,
		oom_kills(&self->group), seen.deaths);
	EXPECT_LT(0, oom_kills(&self->group));
	EXPECT_LT(0, seen.made);
}

TEST_HARNESS_MAIN
