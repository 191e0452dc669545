/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_list.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>

#define LONGEST 64u /* characters of an address with its length */

/* ---- reading ---- */

/* "255" without leading zeros; returns the characters read, 0 for none. */
static size_t read_number(const char *text, size_t size, unsigned most, unsigned *out)
{
	unsigned value = 0;
	size_t at = 0;

	while (at < size && at < 3 && text[at] >= '0' && text[at] <= '9')
		value = value * 10 + (unsigned)(text[at++] - '0');
	if (at == 0 || value > most || (at > 1 && text[0] == '0'))
		return 0;
	*out = value;
	return at;
}

static size_t read_ipv4(const char *text, size_t size, uint8_t addr[16])
{
	size_t at = 0;

	memset(addr, 0, 10);
	memset(addr + 10, 0xff, 2);
	for (unsigned i = 0; i < 4; i++) {
		unsigned value = 0;
		size_t read;

		if (i && (at == size || text[at++] != '.'))
			return 0;
		read = read_number(text + at, size - at, 255, &value);
		if (!read)
			return 0;
		addr[12 + i] = (uint8_t)value;
		at += read;
	}
	return at;
}

static size_t read_ipv6(const char *text, size_t size, uint8_t addr[16])
{
	char copy[INET6_ADDRSTRLEN];
	size_t at = 0;

	while (at < size && text[at] != '/')
		at++;
	if (at >= sizeof(copy))
		return 0;
	memcpy(copy, text, at);
	copy[at] = '\0';
	return inet_pton(AF_INET6, copy, addr) == 1 ? at : 0;
}

static void clear_host_bits(struct fp_list_record *record)
{
	for (unsigned i = 0; i < 16; i++) {
		unsigned bits = record->len > 8 * i ? record->len - 8 * i : 0;

		if (bits < 8)
			record->addr[i] &= (uint8_t)(0xff00u >> bits);
	}
}

static int read_record(const char *text, size_t size, struct fp_list_record *record)
{
	int v6 = size < LONGEST && memchr(text, ':', size) != NULL;
	unsigned most = v6 ? 128 : 32, length = most;
	size_t at, digits;

	if (size >= LONGEST)
		return 0;
	at = v6 ? read_ipv6(text, size, record->addr) : read_ipv4(text, size, record->addr);
	if (!at)
		return 0;
	if (at < size) {
		if (text[at++] != '/')
			return 0;
		digits = read_number(text + at, size - at, most, &length);
		if (!digits || at + digits != size)
			return 0;
	}
	record->len = (uint8_t)(v6 ? length : 96 + length);
	if (record->len < 128)
		clear_host_bits(record);
	return 1;
}

static int is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

int fp_list_read(const char *text, size_t size, struct fp_list_reader *reader, struct fp_list_record *records,
		 size_t max_records, struct fp_list_line *lines, size_t max_lines)
{
	if (size > UINT32_MAX)
		return -EFBIG;
	reader->records = reader->lines = 0;
	while (reader->offset < size && reader->records < max_records && reader->lines < max_lines) {
		const char *line = text + reader->offset;
		const char *newline = memchr(line, '\n', size - reader->offset);
		size_t whole = newline ? (size_t)(newline - line) : size - reader->offset;
		size_t from = 0, to = whole;

		reader->number++;
		while (from < to && is_blank(line[from]))
			from++;
		while (to > from && is_blank(line[to - 1]))
			to--;
		if (to > from) {
			if (read_record(line + from, to - from, &records[reader->records]))
				reader->records++;
			else
				lines[reader->lines++] = (struct fp_list_line){
					(uint32_t)reader->offset, (uint32_t)whole, reader->number };
		}
		reader->offset += whole + (newline != NULL);
	}
	return 0;
}

/* ---- sorting ---- */

static struct fp_list_key key_at(const struct fp_list_record *record)
{
	return fp_list_load(record->addr, record->len);
}

static void write_key(struct fp_list_record *record, struct fp_list_key key)
{
	uint64_t hi = htobe64(key.hi), lo = htobe64(key.lo);

	memcpy(record->addr, &hi, 8);
	memcpy(record->addr + 8, &lo, 8);
	record->len = (uint8_t)key.len;
}

/* The end of the run that begins at `from`. */
static size_t run_end(const struct fp_list_key *keys, size_t from, size_t n)
{
	size_t at = from + 1;

	while (at < n && fp_list_compare(keys[at - 1], keys[at]) <= 0)
		at++;
	return at;
}

static void merge_runs(const struct fp_list_key *in, size_t from, size_t middle, size_t end, struct fp_list_key *out)
{
	size_t a = from, b = middle, at = from;

	while (a < middle && b < end)
		out[at++] = fp_list_compare(in[a], in[b]) <= 0 ? in[a++] : in[b++];
	memcpy(out + at, in + a, (middle - a) * sizeof(*in));
	memcpy(out + at + (middle - a), in + b, (end - b) * sizeof(*in));
}

#define SHORT_RUN 24u

static void sort_short_runs(struct fp_list_key *keys, size_t n)
{
	for (size_t from = 0; from < n;) {
		size_t end = run_end(keys, from, n);

		if (end - from < SHORT_RUN) {
			end = n - from < SHORT_RUN ? n : from + SHORT_RUN;
			for (size_t i = from + 1; i < end; i++) {
				struct fp_list_key moved = keys[i];
				size_t at = i;

				for (; at > from && fp_list_compare(keys[at - 1], moved) > 0; at--)
					keys[at] = keys[at - 1];
				keys[at] = moved;
			}
		}
		from = end;
	}
}

/* Merges neighbouring runs until there is one. Returns where the result is. */
static struct fp_list_key *sort_keys(struct fp_list_key *keys, struct fp_list_key *spare, size_t n)
{
	struct fp_list_key *in = keys, *out = spare;

	sort_short_runs(keys, n);
	for (;;) {
		size_t runs = 0;

		for (size_t from = 0; from < n; runs++) {
			size_t middle = run_end(in, from, n);
			size_t end = middle < n ? run_end(in, middle, n) : n;

			merge_runs(in, from, middle, end, out);
			from = end;
		}
		if (runs <= 1)
			return out;
		struct fp_list_key *swap = in;
		in = out;
		out = swap;
	}
}

int64_t fp_list_sort(struct fp_list_record *records, size_t n)
{
	struct fp_list_key *keys, *sorted;
	size_t kept = 0;

	if (n < 2)
		return (int64_t)n;
	if (n > SIZE_MAX / (2 * sizeof(*keys)))
		return -ENOMEM;
	keys = malloc(2 * n * sizeof(*keys));
	if (!keys)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		keys[i] = key_at(&records[i]);
	sorted = sort_keys(keys, keys + n, n);
	for (size_t i = 0; i < n; i++)
		if (!i || fp_list_compare(sorted[i - 1], sorted[i]))
			write_key(&records[kept++], sorted[i]);
	free(keys);
	return (int64_t)kept;
}

/* ---- what is sorted ---- */

int fp_list_check(const struct fp_list_record *records, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct fp_list_key key = key_at(&records[i]);

		if (key.len > 128 || key.hi & ~fp_list_mask(key.len) ||
		    key.lo & ~(key.len > 64 ? fp_list_mask(key.len - 64) : 0))
			return -EINVAL;
		if (i && fp_list_compare(key_at(&records[i - 1]), key) >= 0)
			return -EINVAL;
	}
	return 0;
}

size_t fp_list_disjoint(const struct fp_list_record *records, size_t n, struct fp_list_record *out)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		struct fp_list_key key = key_at(&records[i]);

		/* Of IPv4 and IPv6 prefixes around it only the bits count: whoever lists ::/0 lists everything. */
		if (kept) {
			struct fp_list_key outer = key_at(&out[kept - 1]);

			if (outer.len <= key.len && !((outer.hi ^ key.hi) & fp_list_mask(outer.len)) &&
			    !((outer.lo ^ key.lo) & (outer.len > 64 ? fp_list_mask(outer.len - 64) : 0)))
				continue;
		}
		out[kept++] = records[i];
	}
	return kept;
}

size_t fp_list_find(const struct fp_list_record *records, size_t n, const struct fp_list_record *wanted)
{
	struct fp_list_key key = key_at(wanted);
	size_t from = 0, to = n;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (fp_list_compare(key_at(&records[middle]), key) < 0)
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

void fp_list_difference(const struct fp_list_record *a, size_t n_a, const struct fp_list_record *b, size_t n_b,
			struct fp_list_record *added, size_t *n_added, struct fp_list_record *removed, size_t *n_removed)
{
	size_t i = 0, j = 0;

	*n_added = *n_removed = 0;
	while (i < n_a || j < n_b) {
		int order = i == n_a ? 1 : j == n_b ? -1 : memcmp(&a[i], &b[j], sizeof(*a));

		if (order > 0)
			added[(*n_added)++] = b[j++];
		else if (order < 0)
			removed[(*n_removed)++] = a[i++];
		else
			i++, j++;
	}
}

void fp_list_carry(const struct fp_list_record *a, const uint32_t *values_a, size_t n_a,
		   const struct fp_list_record *b, uint32_t *values_b, size_t n_b)
{
	for (size_t i = 0, j = 0; i < n_a && j < n_b;) {
		int order = memcmp(&a[i], &b[j], sizeof(*a));

		if (order == 0)
			values_b[j] = values_a[i];
		i += order <= 0;
		j += order >= 0;
	}
}

void fp_list_count(const struct fp_list_record *records, size_t n, uint64_t out[4])
{
	memset(out, 0, 4 * sizeof(*out));
	for (size_t i = 0; i < n; i++)
		out[2 * (records[i].len != 128) + !fp_list_is_v4(key_at(&records[i]))]++;
}
