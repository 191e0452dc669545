/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fastpath: decide packets that the kernel hands up through NFQUEUE.
 *
 * One engine owns N worker threads; a worker owns one netlink socket, one NFQUEUE and one flow
 * table, and shares nothing with other workers but the snapshot that is in force.
 *
 *      kernel ──▶ worker ──▶ parse ▸ flow ▸ identity ▸ policy ──▶ verdict + mark ──▶ kernel
 *                    ▲                                   └──▶ event ring ──▶ control process
 *                    └── snapshot: identity map + policy, immutable, swapped atomically
 *
 * Contract
 *  1. Every function returns 0 or a count on success and a negative errno on failure. Nothing is printed.
 *  2. Control functions (everything that takes an engine) are called by one thread at a time; the
 *     workers are not the caller's concern. Reading events and counters needs no lock.
 *  3. Identity maps and policies are immutable once built and counted by reference. A snapshot takes a
 *     reference of each; fp_engine_publish() takes over the snapshot and frees the previous one when
 *     every worker has passed a batch boundary (fp_engine_reclaim()).
 *  4. The packet path allocates nothing, takes no lock and never waits for the control process.
 *  5. Addresses are 16 bytes in network order; IPv4 is written as ::ffff:a.b.c.d. Ports are in host order.
 *  6. Tables handed in are copied; the caller may free its own at once.
 */
#ifndef FASTPATH_H
#define FASTPATH_H

#include <stddef.h>
#include <stdint.h>

#define FP_API_VERSION 1u

#define FP_NONE 0xffffffffu /* no predicate, no chain, no rule */
#define FP_WORLD 0u         /* the identity of an address that nothing is known about */

/* ---- the eight mark bits ---------------------------------------------------------------------
 * They stand at the position of the configured mask; B is the mark shifted down to that byte.
 *   up    (classify → worker)     1 r s pp n 00   to-queue, Reply, do-not-Save, Previous fate, New
 *         (failsafe → worker)     0 r 1 00 0 00   look only: never drop, never save
 *         (classify → worker)     1 r w ww 1 00   ww not 0: preDNAT policy has answered for the host it came in by.
 *               www: 001 new flow; 010 known, its fate was allow; 011 drop or reject; 110 none; 101 this packet only
 *   slow  (worker → inspector)    r ggggg 00      Reply, Generation; generation 0: look only
 *   down  (any → obey)            x ggggg ff      Generation, Fate; all zero: this packet only; x: see DOWN_RESET
 */
#define FP_MARK_TO_QUEUE 0x80u
#define FP_MARK_REPLY 0x40u
#define FP_MARK_NO_SAVE 0x20u
#define FP_MARK_PREVIOUS_SHIFT 3
#define FP_MARK_PREVIOUS 0x18u
#define FP_MARK_NEW 0x04u
#define FP_MARK_PRE_DNAT_BITS 0x38u    /* www, where FP_MARK_NEW is set and FP_MARK_PREVIOUS is not 0 */
#define FP_MARK_PRE_DNAT_NEW 0x08u
#define FP_MARK_PRE_DNAT_ALLOWED 0x10u
#define FP_MARK_PRE_DNAT_DENIED 0x18u
#define FP_MARK_PRE_DNAT_UNKNOWN 0x30u
#define FP_MARK_PRE_DNAT_ONCE 0x28u
#define FP_MARK_SLOW_REPLY 0x80u
#define FP_MARK_GENERATION_SHIFT 2
#define FP_MARK_GENERATION 0x7cu
#define FP_MARK_FATE 0x03u
#define FP_MARK_DOWN_RESET 0x80u /* an inspector's, with fate reject: the packet is now the reset, let it go on */
#define FP_GENERATION_MIN 1u
#define FP_GENERATION_MAX 31u

enum fp_fate { FP_FATE_NONE = 0, FP_FATE_ALLOW = 1, FP_FATE_DROP = 2, FP_FATE_REJECT = 3 };

enum fp_hook { FP_HOOK_INPUT = 1, FP_HOOK_FORWARD = 2, FP_HOOK_OUTPUT = 3 }; /* as NF_INET_* */

/* What a worker or the policy says of a packet. */
enum fp_verdict {
	FP_VERDICT_ALLOW = 0,
	FP_VERDICT_DROP = 1,
	FP_VERDICT_REJECT = 2,
	FP_VERDICT_INSPECT = 3, /* allowed by policy, to be looked at by an inspector */
};

/* ---- identity map: address → identity --------------------------------------------------------
 * Longest-prefix match over IPv4 and IPv6; no IPv6 prefix covers an IPv4 address. Persistent: an update makes a new map that shares what
 * did not change with the old one. */
struct fp_prefix_entry {
	uint8_t addr[16];  /* host bits are ignored */
	uint8_t len;       /* bits, 0..128; IPv4 prefixes are 96 + their length */
	uint8_t reserved[3];
	uint32_t identity;
	uint32_t ifindex;  /* where this source address may come from; 0: anywhere */
};

struct fp_prefix_value {
	uint32_t identity;
	uint32_t ifindex;
};

struct fp_prefix_map;

int fp_prefix_map_build(const struct fp_prefix_entry *entries, size_t n, struct fp_prefix_map **out);
/* A new map: old without `remove` (identity and ifindex ignored), with `set` added or replaced. */
int fp_prefix_map_update(struct fp_prefix_map *old, const struct fp_prefix_entry *set, size_t n_set,
			 const struct fp_prefix_entry *remove, size_t n_remove,
			 struct fp_prefix_map **out);
struct fp_prefix_value fp_prefix_map_lookup(const struct fp_prefix_map *map, const uint8_t addr[16]);
/* The same for n addresses, which wait for memory together instead of one after the other. */
void fp_prefix_map_lookup_many(const struct fp_prefix_map *map, const uint8_t (*addrs)[16], size_t n,
			       struct fp_prefix_value *out);
size_t fp_prefix_map_count(const struct fp_prefix_map *map);  /* prefixes */
size_t fp_prefix_map_memory(const struct fp_prefix_map *map); /* bytes, shared parts included */
/* Writes all prefixes, in the order in which fp_prefix_map_build() is fastest. idle: rests so many times as long as it
 * works, in steps of some thousand prefixes: this can wait. -ENOSPC: n is less than their count, -ENOMEM. Returns 0. */
int fp_prefix_map_export(const struct fp_prefix_map *map, struct fp_prefix_entry *out, size_t n, uint32_t idle);
void fp_prefix_map_release(struct fp_prefix_map *map);

/* ---- lists of prefixes ------------------------------------------------------------------------
 * What threat feeds are made of. A list is n records, sorted as memcmp() does, each once: a prefix stands before all
 * that it contains, with nothing foreign between. A disjoint list has no prefix inside another one. None of these
 * functions keeps a pointer; all but _sort() and _merge() allocate nothing. */
#define FP_LIST_RECORD 17u

struct fp_list_record {
	uint8_t addr[16]; /* host bits are 0 */
	uint8_t len;      /* as in struct fp_prefix_entry */
};

struct fp_list_line {
	uint32_t offset, length; /* bytes, without the line's end */
	uint32_t number;         /* from 1 */
};

/* How far a text has been read; all zero at its beginning. */
struct fp_list_reader {
	size_t offset;
	uint32_t number;     /* lines before offset */
	size_t records, lines; /* written by the last call */
};

/* A line with one address or prefix and blanks around it is a record (host bits dropped), in the order of the text; an
 * empty one is nothing, any other is named in `lines`. Leading zeros are no address. Stops where an array is full: call
 * it again until offset == size. -EFBIG: more text than offsets reach. */
int fp_list_read(const char *text, size_t size, struct fp_list_reader *reader, struct fp_list_record *records,
		 size_t max_records, struct fp_list_line *lines, size_t max_lines);
/* Sorts records in any order and drops those that are there more than once. Returns how many are left. */
int64_t fp_list_sort(struct fp_list_record *records, size_t n);
int fp_list_check(const struct fp_list_record *records, size_t n); /* -EINVAL: this is no list */
/* Without the prefixes that another one contains; out has room for n. */
size_t fp_list_disjoint(const struct fp_list_record *records, size_t n, struct fp_list_record *out);
size_t fp_list_find(const struct fp_list_record *records, size_t n, const struct fp_list_record *wanted); /* or behind */
/* What is in b and not in a, and the other way round; room for n_b and n_a. */
void fp_list_difference(const struct fp_list_record *a, size_t n_a, const struct fp_list_record *b, size_t n_b,
			struct fp_list_record *added, size_t *n_added, struct fp_list_record *removed, size_t *n_removed);
/* values_b[i] becomes the value that b[i] has in a, where it is in a. */
void fp_list_carry(const struct fp_list_record *a, const uint32_t *values_a, size_t n_a,
		   const struct fp_list_record *b, uint32_t *values_b, size_t n_b);
void fp_list_count(const struct fp_list_record *records, size_t n, uint64_t out[4]); /* IPv4, IPv6, IPv4 and IPv6 networks */

struct fp_list_layer {
	const struct fp_list_record *records; /* disjoint */
	size_t n;
};

/* An entry for each prefix in `base` (sorted as a list) or in a layer. `identity` of an entry is an index into states:
 * what an address in it has, the base's identity and one bit for each layer that lists it. A state is 1 + (n_layers +
 * 31) / 32 words; state 0 is FP_WORLD and no layer. `ifindex` is the base's where the prefix is the base's, else 0.
 * IPv6 says nothing about IPv4. entries: room for all. Returns how many entries; -ENOSPC: more than max_states. */
int64_t fp_list_merge(const struct fp_prefix_entry *base, size_t n_base, const struct fp_list_layer *layers, size_t n_layers,
		      struct fp_prefix_entry *entries, uint32_t *states, size_t max_states, size_t *n_states);
/* Puts identities in place of states. -EINVAL: an index out of range. */
int fp_list_name(struct fp_prefix_entry *entries, size_t n, const uint32_t *identities, size_t n_states);
/* For fp_prefix_map_update(): entries of `new` that are not the same in `old`, and those that are only there. */
void fp_list_changes(const struct fp_prefix_entry *old_entries, size_t n_old, const struct fp_prefix_entry *new_entries,
		     size_t n_new, struct fp_prefix_entry *set, size_t *n_set, struct fp_prefix_entry *remove, size_t *n_remove);

/* ---- policy: (identities, protocol, ports) → verdict and deciding rule -----------------------
 * A chain is an ordered list of rules: tiers flattened in order, the end of each tier as a rule of
 * its own, then profiles. The first matching rule that is not LOG decides; PASS goes on at the
 * rule's `pass_to`. Nothing matched: the chain's default action.
 * A predicate is a statement about an identity, decided when the policy is compiled: for each
 * identity the sorted list of the predicates that hold. */
enum fp_action {
	FP_ACTION_ALLOW = 0,
	FP_ACTION_DENY = 1,   /* drop */
	FP_ACTION_REJECT = 2,
	FP_ACTION_PASS = 3,
	FP_ACTION_LOG = 4,
	FP_ACTION_NEXT = 5,   /* chain default only: no opinion, ask the next chain */
};

#define FP_RULE_INSPECT 0x01u      /* what this rule allows is inspected */
#define FP_RULE_NOT_PROTO 0x02u    /* `not_proto` is set */
#define FP_RULE_PROTO 0x04u        /* `proto` is set */
#define FP_RULE_ICMP_TYPE 0x08u
#define FP_RULE_ICMP_CODE 0x10u
#define FP_RULE_NOT_ICMP_TYPE 0x20u
#define FP_RULE_NOT_ICMP_CODE 0x40u
#define FP_RULE_V4 0x80u           /* IPv4 only */
#define FP_RULE_V6 0x100u          /* IPv6 only */

/* One way for a port to match: any identity or one with `predicate`, any protocol (0) or `proto`.
 * A named port or a service is a list of these. `predicate` is asked of the side the port is on. */
struct fp_port_term {
	uint32_t predicate; /* or FP_NONE */
	uint16_t first, last;
	uint8_t proto;
	uint8_t reserved[3];
};

struct fp_port_terms {
	uint32_t first, count; /* into the table of port terms; count 0: any port */
};

struct fp_rule {
	uint32_t id;            /* the caller's number for this rule, reported with decisions */
	uint32_t source;        /* predicate of the source identity, or FP_NONE */
	uint32_t destination;   /* predicate of the destination identity, or FP_NONE */
	uint32_t pass_to;       /* index in the rule table; PASS only */
	struct fp_port_terms sport, not_sport, dport, not_dport;
	uint16_t flags;         /* FP_RULE_* */
	uint8_t action;         /* enum fp_action */
	uint8_t proto, not_proto;
	uint8_t icmp_type, icmp_code, not_icmp_type, not_icmp_code; /* code needs type */
	uint8_t reserved[3];
};

struct fp_chain {
	uint32_t first, count;   /* into the rule table */
	uint32_t default_rule;   /* rule id reported when nothing matched */
	uint8_t default_action;  /* ALLOW, DENY, REJECT or NEXT */
	uint8_t reserved[3];
};

/* Chains of an identity that is an endpoint governed by this node; FP_NONE: not governed.
 * `staged_*`: the same with staged policies in force (equal where there are none). */
struct fp_identity_chains {
	uint32_t ingress, egress, staged_ingress, staged_egress;
};

/* Chains of a host endpoint's interface; ifindex 0 is every interface without an entry of its own. */
struct fp_interface_chains {
	uint32_t ifindex;
	uint32_t host_ingress, host_egress, forward_ingress, forward_egress;
	uint32_t staged_host_ingress, staged_host_egress, staged_forward_ingress, staged_forward_egress;
};

struct fp_policy_tables {
	const struct fp_rule *rules;
	uint32_t n_rules;
	const struct fp_port_term *port_terms;
	uint32_t n_port_terms;
	const struct fp_chain *chains;
	uint32_t n_chains;
	/* predicates that hold for identity i: predicates[predicate_offsets[i] .. predicate_offsets[i + 1]) sorted */
	const uint32_t *predicate_offsets; /* n_identities + 1 */
	const uint32_t *predicates;
	uint32_t n_predicates;             /* numbers of predicates are below this */
	const struct fp_identity_chains *identities;
	uint32_t n_identities;
	const struct fp_interface_chains *interfaces;
	uint32_t n_interfaces;
	/* Asked before everything else, default NEXT: threat feeds. `source` or `destination` name the feed. */
	uint32_t feed_chain;               /* or FP_NONE */
	/* What policy allows and one of these terms matches (destination port, in original direction) is inspected. */
	struct fp_port_terms inspect;
};

struct fp_policy;

int fp_policy_build(const struct fp_policy_tables *tables, struct fp_policy **out); /* -EINVAL: an index out of range */

/* What is different in the next policy. Everything else is shared with the old one, at no cost by the number of its
 * rules: a change costs its own rules and one reference for each chain and identity. */
struct fp_policy_change {
	/* Chains replaced, or added with the numbers that follow the old ones. `rules` are these chains' alone. */
	const uint32_t *chain_numbers;
	const struct fp_chain *chains;
	uint32_t n_chains;
	const struct fp_rule *rules;
	uint32_t n_rules;
	const struct fp_port_term *port_terms; /* added behind the old ones, whose numbers stay */
	uint32_t n_port_terms;
	uint32_t n_predicates;                 /* of the next policy, not fewer than before; an old number keeps its meaning */
	/* Identities replaced or added likewise; predicates of each as in struct fp_policy_tables. */
	const uint32_t *identity_numbers;
	const struct fp_identity_chains *identities;
	uint32_t n_identities;
	const uint32_t *predicate_offsets;     /* n_identities + 1 */
	const uint32_t *predicates;
	const struct fp_interface_chains *interfaces; /* all of them */
	uint32_t n_interfaces;
};

/* A new policy; the old one is as it was and may be released in any order. -EINVAL: as fp_policy_build(). */
int fp_policy_update(const struct fp_policy *old, const struct fp_policy_change *change, struct fp_policy **out);
size_t fp_policy_memory(const struct fp_policy *policy); /* bytes, what is shared with other policies included */

/* The tables that fp_policy_build() makes the same policy of, in two steps: fp_policy_tables() names all numbers and
 * lends port terms, identities and interfaces (while the policy lives); rules, chains and predicates are NULL in it,
 * room for them is the caller's, and fp_policy_export() fills it. *n_held: predicates of all identities together.
 * idle: as for fp_prefix_map_export(). */
void fp_policy_tables(const struct fp_policy *policy, struct fp_policy_tables *out, size_t *n_held);
void fp_policy_export(const struct fp_policy *policy, struct fp_rule *rules, struct fp_chain *chains,
		      uint32_t *predicate_offsets, uint32_t *predicates, uint32_t idle);
void fp_policy_release(struct fp_policy *policy);

/* A question, in the direction of the flow's first packet. */
struct fp_query {
	uint32_t source, destination; /* identities; one unknown to the policy counts as FP_WORLD */
	uint32_t iif, oif;
	uint16_t sport, dport;
	uint8_t proto;
	uint8_t family;               /* 4 or 6 */
	uint8_t icmp_type, icmp_code;
	uint8_t hook;                 /* enum fp_hook, or 0: egress of the source and ingress of the destination only */
	uint8_t flags;                /* FP_QUERY_* */
	uint8_t reserved[2];
	/* Identity of who owns the socket at this machine's end (output: the source, input: the destination): its chains are
	 * asked beside those of the interface. FP_WORLD: nobody that is an endpoint. */
	uint32_t owner;
};

/* The ports are not known (a later fragment): no condition on ports holds, negated or not. Means nothing for a protocol
 * that has no ports. */
#define FP_QUERY_NO_PORTS 0x01u
/* preDNAT policy of the host endpoint it came in by allowed it: that endpoint's ingress chains are not asked. */
#define FP_QUERY_PRE_DNAT 0x02u

struct fp_decision {
	uint8_t verdict;        /* enum fp_verdict, in force */
	uint8_t staged_verdict; /* as if staged policies were in force */
	uint8_t governed;       /* 0: no chain had an opinion; allowed because nothing governs it */
	uint8_t reserved;
	uint32_t rule;          /* id of the deciding rule, FP_NONE if not governed */
	uint32_t staged_rule;
};

void fp_policy_decide(const struct fp_policy *policy, const struct fp_query *query, struct fp_decision *out);

/* The rules met on the way (LOG, PASS, and the one that decided, of every chain asked), for explanation.
 * staged: follow the staged chains. Returns how many were written, at most `max`. */
struct fp_trace_step {
	uint32_t chain, rule;
	uint8_t action;
	uint8_t reserved[3];
};
int fp_policy_trace(const struct fp_policy *policy, const struct fp_query *query, int staged,
		    struct fp_trace_step *steps, size_t max);
/* One chain alone, whoever it belongs to. Returns enum fp_action of the outcome (ALLOW, DENY, REJECT, NEXT). */
int fp_policy_trace_chain(const struct fp_policy *policy, uint32_t chain, const struct fp_query *query,
			  struct fp_trace_step *steps, size_t max, size_t *written);

/* ---- engine ---------------------------------------------------------------------------------- */
enum fp_failure { /* index of fp_engine_config.failure_action */
	FP_FAILURE_DECODE_ERROR = 0,
	FP_FAILURE_TRUNCATED_PACKET,
	FP_FAILURE_MIDSTREAM_FLOW,
	FP_FAILURE_SPOOFED_SOURCE,
	FP_FAILURE_INSPECTOR_DOWN, /* ALLOW: NF_QUEUE carries the bypass flag */
	FP_FAILURE_INSPECTOR_OVERLOAD, /* new flows for an inspector that fp_engine_overload() names */
	FP_FAILURE_INSPECTOR_RESTART, /* what had been read of a flow is lost, or nobody reads yet */
	FP_FAILURE_COUNT
};
/* failure_action values: FP_VERDICT_ALLOW, _DROP, _REJECT, or FP_FAILURE_POLICY (decide as usual). */
#define FP_FAILURE_POLICY 0xffu

#define FP_QUEUE_NONE 0xffffu

struct fp_engine_config {
	uint32_t api_version;     /* FP_API_VERSION */
	uint16_t queue_first, queue_count; /* one worker each */
	uint16_t look_queue;      /* failsafe traffic that is only looked at; FP_QUEUE_NONE: none. Fail-open. */
	uint16_t slow_first, slow_count;   /* inspectors; count 0: INSPECT means ALLOW */
	uint16_t reserved;
	uint32_t queue_length;    /* packets, at most 65535 */
	uint32_t copy_range;      /* bytes of a packet that are copied up, 128..65531 */
	uint32_t receive_buffer;  /* bytes of socket buffer */
	uint32_t mark_mask;       /* eight adjacent bits */
	uint32_t flow_entries;    /* per worker, rounded up to a power of two */
	uint32_t flow_idle;       /* seconds until an idle flow may be forgotten */
	uint32_t event_entries;   /* per worker, rounded up to a power of two */
	uint8_t fail_open;        /* NFQA_CFG_F_FAIL_OPEN */
	uint8_t gso;              /* NFQA_CFG_F_GSO */
	uint8_t observe;          /* deny nothing, say what would be denied */
	uint8_t fates;            /* 0: every packet comes up (measurement) */
	uint8_t failure_action[8];
	const int32_t *cpus;      /* queue_count CPU numbers, or NULL: not pinned */
	/* Taking over from another process: its sockets, one each worker (queue_count, and one more with a look_queue);
	 * -1: bind this queue anew. NULL: bind all. They are the engine's once fp_engine_open() has succeeded. */
	const int32_t *fds;
	/* Of each queue taken over, the last packet number the kernel gave (id_sequence in /proc, read by the caller before
	 * he starts the engine), so that a queue in which nothing more arrives is answered, too; 0 or NULL: not known. */
	const uint32_t *last_ids;
	/* The failure queue_takeover: what becomes of packets that the predecessor had read and not answered.
	 * FP_VERDICT_ALLOW (without a fate), else they are dropped. Look-only: always allowed. */
	uint8_t takeover_action;
	/* Another process filtered here until now: a TCP flow without a fate was being inspected, and what had been read of
	 * it is lost. For flow_idle seconds; later it may as well be one that was forgotten. */
	uint8_t resumed;
	/* Owners of sockets are endpoints (fp_query.owner): users, by the address 100::/64 with bit 63 and the number; control
	 * groups, by the same with their number, which count before users. */
	uint8_t owners;
	uint8_t reserved2;
	/* Packets of one denied flow, within a second, that give an FP_EVENT_REPEATED. 0: none does. */
	uint32_t repeat_step;
};

struct fp_engine;
struct fp_snapshot_refs { /* both are taken by reference, the caller keeps his own */
	struct fp_prefix_map *identities;
	struct fp_policy *policy;
	uint32_t generation;      /* FP_GENERATION_MIN..FP_GENERATION_MAX */
	uint8_t observe;
	uint8_t reserved[3];
};

/* Binds the queues. -EBUSY: a queue number is taken (*bad_queue says which), -EPERM: no CAP_NET_ADMIN,
 * -EPROTONOSUPPORT or -EOPNOTSUPP: no NFQUEUE in this kernel, -EINVAL: configuration. Packets wait until started. */
int fp_engine_open(const struct fp_engine_config *config, const struct fp_snapshot_refs *first,
		   struct fp_engine **out, uint16_t *bad_queue);
int fp_engine_start(struct fp_engine *engine);
/* Takes effect at each worker's next batch. Returns 0. */
int fp_engine_publish(struct fp_engine *engine, const struct fp_snapshot_refs *next);
/* From now on new flows for that inspector (0 is the one of slow_first) get the action of FP_FAILURE_INSPECTOR_OVERLOAD,
 * until the opposite is said; failsafe DNS passes without a look. -EINVAL: there is no such inspector. */
int fp_engine_overload(struct fp_engine *engine, uint32_t inspector, int overloaded);
/* Frees snapshots that no worker uses any more; returns how many still wait. */
int fp_engine_reclaim(struct fp_engine *engine);
/* FP_FAILURE_INSPECTOR_RESTART. waiting: no inspector reads yet, or any more, so nothing is sent to them. */
void fp_engine_inspectors_wait(struct fp_engine *engine, int waiting);
/* The inspector of queue slow_first + number ended: TCP flows it had are lost to the next one. -EINVAL. */
int fp_engine_inspector_lost(struct fp_engine *engine, uint32_t number);
/* Stops the workers after they answered what they had read; closes the sockets (queued packets are dropped by the kernel). */
int fp_engine_stop(struct fp_engine *engine);
/* The queues' sockets in the order of fp_engine_config.fds, to be handed over. Returns how many, -ENOSPC if n is too few.
 * They stay the engine's. Two processes must not read one queue: the other starts when this one has released. */
int fp_engine_fds(const struct fp_engine *engine, int32_t *out, uint32_t n);
/* As stop, but leaves the sockets open, and to the caller: packets wait in the queues for a successor. */
int fp_engine_release(struct fp_engine *engine);
void fp_engine_free(struct fp_engine *engine);
/* The calling thread asks for short time slices, as each worker does; what it starts has none. Who has a shorter slice
 * than others takes the core from them when something wakes it, and not at the next tick (Linux 6.12; earlier kernels
 * take no notice). Nobody's share gets any larger by it, and no privilege is needed. Returns 0, or -errno. */
int fp_short_slices(void);
uint32_t fp_engine_workers(const struct fp_engine *engine); /* look-only worker included, last */
int fp_engine_event_fd(const struct fp_engine *engine);     /* eventfd, readable when a ring has events */

enum fp_event_kind {
	FP_EVENT_FLOW = 1,      /* a flow was decided for the first time */
	FP_EVENT_REDECIDED = 2, /* decided again after a change */
	FP_EVENT_PACKET = 3,    /* a verdict for one packet (untracked, related ICMP, failsafe) */
	FP_EVENT_FAILURE = 4,   /* `failure` says which */
	FP_EVENT_REPEATED = 5,  /* as FLOW said, and again: packets of a TCP or UDP flow that policy does not let begin */
};
#define FP_REPEATS_TOLD 4 /* events of this kind for one flow within a second (of `time`); further packets give none */

#define FP_EVENT_OBSERVED 0x01u  /* verdict was not carried out: observe mode or failsafe */
#define FP_EVENT_REPLY 0x02u     /* seen in a reply packet; addresses are in original direction all the same */
#define FP_EVENT_MIDSTREAM 0x04u
#define FP_EVENT_LOOK_ONLY 0x08u
#define FP_EVENT_RELATED 0x10u   /* ICMP error: addresses are of the flow it quotes */
#define FP_EVENT_PRE_DNAT 0x20u  /* asked with FP_QUERY_PRE_DNAT */

struct fp_event { /* 128 bytes */
	uint64_t time;            /* nanoseconds since 1970 */
	uint64_t flow;            /* id, the same in both directions and for the flow's life at this worker */
	uint8_t src[16], dst[16];
	uint16_t sport, dport;    /* ICMP: identifier or type/code in sport, dport */
	uint8_t proto, family, hook, kind;
	uint32_t iif, oif;
	uint32_t src_identity, dst_identity;
	uint32_t rule, staged_rule;
	uint32_t length;          /* bytes of the packet */
	uint32_t uid;             /* owner of the local socket, FP_NONE if unknown */
	uint8_t verdict, staged_verdict, previous_fate, failure;
	uint8_t generation, flags, icmp_type, icmp_code;
	uint16_t slow_queue;      /* INSPECT: where it went */
	uint16_t worker;
	uint32_t repeats;         /* REPEATED: packets that it stands for */
	uint8_t reserved[24];
};

/* Copies up to max events of one worker and forgets them. One reader per ring. */
int fp_engine_read_events(struct fp_engine *engine, uint32_t worker, struct fp_event *out, uint32_t max);

/* Since start; read while workers run: each value is whole, the set is not a cut in time. Of a worker at rest
 *      packets == allowed + dropped + rejected + inspected + passed
 * exactly: each packet that was read gets one verdict and is counted under it. Failures, would_deny and flow and pair
 * figures count the same packets from other sides; verdict_errors are among the verdicts; id_gaps, taken_over and
 * netlink_errors that named no packet were never read by this worker and are not among `packets`. */
struct fp_counters {
	uint64_t packets, bytes, batches;
	uint64_t allowed, dropped, rejected, inspected; /* verdicts given, by kind */
	uint64_t passed;               /* one packet only, no fate: look-only, related, untracked */
	uint64_t flow_hits, flow_misses, flow_inserted, flow_evicted, flow_full;
	uint64_t pair_hits, pair_misses;
	uint64_t id_gaps;              /* packets that the kernel numbered and we never saw */
	uint64_t overruns;             /* times that packets found the socket full: runs of id_gaps */
	uint64_t verdict_errors;       /* verdicts that the kernel refused: the packet was gone */
	uint64_t netlink_errors;       /* messages that made no sense */
	uint64_t events, events_lost;
	uint64_t would_deny;           /* observe mode */
	uint64_t failures[8];          /* by enum fp_failure */
	uint64_t flows;                /* entries now */
	uint64_t generation;           /* snapshot in use */
	uint64_t taken_over;           /* packets that a predecessor had read and this worker answered, unseen */
};
int fp_engine_counters(const struct fp_engine *engine, uint32_t worker, struct fp_counters *out);

/* ---- fates in the marks of connections ----------------------------------------------------------
 *      open ▸ { next: a piece of the table ▸ (who has been decided anew meanwhile?) ▸ void: the others } … ▸ close
 *
 * Blocking, of the network namespace of the thread that opens it, one thread at a time. Nothing is held in the kernel
 * between two answers. A table that changes meanwhile may show an entry twice, or one that moves not at all.
 */
struct fp_conntrack;

struct fp_conntrack_wanted {
	uint32_t mask;            /* our eight bits of the mark */
	uint32_t generations;     /* bit g: entries whose mark is not 0 and says generation g */
	uint32_t cleared;         /* bits of the mark that fp_conntrack_void() takes back */
	uint32_t idle;            /* rests so many times as long as an answer (a hundred entries) took: this can wait */
	uint8_t fate;             /* entries with this one; FP_FATE_NONE: with any */
	uint8_t protocol;         /* entries of this one; 0: of any */
	uint64_t carried;         /* bytes, both directions together, that an entry has carried at least. One that the
	                           * kernel did not count for (nf_conntrack_acct) has carried none. */
	const uint8_t *addresses; /* 16 bytes each: entries of these alone; source or destination as policy sees them */
	size_t n_addresses;       /* 0: of all */
};

/* -EPERM without CAP_NET_ADMIN. */
int fp_conntrack_open(const struct fp_conntrack_wanted *wanted, struct fp_conntrack **out);

/* Up to max entries, the same max in every call: their conntrack ids. 0 at the end; -EAGAIN when the kernel is silent. */
int fp_conntrack_next(struct fp_conntrack *walk, uint32_t *ids, uint32_t max);

/* The entries of the last piece but those with these ids, which ascend. Returns how many were changed: others are gone.
 * One that is decided anew after the caller asked for `spared` is decided once more. */
int fp_conntrack_void(struct fp_conntrack *walk, const uint32_t *spared, size_t n_spared);

void fp_conntrack_close(struct fp_conntrack *walk);

#endif
