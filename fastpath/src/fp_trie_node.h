/* SPDX-License-Identifier: Apache-2.0 */
/* fp_trie_node: one node and one bucket of the tree (fp_trie.h), for the functions that change it. */
#ifndef FP_TRIE_NODE_H
#define FP_TRIE_NODE_H

#include "fp_trie.h"

#define FP_TRIE_WAYS 64u

/* Ways of a node that share a child. */
struct fp_trie_range {
	unsigned first, width;
};

static inline unsigned fp_trie_min(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

unsigned fp_trie_addr_common(struct fp_trie_addr a, struct fp_trie_addr b); /* leading bits that agree */
/* How many bits all n share, none behind the end of the shortest. */
unsigned fp_trie_common_bits(const struct fp_trie_prefix *prefixes, size_t n);
unsigned fp_trie_internal_index(struct fp_trie_addr a, unsigned depth, unsigned len); /* the internal bit's number */

/* Of at most FP_TRIE_BUCKET prefixes in any order; of none: 0. */
fp_trie_ref fp_trie_bucket_new(struct fp_store *store, const struct fp_trie_prefix *prefixes, unsigned n);
unsigned fp_trie_bucket_read(fp_trie_ref ref, struct fp_trie_prefix *out); /* at most FP_TRIE_BUCKET; of 0: none */
unsigned fp_trie_bucket_find(fp_trie_ref ref, const struct fp_trie_prefix *p); /* where p stands, or the count */

static inline unsigned fp_trie_bucket_count(fp_trie_ref ref)
{
	return ref ? fp_trie_bucket(ref)->count : 0;
}

/* Slots are for the caller to fill. */
struct fp_trie_node *fp_trie_node_new(struct fp_store *store, struct fp_trie_addr key, unsigned depth, uint64_t starts,
				      uint64_t internal);
void fp_trie_node_drop(struct fp_store *store, struct fp_trie_node *node); /* the block alone */
/* Takes the caller's reference of `old` and gives a node that is the caller's alone, with these bitmaps. What both
 * have is kept; new slots are for the caller to fill; children that go are somebody else's already. */
struct fp_trie_node *fp_trie_node_reshape(struct fp_store *store, struct fp_trie_node *old, uint64_t starts,
					  uint64_t internal);
struct fp_trie_node *fp_trie_node_own(struct fp_store *store, struct fp_trie_node *node); /* the same, as it was */
fp_trie_ref *fp_trie_node_child(struct fp_trie_node *node, unsigned way); /* of the range that holds this way */
struct fp_prefix_value *fp_trie_node_value(struct fp_trie_node *node, unsigned index);
struct fp_trie_range fp_trie_node_range(const struct fp_trie_node *node, unsigned way);
struct fp_trie_prefix fp_trie_node_prefix(struct fp_trie_node *node, unsigned index); /* behind an internal bit */

#endif
