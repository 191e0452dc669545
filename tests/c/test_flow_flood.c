/* SPDX-License-Identifier: Apache-2.0 */
/* The flow table under those who want it to fail: tuples made to collide, and floods. What is counted is memory that
 * is touched, not time. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "fp_flow.h"

#define MILLISECOND ((uint64_t)1000000)

static const struct fp_hash_key known = { 0x0706050403020100u, 0x0f0e0d0c0b0a0908u };

/* The n-th of many SYNs from spoofed sources to one port. */
static struct fp_packet spoofed(uint32_t n)
{
	struct fp_packet p = { .src = { [10] = 0xff, [11] = 0xff, [12] = 100 }, .dst = { [10] = 0xff, [11] = 0xff, [12] = 10 },
			       .sport = (uint16_t)(1024 + n % 60000), .dport = 443, .proto = 6, .family = 4 };
	uint32_t host = n / 7;

	p.src[13] = (uint8_t)(host >> 16);
	p.src[14] = (uint8_t)(host >> 8);
	p.src[15] = (uint8_t)host;
	return p;
}

static struct fp_packet client(uint16_t n)
{
	struct fp_packet p = spoofed(n);

	p.src[12] = 192;
	p.sport = n;
	return p;
}

static size_t bucket(const struct fp_flow_table *table, const struct fp_packet *p, unsigned which)
{
	return (size_t)(fp_flow_hash(table, p) >> 24 * which & table->mask) * FP_FLOW_WAYS;
}

/* Who knows the key can make tuples that share both buckets: he gets 16 slots and no more, and takes nobody else's.
 * Who does not know it has tuples like any others. */
static void test_tuples_made_to_collide_need_the_key(void)
{
	enum { SLOTS = 1024, CRAFTED = 100, OTHERS = 200 };
	static struct fp_packet crafted[CRAFTED];
	struct fp_flow_table table, keyed;
	struct fp_packet p = spoofed(0);
	unsigned there = 0, others = 0, elsewhere = 0;
	size_t first, second, memory;
	uint32_t n = 0;
	int reversed;

	CHECK(fp_flow_table_init(&table, SLOTS, 3600, &known) == 0);
	CHECK(fp_flow_table_init(&keyed, SLOTS, 3600, NULL) == 0);
	memory = fp_flow_table_memory(&table);
	first = bucket(&table, &p, 0);
	second = bucket(&table, &p, 1);
	for (uint32_t candidate = 0; n < CRAFTED; candidate++) {
		p = spoofed(candidate);
		if (bucket(&table, &p, 0) == first && bucket(&table, &p, 1) == second)
			crafted[n++] = p;
	}
	for (uint16_t i = 0; i < OTHERS; i++) {
		p = client(i);
		if (bucket(&table, &p, 0) != first && bucket(&table, &p, 1) != second &&
		    bucket(&table, &p, 1) != first && bucket(&table, &p, 0) != second) {
			fp_flow_insert(&table, &p, 1);
			others++;
		}
	}
	for (n = 0; n < CRAFTED; n++) {
		fp_flow_insert(&table, &crafted[n], 2 + n);
		fp_flow_insert(&keyed, &crafted[n], 2 + n);
	}
	CHECK(table.count == others + 2 * FP_FLOW_WAYS && table.evicted == CRAFTED - 2 * FP_FLOW_WAYS);
	CHECK(fp_flow_table_memory(&table) == memory);
	for (n = CRAFTED - 2 * FP_FLOW_WAYS; n < CRAFTED; n++) /* the newest are there */
		there += fp_flow_find(&table, &crafted[n], CRAFTED, &reversed) != NULL;
	CHECK(there == 2 * FP_FLOW_WAYS);
	there = 0;
	for (uint16_t i = 0; i < OTHERS; i++) {
		p = client(i);
		there += fp_flow_find(&table, &p, CRAFTED, &reversed) != NULL;
	}
	CHECK(there == others);
	for (n = 0; n < CRAFTED; n++)
		elsewhere += fp_flow_find(&keyed, &crafted[n], CRAFTED, &reversed) != NULL;
	CHECK(keyed.evicted == 0 && elsewhere == CRAFTED);
	fp_flow_table_free(&table);
	fp_flow_table_free(&keyed);
}

/* A million SYNs through 65,536 slots, while 1,000 clients go on: each of them sends when 20,000 SYNs have passed, less
 * than a third of the table. None is forgotten, nothing grows, the books add up. */
static void test_live_flows_survive_a_million_syns(void)
{
	enum { SLOTS = 65536, CLIENTS = 1000, SYNS = 1000000, PAUSE = 20000 };
	struct fp_flow_table table;
	unsigned missing = 0;
	size_t memory, most = 0;
	int reversed;

	CHECK(fp_flow_table_init(&table, SLOTS, 3600, NULL) == 0);
	memory = fp_flow_table_memory(&table);
	for (uint16_t i = 0; i < CLIENTS; i++) {
		struct fp_packet p = client(i);

		fp_flow_insert(&table, &p, 0);
	}
	for (uint32_t n = 1; n <= SYNS; n++) {
		struct fp_packet p = spoofed(n);

		fp_flow_insert(&table, &p, n * MILLISECOND / 1000);
		most = table.count > most ? table.count : most;
		if (n % (PAUSE / CLIENTS) == 0) {
			p = client((uint16_t)(n / (PAUSE / CLIENTS) % CLIENTS));
			missing += fp_flow_find(&table, &p, n * MILLISECOND / 1000, &reversed) == NULL;
		}
	}
	CHECK(missing == 0);
	CHECK(most <= SLOTS && table.count > SLOTS * 99 / 100);
	CHECK(table.inserted == SYNS + CLIENTS && table.count + table.evicted + table.aged == table.inserted);
	CHECK(fp_flow_table_memory(&table) == memory);
	fp_flow_table_free(&table);
}

/* A full table whose pages are all out of reach but those of the tuple's two buckets: finding, inserting and forgetting
 * touch nothing else. */
static void test_nothing_but_two_buckets_is_looked_at(void)
{
	enum { SLOTS = 65536, TRIES = 200 };
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct fp_flow_table table;
	uintptr_t from, to;
	unsigned found = 0;
	int reversed;

	CHECK(fp_flow_table_init(&table, SLOTS, 3600, &known) == 0);
	for (uint32_t n = 0; n < 3 * SLOTS; n++) {
		struct fp_packet p = spoofed(n);

		fp_flow_insert(&table, &p, n);
	}
	from = ((uintptr_t)table.flows + page - 1) / page * page;
	to = (uintptr_t)(table.flows + SLOTS) / page * page;
	for (uint32_t n = 4 * SLOTS; n < 4 * SLOTS + TRIES; n++) {
		struct fp_packet p = spoofed(n);

		CHECK(mprotect((void *)from, to - from, PROT_NONE) == 0);
		for (unsigned which = 0; which < 2; which++) {
			uintptr_t at = (uintptr_t)&table.flows[bucket(&table, &p, which)] / page * page;
			uintptr_t end = ((uintptr_t)&table.flows[bucket(&table, &p, which) + FP_FLOW_WAYS] + page - 1) / page * page;

			at = at < from ? from : at;
			end = end > to ? to : end;
			if (at < end)
				CHECK(mprotect((void *)at, end - at, PROT_READ | PROT_WRITE) == 0);
		}
		found += fp_flow_find(&table, &p, n, &reversed) != NULL;
		fp_flow_insert(&table, &p, n);
		found += fp_flow_find(&table, &p, n, &reversed) != NULL;
		CHECK(mprotect((void *)from, to - from, PROT_READ | PROT_WRITE) == 0);
	}
	CHECK(found == TRIES && table.count <= SLOTS);
	fp_flow_table_free(&table);
}

int main(void)
{
	RUN(test_tuples_made_to_collide_need_the_key);
	RUN(test_live_flows_survive_a_million_syns);
	RUN(test_nothing_but_two_buckets_is_looked_at);
	return check_result();
}
