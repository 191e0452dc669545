/* SPDX-License-Identifier: Apache-2.0 */
/* Making the index of a long chain. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fp_policy_index.h"

#define PORT_INTERVALS_MAX 64u /* of one rule; beyond, it counts as asking nothing */
#define BY_NUMBER_MAX 4u       /* predicates for each rule, up to which a table by number is smaller than a hash table */

/* What an index is made of, and what it takes. */
struct build {
	const struct fp_policy_tables *from; /* port terms and the number of predicates */
	const struct fp_rule *rules;         /* of the chain */
	size_t memory;
};

/* ---- predicates ---- */

static uint32_t rule_predicate(const struct fp_rule *rule, int destination)
{
	return destination ? rule->destination : rule->source;
}

/* By number: counts first, then ends, then, written backwards, starts. */
static int index_by_number(struct build *build, struct fp_predicate_index *index,
			   const struct fp_segment *segment, int destination)
{
	const struct fp_rule *rules = &build->rules[segment->first];
	uint32_t n = build->from->n_predicates, total = 0;

	index->offsets = fp_policy_alloc(&build->memory, (size_t)n + 1, sizeof(uint32_t));
	if (!index->offsets)
		return -ENOMEM;
	index->n_offsets = n;
	for (uint32_t i = 0; i < segment->count; i++) {
		uint32_t predicate = rule_predicate(&rules[i], destination);

		if (predicate == FP_NONE)
			fp_bitmap_set(index->wild, i);
		else
			index->distinct += !index->offsets[predicate]++;
	}
	for (uint32_t i = 0; i < n; i++) {
		total += index->offsets[i];
		index->offsets[i] = total;
	}
	index->offsets[n] = total;
	index->positions = fp_policy_alloc(&build->memory, total, sizeof(uint16_t));
	if (!index->positions)
		return -ENOMEM;
	for (uint32_t i = segment->count; i-- > 0;) {
		uint32_t predicate = rule_predicate(&rules[i], destination);

		if (predicate != FP_NONE)
			index->positions[--index->offsets[predicate]] = (uint16_t)i;
	}
	return 0;
}

static int index_predicates(struct build *build, struct fp_predicate_index *index,
			    const struct fp_segment *segment, int destination)
{
	const struct fp_rule *rules = &build->rules[segment->first];
	uint32_t capacity = 16, total = 0, first = 0;

	index->wild = fp_policy_alloc(&build->memory, segment->words, sizeof(uint64_t));
	if (!index->wild)
		return -ENOMEM;
	if (build->from->n_predicates / BY_NUMBER_MAX < segment->count)
		return index_by_number(build, index, segment, destination);
	while (capacity < 2 * segment->count)
		capacity *= 2;
	index->mask = capacity - 1;
	index->slots = fp_policy_alloc(&build->memory, capacity, sizeof(*index->slots));
	if (!index->slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < segment->count; i++) {
		uint32_t predicate = rule_predicate(&rules[i], destination);
		struct fp_predicate_slot *slot;

		if (predicate == FP_NONE) {
			fp_bitmap_set(index->wild, i);
			continue;
		}
		slot = fp_predicate_slot_of(index, predicate);
		index->distinct += !slot->count;
		slot->predicate = predicate;
		slot->count++;
		total++;
	}
	index->positions = fp_policy_alloc(&build->memory, total, sizeof(uint16_t));
	if (!index->positions)
		return -ENOMEM;
	for (uint32_t i = 0; i < capacity; i++) {
		first += index->slots[i].count;
		index->slots[i].first = first; /* the end: each list is written backwards */
	}
	for (uint32_t i = segment->count; i-- > 0;) {
		uint32_t predicate = rule_predicate(&rules[i], destination);

		if (predicate != FP_NONE)
			index->positions[--fp_predicate_slot_of(index, predicate)->first] = (uint16_t)i;
	}
	return 0;
}

/* ---- destination ports ---- */

static const struct fp_port_term *dport_terms(const struct build *build, const struct fp_rule *rule)
{
	return &build->from->port_terms[rule->dport.first];
}

/* Intervals that the rule's terms fill, counted with repetition. */
static uint32_t rule_intervals(const struct build *build, const struct fp_port_index *index,
			       const struct fp_rule *rule)
{
	const struct fp_port_term *terms = dport_terms(build, rule);
	uint32_t n = 0;

	for (uint32_t i = 0; i < rule->dport.count && n <= PORT_INTERVALS_MAX; i++)
		n += fp_port_interval_of(index, terms[i].last) - fp_port_interval_of(index, terms[i].first) + 1;
	return n;
}

static int port_starts(struct build *build, struct fp_port_index *index, const struct fp_segment *segment)
{
	const struct fp_rule *rules = &build->rules[segment->first];
	uint8_t *cut = calloc(65537, 1); /* the number of ports bounds the intervals, whatever the rules */

	if (!cut)
		return -ENOMEM;
	cut[0] = 1;
	for (uint32_t i = 0; i < segment->count; i++) {
		const struct fp_port_term *terms = dport_terms(build, &rules[i]);

		for (uint32_t k = 0; k < rules[i].dport.count; k++)
			cut[terms[k].first] = cut[(uint32_t)terms[k].last + 1] = 1;
	}
	for (uint32_t port = 0; port < 65536; port++)
		index->n += cut[port];
	index->starts = fp_policy_alloc(&build->memory, index->n, sizeof(uint16_t));
	if (index->starts) {
		uint32_t n = 0;

		for (uint32_t port = 0; port < 65536; port++)
			if (cut[port])
				index->starts[n++] = (uint16_t)port;
	}
	free(cut);
	return index->starts ? 0 : -ENOMEM;
}

/* Called twice: first to count (no positions yet), then to write. */
static void port_lists(const struct build *build, struct fp_port_index *index, const struct fp_segment *segment)
{
	const struct fp_rule *rules = &build->rules[segment->first];

	for (uint32_t i = segment->count; i-- > 0;) {
		const struct fp_port_term *terms = dport_terms(build, &rules[i]);

		if (!rules[i].dport.count || rule_intervals(build, index, &rules[i]) > PORT_INTERVALS_MAX) {
			fp_bitmap_set(index->wild, i);
			continue;
		}
		for (uint32_t k = 0; k < rules[i].dport.count; k++) {
			uint32_t last = fp_port_interval_of(index, terms[k].last);

			for (uint32_t at = fp_port_interval_of(index, terms[k].first); at <= last; at++) {
				if (index->positions)
					index->positions[--index->offsets[at]] = (uint16_t)i;
				else
					index->offsets[at]++;
			}
		}
	}
}

/* A list of as many rules as a bitmap has words is slower to add than the bitmap is to read. */
static int port_bitmaps(struct build *build, struct fp_port_index *index, const struct fp_segment *segment)
{
	index->bitmaps = fp_policy_alloc(&build->memory, index->n, sizeof(*index->bitmaps));
	if (!index->bitmaps)
		return -ENOMEM;
	for (uint32_t i = 0; i < index->n; i++) {
		uint32_t first = index->offsets[i], count = index->offsets[i + 1] - first;

		if (count < segment->words)
			continue;
		index->bitmaps[i] = fp_policy_alloc(&build->memory, segment->words, sizeof(uint64_t));
		if (!index->bitmaps[i])
			return -ENOMEM;
		memcpy(index->bitmaps[i], index->wild, segment->words * sizeof(uint64_t));
		fp_bitmap_add(index->bitmaps[i], &index->positions[first], count);
	}
	return 0;
}

static int index_ports(struct build *build, struct fp_port_index *index, const struct fp_segment *segment)
{
	uint32_t total = 0;
	int err = port_starts(build, index, segment);

	if (err)
		return err;
	index->offsets = fp_policy_alloc(&build->memory, index->n + 1, sizeof(uint32_t));
	index->wild = fp_policy_alloc(&build->memory, segment->words, sizeof(uint64_t));
	if (!index->offsets || !index->wild)
		return -ENOMEM;
	port_lists(build, index, segment);
	for (uint32_t i = 0; i < index->n; i++) {
		total += index->offsets[i];
		index->offsets[i] = total; /* the end; writing goes backwards */
	}
	index->offsets[index->n] = total;
	index->positions = fp_policy_alloc(&build->memory, total, sizeof(uint16_t));
	if (!index->positions)
		return -ENOMEM;
	port_lists(build, index, segment);
	return port_bitmaps(build, index, segment);
}

/* ---- protocols ---- */

static int rule_takes_class(const struct fp_rule *rule, uint8_t proto, uint8_t family, uint8_t class)
{
	if ((rule->flags & FP_RULE_V4) && family != 4)
		return 0;
	if ((rule->flags & FP_RULE_V6) && family != 6)
		return 0;
	if ((rule->flags & FP_RULE_PROTO) && fp_policy_proto_class(rule->proto, family) != class)
		return 0;
	return !((rule->flags & FP_RULE_NOT_PROTO) && proto && rule->not_proto == proto);
}

static int index_protocols(struct build *build, struct fp_segment *segment)
{
	/* 0 stands for all protocols that share the last class. */
	static const uint8_t protocols[FP_PROTO_CLASSES / 2] = { 6, 17, 132, 1, 58, 0 };
	const struct fp_rule *rules = &build->rules[segment->first];

	for (uint8_t class = 0; class < FP_PROTO_CLASSES; class++) {
		uint8_t proto = protocols[class / 2], family = class % 2 ? 6 : 4;

		segment->proto[class] = fp_policy_alloc(&build->memory, segment->words, sizeof(uint64_t));
		if (!segment->proto[class])
			return -ENOMEM;
		for (uint32_t i = 0; i < segment->count; i++)
			if (rule_takes_class(&rules[i], proto, family, class))
				fp_bitmap_set(segment->proto[class], i);
	}
	return 0;
}

/* ---- chains ---- */

static int index_segment(struct build *build, struct fp_segment *segment)
{
	int err = index_predicates(build, &segment->source, segment, 0);

	if (!err)
		err = index_predicates(build, &segment->destination, segment, 1);
	if (!err)
		err = index_ports(build, &segment->dport, segment);
	if (!err)
		err = index_protocols(build, segment);
	return err;
}

int fp_policy_index_chain(struct fp_policy_chain *chain, const struct fp_policy_tables *from)
{
	struct build build = { .from = from, .rules = chain->rules };
	struct fp_chain_index *index = &chain->index;
	uint32_t n = (uint32_t)(((uint64_t)chain->count + FP_SEGMENT_RULES - 1) / FP_SEGMENT_RULES);
	int err = 0;

	if (chain->count <= FP_POLICY_SCAN_MAX)
		return 0;
	index->segments = fp_policy_alloc(&build.memory, n, sizeof(*index->segments));
	if (!index->segments)
		return -ENOMEM;
	index->n = n;
	for (uint32_t i = 0; i < n && !err; i++) {
		struct fp_segment *segment = &index->segments[i];
		uint32_t rest = chain->count - i * FP_SEGMENT_RULES;

		segment->first = i * FP_SEGMENT_RULES;
		segment->count = rest < FP_SEGMENT_RULES ? rest : FP_SEGMENT_RULES;
		segment->words = (segment->count + 63) / 64;
		err = index_segment(&build, segment);
	}
	chain->memory += build.memory;
	return err;
}

static void free_predicates(struct fp_predicate_index *index)
{
	free(index->slots);
	free(index->offsets);
	free(index->positions);
	free(index->wild);
}

void fp_policy_index_free(struct fp_chain_index *index)
{
	for (uint32_t i = 0; i < index->n; i++) {
		struct fp_segment *segment = &index->segments[i];

		free_predicates(&segment->source);
		free_predicates(&segment->destination);
		for (uint32_t k = 0; segment->dport.bitmaps && k < segment->dport.n; k++)
			free(segment->dport.bitmaps[k]);
		free(segment->dport.bitmaps);
		free(segment->dport.starts);
		free(segment->dport.offsets);
		free(segment->dport.positions);
		free(segment->dport.wild);
		for (unsigned k = 0; k < FP_PROTO_CLASSES; k++)
			free(segment->proto[k]);
	}
	free(index->segments);
}
