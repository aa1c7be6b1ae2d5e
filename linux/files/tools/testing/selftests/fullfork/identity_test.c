// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: what a thread is
 *
 * Each of several threads gives itself an attribute that differs from that of
 * the others, and finds it in the original and in the replica afterwards.
 */

#include "fullfork_sync.h"
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/wait.h>

struct attribute {
	/* Both run in the thread that has @index. */
	void (*set)(long index);
	void (*check)(long index);
	bool needs_root;
};

static const struct attribute *attribute;
static int cpus;
static __u32 passed_check;

static void set_name(long index)
{
	char name[16];

	snprintf(name, sizeof(name), "thread <%ld>", index);
	thread_check(!prctl(PR_SET_NAME, name));
}

static void check_name(long index)
{
	char name[16] = "", wanted[16];

	snprintf(wanted, sizeof(wanted), "thread <%ld>", index);
	thread_check(!prctl(PR_GET_NAME, name));
	thread_check(!strcmp(name, wanted));
}

static void set_nice(long index)
{
	thread_check(!setpriority(PRIO_PROCESS, 0, index + 1));
}

static void check_nice(long index)
{
	thread_check(getpriority(PRIO_PROCESS, 0) == index + 1);
}

static void set_policy(long index)
{
	static const int policies[] = { SCHED_OTHER, SCHED_BATCH, SCHED_IDLE };
	struct sched_param param = {};

	thread_check(!sched_setscheduler(0, policies[index % 3], &param));
}

static void check_policy(long index)
{
	static const int policies[] = { SCHED_OTHER, SCHED_BATCH, SCHED_IDLE };

	thread_check(sched_getscheduler(0) == policies[index % 3]);
}

static void set_realtime(long index)
{
	struct sched_param param = { .sched_priority = index + 1 };

	thread_check(!sched_setscheduler(0, index & 1 ? SCHED_FIFO : SCHED_RR,
					 &param));
}

static void check_realtime(long index)
{
	struct sched_param param = {};

	thread_check(sched_getscheduler(0) == (index & 1 ? SCHED_FIFO :
					       SCHED_RR));
	thread_check(!sched_getparam(0, &param));
	thread_check(param.sched_priority == index + 1);
}

/* The flag is about children; a replica is the thread itself once more. */
static void set_reset_on_fork(long index)
{
	struct sched_param param = { .sched_priority = index + 1 };

	thread_check(!sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK,
					 &param));
}

static void check_reset_on_fork(long index)
{
	struct sched_param param = {};

	thread_check(sched_getscheduler(0) ==
		     (SCHED_FIFO | SCHED_RESET_ON_FORK));
	thread_check(!sched_getparam(0, &param));
	thread_check(param.sched_priority == index + 1);
}

static void set_affinity(long index)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(index % cpus, &set);
	thread_check(!sched_setaffinity(0, sizeof(set), &set));
}

static void check_affinity(long index)
{
	unsigned int cpu = -1;
	cpu_set_t set;

	thread_check(!sched_getaffinity(0, sizeof(set), &set));
	thread_check(CPU_COUNT(&set) == 1 && CPU_ISSET(index % cpus, &set));
	thread_check(!syscall(__NR_getcpu, &cpu, NULL, NULL));
	thread_check(cpu == index % cpus);
}

static void set_timer_slack(long index)
{
	thread_check(!prctl(PR_SET_TIMERSLACK, 100000 + index));
}

static void check_timer_slack(long index)
{
	thread_check(prctl(PR_GET_TIMERSLACK) == 100000 + index);
	/* The default is that of the original, not what it had set. */
	thread_check(!prctl(PR_SET_TIMERSLACK, 0));
	thread_check(prctl(PR_GET_TIMERSLACK) < 100000);
}

static void set_ioprio(long index)
{
	thread_check(!syscall(__NR_ioprio_set, IOPRIO_WHO_PROCESS, 0,
			      IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, index)));
}

static void check_ioprio(long index)
{
	thread_check(syscall(__NR_ioprio_get, IOPRIO_WHO_PROCESS, 0) ==
		     IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, index));
}

/* The system calls themselves: the library's functions set all threads. */
static void set_ids(long index)
{
	long id = 1000 + index;

	thread_check(!syscall(__NR_setresgid, id, id + 100, id + 200));
	thread_check(!syscall(__NR_setresuid, id, id + 100, id + 200));
}

static void check_ids(long index)
{
	unsigned int r = 0, e = 0, s = 0, id = 1000 + index;

	thread_check(!syscall(__NR_getresuid, &r, &e, &s));
	thread_check(r == id && e == id + 100 && s == id + 200);
	thread_check(!syscall(__NR_getresgid, &r, &e, &s));
	thread_check(r == id && e == id + 100 && s == id + 200);
}

static bool get_caps(struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};

	return !syscall(__NR_capget, &header, data);
}

/* Thread n has all capabilities but the one that has number n. */
static void set_caps(long index)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	thread_check(get_caps(data));
	data[0].effective &= ~(1U << index);
	thread_check(!syscall(__NR_capset, &header, data));
}

static void check_caps(long index)
{
	struct __user_cap_data_struct data[2] = {};

	thread_check(get_caps(data));
	thread_check((data[0].effective & 0xff) == (0xff & ~(1U << index)));
	thread_check((data[0].permitted & 0xff) == 0xff);
}

static void set_securebits(long index)
{
	if (index & 1)
		thread_check(!prctl(PR_SET_SECUREBITS, SECBIT_NOROOT));
}

static void check_securebits(long index)
{
	thread_check(prctl(PR_GET_SECUREBITS) ==
		     (index & 1 ? SECBIT_NOROOT : 0));
}

static void set_no_new_privs(long index)
{
	if (index & 1)
		thread_check(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void check_no_new_privs(long index)
{
	thread_check(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == (index & 1));
}

/* Thread n but for the first has a filter that makes getppid() fail. */
static void set_filter(long index)
{
	struct sock_filter insns[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (100 + index)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(insns), insns };

	if (!index)
		return;
	thread_check(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	thread_check(!syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog));
}

static void check_filter(long index)
{
	char mode[16] = "";
	long ret;

	errno = 0;
	ret = syscall(__NR_getppid);
	if (index)
		thread_check(ret == -1 && errno == 100 + index);
	else
		thread_check(ret > 0);
	thread_check(read_status_field(getpid(), sys_gettid(), "Seccomp", mode,
				       sizeof(mode)));
	thread_check(!strcmp(mode, index ? "2" : "0"));
}

static struct rseq *own_rseq(void)
{
	return (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void set_rseq(long index)
{
	thread_check(__rseq_size);
	thread_check(own_rseq()->cpu_id < CPU_SETSIZE);
}

/* The kernel writes the CPU there as long as the area is registered. */
static void check_rseq(long index)
{
	cpu_set_t set;
	int cpu;

	for (cpu = 0; cpu < cpus; cpu++) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		thread_check(!sched_setaffinity(0, sizeof(set), &set));
		thread_check(__atomic_load_n(&own_rseq()->cpu_id,
					     __ATOMIC_SEQ_CST) == cpu);
	}
	/* A second registration of the same area is refused as such. */
	thread_check(syscall(__NR_rseq, own_rseq(), __rseq_size < 32 ? 32 :
			     __rseq_size, 0, RSEQ_SIG) == -1);
	thread_check(errno == EBUSY || errno == EINVAL);
}

FIXTURE(thread)
{
};

FIXTURE_VARIANT(thread)
{
	struct attribute attribute;
};

FIXTURE_VARIANT_ADD(thread, with_name) {
	.attribute = { .set = set_name, .check = check_name },
};
FIXTURE_VARIANT_ADD(thread, with_nice_value) {
	.attribute = { .set = set_nice, .check = check_nice },
};
FIXTURE_VARIANT_ADD(thread, with_policy) {
	.attribute = { .set = set_policy, .check = check_policy },
};
FIXTURE_VARIANT_ADD(thread, with_realtime_policy) {
	.attribute = { .set = set_realtime, .check = check_realtime, .needs_root = true },
};
FIXTURE_VARIANT_ADD(thread, with_reset_on_fork) {
	.attribute = { .set = set_reset_on_fork, .check = check_reset_on_fork, .needs_root = true },
};
FIXTURE_VARIANT_ADD(thread, with_affinity) {
	.attribute = { .set = set_affinity, .check = check_affinity },
};
FIXTURE_VARIANT_ADD(thread, with_timer_slack) {
	.attribute = { .set = set_timer_slack, .check = check_timer_slack },
};
FIXTURE_VARIANT_ADD(thread, with_io_priority) {
	.attribute = { .set = set_ioprio, .check = check_ioprio },
};
FIXTURE_VARIANT_ADD(thread, with_user_and_group_ids) {
	.attribute = { .set = set_ids, .check = check_ids, .needs_root = true },
};
FIXTURE_VARIANT_ADD(thread, with_capabilities) {
	.attribute = { .set = set_caps, .check = check_caps, .needs_root = true },
};
FIXTURE_VARIANT_ADD(thread, with_securebits) {
	.attribute = { .set = set_securebits, .check = check_securebits, .needs_root = true },
};
FIXTURE_VARIANT_ADD(thread, with_no_new_privs) {
	.attribute = { .set = set_no_new_privs, .check = check_no_new_privs },
};
FIXTURE_VARIANT_ADD(thread, with_seccomp_filter) {
	.attribute = { .set = set_filter, .check = check_filter },
};
FIXTURE_VARIANT_ADD(thread, with_rseq_registration) {
	.attribute = { .set = set_rseq, .check = check_rseq },
};

FIXTURE_SETUP(thread)
{
	cpu_set_t set;

	setup_threads(_metadata);
	attribute = &variant->attribute;
	if (attribute->needs_root)
		require_root(_metadata, "setting that");
	/* CPUs are taken to be numbered without gaps. */
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(set), &set));
	for (cpus = 1; CPU_ISSET(cpus, &set); cpus++)
		;
}

FIXTURE_TEARDOWN(thread)
{
}

static void *be_something(void *arg)
{
	attribute->set((long)arg);
	thread_check(!load(&failed_line));
	arrive((long)arg);
	pass_own_gate();
	attribute->check((long)arg);
	return arg + 100;
}

TEST_F_GUARDED(thread, is_the_same_in_the_replica)
{
	start_sleepers(_metadata, THREADS, be_something);
	run_in_both(_metadata, false, join_later);
}

static int check_leader(void *arg)
{
	open_own_gate();
	if (!wait_until(load(&passed_check), DEADLINE))
		return REPLICA_TIMEOUT;
	expect_no_thread_failed();
	return REPLICA_PASS;
}

/* The caller is another thread, and the leader itself has the attribute. */
TEST_F_GUARDED(thread, is_the_same_in_the_replica_of_the_leader)
{
	struct step step = { .fn = check_leader };
	pthread_t thread;

	attribute->set(1);
	ASSERT_EQ(0, load(&failed_line));
	start_thread(&thread, fork_in_thread, &step);
	/* Until the step is done in the original, or the gate in the replica. */
	wait_until(load(&gate) || __atomic_load_n(&step.pid, __ATOMIC_SEQ_CST),
		   DEADLINE);
	if (in_replica()) {
		attribute->check(1);
		store(&passed_check, 1);
		for (;;)
			poll_pause();
	}
	join_thread(thread);
	ASSERT_LT(0, step.pid);
	expect_pass(_metadata, step.pid);
	attribute->check(1);
	EXPECT_EQ(0, load(&failed_line));
}

TEST_HARNESS_MAIN
