/* SPDX-License-Identifier: Apache-2.0 */
/* Work that can wait, done in steps: after each the thread rests, so many times as long as the step took.
 *
 * A kernel that looks for who is next only when its timer ticks (4 ms) lets whoever works go on until then, however
 * little it asks for: one that others must not wait for has to stop by itself. */
#ifndef FP_PACE_H
#define FP_PACE_H

#include <stddef.h>
#include <stdint.h>

#define FP_PACE_STEP 4096u /* items */

struct fp_pace {
	uint64_t begun; /* ns of the thread's work, when the step began */
	size_t done;    /* items of the step */
	uint32_t idle;  /* 0: it never rests */
};

void fp_pace_begin(struct fp_pace *pace); /* a step begins here */
void fp_pace_rest(struct fp_pace *pace);  /* it ends, and after a rest the next one begins */

/* So many items were done, each of a few nanoseconds. */
static inline void fp_pace_take(struct fp_pace *pace, size_t items)
{
	pace->done += items;
	if (pace->idle && pace->done >= FP_PACE_STEP)
		fp_pace_rest(pace);
}

#endif
