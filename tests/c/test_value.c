/* SPDX-License-Identifier: Apache-2.0 */
/* The numbered values of an identity map: shared, given back, given anew, and used up. */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fp_prefix.h"

static int same(struct fp_prefix_value a, struct fp_prefix_value b)
{
	return a.identity == b.identity && a.ifindex == b.ifindex;
}

/* More different values than there are numbers for them: hosts, half of them changed and changed back. */
static void test_more_values_than_numbers(void)
{
	enum { HOSTS = FP_VALUES + 5000 };
	struct fp_prefix_entry *entries = calloc(HOSTS, sizeof(*entries));
	struct fp_prefix_map *map, *changed, *back;
	unsigned wrong = 0;

	for (uint32_t i = 0; i < HOSTS; i++) {
		uint32_t addr = htobe32(i * 2654435761u);

		entries[i] = (struct fp_prefix_entry){ .addr = { [10] = 0xff, [11] = 0xff }, .len = 128, .identity = i + 1 };
		memcpy(entries[i].addr + 12, &addr, 4);
	}
	CHECK(fp_prefix_map_build(entries, HOSTS, &map) == 0);
	for (uint32_t i = 0; i < HOSTS; i += 2)
		entries[i].identity += HOSTS;
	CHECK(fp_prefix_map_update(map, entries, HOSTS, NULL, 0, &changed) == 0);
	for (uint32_t i = 0; i < HOSTS; i++) {
		wrong += fp_prefix_map_lookup(map, entries[i].addr).identity != i + 1;
		wrong += fp_prefix_map_lookup(changed, entries[i].addr).identity != entries[i].identity;
	}
	CHECK(wrong == 0);
	fp_prefix_map_release(map); /* its numbers may be given anew */
	for (uint32_t i = 0; i < HOSTS; i++)
		entries[i].identity = i % 7;
	CHECK(fp_prefix_map_update(changed, entries, HOSTS, NULL, 0, &back) == 0);
	fp_prefix_map_release(changed);
	for (uint32_t i = 0; i < HOSTS; i++)
		wrong += fp_prefix_map_lookup(back, entries[i].addr).identity != i % 7;
	CHECK(wrong == 0);
	fp_prefix_map_release(back);
	free(entries);
}

/* The table of values alone: numbers are shared, given back and given anew, whatever collides. */
static void test_values_have_one_number_each(void)
{
	enum { DIFFERENT = 3000 };
	static int numbers[DIFFERENT];
	static uint32_t uses[DIFFERENT];
	struct fp_value_table table;
	uint64_t seed = 6;
	unsigned wrong = 0;

	CHECK(fp_value_table_init(&table) == 0);
	for (int round = 0; round < 200000; round++) {
		uint32_t which = check_below(&seed, DIFFERENT);
		struct fp_prefix_value value = { which % 50, which / 50 };

		if (check_below(&seed, 2)) {
			int number = fp_value_get(&table, value);

			wrong += uses[which] && number != numbers[which];
			wrong += !same(table.values[number], value);
			numbers[which] = number;
			uses[which]++;
		} else if (uses[which]) {
			wrong += !same(table.values[numbers[which]], value);
			fp_value_put(&table, (uint16_t)numbers[which]);
			uses[which]--;
		}
	}
	CHECK(wrong == 0 && table.given <= DIFFERENT);
	fp_value_table_free(&table);
}

int main(void)
{
	RUN(test_more_values_than_numbers);
	RUN(test_values_have_one_number_each);
	return check_result();
}
