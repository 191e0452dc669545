/* SPDX-License-Identifier: Apache-2.0 */
/*
 * micro: what one step of the packet path costs, alone on one core. Prints "name value unit" lines.
 *
 *   micro [prefixes [policies [rules-per-policy]]]     defaults: 1000000 294 68
 *
 * Medians are over batches: a batch of 1,000 steps is timed, and the median batch reported, so that
 * neither the clock nor a preempted batch counts. Inputs are random and visited in random order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fp_flow.h"
#include "fp_packet.h"
#include "fp_policy.h"

#define BATCH 1000
#define BATCHES 400

static uint64_t seed = 1;

static uint64_t random64(void)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)(random64() % n);
}

static double now(void) /* ns */
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *name, double *samples, int n, double steps)
{
	qsort(samples, (size_t)n, sizeof(*samples), compare);
	printf("%s_best %.1f ns\n", name, samples[0] / steps); /* what the machine can do with nobody else on it */
	printf("%s_median %.1f ns\n", name, samples[n / 2] / steps);
	printf("%s_p99 %.1f ns\n", name, samples[(size_t)n * 99 / 100] / steps);
	printf("%s_samples %d\n", name, n);
}

static void *must(void *block)
{
	if (!block)
		abort();
	return block;
}

static void must_be_0(int err)
{
	if (err) {
		fprintf(stderr, "micro: %s\n", strerror(-err));
		exit(1);
	}
}

/* ---- identity map ---- */

static void random_prefix(struct fp_prefix_entry *e)
{
	uint64_t bits = random64(), more = random64();

	memset(e, 0, sizeof(*e));
	if (below(2)) { /* like a feed: hosts and some networks */
		static const uint8_t lengths[8] = { 32, 32, 32, 32, 32, 24, 22, 16 };

		e->addr[10] = e->addr[11] = 0xff;
		memcpy(&e->addr[12], &bits, 4);
		e->len = (uint8_t)(96 + lengths[below(8)]);
	} else {
		static const uint8_t lengths[4] = { 128, 64, 48, 56 };

		memcpy(e->addr, &bits, 8);
		memcpy(e->addr + 8, &more, 8);
		e->addr[0] = 0x20 | (e->addr[0] & 0xf);
		e->len = lengths[below(4)];
	}
	e->identity = 1 + below(1000);
}

/* The distribution over single lookups: each is timed alone, begins when the one before has ended, and what an empty
 * interval takes is taken off. */
static void bench_each_lookup(const struct fp_prefix_map *map, const uint8_t (*probes)[16])
{
	double *each = must(calloc(BATCH * BATCHES, sizeof(*each)));
	double empty[BATCH], start;
	uint32_t sum = 0;

	for (int i = 0; i < BATCH; i++) {
		start = now();
		empty[i] = now() - start;
	}
	qsort(empty, BATCH, sizeof(*empty), compare);
	for (uint32_t i = 0; i < BATCH * BATCHES; i++) {
		start = now();
		sum = fp_prefix_map_lookup(map, probes[i + (sum >> 31)]).identity;
		__asm__ volatile("" : : "r"(sum)); /* reading the clock waits for what is before it */
		each[i] = now() - start - empty[BATCH / 2];
	}
	report("prefix_lookup_each", each, BATCH * BATCHES, 1);
	free(each);
}

static void bench_prefix(size_t n)
{
	struct fp_prefix_entry *entries = must(calloc(n, sizeof(*entries)));
	uint8_t (*probes)[16] = must(calloc(BATCH * BATCHES, 16));
	static double samples[BATCHES * 5];
	struct fp_prefix_map *map, *next;
	uint32_t sum = 0;
	double start;

	for (size_t i = 0; i < n; i++)
		random_prefix(&entries[i]);
	start = now();
	must_be_0(fp_prefix_map_build(entries, n, &map));
	printf("prefix_build %.0f ms\n", (now() - start) / 1e6);
	printf("prefix_count %zu prefixes\n", fp_prefix_map_count(map));
	printf("prefix_memory %.1f bytes/prefix\n", (double)fp_prefix_map_memory(map) / (double)fp_prefix_map_count(map));

	for (size_t i = 0; i < BATCH * BATCHES; i++) {
		struct fp_prefix_entry e;

		random_prefix(&e);
		memcpy(probes[i], below(4) ? entries[below((uint32_t)n)].addr : e.addr, 16);
	}
	for (int b = 0; b < BATCHES; b++) {
		start = now();
		for (int i = 0; i < BATCH; i++)
			sum += fp_prefix_map_lookup(map, probes[b * BATCH + i]).identity;
		samples[b] = now() - start;
	}
	report("prefix_lookup_throughput", samples, BATCHES, BATCH);
	for (int b = 0; b < BATCHES; b++) { /* each address depends on the answer before: latency, not throughput */
		start = now();
		for (uint32_t i = 0; i < BATCH; i++)
			sum = fp_prefix_map_lookup(map, probes[(uint32_t)b * BATCH + i + (sum >> 31)]).identity;
		samples[b] = now() - start;
	}
	report("prefix_lookup_latency", samples, BATCHES, BATCH);
	bench_each_lookup(map, (const uint8_t (*)[16])probes);

	for (int b = 0; b < BATCHES; b++) { /* as a worker may ask for the packets of a batch */
		static struct fp_prefix_value values[BATCH];

		start = now();
		fp_prefix_map_lookup_many(map, (const uint8_t (*)[16])&probes[b * BATCH], BATCH, values);
		samples[b] = now() - start;
		sum += values[b].identity;
	}
	report("prefix_lookup_many", samples, BATCHES, BATCH);

	for (int i = 0; i < BATCHES * 5; i++) {
		struct fp_prefix_entry *e = &entries[below((uint32_t)n)], fresh;

		random_prefix(&fresh);
		start = now();
		must_be_0(i % 2 ? fp_prefix_map_update(map, &fresh, 1, NULL, 0, &next)
				: fp_prefix_map_update(map, NULL, 0, e, 1, &next));
		fp_prefix_map_release(map);
		samples[i] = now() - start;
		map = next;
	}
	report("prefix_update", samples, BATCHES * 5, 1);
	printf("prefix_memory_after_updates %.1f bytes/prefix\n",
	       (double)fp_prefix_map_memory(map) / (double)fp_prefix_map_count(map));
	fp_prefix_map_release(map);
	free(entries);
	free(probes);
	if (sum == 1) /* so that the lookups are not optimized away */
		putchar('\n');
}

/* ---- policy ---- */

/* One endpoint (identity 1) under `policies` policies of `per` rules. Each rule names one of its policy's selectors
 * and one of 40 ports; a source identity satisfies the selectors of `facts` policies. */
static void bench_policy(uint32_t policies, uint32_t per, uint32_t facts)
{
	enum { IDENTITIES = 4096, PORTS = 40 };
	uint32_t n_rules = policies * per, n_predicates = policies * per;
	struct fp_rule *rules = must(calloc(n_rules, sizeof(*rules)));
	struct fp_port_term *terms = must(calloc(PORTS, sizeof(*terms)));
	uint32_t *offsets = must(calloc(IDENTITIES + 1, sizeof(*offsets)));
	uint32_t *predicates = must(calloc((size_t)IDENTITIES * facts, sizeof(*predicates)));
	struct fp_identity_chains *identities = must(calloc(IDENTITIES, sizeof(*identities)));
	struct fp_chain chain = { .first = 0, .count = n_rules, .default_rule = n_rules, .default_action = FP_ACTION_DENY };
	struct fp_query *queries = must(calloc(BATCH * BATCHES, sizeof(*queries)));
	static double samples[BATCHES];
	struct fp_policy_cache *cache;
	struct fp_policy *policy;
	struct fp_decision d;
	double start;
	uint32_t decided = 0;
	char name[64];

	for (uint32_t i = 0; i < PORTS; i++)
		terms[i] = (struct fp_port_term){ .predicate = FP_NONE, .first = (uint16_t)(i * 97 + 22),
						  .last = (uint16_t)(i * 97 + 22 + (i % 8 == 0 ? 60 : 0)) };
	for (uint32_t i = 0; i < n_rules; i++)
		rules[i] = (struct fp_rule){ .id = i, .source = i, .destination = FP_NONE, .action = FP_ACTION_ALLOW,
					     .flags = FP_RULE_PROTO, .proto = below(4) ? 6 : 17,
					     .dport = { below(PORTS), 1 } };
	for (uint32_t i = 0; i < IDENTITIES; i++) {
		identities[i] = (struct fp_identity_chains){ FP_NONE, FP_NONE, FP_NONE, FP_NONE };
		offsets[i + 1] = offsets[i] + facts;
		for (uint32_t k = 0; k < facts; k++) /* sorted by construction */
			predicates[offsets[i] + k] = k * (n_predicates / facts) + below(n_predicates / facts);
	}
	identities[1].ingress = identities[1].staged_ingress = 0;
	struct fp_policy_tables tables = { .rules = rules, .n_rules = n_rules, .port_terms = terms, .n_port_terms = PORTS,
					   .chains = &chain, .n_chains = 1, .predicate_offsets = offsets,
					   .predicates = predicates, .n_predicates = n_predicates,
					   .identities = identities, .n_identities = IDENTITIES, .feed_chain = FP_NONE };
	start = now();
	must_be_0(fp_policy_build(&tables, &policy));
	must_be_0(fp_policy_cache_create(65536, &cache));
	printf("policy_%u_facts_build %.1f ms\n", facts, (now() - start) / 1e6);
	printf("policy_%u_facts_memory %.2f MiB\n", facts, (double)fp_policy_memory(policy) / (1 << 20));

	for (size_t i = 0; i < BATCH * BATCHES; i++)
		queries[i] = (struct fp_query){ .source = below(IDENTITIES), .destination = 1, .sport = (uint16_t)random64(),
						.dport = (uint16_t)(below(PORTS) * 97 + 22), .proto = 6, .family = 4,
						.hook = FP_HOOK_FORWARD };
	for (int b = 0; b < BATCHES; b++) {
		start = now();
		for (int i = 0; i < BATCH; i++) {
			fp_policy_decide(policy, &queries[b * BATCH + i], &d);
			decided += d.verdict == FP_VERDICT_ALLOW;
		}
		samples[b] = now() - start;
	}
	snprintf(name, sizeof(name), "policy_%u_facts_first", facts);
	report(name, samples, BATCHES, BATCH);
	printf("policy_%u_facts_allowed %.1f %%\n", facts, 100.0 * decided / (BATCH * BATCHES));
	for (int b = 0; b < BATCHES; b++) { /* 1,000 pairs in turn: warm */
		fp_policy_decide_cached(policy, cache, &queries[b], &d);
		start = now();
		for (int i = 0; i < BATCH; i++)
			decided += (uint32_t)fp_policy_decide_cached(policy, cache, &queries[i], &d);
		samples[b] = now() - start;
	}
	snprintf(name, sizeof(name), "policy_%u_facts_cached", facts);
	report(name, samples, BATCHES, BATCH);
	fp_policy_cache_free(cache);
	fp_policy_release(policy);
	free(rules);
	free(terms);
	free(offsets);
	free(predicates);
	free(identities);
	free(queries);
}

/* ---- flows and packets ---- */

static struct fp_packet random_flow_packet(void)
{
	struct fp_packet p = { .src = { [10] = 0xff, [11] = 0xff }, .dst = { [10] = 0xff, [11] = 0xff }, .proto = 6,
			       .family = 4, .sport = (uint16_t)random64(), .dport = 443 };
	uint64_t bits = random64();

	memcpy(p.src + 12, &bits, 4);
	p.dst[15] = (uint8_t)(bits >> 40);
	return p;
}

static void bench_flow(void)
{
	enum { FLOWS = BATCH * BATCHES };
	struct fp_packet *packets = must(calloc(FLOWS, sizeof(*packets)));
	static double samples[BATCHES];
	struct fp_flow_table table;
	double start;
	uint32_t found = 0;
	int reversed;

	must_be_0(fp_flow_table_init(&table, 1 << 20, 300, NULL));
	memset(table.flows, 0, ((size_t)1 << 20) * sizeof(*table.flows)); /* page faults are not the question */
	for (int i = 0; i < FLOWS; i++)
		packets[i] = random_flow_packet();
	for (int b = 0; b < BATCHES; b++) {
		start = now();
		for (int i = 0; i < BATCH; i++)
			fp_flow_insert(&table, &packets[b * BATCH + i], 1);
		samples[b] = now() - start;
	}
	report("flow_insert", samples, BATCHES, BATCH);
	for (int b = 0; b < BATCHES; b++) {
		start = now();
		for (uint32_t i = 0; i < BATCH; i++)
			found += fp_flow_find(&table, &packets[((uint32_t)b * BATCH + i) * 7919u % FLOWS], 2, &reversed) != NULL;
		samples[b] = now() - start;
	}
	report("flow_find_400k", samples, BATCHES, BATCH);
	for (int b = 0; b < BATCHES; b++) {
		start = now();
		for (int i = 0; i < BATCH; i++)
			found += fp_flow_find(&table, &packets[i], 2, &reversed) != NULL;
		samples[b] = now() - start;
	}
	report("flow_find_1k", samples, BATCHES, BATCH);
	printf("flow_found %u of %u\n", found, 2 * FLOWS);
	fp_flow_table_free(&table);
	free(packets);
}

static void bench_packet(void)
{
	static const uint8_t packet[44] = { 0x45, 0, 0, 44, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2,
					    0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2 };
	static double samples[BATCHES];
	struct fp_packet p;
	uint32_t sum = 0;

	for (int b = 0; b < BATCHES; b++) {
		double start = now();

		for (int i = 0; i < BATCH; i++) {
			fp_packet_parse(packet, sizeof(packet), sizeof(packet), &p);
			sum += p.dport;
		}
		samples[b] = now() - start;
	}
	report("packet_parse_tcp", samples, BATCHES, BATCH);
	if (sum == 1)
		putchar('\n');
}

int main(int argc, char **argv)
{
	size_t prefixes = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
	uint32_t policies = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 294;
	uint32_t per = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 68;

	if (!prefixes || !policies || !per || (uint64_t)policies * per > 1000000 || prefixes > 100000000) {
		fprintf(stderr, "micro [prefixes [policies [rules-per-policy]]]\n");
		return 2;
	}
	bench_packet();
	bench_flow();
	bench_policy(policies, per, 10 < policies ? 10 : 1);
	bench_policy(policies, per, policies);
	bench_prefix(prefixes);
	return 0;
}
