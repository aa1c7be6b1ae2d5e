/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _FULLFORK_INTERNAL_H
#define _FULLFORK_INTERNAL_H

#include <linux/fullfork.h>
#include <linux/fullfork_isolate.h>
#include <linux/fullfork_set.h>
#include <linux/list.h>
#include <linux/sched/wake_q.h>
#include <linux/spinlock.h>

/* How a thread that CLONE_SFORK moved ended in the child. */
enum sfork_end {
	SFORK_AWAY,
	SFORK_EXEC,
	SFORK_EXIT,
	SFORK_KILLED,
};

enum fullfork_member_state {
	FULLFORK_QUIESCED,	/* waits for its turn, or for release */
	FULLFORK_PREPARING,	/* prepares the replicas on its list */
	FULLFORK_RELEASED,	/* goes on; the operation is gone */
};

/**
 * struct fullfork_need - an entry in the list of those that wait for a member
 * @node: in &fullfork_member.dependents of @on
 * @of: the member that waits
 * @on: the member that it waits for
 */
struct fullfork_need {
	struct list_head	node;
	struct fullfork_member	*of;
	struct fullfork_member	*on;
};

/* Members of one process that finish what others began. */
#define FULLFORK_MAX_FINISHERS	8U

/* Buckets of a hash table that need not be allocated. */
#define FULLFORK_FEW_OBJECTS	16U

/* One for each shared object, for the parent, and for the init of a namespace. */
#define FULLFORK_MAX_NEEDS	(FULLFORK_NR_SHARED + 2)

/**
 * struct fullfork_object - who copies an object that originals share
 * @node: in the hash table of the operation
 * @object: its address, or that of the original itself
 * @owner: the first member that has it
 * @nr_sharers: how many members have it
 */
struct fullfork_object {
	struct hlist_node	node;
	const void		*object;
	struct fullfork_member	*owner;
	unsigned int		nr_sharers;
};

/**
 * struct fullfork_member - an original and its replica
 * @node: in &fullfork_group.members
 * @group: the process that it is of
 * @original: the task that is copied; this struct is on its stack, unless it
 *	has exited
 * @replica: its copy once that is prepared, else NULL
 * @place: for copy_process()
 * @lost: the original is in a full fork call of its own that came second
 * @restarts_eintr: its system call is one that is to be restarted after EINTR
 *
 * @state: of the original as a thread that takes part
 * @todo: members whose replicas the original is to prepare, by @todo_node
 * @todo_node: in @todo of @maker
 *
 * @maker: whose original prepares the replica: itself if it is alive, unless it
 *	began it and another one finishes it
 * @owners: for every shared object the member that copies it
 * @parent: the member whose replica is the parent, of a leader below the root
 * @pid_ns: the PID namespace of the replica if it is not that of the original
 * @pid_ns_for_children: the same for that of its children
 * @nr_needs: members that have to be prepared before this one
 * @needs: an entry for each of them
 * @dependents: members that need this one
 * @objects: what this member is found by
 *
 * @candidates: with CLONE_ISOLATE a bitmap of the descriptors in the table that it
 *	owns whose files may be copied, or have locks; NULL if there are none
 * @outer: those that were candidates, but that others have, too, see candidates.c
 * @max_candidates: number of bits in each of both
 */
struct fullfork_member {
	struct list_head		node;
	struct fullfork_group		*group;
	struct task_struct		*original;
	struct task_struct		*replica;
	struct fullfork_place		place;
	bool				lost;
	bool				restarts_eintr;

	enum fullfork_member_state	state;
	struct list_head		todo;
	struct list_head		todo_node;

	struct fullfork_member		*maker;
	struct fullfork_member		*owners[FULLFORK_NR_SHARED];
	struct fullfork_member		*parent;
	struct pid_namespace		*pid_ns;
	struct pid_namespace		*pid_ns_for_children;
	unsigned int			nr_needs;
	struct fullfork_need		needs[FULLFORK_MAX_NEEDS];
	struct list_head		dependents;
	struct fullfork_object		objects[FULLFORK_NR_SHARED];

	unsigned long			*candidates;
	unsigned long			*outer;
	unsigned int			max_candidates;
};

/**
 * struct fullfork_group - a process that is copied
 * @node: in &fullfork.groups, parents before children
 * @op: the operation
 * @task: some thread of it, held, which keeps @signal
 * @signal: what its threads share; @signal->fullfork points here, written under
 *	the siglock
 * @members: its threads that are copied, once they are quiesced
 * @nr_members: number of entries there
 * @bystanders: those that are not, see CLONE_SUBTREE
 * @zombie: it had exited, and handed its children on, at the last look
 * @leader: the member that leads the replica
 * @nr_to_finish: replicas of threads that their originals began and others finish
 * @finishers: who does so, protected by the lock of the operation like that
 * @exited: stands for a leader that has exited
 * @made_as: what it is in the template that is copied, else NULL
 * @pid: of the replica, when it is aborted
 */
struct fullfork_group {
	struct list_head		node;
	struct fullfork			*op;
	struct task_struct		*task;
	struct signal_struct		*signal;
	struct list_head		members;
	unsigned int			nr_members;
	struct list_head		bystanders;
	bool				zombie;
	struct fullfork_member		*leader;
	unsigned int			nr_to_finish;
	struct fullfork_member		*finishers[FULLFORK_MAX_FINISHERS];
	struct fullfork_member		exited;
	const struct fullfork_replica	*made_as;
	struct pid			*pid;
};

/**
 * struct fullfork_pid_ns - a PID namespace of originals and that of replicas
 * @node: in &fullfork.pid_namespaces
 * @original: that of originals
 * @replica: the one in which replicas have the same TIDs
 * @init: the process whose replica is the init of @replica; NULL if there is an
 *	init already, or none yet
 */
struct fullfork_pid_ns {
	struct list_head	node;
	struct pid_namespace	*original;
	struct pid_namespace	*replica;
	struct fullfork_group	*init;
};

/**
 * struct fullfork_ipc_ns - an IPC namespace that members are in
 * @node: in &fullfork.ipc_namespaces
 * @original: that of originals
 * @copy: that of replicas; NULL if it is the same one
 * @owner: a member that is in it
 * @nr_refs: how many references to it members were found to have
 * @external: not only members have one of these
 */
struct fullfork_ipc_ns {
	struct list_head	node;
	struct ipc_namespace	*original;
	struct ipc_namespace	*copy;
	struct fullfork_member	*owner;
	unsigned int		nr_refs;
	bool			external;
};

/* What is made has the rights, and is at the cost, of a member that has the original's. */
struct isolate_scope {
	struct mem_cgroup	*memcg;
	struct mem_cgroup	*old_memcg;
	const struct cred	*cred;
	const struct cred	*old_cred;
};

/* What the caller is told, other than by the return value. */
enum fullfork_result_type {
	FULLFORK_RESULT_PIDFD,
	FULLFORK_RESULT_TID,
	FULLFORK_RESULT_MAP,
	FULLFORK_NR_RESULTS,
};

/**
 * struct fullfork_result - memory of the caller for a result
 * @pages: that it is in, pinned; NULL if it was not asked for
 * @nr_pages: number of them
 * @offset: of the result in the first one
 * @written: they are dirty
 */
struct fullfork_result {
	struct page	**pages;
	unsigned int	nr_pages;
	unsigned int	offset;
	bool		written;
};

/**
 * struct fullfork - one full fork, on the stack of its caller
 * @caller: the task inside clone3()
 * @self: the member of @caller, if its process is copied
 * @kargs: its arguments
 * @request: where they came from, unless it was clone3(); else NULL
 * @set: the replicas, for the one who asked
 * @root: the process at the top of what is copied
 * @groups: every process that is copied, parents before children
 * @spare: groups that were allocated and are not used yet
 * @look_again: the last look found processes that were not claimed yet
 * @saw_new: it found tasks that were not started yet
 * @start: time at which the first original was marked
 * @deadline: until when originals have to be quiesced, in jiffies
 * @pid_ns: the namespace for the TIDs of CLONE_KEEP_TIDS, else NULL
 * @pid_namespaces: namespaces of replicas that are not those of originals
 * @reaper: the reaper made for @pid_ns, not started yet, else NULL
 * @isolation: what CLONE_ISOLATE copies, else NULL
 * @ipc_namespaces: IPC namespaces of members, with CLONE_ISOLATE
 * @tallies: hash table of files that may be outer ones, see candidates.c; or NULL
 * @tally_bits: size of it
 * @nr_tallies: number of files there
 * @plain_fops: of one kind, which hold no others; or NULL
 * @any_unmarked: some outer ones do not have FMODE_FULLFORK_SHARED yet
 * @objects: hash table of the objects that members share
 * @few_objects: that table if there are few members
 * @objects_bits: size of it
 * @results: where they are written
 *
 * @lock: protects what follows, and the state of members.  Nests inside the
 *	siglock of originals.
 * @nr_members: number of members of all groups
 * @nr_marked: originals asked to quiesce that did not yet do so or exit; the
 *	caller waits for zero
 * @nr_changes: originals that exited or left instead
 * @preparing: every original is quiesced, and none leaves any more
 * @nr_preparing: replicas that are at work; the caller waits for zero
 * @nr_prepared: replicas that are made
 * @err: the first error
 * @reason: where it came from
 * @culprit: PID of the task that it came from
 */
struct fullfork {
	struct task_struct		*caller;
	struct fullfork_member		*self;
	struct kernel_clone_args	*kargs;
	const struct fullfork_request	*request;
	struct fullfork_set		*set;
	struct fullfork_group		*root;
	struct list_head		groups;
	struct list_head		spare;
	bool				look_again;
	bool				saw_new;
	ktime_t				start;
	unsigned long			deadline;
	struct pid_namespace		*pid_ns;
	struct list_head		pid_namespaces;
	struct task_struct		*reaper;
	struct fullfork_isolation	*isolation;
	struct list_head		ipc_namespaces;
	struct fullfork_tally		*tallies;
	unsigned int			tally_bits;
	unsigned int			nr_tallies;
	const struct file_operations	*plain_fops;
	bool				any_unmarked;
	struct hlist_head		*objects;
	struct hlist_head		few_objects[FULLFORK_FEW_OBJECTS];
	unsigned int			objects_bits;
	struct fullfork_result		results[FULLFORK_NR_RESULTS];

	/* Protects what follows. */
	spinlock_t			lock;
	unsigned int			nr_members;
	unsigned int			nr_marked;
	unsigned int			nr_changes;
	bool				preparing;
	unsigned int			nr_preparing;
	unsigned int			nr_prepared;
	int				err;
	enum fullfork_reason		reason;
	pid_t				culprit;
};

static inline struct fullfork_member *to_member(struct fullfork_place *place)
{
	return container_of(place, struct fullfork_member, place);
}

/* Is it the member of a thread that has exited, which does not act itself? */
static inline bool fullfork_has_exited(const struct fullfork_member *m)
{
	return m == &m->group->exited;
}

/* A zombie: a process that has exited and that was not waited for. */
static inline bool fullfork_is_zombie(const struct fullfork_group *g)
{
	return fullfork_has_exited(g->leader) && g->nr_members == 1;
}

extern unsigned int sysctl_fullfork_timeout_secs;

/* core.c */
pid_t fullfork_run(struct kernel_clone_args *kargs,
		   const struct fullfork_request *request, struct fullfork_set **set);

/* sfork.c */
bool sfork_args_valid(const struct kernel_clone_args *kargs);
pid_t sfork(struct kernel_clone_args *kargs);

/* set.c */
bool fullfork_was_stopped(const struct fullfork_group *g);
int fullfork_check_template(struct fullfork *op);
int fullfork_make_set(struct fullfork *op);

/* quiesce.c */
void fullfork_set_error(struct fullfork *op, int err, enum fullfork_reason reason,
			struct task_struct *culprit);
int fullfork_fail(struct fullfork *op, int err, enum fullfork_reason reason,
		  struct task_struct *culprit);

/* tree.c */
extern struct wait_queue_head fullfork_waiters;

bool fullfork_lose(struct fullfork *op, bool always);
int fullfork_find_root(struct fullfork *op);
struct fullfork_group *fullfork_find_group(struct fullfork *op, struct task_struct *t);
int fullfork_check_rights(struct fullfork *op);
int fullfork_quiesce_all(struct fullfork *op);
void fullfork_detach(struct fullfork *op, struct list_head *groups);
void fullfork_free_groups(struct fullfork *op);

/* quiesce.c */
void fullfork_init_member(struct fullfork_member *m, struct fullfork_group *g,
			  struct task_struct *original);
void fullfork_mark_group(struct fullfork_group *g, struct task_struct *any);
int fullfork_wait_quiesced(struct fullfork *op);
void fullfork_release(struct fullfork *op, struct list_head *groups);
bool fullfork_restarts_eintr(struct pt_regs *regs);

/* supported.c */
int fullfork_check_supported(struct fullfork *op);

/* results.c */
int fullfork_check_results(struct fullfork *op);
int fullfork_pin_results(struct fullfork *op);
void fullfork_write_results(struct fullfork *op, int pidfd, pid_t nr);
void fullfork_unpin_results(struct fullfork *op);

/* link.c */
int fullfork_link_members(struct fullfork *op);
struct fullfork_member *fullfork_find_member(struct fullfork *op,
					     const struct task_struct *original);

/* async.c */
bool fullfork_owned_outside(struct fullfork *op, const struct file *file);
int fullfork_copy_owner(struct fullfork_isolation *isolation, struct file *file,
			struct file *copy, const struct fullfork_file_ops *ops);

/* candidates.c */
typedef bool (*fullfork_outer_fn)(struct fullfork_member *m, struct file *file);

struct fdtable *fullfork_fdtable(struct files_struct *files);
int fullfork_find_candidates(struct fullfork *op, unsigned int *nr);
struct file *fullfork_next_file(const struct fullfork_member *m, struct fdtable *fdt,
				unsigned int *fd);
void fullfork_walk_outer(struct fullfork *op, fullfork_outer_fn fn);
unsigned int fullfork_fds_to_report(struct fullfork *op, const struct file *file);
void fullfork_free_candidates(struct fullfork *op);

/* isolate.c */
bool fullfork_can_be_copied(const struct file *file);
bool fullfork_is_one_kind(const struct file_operations *fops);
struct fullfork_member *fullfork_find_meant(struct fullfork *op, struct pid *pid,
					    enum pid_type type);
void fullfork_enter_scope(struct isolate_scope *scope, struct fullfork_member *m);
void fullfork_leave_scope(struct isolate_scope *scope);
int fullfork_isolate(struct fullfork *op);
void fullfork_isolate_files(const struct fullfork_member *m, struct files_struct *files);
int fullfork_isolate_mm(struct fullfork *op, struct mm_struct *mm);
int fullfork_link_isolation(struct fullfork *op);
void fullfork_report_isolation(struct fullfork *op);
void fullfork_free_isolation(struct fullfork *op);

/* ipc.c */
int fullfork_find_ipc_namespaces(struct fullfork *op);
void fullfork_found_attach(struct fullfork *op, const struct ipc_namespace *ns, bool internal);
int fullfork_copy_ipc_namespaces(struct fullfork *op);
struct ipc_namespace *fullfork_copied_ipc_ns(struct fullfork *op, const struct ipc_namespace *ns);
int fullfork_link_ipc_namespaces(struct fullfork *op);
struct ipc_namespace *fullfork_new_ipc_ns(void);
void fullfork_enter_ipc_ns(struct task_struct *p, struct ipc_namespace *ns);
void fullfork_put_ipc_namespaces(struct fullfork *op);

/* regular.c */
extern const struct fullfork_file_ops fullfork_regular_ops;

int fullfork_copy_locks(struct fullfork *op, struct file *file, struct file *copy,
			struct task_struct *replica);

/* replica.c */
int fullfork_prepare_replicas(struct fullfork *op);
void fullfork_work(struct fullfork_member *maker);
void fullfork_begin_replica(struct fullfork_member *m);
void fullfork_cancel_replica(struct fullfork_member *m);
void fullfork_cancel_replicas(struct fullfork *op);

/* pidns.c */
int fullfork_get_pid_ns(struct fullfork *op);
int fullfork_map_pid_namespaces(struct fullfork *op);
struct fullfork_pid_ns *fullfork_find_pid_ns(struct fullfork *op, struct pid_namespace *ns);
void fullfork_put_pid_namespaces(struct fullfork *op);
int fullfork_prepare_reaper(struct fullfork *op);

#endif /* _FULLFORK_INTERNAL_H */
