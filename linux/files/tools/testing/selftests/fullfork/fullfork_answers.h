/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trees of the full fork selftests that a manager copies
 *
 * Their threads sleep until they are asked.  A question is in the report, so
 * original and replica see the same one; each side answers in a place of its
 * own.  Who answers is alive, and knows its stack and its TLS.
 */
#ifndef _FULLFORK_ANSWERS_H
#define _FULLFORK_ANSWERS_H

#include "fullfork_manager.h"

/* Words of the report that are not free for the tests */
enum {
	WORD_QUESTION = REPORT_WORDS - 1,
	WORD_EVENTS = REPORT_WORDS - 2,		/* of children of originals */
	WORD_SIGCHLDS = REPORT_WORDS - 3,	/* that originals got */
	WORD_EINTRS = REPORT_WORDS - 4,		/* of the wait for a question */
	WORD_MIDDLE = REPORT_WORDS - 5,		/* PID of who starts the root */
	WORD_MIDDLE_EVENTS = REPORT_WORDS - 6,
	WORD_MIDDLE_PID = REPORT_WORDS - 7,	/* of the last event */
};

#define QUESTION_END	0x80000000

struct plan {
	int parent;			/* its number; the first has none */
	int threads;			/* beside the leader */
	int caller;			/* 1: its last thread takes commands */
	bool outlives_parent;
	void (*before)(int number);	/* it has children */
	void (*become)(int number);	/* it has threads */
};

enum relation { RELATION_CHILD, RELATION_GRANDCHILD, RELATION_STRANGER };

static const struct plan *plan __maybe_unused;
static int plan_size __maybe_unused;
static int own_process __maybe_unused;
static __thread int own_task __maybe_unused;

/* The number of the first task of a process: its leader. */
static inline int first_task(int number)
{
	int i, task = 0;

	for (i = 0; i < number; i++)
		task += 1 + plan[i].threads;
	return task;
}

static inline int nr_tasks(void)
{
	return first_task(plan_size);
}

/* Of the original */
static inline pid_t pid_of(int number)
{
	return report->slot[first_task(number)].pid;
}

/* Not in a handler of an original: no signal is sent to it. */
static inline void count_sigchld(int sig)
{
	if (!in_replica())
		add(&report->word[WORD_SIGCHLDS], 1);
}

/* Whether an original is told of something that its children did. */
static inline void look_for_events(void)
{
	siginfo_t info = {};

	if (!in_replica() &&
	    !waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG |
		    WNOWAIT | __WALL) && info.si_pid)
		add(&report->word[WORD_EVENTS], 1);
}

static inline void obey(__u32 question)
{
	struct command *c = &shared->command;
	long ret;

	if (c->question != question || c->process != own_process || in_replica())
		return;
	if (c->source)
		c->args.source_pidfd = sys_pidfd_open(c->source);
	ret = sys_clone3(&c->args, sizeof(c->args));
	if (in_replica()) {
		c->replica_ret = ret;
		add(&c->replica_returns, 1);
	} else {
		c->ret = ret;
		if (c->source)
			close(c->args.source_pidfd);
	}
}

static inline void give_answer(int task, __u32 question)
{
	struct report_slot *slot = &report->slot[task];
	enum side side = own_side();

	if (side == SIDE_REPLICA) {
		slot->code = sys_getpid();
		slot->value[0] = sys_gettid();
		slot->value[3] = syscall(__NR_getppid);
	}
	__atomic_store_n(&slot->value[side], question, __ATOMIC_SEQ_CST);
}

/* The life of each task of the tree: until it is told to end. */
static inline void answer_questions(int task)
{
	struct report_slot *slot = &report->slot[task];
	__u32 *word = &report->word[WORD_QUESTION];
	bool leads = task == first_task(own_process);
	bool calls = plan[own_process].caller &&
		     task == first_task(own_process + 1) - 1;
	__u32 question, seen = load(word);
	__u64 canary[16];
	int i;

	own_task = task;
	for (i = 0; i < ARRAY_SIZE(canary); i++)
		canary[i] = task * 1000 + i;
	keep_in_memory(canary);
	slot->pid = sys_getpid();
	slot->tid = sys_gettid();
	add(&report->recorded, 1);

	while (!(seen & QUESTION_END)) {
		if (futex_wait(word, seen, 0, -1) && errno != EAGAIN)
			add(&report->word[WORD_EINTRS], 1);
		question = load(word);
		if (question == seen)
			continue;
		seen = question;
		keep_in_memory(canary);
		for (i = 0; i < ARRAY_SIZE(canary); i++)
			side_assert_eq(task * 1000 + i, canary[i]);
		side_assert_eq(task, own_task);
		if (calls)
			obey(seen);
		if (leads)
			look_for_events();
		give_answer(task, seen);
	}
}

static inline void *answer_in_thread(void *arg)
{
	answer_questions((long)arg);
	return NULL;
}

/* On both sides: the children end first, and each as it should. */
static inline __noreturn void end_process(void)
{
	int status;

	while (waitpid(-1, &status, __WALL) > 0)
		side_assert_eq(REPLICA_PASS << 8, status);
	replica_exit(REPLICA_PASS);
}

static inline __noreturn void run_process(int number)
{
	struct sigaction sa = {
		.sa_handler = count_sigchld,
		.sa_flags = SA_RESTART,
	};
	int i, first = first_task(number);
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t set;

	original_pid = sys_getpid();
	own_process = number;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGCHLD, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_UNBLOCK, &set, NULL);

	if (plan[number].before)
		plan[number].before(number);
	for (i = number + 1; i < plan_size; i++) {
		pid_t pid = plan[i].parent == number ? fork() : 1;

		side_assert(pid >= 0);
		if (!pid)
			run_process(i);
	}
	if (plan[number].become)
		plan[number].become(number);
	/* Other credentials have cleared it. */
	prctl(PR_SET_PDEATHSIG, plan[number].outlives_parent ? 0 : SIGKILL);

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	for (i = 1; i <= plan[number].threads; i++)
		side_assert_eq(0, pthread_create(&thread, &attr,
						 answer_in_thread,
						 (void *)(long)(first + i)));
	answer_questions(first);
	end_process();
}

/* The root's parent, when that is not the test, notes what it is told. */
static inline __noreturn void watch_children(void)
{
	siginfo_t info;

	for (;;) {
		info.si_pid = 0;
		if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WCONTINUED |
			   __WALL))
			poll_pause();
		if (!info.si_pid)
			continue;
		store(&report->word[WORD_MIDDLE_PID], info.si_pid);
		add(&report->word[WORD_MIDDLE_EVENTS], 1);
	}
}

static inline pid_t start_root(enum relation relation)
{
	/* A sibling: no descendant of the test. */
	struct fullfork_args args = { .flags = CLONE_PARENT };
	pid_t pid;

	pid = relation == RELATION_STRANGER ? sys_clone3(&args, sizeof(args)) :
	      fork();
	if (pid)
		return pid;
	if (relation == RELATION_GRANDCHILD) {
		original_pid = sys_getpid();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pid = fork();
		if (!pid)
			run_process(0);
		store(&report->word[WORD_MIDDLE], sys_getpid());
		watch_children();
	}
	run_process(0);
}

static inline bool tasks_sleep(int first, int count)
{
	struct report_slot *slot = &report->slot[first];
	int i;

	for (i = 0; i < count; i++)
		if (!is_blocked(slot[i].pid, slot[i].tid, __NR_futex))
			return false;
	return true;
}

/*
 * Starts the processes of a plan; the first is the root.  Returns its PID when
 * all sleep, waiting for a question.
 */
static inline pid_t start_tree(struct __test_metadata *_metadata,
			       const struct plan *new_plan, int size,
			       enum relation relation)
{
	pid_t pid;

	plan = new_plan;
	plan_size = size;
	report->recorded = 0;
	memset(report->slot, 0, sizeof(report->slot));
	memset(report->word, 0, sizeof(report->word));
	pid = start_root(relation);
	ASSERT_LT(0, pid);
	if (relation == RELATION_STRANGER)
		stranger = pid;
	else
		keep(pid);
	ASSERT_TRUE(wait_recorded(nr_tasks()))
	{
		TH_LOG("%u of %d tasks: %s", load(&report->recorded),
		       nr_tasks(), report->failure);
	}
	ASSERT_TRUE(wait_until(tasks_sleep(0, nr_tasks()), DEADLINE))
	{
		dump_listed(list_below(getpid()));
	}
	return pid_of(0);
}

static inline __u32 ask(void)
{
	__u32 *word = &report->word[WORD_QUESTION], question = add(word, 1);

	futex_wake(word, INT_MAX, 0);
	return question;
}

static inline int count_answers(enum side side, int first, int count,
				__u32 question)
{
	int i, answers = 0;

	for (i = first; i < first + count; i++)
		answers += __atomic_load_n(&report->slot[i].value[side],
					   __ATOMIC_SEQ_CST) == question;
	return answers;
}

/* Some tasks, asked now, answer. */
static inline bool tasks_answer(enum side side, int first, int count)
{
	__u32 question = ask();
	bool met = wait_until(count_answers(side, first, count, question) ==
			      count, DEADLINE);

	if (!met) {
		fprintf(stderr, "# %d of %d tasks answer\n",
			count_answers(side, first, count, question), count);
		dump_listed(list_below(getpid()));
	}
	return met;
}

static inline bool originals_answer(void)
{
	return tasks_answer(SIDE_ORIGINAL, 0, nr_tasks());
}

static inline bool replicas_answer(void)
{
	return tasks_answer(SIDE_REPLICA, 0, nr_tasks());
}

/* Both sides end, children first; a replica is only to be waited for. */
static inline void tell_to_end(void)
{
	__u32 *word = &report->word[WORD_QUESTION];

	store(word, load(word) | QUESTION_END);
	futex_wake(word, INT_MAX, 0);
}

/* Originals were told of nothing, and no wait of theirs returned. */
#define expect_undisturbed()						\
do {									\
	EXPECT_EQ(0, load(&report->word[WORD_EVENTS]));			\
	EXPECT_EQ(0, load(&report->word[WORD_SIGCHLDS]));		\
	EXPECT_EQ(0, load(&report->word[WORD_EINTRS]));			\
	EXPECT_EQ(0, load(&report->word[WORD_MIDDLE_EVENTS]));		\
	EXPECT_EQ(0, load(&report->failures))				\
	{								\
		TH_LOG("%s", report->failure);				\
	}								\
} while (0)

/* Has the last thread of a process make a call: what it returned. */
static inline long have_called(int process, const struct fullfork_args *args,
			       pid_t source)
{
	struct command *c = &shared->command;
	int task = first_task(process + 1) - 1;

	c->args = *args;
	c->source = source;
	c->process = process;
	c->ret = -ETIME;
	c->replica_ret = -ETIME;
	c->replica_returns = 0;
	c->question = load(&report->word[WORD_QUESTION]) + 1;
	if (!tasks_answer(SIDE_ORIGINAL, task, 1))
		return -ETIME;
	return c->ret;
}

static inline long have_copied(int process, __u64 flags)
{
	struct fullfork_args args;

	init_args(&args, -1, flags);
	ask_for_map(&args, MAP_ENTRIES);
	return have_called(process, &args, 0);
}

#endif /* _FULLFORK_ANSWERS_H */
