/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_policy_index: the index of a long chain: for every dimension the rules that one value may match, as bitmaps and
 * lists. What making it (fp_policy_index.c) and looking into it (fp_policy_candidates.c) share.
 */
#ifndef FP_POLICY_INDEX_H
#define FP_POLICY_INDEX_H

#include "fp_policy_internal.h"

#define FP_HASH_MULTIPLIER 0x9e3779b1u

static inline void fp_bitmap_set(uint64_t *bitmap, uint32_t position)
{
	bitmap[position / 64] |= (uint64_t)1 << position % 64;
}

static inline void fp_bitmap_add(uint64_t *bitmap, const uint16_t *positions, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		fp_bitmap_set(bitmap, positions[i]);
}

/* Where a predicate stands or would stand: count 0. There is always a free slot. */
static inline struct fp_predicate_slot *fp_predicate_slot_of(const struct fp_predicate_index *index, uint32_t predicate)
{
	uint32_t i = predicate * FP_HASH_MULTIPLIER;

	i ^= i >> 15;
	for (;; i++) {
		struct fp_predicate_slot *slot = &index->slots[i & index->mask];

		if (!slot->count || slot->predicate == predicate)
			return slot;
	}
}

/* The last interval that starts at or before port. */
static inline uint32_t fp_port_interval_of(const struct fp_port_index *index, uint16_t port)
{
	uint32_t low = 0, high = index->n;

	while (high - low > 1) {
		uint32_t middle = (low + high) / 2;

		if (index->starts[middle] <= port)
			low = middle;
		else
			high = middle;
	}
	return low;
}

#endif
