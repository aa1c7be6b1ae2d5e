// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork selftests: a tree is copied at one instant
 *
 * Players in several processes pass a token in a circle.  Each counts its
 * turns in private memory, before it passes on.  As only one has the token,
 * all counts of one instant follow from their sum.  A player that is copied
 * late has turns that followed from turns which the others, copied early, have
 * not had yet.
 *
 * The replicas are left stopped: they would take part in the original's game.
 */

#include "fullfork_manager.h"

#define PROCESSES 4
#define PLAYERS 8

/* A turn is written to one page after the other: they are of one instant too. */
#define PAGES 128

/* Words of the report */
enum {
	WORD_TURN,			/* of PLAYERS players */
	WORD_CALL = PLAYERS,
};

struct page {
	__u64 count;
	char rest[4096 - sizeof(__u64)];
};

/* In private memory, of which a process uses that of its own players. */
static struct page (*player_pages)[PAGES];
static struct page seen[PLAYERS][PAGES];

static int players;
static int pipes[PLAYERS][2];

struct game {
	int players;
	void (*wait_turn)(int player);
	void (*pass_on)(int player);
};

static const struct game *game;

static void sleep_for_turn(int player)
{
	__u32 *word = &report->word[WORD_TURN + player];

	while (!load(word))
		futex_wait(word, 0, 0, -1);
	store(word, 0);
}

static void wake_next(int player)
{
	set_word(&report->word[WORD_TURN + (player + 1) % players], 1);
}

static void spin_for_turn(int player)
{
	__u32 *word = &report->word[WORD_TURN + player];

	while (!load(word))
		;
	store(word, 0);
}

static void let_next_go(int player)
{
	store(&report->word[WORD_TURN + (player + 1) % players], 1);
}

static void read_turn(int player)
{
	char c;

	side_assert_eq(1, read(pipes[player][0], &c, 1));
}

static void write_turn(int player)
{
	side_assert_eq(1, write(pipes[(player + 1) % players][1], "", 1));
}

static const struct game with_futexes = {
	PLAYERS, sleep_for_turn, wake_next
};

static const struct game with_pipes = {
	PLAYERS, read_turn, write_turn
};

/* Two, so that each can have a CPU of its own. */
static const struct game by_spinning = {
	2, spin_for_turn, let_next_go
};

static void *play(void *arg)
{
	int player = (long)arg;
	__u64 turn;

	add(&report->recorded, 1);
	for (turn = 1;; turn++) {
		game->wait_turn(player);
		__atomic_store_n(&player_pages[player][turn % PAGES].count,
				 turn, __ATOMIC_SEQ_CST);
		game->pass_on(player);
	}
	return NULL;
}

/* The root's, where it is the root that copies. */
static void *call_when_told(void *arg)
{
	__u32 *word = &report->word[WORD_CALL];

	for (;;) {
		await_word(word, 1);
		shared->command.ret = sys_clone3(&shared->command.args,
						 sizeof(struct fullfork_args));
		set_word(word, 2);
		await_word(word, 0);
	}
	return NULL;
}

/* Neighbours in the circle are in different processes. */
static int process_of(int player)
{
	return player % PROCESSES;
}

static __noreturn void run_player_process(int number)
{
	static const int parents[PROCESSES] = { -1, 0, 0, 2 };
	pthread_t thread;
	long i;

	original_pid = sys_getpid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	report->slot[number].pid = sys_getpid();
	for (i = number + 1; i < PROCESSES; i++) {
		pid_t pid = parents[i] == number ? fork() : 1;

		side_assert(pid >= 0);
		if (!pid)
			run_player_process(i);
	}
	for (i = 0; i < players; i++)
		if (process_of(i) == number)
			side_assert_eq(0, pthread_create(&thread, NULL, play,
							 (void *)i));
	if (!number)
		side_assert_eq(0, pthread_create(&thread, NULL, call_when_told,
						 NULL));
	for (;;)
		pause();
}

FIXTURE(game)
{
	pid_t root;
	int pidfd;
};

FIXTURE_VARIANT(game)
{
	const struct game *game;
	bool by_root;
};

FIXTURE_VARIANT_ADD(game, with_futexes) {
	.game = &with_futexes,
};

FIXTURE_VARIANT_ADD(game, with_pipes) {
	.game = &with_pipes,
};

FIXTURE_VARIANT_ADD(game, by_spinning) {
	.game = &by_spinning,
};

FIXTURE_VARIANT_ADD(game, with_futexes_by_the_root) {
	.game = &with_futexes,
	.by_root = true,
};

FIXTURE_VARIANT_ADD(game, by_spinning_by_the_root) {
	.game = &by_spinning,
	.by_root = true,
};

FIXTURE_SETUP(game)
{
	int i;

	setup_manager(_metadata);
	game = variant->game;
	players = game->players;
	player_pages = mmap(NULL, players * sizeof(*player_pages),
			    PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, player_pages);
	for (i = 0; i < players; i++)
		ASSERT_EQ(0, pipe(pipes[i]));
	self->root = fork();
	ASSERT_LE(0, self->root);
	if (!self->root)
		run_player_process(0);
	keep(self->root);
	self->pidfd = sys_pidfd_open(self->root);
	ASSERT_LE(0, self->pidfd);
	ASSERT_TRUE(wait_recorded(players));
	/* The token goes to the first. */
	game->pass_on(players - 1);
}

FIXTURE_TEARDOWN(game)
{
	teardown_manager(_metadata);
}

static bool read_players(bool replicas)
{
	int i;

	for (i = 0; i < players; i++) {
		pid_t pid = report->slot[process_of(i)].pid;

		if (replicas)
			pid = replica_of(pid);
		if (pid <= 0 || !peek(pid, player_pages[i], seen[i],
				      sizeof(seen[i])))
			return false;
	}
	return true;
}

/* The last turn in a player's pages, of which none may be behind. */
static long turns_of(int player)
{
	__u64 turns = 0, expected;
	int i;

	for (i = 0; i < PAGES; i++)
		if (seen[player][i].count > turns)
			turns = seen[player][i].count;
	for (i = 0; i < PAGES; i++) {
		expected = turns < i ? 0 : turns - (turns - i) % PAGES;
		if (seen[player][i].count != expected)
			return -1;
	}
	return turns;
}

static void dump_turns(void)
{
	int i;

	for (i = 0; i < players; i++)
		fprintf(stderr, "# player %d: %ld turns\n", i, turns_of(i));
}

static bool is_one_instant(void)
{
	long sum = 0;
	int i;

	for (i = 0; i < players; i++) {
		if (turns_of(i) < 0)
			return false;
		sum += turns_of(i);
	}
	for (i = 0; i < players; i++)
		if (turns_of(i) != (sum + players - 1 - i) / players)
			return false;
	return true;
}

static __u64 sum_of_originals(void)
{
	__u64 sum = 0;
	int i;

	if (!read_players(false))
		return 0;
	for (i = 0; i < players; i++)
		sum += seen[i][0].count + seen[i][PAGES / 2].count;
	return sum;
}

static long copy_game(int pidfd)
{
	struct fullfork_args *args = &shared->command.args;
	__u32 *word = &report->word[WORD_CALL];

	init_args(args, pidfd, WHOLE_TREE | CLONE_STOPPED |
		  (pidfd < 0 ? 0 : CLONE_FROM_PIDFD));
	ask_for_map(args, MAP_ENTRIES);
	if (pidfd >= 0)
		return call_as_manager(args);
	set_word(word, 1);
	if (!wait_until(load(word) == 2, DEADLINE))
		return -ETIME;
	set_word(word, 0);
	return shared->command.ret;
}

static void end_copy(struct __test_metadata *_metadata, bool by_root)
{
	int i;

	for (i = 0; i < PROCESSES; i++) {
		pid_t pid = replica_of(report->slot[i].pid);

		ASSERT_LT(0, pid);
		EXPECT_TRUE(wait_until(all_threads_in(pid, 'T'), DEADLINE));
	}
	for (i = 0; i < PROCESSES; i++)
		kill(replica_of(report->slot[i].pid), SIGKILL);
	/* Those that the root made are below what is kept. */
	if (!by_root)
		EXPECT_TRUE(end_others());
}

TEST_F_GUARDED(game, is_copied_at_one_instant)
{
	int rounds = 0, min_rounds = 3, max_rounds = 60, tries = 0;
	long long end = now_ms() + 4000;
	__u64 before;
	long pid;

	ASSERT_TRUE(wait_until(sum_of_originals() > 4 * PAGES * players,
			       DEADLINE));
	while (rounds < min_rounds || (rounds < max_rounds && now_ms() < end)) {
		pid = copy_game(variant->by_root ? -1 : self->pidfd);
		ASSERT_LT(0, pid)
		{
			TH_LOG("%s", strerror(-pid));
		}
		ASSERT_TRUE(read_players(true));
		EXPECT_TRUE(is_one_instant())
		{
			dump_turns();
		}
		end_copy(_metadata, variant->by_root);
		before = sum_of_originals();
		ASSERT_TRUE(wait_until(sum_of_originals() > before, DEADLINE));
		rounds++;
		if (_metadata->exit_code)
			break;
	}

	/* The control: those that run on are not found at one instant. */
	do {
		ASSERT_TRUE(read_players(false));
	} while (is_one_instant() && ++tries < 100000);
	EXPECT_GT(100000, tries);
	EXPECT_EQ(0, load(&report->failures));
}

TEST_HARNESS_MAIN
