/* SPDX-License-Identifier: Apache-2.0 */
/* fp_bits: the number of bits that are set, fast also where the compiler may not use the instruction. */
#ifndef FP_BITS_H
#define FP_BITS_H

#include <stdint.h>

static inline unsigned fp_popcount(uint64_t x)
{
#if defined(__POPCNT__) || defined(__aarch64__)
	return (unsigned)__builtin_popcountll(x);
#else
	x -= x >> 1 & 0x5555555555555555u;
	x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
	return (unsigned)(x * 0x0101010101010101u >> 56);
#endif
}

#endif
