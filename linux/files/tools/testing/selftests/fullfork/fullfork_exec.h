/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The programs that full fork selftests execute are these tests themselves,
 * with the code that they exit with in the environment.
 */
#ifndef _FULLFORK_EXEC_H
#define _FULLFORK_EXEC_H

#include "fullfork_selftest.h"

#define EXEC_CODE_NAME "FULLFORK_TEST_EXIT"

static __attribute__((constructor)) void exit_if_executed(void)
{
	const char *code = getenv(EXEC_CODE_NAME);

	if (code)
		_exit(atoi(code));
}

static inline int set_exec_code(int code)
{
	char text[12];

	snprintf(text, sizeof(text), "%d", code);
	return setenv(EXEC_CODE_NAME, text, 1);
}

/* Returns only if that fails. */
static inline void execute_self(void)
{
	execl("/proc/self/exe", "fullfork", NULL);
}

#endif /* _FULLFORK_EXEC_H */
