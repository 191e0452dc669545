/* SPDX-License-Identifier: Apache-2.0 */
/* The sockets of queues: made, adopted, and what a predecessor has left in them. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <stddef.h>
#include <unistd.h>

#include "fp_nfq.h"
#include "fp_nfq_put.h"

#define NF_REPEAT_VERDICT 4u

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
			if (took >= 0 && answer.kind == FP_NFQ_ERROR && answer.error != -ENOENT)
				return answer.error;
			if (!answer.size)
				break;
			at += answer.size;
		}
	}
}

static size_t add_attribute(uint8_t *message, size_t at, uint16_t type, const void *value, size_t len)
{
	fp_nfq_put_attribute(message + at, type, value, len);
	return at + NLMSG_ALIGN(FP_NFQ_ATTR_HEADER + len);
}

/* PF_BIND does nothing in kernels since 3.8, but tells whether we may: a queue of somebody else is EPERM, too. */
static int may_configure(int fd)
{
	const struct nfqnl_msg_config_cmd cmd = { .command = NFQNL_CFG_CMD_PF_BIND, .pf = htons(AF_INET) };
	uint8_t message[64] = { 0 };
	size_t len = add_attribute(message, FP_NFQ_HEADER, NFQA_CFG_CMD, &cmd, sizeof(cmd));
	int err;

	fp_nfq_put_header(message, len, NFQNL_MSG_CONFIG, NLM_F_ACK, 0);
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
	size_t len = FP_NFQ_HEADER;

	memset(message, 0, 128);
	if (bind_it)
		len = add_attribute(message, len, NFQA_CFG_CMD, &cmd, sizeof(cmd));
	len = add_attribute(message, len, NFQA_CFG_PARAMS, &params, sizeof(params));
	len = add_attribute(message, len, NFQA_CFG_QUEUE_MAXLEN, &maxlen, sizeof(maxlen));
	if (mask) {
		len = add_attribute(message, len, NFQA_CFG_MASK, &mask, sizeof(mask));
		len = add_attribute(message, len, NFQA_CFG_FLAGS, &value, sizeof(value));
	}
	fp_nfq_put_header(message, len, NFQNL_MSG_CONFIG, ack, queue);
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

	fp_nfq_put_header(at, len, type, NLM_F_ACK, queue);
	memcpy(at + offsetof(struct nlmsghdr, nlmsg_seq), &sequence, sizeof(sequence));
	fp_nfq_put_attribute(at + FP_NFQ_HEADER, NFQA_VERDICT_HDR, &hdr, sizeof(hdr));
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
