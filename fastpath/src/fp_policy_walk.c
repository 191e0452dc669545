/* SPDX-License-Identifier: Apache-2.0 */
/* What do the chains of a hook say together. */
#include <errno.h>

#include "fp_policy_internal.h"

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
		if (q->query->owner != FP_WORLD)
			plan_add(plan, identity_ingress(t, q->query->owner, staged));
		break;
	case FP_HOOK_OUTPUT:
		if (q->query->owner != FP_WORLD)
			plan_add(plan, identity_egress(t, q->query->owner, staged));
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

static struct judgement denied(struct fp_outcome outcome)
{
	return (struct judgement){ .rule = outcome.rule, .governed = 1,
				   .verdict = outcome.action == FP_ACTION_DENY ? FP_VERDICT_DROP : FP_VERDICT_REJECT };
}

/* `feeds`: what the feed chain said; not a denial. */
static struct judgement plan_ask(const struct fp_question *q, const struct plan *plan, struct fp_outcome feeds,
				 struct fp_recorder *recorder)
{
	struct judgement judgement = { .rule = FP_NONE, .verdict = FP_VERDICT_ALLOW, .governed = 0 };
	uint8_t inspect = feeds.inspect;

	for (unsigned i = 0; i < plan->n; i++) {
		struct fp_outcome outcome = fp_policy_ask_chain(q, plan->chains[i], recorder);

		if (outcome.action == FP_ACTION_NEXT)
			continue;
		if (is_denial(outcome.action))
			return denied(outcome);
		judgement.governed = 1;
		judgement.rule = outcome.rule;
		inspect |= outcome.inspect;
	}
	if (inspect || (q->has_ports && fp_policy_dport_matches(q, q->policy->t.inspect)))
		judgement.verdict = FP_VERDICT_INSPECT;
	return judgement;
}

static struct fp_outcome feeds_ask(const struct fp_question *q, struct fp_recorder *recorder)
{
	struct fp_outcome none = { .rule = FP_NONE, .action = FP_ACTION_NEXT };

	return q->policy->t.feed_chain == FP_NONE ? none : fp_policy_ask_chain(q, q->policy->t.feed_chain, recorder);
}

void fp_policy_decide(const struct fp_policy *policy, const struct fp_query *query, struct fp_decision *out)
{
	struct judgement now, staged;
	struct plan plan, staged_plan;
	struct fp_question q;
	struct fp_outcome feeds;

	fp_policy_question_set(&q, policy, query);
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
	struct fp_recorder recorder = { .steps = steps, .max = max < INT32_MAX ? max : INT32_MAX };
	struct fp_question q;
	struct fp_outcome feeds;
	struct plan plan;

	fp_policy_question_set(&q, policy, query);
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
	struct fp_recorder recorder = { .steps = steps, .max = max };
	struct fp_outcome outcome;
	struct fp_question q;

	if (chain >= policy->t.n_chains)
		return -EINVAL;
	fp_policy_question_set(&q, policy, query);
	outcome = fp_policy_ask_chain(&q, chain, &recorder);
	*written = recorder.n;
	return outcome.action;
}
