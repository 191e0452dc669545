/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_conntrack.h"

#include <linux/netfilter/nfnetlink_conntrack.h>
#include <stdlib.h>

#include "check.h"
#include "netlink_message.h"

#define MARK 0x05000007u

static const uint8_t client[16] = { [10] = 0xff, 0xff, 10, 0, 0, 1 };
static const uint8_t server[16] = { [10] = 0xff, 0xff, 10, 0, 0, 2 };
static const uint8_t translated[16] = { [10] = 0xff, 0xff, 192, 0, 2, 9 };

static void nest(struct message *m, uint16_t type, const struct message *inner)
{
	message_attribute(m, type | NLA_F_NESTED, inner->data, inner->len);
}

static void tuple(struct message *m, uint16_t type, const uint8_t *src, const uint8_t *dst, bool v6)
{
	struct message ends = { 0 }, ports = { 0 }, inner = { 0 };
	uint16_t port = htons(80);

	message_attribute(&ends, v6 ? CTA_IP_V6_SRC : CTA_IP_V4_SRC, v6 ? src : src + 12, v6 ? 16 : 4);
	message_attribute(&ends, v6 ? CTA_IP_V6_DST : CTA_IP_V4_DST, v6 ? dst : dst + 12, v6 ? 16 : 4);
	message_attribute(&ports, CTA_PROTO_NUM, "\x11", 1);
	message_attribute(&ports, CTA_PROTO_SRC_PORT, &port, 2);
	message_attribute(&ports, CTA_PROTO_DST_PORT, &port, 2);
	nest(&inner, CTA_TUPLE_IP, &ends);
	nest(&inner, CTA_TUPLE_PROTO, &ports);
	nest(m, type, &inner);
}

static void begin(struct message *m, uint8_t family)
{
	struct nfgenmsg nfgen = { .nfgen_family = family };

	message_begin(m, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW);
	memcpy(m->data + m->len, &nfgen, sizeof(nfgen));
	m->len += sizeof(nfgen);
}

static void counted(struct message *m, uint16_t type, uint64_t bytes)
{
	uint32_t packets[2] = { 0, htonl(9) }, carried[2] = { htonl((uint32_t)(bytes >> 32)), htonl((uint32_t)bytes) };
	struct message inner = { 0 };

	message_attribute(&inner, CTA_COUNTERS_PACKETS, packets, sizeof(packets));
	message_attribute(&inner, CTA_COUNTERS_BYTES, carried, sizeof(carried));
	nest(m, type, &inner);
}

static void entry(struct message *m)
{
	begin(m, AF_INET);
	tuple(m, CTA_TUPLE_ORIG, client, translated, false);
	tuple(m, CTA_TUPLE_REPLY, server, client, false);
	counted(m, CTA_COUNTERS_ORIG, 0x100000003);
	counted(m, CTA_COUNTERS_REPLY, 4);
	message_u32(m, 77, 1); /* of a newer kernel */
	message_u32(m, CTA_MARK, MARK);
	message_u32(m, CTA_ID, 4711);
	message_attribute(m, CTA_ZONE, "\x00\x05", 2);
	message_finish(m);
}

static void ends_are_as_policy_sees_them(void)
{
	struct fp_conntrack_entry out;
	struct message m;

	entry(&m);
	CHECK(fp_conntrack_parse(m.data, m.len, &out));
	CHECK(out.family == AF_INET && out.mark == MARK && out.id == 4711 && out.has_zone);
	CHECK(!memcmp(out.ends[0], client, 16) && !memcmp(out.ends[1], server, 16) && !memcmp(out.ends[2], client, 16));
}

static void what_it_carried_is_of_both_directions(void)
{
	struct fp_conntrack_entry out;
	struct message m, odd = { 0 };

	entry(&m);
	CHECK(fp_conntrack_parse(m.data, m.len, &out));
	CHECK(out.protocol == 17 && out.carried == 0x100000007);
	begin(&m, AF_INET);
	tuple(&m, CTA_TUPLE_ORIG, client, translated, false);
	message_u32(&odd, CTA_COUNTERS_BYTES, 4);
	nest(&m, CTA_COUNTERS_ORIG, &odd);
	message_finish(&m);
	CHECK(fp_conntrack_parse(m.data, m.len, &out));
	CHECK(out.protocol == 17 && !out.carried); /* not counted, or by a kernel that we do not know */
}

static void ipv6_is_read_as_it_is(void)
{
	static const uint8_t one[16] = { 0xfd, [15] = 1 }, two[16] = { 0xfd, [15] = 2 };
	struct fp_conntrack_entry out;
	struct message m;

	begin(&m, AF_INET6);
	tuple(&m, CTA_TUPLE_ORIG, one, two, true);
	tuple(&m, CTA_TUPLE_REPLY, two, one, true);
	message_finish(&m);
	CHECK(fp_conntrack_parse(m.data, m.len, &out));
	CHECK(out.family == AF_INET6 && !out.mark && !out.has_zone && out.tuple_len <= FP_CONNTRACK_TUPLE);
	CHECK(!memcmp(out.ends[0], one, 16) && !memcmp(out.ends[1], two, 16) && !memcmp(out.ends[2], one, 16));
}

static void bits_are_taken_back_and_no_others(void)
{
	uint8_t update[FP_CONNTRACK_UPDATE];
	struct fp_conntrack_entry found, out;
	struct message m;
	uint32_t mask;
	size_t len;

	entry(&m);
	CHECK(fp_conntrack_parse(m.data, m.len, &found));
	len = fp_conntrack_clear(&found, 0x7c000000, update);
	CHECK(len <= sizeof(update) && fp_conntrack_parse(update, len, &out));
	CHECK(!memcmp(&len, update, 4) && out.family == AF_INET && out.mark == 0);
	CHECK(out.tuple_len == found.tuple_len && !memcmp(out.tuple, found.tuple, found.tuple_len));
	CHECK(out.has_zone && out.zone == found.zone);
	memcpy(&mask, update + len - 4, 4); /* CTA_MARK_MASK is the last */
	CHECK(ntohl(mask) == 0x7c000000);
}

static void what_does_not_fit_is_no_entry(void)
{
	static const uint8_t long_tuple[FP_CONNTRACK_TUPLE + 4];
	struct fp_conntrack_entry out;
	struct message m;

	begin(&m, AF_INET);
	CHECK(!fp_conntrack_parse(m.data, 0, &out));
	message_u32(&m, CTA_MARK, MARK);
	CHECK(!fp_conntrack_parse(m.data, m.len, &out)); /* no tuple */
	begin(&m, AF_INET);
	message_attribute(&m, CTA_TUPLE_ORIG | NLA_F_NESTED, long_tuple, sizeof(long_tuple));
	CHECK(!fp_conntrack_parse(m.data, m.len, &out));
	entry(&m);
	for (size_t len = 0; len < m.len; len++) { /* readable memory ends where the message does */
		uint8_t *cut = malloc(len ? len : 1);

		if (!cut)
			continue;
		memcpy(cut, m.data, len);
		(void)fp_conntrack_parse(cut, len, &out);
		free(cut);
	}
	CHECK(true);
}

int main(void)
{
	RUN(ends_are_as_policy_sees_them);
	RUN(what_it_carried_is_of_both_directions);
	RUN(ipv6_is_read_as_it_is);
	RUN(bits_are_taken_back_and_no_others);
	RUN(what_does_not_fit_is_no_entry);
	return check_result();
}
