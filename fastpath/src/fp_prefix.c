/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_prefix.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "fp_bits.h"
#include "fp_trie.h"

#define LOOKUP_GROUP 16 /* addresses whose memory is waited for together */

static_assert(sizeof(struct fp_prefix_value) == 8, "values fill a slot");
static_assert(sizeof(struct fp_prefix_entry) == 28, "layout shared with Python");

struct fp_prefix_map {
	fp_trie_ref root[2]; /* IPv6, IPv4 */
	size_t count;
	struct fp_store *store;
	int popcnt;          /* this machine has the instruction */
	atomic_uint refs;
};

/* ---- addresses ---- */

static struct fp_trie_addr addr_load(const uint8_t bytes[16])
{
	uint64_t hi, lo;

	memcpy(&hi, bytes, 8);
	memcpy(&lo, bytes + 8, 8);
	return (struct fp_trie_addr){ be64toh(hi), be64toh(lo) };
}

static int addr_is_v4(struct fp_trie_addr a)
{
	return a.hi == 0 && a.lo >> 32 == 0xffff;
}

/* ---- maps ---- */

static int prefix_load(const struct fp_prefix_entry *entry, struct fp_trie_prefix *p)
{
	if (entry->len > 128)
		return -EINVAL;
	p->len = entry->len;
	p->addr = addr_load(entry->addr);
	p->addr.hi &= fp_trie_mask_word(p->len);
	p->addr.lo &= p->len > 64 ? fp_trie_mask_word(p->len - 64) : 0;
	p->value.identity = entry->identity;
	p->value.ifindex = entry->ifindex;
	return 0;
}

static int prefix_is_v4(const struct fp_trie_prefix *p)
{
	return p->len >= FP_TRIE_V4 && addr_is_v4(p->addr);
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
		qsort(sorted, n, sizeof(*sorted), compare_by_family);
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

static struct fp_prefix_map *map_new(struct fp_store *store)
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

#define INLINE static inline __attribute__((always_inline))

/* popcnt: the machine has the instruction, and so has the caller's target. */
INLINE unsigned count_bits(uint64_t bits, int popcnt)
{
	return popcnt ? (unsigned)__builtin_popcountll(bits) : fp_popcount(bits);
}

/* Which marks agree with these 16 bits. */
INLINE uint32_t search_marks(const struct fp_trie_bucket *bucket, uint32_t bits)
{
	uint32_t matches = 0;

#if defined(__SSE2__)
	const __m128i wanted = _mm_set1_epi32((int)bits);

	for (unsigned i = 0; i < FP_TRIE_BUCKET; i += 4) {
		__m128i marks = _mm_loadu_si128((const __m128i *)(const void *)&bucket->marks[i]);
		__m128i differ = _mm_and_si128(_mm_xor_si128(marks, wanted), _mm_srli_epi32(marks, 16));

		marks = _mm_cmpeq_epi32(differ, _mm_setzero_si128());
		matches |= (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(marks)) << i;
	}
#else
	for (unsigned i = 0; i < FP_TRIE_BUCKET; i++)
		matches |= (uint32_t)(((bucket->marks[i] ^ bits) & bucket->marks[i] >> 16) == 0) << i;
#endif
	return matches & ((1u << bucket->count) - 1);
}

INLINE int covers(const struct fp_trie_bucket *bucket, unsigned i, struct fp_trie_addr a, int v4)
{
	unsigned len = bucket->lengths[i];
	struct fp_trie_addr b;

	if (v4)
		return !((uint64_t)(fp_trie_items4(bucket)[i].addr ^ (uint32_t)a.lo) << 32 &
			 ~(uint64_t)0 << 32 << (128 - len));
	b = fp_trie_addr6(&fp_trie_items6(bucket)[i]);
	return !(((a.hi ^ b.hi) & fp_trie_mask_word(len)) | ((a.lo ^ b.lo) & fp_trie_mask_word(len > 64 ? len - 64 : 0)));
}

/* The value of the longest prefix that covers the address, or `otherwise`. Next to nothing here is worth a guess of the
 * hardware's: a wrong one would keep it from beginning the next lookup while it waits for this one's memory. */
INLINE const struct fp_prefix_value *search_bucket(const struct fp_trie_bucket *bucket, struct fp_trie_addr a, int v4,
						   const struct fp_prefix_value *otherwise)
{
	const struct fp_prefix_value *value;
	uint32_t matches;
	uintptr_t found;
	unsigned i;

	matches = search_marks(bucket, (uint32_t)(fp_trie_bits(a, bucket->depth) >> 48));
	i = (unsigned)__builtin_ctz(matches | 1u << FP_TRIE_BUCKET) % FP_TRIE_BUCKET;
	found = (uintptr_t)((matches != 0) & covers(bucket, i, a, v4));
	if (__builtin_expect(!found & ((matches & (matches - 1)) != 0), 0))
		for (matches &= matches - 1; matches && !found; matches &= matches - 1) {
			i = (unsigned)__builtin_ctz(matches);
			found = (uintptr_t)covers(bucket, i, a, v4);
		}
	value = v4 ? &fp_trie_items4(bucket)[i].value : &fp_trie_items6(bucket)[i].value;
	return (const struct fp_prefix_value *)(((uintptr_t)value & (0 - found)) | ((uintptr_t)otherwise & (found - 1)));
}

/* How far the nodes lead. */
struct descent {
	struct fp_trie_addr addr;
	const struct fp_trie_bucket *bucket; /* NULL: none there */
	const struct fp_trie_node *best;     /* the last node with a value that covers the address */
	uint64_t best_bits;                  /* internal bits of these, not 0 */
};

/* Stands where no node has anything to say: one value, FP_WORLD. */
static const uint64_t nowhere[sizeof(struct fp_trie_node) / 8 + 1] = { [offsetof(struct fp_trie_node, internal) / 8] = 2 };

/* Where the hardware can guess it needs not wait: levels are mostly consecutive and the upper nodes full,
 * so depth and slot are taken from what is expected, and the node only confirms it. */
INLINE void descend(fp_trie_ref ref, int v4, int popcnt, struct descent *d)
{
	unsigned depth = v4 ? FP_TRIE_V4 : 0;

	d->best = (const struct fp_trie_node *)(const void *)nowhere;
	d->best_bits = 2;
	for (; ref && !(ref & 1); depth += FP_TRIE_STRIDE) {
		const struct fp_trie_node *node = fp_trie_node(ref);
		uint64_t bits;
		unsigned way;

		for (unsigned line = 64; line < 256; line += 64)
			__builtin_prefetch((const uint8_t *)node + line);
		if (node->depth != depth) {
			depth = node->depth;
			if (!fp_trie_agree(node->key, d->addr, depth)) {
				ref = 0;
				break;
			}
		}
		way = fp_trie_way(d->addr, depth);
		bits = node->internal & internal_cover(way);
		d->best = bits ? node : d->best;
		d->best_bits = bits ? bits : d->best_bits;
		if (node->starts == ~(uint64_t)0)
			ref = node->slots[way].child;
		else
			ref = node->slots[count_bits(node->starts & (((uint64_t)2 << way) - 1), popcnt) - 1].child;
	}
	d->bucket = ref ? fp_trie_bucket(ref) : NULL;
	for (unsigned line = 0; line < (v4 ? 256 : 448); line += 64) /* all that may be read, at once */
		__builtin_prefetch((const uint8_t *)d->bucket + line);
}

INLINE struct fp_prefix_value arrive(const struct descent *d, int v4, int popcnt)
{
	/* A longer prefix has the higher bit. */
	uint64_t below = ((uint64_t)1 << (63 - __builtin_clzll(d->best_bits))) - 1;
	const struct fp_prefix_value *value =
		&d->best->slots[d->best->children + count_bits(d->best->internal & below, popcnt)].value;

	return d->bucket ? *search_bucket(d->bucket, d->addr, v4, value) : *value;
}

INLINE void lookup_many(const struct fp_prefix_map *map, const uint8_t (*addrs)[16], size_t n,
			struct fp_prefix_value *out, int popcnt)
{
	struct descent descents[LOOKUP_GROUP];

	for (size_t at = 0; at < n; at += LOOKUP_GROUP) {
		size_t group = n - at < LOOKUP_GROUP ? n - at : LOOKUP_GROUP;

		for (size_t i = 0; i < group; i++) {
			descents[i].addr = addr_load(addrs[at + i]);
			if (addr_is_v4(descents[i].addr))
				descend(map->root[1], 1, popcnt, &descents[i]);
			else
				descend(map->root[0], 0, popcnt, &descents[i]);
		}
		for (size_t i = 0; i < group; i++)
			out[at + i] = addr_is_v4(descents[i].addr) ? arrive(&descents[i], 1, popcnt)
								   : arrive(&descents[i], 0, popcnt);
	}
}

INLINE struct fp_prefix_value lookup(const struct fp_prefix_map *map, const uint8_t bytes[16], int popcnt)
{
	struct descent d = { .addr = addr_load(bytes) };

	if (addr_is_v4(d.addr)) {
		descend(map->root[1], 1, popcnt, &d);
		return arrive(&d, 1, popcnt);
	}
	descend(map->root[0], 0, popcnt, &d);
	return arrive(&d, 0, popcnt);
}

#if defined(__x86_64__)
static __attribute__((target("popcnt"))) struct fp_prefix_value lookup_popcnt(const struct fp_prefix_map *map,
									       const uint8_t bytes[16])
{
	return lookup(map, bytes, 1);
}

static __attribute__((target("popcnt"))) void lookup_many_popcnt(const struct fp_prefix_map *map,
								  const uint8_t (*addrs)[16], size_t n,
								  struct fp_prefix_value *out)
{
	lookup_many(map, addrs, n, out, 1);
}
#endif

struct fp_prefix_value fp_prefix_map_lookup(const struct fp_prefix_map *map, const uint8_t addr[16])
{
#if defined(__x86_64__)
	if (map->popcnt)
		return lookup_popcnt(map, addr);
#endif
	return lookup(map, addr, 0);
}

void fp_prefix_map_lookup_many(const struct fp_prefix_map *map, const uint8_t (*addrs)[16], size_t n,
			       struct fp_prefix_value *out)
{
#if defined(__x86_64__)
	if (map->popcnt) {
		lookup_many_popcnt(map, addrs, n, out);
		return;
	}
#endif
	lookup_many(map, addrs, n, out, 0);
}
