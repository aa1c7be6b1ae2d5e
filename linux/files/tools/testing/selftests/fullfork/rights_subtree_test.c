// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what an unprivileged process may copy of its own
 * children
 *
 * To have started a process does not mean to have it: it may have executed a
 * program that gives it rights, or its parent may have given up its own.
 */

#include "fullfork_rights.h"
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define SLEEPER "FULLFORK_TEST_SLEEPER"

/* What programs that the tests execute do: they say that they are there. */
static __attribute__((constructor)) void sleep_if_executed(void)
{
	if (!getenv(SLEEPER))
		return;
	prctl(PR_SET_NAME, "sleeps");
	for (;;)
		pause();
}

/* In shared memory: who executed the program. */
enum { WORD_SLEEPER = WORD_GO + 1 };

static char program[64];

static bool is_named(pid_t pid, const char *name)
{
	char path[64], comm[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	return read_file(path, comm, sizeof(comm)) > 0 && !strcmp(comm, name);
}

static void start_program(void)
{
	pid_t pid = fork();

	side_assert(pid >= 0);
	if (!pid) {
		setenv(SLEEPER, "1", 1);
		execl(program, "sleeper", NULL);
		_exit(1);
	}
	store(&report->word[WORD_SLEEPER], pid);
	side_assert(wait_until(is_named(pid, "sleeps"), DEADLINE));
}

static void be_user_and_start_program(int unused)
{
	be_user(0);
	start_program();
}

static void add_landlock(int unused)
{
	struct landlock_ruleset_attr attr = {
		.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK,
	};
	int fd = syscall(__NR_landlock_create_ruleset, &attr, sizeof(attr), 0);

	side_assert(fd >= 0);
	side_assert_eq(0, syscall(__NR_landlock_restrict_self, fd, 0));
	close(fd);
}

static void be_user_with_nnp_and_landlock(int unused)
{
	be_user_with_nnp(0);
	add_landlock(0);
}

/*
 * A process with two children, which calls; @before is for all three, the others
 * for the parent or for the last child only.
 */
static struct plan family_plan[3];

FIXTURE(family)
{
	char dir[32];
	int pidfd;
};

FIXTURE_VARIANT(family)
{
	void (*before)(int number);
	void (*parent)(int number);
	void (*child)(int number);
	/* The program that is executed */
	mode_t mode;
	bool has_capability;
	int error;
};

FIXTURE_VARIANT_ADD(family, of_one_user) {
	.before = be_user,
};

FIXTURE_VARIANT_ADD(family, with_an_ordinary_program) {
	.before = be_user_and_start_program,
	.mode = 0755,
};

FIXTURE_VARIANT_ADD(family, with_a_setuid_program) {
	.before = be_user_and_start_program,
	.mode = 04755,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(family, with_a_setgid_program) {
	.before = be_user_and_start_program,
	.mode = 02755,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(family, with_a_program_that_has_a_capability) {
	.before = be_user_and_start_program,
	.mode = 0755,
	.has_capability = true,
	.error = EPERM,
};

/* It is executed, but not to be read, nor is what is made of it. */
FIXTURE_VARIANT_ADD(family, with_a_program_that_is_not_readable) {
	.before = be_user_and_start_program,
	.mode = 0711,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(family, whose_parent_has_no_new_privs) {
	.before = be_user,
	.parent = set_nnp,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(family, whose_child_has_no_new_privs) {
	.before = be_user,
	.child = set_nnp,
};

FIXTURE_VARIANT_ADD(family, whose_parent_has_a_filter) {
	.before = be_user_with_nnp,
	.parent = add_filter,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(family, whose_child_has_a_filter) {
	.before = be_user_with_nnp,
	.child = add_filter,
};

FIXTURE_VARIANT_ADD(family, whose_parent_is_landlocked) {
	.before = be_user_with_nnp,
	.parent = add_landlock,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(family, whose_child_is_landlocked) {
	.before = be_user_with_nnp,
	.child = add_landlock,
};

FIXTURE_VARIANT_ADD(family, that_is_landlocked_as_a_whole) {
	.before = be_user_with_nnp_and_landlock,
};

/* The test itself, as a program with these rights, in a file system of its own. */
static void make_program(struct __test_metadata *_metadata, const char *dir,
			 mode_t mode, bool has_capability)
{
	struct vfs_cap_data cap = {
		.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
		.data[0].permitted = 1 << CAP_NET_RAW,
	};
	int from, to;
	struct stat st;

	snprintf(program, sizeof(program), "%s/sleeper", dir);
	from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, from);
	ASSERT_EQ(0, fstat(from, &st));
	to = open(program, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	ASSERT_LE(0, to);
	ASSERT_EQ(st.st_size, sendfile(to, from, NULL, st.st_size))
	{
		TH_LOG("%s", strerror(errno));
	}
	ASSERT_EQ(0, fchmod(to, mode));
	if (has_capability)
		ASSERT_EQ(0, fsetxattr(to, "security.capability", &cap,
				       XATTR_CAPS_SZ_2, 0));
	ASSERT_EQ(0, close(from));
	ASSERT_EQ(0, close(to));
}

FIXTURE_SETUP(family)
{
	setup_manager(_metadata);
	allow_ptrace(_metadata);
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(self->dir, sizeof(self->dir), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	ASSERT_EQ(0, mount("none", self->dir, "tmpfs", 0, "mode=755"));
	if (variant->mode)
		make_program(_metadata, self->dir, variant->mode,
			     variant->has_capability);

	family_plan[0] = (struct plan) {
		.threads = 2, .caller = 1,
		.before = variant->before, .become = variant->parent,
	};
	family_plan[1] = (struct plan) { .threads = 1 };
	family_plan[2] = (struct plan) { .become = variant->child };
	start_tree(_metadata, family_plan, ARRAY_SIZE(family_plan),
		   RELATION_CHILD);
	self->pidfd = sys_pidfd_open(pid_of(0));
	ASSERT_LE(0, self->pidfd);
}

FIXTURE_TEARDOWN(family)
{
	teardown_manager(_metadata);
	EXPECT_EQ(0, umount2(self->dir, MNT_DETACH));
	EXPECT_EQ(0, rmdir(self->dir));
}

/* Has it slept on? */
static long switches_of(pid_t pid)
{
	char text[64];

	if (!read_status_field(pid, pid, "voluntary_ctxt_switches", text,
			       sizeof(text)))
		return -1;
	return atol(text);
}

/* The control of what is refused is that root copies it. */
TEST_F_GUARDED(family, is_copied_by_its_parent_if_it_may_trace_it)
{
	pid_t last = variant->mode ? load(&report->word[WORD_SLEEPER]) :
		     pid_of(2);
	long switches, ret;
	int below;

	ASSERT_TRUE(originals_answer());
	ASSERT_TRUE(wait_until(tasks_sleep(0, nr_tasks()), DEADLINE));
	ASSERT_TRUE(wait_until(task_state(last, last) == 'S', DEADLINE));
	below = list_below(getpid());
	EXPECT_EQ(ARRAY_SIZE(family_plan) + !!variant->mode, below);
	switches = switches_of(last);
	ret = have_copied(0, WHOLE_TREE | CLONE_STOPPED);
	if (variant->error) {
		EXPECT_EQ(-variant->error, ret);
		EXPECT_EQ(UNWRITTEN, shared->map[0].original);
		EXPECT_EQ(below, list_below(getpid()));
		/* All that are in the plan were asked to answer. */
		if (variant->mode)
			EXPECT_EQ(switches, switches_of(last));
	} else {
		ASSERT_LT(0, ret)
		{
			TH_LOG("%s", strerror(-ret));
		}
		EXPECT_EQ(2 * below, list_below(getpid()));
		EXPECT_EQ(ret, shared->map[0].replica);
	}
	EXPECT_TRUE(originals_answer());

	if (variant->error) {
		expect_undisturbed();
		ret = copy_from(self->pidfd, WHOLE_TREE | CLONE_STOPPED);
		EXPECT_LT(0, ret)
		{
			TH_LOG("control: %s", strerror(-ret));
		}
		EXPECT_EQ(2 * below, list_below(getpid()));
		EXPECT_TRUE(end_others());
	}
}

/* A parent that may copy all but one child copies itself, and the others. */
TEST_F_GUARDED(family, whose_parent_copies_itself)
{
	long ret = have_copied(0, CLONE_ALL_THREADS | CLONE_STOPPED);

	EXPECT_LT(0, ret)
	{
		TH_LOG("%s", strerror(-ret));
	}
	EXPECT_TRUE(originals_answer());
}

/*
 * Memory that its user wants no child to have, and a manager of the same user
 */

#define SECRET "not for others"

static char *secret;

static void have_secret(int advice)
{
	be_user(0);
	memcpy(secret, SECRET, sizeof(SECRET));
	side_assert_eq(0, madvise(secret, 4096, advice));
}

static void have_wiped_secret(int unused)
{
	have_secret(MADV_WIPEONFORK);
}

static void have_withheld_secret(int unused)
{
	have_secret(MADV_DONTFORK);
}

static void have_shown_secret(int unused)
{
	have_secret(MADV_DOFORK);
}

FIXTURE(secret)
{
	struct manager manager;
};

FIXTURE_VARIANT(secret)
{
	void (*become)(int number);
	int error;
	bool is_copied;
};

FIXTURE_VARIANT_ADD(secret, that_is_shown) {
	.become = have_shown_secret,
	.is_copied = true,
};

FIXTURE_VARIANT_ADD(secret, under_wipeonfork) {
	.become = have_wiped_secret,
};

FIXTURE_VARIANT_ADD(secret, under_dontfork) {
	.become = have_withheld_secret,
	.error = EOPNOTSUPP,
};

FIXTURE_SETUP(secret)
{
	setup_manager(_metadata);
	allow_ptrace(_metadata);
	secret = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, secret);
	start_tree(_metadata, one_process(variant->become), 1, RELATION_CHILD);
	self->manager = (struct manager) {
		.become = be_user,
		.pidfd = sys_pidfd_open(pid_of(0)),
		.flags = CLONE_ALL_THREADS,
	};
	ASSERT_LE(0, self->manager.pidfd);
}

FIXTURE_TEARDOWN(secret)
{
	teardown_manager(_metadata);
}

TEST_F_GUARDED(secret, is_copied_only_if_it_may_be)
{
	pid_t manager = start_manager(_metadata, &self->manager, pid_of(0));
	long ret = let_copy(_metadata);
	char seen[sizeof(SECRET)] = {};

	if (variant->error) {
		EXPECT_EQ(-variant->error, ret);
		EXPECT_EQ(0, list_others());
	} else {
		ASSERT_LT(0, ret);
		ASSERT_TRUE(peek(ret, secret, seen, sizeof(seen)));
		EXPECT_STREQ(variant->is_copied ? SECRET : "", seen);
		EXPECT_TRUE(tasks_answer(SIDE_REPLICA, 0, nr_tasks()));
	}
	ASSERT_TRUE(peek(pid_of(0), secret, seen, sizeof(seen)));
	EXPECT_STREQ(SECRET, seen);
	EXPECT_TRUE(originals_answer());
	EXPECT_TRUE(end_kept(manager));
}

TEST_HARNESS_MAIN
