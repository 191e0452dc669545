/* SPDX-License-Identifier: Apache-2.0 */
/* Chains and rows: the parts of a policy that the next one takes over if they did not change. */
#include <stdlib.h>
#include <string.h>

#include "fp_policy_internal.h"

void *fp_policy_alloc(size_t *memory, size_t n, size_t size)
{
	void *block = calloc(n ? n : 1, size);

	if (block)
		*memory += n * size;
	return block;
}

struct fp_policy_chain *fp_policy_chain_create(const struct fp_policy_tables *from, const struct fp_chain *chain)
{
	struct fp_policy_chain *made;
	size_t memory = 0;

	made = fp_policy_alloc(&memory, 1, sizeof(*made));
	if (!made)
		return NULL;
	atomic_init(&made->refs, 1);
	made->count = chain->count;
	made->default_rule = chain->default_rule;
	made->default_action = chain->default_action;
	made->rules = fp_policy_alloc(&memory, chain->count, sizeof(*made->rules));
	if (!made->rules)
		goto fail;
	for (uint32_t i = 0; i < chain->count; i++) {
		made->rules[i] = from->rules[chain->first + i];
		if (made->rules[i].action == FP_ACTION_PASS)
			made->rules[i].pass_to -= chain->first;
		made->asks_sport |= made->rules[i].sport.count || made->rules[i].not_sport.count;
	}
	made->memory = memory;
	if (fp_policy_index_chain(made, from))
		goto fail;
	return made;
fail:
	fp_policy_chain_release(made);
	return NULL;
}

struct fp_policy_chain *fp_policy_chain_acquire(struct fp_policy_chain *chain)
{
	atomic_fetch_add_explicit(&chain->refs, 1, memory_order_relaxed);
	return chain;
}

void fp_policy_chain_release(struct fp_policy_chain *chain)
{
	if (!chain || atomic_fetch_sub_explicit(&chain->refs, 1, memory_order_acq_rel) != 1)
		return;
	fp_policy_index_free(&chain->index);
	free(chain->rules);
	free(chain);
}

struct fp_policy_row *fp_policy_row_create(const uint32_t *predicates, uint32_t n)
{
	struct fp_policy_row *row = malloc(sizeof(*row) + n * sizeof(uint32_t));

	if (!row)
		return NULL;
	atomic_init(&row->refs, 1);
	row->n = n;
	if (n)
		memcpy(row->predicates, predicates, n * sizeof(uint32_t));
	return row;
}

struct fp_policy_row *fp_policy_row_acquire(struct fp_policy_row *row)
{
	atomic_fetch_add_explicit(&row->refs, 1, memory_order_relaxed);
	return row;
}

void fp_policy_row_release(struct fp_policy_row *row)
{
	if (row && atomic_fetch_sub_explicit(&row->refs, 1, memory_order_acq_rel) == 1)
		free(row);
}
