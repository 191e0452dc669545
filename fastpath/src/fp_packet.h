/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_packet: what the fastpath wants to know of a packet, read once from its headers.
 *
 *  1. Nothing is read beyond `captured` bytes, nothing is written but *out, nothing is kept.
 *  2. Checksums are never looked at: under GSO they may not be ready.
 *  3. Worst case: FP_PACKET_MAX_EXTENSIONS IPv6 extension headers; more is malformed.
 *
 * RFC 791, 8200 (IPv6), 4302 (AH), 2675 (jumbograms), 792, 4443, 9293, 768, 3828, 9260.
 */
#ifndef FP_PACKET_H
#define FP_PACKET_H

#include <stddef.h>
#include <stdint.h>

#define FP_PACKET_MAX_EXTENSIONS 8

#define FP_PACKET_FRAGMENT 0x01u       /* part of a datagram, first part or not */
#define FP_PACKET_FIRST_FRAGMENT 0x02u /* FRAGMENT that starts with the transport header */
#define FP_PACKET_ICMP_ERROR 0x04u     /* quotes another packet at payload_offset: fp_packet_parse_inner() */
#define FP_PACKET_NO_PORTS 0x08u       /* protocol without ports, or a fragment that lacks them */
#define FP_PACKET_ECHO 0x10u           /* ICMP query with an identifier (echo, timestamp…): in sport, dport 0 */
#define FP_PACKET_ECHO_REPLY 0x20u     /* ECHO that is the answer */
#define FP_PACKET_ND 0x40u             /* ICMPv6 neighbour or router discovery, or MLD */

#define FP_TCP_FIN 0x01u
#define FP_TCP_SYN 0x02u
#define FP_TCP_RST 0x04u
#define FP_TCP_PSH 0x08u
#define FP_TCP_ACK 0x10u

struct fp_packet {
	uint8_t src[16], dst[16];  /* network order, IPv4 as ::ffff:a.b.c.d */
	uint16_t sport, dport;     /* host order; 0 with NO_PORTS */
	uint8_t proto;             /* IPPROTO_* of the transport header */
	uint8_t family;            /* 4 or 6 */
	uint8_t icmp_type, icmp_code;
	uint8_t tcp_flags;         /* FP_TCP_* */
	uint8_t flags;             /* FP_PACKET_* */
	uint16_t l4_offset;        /* bytes from the start of the packet */
	uint16_t payload_offset;   /* first byte behind the transport header */
	uint32_t length;           /* bytes of the packet from its IP header on, by its IP header */
};

/*
 * data: the packet from its IP header on; captured: bytes present; length: bytes it had on the way
 * (≥ captured). -EBADMSG: malformed. -EMSGSIZE: well-formed so far, but the headers go on behind `captured`.
 */
int fp_packet_parse(const uint8_t *data, size_t captured, size_t length, struct fp_packet *out);

/*
 * The packet that the ICMP error `outer` (flag ICMP_ERROR) quotes, in the direction in which it was
 * sent: the reverse of the error's own. Eight bytes of transport header are enough (RFC 792).
 * data and captured: of the outer packet. Errors as above.
 */
int fp_packet_parse_inner(const uint8_t *data, size_t captured, const struct fp_packet *outer,
			  struct fp_packet *inner);

#endif
