/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_prefix.h"

#include <stddef.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "fp_bits.h"

#define LOOKUP_GROUP 16 /* addresses whose memory is waited for together */

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
static const uint64_t nowhere[sizeof(struct fp_trie_node) / 8 + 1] = {
	[offsetof(struct fp_trie_node, internal) / 8] = 2,
};

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
			descents[i].addr = fp_trie_load(addrs[at + i]);
			if (fp_trie_is_v4(descents[i].addr))
				descend(map->root[1], 1, popcnt, &descents[i]);
			else
				descend(map->root[0], 0, popcnt, &descents[i]);
		}
		for (size_t i = 0; i < group; i++)
			out[at + i] = fp_trie_is_v4(descents[i].addr) ? arrive(&descents[i], 1, popcnt)
								   : arrive(&descents[i], 0, popcnt);
	}
}

INLINE struct fp_prefix_value lookup(const struct fp_prefix_map *map, const uint8_t bytes[16], int popcnt)
{
	struct descent d = { .addr = fp_trie_load(bytes) };

	if (fp_trie_is_v4(d.addr)) {
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
