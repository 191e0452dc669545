/* SPDX-License-Identifier: Apache-2.0 */
/* The flow table against an array, and its promises: bounded, both directions, nothing allocated. */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fp_flow.h"

#define SECOND ((uint64_t)1000000000)

static const struct fp_hash_key key = { 0x0706050403020100u, 0x0f0e0d0c0b0a0908u };

static struct fp_packet tcp_packet(uint8_t a, uint16_t sport, uint8_t b, uint16_t dport)
{
	struct fp_packet p = { .src = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = a },
			       .dst = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = b },
			       .sport = sport, .dport = dport, .proto = 6, .family = 4 };

	return p;
}

static struct fp_packet answer_to(const struct fp_packet *p)
{
	struct fp_packet r = *p;

	memcpy(r.src, p->dst, 16);
	memcpy(r.dst, p->src, 16);
	r.sport = p->dport;
	r.dport = p->sport;
	return r;
}

static void test_found_from_both_directions(void)
{
	struct fp_packet p = tcp_packet(1, 40000, 2, 80), r = answer_to(&p), other = tcp_packet(1, 40000, 2, 81);
	struct fp_flow_table table;
	struct fp_flow *flow;
	int reversed = -1;

	CHECK(fp_flow_table_init(&table, 100, 60, NULL) == 0);
	CHECK(!fp_flow_find(&table, &p, 1, &reversed));
	flow = fp_flow_insert(&table, &p, 1);
	CHECK(flow->id == 1 && flow->sport == 40000 && table.count == 1);
	CHECK(fp_flow_find(&table, &p, 2, &reversed) == flow && reversed == 0);
	CHECK(fp_flow_find(&table, &r, 3, &reversed) == flow && reversed == 1 && flow->last_seen == 3);
	CHECK(!fp_flow_find(&table, &other, 3, &reversed));
	CHECK(fp_flow_hash(&table, &p) == fp_flow_hash(&table, &r));
	CHECK(fp_flow_hash(&table, &p) != fp_flow_hash(&table, &other));
	other = p;
	other.proto = 17;
	CHECK(!fp_flow_find(&table, &other, 3, &reversed));
	fp_flow_turn(flow);
	CHECK(fp_flow_find(&table, &r, 4, &reversed) == flow && reversed == 0);
	fp_flow_remove(&table, flow);
	CHECK(!fp_flow_find(&table, &p, 5, &reversed) && table.count == 0);
	fp_flow_table_free(&table);
}

static struct fp_packet icmp_packet(uint8_t type, uint16_t id, uint8_t flags)
{
	struct fp_packet p = tcp_packet(1, id, 2, 0);

	p.proto = 1;
	p.icmp_type = type;
	p.flags = (uint8_t)(FP_PACKET_NO_PORTS | flags);
	return p;
}

static void test_echo_and_its_reply_are_one_flow(void)
{
	struct fp_packet request = icmp_packet(8, 77, FP_PACKET_ECHO);
	struct fp_packet reply = icmp_packet(0, 77, FP_PACKET_ECHO | FP_PACKET_ECHO_REPLY), stranger, counter;
	struct fp_flow_table table;
	struct fp_flow *flow;
	int reversed = -1;

	memcpy(reply.src, request.dst, 16);
	memcpy(reply.dst, request.src, 16);
	stranger = reply;
	stranger.sport = 78;
	counter = reply; /* timestamp reply with the same identifier */
	counter.icmp_type = 14;
	CHECK(fp_flow_table_init(&table, 100, 60, &key) == 0);
	flow = fp_flow_insert(&table, &request, 1);
	CHECK(fp_flow_find(&table, &reply, 1, &reversed) == flow && reversed == 1);
	CHECK(!fp_flow_find(&table, &stranger, 1, &reversed));
	CHECK(!fp_flow_find(&table, &counter, 1, &reversed));
	CHECK(fp_flow_hash(&table, &request) == fp_flow_hash(&table, &reply));
	fp_flow_table_free(&table);
}

static void test_idle_flows_are_forgotten_by_and_by(void)
{
	struct fp_flow_table table;
	struct fp_packet p;
	int reversed;
	size_t forgotten = 0;

	CHECK(fp_flow_table_init(&table, 64, 10, &key) == 0);
	for (uint16_t i = 0; i < 20; i++) {
		p = tcp_packet(1, i, 2, 80);
		fp_flow_insert(&table, &p, i < 10 ? 0 : 15 * SECOND);
	}
	for (int i = 0; i < 4; i++)
		forgotten += fp_flow_age(&table, 20 * SECOND, 16);
	CHECK(forgotten == 10 && table.count == 10 && table.aged == 10);
	CHECK(!fp_flow_find(&table, &(struct fp_packet){ 0 }, 1, &reversed));
	CHECK(fp_flow_find(&table, &p, 20 * SECOND, &reversed));
	fp_flow_clear(&table);
	CHECK(table.count == 0 && !fp_flow_find(&table, &p, 20 * SECOND, &reversed));
	fp_flow_table_free(&table);
}

/* Ten times as many flows as slots: memory and count stay, the newest are there, the books add up. */
static void test_full_table_forgets_the_oldest_nearby(void)
{
	enum { SLOTS = 1024, FLOWS = 10 * SLOTS };
	struct fp_flow_table table;
	struct fp_packet p;
	int reversed;
	unsigned recent = 0;

	CHECK(fp_flow_table_init(&table, SLOTS, 3600, &key) == 0);
	for (uint32_t i = 0; i < FLOWS; i++) {
		p = tcp_packet((uint8_t)(i >> 12), (uint16_t)i, 200, 80);
		fp_flow_insert(&table, &p, i * SECOND / 1000);
	}
	CHECK(table.count <= SLOTS && table.count > SLOTS * 95 / 100);
	CHECK(table.count + table.evicted + table.aged == table.inserted && table.aged == 0);
	for (uint32_t i = FLOWS - SLOTS / 4; i < FLOWS; i++) {
		p = tcp_packet((uint8_t)(i >> 12), (uint16_t)i, 200, 80);
		recent += fp_flow_find(&table, &p, FLOWS, &reversed) != NULL;
	}
	CHECK(recent > SLOTS / 4 * 98 / 100);
	fp_flow_table_free(&table);
}

static void test_nothing_is_lost_up_to_half_full(void)
{
	enum { SLOTS = 4096 };
	struct fp_flow_table table;
	struct fp_packet p;
	int reversed;
	unsigned missing = 0;

	CHECK(fp_flow_table_init(&table, SLOTS, 3600, &key) == 0);
	for (uint32_t i = 0; i < SLOTS / 2; i++) {
		p = tcp_packet(1, (uint16_t)i, 2, (uint16_t)(i >> 4));
		fp_flow_insert(&table, &p, i);
	}
	for (uint32_t i = 0; i < SLOTS / 2; i++) {
		p = tcp_packet(1, (uint16_t)i, 2, (uint16_t)(i >> 4));
		missing += fp_flow_find(&table, &p, i, &reversed) == NULL;
	}
	CHECK(table.evicted == 0 && missing == 0);
	fp_flow_table_free(&table);
}

static int twin_is(const struct fp_packet *a, const struct fp_packet *b)
{
	return !memcmp(a->src, b->src, 16) && !memcmp(a->dst, b->dst, 16) && a->sport == b->sport && a->dport == b->dport &&
	       a->proto == b->proto && a->family == b->family;
}

static void test_agrees_with_an_array(void)
{
	enum { N = 200 };
	static struct fp_packet twin[N];
	static uint64_t ids[N];
	struct fp_flow_table table;
	uint64_t seed = 1;
	size_t n = 0;
	unsigned wrong = 0;

	CHECK(fp_flow_table_init(&table, 4096, 3600, NULL) == 0);
	for (int round = 0; round < 30000; round++) {
		struct fp_packet p = tcp_packet((uint8_t)check_below(&seed, 3), (uint16_t)check_below(&seed, 4),
						(uint8_t)check_below(&seed, 3), (uint16_t)check_below(&seed, 4));
		struct fp_packet r;
		struct fp_flow *flow;
		int reversed = -1, forward = 0;
		size_t i;

		p.proto = check_below(&seed, 2) ? 6 : 17;
		r = answer_to(&p);
		for (i = 0; i < n; i++) {
			forward = twin_is(&twin[i], &p);
			if (forward || twin_is(&twin[i], &r))
				break;
		}
		flow = fp_flow_find(&table, &p, 1, &reversed);
		wrong += (flow != NULL) != (i < n);
		if (flow && i < n)
			wrong += flow->id != ids[i] || reversed != !forward;
		if (!flow && n < N) {
			flow = fp_flow_insert(&table, &p, 1);
			ids[n] = flow->id;
			twin[n++] = p;
		} else if (flow && check_below(&seed, 4) == 0) {
			fp_flow_remove(&table, flow);
			twin[i] = twin[--n];
			ids[i] = ids[n];
		}
		wrong += table.count != n;
	}
	CHECK(wrong == 0);
	fp_flow_table_free(&table);
}

/* What mallinfo counts is 0 under the sanitizers; the plain build proves it. */
static void test_nothing_is_allocated_after_init(void)
{
	struct fp_flow_table table;
	struct mallinfo2 before, after;
	int reversed;

	CHECK(fp_flow_table_init(&table, 256, 1, &key) == 0);
	before = mallinfo2();
	for (uint32_t i = 0; i < 5000; i++) {
		struct fp_packet p = tcp_packet(1, (uint16_t)i, 2, 80);

		fp_flow_find(&table, &p, i * SECOND / 100, &reversed);
		fp_flow_insert(&table, &p, i * SECOND / 100);
		fp_flow_age(&table, i * SECOND / 100, 8);
	}
	after = mallinfo2();
	CHECK(before.uordblks == after.uordblks && before.hblkhd == after.hblkhd);
	fp_flow_table_free(&table);
}

/* No published vectors for 1-3 over words; what counts is that every bit of key and words moves half the result. */
static void test_hash_depends_on_every_bit(void)
{
	uint64_t words[5] = { 1, 2, 3, 4, 5 };
	uint64_t reference = fp_hash_words(&key, words, 5);
	struct fp_hash_key other = key;

	for (unsigned bit = 0; bit < 320; bit++) {
		uint64_t changed;

		words[bit / 64] ^= (uint64_t)1 << bit % 64;
		changed = reference ^ fp_hash_words(&key, words, 5);
		CHECK(__builtin_popcountll(changed) > 10 && __builtin_popcountll(changed) < 54);
		words[bit / 64] ^= (uint64_t)1 << bit % 64;
	}
	other.k1 ^= 1;
	CHECK(fp_hash_words(&other, words, 5) != reference);
	CHECK(fp_hash_words(&key, words, 4) != reference);
}

static void test_refuses_absurd_sizes(void)
{
	struct fp_flow_table table;

	CHECK(fp_flow_table_init(&table, ((size_t)1 << 26) + 1, 1, NULL) == -EINVAL);
	CHECK(fp_flow_table_init(&table, 0, 1, NULL) == 0 && fp_flow_table_memory(&table) == 16 * 130);
	fp_flow_table_free(&table);
}

int main(void)
{
	RUN(test_found_from_both_directions);
	RUN(test_echo_and_its_reply_are_one_flow);
	RUN(test_idle_flows_are_forgotten_by_and_by);
	RUN(test_full_table_forgets_the_oldest_nearby);
	RUN(test_nothing_is_lost_up_to_half_full);
	RUN(test_agrees_with_an_array);
	RUN(test_nothing_is_allocated_after_init);
	RUN(test_hash_depends_on_every_bit);
	RUN(test_refuses_absurd_sizes);
	return check_result();
}
