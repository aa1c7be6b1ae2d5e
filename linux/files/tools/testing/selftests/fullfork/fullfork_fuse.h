/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A FUSE file system of the full fork selftests, that answers when it is told
 */
#ifndef _FULLFORK_FUSE_H
#define _FULLFORK_FUSE_H

#include "fullfork_manager.h"
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define FUSE_BUFFER 65536

static int fuse_fd __maybe_unused = -1;
static char fuse_dir[32] __maybe_unused;
static char fuse_buffer[FUSE_BUFFER];

static inline bool answer_request(const struct fuse_in_header *in, int error,
				  const void *data, size_t size)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + size,
		.error = error,
		.unique = in->unique,
	};
	struct iovec iov[2] = { { &out, sizeof(out) }, { (void *)data, size } };

	return writev(fuse_fd, iov, size ? 2 : 1) == out.len;
}

/* Reads one request; waits for it unless the descriptor is non-blocking. */
static inline const struct fuse_in_header *read_request(void)
{
	ssize_t size = read(fuse_fd, fuse_buffer, sizeof(fuse_buffer));

	return size < (ssize_t)sizeof(struct fuse_in_header) ? NULL :
	       (void *)fuse_buffer;
}

/* There is no file at all.  Nobody waits for answers to some requests. */
static inline void refuse_request(const struct fuse_in_header *in)
{
	if (in->opcode != FUSE_INTERRUPT && in->opcode != FUSE_FORGET &&
	    in->opcode != FUSE_BATCH_FORGET)
		answer_request(in, -ENOENT, NULL, 0);
}

/* What has come so far, without waiting. */
static inline void refuse_requests(void)
{
	struct pollfd pfd = { .fd = fuse_fd, .events = POLLIN };
	const struct fuse_in_header *in;

	while (poll(&pfd, 1, 0) == 1 && pfd.revents == POLLIN &&
	       (in = read_request()))
		refuse_request(in);
}

/* True if somebody waits for the server, within the deadline. */
static inline bool wait_request(void)
{
	struct pollfd pfd = { .fd = fuse_fd, .events = POLLIN };

	return poll(&pfd, 1, DEADLINE * 1000) == 1 && pfd.revents == POLLIN;
}

/* In a mount namespace of its own, which goes with the test. */
static inline void mount_fuse(struct __test_metadata *_metadata)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_write = 4096,
	};
	const struct fuse_in_header *in;
	char options[96];

	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(fuse_dir, sizeof(fuse_dir), "/tmp/fullfork.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(fuse_dir));
	fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fuse_fd)
	{
		TH_LOG("/dev/fuse: %s", strerror(errno));
	}
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse_fd);
	ASSERT_EQ(0, mount("fullfork", fuse_dir, "fuse", 0, options))
	{
		TH_LOG("mount: %s", strerror(errno));
	}
	ASSERT_TRUE(wait_request());
	in = read_request();
	ASSERT_NE(NULL, in);
	ASSERT_EQ(FUSE_INIT, in->opcode);
	ASSERT_TRUE(answer_request(in, 0, &out, sizeof(out)));
}

/*
 * For every process but the server: it is gone, and those who wait for it are
 * free, when nobody has its descriptor any more.
 */
static inline void leave_fuse_to_server(void)
{
	if (fuse_fd >= 0)
		close(fuse_fd);
	fuse_fd = -1;
}

/* Whoever waits for the server gets an error. */
static inline void unmount_fuse(void)
{
	leave_fuse_to_server();
	if (!fuse_dir[0])
		return;
	umount2(fuse_dir, MNT_DETACH);
	rmdir(fuse_dir);
}

/* Asks the server for a file, which it says does not exist. */
static inline int stat_file(void)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "%s/file", fuse_dir);
	return stat(path, &st) ? errno : 0;
}

#endif /* _FULLFORK_FUSE_H */
