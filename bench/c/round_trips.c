/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a small UDP packet takes there and back, one on the way at a time.
 *
 *   round_trips reflect PORT             sends each datagram back, until killed
 *   round_trips ask ADDRESS PORT COUNT [PAUSE]
 *                                        prints "p50 N p99 N longest N lost N", nanoseconds; PAUSE microseconds between
 *                                        two; ends before COUNT on SIGTERM
 *
 * A datagram that is not back within a second is lost and counted in neither percentile.
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
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { COUNT_MAX = 1000000, PAYLOAD = 36 }; /* 64 bytes with the headers of IPv4 and UDP */

static volatile sig_atomic_t stopped;

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int reflect(long port)
{
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	int sock = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int room = 8 << 20; /* packets that waited somewhere come all at once */

	if (sock >= 0)
		(void)setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (sock < 0 || bind(sock, (struct sockaddr *)&here, sizeof(here)))
		return fail("reflect");
	for (;;) {
		char data[2048];
		struct sockaddr_in6 from;
		socklen_t from_len = sizeof(from);
		ssize_t len = recvfrom(sock, data, sizeof(data), 0, (struct sockaddr *)&from, &from_len);

		/* What cannot be sent back is lost, and the asker counts it. */
		if (len >= 0)
			(void)!sendto(sock, data, (size_t)len, 0, (struct sockaddr *)&from, from_len);
		else if (errno != EINTR)
			return fail("reflect");
	}
}

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static int ask(const char *address, const char *port, long count, long pause)
{
	static int64_t took[COUNT_MAX];
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *to;
	struct timeval second = {.tv_sec = 1};
	uint64_t payload[(PAYLOAD + 7) / 8] = {0};
	size_t back = 0;
	long sent = 0;
	int sock;

	if (getaddrinfo(address, port, &hints, &to)) {
		fprintf(stderr, "round_trips: %s port %s: not an address and a port\n", address, port);
		return 2;
	}
	sock = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, to->ai_addr, to->ai_addrlen) ||
	    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second))) {
		freeaddrinfo(to);
		return fail("ask");
	}
	freeaddrinfo(to);
	(void)signal(SIGTERM, stop);
	for (long i = 0; i < count && !stopped; i++) {
		int64_t begun = now_ns();
		ssize_t len;

		payload[0] = (uint64_t)i;
		sent++;
		if (send(sock, payload, PAYLOAD, 0) < 0)
			continue;
		do { /* one that was lost may come later */
			uint64_t number[(PAYLOAD + 7) / 8];

			len = recv(sock, number, sizeof(number), 0);
			if (len == PAYLOAD && number[0] == (uint64_t)i) {
				took[back++] = now_ns() - begun;
				break;
			}
		} while (len >= 0);
		if (pause)
			(void)usleep((useconds_t)pause);
	}
	close(sock);
	if (!back) {
		fprintf(stderr, "round_trips: nothing came back\n");
		return 1;
	}
	qsort(took, back, sizeof(took[0]), by_size);
	printf("p50 %lld p99 %lld longest %lld lost %lld\n", (long long)took[back / 2],
	       (long long)took[back * 99 / 100], (long long)took[back - 1], (long long)sent - (long long)back);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "reflect") && atol(argv[2]) > 0)
		return reflect(atol(argv[2]));
	if ((argc == 5 || argc == 6) && !strcmp(argv[1], "ask") && atol(argv[4]) > 0 && atol(argv[4]) <= COUNT_MAX)
		return ask(argv[2], argv[3], atol(argv[4]), argc == 6 ? atol(argv[5]) : 0);
	fprintf(stderr, "usage: round_trips reflect PORT | ask ADDRESS PORT COUNT [PAUSE]\n");
	return 2;
}
