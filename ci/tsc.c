// SPDX-License-Identifier: GPL-2.0
/*
 * Print the frequency of this machine's TSC in kHz, which is that of a guest
 * under TCG too.  The guest's own measurement is wrong by any factor where its
 * CPU is taken away in the middle of it; here only the narrowest of many
 * readings count.
 */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct reading {
	unsigned long long ticks;
	long long ns;
};

static struct reading read_both(void)
{
	unsigned long long before, after, width = -1ULL;
	struct reading best = { 0, 0 };
	struct timespec ts;

	for (int i = 0; i < 1000; i++) {
		before = __rdtsc();
		clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
		after = __rdtsc();
		if (after - before < width) {
			width = after - before;
			best.ticks = before + width / 2;
			best.ns = ts.tv_sec * 1000000000LL + ts.tv_nsec;
		}
	}
	return best;
}

int main(void)
{
	const struct timespec wait = { .tv_nsec = 50000000 };
	struct reading begin = read_both(), end;

	nanosleep(&wait, NULL);
	end = read_both();
	printf("%.0f\n", (end.ticks - begin.ticks) * 1e6 / (end.ns - begin.ns));
	return 0;
}
