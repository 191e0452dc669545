/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_conntrack: what the kernel says of a connection, and the message that takes bits of its mark back.
 *
 * The walk itself is in fastpath.h. A message of the kernel is data like any other: every read is checked against its
 * length, what does not fit ends the entry.
 */
#ifndef FP_CONNTRACK_H
#define FP_CONNTRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fastpath.h"

#define FP_CONNTRACK_ENDS 3u
#define FP_CONNTRACK_TUPLE 128u  /* bytes of a tuple's attributes at most; IPv6 with ICMP needs 80 */
#define FP_CONNTRACK_UPDATE 192u /* bytes of the message that changes one entry, at most */

struct fp_conntrack_entry {
	const uint8_t *tuple; /* attributes of the original tuple, in the message */
	size_t tuple_len;
	uint32_t id, mark;
	uint64_t carried; /* bytes, both directions together */
	/* What policy sees of it, behind everybody's NAT: original source, reply's source; source NAT on input: reply's
	 * destination. All zero where the message has none. */
	uint8_t ends[FP_CONNTRACK_ENDS][16];
	uint16_t zone; /* as the kernel wrote it */
	bool has_zone;
	uint8_t family, protocol;
};

struct fp_conntrack_update {
	uint32_t len;
	uint8_t message[FP_CONNTRACK_UPDATE];
};

/* `message` with its header. False: it is no entry that could be changed. */
bool fp_conntrack_parse(const uint8_t *message, size_t size, struct fp_conntrack_entry *out);

/* Returns its length. Sequence 0, and no acknowledgement asked for. */
size_t fp_conntrack_clear(const struct fp_conntrack_entry *entry, uint32_t cleared, uint8_t out[FP_CONNTRACK_UPDATE]);

#endif
