/* SPDX-License-Identifier: Apache-2.0 */
/* The packet parser: well-formed packets, each way to be malformed, and every possible cut. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fp_packet.h"

struct buffer {
	uint8_t data[400];
	size_t n;
};

static void put(struct buffer *b, const void *bytes, size_t n)
{
	if (n)
		memcpy(b->data + b->n, bytes, n);
	b->n += n;
}

static void put16(uint8_t *at, size_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* 192.0.2.1 → 198.51.100.2 */
static struct buffer ipv4(uint8_t proto, const void *payload, size_t n)
{
	const uint8_t header[20] = { 0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2 };
	struct buffer b = { .n = 0 };

	put(&b, header, 20);
	put(&b, payload, n);
	put16(b.data + 2, b.n);
	return b;
}

/* 2001:db8::1 → 2001:db8::2 */
static struct buffer ipv6(uint8_t next, const void *payload, size_t n)
{
	const uint8_t header[40] = { 0x60, 0, 0, 0, 0, 0, next, 64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
				     0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2 };
	struct buffer b = { .n = 0 };

	put(&b, header, 40);
	put(&b, payload, n);
	put16(b.data + 4, n);
	return b;
}

static const uint8_t tcp[24] = { 0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, FP_TCP_SYN, 0xff, 0xff, 0, 0, 0, 0,
				 2, 4, 5, 0xb4 };
static const uint8_t udp[12] = { 0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4 };
static const uint8_t sctp[16] = { 0x9c, 0x40, 0x0b, 0x59, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4 };
static const uint8_t echo[8] = { 8, 0, 0, 0, 0x12, 0x34, 0, 1 };
static const uint8_t echo6_reply[8] = { 129, 0, 0, 0, 0x12, 0x34, 0, 1 };

static int parse(const struct buffer *b, struct fp_packet *p)
{
	return fp_packet_parse(b->data, b->n, b->n, p);
}

static void test_tcp_over_ipv4(void)
{
	const uint8_t src[16] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1 };
	struct buffer b = ipv4(6, tcp, sizeof(tcp));
	struct fp_packet p;

	CHECK(parse(&b, &p) == 0);
	CHECK(p.family == 4 && p.proto == 6 && p.sport == 40000 && p.dport == 80 && p.tcp_flags == FP_TCP_SYN);
	CHECK(p.l4_offset == 20 && p.payload_offset == 44 && p.length == 44 && p.flags == 0);
	CHECK(!memcmp(p.src, src, 16) && p.dst[15] == 2);
}

static void test_ports_of_each_protocol(void)
{
	struct fp_packet p;
	struct buffer b = ipv6(17, udp, sizeof(udp));

	CHECK(parse(&b, &p) == 0 && p.family == 6 && p.sport == 40000 && p.dport == 53 && p.payload_offset == 48);
	b = ipv4(136, udp, sizeof(udp));
	CHECK(parse(&b, &p) == 0 && p.dport == 53);
	b = ipv6(132, sctp, sizeof(sctp));
	CHECK(parse(&b, &p) == 0 && p.dport == 2905 && p.payload_offset == 52);
	b = ipv4(47, tcp, 4);
	CHECK(parse(&b, &p) == 0 && p.flags == FP_PACKET_NO_PORTS && p.sport == 0 && p.dport == 0);
	b = ipv4(58, echo6_reply, 8); /* ICMPv6 over IPv4 is nothing */
	CHECK(parse(&b, &p) == 0 && p.flags == FP_PACKET_NO_PORTS && p.icmp_type == 0);
	b = ipv6(59, NULL, 0);
	CHECK(parse(&b, &p) == 0 && p.proto == 59);
}

static void test_icmp_queries_carry_their_identifier(void)
{
	struct buffer b = ipv4(1, echo, 8);
	struct fp_packet p;

	CHECK(parse(&b, &p) == 0 && p.sport == 0x1234 && p.dport == 0 && p.icmp_type == 8);
	CHECK(p.flags == (FP_PACKET_ECHO | FP_PACKET_NO_PORTS));
	b = ipv6(58, echo6_reply, 8);
	CHECK(parse(&b, &p) == 0 && p.sport == 0x1234 && p.flags & FP_PACKET_ECHO_REPLY);
	b.data[40] = 135;
	CHECK(parse(&b, &p) == 0 && p.flags == (FP_PACKET_ND | FP_PACKET_NO_PORTS) && p.sport == 0);
}

static void test_options_and_extension_headers_are_stepped_over(void)
{
	static const uint8_t chain[] = { 60, 0, 1, 4, 0, 0, 0, 0,            /* hop-by-hop → destination */
					 43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* 16 bytes → routing */
					 51, 0, 0, 0, 0, 0, 0, 0,            /* → AH */
					 44, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* (4+2)*4 → fragment */
					 6, 0, 0, 0, 0, 0, 0, 9 };           /* atomic → TCP */
	uint8_t payload[sizeof(chain) + sizeof(tcp)];
	struct buffer b;
	struct fp_packet p;

	memcpy(payload, chain, sizeof(chain));
	memcpy(payload + sizeof(chain), tcp, sizeof(tcp));
	b = ipv6(0, payload, sizeof(payload));
	CHECK(parse(&b, &p) == 0 && p.proto == 6 && p.dport == 80 && p.l4_offset == 40 + sizeof(chain) && p.flags == 0);
	b.data[40] = 0; /* a second hop-by-hop header */
	CHECK(parse(&b, &p) == -EBADMSG);

	b = ipv4(6, NULL, 0);
	put(&b, "\1\1\1\0", 4);
	put(&b, tcp, sizeof(tcp));
	b.data[0] = 0x46;
	put16(b.data + 2, b.n);
	CHECK(parse(&b, &p) == 0 && p.l4_offset == 24 && p.dport == 80);
}

static void test_too_many_extension_headers_are_malformed(void)
{
	uint8_t payload[20 * 8 + sizeof(tcp)];
	struct fp_packet p;
	struct buffer b;

	for (unsigned n = 1; n <= 20; n++) {
		memset(payload, 0, sizeof(payload));
		for (unsigned i = 0; i < n; i++)
			payload[i * 8] = i + 1 < n ? 60 : 6;
		memcpy(payload + (size_t)n * 8, tcp, sizeof(tcp));
		b = ipv6(60, payload, n * 8 + sizeof(tcp));
		CHECK(parse(&b, &p) == (n <= FP_PACKET_MAX_EXTENSIONS ? 0 : -EBADMSG));
	}
}

static void test_fragments(void)
{
	static const uint8_t later[16] = { 17, 0, 0x05, 0xa8, 0, 0, 0, 1 };
	struct buffer b = ipv4(17, udp, sizeof(udp));
	struct fp_packet p;

	b.data[6] = 0x20; /* more fragments; the UDP length speaks of the whole */
	put16(b.data + 24, 3000);
	CHECK(parse(&b, &p) == 0 && p.dport == 53 && p.flags == (FP_PACKET_FRAGMENT | FP_PACKET_FIRST_FRAGMENT));
	put16(b.data + 6, 185);
	CHECK(parse(&b, &p) == 0 && p.dport == 0 && p.flags == (FP_PACKET_FRAGMENT | FP_PACKET_NO_PORTS));
	b = ipv4(6, tcp, sizeof(tcp));
	put16(b.data + 6, 1); /* RFC 1858 */
	CHECK(parse(&b, &p) == -EBADMSG);
	b = ipv4(6, tcp, 8); /* first fragment that hides the flags */
	b.data[6] = 0x20;
	CHECK(parse(&b, &p) == -EBADMSG);
	b = ipv6(44, later, sizeof(later));
	CHECK(parse(&b, &p) == 0 && p.proto == 17 && p.flags == (FP_PACKET_FRAGMENT | FP_PACKET_NO_PORTS));
}

static void test_lengths_that_contradict_each_other(void)
{
	struct buffer b = ipv4(6, tcp, sizeof(tcp));
	struct fp_packet p;

	CHECK(fp_packet_parse(b.data, b.n, b.n - 1, &p) == -EBADMSG); /* claims more than there was */
	put16(b.data + 2, 19);
	CHECK(parse(&b, &p) == -EBADMSG);
	put16(b.data + 2, 0);
	CHECK(parse(&b, &p) == -EBADMSG);
	CHECK(fp_packet_parse(b.data, b.n, 70000, &p) == 0 && p.length == 70000); /* BIG TCP */
	b = ipv4(6, tcp, sizeof(tcp));
	b.n += 6; /* Ethernet padding is no part of it */
	CHECK(parse(&b, &p) == 0 && p.length == 44);
	b.data[0] = 0x44;
	CHECK(parse(&b, &p) == -EBADMSG);
	b.data[0] = 0x55;
	CHECK(parse(&b, &p) == -EBADMSG);
	b = ipv4(6, tcp, sizeof(tcp));
	b.data[20 + 12] = 0x40;
	CHECK(parse(&b, &p) == -EBADMSG);
	b.data[20 + 12] = 0xf0;
	CHECK(parse(&b, &p) == -EBADMSG);
	b = ipv4(17, udp, sizeof(udp));
	put16(b.data + 24, 13);
	CHECK(parse(&b, &p) == -EBADMSG);
	put16(b.data + 24, 7);
	CHECK(parse(&b, &p) == -EBADMSG);
	put16(b.data + 24, 0);
	CHECK(parse(&b, &p) == -EBADMSG);
	b = ipv6(6, tcp, sizeof(tcp));
	put16(b.data + 4, 0);
	CHECK(parse(&b, &p) == -EBADMSG);
	CHECK(fp_packet_parse(b.data, b.n, 40 + 65536, &p) == 0 && p.length == 40 + 65536);
	CHECK(fp_packet_parse(b.data, 0, 0, &p) == -EBADMSG);
}

static void test_cut_headers_are_not_malformed(void)
{
	struct buffer packets[] = { ipv4(6, tcp, sizeof(tcp)), ipv6(6, tcp, sizeof(tcp)), ipv4(17, udp, sizeof(udp)),
				    ipv4(1, echo, 8), ipv6(132, sctp, sizeof(sctp)) };
	size_t headers[] = { 44, 64, 28, 28, 52 };
	struct fp_packet p;

	for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
		for (size_t n = 0; n <= packets[i].n; n++) {
			uint8_t *exact = malloc(n ? n : 1); /* so that the address sanitizer sees the end */

			memcpy(exact, packets[i].data, n);
			CHECK(fp_packet_parse(exact, n, packets[i].n, &p) == (n < headers[i] ? -EMSGSIZE : 0));
			free(exact);
		}
	}
}

static struct buffer error4(const struct buffer *quoted, size_t n)
{
	uint8_t icmp[8 + 200] = { 3, 1 };

	memcpy(icmp + 8, quoted->data, n);
	return ipv4(1, icmp, 8 + n);
}

static void test_error_quotes_a_packet(void)
{
	struct buffer quoted = ipv4(6, tcp, sizeof(tcp)), b = error4(&quoted, 28), cut;
	struct fp_packet outer, inner;

	CHECK(parse(&b, &outer) == 0 && outer.flags & FP_PACKET_ICMP_ERROR && outer.icmp_type == 3 && outer.icmp_code == 1);
	CHECK(fp_packet_parse_inner(b.data, b.n, &outer, &inner) == 0);
	CHECK(inner.proto == 6 && inner.sport == 40000 && inner.dport == 80 && inner.tcp_flags == 0);
	b = error4(&quoted, quoted.n);
	CHECK(parse(&b, &outer) == 0 && fp_packet_parse_inner(b.data, b.n, &outer, &inner) == 0);
	CHECK(inner.tcp_flags == FP_TCP_SYN);
	cut = error4(&quoted, 27); /* RFC 792 wants eight bytes */
	CHECK(parse(&cut, &outer) == 0 && fp_packet_parse_inner(cut.data, cut.n, &outer, &inner) == -EBADMSG);
	CHECK(parse(&b, &outer) == 0 && fp_packet_parse_inner(b.data, 50, &outer, &inner) == -EMSGSIZE);
	quoted = error4(&quoted, 28); /* an error about an error */
	b = error4(&quoted, quoted.n);
	CHECK(parse(&b, &outer) == 0 && fp_packet_parse_inner(b.data, b.n, &outer, &inner) == -EBADMSG);
	quoted = ipv6(6, tcp, sizeof(tcp));
	b = error4(&quoted, quoted.n);
	CHECK(parse(&b, &outer) == 0 && fp_packet_parse_inner(b.data, b.n, &outer, &inner) == -EBADMSG);
	b = ipv4(1, echo, 8);
	CHECK(parse(&b, &outer) == 0 && fp_packet_parse_inner(b.data, b.n, &outer, &inner) == -EBADMSG);
}

/* Whatever bits flip: no read beyond the end (the sanitizer's part), and what is said holds together. */
static void test_damaged_packets(void)
{
	struct buffer quoted = ipv4(17, udp, sizeof(udp));
	struct buffer packets[] = { ipv4(6, tcp, sizeof(tcp)), ipv6(44, tcp, sizeof(tcp)), error4(&quoted, quoted.n),
				    ipv6(0, tcp, sizeof(tcp)) };
	uint64_t seed = 1;
	unsigned odd_errno = 0, beyond = 0;

	for (int round = 0; round < 100000; round++) {
		struct buffer b = packets[round % 4];
		size_t captured = check_below(&seed, (uint32_t)b.n + 1);
		struct fp_packet p, inner;
		uint8_t *exact = malloc(captured + 1);
		int err;

		for (uint32_t i = check_below(&seed, 4); i < 4; i++)
			b.data[check_below(&seed, (uint32_t)b.n)] = (uint8_t)check_random(&seed);
		memcpy(exact, b.data, captured);
		err = fp_packet_parse(exact, captured, b.n, &p);
		odd_errno += err != 0 && err != -EBADMSG && err != -EMSGSIZE;
		beyond += !err && (p.payload_offset > captured || p.l4_offset > p.payload_offset || p.length > b.n);
		if (!err && p.flags & FP_PACKET_ICMP_ERROR)
			err = fp_packet_parse_inner(exact, captured, &p, &inner);
		free(exact);
	}
	CHECK(odd_errno == 0);
	CHECK(beyond == 0);
}

int main(void)
{
	RUN(test_tcp_over_ipv4);
	RUN(test_ports_of_each_protocol);
	RUN(test_icmp_queries_carry_their_identifier);
	RUN(test_options_and_extension_headers_are_stepped_over);
	RUN(test_too_many_extension_headers_are_malformed);
	RUN(test_fragments);
	RUN(test_lengths_that_contradict_each_other);
	RUN(test_cut_headers_are_not_malformed);
	RUN(test_error_quotes_a_packet);
	RUN(test_damaged_packets);
	return check_result();
}
