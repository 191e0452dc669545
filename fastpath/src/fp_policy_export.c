/* SPDX-License-Identifier: Apache-2.0 */
/* A policy as the tables that make it again. */
#include <string.h>

#include "fp_pace.h"
#include "fp_policy_internal.h"

void fp_policy_tables(const struct fp_policy *policy, struct fp_policy_tables *out, size_t *n_held)
{
	*out = policy->t;
	out->rules = NULL;
	out->chains = NULL;
	out->predicate_offsets = out->predicates = NULL;
	out->n_rules = 0;
	for (uint32_t i = 0; i < policy->t.n_chains; i++)
		out->n_rules += policy->chains[i]->count;
	*n_held = 0;
	for (uint32_t i = 0; i < policy->t.n_identities; i++)
		*n_held += policy->rows[i]->n;
}

void fp_policy_export(const struct fp_policy *policy, struct fp_rule *rules, struct fp_chain *chains,
		      uint32_t *predicate_offsets, uint32_t *predicates, uint32_t idle)
{
	struct fp_pace pace = { .idle = idle };
	uint32_t first = 0, held = 0;

	fp_pace_begin(&pace);
	for (uint32_t i = 0; i < policy->t.n_chains; i++) {
		const struct fp_policy_chain *chain = policy->chains[i];

		chains[i] = (struct fp_chain){ .first = first, .count = chain->count,
					       .default_rule = chain->default_rule,
					       .default_action = chain->default_action };
		for (uint32_t j = 0; j < chain->count; j++) {
			rules[first + j] = chain->rules[j];
			if (rules[first + j].action == FP_ACTION_PASS)
				rules[first + j].pass_to += first;
		}
		first += chain->count;
		fp_pace_take(&pace, 1u + chain->count);
	}
	for (uint32_t i = 0; i < policy->t.n_identities; i++) {
		const struct fp_policy_row *row = policy->rows[i];

		predicate_offsets[i] = held;
		if (row->n)
			memcpy(&predicates[held], row->predicates, row->n * sizeof(*predicates));
		held += row->n;
		fp_pace_take(&pace, 1u + row->n);
	}
	predicate_offsets[policy->t.n_identities] = held;
}
