/* SPDX-License-Identifier: Apache-2.0 */
/* The meaning of the tables by example, and what is refused. */
#include <errno.h>

#include "policy_twin.h"

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

/* What preDNAT policy allowed is a matter of workloads, and of the host endpoint it leaves by. */
static void test_policy_before_dnat_answers_for_the_interface_it_came_in_by(void)
{
	struct world *w = small_world(1);
	struct fp_policy *policy = NULL;
	struct fp_policy_cache *cache = NULL;
	struct fp_query q = web;
	struct fp_decision d;

	w->chains[1] = (struct fp_chain){ .default_rule = 900, .default_action = FP_ACTION_DENY };
	w->t.n_chains = 2;
	w->interfaces[0] = (struct fp_interface_chains){ 7, 1, FP_NONE, 1, FP_NONE, 1, FP_NONE, 1, FP_NONE };
	w->interfaces[1] = (struct fp_interface_chains){ 8, 1, 1, 1, 1, 1, 1, 1, 1 };
	w->t.n_interfaces = 2;
	CHECK(fp_policy_build(&w->t, &policy) == 0 && fp_policy_cache_create(64, &cache) == 0);
	q.iif = 7;
	for (uint8_t hook = FP_HOOK_INPUT; hook <= FP_HOOK_FORWARD; hook++) {
		q.hook = hook;
		q.flags = 0;
		q.oif = 0;
		fp_policy_decide_cached(policy, cache, &q, &d);
		CHECK(d.verdict == FP_VERDICT_DROP && d.rule == 900);
		q.flags = FP_QUERY_PRE_DNAT;
		CHECK(fp_policy_decide_cached(policy, cache, &q, &d) == 0); /* another question */
		CHECK(d.verdict == FP_VERDICT_ALLOW && d.staged_verdict == FP_VERDICT_ALLOW);
	}
	q.oif = 8;
	fp_policy_decide(policy, &q, &d);
	CHECK(d.verdict == FP_VERDICT_DROP && d.rule == 900);
	q.oif = 0;
	w->rules[0].action = FP_ACTION_DENY; /* of the workload */
	fp_policy_release(policy);
	CHECK(fp_policy_build(&w->t, &policy) == 0);
	fp_policy_decide(policy, &q, &d);
	CHECK(d.verdict == FP_VERDICT_DROP && d.rule == w->rules[0].id);
	fp_policy_cache_free(cache);
	fp_policy_release(policy);
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

int main(void)
{
	RUN(test_nothing_governs_an_unknown_pair);
	RUN(test_negated_port_speaks_only_of_packets_with_ports);
	RUN(test_negated_named_port_leaves_other_protocols_alone);
	RUN(test_named_port_asks_the_side_the_port_is_on);
	RUN(test_log_is_recorded_and_pass_jumps);
	RUN(test_staged_policy_changes_only_the_staged_verdict);
	RUN(test_inspection_by_rule_and_by_port);
	RUN(test_host_reaches_its_own_workloads);
	RUN(test_policy_before_dnat_answers_for_the_interface_it_came_in_by);
	RUN(test_feeds_are_asked_first_and_do_not_govern);
	RUN(test_refuses_every_index_out_of_range);
	RUN(test_update_refuses_what_it_cannot_place);
	RUN(test_cache_forgets_the_old_policy);
	RUN(test_empty_tables_allow_everything_ungoverned);
	return check_result();
}
