// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what the store of snapshots, /dev/rust-fullfork, promises
 *
 * The test is the manager of two trees, one for most of the tests and a program
 * of eight threads.
 */

#include "fullfork_device.h"
#include <sys/socket.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static const struct plan family[] = {
	{ .threads = 3 },
	{ .parent = 0, .threads = 1 },
	{ .parent = 0 },
};

#define FAMILY_TASKS 7

FIXTURE(store)
{
	int fd;
	pid_t root;
	int pidfd;
};

FIXTURE_SETUP(store)
{
	setup_manager(_metadata);
	self->root = start_tree(_metadata, family, ARRAY_SIZE(family),
				RELATION_CHILD);
	ASSERT_EQ(FAMILY_TASKS, nr_tasks());
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	/* What is copied does not have it. */
	self->fd = open_store(_metadata);
}

FIXTURE_TEARDOWN(store)
{
	/* All that it has kept ends with it. */
	close(self->fd);
	EXPECT_TRUE(nothing_left());
	teardown_manager(_metadata);
}

static __u32 take_snapshot(struct __test_metadata *_metadata, int store,
			   int pidfd, __u64 flags)
{
	long id = snapshot_with(store, pidfd, flags);

	ASSERT_LT(0, id)
	{
		TH_LOG("snapshot: %s", strerror(-id));
	}
	return id;
}

static pid_t spawn_copy(struct __test_metadata *_metadata, int store, __u32 id,
			__u64 flags)
{
	long pid = spawn_with(store, id, flags);

	ASSERT_LT(0, pid)
	{
		TH_LOG("spawn: %s", strerror(-pid));
	}
	return pid;
}

/*
 * Snapshots
 */

TEST_F_GUARDED(store, has_a_snapshot_that_is_stopped)
{
	struct rust_fullfork_process process[3];
	struct rust_fullfork_snapshot s;
	int i;

	init_snapshot(&s, self->pidfd, WHOLE_TREE);
	ASSERT_EQ(0, store_call(self->fd, RUST_FULLFORK_SNAPSHOT, &s));
	EXPECT_NE(0, s.id);
	EXPECT_EQ(3, s.nr_processes);
	EXPECT_EQ(FAMILY_TASKS, s.nr_threads);
	EXPECT_EQ(3, list_others());
	EXPECT_EQ(4, count_threads(s.pid));
	ASSERT_EQ(3, list_template(self->fd, s.id, process, 3));
	EXPECT_EQ(s.pid, process[0].pid);
	for (i = 0; i < 3; i++)
		EXPECT_TRUE(wait_until(all_threads_in(process[i].pid, 'T'),
				       DEADLINE));

	EXPECT_TRUE(originals_answer());
	EXPECT_EQ(0, count_answers(SIDE_REPLICA, 0, FAMILY_TASKS,
				   load(&report->word[WORD_QUESTION])));
	expect_undisturbed();
}

TEST_F_GUARDED(store, has_a_snapshot_that_bothers_nobody)
{
	long id = snapshot(self->fd, self->pidfd);

	ASSERT_LT(0, id);
	EXPECT_FALSE(sigchld_is_pending());
	EXPECT_EQ(0, waitpid(-1, NULL, __WALL | WNOHANG));
	EXPECT_TRUE(has_no_event(self->root));
	/* Without descendants there is nothing that somebody has to reap. */
	ASSERT_EQ(0, drop(self->fd, id));
	EXPECT_TRUE(nothing_left());
	id = snapshot_with(self->fd, self->pidfd, CLONE_ALL_THREADS);
	ASSERT_LT(0, id);
	ASSERT_EQ(0, drop(self->fd, id));
	EXPECT_TRUE(no_others());
	EXPECT_FALSE(sigchld_is_pending());
}

TEST_F_GUARDED(store, outlives_the_originals)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	pid_t pid;

	/* The children of the root die with it. */
	forget(self->root);
	ASSERT_EQ(0, kill(self->root, SIGKILL));
	xwaitpid(_metadata, self->root, DEADLINE);
	EXPECT_TRUE(only_left(3));
	EXPECT_EQ(-ESRCH, snapshot(self->fd, self->pidfd));

	pid = spawn_copy(_metadata, self->fd, id, 0);
	EXPECT_TRUE(replicas_answer());
	EXPECT_EQ(6, list_others());
	end_copy(_metadata, pid);
	EXPECT_TRUE(only_left(3));
}

/*
 * Copies of them
 */

TEST_F_GUARDED(store, spawns_children_that_run)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	struct rust_fullfork_spawn s;
	siginfo_t info = {};

	init_spawn(&s, id, 0);
	ASSERT_EQ(0, store_call(self->fd, RUST_FULLFORK_SPAWN, &s));
	EXPECT_EQ(getpid(), status_number(s.pid, "PPid"));
	EXPECT_EQ(FD_CLOEXEC, fcntl(s.pidfd, F_GETFD));
	EXPECT_TRUE(replicas_answer());
	EXPECT_EQ(s.pid, report->slot[0].code);
	EXPECT_EQ(getpid(), report->slot[0].value[3]);
	/* The shape is that of the originals. */
	EXPECT_EQ(s.pid, report->slot[first_task(1)].value[3]);
	EXPECT_EQ(s.pid, report->slot[first_task(2)].value[3]);

	EXPECT_FALSE(sigchld_is_pending());
	tell_to_end();
	EXPECT_TRUE(wait_pidfd(s.pidfd, DEADLINE));
	EXPECT_EQ(0, waitid(P_PIDFD, s.pidfd, &info, WEXITED));
	EXPECT_EQ(s.pid, info.si_pid);
	EXPECT_EQ(REPLICA_PASS, info.si_status);
	EXPECT_TRUE(sigchld_is_pending());
	close(s.pidfd);
	/* The template sleeps through it. */
	EXPECT_TRUE(only_left(3));
}

/* Each has yet to see the question that the originals have answered. */
TEST_F_GUARDED(store, spawns_what_was_and_not_what_is)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	__u32 question;
	pid_t pid;
	int i;

	for (i = 0; i < 5; i++) {
		EXPECT_TRUE(originals_answer());
		question = load(&report->word[WORD_QUESTION]);
		pid = spawn_copy(_metadata, self->fd, id, 0);
		EXPECT_TRUE(wait_until(count_answers(SIDE_REPLICA, 0,
						     FAMILY_TASKS, question) ==
				       FAMILY_TASKS, DEADLINE));
		end_copy(_metadata, pid);
		EXPECT_TRUE(only_left(3));
	}
}

TEST_F_GUARDED(store, spawns_copies_that_outlive_it)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	pid_t pid = spawn_copy(_metadata, self->fd, id, 0);

	ASSERT_EQ(0, drop(self->fd, id));
	EXPECT_TRUE(only_left(3));
	EXPECT_TRUE(replicas_answer());
	EXPECT_EQ(pid, report->slot[0].code);
	ASSERT_EQ(0, close(self->fd));
	EXPECT_TRUE(replicas_answer());
	tell_to_end();
	expect_pass(_metadata, pid);
}

TEST_F_GUARDED(store, spawns_stopped_copies_that_belong_to_the_caller)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd,
				 CLONE_ALL_THREADS);
	pid_t pid = spawn_copy(_metadata, self->fd, id, CLONE_STOPPED);

	EXPECT_TRUE(wait_until(all_threads_in(pid, 'T'), DEADLINE));
	ASSERT_EQ(0, drop(self->fd, id));
	EXPECT_TRUE(only_left(1));
	EXPECT_TRUE(all_threads_in(pid, 'T'));
	ASSERT_EQ(0, kill(pid, SIGCONT));
	EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, first_task(1)));
	end_copy(_metadata, pid);
}

TEST_F_GUARDED(store, spawns_copies_that_are_not_waited_for)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd,
				 CLONE_ALL_THREADS);
	pid_t pid = spawn_copy(_metadata, self->fd, id, CLONE_AUTOREAP);

	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_TRUE(wait_until(kill(pid, 0) && errno == ESRCH, DEADLINE));
	EXPECT_FALSE(sigchld_is_pending());
	EXPECT_EQ(1, list_others());
}

TEST_F_GUARDED(store, spawns_copies_without_new_privileges)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd,
				 CLONE_ALL_THREADS);
	pid_t pid = spawn_copy(_metadata, self->fd, id, CLONE_NNP);

	EXPECT_EQ(1, status_number(pid, "NoNewPrivs"));
	end_copy(_metadata, pid);
	pid = spawn_copy(_metadata, self->fd, id, 0);
	EXPECT_EQ(0, status_number(pid, "NoNewPrivs"));
	end_copy(_metadata, pid);
}

/* The last number of the field: that in the innermost namespace. */
static pid_t innermost_pid(pid_t pid)
{
	char text[128], *last;

	if (!read_status_field(pid, pid, "NSpid", text, sizeof(text)))
		return -1;
	last = strrchr(text, '\t');
	return last ? atoi(last + 1) : -1;
}

TEST_F_GUARDED(store, spawns_copies_with_the_tids_of_the_originals)
{
	const __u64 keep_tids = CLONE_KEEP_TIDS | CLONE_NEWPID;
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd,
				 WHOLE_TREE | keep_tids);
	struct rust_fullfork_process process[3];
	pid_t pid[2];
	int i;

	ASSERT_EQ(3, list_template(self->fd, id, process, 3));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(process[i].original, innermost_pid(process[i].pid));
	/* Each in a namespace of its own */
	for (i = 0; i < 2; i++) {
		pid[i] = spawn_copy(_metadata, self->fd, id, keep_tids);
		EXPECT_EQ(self->root, innermost_pid(pid[i]));
	}
	/* Not of that of the template, which is killed first. */
	ASSERT_EQ(0, drop(self->fd, id));
	EXPECT_TRUE(wait_until(kill(process[0].pid, 0), DEADLINE));
	EXPECT_EQ(4, count_threads(pid[0]));
	EXPECT_EQ(4, count_threads(pid[1]));
	end_copy(_metadata, pid[0]);
	end_copy(_metadata, pid[1]);
}

static bool same_pid_namespace(pid_t a, pid_t b)
{
	char path[64], seen[2][64] = {};

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", a);
	if (readlink(path, seen[0], sizeof(seen[0]) - 1) < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", b);
	return readlink(path, seen[1], sizeof(seen[1]) - 1) > 0 &&
	       !strcmp(seen[0], seen[1]);
}

/* Without the flags a copy is where the template is, with other TIDs. */
TEST_F_GUARDED(store, spawns_copies_in_the_pid_namespace_of_a_template)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd,
				 WHOLE_TREE | CLONE_KEEP_TIDS | CLONE_NEWPID);
	pid_t pid = spawn_copy(_metadata, self->fd, id, 0);
	struct rust_fullfork_process process;

	ASSERT_EQ(3, list_template(self->fd, id, &process, 1));
	EXPECT_TRUE(same_pid_namespace(pid, process.pid));
	EXPECT_FALSE(same_pid_namespace(pid, self->root));
	EXPECT_NE(self->root, innermost_pid(pid));
	/* The namespace ends with the last process, and not with the template. */
	ASSERT_EQ(0, drop(self->fd, id));
	EXPECT_TRUE(wait_until(kill(process.pid, 0), DEADLINE));
	EXPECT_EQ(4, count_threads(pid));
	EXPECT_TRUE(wait_until(task_state(pid, pid) == 'S', DEADLINE));
	end_copy(_metadata, pid);
}

/* Who was stopped is stopped, and the others run, each time. */
TEST_F_GUARDED(store, keeps_a_stopped_member_stopped)
{
	struct rust_fullfork_process process[3];
	__u32 id;
	pid_t pid;
	int i;

	ASSERT_EQ(0, kill(pid_of(1), SIGSTOP));
	ASSERT_TRUE(wait_until(all_threads_in(pid_of(1), 'T'), DEADLINE));
	id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	ASSERT_EQ(3, list_template(self->fd, id, process, 3));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(process[i].original == pid_of(1) ?
			  RUST_FULLFORK_STOPPED : 0, process[i].flags);

	for (i = 0; i < 3; i++) {
		pid = spawn_copy(_metadata, self->fd, id, 0);
		EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, first_task(1)));
		EXPECT_TRUE(tasks_answer(SIDE_REPLICA, first_task(2), 1));
		EXPECT_EQ(0, count_answers(SIDE_REPLICA, first_task(1), 2,
					   load(&report->word[WORD_QUESTION])));
		EXPECT_EQ(pid, report->slot[0].code);
		end_copy(_metadata, pid);
		EXPECT_TRUE(only_left(3));
	}
	ASSERT_EQ(0, kill(pid_of(1), SIGCONT));
	EXPECT_TRUE(originals_answer());
}

static void leave_zombie(int number)
{
	pid_t pid = fork();

	side_assert(pid >= 0);
	if (!pid)
		_exit(7);
	side_assert(wait_until(task_state(pid, pid) == 'Z', DEADLINE));
}

static const struct plan with_zombie[] = {
	{ .threads = 1, .become = leave_zombie },
};

TEST_F_GUARDED(store, keeps_a_zombie_as_it_is)
{
	struct rust_fullfork_process process[2];
	int i, pidfd;
	pid_t pid;
	__u32 id;

	ASSERT_TRUE(end_kept(self->root));
	pidfd = sys_pidfd_open(start_tree(_metadata, with_zombie, 1,
					  RELATION_CHILD));
	id = take_snapshot(_metadata, self->fd, pidfd, WHOLE_TREE);
	for (i = 0; i < 2; i++) {
		pid = spawn_copy(_metadata, self->fd, id, 0);
		EXPECT_TRUE(replicas_answer());
		ASSERT_EQ(1, list_below(pid));
		EXPECT_EQ('Z', task_state(processes[0].pid, processes[0].pid));
		end_copy(_metadata, pid);
	}
	ASSERT_EQ(2, list_template(self->fd, id, process, 2));
	EXPECT_EQ(0, process[0].flags);
	EXPECT_EQ(0, process[1].flags);
	EXPECT_EQ('Z', task_state(process[1].pid, process[1].pid));
	/* This tree has the store open: a close alone would not end it. */
	EXPECT_EQ(0, drop(self->fd, id));
	EXPECT_TRUE(nothing_left());
}

/*
 * Lists
 */

TEST_F_GUARDED(store, lists_its_templates)
{
	struct rust_fullfork_template t[3] = {};
	__u32 id[2];

	EXPECT_EQ(0, list_templates(self->fd, t, 3));
	id[0] = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	id[1] = take_snapshot(_metadata, self->fd, self->pidfd,
			      CLONE_ALL_THREADS | CLONE_NNP);
	EXPECT_NE(id[0], id[1]);

	EXPECT_EQ(2, list_templates(self->fd, t, 3));
	EXPECT_EQ(id[0], t[0].id);
	EXPECT_EQ(WHOLE_TREE, t[0].flags);
	EXPECT_EQ(3, t[0].nr_processes);
	EXPECT_EQ(FAMILY_TASKS, t[0].nr_threads);
	EXPECT_EQ('T', task_state(t[0].pid, t[0].pid));
	EXPECT_EQ(id[1], t[1].id);
	EXPECT_EQ(CLONE_ALL_THREADS | CLONE_NNP, t[1].flags);
	EXPECT_EQ(1, t[1].nr_processes);
	EXPECT_EQ(4, t[1].nr_threads);
	EXPECT_EQ(0, t[2].id);

	ASSERT_EQ(0, drop(self->fd, id[0]));
	EXPECT_EQ(1, list_templates(self->fd, t, 3));
	EXPECT_EQ(id[1], t[0].id);
}

TEST_F_GUARDED(store, lists_no_more_than_fit)
{
	struct rust_fullfork_process process[3];
	struct rust_fullfork_template t[2];
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);

	take_snapshot(_metadata, self->fd, self->pidfd, CLONE_ALL_THREADS);
	memset(t, 0xda, sizeof(t));
	EXPECT_EQ(2, list_templates(self->fd, t, 1));
	EXPECT_EQ(id, t[0].id);
	EXPECT_EQ(UNTOUCHED, t[1].id);
	/* No room is needed to ask how many there are. */
	EXPECT_EQ(2, list_templates(self->fd, NULL, 0));

	memset(process, 0xda, sizeof(process));
	EXPECT_EQ(3, list_template(self->fd, id, process, 2));
	EXPECT_NE(UNTOUCHED, process[1].pid);
	EXPECT_EQ(UNTOUCHED, process[2].pid);
	EXPECT_EQ(3, list_template(self->fd, id, NULL, 0));
}

TEST_F_GUARDED(store, lists_the_processes_of_a_template)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	struct rust_fullfork_process process[4];
	char path[64], comm[16];
	int i, number;

	memset(process, 0, sizeof(process));
	ASSERT_EQ(3, list_template(self->fd, id, process, 4));
	EXPECT_EQ(self->root, process[0].original);
	for (i = 0; i < 3; i++) {
		for (number = 0; number < 3; number++)
			if (process[i].original == pid_of(number))
				break;
		ASSERT_GT(3, number);
		EXPECT_EQ(1 + family[number].threads, process[i].nr_threads);
		EXPECT_EQ(1 + family[number].threads,
			  count_threads(process[i].pid));
		EXPECT_EQ(0, process[i].flags);
		EXPECT_EQ(i ? process[0].pid : getpid(),
			  status_number(process[i].pid, "PPid"));
		snprintf(path, sizeof(path), "/proc/%u/comm", process[i].pid);
		ASSERT_LT(0, read_file(path, comm, sizeof(comm)));
		EXPECT_STREQ(comm, process[i].comm);
	}
	EXPECT_EQ(0, process[3].pid);
}

/*
 * What ends
 */

TEST_F_GUARDED(store, kills_what_is_dropped)
{
	struct rust_fullfork_process process[3];
	__u32 id[2];
	int i;

	for (i = 0; i < 2; i++)
		id[i] = take_snapshot(_metadata, self->fd, self->pidfd,
				      WHOLE_TREE);
	EXPECT_EQ(6, list_others());
	ASSERT_EQ(0, drop(self->fd, id[0]));
	EXPECT_TRUE(only_left(3));
	EXPECT_EQ(-ENOENT, drop(self->fd, id[0]));
	EXPECT_EQ(-ENOENT, spawn(self->fd, id[0]));
	EXPECT_EQ(-ENOENT, list_template(self->fd, id[0], process, 3));

	/* The other one is still there. */
	EXPECT_EQ(3, list_template(self->fd, id[1], process, 3));
	EXPECT_EQ(id[1] + 1, snapshot_with(self->fd, self->pidfd,
					   CLONE_ALL_THREADS));
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
}

TEST_F_GUARDED(store, kills_what_it_has_with_its_last_close)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	int other = dup(self->fd);

	ASSERT_LE(0, other);
	take_snapshot(_metadata, self->fd, self->pidfd, CLONE_ALL_THREADS);
	ASSERT_EQ(0, close(self->fd));
	/* An open file, and not a descriptor, is what keeps them. */
	EXPECT_EQ(2, list_templates(other, NULL, 0));
	EXPECT_EQ(4, list_others());
	EXPECT_EQ(3, list_template(other, id, NULL, 0));
	ASSERT_EQ(0, close(other));
	EXPECT_TRUE(nothing_left());
	EXPECT_TRUE(originals_answer());
}

static __noreturn void die_with_store(int pidfd)
{
	int store = open(DEVICE, O_RDWR);
	long id = snapshot(store, pidfd);

	replica_assert(id > 0);
	set_word(&report->word[WORD_GO], id);
	for (;;)
		pause();
}

TEST_F_GUARDED(store, kills_what_it_has_when_its_owner_is_killed)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		die_with_store(self->pidfd);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_GO]), DEADLINE))
	{
		TH_LOG("%s", report->failure);
	}
	EXPECT_EQ(4, list_others());
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_TRUE(nothing_left());
	EXPECT_TRUE(originals_answer());
}

TEST_F_GUARDED(store, tells_which_process_was_killed)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	struct rust_fullfork_process process[3];
	pid_t pid = spawn_copy(_metadata, self->fd, id, 0);

	end_copy(_metadata, pid);
	ASSERT_EQ(3, list_template(self->fd, id, process, 3));
	ASSERT_EQ(0, kill(process[2].pid, SIGKILL));
	ASSERT_TRUE(wait_until(task_state(process[2].pid, process[2].pid) == 'Z',
			       DEADLINE));

	EXPECT_EQ(-ESRCH, spawn(self->fd, id));
	ASSERT_EQ(3, list_template(self->fd, id, process, 3));
	EXPECT_EQ(0, process[0].flags);
	EXPECT_EQ(0, process[1].flags);
	EXPECT_EQ(RUST_FULLFORK_GONE, process[2].flags);
	/* It is there until it is dropped. */
	EXPECT_EQ(1, list_templates(self->fd, NULL, 0));
	EXPECT_EQ(0, drop(self->fd, id));
}

TEST_F_GUARDED(store, spawns_nothing_of_a_template_whose_root_was_killed)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	struct rust_fullfork_process process[3];
	struct rust_fullfork_spawn s;
	int fds = count_fds();

	ASSERT_EQ(3, list_template(self->fd, id, process, 3));
	ASSERT_EQ(0, kill(process[0].pid, SIGKILL));
	ASSERT_TRUE(wait_until(kill(process[0].pid, 0), DEADLINE));
	init_spawn(&s, id, 0);
	EXPECT_EQ(-ESRCH, store_call(self->fd, RUST_FULLFORK_SPAWN, &s));
	EXPECT_EQ(UNTOUCHED, s.pid);
	EXPECT_EQ(UNTOUCHED, s.pidfd);
	EXPECT_EQ(fds, count_fds());
	ASSERT_EQ(3, list_template(self->fd, id, process, 3));
	EXPECT_EQ(RUST_FULLFORK_GONE, process[0].flags);
	EXPECT_EQ('\0', process[0].comm[0]);
}

/*
 * What is refused
 */

TEST_F_GUARDED(store, rejects_other_ioctls)
{
	struct rust_fullfork_snapshot s;
	const unsigned long unknown[] = {
		_IOWR('|', 0x9f, s),
		_IOWR('|', 0xa5, s),
		_IOWR('}', 0xa0, s),
		_IOW('|', 0xa0, s),
		_IOR('|', 0xa0, s),
		_IOWR('|', 0xa0, __u64),
		_IO('|', 0xa0),
		_IOWR('|', 0xa4, __u32),
		0,
		~0U,
	};
	int i;

	init_snapshot(&s, self->pidfd, WHOLE_TREE);
	for (i = 0; i < ARRAY_SIZE(unknown); i++) {
		EXPECT_EQ(-ENOTTY, store_call(self->fd, unknown[i], &s))
		{
			TH_LOG("0x%lx", unknown[i]);
		}
	}
	EXPECT_EQ(UNTOUCHED, s.id);
	EXPECT_EQ(0, list_others());
	EXPECT_EQ(0, store_call(self->fd, RUST_FULLFORK_SNAPSHOT, &s));
}

TEST_F_GUARDED(store, rejects_flags_that_are_not_for_snapshots)
{
	static const __u64 refused[] = {
		0,
		CLONE_NNP,
		WHOLE_TREE | CLONE_STOPPED,
		WHOLE_TREE | CLONE_AUTOREAP,
		WHOLE_TREE | CLONE_FROM_PIDFD,
		WHOLE_TREE | CLONE_PARENT,
		WHOLE_TREE | CLONE_PIDFD,
		WHOLE_TREE | CLONE_PARENT_SETTID,
		WHOLE_TREE | CLONE_PIDFD_AUTOKILL,
		WHOLE_TREE | CLONE_NEWPID,
		WHOLE_TREE | CLONE_VM,
		WHOLE_TREE | CLONE_NEWNS,
		WHOLE_TREE | CLONE_ISOLATE,
		WHOLE_TREE | CLONE_SFORK,
		WHOLE_TREE | 1ULL << 63,
		WHOLE_TREE | SIGCHLD,
	};
	struct rust_fullfork_snapshot s;
	int i;

	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		init_snapshot(&s, self->pidfd, refused[i]);
		EXPECT_EQ(-EINVAL, store_call(self->fd, RUST_FULLFORK_SNAPSHOT,
					      &s))
		{
			TH_LOG("0x%llx", refused[i]);
		}
		EXPECT_EQ(UNTOUCHED, s.id);
	}
	init_snapshot(&s, self->pidfd, WHOLE_TREE);
	s.reserved = 1;
	EXPECT_EQ(-EINVAL, store_call(self->fd, RUST_FULLFORK_SNAPSHOT, &s));
	EXPECT_EQ(0, list_others());
	EXPECT_EQ(0, list_templates(self->fd, NULL, 0));

	s.reserved = 0;
	EXPECT_EQ(0, store_call(self->fd, RUST_FULLFORK_SNAPSHOT, &s));
	EXPECT_LT(0, snapshot_with(self->fd, self->pidfd,
				   CLONE_ALL_THREADS | CLONE_NNP));
}

TEST_F_GUARDED(store, rejects_flags_that_are_not_for_copies)
{
	static const __u64 refused[] = {
		CLONE_ALL_THREADS,
		CLONE_SUBTREE,
		CLONE_FROM_PIDFD,
		CLONE_PARENT,
		CLONE_PIDFD,
		CLONE_PARENT_SETTID,
		CLONE_NEWPID,
		CLONE_VM,
		CLONE_ISOLATE,
		1ULL << 63,
		SIGCHLD,
	};
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	struct rust_fullfork_spawn s;
	int i, fds = count_fds();

	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		init_spawn(&s, id, refused[i]);
		EXPECT_EQ(-EINVAL, store_call(self->fd, RUST_FULLFORK_SPAWN,
					      &s))
		{
			TH_LOG("0x%llx", refused[i]);
		}
		EXPECT_EQ(UNTOUCHED, s.pid);
		EXPECT_EQ(UNTOUCHED, s.pidfd);
	}
	init_spawn(&s, id, 0);
	s.exit_signal = 65;
	EXPECT_EQ(-EINVAL, store_call(self->fd, RUST_FULLFORK_SPAWN, &s));
	s.exit_signal = -1;
	EXPECT_EQ(-EINVAL, store_call(self->fd, RUST_FULLFORK_SPAWN, &s));
	init_spawn(&s, id, CLONE_AUTOREAP);
	s.exit_signal = SIGCHLD;
	EXPECT_EQ(-EINVAL, store_call(self->fd, RUST_FULLFORK_SPAWN, &s));
	EXPECT_EQ(3, list_others());
	EXPECT_EQ(fds, count_fds());

	s.flags = 0;
	ASSERT_EQ(0, store_call(self->fd, RUST_FULLFORK_SPAWN, &s));
	end_copy(_metadata, s.pid);
}

TEST_F_GUARDED(store, rejects_ids_that_it_does_not_have)
{
	struct rust_fullfork_list list = {};
	long id = snapshot(self->fd, self->pidfd);
	static const __u32 wrong[] = { 0, 1000, INT_MAX, UINT_MAX };
	int i;

	ASSERT_LT(0, id);
	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		EXPECT_EQ(-ENOENT, spawn(self->fd, wrong[i]));
		EXPECT_EQ(-ENOENT, drop(self->fd, wrong[i]));
		EXPECT_EQ(-ENOENT, list_template(self->fd, wrong[i], NULL, 0));
	}
	list.id = id;
	EXPECT_EQ(-EINVAL, store_call(self->fd, RUST_FULLFORK_LIST, &list));
	EXPECT_EQ(3, list_template(self->fd, id, NULL, 0));
	EXPECT_EQ(0, drop(self->fd, id));
}

TEST_F_GUARDED(store, rejects_what_is_no_pidfd_of_a_process)
{
	pid_t pid = fork();
	int fd, gone;

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(0);
	gone = sys_pidfd_open(pid);
	ASSERT_LE(0, gone);
	EXPECT_EQ(0, xwaitpid(_metadata, pid, DEADLINE));
	EXPECT_EQ(-ESRCH, snapshot(self->fd, gone));

	EXPECT_EQ(-EBADF, snapshot(self->fd, -1));
	EXPECT_EQ(-EBADF, snapshot(self->fd, INT_MIN));
	EXPECT_EQ(-EBADF, snapshot(self->fd, 1000));
	EXPECT_EQ(-EBADF, snapshot(self->fd, self->fd));
	fd = syscall(__NR_pidfd_open, report->slot[1].tid, PIDFD_THREAD);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, snapshot(self->fd, fd));
	EXPECT_EQ(0, list_others());
	EXPECT_EQ(0, list_templates(self->fd, NULL, 0));
	EXPECT_LT(0, snapshot(self->fd, self->pidfd));
}

/*
 * Memory that cannot be written to, with @size bytes of @data at its end, and
 * none behind it.
 */
static void *read_only(const void *data, size_t size)
{
	size_t page = getpagesize();
	char *area = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		return NULL;
	memcpy(area + page - size, data, size);
	mprotect(area, page, PROT_READ);
	mprotect(area + page, page, PROT_NONE);
	return area + page - size;
}

/* An ioctl whose argument is not there, or cannot be written to, or half. */
static void expect_bad_addresses(struct __test_metadata *_metadata, int store,
				 unsigned long cmd, const void *arg)
{
	char *at = read_only(arg, _IOC_SIZE(cmd));

	ASSERT_NE(NULL, at);
	EXPECT_EQ(-EFAULT, store_call(store, cmd, NULL));
	EXPECT_EQ(-EFAULT, store_call(store, cmd, (void *)-4096UL));
	EXPECT_EQ(-EFAULT, store_call(store, cmd, at));
	EXPECT_EQ(-EFAULT, store_call(store, cmd, at + _IOC_SIZE(cmd) / 2));
}

TEST_F_GUARDED(store, rejects_bad_addresses)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd,
				 CLONE_ALL_THREADS);
	struct rust_fullfork_list list = { .id = id };
	struct rust_fullfork_template t = {};
	struct rust_fullfork_snapshot snap;
	struct rust_fullfork_spawn s;
	int fds = count_fds();

	init_snapshot(&snap, self->pidfd, WHOLE_TREE);
	expect_bad_addresses(_metadata, self->fd, RUST_FULLFORK_SNAPSHOT, &snap);
	init_spawn(&s, id, 0);
	expect_bad_addresses(_metadata, self->fd, RUST_FULLFORK_SPAWN, &s);
	expect_bad_addresses(_metadata, self->fd, RUST_FULLFORK_PROCESSES, &list);
	list.id = 0;
	expect_bad_addresses(_metadata, self->fd, RUST_FULLFORK_LIST, &list);
	EXPECT_EQ(-EFAULT, store_call(self->fd, RUST_FULLFORK_DROP, NULL));

	EXPECT_EQ(-EFAULT, list_templates(self->fd, NULL, 1));
	EXPECT_EQ(-EFAULT, list_templates(self->fd, read_only(&t, sizeof(t)), 1));
	EXPECT_EQ(-EFAULT, list_template(self->fd, id, NULL, 1));
	EXPECT_EQ(1, list_others());
	EXPECT_EQ(fds, count_fds());
	EXPECT_EQ(1, list_templates(self->fd, &t, 1));
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();

	ASSERT_EQ(0, store_call(self->fd, RUST_FULLFORK_SPAWN, &s));
	end_copy(_metadata, s.pid);
	/* Nothing is written there. */
	EXPECT_EQ(0, store_call(self->fd, RUST_FULLFORK_DROP,
				read_only(&id, sizeof(id))));
}

/*
 * The results of a snapshot are written at its end.  A thread takes the right
 * to write there away and gives it back, to meet both checks: what could not be
 * told of is not there.
 */
struct blinker {
	void *page;
	__u32 end;
};

static void *blink(void *arg)
{
	struct blinker *b = arg;

	while (!load(&b->end)) {
		mprotect(b->page, getpagesize(), PROT_READ);
		spin_us(300);
		mprotect(b->page, getpagesize(), PROT_READ | PROT_WRITE);
		spin_us(300);
	}
	return NULL;
}

TEST_F_GUARDED(store, keeps_nothing_that_it_could_not_tell_of)
{
	struct rounds rounds = { .least = 20, .most = 200 };
	struct blinker b = {};
	struct rust_fullfork_snapshot s, *at;
	int made = 0;
	pthread_t thread;
	long ret;

	init_snapshot(&s, self->pidfd, CLONE_ALL_THREADS);
	at = read_only(&s, sizeof(s));
	ASSERT_NE(NULL, at);
	b.page = (void *)((uintptr_t)at & -(uintptr_t)getpagesize());
	start_thread(&thread, blink, &b);
	while (next_round(&rounds)) {
		ret = store_call(self->fd, RUST_FULLFORK_SNAPSHOT, at);
		made += !ret;
		EXPECT_TRUE(!ret || ret == -EFAULT);
	}
	store(&b.end, 1);
	join_thread(thread);
	EXPECT_EQ(made, list_templates(self->fd, NULL, 0));
	EXPECT_TRUE(only_left(made));
}

/*
 * Others who have the file
 */

static __noreturn void use_store_of_root(int store, int pidfd)
{
	long id = snapshot(store, pidfd), pid;
	int own;

	replica_assert(id > 0);
	pid = spawn(store, id);
	replica_assert(pid > 0);
	kill(pid, SIGKILL);
	replica_assert_eq(pid, waitpid(pid, NULL, 0));

	be_user(0);
	replica_assert_eq(-EPERM, snapshot(store, pidfd));
	replica_assert_eq(-EPERM, spawn(store, id));
	/* The file is good, and so is a process of the same user. */
	pid = fork();
	replica_assert(pid >= 0);
	if (!pid) {
		close(store);
		set_word(&report->word[WORD_GO], 1);
		for (;;)
			pause();
	}
	await_word(&report->word[WORD_GO], 1);
	own = sys_pidfd_open(pid);
	id = snapshot_with(store, own, CLONE_ALL_THREADS);
	kill(pid, SIGKILL);
	replica_assert_eq(pid, waitpid(pid, NULL, 0));
	replica_assert(id > 0);
	pid = spawn(store, id);
	replica_assert(pid > 0);
	kill(pid, SIGKILL);
	replica_assert_eq(pid, waitpid(pid, NULL, 0));
	replica_exit(REPLICA_PASS);
}

TEST_F_GUARDED(store, is_of_no_use_for_processes_of_other_users)
{
	pid_t pid;

	allow_ptrace(_metadata);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		use_store_of_root(self->fd, self->pidfd);
	expect_pass(_metadata, pid);
	EXPECT_EQ(2, list_templates(self->fd, NULL, 0));
	EXPECT_TRUE(originals_answer());
}

static int receive_fd(int from)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	int fd;

	if (recvmsg(from, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static bool send_fd(int to, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return sendmsg(to, &msg, 0) == 1;
}

static __noreturn void spawn_from_what_comes(int from, __u32 id)
{
	int store = receive_fd(from);
	struct rust_fullfork_spawn s;

	replica_assert(store >= 0);
	init_spawn(&s, id, 0);
	replica_assert_eq(0, store_call(store, RUST_FULLFORK_SPAWN, &s));
	replica_assert_eq(getpid(), status_number(s.pid, "PPid"));
	set_word(&report->word[WORD_GO], s.pid);
	replica_assert(wait_pidfd(s.pidfd, DEADLINE));
	replica_assert_eq(s.pid, waitpid(s.pid, NULL, 0));
	replica_exit(REPLICA_PASS);
}

TEST_F_GUARDED(store, can_be_handed_to_others)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	int pair[2];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(self->fd);
		spawn_from_what_comes(pair[1], id);
	}
	ASSERT_TRUE(send_fd(pair[0], self->fd));
	/* The other one alone has it from here on. */
	ASSERT_EQ(0, close(self->fd));
	ASSERT_TRUE(wait_until(load(&report->word[WORD_GO]), DEADLINE))
	{
		TH_LOG("%s", report->failure);
	}
	EXPECT_TRUE(replicas_answer());
	EXPECT_EQ(pid, report->slot[0].value[3]);
	EXPECT_EQ(0, kill(load(&report->word[WORD_GO]), SIGKILL));
	expect_pass(_metadata, pid);
	EXPECT_TRUE(nothing_left());
}

static __noreturn void look_from_elsewhere(int store, __u32 id)
{
	struct rust_fullfork_process process[3];
	struct rust_fullfork_template t = {};
	int i;

	replica_assert_eq(1, list_templates(store, &t, 1));
	replica_assert_eq(id, t.id);
	replica_assert_eq(0, t.pid);
	replica_assert_eq(3, list_template(store, id, process, 3));
	for (i = 0; i < 3; i++) {
		replica_assert_eq(0, process[i].pid);
		replica_assert_eq(0, process[i].original);
	}
	replica_assert_eq(-ESRCH, spawn(store, id));
	replica_exit(REPLICA_PASS);
}

/* What has no PID there does not exist there. */
TEST_F_GUARDED(store, shows_no_pids_to_other_pid_namespaces)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd, WHOLE_TREE);
	struct fullfork_args args = {
		.flags = CLONE_NEWPID,
		.exit_signal = SIGCHLD,
	};
	long pid = sys_clone3(&args, sizeof(args));

	ASSERT_LE(0, pid);
	if (!pid)
		look_from_elsewhere(self->fd, id);
	expect_pass(_metadata, pid);
	EXPECT_LT(0, spawn(self->fd, id));
	EXPECT_TRUE(replicas_answer());
	EXPECT_TRUE(end_others());
}

static __noreturn void snapshot_and_exit(int store, int pidfd)
{
	long id = snapshot(store, pidfd);

	replica_assert(id > 0);
	set_word(&report->word[WORD_GO], id);
	replica_exit(REPLICA_PASS);
}

TEST_F_GUARDED(store, outlives_who_has_filled_it)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		snapshot_and_exit(self->fd, self->pidfd);
	expect_pass(_metadata, pid);
	EXPECT_EQ(1, list_templates(self->fd, NULL, 0));
	EXPECT_EQ(3, list_others());
	pid = spawn_copy(_metadata, self->fd, load(&report->word[WORD_GO]), 0);
	EXPECT_TRUE(replicas_answer());
	EXPECT_EQ(getpid(), report->slot[0].value[3]);
	end_copy(_metadata, pid);
	EXPECT_TRUE(only_left(3));
}

TEST_F_GUARDED(store, is_apart_from_others)
{
	int other = open(DEVICE, O_RDWR | O_CLOEXEC);
	__u32 id[2];
	pid_t pid;

	ASSERT_LE(0, other);
	id[0] = take_snapshot(_metadata, self->fd, self->pidfd,
			      CLONE_ALL_THREADS);
	EXPECT_EQ(0, list_templates(other, NULL, 0));
	EXPECT_EQ(-ENOENT, spawn(other, id[0]));
	EXPECT_EQ(-ENOENT, drop(other, id[0]));
	id[1] = take_snapshot(_metadata, other, self->pidfd,
			      CLONE_ALL_THREADS);
	EXPECT_EQ(2, list_others());
	ASSERT_EQ(0, close(other));
	EXPECT_TRUE(only_left(1));
	EXPECT_EQ(1, list_templates(self->fd, NULL, 0));
	pid = spawn_copy(_metadata, self->fd, id[0], 0);
	end_copy(_metadata, pid);
}

/*
 * Four threads on one file, which also use what others have made and may have
 * dropped: that is found or not, and nothing else.
 */
struct user {
	pthread_t thread;
	int store;
	int pidfd;
	__u32 *ids;
	int index;
	struct rounds rounds;
	long wrong;
};

#define USERS 4

static void use_id(struct user *u, __u32 id, bool own)
{
	long pid = spawn(u->store, id);
	__u32 room = 2;
	struct rust_fullfork_process process[2];
	long nr;

	if (pid > 0) {
		kill(pid, SIGKILL);
		if (waitpid(pid, NULL, __WALL) != pid)
			u->wrong = -errno;
	} else if (own || (pid != -ENOENT && pid != -ESRCH)) {
		u->wrong = pid;
	}
	nr = list_template(u->store, id, process, room);
	if (nr != 1 && (own || nr != -ENOENT))
		u->wrong = nr;
	nr = list_templates(u->store, NULL, 0);
	if (nr < 0 || nr > USERS)
		u->wrong = nr;
}

static void *use_store(void *arg)
{
	struct user *u = arg;
	long id, ret;

	while (!u->wrong && next_round(&u->rounds)) {
		id = snapshot_with(u->store, u->pidfd, CLONE_ALL_THREADS);
		if (id < 0) {
			u->wrong = id;
			break;
		}
		store(&u->ids[u->index], id);
		use_id(u, id, true);
		use_id(u, load(&u->ids[(u->index + 1) % USERS]), false);
		ret = drop(u->store, id);
		if (ret)
			u->wrong = ret;
	}
	return NULL;
}

TEST_F_GUARDED(store, is_used_by_many_threads_at_once)
{
	struct user user[USERS] = {};
	__u32 ids[USERS] = {};
	int i;

	for (i = 0; i < USERS; i++) {
		user[i] = (struct user) {
			.store = self->fd,
			.pidfd = self->pidfd,
			.ids = ids,
			.index = i,
			.rounds = { .least = 3, .most = 50 },
		};
		start_thread(&user[i].thread, use_store, &user[i]);
	}
	for (i = 0; i < USERS; i++) {
		join_thread(user[i].thread);
		EXPECT_EQ(0, user[i].wrong)
		{
			TH_LOG("thread %d: %s", i, strerror(-user[i].wrong));
		}
	}
	EXPECT_EQ(0, list_templates(self->fd, NULL, 0));
	EXPECT_TRUE(nothing_left());
	EXPECT_TRUE(originals_answer());
}

/*
 * Threads copy a template as fast as they can, while it is dropped.  A copy that
 * has begun is made: it has all that the template had.
 */
struct spawner {
	pthread_t thread;
	int store;
	__u32 id;
	__u32 *copies;
	long last;
};

static void *spawn_until_it_fails(void *arg)
{
	struct spawner *s = arg;

	while ((s->last = spawn(s->store, s->id)) > 0) {
		if (count_threads(s->last) != 1 + family[0].threads)
			break;
		kill(s->last, SIGKILL);
		waitpid(s->last, NULL, __WALL);
		add(s->copies, 1);
	}
	return NULL;
}

TEST_F_GUARDED(store, drops_what_others_just_copy)
{
	struct rounds rounds = { .least = 3, .most = 20 };
	struct spawner spawner[USERS];
	__u32 id, copies;
	int i;

	while (next_round(&rounds)) {
		id = take_snapshot(_metadata, self->fd, self->pidfd,
				   CLONE_ALL_THREADS);
		copies = 0;
		for (i = 0; i < USERS; i++) {
			spawner[i] = (struct spawner) {
				.store = self->fd,
				.id = id,
				.copies = &copies,
			};
			start_thread(&spawner[i].thread, spawn_until_it_fails,
				     &spawner[i]);
		}
		EXPECT_TRUE(wait_until(load(&copies) >= USERS, DEADLINE));
		EXPECT_EQ(0, drop(self->fd, id));
		for (i = 0; i < USERS; i++) {
			join_thread(spawner[i].thread);
			EXPECT_EQ(-ENOENT, spawner[i].last);
		}
		EXPECT_TRUE(nothing_left());
	}
	EXPECT_TRUE(originals_answer());
}

/*
 * A program of eight threads
 */
#define POOL_THREADS 8
#define COPIES 100

enum {
	WORD_POOL_READY,
	WORD_POOL_GO,
	WORD_POOL_NEXT,			/* slot of the report */
	WORD_POOL_END,
};

FIXTURE(pool)
{
	int fd;
	pid_t pid;
	int pidfd;
};

/* As await_word(), but eight hundred threads do not look again each second. */
static void sleep_on_word(__u32 *word)
{
	while (!load(word))
		futex_wait(word, 0, 0, -1);
}

/* In each copy of the program it records its TID, in the original it waits. */
static void work(long index)
{
	__u64 canary[16];
	int i;

	for (i = 0; i < ARRAY_SIZE(canary); i++)
		canary[i] = index * 1000 + i;
	keep_in_memory(canary);
	own_task = index;
	add(&report->word[WORD_POOL_READY], 1);
	sleep_on_word(&report->word[WORD_POOL_GO]);
	if (!in_replica()) {
		sleep_on_word(&report->word[WORD_POOL_END]);
		return;
	}
	keep_in_memory(canary);
	for (i = 0; i < ARRAY_SIZE(canary); i++)
		replica_assert_eq(index * 1000 + i, canary[i]);
	replica_assert_eq(index, own_task);
	record(add(&report->word[WORD_POOL_NEXT], 1) - 1, index);
}

static void *work_in_thread(void *arg)
{
	work((long)arg);
	return NULL;
}

static void run_pool(void)
{
	pthread_t thread[POOL_THREADS];
	long i;

	for (i = 1; i < POOL_THREADS; i++)
		side_assert_eq(0, pthread_create(&thread[i], NULL,
						 work_in_thread, (void *)i));
	work(0);
	for (i = 1; i < POOL_THREADS; i++)
		side_assert_eq(0, pthread_join(thread[i], NULL));
	replica_exit(REPLICA_PASS);
}

FIXTURE_SETUP(pool)
{
	setup_manager(_metadata);
	self->pid = start_process(_metadata, run_pool);
	keep(self->pid);
	self->pidfd = sys_pidfd_open(self->pid);
	ASSERT_LE(0, self->pidfd);
	self->fd = open_store(_metadata);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_POOL_READY]) ==
			       POOL_THREADS, DEADLINE));
}

FIXTURE_TEARDOWN(pool)
{
	close(self->fd);
	EXPECT_TRUE(nothing_left());
	teardown_manager(_metadata);
}

static int count_recorded(pid_t pid)
{
	int i, seen = 0;

	for (i = 0; i < COPIES * POOL_THREADS; i++)
		if (report->slot[i].pid == pid)
			seen |= 1 << report->slot[i].value[0];
	return __builtin_popcount(seen);
}

TEST_F_GUARDED(pool, has_a_hundred_copies_that_all_work)
{
	__u32 id = take_snapshot(_metadata, self->fd, self->pidfd,
				 CLONE_ALL_THREADS);
	pid_t pid[COPIES];
	int i;

	for (i = 0; i < COPIES; i++)
		pid[i] = spawn_copy(_metadata, self->fd, id, 0);
	EXPECT_EQ(COPIES + 1, list_others());
	for (i = 0; i < COPIES; i++)
		EXPECT_EQ(POOL_THREADS, count_threads(pid[i]));
	EXPECT_EQ(0, load(&report->recorded));

	set_word(&report->word[WORD_POOL_GO], 1);
	for (i = 0; i < COPIES; i++)
		expect_pass(_metadata, pid[i]);
	EXPECT_EQ(COPIES * POOL_THREADS, load(&report->recorded));
	for (i = 0; i < COPIES; i++)
		EXPECT_EQ(POOL_THREADS, count_recorded(pid[i]));
	EXPECT_TRUE(only_left(1));

	set_word(&report->word[WORD_POOL_END], 1);
	expect_pass(_metadata, self->pid);
}

/*
 * A program that snapshots itself
 */
FIXTURE(itself)
{
	int fd;
};

FIXTURE_SETUP(itself)
{
	setup_manager(_metadata);
	self->fd = open_store(_metadata);
}

FIXTURE_TEARDOWN(itself)
{
	close(self->fd);
	EXPECT_TRUE(nothing_left());
	teardown_manager(_metadata);
}

#define OWN_COPIES 3

static __noreturn void snapshot_itself(int store, __u64 flags)
{
	int i, pidfd, before = sys_getpid();
	struct rust_fullfork_snapshot s;
	long ret;
	pid_t pid;

	pidfd = sys_pidfd_open(before);
	init_snapshot(&s, pidfd, flags);
	s.id = 0;
	ret = store_call(store, RUST_FULLFORK_SNAPSHOT, &s);
	replica_assert_eq(0, ret);
	if (sys_getpid() != before) {
		/* What was not written yet when it was copied. */
		replica_assert_eq(0, s.id);
		record(add(&report->word[WORD_POOL_NEXT], 1) - 1, 0);
		replica_exit(REPLICA_PASS);
	}
	replica_assert(s.id);
	for (i = 0; i < OWN_COPIES; i++) {
		int status;

		pid = spawn(store, s.id);
		replica_assert(pid > 0);
		replica_assert_eq(pid, waitpid(pid, &status, 0));
		replica_assert_eq(REPLICA_PASS << 8, status);
	}
	replica_assert_eq(0, drop(store, s.id));
	replica_exit(REPLICA_PASS);
}

TEST_F_GUARDED(itself, comes_back_with_0_in_copies)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		snapshot_itself(self->fd, WHOLE_TREE);
	expect_pass(_metadata, pid);
	EXPECT_EQ(OWN_COPIES, load(&report->recorded));
	EXPECT_TRUE(nothing_left());
}

/* Its file is open in the template, so that closing it is not the last close. */
TEST_F_GUARDED(itself, is_kept_by_its_own_file)
{
	struct rust_fullfork_template t = {};
	struct rust_fullfork_snapshot s;
	int before = sys_getpid();

	init_snapshot(&s, sys_pidfd_open(before), CLONE_ALL_THREADS);
	s.id = 0;
	ASSERT_EQ(0, store_call(self->fd, RUST_FULLFORK_SNAPSHOT, &s));
	if (sys_getpid() != before)
		replica_exit(REPLICA_PASS);
	ASSERT_EQ(1, list_templates(self->fd, &t, 1));
	ASSERT_EQ(0, close(self->fd));
	EXPECT_TRUE(wait_until(all_threads_in(t.pid, 'T'), DEADLINE));
	EXPECT_EQ(1, list_others());
	ASSERT_EQ(0, kill(t.pid, SIGKILL));
	EXPECT_TRUE(nothing_left());
}

TEST_HARNESS_MAIN
