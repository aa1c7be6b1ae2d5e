/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Full fork selftests: CLONE_SFORK
 *
 * The thread that calls sfork() goes on in the child with the same memory, and is
 * back when it calls one of the sfork_exit() or sfork_exec() functions, which
 * return the PID of the child.  In between it is in the child: it must not use the
 * harness's macros there, but keeps in variables what it sees.
 */
#ifndef _FULLFORK_SFORK_H
#define _FULLFORK_SFORK_H

#include "fullfork_selftest.h"

#include <stddef.h>

#define SFORK_FLAGS (CLONE_VM | CLONE_VFORK | CLONE_SFORK)

/* 0, in the child; or -errno. */
static inline long sfork_with(__u64 flags)
{
	struct fullfork_args args = {
		.flags = SFORK_FLAGS | flags,
		.exit_signal = SIGCHLD,
	};

	return sys_clone3(&args, sizeof(args));
}

static inline long sfork(void)
{
	return sfork_with(0);
}

/* The PID of the child, in the parent. */
static inline long sfork_exit(int code)
{
	return syscall(__NR_exit_group, code);
}

/* The same, or -errno in the child. */
static inline long sfork_exec(const char *path, char * const argv[])
{
	long ret = syscall(__NR_execve, path, argv, environ);

	return ret < 0 ? -errno : ret;
}

static inline long sfork_shell(const char *script)
{
	char * const argv[] = { "sh", "-c", (char *)script, NULL };

	return sfork_exec("/bin/sh", argv);
}

static inline pid_t raw_getpid(void)
{
	return syscall(__NR_getpid);
}

/* A child that exited with @code. */
#define expect_exited(code, pid)					\
do {									\
	int __status = xwaitpid(_metadata, pid, DEADLINE);		\
									\
	EXPECT_TRUE(WIFEXITED(__status));				\
	EXPECT_EQ(code, WEXITSTATUS(__status));				\
} while (0)

/* A process that was killed by @sig. */
#define expect_killed(sig, pid)						\
do {									\
	int __status = xwaitpid(_metadata, pid, DEADLINE);		\
									\
	EXPECT_TRUE(WIFSIGNALED(__status))				\
	{								\
		TH_LOG("status 0x%x", __status);			\
	}								\
	EXPECT_EQ(sig, WTERMSIG(__status));				\
} while (0)

/*
 * A process of one thread whose thread @fn moves about, and which therefore may
 * die.  It ends with what @fn returns.  Its PID.
 */
static inline pid_t start_process(struct __test_metadata *_metadata,
				  int (*fn)(void *arg), void *arg)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		setpgid(0, 0);
		replica_exit(fn(arg));
	}
	return pid;
}

#endif /* _FULLFORK_SFORK_H */
