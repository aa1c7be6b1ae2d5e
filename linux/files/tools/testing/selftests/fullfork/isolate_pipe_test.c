// SPDX-License-Identifier: GPL-2.0
/*
 * CLONE_ISOLATE: pipes and FIFOs that only members have are copied.
 */
#include "fullfork_isolate.h"

#define TEXT "what is in the pipe"
#define HARD_LIMIT "/proc/sys/fs/pipe-user-pages-hard"

FIXTURE(pipe)
{
	int ends[2];
	int fds[4];		/* as the tests need them */
	size_t size;
};

FIXTURE_SETUP(pipe)
{
	require_isolate(_metadata);
	ASSERT_EQ(0, pipe2(self->ends, O_NONBLOCK));
}

FIXTURE_TEARDOWN(pipe)
{
}

static void put(struct __test_metadata *_metadata, int fd, const char *text)
{
	ASSERT_EQ(strlen(text), write(fd, text, strlen(text)));
}

/* The next read() of @fd gives all of @text. */
static bool gives(int fd, const char *text)
{
	char buf[256];
	ssize_t len = read(fd, buf, sizeof(buf));

	return len == strlen(text) && !memcmp(buf, text, len);
}

static bool is_empty(int fd)
{
	char byte;

	return read(fd, &byte, 1) < 0 && errno == EAGAIN;
}

static int read_text(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	wait_turn();
	replica_assert(gives(self->ends[0], TEXT));
	replica_assert(is_empty(self->ends[0]));
	replica_assert_eq(4, write(self->ends[1], "mine", 4));
	replica_assert_fdinfo("copied", self->ends[0]);
	replica_assert_fdinfo("copied", self->ends[1]);
	return REPLICA_PASS;
}

TEST_F(pipe, gives_every_byte_on_both_sides)
{
	long pid;

	put(_metadata, self->ends[1], TEXT);
	pid = isolate(_metadata, 0, read_text, self);
	EXPECT_TRUE(gives(self->ends[0], TEXT));
	EXPECT_TRUE(is_empty(self->ends[0]));
	give_turn();
	expect_pass(_metadata, pid);
	/* Nor is there what the replica has written. */
	EXPECT_TRUE(is_empty(self->ends[0]));
	EXPECT_STREQ("", fdinfo_says("self", self->ends[0]));
}

static int see_old_text(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert_fdinfo("copied", self->ends[0]);
	replica_assert(gives(self->ends[0], TEXT));
	replica_assert(is_empty(self->ends[0]));
	return REPLICA_PASS;
}

/* What the original does until it goes on is not for the replica. */
TEST_F(pipe, is_copied_for_a_replica_that_is_stopped)
{
	long pid;

	put(_metadata, self->ends[1], TEXT);
	pid = isolate(_metadata, CLONE_STOPPED, see_old_text, self);
	ASSERT_TRUE(WIFSTOPPED(xwait(_metadata, pid, WUNTRACED, DEADLINE)));
	EXPECT_TRUE(gives(self->ends[0], TEXT));
	put(_metadata, self->ends[1], "something else");
	ASSERT_EQ(0, kill(pid, SIGCONT));
	expect_pass(_metadata, pid);
	EXPECT_TRUE(gives(self->ends[0], "something else"));
}

static int read_packets(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert(gives(self->fds[0], "one"));
	replica_assert(gives(self->fds[0], "two"));
	replica_assert_eq(O_DIRECT, fcntl(self->fds[1], F_GETFL) & O_DIRECT);
	return REPLICA_PASS;
}

TEST_F(pipe, keeps_packets_apart)
{
	ASSERT_EQ(0, pipe2(self->fds, O_DIRECT | O_NONBLOCK));
	put(_metadata, self->fds[1], "one");
	put(_metadata, self->fds[1], "two");
	isolate_and_pass(_metadata, 0, read_packets, self);
	EXPECT_TRUE(gives(self->fds[0], "one"));
	EXPECT_TRUE(gives(self->fds[0], "two"));
}

static int see_flags(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert_eq(self->size, fcntl(self->ends[1], F_GETPIPE_SZ));
	replica_assert_eq(O_NONBLOCK | O_RDONLY, fcntl(self->ends[0], F_GETFL));
	replica_assert_eq(O_WRONLY, fcntl(self->ends[1], F_GETFL));
	replica_assert_eq(FD_CLOEXEC, fcntl(self->ends[0], F_GETFD));
	replica_assert_eq(0, fcntl(self->ends[1], F_GETFD));
	return REPLICA_PASS;
}

TEST_F(pipe, keeps_size_and_flags)
{
	self->size = fcntl(self->ends[1], F_SETPIPE_SZ, 4 * getpagesize());
	ASSERT_EQ(4 * getpagesize(), self->size);
	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	ASSERT_EQ(0, fcntl(self->ends[0], F_SETFD, FD_CLOEXEC));
	put(_metadata, self->ends[1], TEXT);
	isolate_and_pass(_metadata, 0, see_flags, self);
}

static size_t fill(int fd)
{
	unsigned char byte;
	size_t n;

	for (n = 0; byte = pattern_at(n), write(fd, &byte, 1) == 1; n++)
		;
	return errno == EAGAIN ? n : 0;
}

/* All that is there, in odd pieces: false if it is not what fill() wrote. */
static bool drain(int fd, size_t size)
{
	unsigned char buf[777];
	size_t i, seen = 0;
	ssize_t len;

	while ((len = read(fd, buf, sizeof(buf))) > 0)
		for (i = 0; i < len; i++)
			if (buf[i] != pattern_at(seen++))
				return false;
	return seen == size;
}

static int drain_all(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert_eq(-1, write(self->ends[1], "x", 1));
	replica_assert_eq(EAGAIN, errno);
	replica_assert(drain(self->ends[0], self->size));
	replica_assert_eq(self->size, fill(self->ends[1]));
	return REPLICA_PASS;
}

TEST_F(pipe, is_full_if_it_was)
{
	self->size = fill(self->ends[1]);
	ASSERT_EQ(fcntl(self->ends[1], F_GETPIPE_SZ), self->size);
	isolate_and_pass(_metadata, 0, drain_all, self);
	/* The replica made no room here. */
	EXPECT_EQ(-1, write(self->ends[1], "x", 1));
	EXPECT_TRUE(drain(self->ends[0], self->size));
}

/* The page that has room yet must not be one page for both. */
static int append(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert_eq(7, write(self->ends[1], "replica", 7));
	wait_turn();
	replica_assert(gives(self->ends[0], TEXT "replica"));
	return REPLICA_PASS;
}

TEST_F(pipe, takes_what_is_appended_on_one_side_only)
{
	long pid;

	put(_metadata, self->ends[1], TEXT);
	pid = isolate(_metadata, 0, append, self);
	put(_metadata, self->ends[1], "original");
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(gives(self->ends[0], TEXT "original"));
}

static int see_end(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert(gives(self->ends[0], TEXT));
	replica_assert(gives(self->ends[0], ""));
	return REPLICA_PASS;
}

TEST_F(pipe, ends_when_the_writer_has_closed_it)
{
	put(_metadata, self->ends[1], TEXT);
	ASSERT_EQ(0, close(self->ends[1]));
	isolate_and_pass(_metadata, 0, see_end, self);
	EXPECT_TRUE(gives(self->ends[0], TEXT));
	EXPECT_TRUE(gives(self->ends[0], ""));
}

static int see_broken_pipe(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert_eq(0, close(self->ends[0]));
	replica_assert_eq(-1, write(self->ends[1], "x", 1));
	replica_assert_eq(EPIPE, errno);
	return REPLICA_PASS;
}

TEST_F(pipe, breaks_on_one_side_only)
{
	signal(SIGPIPE, SIG_IGN);
	isolate_and_pass(_metadata, 0, see_broken_pipe, self);
	put(_metadata, self->ends[1], TEXT);
	EXPECT_TRUE(gives(self->ends[0], TEXT));
}

static int see_duplicates(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert(is_same_file(self->ends[0], self->fds[0]));
	replica_assert(is_same_file(self->ends[1], self->fds[1]));
	replica_assert(!is_same_file(self->ends[0], self->ends[1]));
	replica_assert_eq(0, fcntl(self->fds[0], F_SETFL, 0));
	replica_assert_eq(0, fcntl(self->ends[0], F_GETFL) & O_NONBLOCK);
	return REPLICA_PASS;
}

TEST_F(pipe, keeps_duplicates_of_descriptors)
{
	self->fds[0] = dup(self->ends[0]);
	self->fds[1] = fcntl(self->ends[1], F_DUPFD, 200);
	ASSERT_LE(0, self->fds[0]);
	ASSERT_EQ(200, self->fds[1]);
	isolate_and_pass(_metadata, 0, see_duplicates, self);
	/* The status flags are those of one description, and not of this one. */
	EXPECT_EQ(O_NONBLOCK, fcntl(self->ends[0], F_GETFL) & O_NONBLOCK);
}

static int take_text(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert(gives(self->ends[0], TEXT));
	replica_assert_fdinfo("shared", self->ends[0]);
	replica_assert_fdinfo("shared", self->ends[1]);
	return REPLICA_PASS;
}

TEST_F(pipe, is_shared_if_somebody_else_has_an_end)
{
	pid_t outsider = start_outsider(_metadata, self->ends[1]);

	put(_metadata, self->ends[1], TEXT);
	isolate_and_pass(_metadata, 0, take_text, self);
	EXPECT_TRUE(is_empty(self->ends[0]));
	end_outsider(_metadata, outsider);
}

/* An end that was opened by a name in /proc is another description of it. */
TEST_F(pipe, is_shared_if_somebody_else_has_opened_it)
{
	char path[64];
	pid_t outsider;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->ends[1]);
	fd = open(path, O_WRONLY);
	ASSERT_LE(0, fd);
	outsider = start_outsider(_metadata, fd);
	ASSERT_EQ(0, close(fd));
	put(_metadata, self->ends[1], TEXT);
	isolate_and_pass(_metadata, 0, take_text, self);
	EXPECT_TRUE(is_empty(self->ends[0]));
	end_outsider(_metadata, outsider);
}

static int see_opened_again(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert(!is_same_file(self->fds[0], self->ends[0]));
	replica_assert(gives(self->fds[0], TEXT));
	replica_assert(is_empty(self->ends[0]));
	replica_assert_fdinfo("copied", self->fds[0]);
	return REPLICA_PASS;
}

TEST_F(pipe, is_copied_with_all_that_opened_it)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->ends[0]);
	self->fds[0] = open(path, O_RDONLY | O_NONBLOCK);
	ASSERT_LE(0, self->fds[0]);
	put(_metadata, self->ends[1], TEXT);
	isolate_and_pass(_metadata, 0, see_opened_again, self);
	EXPECT_TRUE(gives(self->ends[0], TEXT));
}

static void make_fifo(struct __test_metadata *_metadata, FIXTURE_DATA(pipe) *self,
		      bool with_name)
{
	char path[] = "/tmp/fullfork-XXXXXX", name[64];

	ASSERT_NE(NULL, mkdtemp(path));
	snprintf(name, sizeof(name), "%s/fifo", path);
	ASSERT_EQ(0, mkfifo(name, 0600));
	self->ends[0] = open(name, O_RDONLY | O_NONBLOCK);
	ASSERT_LE(0, self->ends[0]);
	self->ends[1] = open(name, O_WRONLY | O_NONBLOCK);
	ASSERT_LE(0, self->ends[1]);
	if (!with_name) {
		ASSERT_EQ(0, unlink(name));
		ASSERT_EQ(0, rmdir(path));
	}
	put(_metadata, self->ends[1], TEXT);
}

TEST_F(pipe, may_be_a_fifo_without_a_name)
{
	long pid;

	make_fifo(_metadata, self, false);
	pid = isolate(_metadata, 0, read_text, self);
	EXPECT_TRUE(gives(self->ends[0], TEXT));
	give_turn();
	expect_pass(_metadata, pid);
}

static int take_from_fifo(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert(gives(self->ends[0], TEXT));
	replica_assert_fdinfo("shared", self->ends[0]);
	return REPLICA_PASS;
}

TEST_F(pipe, is_shared_if_it_is_a_fifo_with_a_name)
{
	make_fifo(_metadata, self, true);
	isolate_and_pass(_metadata, 0, take_from_fifo, self);
	EXPECT_TRUE(is_empty(self->ends[0]));
}

/* One copy for all: what one replica writes, the other reads. */
static int talk_to_child(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert_eq(7, write(self->ends[1], "replica", 7));
	replica_assert(wait_until(load(&report->word[WORD_FREE]) >= 1, DEADLINE));
	return REPLICA_PASS;
}

static void read_as_child(FIXTURE_DATA(pipe) *self)
{
	char buf[64] = "";

	/* Blocks, in the original and in its replica. */
	if (read(self->ends[0], buf, sizeof(buf)) == 7 && !strcmp(buf, "replica"))
		add(&report->word[WORD_FREE], 1);
	if (!strcmp(buf, "original"))
		add(&report->word[WORD_FREE + 1], 1);
	_exit(0);
}

TEST_F(pipe, is_one_copy_for_all_replicas)
{
	long pid;
	pid_t child;

	ASSERT_EQ(0, fcntl(self->ends[0], F_SETFL, 0));
	child = fork();
	ASSERT_LE(0, child);
	if (!child)
		read_as_child(self);
	ASSERT_TRUE(wait_until(is_blocked(child, child, __NR_read), DEADLINE));

	pid = isolate(_metadata, CLONE_SUBTREE, talk_to_child, self);
	expect_pass(_metadata, pid);
	EXPECT_EQ(1, report->word[WORD_FREE]);
	/* The original's child waits for its own bytes. */
	EXPECT_TRUE(wait_until(is_blocked(child, child, __NR_read), DEADLINE));
	put(_metadata, self->ends[1], "original");
	xwaitpid(_metadata, child, DEADLINE);
	EXPECT_EQ(1, report->word[WORD_FREE + 1]);
}

/* A child that is not copied is somebody else. */
TEST_F(pipe, is_shared_with_a_child_that_is_not_copied)
{
	pid_t child;

	ASSERT_EQ(0, fcntl(self->ends[0], F_SETFL, 0));
	child = fork();
	ASSERT_LE(0, child);
	if (!child)
		read_as_child(self);
	ASSERT_TRUE(wait_until(is_blocked(child, child, __NR_read), DEADLINE));
	isolate_and_pass(_metadata, 0, talk_to_child, self);
	xwaitpid(_metadata, child, DEADLINE);
	EXPECT_EQ(1, report->word[WORD_FREE]);
}

static void *read_in_thread(void *arg)
{
	int *ends = arg;
	char byte = 0;

	if (read(ends[0], &byte, 1) == 1)
		record(byte, 0);
	return NULL;
}

static bool is_blocked_in_read(pid_t pid, pid_t tid)
{
	return is_blocked(pid, tid, __NR_read);
}

/* The limits of a user: nothing is left of a copy that meets them half way. */
static int pass(void *unused)
{
	return REPLICA_PASS;
}

static void meet_limit(struct __test_metadata *_metadata, FIXTURE_DATA(pipe) *self)
{
	struct census before;
	char limit[32], old[32];
	int more[2];
	long ret;

	ASSERT_LT(0, read_file(HARD_LIMIT, old, sizeof(old)));
	ASSERT_EQ(0, setresuid(12345, 12345, 0));
	ASSERT_EQ(0, pipe2(self->fds, O_NONBLOCK));
	ASSERT_EQ(0, pipe2(more, O_NONBLOCK));
	put(_metadata, self->fds[1], TEXT);
	/* Room for one of two more pipes. */
	ASSERT_EQ(0, seteuid(0));
	snprintf(limit, sizeof(limit), "%d", 3 * 16);
	ASSERT_EQ(0, write_file(HARD_LIMIT, limit));
	ASSERT_EQ(0, seteuid(12345));

	before = take_census();
	ret = replica_main(full_fork(CLONE_ISOLATE), pass, NULL);
	EXPECT_EQ(-EAGAIN, ret);
	expect_census(before);
	EXPECT_STREQ("", fdinfo_says("self", self->fds[0]));

	ASSERT_EQ(0, seteuid(0));
	ASSERT_EQ(0, write_file(HARD_LIMIT, old));
	ASSERT_EQ(0, seteuid(12345));
	/* As often as one likes: nothing stays charged. */
	expect_pass(_metadata, isolate(_metadata, 0, pass, NULL));
	EXPECT_TRUE(gives(self->fds[0], TEXT));
}

TEST_F(pipe, is_charged_to_its_user)
{
	require_root(_metadata, "limits of another user");
	meet_limit(_metadata, self);
}

/* A thread that waits for a byte gets the one of its own side. */
TEST_F(pipe, is_read_by_a_thread_on_each_side)
{
	pthread_t thread;
	long pid;

	ASSERT_EQ(0, fcntl(self->ends[0], F_SETFL, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_in_thread, self->ends));
	ASSERT_TRUE(wait_until(count_tasks(getpid(), is_blocked_in_read) == 1, DEADLINE));
	pid = full_fork(CLONE_ISOLATE);
	if (!pid) {
		replica_assert_eq(1, write(self->ends[1], "\1", 1));
		replica_assert(wait_until(load(&report->slot[1].recorded), DEADLINE));
		replica_exit(REPLICA_PASS);
	}
	ASSERT_LT(0, pid);
	expect_pass(_metadata, pid);
	EXPECT_EQ(0, report->slot[2].recorded);
	put(_metadata, self->ends[1], "\2");
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(1, report->slot[1].recorded);
	EXPECT_EQ(1, report->slot[2].recorded);
}

/* A page that both have, and that is the last one of another pipe afterwards. */
static bool move_and_append(FIXTURE_DATA(pipe) *self, const char *text)
{
	return splice(self->ends[0], NULL, self->fds[1], NULL, strlen(TEXT), 0) ==
	       strlen(TEXT) && write(self->fds[1], text, strlen(text)) == strlen(text);
}

static int append_to_moved(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert(move_and_append(self, "replica"));
	store(&report->word[WORD_FREE], 1);
	wait_turn();
	replica_assert(gives(self->fds[0], TEXT "replica"));
	return REPLICA_PASS;
}

TEST_F(pipe, takes_what_is_appended_to_a_page_that_was_moved)
{
	size_t page = getpagesize();
	char *more = calloc(1, page);
	long pid;

	ASSERT_EQ(0, pipe2(self->fds, O_NONBLOCK));
	put(_metadata, self->ends[1], TEXT);
	ASSERT_EQ(page, write(self->ends[1], more, page));
	free(more);
	pid = isolate(_metadata, 0, append_to_moved, self);
	ASSERT_TRUE(wait_until(load(&report->word[WORD_FREE]), DEADLINE));
	EXPECT_TRUE(move_and_append(self, "original"));
	give_turn();
	expect_pass(_metadata, pid);
	EXPECT_TRUE(gives(self->fds[0], TEXT "original"));
}

/* Not to root, who has made it, and whom no limit stops. */
TEST_F(pipe, is_charged_to_who_has_it)
{
	char old[32];
	long ret;

	require_root(_metadata, "limits of another user");
	ASSERT_LT(0, read_file(HARD_LIMIT, old, sizeof(old)));
	ASSERT_EQ(0, write_file(HARD_LIMIT, "1"));
	ASSERT_EQ(0, setresuid(12345, 12345, 0));
	ret = replica_main(full_fork(CLONE_ISOLATE), pass, NULL);
	ASSERT_EQ(0, seteuid(0));
	ASSERT_EQ(0, write_file(HARD_LIMIT, old));
	EXPECT_EQ(-EAGAIN, ret);
}

static int read_lent(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	wait_turn();
	replica_assert_fdinfo("copied", self->ends[0]);
	replica_assert(gives(self->ends[0], "AAAA"));
	return REPLICA_PASS;
}

/* A page that is lent to the pipe may change: the copy has what was in it. */
static void lend_page(struct __test_metadata *_metadata, FIXTURE_DATA(pipe) *self, int pages)
{
	loff_t from = 0;
	long pid;

	self->fds[0] = memfd_create("lent", 0);
	ASSERT_LE(0, self->fds[0]);
	ASSERT_EQ(0, ftruncate(self->fds[0], pages * 4096));
	ASSERT_EQ(4, pwrite(self->fds[0], "AAAA", 4, 0));
	ASSERT_EQ(4, splice(self->fds[0], &from, self->ends[1], NULL, 4, 0));
	pid = isolate(_metadata, 0, read_lent, self);
	ASSERT_EQ(4, pwrite(self->fds[0], "BBBB", 4, 0));
	give_turn();
	expect_pass(_metadata, pid);
}

TEST_F(pipe, keeps_a_page_of_a_small_memfd)
{
	lend_page(_metadata, self, 1);
}

TEST_F(pipe, keeps_a_page_of_a_large_memfd)
{
	lend_page(_metadata, self, 40);
}

static int pass_copied(void *arg)
{
	FIXTURE_DATA(pipe) *self = arg;

	replica_assert_fdinfo("copied", self->ends[0]);
	replica_assert(!self->size || fcntl(self->ends[0], F_GETPIPE_SZ) == (int)self->size);
	return REPLICA_PASS;
}

TEST_F(pipe, is_said_to_be_shared_by_the_last_call_only)
{
	pid_t outsider = start_outsider(_metadata, self->ends[1]);

	put(_metadata, self->ends[1], TEXT);
	isolate_and_pass(_metadata, 0, take_text, self);
	EXPECT_STREQ("shared", fdinfo_says("self", self->ends[0]));
	end_outsider(_metadata, outsider);
	isolate_and_pass(_metadata, 0, pass_copied, self);
	EXPECT_STREQ("", fdinfo_says("self", self->ends[0]));
}

/* Root has given the user one that is larger than the user may make one. */
TEST_F(pipe, may_be_larger_than_allowed)
{
	require_root(_metadata, "F_SETPIPE_SZ over the limit");
	ASSERT_EQ(4 << 20, fcntl(self->ends[0], F_SETPIPE_SZ, 4 << 20));
	self->size = 4 << 20;
	ASSERT_EQ(0, setresuid(12345, 12345, 12345));
	isolate_and_pass(_metadata, 0, pass_copied, self);
}

TEST_HARNESS_MAIN
