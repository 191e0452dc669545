/* SPDX-License-Identifier: Apache-2.0 */
/* fp_nfq_put: the parts of a message to the kernel. Whoever puts has made room. */
#ifndef FP_NFQ_PUT_H
#define FP_NFQ_PUT_H

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

#include "fp_nfq.h"

#define FP_NFQ_ATTR_HEADER 4u
#define FP_NFQ_HEADER (NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg)))

static inline void fp_nfq_put_attribute(uint8_t *at, uint16_t type, const void *value, size_t len)
{
	uint16_t attr_len = (uint16_t)(FP_NFQ_ATTR_HEADER + len);

	memcpy(at, &attr_len, sizeof(attr_len));
	memcpy(at + 2, &type, sizeof(type));
	memcpy(at + FP_NFQ_ATTR_HEADER, value, len);
}

static inline void fp_nfq_put_header(uint8_t *at, size_t len, uint8_t message, uint16_t flags, uint16_t queue)
{
	struct nlmsghdr header = {
		.nlmsg_len = (uint32_t)len,
		.nlmsg_type = (uint16_t)(NFNL_SUBSYS_QUEUE << 8 | message),
		.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
	};
	struct nfgenmsg nfgen = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(queue) };

	memcpy(at, &header, sizeof(header));
	memcpy(at + NLMSG_HDRLEN, &nfgen, sizeof(nfgen));
}

#endif
