/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_flow: the flows of one worker, found by 5-tuple in either direction.
 *
 *   hash ──▶ bucket A: 8 tags │ 8 flows          a flow stands in one of the 16 slots of its two
 *        └─▶ bucket B: 8 tags │ 8 flows          buckets; a tag is 16 bits of the hash, 0: free
 *
 *  1. One thread owns a table; nothing is locked. All memory is taken by fp_flow_table_init().
 *  2. Find and insert look at 16 tags and compare the flows whose tag matches; nothing is ever
 *     moved or chained, so this is also the worst case. Buckets are chosen by a keyed hash: a sender
 *     who does not know the key cannot fill one at will.
 *  3. Insert never fails: with all 16 slots taken it forgets an idle flow, else the one seen longest
 *     ago. Forgetting is safe: the flow's next packet is decided again. Up to half full nothing is
 *     forgotten early; at three quarters about one flow in three thousand.
 *  4. A pointer to a flow is valid until the next insert, age or clear.
 *  5. Times are nanoseconds of one monotonic clock of the caller's choice.
 */
#ifndef FP_FLOW_H
#define FP_FLOW_H

#include <stddef.h>
#include <stdint.h>

#include "fp_hash.h"
#include "fp_packet.h"

#define FP_FLOW_WAYS 8 /* slots of a bucket */

struct fp_flow { /* 128 bytes, two cache lines: the tuple and what every packet needs come first */
	uint8_t src[16], dst[16];  /* as of the packet that was inserted, or turned by fp_flow_turn() */
	uint16_t sport, dport;
	uint8_t proto, family;
	uint8_t icmp_type, icmp_code; /* ICMP without identifier: part of the tuple */
	uint64_t last_seen;        /* ns */
	uint64_t sequence;         /* of the snapshot that decided; the caller's */
	uint8_t verdict, staged_verdict; /* enum fp_verdict */
	uint8_t generation;
	uint8_t flags;             /* the caller's */
	uint16_t slow_queue;       /* INSPECT: where it went */
	uint8_t hook;
	uint8_t governed;
	uint64_t id;               /* unique in this table; the caller adds his worker's number */
	uint64_t packets;          /* the caller's */
	uint32_t rule, staged_rule;
	uint32_t src_identity, dst_identity;
	uint32_t iif, oif;
	uint32_t uid;              /* the caller's */
	uint32_t user;             /* the caller's */
	uint16_t inspector;        /* INSPECT: which of those that followed each other; the caller's */
	uint8_t repeats_told;      /* events in that second; the caller's */
	uint8_t reserved;
	uint32_t repeat_second;    /* since 1970; the caller's */
	uint32_t repeats;          /* packets denied in that second that no event tells of yet; the caller's */
	uint8_t reserved2[4];
};

struct fp_flow_table {
	uint16_t *tags;            /* FP_FLOW_WAYS per bucket */
	struct fp_flow *flows;
	uint64_t mask;             /* buckets - 1 */
	struct fp_hash_key key;
	uint64_t idle;             /* ns */
	uint64_t next_id;
	size_t age_cursor;         /* slot */
	size_t count;              /* flows now */
	uint64_t inserted, aged;   /* since init */
	uint64_t evicted;          /* forgotten for a newer flow though not idle */
	void *memory;
};

/* entries: rounded up to a power of two, at least 16. key NULL: random. -ENOMEM, -EINVAL (more than 2^26). */
int fp_flow_table_init(struct fp_flow_table *table, size_t entries, uint32_t idle_seconds,
		       const struct fp_hash_key *key);
void fp_flow_table_free(struct fp_flow_table *table);
size_t fp_flow_table_memory(const struct fp_flow_table *table); /* bytes */

/* The flow of this packet or NULL; touches last_seen. *reversed: the packet goes against the flow's direction. */
struct fp_flow *fp_flow_find(struct fp_flow_table *table, const struct fp_packet *packet, uint64_t now,
			     int *reversed);
/* A new flow in the packet's direction, all else 0 but id and last_seen. The tuple must not be in the table. */
struct fp_flow *fp_flow_insert(struct fp_flow_table *table, const struct fp_packet *packet, uint64_t now);
void fp_flow_remove(struct fp_flow_table *table, struct fp_flow *flow);
/* Exchanges source and destination (with ports and identities; ICMP keeps its ports). */
void fp_flow_turn(struct fp_flow *flow);
/* Looks at the next `slots` slots, round and round, and forgets idle flows. Returns how many. */
size_t fp_flow_age(struct fp_flow_table *table, uint64_t now, size_t slots);
/* Forgets everything. */
void fp_flow_clear(struct fp_flow_table *table);
/* A symmetric keyed hash of the packet's whole tuple: the same in both directions (choice of inspector). */
uint64_t fp_flow_hash(const struct fp_flow_table *table, const struct fp_packet *packet);

#endif
