/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's memory of answers: two ways, each one cache line, found by everything a rule can ask. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fp_policy_internal.h"

#define WAYS 2
#define CACHE_ENTRIES_MIN ((size_t)64)
#define CACHE_ENTRIES_MAX ((size_t)1 << 24)
#define HOOK_PRE_DNAT 0x80u /* in the byte of the hook, whose numbers are small */

struct entry {
	uint64_t key[4];  /* the query without what this policy cannot tell apart, and the cache's epoch */
	struct fp_decision decision;
	uint8_t reserved[20];
};

static_assert(sizeof(struct entry) == 64, "an entry is a cache line");

struct fp_policy_cache {
	struct entry *entries;
	uint64_t mask;      /* sets - 1 */
	uint64_t policy;    /* id of the policy that the entries of this epoch are from */
	uint32_t epoch;     /* never 0 with entries in it */
};

int fp_policy_cache_create(size_t entries, struct fp_policy_cache **out)
{
	struct fp_policy_cache *cache;
	size_t n = CACHE_ENTRIES_MIN;

	if (entries > CACHE_ENTRIES_MAX)
		return -EINVAL;
	while (n < entries)
		n *= 2;
	cache = calloc(1, sizeof(*cache));
	if (!cache)
		return -ENOMEM;
	cache->entries = aligned_alloc(64, n * sizeof(struct entry));
	if (!cache->entries) {
		free(cache);
		return -ENOMEM;
	}
	memset(cache->entries, 0, n * sizeof(struct entry));
	cache->mask = n / WAYS - 1;
	*out = cache;
	return 0;
}

void fp_policy_cache_free(struct fp_policy_cache *cache)
{
	if (cache)
		free(cache->entries);
	free(cache);
}

static void bind_policy(struct fp_policy_cache *cache, const struct fp_policy *policy)
{
	cache->policy = policy->id;
	if (++cache->epoch == 0) { /* after 2^32 policies old entries would come back to life */
		memset(cache->entries, 0, (cache->mask + 1) * WAYS * sizeof(struct entry));
		cache->epoch = 1;
	}
}

/* Two queries with the same key get the same answer: interfaces count by their entry, source ports only
 * where a rule asks for them, ports and ICMP types only for protocols that have them. */
static void make_key(const struct fp_policy *policy, const struct fp_policy_cache *cache, const struct fp_query *q,
		     uint64_t key[4])
{
	uint32_t in = FP_NONE, out = FP_NONE;
	uint64_t detail = 0;

	if (policy->t.n_interfaces) {
		in = fp_policy_interface(policy, q->iif);
		out = fp_policy_interface(policy, q->oif);
	}
	if (fp_policy_has_ports(q->proto) && !(q->flags & FP_QUERY_NO_PORTS))
		detail = (uint64_t)q->dport << 16 | (policy->asks_sport ? q->sport : 0) | (uint64_t)1 << 32;
	else if (fp_policy_is_icmp(q->proto))
		detail = (uint64_t)q->icmp_type << 8 | q->icmp_code;
	key[0] = (uint64_t)q->source << 32 | q->destination;
	key[1] = (uint64_t)in << 32 | out;
	key[2] = detail << 24 | (uint64_t)q->proto << 16 | (uint64_t)q->family << 8 | q->hook |
		 (q->flags & FP_QUERY_PRE_DNAT ? HOOK_PRE_DNAT : 0);
	key[3] = (uint64_t)q->owner << 32 | cache->epoch;
}

static uint64_t mix(const uint64_t key[4])
{
	uint64_t h = key[0] * 0x9e3779b97f4a7c15u;

	h = (h ^ h >> 32 ^ key[2]) * 0xbf58476d1ce4e5b9u;
	h = (h ^ h >> 29 ^ key[1]) * 0x94d049bb133111ebu;
	return h ^ h >> 32 ^ key[3] >> 32;
}

int fp_policy_decide_cached(const struct fp_policy *policy, struct fp_policy_cache *cache,
			    const struct fp_query *query, struct fp_decision *out)
{
	struct entry *set;
	uint64_t key[4];

	if (cache->policy != policy->id)
		bind_policy(cache, policy);
	make_key(policy, cache, query, key);
	set = &cache->entries[(mix(key) & cache->mask) * WAYS];
	for (int i = 0; i < WAYS; i++) {
		if (memcmp(set[i].key, key, sizeof(key)) != 0)
			continue;
		*out = set[i].decision;
		return 1;
	}
	fp_policy_decide(policy, query, out);
	set[1] = set[0]; /* the newest first */
	memcpy(set[0].key, key, sizeof(key));
	set[0].decision = *out;
	return 0;
}
