/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_prefix.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fp_bits.h"

#define STRIDE 6
#define V4_BITS 96 /* where IPv4 begins; a multiple of STRIDE, so both tries cut at the same places */
#define V4_HIGH 0xffff00000000u

#define STORE_CHUNK_MIN ((size_t)64 << 10)
#define STORE_CHUNK_MAX ((size_t)2 << 20) /* a huge page */
/* One insertion or removal takes at most a path of 22 nodes twice, each at most NODE_MAX, and two leaves. */
#define STORE_OPERATION ((size_t)48 << 10)

struct addr {
	uint64_t hi, lo;
};

struct prefix {
	struct addr addr; /* host bits are 0 */
	unsigned len;
	uint32_t order; /* as given; of equal prefixes the last holds */
	struct fp_prefix_value value;
};

/* 0: nothing; bit 0 set: a leaf; else a node. */
typedef uintptr_t ref_t;

struct leaf { /* 24 bytes for IPv4, 32 for IPv6 */
	uint32_t refs;
	uint8_t len, v4;
	uint8_t reserved[2];
	struct fp_prefix_value value;
	uint32_t key[4]; /* IPv4: one word, the address; IPv6: hi, lo */
};

union slot {
	ref_t child;
	struct fp_prefix_value value;
};

struct node {
	uint64_t external; /* bit i: the child for the next six bits = i */
	uint64_t internal; /* bit 1 << l | b: a prefix of l (0..5) more bits b ends here */
	struct addr key;   /* the bits before `depth` */
	uint32_t refs;
	uint8_t depth;
	uint8_t children;  /* slots[children..] are values */
	uint8_t reserved[2];
	union slot slots[];
};

#define LEAF_V4_SIZE (offsetof(struct leaf, key) + 8)
#define NODE_MAX (sizeof(struct node) + 127 * sizeof(union slot))
#define CLASSES (NODE_MAX / 8 + 1)

static_assert(sizeof(struct fp_prefix_value) == 8, "values fill a slot");
static_assert(sizeof(union slot) == 8, "slots are one word");
static_assert(sizeof(struct fp_prefix_entry) == 28, "layout shared with Python");
static_assert(2 * 22 * NODE_MAX + 2 * sizeof(struct leaf) <= STORE_OPERATION, "room for one operation");

struct chunk {
	struct chunk *next;
};

/* Memory of all maps that descend from one another: blocks of multiples of 8 bytes, a free list for each size. */
struct store {
	pthread_mutex_t lock;
	size_t maps;
	size_t reserved; /* bytes of all chunks */
	struct chunk *chunks;
	unsigned char *bump;
	size_t left;     /* bytes behind bump */
	void *free[CLASSES];
};

struct fp_prefix_map {
	ref_t root[2]; /* IPv6, IPv4 */
	size_t count;
	struct store *store;
	int popcnt;    /* this machine has the instruction */
	atomic_uint refs;
};

/* ---- store ---- */

static void store_put(struct store *store, void *block, size_t size)
{
	memcpy(block, &store->free[size / 8], sizeof(void *));
	store->free[size / 8] = block;
}

/* Makes sure that the next STORE_OPERATION bytes cannot fail. */
static int store_reserve(struct store *store)
{
	size_t size = STORE_CHUNK_MIN;
	struct chunk *chunk;

	if (store->left >= STORE_OPERATION)
		return 0;
	while (size < store->reserved && size < STORE_CHUNK_MAX)
		size *= 2;
	chunk = aligned_alloc(size, size);
	if (!chunk)
		return -ENOMEM;
	if (size == STORE_CHUNK_MAX)
		(void)madvise(chunk, size, MADV_HUGEPAGE); /* a lookup is as fast as its page walks */
	while (store->left >= 8) {
		size_t rest = store->left < NODE_MAX ? store->left / 8 * 8 : NODE_MAX;

		store_put(store, store->bump, rest);
		store->bump += rest;
		store->left -= rest;
	}
	chunk->next = store->chunks;
	store->chunks = chunk;
	store->reserved += size;
	store->bump = (unsigned char *)(chunk + 1);
	store->left = size - sizeof(*chunk);
	return 0;
}

static void *store_take(struct store *store, size_t size)
{
	void *block = store->free[size / 8];

	if (block) {
		memcpy(&store->free[size / 8], block, sizeof(void *));
		return block;
	}
	assert(store->left >= size);
	block = store->bump;
	store->bump += size;
	store->left -= size;
	return block;
}

static void store_free(struct store *store)
{
	struct chunk *chunk = store->chunks;

	while (chunk) {
		struct chunk *next = chunk->next;

		free(chunk);
		chunk = next;
	}
	pthread_mutex_destroy(&store->lock);
	free(store);
}

static struct store *store_new(void)
{
	struct store *store = calloc(1, sizeof(*store));

	if (store && pthread_mutex_init(&store->lock, NULL)) {
		free(store);
		return NULL;
	}
	return store;
}

/* ---- addresses ---- */

static struct addr addr_load(const uint8_t bytes[16])
{
	struct addr a = { 0, 0 };

	for (int i = 0; i < 8; i++) {
		a.hi = a.hi << 8 | bytes[i];
		a.lo = a.lo << 8 | bytes[8 + i];
	}
	return a;
}

static uint64_t mask_word(unsigned bits)
{
	return bits == 0 ? 0 : bits >= 64 ? ~(uint64_t)0 : ~(uint64_t)0 << (64 - bits);
}

static struct addr addr_mask(struct addr a, unsigned len)
{
	a.hi &= mask_word(len);
	a.lo &= len > 64 ? mask_word(len - 64) : 0;
	return a;
}

static int addr_is_v4(struct addr a)
{
	return a.hi == 0 && a.lo >> 32 == 0xffff;
}

/* Do the first len bits agree? */
static int addr_agree(struct addr a, struct addr b, unsigned len)
{
	if (len <= 64)
		return !((a.hi ^ b.hi) & mask_word(len));
	return a.hi == b.hi && !((a.lo ^ b.lo) & mask_word(len - 64));
}

static unsigned addr_common(struct addr a, struct addr b)
{
	if (a.hi != b.hi)
		return (unsigned)__builtin_clzll(a.hi ^ b.hi);
	return a.lo != b.lo ? 64 + (unsigned)__builtin_clzll(a.lo ^ b.lo) : 128;
}

/* The six bits at depth; behind the last bit there are zeros. */
static unsigned addr_chunk(struct addr a, unsigned depth)
{
	if (depth >= 64)
		return (unsigned)(depth > 122 ? a.lo << (depth - 122) : a.lo >> (122 - depth)) & 63;
	return (unsigned)(depth > 58 ? a.hi << (depth - 58) | a.lo >> (122 - depth) : a.hi >> (58 - depth)) & 63;
}

static unsigned internal_index(struct addr a, unsigned depth, unsigned len)
{
	unsigned more = len - depth;

	return 1u << more | addr_chunk(a, depth) >> (STRIDE - more);
}

/* ---- leaves and nodes ---- */

static struct leaf *ref_leaf(ref_t ref)
{
	return (struct leaf *)(ref & ~(ref_t)1);
}

static struct node *ref_node(ref_t ref)
{
	return (struct node *)ref;
}

static struct addr leaf_addr(const struct leaf *leaf)
{
	if (leaf->v4)
		return (struct addr){ 0, V4_HIGH | leaf->key[0] };
	return (struct addr){ (uint64_t)leaf->key[0] << 32 | leaf->key[1],
			      (uint64_t)leaf->key[2] << 32 | leaf->key[3] };
}

static ref_t leaf_new(struct store *store, const struct prefix *p)
{
	int v4 = p->len >= V4_BITS && addr_is_v4(p->addr);
	struct leaf *leaf = store_take(store, v4 ? LEAF_V4_SIZE : sizeof(struct leaf));

	leaf->refs = 1;
	leaf->len = (uint8_t)p->len;
	leaf->v4 = (uint8_t)v4;
	leaf->value = p->value;
	if (v4) {
		leaf->key[0] = (uint32_t)p->addr.lo;
	} else {
		leaf->key[0] = (uint32_t)(p->addr.hi >> 32);
		leaf->key[1] = (uint32_t)p->addr.hi;
		leaf->key[2] = (uint32_t)(p->addr.lo >> 32);
		leaf->key[3] = (uint32_t)p->addr.lo;
	}
	return (ref_t)leaf | 1;
}

static size_t node_size(uint64_t external, uint64_t internal)
{
	return sizeof(struct node) + (fp_popcount(external) + fp_popcount(internal)) * sizeof(union slot);
}

static union slot *node_child(struct node *node, unsigned chunk)
{
	return &node->slots[fp_popcount(node->external & (((uint64_t)1 << chunk) - 1))];
}

static union slot *node_value(struct node *node, unsigned index)
{
	return &node->slots[node->children + fp_popcount(node->internal & (((uint64_t)1 << index) - 1))];
}

static struct node *node_new(struct store *store, struct addr key, unsigned depth, uint64_t external,
			     uint64_t internal)
{
	struct node *node = store_take(store, node_size(external, internal));

	node->external = external;
	node->internal = internal;
	node->key = addr_mask(key, depth);
	node->refs = 1;
	node->depth = (uint8_t)depth;
	node->children = (uint8_t)fp_popcount(external);
	return node;
}

static void ref_get(ref_t ref)
{
	if (ref & 1)
		ref_leaf(ref)->refs++;
	else
		ref_node(ref)->refs++;
}

static void ref_put(struct store *store, ref_t ref)
{
	struct node *node;

	if (!ref)
		return;
	if (ref & 1) {
		struct leaf *leaf = ref_leaf(ref);

		if (--leaf->refs == 0)
			store_put(store, leaf, leaf->v4 ? LEAF_V4_SIZE : sizeof(*leaf));
		return;
	}
	node = ref_node(ref);
	if (--node->refs)
		return;
	for (unsigned i = 0; i < node->children; i++) /* at most 22 deep */
		ref_put(store, node->slots[i].child);
	store_put(store, node, node_size(node->external, node->internal));
}

/* Takes the caller's reference of `old` and gives a node that is the caller's alone, with these bitmaps. What both
 * have is kept; new slots are for the caller to fill; children that go must be 0 or somebody else's already. */
static struct node *node_reshape(struct store *store, struct node *old, uint64_t external, uint64_t internal)
{
	struct node *node = node_new(store, old->key, old->depth, external, internal);

	for (uint64_t bits = external & old->external; bits; bits &= bits - 1) {
		unsigned chunk = (unsigned)__builtin_ctzll(bits);
		union slot *slot = node_child(node, chunk);

		*slot = *node_child(old, chunk);
		if (old->refs > 1)
			ref_get(slot->child);
	}
	for (uint64_t bits = internal & old->internal; bits; bits &= bits - 1) {
		unsigned index = (unsigned)__builtin_ctzll(bits);

		*node_value(node, index) = *node_value(old, index);
	}
	if (--old->refs == 0)
		store_put(store, old, node_size(old->external, old->internal));
	return node;
}

static struct node *node_own(struct store *store, struct node *node)
{
	return node->refs == 1 ? node : node_reshape(store, node, node->external, node->internal);
}

/* ---- insertion and removal ----
 * Both take over the caller's reference and return his new one. Going down, each node is made the
 * caller's own first, so a count of 1 below means: seen by no published map, to be changed in place. */

/* A node where `other` (a leaf or node with this address and length) and p part. */
static ref_t split(struct store *store, ref_t other, struct addr other_addr, unsigned other_len, const struct prefix *p,
		   unsigned common)
{
	unsigned depth = common / STRIDE * STRIDE;
	uint64_t external = 0, internal = 0;
	unsigned other_chunk = addr_chunk(other_addr, depth), p_chunk = addr_chunk(p->addr, depth);
	int other_inside = (other & 1) && other_len - depth < STRIDE, p_inside = p->len - depth < STRIDE;
	struct node *node;

	if (other_inside)
		internal |= (uint64_t)1 << internal_index(other_addr, depth, other_len);
	else
		external |= (uint64_t)1 << other_chunk;
	if (p_inside)
		internal |= (uint64_t)1 << internal_index(p->addr, depth, p->len);
	else
		external |= (uint64_t)1 << p_chunk;
	node = node_new(store, p->addr, depth, external, internal);
	if (other_inside) {
		node_value(node, internal_index(other_addr, depth, other_len))->value = ref_leaf(other)->value;
		ref_put(store, other);
	} else {
		node_child(node, other_chunk)->child = other;
	}
	if (p_inside)
		node_value(node, internal_index(p->addr, depth, p->len))->value = p->value;
	else
		node_child(node, p_chunk)->child = leaf_new(store, p);
	return (ref_t)node;
}

static unsigned min_of(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static ref_t insert_at_leaf(struct store *store, ref_t ref, const struct prefix *p, int *added)
{
	struct leaf *leaf = ref_leaf(ref);
	struct addr addr = leaf_addr(leaf);
	unsigned common = min_of(addr_common(addr, p->addr), min_of(leaf->len, p->len));

	if (leaf->len != p->len || common != p->len)
		return split(store, ref, addr, leaf->len, p, common);
	*added = 0;
	if (leaf->refs == 1) {
		leaf->value = p->value;
		return ref;
	}
	ref_put(store, ref);
	return leaf_new(store, p);
}

static ref_t insert(struct store *store, ref_t ref, const struct prefix *p, int *added)
{
	struct node *node;
	unsigned common, chunk, index;
	uint64_t bit;

	if (!ref)
		return leaf_new(store, p);
	if (ref & 1)
		return insert_at_leaf(store, ref, p, added);
	node = ref_node(ref);
	common = min_of(addr_common(node->key, p->addr), p->len);
	if (common < node->depth)
		return split(store, ref, node->key, node->depth, p, common);

	if (p->len - node->depth < STRIDE) {
		index = internal_index(p->addr, node->depth, p->len);
		bit = (uint64_t)1 << index;
		*added = !(node->internal & bit);
		node = *added ? node_reshape(store, node, node->external, node->internal | bit)
			      : node_own(store, node);
		node_value(node, index)->value = p->value;
		return (ref_t)node;
	}
	chunk = addr_chunk(p->addr, node->depth);
	bit = (uint64_t)1 << chunk;
	if (node->external & bit) {
		union slot *slot;

		node = node_own(store, node);
		slot = node_child(node, chunk);
		slot->child = insert(store, slot->child, p, added);
		return (ref_t)node;
	}
	node = node_reshape(store, node, node->external | bit, node->internal);
	node_child(node, chunk)->child = leaf_new(store, p);
	return (ref_t)node;
}

static int contains(ref_t ref, const struct prefix *p)
{
	while (ref && !(ref & 1)) {
		struct node *node = ref_node(ref);
		unsigned chunk;

		if (p->len < node->depth || !addr_agree(node->key, p->addr, node->depth))
			return 0;
		if (p->len - node->depth < STRIDE)
			return (int)(node->internal >> internal_index(p->addr, node->depth, p->len) & 1);
		chunk = addr_chunk(p->addr, node->depth);
		if (!(node->external >> chunk & 1))
			return 0;
		ref = node_child(node, chunk)->child;
	}
	return ref && ref_leaf(ref)->len == p->len && addr_agree(leaf_addr(ref_leaf(ref)), p->addr, p->len);
}

/* A node (the caller's own) with one thing left becomes that thing. */
static ref_t collapse(struct store *store, struct node *node)
{
	unsigned index, more;
	struct prefix p;
	ref_t ref;

	if (node->children == 1 && !node->internal) {
		ref = node->slots[0].child;
	} else if (node->children == 0 && fp_popcount(node->internal) == 1) {
		index = (unsigned)__builtin_ctzll(node->internal);
		more = 31u - (unsigned)__builtin_clz(index);
		p.addr = node->key;
		p.len = node->depth + more;
		p.value = node->slots[0].value;
		for (unsigned i = 0; i < more; i++) {
			unsigned at = node->depth + i;
			uint64_t bit = index >> (more - 1 - i) & 1;

			if (at < 64)
				p.addr.hi |= bit << (63 - at);
			else
				p.addr.lo |= bit << (127 - at);
		}
		ref = leaf_new(store, &p);
	} else {
		return (ref_t)node;
	}
	store_put(store, node, node_size(node->external, node->internal));
	return ref;
}

/* p is there: contains() said so. */
static ref_t erase(struct store *store, ref_t ref, const struct prefix *p)
{
	struct node *node;
	union slot *slot;
	unsigned chunk;

	if (ref & 1) {
		ref_put(store, ref);
		return 0;
	}
	node = ref_node(ref);
	if (p->len - node->depth < STRIDE) {
		uint64_t bit = (uint64_t)1 << internal_index(p->addr, node->depth, p->len);

		return collapse(store, node_reshape(store, node, node->external, node->internal & ~bit));
	}
	chunk = addr_chunk(p->addr, node->depth);
	node = node_own(store, node);
	slot = node_child(node, chunk);
	slot->child = erase(store, slot->child, p);
	if (!slot->child)
		node = node_reshape(store, node, node->external & ~((uint64_t)1 << chunk), node->internal);
	return collapse(store, node);
}

/* ---- maps ---- */

static int prefix_load(const struct fp_prefix_entry *entry, struct prefix *p)
{
	if (entry->len > 128)
		return -EINVAL;
	p->len = entry->len;
	p->addr = addr_mask(addr_load(entry->addr), p->len);
	p->value.identity = entry->identity;
	p->value.ifindex = entry->ifindex;
	return 0;
}

static ref_t *map_root(struct fp_prefix_map *map, const struct prefix *p)
{
	return &map->root[p->len >= V4_BITS && addr_is_v4(p->addr)];
}

static void map_insert(struct fp_prefix_map *map, const struct prefix *p)
{
	ref_t *root = map_root(map, p);
	int added = 1;

	*root = insert(map->store, *root, p, &added);
	map->count += (size_t)added;
}

static int map_apply(struct fp_prefix_map *map, const struct fp_prefix_entry *entries, size_t n, int remove)
{
	for (size_t i = 0; i < n; i++) {
		struct prefix p = { .order = 0 };
		ref_t *root;
		int err = prefix_load(&entries[i], &p);

		if (!err)
			err = store_reserve(map->store);
		if (err)
			return err;
		root = map_root(map, &p);
		if (!remove) {
			map_insert(map, &p);
		} else if (contains(*root, &p)) {
			*root = erase(map->store, *root, &p);
			map->count--;
		}
	}
	return 0;
}

static int compare_prefixes(const void *a, const void *b)
{
	const struct prefix *x = a, *y = b;

	if (x->addr.hi != y->addr.hi)
		return x->addr.hi < y->addr.hi ? -1 : 1;
	if (x->addr.lo != y->addr.lo)
		return x->addr.lo < y->addr.lo ? -1 : 1;
	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return x->order < y->order ? -1 : 1;
}

/* Inserts in the order of addresses, so that a node and its leaves are neighbours in memory: at a million
 * prefixes what a lookup costs is cache misses. */
static int map_fill(struct fp_prefix_map *map, const struct fp_prefix_entry *entries, size_t n)
{
	struct prefix *sorted;
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
	if (!err)
		qsort(sorted, n, sizeof(*sorted), compare_prefixes);
	for (size_t i = 0; i < n && !err; i++) {
		err = store_reserve(map->store);
		if (!err)
			map_insert(map, &sorted[i]);
	}
	free(sorted);
	return err;
}

static struct fp_prefix_map *map_new(struct store *store)
{
	struct fp_prefix_map *map = calloc(1, sizeof(*map));

	if (!map)
		return NULL;
	map->store = store;
#if defined(__x86_64__)
	map->popcnt = __builtin_cpu_supports("popcnt") != 0;
#endif
	atomic_init(&map->refs, 1);
	store->maps++;
	return map;
}

int fp_prefix_map_build(const struct fp_prefix_entry *entries, size_t n, struct fp_prefix_map **out)
{
	struct store *store = store_new();
	struct fp_prefix_map *map;
	int err;

	if (!store)
		return -ENOMEM;
	map = map_new(store);
	if (!map) {
		store_free(store);
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
			ref_get(map->root[i]);
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

struct fp_prefix_map *fp_prefix_map_acquire(struct fp_prefix_map *map)
{
	atomic_fetch_add_explicit(&map->refs, 1, memory_order_relaxed);
	return map;
}

void fp_prefix_map_release(struct fp_prefix_map *map)
{
	struct store *store;
	int last;

	if (!map || atomic_fetch_sub_explicit(&map->refs, 1, memory_order_acq_rel) != 1)
		return;
	store = map->store;
	pthread_mutex_lock(&store->lock);
	last = --store->maps == 0;
	if (!last) /* the last map's nodes go with the store, unvisited */
		for (int i = 0; i < 2; i++)
			ref_put(store, map->root[i]);
	pthread_mutex_unlock(&store->lock);
	if (last)
		store_free(store);
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
	bytes = sizeof(*map) + sizeof(*map->store) + map->store->reserved;
	pthread_mutex_unlock(&map->store->lock);
	return bytes;
}

/* ---- lookup ---- */

/* The internal bits that cover the six bits c, by length 0 to 5. */
static uint64_t internal_cover(unsigned c)
{
	return (uint64_t)1 << 1 | (uint64_t)1 << (2 | c >> 5) | (uint64_t)1 << (4 | c >> 4) |
	       (uint64_t)1 << (8 | c >> 3) | (uint64_t)1 << (16 | c >> 2) | (uint64_t)1 << (32 | c >> 1);
}

/* popcnt: the machine has the instruction, and so has the caller's target. */
static inline __attribute__((always_inline)) unsigned count_below(uint64_t bits, unsigned end, int popcnt)
{
	bits &= ((uint64_t)1 << end) - 1;
	return popcnt ? (unsigned)__builtin_popcountll(bits) : fp_popcount(bits);
}

/* Where the hardware can guess it needs not wait: levels are mostly consecutive and the upper nodes full,
 * so depth and slot are taken from what is expected, and the node only confirms it. */
static inline __attribute__((always_inline)) struct fp_prefix_value
lookup(const struct fp_prefix_map *map, const uint8_t bytes[16], int popcnt)
{
	struct fp_prefix_value none = { FP_WORLD, 0 };
	struct addr a = addr_load(bytes);
	int v4 = addr_is_v4(a);
	unsigned depth = v4 ? V4_BITS : 0;
	ref_t ref = map->root[v4];
	const struct node *best = NULL;
	uint64_t best_bits = 0;

	for (; ref && !(ref & 1); depth += STRIDE) {
		const struct node *node = ref_node(ref);
		unsigned chunk;

		if (node->depth != depth) {
			depth = node->depth;
			if (!addr_agree(node->key, a, depth))
				break;
		}
		chunk = addr_chunk(a, depth);
		if (node->internal) {
			uint64_t bits = node->internal & internal_cover(chunk);

			if (bits) {
				best = node;
				best_bits = bits;
			}
		}
		if (node->external == ~(uint64_t)0)
			ref = node->slots[chunk].child;
		else if (node->external >> chunk & 1)
			ref = node->slots[count_below(node->external, chunk, popcnt)].child;
		else
			ref = 0;
	}
	if (ref & 1) {
		const struct leaf *leaf = ref_leaf(ref);

		if (addr_agree(leaf_addr(leaf), a, leaf->len))
			return leaf->value;
	}
	if (!best)
		return none;
	/* A longer prefix has the higher bit. */
	return best->slots[best->children +
			   count_below(best->internal, 63u - (unsigned)__builtin_clzll(best_bits), popcnt)].value;
}

#if defined(__x86_64__)
static __attribute__((target("popcnt"))) struct fp_prefix_value lookup_popcnt(const struct fp_prefix_map *map,
									       const uint8_t bytes[16])
{
	return lookup(map, bytes, 1);
}
#endif

struct fp_prefix_value fp_prefix_map_lookup(const struct fp_prefix_map *map, const uint8_t bytes[16])
{
#if defined(__x86_64__)
	if (map->popcnt)
		return lookup_popcnt(map, bytes);
#endif
	return lookup(map, bytes, 0);
}
