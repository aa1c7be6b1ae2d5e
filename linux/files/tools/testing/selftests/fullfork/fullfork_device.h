/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the selftests of /dev/rust-fullfork, the store of snapshots
 */
#ifndef _FULLFORK_DEVICE_H
#define _FULLFORK_DEVICE_H

#include "fullfork_rights.h"
#include <sys/ioctl.h>
#include "../../../../samples/rust/rust_fullfork.h"

#define DEVICE "/dev/rust-fullfork"

/* What results are before a call. */
#define UNTOUCHED 0xdadadada

/* To be called in each FIXTURE_SETUP, behind setup_manager(): a file. */
static inline int open_store(struct __test_metadata *_metadata)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	skip_unless(fd >= 0, _exit(0), "%s: %s", DEVICE, strerror(errno));
	return fd;
}

/* Returns 0 or -errno. */
static inline long store_call(int store, unsigned long cmd, void *arg)
{
	return ioctl(store, cmd, arg) ? -errno : 0;
}

static inline void init_snapshot(struct rust_fullfork_snapshot *s, int pidfd,
				 __u64 flags)
{
	*s = (struct rust_fullfork_snapshot) {
		.flags = flags,
		.pidfd = pidfd,
		.id = UNTOUCHED,
		.pid = UNTOUCHED,
		.nr_processes = UNTOUCHED,
		.nr_threads = UNTOUCHED,
	};
}

static inline void init_spawn(struct rust_fullfork_spawn *s, __u32 id,
			      __u64 flags)
{
	*s = (struct rust_fullfork_spawn) {
		.flags = flags,
		.id = id,
		.exit_signal = flags & CLONE_AUTOREAP ? 0 : SIGCHLD,
		.pidfd = UNTOUCHED,
		.pid = UNTOUCHED,
	};
}

/* The number of the new template, or -errno. */
static inline long snapshot_with(int store, int pidfd, __u64 flags)
{
	struct rust_fullfork_snapshot s;
	long ret;

	init_snapshot(&s, pidfd, flags);
	ret = store_call(store, RUST_FULLFORK_SNAPSHOT, &s);
	return ret ?: s.id;
}

static inline long snapshot(int store, int pidfd)
{
	return snapshot_with(store, pidfd, WHOLE_TREE);
}

/* The PID of the new copy, or -errno. */
static inline long spawn_with(int store, __u32 id, __u64 flags)
{
	struct rust_fullfork_spawn s;
	long ret;

	init_spawn(&s, id, flags);
	ret = store_call(store, RUST_FULLFORK_SPAWN, &s);
	if (ret)
		return ret;
	close(s.pidfd);
	return s.pid;
}

static inline long spawn(int store, __u32 id)
{
	return spawn_with(store, id, 0);
}

static inline long drop(int store, __u32 id)
{
	return store_call(store, RUST_FULLFORK_DROP, &id);
}

/* How many there are, or -errno; at most @room are written. */
static inline long list_entries(int store, unsigned long cmd, __u32 id,
				void *entries, __u32 room)
{
	struct rust_fullfork_list list = {
		.entries = ptr_to_u64(entries),
		.nr = room,
		.id = id,
	};
	long ret = store_call(store, cmd, &list);

	return ret ?: list.nr;
}

static inline long list_templates(int store,
				  struct rust_fullfork_template *entries,
				  __u32 room)
{
	return list_entries(store, RUST_FULLFORK_LIST, 0, entries, room);
}

static inline long list_template(int store, __u32 id,
				 struct rust_fullfork_process *entries,
				 __u32 room)
{
	return list_entries(store, RUST_FULLFORK_PROCESSES, id, entries, room);
}

/*
 * True if nothing but the originals is left, or soon.  The descendants of a
 * template that is killed come to the test, which has to reap them.
 */
static inline bool nothing_left(void)
{
	bool none = wait_until(({
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		!list_others();
	}), DEADLINE);

	if (!none)
		dump_listed(list_others());
	discard_sigchld();
	return none;
}

/* The same where @count processes of templates are to be left. */
static inline bool only_left(int count)
{
	bool met = wait_until(({
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		list_others() == count;
	}), DEADLINE);

	if (!met)
		dump_listed(list_others());
	return met;
}

/* Ends a copy that the test has spawned, with its descendants. */
static inline void end_copy(struct __test_metadata *_metadata, pid_t pid)
{
	kill_listed(list_below(pid));
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_TRUE(WIFSIGNALED(xwaitpid(_metadata, pid, DEADLINE)));
	discard_sigchld();
}

#endif /* _FULLFORK_DEVICE_H */
