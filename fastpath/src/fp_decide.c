/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker does with one packet.
 *
 *      message ─▶ parse ▸ turn to the flow's own direction ▸ spoofed? ▸ flow table ▸ identities ▸ policy ─▶ fp_answer
 */
#include <netinet/in.h>
#include <string.h>

#include "fp_ask.h"

#define PORT_DNS 53
#define FLOW_MIDSTREAM 0x01u /* fp_flow.flags */
#define FLOW_PRE_DNAT 0x02u
#define FLOW_LOST 0x04u      /* what an inspector had read of it is lost: FP_FAILURE_INSPECTOR_RESTART */

/* ---- packets that belong to no flow of ours --------------------------------------------------- */

static bool is_initial_syn(const struct fp_packet *packet)
{
	return packet->proto == IPPROTO_TCP &&
	       (packet->tcp_flags & (FP_TCP_SYN | FP_TCP_ACK | FP_TCP_RST | FP_TCP_FIN)) == FP_TCP_SYN;
}

/* Untracked, invalid, or an ICMP error, whose conntrack entry is that of the flow it quotes: one packet's verdict. */
static void decide_single(struct fp_worker *worker, struct fp_job *job)
{
	const struct fp_nfq_message *message = job->message;
	bool both = job->packet.flags & FP_PACKET_ECHO_REPLY || !(job->packet.flags & FP_PACKET_NO_PORTS);
	bool said;

	if (job->packet.flags & FP_PACKET_ICMP_ERROR) {
		struct fp_packet inner;

		if (fp_packet_parse_inner(message->payload, message->payload_len, &job->packet, &inner)) {
			fp_answer_unreadable(worker, job, FP_FAILURE_DECODE_ERROR);
			return;
		}
		/* The quoted packet went the way back, and was sent by either side of its flow. */
		job->packet = inner;
		job->related = true;
		job->source_unknown = false;
		fp_ask_turn_place(job);
		both = true;
	}
	if (both && !is_initial_syn(&job->packet))
		fp_ask_both(worker, job);
	else
		fp_ask(worker, job);
	said = fp_answer_only_said(worker, job->decision.verdict);
	fp_answer_tell(worker, job, FP_EVENT_PACKET, 0, said ? FP_EVENT_OBSERVED : 0, NULL);
	fp_answer_packet(worker, job, said ? FP_VERDICT_ALLOW : job->decision.verdict);
}

/* ---- flows ----------------------------------------------------------------------------------- */

static uint16_t slow_queue(const struct fp_worker *worker, const struct fp_job *job)
{
	const struct fp_engine_config *config = &worker->shared->config;
	uint64_t hash;

	if (job->packet.flags & FP_PACKET_FRAGMENT) { /* all parts of a datagram, with ports or without, go together */
		struct fp_packet portless = job->packet;

		portless.sport = portless.dport = 0;
		hash = fp_flow_hash(&worker->flows, &portless);
	} else {
		hash = fp_flow_hash(&worker->flows, &job->packet);
	}
	return (uint16_t)(config->slow_first + (hash >> 32) % config->slow_count);
}

/* Asks policy, or the midstream_flow action where it is not to ask. */
static void decide_flow(struct fp_worker *worker, struct fp_job *job)
{
	uint8_t action = worker->shared->config.failure_action[FP_FAILURE_MIDSTREAM_FLOW];

	if (!job->midstream) {
		fp_ask(worker, job);
		return;
	}
	fp_ask_both(worker, job);
	if (!job->new_flow)
		return;
	FP_COUNT(worker, failures[FP_FAILURE_MIDSTREAM_FLOW], 1);
	if (action == FP_FAILURE_POLICY)
		return;
	job->decision = (struct fp_decision){ .verdict = action, .staged_verdict = action, .rule = FP_NONE,
					      .staged_rule = FP_NONE };
}

/* What is done about the flow, which differs from what is said. */
static uint8_t effective(const struct fp_worker *worker, uint8_t verdict, bool said)
{
	if (said)
		return FP_VERDICT_ALLOW;
	if (verdict == FP_VERDICT_INSPECT && !worker->shared->config.slow_count)
		return FP_VERDICT_ALLOW;
	return verdict;
}

static bool overloaded(const struct fp_worker *worker, uint16_t queue)
{
	unsigned int number = (unsigned int)(queue - worker->shared->config.slow_first);
	uint64_t bits = atomic_load_explicit(&worker->shared->overloaded[number / 64], memory_order_relaxed);

	return bits >> number % 64 & 1;
}

/* A new flow that policy sends to an inspector which cannot keep up. False: it is decided as usual. Where the packet is
 * denied nothing is remembered, so that the next try finds the inspector as it is then. */
static bool deny_overload(struct fp_worker *worker, struct fp_job *job)
{
	uint8_t action = worker->shared->config.failure_action[FP_FAILURE_INSPECTOR_OVERLOAD];

	FP_COUNT(worker, failures[FP_FAILURE_INSPECTOR_OVERLOAD], 1);
	if (!fp_answer_denies(action) || worker->snapshot->observe) {
		job->decision.verdict = FP_VERDICT_ALLOW;
		return false;
	}
	fp_answer_failure(worker, job, FP_FAILURE_INSPECTOR_OVERLOAD, action);
	return true;
}

/* How many inspectors came before the one that this flow is sent to. */
static uint16_t inspector_of(const struct fp_worker *worker, const struct fp_flow *flow)
{
	const struct fp_shared *shared = worker->shared;

	return atomic_load_explicit(&shared->inspectors[flow->slow_queue - shared->config.slow_first],
				    memory_order_relaxed);
}

/* Whether an inspector, or all of the service, began anew while it was reading this flow. flow: its entry, or NULL. A
 * flow without either entry or fate was being inspected, if it is not older than what the table remembers. */
static bool inspection_lost(const struct fp_worker *worker, const struct fp_job *job, const struct fp_flow *flow)
{
	if (job->packet.proto != IPPROTO_TCP || job->new_flow)
		return false;
	if (!flow)
		return job->previous == FP_FATE_NONE && worker->now < worker->resumed_until;
	return flow->flags & FLOW_LOST ||
	       (flow->slow_queue != FP_QUEUE_NONE && flow->inspector != inspector_of(worker, flow));
}

/* The answer for a flow that is inspected. lost: as inspection_lost(). */
static void answer_inspected(struct fp_worker *worker, struct fp_job *job, struct fp_flow *flow, bool lost)
{
	if (!lost) {
		fp_answer_flow(worker, job, flow);
		return;
	}
	FP_COUNT(worker, failures[FP_FAILURE_INSPECTOR_RESTART], 1);
	if (fp_answer_restart(worker) == FP_VERDICT_ALLOW) { /* read from here on */
		flow->flags &= (uint8_t)~FLOW_LOST;
		flow->inspector = inspector_of(worker, flow);
		fp_answer_flow(worker, job, flow);
		return;
	}
	if (!(flow->flags & FLOW_LOST))
		fp_answer_tell(worker, job, FP_EVENT_FAILURE, FP_FAILURE_INSPECTOR_RESTART, 0, flow);
	flow->flags |= FLOW_LOST;
	fp_answer_packet(worker, job, FP_VERDICT_DROP);
}

/* flow: its entry from an earlier decision, or NULL. */
static void decide_anew(struct fp_worker *worker, struct fp_job *job, struct fp_flow *flow)
{
	bool again = !job->new_flow && (flow || job->previous != FP_FATE_NONE);
	uint64_t id = flow && !job->new_flow ? flow->id : 0;
	uint64_t packets = flow && !job->new_flow ? flow->packets : 0;
	const struct fp_engine_config *config = &worker->shared->config;
	bool spared = false;
	bool lost = inspection_lost(worker, job, flow);
	bool said;

	if (job->packet.proto == IPPROTO_TCP)
		job->midstream = job->new_flow ? !is_initial_syn(&job->packet)
					       : flow && flow->flags & FLOW_MIDSTREAM;
	if (flow) /* entered again below, perhaps in the other direction */
		fp_flow_remove(&worker->flows, flow);
	decide_flow(worker, job);
	if (job->new_flow && job->decision.verdict == FP_VERDICT_INSPECT && config->slow_count &&
	    config->failure_action[FP_FAILURE_INSPECTOR_OVERLOAD] != FP_FAILURE_POLICY &&
	    overloaded(worker, slow_queue(worker, job))) {
		if (deny_overload(worker, job))
			return;
		spared = true;
	}
	flow = fp_flow_insert(&worker->flows, &job->packet, worker->now);
	if (id)
		flow->id = id;
	said = fp_answer_only_said(worker, job->decision.verdict);
	flow->sequence = worker->snapshot->sequence;
	flow->generation = worker->snapshot->generation;
	flow->verdict = effective(worker, job->decision.verdict, said);
	flow->staged_verdict = job->decision.staged_verdict;
	flow->governed = job->decision.governed;
	flow->rule = job->decision.rule;
	flow->staged_rule = job->decision.staged_rule;
	flow->src_identity = job->query.source;
	flow->dst_identity = job->query.destination;
	flow->hook = job->hook;
	flow->iif = job->iif;
	flow->oif = job->oif;
	flow->uid = job->message->uid;
	flow->flags = (uint8_t)((job->midstream ? FLOW_MIDSTREAM : 0) | (job->pre_dnat ? FLOW_PRE_DNAT : 0));
	flow->slow_queue = flow->verdict == FP_VERDICT_INSPECT ? slow_queue(worker, job) : FP_QUEUE_NONE;
	flow->packets = packets + 1;
	if (spared)
		fp_answer_tell(worker, job, FP_EVENT_FAILURE, FP_FAILURE_INSPECTOR_OVERLOAD, 0, flow);
	else
		fp_answer_tell(worker, job, again ? FP_EVENT_REDECIDED : FP_EVENT_FLOW, 0,
			       said ? FP_EVENT_OBSERVED : 0, flow);
	if (flow->verdict != FP_VERDICT_INSPECT) {
		fp_answer_flow(worker, job, flow);
		return;
	}
	flow->inspector = inspector_of(worker, flow);
	answer_inspected(worker, job, flow, lost);
}

/* An entry answers for a packet if the snapshot is the same and preDNAT policy says the same. The packet's previous fate
 * does not matter then: it is one of those that were on their way when the flow was decided again. */
static bool still_holds(const struct fp_worker *worker, const struct fp_job *job, const struct fp_flow *flow,
			int reversed)
{
	bool socket_here = worker->owners_fd >= 0 && job->hook != FP_HOOK_FORWARD;

	if (flow->sequence != worker->snapshot->sequence || job->pre_dnat != !!(flow->flags & FLOW_PRE_DNAT))
		return false;
	/* The same tuple may be another program's by now: of a new flow, and of UDP when a fate has ended
	 * (fastpath.udp_fate_seconds), which has no other end. */
	if (socket_here && job->new_flow)
		return false;
	if (socket_here && job->packet.proto == IPPROTO_UDP && job->previous == FP_FATE_ALLOW &&
	    flow->verdict == FP_VERDICT_ALLOW)
		return false;
	/* A new connection inherits nothing but a denial of the very same: a packet that is dropped before conntrack
	 * confirms its flow is new each time. */
	if (job->new_flow)
		return fp_answer_denies(flow->verdict) && !reversed && flow->iif == job->iif && flow->oif == job->oif &&
		       flow->hook == job->hook;
	return true;
}

/* A packet that would begin a flow, and is denied as the one before it was (no other entry holds for such a packet):
 * what a flood of one and the same tuple consists of. By policy or a feed: of the failures only midstream_flow makes
 * an entry that denies. */
static bool is_repeat(const struct fp_job *job, const struct fp_flow *flow)
{
	return job->new_flow && !(flow->flags & (FLOW_MIDSTREAM | FLOW_PRE_DNAT)) &&
	       (job->packet.proto == IPPROTO_UDP || is_initial_syn(&job->packet));
}

static void decide_tracked(struct fp_worker *worker, struct fp_job *job)
{
	int reversed = 0;
	struct fp_flow *flow = fp_flow_find(&worker->flows, &job->packet, worker->now, &reversed);

	if (flow && still_holds(worker, job, flow, reversed)) {
		FP_COUNT(worker, flow_hits, 1);
		flow->packets++;
		if (worker->shared->config.repeat_step && is_repeat(job, flow))
			fp_answer_repeat(worker, job, flow);
		if (flow->verdict == FP_VERDICT_INSPECT)
			answer_inspected(worker, job, flow, inspection_lost(worker, job, flow));
		else
			fp_answer_flow(worker, job, flow);
		return;
	}
	FP_COUNT(worker, flow_misses, 1);
	decide_anew(worker, job, flow);
}

/* Failsafe traffic passes whatever policy says; names are still read by an inspector. The flow table is here to say
 * each flow once. */
static void decide_look_only(struct fp_worker *worker, struct fp_job *job)
{
	const struct fp_engine_config *config = &worker->shared->config;
	bool dns = job->packet.proto == IPPROTO_UDP &&
		   (job->packet.dport == PORT_DNS || job->packet.sport == PORT_DNS);
	int reversed;
	struct fp_flow *flow = fp_flow_find(&worker->flows, &job->packet, worker->now, &reversed);

	if (flow && flow->sequence == worker->snapshot->sequence) {
		FP_COUNT(worker, flow_hits, 1);
	} else {
		FP_COUNT(worker, flow_misses, 1);
		fp_ask(worker, job);
		if (!flow)
			flow = fp_flow_insert(&worker->flows, &job->packet, worker->now);
		flow->sequence = worker->snapshot->sequence;
		flow->verdict = job->decision.verdict;
		flow->slow_queue = config->slow_count && (dns || flow->verdict == FP_VERDICT_INSPECT)
					   ? slow_queue(worker, job) : FP_QUEUE_NONE;
		fp_answer_tell(worker, job, FP_EVENT_PACKET, 0,
		     fp_answer_only_said(worker, job->decision.verdict) ? FP_EVENT_OBSERVED : 0, flow);
	}
	flow->packets++;
	if (flow->slow_queue != FP_QUEUE_NONE && !overloaded(worker, flow->slow_queue))
		fp_answer_slow(worker, job, flow->slow_queue, 0);
	else
		fp_answer_packet(worker, job, FP_VERDICT_ALLOW);
}

/* ---- entry ----------------------------------------------------------------------------------- */

/* The packet's own source belongs to an endpoint, and the endpoint is not where the packet came from. */
static bool is_spoofed(const struct fp_worker *worker, const struct fp_job *job)
{
	const struct fp_nfq_message *message = job->message;
	uint32_t home;

	if (message->hook != FP_HOOK_INPUT && message->hook != FP_HOOK_FORWARD)
		return false;
	home = fp_prefix_map_lookup(worker->snapshot->identities, job->packet.src).ifindex;
	return home && home != message->iif && home != message->phys_iif;
}

static void start_job(struct fp_worker *worker, const struct fp_nfq_message *message, struct fp_job *job)
{
	const struct fp_shared *shared = worker->shared;
	uint32_t byte = (message->mark & shared->config.mark_mask) >> shared->mark_shift;

	*job = (struct fp_job){
		.message = message,
		.iif = message->iif,
		.oif = message->oif,
		.hook = message->hook >= FP_HOOK_INPUT && message->hook <= FP_HOOK_OUTPUT ? message->hook : 0,
		.reply = byte & FP_MARK_REPLY,
	};
	if (byte & FP_MARK_NEW && byte & FP_MARK_PREVIOUS) {
		byte &= FP_MARK_PRE_DNAT_BITS;
		job->pre_dnat = true;
		job->no_save = byte == FP_MARK_PRE_DNAT_ONCE;
		job->new_flow = byte == FP_MARK_PRE_DNAT_NEW;
		job->previous = byte == FP_MARK_PRE_DNAT_ALLOWED ? FP_FATE_ALLOW :
				byte == FP_MARK_PRE_DNAT_DENIED ? FP_FATE_DROP : FP_FATE_NONE;
	} else {
		job->no_save = byte & FP_MARK_NO_SAVE && !worker->look_only;
		job->new_flow = byte & FP_MARK_NEW;
		job->previous = (uint8_t)((byte & FP_MARK_PREVIOUS) >> FP_MARK_PREVIOUS_SHIFT);
	}
	FP_COUNT(worker, packets, 1);
	FP_COUNT(worker, bytes, message->packet_len);
}

void fp_decide_packet(struct fp_worker *worker, const struct fp_nfq_message *message)
{
	const uint8_t *actions = worker->shared->config.failure_action;
	bool cut = message->payload_len < message->packet_len || !message->payload;
	struct fp_job job;

	start_job(worker, message, &job);
	if (!message->payload ||
	    fp_packet_parse(message->payload, message->payload_len, message->packet_len, &job.packet)) {
		memset(&job.packet, 0, sizeof(job.packet));
		fp_answer_unreadable(worker, &job, cut ? FP_FAILURE_TRUNCATED_PACKET : FP_FAILURE_DECODE_ERROR);
		return;
	}
	if (is_spoofed(worker, &job)) {
		FP_COUNT(worker, failures[FP_FAILURE_SPOOFED_SOURCE], 1);
		if (actions[FP_FAILURE_SPOOFED_SOURCE] != FP_FAILURE_POLICY) {
			if (job.reply)
				fp_ask_turn(&job);
			fp_answer_failure(worker, &job, FP_FAILURE_SPOOFED_SOURCE, actions[FP_FAILURE_SPOOFED_SOURCE]);
			return;
		}
		job.source_unknown = true;
	}
	if (job.no_save) {
		decide_single(worker, &job);
		return;
	}
	if (job.reply)
		fp_ask_turn(&job);
	if (worker->look_only)
		decide_look_only(worker, &job);
	else
		decide_tracked(worker, &job);
}

void fp_decide_broken(struct fp_worker *worker, const struct fp_nfq_message *message)
{
	struct fp_job job;

	start_job(worker, message, &job);
	fp_answer_unreadable(worker, &job, FP_FAILURE_DECODE_ERROR);
}
