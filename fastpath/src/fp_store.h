/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_store: memory of all identity maps that descend from one another. Blocks of multiples of 8 bytes are cut from
 * chunks; a block that is given back waits in the list of its size. The chunks go with the store. There are two areas
 * of chunks, so that what every lookup reads stands close together and stays in the cache.
 *
 *  1. The lock is the caller's: fp_store_take(), _put() and _reserve() are called with it held, or before the store is
 *     shared. Readers of the blocks need none.
 *  2. Reserve, then take: after fp_store_reserve() the next FP_STORE_OPERATION bytes of each area cannot fail.
 */
#ifndef FP_STORE_H
#define FP_STORE_H

#include <pthread.h>
#include <stddef.h>

#include "fp_value.h"

#define FP_STORE_BLOCK 1808u                   /* bytes of the largest block */
#define FP_STORE_OPERATION ((size_t)56 << 10)  /* bytes */

struct fp_store_chunk;

enum fp_store_kind {
	FP_STORE_HOT,  /* every lookup passes here */
	FP_STORE_COLD, /* only a lookup that has found something */
	FP_STORE_KINDS,
};

struct fp_store_area {
	size_t reserved; /* bytes of all chunks */
	struct fp_store_chunk *chunks;
	unsigned char *bump;
	size_t left;     /* bytes behind bump */
	void *free[FP_STORE_BLOCK / 8 + 1];
};

struct fp_store {
	pthread_mutex_t lock;
	size_t maps;     /* that live here, the owner's count */
	struct fp_store_area areas[FP_STORE_KINDS];
	struct fp_value_table values;
};

struct fp_store *fp_store_new(void); /* NULL: no memory */
void fp_store_free(struct fp_store *store);
int fp_store_reserve(struct fp_store *store); /* -ENOMEM */
void *fp_store_take(struct fp_store *store, enum fp_store_kind kind, size_t size);
void fp_store_put(struct fp_store *store, enum fp_store_kind kind, void *block, size_t size);
size_t fp_store_memory(const struct fp_store *store); /* bytes */

#endif
