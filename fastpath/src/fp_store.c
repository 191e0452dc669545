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

static void area_put(struct fp_store_area *area, void *block, size_t size)
{
	size_t slot = rounded(size) / 8;

	memcpy(block, &area->free[slot], sizeof(void *));
	area->free[slot] = block;
}

void fp_store_put(struct fp_store *store, enum fp_store_kind kind, void *block, size_t size)
{
	area_put(&store->areas[kind], block, size);
}

static int area_reserve(struct fp_store_area *area)
{
	struct fp_store_chunk *chunk;
	size_t size = CHUNK_MIN;

	if (area->left >= FP_STORE_OPERATION)
		return 0;
	while (size < area->reserved && size < CHUNK_MAX)
		size *= 2;
	chunk = aligned_alloc(size, size);
	if (!chunk)
		return -ENOMEM;
	if (size == CHUNK_MAX)
		(void)madvise(chunk, size, MADV_HUGEPAGE); /* a lookup is as fast as its page walks */
	while (area->left >= 8) {
		size_t rest = area->left < FP_STORE_BLOCK ? area->left / 8 * 8 : FP_STORE_BLOCK;

		area_put(area, area->bump, rest);
		area->bump += rest;
		area->left -= rest;
	}
	chunk->next = area->chunks;
	area->chunks = chunk;
	area->reserved += size;
	area->bump = (unsigned char *)(chunk + 1);
	area->left = size - sizeof(*chunk);
	return 0;
}

int fp_store_reserve(struct fp_store *store)
{
	int err = 0;

	for (int kind = 0; kind < FP_STORE_KINDS && !err; kind++)
		err = area_reserve(&store->areas[kind]);
	return err;
}

void *fp_store_take(struct fp_store *store, enum fp_store_kind kind, size_t size)
{
	struct fp_store_area *area = &store->areas[kind];
	void *block;

	size = rounded(size);
	assert(size <= FP_STORE_BLOCK);
	block = area->free[size / 8];
	if (block) {
		memcpy(&area->free[size / 8], block, sizeof(void *));
		return block;
	}
	assert(area->left >= size);
	block = area->bump;
	area->bump += size;
	area->left -= size;
	return block;
}

size_t fp_store_memory(const struct fp_store *store)
{
	size_t bytes = sizeof(*store) + fp_value_table_memory(&store->values);

	for (int kind = 0; kind < FP_STORE_KINDS; kind++)
		bytes += store->areas[kind].reserved;
	return bytes;
}

void fp_store_free(struct fp_store *store)
{
	for (int kind = 0; kind < FP_STORE_KINDS; kind++) {
		struct fp_store_chunk *chunk = store->areas[kind].chunks;

		while (chunk) {
			struct fp_store_chunk *next = chunk->next;

			free(chunk);
			chunk = next;
		}
	}
	fp_value_table_free(&store->values);
	pthread_mutex_destroy(&store->lock);
	free(store);
}

struct fp_store *fp_store_new(void)
{
	struct fp_store *store = calloc(1, sizeof(*store));

	if (!store)
		return NULL;
	if (fp_value_table_init(&store->values)) {
		free(store);
		return NULL;
	}
	if (pthread_mutex_init(&store->lock, NULL)) {
		fp_value_table_free(&store->values);
		free(store);
		return NULL;
	}
	return store;
}
