/* SPDX-License-Identifier: Apache-2.0 */
/* Asking a policy: does a rule match, what does a chain say? */
#include "fp_policy_internal.h"

enum {
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_ICMPV6 = 58,
	PROTO_SCTP = 132,
	PROTO_UDPLITE = 136,
};

#define RULE_ASKS_ICMP (FP_RULE_ICMP_TYPE | FP_RULE_ICMP_CODE | FP_RULE_NOT_ICMP_TYPE | FP_RULE_NOT_ICMP_CODE)

int fp_policy_has_ports(uint8_t proto)
{
	return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP || proto == PROTO_UDPLITE;
}

int fp_policy_is_icmp(uint8_t proto)
{
	return proto == PROTO_ICMP || proto == PROTO_ICMPV6;
}

uint8_t fp_policy_proto_class(uint8_t proto, uint8_t family)
{
	uint8_t class = 5;

	switch (proto) {
	case PROTO_TCP: class = 0; break;
	case PROTO_UDP: class = 1; break;
	case PROTO_SCTP: class = 2; break;
	case PROTO_ICMP: class = 3; break;
	case PROTO_ICMPV6: class = 4; break;
	default: break;
	}
	return (uint8_t)(class * 2 + (family == 6));
}

int fp_policy_has_predicate(const uint32_t *predicates, uint32_t n, uint32_t predicate)
{
	while (n) {
		uint32_t half = n / 2;

		if (predicates[half] == predicate)
			return 1;
		if (predicates[half] < predicate) {
			predicates += half + 1;
			n -= half + 1;
		} else {
			n = half;
		}
	}
	return 0;
}

uint32_t fp_policy_interface(const struct fp_policy *policy, uint32_t ifindex)
{
	const struct fp_interface_chains *table = policy->t.interfaces;
	uint32_t low = 0, high = policy->t.n_interfaces;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (table[middle].ifindex < ifindex)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < policy->t.n_interfaces && table[low].ifindex == ifindex)
		return low;
	/* Sorted: the entry for every other interface comes first. */
	return policy->t.n_interfaces && table[0].ifindex == 0 ? 0 : FP_NONE;
}

static void question_side(const struct fp_policy *policy, uint32_t *identity, const uint32_t **predicates, uint32_t *n)
{
	if (*identity >= policy->t.n_identities)
		*identity = FP_WORLD;
	*predicates = NULL;
	*n = 0;
	if (*identity < policy->t.n_identities) {
		*predicates = policy->rows[*identity]->predicates;
		*n = policy->rows[*identity]->n;
	}
}

void fp_policy_question_set(struct fp_question *q, const struct fp_policy *policy, const struct fp_query *query)
{
	q->policy = policy;
	q->query = query;
	q->source = query->source;
	q->destination = query->destination;
	question_side(policy, &q->source, &q->source_predicates, &q->n_source);
	question_side(policy, &q->destination, &q->destination_predicates, &q->n_destination);
	q->has_ports = fp_policy_has_ports(query->proto) && !(query->flags & FP_QUERY_NO_PORTS);
	q->is_icmp = (uint8_t)fp_policy_is_icmp(query->proto);
	q->proto_class = fp_policy_proto_class(query->proto, query->family);
}

/* ---- one rule ---- */

static int source_has(const struct fp_question *q, uint32_t predicate)
{
	return predicate == FP_NONE || fp_policy_has_predicate(q->source_predicates, q->n_source, predicate);
}

static int destination_has(const struct fp_question *q, uint32_t predicate)
{
	return predicate == FP_NONE || fp_policy_has_predicate(q->destination_predicates, q->n_destination, predicate);
}

static int sport_matches(const struct fp_question *q, struct fp_port_terms terms)
{
	const struct fp_port_term *term = &q->policy->t.port_terms[terms.first];
	uint16_t port = q->query->sport;

	for (uint32_t i = 0; i < terms.count; i++, term++)
		if (term->first <= port && port <= term->last && (!term->proto || term->proto == q->query->proto) &&
		    source_has(q, term->predicate))
			return 1;
	return 0;
}

int fp_policy_dport_matches(const struct fp_question *q, struct fp_port_terms terms)
{
	const struct fp_port_term *term = &q->policy->t.port_terms[terms.first];
	uint16_t port = q->query->dport;

	for (uint32_t i = 0; i < terms.count; i++, term++)
		if (term->first <= port && port <= term->last && (!term->proto || term->proto == q->query->proto) &&
		    destination_has(q, term->predicate))
			return 1;
	return 0;
}

/* Each term is of a protocol: a named port. */
static int only_named(const struct fp_question *q, struct fp_port_terms terms)
{
	const struct fp_port_term *term = &q->policy->t.port_terms[terms.first];

	for (uint32_t i = 0; i < terms.count; i++)
		if (!term[i].proto)
			return 0;
	return 1;
}

static int ports_match(const struct fp_question *q, const struct fp_rule *rule)
{
	if (!(rule->sport.count | rule->not_sport.count | rule->dport.count | rule->not_dport.count))
		return 1;
	/* A negated number speaks only of packets that have ports. A named port is a protocol and a number: what is of
	 * another protocol is not on it. Where ports are merely unknown nothing is certain. */
	if (!q->has_ports)
		return !fp_policy_has_ports(q->query->proto) && !rule->sport.count && !rule->dport.count &&
		       only_named(q, rule->not_sport) && only_named(q, rule->not_dport);
	if (rule->sport.count && !sport_matches(q, rule->sport))
		return 0;
	if (rule->not_sport.count && sport_matches(q, rule->not_sport))
		return 0;
	if (rule->dport.count && !fp_policy_dport_matches(q, rule->dport))
		return 0;
	return !(rule->not_dport.count && fp_policy_dport_matches(q, rule->not_dport));
}

static int icmp_matches(const struct fp_question *q, const struct fp_rule *rule)
{
	uint8_t type = q->query->icmp_type, code = q->query->icmp_code;

	if (!q->is_icmp)
		return 0;
	if ((rule->flags & FP_RULE_ICMP_TYPE) && rule->icmp_type != type)
		return 0;
	if ((rule->flags & FP_RULE_ICMP_CODE) && rule->icmp_code != code)
		return 0;
	/* A negated type with a negated code excludes the pair, not either. */
	return !((rule->flags & FP_RULE_NOT_ICMP_TYPE) && rule->not_icmp_type == type &&
		 (!(rule->flags & FP_RULE_NOT_ICMP_CODE) || rule->not_icmp_code == code));
}

static int rule_matches(const struct fp_question *q, const struct fp_rule *rule)
{
	const struct fp_query *query = q->query;
	uint16_t flags = rule->flags;

	if (((flags & FP_RULE_V4) && query->family != 4) || ((flags & FP_RULE_V6) && query->family != 6))
		return 0;
	if ((flags & FP_RULE_PROTO) && rule->proto != query->proto)
		return 0;
	if ((flags & FP_RULE_NOT_PROTO) && rule->not_proto == query->proto)
		return 0;
	if ((flags & RULE_ASKS_ICMP) && !icmp_matches(q, rule))
		return 0;
	return ports_match(q, rule) && source_has(q, rule->source) && destination_has(q, rule->destination);
}

/* ---- one chain ---- */

static void record(struct fp_recorder *r, uint32_t chain, uint32_t rule, uint8_t action)
{
	if (r && r->n < r->max)
		r->steps[r->n++] = (struct fp_trace_step){ .chain = chain, .rule = rule, .action = action };
}

struct fp_outcome fp_policy_ask_chain(const struct fp_question *q, uint32_t number, struct fp_recorder *recorder)
{
	const struct fp_policy_chain *chain = q->policy->chains[number];
	const struct fp_chain_index *index = &chain->index;
	const struct fp_rule *rules = chain->rules;
	uint32_t i = 0, end = chain->count;
	struct fp_candidates candidates;
	struct fp_outcome outcome = { .rule = chain->default_rule, .action = chain->default_action };

	candidates.segment = NULL;
	while (i < end) {
		if (index->n) {
			i = fp_policy_next_candidate(q, index, &candidates, i, end);
			if (i >= end)
				break;
		}
		if (!rule_matches(q, &rules[i])) {
			i++;
			continue;
		}
		record(recorder, number, rules[i].id, rules[i].action);
		if (rules[i].action == FP_ACTION_LOG) {
			i++;
		} else if (rules[i].action == FP_ACTION_PASS) {
			i = rules[i].pass_to;
		} else {
			outcome.rule = rules[i].id;
			outcome.action = rules[i].action;
			outcome.inspect = rules[i].flags & FP_RULE_INSPECT;
			return outcome;
		}
	}
	if (outcome.action != FP_ACTION_NEXT)
		record(recorder, number, outcome.rule, outcome.action);
	return outcome;
}
