// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: what only members have, but is of a kind that cannot be copied, is
 * shared as after fork().
 */
#include "fullfork_isolate.h"

#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/un.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

FIXTURE(kind)
{
	int fd;
};

FIXTURE_VARIANT(kind)
{
	int (*open)(void);
	/* What its fdinfo says: nothing where the kind is not known. */
	const char *says;
};

static int open_notification_pipe(void)
{
	int ends[2];

	return pipe2(ends, O_EXCL) ? -1 : ends[0];
}

static int open_fanotify(void)
{
	return fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
}

static int open_perf_event(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_TASK_CLOCK,
	};

	return syscall(__NR_perf_event_open, &attr, 0, -1, -1, 0);
}

static int open_bpf_map(void)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = 4,
		.max_entries = 1,
	};

	return syscall(__NR_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

static int open_landlock_ruleset(void)
{
	struct landlock_ruleset_attr attr = {
		.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE,
	};

	return syscall(__NR_landlock_create_ruleset, &attr, sizeof(attr), 0);
}

/* With no memory: else it is refused, with or without the flag. */
static int open_userfaultfd(void)
{
	return syscall(__NR_userfaultfd, UFFD_USER_MODE_ONLY);
}

/* It is told of nothing. */
static int open_seccomp_listener(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { .len = 1, .filter = &allow };

	return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
		       &program);
}

static int open_null(void)
{
	return open("/dev/null", O_RDWR);
}

static int open_tun(void)
{
	return open("/dev/net/tun", O_RDWR);
}

static int open_console(void)
{
	return open("/dev/console", O_RDWR | O_NOCTTY);
}

static int open_raw(void)
{
	return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}

static int open_packet(void)
{
	return socket(AF_PACKET, SOCK_RAW, 0);
}

static int open_netlink(void)
{
	return socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
}

static int open_udp(void)
{
	return socket(AF_INET6, SOCK_DGRAM, 0);
}

static int open_mptcp(void)
{
	return socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
}

static int open_unix_datagram(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	/* A name of its own in the abstract namespace */
	return bind(fd, (struct sockaddr *)&addr, sizeof(sa_family_t)) ? -1 : fd;
}

static int open_sysfs(void)
{
	return open("/sys/kernel/mm/ksm/run", O_RDONLY);
}

static int open_directory_of_proc(void)
{
	return open("/proc/self", O_RDONLY | O_DIRECTORY);
}

static int open_namespace(void)
{
	return open("/proc/self/ns/net", O_RDONLY);
}

/* A file system that does not say that it can be opened once more */
static int open_ramfs(void)
{
	char path[] = "/tmp/fullfork.XXXXXX", file[64];
	int fd;

	if (!mkdtemp(path) || mount("none", path, "ramfs", 0, NULL))
		return -1;
	snprintf(file, sizeof(file), "%s/file", path);
	fd = open(file, O_RDWR | O_CREAT, 0600);
	umount2(path, MNT_DETACH);
	rmdir(path);
	return fd;
}

static int open_cgroupfs(void)
{
	char path[] = "/tmp/fullfork.XXXXXX", file[64];
	int fd;

	if (!mkdtemp(path) || mount("none", path, "cgroup2", 0, NULL))
		return -1;
	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	fd = open(file, O_RDWR);
	umount2(path, MNT_DETACH);
	rmdir(path);
	return fd;
}

FIXTURE_VARIANT_ADD(kind, notification_pipe)
{ .open = open_notification_pipe, .says = "shared" };
FIXTURE_VARIANT_ADD(kind, fanotify) { .open = open_fanotify, .says = "" };
FIXTURE_VARIANT_ADD(kind, perf_event) { .open = open_perf_event, .says = "" };
FIXTURE_VARIANT_ADD(kind, bpf_map) { .open = open_bpf_map, .says = "" };
FIXTURE_VARIANT_ADD(kind, landlock_ruleset) { .open = open_landlock_ruleset, .says = "" };
FIXTURE_VARIANT_ADD(kind, userfaultfd) { .open = open_userfaultfd, .says = "" };
FIXTURE_VARIANT_ADD(kind, seccomp_listener) { .open = open_seccomp_listener, .says = "" };
FIXTURE_VARIANT_ADD(kind, null) { .open = open_null, .says = "" };
FIXTURE_VARIANT_ADD(kind, tun) { .open = open_tun, .says = "" };
FIXTURE_VARIANT_ADD(kind, console) { .open = open_console, .says = "" };
FIXTURE_VARIANT_ADD(kind, raw) { .open = open_raw, .says = "shared" };
FIXTURE_VARIANT_ADD(kind, packet) { .open = open_packet, .says = "shared" };
FIXTURE_VARIANT_ADD(kind, netlink) { .open = open_netlink, .says = "shared" };
FIXTURE_VARIANT_ADD(kind, udp) { .open = open_udp, .says = "shared" };
FIXTURE_VARIANT_ADD(kind, mptcp) { .open = open_mptcp, .says = "shared" };
FIXTURE_VARIANT_ADD(kind, unix_datagram) { .open = open_unix_datagram, .says = "shared" };
FIXTURE_VARIANT_ADD(kind, sysfs) { .open = open_sysfs, .says = "" };
FIXTURE_VARIANT_ADD(kind, directory_of_proc) { .open = open_directory_of_proc, .says = "" };
FIXTURE_VARIANT_ADD(kind, namespace) { .open = open_namespace, .says = "" };
FIXTURE_VARIANT_ADD(kind, ramfs) { .open = open_ramfs, .says = "" };
FIXTURE_VARIANT_ADD(kind, cgroupfs) { .open = open_cgroupfs, .says = "" };

FIXTURE_SETUP(kind)
{
	require_isolate(_metadata);
	require_root(_metadata, "files of all kinds");
	self->fd = variant->open();
	ASSERT_LE(0, self->fd)
	{
		TH_LOG("open: %s", strerror(errno));
	}
}

FIXTURE_TEARDOWN(kind)
{
}

struct seen {
	int fd;
	const char *says;
};

/* Whether two descriptions are one shows in the flags that both have then. */
static int set_flag(void *arg)
{
	struct seen *seen = arg;

	replica_assert_fdinfo(seen->says, seen->fd);
	replica_assert_eq(0, syscall(__NR_kcmp, getppid(), syscall(__NR_getpid), KCMP_FILE,
				     seen->fd, seen->fd));
	replica_assert_eq(0, fcntl(seen->fd, F_SETFL, O_NONBLOCK));
	return REPLICA_PASS;
}

TEST_F(kind, is_shared)
{
	struct seen seen = { .fd = self->fd, .says = variant->says };

	ASSERT_EQ(0, fcntl(self->fd, F_SETFL, 0));
	isolate_and_pass(_metadata, 0, set_flag, &seen);
	EXPECT_TRUE(fcntl(self->fd, F_GETFL) & O_NONBLOCK);
	EXPECT_STREQ(variant->says, fdinfo_says("self", self->fd));
}

/*
 * A descriptor that a member has opened with O_PATH is one more way to what it names: it
 * can be opened, and sent to others.  So that is shared.
 */
FIXTURE(path)
{
	int fd;
	int path;
};

FIXTURE_VARIANT(path)
{
	int (*open)(void);
};

static int open_pipe(void)
{
	int ends[2];

	if (pipe(ends) || write(ends[1], "byte", 4) != 4)
		return -1;
	close(ends[1]);
	return ends[0];
}

static int open_memfd(void)
{
	int fd = memfd_create("path", 0);

	return write(fd, "byte", 4) == 4 && !lseek(fd, 0, SEEK_SET) ? fd : -1;
}

static int open_socket(void)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || write(ends[1], "byte", 4) != 4)
		return -1;
	close(ends[1]);
	return ends[0];
}

FIXTURE_VARIANT_ADD(path, pipe) { .open = open_pipe };
FIXTURE_VARIANT_ADD(path, memfd) { .open = open_memfd };
FIXTURE_VARIANT_ADD(path, socket) { .open = open_socket };

FIXTURE_SETUP(path)
{
	char name[64];

	require_isolate(_metadata);
	self->fd = variant->open();
	ASSERT_LE(0, self->fd);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", self->fd);
	self->path = open(name, O_PATH);
	ASSERT_LE(0, self->path);
}

FIXTURE_TEARDOWN(path)
{
}

static int read_shared(void *arg)
{
	int fd = *(int *)arg;
	char byte;

	replica_assert_fdinfo("shared", fd);
	replica_assert_eq(1, read(fd, &byte, 1));
	replica_assert_eq('b', byte);
	return REPLICA_PASS;
}

static int read_copy(void *arg)
{
	int fd = *(int *)arg;
	char buf[3];

	replica_assert_fdinfo("copied", fd);
	replica_assert_eq(3, read(fd, buf, 3));
	replica_assert(!memcmp(buf, "yte", 3));
	return REPLICA_PASS;
}

/* What the replica has read is gone, until there is no path any more. */
TEST_F(path, of_a_member_makes_it_shared)
{
	char buf[3];

	isolate_and_pass(_metadata, 0, read_shared, &self->fd);
	ASSERT_EQ(0, close(self->path));
	isolate_and_pass(_metadata, 0, read_copy, &self->fd);
	ASSERT_EQ(3, read(self->fd, buf, 3));
	EXPECT_EQ(0, memcmp(buf, "yte", 3));
}

/* What has no kind: who reaps orphans */
FIXTURE(subreaper)
{
};

FIXTURE_SETUP(subreaper)
{
	require_isolate(_metadata);
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
}

FIXTURE_TEARDOWN(subreaper)
{
}

static int is_subreaper(void)
{
	int is = -1;

	return prctl(PR_GET_CHILD_SUBREAPER, &is) ? -1 : is;
}

static int reap_orphan(void *arg)
{
	pid_t pid = fork(), orphan;
	int status;

	replica_assert(pid >= 0);
	if (!pid) {
		if (!fork())
			_exit(wait_until(getppid() != pid, DEADLINE) ? 7 : 1);
		_exit(0);
	}
	replica_assert_eq(pid, waitpid(pid, &status, 0));
	orphan = waitpid(-1, &status, 0);
	replica_assert(orphan > 0 && WIFEXITED(status));
	replica_assert_eq(7, WEXITSTATUS(status));
	replica_assert_eq(1, is_subreaper());
	return REPLICA_PASS;
}

TEST_F(subreaper, has_a_replica_that_is_one)
{
	isolate_and_pass(_metadata, CLONE_SUBTREE, reap_orphan, NULL);
	isolate_and_pass(_metadata, 0, reap_orphan, NULL);
}

static int see_no_subreaper(void *arg)
{
	replica_assert_eq(0, is_subreaper());
	return REPLICA_PASS;
}

/* As after fork(). */
TEST_F(subreaper, has_a_replica_that_is_none_unless_isolated)
{
	expect_pass(_metadata, replica_main(full_fork(CLONE_SUBTREE), see_no_subreaper, NULL));
	EXPECT_EQ(1, is_subreaper());
}

TEST_HARNESS_MAIN
