/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_answer: what leaves a worker for a packet: its verdict and mark, and its event.
 *
 * Failures concern one packet: they never write a fate for a flow that was decided before, or anybody who can forge a
 * packet could end a flow.
 */
#ifndef FP_ANSWER_H
#define FP_ANSWER_H

#include "fp_worker.h"

/* A packet on its way from message to answer. */
struct fp_job {
	const struct fp_nfq_message *message;
	struct fp_packet packet; /* turned: source is where the flow's first packet came from */
	uint32_t iif, oif;       /* turned */
	uint8_t hook;            /* turned */
	bool reply, no_save, new_flow, midstream, related;
	bool pre_dnat;           /* preDNAT policy has answered for the host it came in by */
	uint8_t previous;        /* enum fp_fate */
	bool source_unknown, destination_unknown; /* spoofed: counts as FP_WORLD */
	struct fp_query query;   /* as answered */
	struct fp_decision decision;
};

bool fp_answer_denies(uint8_t verdict);
/* Nothing is denied where we only look. Counts what would have been. */
bool fp_answer_only_said(struct fp_worker *worker, uint8_t verdict);

/* Each gives the packet its one verdict. */
void fp_answer_packet(struct fp_worker *worker, const struct fp_job *job, uint8_t verdict); /* this packet only */
void fp_answer_flow(struct fp_worker *worker, const struct fp_job *job, const struct fp_flow *flow);
void fp_answer_slow(struct fp_worker *worker, const struct fp_job *job, uint16_t queue, uint32_t generation);
/* What becomes of a packet under FP_FAILURE_INSPECTOR_RESTART: FP_VERDICT_ALLOW or _DROP. */
uint8_t fp_answer_restart(const struct fp_worker *worker);
/* The failure's action, no policy asked; with an event. */
void fp_answer_failure(struct fp_worker *worker, struct fp_job *job, enum fp_failure failure, uint8_t action);
/* The same for a packet that there is nothing to ask policy about: FP_FAILURE_POLICY can only mean no. Counts. */
void fp_answer_unreadable(struct fp_worker *worker, struct fp_job *job, enum fp_failure failure);

/* An event of this kind (enum fp_event_kind). flow: NULL for a single packet. */
void fp_answer_tell(struct fp_worker *worker, const struct fp_job *job, uint8_t kind, uint8_t failure, uint8_t flags,
		    const struct fp_flow *flow);
/* Counts a packet that is denied as the flow's last one was, and tells now and then: fp_engine_config.repeat_step. */
void fp_answer_repeat(struct fp_worker *worker, struct fp_job *job, struct fp_flow *flow);

#endif
