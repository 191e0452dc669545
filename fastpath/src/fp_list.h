/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_list: lists of prefixes as they come out of threat feeds (the contract is in fastpath.h).
 *
 *   text ─▶ read ─▶ sort ─▶ disjoint ─▶ merge with the policy's own prefixes ─▶ entries ─▶ changes ─▶ identity map
 *
 * A million addresses are 17 MB here and a few passes over memory; nothing is looked at one by one by the caller.
 * Every pass is linear but the sorting, which merges the runs that are in order already.
 */
#ifndef FP_LIST_H
#define FP_LIST_H

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "fastpath.h"

static_assert(sizeof(struct fp_list_record) == FP_LIST_RECORD, "records are packed");

/* A record in registers. */
struct fp_list_key {
	uint64_t hi, lo;
	uint32_t len;
};

static inline struct fp_list_key fp_list_load(const uint8_t addr[16], uint8_t len)
{
	uint64_t hi, lo;

	memcpy(&hi, addr, 8);
	memcpy(&lo, addr + 8, 8);
	return (struct fp_list_key){ be64toh(hi), be64toh(lo), len };
}

static inline int fp_list_compare(struct fp_list_key a, struct fp_list_key b)
{
	if (a.hi != b.hi)
		return a.hi < b.hi ? -1 : 1;
	if (a.lo != b.lo)
		return a.lo < b.lo ? -1 : 1;
	return a.len < b.len ? -1 : a.len > b.len;
}

static inline int fp_list_is_v4(struct fp_list_key key)
{
	return key.len >= 96 && key.hi == 0 && key.lo >> 32 == 0xffff;
}

static inline uint64_t fp_list_mask(unsigned bits)
{
	return bits == 0 ? 0 : bits >= 64 ? ~(uint64_t)0 : ~(uint64_t)0 << (64 - bits);
}

/* Is `inner` inside `outer`, or the same? IPv6 does not cover IPv4. */
static inline int fp_list_covers(struct fp_list_key outer, struct fp_list_key inner)
{
	return outer.len <= inner.len && fp_list_is_v4(outer) == fp_list_is_v4(inner) &&
	       !((outer.hi ^ inner.hi) & fp_list_mask(outer.len)) &&
	       !((outer.lo ^ inner.lo) & (outer.len > 64 ? fp_list_mask(outer.len - 64) : 0));
}

#endif
