/* SPDX-License-Identifier: Apache-2.0 */
/* Messages as the kernel would send them, for tests that stand in for it. */
#ifndef NETLINK_MESSAGE_H
#define NETLINK_MESSAGE_H

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <string.h>

struct message {
	size_t len;
	_Alignas(4) uint8_t data[4096];
};

static inline void message_attribute(struct message *m, uint16_t type, const void *value, size_t len)
{
	uint16_t attr_len = (uint16_t)(4 + len);

	memcpy(m->data + m->len, &attr_len, 2);
	memcpy(m->data + m->len + 2, &type, 2);
	if (len)
		memcpy(m->data + m->len + 4, value, len);
	m->len = NLMSG_ALIGN(m->len + attr_len);
}

static inline void message_u32(struct message *m, uint16_t type, uint32_t value)
{
	value = htonl(value);
	message_attribute(m, type, &value, 4);
}

static inline void message_finish(struct message *m)
{
	uint32_t len = (uint32_t)m->len;

	memcpy(m->data, &len, 4);
}

static inline void message_begin(struct message *m, uint16_t type)
{
	struct nlmsghdr header = { .nlmsg_type = type };

	memset(m, 0, sizeof(*m));
	memcpy(m->data, &header, sizeof(header));
	m->len = NLMSG_HDRLEN;
}

/* A packet with its header attribute; the caller adds more and finishes. */
static inline void message_packet(struct message *m, uint32_t id, uint8_t hook)
{
	struct nfqnl_msg_packet_hdr hdr = { .packet_id = htonl(id), .hw_protocol = htons(0x0800), .hook = hook };

	message_begin(m, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET);
	m->len += sizeof(struct nfgenmsg);
	message_attribute(m, NFQA_PACKET_HDR, &hdr, sizeof(hdr));
}

static inline void message_error(struct message *m, int error)
{
	struct nlmsgerr body = { .error = error };

	message_begin(m, NLMSG_ERROR);
	memcpy(m->data + m->len, &body, sizeof(body));
	m->len += sizeof(body);
	message_finish(m);
}

#endif
