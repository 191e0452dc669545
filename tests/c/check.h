/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: a test program is a list of void functions; each CHECK is counted.
 *
 *      CHECK(what holds);              goes on after a failure
 *      RUN(test_does_this);            prints the name of a test that failed
 *      return check_result();          prints "N passed, M failed", 0 when all passed
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>

static unsigned check_passed, check_failed;

#define CHECK(condition)                                                                   \
	do {                                                                               \
		if (condition) {                                                           \
			check_passed++;                                                    \
		} else if (check_failed++ < 20) {                                          \
			fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__,     \
				__func__, #condition);                                     \
		}                                                                          \
	} while (0)

#define RUN(test)                                                                          \
	do {                                                                               \
		unsigned before = check_failed;                                            \
		test();                                                                    \
		if (check_failed != before)                                                \
			fprintf(stderr, "FAILED %s\n", #test);                             \
	} while (0)

static inline int check_result(void)
{
	printf("%u passed, %u failed\n", check_passed, check_failed);
	return check_failed != 0;
}

/* splitmix64: the same numbers on every run. */
static inline uint64_t check_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static inline uint32_t check_below(uint64_t *state, uint32_t n)
{
	return (uint32_t)(check_random(state) % n);
}

#endif
