/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target of the packet parser. Input: one byte that says how much was cut off, then the packet.
 * Checks what the parser promises of a packet that it accepts, and that a quoted packet's offsets are inside, too.
 */
#include <errno.h>
#include <stdlib.h>

#include "fp_packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int holds)
{
	if (!holds)
		abort();
}

static void check(const struct fp_packet *p, size_t captured)
{
	expect(p->l4_offset <= p->payload_offset && p->payload_offset <= captured);
	expect(p->family == 4 || p->family == 6);
	if (p->flags & FP_PACKET_NO_PORTS)
		expect(p->dport == 0 && (p->sport == 0 || p->flags & FP_PACKET_ECHO));
	if (p->flags & FP_PACKET_FIRST_FRAGMENT)
		expect(p->flags & FP_PACKET_FRAGMENT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fp_packet packet, inner;
	size_t captured, length;
	int err;

	if (size == 0)
		return 0;
	captured = size - 1;
	length = captured + data[0] * (data[0] == 255 ? 300u : 1u);
	err = fp_packet_parse(data + 1, captured, length, &packet);
	if (err) {
		expect(err == -EBADMSG || err == -EMSGSIZE);
		expect(err != -EMSGSIZE || captured < length);
		return 0;
	}
	check(&packet, captured);
	expect(packet.length <= length);
	err = fp_packet_parse_inner(data + 1, captured, &packet, &inner);
	if (!err)
		check(&inner, captured);
	else
		expect(err == -EBADMSG || (err == -EMSGSIZE && captured < packet.length));
	return 0;
}
