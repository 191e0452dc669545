/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_value: the different values of an identity map, by number. A million prefixes have a few thousand values; two
 * bytes name one, and the table stays in the cache.
 *
 *      value ─▶ slot (open addressing) ─▶ number ─▶ value, count
 *
 *  1. The lock is the store's (fp_store.h). Readers of the array need none: a number is given anew only when no map
 *     that they may read has it.
 *  2. There are FP_VALUES numbers. When they are used up, fp_value_get() says so and its caller does without.
 *  3. All memory is taken by fp_value_table_init(): 1 MiB of addresses, of which the kernel gives what is used.
 */
#ifndef FP_VALUE_H
#define FP_VALUE_H

#include "fastpath.h"

#define FP_VALUES 65535u

struct fp_value_table {
	struct fp_prefix_value *values; /* by number */
	uint32_t *counts;               /* of uses; of a free number: the next free one + 1 */
	uint16_t *slots;                /* number + 1; 0: empty */
	uint32_t given;                 /* numbers given at some time */
	uint32_t free;                  /* a number given back + 1; 0: none */
};

int fp_value_table_init(struct fp_value_table *table); /* -ENOMEM */
void fp_value_table_free(struct fp_value_table *table);
size_t fp_value_table_memory(const struct fp_value_table *table); /* bytes in use */
int fp_value_get(struct fp_value_table *table, struct fp_prefix_value value); /* a number, counted; -ENOSPC */
void fp_value_put(struct fp_value_table *table, uint16_t number);

#endif
