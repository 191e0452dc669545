/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends small UDP datagrams, as fast as it can or at a fixed rate, over a number of flows.
 *
 *   udp_flood ADDRESS PORT MILLISECONDS RATE FLOWS BYTES
 *
 * RATE is packets per second over all flows, 0: no limit. BYTES is the length of the IP packet. Each flow
 * is a socket with a source port of its own. Prints "sent N refused N nanoseconds N", after SIGTERM at once.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 32, BATCH_AT_RATE = 8, FLOWS_MAX = 4096, PAYLOAD_MAX = 1472 };

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static long number(const char *text, long low, long high, const char *what)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || *end || end == text || value < low || value > high) {
		fprintf(stderr, "udp_flood: %s: expected %ld..%ld, got %s\n", what, low, high, text);
		exit(2);
	}
	return value;
}

static int open_flows(const char *address, const char *port, int *sockets, long flows, int *family)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
	struct addrinfo *to;
	int error = getaddrinfo(address, port, &hints, &to);

	if (error) {
		fprintf(stderr, "udp_flood: %s: %s\n", address, gai_strerror(error));
		return -1;
	}
	*family = to->ai_family;
	for (long i = 0; i < flows; i++) {
		sockets[i] = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (sockets[i] < 0 || connect(sockets[i], to->ai_addr, to->ai_addrlen)) {
			perror("udp_flood: socket");
			freeaddrinfo(to);
			return -1;
		}
	}
	freeaddrinfo(to);
	return 0;
}

int main(int argc, char **argv)
{
	static int sockets[FLOWS_MAX];
	static char payload[PAYLOAD_MAX];
	struct iovec iov = {.iov_base = payload};
	struct mmsghdr messages[BATCH];
	uint64_t sent = 0, refused = 0;
	long duration, rate, flows, bytes;
	int64_t start, end, now;
	int family;

	if (argc != 7) {
		fprintf(stderr, "usage: udp_flood ADDRESS PORT MILLISECONDS RATE FLOWS BYTES\n");
		return 2;
	}
	duration = number(argv[3], 1, 600000, "MILLISECONDS");
	rate = number(argv[4], 0, 100000000, "RATE");
	flows = number(argv[5], 1, FLOWS_MAX, "FLOWS");
	bytes = number(argv[6], 48, PAYLOAD_MAX + 28, "BYTES");
	if (open_flows(argv[1], argv[2], sockets, flows, &family))
		return 1;
	iov.iov_len = (size_t)bytes - (family == AF_INET6 ? 48 : 28);

	memset(messages, 0, sizeof messages);
	for (int i = 0; i < BATCH; i++) {
		messages[i].msg_hdr.msg_iov = &iov;
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	signal(SIGTERM, stop);
	start = now = now_ns();
	end = start + (int64_t)duration * 1000000;
	for (uint64_t turn = 0; now < end && !stopped; turn++, now = now_ns()) {
		int n;

		if (rate) {
			int64_t due = start + (int64_t)((double)sent * 1e9 / (double)rate);
			struct timespec until = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};

			if (due > now)
				clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		}
		n = sendmmsg(sockets[turn % (uint64_t)flows], messages, rate ? BATCH_AT_RATE : BATCH, 0);
		/* ECONNREFUSED, ENOBUFS: of earlier packets or of the queue; the next turn tries again. */
		if (n > 0)
			sent += (uint64_t)n;
		else
			refused++;
	}
	printf("sent %llu refused %llu nanoseconds %lld\n", (unsigned long long)sent, (unsigned long long)refused,
	       (long long)(now - start));
	return 0;
}
