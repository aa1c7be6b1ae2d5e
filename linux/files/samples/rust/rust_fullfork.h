/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctls of /dev/rust-fullfork, see rust_fullfork.rs
 */
#ifndef _RUST_FULLFORK_H
#define _RUST_FULLFORK_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct rust_fullfork_snapshot - make a template
 * @flags: CLONE_ALL_THREADS, CLONE_SUBTREE or both; CLONE_KEEP_TIDS, with which
 *	CLONE_NEWPID may be; CLONE_NNP
 * @pidfd: the process that is copied
 * @id: result: the number of the template, never 0
 * @pid: result: the PID of its root
 * @nr_processes: result
 * @nr_threads: result: of all processes
 * @reserved: 0
 */
struct rust_fullfork_snapshot {
	__aligned_u64 flags;
	__s32 pidfd;
	__u32 id;
	__u32 pid;
	__u32 nr_processes;
	__u32 nr_threads;
	__u32 reserved;
};

/**
 * struct rust_fullfork_spawn - make a running copy of a template
 * @flags: 0, or CLONE_KEEP_TIDS, with which CLONE_NEWPID may be; CLONE_NNP,
 *	CLONE_STOPPED, CLONE_AUTOREAP
 * @id: the template
 * @exit_signal: of the root's copy, which is a child of the caller
 * @pidfd: result: names the root's copy, O_CLOEXEC
 * @pid: result: its PID
 */
struct rust_fullfork_spawn {
	__aligned_u64 flags;
	__u32 id;
	__u32 exit_signal;
	__s32 pidfd;
	__u32 pid;
};

/**
 * struct rust_fullfork_list - where a list is written
 * @entries: address of an array of struct rust_fullfork_template or
 *	struct rust_fullfork_process
 * @nr: how many fit there; result: how many there are
 * @id: 0, or the template whose processes are listed
 */
struct rust_fullfork_list {
	__aligned_u64 entries;
	__u32 nr;
	__u32 id;
};

/**
 * struct rust_fullfork_template - a template of this file
 * @flags: it was made with
 * @id: its number
 * @pid: the PID of its root, or 0 if the caller does not see it
 * @nr_processes: how many it has
 * @nr_threads: of all processes
 */
struct rust_fullfork_template {
	__aligned_u64 flags;
	__u32 id;
	__u32 pid;
	__u32 nr_processes;
	__u32 nr_threads;
};

/* The original was stopped, and so are copies. */
#define RUST_FULLFORK_STOPPED	0x1
/* It has ended since, so that the template cannot be copied any more. */
#define RUST_FULLFORK_GONE	0x2

/**
 * struct rust_fullfork_process - a process of a template
 * @pid: its PID, or 0 if the caller does not see it
 * @original: the PID of its original, in the same way
 * @nr_threads: how many it has
 * @flags: RUST_FULLFORK_*
 * @comm: its name, padded with zeroes
 */
struct rust_fullfork_process {
	__u32 pid;
	__u32 original;
	__u32 nr_threads;
	__u32 flags;
	char comm[16];
};

#define RUST_FULLFORK_SNAPSHOT	_IOWR('|', 0xa0, struct rust_fullfork_snapshot)
#define RUST_FULLFORK_SPAWN	_IOWR('|', 0xa1, struct rust_fullfork_spawn)
#define RUST_FULLFORK_LIST	_IOWR('|', 0xa2, struct rust_fullfork_list)
#define RUST_FULLFORK_PROCESSES	_IOWR('|', 0xa3, struct rust_fullfork_list)
#define RUST_FULLFORK_DROP	_IOW('|', 0xa4, __u32)

#endif /* _RUST_FULLFORK_H */
