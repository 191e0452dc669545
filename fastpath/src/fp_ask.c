/* SPDX-License-Identifier: Apache-2.0 */
/* From a packet to a question, in the direction of its flow. */
#include <string.h>

#include "fp_ask.h"
#include "fp_owner.h"

/* ---- direction ------------------------------------------------------------------------------- */

static void swap32(uint32_t *a, uint32_t *b)
{
	uint32_t t = *a;

	*a = *b;
	*b = t;
}

static uint8_t turned_hook(uint8_t hook)
{
	return hook == FP_HOOK_INPUT ? FP_HOOK_OUTPUT : hook == FP_HOOK_OUTPUT ? FP_HOOK_INPUT : hook;
}

void fp_ask_turn_place(struct fp_job *job)
{
	swap32(&job->iif, &job->oif);
	job->hook = turned_hook(job->hook);
}

/* The ICMP query to which this type answers (RFC 792, 950, 4443), or the type itself. */
static uint8_t query_type(uint8_t family, uint8_t type)
{
	if (family == 6)
		return type == 129 ? 128 : type;
	switch (type) {
	case 0:
		return 8;
	case 14:
	case 16:
	case 18:
		return (uint8_t)(type - 1);
	default:
		return type;
	}
}

void fp_ask_turn(struct fp_job *job)
{
	struct fp_packet *packet = &job->packet;
	bool unknown = job->source_unknown;
	uint8_t addr[16];

	memcpy(addr, packet->src, sizeof(addr));
	memcpy(packet->src, packet->dst, sizeof(addr));
	memcpy(packet->dst, addr, sizeof(addr));
	if (packet->flags & FP_PACKET_ECHO_REPLY) {
		packet->icmp_type = query_type(packet->family, packet->icmp_type);
		packet->flags &= (uint8_t)~FP_PACKET_ECHO_REPLY;
	} else if (!(packet->flags & FP_PACKET_ECHO)) { /* an identifier stays where it is */
		uint16_t port = packet->sport;

		packet->sport = packet->dport;
		packet->dport = port;
	}
	fp_ask_turn_place(job);
	job->source_unknown = job->destination_unknown;
	job->destination_unknown = unknown;
}

/* ---- asking ---------------------------------------------------------------------------------- */

/* The identity of an owner in the map. Without an interface it is something around it: policy knows ::/0 or the like. */
static uint32_t owner_identity(const struct fp_worker *worker, const uint8_t addr[16])
{
	struct fp_prefix_value value = fp_prefix_map_lookup(worker->snapshot->identities, addr);

	return value.ifindex ? value.identity : FP_WORLD;
}

/* Whose socket is at this machine's end, if that is an endpoint. */
static uint32_t find_owner(const struct fp_worker *worker, const struct fp_job *job)
{
	bool source = job->hook == FP_HOOK_OUTPUT;
	struct fp_owner owner;
	uint32_t identity = FP_WORLD;
	uint8_t addr[16];

	if (fp_owner_find(worker->owners_fd, &job->packet, source, source ? job->oif : job->iif, &owner))
		owner = (struct fp_owner){ .uid = job->message->hook == FP_HOOK_OUTPUT ? job->message->uid : FP_NONE };
	if (owner.cgroup) {
		fp_owner_cgroup_address(owner.cgroup, addr);
		identity = owner_identity(worker, addr);
	}
	if (identity == FP_WORLD && owner.uid != FP_NONE) {
		fp_owner_user_address(owner.uid, addr);
		identity = owner_identity(worker, addr);
	}
	return identity;
}

void fp_ask(struct fp_worker *worker, struct fp_job *job)
{
	const struct fp_packet *packet = &job->packet;
	struct fp_prefix_value ends[2];
	uint8_t addrs[2][16];

	memcpy(addrs[0], packet->src, sizeof(addrs[0]));
	memcpy(addrs[1], packet->dst, sizeof(addrs[1]));
	fp_prefix_map_lookup_many(worker->snapshot->identities, (const uint8_t (*)[16])addrs, 2, ends);
	job->query = (struct fp_query){
		.source = job->source_unknown ? FP_WORLD : ends[0].identity,
		.destination = job->destination_unknown ? FP_WORLD : ends[1].identity,
		.iif = job->iif,
		.oif = job->oif,
		.sport = packet->sport,
		.dport = packet->dport,
		.proto = packet->proto,
		.family = packet->family,
		.icmp_type = packet->icmp_type,
		.icmp_code = packet->icmp_code,
		.hook = job->hook,
		.flags = (uint8_t)((packet->flags & FP_PACKET_NO_PORTS ? FP_QUERY_NO_PORTS : 0) |
				   (job->pre_dnat ? FP_QUERY_PRE_DNAT : 0)),
	};
	if (worker->owners_fd >= 0 && (job->hook == FP_HOOK_INPUT || job->hook == FP_HOOK_OUTPUT))
		job->query.owner = find_owner(worker, job);
	if (fp_policy_decide_cached(worker->snapshot->policy, worker->cache, &job->query, &job->decision))
		FP_COUNT(worker, pair_hits, 1);
	else
		FP_COUNT(worker, pair_misses, 1);
}

void fp_ask_both(struct fp_worker *worker, struct fp_job *job)
{
	struct fp_job other = *job;

	fp_ask(worker, job);
	if (!fp_answer_denies(job->decision.verdict))
		return;
	fp_ask_turn(&other);
	other.pre_dnat = false;
	fp_ask(worker, &other);
	if (fp_answer_denies(other.decision.verdict))
		return;
	other.pre_dnat = job->pre_dnat;
	*job = other;
}
