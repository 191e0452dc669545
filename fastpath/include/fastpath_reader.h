/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_reader: one NFQUEUE for a program that judges packets by itself, whole ones up to 65,531 bytes.
 *
 *      read ─▶ (the caller judges, at leisure) ─▶ answer, answer_with, again ─▶ send
 *
 *  1. One thread. Every function returns 0 or a count, or a negative errno. Nothing is printed, and nothing but
 *     fp_reader_open() allocates.
 *  2. Each packet that was read waits in the kernel until it is answered, in any order. Answers are joined and leave with
 *     fp_reader_send(), or when there are 64 of them, in the order in which they were given.
 *  3. TCP segments come joined, up to 64 KiB at once, and their checksums may not be ready: nobody verifies them.
 *     Joined packets of other protocols are separate messages: they are queued again, one by one, before
 *     anybody sees them.
 *  4. After fp_reader_open() only sendto(2), sendmsg(2) and recvmmsg(2) are called.
 */
#ifndef FASTPATH_READER_H
#define FASTPATH_READER_H

#include <stddef.h>
#include <stdint.h>

struct fp_reader_config {
	uint32_t queue_length;   /* packets, at most 65535 */
	uint32_t receive_buffer; /* bytes of socket buffer */
	uint32_t copy_range;     /* bytes of a packet that are copied up, 128..65531 */
	uint16_t queue;
	uint8_t fail_open;       /* NFQA_CFG_F_FAIL_OPEN */
	uint8_t gso;             /* NFQA_CFG_F_GSO */
};

#define FP_READER_JOINED 0x01u /* several segments in one packet */

struct fp_reader_packet {
	const uint8_t *payload; /* from the IP header on; valid until more is received. NULL: not to be read */
	uint32_t payload_len;   /* bytes; fewer than the IP header says: it was cut */
	uint32_t id, mark;
	uint32_t iif, oif;      /* 0: none */
	uint8_t hook;           /* NF_INET_* */
	uint8_t flags;          /* FP_READER_* */
	uint8_t reserved[2];
};

struct fp_reader_counters {
	uint64_t ids_lost;       /* packets that the kernel numbered and we never saw */
	uint64_t overruns;       /* times that packets found the socket full: runs of ids_lost */
	uint64_t broken;         /* packets whose message made no sense: payload NULL */
	uint64_t netlink_errors; /* messages that made no sense, and refusals that are no verdict's */
	uint64_t verdict_errors; /* verdicts that the kernel refused: the packet was gone */
	uint64_t again;          /* packets queued again, in segments */
};

struct fp_reader;

/* Binds the queue. Errors as fp_engine_open(). */
int fp_reader_open(const struct fp_reader_config *config, struct fp_reader **out);
void fp_reader_free(struct fp_reader *reader); /* sends, then unbinds: the kernel drops what waits. NULL: nothing */
int fp_reader_fd(const struct fp_reader *reader); /* readable when packets wait */

/* Up to max packets that wait, in order; does not wait itself. *empty: there were no more. */
int fp_reader_read(struct fp_reader *reader, struct fp_reader_packet *out, uint32_t max, int *empty);

/* accept: it goes on with this mark; else it is dropped. */
int fp_reader_answer(struct fp_reader *reader, uint32_t id, int accept, uint32_t mark);
/* It goes on as this packet. Not for a JOINED one: the kernel would take the new packet apart as it would have the old
 * one, and lose it. */
int fp_reader_answer_with(struct fp_reader *reader, uint32_t id, uint32_t mark, const uint8_t *payload, uint32_t len);
/* It comes back in segments of their own, behind all that waits in the queue, with the mark it came with. */
int fp_reader_again(struct fp_reader *reader, uint32_t id);
int fp_reader_send(struct fp_reader *reader);
/* Accepts these packets, up to 64, with these marks, unless a message waits to be read: then none of them, and they wait
 * on. The kernel is asked right before it is told, so hardly anything is queued in between. What was answered before
 * leaves first. Receives, as fp_reader_read() does. Returns 1 if they were accepted, 0 if something waits. */
int fp_reader_accept_if_empty(struct fp_reader *reader, const uint32_t *ids, const uint32_t *marks, uint32_t n);

void fp_reader_counters(const struct fp_reader *reader, struct fp_reader_counters *out);

#endif
