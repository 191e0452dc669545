/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_trie.h"

#include <assert.h>
#include <string.h>

#include "fp_bits.h"

#define STRIDE FP_TRIE_STRIDE
#define BUCKET FP_TRIE_BUCKET
#define WAYS 64u
#define MERGED (BUCKET / 2) /* at most so many become one bucket */

#define NODE_MAX (sizeof(struct fp_trie_node) + 127 * sizeof(union fp_trie_slot))
#define BUCKET_MAX (sizeof(struct fp_trie_bucket) + BUCKET * sizeof(struct fp_trie_item6))

static_assert(sizeof(union fp_trie_slot) == 8, "slots are one word");
static_assert(sizeof(struct fp_trie_item4) == 12 && sizeof(struct fp_trie_item6) == 24, "items are packed");
static_assert(sizeof(struct fp_trie_bucket) == 88, "items follow at once");
static_assert(NODE_MAX <= FP_STORE_BLOCK && BUCKET_MAX <= FP_STORE_BLOCK, "a block holds any of them");
/* One insertion or removal copies a path of 22 nodes twice; a bucket that bursts is one node and as many buckets as
 * prefixes at most. */
static_assert((2 * 22 + 1) * NODE_MAX + (BUCKET + 1) * (sizeof(struct fp_trie_bucket) + sizeof(struct fp_trie_item6)) + 2 * BUCKET_MAX <= FP_STORE_OPERATION, "room for one");

struct range {
	unsigned first, width;
};

/* ---- addresses ---- */

static struct fp_trie_addr addr_mask(struct fp_trie_addr a, unsigned len)
{
	a.hi &= fp_trie_mask_word(len);
	a.lo &= len > 64 ? fp_trie_mask_word(len - 64) : 0;
	return a;
}

static unsigned addr_common(struct fp_trie_addr a, struct fp_trie_addr b)
{
	if (a.hi != b.hi)
		return (unsigned)__builtin_clzll(a.hi ^ b.hi);
	return a.lo != b.lo ? 64 + (unsigned)__builtin_clzll(a.lo ^ b.lo) : 128;
}

static unsigned internal_index(struct fp_trie_addr a, unsigned depth, unsigned len)
{
	unsigned more = len - depth;

	return 1u << more | fp_trie_way(a, depth) >> (STRIDE - more);
}

static unsigned min_of(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* How many bits all n share, none behind the end of the shortest. */
static unsigned common_bits(const struct fp_trie_prefix *prefixes, size_t n)
{
	unsigned common = 128;

	for (size_t i = 0; i < n; i++)
		common = min_of(common, min_of(prefixes[i].len, addr_common(prefixes[0].addr, prefixes[i].addr)));
	return common;
}

int fp_trie_compare(const void *a, const void *b)
{
	const struct fp_trie_prefix *x = a, *y = b;

	if (x->addr.hi != y->addr.hi)
		return x->addr.hi < y->addr.hi ? -1 : 1;
	if (x->addr.lo != y->addr.lo)
		return x->addr.lo < y->addr.lo ? -1 : 1;
	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* ---- buckets ---- */

static size_t bucket_size(unsigned count, int v4)
{
	return sizeof(struct fp_trie_bucket) +
	       count * (v4 ? sizeof(struct fp_trie_item4) : sizeof(struct fp_trie_item6));
}

static uint32_t mark(const struct fp_trie_prefix *p, unsigned depth)
{
	unsigned bits = min_of(p->len - depth, 16);
	uint32_t mask = 0xffff0000u >> bits & 0xffffu;

	return mask << 16 | ((uint32_t)(fp_trie_bits(p->addr, depth) >> 48) & mask);
}

static int is_v4(const struct fp_trie_prefix *p)
{
	return p->len >= FP_TRIE_V4 && p->addr.hi == 0 && p->addr.lo >> 32 == 0xffff;
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

/* In any order. */
static fp_trie_ref bucket_new(struct fp_store *store, const struct fp_trie_prefix *prefixes, unsigned n)
{
	struct fp_trie_bucket *bucket;
	uint8_t order[BUCKET];
	int v4;

	if (!n)
		return 0;
	v4 = is_v4(&prefixes[0]);
	bucket = fp_store_take(store, bucket_size(n, v4));
	*bucket = (struct fp_trie_bucket){ .refs = 1, .count = (uint8_t)n, .v4 = (uint8_t)v4,
					   .depth = (uint8_t)common_bits(prefixes, n) };
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

/* Writes at most BUCKET prefixes. */
static unsigned bucket_read(fp_trie_ref ref, struct fp_trie_prefix *out)
{
	const struct fp_trie_bucket *bucket = fp_trie_bucket(ref);

	if (!ref)
		return 0;
	for (unsigned i = 0; i < bucket->count; i++)
		out[i] = item_read(bucket, i);
	return bucket->count;
}

static unsigned bucket_count(fp_trie_ref ref)
{
	return ref ? fp_trie_bucket(ref)->count : 0;
}

/* Where p stands, or the count. */
static unsigned bucket_find(fp_trie_ref ref, const struct fp_trie_prefix *p)
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

/* The child of the range that holds this way. */
static fp_trie_ref *node_child(struct fp_trie_node *node, unsigned way)
{
	return &node->slots[fp_popcount(node->starts & (((uint64_t)2 << way) - 1)) - 1].child;
}

static struct fp_prefix_value *node_value(struct fp_trie_node *node, unsigned index)
{
	return &node->slots[node->children + fp_popcount(node->internal & (((uint64_t)1 << index) - 1))].value;
}

static struct range node_range(const struct fp_trie_node *node, unsigned way)
{
	uint64_t above = node->starts & ~(((uint64_t)2 << way) - 1);
	unsigned first = 63u - (unsigned)__builtin_clzll(node->starts & (((uint64_t)2 << way) - 1));
	unsigned end = above ? (unsigned)__builtin_ctzll(above) : WAYS;

	return (struct range){ first, end - first };
}

/* The prefix behind an internal bit. */
static struct fp_trie_prefix node_prefix(struct fp_trie_node *node, unsigned index)
{
	unsigned more = 31u - (unsigned)__builtin_clz(index);
	struct fp_trie_prefix p = { .addr = node->key, .len = node->depth + more, .value = *node_value(node, index) };

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

static struct fp_trie_node *node_new(struct fp_store *store, struct fp_trie_addr key, unsigned depth, uint64_t starts,
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

static void node_drop(struct fp_store *store, struct fp_trie_node *node)
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
	node_drop(store, node);
}

/* Takes the caller's reference of `old` and gives a node that is the caller's alone, with these bitmaps. What both
 * have is kept; new slots are for the caller to fill; children that go are somebody else's already. */
static struct fp_trie_node *node_reshape(struct fp_store *store, struct fp_trie_node *old, uint64_t starts,
					 uint64_t internal)
{
	struct fp_trie_node *node = node_new(store, old->key, old->depth, starts, internal);

	for (uint64_t bits = starts & old->starts; bits; bits &= bits - 1) {
		unsigned way = (unsigned)__builtin_ctzll(bits);
		fp_trie_ref child = *node_child(old, way);

		*node_child(node, way) = child;
		if (old->refs > 1)
			fp_trie_get(child);
	}
	for (uint64_t bits = internal & old->internal; bits; bits &= bits - 1) {
		unsigned index = (unsigned)__builtin_ctzll(bits);

		*node_value(node, index) = *node_value(old, index);
	}
	if (--old->refs == 0)
		node_drop(store, old);
	return node;
}

static struct fp_trie_node *node_own(struct fp_store *store, struct fp_trie_node *node)
{
	return node->refs == 1 ? node : node_reshape(store, node, node->starts, node->internal);
}

/* ---- building ---- */

struct ranges {
	uint64_t starts;
	fp_trie_ref children[WAYS]; /* by their first way */
};

/* Prefixes that all end behind this node's bits, cut in halves until each fits a bucket or has one way. */
static void assign(struct fp_store *store, struct range range, unsigned depth, struct fp_trie_prefix *prefixes, size_t n,
		   struct ranges *out, int *failed)
{
	unsigned half = range.width / 2;
	size_t cut = 0;

	if (n <= BUCKET || range.width == 1) {
		out->starts |= (uint64_t)1 << range.first;
		out->children[range.first] = fp_trie_build(store, prefixes, n, failed);
		return;
	}
	while (cut < n && fp_trie_way(prefixes[cut].addr, depth) < range.first + half)
		cut++;
	assign(store, (struct range){ range.first, half }, depth, prefixes, cut, out, failed);
	assign(store, (struct range){ range.first + half, half }, depth, prefixes + cut, n - cut, out, failed);
}

static void fill_ranges(struct fp_trie_node *node, const struct ranges *ranges)
{
	for (uint64_t bits = ranges->starts; bits; bits &= bits - 1) {
		unsigned way = (unsigned)__builtin_ctzll(bits);

		*node_child(node, way) = ranges->children[way];
	}
}

static fp_trie_ref build_node(struct fp_store *store, struct fp_trie_prefix *prefixes, size_t n, int *failed)
{
	struct fp_trie_addr key = prefixes[0].addr;
	unsigned depth = common_bits(prefixes, n) / STRIDE * STRIDE;
	struct fp_prefix_value values[WAYS];
	struct ranges ranges = { 0 };
	struct fp_trie_node *node;
	uint64_t internal = 0;
	size_t deeper = 0;

	for (size_t i = 0; i < n; i++) {
		if (prefixes[i].len - depth < STRIDE) {
			unsigned index = internal_index(prefixes[i].addr, depth, prefixes[i].len);

			internal |= (uint64_t)1 << index;
			values[index] = prefixes[i].value;
		} else {
			prefixes[deeper++] = prefixes[i];
		}
	}
	assign(store, (struct range){ 0, WAYS }, depth, prefixes, deeper, &ranges, failed);
	if (failed && fp_store_reserve(store)) {
		*failed = 1;
		return 0;
	}
	node = node_new(store, key, depth, ranges.starts, internal);
	fill_ranges(node, &ranges);
	for (uint64_t bits = internal; bits; bits &= bits - 1) {
		unsigned index = (unsigned)__builtin_ctzll(bits);

		*node_value(node, index) = values[index];
	}
	return (fp_trie_ref)node;
}

fp_trie_ref fp_trie_build(struct fp_store *store, struct fp_trie_prefix *prefixes, size_t n, int *failed)
{
	if (n > BUCKET)
		return build_node(store, prefixes, n, failed);
	if (failed && fp_store_reserve(store)) {
		*failed = 1;
		return 0;
	}
	return bucket_new(store, prefixes, (unsigned)n);
}

/* ---- insertion ----
 * Going down, each node is made the caller's own first, so a count of 1 below means: seen by no published map. */

/* The bucket's prefixes and p; p takes the place of its equal. Returns how many, and whether p is one more. */
static unsigned read_with(fp_trie_ref ref, const struct fp_trie_prefix *p, struct fp_trie_prefix out[BUCKET + 1],
			  int *added)
{
	unsigned n = bucket_read(ref, out), at = n ? bucket_find(ref, p) : 0;

	*added = at == n;
	if (at < n) {
		out[at].value = p->value;
		return n;
	}
	out[n] = *p;
	out[n].order = 0;
	if (++n > BUCKET) /* to be built anew: insertion sort is enough for so few */
		for (unsigned i = 1; i < n; i++) {
			struct fp_trie_prefix moved = out[i];

			for (at = i; at && fp_trie_compare(&out[at - 1], &moved) > 0; at--)
				out[at] = out[at - 1];
			out[at] = moved;
		}
	return n;
}

static fp_trie_ref insert_in_bucket(struct fp_store *store, fp_trie_ref ref, const struct fp_trie_prefix *p, int *added)
{
	struct fp_trie_prefix all[BUCKET + 1];
	unsigned n = read_with(ref, p, all, added);

	fp_trie_put(store, ref);
	return fp_trie_build(store, all, n, NULL);
}

/* A full bucket that more than one way shares. */
static fp_trie_ref insert_by_cutting(struct fp_store *store, struct fp_trie_node *node, struct range range,
				     const struct fp_trie_prefix *p, int *added)
{
	fp_trie_ref old = *node_child(node, range.first);
	struct fp_trie_prefix all[BUCKET + 1];
	unsigned n = read_with(old, p, all, added);
	struct ranges ranges = { 0 };

	assign(store, range, node->depth, all, n, &ranges, NULL);
	fp_trie_put(store, old);
	node = node_reshape(store, node, node->starts | ranges.starts, node->internal);
	fill_ranges(node, &ranges);
	return (fp_trie_ref)node;
}

/* A node above `below`, where p parts from it. */
static fp_trie_ref insert_above(struct fp_store *store, struct fp_trie_node *below, unsigned common,
				const struct fp_trie_prefix *p)
{
	unsigned depth = common / STRIDE * STRIDE;
	unsigned way = fp_trie_way(below->key, depth);
	int inside = p->len - depth < STRIDE;
	unsigned index = inside ? internal_index(p->addr, depth, p->len) : 0;
	struct ranges ranges = { .starts = 1 };
	struct fp_trie_node *node;

	for (unsigned width = WAYS / 2; width; width /= 2) /* what is below has a way of its own */
		ranges.starts |= (uint64_t)1 << (way & ~(width - 1)) | (uint64_t)1 << ((way & ~(width - 1)) ^ width);
	node = node_new(store, p->addr, depth, ranges.starts, inside ? (uint64_t)1 << index : 0);
	fill_ranges(node, &ranges);
	*node_child(node, way) = (fp_trie_ref)below;
	if (inside)
		*node_value(node, index) = p->value;
	else
		*node_child(node, fp_trie_way(p->addr, depth)) = bucket_new(store, p, 1);
	return (fp_trie_ref)node;
}

fp_trie_ref fp_trie_insert(struct fp_store *store, fp_trie_ref ref, const struct fp_trie_prefix *p, int *added)
{
	struct fp_trie_node *node = (struct fp_trie_node *)ref;
	fp_trie_ref child;
	struct range range;
	unsigned common;

	if (!ref || ref & 1)
		return insert_in_bucket(store, ref, p, added);
	common = min_of(addr_common(node->key, p->addr), p->len);
	if (common < node->depth) {
		*added = 1;
		return insert_above(store, node, common, p);
	}
	if (p->len - node->depth < STRIDE) {
		unsigned index = internal_index(p->addr, node->depth, p->len);
		uint64_t bit = (uint64_t)1 << index;

		*added = !(node->internal & bit);
		node = *added ? node_reshape(store, node, node->starts, node->internal | bit) : node_own(store, node);
		*node_value(node, index) = p->value;
		return (fp_trie_ref)node;
	}
	node = node_own(store, node);
	range = node_range(node, fp_trie_way(p->addr, node->depth));
	child = *node_child(node, range.first);
	if (range.width > 1 && bucket_count(child) == BUCKET && bucket_find(child, p) == BUCKET)
		return insert_by_cutting(store, node, range, p, added);
	child = fp_trie_insert(store, child, p, added);
	*node_child(node, range.first) = child;
	return (fp_trie_ref)node;
}

/* ---- removal ---- */

int fp_trie_contains(fp_trie_ref ref, const struct fp_trie_prefix *p)
{
	while (ref && !(ref & 1)) {
		struct fp_trie_node *node = (struct fp_trie_node *)ref;

		if (p->len < node->depth || !fp_trie_agree(node->key, p->addr, node->depth))
			return 0;
		if (p->len - node->depth < STRIDE)
			return (int)(node->internal >> internal_index(p->addr, node->depth, p->len) & 1);
		ref = *node_child(node, fp_trie_way(p->addr, node->depth));
	}
	return ref && bucket_find(ref, p) < bucket_count(ref);
}

/* Joins the range of this way with its neighbour while both are small. The node is the caller's own. */
static struct fp_trie_node *merge(struct fp_store *store, struct fp_trie_node *node, unsigned way)
{
	struct range range = node_range(node, way);
	fp_trie_ref child = *node_child(node, way);
	struct fp_trie_prefix all[MERGED];
	uint64_t starts = node->starts;
	unsigned n = bucket_count(child);

	if ((child && !(child & 1)) || n > MERGED)
		return node;
	n = bucket_read(child, all);
	while (range.width < WAYS) {
		struct range other = node_range(node, range.first ^ range.width);
		fp_trie_ref ref = *node_child(node, other.first);

		if (other.first != (range.first ^ range.width) || other.width != range.width ||
		    (ref && !(ref & 1)) || n + bucket_count(ref) > MERGED)
			break;
		n += bucket_read(ref, all + n);
		fp_trie_put(store, ref);
		starts &= ~((uint64_t)1 << (range.first > other.first ? range.first : other.first));
		range.first &= ~range.width;
		range.width *= 2;
	}
	if (starts == node->starts)
		return node;
	fp_trie_put(store, child);
	child = bucket_new(store, all, n);
	node = node_reshape(store, node, starts, node->internal);
	*node_child(node, range.first) = child;
	return node;
}

/* A node (the caller's own) with little left becomes a bucket, one that only leads to another node that node. */
static fp_trie_ref collapse(struct fp_store *store, struct fp_trie_node *node)
{
	struct fp_trie_prefix all[MERGED];
	fp_trie_ref only = 0;
	unsigned n;

	if (node->starts == 1) {
		only = node->slots[0].child;
		if (bucket_count(only) + fp_popcount(node->internal) > MERGED)
			return (fp_trie_ref)node;
		n = bucket_read(only, all);
		for (uint64_t bits = node->internal; bits; bits &= bits - 1)
			all[n++] = node_prefix(node, (unsigned)__builtin_ctzll(bits));
		fp_trie_put(store, only);
		node_drop(store, node);
		return bucket_new(store, all, n);
	}
	if (node->internal)
		return (fp_trie_ref)node;
	for (unsigned i = 0; i < node->children; i++) {
		if (!node->slots[i].child)
			continue;
		if (only || node->slots[i].child & 1)
			return (fp_trie_ref)node;
		only = node->slots[i].child;
	}
	node_drop(store, node);
	return only;
}

fp_trie_ref fp_trie_erase(struct fp_store *store, fp_trie_ref ref, const struct fp_trie_prefix *p)
{
	struct fp_trie_node *node = (struct fp_trie_node *)ref;
	fp_trie_ref child;
	unsigned way;

	if (ref & 1) {
		struct fp_trie_prefix all[BUCKET];
		unsigned n = bucket_read(ref, all), at = bucket_find(ref, p);

		fp_trie_put(store, ref);
		all[at] = all[n - 1];
		return bucket_new(store, all, n - 1);
	}
	if (p->len - node->depth < STRIDE) {
		uint64_t bit = (uint64_t)1 << internal_index(p->addr, node->depth, p->len);

		return collapse(store, node_reshape(store, node, node->starts, node->internal & ~bit));
	}
	node = node_own(store, node);
	way = fp_trie_way(p->addr, node->depth);
	child = fp_trie_erase(store, *node_child(node, way), p);
	*node_child(node, way) = child;
	return collapse(store, merge(store, node, way));
}
