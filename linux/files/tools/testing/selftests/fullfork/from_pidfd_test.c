// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: CLONE_FROM_PIDFD copies the process that a pidfd names
 *
 * Ten tasks in four processes; their root is a child of the test, a child of
 * its child, or no descendant at all.
 */

#include "fullfork_answers.h"
#include <sys/stat.h>

static const struct plan family[] = {
	{ .threads = 3 },
	{ .parent = 0, .threads = 1 },
	{ .parent = 0 },
	{ .parent = 1, .threads = 2 },
};

#define FAMILY_TASKS 10

FIXTURE(process)
{
	pid_t root;
	int pidfd;
	/* What is to be copied: the first so many processes and tasks. */
	int processes;
	int tasks;
};

FIXTURE_VARIANT(process)
{
	enum relation relation;
	__u64 flags;
};

FIXTURE_VARIANT_ADD(process, child) {
	.relation = RELATION_CHILD,
	.flags = CLONE_ALL_THREADS,
};

FIXTURE_VARIANT_ADD(process, grandchild) {
	.relation = RELATION_GRANDCHILD,
	.flags = CLONE_ALL_THREADS,
};

FIXTURE_VARIANT_ADD(process, stranger) {
	.relation = RELATION_STRANGER,
	.flags = CLONE_ALL_THREADS,
};

FIXTURE_VARIANT_ADD(process, child_with_descendants) {
	.relation = RELATION_CHILD,
	.flags = WHOLE_TREE,
};

FIXTURE_VARIANT_ADD(process, grandchild_with_descendants) {
	.relation = RELATION_GRANDCHILD,
	.flags = WHOLE_TREE,
};

FIXTURE_VARIANT_ADD(process, stranger_with_descendants) {
	.relation = RELATION_STRANGER,
	.flags = WHOLE_TREE,
};

FIXTURE_SETUP(process)
{
	setup_manager(_metadata);
	self->root = start_tree(_metadata, family, ARRAY_SIZE(family),
				variant->relation);
	ASSERT_EQ(FAMILY_TASKS, nr_tasks());
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	self->processes = variant->flags & CLONE_SUBTREE ? 4 : 1;
	self->tasks = first_task(self->processes);
}

FIXTURE_TEARDOWN(process)
{
	teardown_manager(_metadata);
}

TEST_F_GUARDED(process, has_a_replica_of_every_thread)
{
	long pid = copy_from(self->pidfd, variant->flags);
	int i;

	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_EQ(self->processes, list_others());
	EXPECT_EQ(4, count_threads(pid));
	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, self->tasks));
	/* Each has answered for itself, and has a TID of its own. */
	for (i = 0; i < self->tasks; i++) {
		struct report_slot *slot = &report->slot[i];

		EXPECT_LT(0, slot->value[0]);
		EXPECT_NE(slot->tid, slot->value[0]);
	}
	EXPECT_EQ(pid, report->slot[0].code);
	/* What is not to be copied has no replica that answers. */
	EXPECT_EQ(0, count_answers(SIDE_REPLICA, self->tasks,
				   FAMILY_TASKS - self->tasks,
				   load(&report->word[WORD_QUESTION])));
	EXPECT_TRUE(end_others());
}

TEST_F_GUARDED(process, has_a_replica_that_is_the_managers_child)
{
	long pid = copy_from(self->pidfd, variant->flags);

	ASSERT_LT(0, pid);
	EXPECT_EQ(getpid(), status_number(pid, "PPid"));
	ASSERT_TRUE(tasks_answer(SIDE_REPLICA, 0, self->tasks));
	EXPECT_EQ(getpid(), report->slot[0].value[3]);
	/* The others have the parents that they should have, see the plan. */
	if (self->processes > 1) {
		EXPECT_EQ(pid, report->slot[first_task(1)].value[3]);
		EXPECT_EQ(pid, report->slot[first_task(2)].value[3]);
		EXPECT_EQ(report->slot[first_task(1)].code,
			  report->slot[first_task(3)].value[3]);
	}
	tell_to_end();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(no_others());
}

/* Its parent blocks SIGCHLD, as the test does. */
static bool middle_has_sigchld(void)
{
	pid_t pid = load(&report->word[WORD_MIDDLE]);
	char text[64];

	if (!pid)
		return false;
	return !read_status_field(pid, pid, "ShdPnd", text, sizeof(text)) ||
	       strtoull(text, NULL, 16);
}

TEST_F_GUARDED(process, goes_on_undisturbed)
{
	long pid;
	int i;

	for (i = 0; i < 5; i++) {
		pid = copy_from(self->pidfd, variant->flags |
				(i & 1 ? CLONE_STOPPED : 0));
		ASSERT_LT(0, pid);
		/* No stop is told to anybody, not even that of the replica. */
		EXPECT_FALSE(sigchld_is_pending());
		EXPECT_FALSE(middle_has_sigchld());
		if (variant->relation == RELATION_CHILD)
			EXPECT_TRUE(has_no_event(self->root));
		EXPECT_TRUE(originals_answer());
		EXPECT_TRUE(wait_until(tasks_sleep(0, FAMILY_TASKS), DEADLINE));
		EXPECT_TRUE(end_others());
		discard_sigchld();
	}
	expect_undisturbed();
	if (variant->relation == RELATION_CHILD)
		EXPECT_TRUE(has_no_event(self->root));
}

TEST_F_GUARDED(process, has_a_sibling_with_clone_parent)
{
	pid_t parent = status_number(self->root, "PPid");
	long pid = copy_from(self->pidfd, variant->flags | CLONE_PARENT);

	ASSERT_LT(0, pid)
	{
		TH_LOG("%s", strerror(-pid));
	}
	EXPECT_EQ(parent, status_number(pid, "PPid"));
	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, self->tasks));
	EXPECT_EQ(parent, report->slot[0].value[3]);

	/* It is that parent's to wait for. */
	ASSERT_EQ(0, kill(pid, SIGKILL));
	switch (variant->relation) {
	case RELATION_CHILD:
		EXPECT_TRUE(WIFSIGNALED(xwaitpid(_metadata, pid, DEADLINE)));
		break;
	case RELATION_GRANDCHILD:
		EXPECT_EQ(parent, load(&report->word[WORD_MIDDLE]));
		EXPECT_TRUE(wait_until(load(&report->word[WORD_MIDDLE_PID]) ==
				       pid, DEADLINE));
		EXPECT_EQ(1, load(&report->word[WORD_MIDDLE_EVENTS]));
		break;
	default:
		EXPECT_EQ(-1, waitpid(pid, NULL, __WALL | WNOHANG));
		EXPECT_EQ(ECHILD, errno);
		EXPECT_TRUE(wait_until(task_state(pid, pid) == 'Z' ||
				       kill(pid, 0), DEADLINE));
	}
	EXPECT_TRUE(originals_answer());
	EXPECT_TRUE(end_others());
}

TEST_F_GUARDED(process, has_a_replica_with_a_pidfd)
{
	struct fullfork_args args;
	char path[64], text[512];
	siginfo_t info = {};
	long pid;

	init_args(&args, self->pidfd, CLONE_FROM_PIDFD | CLONE_PIDFD |
		  CLONE_PARENT_SETTID | variant->flags);
	shared->pidfd = -1;
	shared->parent_tid = -1;
	pid = call_as_manager(&args);
	ASSERT_LT(0, pid);
	EXPECT_EQ(pid, shared->parent_tid);
	ASSERT_LE(0, shared->pidfd);
	EXPECT_EQ(FD_CLOEXEC, fcntl(shared->pidfd, F_GETFD));
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", shared->pidfd);
	ASSERT_LT(0, read_file(path, text, sizeof(text)));
	ASSERT_NE(NULL, strstr(text, "Pid:"));
	EXPECT_EQ(pid, atoi(strstr(text, "Pid:") + strlen("Pid:")));

	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, self->tasks));
	EXPECT_FALSE(wait_pidfd(shared->pidfd, 0));
	ASSERT_EQ(0, syscall(__NR_pidfd_send_signal, shared->pidfd, SIGKILL,
			     NULL, 0));
	EXPECT_TRUE(wait_pidfd(shared->pidfd, DEADLINE));
	EXPECT_EQ(0, waitid(P_PIDFD, shared->pidfd, &info, WEXITED));
	EXPECT_EQ(pid, info.si_pid);
	EXPECT_EQ(SIGKILL, info.si_status);
	EXPECT_EQ(0, close(shared->pidfd));
	/* The pidfd that named the original still does. */
	EXPECT_FALSE(wait_pidfd(self->pidfd, 0));
	EXPECT_TRUE(originals_answer());
	EXPECT_TRUE(end_others());
}

TEST_F_GUARDED(process, has_its_tids_in_the_table)
{
	int i, place, leader, parent, number = -1;
	struct report_slot *slot;
	long pid;

	pid = copy_with_map(self->pidfd, variant->flags, self->tasks + 3);
	ASSERT_LT(0, pid);
	ASSERT_EQ(self->tasks, map_length());
	EXPECT_EQ(self->root, shared->map[0].original);
	EXPECT_EQ(pid, shared->map[0].replica);
	for (i = self->tasks; i < self->tasks + 3; i++)
		EXPECT_EQ(0, shared->map[i].original | shared->map[i].replica);
	EXPECT_EQ(UNWRITTEN, shared->map[i].original);

	ASSERT_TRUE(tasks_answer(SIDE_REPLICA, 0, self->tasks));
	for (i = 0; i < self->tasks; i++) {
		slot = &report->slot[i];
		place = place_of(slot->tid);
		ASSERT_LE(0, place);
		EXPECT_EQ(slot->value[0], shared->map[place].replica);
		/* Threads follow their leader, children come after parents. */
		if (number + 1 < self->processes && i == first_task(number + 1))
			number++;
		leader = place_of(pid_of(number));
		EXPECT_LE(leader, place);
		EXPECT_GE(leader + plan[number].threads, place);
		parent = place_of(pid_of(plan[number].parent));
		if (number)
			EXPECT_LT(parent, leader);
	}
	EXPECT_TRUE(end_others());
}

TEST_F_GUARDED(process, has_a_replica_that_stays_stopped_until_sigcont)
{
	pid_t replica[4];
	__u32 question;
	int i, status;
	long pid;

	pid = copy_with_map(self->pidfd, variant->flags | CLONE_STOPPED,
			    MAP_ENTRIES);
	ASSERT_LT(0, pid);
	EXPECT_FALSE(sigchld_is_pending());
	for (i = 0; i < self->processes; i++) {
		replica[i] = replica_of(pid_of(i));
		ASSERT_LT(0, replica[i]);
		EXPECT_TRUE(wait_until(all_threads_in(replica[i], 'T'),
				       DEADLINE));
		EXPECT_EQ(1 + plan[i].threads, count_threads(replica[i]));
	}
	status = xwait(_metadata, pid, WUNTRACED, DEADLINE);
	EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	EXPECT_EQ(0, waitpid(pid, &status, WUNTRACED | WNOHANG));

	EXPECT_TRUE(originals_answer());
	question = load(&report->word[WORD_QUESTION]);
	EXPECT_EQ(0, count_answers(SIDE_REPLICA, 0, FAMILY_TASKS, question));
	/* Children last, so that each is continued by its own signal. */
	for (i = 0; i < self->processes; i++) {
		if (i)
			EXPECT_TRUE(all_threads_in(replica[i], 'T'));
		ASSERT_EQ(0, kill(replica[i], SIGCONT));
		EXPECT_TRUE(wait_until(count_answers(SIDE_REPLICA, 0,
						     first_task(i + 1),
						     question) ==
				       first_task(i + 1), DEADLINE));
	}
	expect_undisturbed();
	tell_to_end();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(no_others());
}

/*
 * Each original makes its own replica: nothing is taken from the manager,
 * though it is the one that calls and that becomes the parent.
 */
static void expect_same_link(struct __test_metadata *_metadata, pid_t original,
			     pid_t replica, const char *name)
{
	char path[64], seen[2][256] = {};

	snprintf(path, sizeof(path), "/proc/%d/%s", original, name);
	EXPECT_LT(0, readlink(path, seen[0], sizeof(seen[0]) - 1));
	snprintf(path, sizeof(path), "/proc/%d/%s", replica, name);
	EXPECT_LT(0, readlink(path, seen[1], sizeof(seen[1]) - 1));
	EXPECT_STREQ(seen[0], seen[1])
	{
		TH_LOG("%s", name);
	}
}

static int count_fds_of(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	return count_entries(path);
}

TEST_F_GUARDED(process, has_a_replica_that_takes_nothing_from_the_manager)
{
	static const char * const links[] = {
		"cwd", "root", "exe", "ns/mnt", "ns/pid", "ns/uts", "ns/net",
	};
	static const char * const fields[] = {
		"Name", "Umask", "Uid", "Gid", "SigBlk", "SigIgn", "SigCgt",
		"CapEff", "Seccomp", "NoNewPrivs", "Threads",
	};
	char seen[2][128];
	long pid;
	int i;

	/* Since the tree was started, the manager has become another. */
	ASSERT_EQ(0, chdir("/tmp"));
	ASSERT_LE(0, open("/", O_RDONLY));
	ASSERT_EQ(0, prctl(PR_SET_NAME, "manager"));
	ASSERT_NE(SIG_ERR, signal(SIGUSR2, SIG_IGN));
	ASSERT_EQ(0, unshare(CLONE_NEWUTS));
	umask(0123);
	pid = copy_from(self->pidfd, variant->flags | CLONE_STOPPED);
	ASSERT_LT(0, pid);
	for (i = 0; i < ARRAY_SIZE(links); i++)
		expect_same_link(_metadata, self->root, pid, links[i]);
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		EXPECT_TRUE(read_status_field(self->root, self->root, fields[i],
					      seen[0], sizeof(seen[0])));
		EXPECT_TRUE(read_status_field(pid, pid, fields[i], seen[1],
					      sizeof(seen[1])));
		EXPECT_STREQ(seen[0], seen[1])
		{
			TH_LOG("%s", fields[i]);
		}
	}
	EXPECT_EQ(count_fds_of(self->root), count_fds_of(pid));
	EXPECT_NE(count_fds_of(getpid()), count_fds_of(pid));
	EXPECT_TRUE(end_others());
}

TEST_HARNESS_MAIN
