// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: Yama's level 3, at which nobody may trace
 *
 * Not run by default: the machine does not leave that level before it is booted
 * anew.
 */

#include "fullfork_rights.h"

static const struct plan family[] = {
	{ .threads = 2, .caller = 1 },
	{ .parent = 0, .threads = 1 },
};

FIXTURE(yama)
{
	int pidfd;
};

FIXTURE_SETUP(yama)
{
	setup_manager(_metadata);
	skip_unless(!access(YAMA, F_OK), _exit(0), "the kernel has no Yama");
	start_tree(_metadata, family, ARRAY_SIZE(family), RELATION_CHILD);
	self->pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, self->pidfd);
}

FIXTURE_TEARDOWN(yama)
{
	teardown_manager(_metadata);
}

/* Neither root copies others, nor a parent its children; oneself one may. */
TEST_F_GUARDED(yama, level_3_lets_nobody_copy_others)
{
	EXPECT_LT(0, copy_from(self->pidfd, WHOLE_TREE | CLONE_STOPPED));
	EXPECT_TRUE(end_others());
	EXPECT_LT(0, have_copied(0, CLONE_ALL_THREADS | CLONE_AUTOREAP));
	EXPECT_EQ(0, kill(shared->map[0].replica, SIGKILL));
	EXPECT_TRUE(wait_until(list_below(getpid()) == ARRAY_SIZE(family),
			       DEADLINE));

	ASSERT_EQ(0, write_file(YAMA, "3"));
	EXPECT_EQ(-EPERM, copy_from(self->pidfd, CLONE_ALL_THREADS));
	EXPECT_EQ(-EPERM, copy_from(self->pidfd, WHOLE_TREE));
	EXPECT_EQ(-EPERM, have_copied(0, WHOLE_TREE));
	EXPECT_EQ(ARRAY_SIZE(family), list_below(getpid()));
	EXPECT_EQ(EPERM, try_ptrace(pid_of(0)));
	expect_undisturbed();

	EXPECT_LT(0, have_copied(0, CLONE_ALL_THREADS | CLONE_AUTOREAP));
	EXPECT_TRUE(originals_answer());
	expect_undisturbed();
}

TEST_HARNESS_MAIN
