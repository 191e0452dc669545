/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fastpath.h"

#define SLICE_NS 100000u
#define RESET_ON_FORK 1u /* SCHED_FLAG_RESET_ON_FORK */

/* The first version of struct sched_attr (linux/sched/types.h, which does not go together with sched.h). */
struct scheduling {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period; /* ns */
};

_Static_assert(sizeof(struct scheduling) == 48, "SCHED_ATTR_SIZE_VER0");

int fp_short_slices(void)
{
	struct scheduling own = { .size = sizeof(own) };

	if (syscall(SYS_sched_getattr, 0, &own, sizeof(own), 0))
		return -errno;
	if (own.policy != SCHED_OTHER)
		return 0; /* somebody has chosen another policy for it */
	own.runtime = SLICE_NS;
	own.flags |= RESET_ON_FORK;
	return syscall(SYS_sched_setattr, 0, &own, 0) ? -errno : 0;
}
