/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer target: a reader whose kernel says anything. What it hands out is readable, and can be answered. */
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fp_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PACKETS 3u

static const struct fp_reader_config config = {
	.queue_length = 1024, .receive_buffer = 1 << 20, .copy_range = 2048, .queue = 64, .gso = 1,
};

static void judge(struct fp_reader *reader, const struct fp_reader_packet *packet)
{
	volatile uint8_t sum = 0;

	if (!packet->payload && packet->payload_len)
		abort();
	for (uint32_t i = 0; i < packet->payload_len; i++)
		sum = (uint8_t)(sum + packet->payload[i]);
	if (packet->id % 4 == 0)
		(void)fp_reader_again(reader, packet->id);
	else if (packet->id % 4 == 1 && packet->payload)
		(void)fp_reader_answer_with(reader, packet->id, packet->mark, packet->payload, packet->payload_len);
	else
		(void)fp_reader_answer(reader, packet->id, packet->id & 2, packet->mark);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fp_reader_packet packets[PACKETS];
	struct fp_reader *reader = NULL;
	static uint8_t answers[1 << 16];
	int ends[2], n, empty = 0;

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) < 0 || fp_reader_open_socket(&config, ends[0], &reader))
		abort();
	if (send(ends[1], data, size, 0) < 0)
		abort();
	while (!empty) {
		n = fp_reader_read(reader, packets, PACKETS, &empty);
		if (n < 0 || n > (int)PACKETS || (!n && !empty))
			abort();
		for (int i = 0; i < n; i++) {
			judge(reader, &packets[i]);
			while (recv(ends[1], answers, sizeof(answers), MSG_DONTWAIT) >= 0)
				;
		}
	}
	fp_reader_free(reader);
	close(ends[1]);
	return 0;
}
