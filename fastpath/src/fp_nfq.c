/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_nfq.h"

#include <assert.h>
#include <errno.h>

#include "fp_nfq_put.h"

#define ATTR_TYPE_MASK 0x3fffu

static_assert(FP_NFQ_HEADER == 20, "netlink and nfnetlink headers");
static_assert(FP_NFQ_HEADER + FP_NFQ_ATTR_HEADER + sizeof(struct nfqnl_msg_verdict_hdr) + FP_NFQ_ATTR_HEADER + 4 ==
		      FP_NFQ_VERDICT_SIZE,
	      "one verdict");

/* ---- reading --------------------------------------------------------------------------------- */

static uint16_t load16(const uint8_t *p)
{
	uint16_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static uint32_t load32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static void parse_attribute(uint16_t type, const uint8_t *value, size_t len, struct fp_nfq_message *out)
{
	switch (type) {
	case NFQA_PACKET_HDR:
		if (len < sizeof(struct nfqnl_msg_packet_hdr))
			return;
		out->id = ntohl(load32(value));
		out->hw_protocol = ntohs(load16(value + 4));
		out->hook = value[6];
		out->has_id = true;
		return;
	case NFQA_PAYLOAD:
		out->payload = value;
		out->payload_len = (uint32_t)len;
		if (out->packet_len < out->payload_len)
			out->packet_len = out->payload_len;
		return;
	default:
		break;
	}
	if (len < 4)
		return;
	switch (type) {
	case NFQA_MARK:
		out->mark = ntohl(load32(value));
		break;
	case NFQA_IFINDEX_INDEV:
		out->iif = ntohl(load32(value));
		break;
	case NFQA_IFINDEX_OUTDEV:
		out->oif = ntohl(load32(value));
		break;
	case NFQA_IFINDEX_PHYSINDEV:
		out->phys_iif = ntohl(load32(value));
		break;
	case NFQA_IFINDEX_PHYSOUTDEV:
		out->phys_oif = ntohl(load32(value));
		break;
	case NFQA_CAP_LEN: /* comes only with a packet that was cut */
		if (out->packet_len < ntohl(load32(value)))
			out->packet_len = ntohl(load32(value));
		break;
	case NFQA_SKB_INFO:
		out->skb_info = ntohl(load32(value));
		break;
	case NFQA_UID:
		out->uid = ntohl(load32(value));
		break;
	default: /* not of interest, or newer than this */
		break;
	}
}

ssize_t fp_nfq_parse(const uint8_t *buf, size_t len, struct fp_nfq_message *out)
{
	struct nlmsghdr header;
	size_t end, at;
	bool cut;

	memset(out, 0, sizeof(*out));
	out->kind = FP_NFQ_OTHER;
	out->uid = UINT32_MAX;
	if (len < NLMSG_HDRLEN)
		return -EBADMSG;
	memcpy(&header, buf, sizeof(header));
	if (header.nlmsg_len < NLMSG_HDRLEN)
		return -EBADMSG;
	cut = header.nlmsg_len > len;
	end = cut ? len : header.nlmsg_len;
	if (!cut)
		out->size = NLMSG_ALIGN(end) < len ? NLMSG_ALIGN(end) : len;

	if (header.nlmsg_type == NLMSG_ERROR) {
		if (end < NLMSG_HDRLEN + sizeof(struct nlmsgerr))
			return -EBADMSG;
		out->kind = FP_NFQ_ERROR;
		out->error = (int)load32(buf + NLMSG_HDRLEN);
		out->sequence = header.nlmsg_seq;
	} else if (header.nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET)) {
		if (end < FP_NFQ_HEADER)
			return -EBADMSG;
		out->kind = FP_NFQ_PACKET;
		for (at = FP_NFQ_HEADER; end - at >= FP_NFQ_ATTR_HEADER;) {
			size_t attr_len = load16(buf + at);

			if (attr_len < FP_NFQ_ATTR_HEADER || attr_len > end - at)
				return -EBADMSG;
			parse_attribute(load16(buf + at + 2) & ATTR_TYPE_MASK, buf + at + FP_NFQ_ATTR_HEADER,
					attr_len - FP_NFQ_ATTR_HEADER, out);
			attr_len = NLMSG_ALIGN(attr_len);
			if (attr_len >= end - at)
				break;
			at += attr_len;
		}
		if (!out->has_id)
			return -EBADMSG;
	}
	return cut ? -EBADMSG : (ssize_t)out->size;
}

/* ---- verdicts -------------------------------------------------------------------------------- */

void fp_nfq_verdict_add(struct fp_nfq_verdicts *verdicts, uint32_t id, uint32_t verdict, bool set_mark, uint32_t mark)
{
	const struct nfqnl_msg_verdict_hdr hdr = { .verdict = htonl(verdict), .id = htonl(id) };
	uint8_t *at = verdicts->buf + verdicts->length;
	uint32_t len = set_mark ? FP_NFQ_VERDICT_SIZE : FP_NFQ_VERDICT_SIZE - 8;

	fp_nfq_put_header(at, len, NFQNL_MSG_VERDICT, 0, verdicts->queue);
	fp_nfq_put_attribute(at + FP_NFQ_HEADER, NFQA_VERDICT_HDR, &hdr, sizeof(hdr));
	if (set_mark) {
		mark = htonl(mark);
		fp_nfq_put_attribute(at + FP_NFQ_HEADER + FP_NFQ_ATTR_HEADER + sizeof(hdr), NFQA_MARK, &mark, sizeof(mark));
	}
	verdicts->length += len;
	verdicts->count++;
}

int fp_nfq_verdict_send(int fd, struct fp_nfq_verdicts *verdicts)
{
	uint32_t length = verdicts->length;
	ssize_t sent;

	if (!length)
		return 0;
	verdicts->length = 0;
	verdicts->count = 0;
	/* The kernel handles the messages before it returns: there is no buffer to wait for. ENOBUFS is memory. */
	for (unsigned int attempt = 0; attempt < 16; attempt++) {
		sent = send(fd, verdicts->buf, length, 0);
		if (sent >= 0)
			return 0;
		if (errno != EINTR && errno != ENOBUFS && errno != EAGAIN)
			break;
	}
	return -errno;
}
