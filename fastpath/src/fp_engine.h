/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of an engine, for tests that stand in for the kernel. The public part is in fastpath.h. */
#ifndef FP_ENGINE_H
#define FP_ENGINE_H

#include "fp_worker.h"

struct fp_engine {
	struct fp_shared shared;
	uint64_t sequence;            /* of the newest snapshot */
	struct fp_snapshot *retired;  /* replaced, perhaps in use */
	uint32_t n_workers;
	struct fp_worker *workers;
	int32_t *cpus;
};

/* As fp_engine_open(), with sockets in place of the queues: one each worker, the look-only one last. They are the
 * engine's from here on, also on failure, and count as taken over if the configuration has last_ids. fds NULL: open
 * the queues, or take them over as the configuration says. */
int fp_engine_open_sockets(const struct fp_engine_config *config, const struct fp_snapshot_refs *first, const int *fds,
			   struct fp_engine **out, uint16_t *bad_queue);

#endif
