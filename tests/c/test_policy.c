/* SPDX-License-Identifier: Apache-2.0 */
/* Policies against an evaluator that asks every rule every question, and the meaning of the tables by example. */
#include <errno.h>
#include <malloc.h>
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

static int twin_has(const struct fp_policy_tables *t, uint32_t identity, uint32_t predicate)
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

static int twin_ported(const struct fp_query *q)
{
	return (q->proto == 6 || q->proto == 17 || q->proto == 132 || q->proto == 136) && !(q->flags & FP_QUERY_NO_PORTS);
}

static int twin_port(const struct fp_policy_tables *t, struct fp_port_terms terms, const struct fp_query *q,
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

static int twin_named(const struct fp_policy_tables *t, struct fp_port_terms terms)
{
	for (uint32_t i = 0; i < terms.count; i++)
		if (!t->port_terms[terms.first + i].proto)
			return 0;
	return 1;
}

static int twin_rule(const struct fp_policy_tables *t, const struct fp_rule *r, const struct fp_query *q)
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

static int twin_chain(const struct fp_policy_tables *t, uint32_t chain, const struct fp_query *q, uint32_t *rule,
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

static const struct fp_interface_chains *twin_interface(const struct fp_policy_tables *t, uint32_t ifindex)
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

static void twin_walk(const struct fp_policy_tables *t, const struct fp_query *q, int staged, uint8_t *verdict,
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
	int inspect = 0;

	if (!in)
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
	} else if (q->hook == FP_HOOK_OUTPUT) {
		if (ingress == FP_NONE)
			order[1] = staged ? out->staged_host_egress : out->host_egress;
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

static struct fp_decision twin_decide(const struct fp_policy_tables *t, const struct fp_query *q)
{
	struct fp_decision d = { .verdict = 0 };
	uint8_t staged_governed;

	twin_walk(t, q, 0, &d.verdict, &d.rule, &d.governed);
	twin_walk(t, q, 1, &d.staged_verdict, &d.staged_rule, &staged_governed);
	return d;
}

static int same(const struct fp_decision *a, const struct fp_decision *b)
{
	return a->verdict == b->verdict && a->staged_verdict == b->staged_verdict && a->governed == b->governed &&
	       a->rule == b->rule && a->staged_rule == b->staged_rule;
}

/* ---- random worlds ---- */

static uint32_t sometimes(uint64_t *seed, uint32_t one_in, uint32_t below)
{
	return check_below(seed, one_in) ? FP_NONE : check_below(seed, below);
}

static uint16_t random_port(uint64_t *seed)
{
	static const uint16_t ports[8] = { 0, 22, 53, 80, 443, 8080, 65534, 65535 };

	return check_below(seed, 4) ? ports[check_below(seed, 8)] : (uint16_t)check_random(seed);
}

static uint8_t random_proto(uint64_t *seed)
{
	static const uint8_t protocols[8] = { 6, 6, 17, 17, 132, 1, 58, 47 };

	return check_below(seed, 12) ? protocols[check_below(seed, 8)] : 136;
}

static struct fp_port_terms random_terms(uint64_t *seed, const struct fp_policy_tables *t, uint32_t one_in)
{
	struct fp_port_terms terms = { 0, 0 };

	if (check_below(seed, one_in) == 0) {
		terms.count = check_below(seed, 20) ? 1 + check_below(seed, 3) : 90;
		terms.first = check_below(seed, t->n_port_terms - terms.count);
	}
	return terms;
}

static void random_rule(uint64_t *seed, const struct fp_policy_tables *t, struct fp_rule *r, uint32_t id)
{
	static const uint16_t flags[8] = { FP_RULE_NOT_PROTO, FP_RULE_PROTO, FP_RULE_PROTO, FP_RULE_ICMP_TYPE,
					   FP_RULE_ICMP_TYPE | FP_RULE_ICMP_CODE, FP_RULE_NOT_ICMP_TYPE,
					   FP_RULE_NOT_ICMP_TYPE | FP_RULE_NOT_ICMP_CODE, FP_RULE_INSPECT };

	memset(r, 0, sizeof(*r));
	r->id = id;
	r->source = check_below(seed, 3) ? check_below(seed, PREDICATES) : FP_NONE;
	r->destination = check_below(seed, 3) ? check_below(seed, PREDICATES) : FP_NONE;
	r->sport = random_terms(seed, t, 12);
	r->not_sport = random_terms(seed, t, 20);
	r->dport = random_terms(seed, t, 2);
	r->not_dport = random_terms(seed, t, 15);
	for (int i = 0; i < 2; i++)
		if (check_below(seed, 2))
			r->flags |= flags[check_below(seed, 8)];
	if (check_below(seed, 8) == 0)
		r->flags |= check_below(seed, 2) ? FP_RULE_V4 : FP_RULE_V6;
	r->proto = random_proto(seed);
	r->not_proto = random_proto(seed);
	r->icmp_type = (uint8_t)check_below(seed, 3);
	r->icmp_code = (uint8_t)check_below(seed, 2);
	r->not_icmp_type = (uint8_t)check_below(seed, 3);
	r->not_icmp_code = (uint8_t)check_below(seed, 2);
	r->action = (uint8_t)check_below(seed, 5);
}

static void random_chain(uint64_t *seed, struct world *w, uint32_t chain, uint32_t count)
{
	static const uint8_t defaults[4] = { FP_ACTION_ALLOW, FP_ACTION_DENY, FP_ACTION_REJECT, FP_ACTION_NEXT };
	struct fp_chain *c = &w->chains[chain];

	c->first = w->t.n_rules;
	c->count = count;
	c->default_rule = 1000000 + chain;
	c->default_action = defaults[check_below(seed, 4)];
	for (uint32_t i = 0; i < count; i++) {
		struct fp_rule *r = &w->rules[c->first + i];

		random_rule(seed, &w->t, r, c->first + i);
		if (r->action == FP_ACTION_PASS)
			r->pass_to = c->first + i + 1 + check_below(seed, check_below(seed, 2) ? 3 : count - i);
		if (r->action == FP_ACTION_PASS && r->pass_to > c->first + count)
			r->pass_to = c->first + count;
	}
	w->t.n_rules += count;
}

static void random_world(uint64_t *seed, struct world *w, uint32_t longest)
{
	uint32_t *chains;

	memset(&w->t, 0, sizeof(w->t));
	w->t.rules = w->rules;
	w->t.port_terms = w->terms;
	w->t.chains = w->chains;
	w->t.predicate_offsets = w->offsets;
	w->t.predicates = w->predicates;
	w->t.identities = w->identities;
	w->t.interfaces = w->interfaces;
	w->t.n_predicates = PREDICATES;
	w->t.n_port_terms = MAX_TERMS;
	w->t.n_chains = MAX_CHAINS;
	w->t.n_identities = 1 + check_below(seed, MAX_IDENTITIES);
	w->t.n_interfaces = check_below(seed, MAX_INTERFACES + 1);
	for (int i = 0; i < MAX_TERMS; i++) {
		uint16_t a = random_port(seed), b = check_below(seed, 2) ? a : random_port(seed);

		w->terms[i] = (struct fp_port_term){ .predicate = sometimes(seed, 4, PREDICATES), .first = a < b ? a : b,
						     .last = a < b ? b : a,
						     .proto = check_below(seed, 2) ? random_proto(seed) : 0 };
	}
	for (uint32_t i = 0; i < MAX_CHAINS; i++)
		random_chain(seed, w, i, check_below(seed, longest));
	w->offsets[0] = 0;
	for (uint32_t i = 0; i < w->t.n_identities; i++) {
		uint32_t n = w->offsets[i], density = 1 + check_below(seed, 8);

		for (uint32_t p = 0; p < PREDICATES; p++)
			if (check_below(seed, density) == 0)
				w->predicates[n++] = p;
		w->offsets[i + 1] = n;
		w->identities[i].ingress = sometimes(seed, 2, MAX_CHAINS);
		w->identities[i].egress = sometimes(seed, 2, MAX_CHAINS);
		w->identities[i].staged_ingress = check_below(seed, 2) ? w->identities[i].ingress : sometimes(seed, 2, MAX_CHAINS);
		w->identities[i].staged_egress = check_below(seed, 2) ? w->identities[i].egress : sometimes(seed, 2, MAX_CHAINS);
	}
	for (uint32_t i = 0; i < w->t.n_interfaces; i++) {
		chains = &w->interfaces[i].host_ingress;
		w->interfaces[i].ifindex = 3 * (w->t.n_interfaces - i); /* not in order */
		for (int k = 0; k < 8; k++)
			chains[k] = sometimes(seed, 2, MAX_CHAINS);
	}
	if (w->t.n_interfaces && check_below(seed, 2))
		w->interfaces[0].ifindex = 0;
	w->t.feed_chain = sometimes(seed, 2, MAX_CHAINS);
	w->t.inspect = random_terms(seed, &w->t, 3);
}

static struct fp_query random_query(uint64_t *seed)
{
	struct fp_query q = { .source = check_below(seed, MAX_IDENTITIES + 2),
			      .destination = check_below(seed, MAX_IDENTITIES + 2),
			      .iif = check_below(seed, 14), .oif = check_below(seed, 14),
			      .sport = random_port(seed), .dport = random_port(seed),
			      .proto = random_proto(seed), .family = check_below(seed, 2) ? 4 : 6,
			      .icmp_type = (uint8_t)check_below(seed, 4), .icmp_code = (uint8_t)check_below(seed, 3),
			      .hook = (uint8_t)check_below(seed, 4) };

	if (check_below(seed, 20) == 0) {
		q.flags = FP_QUERY_NO_PORTS;
		q.sport = q.dport = 0;
	}
	return q;
}

static struct world *world_new(void)
{
	return calloc(1, sizeof(struct world));
}

static void compare_with_twin(uint64_t seed, uint32_t longest, int worlds, int queries)
{
	struct fp_policy_cache *cache = NULL;
	struct world *w = world_new();

	CHECK(w && fp_policy_cache_create(64, &cache) == 0);
	for (int round = 0; w && cache && round < worlds; round++) {
		struct fp_policy *policy = NULL;
		unsigned wrong = 0, wrong_cached = 0;

		random_world(&seed, w, longest);
		CHECK(fp_policy_build(&w->t, &policy) == 0);
		for (int i = 0; policy && i < queries; i++) {
			struct fp_query q = random_query(&seed);
			struct fp_decision expected = twin_decide(&w->t, &q), got, first, second;

			fp_policy_decide(policy, &q, &got);
			wrong += !same(&got, &expected);
			fp_policy_decide_cached(policy, cache, &q, &first);
			CHECK(fp_policy_decide_cached(policy, cache, &q, &second) == 1);
			wrong_cached += !same(&first, &expected) || !same(&second, &expected);
		}
		CHECK(wrong == 0);
		CHECK(wrong_cached == 0);
		fp_policy_release(policy);
	}
	fp_policy_cache_free(cache);
	free(w);
}

static void test_short_chains_agree_with_the_twin(void)
{
	compare_with_twin(1, 12, 150, 300);
}

static void test_indexed_chains_agree_with_the_twin(void)
{
	compare_with_twin(2, 300, 40, 500);
}

/* Predicates so sparsely used that the index hashes them. */
static void test_sparse_predicates_agree_with_the_twin(void)
{
	struct world *w = world_new();
	uint64_t seed = 4;

	for (int round = 0; round < 20; round++) {
		struct fp_policy *policy = NULL;
		unsigned wrong = 0;

		random_world(&seed, w, 300);
		w->t.n_predicates = 1000 * PREDICATES;
		for (uint32_t i = 0; i < w->t.n_rules; i++) {
			w->rules[i].source = w->rules[i].source == FP_NONE ? FP_NONE : w->rules[i].source * 1000;
			w->rules[i].destination = w->rules[i].destination == FP_NONE ? FP_NONE : w->rules[i].destination * 1000;
		}
		for (uint32_t i = 0; i < MAX_TERMS; i++)
			w->terms[i].predicate = w->terms[i].predicate == FP_NONE ? FP_NONE : w->terms[i].predicate * 1000;
		for (uint32_t i = 0; i < w->offsets[w->t.n_identities]; i++)
			w->predicates[i] *= 1000;
		CHECK(fp_policy_build(&w->t, &policy) == 0);
		for (int i = 0; policy && i < 300; i++) {
			struct fp_query q = random_query(&seed);
			struct fp_decision expected = twin_decide(&w->t, &q), got;

			fp_policy_decide(policy, &q, &got);
			wrong += !same(&got, &expected);
		}
		CHECK(wrong == 0);
		fp_policy_release(policy);
	}
	free(w);
}

static void test_chains_of_several_segments_agree_with_the_twin(void)
{
	struct world *w = world_new();
	struct fp_policy *policy = NULL;
	uint64_t seed = 3;
	unsigned wrong = 0;

	random_world(&seed, w, 2);
	w->t.n_rules = 0;
	for (uint32_t i = 0; i < MAX_CHAINS; i++)
		random_chain(&seed, w, i, i == 5 ? 66000 : 60);
	for (uint32_t i = 0; i < 66000; i++) { /* rarely hit, so that later segments are reached */
		struct fp_rule *r = &w->rules[w->chains[5].first + i];

		if (check_below(&seed, 20000) || r->action == FP_ACTION_PASS) {
			r->flags |= FP_RULE_PROTO;
			r->proto = 6;
			r->dport = (struct fp_port_terms){ i % 100, 1 };
			w->terms[i % 100].proto = 17;
		}
	}
	for (uint32_t i = 0; i < w->t.n_identities; i++)
		w->identities[i].ingress = w->identities[i].staged_ingress = 5;
	CHECK(fp_policy_build(&w->t, &policy) == 0);
	for (int i = 0; policy && i < 150; i++) {
		struct fp_query q = random_query(&seed);
		struct fp_decision expected = twin_decide(&w->t, &q), got;

		fp_policy_decide(policy, &q, &got);
		wrong += !same(&got, &expected);
	}
	CHECK(wrong == 0);
	fp_policy_release(policy);
	free(w);
}

/* ---- by example ---- */

/* Identity 1 has predicate 0, identity 2 predicates 0 and 1. One chain, ingress of identity 2. */
static struct world *small_world(uint32_t n_rules)
{
	struct world *w = world_new();

	w->t = (struct fp_policy_tables){ .rules = w->rules, .n_rules = n_rules, .port_terms = w->terms, .n_port_terms = 4,
					  .chains = w->chains, .n_chains = 1, .predicate_offsets = w->offsets,
					  .predicates = w->predicates, .n_predicates = 2, .identities = w->identities,
					  .n_identities = 3, .interfaces = w->interfaces, .feed_chain = FP_NONE };
	memcpy(w->offsets, (uint32_t[]){ 0, 0, 1, 3 }, 4 * sizeof(uint32_t));
	memcpy(w->predicates, (uint32_t[]){ 0, 0, 1 }, 3 * sizeof(uint32_t));
	for (int i = 0; i < 3; i++)
		w->identities[i] = (struct fp_identity_chains){ FP_NONE, FP_NONE, FP_NONE, FP_NONE };
	w->identities[2].ingress = w->identities[2].staged_ingress = 0;
	w->chains[0] = (struct fp_chain){ .first = 0, .count = n_rules, .default_rule = 99, .default_action = FP_ACTION_DENY };
	for (uint32_t i = 0; i < n_rules; i++)
		w->rules[i] = (struct fp_rule){ .id = i, .source = FP_NONE, .destination = FP_NONE, .action = FP_ACTION_ALLOW };
	for (int i = 0; i < 4; i++)
		w->terms[i] = (struct fp_port_term){ .predicate = FP_NONE, .first = 80, .last = 80 };
	return w;
}

static struct fp_decision ask(const struct world *w, struct fp_query q)
{
	struct fp_decision d = { .verdict = 0xff };
	struct fp_policy *policy = NULL;

	CHECK(fp_policy_build(&w->t, &policy) == 0);
	if (policy)
		fp_policy_decide(policy, &q, &d);
	fp_policy_release(policy);
	return d;
}

static const struct fp_query web = { .source = 1, .destination = 2, .sport = 40000, .dport = 80, .proto = 6, .family = 4,
				     .hook = FP_HOOK_FORWARD };

static void test_nothing_governs_an_unknown_pair(void)
{
	struct world *w = small_world(0);
	struct fp_query q = web;
	struct fp_decision d;

	q.destination = 1;
	d = ask(w, q);
	CHECK(d.verdict == FP_VERDICT_ALLOW && !d.governed && d.rule == FP_NONE && d.staged_rule == FP_NONE);
	q.destination = 12345; /* counts as the world */
	CHECK(ask(w, q).governed == 0);
	d = ask(w, web);
	CHECK(d.verdict == FP_VERDICT_DROP && d.governed && d.rule == 99);
	free(w);
}

static void test_negated_port_speaks_only_of_packets_with_ports(void)
{
	struct world *w = small_world(1);
	struct fp_query q = web;

	w->rules[0].not_dport = (struct fp_port_terms){ 0, 1 };
	CHECK(ask(w, web).verdict == FP_VERDICT_DROP);
	q.dport = 81;
	CHECK(ask(w, q).verdict == FP_VERDICT_ALLOW);
	q.proto = 1;
	CHECK(ask(w, q).verdict == FP_VERDICT_DROP);
	q.proto = 6;
	q.flags = FP_QUERY_NO_PORTS;
	CHECK(ask(w, q).verdict == FP_VERDICT_DROP);
	free(w);
}

static void test_negated_named_port_leaves_other_protocols_alone(void)
{
	struct world *w = small_world(1);
	struct fp_query q = web;

	w->rules[0].not_dport = (struct fp_port_terms){ 0, 1 };
	w->terms[0].proto = 6;
	CHECK(ask(w, web).verdict == FP_VERDICT_DROP);
	q.proto = 1;
	CHECK(ask(w, q).verdict == FP_VERDICT_ALLOW);
	q.proto = 17;
	CHECK(ask(w, q).verdict == FP_VERDICT_ALLOW);
	q.flags = FP_QUERY_NO_PORTS;
	CHECK(ask(w, q).verdict == FP_VERDICT_DROP);
	free(w);
}

static void test_named_port_asks_the_side_the_port_is_on(void)
{
	struct world *w = small_world(1);

	w->rules[0].dport = (struct fp_port_terms){ 0, 1 };
	w->terms[0].predicate = 1; /* the destination has it, the source has not */
	CHECK(ask(w, web).verdict == FP_VERDICT_ALLOW);
	w->rules[0].dport.count = 0;
	w->rules[0].sport = (struct fp_port_terms){ 0, 1 };
	w->terms[0].last = 65535;
	CHECK(ask(w, web).verdict == FP_VERDICT_DROP);
	free(w);
}

static void test_log_is_recorded_and_pass_jumps(void)
{
	struct world *w = small_world(4);
	struct fp_trace_step steps[8];
	struct fp_policy *policy = NULL;
	size_t written = 0;

	w->rules[0].action = FP_ACTION_LOG;
	w->rules[1].action = FP_ACTION_PASS;
	w->rules[1].pass_to = 3;
	w->rules[2].action = FP_ACTION_DENY;
	w->rules[3].action = FP_ACTION_REJECT;
	CHECK(ask(w, web).verdict == FP_VERDICT_REJECT && ask(w, web).rule == 3);
	CHECK(fp_policy_build(&w->t, &policy) == 0);
	CHECK(fp_policy_trace(policy, &web, 0, steps, 8) == 3);
	CHECK(steps[0].rule == 0 && steps[0].action == FP_ACTION_LOG);
	CHECK(steps[1].rule == 1 && steps[1].action == FP_ACTION_PASS);
	CHECK(steps[2].rule == 3 && steps[2].action == FP_ACTION_REJECT);
	CHECK(fp_policy_trace(policy, &web, 0, steps, 2) == 2);
	CHECK(fp_policy_trace_chain(policy, 0, &web, steps, 8, &written) == FP_ACTION_REJECT && written == 3);
	CHECK(fp_policy_trace_chain(policy, 1, &web, steps, 8, &written) == -EINVAL);
	fp_policy_release(policy);
	free(w);
}

static void test_staged_policy_changes_only_the_staged_verdict(void)
{
	struct world *w = small_world(1);
	struct fp_decision d;

	w->t.n_chains = 2;
	w->chains[1] = (struct fp_chain){ .first = 1, .default_rule = 55, .default_action = FP_ACTION_REJECT };
	w->identities[2].staged_ingress = 1;
	d = ask(w, web);
	CHECK(d.verdict == FP_VERDICT_ALLOW && d.rule == 0);
	CHECK(d.staged_verdict == FP_VERDICT_REJECT && d.staged_rule == 55);
	free(w);
}

static void test_inspection_by_rule_and_by_port(void)
{
	struct world *w = small_world(1);

	w->rules[0].flags = FP_RULE_INSPECT;
	CHECK(ask(w, web).verdict == FP_VERDICT_INSPECT && ask(w, web).rule == 0);
	w->rules[0].flags = 0;
	CHECK(ask(w, web).verdict == FP_VERDICT_ALLOW);
	w->t.inspect = (struct fp_port_terms){ 0, 1 };
	CHECK(ask(w, web).verdict == FP_VERDICT_INSPECT);
	w->rules[0].action = FP_ACTION_DENY;
	CHECK(ask(w, web).verdict == FP_VERDICT_DROP);
	free(w);
}

static void test_host_reaches_its_own_workloads(void)
{
	struct world *w = small_world(0);
	struct fp_query q = web;

	w->t.n_interfaces = 1;
	w->interfaces[0] = (struct fp_interface_chains){ 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	q.hook = FP_HOOK_OUTPUT;
	CHECK(ask(w, q).governed == 0);
	q.destination = 1;
	CHECK(ask(w, q).verdict == FP_VERDICT_DROP);
	free(w);
}

static void test_feeds_are_asked_first_and_do_not_govern(void)
{
	struct world *w = small_world(0);
	struct fp_decision d;

	w->t.n_chains = 2;
	w->t.n_rules = 1;
	w->chains[0].default_action = FP_ACTION_ALLOW;
	w->rules[0] = (struct fp_rule){ .id = 7, .source = 0, .destination = FP_NONE, .action = FP_ACTION_DENY };
	w->chains[1] = (struct fp_chain){ .first = 0, .count = 1, .default_rule = FP_NONE, .default_action = FP_ACTION_NEXT };
	w->t.feed_chain = 1;
	d = ask(w, web);
	CHECK(d.verdict == FP_VERDICT_DROP && d.rule == 7 && d.staged_verdict == FP_VERDICT_DROP);
	w->rules[0].action = FP_ACTION_ALLOW;
	CHECK(ask(w, web).rule == 99);
	w->identities[2].ingress = w->identities[2].staged_ingress = FP_NONE;
	CHECK(ask(w, web).governed == 0);
	free(w);
}

static int refused(const struct world *w)
{
	struct fp_policy *policy = NULL;
	int err = fp_policy_build(&w->t, &policy);

	fp_policy_release(policy);
	return err == -EINVAL && !policy;
}

#define REFUSED(change)                                   \
	do {                                              \
		struct world *w = small_world(2);         \
		CHECK(!refused(w));                       \
		change;                                   \
		CHECK(refused(w));                        \
		free(w);                                  \
	} while (0)

static void test_refuses_every_index_out_of_range(void)
{
	REFUSED(w->rules[0].source = 2);
	REFUSED(w->rules[1].destination = 2);
	REFUSED(w->rules[1].action = FP_ACTION_NEXT);
	REFUSED(w->rules[1].flags = FP_RULE_ICMP_CODE);
	REFUSED(w->rules[1].flags = 0x8000);
	REFUSED((w->rules[1].dport = (struct fp_port_terms){ 4, 1 }));
	REFUSED((w->rules[1].not_sport = (struct fp_port_terms){ 1, 0xffffffff }));
	REFUSED((w->rules[1].action = FP_ACTION_PASS, w->rules[1].pass_to = 1));
	REFUSED((w->rules[0].action = FP_ACTION_PASS, w->rules[0].pass_to = 3));
	REFUSED(w->terms[3].predicate = 2);
	REFUSED(w->terms[0].first = 81);
	REFUSED(w->chains[0].count = 3);
	REFUSED((w->chains[0].first = 0xffffffff, w->chains[0].count = 2));
	REFUSED(w->chains[0].default_action = FP_ACTION_PASS);
	REFUSED(w->offsets[0] = 1);
	REFUSED(w->offsets[1] = 2);
	REFUSED(w->predicates[0] = 2);
	REFUSED((w->predicates[1] = 1, w->predicates[2] = 0));
	REFUSED(w->identities[0].staged_egress = 1);
	REFUSED(w->t.feed_chain = 1);
	REFUSED((w->t.inspect = (struct fp_port_terms){ 0, 5 }));
	REFUSED((w->t.n_interfaces = 2, memset(w->interfaces, 0, sizeof(w->interfaces))));
	REFUSED((w->t.n_interfaces = 1, w->interfaces[0].staged_forward_egress = 1));
}

/* Other chains, another identity, one more where there is room: in the world, and as a change to it. */
static int change_world(uint64_t *seed, struct world *w, const struct fp_policy *old, struct fp_policy **out)
{
	uint32_t numbers[3], first = w->t.n_rules, added = w->t.n_identities < MAX_IDENTITIES;
	uint32_t who = added ? w->t.n_identities : check_below(seed, w->t.n_identities), held = w->offsets[w->t.n_identities];
	uint32_t offsets[2] = { 0, 0 }, n_rules;
	struct fp_chain chains[3];
	struct fp_rule *rules;
	struct fp_policy_change change = { .chain_numbers = numbers, .chains = chains, .n_chains = 3,
					   .n_predicates = PREDICATES, .identity_numbers = &who, .n_identities = 1,
					   .predicate_offsets = offsets, .interfaces = w->interfaces,
					   .n_interfaces = w->t.n_interfaces };
	int err;

	for (uint32_t i = 0; i < 3; i++) {
		numbers[i] = (check_below(seed, 5) + 5 * i) % MAX_CHAINS;
		random_chain(seed, w, numbers[i], check_below(seed, 200));
		chains[i] = w->chains[numbers[i]];
		chains[i].first -= first;
	}
	n_rules = w->t.n_rules - first;
	rules = malloc((n_rules ? n_rules : 1) * sizeof(*rules));
	if (!rules)
		return -ENOMEM;
	memcpy(rules, &w->rules[first], n_rules * sizeof(*rules));
	for (uint32_t i = 0; i < n_rules; i++)
		rules[i].pass_to -= rules[i].action == FP_ACTION_PASS ? first : 0;
	change.rules = rules;
	change.n_rules = n_rules;
	if (added) {
		w->t.n_identities++;
		w->offsets[who + 1] = held;
		for (uint32_t p = 0; p < PREDICATES; p++)
			if (check_below(seed, 2))
				w->predicates[w->offsets[who + 1]++] = p;
	}
	w->identities[who].ingress = sometimes(seed, 2, MAX_CHAINS);
	w->identities[who].egress = sometimes(seed, 2, MAX_CHAINS);
	w->identities[who].staged_ingress = w->identities[who].ingress;
	w->identities[who].staged_egress = sometimes(seed, 2, MAX_CHAINS);
	offsets[1] = w->offsets[who + 1] - w->offsets[who];
	change.predicates = &w->predicates[w->offsets[who]];
	change.identities = &w->identities[who];
	err = fp_policy_update(old, &change, out);
	free(rules);
	return err;
}

static void test_updated_policies_agree_with_the_twin(void)
{
	struct world *w = world_new();
	uint64_t seed = 7;

	for (int round = 0; w && round < 40; round++) {
		struct fp_policy *policy = NULL, *next = NULL;
		unsigned wrong = 0;

		random_world(&seed, w, 200);
		CHECK(fp_policy_build(&w->t, &policy) == 0);
		for (int step = 0; step < 5; step++) {
			CHECK(change_world(&seed, w, policy, &next) == 0);
			fp_policy_release(policy);
			policy = next;
			for (int i = 0; i < 100; i++) {
				struct fp_query q = random_query(&seed);
				struct fp_decision expected = twin_decide(&w->t, &q), got;

				fp_policy_decide(policy, &q, &got);
				wrong += !same(&got, &expected);
			}
		}
		CHECK(wrong == 0);
		fp_policy_release(policy);
	}
	free(w);
}

static void test_update_refuses_what_it_cannot_place(void)
{
	struct world *w = small_world(1);
	uint32_t far = w->t.n_chains + 1, offsets[2] = { 0, 0 };
	struct fp_chain chain = { .default_action = FP_ACTION_NEXT };
	struct fp_identity_chains none = { FP_NONE, FP_NONE, FP_NONE, FP_NONE };
	struct fp_policy_change change = { .n_predicates = w->t.n_predicates };
	struct fp_policy *policy = NULL, *next = NULL;

	CHECK(fp_policy_build(&w->t, &policy) == 0);
	CHECK(fp_policy_update(policy, &change, &next) == 0);
	fp_policy_release(next);
	change.n_predicates--;
	CHECK(fp_policy_update(policy, &change, &next) == -EINVAL);
	change.n_predicates++;
	change.chain_numbers = &far;
	change.chains = &chain;
	change.n_chains = 1;
	CHECK(fp_policy_update(policy, &change, &next) == -EINVAL); /* leaves a gap */
	far--;
	CHECK(fp_policy_update(policy, &change, &next) == 0);
	fp_policy_release(next);
	change.n_chains = 0;
	none.ingress = w->t.n_chains;
	far = 0;
	change.identity_numbers = &far;
	change.identities = &none;
	change.predicate_offsets = offsets;
	change.n_identities = 1;
	CHECK(fp_policy_update(policy, &change, &next) == -EINVAL); /* a chain that is not there */
	fp_policy_release(policy);
	free(w);
}

static void test_cache_forgets_the_old_policy(void)
{
	struct world *w = small_world(1);
	struct fp_policy *allow = NULL, *deny = NULL;
	struct fp_policy_cache *cache = NULL;
	struct fp_decision d;

	CHECK(fp_policy_cache_create(0, &cache) == 0);
	CHECK(fp_policy_build(&w->t, &allow) == 0);
	w->rules[0].action = FP_ACTION_DENY;
	CHECK(fp_policy_build(&w->t, &deny) == 0);
	CHECK(fp_policy_decide_cached(allow, cache, &web, &d) == 0 && d.verdict == FP_VERDICT_ALLOW);
	CHECK(fp_policy_decide_cached(allow, cache, &web, &d) == 1 && d.verdict == FP_VERDICT_ALLOW);
	CHECK(fp_policy_decide_cached(deny, cache, &web, &d) == 0 && d.verdict == FP_VERDICT_DROP);
	CHECK(fp_policy_decide_cached(allow, cache, &web, &d) == 0 && d.verdict == FP_VERDICT_ALLOW);
	CHECK(fp_policy_cache_create((size_t)1 << 25, &cache) == -EINVAL);
	fp_policy_cache_free(cache);
	fp_policy_release(allow);
	fp_policy_release(deny);
	free(w);
}

/* An empty node: no identities, no chains at all. */
static void test_empty_tables_allow_everything_ungoverned(void)
{
	struct fp_policy_tables t = { .feed_chain = FP_NONE };
	struct fp_policy *policy = NULL;
	struct fp_decision d;

	CHECK(fp_policy_build(&t, &policy) == 0);
	fp_policy_decide(policy, &web, &d);
	CHECK(d.verdict == FP_VERDICT_ALLOW && !d.governed && d.rule == FP_NONE);
	CHECK(fp_policy_memory(policy) > 0);
	fp_policy_release(policy);
}

/* What mallinfo counts is 0 under the sanitizers; the plain build proves it. */
static void test_decisions_allocate_nothing(void)
{
	struct world *w = world_new();
	struct fp_policy_cache *cache = NULL;
	struct fp_policy *policy = NULL;
	struct mallinfo2 before, after;
	uint64_t seed = 5;

	random_world(&seed, w, 300);
	CHECK(fp_policy_build(&w->t, &policy) == 0);
	CHECK(fp_policy_cache_create(64, &cache) == 0);
	before = mallinfo2();
	for (int i = 0; i < 2000; i++) {
		struct fp_query q = random_query(&seed);
		struct fp_decision d;

		fp_policy_decide_cached(policy, cache, &q, &d);
	}
	after = mallinfo2();
	CHECK(before.uordblks == after.uordblks && before.hblkhd == after.hblkhd);
	fp_policy_cache_free(cache);
	fp_policy_release(policy);
	free(w);
}

int main(void)
{
	RUN(test_short_chains_agree_with_the_twin);
	RUN(test_indexed_chains_agree_with_the_twin);
	RUN(test_sparse_predicates_agree_with_the_twin);
	RUN(test_chains_of_several_segments_agree_with_the_twin);
	RUN(test_nothing_governs_an_unknown_pair);
	RUN(test_negated_port_speaks_only_of_packets_with_ports);
	RUN(test_negated_named_port_leaves_other_protocols_alone);
	RUN(test_named_port_asks_the_side_the_port_is_on);
	RUN(test_log_is_recorded_and_pass_jumps);
	RUN(test_staged_policy_changes_only_the_staged_verdict);
	RUN(test_inspection_by_rule_and_by_port);
	RUN(test_host_reaches_its_own_workloads);
	RUN(test_feeds_are_asked_first_and_do_not_govern);
	RUN(test_refuses_every_index_out_of_range);
	RUN(test_updated_policies_agree_with_the_twin);
	RUN(test_update_refuses_what_it_cannot_place);
	RUN(test_cache_forgets_the_old_policy);
	RUN(test_empty_tables_allow_everything_ungoverned);
	RUN(test_decisions_allocate_nothing);
	return check_result();
}
