/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of a policy with room for all of it, and an evaluator that asks every rule every question.
 */
#ifndef POLICY_TWIN_H
#define POLICY_TWIN_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fp_policy.h"

#define MAX_RULES 70000
#define MAX_TERMS 300
#define MAX_CHAINS 16
#define MAX_IDENTITIES 16
#define MAX_INTERFACES 4
#define PREDICATES 24u

struct world {
	struct fp_rule rules[MAX_RULES];
	struct fp_port_term terms[MAX_TERMS];
	struct fp_chain chains[MAX_CHAINS];
	uint32_t offsets[MAX_IDENTITIES + 1], predicates[MAX_IDENTITIES * PREDICATES];
	struct fp_identity_chains identities[MAX_IDENTITIES];
	struct fp_interface_chains interfaces[MAX_INTERFACES];
	struct fp_policy_tables t;
};

/* ---- the naive twin ---- */

static inline int twin_has(const struct fp_policy_tables *t, uint32_t identity, uint32_t predicate)
{
	if (predicate == FP_NONE)
		return 1;
	if (identity >= t->n_identities)
		identity = 0;
	if (identity >= t->n_identities)
		return 0;
	for (uint32_t i = t->predicate_offsets[identity]; i < t->predicate_offsets[identity + 1]; i++)
		if (t->predicates[i] == predicate)
			return 1;
	return 0;
}

static inline int twin_ported(const struct fp_query *q)
{
	return (q->proto == 6 || q->proto == 17 || q->proto == 132 || q->proto == 136) && !(q->flags & FP_QUERY_NO_PORTS);
}

static inline int twin_port(const struct fp_policy_tables *t, struct fp_port_terms terms, const struct fp_query *q,
		     uint16_t port, uint32_t identity)
{
	for (uint32_t i = 0; i < terms.count; i++) {
		const struct fp_port_term *term = &t->port_terms[terms.first + i];

		if (port < term->first || port > term->last)
			continue;
		if (term->proto && term->proto != q->proto)
			continue;
		if (twin_has(t, identity, term->predicate))
			return 1;
	}
	return 0;
}

static inline int twin_named(const struct fp_policy_tables *t, struct fp_port_terms terms)
{
	for (uint32_t i = 0; i < terms.count; i++)
		if (!t->port_terms[terms.first + i].proto)
			return 0;
	return 1;
}

static inline int twin_rule(const struct fp_policy_tables *t, const struct fp_rule *r, const struct fp_query *q)
{
	int asks_ports = r->sport.count || r->dport.count || r->not_sport.count || r->not_dport.count;
	int asks_icmp = r->flags & (FP_RULE_ICMP_TYPE | FP_RULE_NOT_ICMP_TYPE);

	if (r->flags & FP_RULE_V4 && q->family != 4)
		return 0;
	if (r->flags & FP_RULE_V6 && q->family != 6)
		return 0;
	if (r->flags & FP_RULE_PROTO && q->proto != r->proto)
		return 0;
	if (r->flags & FP_RULE_NOT_PROTO && q->proto == r->not_proto)
		return 0;
	if (asks_icmp && q->proto != 1 && q->proto != 58)
		return 0;
	if (r->flags & FP_RULE_ICMP_TYPE && q->icmp_type != r->icmp_type)
		return 0;
	if (r->flags & FP_RULE_ICMP_CODE && q->icmp_code != r->icmp_code)
		return 0;
	if (r->flags & FP_RULE_NOT_ICMP_TYPE && q->icmp_type == r->not_icmp_type &&
	    (!(r->flags & FP_RULE_NOT_ICMP_CODE) || q->icmp_code == r->not_icmp_code))
		return 0;
	if (asks_ports && !twin_ported(q))
		return q->proto != 6 && q->proto != 17 && q->proto != 132 && q->proto != 136 && !r->sport.count && !r->dport.count &&
		       twin_named(t, r->not_sport) && twin_named(t, r->not_dport) &&
		       twin_has(t, q->source, r->source) && twin_has(t, q->destination, r->destination);
	if (r->sport.count && !twin_port(t, r->sport, q, q->sport, q->source))
		return 0;
	if (r->not_sport.count && twin_port(t, r->not_sport, q, q->sport, q->source))
		return 0;
	if (r->dport.count && !twin_port(t, r->dport, q, q->dport, q->destination))
		return 0;
	if (r->not_dport.count && twin_port(t, r->not_dport, q, q->dport, q->destination))
		return 0;
	return twin_has(t, q->source, r->source) && twin_has(t, q->destination, r->destination);
}

static inline int twin_chain(const struct fp_policy_tables *t, uint32_t chain, const struct fp_query *q, uint32_t *rule,
		      int *inspect)
{
	const struct fp_chain *c = &t->chains[chain];
	uint32_t i = c->first;

	while (i < c->first + c->count) {
		const struct fp_rule *r = &t->rules[i++];

		if (!twin_rule(t, r, q) || r->action == FP_ACTION_LOG)
			continue;
		if (r->action == FP_ACTION_PASS) {
			i = r->pass_to;
			continue;
		}
		*rule = r->id;
		if (r->action == FP_ACTION_ALLOW && r->flags & FP_RULE_INSPECT)
			*inspect = 1;
		return r->action;
	}
	*rule = c->default_rule;
	return c->default_action;
}

static inline const struct fp_interface_chains *twin_interface(const struct fp_policy_tables *t, uint32_t ifindex)
{
	const struct fp_interface_chains *any = NULL;

	for (uint32_t i = 0; i < t->n_interfaces; i++) {
		if (t->interfaces[i].ifindex == ifindex)
			return &t->interfaces[i];
		if (t->interfaces[i].ifindex == 0)
			any = &t->interfaces[i];
	}
	return any;
}

static inline void twin_walk(const struct fp_policy_tables *t, const struct fp_query *q, int staged, uint8_t *verdict,
		      uint32_t *rule, uint8_t *governed)
{
	static const struct fp_interface_chains none = { 0, FP_NONE, FP_NONE, FP_NONE, FP_NONE, FP_NONE, FP_NONE, FP_NONE,
							 FP_NONE };
	const struct fp_interface_chains *in = twin_interface(t, q->iif), *out = twin_interface(t, q->oif);
	uint32_t source = q->source < t->n_identities ? q->source : 0;
	uint32_t destination = q->destination < t->n_identities ? q->destination : 0;
	uint32_t egress = staged ? t->identities[source].staged_egress : t->identities[source].egress;
	uint32_t ingress = staged ? t->identities[destination].staged_ingress : t->identities[destination].ingress;
	uint32_t order[5] = { t->feed_chain, FP_NONE, FP_NONE, FP_NONE, FP_NONE };
	uint32_t owner = q->owner < t->n_identities ? q->owner : 0;
	int inspect = 0;

	if (!in || q->flags & FP_QUERY_PRE_DNAT)
		in = &none;
	if (!out)
		out = &none;
	if (q->hook == FP_HOOK_FORWARD) {
		order[1] = staged ? in->staged_forward_ingress : in->forward_ingress;
		order[2] = egress;
		order[3] = ingress;
		order[4] = staged ? out->staged_forward_egress : out->forward_egress;
	} else if (q->hook == FP_HOOK_INPUT) {
		order[1] = egress;
		order[2] = staged ? in->staged_host_ingress : in->host_ingress;
		if (owner)
			order[3] = staged ? t->identities[owner].staged_ingress : t->identities[owner].ingress;
	} else if (q->hook == FP_HOOK_OUTPUT) {
		if (owner)
			order[1] = staged ? t->identities[owner].staged_egress : t->identities[owner].egress;
		if (ingress == FP_NONE)
			order[2] = staged ? out->staged_host_egress : out->host_egress;
	} else {
		order[1] = egress;
		order[2] = ingress;
	}
	*verdict = FP_VERDICT_ALLOW;
	*rule = FP_NONE;
	*governed = 0;
	for (int i = 0; i < 5; i++) {
		uint32_t id = FP_NONE;
		int action;

		if (order[i] == FP_NONE)
			continue;
		action = twin_chain(t, order[i], q, &id, &inspect);
		if (action == FP_ACTION_DENY || action == FP_ACTION_REJECT) {
			*verdict = action == FP_ACTION_DENY ? FP_VERDICT_DROP : FP_VERDICT_REJECT;
			*rule = id;
			*governed = 1;
			return;
		}
		if (i > 0 && action == FP_ACTION_ALLOW) {
			*rule = id;
			*governed = 1;
		}
	}
	if (inspect || (twin_ported(q) && twin_port(t, t->inspect, q, q->dport, q->destination)))
		*verdict = FP_VERDICT_INSPECT;
}

static inline struct fp_decision twin_decide(const struct fp_policy_tables *t, const struct fp_query *q)
{
	struct fp_decision d = { .verdict = 0 };
	uint8_t staged_governed;

	twin_walk(t, q, 0, &d.verdict, &d.rule, &d.governed);
	twin_walk(t, q, 1, &d.staged_verdict, &d.staged_rule, &staged_governed);
	return d;
}

static inline int same(const struct fp_decision *a, const struct fp_decision *b)
{
	return a->verdict == b->verdict && a->staged_verdict == b->staged_verdict && a->governed == b->governed &&
	       a->rule == b->rule && a->staged_rule == b->staged_rule;
}

static inline struct world *world_new(void)
{
	return calloc(1, sizeof(struct world));
}

#endif
