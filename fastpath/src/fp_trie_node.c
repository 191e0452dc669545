/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_trie_node.h"

#include <assert.h>
#include <string.h>

#include "fp_bits.h"

#define STRIDE FP_TRIE_STRIDE
#define BUCKET FP_TRIE_BUCKET
#define NODE_MAX (sizeof(struct fp_trie_node) + 127 * sizeof(union fp_trie_slot))
#define BUCKET_ONE (sizeof(struct fp_trie_bucket) + sizeof(struct fp_trie_item6))
#define BUCKET_MAX (sizeof(struct fp_trie_bucket) + BUCKET * sizeof(struct fp_trie_item6))

static_assert(sizeof(union fp_trie_slot) == 8, "slots are one word");
static_assert(sizeof(struct fp_trie_item4) == 12 && sizeof(struct fp_trie_item6) == 24, "items are packed");
static_assert(sizeof(struct fp_trie_bucket) == 88, "items follow at once");
static_assert(NODE_MAX <= FP_STORE_BLOCK && BUCKET_MAX <= FP_STORE_BLOCK, "a block holds any of them");
/* One insertion or removal copies a path of 22 nodes twice; a bucket that bursts is one node and as many buckets as
 * prefixes at most. */
static_assert(45 * NODE_MAX + (BUCKET + 1) * BUCKET_ONE + 2 * BUCKET_MAX <= FP_STORE_OPERATION, "room for one");

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

static size_t bucket_size(unsigned count, int v4)
{
	return sizeof(struct fp_trie_bucket) +
	       count * (v4 ? sizeof(struct fp_trie_item4) : sizeof(struct fp_trie_item6));
}

static uint32_t mark(const struct fp_trie_prefix *p, unsigned depth)
{
	unsigned bits = fp_trie_min(p->len - depth, 16);
	uint32_t mask = 0xffff0000u >> bits & 0xffffu;

	return mask << 16 | ((uint32_t)(fp_trie_bits(p->addr, depth) >> 48) & mask);
}

static void item_write(struct fp_trie_bucket *bucket, unsigned at, const struct fp_trie_prefix *p)
{
	bucket->marks[at] = mark(p, bucket->depth);
	bucket->lengths[at] = (uint8_t)p->len;
	if (bucket->v4) {
		((struct fp_trie_item4 *)(void *)bucket->items)[at] =
			(struct fp_trie_item4){ (uint32_t)p->addr.lo, p->value };
		return;
	}
	((struct fp_trie_item6 *)(void *)bucket->items)[at] =
		(struct fp_trie_item6){ { (uint32_t)(p->addr.hi >> 32), (uint32_t)p->addr.hi,
					  (uint32_t)(p->addr.lo >> 32), (uint32_t)p->addr.lo }, p->value };
}

static struct fp_trie_prefix item_read(const struct fp_trie_bucket *bucket, unsigned at)
{
	struct fp_trie_prefix p = { .len = bucket->lengths[at] };

	if (bucket->v4) {
		const struct fp_trie_item4 *item = fp_trie_items4(bucket) + at;

		p.addr.lo = FP_TRIE_V4_HIGH | item->addr;
		p.value = item->value;
	} else {
		const struct fp_trie_item6 *item = fp_trie_items6(bucket) + at;

		p.addr = fp_trie_addr6(item);
		p.value = item->value;
	}
	return p;
}

fp_trie_ref fp_trie_bucket_new(struct fp_store *store, const struct fp_trie_prefix *prefixes, unsigned n)
{
	struct fp_trie_bucket *bucket;
	uint8_t order[BUCKET];
	int v4;

	if (!n)
		return 0;
	v4 = prefixes[0].len >= FP_TRIE_V4 && fp_trie_is_v4(prefixes[0].addr);
	bucket = fp_store_take(store, bucket_size(n, v4));
	*bucket = (struct fp_trie_bucket){ .refs = 1, .count = (uint8_t)n, .v4 = (uint8_t)v4,
					   .depth = (uint8_t)fp_trie_common_bits(prefixes, n) };
	for (unsigned i = 0; i < n; i++) {
		unsigned at = i;

		for (; at && prefixes[order[at - 1]].len < prefixes[i].len; at--)
			order[at] = order[at - 1];
		order[at] = (uint8_t)i;
	}
	for (unsigned i = 0; i < n; i++)
		item_write(bucket, i, &prefixes[order[i]]);
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
	struct fp_trie_node *node = fp_store_take(store, node_size(starts, internal));

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
	fp_store_put(store, node, node_size(node->starts, node->internal));
}

void fp_trie_get(fp_trie_ref ref)
{
	if (!ref)
		return;
	if (ref & 1)
		((struct fp_trie_bucket *)fp_trie_bucket(ref))->refs++;
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

		if (--bucket->refs == 0)
			fp_store_put(store, bucket, bucket_size(bucket->count, bucket->v4));
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
