/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_ring: events from one worker to one reader.
 *
 *      worker ─▶ [ . . E E E E . . ] ─▶ control process
 *                      ▲ tail  ▲ head
 *
 *  1. One thread pushes, one thread reads; neither ever waits for the other.
 *  2. A full ring loses the new event, and says so; what was written is never overwritten.
 *  3. Both indices only grow; entry i stands in slot i & mask.
 */
#ifndef FP_RING_H
#define FP_RING_H

#include <stdatomic.h>
#include <stdbool.h>

#include "fastpath.h"

struct fp_ring {
	/* the writer's line */
	_Alignas(64) _Atomic(uint64_t) head;
	uint64_t tail_seen; /* what the writer last knew of tail: spares it the reader's line */
	/* the reader's line */
	_Alignas(64) _Atomic(uint64_t) tail;
	/* read by both, written never */
	_Alignas(64) struct fp_event *events;
	uint64_t mask;
};

/* entries: rounded up to a power of two, 16 to 2^24. -ENOMEM, -EINVAL. */
int fp_ring_init(struct fp_ring *ring, uint32_t entries);
void fp_ring_free(struct fp_ring *ring);

/* Room for the next event that leaves `spare` entries free for more important ones, or NULL. Fill it completely, then
 * fp_ring_push(). */
struct fp_event *fp_ring_reserve(struct fp_ring *ring, uint64_t spare);
void fp_ring_push(struct fp_ring *ring);

/* Copies up to max events and forgets them. Returns how many. */
uint32_t fp_ring_read(struct fp_ring *ring, struct fp_event *out, uint32_t max);

#endif
