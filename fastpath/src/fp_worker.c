/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_worker.h"

#include <netinet/in.h> /* before the kernel's own, which gives way to it */
#include <linux/netfilter.h>
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fp_owner.h"

#define CACHE_ENTRIES 8192u
#define IDLE_POLL_MS 1000
#define TAKEOVER_POLL_MS 100 /* what the kernel numbered has arrived by then */
#define IDLE_AGE_SLOTS 16384u /* an idle worker has time to forget */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- one batch ------------------------------------------------------------------------------- */

static void use_snapshot(struct fp_worker *worker)
{
	const struct fp_snapshot *snapshot = atomic_load(&worker->shared->current);

	for (;;) {
		const struct fp_snapshot *again;

		atomic_store(&worker->using, snapshot);
		again = atomic_load(&worker->shared->current);
		if (again == snapshot)
			break;
		snapshot = again;
	}
	if (snapshot != worker->snapshot)
		FP_GAUGE(worker, generation, snapshot->generation);
	worker->snapshot = snapshot;
}

static void use_none(struct fp_worker *worker)
{
	worker->snapshot = NULL;
	atomic_store_explicit(&worker->using, NULL, memory_order_release);
}

static void send_verdicts(struct fp_worker *worker)
{
	uint32_t count = worker->verdicts.count;

	if (count && fp_nfq_verdict_send(worker->fd, &worker->verdicts) < 0)
		FP_COUNT(worker, verdict_errors, count);
}

/* The packets up to `last` were read by the predecessor, who may have died before he answered. */
static void take_over(struct fp_worker *worker, uint32_t last)
{
	bool allow = worker->look_only || worker->shared->config.takeover_action == FP_VERDICT_ALLOW;

	worker->adopted = false;
	worker->last_id = 0;
	worker->next_id = last + 1;
	if (fp_nfq_answer_leftovers(worker->fd, worker->verdicts.queue, last, allow ? NF_ACCEPT : NF_DROP) < 0)
		FP_COUNT(worker, netlink_errors, 1);
}

static void handle_error(struct fp_worker *worker, const struct fp_nfq_message *message)
{
	int error = message->error;

	if (message->sequence == FP_NFQ_LEFTOVER && (!error || error == -ENOENT)) /* most were answered */
		FP_COUNT(worker, taken_over, !error);
	else if (error == -ENOENT)
		FP_COUNT(worker, verdict_errors, 1);
	else if (error)
		FP_COUNT(worker, netlink_errors, 1);
}

static void handle_datagram(struct fp_worker *worker, const uint8_t *data, size_t len)
{
	struct fp_nfq_message message;

	do {
		ssize_t took = fp_nfq_parse(data, len, &message);
		uint32_t gap;

		if (message.kind == FP_NFQ_PACKET && message.has_id) {
			if (worker->adopted)
				take_over(worker, message.id - 1);
			gap = fp_nfq_gap(&worker->next_id, message.id);
			FP_COUNT(worker, id_gaps, gap);
			FP_COUNT(worker, overruns, gap != 0);
			if (worker->verdicts.count == FP_NFQ_BATCH)
				send_verdicts(worker);
			if (took < 0)
				fp_decide_broken(worker, &message);
			else
				fp_decide_packet(worker, &message);
		} else if (message.kind == FP_NFQ_ERROR) {
			handle_error(worker, &message);
		}
		FP_COUNT(worker, netlink_errors, took < 0);
		if (!message.size) /* where would the next one begin? */
			return;
		data += message.size;
		len -= message.size;
	} while (len);
}

static void tell_reader(struct fp_worker *worker)
{
	const uint64_t one = 1;

	if (!worker->has_events)
		return;
	worker->has_events = false;
	/* EAGAIN: the counter is full, so it is readable anyway. */
	if (write(worker->shared->event_fd, &one, sizeof(one)) < 0)
		return;
}

static void handle_batch(struct fp_worker *worker, unsigned int n)
{
	worker->now = clock_ns(CLOCK_MONOTONIC_COARSE);
	worker->time = clock_ns(CLOCK_REALTIME);
	use_snapshot(worker);
	for (unsigned int i = 0; i < n; i++)
		handle_datagram(worker, worker->slots + i * worker->slot_size, worker->messages[i].msg_len);
	send_verdicts(worker);
	FP_COUNT(worker, batches, 1);
	fp_flow_age(&worker->flows, worker->now, 2 * (size_t)n);
	FP_GAUGE(worker, flow_inserted, worker->flows.inserted);
	FP_GAUGE(worker, flow_evicted, worker->flows.aged);
	FP_GAUGE(worker, flow_full, worker->flows.evicted);
	FP_GAUGE(worker, flows, worker->flows.count);
	tell_reader(worker);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void wait_for_packets(struct fp_worker *worker, bool broken)
{
	struct pollfd fds[2] = {
		{ .fd = worker->shared->stop_fd, .events = POLLIN },
		{ .fd = worker->fd, .events = POLLIN },
	};
	int timeout = worker->last_id ? TAKEOVER_POLL_MS : worker->flows.count ? IDLE_POLL_MS : -1;
	int ready;

	use_none(worker);
	/* A socket that only says that it is broken must not become a busy loop. */
	ready = poll(fds, broken ? 1 : 2, broken ? 10 : timeout);
	if (ready == 0 && !broken && worker->last_id)
		take_over(worker, worker->last_id);
	if (ready == 0 && !broken) {
		fp_flow_age(&worker->flows, clock_ns(CLOCK_MONOTONIC_COARSE), IDLE_AGE_SLOTS);
		FP_GAUGE(worker, flow_evicted, worker->flows.aged);
		FP_GAUGE(worker, flows, worker->flows.count);
	}
}

static void *run(void *argument)
{
	struct fp_worker *worker = argument;

	(void)fp_short_slices();
	while (!atomic_load_explicit(&worker->shared->stop, memory_order_acquire)) {
		int n = recvmmsg(worker->fd, worker->messages, FP_NFQ_BATCH, MSG_DONTWAIT, NULL);

		if (n > 0) {
			handle_batch(worker, (unsigned int)n);
		} else if (errno == ENOBUFS) { /* no memory for an error message */
			FP_COUNT(worker, netlink_errors, 1);
		} else if (errno != EINTR) {
			bool broken = errno != EAGAIN && errno != EWOULDBLOCK;

			if (broken)
				FP_COUNT(worker, netlink_errors, 1);
			wait_for_packets(worker, broken);
		}
	}
	use_none(worker);
	return NULL;
}

int fp_worker_start(struct fp_worker *worker)
{
	sigset_t all, before;
	char name[16];
	int err;

	/* Signals belong to the control process' own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&worker->thread, NULL, run, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err)
		return -err;
	worker->running = true;
	snprintf(name, sizeof(name), worker->look_only ? "fp-look" : "fp-worker-%u", (unsigned int)worker->number);
	pthread_setname_np(worker->thread, name);
	if (worker->cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET((unsigned int)worker->cpu, &set);
		err = pthread_setaffinity_np(worker->thread, sizeof(set), &set);
	}
	return -err;
}

void fp_worker_join(struct fp_worker *worker)
{
	if (!worker->running)
		return;
	pthread_join(worker->thread, NULL);
	worker->running = false;
}

/* ---- life ------------------------------------------------------------------------------------ */

int fp_worker_init(struct fp_worker *worker, struct fp_shared *shared, uint16_t number, int fd, uint16_t queue)
{
	const struct fp_engine_config *config = &shared->config;
	int err;

	memset(worker, 0, sizeof(*worker));
	worker->shared = shared;
	worker->number = number;
	worker->fd = fd;
	worker->owners_fd = -1;
	worker->cpu = -1;
	worker->look_only = number == config->queue_count;
	worker->verdicts.queue = queue;
	if (config->resumed)
		worker->resumed_until = clock_ns(CLOCK_MONOTONIC_COARSE) + (uint64_t)config->flow_idle * 1000000000u;
	/* An odd number of lines, so that the slots' first lines do not all compete for the same cache sets. */
	worker->slot_size = ((config->copy_range + FP_NFQ_HEADROOM) / 64u | 1u) * 64u + 128u;
	worker->slots = aligned_alloc(64, FP_NFQ_BATCH * worker->slot_size);
	worker->messages = calloc(FP_NFQ_BATCH, sizeof(*worker->messages));
	worker->vectors = calloc(FP_NFQ_BATCH, sizeof(*worker->vectors));
	if (!worker->slots || !worker->messages || !worker->vectors)
		return -ENOMEM;
	for (unsigned int i = 0; i < FP_NFQ_BATCH; i++) {
		worker->vectors[i].iov_base = worker->slots + i * worker->slot_size;
		worker->vectors[i].iov_len = worker->slot_size;
		worker->messages[i].msg_hdr.msg_iov = &worker->vectors[i];
		worker->messages[i].msg_hdr.msg_iovlen = 1;
	}
	if (config->owners) {
		worker->owners_fd = fp_owner_open();
		if (worker->owners_fd < 0)
			return worker->owners_fd;
	}
	err = fp_policy_cache_create(CACHE_ENTRIES, &worker->cache);
	if (!err)
		err = fp_flow_table_init(&worker->flows, config->flow_entries, config->flow_idle, &shared->hash_key);
	if (!err)
		err = fp_ring_init(&worker->ring, config->event_entries);
	return err;
}

void fp_worker_free(struct fp_worker *worker)
{
	if (worker->fd >= 0)
		close(worker->fd);
	worker->fd = -1;
	if (worker->owners_fd >= 0)
		close(worker->owners_fd);
	worker->owners_fd = -1;
	fp_ring_free(&worker->ring);
	fp_flow_table_free(&worker->flows);
	fp_policy_cache_free(worker->cache);
	free(worker->vectors);
	free(worker->messages);
	free(worker->slots);
}

void fp_worker_counters(const struct fp_worker *worker, struct fp_counters *out)
{
	const uint64_t *from = (const uint64_t *)&worker->counters;
	uint64_t *to = (uint64_t *)out;

	for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
		to[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
}
