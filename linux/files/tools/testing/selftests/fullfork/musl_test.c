// SPDX-License-Identifier: GPL-2.0
/*
 * A program of another C library, musl, which is not told of full fork.
 * musl_worker is built where there is a musl-gcc.
 */
#include "fullfork_selftest.h"

#include <libgen.h>

FIXTURE(musl)
{
	char worker[PATH_MAX];
};

FIXTURE_VARIANT(musl)
{
	const char *how;
	bool needs_root;
};

FIXTURE_VARIANT_ADD(musl, plain) { .how = "plain" };
FIXTURE_VARIANT_ADD(musl, keep_tids) { .how = "keep_tids", .needs_root = true };
FIXTURE_VARIANT_ADD(musl, tree_with_kept_tids) { .how = "tree", .needs_root = true };

FIXTURE_SETUP(musl)
{
	char self_path[PATH_MAX - sizeof("/musl_worker")] = {};

	require_fullfork(_metadata);
	if (variant->needs_root)
		require_root(_metadata, "PID namespaces");
	ASSERT_LT(0, readlink("/proc/self/exe", self_path,
			      sizeof(self_path) - 1));
	snprintf(self->worker, sizeof(self->worker), "%s/musl_worker",
		 dirname(self_path));
	ASSERT_EQ(0, access(self->worker, X_OK))
	{
		TH_LOG("%s: %s", self->worker, strerror(errno));
	}
}

FIXTURE_TEARDOWN(musl)
{
}

TEST_F_LONG(musl, goes_on_in_the_replica)
{
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid) {
		execl(self->worker, "musl_worker", variant->how, NULL);
		_exit(127);
	}
	status = xwaitpid(_metadata, pid, 2 * DEADLINE);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(REPLICA_PASS, WEXITSTATUS(status))
	{
		TH_LOG("musl_worker %s ended with status 0x%x", variant->how,
		       status);
	}
}

TEST_HARNESS_MAIN
