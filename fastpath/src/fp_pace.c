/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "fp_pace.h"

#define NANOSECONDS 1000000000u
#define PAUSE_MAX 10000000u /* ns */

/* Of this thread's work: what others take from it is no reason to rest. */
static uint64_t worked(void)
{
	struct timespec at;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
	return (uint64_t)at.tv_sec * NANOSECONDS + (uint64_t)at.tv_nsec;
}

void fp_pace_begin(struct fp_pace *pace)
{
	pace->done = 0;
	if (pace->idle)
		pace->begun = worked();
}

void fp_pace_rest(struct fp_pace *pace)
{
	if (pace->idle) {
		uint64_t pause = (worked() - pace->begun) * pace->idle;

		if (pause > PAUSE_MAX)
			pause = PAUSE_MAX;
		nanosleep(&(struct timespec){ .tv_nsec = (long)pause }, NULL);
	}
	fp_pace_begin(pace);
}
