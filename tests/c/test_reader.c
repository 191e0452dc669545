/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of whole packets: the test is the kernel at the other end of a socket pair. */
#include "fp_reader.h"

#include <netinet/in.h> /* before the kernel's own, which gives way to it */
#include <linux/netfilter.h>
#include <errno.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "netlink_message.h"

#define QUEUE 64
#define WHOLE 65531u
#define SPACE 70000u

static const struct fp_reader_config config = {
	.queue_length = 1024, .receive_buffer = 1 << 20, .copy_range = WHOLE, .queue = QUEUE, .gso = 1,
};
static struct fp_reader *reader;
static struct fp_reader_packet packets[128];
static int kernel;

static void open_reader(void)
{
	int ends[2];

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends));
	kernel = ends[1];
	CHECK(!fp_reader_open_socket(&config, ends[0], &reader));
	CHECK(fp_reader_fd(reader) == ends[0]);
}

static void close_reader(void)
{
	fp_reader_free(reader);
	close(kernel);
}

static struct fp_reader_counters counters(void)
{
	struct fp_reader_counters out;

	fp_reader_counters(reader, &out);
	return out;
}

/* An IPv4 packet of `len` bytes in a message, as the kernel queues it. */
static size_t packet_message(uint8_t *out, uint32_t id, uint8_t proto, size_t len, uint32_t skb_info)
{
	static uint8_t packet[SPACE];
	const uint16_t attr[2] = { (uint16_t)(4 + len), NFQA_PAYLOAD };
	struct message m;
	uint32_t total;

	memset(packet, (int)(id & 0xff), len);
	memset(packet, 0, 40);
	packet[0] = 0x45;
	packet[2] = (uint8_t)(len >> 8);
	packet[3] = (uint8_t)len;
	packet[9] = proto;
	packet[24] = (uint8_t)((len - 20) >> 8); /* UDP's length, or a sequence number */
	packet[25] = (uint8_t)(len - 20);
	packet[32] = 5 << 4;
	message_packet(&m, id, 2);
	message_u32(&m, NFQA_MARK, 0x14000abc);
	message_u32(&m, NFQA_IFINDEX_INDEV, 5);
	message_u32(&m, NFQA_IFINDEX_OUTDEV, 6);
	if (skb_info)
		message_u32(&m, NFQA_SKB_INFO, skb_info);
	memcpy(out, m.data, m.len);
	memcpy(out + m.len, attr, 4);
	memcpy(out + m.len + 4, packet, len);
	total = (uint32_t)(m.len + 4 + len);
	memcpy(out, &total, 4);
	return NLMSG_ALIGN(total);
}

static void send_packet(uint32_t id, uint8_t proto, size_t len, uint32_t skb_info)
{
	static uint8_t data[SPACE];
	size_t size = packet_message(data, id, proto, len, skb_info);

	CHECK(send(kernel, data, size, 0) == (ssize_t)size);
}

static int read_packets(uint32_t max, int *empty)
{
	return fp_reader_read(reader, packets, max, empty);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void packets_of_every_size_come_whole_and_in_order(void)
{
	static const uint32_t sizes[] = { 40, 1500, 4016, 4017, 9000, WHOLE };
	int empty;

	open_reader();
	for (uint32_t i = 0; i < 6; i++)
		send_packet(i + 1, 6, sizes[i], i == 5 ? NFQA_SKB_GSO | NFQA_SKB_CSUMNOTREADY : 0);
	CHECK(read_packets(64, &empty) == 6 && empty);
	for (uint32_t i = 0; i < 6; i++) {
		const struct fp_reader_packet *p = &packets[i];

		CHECK(p->id == i + 1 && p->payload_len == sizes[i] && p->mark == 0x14000abc);
		CHECK(p->hook == 2 && p->iif == 5 && p->oif == 6 && p->flags == (i == 5 ? FP_READER_JOINED : 0));
		CHECK(p->payload && p->payload[0] == 0x45 && (sizes[i] <= 40 || p->payload[sizes[i] - 1] == i + 1));
	}
	CHECK(read_packets(64, &empty) == 0 && empty);
	close_reader();
}

static void a_batch_ends_where_the_caller_says(void)
{
	int empty;

	open_reader();
	for (uint32_t id = 1; id <= 5; id++)
		send_packet(id, 6, 60, 0);
	CHECK(read_packets(2, &empty) == 2 && !empty && packets[0].id == 1);
	CHECK(read_packets(2, &empty) == 2 && !empty && packets[0].id == 3);
	CHECK(read_packets(2, &empty) == 1 && empty && packets[0].id == 5);
	close_reader();
}

/* Whatever the kernel may one day put into one datagram: the rest is kept, and is not "empty". */
static void messages_of_one_datagram_are_read_one_by_one(void)
{
	uint8_t data[4096];
	size_t at = 0;
	int empty;

	open_reader();
	for (uint32_t id = 1; id <= 5; id++)
		at += packet_message(data + at, id, 6, 60, 0);
	CHECK(send(kernel, data, at, 0) == (ssize_t)at);
	CHECK(read_packets(2, &empty) == 2 && !empty && packets[1].id == 2);
	CHECK(read_packets(2, &empty) == 2 && !empty && packets[1].id == 4 && packets[1].payload_len == 60);
	CHECK(read_packets(64, &empty) == 1 && empty && packets[0].id == 5);
	close_reader();
}

static void what_makes_no_sense_is_counted_and_hides_nothing(void)
{
	const uint16_t lie = 0xfff0;
	uint8_t data[4096];
	struct message m;
	size_t size, at;
	int empty;

	open_reader();
	CHECK(send(kernel, data, 0, 0) == 0);
	CHECK(send(kernel, "short", 5, 0) == 5);
	message_error(&m, -ENOENT); /* of a packet that was gone */
	CHECK(send(kernel, m.data, m.len, 0) == (ssize_t)m.len);
	message_error(&m, -EPERM);
	CHECK(send(kernel, m.data, m.len, 0) == (ssize_t)m.len);
	message_error(&m, 0);
	CHECK(send(kernel, m.data, m.len, 0) == (ssize_t)m.len);
	size = packet_message(data, 1, 6, 60, 0);
	memcpy(data + 32, &lie, 2); /* the attribute behind the packet's number */
	at = size;
	at += packet_message(data + at, 2, 6, 60, 0);
	CHECK(send(kernel, data, at, 0) == (ssize_t)at);
	size = packet_message(data, 3, 6, 60, 0);
	CHECK(send(kernel, data, size - 30, 0) == (ssize_t)size - 30); /* cut */
	message_packet(&m, 4, 2); /* no payload, and attributes of the future */
	message_attribute(&m, 77, "unknown", 7);
	message_attribute(&m, 0x3fff, NULL, 0);
	message_finish(&m);
	CHECK(send(kernel, m.data, m.len, 0) == (ssize_t)m.len);
	CHECK(read_packets(64, &empty) == 4 && empty);
	for (uint32_t i = 0; i < 4; i++) {
		CHECK(packets[i].id == i + 1);
		CHECK(i == 1 ? packets[i].payload_len == 60 : !packets[i].payload_len && !packets[i].payload);
	}
	CHECK(counters().broken == 2 && counters().verdict_errors == 1 && counters().netlink_errors == 5);
	CHECK(counters().ids_lost == 0);
	close_reader();
}

static void packets_that_never_came_are_counted(void)
{
	int empty;

	open_reader();
	send_packet(3, 6, 60, 0);
	send_packet(4, 6, 60, 0);
	send_packet(10, 6, 60, 0);
	CHECK(read_packets(64, &empty) == 3);
	CHECK(counters().ids_lost == 7 && counters().overruns == 2);
	close_reader();
}

/* ---- answers --------------------------------------------------------------------------------- */

static uint32_t word(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, 4);
	return value;
}

static ssize_t sent(uint8_t buf[SPACE])
{
	ssize_t got = recv(kernel, buf, SPACE, MSG_DONTWAIT);

	return got < 0 ? -errno : got;
}

static void answers_are_joined_in_their_order(void)
{
	static uint8_t buf[SPACE];

	open_reader();
	CHECK(!fp_reader_answer(reader, 9, 1, 0x15000abc));
	CHECK(!fp_reader_answer(reader, 7, 0, 0));
	CHECK(sent(buf) == -EAGAIN);
	CHECK(!fp_reader_send(reader) && !fp_reader_send(reader));
	CHECK(sent(buf) == 80 && sent(buf) == -EAGAIN);
	CHECK(ntohl(word(buf + 28)) == 9 && ntohl(word(buf + 24)) == NF_ACCEPT && ntohl(word(buf + 36)) == 0x15000abc);
	CHECK(ntohl(word(buf + 68)) == 7 && ntohl(word(buf + 64)) == NF_DROP);
	for (uint32_t id = 1; id <= 65; id++)
		CHECK(!fp_reader_answer(reader, id, 1, 0));
	CHECK(sent(buf) == 64 * 40 && sent(buf) == -EAGAIN);
	fp_reader_free(reader); /* sends what is left */
	CHECK(sent(buf) == 40);
	close(kernel);
}

static void fates_are_told_only_to_an_empty_queue(void)
{
	static const uint32_t ids[] = { 7, 8 }, marks[] = { 0x15000abc, 0x16000000 };
	static uint8_t buf[SPACE], two[4096];
	size_t at = packet_message(two, 12, 6, 60, 0);
	uint32_t many[65] = { 0 };
	int empty;

	open_reader();
	CHECK(!fp_reader_answer(reader, 6, 0, 0));
	send_packet(9, 6, 60, 0);
	send_packet(10, 6, 61, 0);
	CHECK(fp_reader_accept_if_empty(reader, ids, marks, 2) == 0);
	CHECK(sent(buf) == 40 && ntohl(word(buf + 28)) == 6 && sent(buf) == -EAGAIN); /* what was answered before */
	CHECK(fp_reader_accept_if_empty(reader, ids, marks, 2) == 0); /* the first one is still to be read */
	CHECK(read_packets(64, &empty) == 2 && empty && packets[0].id == 9 && packets[1].payload_len == 61);
	CHECK(!fp_reader_send(reader) && sent(buf) == -EAGAIN);
	CHECK(fp_reader_accept_if_empty(reader, ids, marks, 2) == 1);
	CHECK(sent(buf) == 80 && ntohl(word(buf + 28)) == 7 && ntohl(word(buf + 36)) == 0x15000abc);
	CHECK(ntohl(word(buf + 68)) == 8 && ntohl(word(buf + 64)) == NF_ACCEPT && ntohl(word(buf + 76)) == 0x16000000);

	send_packet(11, 6, 60, 0);
	at += packet_message(two + at, 13, 6, 60, 0);
	CHECK(send(kernel, two, at, 0) == (ssize_t)at); /* the rest of a datagram waits, too */
	CHECK(read_packets(2, &empty) == 2 && packets[1].id == 12);
	CHECK(fp_reader_accept_if_empty(reader, ids, marks, 2) == 0);
	CHECK(read_packets(2, &empty) == 1 && packets[0].id == 13);
	CHECK(fp_reader_accept_if_empty(reader, many, many, 65) == -EINVAL && sent(buf) == -EAGAIN);
	CHECK(fp_reader_accept_if_empty(reader, many, many, 64) == 1 && sent(buf) == 64 * 40);
	CHECK(!shutdown(kernel, SHUT_RD));
	CHECK(fp_reader_accept_if_empty(reader, ids, marks, 2) < 0 && counters().verdict_errors == 2);
	close_reader();
}

static void an_answer_may_be_another_packet(void)
{
	static uint8_t buf[SPACE], other[WHOLE + 1] = { 0x45, 1, 2, 3 };
	uint16_t attr[2];

	open_reader();
	CHECK(!fp_reader_answer(reader, 1, 1, 0));
	CHECK(!fp_reader_answer_with(reader, 2, 0x97000000, other, 40));
	CHECK(sent(buf) == 40 && ntohl(word(buf + 28)) == 1);
	CHECK(sent(buf) == 40 + 4 + 40 && word(buf) == 84);
	CHECK(ntohl(word(buf + 28)) == 2 && ntohl(word(buf + 36)) == 0x97000000);
	memcpy(attr, buf + 40, 4);
	CHECK(attr[0] == 44 && attr[1] == NFQA_PAYLOAD && !memcmp(buf + 44, other, 40));
	CHECK(fp_reader_answer_with(reader, 3, 0, other, WHOLE + 1) == -EMSGSIZE);
	CHECK(sent(buf) == -EAGAIN);
	close_reader();
}

/* GSO off, to the same queue, GSO on: in this order, and in one send. */
static void check_again(const uint8_t *buf, ssize_t got, uint32_t id)
{
	CHECK(got == 36 + 32 + 36);
	for (uint32_t i = 0; i < 2; i++) {
		const uint8_t *at = buf + i * (36 + 32);

		CHECK((at[4] | at[5] << 8) == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG) && at[19] == QUEUE);
		CHECK(at[22] == NFQA_CFG_MASK && ntohl(word(at + 24)) == NFQA_CFG_F_GSO);
		CHECK(at[30] == NFQA_CFG_FLAGS && ntohl(word(at + 32)) == (i ? NFQA_CFG_F_GSO : 0));
	}
	CHECK(ntohl(word(buf + 36 + 24)) == NF_QUEUE_NR(QUEUE) && ntohl(word(buf + 36 + 28)) == id);
	CHECK(word(buf + 36) == 32); /* the mark stays what it is */
}

static void a_joined_packet_comes_again_in_segments(void)
{
	static uint8_t buf[SPACE];

	open_reader();
	CHECK(!fp_reader_answer(reader, 1, 1, 0));
	CHECK(!fp_reader_again(reader, 2));
	CHECK(sent(buf) == 40);
	check_again(buf, sent(buf), 2);
	CHECK(counters().again == 1);
	close_reader();
}

static void joined_messages_are_never_seen_as_one(void)
{
	static uint8_t buf[SPACE];
	int empty;

	open_reader();
	send_packet(1, 17, 3000, NFQA_SKB_GSO);
	send_packet(2, 17, 3000, 0); /* one long datagram */
	send_packet(3, 132, 3000, NFQA_SKB_GSO);
	send_packet(4, 6, 3000, NFQA_SKB_GSO);
	CHECK(read_packets(64, &empty) == 2 && empty);
	CHECK(packets[0].id == 2 && packets[1].id == 4 && packets[1].flags == FP_READER_JOINED);
	check_again(buf, sent(buf), 1);
	check_again(buf, sent(buf), 3);
	CHECK(counters().again == 2 && !counters().broken);
	close_reader();
}

static void a_kernel_that_is_gone_is_no_silence(void)
{
	int empty;

	open_reader();
	send_packet(1, 17, 3000, NFQA_SKB_GSO);
	CHECK(!shutdown(kernel, SHUT_RD));
	CHECK(read_packets(64, &empty) == 1 && packets[0].id == 1 && !packets[0].payload); /* not as one message */
	CHECK(fp_reader_answer(reader, 1, 1, 0) == 0 && fp_reader_send(reader) < 0);
	CHECK(fp_reader_answer_with(reader, 1, 0, (const uint8_t *)"x", 1) < 0);
	CHECK(counters().verdict_errors == 3);
	close_reader();
}

static void sizes_out_of_range_are_refused(void)
{
	struct fp_reader_config bad = config;

	bad.copy_range = WHOLE + 1;
	CHECK(fp_reader_open(&bad, &reader) == -EINVAL);
	bad.copy_range = 127;
	CHECK(fp_reader_open(&bad, &reader) == -EINVAL);
	bad = config;
	bad.queue_length = 0;
	CHECK(fp_reader_open(&bad, &reader) == -EINVAL);
	bad.queue_length = 65536;
	CHECK(fp_reader_open(&bad, &reader) == -EINVAL);
	fp_reader_free(NULL);
}

int main(void)
{
	RUN(packets_of_every_size_come_whole_and_in_order);
	RUN(a_batch_ends_where_the_caller_says);
	RUN(messages_of_one_datagram_are_read_one_by_one);
	RUN(what_makes_no_sense_is_counted_and_hides_nothing);
	RUN(packets_that_never_came_are_counted);
	RUN(answers_are_joined_in_their_order);
	RUN(fates_are_told_only_to_an_empty_queue);
	RUN(an_answer_may_be_another_packet);
	RUN(a_joined_packet_comes_again_in_segments);
	RUN(joined_messages_are_never_seen_as_one);
	RUN(a_kernel_that_is_gone_is_no_silence);
	RUN(sizes_out_of_range_are_refused);
	return check_result();
}
