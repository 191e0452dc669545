/* SPDX-License-Identifier: Apache-2.0 */
/* fp_reader for its tests, which stand in for the kernel. The contract is in fastpath_reader.h. */
#ifndef FP_READER_H
#define FP_READER_H

#include "fastpath_reader.h"

/* As fp_reader_open(), with a socket that is bound already; the reader's from here on, also on failure. */
int fp_reader_open_socket(const struct fp_reader_config *config, int fd, struct fp_reader **out);

#endif
