/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_reader.h"

#include <netinet/in.h> /* before the kernel's own, which gives way to it */
#include <linux/netfilter.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fp_nfq_put.h"
#include "fp_packet.h"

struct fp_reader {
	int fd;
	bool gso;
	uint32_t next_id;
	struct fp_nfq_verdicts verdicts;
	struct fp_reader_counters counters;
	/* datagrams that were received and not looked at yet: [at, n), the first of them from byte `offset` on */
	unsigned int at, n;
	size_t offset;
	struct mmsghdr messages[FP_NFQ_BATCH];
	struct iovec vectors[FP_NFQ_BATCH];
	uint8_t *slots;
};

/* ---- life ------------------------------------------------------------------------------------ */

int fp_reader_open_socket(const struct fp_reader_config *config, int fd, struct fp_reader **out)
{
	struct fp_reader *reader = calloc(1, sizeof(*reader));
	/* An odd number of lines, as a worker's. */
	size_t slot = ((config->copy_range + FP_NFQ_HEADROOM) / 64u | 1u) * 64u + 128u;

	if (!reader || !(reader->slots = aligned_alloc(64, FP_NFQ_BATCH * slot))) {
		free(reader);
		close(fd);
		return -ENOMEM;
	}
	reader->fd = fd;
	reader->gso = config->gso;
	reader->verdicts.queue = config->queue;
	for (unsigned int i = 0; i < FP_NFQ_BATCH; i++) {
		reader->vectors[i] = (struct iovec){ reader->slots + i * slot, slot };
		reader->messages[i].msg_hdr.msg_iov = &reader->vectors[i];
		reader->messages[i].msg_hdr.msg_iovlen = 1;
	}
	*out = reader;
	return 0;
}

int fp_reader_open(const struct fp_reader_config *config, struct fp_reader **out)
{
	const struct fp_nfq_options options = {
		.queue_length = config->queue_length,
		.copy_range = config->copy_range,
		.receive_buffer = config->receive_buffer,
		.fail_open = config->fail_open,
		.gso = config->gso,
	};
	int fd;

	if (!config->queue_length || config->queue_length > UINT16_MAX || config->copy_range < 128 ||
	    config->copy_range > UINT16_MAX - FP_NFQ_ATTR_HEADER)
		return -EINVAL;
	fd = fp_nfq_open(config->queue, &options);
	return fd < 0 ? fd : fp_reader_open_socket(config, fd, out);
}

void fp_reader_free(struct fp_reader *reader)
{
	if (!reader)
		return;
	(void)fp_reader_send(reader);
	close(reader->fd);
	free(reader->slots);
	free(reader);
}

int fp_reader_fd(const struct fp_reader *reader)
{
	return reader->fd;
}

void fp_reader_counters(const struct fp_reader *reader, struct fp_reader_counters *out)
{
	*out = reader->counters;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Joined datagrams, as an application may send them with UDP_SEGMENT: whoever read them as one would see the first. */
static bool hides_messages(const struct fp_reader *reader, const struct fp_nfq_message *message)
{
	struct fp_packet packet;

	return reader->gso && message->skb_info & NFQA_SKB_GSO && message->payload &&
	       !fp_packet_parse(message->payload, message->payload_len, message->packet_len, &packet) &&
	       packet.proto != IPPROTO_TCP;
}

/* Whether there is a packet for the caller. */
static bool take_packet(struct fp_reader *reader, const struct fp_nfq_message *message, bool broken,
			struct fp_reader_packet *out)
{
	uint32_t gap = fp_nfq_gap(&reader->next_id, message->id);

	reader->counters.ids_lost += gap;
	reader->counters.overruns += gap != 0;
	if (!broken && hides_messages(reader, message)) {
		broken = fp_reader_again(reader, message->id) < 0;
		if (!broken)
			return false;
	}
	reader->counters.broken += broken;
	*out = (struct fp_reader_packet){
		.payload = broken ? NULL : message->payload,
		.payload_len = broken ? 0 : message->payload_len,
		.id = message->id,
		.mark = message->mark,
		.iif = message->iif,
		.oif = message->oif,
		.hook = message->hook,
		.flags = message->skb_info & NFQA_SKB_GSO ? FP_READER_JOINED : 0,
	};
	return true;
}

/* The next message at hand, or nothing of it that the caller wants. Returns 1 or 0. */
static uint32_t take_message(struct fp_reader *reader, struct fp_reader_packet *out)
{
	const uint8_t *data = (const uint8_t *)reader->vectors[reader->at].iov_base + reader->offset;
	size_t len = reader->messages[reader->at].msg_len - reader->offset;
	struct fp_nfq_message message;
	ssize_t took = fp_nfq_parse(data, len, &message);
	bool found = false;

	reader->counters.netlink_errors += took < 0;
	if (message.kind == FP_NFQ_PACKET && message.has_id)
		found = take_packet(reader, &message, took < 0, out);
	else if (message.kind == FP_NFQ_ERROR && message.error == -ENOENT)
		reader->counters.verdict_errors++;
	else if (message.kind == FP_NFQ_ERROR && message.error)
		reader->counters.netlink_errors++;
	reader->offset += message.size;
	if (!message.size || message.size == len) { /* where would the next one begin? */
		reader->at++;
		reader->offset = 0;
	}
	return found;
}

/* What waits in the socket, into slots that hold nothing of this call. Returns how many, 0: nothing, -errno. */
static int receive(struct fp_reader *reader, unsigned int most)
{
	for (;;) {
		int n = recvmmsg(reader->fd, reader->messages + reader->n, most, MSG_DONTWAIT, NULL);

		if (n >= 0)
			return n;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		if (errno == ENOBUFS) /* no memory for an error message */
			reader->counters.netlink_errors++;
		else if (errno != EINTR)
			return -errno;
	}
}

int fp_reader_read(struct fp_reader *reader, struct fp_reader_packet *out, uint32_t max, int *empty)
{
	uint32_t found = 0;

	*empty = 0;
	if (reader->at == reader->n)
		reader->at = reader->n = 0;
	while (found < max) {
		unsigned int room = FP_NFQ_BATCH - reader->n;
		int n;

		if (reader->at < reader->n) {
			found += take_message(reader, out + found);
			continue;
		}
		if (!room)
			break;
		n = receive(reader, room < max - found ? room : max - found);
		if (n < 0)
			return n;
		*empty = n == 0;
		if (!n)
			break;
		reader->n += (unsigned int)n;
	}
	return (int)found;
}

/* ---- answering ------------------------------------------------------------------------------- */

int fp_reader_send(struct fp_reader *reader)
{
	uint32_t count = reader->verdicts.count;
	int err = fp_nfq_verdict_send(reader->fd, &reader->verdicts);

	if (err)
		reader->counters.verdict_errors += count;
	return err;
}

int fp_reader_answer(struct fp_reader *reader, uint32_t id, int accept, uint32_t mark)
{
	fp_nfq_verdict_add(&reader->verdicts, id, accept ? NF_ACCEPT : NF_DROP, true, mark);
	return reader->verdicts.count == FP_NFQ_BATCH ? fp_reader_send(reader) : 0;
}

int fp_reader_accept_if_empty(struct fp_reader *reader, const uint32_t *ids, const uint32_t *marks, uint32_t n)
{
	int waiting, err = n <= FP_NFQ_BATCH ? fp_reader_send(reader) : -EINVAL;

	if (err || reader->at < reader->n)
		return err;
	for (uint32_t i = 0; i < n; i++)
		fp_nfq_verdict_add(&reader->verdicts, ids[i], NF_ACCEPT, true, marks[i]);
	reader->at = reader->n = 0;
	waiting = receive(reader, 1);
	if (waiting) {
		reader->verdicts.count = reader->verdicts.length = 0;
		if (waiting < 0)
			return waiting;
		reader->n = 1;
		return 0;
	}
	err = fp_reader_send(reader);
	return err ? err : 1;
}

/* One message by itself, behind the answers that were given before it. */
static int send_alone(struct fp_reader *reader, struct iovec *parts, size_t n)
{
	const struct msghdr message = { .msg_iov = parts, .msg_iovlen = n };
	int err = fp_reader_send(reader);

	if (err)
		return err;
	for (unsigned int attempt = 0; attempt < 16; attempt++) {
		if (sendmsg(reader->fd, &message, 0) >= 0)
			return 0;
		if (errno != EINTR && errno != ENOBUFS && errno != EAGAIN)
			break;
	}
	reader->counters.verdict_errors++;
	return -errno;
}

int fp_reader_answer_with(struct fp_reader *reader, uint32_t id, uint32_t mark, const uint8_t *payload, uint32_t len)
{
	struct fp_nfq_verdicts verdict = { .queue = reader->verdicts.queue };
	uint16_t attribute[2] = { (uint16_t)(FP_NFQ_ATTR_HEADER + len), NFQA_PAYLOAD };
	struct iovec parts[3] = { { verdict.buf, 0 }, { attribute, sizeof(attribute) }, { (void *)(uintptr_t)payload, len } };
	uint32_t total;

	if (len > UINT16_MAX - FP_NFQ_ATTR_HEADER)
		return -EMSGSIZE;
	fp_nfq_verdict_add(&verdict, id, NF_ACCEPT, true, mark);
	parts[0].iov_len = verdict.length;
	total = verdict.length + FP_NFQ_ATTR_HEADER + len;
	memcpy(verdict.buf, &total, sizeof(total)); /* nlmsg_len */
	return send_alone(reader, parts, 3);
}

#define FLAGS_SIZE (FP_NFQ_HEADER + 2 * (FP_NFQ_ATTR_HEADER + 4u))

static void put_gso(uint8_t at[FLAGS_SIZE], uint16_t queue, bool on)
{
	const uint32_t mask = htonl(NFQA_CFG_F_GSO), flags = on ? mask : 0;

	fp_nfq_put_header(at, FLAGS_SIZE, NFQNL_MSG_CONFIG, 0, queue);
	fp_nfq_put_attribute(at + FP_NFQ_HEADER, NFQA_CFG_MASK, &mask, sizeof(mask));
	fp_nfq_put_attribute(at + FP_NFQ_HEADER + FP_NFQ_ATTR_HEADER + 4, NFQA_CFG_FLAGS, &flags, sizeof(flags));
}

/* The kernel segments what it queues where NFQA_CFG_F_GSO is off: for the one packet, it is. The three messages are
 * carried out one after the other within the send. */
int fp_reader_again(struct fp_reader *reader, uint32_t id)
{
	const uint16_t queue = reader->verdicts.queue;
	struct fp_nfq_verdicts verdict = { .queue = queue };
	uint8_t off[FLAGS_SIZE], on[FLAGS_SIZE];
	struct iovec parts[3] = { { off, sizeof(off) }, { verdict.buf, 0 }, { on, sizeof(on) } };

	put_gso(off, queue, false);
	fp_nfq_verdict_add(&verdict, id, NF_QUEUE_NR(queue), false, 0);
	parts[1].iov_len = verdict.length;
	put_gso(on, queue, reader->gso);
	reader->counters.again++;
	return send_alone(reader, parts, 3);
}
