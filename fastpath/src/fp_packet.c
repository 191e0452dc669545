/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_packet.h"

#include <errno.h>
#include <string.h>

enum {
	PROTO_HOP_BY_HOP = 0,
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_AH = 51,
	PROTO_ICMPV6 = 58,
	PROTO_DESTINATION = 60,
	PROTO_SCTP = 132,
	PROTO_UDPLITE = 136,
};

/* What is left to read: [at, captured) is there, [captured, end) is claimed by the IP header. */
struct cursor {
	const uint8_t *data;
	size_t captured, end, at;
	int quoted; /* inside an ICMP error: the end of the quotation is no error of the packet's */
	int cut;    /* errno for bytes that are claimed and not there */
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* 0 when the next n bytes may be read. */
static int need(const struct cursor *c, size_t n)
{
	if (n > c->end - c->at)
		return -EBADMSG;
	if (c->at > c->captured || n > c->captured - c->at)
		return -c->cut;
	return 0;
}

static int parse_tcp(struct cursor *c, struct fp_packet *out)
{
	const uint8_t *p = c->data + c->at;
	size_t header;
	int err = need(c, c->quoted ? 8 : 20);

	if (err)
		return err;
	out->sport = get16(p);
	out->dport = get16(p + 2);
	if (c->quoted && need(c, 20)) {
		out->payload_offset = (uint16_t)(c->at + 8);
		return 0;
	}
	header = (size_t)(p[12] >> 4) * 4;
	if (header < 20)
		return -EBADMSG;
	out->tcp_flags = p[13];
	err = need(c, header);
	if (err && !c->quoted)
		return err;
	out->payload_offset = (uint16_t)(c->at + (err ? 20 : header));
	return 0;
}

static int parse_udp(struct cursor *c, struct fp_packet *out)
{
	const uint8_t *p = c->data + c->at;
	size_t present = c->end - c->at, claimed;
	int err = need(c, 8);

	if (err)
		return err;
	out->sport = get16(p);
	out->dport = get16(p + 2);
	out->payload_offset = (uint16_t)(c->at + 8);
	if (c->quoted)
		return 0;
	claimed = get16(p + 4);
	if (claimed == 0)
		/* UDP: a jumbogram (RFC 2675). UDP-Lite: everything is covered by the checksum (RFC 3828). */
		return out->proto == PROTO_UDPLITE || present > UINT16_MAX ? 0 : -EBADMSG;
	if (claimed < 8)
		return -EBADMSG;
	return claimed > present && !(out->flags & FP_PACKET_FRAGMENT) ? -EBADMSG : 0;
}

static int parse_sctp(struct cursor *c, struct fp_packet *out)
{
	const uint8_t *p = c->data + c->at;
	size_t header = c->quoted ? 8 : 12;
	int err = need(c, header);

	if (err)
		return err;
	out->sport = get16(p);
	out->dport = get16(p + 2);
	out->payload_offset = (uint16_t)(c->at + header);
	return 0;
}

static void classify_icmp4(uint8_t type, struct fp_packet *out)
{
	switch (type) {
	case 0: case 14: case 16: case 18: /* replies: echo, timestamp, information, address mask */
		out->flags |= FP_PACKET_ECHO | FP_PACKET_ECHO_REPLY;
		break;
	case 8: case 13: case 15: case 17:
		out->flags |= FP_PACKET_ECHO;
		break;
	case 3: case 4: case 5: case 11: case 12:
		out->flags |= FP_PACKET_ICMP_ERROR;
		break;
	default:
		break;
	}
}

static void classify_icmp6(uint8_t type, struct fp_packet *out)
{
	if (type < 128)
		out->flags |= FP_PACKET_ICMP_ERROR;
	else if (type == 128)
		out->flags |= FP_PACKET_ECHO;
	else if (type == 129)
		out->flags |= FP_PACKET_ECHO | FP_PACKET_ECHO_REPLY;
	else if ((type >= 130 && type <= 137) || type == 143)
		out->flags |= FP_PACKET_ND;
}

static int parse_icmp(struct cursor *c, struct fp_packet *out)
{
	const uint8_t *p = c->data + c->at;
	int err = need(c, 8);

	if (err)
		return err;
	out->flags |= FP_PACKET_NO_PORTS;
	out->icmp_type = p[0];
	out->icmp_code = p[1];
	out->payload_offset = (uint16_t)(c->at + 8);
	if (out->family == 4)
		classify_icmp4(p[0], out);
	else
		classify_icmp6(p[0], out);
	if (out->flags & FP_PACKET_ECHO)
		out->sport = get16(p + 4);
	/* No error is ever sent about an error (RFC 1122, 4443). */
	return c->quoted && (out->flags & FP_PACKET_ICMP_ERROR) ? -EBADMSG : 0;
}

static int parse_transport(struct cursor *c, struct fp_packet *out)
{
	out->l4_offset = (uint16_t)c->at;
	out->payload_offset = (uint16_t)c->at;
	if ((out->flags & FP_PACKET_FRAGMENT) && !(out->flags & FP_PACKET_FIRST_FRAGMENT)) {
		out->flags |= FP_PACKET_NO_PORTS;
		return 0;
	}
	switch (out->proto) {
	case PROTO_TCP:
		return parse_tcp(c, out);
	case PROTO_UDP:
	case PROTO_UDPLITE:
		return parse_udp(c, out);
	case PROTO_SCTP:
		return parse_sctp(c, out);
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		if ((out->proto == PROTO_ICMP) == (out->family == 4))
			return parse_icmp(c, out);
		break;
	default:
		break;
	}
	out->flags |= FP_PACKET_NO_PORTS;
	return 0;
}

static void map_ipv4(uint8_t to[16], const uint8_t *from)
{
	memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	memcpy(to + 12, from, 4);
}

static int parse_ipv4(struct cursor *c, struct fp_packet *out)
{
	const uint8_t *p = c->data + c->at;
	size_t header, total, claimed = c->end - c->at;
	uint16_t fragment;
	int err = need(c, 20);

	if (err)
		return err;
	header = (size_t)(p[0] & 15) * 4;
	total = get16(p + 2);
	if (total == 0 && claimed > UINT16_MAX)
		total = claimed; /* BIG TCP: the kernel writes 0 where 16 bits do not do */
	if (header < 20 || total < header)
		return -EBADMSG;
	if (total > claimed && !c->quoted)
		return -EBADMSG;
	if (total < claimed)
		c->end = c->at + total; /* padding of the link layer */
	err = need(c, header);
	if (err)
		return err;

	out->family = 4;
	out->proto = p[9];
	out->length = (uint32_t)total;
	map_ipv4(out->src, p + 12);
	map_ipv4(out->dst, p + 16);
	fragment = get16(p + 6);
	if (fragment & 0x3fff) {
		size_t offset = (size_t)(fragment & 0x1fff) * 8;

		/* RFC 1858: a fragment that would overwrite the flags of the TCP header. */
		if (offset == 8 && out->proto == PROTO_TCP)
			return -EBADMSG;
		out->flags |= (uint8_t)(offset ? FP_PACKET_FRAGMENT : FP_PACKET_FRAGMENT | FP_PACKET_FIRST_FRAGMENT);
	}
	c->at += header;
	return parse_transport(c, out);
}

/* Steps over one extension header. Returns 1 to go on, 0 when `next` is the transport header, or an errno. */
static int skip_extension(struct cursor *c, uint8_t *next, int first, struct fp_packet *out)
{
	const uint8_t *p = c->data + c->at;
	size_t length;
	int err;

	switch (*next) {
	case PROTO_HOP_BY_HOP:
		if (!first)
			return -EBADMSG;
		break;
	case PROTO_ROUTING:
	case PROTO_DESTINATION:
	case PROTO_FRAGMENT:
	case PROTO_AH:
		break;
	default:
		return 0;
	}
	err = need(c, 8);
	if (err)
		return err;
	if (*next == PROTO_FRAGMENT) {
		uint16_t fragment = get16(p + 2);

		length = 8;
		if (out->flags & FP_PACKET_FRAGMENT)
			return -EBADMSG;
		if (fragment & 0xfff8)
			out->flags |= FP_PACKET_FRAGMENT;
		else if (fragment & 1) /* neither is set: an atomic fragment (RFC 6946), whole */
			out->flags |= FP_PACKET_FRAGMENT | FP_PACKET_FIRST_FRAGMENT;
	} else if (*next == PROTO_AH) {
		length = ((size_t)p[1] + 2) * 4;
	} else {
		length = ((size_t)p[1] + 1) * 8;
	}
	err = need(c, length);
	if (err)
		return err;
	*next = p[0];
	c->at += length;
	return !((out->flags & FP_PACKET_FRAGMENT) && !(out->flags & FP_PACKET_FIRST_FRAGMENT));
}

static int parse_ipv6(struct cursor *c, struct fp_packet *out)
{
	const uint8_t *p = c->data + c->at;
	size_t total, claimed = c->end - c->at;
	uint8_t next;
	int err = need(c, 40);

	if (err)
		return err;
	total = 40 + (size_t)get16(p + 4);
	if (total == 40 && claimed > 40 + (size_t)UINT16_MAX)
		total = claimed; /* a jumbogram, or BIG TCP */
	if (total > claimed && !c->quoted)
		return -EBADMSG;
	if (total < claimed)
		c->end = c->at + total;

	out->family = 6;
	out->length = (uint32_t)total;
	memcpy(out->src, p + 8, 16);
	memcpy(out->dst, p + 24, 16);
	next = p[6];
	c->at += 40;
	for (int i = 0;; i++) {
		int more = skip_extension(c, &next, i == 0, out);

		if (more < 0)
			return more;
		if (!more)
			break;
		if (i == FP_PACKET_MAX_EXTENSIONS)
			return -EBADMSG;
	}
	out->proto = next;
	return parse_transport(c, out);
}

static int parse_ip(struct cursor *c, struct fp_packet *out)
{
	int err;

	memset(out, 0, sizeof(*out));
	err = need(c, 1);
	if (err)
		return err;
	switch (c->data[c->at] >> 4) {
	case 4:
		return parse_ipv4(c, out);
	case 6:
		return parse_ipv6(c, out);
	default:
		return -EBADMSG;
	}
}

int fp_packet_parse(const uint8_t *data, size_t captured, size_t length, struct fp_packet *out)
{
	struct cursor c = { .data = data, .captured = captured, .end = length, .cut = EMSGSIZE };

	if (captured > length)
		c.captured = length;
	return parse_ip(&c, out);
}

int fp_packet_parse_inner(const uint8_t *data, size_t captured, const struct fp_packet *outer,
			  struct fp_packet *inner)
{
	struct cursor c = { .data = data, .captured = captured, .end = outer->length,
			    .at = outer->payload_offset, .quoted = 1 };
	int err;

	if (!(outer->flags & FP_PACKET_ICMP_ERROR) || c.at > c.end)
		return -EBADMSG;
	c.cut = captured < outer->length ? EMSGSIZE : EBADMSG;
	err = parse_ip(&c, inner);
	if (err)
		return err;
	return inner->family == outer->family ? 0 : -EBADMSG;
}
