/* SPDX-License-Identifier: Apache-2.0 */
/* Random policies, and changes to them, against the naive twin. */
#include <errno.h>
#include <malloc.h>

#include "policy_twin.h"

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
			      .hook = (uint8_t)check_below(seed, 4),
			      .owner = check_below(seed, 3) ? FP_WORLD : check_below(seed, MAX_IDENTITIES + 2) };

	if (check_below(seed, 20) == 0) {
		q.flags = FP_QUERY_NO_PORTS;
		q.sport = q.dport = 0;
	}
	if (check_below(seed, 4) == 0)
		q.flags |= FP_QUERY_PRE_DNAT;
	return q;
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

/* The policy that is built of what this one exports. */
static struct fp_policy *rebuilt(const struct fp_policy *policy)
{
	struct fp_policy *made = NULL;
	struct fp_policy_tables t;
	size_t n_held;

	fp_policy_tables(policy, &t, &n_held);
	struct fp_rule *rules = calloc(t.n_rules + 1u, sizeof(*rules));
	struct fp_chain *chains = calloc(t.n_chains + 1u, sizeof(*chains));
	uint32_t *offsets = calloc(t.n_identities + 1u, sizeof(*offsets));
	uint32_t *held = calloc(n_held + 1, sizeof(*held));

	CHECK(rules && chains && offsets && held);
	fp_policy_export(policy, rules, chains, offsets, held, 1);
	t.rules = rules;
	t.chains = chains;
	t.predicate_offsets = offsets;
	t.predicates = held;
	CHECK(!fp_policy_build(&t, &made));
	free(rules);
	free(chains);
	free(offsets);
	free(held);
	return made;
}

static void test_updated_policies_agree_with_the_twin(void)
{
	struct world *w = world_new();
	uint64_t seed = 7;

	for (int round = 0; w && round < 40; round++) {
		struct fp_policy *policy = NULL, *next = NULL, *again;
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
		again = rebuilt(policy);
		fp_policy_release(policy);
		for (int i = 0; i < 100; i++) {
			struct fp_query q = random_query(&seed);
			struct fp_decision expected = twin_decide(&w->t, &q), got;

			fp_policy_decide(again, &q, &got);
			wrong += !same(&got, &expected);
		}
		CHECK(wrong == 0);
		fp_policy_release(again);
	}
	free(w);
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
	RUN(test_updated_policies_agree_with_the_twin);
	RUN(test_decisions_allocate_nothing);
	return check_result();
}
