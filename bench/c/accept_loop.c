/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accept_loop QUEUE [--fail-open]: accepts every packet of one queue and does nothing else. What a reader of NFQUEUE
 * costs at the least: segmentation offload, recvmmsg, verdicts joined in one send. The peer of the benchmarks.
 * Prints packets, bytes, its CPU time and lost packets at the end (SIGINT, SIGTERM).
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fp_nfq.h"

#define COPY_RANGE 128u
#define SLOT (COPY_RANGE + FP_NFQ_HEADROOM)
#define NF_ACCEPT_VERDICT 1u

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

struct totals {
	unsigned long packets, bytes, gaps, overruns;
};

static void answer(struct fp_nfq_verdicts *verdicts, struct totals *totals, uint32_t *next, const uint8_t *data,
		   size_t len)
{
	struct fp_nfq_message message;

	fp_nfq_parse(data, len, &message);
	if (message.kind != FP_NFQ_PACKET || !message.has_id)
		return;
	totals->gaps += fp_nfq_gap(next, message.id);
	totals->packets++;
	totals->bytes += message.packet_len;
	fp_nfq_verdict_add(verdicts, message.id, NF_ACCEPT_VERDICT, false, 0);
}

static void loop(int fd, uint16_t queue, struct totals *totals)
{
	static uint8_t slots[FP_NFQ_BATCH][SLOT];
	static struct fp_nfq_verdicts verdicts;
	struct mmsghdr messages[FP_NFQ_BATCH];
	struct iovec vectors[FP_NFQ_BATCH];
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	uint32_t next = 0;

	verdicts.queue = queue;
	memset(messages, 0, sizeof(messages));
	for (unsigned int i = 0; i < FP_NFQ_BATCH; i++) {
		vectors[i] = (struct iovec){ .iov_base = slots[i], .iov_len = SLOT };
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while (!stopped) {
		int n = recvmmsg(fd, messages, FP_NFQ_BATCH, MSG_DONTWAIT, NULL);

		if (n < 0 && errno == ENOBUFS)
			totals->overruns++;
		else if (n < 0)
			poll(&wait, 1, 1000);
		for (int i = 0; i < n; i++)
			answer(&verdicts, totals, &next, slots[i], messages[i].msg_len);
		(void)fp_nfq_verdict_send(fd, &verdicts);
	}
}

int main(int argc, char **argv)
{
	struct fp_nfq_options options = {
		.queue_length = 65535, .copy_range = COPY_RANGE, .receive_buffer = 64u << 20, .gso = true,
	};
	struct sigaction action = { .sa_handler = stop };
	struct totals totals = { 0 };
	struct rusage usage;
	uint16_t queue;
	int fd;

	if (argc < 2) {
		fprintf(stderr, "usage: %s QUEUE [--fail-open]\n", argv[0]);
		return 2;
	}
	queue = (uint16_t)strtoul(argv[1], NULL, 10);
	options.fail_open = argc > 2 && !strcmp(argv[2], "--fail-open");
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	fd = fp_nfq_open(queue, &options);
	if (fd < 0) {
		fprintf(stderr, "queue %u: %s\n", (unsigned int)queue, strerror(-fd));
		return 1;
	}
	puts("ready");
	fflush(stdout);
	loop(fd, queue, &totals);
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"packets\": %lu, \"bytes\": %lu, \"gaps\": %lu, \"overruns\": %lu, \"cpu_seconds\": %.6f}\n",
	       totals.packets, totals.bytes, totals.gaps, totals.overruns,
	       (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
	return 0;
}
