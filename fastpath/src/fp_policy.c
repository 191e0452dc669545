/* SPDX-License-Identifier: Apache-2.0 */
/* Building a policy: copy, check every index, make the indexes. */
#include "fp_policy.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fp_hash.h"
#include "fp_policy_internal.h"

static_assert(sizeof(struct fp_port_term) == 12, "layout shared with Python");
static_assert(sizeof(struct fp_rule) == 60, "layout shared with Python");
static_assert(sizeof(struct fp_chain) == 16, "layout shared with Python");
static_assert(sizeof(struct fp_query) == 28, "layout shared with Python");
static_assert(sizeof(struct fp_decision) == 12, "layout shared with Python");

#define RULE_FLAGS (FP_RULE_INSPECT | FP_RULE_NOT_PROTO | FP_RULE_PROTO | FP_RULE_ICMP_TYPE | FP_RULE_ICMP_CODE | \
		    FP_RULE_NOT_ICMP_TYPE | FP_RULE_NOT_ICMP_CODE | FP_RULE_V4 | FP_RULE_V6)

void *fp_policy_alloc(struct fp_policy *policy, size_t n, size_t size)
{
	void *block = calloc(n ? n : 1, size);

	if (block)
		policy->memory += n * size;
	return block;
}

/* ---- checks ---- */

static int in_range(uint32_t first, uint32_t count, uint32_t n)
{
	return first <= n && count <= n - first;
}

static int none_or_below(uint32_t index, uint32_t n)
{
	return index == FP_NONE || index < n;
}

static int terms_ok(const struct fp_policy_tables *t, struct fp_port_terms terms)
{
	return terms.count == 0 || in_range(terms.first, terms.count, t->n_port_terms);
}

static int rule_ok(const struct fp_policy_tables *t, const struct fp_rule *rule)
{
	uint16_t flags = rule->flags;

	if (flags & ~RULE_FLAGS || rule->action > FP_ACTION_LOG)
		return 0;
	if ((flags & FP_RULE_ICMP_CODE && !(flags & FP_RULE_ICMP_TYPE)) ||
	    (flags & FP_RULE_NOT_ICMP_CODE && !(flags & FP_RULE_NOT_ICMP_TYPE)))
		return 0;
	return none_or_below(rule->source, t->n_predicates) && none_or_below(rule->destination, t->n_predicates) &&
	       terms_ok(t, rule->sport) && terms_ok(t, rule->not_sport) && terms_ok(t, rule->dport) &&
	       terms_ok(t, rule->not_dport);
}

/* Jumps go forward and stay in the chain, its end included: every walk ends. */
static int chain_ok(const struct fp_policy_tables *t, const struct fp_chain *chain)
{
	if (!in_range(chain->first, chain->count, t->n_rules))
		return 0;
	for (uint32_t i = chain->first; i < chain->first + chain->count; i++)
		if (t->rules[i].action == FP_ACTION_PASS &&
		    (t->rules[i].pass_to <= i || t->rules[i].pass_to > chain->first + chain->count))
			return 0;
	switch (chain->default_action) {
	case FP_ACTION_ALLOW: case FP_ACTION_DENY: case FP_ACTION_REJECT: case FP_ACTION_NEXT:
		return 1;
	default:
		return 0;
	}
}

static int identities_ok(const struct fp_policy_tables *t)
{
	if (!t->n_identities)
		return 1;
	if (!t->predicate_offsets || t->predicate_offsets[0] != 0)
		return 0;
	for (uint32_t i = 0; i < t->n_identities; i++) {
		const struct fp_identity_chains *c = &t->identities[i];
		uint32_t from = t->predicate_offsets[i], to = t->predicate_offsets[i + 1];

		if (from > to)
			return 0;
		for (uint32_t k = from; k < to; k++)
			if (t->predicates[k] >= t->n_predicates || (k > from && t->predicates[k] <= t->predicates[k - 1]))
				return 0;
		if (!none_or_below(c->ingress, t->n_chains) || !none_or_below(c->egress, t->n_chains) ||
		    !none_or_below(c->staged_ingress, t->n_chains) || !none_or_below(c->staged_egress, t->n_chains))
			return 0;
	}
	return 1;
}

static int interface_ok(const struct fp_policy_tables *t, const struct fp_interface_chains *i)
{
	const uint32_t chains[8] = { i->host_ingress, i->host_egress, i->forward_ingress, i->forward_egress,
				     i->staged_host_ingress, i->staged_host_egress, i->staged_forward_ingress,
				     i->staged_forward_egress };

	for (int k = 0; k < 8; k++)
		if (!none_or_below(chains[k], t->n_chains))
			return 0;
	return 1;
}

/* Everything but interfaces, which are checked once sorted. */
static int tables_ok(const struct fp_policy_tables *t)
{
	for (uint32_t i = 0; i < t->n_port_terms; i++)
		if (t->port_terms[i].first > t->port_terms[i].last ||
		    !none_or_below(t->port_terms[i].predicate, t->n_predicates))
			return 0;
	for (uint32_t i = 0; i < t->n_rules; i++)
		if (!rule_ok(t, &t->rules[i]))
			return 0;
	for (uint32_t i = 0; i < t->n_chains; i++)
		if (!chain_ok(t, &t->chains[i]))
			return 0;
	return identities_ok(t) && none_or_below(t->feed_chain, t->n_chains) && terms_ok(t, t->inspect);
}

/* ---- building ---- */

static const void *copy(struct fp_policy *policy, const void *from, size_t n, size_t size)
{
	void *to = fp_policy_alloc(policy, n, size);

	if (to && n)
		memcpy(to, from, n * size);
	return to;
}

static int copy_tables(struct fp_policy *policy, const struct fp_policy_tables *from)
{
	struct fp_policy_tables *t = &policy->t;
	size_t n_held = from->n_identities ? from->predicate_offsets[from->n_identities] : 0;

	*t = *from;
	t->rules = copy(policy, from->rules, from->n_rules, sizeof(*t->rules));
	t->port_terms = copy(policy, from->port_terms, from->n_port_terms, sizeof(*t->port_terms));
	t->chains = copy(policy, from->chains, from->n_chains, sizeof(*t->chains));
	t->predicate_offsets = copy(policy, from->predicate_offsets, from->n_identities ? from->n_identities + (size_t)1 : 0,
				    sizeof(uint32_t));
	t->predicates = copy(policy, from->predicates, n_held, sizeof(uint32_t));
	t->identities = copy(policy, from->identities, from->n_identities, sizeof(*t->identities));
	t->interfaces = copy(policy, from->interfaces, from->n_interfaces, sizeof(*t->interfaces));
	return t->rules && t->port_terms && t->chains && t->predicate_offsets && t->predicates && t->identities &&
	       t->interfaces ? 0 : -ENOMEM;
}

static int compare_interfaces(const void *a, const void *b)
{
	const struct fp_interface_chains *x = a, *y = b;

	return x->ifindex < y->ifindex ? -1 : x->ifindex > y->ifindex;
}

static int sort_interfaces(struct fp_policy *policy)
{
	const struct fp_interface_chains *interfaces = policy->t.interfaces;

	qsort((void *)(uintptr_t)interfaces, policy->t.n_interfaces, sizeof(*interfaces), compare_interfaces);
	for (uint32_t i = 0; i < policy->t.n_interfaces; i++)
		if (!interface_ok(&policy->t, &interfaces[i]) ||
		    (i && interfaces[i].ifindex == interfaces[i - 1].ifindex))
			return -EINVAL;
	return 0;
}

static int build_indexes(struct fp_policy *policy)
{
	policy->indexes = fp_policy_alloc(policy, policy->t.n_chains, sizeof(*policy->indexes));
	if (!policy->indexes)
		return -ENOMEM;
	for (uint32_t i = 0; i < policy->t.n_chains; i++) {
		int err = fp_policy_index_chain(policy, i);

		if (err)
			return err;
	}
	for (uint32_t i = 0; i < policy->t.n_rules; i++)
		if (policy->t.rules[i].sport.count || policy->t.rules[i].not_sport.count)
			policy->asks_sport = 1;
	return 0;
}

int fp_policy_build(const struct fp_policy_tables *tables, struct fp_policy **out)
{
	struct fp_policy *policy;
	struct fp_hash_key id;
	int err;

	if (!tables_ok(tables))
		return -EINVAL;
	err = fp_hash_key_random(&id);
	if (err)
		return err;
	policy = calloc(1, sizeof(*policy));
	if (!policy)
		return -ENOMEM;
	policy->id = id.k0 | 1; /* 0: a cache that has not answered yet */
	policy->memory = sizeof(*policy);
	atomic_init(&policy->refs, 1);
	err = copy_tables(policy, tables);
	if (!err)
		err = sort_interfaces(policy);
	if (!err)
		err = build_indexes(policy);
	if (err) {
		fp_policy_release(policy);
		return err;
	}
	*out = policy;
	return 0;
}

size_t fp_policy_memory(const struct fp_policy *policy)
{
	return policy->memory;
}

struct fp_policy *fp_policy_acquire(struct fp_policy *policy)
{
	atomic_fetch_add_explicit(&policy->refs, 1, memory_order_relaxed);
	return policy;
}

void fp_policy_release(struct fp_policy *policy)
{
	const struct fp_policy_tables *t;

	if (!policy || atomic_fetch_sub_explicit(&policy->refs, 1, memory_order_acq_rel) != 1)
		return;
	t = &policy->t;
	const void *const owned[] = { t->rules, t->port_terms, t->chains, t->predicate_offsets, t->predicates,
				      t->identities, t->interfaces };

	if (policy->indexes)
		for (uint32_t i = 0; i < t->n_chains; i++)
			fp_policy_index_free(&policy->indexes[i]);
	free(policy->indexes);
	for (size_t i = 0; i < sizeof(owned) / sizeof(owned[0]); i++)
		free((void *)(uintptr_t)owned[i]);
	free(policy);
}
