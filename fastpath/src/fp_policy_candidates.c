/* SPDX-License-Identifier: Apache-2.0 */
/* Looking into the index of a long chain: which rule may match next? */
#include <string.h>

#include "fp_policy_index.h"

static const uint64_t *predicates_match(const struct fp_predicate_index *index, const uint32_t *predicates, uint32_t n,
					uint32_t words, uint64_t *room)
{
	if (!index->distinct || !n)
		return index->wild;
	memcpy(room, index->wild, words * sizeof(uint64_t));
	if (index->offsets) {
		for (uint32_t i = 0; i < n && predicates[i] < index->n_offsets; i++) {
			const uint32_t *at = &index->offsets[predicates[i]];

			fp_bitmap_add(room, &index->positions[at[0]], at[1] - at[0]);
		}
	} else if (n / 16 > index->mask) { /* far more facts about the identity than the chain asks for */
		for (uint32_t i = 0; i <= index->mask; i++) {
			const struct fp_predicate_slot *slot = &index->slots[i];

			if (slot->count && fp_policy_has_predicate(predicates, n, slot->predicate))
				fp_bitmap_add(room, &index->positions[slot->first], slot->count);
		}
	} else {
		for (uint32_t i = 0; i < n; i++) {
			const struct fp_predicate_slot *slot = fp_predicate_slot_of(index, predicates[i]);

			fp_bitmap_add(room, &index->positions[slot->first], slot->count);
		}
	}
	return room;
}

static const uint64_t *ports_match(const struct fp_port_index *index, const struct fp_question *question,
				   uint32_t words, uint64_t *room)
{
	uint32_t at;

	if (!question->has_ports)
		return index->wild;
	at = fp_port_interval_of(index, question->query->dport);
	if (index->bitmaps[at])
		return index->bitmaps[at];
	if (index->offsets[at] == index->offsets[at + 1])
		return index->wild;
	memcpy(room, index->wild, words * sizeof(uint64_t));
	fp_bitmap_add(room, &index->positions[index->offsets[at]], index->offsets[at + 1] - index->offsets[at]);
	return room;
}

static void prepare(const struct fp_question *q, const struct fp_segment *segment, struct fp_candidates *state)
{
	state->segment = segment;
	state->source = predicates_match(&segment->source, q->source_predicates, q->n_source, segment->words,
					 state->room[0]);
	state->destination = predicates_match(&segment->destination, q->destination_predicates, q->n_destination,
					      segment->words, state->room[1]);
	state->dport = ports_match(&segment->dport, q, segment->words, state->room[2]);
}

static uint32_t next_in_segment(const struct fp_candidates *state, const uint64_t *proto, uint32_t position)
{
	const struct fp_segment *segment = state->segment;
	uint64_t mask = ~(uint64_t)0 << position % 64;

	for (uint32_t w = position / 64; w < segment->words; w++, mask = ~(uint64_t)0) {
		uint64_t word = state->source[w] & state->destination[w] & state->dport[w] & proto[w] & mask;

		if (word)
			return w * 64 + (uint32_t)__builtin_ctzll(word);
	}
	return segment->count;
}

uint32_t fp_policy_next_candidate(const struct fp_question *question, const struct fp_chain_index *index,
				  struct fp_candidates *state, uint32_t from, uint32_t end)
{
	while (from < end) {
		const struct fp_segment *segment = &index->segments[from / FP_SEGMENT_RULES];
		uint32_t position;

		if (state->segment != segment)
			prepare(question, segment, state);
		position = next_in_segment(state, segment->proto[question->proto_class], from - segment->first);
		if (position < segment->count)
			return segment->first + position;
		from = segment->first + segment->count;
	}
	return end;
}
