/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_list.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"

#define SOME 400u

static uint64_t seed = 20260801;

static uint32_t draw(uint32_t below)
{
	return check_below(&seed, below);
}

static struct fp_list_record v4(uint32_t address, unsigned len)
{
	struct fp_list_record record = { .addr = { [10] = 0xff, [11] = 0xff }, .len = (uint8_t)(96 + len) };
	uint32_t bits = htobe32(len ? address & ~(uint32_t)0 << (32 - len) : 0);

	memcpy(record.addr + 12, &bits, 4);
	return record;
}

/* Few addresses, so that they meet. */
static struct fp_list_record some_record(void)
{
	struct fp_list_record record = { .len = (uint8_t)(draw(3) * 16) };

	if (draw(3))
		return v4(draw(4) << 30 | draw(8) << 21 | draw(4), 1 + draw(32));
	record.addr[0] = record.len ? (uint8_t)(draw(2) << 5) : 0;
	record.addr[3] = record.len > 16 ? (uint8_t)draw(3) : 0;
	return record;
}

static size_t some_list(struct fp_list_record *out, size_t n)
{
	int64_t kept;

	for (size_t i = 0; i < n; i++)
		out[i] = some_record();
	kept = fp_list_sort(out, n);
	CHECK(kept >= 0 && (size_t)kept <= n);
	CHECK(fp_list_check(out, (size_t)kept) == 0);
	return (size_t)kept;
}

static void lines_are_read_or_named(void)
{
	static const char text[] = "192.0.2.1\r\n  198.51.100.77/24\t\n\n# no\n010.1.1.1\n2001:db8::1/32\n"
				   "::ffff:192.0.2.1\n1.2.3.4/33\n1.2.3\n1.2.3.4 x\nfe80::1%eth0\n1.2.3.4/\n255.255.255.255";
	struct fp_list_record records[16];
	struct fp_list_line lines[16];
	struct fp_list_reader reader = { 0 };
	size_t found = 0;

	CHECK(fp_list_read(text, sizeof(text) - 1, &reader, records, 16, lines, 16) == 0);
	CHECK(reader.offset == sizeof(text) - 1 && reader.number == 13);
	CHECK(reader.records == 5 && reader.lines == 7);
	CHECK(!memcmp(&records[0], &(struct fp_list_record){ .addr = { [10] = 255, 255, 192, 0, 2, 1 }, .len = 128 }, 17));
	CHECK(!memcmp(&records[1], &(struct fp_list_record){ .addr = { [10] = 255, 255, 198, 51, 100, 0 }, .len = 120 }, 17));
	CHECK(!memcmp(&records[2], &(struct fp_list_record){ .addr = { 0x20, 1, 0xd, 0xb8 }, .len = 32 }, 17));
	CHECK(!memcmp(&records[3], &records[0], 17));
	CHECK(lines[0].number == 4 && lines[0].length == 4 && !memcmp(text + lines[0].offset, "# no", 4));

	reader = (struct fp_list_reader){ 0 };
	while (reader.offset < sizeof(text) - 1) { /* one at a time */
		CHECK(fp_list_read(text, sizeof(text) - 1, &reader, records, 1, lines, 1) == 0);
		found += reader.records + reader.lines;
	}
	CHECK(found == 12);
}

static int by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, FP_LIST_RECORD);
}

static void sorting_agrees_with_qsort(void)
{
	static struct fp_list_record ours[5000], theirs[5000];

	for (unsigned round = 0; round < 60; round++) {
		size_t n = draw(round % 2 ? 60 : 5000), kept = 0;

		for (size_t i = 0; i < n; i++)
			theirs[i] = ours[i] = some_record();
		qsort(theirs, n, sizeof(*theirs), by_bytes);
		for (size_t i = 0; i < n; i++)
			if (!i || by_bytes(&theirs[i], &theirs[i - 1]))
				theirs[kept++] = theirs[i];
		CHECK(fp_list_sort(ours, n) == (int64_t)kept);
		CHECK(!memcmp(ours, theirs, kept * sizeof(*ours)));
		CHECK(fp_list_check(ours, kept) == 0);
		if (kept > 1) {
			CHECK(fp_list_sort(ours, kept) == (int64_t)kept);
			CHECK(fp_list_find(ours, kept, &ours[kept / 2]) == kept / 2);
			ours[0].addr[15] |= ours[0].len < 128;
			ours[1] = ours[0];
			CHECK(fp_list_check(ours, kept) == -EINVAL);
		}
	}
}

static int is_in(const struct fp_list_record *list, size_t n, const struct fp_list_record *wanted)
{
	for (size_t i = 0; i < n; i++)
		if (!by_bytes(&list[i], wanted))
			return 1;
	return 0;
}

static void differences_are_exact(void)
{
	static struct fp_list_record a[SOME], b[SOME], added[SOME], removed[SOME];
	static uint32_t values_a[SOME], values_b[SOME];

	for (unsigned round = 0; round < 100; round++) {
		size_t n_a = some_list(a, draw(SOME)), n_b = some_list(b, draw(SOME)), n_added, n_removed, plus = 0, minus = 0;

		fp_list_difference(a, n_a, b, n_b, added, &n_added, removed, &n_removed);
		for (size_t i = 0; i < n_a; i++) {
			values_a[i] = (uint32_t)i + 1;
			minus += !is_in(b, n_b, &a[i]);
		}
		memset(values_b, 0, sizeof(values_b));
		fp_list_carry(a, values_a, n_a, b, values_b, n_b);
		for (size_t i = 0; i < n_b; i++) {
			int known = is_in(a, n_a, &b[i]);

			plus += !known;
			CHECK(!known == !values_b[i]);
			CHECK(!known || !by_bytes(&a[values_b[i] - 1], &b[i]));
		}
		CHECK(n_added == plus && n_removed == minus);
		for (size_t i = 0; i < n_added; i++)
			CHECK(is_in(b, n_b, &added[i]) && !is_in(a, n_a, &added[i]));
	}
}

static void nothing_is_inside_another_one(void)
{
	static struct fp_list_record all[SOME], out[SOME];
	static const struct fp_list_record two[2] = { { .addr = { 0 }, .len = 0 }, { .addr = { 0x20 }, .len = 4 } };

	CHECK(fp_list_disjoint(two, 2, out) == 1 && out[0].len == 0);
	for (unsigned round = 0; round < 100; round++) {
		size_t n = some_list(all, draw(SOME)), kept = fp_list_disjoint(all, n, out);

		CHECK(fp_list_check(out, kept) == 0);
		for (size_t i = 1; i < kept; i++) {
			struct fp_list_key x = fp_list_load(out[i - 1].addr, out[i - 1].len);

			CHECK(!fp_list_covers(x, fp_list_load(out[i].addr, out[i].len)));
		}
	}
}

/* What the naive reader says of an address: the longest of `base`, and every layer that has it. */
static void ask(const struct fp_prefix_entry *base, size_t n_base, const struct fp_list_layer *layers, size_t n_layers,
		struct fp_list_key address, uint32_t *identity, uint32_t *bits)
{
	int longest = -1;

	*identity = *bits = 0;
	for (size_t i = 0; i < n_base; i++) {
		if (base[i].len > longest && fp_list_covers(fp_list_load(base[i].addr, base[i].len), address)) {
			longest = base[i].len;
			*identity = base[i].identity;
		}
	}
	for (size_t i = 0; i < n_layers; i++)
		for (size_t k = 0; k < layers[i].n; k++)
			if (fp_list_covers(fp_list_load(layers[i].records[k].addr, layers[i].records[k].len), address))
				*bits |= 1u << i;
}

#define LAYERS 3u

struct world {
	struct fp_prefix_entry base[SOME], entries[SOME * 4];
	struct fp_list_record lists[LAYERS][SOME];
	struct fp_list_layer layers[LAYERS];
	uint32_t states[2 * SOME];
	size_t n_base, n, n_states;
};

static void make_world(struct world *world, size_t most)
{
	static struct fp_list_record all[SOME];
	int64_t n;

	world->n_base = some_list(all, draw((uint32_t)most));
	for (size_t i = 0; i < world->n_base; i++) {
		world->base[i] = (struct fp_prefix_entry){ .len = all[i].len, .identity = 1 + draw(5), .ifindex = draw(3) };
		memcpy(world->base[i].addr, all[i].addr, 16);
	}
	for (size_t i = 0; i < LAYERS; i++) {
		size_t some = some_list(all, draw((uint32_t)most));

		world->layers[i] = (struct fp_list_layer){ world->lists[i], fp_list_disjoint(all, some, world->lists[i]) };
	}
	n = fp_list_merge(world->base, world->n_base, world->layers, LAYERS, world->entries, world->states, SOME,
			  &world->n_states);
	CHECK(n >= 0);
	world->n = n > 0 ? (size_t)n : 0;
}

static void a_merge_knows_what_a_naive_reader_knows(void)
{
	static struct world world;

	for (unsigned round = 0; round < 150; round++) {
		struct fp_prefix_map *map;

		make_world(&world, round % 3 ? 40 : SOME);
		CHECK(fp_prefix_map_build(world.entries, world.n, &map) == 0);
		for (size_t i = 0; i < 200; i++) {
			struct fp_list_record at = some_record();
			struct fp_prefix_value value = fp_prefix_map_lookup(map, at.addr);
			uint32_t identity, bits;

			ask(world.base, world.n_base, world.layers, LAYERS, fp_list_load(at.addr, 128), &identity, &bits);
			CHECK(value.identity < world.n_states);
			CHECK(world.states[2 * value.identity] == identity && world.states[2 * value.identity + 1] == bits);
		}
		fp_prefix_map_release(map);
	}
	CHECK(fp_list_merge(world.base, world.n_base, world.layers, LAYERS, world.entries, world.states, 1, &world.n_states) ==
	      (world.n ? -ENOSPC : 0));
}

static void changes_lead_from_one_to_the_other(void)
{
	static struct world before, after;
	static struct fp_prefix_entry set[SOME * 4], gone[SOME * 4];
	size_t n_set, n_gone;

	for (unsigned round = 0; round < 60; round++) {
		struct fp_prefix_map *map, *changed, *wanted;

		make_world(&before, SOME);
		make_world(&after, SOME);
		fp_list_changes(before.entries, before.n, after.entries, after.n, set, &n_set, gone, &n_gone);
		CHECK(fp_prefix_map_build(before.entries, before.n, &map) == 0);
		CHECK(fp_prefix_map_build(after.entries, after.n, &wanted) == 0);
		CHECK(fp_prefix_map_update(map, set, n_set, gone, n_gone, &changed) == 0);
		CHECK(fp_prefix_map_count(changed) == after.n && fp_prefix_map_count(wanted) == after.n);
		for (size_t i = 0; i < 200; i++) {
			struct fp_list_record at = some_record();
			struct fp_prefix_value a = fp_prefix_map_lookup(changed, at.addr);
			struct fp_prefix_value b = fp_prefix_map_lookup(wanted, at.addr);

			CHECK(a.identity == b.identity && a.ifindex == b.ifindex);
		}
		fp_prefix_map_release(map);
		fp_prefix_map_release(changed);
		fp_prefix_map_release(wanted);
	}
	for (uint32_t i = 0; i < after.n_states; i++)
		after.states[i] = 100 + i;
	CHECK(fp_list_name(after.entries, after.n, after.states, after.n_states) == 0);
	CHECK(after.n && after.entries[0].identity >= 100);
	CHECK(fp_list_name(after.entries, after.n, after.states, 1) == -EINVAL);
}

int main(void)
{
	RUN(lines_are_read_or_named);
	RUN(sorting_agrees_with_qsort);
	RUN(differences_are_exact);
	RUN(nothing_is_inside_another_one);
	RUN(a_merge_knows_what_a_naive_reader_knows);
	RUN(changes_lead_from_one_to_the_other);
	return check_result();
}
