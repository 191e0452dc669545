/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_MIN ((size_t)64 << 10)
#define CHUNK_MAX ((size_t)2 << 20) /* a huge page */

struct fp_store_chunk {
	struct fp_store_chunk *next;
};

static_assert(FP_STORE_OPERATION + sizeof(struct fp_store_chunk) <= CHUNK_MIN, "any chunk holds an operation");

static size_t rounded(size_t size)
{
	return (size + 7) / 8 * 8;
}

void fp_store_put(struct fp_store *store, void *block, size_t size)
{
	size_t slot = rounded(size) / 8;

	memcpy(block, &store->free[slot], sizeof(void *));
	store->free[slot] = block;
}

int fp_store_reserve(struct fp_store *store)
{
	struct fp_store_chunk *chunk;
	size_t size = CHUNK_MIN;

	if (store->left >= FP_STORE_OPERATION)
		return 0;
	while (size < store->reserved && size < CHUNK_MAX)
		size *= 2;
	chunk = aligned_alloc(size, size);
	if (!chunk)
		return -ENOMEM;
	if (size == CHUNK_MAX)
		(void)madvise(chunk, size, MADV_HUGEPAGE); /* a lookup is as fast as its page walks */
	while (store->left >= 8) {
		size_t rest = store->left < FP_STORE_BLOCK ? store->left / 8 * 8 : FP_STORE_BLOCK;

		fp_store_put(store, store->bump, rest);
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

void *fp_store_take(struct fp_store *store, size_t size)
{
	void *block;

	size = rounded(size);
	assert(size <= FP_STORE_BLOCK);
	block = store->free[size / 8];
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

void fp_store_free(struct fp_store *store)
{
	struct fp_store_chunk *chunk = store->chunks;

	while (chunk) {
		struct fp_store_chunk *next = chunk->next;

		free(chunk);
		chunk = next;
	}
	pthread_mutex_destroy(&store->lock);
	free(store);
}

struct fp_store *fp_store_new(void)
{
	struct fp_store *store = calloc(1, sizeof(*store));

	if (store && pthread_mutex_init(&store->lock, NULL)) {
		free(store);
		return NULL;
	}
	return store;
}
