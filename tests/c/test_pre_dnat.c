/* SPDX-License-Identifier: Apache-2.0 */
/* Packets that preDNAT policy of the host endpoint they came in by allowed, as the engine decides them. */
#include "engine_fixture.h"
#include <linux/netfilter.h> /* behind libc's network headers, to which it gives way */

#define BYTE(v) ((v).mark >> 24)
#define PRE_DNAT(what) (FP_MARK_TO_QUEUE | FP_MARK_NEW | FP_MARK_PRE_DNAT_##what)

static struct fixture f;

static bool accepted(struct verdict v, uint32_t byte)
{
	return v.verdict == NF_ACCEPT && v.marked && BYTE(v) == byte;
}

/* Nothing that comes in by interface 5 may pass; no workload has policy. */
static void open_closed(uint32_t generation)
{
	static const uint32_t offsets[4] = { 0 };
	struct fp_engine_config config = fixture_config();
	struct fp_chain chain = { .default_rule = 300, .default_action = FP_ACTION_DENY };
	struct fp_identity_chains identities[3];
	struct fp_interface_chains interface = { 5, 0, FP_NONE, 0, FP_NONE, 0, FP_NONE, 0, FP_NONE };
	struct fp_policy_tables tables = {
		.chains = &chain, .n_chains = 1, .predicate_offsets = offsets, .predicates = offsets,
		.identities = identities, .n_identities = 3, .interfaces = &interface, .n_interfaces = 1,
		.feed_chain = FP_NONE,
	};
	struct fp_policy *policy = NULL;

	memset(identities, 0xff, sizeof(identities));
	CHECK(!fp_policy_build(&tables, &policy));
	fixture_open(&f, &config, false);
	fixture_publish(&f, policy, generation);
	fp_policy_release(policy);
}

static void the_host_endpoint_is_not_asked_again(void)
{
	struct fp_event e;
	struct verdict v;

	open_closed(GENERATION);
	v = send_packet(&f, 0, PACKET(.sport = 1000, .dport = 80, .byte = NEW));
	CHECK(accepted(v, FATE(FP_FATE_DROP)) && last_event(&f, 0).rule == 300);
	v = send_packet(&f, 0, PACKET(.sport = 1001, .dport = 80, .byte = PRE_DNAT(NEW)));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)));
	e = last_event(&f, 0);
	CHECK(e.kind == FP_EVENT_FLOW && e.flags & FP_EVENT_PRE_DNAT && e.previous_fate == FP_FATE_NONE);
	v = send_packet(&f, 0, PACKET(.proto = 17, .sport = 1001, .dport = 80, .byte = PRE_DNAT(ONCE)));
	CHECK(accepted(v, 0) && last_event(&f, 0).kind == FP_EVENT_PACKET);
	fixture_close(&f);
}

static void a_reply_after_a_change_is_asked_about_like_its_flow(void)
{
	const uint32_t next = (GENERATION + 1) << FP_MARK_GENERATION_SHIFT;
	struct fp_event e;
	struct verdict v;

	open_closed(GENERATION + 1);
	v = send_packet(&f, 0, PACKET(.from_server = true, .sport = 80, .dport = 1001, .tcp_flags = FP_TCP_ACK,
				      .byte = PRE_DNAT(ALLOWED) | FP_MARK_REPLY));
	CHECK(accepted(v, next | FP_FATE_ALLOW));
	e = last_event(&f, 0);
	CHECK(e.kind == FP_EVENT_REDECIDED && e.previous_fate == FP_FATE_ALLOW && e.flags & FP_EVENT_PRE_DNAT);
	v = send_packet(&f, 0, PACKET(.proto = 17, .from_server = true, .sport = 80, .dport = 1002,
				      .byte = PRE_DNAT(DENIED) | FP_MARK_REPLY));
	CHECK(accepted(v, next | FP_FATE_ALLOW) && last_event(&f, 0).previous_fate == FP_FATE_DROP);
	v = send_packet(&f, 0, PACKET(.proto = 17, .from_server = true, .sport = 80, .dport = 1003,
				      .byte = PRE_DNAT(UNKNOWN) | FP_MARK_REPLY));
	CHECK(accepted(v, next | FP_FATE_ALLOW) && last_event(&f, 0).kind == FP_EVENT_FLOW);
	fixture_close(&f);
}

static void the_flow_table_does_not_answer_for_another_answer_of_policy_before_dnat(void)
{
	struct verdict v;

	open_closed(GENERATION);
	send_packet(&f, 0, PACKET(.proto = 17, .sport = 1, .dport = 80, .byte = PRE_DNAT(NEW)));
	v = send_packet(&f, 0, PACKET(.proto = 17, .sport = 1, .dport = 80, .byte = PRE_DNAT(UNKNOWN)));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)) && counters(&f, 0).flow_hits == 1);
	v = send_packet(&f, 0, PACKET(.proto = 17, .sport = 1, .dport = 80, .byte = FP_MARK_TO_QUEUE));
	CHECK(accepted(v, FATE(FP_FATE_DROP)) && counters(&f, 0).flow_hits == 1);
	v = send_packet(&f, 0, PACKET(.proto = 17, .sport = 1, .dport = 80, .byte = PRE_DNAT(NEW)));
	CHECK(accepted(v, FATE(FP_FATE_ALLOW)));
	fixture_close(&f);
}

int main(void)
{
	RUN(the_host_endpoint_is_not_asked_again);
	RUN(a_reply_after_a_change_is_asked_about_like_its_flow);
	RUN(the_flow_table_does_not_answer_for_another_answer_of_policy_before_dnat);
	return check_result();
}
