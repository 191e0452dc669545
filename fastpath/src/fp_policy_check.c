/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of tables: after them no walk of a policy leaves its memory or never ends. */
#include "fp_policy_internal.h"

#define RULE_FLAGS (FP_RULE_INSPECT | FP_RULE_NOT_PROTO | FP_RULE_PROTO | FP_RULE_ICMP_TYPE | FP_RULE_ICMP_CODE | \
		    FP_RULE_NOT_ICMP_TYPE | FP_RULE_NOT_ICMP_CODE | FP_RULE_V4 | FP_RULE_V6)

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

static int identities_ok(const struct fp_policy_tables *t, uint32_t n_chains)
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
		if (!none_or_below(c->ingress, n_chains) || !none_or_below(c->egress, n_chains) ||
		    !none_or_below(c->staged_ingress, n_chains) || !none_or_below(c->staged_egress, n_chains))
			return 0;
	}
	return 1;
}

static int interface_ok(const struct fp_interface_chains *i, uint32_t n_chains)
{
	const uint32_t chains[8] = { i->host_ingress, i->host_egress, i->forward_ingress, i->forward_egress,
				     i->staged_host_ingress, i->staged_host_egress, i->staged_forward_ingress,
				     i->staged_forward_egress };

	for (int k = 0; k < 8; k++)
		if (!none_or_below(chains[k], n_chains))
			return 0;
	return 1;
}

int fp_policy_interfaces_ok(const struct fp_interface_chains *interfaces, uint32_t n, uint32_t n_chains)
{
	for (uint32_t i = 0; i < n; i++)
		if (!interface_ok(&interfaces[i], n_chains) || (i && interfaces[i].ifindex == interfaces[i - 1].ifindex))
			return 0;
	return 1;
}

static int port_terms_ok(const struct fp_policy_tables *t)
{
	for (uint32_t i = 0; i < t->n_port_terms; i++)
		if (t->port_terms[i].first > t->port_terms[i].last ||
		    !none_or_below(t->port_terms[i].predicate, t->n_predicates))
			return 0;
	return 1;
}

int fp_policy_change_ok(const struct fp_policy_tables *t, uint32_t n_chains)
{
	for (uint32_t i = 0; i < t->n_rules; i++)
		if (!rule_ok(t, &t->rules[i]))
			return 0;
	for (uint32_t i = 0; i < t->n_chains; i++)
		if (!chain_ok(t, &t->chains[i]))
			return 0;
	return port_terms_ok(t) && identities_ok(t, n_chains) && none_or_below(t->feed_chain, n_chains) &&
	       terms_ok(t, t->inspect);
}

int fp_policy_tables_ok(const struct fp_policy_tables *t)
{
	return fp_policy_change_ok(t, t->n_chains);
}
