// SPDX-License-Identifier: GPL-2.0
/*
 * Run by musl_test: a program of another C library, musl, which copies
 * itself and goes on with its threads, mutexes and condition variables.
 *
 *	musl_worker plain	CLONE_ALL_THREADS
 *	musl_worker keep_tids	CLONE_KEEP_TIDS and CLONE_NEWPID beside it
 *	musl_worker tree	CLONE_SUBTREE too, with a child that has threads
 *
 * It exits with PASS, or says what went wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ALL_THREADS	(1ULL << 62)
#define SUBTREE		(1ULL << 61)
#define KEEP_TIDS	(1ULL << 58)
#define NEWPID		0x20000000ULL

#ifndef SYS_clone3
#define SYS_clone3	435
#endif

#define PASS		42
#define THREADS		4
#define TIME_LIMIT	110	/* musl_test waits for 120 seconds */

/* A slow machine makes fewer forks, as in next_round() of the other tests. */
#define FORKS		20
#define LEAST_FORKS	5
#define FORK_SECONDS	8

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t recursive;
static int waiting;
static int may_go_on;
static int sum;
static int handled_by;

#define check(cond)							\
do {									\
	if (!(cond)) {							\
		fprintf(stderr, "# musl_worker:%d: %s (errno %d)\n",	\
			__LINE__, #cond, errno);			\
		_exit(1);						\
	}								\
} while (0)

static int load(int *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static long full_fork(uint64_t flags)
{
	/* struct clone_args: flags, then exit_signal as the fifth field. */
	uint64_t args[11] = { [0] = ALL_THREADS | flags, [4] = SIGCHLD };

	return syscall(SYS_clone3, args, sizeof(args));
}

static void handle(int unused)
{
	__atomic_store_n(&handled_by, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
}

static void *wait_for_go(void *arg)
{
	check(!pthread_mutex_lock(&mutex));
	waiting++;
	pthread_cond_broadcast(&cond);
	while (!may_go_on)
		check(!pthread_cond_wait(&cond, &mutex));
	sum += (intptr_t)arg;
	check(!pthread_mutex_unlock(&mutex));
	return arg;
}

static void *return_arg(void *arg)
{
	return arg;
}

static int churn_ends;

static void *churn(void *unused)
{
	pthread_t thread;

	while (!load(&churn_ends))
		if (!pthread_create(&thread, NULL, return_arg, NULL))
			pthread_join(thread, NULL);
	return unused;
}

static void start(pthread_t *thread)
{
	intptr_t i;

	waiting = 0;
	may_go_on = 0;
	sum = 0;
	for (i = 0; i < THREADS; i++)
		check(!pthread_create(&thread[i], NULL, wait_for_go,
				      (void *)(i + 1)));
	check(!pthread_mutex_lock(&mutex));
	while (waiting < THREADS)
		check(!pthread_cond_wait(&cond, &mutex));
	check(!pthread_mutex_unlock(&mutex));
}

/* In either process: the threads go on, and are joined. */
static void finish(pthread_t *thread)
{
	void *result;
	intptr_t i;

	check(!pthread_mutex_lock(&mutex));
	may_go_on = 1;
	check(!pthread_cond_broadcast(&cond));
	check(!pthread_mutex_unlock(&mutex));
	for (i = 0; i < THREADS; i++) {
		check(!pthread_join(thread[i], &result));
		check(result == (void *)(i + 1));
	}
	check(sum == THREADS * (THREADS + 1) / 2);
}

static void create_and_join(void)
{
	pthread_t thread;
	void *result;

	check(!pthread_create(&thread, NULL, return_arg, &sum));
	check(!pthread_join(thread, &result));
	check(result == &sum);
}

/* What depends on the TIDs that musl remembers. */
static void use_tids(pthread_t thread)
{
	int tid = syscall(SYS_gettid);

	check(!pthread_mutex_lock(&recursive));
	check(!pthread_mutex_unlock(&recursive));
	check(!pthread_mutex_unlock(&recursive));

	check(!raise(SIGUSR1));
	check(load(&handled_by) == tid);
	check(!pthread_kill(thread, SIGUSR1));
	while (load(&handled_by) == tid)
		sched_yield();
}

static void expect_pass(long pid)
{
	int status;

	check(pid > 0);
	check(waitpid(pid, &status, 0) == pid);
	check(WIFEXITED(status) && WEXITSTATUS(status) == PASS);
}

static void copy_once(uint64_t flags)
{
	pthread_t thread[THREADS];
	long pid;

	start(thread);
	if (flags)
		check(!pthread_mutex_lock(&recursive));
	pid = full_fork(flags);
	if (!pid) {
		/* The time limit is not copied. */
		alarm(TIME_LIMIT);
		if (flags)
			use_tids(thread[0]);
		finish(thread);
		create_and_join();
		_exit(PASS);
	}
	if (flags)
		check(!pthread_mutex_unlock(&recursive));
	expect_pass(pid);
	finish(thread);
}

static bool is_over(const struct timespec *start, int seconds)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - start->tv_sec > seconds;
}

/* Threads come and go meanwhile; the replica makes one of its own. */
static void copy_often(uint64_t flags)
{
	struct timespec start;
	pthread_t churner;
	long pid;
	int i;

	check(!pthread_create(&churner, NULL, churn, NULL));
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < FORKS; i++) {
		if (i >= LEAST_FORKS && is_over(&start, FORK_SECONDS))
			break;
		pid = full_fork(flags);
		if (!pid) {
			alarm(TIME_LIMIT);
			create_and_join();
			_exit(PASS);
		}
		expect_pass(pid);
	}
	__atomic_store_n(&churn_ends, 1, __ATOMIC_SEQ_CST);
	check(!pthread_join(churner, NULL));
}

/* It waits for a signal, which is sent by PID, and uses TIDs then. */
static void be_child(int ready)
{
	pthread_t thread[THREADS];

	/* Nobody else would end it, nor its replica, which keeps this. */
	check(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	start(thread);
	check(!pthread_mutex_lock(&recursive));
	check(write(ready, "", 1) == 1);
	while (!load(&handled_by))
		usleep(1000);
	use_tids(thread[0]);
	finish(thread);
	create_and_join();
	_exit(PASS);
}

/* Original and replica each signal, and wait for, the child whose PID they know. */
static void copy_tree(void)
{
	int fds[2];
	char byte;
	long pid;
	pid_t child;

	check(!pipe(fds));
	child = fork();
	check(child >= 0);
	if (!child)
		be_child(fds[1]);
	check(read(fds[0], &byte, 1) == 1);
	pid = full_fork(SUBTREE | KEEP_TIDS | NEWPID);
	check(pid >= 0);
	alarm(TIME_LIMIT);
	check(!kill(child, SIGUSR1));
	expect_pass(child);
	create_and_join();
	if (!pid)
		_exit(PASS);
	expect_pass(pid);
}

int main(int argc, char **argv)
{
	pthread_mutexattr_t attr;
	uint64_t flags = 0;
	bool tree;

	check(argc == 2);
	tree = !strcmp(argv[1], "tree");
	if (!strcmp(argv[1], "keep_tids"))
		flags = KEEP_TIDS | NEWPID;
	else
		check(tree || !strcmp(argv[1], "plain"));

	check(signal(SIGUSR1, handle) != SIG_ERR);
	check(!pthread_mutexattr_init(&attr));
	check(!pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE));
	check(!pthread_mutex_init(&recursive, &attr));
	alarm(TIME_LIMIT);
	if (tree)
		copy_tree();
	else
		copy_once(flags);
	if (flags)
		copy_often(flags);
	return PASS;
}
