/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- configuration --------------------------------------------------------------------------- */

static bool overlap(uint32_t first, uint32_t count, uint32_t other, uint32_t other_count)
{
	return count && other_count && first < other + other_count && other < first + count;
}

static bool valid_queues(const struct fp_engine_config *config)
{
	uint32_t look_count = config->look_queue == FP_QUEUE_NONE ? 0 : 1;

	/* 65535 cannot be addressed beside FP_QUEUE_NONE. */
	return config->queue_count && config->queue_first + (uint32_t)config->queue_count <= FP_QUEUE_NONE &&
	       config->slow_first + (uint32_t)config->slow_count <= FP_QUEUE_NONE &&
	       config->slow_count <= FP_INSPECTORS &&
	       !overlap(config->queue_first, config->queue_count, config->slow_first, config->slow_count) &&
	       !overlap(config->queue_first, config->queue_count, config->look_queue, look_count) &&
	       !overlap(config->slow_first, config->slow_count, config->look_queue, look_count);
}

static bool valid_config(const struct fp_engine_config *config)
{
	uint32_t mask = config->mark_mask;

	if (config->api_version != FP_API_VERSION || !valid_queues(config))
		return false;
	if (!mask || mask >> __builtin_ctz(mask) != 0xff)
		return false;
	if (config->queue_length < 1 || config->queue_length > 65535 || config->copy_range < 128 ||
	    config->copy_range > 65531)
		return false;
	for (unsigned int i = 0; i < FP_FAILURE_COUNT; i++)
		if (config->failure_action[i] > FP_VERDICT_REJECT && config->failure_action[i] != FP_FAILURE_POLICY)
			return false;
	return true;
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static int make_snapshot(struct fp_engine *engine, const struct fp_snapshot_refs *refs, struct fp_snapshot **out)
{
	struct fp_snapshot *snapshot;

	if (!refs->identities || !refs->policy || refs->generation < FP_GENERATION_MIN ||
	    refs->generation > FP_GENERATION_MAX)
		return -EINVAL;
	snapshot = calloc(1, sizeof(*snapshot));
	if (!snapshot)
		return -ENOMEM;
	snapshot->identities = fp_prefix_map_acquire(refs->identities);
	snapshot->policy = fp_policy_acquire(refs->policy);
	snapshot->sequence = ++engine->sequence;
	snapshot->generation = (uint8_t)refs->generation;
	snapshot->observe = refs->observe;
	*out = snapshot;
	return 0;
}

static void free_snapshot(struct fp_snapshot *snapshot)
{
	if (!snapshot)
		return;
	fp_prefix_map_release(snapshot->identities);
	fp_policy_release(snapshot->policy);
	free(snapshot);
}

static bool in_use(const struct fp_engine *engine, const struct fp_snapshot *snapshot)
{
	for (uint32_t i = 0; i < engine->n_workers; i++)
		if (atomic_load(&engine->workers[i].using) == snapshot)
			return true;
	return false;
}

int fp_engine_publish(struct fp_engine *engine, const struct fp_snapshot_refs *next)
{
	struct fp_snapshot *snapshot, *old;
	int err = make_snapshot(engine, next, &snapshot);

	if (err)
		return err;
	old = atomic_exchange(&engine->shared.current, snapshot);
	old->retired = engine->retired;
	engine->retired = old;
	(void)fp_engine_reclaim(engine);
	return 0;
}

int fp_engine_overload(struct fp_engine *engine, uint32_t inspector, int overloaded)
{
	uint64_t bit = 1ull << inspector % 64;

	if (inspector >= engine->shared.config.slow_count)
		return -EINVAL;
	if (overloaded)
		atomic_fetch_or_explicit(&engine->shared.overloaded[inspector / 64], bit, memory_order_relaxed);
	else
		atomic_fetch_and_explicit(&engine->shared.overloaded[inspector / 64], ~bit, memory_order_relaxed);
	return 0;
}

int fp_engine_reclaim(struct fp_engine *engine)
{
	struct fp_snapshot **link = &engine->retired;
	int waiting = 0;

	while (*link) {
		struct fp_snapshot *snapshot = *link;

		if (in_use(engine, snapshot)) {
			waiting++;
			link = &snapshot->retired;
		} else {
			*link = snapshot->retired;
			free_snapshot(snapshot);
		}
	}
	return waiting;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* fd: the queue's own, or -1. */
static int open_queue(const struct fp_engine_config *config, uint16_t queue, int fd)
{
	const struct fp_nfq_options options = {
		.queue_length = config->queue_length,
		.copy_range = config->copy_range,
		.receive_buffer = config->receive_buffer,
		.fail_open = config->fail_open || queue == config->look_queue,
		.gso = config->gso,
	};

	if (fd >= 0) {
		int err = fp_nfq_adopt(fd, queue, &options);

		return err ? err : fd;
	}
	return fp_nfq_open(queue, &options);
}

/* What was handed in is the caller's again. */
static void disown(struct fp_engine *engine, const int32_t *fds)
{
	for (uint32_t i = 0; fds && i < engine->n_workers; i++)
		if (fds[i] >= 0)
			engine->workers[i].fd = -1;
}

static int open_workers(struct fp_engine *engine, const struct fp_engine_config *config, const int *fds,
			uint16_t *bad_queue)
{
	uint32_t total = config->queue_count + (config->look_queue == FP_QUEUE_NONE ? 0u : 1u);

	engine->workers = aligned_alloc(_Alignof(struct fp_worker), total * sizeof(*engine->workers));
	if (!engine->workers)
		return -ENOMEM;
	for (uint32_t i = 0; i < total; i++) {
		uint16_t queue = i < config->queue_count ? (uint16_t)(config->queue_first + i) : config->look_queue;
		int given = config->fds ? config->fds[i] : -1;
		int fd = fds ? fds[i] : open_queue(config, queue, given);
		int err;

		if (fd < 0) {
			if (bad_queue)
				*bad_queue = queue;
			return fd;
		}
		err = fp_worker_init(&engine->workers[i], &engine->shared, (uint16_t)i, fd, queue);
		engine->n_workers++;
		engine->workers[i].adopted = given >= 0 || (fds && config->last_ids);
		engine->workers[i].last_id = config->last_ids ? config->last_ids[i] : 0;
		if (err)
			return err;
		if (engine->cpus && i < config->queue_count)
			engine->workers[i].cpu = engine->cpus[i];
	}
	return 0;
}

static int open_shared(struct fp_engine *engine, const struct fp_engine_config *config)
{
	struct fp_shared *shared = &engine->shared;

	shared->config = *config;
	shared->config.cpus = NULL;
	shared->config.fds = NULL;
	shared->config.last_ids = NULL;
	shared->mark_shift = (unsigned int)__builtin_ctz(config->mark_mask);
	if (config->cpus) {
		engine->cpus = calloc(config->queue_count, sizeof(*engine->cpus));
		if (!engine->cpus)
			return -ENOMEM;
		memcpy(engine->cpus, config->cpus, config->queue_count * sizeof(*engine->cpus));
	}
	shared->inspectors = calloc(config->slow_count ? config->slow_count : 1, sizeof(*shared->inspectors));
	if (!shared->inspectors)
		return -ENOMEM;
	shared->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	shared->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (shared->stop_fd < 0 || shared->event_fd < 0)
		return -errno;
	return fp_hash_key_random(&shared->hash_key);
}

int fp_engine_open_sockets(const struct fp_engine_config *config, const struct fp_snapshot_refs *first, const int *fds,
			   struct fp_engine **out, uint16_t *bad_queue)
{
	struct fp_snapshot *snapshot = NULL;
	struct fp_engine *engine;
	int err;

	if (!valid_config(config))
		return -EINVAL;
	engine = aligned_alloc(_Alignof(struct fp_engine), sizeof(*engine));
	if (!engine)
		return -ENOMEM;
	memset(engine, 0, sizeof(*engine));
	engine->shared.stop_fd = engine->shared.event_fd = -1;
	err = open_shared(engine, config);
	if (!err)
		err = make_snapshot(engine, first, &snapshot);
	if (!err) {
		/* Published before a queue exists, so that no worker ever meets none. */
		atomic_store(&engine->shared.current, snapshot);
		err = open_workers(engine, config, fds, bad_queue);
	}
	if (err) {
		disown(engine, config->fds);
		fp_engine_free(engine);
		return err;
	}
	*out = engine;
	return 0;
}

int fp_engine_open(const struct fp_engine_config *config, const struct fp_snapshot_refs *first,
		   struct fp_engine **out, uint16_t *bad_queue)
{
	return fp_engine_open_sockets(config, first, NULL, out, bad_queue);
}

int fp_engine_start(struct fp_engine *engine)
{
	for (uint32_t i = 0; i < engine->n_workers; i++) {
		int err = engine->workers[i].running ? -EALREADY : fp_worker_start(&engine->workers[i]);

		if (err) {
			if (err != -EALREADY)
				(void)fp_engine_stop(engine);
			return err;
		}
	}
	return 0;
}

static int stop_workers(struct fp_engine *engine)
{
	const uint64_t one = 1;
	int err = 0;

	atomic_store_explicit(&engine->shared.stop, true, memory_order_release);
	if (write(engine->shared.stop_fd, &one, sizeof(one)) < 0)
		err = -errno;
	for (uint32_t i = 0; i < engine->n_workers; i++)
		fp_worker_join(&engine->workers[i]);
	return err;
}

int fp_engine_stop(struct fp_engine *engine)
{
	int err = stop_workers(engine);

	for (uint32_t i = 0; i < engine->n_workers; i++) {
		if (engine->workers[i].fd >= 0)
			close(engine->workers[i].fd);
		engine->workers[i].fd = -1;
	}
	return err;
}

int fp_engine_release(struct fp_engine *engine)
{
	int err = stop_workers(engine);

	for (uint32_t i = 0; i < engine->n_workers; i++)
		engine->workers[i].fd = -1;
	return err;
}

int fp_engine_fds(const struct fp_engine *engine, int32_t *out, uint32_t n)
{
	if (n < engine->n_workers)
		return -ENOSPC;
	for (uint32_t i = 0; i < engine->n_workers; i++)
		out[i] = engine->workers[i].fd;
	return (int)engine->n_workers;
}

void fp_engine_free(struct fp_engine *engine)
{
	if (!engine)
		return;
	if (engine->shared.stop_fd >= 0)
		(void)fp_engine_stop(engine);
	for (uint32_t i = 0; i < engine->n_workers; i++)
		fp_worker_free(&engine->workers[i]);
	(void)fp_engine_reclaim(engine);
	free_snapshot(atomic_load(&engine->shared.current));
	if (engine->shared.stop_fd >= 0)
		close(engine->shared.stop_fd);
	if (engine->shared.event_fd >= 0)
		close(engine->shared.event_fd);
	free(engine->cpus);
	free(engine->shared.inspectors);
	free(engine->workers);
	free(engine);
}

/* ---- inspectors ------------------------------------------------------------------------------ */

void fp_engine_inspectors_wait(struct fp_engine *engine, int waiting)
{
	atomic_store(&engine->shared.inspectors_wait, waiting != 0);
}

int fp_engine_inspector_lost(struct fp_engine *engine, uint32_t number)
{
	if (number >= engine->shared.config.slow_count)
		return -EINVAL;
	atomic_fetch_add(&engine->shared.inspectors[number], 1);
	return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

uint32_t fp_engine_workers(const struct fp_engine *engine)
{
	return engine->n_workers;
}

int fp_engine_event_fd(const struct fp_engine *engine)
{
	return engine->shared.event_fd;
}

int fp_engine_read_events(struct fp_engine *engine, uint32_t worker, struct fp_event *out, uint32_t max)
{
	if (worker >= engine->n_workers || max > INT32_MAX)
		return -EINVAL;
	return (int)fp_ring_read(&engine->workers[worker].ring, out, max);
}

int fp_engine_counters(const struct fp_engine *engine, uint32_t worker, struct fp_counters *out)
{
	if (worker >= engine->n_workers)
		return -EINVAL;
	fp_worker_counters(&engine->workers[worker], out);
	return 0;
}
