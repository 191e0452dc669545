/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_policy: decisions for workers (the public part, with the meaning of the tables, is in fastpath.h).
 *
 *   query ─▶ pair cache ── hit ──▶ decision
 *                └── miss ──▶ walk: feed chain ▸ chains of the hook (▸ the same staged)
 *                              chain ─▶ index: bitmap of rules by source ∧ destination ∧ protocol ∧ port
 *                                        └─▶ first candidate, checked in full ─▶ next candidate …
 *
 *  1. A policy never changes; any number of threads may ask it. A cache belongs to one thread.
 *  2. The cache is bound to the policy it last answered for: another policy empties it (in O(1)).
 *  3. A chain of up to 64 rules is scanned. Longer ones have an index in segments of 32,768 rules; the
 *     worst case is linear in the rules that agree in source, destination, protocol and destination port
 *     but differ in what has no bitmap (source ports, negations, ICMP types).
 */
#ifndef FP_POLICY_H
#define FP_POLICY_H

#include "fastpath.h"

/* Another strong reference, to be given up with fp_policy_release(). Any thread. */
struct fp_policy *fp_policy_acquire(struct fp_policy *policy);

struct fp_policy_cache;

/* entries: rounded up to a power of two, at least 64, at most 2^24; 64 bytes each. */
int fp_policy_cache_create(size_t entries, struct fp_policy_cache **out);
void fp_policy_cache_free(struct fp_policy_cache *cache);
/* As fp_policy_decide(). Returns 1 for a hit, 0 for a miss. Allocates nothing. */
int fp_policy_decide_cached(const struct fp_policy *policy, struct fp_policy_cache *cache,
			    const struct fp_query *query, struct fp_decision *out);

#endif
