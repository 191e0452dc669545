/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_prefix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static_assert(sizeof(struct fp_prefix_value) == 8, "values fill a slot");
static_assert(sizeof(struct fp_prefix_entry) == 28, "layout shared with Python");

static int prefix_load(const struct fp_prefix_entry *entry, struct fp_trie_prefix *p)
{
	if (entry->len > 128)
		return -EINVAL;
	p->len = entry->len;
	p->addr = fp_trie_load(entry->addr);
	p->addr.hi &= fp_trie_mask_word(p->len);
	p->addr.lo &= p->len > 64 ? fp_trie_mask_word(p->len - 64) : 0;
	p->value.identity = entry->identity;
	p->value.ifindex = entry->ifindex;
	return 0;
}

static int prefix_is_v4(const struct fp_trie_prefix *p)
{
	return p->len >= FP_TRIE_V4 && fp_trie_is_v4(p->addr);
}

static int same_prefix(const struct fp_trie_prefix *a, const struct fp_trie_prefix *b)
{
	return a->len == b->len && a->addr.hi == b->addr.hi && a->addr.lo == b->addr.lo;
}

static int compare_by_family(const void *a, const void *b)
{
	int x = prefix_is_v4(a), y = prefix_is_v4(b);

	return x != y ? x - y : fp_trie_compare(a, b);
}

static int map_apply(struct fp_prefix_map *map, const struct fp_prefix_entry *entries, size_t n, int remove)
{
	for (size_t i = 0; i < n; i++) {
		struct fp_trie_prefix p = { .order = 0 };
		fp_trie_ref *root;
		int added = 0;
		int err = prefix_load(&entries[i], &p);

		if (!err)
			err = fp_store_reserve(map->store);
		if (err)
			return err;
		root = &map->root[prefix_is_v4(&p)];
		if (!remove) {
			*root = fp_trie_insert(map->store, *root, &p, &added);
			map->count += (size_t)added;
		} else if (fp_trie_contains(*root, &p)) {
			*root = fp_trie_erase(map->store, *root, &p);
			map->count--;
		}
	}
	return 0;
}

/* What comes out of fp_prefix_map_export() is in order already, and a million prefixes take a while to sort. */
static void sort(struct fp_trie_prefix *prefixes, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		if (compare_by_family(&prefixes[i - 1], &prefixes[i]) > 0) {
			qsort(prefixes, n, sizeof(*prefixes), compare_by_family);
			return;
		}
	}
}

/* Sorts by address, so that what is near in the tree is near in memory. */
static int map_fill(struct fp_prefix_map *map, const struct fp_prefix_entry *entries, size_t n)
{
	struct fp_trie_prefix *sorted;
	size_t kept = 0, v6 = 0;
	int err = 0;

	if (n > UINT32_MAX)
		return -EINVAL;
	sorted = calloc(n ? n : 1, sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	for (size_t i = 0; i < n && !err; i++) {
		sorted[i].order = (uint32_t)i;
		err = prefix_load(&entries[i], &sorted[i]);
	}
	if (!err) {
		sort(sorted, n);
		for (size_t i = 0; i < n; i++) { /* of equal ones the last */
			if (kept && same_prefix(&sorted[kept - 1], &sorted[i]))
				kept--;
			v6 = prefix_is_v4(&sorted[i]) ? v6 : kept + 1;
			sorted[kept++] = sorted[i];
		}
		map->root[0] = fp_trie_build(map->store, sorted, v6, &err);
		map->root[1] = fp_trie_build(map->store, sorted + v6, kept - v6, &err);
		map->count = kept;
		err = err ? -ENOMEM : 0;
	}
	free(sorted);
	return err;
}

#if defined(__x86_64__)
static int machine_is_wide(void)
{
	unsigned a, b, c = 0, d;

	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") &&
	       __builtin_cpu_supports("bmi2") && __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & bit_LZCNT);
}
#endif

static struct fp_prefix_map *map_new(struct fp_store *store)
{
	struct fp_prefix_map *map = calloc(1, sizeof(*map));

	if (!map)
		return NULL;
	map->store = store;
	map->values = store->values.values;
#if defined(__x86_64__)
	map->wide = machine_is_wide();
#endif
	atomic_init(&map->refs, 1);
	store->maps++;
	return map;
}

int fp_prefix_map_build(const struct fp_prefix_entry *entries, size_t n, struct fp_prefix_map **out)
{
	struct fp_store *store = fp_store_new();
	struct fp_prefix_map *map;
	int err;

	if (!store)
		return -ENOMEM;
	map = map_new(store);
	if (!map) {
		fp_store_free(store);
		return -ENOMEM;
	}
	err = map_fill(map, entries, n);
	if (err) {
		fp_prefix_map_release(map);
		return err;
	}
	*out = map;
	return 0;
}

int fp_prefix_map_update(struct fp_prefix_map *old, const struct fp_prefix_entry *set, size_t n_set,
			 const struct fp_prefix_entry *remove, size_t n_remove,
			 struct fp_prefix_map **out)
{
	struct fp_prefix_map *map;
	int err;

	pthread_mutex_lock(&old->store->lock);
	map = map_new(old->store);
	if (!map) {
		pthread_mutex_unlock(&old->store->lock);
		return -ENOMEM;
	}
	for (int i = 0; i < 2; i++) {
		map->root[i] = old->root[i];
		if (map->root[i])
			fp_trie_get(map->root[i]);
	}
	map->count = old->count;
	err = map_apply(map, remove, n_remove, 1);
	if (!err)
		err = map_apply(map, set, n_set, 0);
	pthread_mutex_unlock(&old->store->lock);
	if (err) {
		fp_prefix_map_release(map);
		return err;
	}
	*out = map;
	return 0;
}

static void prefix_store(const struct fp_trie_prefix *p, struct fp_prefix_entry *out)
{
	const uint64_t hi = htobe64(p->addr.hi), lo = htobe64(p->addr.lo);

	*out = (struct fp_prefix_entry){ .len = (uint8_t)p->len, .identity = p->value.identity,
					 .ifindex = p->value.ifindex };
	memcpy(out->addr, &hi, sizeof(hi));
	memcpy(out->addr + 8, &lo, sizeof(lo));
}

int fp_prefix_map_export(const struct fp_prefix_map *map, struct fp_prefix_entry *out, size_t n, uint32_t idle)
{
	struct fp_pace pace = { .idle = idle };
	struct fp_trie_prefix *all;
	size_t count = 0;

	if (n < map->count)
		return -ENOSPC;
	all = calloc(map->count ? map->count : 1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	fp_pace_begin(&pace);
	for (int i = 0; i < 2; i++)
		count += fp_trie_read(map->root[i], all + count, &pace);
	sort(all, count);
	for (size_t i = 0; i < count; i++) {
		prefix_store(&all[i], &out[i]);
		fp_pace_take(&pace, 1);
	}
	free(all);
	return 0;
}

struct fp_prefix_map *fp_prefix_map_acquire(struct fp_prefix_map *map)
{
	atomic_fetch_add_explicit(&map->refs, 1, memory_order_relaxed);
	return map;
}

void fp_prefix_map_release(struct fp_prefix_map *map)
{
	struct fp_store *store;
	int last;

	if (!map || atomic_fetch_sub_explicit(&map->refs, 1, memory_order_acq_rel) != 1)
		return;
	store = map->store;
	pthread_mutex_lock(&store->lock);
	last = --store->maps == 0;
	if (!last) /* the last map's nodes go with the store, unvisited */
		for (int i = 0; i < 2; i++)
			fp_trie_put(store, map->root[i]);
	pthread_mutex_unlock(&store->lock);
	if (last)
		fp_store_free(store);
	free(map);
}

size_t fp_prefix_map_count(const struct fp_prefix_map *map)
{
	return map->count;
}

size_t fp_prefix_map_memory(const struct fp_prefix_map *map)
{
	size_t bytes;

	pthread_mutex_lock(&map->store->lock);
	bytes = sizeof(*map) + fp_store_memory(map->store);
	pthread_mutex_unlock(&map->store->lock);
	return bytes;
}
