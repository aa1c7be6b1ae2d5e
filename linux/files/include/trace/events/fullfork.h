/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM fullfork

#if !defined(_TRACE_FULLFORK_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_FULLFORK_H

#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/tracepoint.h>

#define FULLFORK_REASONS				\
	EM(FULLFORK_OK,			"none")		\
	EM(FULLFORK_KILLED,		"killed")	\
	EM(FULLFORK_TIMEOUT,		"timeout")	\
	EM(FULLFORK_ROOT,		"root")		\
	EM(FULLFORK_RIGHTS,		"rights")	\
	EM(FULLFORK_TRACED,		"traced")	\
	EM(FULLFORK_THREADS,		"threads")	\
	EM(FULLFORK_DEADLINE_POLICY,	"deadline-policy")	\
	EM(FULLFORK_KERNEL_WORKER,	"kernel-worker")	\
	EM(FULLFORK_IO_URING,		"io_uring")	\
	EM(FULLFORK_AIO,		"aio")		\
	EM(FULLFORK_USERFAULTFD,	"userfaultfd")	\
	EM(FULLFORK_DONTFORK,		"dontfork")	\
	EM(FULLFORK_ARCH_STATE,		"arch-state")	\
	EM(FULLFORK_PID_NAMESPACE,	"pid-namespace")	\
	EM(FULLFORK_RESULT_ADDRESS,	"result-address")	\
	EM(FULLFORK_TID_MAP_SIZE,	"tid-map-size")	\
	EM(FULLFORK_MEMORY,		"memory")	\
	EM(FULLFORK_PREPARE,		"prepare")	\
	EM(FULLFORK_TID_WORD,		"tid-word")	\
	EM(FULLFORK_PIDFD,		"pidfd")	\
	EM(FULLFORK_TEMPLATE,		"template")	\
	EM(FULLFORK_REPLICA_KILLED,	"replica-killed")	\
	EM(FULLFORK_MEMBER_KILLED,	"member-killed")	\
	EM(FULLFORK_ISOLATION,		"isolation")	\
	EM(FULLFORK_LOOPBACK_TCP,	"loopback-tcp")	\
	EM(FULLFORK_LOOPBACK_UDP,	"loopback-udp")	\
	EM(FULLFORK_HUGE_PAGES,		"huge-pages")	\
	EM(FULLFORK_SECRET_MEMORY,	"secret-memory")	\
	EMe(FULLFORK_OTHER_CALLER,	"other-caller")

#undef EM
#undef EMe
#define EM(a, b)	TRACE_DEFINE_ENUM(a);
#define EMe(a, b)	TRACE_DEFINE_ENUM(a);

FULLFORK_REASONS

#undef EM
#undef EMe
#define EM(a, b)	{ a, b },
#define EMe(a, b)	{ a, b }

TRACE_EVENT(fullfork_start,

	TP_PROTO(u64 flags, unsigned int nr_threads),

	TP_ARGS(flags, nr_threads),

	TP_STRUCT__entry(
		__field(u64, flags)
		__field(unsigned int, nr_threads)
	),

	TP_fast_assign(
		__entry->flags = flags;
		__entry->nr_threads = nr_threads;
	),

	TP_printk("flags=0x%llx nr_threads=%u", __entry->flags, __entry->nr_threads)
);

TRACE_EVENT(fullfork_quiesced,

	TP_PROTO(unsigned int nr_members),

	TP_ARGS(nr_members),

	TP_STRUCT__entry(
		__field(unsigned int, nr_members)
	),

	TP_fast_assign(
		__entry->nr_members = nr_members;
	),

	TP_printk("nr_members=%u", __entry->nr_members)
);

TRACE_EVENT(fullfork_replica,

	TP_PROTO(struct task_struct *original, struct task_struct *replica),

	TP_ARGS(original, replica),

	TP_STRUCT__entry(
		__field(pid_t, original)
		__field(pid_t, replica)
	),

	TP_fast_assign(
		__entry->original = original->pid;
		__entry->replica = replica->pid;
	),

	TP_printk("original=%d replica=%d", __entry->original, __entry->replica)
);

TRACE_EVENT(fullfork_object,

	TP_PROTO(const char *kind, struct file *file, const char *fate, unsigned long count,
		 unsigned int nr_refs, unsigned int nr_found, unsigned int nr_files),

	TP_ARGS(kind, file, fate, count, nr_refs, nr_found, nr_files),

	TP_STRUCT__entry(
		__string(kind, kind)
		__field(u64, ino)
		__string(fate, fate)
		__field(unsigned long, count)
		__field(unsigned int, nr_refs)
		__field(unsigned int, nr_found)
		__field(unsigned int, nr_files)
	),

	TP_fast_assign(
		__assign_str(kind);
		__entry->ino = file_inode(file)->i_ino;
		__assign_str(fate);
		__entry->count = count;
		__entry->nr_refs = nr_refs;
		__entry->nr_found = nr_found;
		__entry->nr_files = nr_files;
	),

	TP_printk("kind=%s ino=%llu %s refs=%u of %lu files=%u of %u", __get_str(kind),
		  __entry->ino, __get_str(fate), __entry->nr_refs,
		  __entry->count, __entry->nr_found, __entry->nr_files)
);

TRACE_EVENT(fullfork_commit,

	TP_PROTO(struct task_struct *leader, unsigned int nr_members),

	TP_ARGS(leader, nr_members),

	TP_STRUCT__entry(
		__field(pid_t, tgid)
		__field(unsigned int, nr_members)
	),

	TP_fast_assign(
		__entry->tgid = leader->pid;
		__entry->nr_members = nr_members;
	),

	TP_printk("tgid=%d nr_members=%u", __entry->tgid, __entry->nr_members)
);

TRACE_EVENT(fullfork_release,

	TP_PROTO(u64 stood_still_ns),

	TP_ARGS(stood_still_ns),

	TP_STRUCT__entry(
		__field(u64, stood_still_ns)
	),

	TP_fast_assign(
		__entry->stood_still_ns = stood_still_ns;
	),

	TP_printk("stood_still_ns=%llu", __entry->stood_still_ns)
);

TRACE_EVENT(fullfork_abort,

	TP_PROTO(int err, int reason, pid_t culprit),

	TP_ARGS(err, reason, culprit),

	TP_STRUCT__entry(
		__field(int, err)
		__field(int, reason)
		__field(pid_t, culprit)
	),

	TP_fast_assign(
		__entry->err = err;
		__entry->reason = reason;
		__entry->culprit = culprit;
	),

	TP_printk("err=%d reason=%s culprit=%d", __entry->err,
		  __print_symbolic(__entry->reason, FULLFORK_REASONS),
		  __entry->culprit)
);

#define FULLFORK_SFORK_ENDS				\
	EM(SFORK_EXEC,			"exec")		\
	EM(SFORK_EXIT,			"exit")		\
	EMe(SFORK_KILLED,		"killed")

#undef EM
#undef EMe
#define EM(a, b)	TRACE_DEFINE_ENUM(a);
#define EMe(a, b)	TRACE_DEFINE_ENUM(a);

FULLFORK_SFORK_ENDS

#undef EM
#undef EMe
#define EM(a, b)	{ a, b },
#define EMe(a, b)	{ a, b }

TRACE_EVENT(fullfork_sfork,

	TP_PROTO(struct task_struct *child),

	TP_ARGS(child),

	TP_STRUCT__entry(
		__field(pid_t, child)
	),

	TP_fast_assign(
		__entry->child = child->pid;
	),

	TP_printk("child=%d", __entry->child)
);

TRACE_EVENT(fullfork_sfork_back,

	TP_PROTO(pid_t child, int end, int sig),

	TP_ARGS(child, end, sig),

	TP_STRUCT__entry(
		__field(pid_t, child)
		__field(int, end)
		__field(int, sig)
	),

	TP_fast_assign(
		__entry->child = child;
		__entry->end = end;
		__entry->sig = sig;
	),

	TP_printk("child=%d end=%s sig=%d", __entry->child,
		  __print_symbolic(__entry->end, FULLFORK_SFORK_ENDS), __entry->sig)
);

#endif /* _TRACE_FULLFORK_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
