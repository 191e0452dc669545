/* SPDX-License-Identifier: Apache-2.0 */
/* The identity map against a list that is searched from end to end. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fp_prefix.h"

#define TWIN_MAX 4096

struct twin {
	struct fp_prefix_entry entries[TWIN_MAX];
	size_t n;
};

static int is_v4(const uint8_t addr[16])
{
	static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

	return !memcmp(addr, mapped, 12);
}

static int covers(const struct fp_prefix_entry *e, const uint8_t addr[16])
{
	if ((e->len >= 96 && is_v4(e->addr)) != is_v4(addr))
		return 0;
	for (unsigned i = 0; i < e->len; i++)
		if ((e->addr[i / 8] ^ addr[i / 8]) >> (7 - i % 8) & 1)
			return 0;
	return 1;
}

static struct fp_prefix_value twin_lookup(const struct twin *twin, const uint8_t addr[16])
{
	struct fp_prefix_value value = { FP_WORLD, 0 };
	int best = -1;

	for (size_t i = 0; i < twin->n; i++) {
		const struct fp_prefix_entry *e = &twin->entries[i];

		if (e->len > best && covers(e, addr)) {
			best = e->len;
			value.identity = e->identity;
			value.ifindex = e->ifindex;
		}
	}
	return value;
}

static size_t twin_find(const struct twin *twin, const struct fp_prefix_entry *e)
{
	size_t i;

	for (i = 0; i < twin->n; i++)
		if (twin->entries[i].len == e->len && !memcmp(twin->entries[i].addr, e->addr, 16))
			break;
	return i;
}

static void twin_set(struct twin *twin, const struct fp_prefix_entry *e)
{
	size_t i = twin_find(twin, e);

	twin->entries[i] = *e;
	if (i == twin->n)
		twin->n++;
}

static void twin_remove(struct twin *twin, const struct fp_prefix_entry *e)
{
	size_t i = twin_find(twin, e);

	if (i < twin->n)
		twin->entries[i] = twin->entries[--twin->n];
}

/* Few distinct bits in clusters, so that prefixes nest and paths meet at every depth. */
static void random_addr(uint64_t *seed, uint8_t addr[16])
{
	static const uint8_t bytes[4] = { 0x00, 0x0f, 0xa0, 0xff };
	int v4 = check_below(seed, 2) == 0;

	for (int i = 0; i < 16; i++)
		addr[i] = check_below(seed, 3) ? bytes[check_below(seed, 2)] : bytes[check_below(seed, 4)];
	if (v4) {
		memset(addr, 0, 10);
		addr[10] = addr[11] = 0xff;
	}
	if (check_below(seed, 4) == 0)
		addr[15] = (uint8_t)check_random(seed);
}

static struct fp_prefix_entry random_entry(uint64_t *seed)
{
	struct fp_prefix_entry e = { .len = 0 };

	random_addr(seed, e.addr);
	if (is_v4(e.addr) && check_below(seed, 8))
		e.len = (uint8_t)(96 + check_below(seed, 33));
	else
		e.len = (uint8_t)check_below(seed, 129);
	for (unsigned i = e.len; i < 128; i++)
		e.addr[i / 8] &= (uint8_t)~(1u << (7 - i % 8));
	e.identity = 1 + check_below(seed, check_below(seed, 2) ? 1u << 30 : 4); /* of its own, or shared by many */
	e.ifindex = check_below(seed, e.identity < 5 ? 2 : 100);
	return e;
}

static int same(struct fp_prefix_value a, struct fp_prefix_value b)
{
	return a.identity == b.identity && a.ifindex == b.ifindex;
}

static unsigned differences(const struct fp_prefix_map *map, const struct twin *twin, uint64_t *seed, int probes)
{
	struct fp_prefix_map narrow = *map; /* as on a machine without the wide instructions */
	struct fp_prefix_value many[40], one[40];
	uint8_t addrs[40][16];
	unsigned wrong = 0;

	narrow.wide = 0;
	for (int i = 0; i < probes; i++) {
		uint8_t *addr = addrs[i % 40];

		random_addr(seed, addr);
		if (twin->n && check_below(seed, 2)) { /* near an entry: flip one bit of it */
			unsigned bit = check_below(seed, 129);

			memcpy(addr, twin->entries[check_below(seed, (uint32_t)twin->n)].addr, 16);
			if (bit < 128)
				addr[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		one[i % 40] = fp_prefix_map_lookup(map, addr);
		wrong += !same(one[i % 40], twin_lookup(twin, addr));
		wrong += !same(one[i % 40], fp_prefix_map_lookup(&narrow, addr));
		if (i % 40 == 39) {
			fp_prefix_map_lookup_many(map, (const uint8_t (*)[16])addrs, 40, many);
			for (int k = 0; k < 40; k++)
				wrong += !same(many[k], one[k]);
			fp_prefix_map_lookup_many(&narrow, (const uint8_t (*)[16])addrs, 40, many);
			for (int k = 0; k < 40; k++)
				wrong += !same(many[k], one[k]);
		}
	}
	return wrong;
}

/* The map that is built of what this one exports. */
static struct fp_prefix_map *rebuilt(const struct fp_prefix_map *map)
{
	size_t n = fp_prefix_map_count(map);
	struct fp_prefix_entry *entries = calloc(n + 1, sizeof(*entries));
	struct fp_prefix_map *made = NULL;

	CHECK(entries && !fp_prefix_map_export(map, entries, n, 1));
	CHECK(!n || fp_prefix_map_export(map, entries, n - 1, 0) == -ENOSPC);
	CHECK(!fp_prefix_map_build(entries, n, &made) && fp_prefix_map_count(made) == n);
	free(entries);
	return made;
}

static void test_build_agrees_with_the_list(void)
{
	static struct twin twin;
	static struct fp_prefix_entry entries[2000];
	uint64_t seed = 1;

	for (unsigned round = 0; round < 40; round++) {
		uint32_t n = check_below(&seed, round < 20 ? 20 : 2000);
		struct fp_prefix_map *map = NULL, *again;

		twin.n = 0;
		for (uint32_t i = 0; i < n; i++) {
			entries[i] = random_entry(&seed);
			twin_set(&twin, &entries[i]);
		}
		CHECK(fp_prefix_map_build(entries, n, &map) == 0);
		CHECK(fp_prefix_map_count(map) == twin.n);
		CHECK(differences(map, &twin, &seed, 500) == 0);
		again = rebuilt(map);
		fp_prefix_map_release(map);
		CHECK(differences(again, &twin, &seed, 500) == 0);
		fp_prefix_map_release(again);
	}
}

/* Several versions live at once; each must go on answering as when it was made. */
static void test_versions_do_not_disturb_each_other(void)
{
	enum { VERSIONS = 6 };
	static struct twin twins[VERSIONS];
	struct fp_prefix_map *maps[VERSIONS] = { NULL };
	uint64_t seed = 2;

	CHECK(fp_prefix_map_build(NULL, 0, &maps[0]) == 0);
	for (unsigned round = 1; round < 600; round++) {
		struct fp_prefix_entry set[40], remove[40];
		unsigned from = (round - 1) % VERSIONS, to = round % VERSIONS;
		uint32_t n_set = check_below(&seed, 40), n_remove = check_below(&seed, 40);
		int err;

		fp_prefix_map_release(maps[to]);
		twins[to] = twins[from];
		for (uint32_t i = 0; i < n_remove; i++) {
			remove[i] = random_entry(&seed);
			if (twins[to].n && check_below(&seed, 4))
				remove[i] = twins[to].entries[check_below(&seed, (uint32_t)twins[to].n)];
			twin_remove(&twins[to], &remove[i]);
		}
		for (uint32_t i = 0; i < n_set; i++) {
			set[i] = random_entry(&seed);
			twin_set(&twins[to], &set[i]);
		}
		err = fp_prefix_map_update(maps[from], set, n_set, remove, n_remove, &maps[to]);
		CHECK(err == 0);
		CHECK(fp_prefix_map_count(maps[to]) == twins[to].n);
		for (unsigned v = 0; v < VERSIONS; v++)
			if (maps[v] && (v == to || round % 10 == 0))
				CHECK(differences(maps[v], &twins[v], &seed, 100) == 0);
	}
	for (unsigned v = 0; v < VERSIONS; v++)
		fp_prefix_map_release(maps[v]);
}

static void test_removing_uncovers_the_shorter_prefix(void)
{
	struct fp_prefix_entry e[3] = {
		{ .addr = { [10] = 0xff, [11] = 0xff, [12] = 10 }, .len = 104, .identity = 1 },
		{ .addr = { [10] = 0xff, [11] = 0xff, [12] = 10, [13] = 1 }, .len = 112, .identity = 2 },
		{ .addr = { [10] = 0xff, [11] = 0xff, [12] = 10, [13] = 1, [15] = 7 }, .len = 128, .identity = 3, .ifindex = 9 },
	};
	struct fp_prefix_map *map, *less, *least;

	CHECK(fp_prefix_map_build(e, 3, &map) == 0);
	CHECK(fp_prefix_map_lookup(map, e[2].addr).identity == 3 && fp_prefix_map_lookup(map, e[2].addr).ifindex == 9);
	CHECK(fp_prefix_map_update(map, NULL, 0, &e[2], 1, &less) == 0);
	CHECK(fp_prefix_map_lookup(less, e[2].addr).identity == 2);
	CHECK(fp_prefix_map_update(less, NULL, 0, &e[1], 1, &least) == 0);
	CHECK(fp_prefix_map_lookup(least, e[2].addr).identity == 1);
	CHECK(fp_prefix_map_lookup(map, e[2].addr).identity == 3);
	fp_prefix_map_release(map);
	fp_prefix_map_release(less);
	CHECK(fp_prefix_map_lookup(least, e[2].addr).identity == 1);
	fp_prefix_map_release(least);
}

static void test_ipv6_default_does_not_cover_ipv4(void)
{
	struct fp_prefix_entry all6 = { .len = 0, .identity = 6 };
	struct fp_prefix_entry all4 = { .addr = { [10] = 0xff, [11] = 0xff }, .len = 96, .identity = 4 };
	uint8_t v4[16] = { [10] = 0xff, [11] = 0xff, [12] = 192, [15] = 1 }, v6[16] = { 0x20, 1 };
	struct fp_prefix_map *map, *both;

	CHECK(fp_prefix_map_build(&all6, 1, &map) == 0);
	CHECK(fp_prefix_map_lookup(map, v4).identity == FP_WORLD);
	CHECK(fp_prefix_map_lookup(map, v6).identity == 6);
	CHECK(fp_prefix_map_update(map, &all4, 1, NULL, 0, &both) == 0);
	CHECK(fp_prefix_map_lookup(both, v4).identity == 4);
	CHECK(fp_prefix_map_lookup(both, v6).identity == 6);
	fp_prefix_map_release(both);
	fp_prefix_map_release(map);
}

static void test_refuses_a_length_beyond_128(void)
{
	struct fp_prefix_entry bad = { .len = 129 };
	struct fp_prefix_map *map = NULL, *next = NULL;

	CHECK(fp_prefix_map_build(&bad, 1, &map) == -EINVAL && !map);
	CHECK(fp_prefix_map_build(NULL, 0, &map) == 0);
	CHECK(fp_prefix_map_update(map, &bad, 1, NULL, 0, &next) == -EINVAL && !next);
	CHECK(fp_prefix_map_count(map) == 0);
	fp_prefix_map_release(map);
}

/* Memory must come back: the same change for ever does not grow the store. */
static void test_store_does_not_grow_under_change(void)
{
	static struct fp_prefix_entry entries[3000];
	struct fp_prefix_map *map, *next;
	uint64_t seed = 3;
	size_t after_warmup = 0;

	for (int i = 0; i < 3000; i++)
		entries[i] = random_entry(&seed);
	CHECK(fp_prefix_map_build(entries, 3000, &map) == 0);
	for (int round = 0; round < 20000; round++) {
		struct fp_prefix_entry *e = &entries[check_below(&seed, 3000)];
		int err = round % 2 ? fp_prefix_map_update(map, e, 1, NULL, 0, &next)
				    : fp_prefix_map_update(map, NULL, 0, e, 1, &next);

		if (err)
			break;
		fp_prefix_map_release(map);
		map = next;
		if (round == 2000)
			after_warmup = fp_prefix_map_memory(map);
	}
	CHECK(fp_prefix_map_memory(map) <= after_warmup + after_warmup / 2);
	fp_prefix_map_release(map);
}

static void share_bits(struct fp_prefix_entry *e, uint32_t which)
{
	if (e->len >= 32 && !is_v4(e->addr))
		memcpy(e->addr, which ? "\x20\x01\x0d\xb8" : "\x20\x02\0\0", 4);
	if (e->len >= 112 && is_v4(e->addr))
		memcpy(e->addr + 12, which ? "\x0a\x01" : "\x0a\x02", 2);
}

/* Buckets that fill, burst, join again and nodes that go: a set grows to thousands and shrinks to nothing. */
static void test_growing_and_shrinking_agrees_with_the_list(void)
{
	static struct twin twin;
	struct fp_prefix_map *map, *next;
	uint64_t seed = 5;

	CHECK(fp_prefix_map_build(NULL, 0, &map) == 0);
	for (unsigned round = 0; round < 120; round++) {
		struct fp_prefix_entry change[60];
		uint32_t n = 0;
		int grow = round < 60;

		for (; n < 60 && (grow || twin.n); n++) {
			change[n] = grow ? random_entry(&seed) : twin.entries[check_below(&seed, (uint32_t)twin.n)];
			if (grow) /* many with many bits in common */
				share_bits(&change[n], check_below(&seed, 2));
			if (grow)
				twin_set(&twin, &change[n]);
			else
				twin_remove(&twin, &change[n]);
		}
		CHECK(fp_prefix_map_update(map, change, grow ? n : 0, change, grow ? 0 : n, &next) == 0);
		fp_prefix_map_release(map);
		map = next;
		CHECK(fp_prefix_map_count(map) == twin.n);
		CHECK(differences(map, &twin, &seed, 200) == 0);
	}
	CHECK(fp_prefix_map_count(map) == 0);
	fp_prefix_map_release(map);
}

struct reader {
	_Atomic(struct fp_prefix_map *) current;
	struct fp_prefix_map *first;
	uint8_t addr[16], host[16];
	atomic_int stop;
	atomic_uint wrong;
};

static void *read_for_ever(void *context)
{
	struct reader *r = context;

	while (!atomic_load(&r->stop)) {
		struct fp_prefix_map *map = atomic_load_explicit(&r->current, memory_order_acquire);

		if (fp_prefix_map_lookup(map, r->addr).identity == FP_WORLD ||
		    fp_prefix_map_lookup(map, r->host).identity != 77 || fp_prefix_map_lookup(r->first, r->host).identity != 77 ||
		    fp_prefix_map_lookup(r->first, r->addr).identity != 77)
			atomic_fetch_add(&r->wrong, 1);
	}
	return NULL;
}

/* For the thread sanitizer: a reader goes on while a writer makes new versions from the one it reads. */
static void test_reader_beside_a_writer(void)
{
	struct fp_prefix_entry entry = { .addr = { 0x20, 1, 0xd, 0xb8 }, .len = 64, .identity = 77 };
	struct fp_prefix_entry host = { .addr = { [10] = 0xff, [11] = 0xff, [12] = 10 }, .len = 128, .identity = 77 };
	struct fp_prefix_map *maps[400];
	struct reader r = { .addr = { 0x20, 1, 0xd, 0xb8 }, .host = { [10] = 0xff, [11] = 0xff, [12] = 10 } };
	pthread_t thread;
	uint64_t seed = 4;

	CHECK(fp_prefix_map_build((struct fp_prefix_entry[]){ entry, host }, 2, &maps[0]) == 0);
	r.first = maps[0];
	atomic_init(&r.current, maps[0]);
	CHECK(pthread_create(&thread, NULL, read_for_ever, &r) == 0);
	for (int i = 1; i < 400; i++) {
		struct fp_prefix_entry e = random_entry(&seed);

		if (i % 2) {
			memcpy(e.addr, entry.addr, 5);
			e.len = (uint8_t)(32 + check_below(&seed, 97));
		} else { /* into the host's bucket */
			memcpy(e.addr, host.addr, 13);
			e.addr[15] |= 1;
			e.len = 128;
		}
		if (fp_prefix_map_update(maps[i - 1], &e, 1, NULL, 0, &maps[i]))
			maps[i] = fp_prefix_map_acquire(maps[i - 1]);
		atomic_store_explicit(&r.current, maps[i], memory_order_release);
	}
	atomic_store(&r.stop, 1);
	pthread_join(thread, NULL);
	CHECK(atomic_load(&r.wrong) == 0);
	for (int i = 0; i < 400; i++)
		fp_prefix_map_release(maps[i]);
}

int main(void)
{
	RUN(test_build_agrees_with_the_list);
	RUN(test_versions_do_not_disturb_each_other);
	RUN(test_growing_and_shrinking_agrees_with_the_list);
	RUN(test_removing_uncovers_the_shorter_prefix);
	RUN(test_ipv6_default_does_not_cover_ipv4);
	RUN(test_refuses_a_length_beyond_128);
	RUN(test_store_does_not_grow_under_change);
	RUN(test_reader_beside_a_writer);
	return check_result();
}
