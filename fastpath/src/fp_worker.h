/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_worker: one thread, one queue.
 *
 *      recvmmsg ─▶ for each message: fp_decide_message() ─▶ one send for all verdicts ─▶ recvmmsg …  nothing there: poll
 *
 *  1. What a worker owns, no other thread touches, but for `using` (written here, read by the engine), the counters
 *     (written here, read by anyone, each whole) and the ring's reading side.
 *  2. A snapshot is used from `using` being set until the batch ends: the worker writes the pointer there, then looks
 *     whether it still is the current one. The engine frees what is neither current nor in any `using`. A worker
 *     that waits for packets uses none.
 *  3. Each packet that was read gets exactly one verdict.
 *  4. A batch allocates nothing and takes no lock.
 *  5. Before its first verdict in a queue that it took over, a worker answers what its predecessor had read: all that
 *     is older than the first packet it reads itself, or, if none arrives, all that the kernel had numbered.
 */
#ifndef FP_WORKER_H
#define FP_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fastpath.h"
#include "fp_flow.h"
#include "fp_nfq.h"
#include "fp_policy.h"
#include "fp_prefix.h"
#include "fp_ring.h"

struct fp_snapshot {
	struct fp_prefix_map *identities; /* strong references */
	struct fp_policy *policy;
	uint64_t sequence;           /* 1, 2, 3 ...: tells decisions of different snapshots apart */
	uint8_t generation;
	bool observe;
	struct fp_snapshot *retired; /* the engine's list of what waits to be freed */
};

#define FP_INSPECTORS 256 /* at most */

/* What all workers see. */
struct fp_shared {
	struct fp_engine_config config; /* what it points to: NULL */
	unsigned int mark_shift;
	struct fp_hash_key hash_key;    /* one for all: both directions choose the same inspector at any worker */
	int stop_fd, event_fd;
	_Alignas(64) _Atomic(struct fp_snapshot *) current;
	_Atomic(bool) stop;
	_Atomic(uint64_t) overloaded[FP_INSPECTORS / 64]; /* a bit for each inspector */
	_Atomic(bool) inspectors_wait;
	_Atomic(uint16_t) *inspectors;  /* of each: how many there were before it */
};

struct fp_worker {
	/* hot, this thread only */
	const struct fp_snapshot *snapshot; /* of this batch */
	struct fp_shared *shared;
	uint64_t now;             /* ns, monotonic, of this batch */
	uint64_t time;            /* ns since 1970, of this batch */
	int fd;
	int owners_fd;            /* for fp_owner_find(); -1: local sockets are no endpoints */
	uint16_t number;
	bool look_only;
	bool has_events;          /* this batch pushed some */
	bool adopted;             /* from another process, whose last packets are not answered yet */
	uint32_t next_id;
	uint32_t last_id;         /* adopted: as fp_engine_config.last_ids, else 0 */
	uint64_t resumed_until;   /* ns, as fp_engine_config.resumed; 0: not resumed */
	struct fp_policy_cache *cache;
	struct fp_flow_table flows;
	struct fp_nfq_verdicts verdicts;
	/* reading */
	struct mmsghdr *messages;
	struct iovec *vectors;
	uint8_t *slots;
	size_t slot_size;
	/* shared with other threads */
	_Alignas(64) _Atomic(const struct fp_snapshot *) using;
	_Alignas(64) struct fp_counters counters;
	struct fp_ring ring;
	/* control */
	pthread_t thread;
	bool running;
	int cpu;                  /* -1: not pinned */
};

/* Counters are written by one thread and read by others. */
#define FP_COUNT(worker, field, n) FP_GAUGE(worker, field, (worker)->counters.field + (n))
#define FP_GAUGE(worker, field, value) __atomic_store_n(&(worker)->counters.field, (value), __ATOMIC_RELAXED)

/* fd: of the queue; owned by the worker from here on, also on failure. -ENOMEM. */
int fp_worker_init(struct fp_worker *worker, struct fp_shared *shared, uint16_t number, int fd, uint16_t queue);
int fp_worker_start(struct fp_worker *worker);
void fp_worker_join(struct fp_worker *worker); /* shared->stop is set */
void fp_worker_free(struct fp_worker *worker);
void fp_worker_counters(const struct fp_worker *worker, struct fp_counters *out);

/* One packet: its verdict goes to worker->verdicts, its event to the ring. In fp_decide.c. */
void fp_decide_packet(struct fp_worker *worker, const struct fp_nfq_message *message);
/* A message that named a packet and then made no sense. */
void fp_decide_broken(struct fp_worker *worker, const struct fp_nfq_message *message);

#endif
