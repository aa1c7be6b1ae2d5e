/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the full fork selftests in which a program is copied by CLONE_ISOLATE
 * while outsiders, which are no members, have what it has
 */
#ifndef _FULLFORK_OUTSIDERS_H
#define _FULLFORK_OUTSIDERS_H

#include "fullfork_isolate.h"
#include "fullfork_threads.h"

/* One changes things, the other looks. */
#define OUTSIDERS	2
#define MAX_FDS		24

/* No call takes longer, in milliseconds: others never hold it up.  A busy machine may. */
#define LONGEST_CALL	60000

/* What all processes share.  It is held outside, and not copied. */
struct race {
	__u32 stop;			/* for outsiders */
	__u32 is_ready;
	__u32 question;			/* for the program: a futex */
	__u32 turns[OUTSIDERS];
	__u32 step;			/* the outsider is to take it */
	__u32 reached;			/* and has */
	__u32 delay_us;
	__u32 failed_line;		/* of an outsider */
	__s32 failed_errno;
	__s32 child;
	__s32 shm_id;
	__s32 fd[MAX_FDS];		/* of the program */
	__s32 again;			/* the same as the first */
	__u32 is_copied[MAX_FDS];	/* tells the replica */
};

/*
 * struct kind - what the program has
 * @nr: number of descriptors
 * @object: which of them belong together, by the first one
 * @error: what a call may fail with
 * @make: by the program
 * @is_same: does a replica share what the original has?  kcmp(2) if NULL
 * @meddle: one turn of an outsider, which has what is in @fd
 * @is_whole: is the content there, but for what @nr_taken records are?
 */
struct kind {
	unsigned int nr;
	unsigned int object[MAX_FDS];
	int error;
	void (*make)(void);
	bool (*is_same)(pid_t pid, pid_t replica, unsigned int i);
	void (*meddle)(const int *fd, unsigned int turn);
	bool (*is_whole)(const int *fd, unsigned int nr_taken);
};

static struct race *race;
static int program_pidfd;

#define outsider_check(cond)						\
do {									\
	if (!(cond) && !load(&race->failed_line)) {			\
		race->failed_errno = errno;				\
		store(&race->failed_line, __LINE__);			\
	}								\
} while (0)

static inline int get_fd(int pidfd, int fd)
{
	return syscall(__NR_pidfd_getfd, pidfd, fd, 0);
}

/* It is opened once more, by the name that /proc has for it. */
static inline int open_again(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK);
}

/*
 * The program
 */

/* /proc shows the PID that the test sees: it is all that is not as before. */
static inline int own_number(void)
{
	char link[16] = "";

	replica_assert(readlink("/proc/self", link, sizeof(link) - 1) > 0);
	return atoi(link);
}

static inline void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return NULL;
}

static inline void answer(const struct kind *kind)
{
	unsigned int i;

	for (i = 0; i < kind->nr; i++)
		if (!kind->is_same)
			replica_assert(!load(&race->is_copied[i]) ||
				       !strcmp("copied", fdinfo_says("self", race->fd[i])));
	if (race->again >= 0)
		replica_assert(is_same_file(race->fd[0], race->again));
	if (load(&race->is_copied[0]))
		replica_assert(kind->is_whole(race->fd, 1));
	replica_exit(REPLICA_PASS);
}

static inline __noreturn void run_program(const struct kind *kind)
{
	int first_number = own_number();
	pthread_t thread;
	__u32 question;
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	race->again = -1;
	kind->make();
	if (!kind->is_same) {
		race->again = dup(race->fd[0]);
		replica_assert(race->again >= 0);
	}
	pid = fork();
	replica_assert(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sleep_for_ever(NULL);
	}
	race->child = pid;
	replica_assert_eq(0, pthread_create(&thread, NULL, sleep_for_ever, NULL));
	store(&race->is_ready, 1);
	for (;;) {
		question = load(&race->question);
		if (own_number() != first_number)
			answer(kind);
		futex_wait(&race->question, question, 0, -1);
	}
}

static inline void start_program(struct __test_metadata *_metadata, const struct kind *kind,
				 pid_t *pid)
{
	race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
	ASSERT_NE(MAP_FAILED, race);
	*pid = fork();
	ASSERT_LE(0, *pid);
	if (!*pid)
		run_program(kind);
	program_pidfd = sys_pidfd_open(*pid);
	ASSERT_LE(0, program_pidfd);
	ASSERT_TRUE(wait_until(load(&race->is_ready) || load(&report->failures), DEADLINE));
	ASSERT_EQ(0, load(&report->failures))
	{
		TH_LOG("%s", report->failure);
	}
}

static inline bool is_same(const struct kind *kind, pid_t pid, pid_t replica,
			   unsigned int i)
{
	if (kind->is_same)
		return kind->is_same(pid, replica, i);
	return !syscall(__NR_kcmp, pid, replica, KCMP_FILE, race->fd[i], race->fd[i]);
}

/* The PID of its replica, and in @child that of the other process; or -errno. */
static inline long copy_program(struct __test_metadata *_metadata, __u64 flags, pid_t *child)
{
	struct fullfork_tid_map map[8] = {};
	struct fullfork_args args = {
		.flags = CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_FROM_PIDFD | CLONE_STOPPED |
			 CLONE_ISOLATE | flags,
		.exit_signal = SIGCHLD,
		.source_pidfd = program_pidfd,
		.tid_map = ptr_to_u64(map),
		.tid_map_size = ARRAY_SIZE(map),
	};
	long long took = now_ms();
	long pid = sys_clone3(&args, sizeof(args));
	unsigned int i = 0;

	took = now_ms() - took;
	if (took >= LONGEST_CALL && pid > 0)
		kill(pid, SIGKILL);
	ASSERT_GT(LONGEST_CALL, took);
	while (i < ARRAY_SIZE(map) - 1 && map[i].original != race->child)
		i++;
	*child = map[i].replica;
	return pid;
}

#endif /* _FULLFORK_OUTSIDERS_H */
