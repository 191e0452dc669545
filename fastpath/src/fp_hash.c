/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_hash.h"

#include <errno.h>
#include <sys/random.h>

int fp_hash_key_random(struct fp_hash_key *key)
{
	ssize_t n;

	do {
		n = getrandom(key, sizeof(*key), 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n == (ssize_t)sizeof(*key) ? 0 : -EIO;
}
