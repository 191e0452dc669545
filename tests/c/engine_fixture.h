/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine whose queues are socket pairs: the test is the kernel.
 *
 * The world: 10.0.0.1 (identity 1, at home on interface 5) and 10.0.1.2 (identity 2, governed). What identity 2 lets
 * in: tcp 80; tcp 81 is rejected; tcp 82 is inspected; ICMP and udp 53 are allowed; all else is dropped.
 */
#ifndef ENGINE_FIXTURE_H
#define ENGINE_FIXTURE_H

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "fp_engine.h"
#include "netlink_message.h"

#define WORKER 0 /* the queues' numbers */
#define LOOK 9
#define GENERATION 5u
#define FOREIGN 0x00abcdefu /* another program's mark bits */

#define NEW (FP_MARK_TO_QUEUE | FP_MARK_NEW)
#define REPLY (FP_MARK_TO_QUEUE | FP_MARK_REPLY)
#define FATE(f) (GENERATION << FP_MARK_GENERATION_SHIFT | (f))

struct fixture {
	struct fp_engine_config config;
	struct fp_engine *engine;
	struct fp_prefix_map *map;
	struct fp_policy *policy;
	int kernel[2];     /* our ends: worker, look-only */
	uint32_t next_id;
};

static inline struct fp_policy *fixture_policy(int allow_port)
{
	static const uint32_t offsets[4] = { 0 };
	struct fp_port_term terms[4] = {
		{ .predicate = FP_NONE, .first = (uint16_t)allow_port, .last = (uint16_t)allow_port },
		{ .predicate = FP_NONE, .first = 81, .last = 81 },
		{ .predicate = FP_NONE, .first = 82, .last = 82 },
		{ .predicate = FP_NONE, .first = 53, .last = 53 },
	};
	struct fp_rule rules[5];
	struct fp_chain chain = { .count = 5, .default_rule = 199, .default_action = FP_ACTION_DENY };
	struct fp_identity_chains identities[3];
	struct fp_policy_tables tables = {
		.rules = rules, .n_rules = 5, .port_terms = terms, .n_port_terms = 4, .chains = &chain, .n_chains = 1,
		.predicate_offsets = offsets, .predicates = offsets, .identities = identities, .n_identities = 3,
		.feed_chain = FP_NONE,
	};
	struct fp_policy *policy = NULL;

	memset(identities, 0xff, sizeof(identities));
	identities[2].ingress = identities[2].staged_ingress = 0;
	memset(rules, 0, sizeof(rules));
	for (uint32_t i = 0; i < 5; i++) {
		rules[i].id = 100 + i;
		rules[i].source = rules[i].destination = FP_NONE;
		rules[i].flags = FP_RULE_PROTO;
		rules[i].proto = i == 3 ? 1 : i == 4 ? 17 : 6;
		if (i != 3)
			rules[i].dport = (struct fp_port_terms){ i == 4 ? 3 : i, 1 };
	}
	rules[1].action = FP_ACTION_REJECT;
	rules[2].flags |= FP_RULE_INSPECT;
	CHECK(!fp_policy_build(&tables, &policy));
	return policy;
}

static inline struct fp_prefix_map *fixture_map(void)
{
	const struct fp_prefix_entry entries[2] = {
		{ .addr = { [10] = 0xff, 0xff, 10, 0, 0, 1 }, .len = 128, .identity = 1, .ifindex = 5 },
		{ .addr = { [10] = 0xff, 0xff, 10, 0, 1, 2 }, .len = 128, .identity = 2 },
	};
	struct fp_prefix_map *map = NULL;

	CHECK(!fp_prefix_map_build(entries, 2, &map));
	return map;
}

static inline struct fp_engine_config fixture_config(void)
{
	struct fp_engine_config config = {
		.api_version = FP_API_VERSION, .queue_first = WORKER, .queue_count = 1, .look_queue = LOOK,
		.slow_first = 64, .slow_count = 4, .queue_length = 1024, .copy_range = 512, .receive_buffer = 1 << 20,
		.mark_mask = 0xff000000, .flow_entries = 1024, .flow_idle = 60, .event_entries = 4096, .fates = 1,
	};

	memset(config.failure_action, FP_VERDICT_DROP, sizeof(config.failure_action));
	config.failure_action[FP_FAILURE_MIDSTREAM_FLOW] = FP_FAILURE_POLICY;
	return config;
}

static inline void fixture_open(struct fixture *f, const struct fp_engine_config *config, bool observe)
{
	struct fp_snapshot_refs refs;
	int worker[2], look[2], fds[2];
	uint16_t bad = 0;

	memset(f, 0, sizeof(*f));
	f->config = *config;
	f->map = fixture_map();
	f->policy = fixture_policy(80);
	f->next_id = 1;
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, worker));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, look));
	fds[0] = worker[0];
	fds[1] = look[0];
	f->kernel[0] = worker[1];
	f->kernel[1] = look[1];
	refs = (struct fp_snapshot_refs){ f->map, f->policy, GENERATION, observe, { 0 } };
	CHECK(!fp_engine_open_sockets(config, &refs, fds, &f->engine, &bad));
	CHECK(!fp_engine_start(f->engine));
}

static inline void fixture_close(struct fixture *f)
{
	CHECK(!fp_engine_stop(f->engine));
	fp_engine_free(f->engine);
	fp_policy_release(f->policy);
	fp_prefix_map_release(f->map);
	close(f->kernel[0]);
	close(f->kernel[1]);
}

static inline void fixture_publish(struct fixture *f, struct fp_policy *policy, uint32_t generation)
{
	struct fp_snapshot_refs refs = { f->map, policy, generation, 0, { 0 } };

	CHECK(!fp_engine_publish(f->engine, &refs));
}

struct packet_spec {
	uint8_t proto;         /* 6 unless given */
	bool from_server;      /* 10.0.1.2 → 10.0.0.1 */
	uint16_t sport, dport; /* ICMP: type << 8 | code, identifier */
	uint8_t tcp_flags;     /* SYN unless given */
	uint32_t byte;         /* our mark byte */
	uint32_t iif, phys_iif;
	uint8_t hook;
	const uint8_t *quoted; /* ICMP: follows */
	size_t quoted_len;
};

#define PACKET(...) (struct packet_spec){ __VA_ARGS__ }

static inline size_t build_packet(const struct packet_spec *spec, uint8_t *out)
{
	static const uint8_t client[4] = { 10, 0, 0, 1 }, server[4] = { 10, 0, 1, 2 };
	uint8_t proto = spec->proto ? spec->proto : 6;
	size_t l4 = proto == 6 ? 20 : 8, len = 20 + l4 + spec->quoted_len;

	memset(out, 0, 40);
	out[0] = 0x45;
	out[2] = (uint8_t)(len >> 8);
	out[3] = (uint8_t)len;
	out[8] = 64;
	out[9] = proto;
	memcpy(out + 12, spec->from_server ? server : client, 4);
	memcpy(out + 16, spec->from_server ? client : server, 4);
	out[20] = (uint8_t)(spec->sport >> 8);
	out[21] = (uint8_t)spec->sport;
	if (proto == 1) {
		out[24] = (uint8_t)(spec->dport >> 8);
		out[25] = (uint8_t)spec->dport;
	} else {
		out[22] = (uint8_t)(spec->dport >> 8);
		out[23] = (uint8_t)spec->dport;
	}
	if (proto == 6) {
		out[32] = 5 << 4;
		out[33] = spec->tcp_flags ? spec->tcp_flags : FP_TCP_SYN;
	} else if (proto == 17) {
		out[25] = 8;
	}
	if (spec->quoted_len)
		memcpy(out + 28, spec->quoted, spec->quoted_len);
	return len;
}

struct verdict {
	uint32_t id, verdict, mark; /* host order; mark 0 if none was set */
	bool marked;
};

/* Takes one verdict off a datagram. */
static inline struct verdict read_verdict(const uint8_t *at)
{
	uint32_t word[10] = { 0 };
	uint32_t len;

	memcpy(&len, at, 4);
	memcpy(word, at, len < sizeof(word) ? len : sizeof(word));
	return (struct verdict){ ntohl(word[7]), ntohl(word[6]), len >= 40 ? ntohl(word[9]) : 0, len >= 40 };
}

static inline struct verdict await_verdict(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	uint8_t buf[64 * 40];
	bool came = poll(&wait, 1, 5000) == 1;
	ssize_t got;

	CHECK(came);
	if (!came)
		return (struct verdict){ .verdict = 99 };
	got = recv(fd, buf, sizeof(buf), 0);
	CHECK(got == 40 || got == 32); /* exactly one */
	return read_verdict(buf);
}

static inline void send_message(struct fixture *f, int at, const struct message *m)
{
	CHECK(send(f->kernel[at], m->data, m->len, 0) == (ssize_t)m->len);
}

static inline struct verdict send_payload(struct fixture *f, int at, const struct packet_spec *spec,
					  const uint8_t *payload, size_t len)
{
	uint32_t id = f->next_id++;
	struct verdict verdict;
	struct message m;

	message_packet(&m, id, spec->hook ? spec->hook : FP_HOOK_FORWARD);
	message_u32(&m, NFQA_MARK, spec->byte << 24 | FOREIGN);
	message_u32(&m, NFQA_IFINDEX_INDEV, spec->iif ? spec->iif : spec->from_server ? 6 : 5);
	if (spec->phys_iif)
		message_u32(&m, NFQA_IFINDEX_PHYSINDEV, spec->phys_iif);
	message_attribute(&m, NFQA_PAYLOAD, payload, len);
	message_finish(&m);
	send_message(f, at, &m);
	verdict = await_verdict(f->kernel[at]);
	CHECK(verdict.id == id);
	if (verdict.marked)
		CHECK((verdict.mark & 0xffffff) == FOREIGN);
	return verdict;
}

static inline struct verdict send_packet(struct fixture *f, int at, struct packet_spec spec)
{
	uint8_t packet[512];
	size_t len = build_packet(&spec, packet);

	return send_payload(f, at, &spec, packet, len);
}

static inline struct fp_counters counters(struct fixture *f, uint32_t worker)
{
	struct fp_counters out = { 0 };

	CHECK(!fp_engine_counters(f->engine, worker, &out));
	return out;
}

/* The newest event, kind 0 if there is none. */
static inline struct fp_event last_event(struct fixture *f, uint32_t worker)
{
	static struct fp_event events[4096];
	int n = fp_engine_read_events(f->engine, worker, events, 4096);

	return n > 0 ? events[n - 1] : (struct fp_event){ 0 };
}

#endif
