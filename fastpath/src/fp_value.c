/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_value.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS 131072u /* twice as many as numbers, and a power of two */

int fp_value_table_init(struct fp_value_table *table)
{
	uint8_t *memory = calloc(1, FP_VALUES * (sizeof(*table->values) + sizeof(*table->counts)) +
				    SLOTS * sizeof(*table->slots));

	if (!memory)
		return -ENOMEM;
	table->values = (struct fp_prefix_value *)(void *)memory;
	table->counts = (uint32_t *)(void *)(table->values + FP_VALUES);
	table->slots = (uint16_t *)(void *)(table->counts + FP_VALUES);
	table->given = table->free = 0;
	return 0;
}

void fp_value_table_free(struct fp_value_table *table)
{
	free(table->values);
}

size_t fp_value_table_memory(const struct fp_value_table *table)
{
	return table->given * (sizeof(*table->values) + sizeof(*table->counts)) + SLOTS * sizeof(*table->slots);
}

static uint32_t home(struct fp_prefix_value value)
{
	uint64_t both = (uint64_t)value.ifindex << 32 | value.identity;

	return (uint32_t)(both * 0x9e3779b97f4a7c15u >> 40) % SLOTS;
}

/* The slot of this value, or the empty one where it would stand. */
static uint32_t find(const struct fp_value_table *table, struct fp_prefix_value value)
{
	uint32_t at = home(value);

	for (; table->slots[at]; at = (at + 1) % SLOTS) {
		const struct fp_prefix_value *there = &table->values[table->slots[at] - 1];

		if (there->identity == value.identity && there->ifindex == value.ifindex)
			break;
	}
	return at;
}

int fp_value_get(struct fp_value_table *table, struct fp_prefix_value value)
{
	uint32_t at = find(table, value), number;

	if (table->slots[at]) {
		number = table->slots[at] - 1u;
		table->counts[number]++;
		return (int)number;
	}
	if (table->free) {
		number = table->free - 1;
		table->free = table->counts[number];
	} else if (table->given < FP_VALUES) {
		number = table->given++;
	} else {
		return -ENOSPC;
	}
	table->values[number] = value;
	table->counts[number] = 1;
	table->slots[at] = (uint16_t)(number + 1);
	return (int)number;
}

void fp_value_put(struct fp_value_table *table, uint16_t number)
{
	uint32_t hole, at;

	if (--table->counts[number])
		return;
	hole = find(table, table->values[number]);
	for (at = (hole + 1) % SLOTS; table->slots[at]; at = (at + 1) % SLOTS) { /* what probed past the hole moves up */
		uint32_t from = home(table->values[table->slots[at] - 1]);

		if ((at - from) % SLOTS < (at - hole) % SLOTS)
			continue;
		table->slots[hole] = table->slots[at];
		hole = at;
	}
	table->slots[hole] = 0;
	table->counts[number] = table->free;
	table->free = number + 1u;
}
