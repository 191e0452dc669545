/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_prefix: address → identity, longest prefix first (the public part is in fastpath.h).
 *
 *      map ─▶ two trees (fp_trie.h), IPv6 and IPv4 ─▶ nodes ─▶ bucket ─┬─▶ number (fp_value.h) ─▶ identity
 *                                                                        └─▶ item ─▶ identity
 *
 *  1. IPv4 (::ffff:0:0/96) and IPv6 are two trees: no IPv6 prefix ever covers an IPv4 address.
 *  2. A map never changes. An update copies the path to what changes and shares the rest; shared nodes
 *     are counted. Readers take no lock and never look at the counts.
 *  3. Maps that descend from one another share one store of memory (fp_store.h), whose lock serializes
 *     update and release; the store goes with its last map.
 *  4. Lookup: at most 6 nodes for IPv4, 22 for IPv6, typically 3, then one bucket, and for IPv6 one item where
 *     something is found. At a million prefixes nodes and buckets (5 MB) fit the cache and an item is one wait for
 *     memory; fp_prefix_map_lookup_many() waits for 16 at a time. Update of one prefix: a copy of that path, some
 *     10 microseconds. Memory: about 30 bytes a prefix at a million, at least 384 KiB a store.
 *  5. Two entries for one prefix: the later one holds.
 */
#ifndef FP_PREFIX_H
#define FP_PREFIX_H

#include <stdatomic.h>

#include "fastpath.h"
#include "fp_trie.h"

struct fp_prefix_map {
	fp_trie_ref root[2]; /* IPv6, IPv4 */
	size_t count;
	struct fp_store *store;
	const struct fp_prefix_value *values; /* the store's, by number */
	int wide;            /* this machine has AVX2 and the bit instructions that came with it */
	atomic_uint refs;
};

/* Another strong reference, to be given up with fp_prefix_map_release(). Any thread. */
struct fp_prefix_map *fp_prefix_map_acquire(struct fp_prefix_map *map);

#endif
