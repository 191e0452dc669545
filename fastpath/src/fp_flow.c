/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_flow.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FLOW_ENTRIES_MAX ((size_t)1 << 26)
#define FLOW_PROTO_ICMP 1
#define FLOW_PROTO_ICMPV6 58

static_assert(sizeof(struct fp_flow) == 128, "a flow is two cache lines");

/* The direction-free tuple: the smaller end first. Every bit of the tuple, no padding. */
struct flow_key {
	uint64_t words[5];
	int reversed; /* the packet's source is the second end */
};

static int is_icmp(uint8_t proto)
{
	return proto == FLOW_PROTO_ICMP || proto == FLOW_PROTO_ICMPV6;
}

/* Types of one exchange count as one: queries and their replies carry the same identifier. */
static uint16_t icmp_kind(const struct fp_packet *packet)
{
	if (!is_icmp(packet->proto))
		return 0;
	if (packet->flags & FP_PACKET_ECHO_REPLY) {
		if (packet->family == 6)
			return 128 << 8;
		return (uint16_t)((packet->icmp_type ? packet->icmp_type - 1 : 8) << 8);
	}
	if (packet->flags & FP_PACKET_ECHO)
		return (uint16_t)(packet->icmp_type << 8);
	return (uint16_t)(packet->icmp_type << 8 | packet->icmp_code);
}

static void flow_key_set(struct flow_key *key, const struct fp_packet *packet)
{
	int order = memcmp(packet->src, packet->dst, 16);
	const uint8_t *low = packet->src, *high = packet->dst;
	uint64_t low_port = packet->sport, high_port = packet->dport;

	key->reversed = order > 0 || (order == 0 && !is_icmp(packet->proto) && packet->sport > packet->dport);
	if (key->reversed) {
		low = packet->dst;
		high = packet->src;
		if (!is_icmp(packet->proto)) { /* the identifier belongs to both ends */
			low_port = packet->dport;
			high_port = packet->sport;
		}
	}
	memcpy(&key->words[0], low, 16);
	memcpy(&key->words[2], high, 16);
	key->words[4] = low_port << 48 | high_port << 32 | (uint64_t)packet->proto << 24 |
			(uint64_t)packet->family << 16 | icmp_kind(packet);
}

static uint64_t flow_key_hash(const struct fp_flow_table *table, const struct flow_key *key)
{
	return fp_hash_words(&table->key, key->words, 5);
}

/* Tag 0 is a free slot. */
static uint16_t flow_tag(uint64_t hash)
{
	uint16_t tag = (uint16_t)(hash >> 48);

	return tag ? tag : 1;
}

/* Bits 0..23 and 24..47 choose the buckets, 48..63 are the tag. */
static void flow_buckets(const struct fp_flow_table *table, uint64_t hash, size_t bucket[2])
{
	bucket[0] = (size_t)(hash & table->mask) * FP_FLOW_WAYS;
	bucket[1] = (size_t)(hash >> 24 & table->mask) * FP_FLOW_WAYS;
}

static int flow_is(const struct fp_flow *flow, const struct fp_packet *packet, int *reversed)
{
	int icmp = is_icmp(packet->proto);

	if (flow->proto != packet->proto || flow->family != packet->family)
		return 0;
	if (icmp && (uint16_t)(flow->icmp_type << 8 | flow->icmp_code) != icmp_kind(packet))
		return 0;
	if (flow->sport == packet->sport && flow->dport == packet->dport &&
	    !memcmp(flow->src, packet->src, 16) && !memcmp(flow->dst, packet->dst, 16)) {
		*reversed = 0;
		return 1;
	}
	if (flow->sport == (icmp ? packet->sport : packet->dport) &&
	    flow->dport == (icmp ? packet->dport : packet->sport) &&
	    !memcmp(flow->src, packet->dst, 16) && !memcmp(flow->dst, packet->src, 16)) {
		*reversed = 1;
		return 1;
	}
	return 0;
}

int fp_flow_table_init(struct fp_flow_table *table, size_t entries, uint32_t idle_seconds,
		       const struct fp_hash_key *key)
{
	size_t slots = 2 * FP_FLOW_WAYS;
	int err = 0;

	if (entries > FLOW_ENTRIES_MAX)
		return -EINVAL;
	while (slots < entries)
		slots *= 2;
	memset(table, 0, sizeof(*table));
	if (key)
		table->key = *key;
	else
		err = fp_hash_key_random(&table->key);
	if (err)
		return err;
	/* One block: flows first, so that they stand on cache lines, then the tags. */
	table->memory = aligned_alloc(64, slots * sizeof(struct fp_flow) + (slots * sizeof(uint16_t) + 63) / 64 * 64);
	if (!table->memory)
		return -ENOMEM;
	table->flows = table->memory;
	table->tags = (uint16_t *)(void *)(table->flows + slots);
	table->mask = slots / FP_FLOW_WAYS - 1;
	table->idle = (uint64_t)idle_seconds * 1000000000u;
	fp_flow_clear(table);
	return 0;
}

void fp_flow_table_free(struct fp_flow_table *table)
{
	free(table->memory);
	memset(table, 0, sizeof(*table));
}

static size_t flow_slots(const struct fp_flow_table *table)
{
	return ((size_t)table->mask + 1) * FP_FLOW_WAYS;
}

size_t fp_flow_table_memory(const struct fp_flow_table *table)
{
	return flow_slots(table) * (sizeof(struct fp_flow) + sizeof(uint16_t));
}

void fp_flow_clear(struct fp_flow_table *table)
{
	memset(table->tags, 0, flow_slots(table) * sizeof(uint16_t));
	table->count = 0;
	table->age_cursor = 0;
}

struct fp_flow *fp_flow_find(struct fp_flow_table *table, const struct fp_packet *packet, uint64_t now,
			     int *reversed)
{
	struct flow_key key;
	size_t bucket[2];
	uint64_t hash;
	uint16_t tag;

	flow_key_set(&key, packet);
	hash = flow_key_hash(table, &key);
	tag = flow_tag(hash);
	flow_buckets(table, hash, bucket);
	for (int b = 0; b < 2; b++) {
		for (size_t i = bucket[b]; i < bucket[b] + FP_FLOW_WAYS; i++) {
			if (table->tags[i] != tag || !flow_is(&table->flows[i], packet, reversed))
				continue;
			table->flows[i].last_seen = now;
			return &table->flows[i];
		}
	}
	return NULL;
}

/* A free slot of the emptier bucket, else an idle flow's, else that of the flow seen longest ago. */
static size_t flow_choose_slot(struct fp_flow_table *table, const size_t bucket[2], uint64_t now)
{
	size_t oldest = bucket[0], free_slot[2] = { 0, 0 };
	int n_free[2] = { 0, 0 };

	for (int b = 0; b < 2; b++) {
		for (size_t i = bucket[b]; i < bucket[b] + FP_FLOW_WAYS; i++) {
			if (!table->tags[i]) {
				free_slot[b] = i;
				n_free[b]++;
			} else if (table->flows[i].last_seen < table->flows[oldest].last_seen) {
				oldest = i;
			}
		}
	}
	if (n_free[0] || n_free[1])
		return free_slot[n_free[1] > n_free[0]];
	if (now - table->flows[oldest].last_seen > table->idle)
		table->aged++;
	else
		table->evicted++;
	table->count--;
	return oldest;
}

struct fp_flow *fp_flow_insert(struct fp_flow_table *table, const struct fp_packet *packet, uint64_t now)
{
	struct flow_key key;
	struct fp_flow *flow;
	size_t bucket[2], slot;
	uint64_t hash;
	uint16_t kind = icmp_kind(packet);

	flow_key_set(&key, packet);
	hash = flow_key_hash(table, &key);
	flow_buckets(table, hash, bucket);
	slot = flow_choose_slot(table, bucket, now);
	table->tags[slot] = flow_tag(hash);
	table->count++;
	table->inserted++;

	flow = &table->flows[slot];
	memset(flow, 0, sizeof(*flow));
	memcpy(flow->src, packet->src, 16);
	memcpy(flow->dst, packet->dst, 16);
	flow->sport = packet->sport;
	flow->dport = packet->dport;
	flow->proto = packet->proto;
	flow->family = packet->family;
	flow->icmp_type = (uint8_t)(kind >> 8);
	flow->icmp_code = (uint8_t)kind;
	flow->last_seen = now;
	flow->id = ++table->next_id;
	return flow;
}

void fp_flow_remove(struct fp_flow_table *table, struct fp_flow *flow)
{
	table->tags[flow - table->flows] = 0;
	table->count--;
}

void fp_flow_turn(struct fp_flow *flow)
{
	uint8_t addr[16];
	uint32_t identity = flow->src_identity;
	uint16_t port = flow->sport;

	memcpy(addr, flow->src, 16);
	memcpy(flow->src, flow->dst, 16);
	memcpy(flow->dst, addr, 16);
	flow->src_identity = flow->dst_identity;
	flow->dst_identity = identity;
	if (!is_icmp(flow->proto)) {
		flow->sport = flow->dport;
		flow->dport = port;
	}
}

size_t fp_flow_age(struct fp_flow_table *table, uint64_t now, size_t slots)
{
	size_t total = flow_slots(table), forgotten = 0;

	if (slots > total)
		slots = total;
	for (size_t n = 0; n < slots; n++) {
		size_t i = table->age_cursor;

		table->age_cursor = (i + 1) & (total - 1);
		if (!table->tags[i] || now - table->flows[i].last_seen <= table->idle)
			continue;
		table->tags[i] = 0;
		forgotten++;
	}
	table->count -= forgotten;
	table->aged += forgotten;
	return forgotten;
}

uint64_t fp_flow_hash(const struct fp_flow_table *table, const struct fp_packet *packet)
{
	struct flow_key key;

	flow_key_set(&key, packet);
	return flow_key_hash(table, &key);
}
