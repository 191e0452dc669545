/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_ring.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(struct fp_event) == 128, "two cache lines");

int fp_ring_init(struct fp_ring *ring, uint32_t entries)
{
	size_t size = 16;

	if (entries > 1u << 24)
		return -EINVAL;
	while (size < entries)
		size <<= 1;
	memset(ring, 0, sizeof(*ring));
	ring->events = aligned_alloc(64, size * sizeof(*ring->events));
	if (!ring->events)
		return -ENOMEM;
	memset(ring->events, 0, size * sizeof(*ring->events)); /* no page faults later */
	ring->mask = size - 1;
	return 0;
}

void fp_ring_free(struct fp_ring *ring)
{
	free(ring->events);
	ring->events = NULL;
}

struct fp_event *fp_ring_reserve(struct fp_ring *ring, uint64_t spare)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	if (head - ring->tail_seen + spare > ring->mask) {
		ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
		if (head - ring->tail_seen + spare > ring->mask)
			return NULL;
	}
	return &ring->events[head & ring->mask];
}

void fp_ring_push(struct fp_ring *ring)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}

uint32_t fp_ring_read(struct fp_ring *ring, struct fp_event *out, uint32_t max)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	uint64_t available = atomic_load_explicit(&ring->head, memory_order_acquire) - tail;
	uint32_t n = available < max ? (uint32_t)available : max;

	for (uint32_t i = 0; i < n; i++)
		out[i] = ring->events[(tail + i) & ring->mask];
	atomic_store_explicit(&ring->tail, tail + n, memory_order_release);
	return n;
}
