/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_nfq.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "netlink_message.h"

static void packet_with_everything_is_read(void)
{
	static const uint8_t payload[] = "0123456789";
	struct fp_nfq_message out;
	struct message m;

	message_packet(&m, 7, 3);
	message_u32(&m, NFQA_MARK, 0xa1b2c3d4);
	message_u32(&m, NFQA_IFINDEX_INDEV, 11);
	message_u32(&m, NFQA_IFINDEX_OUTDEV, 12);
	message_u32(&m, NFQA_IFINDEX_PHYSINDEV, 13);
	message_u32(&m, NFQA_IFINDEX_PHYSOUTDEV, 14);
	message_u32(&m, NFQA_SKB_INFO, NFQA_SKB_GSO);
	message_u32(&m, NFQA_UID, 1000);
	message_u32(&m, NFQA_CAP_LEN, 60000);
	message_attribute(&m, NFQA_PAYLOAD, payload, 10);
	message_finish(&m);
	CHECK(fp_nfq_parse(m.data, m.len, &out) == (ssize_t)m.len);
	CHECK(out.kind == FP_NFQ_PACKET && out.has_id);
	CHECK(out.id == 7 && out.hook == 3 && out.hw_protocol == 0x0800);
	CHECK(out.mark == 0xa1b2c3d4 && out.iif == 11 && out.oif == 12 && out.phys_iif == 13 && out.phys_oif == 14);
	CHECK(out.skb_info == NFQA_SKB_GSO && out.uid == 1000);
	CHECK(out.payload_len == 10 && out.packet_len == 60000 && !memcmp(out.payload, payload, 10));
}

static void what_is_not_sent_is_unknown(void)
{
	struct fp_nfq_message out;
	struct message m;

	message_packet(&m, 1, 1);
	message_attribute(&m, NFQA_PAYLOAD, "abcd", 4);
	message_finish(&m);
	CHECK(fp_nfq_parse(m.data, m.len, &out) > 0);
	CHECK(out.uid == UINT32_MAX && !out.iif && !out.mark && out.packet_len == 4);
}

static void attributes_of_newer_kernels_are_stepped_over(void)
{
	struct fp_nfq_message out;
	struct message m;

	message_packet(&m, 9, 2);
	message_attribute(&m, 77, "unknown", 7);
	message_attribute(&m, NFQA_VLAN | NLA_F_NESTED, "xy", 2);
	message_attribute(&m, 0x3fff, NULL, 0);
	message_attribute(&m, NFQA_MARK, "ab", 2); /* shorter than a mark */
	message_u32(&m, NFQA_IFINDEX_INDEV, 4);
	message_finish(&m);
	CHECK(fp_nfq_parse(m.data, m.len, &out) == (ssize_t)m.len);
	CHECK(out.id == 9 && out.iif == 4 && out.mark == 0 && !out.payload);
}

static void lengths_that_lie_are_refused_but_the_packet_is_known(void)
{
	struct fp_nfq_message out;
	struct message m;
	uint16_t lie;

	message_packet(&m, 5, 2);
	message_u32(&m, NFQA_MARK, 1);
	message_finish(&m);
	for (lie = 0; lie < 4; lie++) {
		memcpy(m.data + 32, &lie, 2);
		CHECK(fp_nfq_parse(m.data, m.len, &out) == -EBADMSG);
		CHECK(out.has_id && out.id == 5);
	}
	lie = 9;
	memcpy(m.data + 32, &lie, 2);
	CHECK(fp_nfq_parse(m.data, m.len, &out) == -EBADMSG && out.has_id);
}

/* Every cut of a message, in a block of exactly that size, so that the address sanitizer sees a byte too many. */
static void no_cut_is_read_beyond_its_end(void)
{
	struct fp_nfq_message out;
	struct message m;

	message_packet(&m, 5, 2);
	message_u32(&m, NFQA_MARK, 1);
	message_attribute(&m, NFQA_PAYLOAD, "0123456", 7);
	message_finish(&m);
	for (size_t len = 0; len < m.len; len++) {
		uint8_t *cut = malloc(len ? len : 1);

		memcpy(cut, m.data, len);
		CHECK(fp_nfq_parse(cut, len, &out) == -EBADMSG);
		CHECK(out.has_id == (len >= 31));
		free(cut);
	}
}

static void a_packet_without_its_number_is_refused(void)
{
	struct fp_nfq_message out;
	struct message m;

	message_begin(&m, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET);
	m.len += sizeof(struct nfgenmsg);
	message_u32(&m, NFQA_MARK, 1);
	message_finish(&m);
	CHECK(fp_nfq_parse(m.data, m.len, &out) == -EBADMSG && !out.has_id);
}

static void errors_and_strangers_are_told_apart(void)
{
	struct fp_nfq_message out;
	struct message m;

	message_error(&m, -ENOENT);
	CHECK(fp_nfq_parse(m.data, m.len, &out) == (ssize_t)m.len);
	CHECK(out.kind == FP_NFQ_ERROR && out.error == -ENOENT);
	message_begin(&m, NLMSG_DONE);
	message_finish(&m);
	CHECK(fp_nfq_parse(m.data, m.len, &out) == 16 && out.kind == FP_NFQ_OTHER);
}

/* What is nested is stepped over whole: what lies inside it is nobody's length. */
static void nested_attributes_that_are_cut_or_lie_hide_nothing(void)
{
	static const uint16_t inner[][2] = { { 0, 1 }, { 3, 1 }, { 4, 1 }, { 0xffff, 1 }, { 8, NFQA_PACKET_HDR } };
	struct fp_nfq_message out;

	for (size_t i = 0; i < sizeof(inner) / sizeof(inner[0]); i++) {
		for (size_t len = 0; len <= sizeof(inner[0]); len++) {
			struct message m;

			message_packet(&m, 9, 2);
			message_attribute(&m, NFQA_CT | NLA_F_NESTED, inner[i], len);
			message_attribute(&m, NFQA_VLAN | NLA_F_NESTED | NLA_F_NET_BYTEORDER, inner[i], len);
			message_u32(&m, NFQA_MARK, 7);
			message_finish(&m);
			CHECK(fp_nfq_parse(m.data, m.len, &out) == (ssize_t)m.len);
			CHECK(out.id == 9 && out.hook == 2 && out.mark == 7);
		}
	}
}

static void an_empty_payload_is_a_payload(void)
{
	struct fp_nfq_message out;
	struct message m;

	message_packet(&m, 9, 2);
	message_attribute(&m, NFQA_PAYLOAD, NULL, 0);
	message_finish(&m);
	CHECK(fp_nfq_parse(m.data, m.len, &out) == (ssize_t)m.len);
	CHECK(out.payload == m.data + m.len && out.payload_len == 0 && out.packet_len == 0);
	message_packet(&m, 9, 2); /* cut to nothing of a packet that was longer */
	message_u32(&m, NFQA_CAP_LEN, 40);
	message_attribute(&m, NFQA_PAYLOAD, NULL, 0);
	message_finish(&m);
	CHECK(fp_nfq_parse(m.data, m.len, &out) > 0 && out.payload_len == 0 && out.packet_len == 40);
}

/* Each attribute with each length from nothing to more than it needs. */
static void attributes_of_any_length_are_taken_or_left(void)
{
	static const uint8_t bytes[16] = { 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1 };
	struct fp_nfq_message out;
	struct message m;

	for (uint16_t type = 0; type < 40; type++)
		for (size_t len = 0; len <= sizeof(bytes); len++) {
			message_packet(&m, 5, 3);
			message_attribute(&m, type, bytes, len);
			message_finish(&m);
			CHECK(fp_nfq_parse(m.data, m.len, &out) == (ssize_t)m.len && out.has_id);
			CHECK(out.id == 5 || (type == NFQA_PACKET_HDR && len >= 7 && out.id == 1));
			CHECK((out.mark != 0) == (type == NFQA_MARK && len >= 4));
			CHECK((out.iif != 0) == (type == NFQA_IFINDEX_INDEV && len >= 4));
			CHECK(out.payload_len == (type == NFQA_PAYLOAD ? len : 0));
		}
}

static void append(struct message *all, const struct message *m)
{
	memcpy(all->data + all->len, m->data, m->len);
	all->len += m->len;
}

/* A packet, an error, a broken packet, the end of a dump, a packet: each says where the next begins. */
static void messages_in_one_datagram_are_taken_one_by_one(void)
{
	static const uint8_t kinds[] = { FP_NFQ_PACKET, FP_NFQ_ERROR, FP_NFQ_PACKET, FP_NFQ_OTHER, FP_NFQ_PACKET };
	struct message all = { .len = 0 }, m;
	struct fp_nfq_message out;
	uint16_t lie = 0xfff0;
	size_t at = 0;

	message_packet(&m, 1, 3);
	message_finish(&m);
	append(&all, &m);
	message_error(&m, -ENOENT);
	append(&all, &m);
	message_packet(&m, 2, 3);
	message_u32(&m, NFQA_MARK, 1);
	memcpy(m.data + 32, &lie, 2);
	message_finish(&m);
	append(&all, &m);
	message_begin(&m, NLMSG_DONE);
	message_finish(&m);
	append(&all, &m);
	message_packet(&m, 3, 3);
	message_finish(&m);
	append(&all, &m);
	for (size_t i = 0; i < sizeof(kinds); i++) {
		CHECK((fp_nfq_parse(all.data + at, all.len - at, &out) < 0) == (i == 2));
		CHECK(out.kind == kinds[i] && out.size);
		CHECK(kinds[i] != FP_NFQ_PACKET || (out.has_id && out.id == i / 2 + 1));
		at += out.size;
	}
	CHECK(at == all.len);
}

static void a_length_that_is_more_than_there_is_says_so(void)
{
	static const uint32_t lies[] = { 0, 15, 4096, 0x7fffffff, 0xffffffff };
	struct fp_nfq_message out;
	struct message m;

	message_packet(&m, 5, 2);
	message_finish(&m);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		memcpy(m.data, &lies[i], 4);
		CHECK(fp_nfq_parse(m.data, m.len, &out) == -EBADMSG && !out.size);
		CHECK(out.has_id == (lies[i] > m.len));
	}
}

static void gaps_are_counted_also_before_the_first_and_over_the_wrap(void)
{
	uint32_t next = 0;

	CHECK(fp_nfq_gap(&next, 1) == 0 && next == 2);
	CHECK(fp_nfq_gap(&next, 2) == 0);
	CHECK(fp_nfq_gap(&next, 6) == 3 && next == 7);
	CHECK(fp_nfq_gap(&next, 4) == 0 && next == 7);
	next = 0;
	CHECK(fp_nfq_gap(&next, 4) == 3);
	next = 0xfffffffe;
	CHECK(fp_nfq_gap(&next, 0xfffffffe) == 0);
	CHECK(fp_nfq_gap(&next, 0xffffffff) == 0);
	CHECK(fp_nfq_gap(&next, 2) == 1); /* 0 is nobody's number after 2^32 packets, or the one lost */
}

static void verdicts_travel_in_one_send_in_order(void)
{
	static struct fp_nfq_verdicts verdicts = { .queue = 3 };
	uint8_t buf[8192];
	int fds[2];
	ssize_t got;

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	for (uint32_t i = 0; i < FP_NFQ_BATCH; i++)
		fp_nfq_verdict_add(&verdicts, i, 0x00400003, true, i << 24);
	CHECK(verdicts.length == sizeof(verdicts.buf));
	CHECK(fp_nfq_verdict_send(fds[0], &verdicts) == 0 && verdicts.count == 0);
	got = recv(fds[1], buf, sizeof(buf), MSG_DONTWAIT);
	CHECK(got == FP_NFQ_BATCH * FP_NFQ_VERDICT_SIZE);
	for (uint32_t i = 0; got > 0 && i < FP_NFQ_BATCH; i++) {
		const uint8_t *at = buf + i * FP_NFQ_VERDICT_SIZE;
		uint32_t word[10];

		memcpy(word, at, sizeof(word));
		CHECK(word[0] == FP_NFQ_VERDICT_SIZE);
		CHECK(at[4] == NFQNL_MSG_VERDICT && at[5] == NFNL_SUBSYS_QUEUE && at[18] == 0 && at[19] == 3);
		CHECK(ntohl(word[6]) == 0x00400003 && ntohl(word[7]) == i && ntohl(word[9]) == i << 24);
	}
	CHECK(fp_nfq_verdict_send(fds[0], &verdicts) == 0);
	CHECK(recv(fds[1], buf, sizeof(buf), MSG_DONTWAIT) < 0); /* nothing to say is not said */
	close(fds[1]);
	fp_nfq_verdict_add(&verdicts, 1, 1, false, 0);
	CHECK(fp_nfq_verdict_send(fds[0], &verdicts) < 0 && verdicts.count == 0);
	close(fds[0]);
}

int main(void)
{
	RUN(packet_with_everything_is_read);
	RUN(what_is_not_sent_is_unknown);
	RUN(attributes_of_newer_kernels_are_stepped_over);
	RUN(lengths_that_lie_are_refused_but_the_packet_is_known);
	RUN(no_cut_is_read_beyond_its_end);
	RUN(a_packet_without_its_number_is_refused);
	RUN(errors_and_strangers_are_told_apart);
	RUN(nested_attributes_that_are_cut_or_lie_hide_nothing);
	RUN(an_empty_payload_is_a_payload);
	RUN(attributes_of_any_length_are_taken_or_left);
	RUN(messages_in_one_datagram_are_taken_one_by_one);
	RUN(a_length_that_is_more_than_there_is_says_so);
	RUN(gaps_are_counted_also_before_the_first_and_over_the_wrap);
	RUN(verdicts_travel_in_one_send_in_order);
	return check_result();
}
