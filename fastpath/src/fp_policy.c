/* SPDX-License-Identifier: Apache-2.0 */
/* Building a policy and making the next one of it. */
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
static_assert(sizeof(struct fp_query) == 32, "layout shared with Python");
static_assert(sizeof(struct fp_decision) == 12, "layout shared with Python");

static struct fp_policy *policy_create(void)
{
	struct fp_policy *policy;
	struct fp_hash_key id;

	if (fp_hash_key_random(&id))
		return NULL;
	policy = calloc(1, sizeof(*policy));
	if (!policy)
		return NULL;
	policy->id = id.k0 | 1; /* 0: a cache that has not answered yet */
	policy->memory = sizeof(*policy);
	policy->t.feed_chain = FP_NONE;
	atomic_init(&policy->refs, 1);
	return policy;
}

/* ---- the tables that every policy has for itself: room for n, the first n_from copied ---- */

static void *copy(struct fp_policy *policy, const void *from, size_t n_from, size_t n, size_t size)
{
	void *to = fp_policy_alloc(&policy->memory, n, size);

	if (to && n_from)
		memcpy(to, from, n_from * size);
	return to;
}

static int compare_interfaces(const void *a, const void *b)
{
	const struct fp_interface_chains *x = a, *y = b;

	return x->ifindex < y->ifindex ? -1 : x->ifindex > y->ifindex;
}

static int take_interfaces(struct fp_policy *policy, const struct fp_interface_chains *from, uint32_t n)
{
	struct fp_interface_chains *to = copy(policy, from, n, n, sizeof(*to));

	policy->t.interfaces = to;
	if (!to)
		return -ENOMEM;
	policy->t.n_interfaces = n;
	qsort(to, n, sizeof(*to), compare_interfaces);
	return fp_policy_interfaces_ok(to, n, policy->t.n_chains) ? 0 : -EINVAL;
}

/* Room for parts and identities; the numbers say how much of it is filled. */
static int make_room(struct fp_policy *policy, uint32_t n_chains, uint32_t n_identities)
{
	policy->chains = fp_policy_alloc(&policy->memory, n_chains, sizeof(struct fp_policy_chain *));
	policy->rows = fp_policy_alloc(&policy->memory, n_identities, sizeof(struct fp_policy_row *));
	if (!policy->chains || !policy->rows)
		return -ENOMEM;
	policy->t.n_chains = n_chains;
	policy->t.n_identities = n_identities;
	return 0;
}

/* numbers NULL: all, in order. What stood there is given up. */
static int take_chains(struct fp_policy *policy, const struct fp_policy_tables *from, const uint32_t *numbers)
{
	for (uint32_t i = 0; i < from->n_chains; i++) {
		struct fp_policy_chain *chain = fp_policy_chain_create(from, &from->chains[i]);
		uint32_t at = numbers ? numbers[i] : i;

		if (!chain)
			return -ENOMEM;
		fp_policy_chain_release(policy->chains[at]);
		policy->chains[at] = chain;
	}
	return 0;
}

static int take_rows(struct fp_policy *policy, const struct fp_policy_tables *from, const uint32_t *numbers)
{
	for (uint32_t i = 0; i < from->n_identities; i++) {
		uint32_t first = from->predicate_offsets[i], n = from->predicate_offsets[i + 1] - first;
		struct fp_policy_row *row = fp_policy_row_create(from->predicates + first, n);
		uint32_t at = numbers ? numbers[i] : i;

		if (!row)
			return -ENOMEM;
		fp_policy_row_release(policy->rows[at]);
		policy->rows[at] = row;
	}
	return 0;
}

/* -EINVAL: a number was skipped. */
static int finish(struct fp_policy *policy)
{
	for (uint32_t i = 0; i < policy->t.n_chains; i++) {
		if (!policy->chains[i])
			return -EINVAL;
		policy->memory += policy->chains[i]->memory;
		policy->asks_sport |= policy->chains[i]->asks_sport;
	}
	for (uint32_t i = 0; i < policy->t.n_identities; i++) {
		if (!policy->rows[i])
			return -EINVAL;
		policy->memory += sizeof(struct fp_policy_row) + policy->rows[i]->n * sizeof(uint32_t);
	}
	return 0;
}

static int build(struct fp_policy *policy, const struct fp_policy_tables *from)
{
	struct fp_policy_tables *t = &policy->t;
	int err = make_room(policy, from->n_chains, from->n_identities);

	if (err)
		return err;
	t->port_terms = copy(policy, from->port_terms, from->n_port_terms, from->n_port_terms, sizeof(*t->port_terms));
	t->identities = copy(policy, from->identities, from->n_identities, from->n_identities, sizeof(*t->identities));
	if (!t->port_terms || !t->identities)
		return -ENOMEM;
	t->n_port_terms = from->n_port_terms;
	t->n_predicates = from->n_predicates;
	t->feed_chain = from->feed_chain;
	t->inspect = from->inspect;
	err = take_interfaces(policy, from->interfaces, from->n_interfaces);
	if (!err)
		err = take_chains(policy, from, NULL);
	if (!err)
		err = take_rows(policy, from, NULL);
	return err ? err : finish(policy);
}

int fp_policy_build(const struct fp_policy_tables *tables, struct fp_policy **out)
{
	struct fp_policy *policy;
	int err;

	if (!fp_policy_tables_ok(tables))
		return -EINVAL;
	policy = policy_create();
	if (!policy)
		return -ENOMEM;
	err = build(policy, tables);
	if (err) {
		fp_policy_release(policy);
		return err;
	}
	*out = policy;
	return 0;
}

/* ---- the next policy ---- */

/* How many there are with these numbers among them; 0 where that is beyond reason. */
static uint32_t count_after(uint32_t n, const uint32_t *numbers, uint32_t n_numbers)
{
	uint64_t limit = (uint64_t)n + n_numbers;

	for (uint32_t i = 0; i < n_numbers; i++) {
		if (numbers[i] >= limit || numbers[i] == FP_NONE)
			return 0;
		if (numbers[i] >= n)
			n = numbers[i] + 1;
	}
	return n;
}

static void share(struct fp_policy *policy, const struct fp_policy *old)
{
	for (uint32_t i = 0; i < old->t.n_chains; i++)
		policy->chains[i] = fp_policy_chain_acquire(old->chains[i]);
	for (uint32_t i = 0; i < old->t.n_identities; i++)
		policy->rows[i] = fp_policy_row_acquire(old->rows[i]);
}

static int update(struct fp_policy *policy, const struct fp_policy *old, const struct fp_policy_change *change)
{
	struct fp_policy_tables *t = &policy->t, changed;
	uint32_t n_chains = count_after(old->t.n_chains, change->chain_numbers, change->n_chains);
	uint32_t n_identities = count_after(old->t.n_identities, change->identity_numbers, change->n_identities);
	uint32_t n_terms = old->t.n_port_terms + change->n_port_terms;
	struct fp_port_term *terms;
	struct fp_identity_chains *identities;
	int err;

	if ((change->n_chains && !n_chains) || (change->n_identities && !n_identities) ||
	    n_terms < change->n_port_terms || change->n_predicates < old->t.n_predicates)
		return -EINVAL;
	err = make_room(policy, n_chains, n_identities);
	if (err)
		return err;
	share(policy, old);
	t->port_terms = terms = copy(policy, old->t.port_terms, old->t.n_port_terms, n_terms, sizeof(*terms));
	t->identities = identities =
		copy(policy, old->t.identities, old->t.n_identities, n_identities, sizeof(*identities));
	if (!terms || !identities)
		return -ENOMEM;
	if (change->n_port_terms)
		memcpy(&terms[old->t.n_port_terms], change->port_terms, change->n_port_terms * sizeof(*terms));
	for (uint32_t i = 0; i < change->n_identities; i++)
		identities[change->identity_numbers[i]] = change->identities[i];
	t->n_port_terms = n_terms;
	t->n_predicates = change->n_predicates;
	t->feed_chain = old->t.feed_chain;
	t->inspect = old->t.inspect;
	changed = *t;
	changed.rules = change->rules;
	changed.n_rules = change->n_rules;
	changed.chains = change->chains;
	changed.n_chains = change->n_chains;
	changed.identities = change->identities;
	changed.n_identities = change->n_identities;
	changed.predicate_offsets = change->predicate_offsets;
	changed.predicates = change->predicates;
	if (!fp_policy_change_ok(&changed, n_chains))
		return -EINVAL;
	err = take_interfaces(policy, change->interfaces, change->n_interfaces);
	if (!err)
		err = take_chains(policy, &changed, change->chain_numbers);
	if (!err)
		err = take_rows(policy, &changed, change->identity_numbers);
	return err ? err : finish(policy);
}

int fp_policy_update(const struct fp_policy *old, const struct fp_policy_change *change, struct fp_policy **out)
{
	struct fp_policy *policy = policy_create();
	int err;

	if (!policy)
		return -ENOMEM;
	err = update(policy, old, change);
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
	if (!policy || atomic_fetch_sub_explicit(&policy->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i < policy->t.n_chains; i++)
		fp_policy_chain_release(policy->chains[i]);
	for (uint32_t i = 0; i < policy->t.n_identities; i++)
		fp_policy_row_release(policy->rows[i]);
	free(policy->chains);
	free(policy->rows);
	free((void *)(uintptr_t)policy->t.port_terms);
	free((void *)(uintptr_t)policy->t.identities);
	free((void *)(uintptr_t)policy->t.interfaces);
	free(policy);
}
