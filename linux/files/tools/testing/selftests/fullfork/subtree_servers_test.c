// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: trees with members that others depend on
 *
 * A file server, a tracer, and the freezer of cgroups.
 */

#include "fullfork_answers.h"
#include "fullfork_fuse.h"
#include <sys/ptrace.h>

/* Words of the report */
enum {
	WORD_GO,
	WORD_STATS,		/* that the client has made */
	WORD_SERVED,
	WORD_TRACER,		/* what it is to do, and its answer */
	WORD_TRACER_TID,
};

/*
 * Number 1 serves a file system that number 2 uses all the time: a call that
 * has quiesced the server may have to wait for the client in vain.
 */

static void *serve(void *arg)
{
	const struct fuse_in_header *in;

	while ((in = read_request())) {
		refuse_request(in);
		add(&report->word[WORD_SERVED], 1);
	}
	return NULL;
}

static void start_server(int number)
{
	pthread_t thread;

	side_assert_eq(0, pthread_create(&thread, NULL, serve, NULL));
}

static void *use_server(void *arg)
{
	await_word(&report->word[WORD_GO], 1);
	for (;;) {
		side_assert_eq(ENOENT, stat_file());
		add(&report->word[WORD_STATS], 1);
	}
	return NULL;
}

static void start_client(int number)
{
	pthread_t thread;

	leave_fuse_to_server();
	side_assert_eq(0, pthread_create(&thread, NULL, use_server, NULL));
}

static void leave_fuse(int number)
{
	leave_fuse_to_server();
}

static const struct plan with_server[] = {
	{ .threads = 1, .become = leave_fuse },
	{ .parent = 0, .become = start_server },
	{ .parent = 0, .become = start_client },
	{ .parent = 2, .become = leave_fuse },
};

FIXTURE(server)
{
	int pidfd;
};

FIXTURE_SETUP(server)
{
	setup_manager(_metadata);
	mount_fuse(_metadata);
	start_tree(_metadata, with_server, ARRAY_SIZE(with_server),
		   RELATION_CHILD);
	leave_fuse_to_server();
	self->pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, self->pidfd);
	set_word(&report->word[WORD_GO], 1);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_STATS]) > 10, DEADLINE));
}

FIXTURE_TEARDOWN(server)
{
	teardown_manager(_metadata);
	unmount_fuse();
}

/*
 * Either is right, and which it is depends on the moment.  Replicas stay
 * stopped: a server that is copied answers the same requests.
 */
TEST_F_GUARDED(server, that_is_a_member_does_not_hang_the_call)
{
	int round, copied = 0, busy = 0;
	long long start;
	__u32 stats;
	long ret;

	ASSERT_EQ(0, change_bound(1));
	for (round = 0; round < 12; round++) {
		stats = load(&report->word[WORD_STATS]);
		start = now_ms();
		ret = copy_from(self->pidfd, WHOLE_TREE | CLONE_STOPPED);
		EXPECT_TRUE(ret > 0 || ret == -EBUSY)
		{
			TH_LOG("%s", strerror(-ret));
		}
		EXPECT_GT(20000, now_ms() - start);
		copied += ret > 0;
		busy += ret == -EBUSY;
		EXPECT_TRUE(end_others());
		EXPECT_TRUE(originals_answer());
		EXPECT_TRUE(wait_until(load(&report->word[WORD_STATS]) - stats >
				       10, DEADLINE))
		{
			dump_listed(list_below(getpid()));
		}
	}
	TH_LOG("%d copied, %d busy", copied, busy);
	EXPECT_EQ(0, load(&report->word[WORD_EINTRS]));
}

/*
 * Tracers
 */

enum { TRACER_NONE, TRACER_SEIZE, TRACER_DETACH, TRACER_DONE };

static void *trace_when_told(void *arg)
{
	__u32 *word = &report->word[WORD_TRACER];
	pid_t tracee;
	int status;

	store(&report->word[WORD_TRACER_TID], sys_gettid());
	for (;;) {
		while (load(word) == TRACER_NONE || load(word) == TRACER_DONE)
			poll_pause();
		if (in_replica())
			pause();
		tracee = pid_of(1);
		if (load(word) == TRACER_SEIZE) {
			side_assert_eq(0, ptrace(PTRACE_SEIZE, tracee, 0, 0));
		} else {
			side_assert_eq(0, ptrace(PTRACE_INTERRUPT, tracee, 0,
						 0));
			side_assert_eq(tracee, waitpid(tracee, &status, __WALL));
			side_assert_eq(0, ptrace(PTRACE_DETACH, tracee, 0, 0));
		}
		store(word, TRACER_DONE);
	}
	return NULL;
}

static void start_tracer(int number)
{
	pthread_t thread;

	side_assert_eq(0, pthread_create(&thread, NULL, trace_when_told, NULL));
}

static const struct plan with_tracer[] = {
	{ .threads = 1, .caller = 1 },
	{ .parent = 0, .threads = 1 },
	{ .parent = 0, .threads = 1, .become = start_tracer },
};

FIXTURE(traced)
{
	int pidfd;
};

FIXTURE_SETUP(traced)
{
	setup_manager(_metadata);
	start_tree(_metadata, with_tracer, ARRAY_SIZE(with_tracer),
		   RELATION_CHILD);
	self->pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, self->pidfd);
	ASSERT_EQ(0, change_bound(2));
}

FIXTURE_TEARDOWN(traced)
{
	teardown_manager(_metadata);
}

static bool have_tracer_do(int what)
{
	store(&report->word[WORD_TRACER], what);
	return wait_until(load(&report->word[WORD_TRACER]) == TRACER_DONE,
			  DEADLINE);
}

static pid_t tracer_of(pid_t pid)
{
	char text[32];

	if (!read_status_field(pid, pid, "TracerPid", text, sizeof(text)))
		return -1;
	return atoi(text);
}

TEST_F_GUARDED(traced, by_a_member_is_busy)
{
	pid_t tracer;
	int i;

	for (i = 0; i < 3; i++) {
		ASSERT_TRUE(have_tracer_do(TRACER_SEIZE));
		tracer = load(&report->word[WORD_TRACER_TID]);
		EXPECT_EQ(tracer, tracer_of(pid_of(1)));
		EXPECT_EQ(-EBUSY, copy_from(self->pidfd, WHOLE_TREE));
		EXPECT_EQ(-EBUSY, have_copied(0, WHOLE_TREE));
		EXPECT_EQ(tracer, tracer_of(pid_of(1)));
		EXPECT_EQ(0, list_others());
		EXPECT_TRUE(originals_answer());
		/* The root alone is neither. */
		EXPECT_LT(0, copy_from(self->pidfd, CLONE_ALL_THREADS));
		EXPECT_TRUE(end_others());

		ASSERT_TRUE(have_tracer_do(TRACER_DETACH));
		EXPECT_EQ(0, tracer_of(pid_of(1)));
		EXPECT_LT(0, copy_from(self->pidfd, WHOLE_TREE));
		EXPECT_TRUE(replicas_answer());
		EXPECT_TRUE(end_others());
	}
	EXPECT_TRUE(originals_answer());
	EXPECT_EQ(0, load(&report->failures));
}

/* The tracer is the manager, which asked for no events. */
TEST_F_GUARDED(traced, from_outside_is_copied_untraced)
{
	struct report_slot *slot;
	int i, k, status;

	for (i = 0; i < nr_tasks(); i++)
		ASSERT_EQ(0, ptrace(PTRACE_SEIZE, report->slot[i].tid, 0, 0));
	for (k = 0; k < 3; k++) {
		ASSERT_LT(0, copy_from(self->pidfd, WHOLE_TREE));
		EXPECT_TRUE(replicas_answer());
		EXPECT_TRUE(originals_answer());
		for (i = 0; i < nr_tasks(); i++) {
			slot = &report->slot[i];
			EXPECT_EQ(getpid(), tracer_of(slot->tid));
			EXPECT_EQ(0, tracer_of(slot->value[0]));
			EXPECT_EQ(0, waitpid(slot->tid, &status,
					     WNOHANG | __WALL));
		}
		EXPECT_TRUE(end_others());
	}
	expect_undisturbed();
	/* A tracer that is gone leaves them; else none could be buried. */
	for (i = 0; i < nr_tasks(); i++) {
		pid_t tid = report->slot[i].tid;

		ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, tid, 0, 0));
		ASSERT_EQ(tid, waitpid(tid, &status, __WALL));
		ASSERT_EQ(0, ptrace(PTRACE_DETACH, tid, 0, 0));
	}
	EXPECT_TRUE(originals_answer());
}

/*
 * The freezer
 */

static char group[128];

static int write_group(const char *name, const char *text)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/%s", group, name);
	return write_file(path, text);
}

static void enter_group(int number)
{
	side_assert_eq(0, write_group("cgroup.procs", "0"));
}

static const struct plan with_frozen_leaf[] = {
	{ .threads = 2 },
	{ .parent = 0, .threads = 1 },
	{ .parent = 1, .threads = 2, .before = enter_group },
};

static const struct plan with_frozen_root[] = {
	{ .threads = 2, .before = enter_group },
	{ .parent = 0, .threads = 1 },
	{ .parent = 1, .threads = 2 },
};

FIXTURE(frozen)
{
	int pidfd;
	char mount[32];
};

FIXTURE_VARIANT(frozen)
{
	const struct plan *plan;
	/* The first of the processes that are frozen. */
	int first;
};

FIXTURE_VARIANT_ADD(frozen, leaf) {
	.plan = with_frozen_leaf,
	.first = 2,
};

FIXTURE_VARIANT_ADD(frozen, tree) {
	.plan = with_frozen_root,
	.first = 0,
};

FIXTURE_SETUP(frozen)
{
	setup_manager(_metadata);
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(self->mount, sizeof(self->mount), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->mount));
	ASSERT_EQ(0, mount("none", self->mount, "cgroup2", 0, NULL));
	snprintf(group, sizeof(group), "%s/fullfork.%d", self->mount, getpid());
	ASSERT_EQ(0, mkdir(group, 0755));
	start_tree(_metadata, variant->plan, 3, RELATION_CHILD);
	self->pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, self->pidfd);
}

FIXTURE_TEARDOWN(frozen)
{
	write_group("cgroup.freeze", "0");
	teardown_manager(_metadata);
	EXPECT_TRUE(wait_until(!rmdir(group), DEADLINE));
	EXPECT_EQ(0, umount2(self->mount, MNT_DETACH));
	EXPECT_EQ(0, rmdir(self->mount));
}

/* What cgroup.events says, or -1. */
static int is_frozen(void)
{
	char path[192], text[256], *line;

	snprintf(path, sizeof(path), "%s/cgroup.events", group);
	if (read_file(path, text, sizeof(text)) < 0)
		return -1;
	line = strstr(text, "frozen ");
	return line ? atoi(line + strlen("frozen ")) : -1;
}

static bool set_frozen(bool frozen)
{
	return !write_group("cgroup.freeze", frozen ? "1" : "0") &&
	       wait_until(is_frozen() == frozen, DEADLINE);
}

static int processes_in_group(void)
{
	char path[192], text[512];
	int i, lines;

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	if (read_file(path, text, sizeof(text)) <= 0)
		return 0;
	for (i = 0, lines = 1; text[i]; i++)
		lines += text[i] == '\n';
	return lines;
}

TEST_F_GUARDED(frozen, is_copied_and_its_replica_is_frozen_too)
{
	int awake = first_task(variant->first), round, frozen;
	__u32 question;

	frozen = nr_tasks() - awake;
	for (round = 0; round < 4; round++) {
		ASSERT_TRUE(set_frozen(true));
		ASSERT_EQ(3 - variant->first, processes_in_group());
		ASSERT_LT(0, copy_from(self->pidfd, WHOLE_TREE |
				       (round & 1 ? CLONE_STOPPED : 0)));
		EXPECT_EQ(2 * (3 - variant->first), processes_in_group());
		/* The group is so again, and it counts right. */
		EXPECT_TRUE(wait_until(is_frozen() == 1, DEADLINE));

		question = ask();
		EXPECT_TRUE(wait_until(count_answers(SIDE_ORIGINAL, 0, awake,
						     question) == awake,
				       DEADLINE));
		if (!(round & 1))
			EXPECT_TRUE(wait_until(count_answers(SIDE_REPLICA, 0,
							     awake, question) ==
					       awake, DEADLINE));
		EXPECT_EQ(0, count_answers(SIDE_ORIGINAL, awake, frozen,
					   question));
		EXPECT_EQ(0, count_answers(SIDE_REPLICA, awake, frozen,
					   question));
		ASSERT_TRUE(set_frozen(false));
		EXPECT_TRUE(originals_answer());
		if (!(round & 1))
			EXPECT_TRUE(replicas_answer());
		EXPECT_TRUE(end_others());
	}
	EXPECT_EQ(0, load(&report->word[WORD_EINTRS]));
	/* The count is still right without the replicas. */
	EXPECT_TRUE(set_frozen(true));
	EXPECT_TRUE(set_frozen(false));
}

TEST_HARNESS_MAIN
