/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_prefix: address → identity, longest prefix first (the public part is in fastpath.h).
 *
 *   root ─▶ node: 64 children of 6 bits each, present ones packed, found by popcount
 *            ├─▶ node …       (levels that would have one child are skipped, the node says where it stands)
 *            ├─▶ leaf         (a subtree of one prefix)
 *            └── values       (prefixes that end inside these 6 bits: a second bitmap of 63)
 *
 * A tree bitmap (Eatherton, Varghese and Dittia, 2004) with path compression; like Poptrie (Asai and
 * Ohara, 2015) in its packing, but prefixes are not pushed to the leaves, so one update touches one
 * path and removing a prefix uncovers the shorter one by itself.
 *
 *  1. IPv4 (::ffff:0:0/96) and IPv6 are two tries: no IPv6 prefix ever covers an IPv4 address.
 *  2. A map never changes. An update copies the path to what changes and shares the rest; shared nodes
 *     are counted. Readers take no lock and never look at the counts.
 *  3. Maps that descend from one another share one store of memory, whose lock serializes build,
 *     update and release; the store goes with its last map.
 *  4. Lookup: at most 6 nodes for IPv4, 22 for IPv6; typically 3 to 5. Update of one prefix: a copy of
 *     that path, microseconds. Memory: about 47 bytes a prefix at a million, at least 64 KiB a store.
 *  5. Two entries for one prefix: the later one holds.
 */
#ifndef FP_PREFIX_H
#define FP_PREFIX_H

#include "fastpath.h"

/* Another strong reference, to be given up with fp_prefix_map_release(). Any thread. */
struct fp_prefix_map *fp_prefix_map_acquire(struct fp_prefix_map *map);

#endif
