/* SPDX-License-Identifier: Apache-2.0 */
/* A worker takes over a queue whose last packets its predecessor may not have answered; and what it counts. */
#include <errno.h>
#include <netinet/in.h> /* before the kernel's own, which gives way to it */
#include <linux/netfilter.h>
#include <stddef.h>

#include "engine_fixture.h"

static struct fixture f;

/* Takes what is there within a second; at most n answers. */
static uint32_t read_answers(int fd, struct verdict *out, uint16_t *types, uint32_t n)
{
	static uint8_t buf[128 * 40];
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	uint32_t got = 0;
	ssize_t len;

	if (poll(&wait, 1, 1000) != 1)
		return 0;
	len = recv(fd, buf, sizeof(buf), 0);
	for (ssize_t at = 0; at < len && got < n; got++) {
		uint32_t message_len;

		memcpy(&message_len, buf + at, 4);
		memcpy(&types[got], buf + at + 4, 2);
		out[got] = read_verdict(buf + at);
		at += message_len;
	}
	return got;
}

static void acknowledge(int fd, uint32_t sequence, int error)
{
	struct message m;

	message_error(&m, error);
	memcpy(m.data + offsetof(struct nlmsghdr, nlmsg_seq), &sequence, sizeof(sequence));
	CHECK(send(fd, m.data, m.len, 0) == (ssize_t)m.len);
}

static void send_new(uint32_t id)
{
	struct packet_spec spec = PACKET(.sport = (uint16_t)id, .dport = 80, .byte = NEW);
	uint8_t packet[64];
	size_t len = build_packet(&spec, packet);
	struct message m;

	message_packet(&m, id, FP_HOOK_FORWARD);
	message_u32(&m, NFQA_MARK, NEW << 24);
	message_u32(&m, NFQA_IFINDEX_INDEV, 5);
	message_attribute(&m, NFQA_PAYLOAD, packet, len);
	message_finish(&m);
	send_message(&f, 0, &m);
}

/* The batch verdict for the old ones, then one for each of the last 64. */
static void check_leftovers(const struct verdict *v, const uint16_t *types, uint32_t n, uint32_t last, uint32_t verdict)
{
	uint32_t first = last < 64 ? 1 : last - 63, at = 0;

	CHECK(n == last - first + 1 + (first > 1));
	if (first > 1) {
		CHECK(types[0] == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT_BATCH));
		CHECK(v[0].id == first - 1 && v[0].verdict == verdict);
		at = 1;
	}
	for (uint32_t id = first; id <= last && at < n; id++, at++)
		CHECK(types[at] == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT) && v[at].id == id &&
		      v[at].verdict == verdict && !v[at].marked);
}

static void the_first_packet_says_what_was_left(void)
{
	static const uint32_t unknown[2] = { 0, 0 };
	struct fp_engine_config config = fixture_config();
	struct verdict v[70];
	uint16_t types[70];
	uint32_t n;

	config.last_ids = unknown;
	config.takeover_action = FP_VERDICT_DROP;
	fixture_open(&f, &config, false);
	send_new(1000);
	n = read_answers(f.kernel[0], v, types, 70);
	check_leftovers(v, types, n, 999, NF_DROP);
	CHECK(await_verdict(f.kernel[0]).id == 1000);

	/* Three were still there. */
	for (int i = 0; i < 65; i++)
		acknowledge(f.kernel[0], FP_NFQ_LEFTOVER, i % 30 == 1 ? 0 : -ENOENT);
	send_new(1001);
	CHECK(await_verdict(f.kernel[0]).id == 1001);
	CHECK(counters(&f, 0).taken_over == 3 && counters(&f, 0).verdict_errors == 0);
	CHECK(counters(&f, 0).id_gaps == 0 && counters(&f, 0).packets == 2);
	/* A refused verdict of its own is none of these. */
	acknowledge(f.kernel[0], 0, -ENOENT);
	send_new(1003);
	CHECK(await_verdict(f.kernel[0]).id == 1003);
	CHECK(counters(&f, 0).verdict_errors == 1 && counters(&f, 0).taken_over == 3 && counters(&f, 0).id_gaps == 1);
	fixture_close(&f);
}

static void a_queue_that_stays_silent_is_answered_by_the_kernels_number(void)
{
	static const uint32_t last[2] = { 40, 0 };
	struct fp_engine_config config = fixture_config();
	struct verdict v[70];
	uint16_t types[70];
	uint32_t n;

	config.last_ids = last;
	config.takeover_action = FP_VERDICT_ALLOW;
	fixture_open(&f, &config, false);
	n = read_answers(f.kernel[0], v, types, 70);
	check_leftovers(v, types, n, 40, NF_ACCEPT);
	send_new(41);
	CHECK(await_verdict(f.kernel[0]).id == 41); /* and no second answer before it */
	CHECK(counters(&f, 0).id_gaps == 0);
	fixture_close(&f);
}

static void released_sockets_stay_open(void)
{
	struct fp_engine_config config = fixture_config();
	int32_t fds[2] = { -1, -1 };
	char byte;

	fixture_open(&f, &config, false);
	CHECK(fp_engine_fds(f.engine, fds, 1) == -ENOSPC);
	CHECK(fp_engine_fds(f.engine, fds, 2) == 2 && fds[0] >= 0 && fds[1] >= 0);
	CHECK(!fp_engine_release(f.engine));
	send_new(1);
	fixture_close(&f);
	CHECK(recv(fds[0], &byte, 1, MSG_DONTWAIT) == 1); /* what came since waits for the successor */
	close(fds[0]);
	close(fds[1]);
}

static void a_descriptor_that_is_no_queue_is_refused_and_stays_the_callers(void)
{
	struct fp_engine_config config = fixture_config();
	struct fp_prefix_map *map = fixture_map();
	struct fp_policy *policy = fixture_policy(80);
	struct fp_snapshot_refs refs = { map, policy, GENERATION, 0, { 0 } };
	struct fp_engine *engine = NULL;
	int pair[2];
	int32_t fds[2];
	uint16_t bad = 0;

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	fds[0] = pair[0];
	fds[1] = -1;
	config.fds = fds;
	CHECK(fp_engine_open(&config, &refs, &engine, &bad) == -ENOTSOCK && bad == WORKER && !engine);
	CHECK(send(pair[0], "x", 1, 0) == 1);
	close(pair[0]);
	close(pair[1]);
	fp_policy_release(policy);
	fp_prefix_map_release(map);
}

/* ---- the identity of the counters ------------------------------------------------------------ */

static uint64_t by_verdict(const struct fp_counters *c)
{
	return c->allowed + c->dropped + c->rejected + c->inspected + c->passed;
}

/* Every kind of packet, mark and damage, in random order; the snapshot changes on the way. */
static void flood(const struct fp_engine_config *config, bool observe, uint64_t seed)
{
	static const uint8_t protos[5] = { 1, 6, 6, 17, 132 };
	static const uint8_t icmp_types[4] = { 0, 3, 8, 11 };
	static const uint16_t ports[6] = { 53, 80, 81, 82, 83, 80 };
	struct fp_counters before, after;
	uint32_t sent[2] = { 0, 0 };

	fixture_open(&f, config, observe);
	for (uint32_t round = 0; round < 6000; round++) {
		struct packet_spec spec = { .proto = protos[check_below(&seed, 5)] };
		int at = check_below(&seed, 8) == 0;
		uint8_t packet[512];
		size_t len;

		spec.hook = (uint8_t)(1 + check_below(&seed, 3));
		spec.sport = (uint16_t)check_below(&seed, 300);
		spec.dport = ports[check_below(&seed, 6)];
		if (spec.proto == 1)
			spec.sport = (uint16_t)(icmp_types[check_below(&seed, 4)] << 8);
		spec.byte = check_random(&seed) & 0xff;
		spec.from_server = check_below(&seed, 2) != 0;
		spec.tcp_flags = check_below(&seed, 3) ? 0 : (uint8_t)check_random(&seed);
		spec.iif = check_below(&seed, 6) ? 0 : 7; /* spoofed */
		len = build_packet(&spec, packet);
		if (check_below(&seed, 5) == 0)
			len = check_below(&seed, (uint32_t)len + 1);
		if (check_below(&seed, 10) == 0 && len > 1)
			packet[check_below(&seed, (uint32_t)len)] ^= (uint8_t)check_random(&seed);
		send_payload(&f, at, &spec, packet, len);
		sent[at]++;
		if (round % 1000 == 999)
			fixture_publish(&f, f.policy, 1 + round / 1000);
	}
	for (uint32_t worker = 0; worker < 2; worker++) {
		before = counters(&f, worker);
		CHECK(before.packets == sent[worker]);
		CHECK(before.packets == by_verdict(&before));
		CHECK(before.verdict_errors == 0 && before.netlink_errors == 0);
	}
	/* Refused verdicts, damaged messages and strangers change nothing in it. */
	before = counters(&f, 0);
	acknowledge(f.kernel[0], 0, -ENOENT);
	acknowledge(f.kernel[0], 0, -EPERM);
	send_packet(&f, 0, PACKET(.dport = 80, .byte = NEW));
	after = counters(&f, 0);
	CHECK(after.packets == before.packets + 1 && after.packets == by_verdict(&after));
	CHECK(after.verdict_errors == 1 && after.netlink_errors == 1);
	fixture_close(&f);
}

static void every_packet_is_counted_under_one_verdict(void)
{
	struct fp_engine_config config = fixture_config();

	flood(&config, false, 1);
	flood(&config, true, 2);
	config.slow_count = 0;
	config.fates = 0;
	memset(config.failure_action, FP_FAILURE_POLICY, sizeof(config.failure_action));
	flood(&config, false, 3);
	memset(config.failure_action, FP_VERDICT_REJECT, sizeof(config.failure_action));
	flood(&config, false, 4);
	memset(config.failure_action, FP_VERDICT_ALLOW, sizeof(config.failure_action));
	flood(&config, false, 5);
}

int main(void)
{
	RUN(the_first_packet_says_what_was_left);
	RUN(a_queue_that_stays_silent_is_answered_by_the_kernels_number);
	RUN(released_sockets_stay_open);
	RUN(a_descriptor_that_is_no_queue_is_refused_and_stays_the_callers);
	RUN(every_packet_is_counted_under_one_verdict);
	return check_result();
}
