/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_trie_node.h"

#include <assert.h>
#include <string.h>

#include "fp_bits.h"

#define STRIDE FP_TRIE_STRIDE
#define BUCKET FP_TRIE_BUCKET
#define MARK_LEAST 8u            /* bits */
#define WHOLE_LEAST (128u - 8 - 15) /* depth */
#define NODE_MAX (sizeof(struct fp_trie_node) + 127 * sizeof(union fp_trie_slot))
#define MARKS_ONE (sizeof(struct fp_trie_bucket) + FP_TRIE_LANES * 2 * sizeof(uint16_t))
#define MARKS_MAX (sizeof(struct fp_trie_bucket) + BUCKET * 5 + 7)
#define ITEMS_ONE (sizeof(struct fp_trie_items) + sizeof(struct fp_trie_item6))
#define ITEMS_MAX (sizeof(struct fp_trie_items) + BUCKET * sizeof(struct fp_trie_item6))

static_assert(sizeof(union fp_trie_slot) == 8, "slots are one word");
static_assert(sizeof(struct fp_trie_item4) == 16 && sizeof(struct fp_trie_item6) == 28, "items are packed");
static_assert(sizeof(struct fp_trie_bucket) == 16, "marks follow at once");
static_assert(NODE_MAX <= FP_STORE_BLOCK && ITEMS_MAX <= FP_STORE_BLOCK, "a block holds any of them");
/* One insertion or removal copies a path of 22 nodes twice; a bucket that bursts is one node and as many buckets as
 * prefixes at most. */
static_assert(45 * NODE_MAX + (BUCKET + 1) * MARKS_ONE + 2 * MARKS_MAX <= FP_STORE_OPERATION, "room for one");
static_assert((BUCKET + 1) * ITEMS_ONE + 2 * ITEMS_MAX <= FP_STORE_OPERATION, "room for one");

/* ---- addresses ---- */

static struct fp_trie_addr addr_mask(struct fp_trie_addr a, unsigned len)
{
	a.hi &= fp_trie_mask_word(len);
	a.lo &= len > 64 ? fp_trie_mask_word(len - 64) : 0;
	return a;
}

unsigned fp_trie_addr_common(struct fp_trie_addr a, struct fp_trie_addr b)
{
	if (a.hi != b.hi)
		return (unsigned)__builtin_clzll(a.hi ^ b.hi);
	return a.lo != b.lo ? 64 + (unsigned)__builtin_clzll(a.lo ^ b.lo) : 128;
}

unsigned fp_trie_internal_index(struct fp_trie_addr a, unsigned depth, unsigned len)
{
	unsigned more = len - depth;

	return 1u << more | fp_trie_way(a, depth) >> (STRIDE - more);
}

unsigned fp_trie_common_bits(const struct fp_trie_prefix *prefixes, size_t n)
{
	unsigned common = 128;

	for (size_t i = 0; i < n; i++) {
		common = fp_trie_min(common, prefixes[i].len);
		common = fp_trie_min(common, fp_trie_addr_common(prefixes[0].addr, prefixes[i].addr));
	}
	return common;
}

/* ---- buckets ---- */

static size_t bucket_size(unsigned count, int whole)
{
	return sizeof(struct fp_trie_bucket) + (count < FP_TRIE_LANES ? FP_TRIE_LANES : count) * sizeof(uint16_t) +
	       (whole ? count * (sizeof(uint16_t) + sizeof(uint8_t)) : 0);
}

static size_t items_size(unsigned count, uint32_t v4)
{
	return sizeof(struct fp_trie_items) +
	       count * (v4 ? sizeof(struct fp_trie_item4) : sizeof(struct fp_trie_item6));
}

static uint16_t mark(const struct fp_trie_prefix *p, unsigned depth)
{
	unsigned bits = fp_trie_min(p->len - depth, 15);
	uint32_t end = 0x8000u >> bits;

	return (uint16_t)((fp_trie_bits(p->addr, depth) >> 48 & ~(2 * end - 1)) | end);
}

/* Where marks begin: with the first bit that tells the prefixes apart, but so that the shortest mark has some bits. A
 * whole bucket needs none of that but as few bits behind the marks as it can keep. */
static unsigned bucket_depth(const struct fp_trie_prefix *prefixes, unsigned n, int v4)
{
	unsigned shortest = 128, depth;

	for (unsigned i = 0; i < n; i++)
		shortest = fp_trie_min(shortest, prefixes[i].len);
	depth = shortest > MARK_LEAST ? shortest - MARK_LEAST : 0;
	if (v4 && depth < WHOLE_LEAST)
		depth = WHOLE_LEAST;
	return fp_trie_min(fp_trie_common_bits(prefixes, n), depth);
}

/* May the bucket be whole? Takes the numbers, or leaves none taken. */
static int bucket_numbers(struct fp_store *store, const struct fp_trie_prefix *prefixes, unsigned n, unsigned depth,
			  uint16_t numbers[BUCKET])
{
	unsigned taken = 0;

	for (; depth >= WHOLE_LEAST && taken < n; taken++) {
		int number;

		if (prefixes[taken].len - depth >= 15 && prefixes[taken].len != 128)
			break;
		number = fp_value_get(&store->values, prefixes[taken].value);
		if (number < 0)
			break;
		numbers[taken] = (uint16_t)number;
	}
	if (taken == n)
		return 1;
	while (taken)
		fp_value_put(&store->values, numbers[--taken]);
	return 0;
}

static void bucket_drop(struct fp_store *store, struct fp_trie_bucket *bucket)
{
	for (unsigned i = 0; bucket->whole && i < bucket->count; i++)
		fp_value_put(&store->values, fp_trie_numbers(bucket)[i]);
	fp_store_put(store, FP_STORE_COLD, bucket->items, items_size(bucket->count, bucket->items->v4));
	fp_store_put(store, FP_STORE_HOT, bucket, bucket_size(bucket->count, bucket->whole));
}

static void item_write(struct fp_trie_items *items, unsigned at, const struct fp_trie_prefix *p)
{
	struct fp_trie_item6 *item6;

	if (items->v4) {
		((struct fp_trie_item4 *)(void *)items->items)[at] =
			(struct fp_trie_item4){ (uint32_t)p->addr.lo, (uint32_t)(fp_trie_mask_word(p->len - FP_TRIE_V4) >> 32),
						p->value };
		return;
	}
	item6 = &((struct fp_trie_item6 *)(void *)items->items)[at];
	fp_trie_save(p->addr, item6->addr);
	item6->len = p->len;
	item6->value = p->value;
}

static struct fp_trie_prefix item_read(const struct fp_trie_bucket *bucket, unsigned at)
{
	struct fp_trie_prefix p = { .order = 0 };

	if (bucket->items->v4) {
		const struct fp_trie_item4 *item = fp_trie_items4(bucket) + at;

		p.len = FP_TRIE_V4 + fp_popcount(item->mask);
		p.addr.lo = FP_TRIE_V4_HIGH | item->addr;
		p.value = item->value;
	} else {
		const struct fp_trie_item6 *item = fp_trie_items6(bucket) + at;

		p.len = item->len;
		p.addr = fp_trie_load(item->addr);
		p.value = item->value;
	}
	return p;
}

fp_trie_ref fp_trie_bucket_new(struct fp_store *store, const struct fp_trie_prefix *prefixes, unsigned n)
{
	struct fp_trie_bucket *bucket;
	struct fp_trie_items *items;
	uint16_t numbers[BUCKET];
	uint8_t order[BUCKET];
	unsigned depth;
	uint32_t v4;
	int whole;

	if (!n)
		return 0;
	v4 = prefixes[0].len >= FP_TRIE_V4 && fp_trie_is_v4(prefixes[0].addr);
	items = fp_store_take(store, FP_STORE_COLD, items_size(n, v4));
	items->refs = 1;
	items->v4 = v4;
	depth = bucket_depth(prefixes, n, (int)v4);
	whole = v4 && bucket_numbers(store, prefixes, n, depth, numbers);
	bucket = fp_store_take(store, FP_STORE_HOT, bucket_size(n, whole));
	memset(bucket, 0, bucket_size(n, whole));
	bucket->items = items;
	bucket->count = (uint8_t)n;
	bucket->depth = (uint8_t)depth;
	bucket->whole = (uint8_t)whole;
	bucket->key = (uint32_t)prefixes[0].addr.lo;
	for (unsigned i = 0; i < n; i++) {
		unsigned at = i;

		for (; at && prefixes[order[at - 1]].len < prefixes[i].len; at--)
			order[at] = order[at - 1];
		order[at] = (uint8_t)i;
	}
	for (unsigned i = 0; i < n; i++) {
		const struct fp_trie_prefix *p = &prefixes[order[i]];

		bucket->marks[i] = mark(p, depth);
		item_write(items, i, p);
		if (whole) {
			((uint16_t *)(uintptr_t)fp_trie_numbers(bucket))[i] = numbers[order[i]];
			((uint8_t *)(uintptr_t)fp_trie_rests(bucket))[i] = fp_trie_rest((uint32_t)p->addr.lo, depth);
		}
	}
	return (fp_trie_ref)bucket | 1;
}

unsigned fp_trie_bucket_read(fp_trie_ref ref, struct fp_trie_prefix *out)
{
	const struct fp_trie_bucket *bucket = fp_trie_bucket(ref);

	if (!ref)
		return 0;
	for (unsigned i = 0; i < bucket->count; i++)
		out[i] = item_read(bucket, i);
	return bucket->count;
}

unsigned fp_trie_bucket_find(fp_trie_ref ref, const struct fp_trie_prefix *p)
{
	const struct fp_trie_bucket *bucket = fp_trie_bucket(ref);
	unsigned i;

	for (i = 0; i < bucket->count; i++) {
		struct fp_trie_prefix q = item_read(bucket, i);

		if (q.len == p->len && q.addr.hi == p->addr.hi && q.addr.lo == p->addr.lo)
			break;
	}
	return i;
}

/* ---- nodes ---- */

static size_t node_size(uint64_t starts, uint64_t internal)
{
	return sizeof(struct fp_trie_node) +
	       (fp_popcount(starts) + fp_popcount(internal)) * sizeof(union fp_trie_slot);
}

fp_trie_ref *fp_trie_node_child(struct fp_trie_node *node, unsigned way)
{
	return &node->slots[fp_popcount(node->starts & (((uint64_t)2 << way) - 1)) - 1].child;
}

struct fp_prefix_value *fp_trie_node_value(struct fp_trie_node *node, unsigned index)
{
	return &node->slots[node->children + fp_popcount(node->internal & (((uint64_t)1 << index) - 1))].value;
}

struct fp_trie_range fp_trie_node_range(const struct fp_trie_node *node, unsigned way)
{
	uint64_t above = node->starts & ~(((uint64_t)2 << way) - 1);
	unsigned first = 63u - (unsigned)__builtin_clzll(node->starts & (((uint64_t)2 << way) - 1));
	unsigned end = above ? (unsigned)__builtin_ctzll(above) : FP_TRIE_WAYS;

	return (struct fp_trie_range){ first, end - first };
}

struct fp_trie_prefix fp_trie_node_prefix(struct fp_trie_node *node, unsigned index)
{
	unsigned more = 31u - (unsigned)__builtin_clz(index);
	struct fp_trie_prefix p = { .addr = node->key, .len = node->depth + more, .value = *fp_trie_node_value(node, index) };

	for (unsigned i = 0; i < more; i++) {
		unsigned at = node->depth + i;
		uint64_t bit = index >> (more - 1 - i) & 1;

		if (at < 64)
			p.addr.hi |= bit << (63 - at);
		else
			p.addr.lo |= bit << (127 - at);
	}
	return p;
}

struct fp_trie_node *fp_trie_node_new(struct fp_store *store, struct fp_trie_addr key, unsigned depth, uint64_t starts,
				     uint64_t internal)
{
	struct fp_trie_node *node = fp_store_take(store, FP_STORE_HOT, node_size(starts, internal));

	node->starts = starts;
	node->internal = internal;
	node->key = addr_mask(key, depth);
	node->refs = 1;
	node->depth = (uint8_t)depth;
	node->children = (uint8_t)fp_popcount(starts);
	return node;
}

void fp_trie_node_drop(struct fp_store *store, struct fp_trie_node *node)
{
	fp_store_put(store, FP_STORE_HOT, node, node_size(node->starts, node->internal));
}

void fp_trie_get(fp_trie_ref ref)
{
	if (!ref)
		return;
	if (ref & 1)
		fp_trie_bucket(ref)->items->refs++;
	else
		((struct fp_trie_node *)ref)->refs++;
}

void fp_trie_put(struct fp_store *store, fp_trie_ref ref)
{
	struct fp_trie_node *node = (struct fp_trie_node *)ref;

	if (!ref)
		return;
	if (ref & 1) {
		struct fp_trie_bucket *bucket = (struct fp_trie_bucket *)fp_trie_bucket(ref);

		if (--bucket->items->refs)
			return;
		bucket_drop(store, bucket);
		return;
	}
	if (--node->refs)
		return;
	for (unsigned i = 0; i < node->children; i++) /* at most 22 deep */
		fp_trie_put(store, node->slots[i].child);
	fp_trie_node_drop(store, node);
}

struct fp_trie_node *fp_trie_node_reshape(struct fp_store *store, struct fp_trie_node *old, uint64_t starts,
					 uint64_t internal)
{
	struct fp_trie_node *node = fp_trie_node_new(store, old->key, old->depth, starts, internal);

	for (uint64_t bits = starts & old->starts; bits; bits &= bits - 1) {
		unsigned way = (unsigned)__builtin_ctzll(bits);
		fp_trie_ref child = *fp_trie_node_child(old, way);

		*fp_trie_node_child(node, way) = child;
		if (old->refs > 1)
			fp_trie_get(child);
	}
	for (uint64_t bits = internal & old->internal; bits; bits &= bits - 1) {
		unsigned index = (unsigned)__builtin_ctzll(bits);

		*fp_trie_node_value(node, index) = *fp_trie_node_value(old, index);
	}
	if (--old->refs == 0)
		fp_trie_node_drop(store, old);
	return node;
}

struct fp_trie_node *fp_trie_node_own(struct fp_store *store, struct fp_trie_node *node)
{
	return node->refs == 1 ? node : fp_trie_node_reshape(store, node, node->starts, node->internal);
}
