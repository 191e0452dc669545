/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "fp_list.h"

#define DEPTH 130u /* prefixes that contain one another: one of each length */

/* What is known about addresses, each thing once: words of a state, found by their hash. */
struct states {
	uint32_t *words;
	size_t size; /* words of one */
	size_t count, most;
	uint32_t *slots; /* index + 1; 0: free */
	size_t mask;
};

static uint64_t hash_state(const uint32_t *words, size_t size)
{
	uint64_t hash = 0x9e3779b97f4a7c15u;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ words[i]) * 0xff51afd7ed558ccdu ^ hash >> 29;
	return hash ^ hash >> 32;
}

/* Its index, or -ENOSPC. */
static int64_t state_of(struct states *states, const uint32_t *words)
{
	size_t at = hash_state(words, states->size) & states->mask;

	for (; states->slots[at]; at = (at + 1) & states->mask) {
		uint32_t index = states->slots[at] - 1;

		if (!memcmp(states->words + index * states->size, words, states->size * sizeof(*words)))
			return index;
	}
	if (states->count == states->most)
		return -ENOSPC;
	memcpy(states->words + states->count * states->size, words, states->size * sizeof(*words));
	states->slots[at] = (uint32_t)++states->count;
	return (int64_t)states->count - 1;
}

struct outer {
	struct fp_list_key key;
	uint32_t state;
};

/* The prefixes around where the merge stands. */
struct stack {
	struct outer items[DEPTH];
	size_t n;
};

struct heads {
	const struct fp_prefix_entry *base;
	size_t n_base, at_base;
	const struct fp_list_layer *layers;
	size_t n_layers;
	size_t *at;               /* by layer */
	struct fp_list_key *keys; /* by layer; what comes next there */
};

static void load_head(struct heads *heads, size_t layer)
{
	const struct fp_list_layer *list = &heads->layers[layer];

	if (heads->at[layer] < list->n)
		heads->keys[layer] = fp_list_load(list->records[heads->at[layer]].addr, list->records[heads->at[layer]].len);
	else
		heads->keys[layer].len = UINT32_MAX;
}

/* The first of what comes next; 0: nothing does. */
static int first_head(const struct heads *heads, struct fp_list_key *out)
{
	int found = 0;

	if (heads->at_base < heads->n_base) {
		*out = fp_list_load(heads->base[heads->at_base].addr, heads->base[heads->at_base].len);
		found = 1;
	}
	for (size_t i = 0; i < heads->n_layers; i++) {
		if (heads->keys[i].len != UINT32_MAX && (!found || fp_list_compare(heads->keys[i], *out) < 0)) {
			*out = heads->keys[i];
			found = 1;
		}
	}
	return found;
}

/* Takes `key` off all heads that have it and adds what they say to the state in `words`. Returns the ifindex. */
static uint32_t take_heads(struct heads *heads, struct fp_list_key key, uint32_t *words)
{
	uint32_t ifindex = 0;

	while (heads->at_base < heads->n_base) {
		const struct fp_prefix_entry *entry = &heads->base[heads->at_base];

		if (fp_list_compare(fp_list_load(entry->addr, entry->len), key))
			break;
		words[0] = entry->identity;
		ifindex = entry->ifindex;
		heads->at_base++;
	}
	for (size_t i = 0; i < heads->n_layers; i++) {
		while (heads->keys[i].len != UINT32_MAX && !fp_list_compare(heads->keys[i], key)) {
			words[1 + i / 32] |= 1u << i % 32;
			heads->at[i]++;
			load_head(heads, i);
		}
	}
	return ifindex;
}

static void write_entry(struct fp_prefix_entry *entry, struct fp_list_key key, uint32_t state, uint32_t ifindex)
{
	uint64_t hi = htobe64(key.hi), lo = htobe64(key.lo);

	*entry = (struct fp_prefix_entry){ .len = (uint8_t)key.len, .identity = state, .ifindex = ifindex };
	memcpy(entry->addr, &hi, 8);
	memcpy(entry->addr + 8, &lo, 8);
}

static int64_t merge_all(struct heads *heads, struct states *states, uint32_t *words, struct fp_prefix_entry *entries)
{
	struct stack stacks[2] = { { .n = 0 }, { .n = 0 } }; /* IPv6, IPv4 */
	struct fp_list_key key;
	size_t n = 0;

	while (first_head(heads, &key)) {
		struct stack *stack = &stacks[fp_list_is_v4(key)];
		uint32_t around = 0, ifindex;
		int64_t state;

		while (stack->n && !fp_list_covers(stack->items[stack->n - 1].key, key))
			stack->n--;
		if (stack->n)
			around = stack->items[stack->n - 1].state;
		memcpy(words, states->words + around * states->size, states->size * sizeof(*words));
		ifindex = take_heads(heads, key, words);
		state = state_of(states, words);
		if (state < 0)
			return state;
		if (stack->n == DEPTH)
			return -EINVAL;
		stack->items[stack->n++] = (struct outer){ key, (uint32_t)state };
		write_entry(&entries[n++], key, (uint32_t)state, ifindex);
	}
	return (int64_t)n;
}

int64_t fp_list_merge(const struct fp_prefix_entry *base, size_t n_base, const struct fp_list_layer *layers, size_t n_layers,
		      struct fp_prefix_entry *entries, uint32_t *states, size_t max_states, size_t *n_states)
{
	struct heads heads = { .base = base, .n_base = n_base, .layers = layers, .n_layers = n_layers };
	struct states all = { .words = states, .size = 1 + (n_layers + 31) / 32, .count = 1, .most = max_states };
	uint32_t *words = calloc(all.size, sizeof(*words));
	int64_t done = -ENOMEM;

	if (!max_states || max_states >= UINT32_MAX / 4) {
		free(words);
		return -EINVAL;
	}
	for (all.mask = 1; all.mask < 2 * max_states; all.mask *= 2)
		;
	all.slots = calloc(all.mask, sizeof(*all.slots));
	all.mask--;
	heads.at = calloc(n_layers + 1, sizeof(*heads.at));
	heads.keys = calloc(n_layers + 1, sizeof(*heads.keys));
	if (words && all.slots && heads.at && heads.keys) {
		memset(states, 0, all.size * sizeof(*states));
		all.slots[hash_state(states, all.size) & all.mask] = 1;
		for (size_t i = 0; i < n_layers; i++)
			load_head(&heads, i);
		done = merge_all(&heads, &all, words, entries);
		*n_states = all.count;
	}
	free(words);
	free(all.slots);
	free(heads.at);
	free(heads.keys);
	return done;
}

int fp_list_name(struct fp_prefix_entry *entries, size_t n, const uint32_t *identities, size_t n_states)
{
	for (size_t i = 0; i < n; i++) {
		if (entries[i].identity >= n_states)
			return -EINVAL;
		entries[i].identity = identities[entries[i].identity];
	}
	return 0;
}

static int compare_entries(const struct fp_prefix_entry *a, const struct fp_prefix_entry *b)
{
	return fp_list_compare(fp_list_load(a->addr, a->len), fp_list_load(b->addr, b->len));
}

void fp_list_changes(const struct fp_prefix_entry *old_entries, size_t n_old, const struct fp_prefix_entry *new_entries,
		     size_t n_new, struct fp_prefix_entry *set, size_t *n_set, struct fp_prefix_entry *remove, size_t *n_remove)
{
	size_t i = 0, j = 0;

	*n_set = *n_remove = 0;
	while (i < n_old || j < n_new) {
		int order = i == n_old ? 1 : j == n_new ? -1 : compare_entries(&old_entries[i], &new_entries[j]);

		if (order < 0) {
			remove[(*n_remove)++] = old_entries[i++];
			continue;
		}
		if (order > 0 || old_entries[i].identity != new_entries[j].identity ||
		    old_entries[i].ifindex != new_entries[j].ifindex)
			set[(*n_set)++] = new_entries[j];
		i += order == 0;
		j++;
	}
}
