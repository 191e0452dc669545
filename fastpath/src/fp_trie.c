/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_trie.h"

#include "fp_bits.h"
#include "fp_trie_node.h"

#define STRIDE FP_TRIE_STRIDE
#define BUCKET FP_TRIE_BUCKET
#define WAYS FP_TRIE_WAYS
#define MERGED (BUCKET / 2) /* at most so many become one bucket */

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

/* ---- building ---- */

struct ranges {
	uint64_t starts;
	fp_trie_ref children[WAYS]; /* by their first way */
};

/* Prefixes that all end behind this node's bits, cut in halves until each fits a bucket or has one way. */
static void assign(struct fp_store *store, struct fp_trie_range range, unsigned depth,
		   struct fp_trie_prefix *prefixes, size_t n, struct ranges *out, int *failed)
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
	assign(store, (struct fp_trie_range){ range.first, half }, depth, prefixes, cut, out, failed);
	assign(store, (struct fp_trie_range){ range.first + half, half }, depth, prefixes + cut, n - cut, out, failed);
}

static void fill_ranges(struct fp_trie_node *node, const struct ranges *ranges)
{
	for (uint64_t bits = ranges->starts; bits; bits &= bits - 1) {
		unsigned way = (unsigned)__builtin_ctzll(bits);

		*fp_trie_node_child(node, way) = ranges->children[way];
	}
}

static fp_trie_ref build_node(struct fp_store *store, struct fp_trie_prefix *prefixes, size_t n, int *failed)
{
	struct fp_trie_addr key = prefixes[0].addr;
	unsigned depth = fp_trie_common_bits(prefixes, n) / STRIDE * STRIDE;
	struct fp_prefix_value values[WAYS];
	struct ranges ranges = { 0 };
	struct fp_trie_node *node;
	uint64_t internal = 0;
	size_t deeper = 0;

	for (size_t i = 0; i < n; i++) {
		if (prefixes[i].len - depth < STRIDE) {
			unsigned index = fp_trie_internal_index(prefixes[i].addr, depth, prefixes[i].len);

			internal |= (uint64_t)1 << index;
			values[index] = prefixes[i].value;
		} else {
			prefixes[deeper++] = prefixes[i];
		}
	}
	assign(store, (struct fp_trie_range){ 0, WAYS }, depth, prefixes, deeper, &ranges, failed);
	if (failed && fp_store_reserve(store)) {
		*failed = 1;
		return 0;
	}
	node = fp_trie_node_new(store, key, depth, ranges.starts, internal);
	fill_ranges(node, &ranges);
	for (uint64_t bits = internal; bits; bits &= bits - 1) {
		unsigned index = (unsigned)__builtin_ctzll(bits);

		*fp_trie_node_value(node, index) = values[index];
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
	return fp_trie_bucket_new(store, prefixes, (unsigned)n);
}

/* ---- insertion ----
 * Going down, each node is made the caller's own first, so a count of 1 below means: seen by no published map. */

/* The bucket's prefixes and p; p takes the place of its equal. Returns how many, and whether p is one more. */
static unsigned read_with(fp_trie_ref ref, const struct fp_trie_prefix *p, struct fp_trie_prefix out[BUCKET + 1],
			  int *added)
{
	unsigned n = fp_trie_bucket_read(ref, out), at = n ? fp_trie_bucket_find(ref, p) : 0;

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
static fp_trie_ref insert_by_cutting(struct fp_store *store, struct fp_trie_node *node, struct fp_trie_range range,
				     const struct fp_trie_prefix *p, int *added)
{
	fp_trie_ref old = *fp_trie_node_child(node, range.first);
	struct fp_trie_prefix all[BUCKET + 1];
	unsigned n = read_with(old, p, all, added);
	struct ranges ranges = { 0 };

	assign(store, range, node->depth, all, n, &ranges, NULL);
	fp_trie_put(store, old);
	node = fp_trie_node_reshape(store, node, node->starts | ranges.starts, node->internal);
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
	unsigned index = inside ? fp_trie_internal_index(p->addr, depth, p->len) : 0;
	struct ranges ranges = { .starts = 1 };
	struct fp_trie_node *node;

	for (unsigned width = WAYS / 2; width; width /= 2) /* what is below has a way of its own */
		ranges.starts |= (uint64_t)1 << (way & ~(width - 1)) | (uint64_t)1 << ((way & ~(width - 1)) ^ width);
	node = fp_trie_node_new(store, p->addr, depth, ranges.starts, inside ? (uint64_t)1 << index : 0);
	fill_ranges(node, &ranges);
	*fp_trie_node_child(node, way) = (fp_trie_ref)below;
	if (inside)
		*fp_trie_node_value(node, index) = p->value;
	else
		*fp_trie_node_child(node, fp_trie_way(p->addr, depth)) = fp_trie_bucket_new(store, p, 1);
	return (fp_trie_ref)node;
}

fp_trie_ref fp_trie_insert(struct fp_store *store, fp_trie_ref ref, const struct fp_trie_prefix *p, int *added)
{
	struct fp_trie_node *node = (struct fp_trie_node *)ref;
	fp_trie_ref child;
	struct fp_trie_range range;
	unsigned common;

	if (!ref || ref & 1)
		return insert_in_bucket(store, ref, p, added);
	common = fp_trie_min(fp_trie_addr_common(node->key, p->addr), p->len);
	if (common < node->depth) {
		*added = 1;
		return insert_above(store, node, common, p);
	}
	if (p->len - node->depth < STRIDE) {
		unsigned index = fp_trie_internal_index(p->addr, node->depth, p->len);
		uint64_t bit = (uint64_t)1 << index;

		*added = !(node->internal & bit);
		node = *added ? fp_trie_node_reshape(store, node, node->starts, node->internal | bit) : fp_trie_node_own(store, node);
		*fp_trie_node_value(node, index) = p->value;
		return (fp_trie_ref)node;
	}
	node = fp_trie_node_own(store, node);
	range = fp_trie_node_range(node, fp_trie_way(p->addr, node->depth));
	child = *fp_trie_node_child(node, range.first);
	if (range.width > 1 && fp_trie_bucket_count(child) == BUCKET && fp_trie_bucket_find(child, p) == BUCKET)
		return insert_by_cutting(store, node, range, p, added);
	child = fp_trie_insert(store, child, p, added);
	*fp_trie_node_child(node, range.first) = child;
	return (fp_trie_ref)node;
}

/* ---- reading ---- */

size_t fp_trie_read(fp_trie_ref ref, struct fp_trie_prefix *out, struct fp_pace *pace)
{
	struct fp_trie_node *node = (struct fp_trie_node *)ref;
	size_t n = 0;

	if (!ref)
		return 0;
	if (ref & 1) {
		n = fp_trie_bucket_read(ref, out);
		fp_pace_take(pace, n);
		return n;
	}
	for (uint64_t bits = node->internal; bits; bits &= bits - 1)
		out[n++] = fp_trie_node_prefix(node, (unsigned)__builtin_ctzll(bits));
	for (unsigned i = 0; i < node->children; i++)
		n += fp_trie_read(node->slots[i].child, out + n, pace);
	return n;
}

/* ---- removal ---- */

int fp_trie_contains(fp_trie_ref ref, const struct fp_trie_prefix *p)
{
	while (ref && !(ref & 1)) {
		struct fp_trie_node *node = (struct fp_trie_node *)ref;

		if (p->len < node->depth || !fp_trie_agree(node->key, p->addr, node->depth))
			return 0;
		if (p->len - node->depth < STRIDE)
			return (int)(node->internal >> fp_trie_internal_index(p->addr, node->depth, p->len) & 1);
		ref = *fp_trie_node_child(node, fp_trie_way(p->addr, node->depth));
	}
	return ref && fp_trie_bucket_find(ref, p) < fp_trie_bucket_count(ref);
}

/* Joins the range of this way with its neighbour while both are small. The node is the caller's own. */
static struct fp_trie_node *merge(struct fp_store *store, struct fp_trie_node *node, unsigned way)
{
	struct fp_trie_range range = fp_trie_node_range(node, way);
	fp_trie_ref child = *fp_trie_node_child(node, way);
	struct fp_trie_prefix all[MERGED];
	uint64_t starts = node->starts;
	unsigned n = fp_trie_bucket_count(child);

	if ((child && !(child & 1)) || n > MERGED)
		return node;
	n = fp_trie_bucket_read(child, all);
	while (range.width < WAYS) {
		struct fp_trie_range other = fp_trie_node_range(node, range.first ^ range.width);
		fp_trie_ref ref = *fp_trie_node_child(node, other.first);

		if (other.first != (range.first ^ range.width) || other.width != range.width ||
		    (ref && !(ref & 1)) || n + fp_trie_bucket_count(ref) > MERGED)
			break;
		n += fp_trie_bucket_read(ref, all + n);
		fp_trie_put(store, ref);
		starts &= ~((uint64_t)1 << (range.first > other.first ? range.first : other.first));
		range.first &= ~range.width;
		range.width *= 2;
	}
	if (starts == node->starts)
		return node;
	fp_trie_put(store, child);
	child = fp_trie_bucket_new(store, all, n);
	node = fp_trie_node_reshape(store, node, starts, node->internal);
	*fp_trie_node_child(node, range.first) = child;
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
		if (fp_trie_bucket_count(only) + fp_popcount(node->internal) > MERGED)
			return (fp_trie_ref)node;
		n = fp_trie_bucket_read(only, all);
		for (uint64_t bits = node->internal; bits; bits &= bits - 1)
			all[n++] = fp_trie_node_prefix(node, (unsigned)__builtin_ctzll(bits));
		fp_trie_put(store, only);
		fp_trie_node_drop(store, node);
		return fp_trie_bucket_new(store, all, n);
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
	fp_trie_node_drop(store, node);
	return only;
}

fp_trie_ref fp_trie_erase(struct fp_store *store, fp_trie_ref ref, const struct fp_trie_prefix *p)
{
	struct fp_trie_node *node = (struct fp_trie_node *)ref;
	fp_trie_ref child;
	unsigned way;

	if (ref & 1) {
		struct fp_trie_prefix all[BUCKET];
		unsigned n = fp_trie_bucket_read(ref, all), at = fp_trie_bucket_find(ref, p);

		fp_trie_put(store, ref);
		all[at] = all[n - 1];
		return fp_trie_bucket_new(store, all, n - 1);
	}
	if (p->len - node->depth < STRIDE) {
		uint64_t bit = (uint64_t)1 << fp_trie_internal_index(p->addr, node->depth, p->len);

		return collapse(store, fp_trie_node_reshape(store, node, node->starts, node->internal & ~bit));
	}
	node = fp_trie_node_own(store, node);
	way = fp_trie_way(p->addr, node->depth);
	child = fp_trie_erase(store, *fp_trie_node_child(node, way), p);
	*fp_trie_node_child(node, way) = child;
	return collapse(store, merge(store, node, way));
}
