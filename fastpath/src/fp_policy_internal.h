/* SPDX-License-Identifier: Apache-2.0 */
/* fp_policy_internal: what the parts of the policy share. Only fp_policy*.c include it. */
#ifndef FP_POLICY_INTERNAL_H
#define FP_POLICY_INTERNAL_H

#include <stdatomic.h>

#include "fp_policy.h"

#define FP_POLICY_SCAN_MAX 64u       /* rules of a chain that needs no index */
#define FP_SEGMENT_RULES 32768u      /* positions in a segment fit 15 bits */
#define FP_SEGMENT_WORDS (FP_SEGMENT_RULES / 64)
#define FP_PROTO_CLASSES 12u         /* (TCP, UDP, SCTP, ICMP, ICMPv6, other) x (IPv4, IPv6) */

/* Rules of a segment by predicate of one side: a table by number where predicates are few, else open addressing,
 * count 0 is free. */
struct fp_predicate_slot {
	uint32_t predicate, first, count; /* into positions */
};

struct fp_predicate_index {
	uint32_t *offsets;         /* n_offsets + 1, or NULL */
	uint32_t n_offsets;        /* predicates when it was made: later ones are not in it */
	struct fp_predicate_slot *slots; /* or NULL */
	uint32_t mask, distinct;
	uint16_t *positions;
	uint64_t *wild;            /* rules that do not ask */
};

/* Rules of a segment by destination port: positions[offsets[i] .. offsets[i + 1]) may match ports from starts[i] on. */
struct fp_port_index {
	uint16_t *starts;
	uint32_t *offsets;
	uint32_t n;
	uint16_t *positions;
	uint64_t **bitmaps;        /* by interval; NULL where the list is short. Wild rules included. */
	uint64_t *wild;            /* rules that do not ask, or of so many intervals that the check is cheaper */
};

struct fp_segment {
	uint32_t first, count;     /* into the rules of the chain */
	uint32_t words;
	struct fp_predicate_index source, destination;
	struct fp_port_index dport;
	uint64_t *proto[FP_PROTO_CLASSES];
};

struct fp_chain_index {
	struct fp_segment *segments;
	uint32_t n;                /* 0: scan */
};

/* A chain with its rules; policies that come from each other share those that did not change. Immutable. */
struct fp_policy_chain {
	struct fp_rule *rules;     /* pass_to counts from here */
	struct fp_chain_index index;
	uint32_t count, default_rule;
	uint8_t default_action;
	uint8_t asks_sport;        /* some rule has a condition on source ports */
	atomic_uint refs;
	size_t memory;             /* bytes */
};

/* The predicates that hold for one identity, shared likewise. */
struct fp_policy_row {
	atomic_uint refs;
	uint32_t n;
	uint32_t predicates[];     /* sorted */
};

struct fp_policy {
	struct fp_policy_chain **chains;
	struct fp_policy_row **rows; /* one an identity */
	struct fp_policy_tables t; /* pointers are our own copies, interfaces sorted by ifindex; no rules, chains, predicates */
	uint64_t id;               /* random: an address may be used again by the next policy */
	size_t memory;             /* bytes, what is shared included */
	uint8_t asks_sport;
	atomic_uint refs;
};

/* A query with what every rule asks of it looked up once. */
struct fp_question {
	const struct fp_policy *policy;
	const struct fp_query *query;
	uint32_t source, destination; /* identities that exist, or 0 */
	const uint32_t *source_predicates, *destination_predicates; /* sorted */
	uint32_t n_source, n_destination;
	uint8_t has_ports, is_icmp, proto_class;
};

/* Zeroed; counted in *memory. n 0 gives a pointer all the same. */
void *fp_policy_alloc(size_t *memory, size_t n, size_t size);

/* Copies a chain of checked tables. Returns a strong reference, NULL without memory. */
struct fp_policy_chain *fp_policy_chain_create(const struct fp_policy_tables *from, const struct fp_chain *chain);
struct fp_policy_chain *fp_policy_chain_acquire(struct fp_policy_chain *chain);
void fp_policy_chain_release(struct fp_policy_chain *chain);
struct fp_policy_row *fp_policy_row_create(const uint32_t *predicates, uint32_t n);
struct fp_policy_row *fp_policy_row_acquire(struct fp_policy_row *row);
void fp_policy_row_release(struct fp_policy_row *row);

/* Is every index in range and every jump forward? Interfaces, which must be sorted, are asked apart. */
int fp_policy_tables_ok(const struct fp_policy_tables *t);
int fp_policy_interfaces_ok(const struct fp_interface_chains *interfaces, uint32_t n, uint32_t n_chains);
/* `t`: rules, chains, identities and predicates of a change; port terms and n_predicates of the whole. */
int fp_policy_change_ok(const struct fp_policy_tables *t, uint32_t n_chains);

int fp_policy_index_chain(struct fp_policy_chain *chain, const struct fp_policy_tables *from);
void fp_policy_index_free(struct fp_chain_index *index);

/* Where a chain's candidates are looked for. `segment` NULL: nothing prepared yet. */
struct fp_candidates {
	const struct fp_segment *segment;
	const uint64_t *source, *destination, *dport; /* into room, or the segment's own where it asks nothing */
	uint64_t room[3][FP_SEGMENT_WORDS];
};

/* The first rule from `from` on that may match, or `end`. Only for chains with an index. */
uint32_t fp_policy_next_candidate(const struct fp_question *question, const struct fp_chain_index *index,
				  struct fp_candidates *state, uint32_t from, uint32_t end);

/* What was met on the way, for explanation. */
struct fp_recorder {
	struct fp_trace_step *steps;
	size_t max, n;
};

/* What a chain says. */
struct fp_outcome {
	uint32_t rule;
	uint8_t action;  /* ALLOW, DENY, REJECT or NEXT */
	uint8_t inspect;
};

void fp_policy_question_set(struct fp_question *q, const struct fp_policy *policy, const struct fp_query *query);
/* recorder: or NULL. */
struct fp_outcome fp_policy_ask_chain(const struct fp_question *q, uint32_t number, struct fp_recorder *recorder);
/* Of a question with ports. */
int fp_policy_dport_matches(const struct fp_question *q, struct fp_port_terms terms);

int fp_policy_has_ports(uint8_t proto);
int fp_policy_is_icmp(uint8_t proto);
uint8_t fp_policy_proto_class(uint8_t proto, uint8_t family);
int fp_policy_has_predicate(const uint32_t *predicates, uint32_t n, uint32_t predicate);
/* Position in the table of interfaces, or FP_NONE. */
uint32_t fp_policy_interface(const struct fp_policy *policy, uint32_t ifindex);

#endif
