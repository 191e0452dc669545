/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "engine_fixture.h"
#include <linux/netfilter.h> /* behind libc's network headers, to which it gives way */

#define SYN FP_TCP_SYN
#define ACK FP_TCP_ACK
#define BYTE(v) ((v).mark >> 24)

static struct fixture f;

static bool accepted(struct verdict v, uint32_t byte)
{
	return v.verdict == NF_ACCEPT && v.marked && BYTE(v) == byte;
}

static bool dropped(struct verdict v)
{
	return v.verdict == NF_DROP;
}

static void open_default(void)
{
	struct fp_engine_config config = fixture_config();

	fixture_open(&f, &config, false);
}

static void policy_becomes_fates(void)
{
	struct verdict v;
	struct fp_event e;

	open_default();
	v = send_packet(&f, 0, PACKET(.sport = 1000, .dport = 80, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)));
	e = last_event(&f, 0);
	CHECK(e.kind == FP_EVENT_FLOW && e.rule == 100 && e.verdict == FP_VERDICT_ALLOW && e.generation == GENERATION);
	CHECK(e.src_identity == 1 && e.dst_identity == 2 && e.sport == 1000 && e.dport == 80 && e.iif == 5);
	v = send_packet(&f, 0, PACKET(.sport = 1000, .dport = 81, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_REJECT)) && last_event(&f, 0).rule == 101);
	v = send_packet(&f, 0, PACKET(.sport = 1000, .dport = 99, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_DROP)) && last_event(&f, 0).rule == 199);
	CHECK(counters(&f, 0).allowed == 1 && counters(&f, 0).dropped == 1 && counters(&f, 0).rejected == 1);
	fixture_close(&f);
}

static void without_fates_each_packet_is_answered_for_itself(void)
{
	struct fp_engine_config config = fixture_config();
	struct verdict v;

	config.fates = 0;
	fixture_open(&f, &config, false);
	v = send_packet(&f, 0, PACKET(.sport = 1, .dport = 80, .byte = NEW));
	CHECK(accepted(v, 0));
	v = send_packet(&f, 0, PACKET(.sport = 1, .dport = 99, .byte = NEW));
	CHECK(dropped(v));
	fixture_close(&f);
}

static void both_directions_go_to_one_inspector(void)
{
	bool spread = false;
	uint32_t first = 0;

	open_default();
	for (uint16_t port = 1000; port < 1032; port++) {
		struct verdict a, b;

		a = send_packet(&f, 0, PACKET(.sport = port, .dport = 82, .byte = NEW));
		b = send_packet(&f, 0, PACKET(.from_server = true, .sport = 82, .dport = port, .byte = REPLY,
					      .tcp_flags = SYN | ACK));
		CHECK((a.verdict & 0xffff) == NF_QUEUE && a.verdict == b.verdict);
		CHECK(a.verdict >> 16 >= 64 && a.verdict >> 16 < 68);
		CHECK(BYTE(a) == FATE(0) && BYTE(b) == (FP_MARK_SLOW_REPLY | FATE(0)));
		first = first ? first : a.verdict;
		spread = spread || a.verdict != first;
	}
	CHECK(spread);
	CHECK(counters(&f, 0).inspected == 64);
	fixture_close(&f);
}

static void inspector_down_decides_about_the_bypass(void)
{
	struct fp_engine_config config = fixture_config();

	config.failure_action[FP_FAILURE_INSPECTOR_DOWN] = FP_VERDICT_ALLOW;
	fixture_open(&f, &config, false);
	CHECK(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)).verdict & 0x8000);
	fixture_close(&f);
	config.slow_count = 0;
	fixture_open(&f, &config, false);
	CHECK(accepted(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)), FATE(FP_FATE_ALLOW)));
	fixture_close(&f);
}

/* New flows of the overloaded inspector get the action; what it has already, and all others, go on. */
static void an_overloaded_inspector_gets_no_new_flows(void)
{
	struct fp_engine_config config = fixture_config();
	struct verdict first, v;
	uint32_t busy;

	config.failure_action[FP_FAILURE_INSPECTOR_OVERLOAD] = FP_VERDICT_DROP;
	fixture_open(&f, &config, false);
	CHECK(fp_engine_overload(f.engine, config.slow_count, true) == -EINVAL);
	first = send_packet(&f, 0, PACKET(.sport = 1000, .dport = 82, .byte = NEW));
	busy = (first.verdict >> 16) - config.slow_first;
	CHECK(!fp_engine_overload(f.engine, busy, true));
	v = send_packet(&f, 0, PACKET(.from_server = true, .sport = 82, .dport = 1000, .byte = REPLY,
				      .tcp_flags = SYN | ACK));
	CHECK(v.verdict == first.verdict); /* a flow that it knows */
	for (uint16_t port = 1001; port < 1065; port++) {
		uint64_t refused = counters(&f, 0).failures[FP_FAILURE_INSPECTOR_OVERLOAD];

		v = send_packet(&f, 0, PACKET(.sport = port, .dport = 82, .byte = NEW));
		if (counters(&f, 0).failures[FP_FAILURE_INSPECTOR_OVERLOAD] > refused)
			CHECK(v.verdict == NF_DROP);
		else
			CHECK((v.verdict & 0xffff) == NF_QUEUE && (v.verdict >> 16) - config.slow_first != busy);
	}
	CHECK(counters(&f, 0).failures[FP_FAILURE_INSPECTOR_OVERLOAD] > 0);
	CHECK(counters(&f, 0).dropped == counters(&f, 0).failures[FP_FAILURE_INSPECTOR_OVERLOAD]);
	/* What was dropped tries again when it is over. */
	for (uint32_t number = 0; number < config.slow_count; number++)
		CHECK(!fp_engine_overload(f.engine, number, true));
	CHECK(send_packet(&f, 0, PACKET(.sport = 2000, .dport = 82, .byte = NEW)).verdict == NF_DROP);
	CHECK(accepted(send_packet(&f, 0, PACKET(.sport = 2001, .dport = 80, .byte = NEW)), FATE(FP_FATE_ALLOW)));
	for (uint32_t number = 0; number < config.slow_count; number++)
		CHECK(!fp_engine_overload(f.engine, number, false));
	CHECK((send_packet(&f, 0, PACKET(.sport = 2000, .dport = 82, .byte = NEW)).verdict & 0xffff) == NF_QUEUE);
	fixture_close(&f);
}

static void overload_may_let_pass_or_refuse(void)
{
	struct fp_engine_config config = fixture_config();

	config.slow_count = 1;
	config.failure_action[FP_FAILURE_INSPECTOR_OVERLOAD] = FP_VERDICT_ALLOW;
	fixture_open(&f, &config, false);
	CHECK(!fp_engine_overload(f.engine, 0, true));
	CHECK(accepted(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)), FATE(FP_FATE_ALLOW)));
	CHECK(counters(&f, 0).failures[FP_FAILURE_INSPECTOR_OVERLOAD] == 1 && counters(&f, 0).events == 1);
	fixture_close(&f);
	config.failure_action[FP_FAILURE_INSPECTOR_OVERLOAD] = FP_VERDICT_REJECT;
	fixture_open(&f, &config, false);
	CHECK(!fp_engine_overload(f.engine, 0, true));
	CHECK(accepted(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)), FATE(FP_FATE_REJECT)));
	fixture_close(&f);
	fixture_open(&f, &config, true); /* only looking: nothing is denied */
	CHECK(!fp_engine_overload(f.engine, 0, true));
	CHECK(accepted(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)), FATE(FP_FATE_ALLOW)));
	fixture_close(&f);
}

static uint64_t restarts(void)
{
	return counters(&f, 0).failures[FP_FAILURE_INSPECTOR_RESTART];
}

static bool inspected(struct verdict v)
{
	return (v.verdict & 0xffff) == NF_QUEUE;
}

/* The ACK of a connection from this port to an inspected one. */
static struct verdict go_on(uint16_t sport, uint8_t byte)
{
	return send_packet(&f, 0, PACKET(.sport = sport, .dport = 82, .byte = byte, .tcp_flags = ACK));
}

static void a_flow_is_lost_with_the_inspector_that_read_it(void)
{
	struct fp_engine_config config = fixture_config();
	uint32_t lost, other = 0;
	uint16_t port = 2;
	struct fp_policy *policy;
	struct fp_event e;

	open_default();
	lost = send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)).verdict >> 16;
	do
		other = send_packet(&f, 0, PACKET(.sport = ++port, .dport = 82, .byte = NEW)).verdict >> 16;
	while (other == lost);
	CHECK(!fp_engine_inspector_lost(f.engine, lost - 64) && fp_engine_inspector_lost(f.engine, 4) == -EINVAL);
	CHECK(dropped(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 1);
	e = last_event(&f, 0);
	CHECK(e.kind == FP_EVENT_FAILURE && e.failure == FP_FAILURE_INSPECTOR_RESTART);
	CHECK(inspected(go_on(port, FP_MARK_TO_QUEUE)) && restarts() == 1);
	/* A change of policy does not bring back what was read. A new connection has lost nothing. */
	policy = fixture_policy(80);
	fixture_publish(&f, policy, GENERATION);
	fp_policy_release(policy); /* the engine has its own reference */
	CHECK(dropped(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 2);
	CHECK(inspected(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW))));
	CHECK(inspected(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 2);
	fixture_close(&f);

	config.failure_action[FP_FAILURE_INSPECTOR_RESTART] = FP_VERDICT_ALLOW;
	fixture_open(&f, &config, false);
	lost = send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)).verdict >> 16;
	CHECK(!fp_engine_inspector_lost(f.engine, lost - 64));
	CHECK(inspected(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 1);
	CHECK(inspected(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 1);
	fixture_close(&f);
}

static void after_a_restart_flows_without_a_fate_were_being_inspected(void)
{
	struct fp_engine_config config = fixture_config();
	struct verdict v;

	config.resumed = 1;
	fixture_open(&f, &config, false);
	CHECK(dropped(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 1);
	CHECK(dropped(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 2);
	/* One that has a fate was let go by then; other flows are not read in streams, or not at all. */
	CHECK(inspected(go_on(2, FP_MARK_TO_QUEUE | FP_FATE_ALLOW << FP_MARK_PREVIOUS_SHIFT)));
	v = send_packet(&f, 0, PACKET(.sport = 3, .dport = 80, .byte = FP_MARK_TO_QUEUE, .tcp_flags = ACK));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)) && restarts() == 2);
	CHECK(inspected(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW))));
	fixture_close(&f);
	fixture_open(&f, &config, true);
	CHECK(inspected(go_on(1, FP_MARK_TO_QUEUE)) && restarts() == 1);
	fixture_close(&f);
}

static void while_inspectors_are_waited_for_nothing_is_sent_to_them(void)
{
	struct fp_engine_config config = fixture_config();

	open_default();
	fp_engine_inspectors_wait(f.engine, 1);
	CHECK(dropped(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW))) && restarts() == 1);
	CHECK(counters(&f, 0).inspected == 0 && counters(&f, 0).dropped == 1);
	/* Failsafe DNS is only looked at, now by nobody. */
	CHECK(accepted(send_packet(&f, 1, PACKET(.proto = 17, .sport = 5, .dport = 53, .byte = FP_MARK_NO_SAVE)), 0));
	fp_engine_inspectors_wait(f.engine, 0);
	CHECK(inspected(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW))) && restarts() == 1);
	fixture_close(&f);

	config.failure_action[FP_FAILURE_INSPECTOR_RESTART] = FP_VERDICT_ALLOW;
	fixture_open(&f, &config, false);
	fp_engine_inspectors_wait(f.engine, 1);
	CHECK(accepted(send_packet(&f, 0, PACKET(.sport = 1, .dport = 82, .byte = NEW)), 0) && restarts() == 1);
	fixture_close(&f);
}

static void packets_that_still_wait_get_their_flow_s_verdict(void)
{
	struct verdict v;

	open_default();
	send_packet(&f, 0, PACKET(.sport = 1000, .dport = 80, .byte = NEW));
	v = send_packet(&f, 0, PACKET(.from_server = true, .sport = 80, .dport = 1000, .byte = REPLY,
				      .tcp_flags = SYN | ACK));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)));
	CHECK(counters(&f, 0).flow_hits == 1 && counters(&f, 0).events == 1);
	/* The same denied packet again, not confirmed by conntrack: answered from the table, said once. */
	send_packet(&f, 0, PACKET(.sport = 1000, .dport = 99, .byte = NEW));
	v = send_packet(&f, 0, PACKET(.sport = 1000, .dport = 99, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_DROP)));
	CHECK(counters(&f, 0).flow_hits == 2 && counters(&f, 0).events == 2);
	/* A new connection on the tuple of an allowed one inherits nothing. */
	send_packet(&f, 0, PACKET(.sport = 1000, .dport = 80, .byte = NEW));
	CHECK(counters(&f, 0).flow_hits == 2 && counters(&f, 0).events == 3);
	fixture_close(&f);
}

static void an_echo_reply_belongs_to_its_request(void)
{
	struct verdict v;

	open_default();
	send_packet(&f, 0, PACKET(.proto = 1, .sport = 8 << 8, .dport = 77, .byte = NEW));
	v = send_packet(&f, 0, PACKET(.proto = 1, .from_server = true, .dport = 77, .byte = REPLY));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)) && counters(&f, 0).flow_hits == 1);
	/* Untracked, the reply is judged as what it answers to. */
	v = send_packet(&f, 0, PACKET(.proto = 1, .from_server = true, .dport = 77,
				      .byte = FP_MARK_TO_QUEUE | FP_MARK_NO_SAVE));
	CHECK(accepted(v, 0));
	fixture_close(&f);
}

static void a_change_of_policy_is_felt_by_the_next_packet_even_a_reply(void)
{
	struct fp_policy *other = fixture_policy(90); /* 80 is not allowed any more */
	const uint32_t next = (GENERATION + 1) << FP_MARK_GENERATION_SHIFT;
	uint64_t flow;
	struct fp_event e;
	struct verdict v;

	open_default();
	send_packet(&f, 0, PACKET(.sport = 1000, .dport = 80, .byte = NEW));
	flow = last_event(&f, 0).flow;
	fixture_publish(&f, other, GENERATION + 1);
	v = send_packet(&f, 0, PACKET(.from_server = true, .sport = 80, .dport = 1000, .tcp_flags = ACK,
				      .byte = REPLY | FP_FATE_ALLOW << FP_MARK_PREVIOUS_SHIFT));
	CHECK(accepted(v, next | FP_FATE_DROP));
	e = last_event(&f, 0);
	CHECK(e.kind == FP_EVENT_REDECIDED && e.previous_fate == FP_FATE_ALLOW && e.flow == flow);
	CHECK(e.flags & FP_EVENT_REPLY && e.dport == 80 && e.dst_identity == 2 && e.oif == 6);
	/* Those behind it had their marks before the new fate was saved: the same verdict, said once. */
	v = send_packet(&f, 0, PACKET(.sport = 1000, .dport = 80, .tcp_flags = ACK,
				      .byte = FP_MARK_TO_QUEUE | FP_FATE_ALLOW << FP_MARK_PREVIOUS_SHIFT));
	CHECK(accepted(v, next | FP_FATE_DROP) && counters(&f, 0).events == 2);
	/* A flow that no table knows, after a restart: previous fate and direction come with the packet. */
	v = send_packet(&f, 0, PACKET(.from_server = true, .sport = 90, .dport = 1001, .tcp_flags = ACK,
				      .byte = REPLY | FP_FATE_ALLOW << FP_MARK_PREVIOUS_SHIFT));
	CHECK(accepted(v, next | FP_FATE_ALLOW) && last_event(&f, 0).kind == FP_EVENT_REDECIDED);
	fixture_close(&f);
	fp_policy_release(other);
}

static void a_flow_picked_up_midstream_is_asked_about_in_both_directions(void)
{
	struct fp_engine_config config = fixture_config();
	struct verdict v;

	fixture_open(&f, &config, false);
	/* The first packet seen is the server's: ungoverned in this direction, so allowed. */
	v = send_packet(&f, 0, PACKET(.sport = 80, .dport = 80, .tcp_flags = ACK, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)) && last_event(&f, 0).flags & FP_EVENT_MIDSTREAM);
	/* Denied as seen, allowed the other way round. */
	v = send_packet(&f, 0, PACKET(.sport = 22, .dport = 99, .tcp_flags = ACK, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)) && last_event(&f, 0).dport == 22);
	CHECK(counters(&f, 0).failures[FP_FAILURE_MIDSTREAM_FLOW] == 2);
	/* A first packet that is a SYN is no such flow. */
	v = send_packet(&f, 0, PACKET(.sport = 23, .dport = 99, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_DROP)));
	fixture_close(&f);
	config.failure_action[FP_FAILURE_MIDSTREAM_FLOW] = FP_VERDICT_REJECT;
	fixture_open(&f, &config, false);
	v = send_packet(&f, 0, PACKET(.sport = 1, .dport = 80, .tcp_flags = ACK, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_REJECT)));
	fixture_close(&f);
}

static struct verdict icmp_error_about(struct packet_spec quoted, bool from_server)
{
	uint8_t inner[64];
	size_t len = build_packet(&quoted, inner);

	return send_packet(&f, 0, PACKET(.proto = 1, .sport = 3 << 8 | 1, .from_server = from_server, .quoted = inner,
					 .quoted_len = len, .byte = FP_MARK_TO_QUEUE | FP_MARK_NO_SAVE));
}

static void an_icmp_error_is_judged_by_the_flow_it_quotes_and_decides_nothing(void)
{
	struct fp_event e;

	open_default();
	CHECK(accepted(icmp_error_about(PACKET(.sport = 1, .dport = 80), true), 0));
	e = last_event(&f, 0);
	CHECK(e.kind == FP_EVENT_PACKET && e.flags & FP_EVENT_RELATED && e.proto == 6 && e.dport == 80);
	CHECK(accepted(icmp_error_about(PACKET(.sport = 80, .dport = 1, .from_server = true), false), 0));
	CHECK(counters(&f, 0).passed == 2 && counters(&f, 0).flows == 0);
	fixture_close(&f);
}

static void untracked_packets_get_one_verdict_and_no_fate(void)
{
	const uint32_t byte = FP_MARK_TO_QUEUE | FP_MARK_NO_SAVE;

	open_default();
	CHECK(accepted(send_packet(&f, 0, PACKET(.sport = 1, .dport = 80, .byte = byte)), 0));
	CHECK(dropped(send_packet(&f, 0, PACKET(.sport = 1, .dport = 99, .byte = byte))));
	CHECK(dropped(send_packet(&f, 0, PACKET(.sport = 1, .dport = 81, .byte = byte)))); /* reject needs a flow */
	CHECK(counters(&f, 0).flows == 0 && counters(&f, 0).dropped == 2);
	fixture_close(&f);
}

static void an_endpoint_s_address_counts_only_at_home(void)
{
	struct fp_engine_config config = fixture_config();

	fixture_open(&f, &config, false);
	CHECK(dropped(send_packet(&f, 0, PACKET(.sport = 1, .dport = 80, .byte = NEW, .iif = 8))));
	CHECK(last_event(&f, 0).kind == FP_EVENT_FAILURE);
	CHECK(counters(&f, 0).failures[FP_FAILURE_SPOOFED_SOURCE] == 1);
	/* A bridge port is the home of an address as well, and local output has no interface to come from. */
	CHECK(BYTE(send_packet(&f, 0, PACKET(.sport = 2, .dport = 80, .byte = NEW, .iif = 8, .phys_iif = 5))) ==
	      FATE(FP_FATE_ALLOW));
	CHECK(BYTE(send_packet(&f, 0, PACKET(.sport = 3, .dport = 80, .byte = NEW, .iif = 8,
					     .hook = FP_HOOK_OUTPUT))) == FATE(FP_FATE_ALLOW));
	fixture_close(&f);
	config.failure_action[FP_FAILURE_SPOOFED_SOURCE] = FP_FAILURE_POLICY;
	fixture_open(&f, &config, false);
	CHECK(BYTE(send_packet(&f, 0, PACKET(.sport = 1, .dport = 80, .byte = NEW, .iif = 8))) ==
	      FATE(FP_FATE_ALLOW));
	CHECK(last_event(&f, 0).src_identity == FP_WORLD);
	fixture_close(&f);
}

static void what_cannot_be_read_is_answered_by_its_failure_action(void)
{
	struct fp_engine_config config = fixture_config();
	struct packet_spec spec = PACKET(.byte = NEW);
	struct message m;
	uint8_t packet[64];
	size_t len = build_packet(&spec, packet);
	uint16_t lie = 2;

	fixture_open(&f, &config, false);
	packet[0] = 0x75;
	CHECK(dropped(send_payload(&f, 0, &spec, packet, len)));
	CHECK(counters(&f, 0).failures[FP_FAILURE_DECODE_ERROR] == 1);
	/* An attribute that lies: the packet is known by its number and must not wait for ever. */
	message_packet(&m, f.next_id, FP_HOOK_FORWARD);
	memcpy(m.data + m.len, &lie, 2);
	m.len += 4;
	message_finish(&m);
	send_message(&f, 0, &m);
	CHECK(await_verdict(f.kernel[0]).id == f.next_id);
	CHECK(counters(&f, 0).failures[FP_FAILURE_DECODE_ERROR] == 2);
	fixture_close(&f);

	config.failure_action[FP_FAILURE_TRUNCATED_PACKET] = FP_VERDICT_ALLOW;
	fixture_open(&f, &config, false);
	message_packet(&m, 1, FP_HOOK_FORWARD);
	message_u32(&m, NFQA_CAP_LEN, 1500);
	message_finish(&m);
	send_message(&f, 0, &m);
	CHECK(await_verdict(f.kernel[0]).verdict == NF_ACCEPT);
	CHECK(counters(&f, 0).failures[FP_FAILURE_TRUNCATED_PACKET] == 1);
	fixture_close(&f);
}

static void observe_denies_nothing_and_says_so(void)
{
	struct fp_engine_config config = fixture_config();
	struct fp_event e;

	fixture_open(&f, &config, true);
	CHECK(BYTE(send_packet(&f, 0, PACKET(.sport = 1, .dport = 99, .byte = NEW))) == FATE(FP_FATE_ALLOW));
	e = last_event(&f, 0);
	CHECK(e.verdict == FP_VERDICT_DROP && e.flags & FP_EVENT_OBSERVED && e.rule == 199);
	CHECK(BYTE(send_packet(&f, 0, PACKET(.sport = 1, .dport = 80, .byte = NEW, .iif = 8))) == 0);
	CHECK(counters(&f, 0).would_deny == 2 && counters(&f, 0).dropped == 0);
	fixture_close(&f);
}

static void failsafe_traffic_is_only_looked_at(void)
{
	struct verdict v;

	open_default();
	v = send_packet(&f, 1, PACKET(.proto = 17, .sport = 1000, .dport = 53, .byte = FP_MARK_NO_SAVE));
	CHECK((v.verdict & 0xffff) == (NF_QUEUE | 0x8000) && BYTE(v) == 0);
	v = send_packet(&f, 1, PACKET(.proto = 17, .from_server = true, .sport = 53, .dport = 1000,
				      .byte = FP_MARK_NO_SAVE | FP_MARK_REPLY));
	CHECK((v.verdict & 0xffff) == (NF_QUEUE | 0x8000) && BYTE(v) == FP_MARK_SLOW_REPLY);
	v = send_packet(&f, 1, PACKET(.sport = 1000, .dport = 99, .byte = FP_MARK_NO_SAVE));
	CHECK(accepted(v, 0));
	CHECK(last_event(&f, 1).flags == (FP_EVENT_LOOK_ONLY | FP_EVENT_OBSERVED));
	CHECK(counters(&f, 1).events == 2 && counters(&f, 1).dropped == 0);
	fixture_close(&f);
}

static void what_the_kernel_complains_about_is_counted(void)
{
	struct message m;

	open_default();
	message_error(&m, -ENOENT);
	send_message(&f, 0, &m);
	message_error(&m, -EPERM);
	send_message(&f, 0, &m);
	f.next_id = 4; /* 1, 2 and 3 were lost */
	send_packet(&f, 0, PACKET(.sport = 1, .dport = 80, .byte = NEW));
	CHECK(counters(&f, 0).verdict_errors == 1 && counters(&f, 0).netlink_errors == 1);
	CHECK(counters(&f, 0).id_gaps == 3);
	fixture_close(&f);
}

static void impossible_configurations_are_refused(void)
{
	struct fp_engine_config config = fixture_config();
	struct fp_snapshot_refs refs = { fixture_map(), fixture_policy(80), GENERATION, 0, { 0 } };
	const int fds[2] = { -1, -1 };
	struct fp_engine *engine;

#define REFUSED(field, value)                                                                                  \
	do {                                                                                                   \
		config = fixture_config();                                                                     \
		config.field = value;                                                                          \
		CHECK(fp_engine_open_sockets(&config, &refs, fds, &engine, NULL) == -EINVAL);                  \
	} while (0)
	REFUSED(api_version, 99);
	REFUSED(queue_count, 0);
	REFUSED(queue_count, 10); /* into the look-only queue */
	REFUSED(slow_first, 8);
	REFUSED(mark_mask, 0x0ff0000f);
	REFUSED(mark_mask, 0);
	REFUSED(copy_range, 127);
	REFUSED(queue_length, 0);
	REFUSED(failure_action[1], 3);
	config = fixture_config();
	refs.generation = 32;
	CHECK(fp_engine_open_sockets(&config, &refs, fds, &engine, NULL) == -EINVAL);
	fp_policy_release(refs.policy);
	fp_prefix_map_release(refs.identities);
}

int main(void)
{
	RUN(policy_becomes_fates);
	RUN(without_fates_each_packet_is_answered_for_itself);
	RUN(both_directions_go_to_one_inspector);
	RUN(inspector_down_decides_about_the_bypass);
	RUN(an_overloaded_inspector_gets_no_new_flows);
	RUN(overload_may_let_pass_or_refuse);
	RUN(a_flow_is_lost_with_the_inspector_that_read_it);
	RUN(after_a_restart_flows_without_a_fate_were_being_inspected);
	RUN(while_inspectors_are_waited_for_nothing_is_sent_to_them);
	RUN(packets_that_still_wait_get_their_flow_s_verdict);
	RUN(an_echo_reply_belongs_to_its_request);
	RUN(a_change_of_policy_is_felt_by_the_next_packet_even_a_reply);
	RUN(a_flow_picked_up_midstream_is_asked_about_in_both_directions);
	RUN(an_icmp_error_is_judged_by_the_flow_it_quotes_and_decides_nothing);
	RUN(untracked_packets_get_one_verdict_and_no_fate);
	RUN(an_endpoint_s_address_counts_only_at_home);
	RUN(what_cannot_be_read_is_answered_by_its_failure_action);
	RUN(observe_denies_nothing_and_says_so);
	RUN(failsafe_traffic_is_only_looked_at);
	RUN(what_the_kernel_complains_about_is_counted);
	RUN(impossible_configurations_are_refused);
	return check_result();
}
