/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A cgroup of the test's own, in a hierarchy that is mounted for it alone
 */
#ifndef _FULLFORK_CGROUP_H
#define _FULLFORK_CGROUP_H

#include "fullfork_selftest.h"

#include <sys/mount.h>
#include <sys/stat.h>

struct cgroup {
	char mount[32];
	char path[64];
};

/*
 * In the functions here, @sub is "" or the path of a cgroup below this one,
 * which starts with a slash.
 */
static inline void create_cgroup(struct __test_metadata *_metadata,
				 const struct cgroup *cg, const char *sub)
{
	char path[96];

	snprintf(path, sizeof(path), "%s%s", cg->path, sub);
	ASSERT_EQ(0, mkdir(path, 0755));
}

/* Dead tasks leave it some time after they were reaped. */
static inline void remove_cgroup(struct __test_metadata *_metadata,
				 const struct cgroup *cg, const char *sub)
{
	char path[96];

	snprintf(path, sizeof(path), "%s%s", cg->path, sub);
	EXPECT_TRUE(wait_until(!rmdir(path), DEADLINE));
}

/* To be called before there are threads; @type and @data are for mount(). */
static inline void mount_cgroup(struct __test_metadata *_metadata,
				struct cgroup *cg, const char *type,
				const char *data)
{
	int error;

	require_root(_metadata, "cgroups");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(cg->mount, sizeof(cg->mount), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(cg->mount));
	error = mount("none", cg->mount, type, 0, data) ? errno : 0;
	if (error)
		rmdir(cg->mount);
	/* The type is not there, or a controller of the first version. */
	skip_unless(error != ENODEV && error != EINVAL, _exit(0),
		    "the kernel has no %s %s", type, data ?: "");
	ASSERT_EQ(0, error)
	{
		TH_LOG("mount %s: %s", type, strerror(error));
	}
	snprintf(cg->path, sizeof(cg->path), "%s/fullfork.%d", cg->mount,
		 getpid());
	create_cgroup(_metadata, cg, "");
}

static inline void umount_cgroup(struct __test_metadata *_metadata,
				 const struct cgroup *cg)
{
	remove_cgroup(_metadata, cg, "");
	EXPECT_EQ(0, umount2(cg->mount, MNT_DETACH));
	EXPECT_EQ(0, rmdir(cg->mount));
}

static inline int read_cgroup(const struct cgroup *cg, const char *sub,
			      const char *file, char *buf, size_t size)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s/%s", cg->path, sub, file);
	return read_file(path, buf, size);
}

static inline int write_cgroup(const struct cgroup *cg, const char *sub,
			       const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s/%s", cg->path, sub, file);
	return write_file(path, text);
}

static inline int write_cgroup_number(const struct cgroup *cg, const char *sub,
				      const char *file, long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", number);
	return write_cgroup(cg, sub, file, text);
}

/* Moves the caller's process to the root of the hierarchy. */
static inline int leave_cgroup(const struct cgroup *cg)
{
	return write_cgroup(cg, "/..", "cgroup.procs", "0");
}

#endif /* _FULLFORK_CGROUP_H */
