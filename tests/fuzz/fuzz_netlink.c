/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer target: whatever comes out of the socket. */
#include <stdlib.h>

#include "fp_conntrack.h"
#include "fp_nfq.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_connection(const uint8_t *data, size_t size)
{
	uint8_t update[FP_CONNTRACK_UPDATE];
	struct fp_conntrack_entry entry;

	if (!fp_conntrack_parse(data, size, &entry))
		return;
	if (entry.tuple < data || entry.tuple + entry.tuple_len > data + size ||
	    fp_conntrack_clear(&entry, 0, update) > sizeof(update))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fp_nfq_message message;
	size_t at = 0;

	read_connection(data, size);
	while (at < size) {
		ssize_t took = fp_nfq_parse(data + at, size - at, &message);

		if (message.payload) { /* lies within what was given, and is readable */
			volatile uint8_t sum = 0;

			if (message.payload < data || message.payload + message.payload_len > data + size ||
			    message.packet_len < message.payload_len)
				abort();
			for (uint32_t i = 0; i < message.payload_len; i++)
				sum = (uint8_t)(sum + message.payload[i]);
		}
		if (took >= 0 && (size_t)took != message.size)
			abort();
		if (!message.size)
			break;
		if (message.size < 16 || message.size > size - at)
			abort();
		at += message.size;
	}
	return 0;
}
