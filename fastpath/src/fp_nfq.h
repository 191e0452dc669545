/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nfnetlink_queue without a library: one socket, one queue.
 *
 *      open ─▶ read (recvmmsg by the worker) ─▶ fp_nfq_parse ─▶ ... ─▶ fp_nfq_verdict_add ─▶ fp_nfq_verdict_send
 *
 * Invariants
 *  1. The parser never reads outside [buf, buf + len) and never trusts a length; attributes that are unknown, newer
 *     than the headers here or shorter than expected are stepped over.
 *  2. Verdicts leave in the order in which they were added (older kernels search the queue from its oldest packet).
 *  3. The socket is connected to the kernel: messages of other processes are refused by the kernel.
 */
#ifndef FP_NFQ_H
#define FP_NFQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FP_NFQ_BATCH 64u          /* packets read, and verdicts sent, at a time */
#define FP_NFQ_HEADROOM 1024u     /* bytes of a message beside the payload */
#define FP_NFQ_VERDICT_SIZE 40u   /* bytes of one verdict with a mark */

struct fp_nfq_options {
	uint32_t queue_length;   /* packets */
	uint32_t copy_range;     /* bytes */
	uint32_t receive_buffer; /* bytes */
	bool fail_open;
	bool gso;
};

/* Returns the socket. Errors as fp_engine_open(). */
int fp_nfq_open(uint16_t queue, const struct fp_nfq_options *options);

/* Sets the same options at a socket that holds this queue already. What waits there to be read is left alone, so a
 * refusal arrives later as an FP_NFQ_ERROR. -ENOTSOCK: not such a socket. */
int fp_nfq_adopt(int fd, uint16_t queue, const struct fp_nfq_options *options);

/* Gives the packets numbered up to `last` one verdict, whoever has read them. The kernel acknowledges what it found
 * with FP_NFQ_LEFTOVER: one message for each of the last FP_NFQ_BATCH numbers, which is all that a worker ever
 * holds, and one for all that is older. 0 or a negative errno. */
#define FP_NFQ_LEFTOVER 0x4c656674u /* fp_nfq_message.sequence */
int fp_nfq_answer_leftovers(int fd, uint16_t queue, uint32_t last, uint32_t verdict);

enum fp_nfq_kind {
	FP_NFQ_PACKET = 1,
	FP_NFQ_ERROR = 2, /* `error` answers a message of ours */
	FP_NFQ_OTHER = 3, /* nothing of ours */
};

struct fp_nfq_message {
	const uint8_t *payload; /* points into buf; NULL: none */
	uint32_t payload_len;   /* bytes there */
	uint32_t packet_len;    /* bytes of the packet; more than payload_len: it was cut */
	uint32_t id;            /* FP_NFQ_PACKET, if has_id */
	uint32_t mark;
	uint32_t iif, oif, phys_iif, phys_oif; /* 0: none */
	uint32_t uid;           /* 0xffffffff: unknown */
	uint32_t skb_info;      /* NFQA_SKB_* */
	int error;              /* FP_NFQ_ERROR: negative errno, 0: acknowledged */
	uint32_t sequence;      /* FP_NFQ_ERROR: of the message it answers */
	uint16_t hw_protocol;   /* host order */
	uint8_t hook;           /* NF_INET_* */
	uint8_t kind;           /* enum fp_nfq_kind */
	bool has_id;
	size_t size;            /* bytes of the message, alignment included; 0: it says more than there are, or nonsense */
};

/* Takes one netlink message from the front of buf. Returns the bytes it took (alignment included, at least 16), or
 * -EBADMSG. Even then, `out->has_id` says whether a packet waits for a verdict, and `out->size` where the next message
 * begins. */
ssize_t fp_nfq_parse(const uint8_t *buf, size_t len, struct fp_nfq_message *out);

/* Packets that were numbered between *next and id; moves *next behind id. *next == 0: nothing seen yet, and the
 * kernel numbers from 1. */
static inline uint32_t fp_nfq_gap(uint32_t *next, uint32_t id)
{
	uint32_t gap = id - (*next ? *next : 1u);

	if (gap > UINT32_MAX / 2) /* an older id */
		return 0;
	*next = id + 1;
	return gap;
}

struct fp_nfq_verdicts {
	uint32_t count;
	uint32_t length; /* bytes */
	uint16_t queue;
	_Alignas(4) uint8_t buf[FP_NFQ_BATCH * FP_NFQ_VERDICT_SIZE];
};

/* The caller sends before count reaches FP_NFQ_BATCH. `verdict` is NF_* with the queue number and flags above it. */
void fp_nfq_verdict_add(struct fp_nfq_verdicts *verdicts, uint32_t id, uint32_t verdict, bool set_mark, uint32_t mark);

/* Sends all and empties. Returns 0 or a negative errno: then the kernel has seen none of them. */
int fp_nfq_verdict_send(int fd, struct fp_nfq_verdicts *verdicts);

#endif
