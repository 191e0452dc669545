/* SPDX-License-Identifier: Apache-2.0 */
/* Asking a policy: does a rule match, what does a chain say, what do the chains of a hook say together. */
#include <errno.h>

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

static void question_set(struct fp_question *q, const struct fp_policy *policy, const struct fp_query *query)
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

static int dport_matches(const struct fp_question *q, struct fp_port_terms terms)
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
	if (rule->dport.count && !dport_matches(q, rule->dport))
		return 0;
	return !(rule->not_dport.count && dport_matches(q, rule->not_dport));
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

struct recorder {
	struct fp_trace_step *steps;
	size_t max, n;
};

struct outcome {
	uint32_t rule;
	uint8_t action;  /* ALLOW, DENY, REJECT or NEXT */
	uint8_t inspect;
};

static void record(struct recorder *r, uint32_t chain, uint32_t rule, uint8_t action)
{
	if (r && r->n < r->max)
		r->steps[r->n++] = (struct fp_trace_step){ .chain = chain, .rule = rule, .action = action };
}

static struct outcome chain_ask(const struct fp_question *q, uint32_t number, struct recorder *recorder)
{
	const struct fp_policy_chain *chain = q->policy->chains[number];
	const struct fp_chain_index *index = &chain->index;
	const struct fp_rule *rules = chain->rules;
	uint32_t i = 0, end = chain->count;
	struct fp_candidates candidates;
	struct outcome outcome = { .rule = chain->default_rule, .action = chain->default_action };

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

/* ---- the chains of a hook ---- */

#define PLAN_MAX 4

/* The chains that are asked, in order; each must allow. */
struct plan {
	uint32_t chains[PLAN_MAX];
	unsigned n;
};

static void plan_add(struct plan *plan, uint32_t chain)
{
	if (chain != FP_NONE)
		plan->chains[plan->n++] = chain;
}

static uint32_t identity_ingress(const struct fp_policy_tables *t, uint32_t identity, int staged)
{
	if (identity >= t->n_identities)
		return FP_NONE;
	return staged ? t->identities[identity].staged_ingress : t->identities[identity].ingress;
}

static uint32_t identity_egress(const struct fp_policy_tables *t, uint32_t identity, int staged)
{
	if (identity >= t->n_identities)
		return FP_NONE;
	return staged ? t->identities[identity].staged_egress : t->identities[identity].egress;
}

static const struct fp_interface_chains *interface_of(const struct fp_policy *policy, uint32_t ifindex)
{
	uint32_t i = fp_policy_interface(policy, ifindex);

	return i == FP_NONE ? NULL : &policy->t.interfaces[i];
}

static void plan_make(const struct fp_question *q, int staged, struct plan *plan)
{
	const struct fp_policy_tables *t = &q->policy->t;
	const struct fp_interface_chains *in = interface_of(q->policy, q->query->iif);
	const struct fp_interface_chains *out = interface_of(q->policy, q->query->oif);
	uint32_t egress = identity_egress(t, q->source, staged), ingress = identity_ingress(t, q->destination, staged);

	plan->n = 0;
	if (q->query->flags & FP_QUERY_PRE_DNAT)
		in = NULL;
	switch (q->query->hook) {
	case FP_HOOK_FORWARD:
		if (in)
			plan_add(plan, staged ? in->staged_forward_ingress : in->forward_ingress);
		plan_add(plan, egress);
		plan_add(plan, ingress);
		if (out)
			plan_add(plan, staged ? out->staged_forward_egress : out->forward_egress);
		break;
	case FP_HOOK_INPUT:
		plan_add(plan, egress);
		if (in)
			plan_add(plan, staged ? in->staged_host_ingress : in->host_ingress);
		break;
	case FP_HOOK_OUTPUT:
		if (out && ingress == FP_NONE) /* a host always reaches its own workloads */
			plan_add(plan, staged ? out->staged_host_egress : out->host_egress);
		break;
	default:
		plan_add(plan, egress);
		plan_add(plan, ingress);
		break;
	}
}

static int plan_same(const struct plan *a, const struct plan *b)
{
	if (a->n != b->n)
		return 0;
	for (unsigned i = 0; i < a->n; i++)
		if (a->chains[i] != b->chains[i])
			return 0;
	return 1;
}

struct judgement {
	uint32_t rule;
	uint8_t verdict, governed;
};

static int is_denial(uint8_t action)
{
	return action == FP_ACTION_DENY || action == FP_ACTION_REJECT;
}

static struct judgement denied(struct outcome outcome)
{
	return (struct judgement){ .rule = outcome.rule, .governed = 1,
				   .verdict = outcome.action == FP_ACTION_DENY ? FP_VERDICT_DROP : FP_VERDICT_REJECT };
}

/* `feeds`: what the feed chain said; not a denial. */
static struct judgement plan_ask(const struct fp_question *q, const struct plan *plan, struct outcome feeds,
				 struct recorder *recorder)
{
	struct judgement judgement = { .rule = FP_NONE, .verdict = FP_VERDICT_ALLOW, .governed = 0 };
	uint8_t inspect = feeds.inspect;

	for (unsigned i = 0; i < plan->n; i++) {
		struct outcome outcome = chain_ask(q, plan->chains[i], recorder);

		if (outcome.action == FP_ACTION_NEXT)
			continue;
		if (is_denial(outcome.action))
			return denied(outcome);
		judgement.governed = 1;
		judgement.rule = outcome.rule;
		inspect |= outcome.inspect;
	}
	if (inspect || (q->has_ports && dport_matches(q, q->policy->t.inspect)))
		judgement.verdict = FP_VERDICT_INSPECT;
	return judgement;
}

static struct outcome feeds_ask(const struct fp_question *q, struct recorder *recorder)
{
	struct outcome none = { .rule = FP_NONE, .action = FP_ACTION_NEXT };

	return q->policy->t.feed_chain == FP_NONE ? none : chain_ask(q, q->policy->t.feed_chain, recorder);
}

void fp_policy_decide(const struct fp_policy *policy, const struct fp_query *query, struct fp_decision *out)
{
	struct judgement now, staged;
	struct plan plan, staged_plan;
	struct fp_question q;
	struct outcome feeds;

	question_set(&q, policy, query);
	feeds = feeds_ask(&q, NULL);
	if (is_denial(feeds.action)) {
		now = staged = denied(feeds);
	} else {
		plan_make(&q, 0, &plan);
		plan_make(&q, 1, &staged_plan);
		now = plan_ask(&q, &plan, feeds, NULL);
		staged = plan_same(&plan, &staged_plan) ? now : plan_ask(&q, &staged_plan, feeds, NULL);
	}
	*out = (struct fp_decision){ .verdict = now.verdict, .staged_verdict = staged.verdict,
				     .governed = now.governed, .rule = now.rule, .staged_rule = staged.rule };
}

int fp_policy_trace(const struct fp_policy *policy, const struct fp_query *query, int staged,
		    struct fp_trace_step *steps, size_t max)
{
	struct recorder recorder = { .steps = steps, .max = max < INT32_MAX ? max : INT32_MAX };
	struct fp_question q;
	struct outcome feeds;
	struct plan plan;

	question_set(&q, policy, query);
	feeds = feeds_ask(&q, &recorder);
	if (!is_denial(feeds.action)) {
		plan_make(&q, staged, &plan);
		(void)plan_ask(&q, &plan, feeds, &recorder);
	}
	return (int)recorder.n;
}

int fp_policy_trace_chain(const struct fp_policy *policy, uint32_t chain, const struct fp_query *query,
			  struct fp_trace_step *steps, size_t max, size_t *written)
{
	struct recorder recorder = { .steps = steps, .max = max };
	struct outcome outcome;
	struct fp_question q;

	if (chain >= policy->t.n_chains)
		return -EINVAL;
	question_set(&q, policy, query);
	outcome = chain_ask(&q, chain, &recorder);
	*written = recorder.n;
	return outcome.action;
}
