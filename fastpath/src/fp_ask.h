/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_ask: what policy says of a packet: its addresses become identities, the snapshot's policy answers.
 */
#ifndef FP_ASK_H
#define FP_ASK_H

#include "fp_answer.h"

/* As if the packet went the other way: addresses, ports, ICMP types that answer, and the place. */
void fp_ask_turn(struct fp_job *job);
/* Interfaces and hook alone. */
void fp_ask_turn_place(struct fp_job *job);

/* Sets query and decision. */
void fp_ask(struct fp_worker *worker, struct fp_job *job);
/* Nobody knows who spoke first: what policy allows in either direction is allowed. Says what the given direction
 * says if neither is. preDNAT policy was asked about the given one. */
void fp_ask_both(struct fp_worker *worker, struct fp_job *job);

#endif
