/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker must not do on the packet path, and what it shares with the thread that controls it. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <pthread.h>
#include <stdlib.h>

#include "engine_fixture.h"

static struct fixture f;

/* The linker puts these in the place of the C library's (see meson.build). */
static _Atomic(unsigned int) allocations;
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
	allocations++;
	return __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	allocations++;
	return __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	allocations++;
	return __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	allocations++;
	return __real_aligned_alloc(alignment, size);
}

static void the_packet_path_allocates_nothing(void)
{
	struct fp_engine_config config = fixture_config();
	unsigned int before = allocations;

	fixture_open(&f, &config, false);
	CHECK(allocations > before); /* they are counted */
	before = allocations;
	for (uint16_t i = 0; i < 3000; i++) { /* more flows than the table holds */
		send_packet(&f, 0, PACKET(.sport = i, .dport = (uint16_t)(80 + i % 4), .byte = NEW));
		send_packet(&f, 0, PACKET(.proto = 17, .sport = i, .dport = 53, .byte = NEW));
		send_packet(&f, 1, PACKET(.proto = 17, .sport = i, .dport = 53, .byte = FP_MARK_NO_SAVE));
		send_packet(&f, 0, PACKET(.sport = i, .dport = 80, .byte = FP_MARK_TO_QUEUE | FP_MARK_NO_SAVE));
	}
	CHECK(allocations == before);
	fixture_close(&f);
}

/* ---- bad input ------------------------------------------------------------------------------- */

static void add_packet(struct message *all, uint32_t id, uint16_t port, bool lies)
{
	struct packet_spec spec = PACKET(.sport = 7, .dport = port);
	const uint16_t lie = 0xfff0;
	uint8_t packet[64];
	size_t len = build_packet(&spec, packet);
	struct message m;

	message_packet(&m, id, FP_HOOK_FORWARD);
	message_u32(&m, NFQA_MARK, NEW << 24);
	message_u32(&m, NFQA_IFINDEX_INDEV, 5);
	message_attribute(&m, NFQA_PAYLOAD, packet, len);
	if (lies)
		memcpy(m.data + 32, &lie, 2);
	message_finish(&m);
	memcpy(all->data + all->len, m.data, m.len);
	all->len += m.len;
}

/* One bad message does not hide the others in its datagram, and none of them the datagrams that follow. */
static void a_bad_message_hides_no_packet(void)
{
	struct fp_engine_config config = fixture_config();
	struct message all = { .len = 0 }, m;
	struct pollfd wait = { .events = POLLIN };
	uint8_t buf[64 * 40], empty = 0;
	struct fp_counters c;

	fixture_open(&f, &config, false);
	add_packet(&all, 1, 80, false);
	message_error(&m, -ENOENT);
	memcpy(all.data + all.len, m.data, m.len);
	all.len += m.len;
	add_packet(&all, 2, 80, true);
	message_begin(&m, NLMSG_DONE);
	message_finish(&m);
	memcpy(all.data + all.len, m.data, m.len);
	all.len += m.len;
	add_packet(&all, 3, 99, false);
	CHECK(send(f.kernel[0], &empty, 0, 0) == 0);
	CHECK(send(f.kernel[0], "short", 5, 0) == 5);
	send_message(&f, 0, &all);
	wait.fd = f.kernel[0];
	CHECK(poll(&wait, 1, 5000) == 1);
	CHECK(recv(f.kernel[0], buf, sizeof(buf), 0) >= 3 * 32);
	f.next_id = 4;
	CHECK(send_packet(&f, 0, PACKET(.sport = 8, .dport = 80, .byte = NEW)).verdict == NF_ACCEPT);
	c = counters(&f, 0);
	CHECK(c.packets == 4 && c.allowed == 2 && c.dropped == 2 && c.id_gaps == 0);
	CHECK(c.failures[FP_FAILURE_DECODE_ERROR] == 1 && c.verdict_errors == 1 && c.netlink_errors == 3);
	fixture_close(&f);
}

/* ---- threads --------------------------------------------------------------------------------- */

#define FLOOD 20000u

static void *flood(void *argument)
{
	struct fixture *fixture = argument;
	uint8_t packet[64];
	struct message m;

	for (uint32_t id = 1; id <= FLOOD; id++) {
		struct packet_spec spec = PACKET(.sport = (uint16_t)id, .dport = id & 1 ? 80 : 99);
		size_t len = build_packet(&spec, packet);

		message_packet(&m, id, FP_HOOK_FORWARD);
		message_u32(&m, NFQA_MARK, NEW << 24);
		message_u32(&m, NFQA_IFINDEX_INDEV, 5);
		message_attribute(&m, NFQA_PAYLOAD, packet, len);
		message_finish(&m);
		if (send(fixture->kernel[0], m.data, m.len, 0) < 0)
			break;
	}
	return NULL;
}

static uint32_t drain_verdicts(int fd, uint32_t *next)
{
	uint8_t buf[64 * 40];
	ssize_t got = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	uint32_t n = 0;

	for (ssize_t at = 0; at < got; at += 40, n++)
		CHECK(read_verdict(buf + at).id == (*next)++);
	return n;
}

static void publishing_under_load_loses_nothing_and_frees_everything(void)
{
	static struct fp_event events[256];
	struct fp_engine_config config = fixture_config();
	struct fp_policy *other = fixture_policy(90);
	uint32_t answered = 0, next = 1, round = 0;
	struct fp_counters c;
	uint64_t read = 0;
	pthread_t sender;
	int n;

	config.event_entries = 64;
	fixture_open(&f, &config, false);
	CHECK(!pthread_create(&sender, NULL, flood, &f));
	while (answered < FLOOD && round < 100000000) {
		struct pollfd wait = { .fd = f.kernel[0], .events = POLLIN };

		poll(&wait, 1, 100);
		answered += drain_verdicts(f.kernel[0], &next);
		if (round % 8 == 0)
			fixture_publish(&f, round & 8 ? other : f.policy, 1 + round / 8 % 31);
		n = fp_engine_read_events(f.engine, 0, events, 256);
		read += n > 0 ? (uint64_t)n : 0;
		(void)counters(&f, 0);
		round++;
	}
	pthread_join(sender, NULL);
	CHECK(answered == FLOOD);
	c = counters(&f, 0);
	CHECK(c.packets == FLOOD && c.allowed + c.dropped == FLOOD && c.id_gaps == 0);
	while ((n = fp_engine_read_events(f.engine, 0, events, 256)) > 0)
		read += (uint64_t)n;
	CHECK(read == c.events && c.events + c.events_lost == FLOOD);
	for (int i = 0; i < 1000 && fp_engine_reclaim(f.engine); i++)
		usleep(1000);
	CHECK(fp_engine_reclaim(f.engine) == 0);
	fixture_close(&f);
	fp_policy_release(other);
}

int main(void)
{
	RUN(the_packet_path_allocates_nothing);
	RUN(a_bad_message_hides_no_packet);
	RUN(publishing_under_load_loses_nothing_and_frees_everything);
	return check_result();
}
