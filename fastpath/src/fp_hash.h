/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fp_hash: SipHash-1-3 over 64-bit words, keyed with 128 random bits per table.
 * Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; 1-3 is what Linux and Rust use for
 * hash tables: not a MAC, yet nobody who does not know the key can aim at a bucket.
 */
#ifndef FP_HASH_H
#define FP_HASH_H

#include <stddef.h>
#include <stdint.h>

struct fp_hash_key {
	uint64_t k0, k1;
};

/* From getrandom(2). 0 or a negative errno. */
int fp_hash_key_random(struct fp_hash_key *key);

#define FP_SIP_ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define FP_SIP_ROUND(v0, v1, v2, v3)                                                                 \
	do {                                                                                         \
		(v0) += (v1), (v1) = FP_SIP_ROTATE(v1, 13), (v1) ^= (v0), (v0) = FP_SIP_ROTATE(v0, 32); \
		(v2) += (v3), (v3) = FP_SIP_ROTATE(v3, 16), (v3) ^= (v2);                            \
		(v0) += (v3), (v3) = FP_SIP_ROTATE(v3, 21), (v3) ^= (v0);                            \
		(v2) += (v1), (v1) = FP_SIP_ROTATE(v1, 17), (v1) ^= (v2), (v2) = FP_SIP_ROTATE(v2, 32); \
	} while (0)

static inline uint64_t fp_hash_words(const struct fp_hash_key *key, const uint64_t *words, size_t n)
{
	uint64_t v0 = key->k0 ^ 0x736f6d6570736575u, v1 = key->k1 ^ 0x646f72616e646f6du;
	uint64_t v2 = key->k0 ^ 0x6c7967656e657261u, v3 = key->k1 ^ 0x7465646279746573u;
	uint64_t last = (uint64_t)(n * 8) << 56;

	for (size_t i = 0; i < n; i++) {
		v3 ^= words[i];
		FP_SIP_ROUND(v0, v1, v2, v3);
		v0 ^= words[i];
	}
	v3 ^= last;
	FP_SIP_ROUND(v0, v1, v2, v3);
	v0 ^= last;
	v2 ^= 0xff;
	FP_SIP_ROUND(v0, v1, v2, v3);
	FP_SIP_ROUND(v0, v1, v2, v3);
	FP_SIP_ROUND(v0, v1, v2, v3);
	return v0 ^ v1 ^ v2 ^ v3;
}

#endif
