/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_owner: whose socket is at this machine's end of a packet.
 *
 *      packet ─▶ sock_diag(7): the one socket with these ends ─▶ user, control group ─▶ address in 100::/64 ─▶ identity
 *
 * Users and control groups are endpoints like any other; they stand in the identity map with addresses of their own, in
 * the discard prefix (RFC 6666), by which no packet ever comes in. One question costs one send and one receive, answered
 * by the kernel before the send returns: nothing is waited for.
 */
#ifndef FP_OWNER_H
#define FP_OWNER_H

#include <stdbool.h>

#include "fp_packet.h"

struct fp_owner {
	uint64_t cgroup; /* number of the control group, version 2; 0: not known */
	uint32_t uid;    /* FP_NONE: not known */
};

int fp_owner_open(void); /* a socket for fp_owner_find(), or negative errno */
/* TCP and UDP only. source: this machine's end is the packet's source; ifindex: of the interface on its way.
 * Returns 0, or -ENOENT: there is no such socket, or nobody owns it yet or any more; other errno: no answer. */
int fp_owner_find(int fd, const struct fp_packet *packet, bool source, uint32_t ifindex, struct fp_owner *out);
/* From an answer of the kernel. */
int fp_owner_parse(const void *answer, size_t size, struct fp_owner *out);

/* Where owners stand in the identity map. */
void fp_owner_user_address(uint32_t uid, uint8_t out[16]);
void fp_owner_cgroup_address(uint64_t cgroup, uint8_t out[16]);

#endif
