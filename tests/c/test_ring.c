/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_ring.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>

#include "check.h"

#define MANY 200000u

static bool push(struct fp_ring *ring, uint64_t number, uint64_t spare)
{
	struct fp_event *event = fp_ring_reserve(ring, spare);

	if (!event)
		return false;
	*event = (struct fp_event){ .time = number, .flow = ~number };
	fp_ring_push(ring);
	return true;
}

static void a_full_ring_loses_the_newest(void)
{
	struct fp_event out[64];
	struct fp_ring ring;

	CHECK(fp_ring_init(&ring, (1u << 24) + 1) == -EINVAL);
	CHECK(fp_ring_init(&ring, 17) == 0);
	CHECK(ring.mask == 31);
	for (uint64_t i = 0; i < 32; i++)
		CHECK(push(&ring, i, 0));
	CHECK(!push(&ring, 99, 0));
	CHECK(fp_ring_read(&ring, out, 5) == 5 && out[0].time == 0 && out[4].time == 4);
	CHECK(push(&ring, 32, 0));
	CHECK(fp_ring_read(&ring, out, 64) == 28 && out[0].time == 5 && out[27].time == 32);
	CHECK(fp_ring_read(&ring, out, 64) == 0);
	fp_ring_free(&ring);
}

static void room_can_be_kept_for_what_matters(void)
{
	struct fp_ring ring;
	unsigned int n = 0;

	CHECK(fp_ring_init(&ring, 16) == 0);
	while (push(&ring, n, 4))
		n++;
	CHECK(n == 12);
	CHECK(push(&ring, n, 0));
	fp_ring_free(&ring);
}

static void *write_many(void *argument)
{
	struct fp_ring *ring = argument;

	for (uint64_t i = 0; i < MANY;)
		if (push(ring, i, 0))
			i++;
		else
			sched_yield();
	return NULL;
}

static void two_threads_agree_on_every_event(void)
{
	struct fp_event out[48];
	struct fp_ring ring;
	pthread_t writer;
	uint64_t expected = 0;
	bool right = true;

	CHECK(fp_ring_init(&ring, 64) == 0);
	CHECK(!pthread_create(&writer, NULL, write_many, &ring));
	while (expected < MANY) {
		uint32_t n = fp_ring_read(&ring, out, 48);

		if (!n)
			sched_yield();
		for (uint32_t i = 0; i < n; i++, expected++)
			right = right && out[i].time == expected && out[i].flow == ~expected;
	}
	pthread_join(writer, NULL);
	CHECK(right);
	fp_ring_free(&ring);
}

int main(void)
{
	RUN(a_full_ring_loses_the_newest);
	RUN(room_can_be_kept_for_what_matters);
	RUN(two_threads_agree_on_every_event);
	return check_result();
}
