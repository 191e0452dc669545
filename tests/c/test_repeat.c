/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of one flow that is denied again and again: when the engine tells of them, and of which. */
#include "engine_fixture.h"
#include "fp_answer.h"
#include <linux/netfilter.h> /* behind libc's network headers, to which it gives way */

#define UDP 17
#define SECOND 1000000000u

static struct fixture f;

/* ---- when: a worker whose clock is ours -------------------------------------------------------- */

struct clocked {
	struct fp_snapshot snapshot;
	struct fp_shared shared;
	struct fp_worker worker;
	struct fp_nfq_message message;
	struct fp_job job;
	struct fp_flow flow;
};

static void clocked_open(struct clocked *c, uint32_t step)
{
	memset(c, 0, sizeof(*c));
	CHECK(!fp_ring_init(&c->worker.ring, 64));
	c->snapshot.generation = GENERATION;
	c->shared.config.repeat_step = step;
	c->worker.snapshot = &c->snapshot;
	c->worker.shared = &c->shared;
	c->worker.time = 7 * (uint64_t)SECOND;
	c->job.message = &c->message;
	c->job.new_flow = true;
	c->flow = (struct fp_flow){ .id = 3, .verdict = FP_VERDICT_DROP, .rule = 199, .staged_rule = 199,
				    .src_identity = 1, .dst_identity = 2, .slow_queue = FP_QUEUE_NONE };
}

static uint64_t told_after(struct clocked *c, unsigned packets)
{
	uint64_t before = c->worker.counters.events;

	while (packets--)
		fp_answer_repeat(&c->worker, &c->job, &c->flow);
	return c->worker.counters.events - before;
}

static void one_event_at_each_step_and_few_in_a_second(void)
{
	struct fp_event e;
	struct clocked c;

	clocked_open(&c, 16);
	CHECK(told_after(&c, 15) == 0);
	CHECK(told_after(&c, 1) == 1);
	CHECK(fp_ring_read(&c.worker.ring, &e, 1) == 1);
	CHECK(e.kind == FP_EVENT_REPEATED && e.repeats == 16 && e.flow == 3 && e.flags == 0 && e.time == 7 * (uint64_t)SECOND);
	CHECK(e.verdict == FP_VERDICT_DROP && e.rule == 199 && e.src_identity == 1 && e.dst_identity == 2);
	CHECK(told_after(&c, 15) == 0);
	CHECK(told_after(&c, 1) == 1);
	CHECK(told_after(&c, 1000000) == FP_REPEATS_TOLD - 2);
	CHECK(c.flow.repeats < 16 && c.flow.repeats_told == FP_REPEATS_TOLD);
	fp_ring_free(&c.worker.ring);
}

static void each_second_counts_for_itself(void)
{
	struct clocked c;

	clocked_open(&c, 16);
	for (unsigned second = 0; second < 50; second++, c.worker.time += SECOND)
		CHECK(told_after(&c, 15) == 0);
	CHECK(told_after(&c, 1000) == FP_REPEATS_TOLD);
	c.worker.time += SECOND;
	CHECK(told_after(&c, 1000) == FP_REPEATS_TOLD);
	fp_ring_free(&c.worker.ring);
}

/* A ring that nobody reads: what is lost is counted, and the last quarter is left to flows. */
static void repeats_do_not_crowd_out_flows(void)
{
	struct clocked c;
	uint64_t told;

	clocked_open(&c, 1);
	for (unsigned second = 0; second < 100; second++, c.worker.time += SECOND)
		told_after(&c, 1);
	told = c.worker.counters.events;
	CHECK(told < 50 && told + c.worker.counters.events_lost == 100);
	fp_answer_tell(&c.worker, &c.job, FP_EVENT_FLOW, 0, 0, &c.flow);
	CHECK(c.worker.counters.events == told + 1);
	fp_ring_free(&c.worker.ring);
}

/* ---- which: the engine with its kernel --------------------------------------------------------- */

static void open_with(uint32_t step, bool observe)
{
	struct fp_engine_config config = fixture_config();

	config.repeat_step = step;
	fixture_open(&f, &config, observe);
}

/* Events of this kind that n such packets give. */
static int told(uint8_t kind, struct packet_spec spec, int n)
{
	struct fp_event events[64];
	int found = 0, read;

	while (n--)
		send_packet(&f, 0, spec);
	read = fp_engine_read_events(f.engine, 0, events, 64);
	for (int i = 0; i < read; i++)
		found += events[i].kind == kind;
	return found;
}

static int repeated(struct packet_spec spec, int n)
{
	return told(FP_EVENT_REPEATED, spec, n);
}

static void datagrams_and_syns_of_a_denied_flow_are_repeats(void)
{
	open_with(1, false);
	CHECK(repeated(PACKET(.proto = UDP, .sport = 1, .dport = 99, .byte = NEW), 3) == 2);
	CHECK(repeated(PACKET(.sport = 1, .dport = 99, .byte = NEW), 3) == 2);
	CHECK(repeated(PACKET(.sport = 1, .dport = 81, .byte = NEW), 3) == 2);
	CHECK(told(FP_EVENT_FLOW, PACKET(.sport = 2, .dport = 81, .byte = NEW), 3) == 1);
	fixture_close(&f);
}

static void nothing_else_is(void)
{
	struct fp_engine_config config = fixture_config();

	open_with(1, false);
	CHECK(repeated(PACKET(.proto = UDP, .sport = 1, .dport = 53, .byte = NEW), 3) == 0);
	CHECK(repeated(PACKET(.sport = 1, .dport = 80, .byte = NEW), 3) == 0);
	CHECK(repeated(PACKET(.sport = 1, .dport = 82, .byte = NEW), 3) == 0);
	CHECK(repeated(PACKET(.sport = 1, .dport = 99, .byte = NEW, .tcp_flags = FP_TCP_ACK), 3) == 0);
	CHECK(repeated(PACKET(.sport = 2, .dport = 99, .byte = NEW), 1) == 0);
	CHECK(repeated(PACKET(.sport = 2, .dport = 99, .byte = NEW, .tcp_flags = FP_TCP_ACK), 3) == 0);
	CHECK(repeated(PACKET(.sport = 3, .dport = 99, .byte = FP_MARK_TO_QUEUE), 3) == 0); /* of a connection */
	CHECK(repeated(PACKET(.proto = UDP, .sport = 3, .dport = 99, .byte = NEW, .iif = 8), 3) == 0); /* spoofed */
	CHECK(repeated(PACKET(.proto = UDP, .sport = 4, .dport = 99, .byte = FP_MARK_TO_QUEUE | FP_MARK_NO_SAVE), 3) == 0);
	CHECK(repeated(PACKET(.proto = UDP, .sport = 5, .dport = 99, .byte = NEW | FP_MARK_PRE_DNAT_NEW), 3) == 0);
	fixture_close(&f);
	open_with(1, true);
	CHECK(repeated(PACKET(.proto = UDP, .sport = 1, .dport = 99, .byte = NEW), 3) == 0);
	fixture_close(&f);
	open_with(0, false);
	CHECK(repeated(PACKET(.proto = UDP, .sport = 1, .dport = 99, .byte = NEW), 3) == 0);
	fixture_close(&f);
	config.repeat_step = 1;
	config.failure_action[FP_FAILURE_MIDSTREAM_FLOW] = FP_VERDICT_DROP;
	fixture_open(&f, &config, false);
	CHECK(repeated(PACKET(.sport = 1, .dport = 80, .byte = NEW, .tcp_flags = FP_TCP_ACK), 3) == 0);
	CHECK(repeated(PACKET(.sport = 1, .dport = 80, .byte = NEW), 1) == 0); /* a SYN to what was found midstream */
	fixture_close(&f);
}

static void a_flow_that_is_decided_again_counts_from_nothing(void)
{
	struct packet_spec spec = PACKET(.proto = UDP, .sport = 1, .dport = 99, .byte = NEW);

	open_with(3, false);
	CHECK(told(FP_EVENT_FLOW, spec, 3) == 1);
	fixture_publish(&f, f.policy, GENERATION + 1);
	CHECK(repeated(spec, 3) == 0);
	fixture_close(&f);
}

/* The other way: three that are not told of apart are told of together. Unless a second ends among them, so it is tried
 * again with another flow. */
static void a_flow_is_counted_between_its_packets(void)
{
	int found = 0;

	open_with(3, false);
	for (uint16_t port = 1; port < 10 && !found; port++) {
		struct packet_spec spec = PACKET(.proto = UDP, .sport = port, .dport = 99, .byte = NEW);

		CHECK(repeated(spec, 3) == 0);
		found = repeated(spec, 1);
	}
	CHECK(found == 1);
	CHECK(counters(&f, 0).packets == counters(&f, 0).dropped);
	fixture_close(&f);
}

int main(void)
{
	RUN(one_event_at_each_step_and_few_in_a_second);
	RUN(each_second_counts_for_itself);
	RUN(repeats_do_not_crowd_out_flows);
	RUN(datagrams_and_syns_of_a_denied_flow_are_repeats);
	RUN(nothing_else_is);
	RUN(a_flow_that_is_decided_again_counts_from_nothing);
	RUN(a_flow_is_counted_between_its_packets);
	return check_result();
}
