/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_nfq.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NF_REPEAT_VERDICT 4u
#define ATTR_HEADER 4u
#define ATTR_TYPE_MASK 0x3fffu
#define HEADER (NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg)))

static_assert(HEADER == 20, "netlink and nfnetlink headers");
static_assert(HEADER + ATTR_HEADER + sizeof(struct nfqnl_msg_verdict_hdr) + ATTR_HEADER + 4 == FP_NFQ_VERDICT_SIZE,
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

	if (header.nlmsg_type == NLMSG_ERROR) {
		if (end < NLMSG_HDRLEN + sizeof(struct nlmsgerr))
			return -EBADMSG;
		out->kind = FP_NFQ_ERROR;
		out->error = (int)load32(buf + NLMSG_HDRLEN);
		out->sequence = header.nlmsg_seq;
	} else if (header.nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET)) {
		if (end < HEADER)
			return -EBADMSG;
		out->kind = FP_NFQ_PACKET;
		for (at = HEADER; end - at >= ATTR_HEADER;) {
			size_t attr_len = load16(buf + at);

			if (attr_len < ATTR_HEADER || attr_len > end - at)
				return -EBADMSG;
			parse_attribute(load16(buf + at + 2) & ATTR_TYPE_MASK, buf + at + ATTR_HEADER,
					attr_len - ATTR_HEADER, out);
			attr_len = NLMSG_ALIGN(attr_len);
			if (attr_len >= end - at)
				break;
			at += attr_len;
		}
		if (!out->has_id)
			return -EBADMSG;
	}
	if (cut)
		return -EBADMSG;
	end = NLMSG_ALIGN(end);
	return (ssize_t)(end < len ? end : len);
}

/* ---- verdicts -------------------------------------------------------------------------------- */

static void put_attribute(uint8_t *at, uint16_t type, const void *value, size_t len)
{
	uint16_t attr_len = (uint16_t)(ATTR_HEADER + len);

	memcpy(at, &attr_len, sizeof(attr_len));
	memcpy(at + 2, &type, sizeof(type));
	memcpy(at + ATTR_HEADER, value, len);
}

static void put_header(uint8_t *at, size_t len, uint8_t message, uint16_t flags, uint16_t queue)
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

void fp_nfq_verdict_add(struct fp_nfq_verdicts *verdicts, uint32_t id, uint32_t verdict, bool set_mark, uint32_t mark)
{
	const struct nfqnl_msg_verdict_hdr hdr = { .verdict = htonl(verdict), .id = htonl(id) };
	uint8_t *at = verdicts->buf + verdicts->length;
	uint32_t len = set_mark ? FP_NFQ_VERDICT_SIZE : FP_NFQ_VERDICT_SIZE - 8;

	put_header(at, len, NFQNL_MSG_VERDICT, 0, verdicts->queue);
	put_attribute(at + HEADER, NFQA_VERDICT_HDR, &hdr, sizeof(hdr));
	if (set_mark) {
		mark = htonl(mark);
		put_attribute(at + HEADER + ATTR_HEADER + sizeof(hdr), NFQA_MARK, &mark, sizeof(mark));
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

/* ---- set-up ---------------------------------------------------------------------------------- */

/* A packet that came before the queue was fully configured goes through its hook once more. */
static void send_back(int fd, uint16_t queue, uint32_t id)
{
	struct fp_nfq_verdicts verdicts = { .queue = queue };

	fp_nfq_verdict_add(&verdicts, id, NF_REPEAT_VERDICT, false, 0);
	(void)fp_nfq_verdict_send(fd, &verdicts);
}

/* Sends one request and waits for its answer. */
static int request(int fd, uint16_t queue, const uint8_t *message, size_t len)
{
	uint8_t buf[4096];
	struct fp_nfq_message answer;

	if (send(fd, message, len, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t got = recv(fd, buf, sizeof(buf), 0);
		size_t at = 0;

		if (got < 0) {
			if (errno == EINTR || errno == ENOBUFS)
				continue;
			return -errno;
		}
		while (at < (size_t)got) {
			ssize_t took = fp_nfq_parse(buf + at, (size_t)got - at, &answer);

			if (answer.kind == FP_NFQ_PACKET && answer.has_id)
				send_back(fd, queue, answer.id);
			if (took < 0)
				break;
			if (answer.kind == FP_NFQ_ERROR && answer.error != -ENOENT)
				return answer.error;
			at += (size_t)took;
		}
	}
}

static size_t add_attribute(uint8_t *message, size_t at, uint16_t type, const void *value, size_t len)
{
	put_attribute(message + at, type, value, len);
	return at + NLMSG_ALIGN(ATTR_HEADER + len);
}

/* PF_BIND does nothing in kernels since 3.8, but tells whether we may: a queue of somebody else is EPERM, too. */
static int may_configure(int fd)
{
	const struct nfqnl_msg_config_cmd cmd = { .command = NFQNL_CFG_CMD_PF_BIND, .pf = htons(AF_INET) };
	uint8_t message[64] = { 0 };
	size_t len = add_attribute(message, HEADER, NFQA_CFG_CMD, &cmd, sizeof(cmd));
	int err;

	put_header(message, len, NFQNL_MSG_CONFIG, NLM_F_ACK, 0);
	err = request(fd, 0, message, len);
	return err == -EINVAL ? -EOPNOTSUPP : err; /* EINVAL: no such subsystem */
}

/* One message, so that packets meet the queue either unbound or nearly complete. Returns its length. */
static size_t queue_message(uint8_t message[128], uint16_t queue, const struct fp_nfq_options *options, uint32_t flags,
			    bool bind_it, uint16_t ack)
{
	const struct nfqnl_msg_config_cmd cmd = { .command = NFQNL_CFG_CMD_BIND };
	const struct nfqnl_msg_config_params params = { .copy_range = htonl(options->copy_range),
							.copy_mode = NFQNL_COPY_PACKET };
	const uint32_t maxlen = htonl(options->queue_length);
	/* A queue that is taken over loses the flags that it had and that are not wanted any more. */
	const uint32_t mask = htonl(bind_it ? flags : NFQA_CFG_F_GSO | NFQA_CFG_F_FAIL_OPEN);
	const uint32_t value = htonl(flags);
	size_t len = HEADER;

	memset(message, 0, 128);
	if (bind_it)
		len = add_attribute(message, len, NFQA_CFG_CMD, &cmd, sizeof(cmd));
	len = add_attribute(message, len, NFQA_CFG_PARAMS, &params, sizeof(params));
	len = add_attribute(message, len, NFQA_CFG_QUEUE_MAXLEN, &maxlen, sizeof(maxlen));
	if (mask) {
		len = add_attribute(message, len, NFQA_CFG_MASK, &mask, sizeof(mask));
		len = add_attribute(message, len, NFQA_CFG_FLAGS, &value, sizeof(value));
	}
	put_header(message, len, NFQNL_MSG_CONFIG, ack, queue);
	return len;
}

static int bind_queue(int fd, uint16_t queue, const struct fp_nfq_options *options, uint32_t flags)
{
	uint8_t message[128];
	size_t len = queue_message(message, queue, options, flags, true, NLM_F_ACK);
	int err = request(fd, queue, message, len);

	return err == -EPERM ? -EBUSY : err; /* may_configure() has excluded the other meaning */
}

static int set_receive_buffer(int fd, uint32_t bytes)
{
	const int buffer = bytes > INT32_MAX ? INT32_MAX : (int)bytes;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)) < 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)) < 0)
		return -errno;
	return 0;
}

/* Without this a socket that was full once stays shut until it has been emptied to the last message: a worker that
 * stood still for a moment would lose all that arrives while it catches up. What is lost shows as a gap in the ids. */
static void stay_open_when_full(int fd)
{
	const int on = 1;

	(void)setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof(on));
}

static uint32_t queue_flags(const struct fp_nfq_options *options)
{
	return (options->gso ? NFQA_CFG_F_GSO : 0u) | (options->fail_open ? NFQA_CFG_F_FAIL_OPEN : 0u);
}

static int configure(int fd, uint16_t queue, const struct fp_nfq_options *options)
{
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	const struct timeval patience = { .tv_sec = 5 };
	const struct timeval forever = { 0 };
	const int on = 1;
	uint32_t flags = queue_flags(options) | NFQA_CFG_F_UID_GID;
	int err;

	if (bind(fd, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0 ||
	    connect(fd, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return -errno;
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on)); /* short error messages */
	stay_open_when_full(fd);
	err = may_configure(fd);
	if (err)
		return err;
	err = set_receive_buffer(fd, options->receive_buffer);
	if (err)
		return err;
	err = bind_queue(fd, queue, options, flags);
	if (err == -EOPNOTSUPP) /* a kernel that cannot name the owner of a socket */
		err = bind_queue(fd, queue, options, flags & ~(uint32_t)NFQA_CFG_F_UID_GID);
	if (err)
		return err;
	return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever)) < 0 ? -errno : 0;
}

int fp_nfq_open(uint16_t queue, const struct fp_nfq_options *options)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	int err;

	if (fd < 0)
		return -errno;
	err = configure(fd, queue, options);
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int fp_nfq_adopt(int fd, uint16_t queue, const struct fp_nfq_options *options)
{
	const struct timeval forever = { 0 };
	socklen_t size = sizeof(int);
	uint8_t message[128];
	int domain = 0, protocol = 0, err;
	size_t len;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) < 0)
		return -errno;
	if (domain != AF_NETLINK || protocol != NETLINK_NETFILTER)
		return -ENOTSOCK;
	err = set_receive_buffer(fd, options->receive_buffer);
	if (err)
		return err;
	stay_open_when_full(fd);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever)) < 0)
		return -errno;
	len = queue_message(message, queue, options, queue_flags(options), false, 0);
	return send(fd, message, len, 0) < 0 ? -errno : 0;
}

/* ---- leftovers ------------------------------------------------------------------------------- */

static size_t leftover_message(uint8_t *at, uint8_t type, uint16_t queue, uint32_t id, uint32_t verdict)
{
	const struct nfqnl_msg_verdict_hdr hdr = { .verdict = htonl(verdict), .id = htonl(id) };
	const uint32_t sequence = FP_NFQ_LEFTOVER;
	const size_t len = FP_NFQ_VERDICT_SIZE - 8;

	put_header(at, len, type, NLM_F_ACK, queue);
	memcpy(at + offsetof(struct nlmsghdr, nlmsg_seq), &sequence, sizeof(sequence));
	put_attribute(at + HEADER, NFQA_VERDICT_HDR, &hdr, sizeof(hdr));
	return len;
}

int fp_nfq_answer_leftovers(int fd, uint16_t queue, uint32_t last, uint32_t verdict)
{
	uint8_t buf[(FP_NFQ_BATCH + 1) * FP_NFQ_VERDICT_SIZE];
	uint32_t first = last < FP_NFQ_BATCH ? 1 : last - FP_NFQ_BATCH + 1;
	size_t len = 0;

	if (first > 1) /* the oldest first */
		len += leftover_message(buf, NFQNL_MSG_VERDICT_BATCH, queue, first - 1, verdict);
	for (uint32_t id = first; id <= last && id; id++)
		len += leftover_message(buf + len, NFQNL_MSG_VERDICT, queue, id, verdict);
	return !len || send(fd, buf, len, 0) >= 0 ? 0 : -errno;
}
