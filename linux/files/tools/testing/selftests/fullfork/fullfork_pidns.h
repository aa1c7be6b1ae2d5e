/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the full fork selftests that keep TIDs in another PID namespace
 *
 * A replica there sees the /proc of its original, where it has other TIDs:
 * of /proc, it may use no more than /proc/self and /proc/thread-self.
 */
#ifndef _FULLFORK_PIDNS_H
#define _FULLFORK_PIDNS_H

#include "fullfork_selftest.h"

#include <linux/capability.h>
#include <sys/prctl.h>

#define NS_LINK_SIZE 64

/*
 * Starts the init, which does nothing, of a PID namespace that CLONE_NEWPID in
 * @flags makes, or that the caller has unshared: its PID.
 */
static inline pid_t start_init(struct __test_metadata *_metadata, __u64 flags)
{
	struct fullfork_args args = {
		.flags = flags,
		.exit_signal = SIGCHLD,
	};
	long pid = sys_clone3(&args, sizeof(args));

	ASSERT_LE(0, pid)
	{
		TH_LOG("init of a namespace: %s", strerror(-pid));
	}
	if (!pid) {
		signal(SIGCHLD, SIG_IGN);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

static inline void end_init(struct __test_metadata *_metadata, pid_t pid)
{
	ASSERT_EQ(0, kill(pid, SIGKILL));
	xwaitpid(_metadata, pid, DEADLINE);
}

/* The caller's children will be born in the PID namespace of @pid. */
static inline void enter_pid_ns(struct __test_metadata *_metadata, pid_t pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, setns(fd, CLONE_NEWPID));
	ASSERT_EQ(0, close(fd));
}

static inline void leave_pid_ns(struct __test_metadata *_metadata)
{
	enter_pid_ns(_metadata, getpid());
}

/* The other PID namespace, where replicas keep their TIDs. */
struct other_ns {
	__u64 flags;		/* of a full fork into it */
	pid_t init;		/* 0 if that call is to make it */
};

static inline void enter_other_ns(struct __test_metadata *_metadata,
				  const struct other_ns *ns)
{
	if (ns->init)
		enter_pid_ns(_metadata, ns->init);
}

/* A thread can only be made where the caller's children are its own. */
static inline void leave_other_ns(struct __test_metadata *_metadata,
				  const struct other_ns *ns)
{
	if (ns->init)
		leave_pid_ns(_metadata);
}

static inline void start_other_ns(struct __test_metadata *_metadata,
				  struct other_ns *ns, bool entered)
{
	ns->flags = CLONE_KEEP_TIDS;
	if (entered)
		ns->init = start_init(_metadata, CLONE_NEWPID);
	else
		ns->flags |= CLONE_NEWPID;
	enter_other_ns(_metadata, ns);
}

static inline void end_other_ns(struct __test_metadata *_metadata,
				const struct other_ns *ns)
{
	if (ns->init)
		end_init(_metadata, ns->init);
}

/* What names the PID namespace of @pid; "self" is a process as well. */
static inline bool read_pid_ns(const char *pid, char link[NS_LINK_SIZE])
{
	char path[300];
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/%s/ns/pid", pid);
	len = readlink(path, link, NS_LINK_SIZE - 1);
	if (len < 0)
		return false;
	link[len] = '\0';
	return true;
}

static inline bool pid_ns_of(pid_t pid, char link[NS_LINK_SIZE])
{
	char name[16];

	snprintf(name, sizeof(name), "%d", pid);
	return read_pid_ns(name, link);
}

/* The TID that a thread has in its own PID namespace. */
static inline pid_t inner_tid(pid_t pid, pid_t tid)
{
	char buf[128], *last;

	if (!read_status_field(pid, tid, "NSpid", buf, sizeof(buf)))
		return -1;
	last = strrchr(buf, '\t');
	return atoi(last ? last + 1 : buf);
}

/*
 * The processes of a PID namespace, zombies included: how many, and in @init
 * (may be NULL) the PID of the one that is PID 1 there.
 */
static inline int count_in_pid_ns(const char *ns, pid_t *init)
{
	char link[NS_LINK_SIZE];
	DIR *dir = opendir("/proc");
	int count = 0;
	pid_t pid;

	if (!dir)
		return -1;
	while ((pid = next_id(dir))) {
		if (!pid_ns_of(pid, link) || strcmp(link, ns))
			continue;
		count++;
		if (init && inner_tid(pid, pid) == 1)
			*init = pid;
	}
	closedir(dir);
	return count;
}

/* Leaves the calling thread nothing but the capabilities in @mask. */
static inline int set_capabilities(__u64 mask)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2] = {};
	int i;

	for (i = 0; i < 2; i++) {
		data[i].effective = mask >> (32 * i);
		data[i].permitted = data[i].effective;
	}
	return syscall(__NR_capset, &header, data);
}

#endif /* _FULLFORK_PIDNS_H */
