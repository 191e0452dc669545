/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_trie: the tree of an identity map. Nodes of 64 ways on top, buckets of up to 63 prefixes at the bottom.
 *
 *   root ─▶ node: 6 bits; its 64 ways are cut into ranges, each with one child, found by popcount
 *            ├─▶ node …       (a level with one way only is skipped, the node says where it stands)
 *            ├─▶ bucket       (the prefixes of this range: 15 bits of each side by side, compared at once)
 *            │     └─▶ items  (the same prefixes in full, with their values; an IPv4 bucket mostly does without)
 *            └── values       (prefixes that end inside these 6 bits: a second bitmap of 63)
 *
 * A tree bitmap (Eatherton, Varghese and Dittia, 2004) with path compression and, as Poptrie (Asai and Ohara, 2015),
 * a bit for the start of each range; the buckets are those of a burst trie (Heinz, Zobel and Williams, 2002). What
 * a lookup costs is waiting for memory. Nodes and buckets stand together, 3 to 6 bytes a prefix, small enough for the
 * cache: what they cannot answer, IPv6 addresses that a prefix covers, is fetched from farther away.
 *
 *  1. A reference is 0 (nothing), a bucket (bit 0 set) or a node. Each holds one count of what it refers to; what is
 *     counted once and not yet published may be changed in place. Readers never look at counts.
 *  2. A range is a power of two wide and stands at a multiple of its width. Two neighbours that could be one range of
 *     at most half a bucket are one.
 *  3. A prefix that ends inside a node's six bits is the node's own value, never in a bucket below.
 *  4. Equal prefixes are there once. Host bits are 0.
 */
#ifndef FP_TRIE_H
#define FP_TRIE_H

#include <endian.h>
#include <string.h>

#include "fastpath.h"
#include "fp_pace.h"
#include "fp_store.h"

#define FP_TRIE_STRIDE 6u
#define FP_TRIE_BUCKET 63u /* their bits fit a word */
#define FP_TRIE_LANES 16u  /* marks that are compared at a time */
#define FP_TRIE_V4 96u /* where IPv4 begins; a multiple of the stride, so both trees cut at the same places */
#define FP_TRIE_V4_HIGH 0xffff00000000u

struct fp_trie_addr {
	uint64_t hi, lo;
};

struct fp_trie_prefix {
	struct fp_trie_addr addr;
	uint32_t len;
	uint32_t order; /* as given; of equal prefixes the last holds */
	struct fp_prefix_value value;
};

typedef uintptr_t fp_trie_ref;

/* What every lookup reads of a bucket. A mark is up to 15 bits of a prefix from the bucket's depth on, then a 1, then
 * zeros. The longest prefix stands first. There are at least FP_TRIE_LANES marks.
 * A whole bucket knows its prefixes to the last bit: behind the marks there are the numbers of their values (16 bits
 * each) and of those that fill their mark, which are hosts then, the rest of the address (8 bits each). Most buckets
 * of IPv4 are whole, none of IPv6. */
struct fp_trie_bucket {
	struct fp_trie_items *items;
	uint8_t count, depth, whole, reserved;
	uint32_t key; /* whole: the IPv4 address before depth */
	uint16_t marks[];
};

/* The prefixes in full, read where a mark agrees and the bucket is not whole. */
struct fp_trie_items {
	uint32_t refs;
	uint32_t v4;
	uint32_t items[]; /* count of struct fp_trie_item4 or 6 */
};

struct fp_trie_item4 {
	uint32_t addr, mask;
	struct fp_prefix_value value;
};

struct fp_trie_item6 {
	uint8_t addr[16]; /* network order */
	uint32_t len;
	struct fp_prefix_value value;
};

union fp_trie_slot {
	fp_trie_ref child;
	struct fp_prefix_value value;
};

struct fp_trie_node {
	uint64_t starts;         /* bit i: a range begins at way i; bit 0 is set */
	uint64_t internal;       /* bit 1 << l | b: a prefix of l (0..5) more bits b ends here */
	struct fp_trie_addr key; /* the bits before `depth` */
	uint32_t refs;
	uint8_t depth;
	uint8_t children;        /* slots[children..] are values */
	uint8_t reserved[2];
	union fp_trie_slot slots[];
};

/* Of n prefixes, all different and sorted by fp_trie_compare(); the array is used up. Reserves memory as it goes:
 * a failure sets *failed, then the store must go with all that is in it. failed NULL: the caller has reserved. */
fp_trie_ref fp_trie_build(struct fp_store *store, struct fp_trie_prefix *prefixes, size_t n, int *failed);
int fp_trie_compare(const void *a, const void *b); /* for qsort: address, length, order */

/* Both take over the caller's reference and return his new one, with memory reserved by the caller for each call. */
fp_trie_ref fp_trie_insert(struct fp_store *store, fp_trie_ref ref, const struct fp_trie_prefix *p, int *added);
fp_trie_ref fp_trie_erase(struct fp_store *store, fp_trie_ref ref, const struct fp_trie_prefix *p); /* is contained */
/* Writes every prefix below, in no order; returns how many. */
size_t fp_trie_read(fp_trie_ref ref, struct fp_trie_prefix *out, struct fp_pace *pace);
int fp_trie_contains(fp_trie_ref ref, const struct fp_trie_prefix *p);
void fp_trie_get(fp_trie_ref ref);
void fp_trie_put(struct fp_store *store, fp_trie_ref ref);

/* ---- what readers need ---- */

static inline struct fp_trie_addr fp_trie_load(const uint8_t bytes[16])
{
	uint64_t hi, lo;

	memcpy(&hi, bytes, 8);
	memcpy(&lo, bytes + 8, 8);
	return (struct fp_trie_addr){ be64toh(hi), be64toh(lo) };
}

static inline void fp_trie_save(struct fp_trie_addr a, uint8_t bytes[16])
{
	uint64_t hi = htobe64(a.hi), lo = htobe64(a.lo);

	memcpy(bytes, &hi, 8);
	memcpy(bytes + 8, &lo, 8);
}

static inline int fp_trie_is_v4(struct fp_trie_addr a)
{
	return a.hi == 0 && a.lo >> 32 == 0xffff;
}

static inline uint64_t fp_trie_mask_word(unsigned bits)
{
	return bits == 0 ? 0 : bits >= 64 ? ~(uint64_t)0 : ~(uint64_t)0 << (64 - bits);
}

/* The 64 bits that begin at depth (0..128); behind the last bit there are zeros. */
static inline uint64_t fp_trie_bits(struct fp_trie_addr a, unsigned depth)
{
	if (depth >= 64)
		return depth >= 128 ? 0 : a.lo << (depth - 64);
	return a.hi << depth | a.lo >> 1 >> (63 - depth);
}

/* The way at depth. */
static inline unsigned fp_trie_way(struct fp_trie_addr a, unsigned depth)
{
	return (unsigned)(fp_trie_bits(a, depth) >> (64 - FP_TRIE_STRIDE));
}

/* Do the first len bits agree? */
static inline int fp_trie_agree(struct fp_trie_addr a, struct fp_trie_addr b, unsigned len)
{
	if (len <= 64)
		return !((a.hi ^ b.hi) & fp_trie_mask_word(len));
	return a.hi == b.hi && !((a.lo ^ b.lo) & fp_trie_mask_word(len - 64));
}

static inline const struct fp_trie_node *fp_trie_node(fp_trie_ref ref)
{
	return (const struct fp_trie_node *)ref;
}

static inline const struct fp_trie_bucket *fp_trie_bucket(fp_trie_ref ref)
{
	return (const struct fp_trie_bucket *)(ref & ~(fp_trie_ref)1);
}

static inline unsigned fp_trie_marks(const struct fp_trie_bucket *bucket)
{
	return bucket->count < FP_TRIE_LANES ? FP_TRIE_LANES : bucket->count;
}

static inline const uint16_t *fp_trie_numbers(const struct fp_trie_bucket *bucket)
{
	return bucket->marks + fp_trie_marks(bucket);
}

static inline const uint8_t *fp_trie_rests(const struct fp_trie_bucket *bucket)
{
	return (const uint8_t *)(fp_trie_numbers(bucket) + bucket->count);
}

/* Of an IPv4 address, what stands behind a full mark: 8 bits, with zeros behind the last. depth: at least 105. */
static inline uint8_t fp_trie_rest(uint32_t addr, unsigned depth)
{
	return (uint8_t)((uint64_t)addr << (depth - (FP_TRIE_V4 - 15)) >> 24);
}

/* Do two IPv4 addresses agree before depth? */
static inline int fp_trie_agree4(uint32_t a, uint32_t b, unsigned depth)
{
	return !((uint64_t)(a ^ b) >> (128 - depth));
}

static inline const struct fp_trie_item4 *fp_trie_items4(const struct fp_trie_bucket *bucket)
{
	return (const struct fp_trie_item4 *)(const void *)bucket->items->items;
}

static inline const struct fp_trie_item6 *fp_trie_items6(const struct fp_trie_bucket *bucket)
{
	return (const struct fp_trie_item6 *)(const void *)bucket->items->items;
}

#endif
