/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the full fork selftests of rights
 *
 * The test is root and starts both: a tree, and a manager of some user, who
 * gets the pidfd of the tree from it or is the tree's parent.
 */
#ifndef _FULLFORK_RIGHTS_H
#define _FULLFORK_RIGHTS_H

#include "fullfork_answers.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ptrace.h>

#define YAMA "/proc/sys/kernel/yama/ptrace_scope"

/* IDs that nobody else has */
#define USER 54321
#define STRANGER 54322

enum {
	WORD_PTRACE,		/* errno of PTRACE_SEIZE */
	WORD_MANAGER_READY,
	WORD_GO,
};

/*
 * Managers
 */

struct manager {
	/* What it does first, also for the tree if it starts that itself. */
	void (*become)(int unused);
	bool is_parent;
	/* What it does after a first call, which has to work. */
	void (*confine)(int unused);
	int pidfd;
	__u64 flags;
	bool tries_ptrace;
};

static inline void be_user(int unused)
{
	side_assert_eq(0, syscall(__NR_setresgid, USER, USER, USER));
	side_assert_eq(0, syscall(__NR_setresuid, USER, USER, USER));
	/* As that of a program which a login has started. */
	side_assert_eq(0, prctl(PR_SET_DUMPABLE, 1));
}

/*
 * How somebody gives up what it could do
 */

static inline void set_nnp(int unused)
{
	side_assert_eq(0, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* Nobody makes the call that it refuses, but a filter it is. */
static inline void add_filter(int unused)
{
	struct sock_filter insns[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_acct, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(insns), insns };

	side_assert_eq(0, syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0,
				  &prog));
}

static inline void be_user_with_nnp(int unused)
{
	be_user(0);
	set_nnp(0);
}

/* What ptrace says of the same process at the same time. */
static inline int try_ptrace(pid_t pid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0))
		return errno;
	ptrace(PTRACE_INTERRUPT, pid, 0, 0);
	replica_assert_eq(pid, waitpid(pid, &status, __WALL));
	replica_assert_eq(0, ptrace(PTRACE_DETACH, pid, 0, 0));
	return 0;
}

static inline __noreturn void run_manager(const struct manager *m, pid_t root)
{
	struct fullfork_args args;
	int pidfd = m->pidfd;
	pid_t parent = getppid();
	long ret;

	if (m->become)
		m->become(0);
	if (m->is_parent) {
		root = fork();
		replica_assert(root >= 0);
		if (!root)
			run_process(0);
		pidfd = sys_pidfd_open(root);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	replica_assert_eq(parent, getppid());
	store(&report->word[WORD_MANAGER_READY], 1);
	await_word(&report->word[WORD_GO], 1);

	init_args(&args, pidfd, CLONE_FROM_PIDFD | m->flags);
	if (m->confine) {
		ret = call_as_manager(&args);
		replica_assert(ret > 0);
		kill(ret, SIGKILL);
		m->confine(0);
	}
	ask_for_map(&args, MAP_ENTRIES);
	ret = call_as_manager(&args);
	shared->command.ret = ret;
	if (m->tries_ptrace)
		store(&report->word[WORD_PTRACE], try_ptrace(root));
	set_word(&report->word[WORD_GO], 2);
	/* Until the test has looked, and ends it. */
	for (;;)
		pause();
}

static inline pid_t start_manager(struct __test_metadata *_metadata,
				  const struct manager *m, pid_t root)
{
	pid_t pid;

	store(&report->word[WORD_MANAGER_READY], 0);
	store(&report->word[WORD_GO], 0);
	store(&report->word[WORD_PTRACE], 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		run_manager(m, root);
	keep(pid);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_MANAGER_READY]),
			       DEADLINE))
	{
		TH_LOG("%s", report->failure);
	}
	return pid;
}

static inline long let_copy(struct __test_metadata *_metadata)
{
	set_word(&report->word[WORD_GO], 1);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_GO]) == 2, DEADLINE))
	{
		TH_LOG("%s", report->failure);
		dump_listed(list_below(getpid()));
	}
	return shared->command.ret;
}

/* A manager that calls once: 0, or the error that it got. */
static inline long copy_as(struct __test_metadata *_metadata,
			   const struct manager *m)
{
	pid_t pid = start_manager(_metadata, m, pid_of(0));
	long ret = let_copy(_metadata);

	if (ret > 0) {
		EXPECT_EQ(pid, status_number(ret, "PPid"));
		EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, map_length()));
	}
	EXPECT_TRUE(end_kept(pid));
	return ret < 0 ? ret : 0;
}

static inline void allow_ptrace(struct __test_metadata *_metadata)
{
	if (!access(YAMA, F_OK))
		ASSERT_EQ(0, change_file(YAMA, "0"));
}

/* One process of two threads. */
static inline const struct plan *one_process(void (*become)(int number))
{
	static struct plan one[1];

	one[0] = (struct plan) { .threads = 1, .become = become };
	return one;
}

#endif /* _FULLFORK_RIGHTS_H */
