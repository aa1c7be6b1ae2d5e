// SPDX-License-Identifier: GPL-2.0
/*
 * Members that share a table or their memory with each other have replicas
 * that share the copy in the same way, and nothing of it with the originals.
 */
#include "fullfork_tree.h"

#include <linux/kcmp.h>
#include <sys/sem.h>
#include <sys/stat.h>

#define BOTH (CLONE_SUBTREE | CLONE_ALL_THREADS)

/* A descriptor that nobody has. */
#define NUMBER 77

static const int types[] = { KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND };
static const char * const type_names[] = { "VM", "FILES", "FS", "SIGHAND" };

static int kcmp(pid_t a, pid_t b, int type, unsigned long x, unsigned long y)
{
	return syscall(__NR_kcmp, a, b, type, x, y);
}

/* 1, 0, or -1 if that cannot be said. */
static int shares(pid_t a, pid_t b, int type)
{
	int order = kcmp(a, b, type, 0, 0);

	return order < 0 ? -1 : !order;
}

/* The whole graph: each pair of nodes on one side, and over both sides. */
static void expect_same_graph(struct __test_metadata *_metadata)
{
	unsigned int i, j, t;
	int original, replica;

	for (i = 0; i < tree_count; i++) {
		for (j = 0; j < tree_count; j++) {
			if (!is_found(i) || !is_found(j))
				continue;
			for (t = 0; t < ARRAY_SIZE(types); t++) {
				original = shares(tid_of(ORIGINAL, i),
						  tid_of(ORIGINAL, j), types[t]);
				replica = shares(tid_of(REPLICA, i),
						 tid_of(REPLICA, j), types[t]);
				EXPECT_LE(0, original);
				EXPECT_EQ(original, replica)
				{
					TH_LOG("%s of nodes %u and %u",
					       type_names[t], i, j);
				}
				EXPECT_EQ(0, shares(tid_of(ORIGINAL, i),
						    tid_of(REPLICA, j),
						    types[t]))
				{
					TH_LOG("%s of originals and replicas",
					       type_names[t]);
				}
			}
		}
	}
}

/* What a test is about, said of the originals before they are copied. */
#define assert_shared(expected, a, b, type)				\
	ASSERT_EQ(expected, shares(tid_of(ORIGINAL, a),			\
				   tid_of(ORIGINAL, b), type))

#define expect_shared(expected, a, b, type)				\
	EXPECT_EQ(expected, shares(tid_of(REPLICA, a),			\
				   tid_of(REPLICA, b), type))

static long open_number(struct tree_node *self, long number)
{
	return result_of(dup2(STDERR_FILENO, number));
}

static long has_number(struct tree_node *self, long number)
{
	return fcntl(number, F_GETFD) >= 0;
}

static long set_umask(struct tree_node *self, long mask)
{
	umask(mask);
	return 0;
}

static long get_umask(struct tree_node *self, long arg)
{
	char buf[16];

	if (!read_status_field(outer_pid(NULL), tree_own_slot(self)->outer_tid,
			       "Umask", buf, sizeof(buf)))
		return -ESRCH;
	return strtol(buf, NULL, 8);
}

static __u32 word_in_memory;

static long set_word_in_memory(struct tree_node *self, long value)
{
	store(&word_in_memory, value);
	return 0;
}

static long get_word_in_memory(struct tree_node *self, long arg)
{
	return load(&word_in_memory);
}

static long ignores_signal(struct tree_node *self, long sig)
{
	struct sigaction sa;

	return sigaction(sig, NULL, &sa) ? -errno : sa.sa_handler == SIG_IGN;
}

FIXTURE(members)
{
	unsigned int outer, root;
};

FIXTURE_VARIANT(members)
{
	__u64 flags;
};

FIXTURE_VARIANT_ADD(members, of_single_threads) { .flags = CLONE_SUBTREE };
FIXTURE_VARIANT_ADD(members, with_all_threads) { .flags = BOTH };

FIXTURE_SETUP(members)
{
	setup_tree(_metadata);
	skip_unless(!kcmp(getpid(), getpid(), KCMP_VM, 0, 0), _exit(0),
		    "the kernel has no kcmp()");
	self->outer = start_tree();
	self->root = child_of(self->outer);
}

FIXTURE_TEARDOWN(members)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(members, share_nothing_after_fork)
{
	unsigned int child = child_of(self->root), t;

	child_of(child);
	copy_by(self->root, variant->flags);
	for (t = 0; t < ARRAY_SIZE(types); t++)
		expect_shared(0, self->root, child, types[t]);
	expect_same_graph(_metadata);
}

TEST_F_GUARDED(members, share_open_files)
{
	unsigned int child = clone_of(self->root, CLONE_FILES, SIGCHLD);
	unsigned int other = child_of(self->root);

	assert_shared(1, self->root, child, KCMP_FILES);
	assert_shared(0, self->root, other, KCMP_FILES);
	copy_by(self->root, variant->flags);
	expect_shared(1, self->root, child, KCMP_FILES);
	expect_shared(0, self->root, other, KCMP_FILES);
	expect_same_graph(_metadata);

	EXPECT_EQ(NUMBER, ask(REPLICA, child, open_number, NUMBER));
	EXPECT_EQ(1, ask(REPLICA, self->root, has_number, NUMBER));
	EXPECT_EQ(0, ask(REPLICA, other, has_number, NUMBER));
	EXPECT_EQ(0, ask(ORIGINAL, self->root, has_number, NUMBER));
	EXPECT_EQ(0, ask(ORIGINAL, child, has_number, NUMBER));
}

TEST_F_GUARDED(members, share_the_umask)
{
	unsigned int child, other;

	ASSERT_EQ(0, ask(ORIGINAL, self->root, set_umask, 022));
	child = clone_of(self->root, CLONE_FS, SIGCHLD);
	other = child_of(self->root);
	assert_shared(1, self->root, child, KCMP_FS);
	assert_shared(0, self->root, other, KCMP_FS);
	copy_by(self->root, variant->flags);
	expect_shared(1, self->root, child, KCMP_FS);
	expect_shared(0, self->root, other, KCMP_FS);
	expect_same_graph(_metadata);

	EXPECT_EQ(0, ask(REPLICA, child, set_umask, 077));
	EXPECT_EQ(077, ask(REPLICA, self->root, get_umask, 0));
	EXPECT_EQ(022, ask(REPLICA, other, get_umask, 0));
	EXPECT_EQ(022, ask(ORIGINAL, self->root, get_umask, 0));
	EXPECT_EQ(022, ask(ORIGINAL, child, get_umask, 0));
}

TEST_F_GUARDED(members, share_memory)
{
	unsigned int child, other;

	ASSERT_EQ(0, ask(ORIGINAL, self->root, set_word_in_memory, 1));
	child = clone_of(self->root, CLONE_VM, SIGCHLD);
	other = child_of(self->root);
	assert_shared(1, self->root, child, KCMP_VM);
	assert_shared(0, self->root, child, KCMP_SIGHAND);
	assert_shared(0, self->root, other, KCMP_VM);
	copy_by(self->root, variant->flags);
	expect_shared(1, self->root, child, KCMP_VM);
	expect_shared(0, self->root, child, KCMP_SIGHAND);
	expect_shared(0, self->root, other, KCMP_VM);
	expect_same_graph(_metadata);

	EXPECT_EQ(1, ask(REPLICA, child, get_word_in_memory, 0));
	EXPECT_EQ(0, ask(REPLICA, child, set_word_in_memory, 2));
	EXPECT_EQ(2, ask(REPLICA, self->root, get_word_in_memory, 0));
	EXPECT_EQ(1, ask(REPLICA, other, get_word_in_memory, 0));
	EXPECT_EQ(1, ask(ORIGINAL, self->root, get_word_in_memory, 0));
	EXPECT_EQ(1, ask(ORIGINAL, child, get_word_in_memory, 0));
}

TEST_F_GUARDED(members, share_signal_handlers)
{
	unsigned int child = clone_of(self->root, CLONE_VM | CLONE_SIGHAND,
				      SIGCHLD);

	assert_shared(1, self->root, child, KCMP_SIGHAND);
	copy_by(self->root, variant->flags);
	expect_shared(1, self->root, child, KCMP_SIGHAND);
	expect_shared(1, self->root, child, KCMP_VM);
	expect_same_graph(_metadata);

	EXPECT_EQ(0, ask(REPLICA, child, ignore_signal, SIGUSR2));
	EXPECT_EQ(1, ask(REPLICA, self->root, ignores_signal, SIGUSR2));
	EXPECT_EQ(0, ask(ORIGINAL, self->root, ignores_signal, SIGUSR2));
	EXPECT_EQ(0, ask(ORIGINAL, child, ignores_signal, SIGUSR2));
}

/* A chain of which each shares something else with the next. */
TEST_F_GUARDED(members, share_different_things)
{
	unsigned int a = clone_of(self->root, CLONE_FILES | CLONE_FS, SIGCHLD);
	unsigned int b = clone_of(a, CLONE_VM | CLONE_FS, SIGCHLD);
	unsigned int c = clone_of(b, CLONE_VM | CLONE_SIGHAND | CLONE_FILES,
				  SIGCHLD);

	assert_shared(1, self->root, b, KCMP_FS);
	assert_shared(0, self->root, b, KCMP_FILES);
	assert_shared(1, a, c, KCMP_VM);
	copy_by(self->root, variant->flags);
	expect_shared(1, self->root, b, KCMP_FS);
	expect_shared(0, self->root, b, KCMP_FILES);
	expect_shared(1, a, c, KCMP_VM);
	expect_shared(1, b, c, KCMP_SIGHAND);
	expect_same_graph(_metadata);
}

/* Children of two siblings, neither of which shares it any more. */
TEST_F_GUARDED(members, share_as_cousins)
{
	unsigned int left = clone_of(self->root, CLONE_FILES, SIGCHLD);
	unsigned int right = clone_of(self->root, CLONE_FILES, SIGCHLD);
	unsigned int a = clone_of(left, CLONE_FILES, SIGCHLD);
	unsigned int b = clone_of(right, CLONE_FILES, SIGCHLD);

	ASSERT_EQ(0, ask(ORIGINAL, self->root, unshare_it, CLONE_FILES));
	ASSERT_EQ(0, ask(ORIGINAL, left, unshare_it, CLONE_FILES));
	ASSERT_EQ(0, ask(ORIGINAL, right, unshare_it, CLONE_FILES));
	assert_shared(1, a, b, KCMP_FILES);
	assert_shared(0, left, a, KCMP_FILES);
	copy_by(self->root, variant->flags);
	expect_shared(1, a, b, KCMP_FILES);
	expect_shared(0, left, a, KCMP_FILES);
	expect_shared(0, left, right, KCMP_FILES);
	expect_same_graph(_metadata);
	EXPECT_EQ(NUMBER, ask(REPLICA, a, open_number, NUMBER));
	EXPECT_EQ(1, ask(REPLICA, b, has_number, NUMBER));
	EXPECT_EQ(0, ask(REPLICA, right, has_number, NUMBER));
}

TEST_F_GUARDED(members, do_not_share_what_was_unshared)
{
	unsigned int child = clone_of(self->root, CLONE_FILES | CLONE_FS,
				      SIGCHLD);

	ASSERT_EQ(0, ask(ORIGINAL, child, unshare_it, CLONE_FILES | CLONE_FS));
	assert_shared(0, self->root, child, KCMP_FILES);
	copy_by(self->root, variant->flags);
	expect_shared(0, self->root, child, KCMP_FILES);
	expect_shared(0, self->root, child, KCMP_FS);
	expect_same_graph(_metadata);
}

static int sem_id;

static long set_sem_id(struct tree_node *self, long id)
{
	sem_id = id;
	return 0;
}

static long adjust_semaphore(struct tree_node *self, long value)
{
	struct sembuf op = { .sem_op = value, .sem_flg = SEM_UNDO };

	return result_of(semop(sem_id, &op, 1));
}

/* It is undone when the last of those that share it ends. */
TEST_F_GUARDED(members, share_semaphore_adjustments)
{
	unsigned int child, other, own;

	sem_id = semget(IPC_PRIVATE, 1, 0600);
	ASSERT_LE(0, sem_id);
	ASSERT_EQ(0, ask(ORIGINAL, self->root, set_sem_id, sem_id));
	child = clone_of(self->root, CLONE_SYSVSEM, SIGCHLD);
	other = clone_of(child, CLONE_SYSVSEM, SIGCHLD);
	own = child_of(self->root);
	assert_shared(1, self->root, other, KCMP_SYSVSEM);
	assert_shared(0, self->root, own, KCMP_SYSVSEM);
	copy_by(self->root, variant->flags);
	expect_shared(1, self->root, child, KCMP_SYSVSEM);
	expect_shared(1, self->root, other, KCMP_SYSVSEM);
	expect_shared(0, self->root, own, KCMP_SYSVSEM);
	EXPECT_EQ(0, shares(tid_of(ORIGINAL, self->root),
			    tid_of(REPLICA, self->root), KCMP_SYSVSEM));

	EXPECT_EQ(0, ask(REPLICA, child, adjust_semaphore, 1));
	EXPECT_EQ(0, ask(REPLICA, other, adjust_semaphore, 10));
	EXPECT_EQ(0, ask(REPLICA, own, adjust_semaphore, 100));
	end_node(REPLICA, own, 0);
	EXPECT_EQ(11, semctl(sem_id, 0, GETVAL));
	end_node(REPLICA, other, 0);
	EXPECT_EQ(11, semctl(sem_id, 0, GETVAL));
	end_node(REPLICA, self->root, 0);
	EXPECT_EQ(11, semctl(sem_id, 0, GETVAL));
	end_node(REPLICA, child, 0);
	EXPECT_EQ(0, semctl(sem_id, 0, GETVAL));
	EXPECT_EQ(0, semctl(sem_id, 0, IPC_RMID));
}

/* Nobody holds on to what they share: one of two can have it for itself. */
TEST_F_GUARDED(members, end_sharing_in_the_replica)
{
	unsigned int child = clone_of(self->root, CLONE_FILES | CLONE_FS,
				      SIGCHLD);

	copy_by(self->root, variant->flags);
	expect_shared(1, self->root, child, KCMP_FILES);
	expect_shared(1, self->root, child, KCMP_FS);
	EXPECT_EQ(0, ask(REPLICA, child, unshare_it, CLONE_FILES | CLONE_FS));
	expect_shared(0, self->root, child, KCMP_FILES);
	expect_shared(0, self->root, child, KCMP_FS);
	EXPECT_EQ(NUMBER, ask(REPLICA, child, open_number, NUMBER));
	EXPECT_EQ(0, ask(REPLICA, self->root, has_number, NUMBER));
	assert_shared(1, self->root, child, KCMP_FILES);
}

TEST_F_GUARDED(members, share_open_file_descriptions)
{
	unsigned int child = child_of(self->root), i;
	pid_t pid[4];

	copy_by(self->root, variant->flags);
	for (i = 0; i < 4; i++)
		pid[i] = pid_of(i & 1 ? REPLICA : ORIGINAL,
				i & 2 ? child : self->root);
	for (i = 1; i < 4; i++)
		EXPECT_EQ(0, kcmp(pid[0], pid[i], KCMP_FILE, 2, 2));
}

/* Sharing with a process that is no member becomes a copy. */
#define expect_copied(with, kind)					\
do {									\
	unsigned int __root = clone_of(self->outer, with, SIGCHLD);	\
	unsigned int __child = child_of(__root);			\
									\
	assert_shared(1, self->outer, __root, kind);			\
	copy_by(__root, variant->flags);				\
	EXPECT_EQ(0, shares(tid_of(ORIGINAL, self->outer),		\
			    tid_of(REPLICA, __root), kind));		\
	assert_shared(1, self->outer, __root, kind);			\
	expect_shared(0, __root, __child, kind);			\
	expect_same_graph(_metadata);					\
} while (0)

TEST_F_GUARDED(members, copy_files_that_an_outsider_shares)
{
	expect_copied(CLONE_FILES, KCMP_FILES);
}

TEST_F_GUARDED(members, copy_directories_that_an_outsider_shares)
{
	expect_copied(CLONE_FS, KCMP_FS);
}

TEST_F_GUARDED(members, copy_memory_that_an_outsider_shares)
{
	expect_copied(CLONE_VM, KCMP_VM);
}

TEST_F_GUARDED(members, copy_handlers_that_an_outsider_shares)
{
	expect_copied(CLONE_VM | CLONE_SIGHAND, KCMP_SIGHAND);
}

/* Processes with threads, one of which has tables of its own. */
FIXTURE(threads)
{
	unsigned int root, thread, other;
};

FIXTURE_SETUP(threads)
{
	setup_tree(_metadata);
	skip_unless(!kcmp(getpid(), getpid(), KCMP_VM, 0, 0), _exit(0),
		    "the kernel has no kcmp()");
	self->root = child_of(start_tree());
	self->thread = thread_of(self->root);
	self->other = thread_of(self->root);
	ASSERT_EQ(0, ask(ORIGINAL, self->thread, unshare_it,
			 CLONE_FILES | CLONE_FS));
}

FIXTURE_TEARDOWN(threads)
{
	teardown_tree(_metadata);
}

TEST_F_GUARDED(threads, with_tables_of_their_own_keep_them)
{
	child_of(self->thread);
	child_of(self->root);
	copy_by(self->root, BOTH);
	expect_shared(0, self->root, self->thread, KCMP_FILES);
	expect_shared(0, self->root, self->thread, KCMP_FS);
	expect_shared(1, self->root, self->thread, KCMP_VM);
	expect_shared(1, self->root, self->other, KCMP_FILES);
	expect_same_graph(_metadata);
	EXPECT_EQ(NUMBER, ask(REPLICA, self->thread, open_number, NUMBER));
	EXPECT_EQ(0, ask(REPLICA, self->root, has_number, NUMBER));
}

TEST_F_GUARDED(threads, share_tables_of_their_own_with_children)
{
	unsigned int child = clone_of(self->thread, CLONE_FILES, SIGCHLD);
	unsigned int plain = clone_of(self->root, CLONE_FILES, SIGCHLD);

	assert_shared(1, self->thread, child, KCMP_FILES);
	assert_shared(0, self->root, child, KCMP_FILES);
	assert_shared(1, self->root, plain, KCMP_FILES);
	copy_by(self->root, BOTH);
	expect_shared(1, self->thread, child, KCMP_FILES);
	expect_shared(0, self->root, child, KCMP_FILES);
	expect_shared(1, self->root, plain, KCMP_FILES);
	expect_shared(1, self->other, plain, KCMP_FILES);
	expect_same_graph(_metadata);
	EXPECT_EQ(NUMBER, ask(REPLICA, child, open_number, NUMBER));
	EXPECT_EQ(1, ask(REPLICA, self->thread, has_number, NUMBER));
	EXPECT_EQ(0, ask(REPLICA, self->other, has_number, NUMBER));
}

/* Of a descendant: its table is copied by neither the root nor its leader. */
TEST_F_GUARDED(threads, of_descendants_share_across_processes)
{
	unsigned int child = clone_of(self->thread, CLONE_FILES, SIGCHLD);
	unsigned int second = thread_of(child);
	unsigned int grandchild;

	ASSERT_EQ(0, ask(ORIGINAL, child, unshare_it, CLONE_FILES));
	grandchild = clone_of(second, CLONE_FILES, SIGCHLD);
	assert_shared(1, self->thread, grandchild, KCMP_FILES);
	assert_shared(0, child, second, KCMP_FILES);
	copy_by(self->root, BOTH);
	expect_shared(1, self->thread, grandchild, KCMP_FILES);
	expect_shared(1, self->thread, second, KCMP_FILES);
	expect_shared(0, child, second, KCMP_FILES);
	expect_same_graph(_metadata);
}

/* The memory of a process with threads, shared by another process. */
TEST_F_GUARDED(threads, share_memory_with_a_child)
{
	unsigned int child = clone_of(self->other, CLONE_VM, SIGCHLD);

	ASSERT_EQ(0, ask(ORIGINAL, child, set_word_in_memory, 3));
	assert_shared(1, self->thread, child, KCMP_VM);
	copy_by(self->root, BOTH);
	expect_shared(1, self->thread, child, KCMP_VM);
	expect_shared(1, self->root, child, KCMP_VM);
	expect_same_graph(_metadata);
	EXPECT_EQ(0, ask(REPLICA, child, set_word_in_memory, 4));
	EXPECT_EQ(4, ask(REPLICA, self->thread, get_word_in_memory, 0));
	EXPECT_EQ(3, ask(ORIGINAL, self->root, get_word_in_memory, 0));
}

TEST_HARNESS_MAIN
