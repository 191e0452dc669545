/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_answer.h"

#include <netinet/in.h> /* before the kernel's own, which gives way to it */
#include <linux/netfilter.h>
#include <string.h>

#define QUEUE_BYPASS 0x8000u
#define SECOND 1000000000u /* ns */

/* ---- answering ------------------------------------------------------------------------------- */

static void answer(struct fp_worker *worker, const struct fp_job *job, uint32_t verdict, uint32_t byte)
{
	const struct fp_shared *shared = worker->shared;
	uint32_t mark = (job->message->mark & ~shared->config.mark_mask) | byte << shared->mark_shift;

	fp_nfq_verdict_add(&worker->verdicts, job->message->id, verdict, mark != job->message->mark, mark);
}

static void answer_fate(struct fp_worker *worker, const struct fp_job *job, uint32_t generation, uint32_t fate)
{
	answer(worker, job, NF_ACCEPT, generation << FP_MARK_GENERATION_SHIFT | fate);
}

void fp_answer_slow(struct fp_worker *worker, const struct fp_job *job, uint16_t queue, uint32_t generation)
{
	const uint8_t *actions = worker->shared->config.failure_action;
	uint32_t verdict = NF_QUEUE | (uint32_t)queue << 16;

	if (atomic_load_explicit(&worker->shared->inspectors_wait, memory_order_relaxed)) {
		FP_COUNT(worker, failures[FP_FAILURE_INSPECTOR_RESTART], 1);
		fp_answer_packet(worker, job, worker->look_only ? FP_VERDICT_ALLOW : fp_answer_restart(worker));
		return;
	}
	if (worker->look_only || actions[FP_FAILURE_INSPECTOR_DOWN] == FP_VERDICT_ALLOW)
		verdict |= QUEUE_BYPASS;
	answer(worker, job, verdict,
	       (job->reply ? FP_MARK_SLOW_REPLY : 0) | generation << FP_MARK_GENERATION_SHIFT);
	FP_COUNT(worker, inspected, 1);
}

uint8_t fp_answer_restart(const struct fp_worker *worker)
{
	uint8_t action = worker->shared->config.failure_action[FP_FAILURE_INSPECTOR_RESTART];

	return action == FP_VERDICT_ALLOW || worker->snapshot->observe ? FP_VERDICT_ALLOW : FP_VERDICT_DROP;
}

void fp_answer_packet(struct fp_worker *worker, const struct fp_job *job, uint8_t verdict)
{
	if (verdict == FP_VERDICT_ALLOW || verdict == FP_VERDICT_INSPECT) {
		answer(worker, job, NF_ACCEPT, 0);
		FP_COUNT(worker, passed, 1);
	} else if (verdict == FP_VERDICT_REJECT && job->new_flow && !job->no_save) {
		answer_fate(worker, job, worker->snapshot->generation, FP_FATE_REJECT);
		FP_COUNT(worker, rejected, 1);
	} else {
		answer(worker, job, NF_DROP, 0);
		FP_COUNT(worker, dropped, 1);
	}
}

void fp_answer_flow(struct fp_worker *worker, const struct fp_job *job, const struct fp_flow *flow)
{
	bool fates = worker->shared->config.fates;

	switch (flow->verdict) {
	case FP_VERDICT_INSPECT:
		fp_answer_slow(worker, job, flow->slow_queue, flow->generation);
		return;
	case FP_VERDICT_DROP:
		if (fates)
			answer_fate(worker, job, flow->generation, FP_FATE_DROP);
		else
			answer(worker, job, NF_DROP, 0);
		FP_COUNT(worker, dropped, 1);
		return;
	case FP_VERDICT_REJECT:
		answer_fate(worker, job, flow->generation, FP_FATE_REJECT);
		FP_COUNT(worker, rejected, 1);
		return;
	default:
		if (fates)
			answer_fate(worker, job, flow->generation, FP_FATE_ALLOW);
		else
			answer(worker, job, NF_ACCEPT, 0);
		FP_COUNT(worker, allowed, 1);
		return;
	}
}

/* ---- events ---------------------------------------------------------------------------------- */

void fp_answer_tell(struct fp_worker *worker, const struct fp_job *job, uint8_t kind, uint8_t failure, uint8_t flags,
		    const struct fp_flow *flow)
{
	/* Single packets, and repeats, must not crowd out flows: the last quarter of the ring is not for them. */
	bool single = kind == FP_EVENT_PACKET || kind == FP_EVENT_FAILURE || kind == FP_EVENT_REPEATED;
	struct fp_event *event = fp_ring_reserve(&worker->ring, single ? worker->ring.mask / 4 : 0);

	if (!event) {
		FP_COUNT(worker, events_lost, 1);
		return;
	}
	flags |= (uint8_t)((job->reply ? FP_EVENT_REPLY : 0) | (job->midstream ? FP_EVENT_MIDSTREAM : 0) |
			   (job->related ? FP_EVENT_RELATED : 0) | (worker->look_only ? FP_EVENT_LOOK_ONLY : 0) |
			   (job->query.flags & FP_QUERY_PRE_DNAT ? FP_EVENT_PRE_DNAT : 0));
	*event = (struct fp_event){
		.time = worker->time,
		.flow = flow ? (uint64_t)worker->number << 48 | flow->id : 0,
		.sport = job->packet.sport,
		.dport = job->packet.dport,
		.proto = job->packet.proto,
		.family = job->packet.family,
		.hook = job->hook,
		.kind = kind,
		.iif = job->iif,
		.oif = job->oif,
		.src_identity = job->query.source,
		.dst_identity = job->query.destination,
		.rule = job->decision.rule,
		.staged_rule = job->decision.staged_rule,
		.length = job->message->packet_len,
		.uid = job->message->uid,
		.verdict = job->decision.verdict,
		.staged_verdict = job->decision.staged_verdict,
		.previous_fate = job->previous,
		.failure = failure,
		.generation = worker->snapshot->generation,
		.flags = flags,
		.icmp_type = job->packet.icmp_type,
		.icmp_code = job->packet.icmp_code,
		.slow_queue = flow ? flow->slow_queue : FP_QUEUE_NONE,
		.worker = worker->number,
		.repeats = kind == FP_EVENT_REPEATED ? worker->shared->config.repeat_step : 0,
	};
	memcpy(event->src, job->packet.src, sizeof(event->src));
	memcpy(event->dst, job->packet.dst, sizeof(event->dst));
	fp_ring_push(&worker->ring);
	FP_COUNT(worker, events, 1);
	worker->has_events = true;
}

/* Seconds are those of the events' times, so that who adds up a second's events has all of them. */
void fp_answer_repeat(struct fp_worker *worker, struct fp_job *job, struct fp_flow *flow)
{
	uint32_t step = worker->shared->config.repeat_step, second = (uint32_t)(worker->time / SECOND);

	if (flow->repeat_second != second) {
		flow->repeat_second = second;
		flow->repeats = 0;
		flow->repeats_told = 0;
	}
	if (flow->repeats_told >= FP_REPEATS_TOLD || ++flow->repeats < step)
		return;
	flow->repeats = 0;
	flow->repeats_told++;
	job->query.source = flow->src_identity;
	job->query.destination = flow->dst_identity;
	job->decision = (struct fp_decision){ .verdict = flow->verdict, .staged_verdict = flow->staged_verdict,
					      .governed = flow->governed, .rule = flow->rule,
					      .staged_rule = flow->staged_rule };
	fp_answer_tell(worker, job, FP_EVENT_REPEATED, 0, 0, flow);
}

/* ---- failures -------------------------------------------------------------------------------- */

bool fp_answer_denies(uint8_t verdict)
{
	return verdict == FP_VERDICT_DROP || verdict == FP_VERDICT_REJECT;
}

bool fp_answer_only_said(struct fp_worker *worker, uint8_t verdict)
{
	if (!fp_answer_denies(verdict))
		return false;
	if (worker->look_only)
		return true;
	if (!worker->snapshot->observe)
		return false;
	FP_COUNT(worker, would_deny, 1);
	return true;
}

void fp_answer_failure(struct fp_worker *worker, struct fp_job *job, enum fp_failure failure, uint8_t action)
{
	bool said;

	job->decision = (struct fp_decision){ .verdict = action, .staged_verdict = action, .rule = FP_NONE,
					      .staged_rule = FP_NONE };
	said = fp_answer_only_said(worker, action);
	fp_answer_tell(worker, job, FP_EVENT_FAILURE, (uint8_t)failure, said ? FP_EVENT_OBSERVED : 0, NULL);
	fp_answer_packet(worker, job, said ? FP_VERDICT_ALLOW : action);
}

void fp_answer_unreadable(struct fp_worker *worker, struct fp_job *job, enum fp_failure failure)
{
	uint8_t action = worker->shared->config.failure_action[failure];

	FP_COUNT(worker, failures[failure], 1);
	fp_answer_failure(worker, job, failure, action == FP_FAILURE_POLICY ? FP_VERDICT_DROP : action);
}
