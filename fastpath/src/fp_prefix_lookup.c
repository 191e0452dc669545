/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_prefix.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "fp_bits.h"
#include "fp_trie_node.h"

#define LOOKUP_GROUP 16 /* addresses whose memory is waited for together */
#define WIDE __attribute__((target("avx2,popcnt,lzcnt,bmi,bmi2")))

/* The internal bits that cover six bits, by length 0 to 5. */
#define COVER1(c) ((uint64_t)1 << 1 | (uint64_t)1 << (2 | (c) >> 5) | (uint64_t)1 << (4 | (c) >> 4) | \
		   (uint64_t)1 << (8 | (c) >> 3) | (uint64_t)1 << (16 | (c) >> 2) | (uint64_t)1 << (32 | (c) >> 1))
#define COVER4(c) COVER1(c), COVER1((c) + 1), COVER1((c) + 2), COVER1((c) + 3)
#define COVER16(c) COVER4(c), COVER4((c) + 4), COVER4((c) + 8), COVER4((c) + 12)
static const uint64_t internal_cover[FP_TRIE_WAYS] = { COVER16(0), COVER16(16), COVER16(32), COVER16(48) };

/* The compiler knows nothing of the variable's value from here on. */
#define HIDE(variable) __asm__("" : "+r"(variable))

#define INLINE static inline __attribute__((always_inline))

/* wide: the machine has AVX2 and its kin, and so has the caller's target. */
INLINE unsigned count_bits(uint64_t bits, int wide)
{
	return wide ? (unsigned)__builtin_popcountll(bits) : fp_popcount(bits);
}

/* The 64 bits from depth (below 128) on. expected: depth is worth a guess. */
INLINE uint64_t bits_at(struct fp_trie_addr a, unsigned depth, int v4, int expected)
{
	unsigned shift = depth % 64;
	uint64_t low = (uint64_t)0 - (depth < 64); /* all ones or none: a choice without a branch */

	if (v4)
		return a.lo << shift;
	if (expected && depth <= 64 - FP_TRIE_STRIDE)
		return a.hi << depth;
	return ((a.hi & low) | (a.lo & ~low)) << shift | (a.lo & low) >> 1 >> (63 - shift);
}

/* Which marks agree with these 16 bits: of a mark counts what is above its lowest 1. All that a bucket can hold is
 * compared, some of a small bucket more than once, so that there is no end to guess. */
#if defined(__x86_64__)
static inline WIDE uint64_t search_marks_wide(const struct fp_trie_bucket *bucket, uint32_t bits)
{
	const __m256i wanted = _mm256_set1_epi16((short)bits), ones = _mm256_set1_epi16(-1);
	unsigned count = bucket->count, last = count < FP_TRIE_LANES ? 0 : count - FP_TRIE_LANES;
	uint64_t matches = 0;

	for (unsigned i = 0; i < FP_TRIE_BUCKET; i += 2 * FP_TRIE_LANES) {
		unsigned first = i < last ? i : last, second = i + FP_TRIE_LANES < last ? i + FP_TRIE_LANES : last;
		uint32_t found;
		__m256i a, b;

		HIDE(first); /* or they would be computed as vectors and travel to and fro */
		HIDE(second);
		a = _mm256_loadu_si256((const __m256i *)(const void *)&bucket->marks[first]);
		b = _mm256_loadu_si256((const __m256i *)(const void *)&bucket->marks[second]);
		a = _mm256_andnot_si256(_mm256_xor_si256(a, _mm256_add_epi16(a, ones)), _mm256_xor_si256(a, wanted));
		b = _mm256_andnot_si256(_mm256_xor_si256(b, _mm256_add_epi16(b, ones)), _mm256_xor_si256(b, wanted));
		a = _mm256_cmpeq_epi16(a, _mm256_setzero_si256());
		b = _mm256_cmpeq_epi16(b, _mm256_setzero_si256());
		found = (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8));
		matches |= (uint64_t)(found & 0xffff) << first | (uint64_t)(found >> 16) << second;
	}
	return matches & (((uint64_t)1 << count) - 1);
}
#endif

INLINE uint64_t search_marks(const struct fp_trie_bucket *bucket, uint32_t bits)
{
	unsigned count = bucket->count;
	uint64_t matches = 0;

	for (unsigned i = 0; i < count; i++) {
		uint32_t mark = bucket->marks[i];

		matches |= (uint64_t)(((mark ^ bits) & ~(mark ^ (mark - 1)) & 0xffff) == 0) << i;
	}
	return matches;
}

INLINE uintptr_t choose(int condition, const void *yes, const void *no)
{
	uintptr_t mask = 0 - (uintptr_t)condition;

	return ((uintptr_t)yes & mask) | ((uintptr_t)no & ~mask);
}

/* How far a lookup has come. */
struct descent {
	const uint8_t *bytes;                /* the address */
	struct fp_trie_addr addr;
	const struct fp_trie_node *best;     /* the last node with a value that covers the address */
	uint64_t best_bits;                  /* internal bits of these, not 0 */
	const struct fp_trie_bucket *bucket;
	const struct fp_trie_items *items;   /* in full what `matches` names */
	uint64_t matches;
};

/* The first len bits in network order: 16 bytes from here + 16 * len. */
#define MASK_BYTE(len, i) ((len) >= 8 * (i) + 8 ? 0xff : (len) <= 8 * (i) ? 0 : 0xff00 >> (len) % 8 & 0xff)
#define MASK1(l) { MASK_BYTE(l, 0), MASK_BYTE(l, 1), MASK_BYTE(l, 2), MASK_BYTE(l, 3), MASK_BYTE(l, 4), MASK_BYTE(l, 5), \
		   MASK_BYTE(l, 6), MASK_BYTE(l, 7), MASK_BYTE(l, 8), MASK_BYTE(l, 9), MASK_BYTE(l, 10), MASK_BYTE(l, 11), \
		   MASK_BYTE(l, 12), MASK_BYTE(l, 13), MASK_BYTE(l, 14), MASK_BYTE(l, 15) }
#define MASK4(l) MASK1(l), MASK1((l) + 1), MASK1((l) + 2), MASK1((l) + 3)
#define MASK16(l) MASK4(l), MASK4((l) + 4), MASK4((l) + 8), MASK4((l) + 12)
#define MASK64(l) MASK16(l), MASK16((l) + 16), MASK16((l) + 32), MASK16((l) + 48)
static const uint8_t masks[129][16] = { MASK64(0), MASK64(64), MASK1(128) };

INLINE int covers(const void *item, const struct descent *d, int v4)
{
	const struct fp_trie_item6 *item6 = item;
	uint64_t a[2], b[2], mask[2];

	if (v4)
		return !((((const struct fp_trie_item4 *)item)->addr ^ (uint32_t)d->addr.lo) &
			 ((const struct fp_trie_item4 *)item)->mask);
	memcpy(a, d->bytes, 16);
	memcpy(b, item6->addr, 16);
	memcpy(mask, masks[item6->len], 16);
	return !(((a[0] ^ b[0]) & mask[0]) | ((a[1] ^ b[1]) & mask[1]));
}

/* What stands where nothing is known: a node with one value, FP_WORLD; a bucket without marks; an item that is read
 * and not looked at. */
static const uint64_t no_node[sizeof(struct fp_trie_node) / 8 + 1] = {
	[offsetof(struct fp_trie_node, internal) / 8] = 2,
};
static const uint64_t no_marks[(sizeof(struct fp_trie_bucket) + FP_TRIE_LANES * sizeof(uint16_t)) / 8];
static const uint32_t no_items[(sizeof(struct fp_trie_items) + sizeof(struct fp_trie_item6)) / 4];

/* Where the hardware can guess it needs not wait: levels are mostly consecutive and the upper nodes full,
 * so depth and slot are taken from what is expected, and the node only confirms it. */
INLINE void descend(fp_trie_ref ref, int v4, int wide, struct descent *d)
{
	unsigned depth = v4 ? FP_TRIE_V4 : 0;

	d->best = (const struct fp_trie_node *)(const void *)no_node;
	d->best_bits = 2;
	for (; ref && !(ref & 1); depth += FP_TRIE_STRIDE) {
		const struct fp_trie_node *node = fp_trie_node(ref);
		uint64_t bits;
		unsigned way;

		__builtin_prefetch((const uint8_t *)node + 64);
		if (node->depth != depth) {
			depth = node->depth;
			if (!fp_trie_agree(node->key, d->addr, depth)) {
				ref = 0;
				break;
			}
		}
		way = (unsigned)(bits_at(d->addr, depth, v4, 1) >> (64 - FP_TRIE_STRIDE));
		bits = node->internal & internal_cover[way];
		d->best = bits ? node : d->best;
		d->best_bits = bits ? bits : d->best_bits;
		if (node->starts == ~(uint64_t)0)
			ref = node->slots[way].child;
		else
			ref = node->slots[count_bits(node->starts & (((uint64_t)2 << way) - 1), wide) - 1].child;
	}
	d->bucket = ref ? fp_trie_bucket(ref) : (const struct fp_trie_bucket *)(const void *)no_marks;
	__builtin_prefetch(d->bucket);
	__builtin_prefetch((const uint8_t *)d->bucket + 64);
	__builtin_prefetch((const uint8_t *)d->bucket + 128);
	if (v4)
		__builtin_prefetch((const uint8_t *)d->bucket + 192);
}

INLINE unsigned first_match(uint64_t matches) /* of none: 0 */
{
	return (unsigned)__builtin_ctzll(matches | (uint64_t)(matches == 0));
}

INLINE const void *item_at(const struct fp_trie_items *items, unsigned i, int v4)
{
	return &items->items[i * ((v4 ? sizeof(struct fp_trie_item4) : sizeof(struct fp_trie_item6)) / sizeof(uint32_t))];
}

INLINE const struct fp_prefix_value *item_value(const void *item, int v4)
{
	return v4 ? &((const struct fp_trie_item4 *)item)->value : &((const struct fp_trie_item6 *)item)->value;
}

INLINE void search(struct descent *d, int v4, int wide)
{
	uint32_t bits = (uint32_t)(bits_at(d->addr, d->bucket->depth, v4, 0) >> 48);

	d->matches = wide ? search_marks_wide(d->bucket, bits) : search_marks(d->bucket, bits);
	if (v4 && d->bucket->whole)
		return;
	d->items = (const struct fp_trie_items *)choose(d->matches != 0, d->bucket->items, no_items);
	__builtin_prefetch(item_at(d->items, first_match(d->matches), v4));
}

/* Does the prefix with this mark, in a whole bucket, cover the address? */
INLINE int covers_whole(const struct fp_trie_bucket *bucket, unsigned i, uint32_t addr)
{
	return !(bucket->marks[i] & 1) | (fp_trie_rests(bucket)[i] == fp_trie_rest(addr, bucket->depth));
}

INLINE const struct fp_prefix_value *arrive_whole(const struct descent *d, const struct fp_prefix_value *values,
						  const struct fp_prefix_value *otherwise)
{
	const struct fp_trie_bucket *bucket = d->bucket;
	uint32_t addr = (uint32_t)d->addr.lo;
	uint64_t matches = d->matches & (0 - (uint64_t)fp_trie_agree4(addr, bucket->key, bucket->depth));
	unsigned i = first_match(matches);
	int found = (matches != 0) & covers_whole(bucket, i, addr);

	matches &= (matches - 1) & (0 - (uint64_t)!found);
	HIDE(matches);
	if (__builtin_expect(matches != 0, 0))
		for (; matches && !found; matches &= matches - 1) {
			i = first_match(matches);
			found = covers_whole(bucket, i, addr);
		}
	return (const struct fp_prefix_value *)choose(found, &values[fp_trie_numbers(bucket)[i]], otherwise);
}

/* Next to nothing here is worth a guess of the hardware's: a wrong one would keep it from beginning the next lookup
 * while it waits for this one's memory. */
INLINE struct fp_prefix_value arrive(const struct descent *d, const struct fp_prefix_value *values, int v4, int wide)
{
	/* A longer prefix has the higher bit. */
	uint64_t below = ((uint64_t)1 << (63 - __builtin_clzll(d->best_bits))) - 1;
	const struct fp_prefix_value *value =
		&d->best->slots[d->best->children + count_bits(d->best->internal & below, wide)].value;
	uint64_t matches = d->matches;
	const void *item;
	int found;

	if (v4 && d->bucket->whole)
		return *arrive_whole(d, values, value);
	item = item_at(d->items, first_match(matches), v4);
	found = (matches != 0) & covers(item, d, v4);
	matches &= (matches - 1) & (0 - (uint64_t)!found);
	HIDE(matches); /* one branch, nearly never taken, not one on `found` before it */
	if (__builtin_expect(matches != 0, 0))
		for (; matches && !found; matches &= matches - 1) {
			item = item_at(d->items, first_match(matches), v4);
			found = covers(item, d, v4);
		}
	return *(const struct fp_prefix_value *)choose(found, item_value(item, v4), value);
}

INLINE void lookup_many(const struct fp_prefix_map *map, const uint8_t (*addrs)[16], size_t n,
			struct fp_prefix_value *out, int wide)
{
	struct descent descents[LOOKUP_GROUP];

	for (size_t at = 0; at < n; at += LOOKUP_GROUP) {
		size_t group = n - at < LOOKUP_GROUP ? n - at : LOOKUP_GROUP;

		for (size_t i = 0; i < group; i++) {
			descents[i].bytes = addrs[at + i];
			descents[i].addr = fp_trie_load(addrs[at + i]);
			if (fp_trie_is_v4(descents[i].addr))
				descend(map->root[1], 1, wide, &descents[i]);
			else
				descend(map->root[0], 0, wide, &descents[i]);
		}
		for (size_t i = 0; i < group; i++)
			search(&descents[i], fp_trie_is_v4(descents[i].addr), wide);
		for (size_t i = 0; i < group; i++)
			out[at + i] = fp_trie_is_v4(descents[i].addr) ? arrive(&descents[i], map->values, 1, wide)
								   : arrive(&descents[i], map->values, 0, wide);
	}
}

INLINE struct fp_prefix_value lookup(const struct fp_prefix_map *map, const uint8_t bytes[16], int wide)
{
	struct descent d = { .bytes = bytes, .addr = fp_trie_load(bytes) };

	if (fp_trie_is_v4(d.addr)) {
		descend(map->root[1], 1, wide, &d);
		search(&d, 1, wide);
		return arrive(&d, map->values, 1, wide);
	}
	descend(map->root[0], 0, wide, &d);
	search(&d, 0, wide);
	return arrive(&d, map->values, 0, wide);
}

#if defined(__x86_64__)
static WIDE struct fp_prefix_value lookup_wide(const struct fp_prefix_map *map, const uint8_t bytes[16])
{
	return lookup(map, bytes, 1);
}

static WIDE void lookup_many_wide(const struct fp_prefix_map *map, const uint8_t (*addrs)[16], size_t n,
				  struct fp_prefix_value *out)
{
	lookup_many(map, addrs, n, out, 1);
}
#endif

struct fp_prefix_value fp_prefix_map_lookup(const struct fp_prefix_map *map, const uint8_t addr[16])
{
#if defined(__x86_64__)
	if (map->wide)
		return lookup_wide(map, addr);
#endif
	return lookup(map, addr, 0);
}

void fp_prefix_map_lookup_many(const struct fp_prefix_map *map, const uint8_t (*addrs)[16], size_t n,
			       struct fp_prefix_value *out)
{
#if defined(__x86_64__)
	if (map->wide) {
		lookup_many_wide(map, addrs, n, out);
		return;
	}
#endif
	lookup_many(map, addrs, n, out, 0);
}
