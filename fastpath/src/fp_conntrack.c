/* SPDX-License-Identifier: Apache-2.0 */
/* Formats: linux/netfilter/nfnetlink_conntrack.h. The kernel's own filters are not used: a dump that finds nothing
 * keeps soft interrupts off its processor until it has seen the whole table. */
#include "fp_conntrack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "fp_pace.h"

#define ATTR_HEADER 4u
#define TYPE 0x3fffu /* without NLA_F_NESTED and the like */
#define HEADER (NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg)))
#define ADDRESS 16u
#define PATIENCE 5 /* seconds until the kernel's silence is an error */
#define READ 65536u /* bytes; the kernel answers at most 32 KiB at a time */
#define BATCH 256u  /* updates in one send */

_Static_assert(FP_CONNTRACK_UPDATE >= HEADER + FP_CONNTRACK_TUPLE + 3 * 8 + ATTR_HEADER, "an update has room");

struct fp_conntrack {
	struct fp_conntrack_wanted wanted;
	uint8_t *addresses;
	uint32_t shift;            /* of the mark to our byte */
	int reader, writer;
	uint32_t sequence;
	bool done;
	struct fp_pace pace;       /* a step: an answer is fetched and looked at */
	size_t at, len;            /* of what was read and not looked at yet */
	uint32_t n, room;
	uint32_t *ids;             /* of the entries found, and what voids them */
	struct fp_conntrack_update *updates;
	_Alignas(8) uint8_t buf[READ];
	uint8_t out[BATCH * FP_CONNTRACK_UPDATE];
};

static uint16_t load16(const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static uint32_t load32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

/* The next attribute of those in (*at, end); false at the end, and at one that does not fit. */
static bool next_attribute(const uint8_t **at, const uint8_t *end, uint16_t *type, const uint8_t **value, size_t *len)
{
	size_t left = (size_t)(end - *at), size;

	if (left < ATTR_HEADER)
		return false;
	size = load16(*at);
	if (size < ATTR_HEADER || size > left)
		return false;
	*type = load16(*at + 2) & TYPE;
	*value = *at + ATTR_HEADER;
	*len = size - ATTR_HEADER;
	size = NLMSG_ALIGN(size);
	*at += size < left ? size : left;
	return true;
}

static void parse_ends(const uint8_t *at, const uint8_t *end, uint8_t src[ADDRESS], uint8_t dst[ADDRESS])
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	const uint8_t *value;
	uint16_t type;
	size_t len;

	while (next_attribute(&at, end, &type, &value, &len)) {
		if ((type == CTA_IP_V4_SRC || type == CTA_IP_V4_DST) && len == 4) {
			uint8_t *to = type == CTA_IP_V4_SRC ? src : dst;

			memcpy(to, mapped, sizeof(mapped));
			memcpy(to + sizeof(mapped), value, 4);
		} else if ((type == CTA_IP_V6_SRC || type == CTA_IP_V6_DST) && len == ADDRESS) {
			memcpy(type == CTA_IP_V6_SRC ? src : dst, value, ADDRESS);
		}
	}
}

/* The value of the first attribute of this type; NULL where there is none of this length. */
static const uint8_t *find(const uint8_t *at, const uint8_t *end, uint16_t wanted, size_t wanted_len)
{
	const uint8_t *value;
	uint16_t type;
	size_t len;

	while (next_attribute(&at, end, &type, &value, &len))
		if (type == wanted)
			return len == wanted_len ? value : NULL;
	return NULL;
}

/* Returns the protocol, 0 where the message has none. */
static uint8_t parse_tuple(const uint8_t *at, const uint8_t *end, uint8_t src[ADDRESS], uint8_t dst[ADDRESS])
{
	const uint8_t *value, *number;
	uint8_t protocol = 0;
	uint16_t type;
	size_t len;

	while (next_attribute(&at, end, &type, &value, &len)) {
		if (type == CTA_TUPLE_IP) {
			parse_ends(value, value + len, src, dst);
		} else if (type == CTA_TUPLE_PROTO) {
			number = find(value, value + len, CTA_PROTO_NUM, 1);
			protocol = number ? *number : 0;
		}
	}
	return protocol;
}

static uint64_t parse_bytes(const uint8_t *at, const uint8_t *end)
{
	const uint8_t *value = find(at, end, CTA_COUNTERS_BYTES, sizeof(uint64_t));

	return value ? (uint64_t)ntohl(load32(value)) << 32 | ntohl(load32(value + 4)) : 0;
}

bool fp_conntrack_parse(const uint8_t *message, size_t size, struct fp_conntrack_entry *out)
{
	uint8_t unused[ADDRESS];
	const uint8_t *at, *value;
	uint16_t type;
	size_t len;

	memset(out, 0, sizeof(*out));
	if (size < HEADER)
		return false;
	out->family = message[NLMSG_HDRLEN];
	at = message + HEADER;
	while (next_attribute(&at, message + size, &type, &value, &len)) {
		if (type == CTA_TUPLE_ORIG) {
			out->tuple = value;
			out->tuple_len = len;
			out->protocol = parse_tuple(value, value + len, out->ends[0], unused);
		} else if (type == CTA_TUPLE_REPLY) {
			(void)parse_tuple(value, value + len, out->ends[1], out->ends[2]);
		} else if (type == CTA_COUNTERS_ORIG || type == CTA_COUNTERS_REPLY) {
			out->carried += parse_bytes(value, value + len);
		} else if (type == CTA_MARK && len == 4) {
			out->mark = ntohl(load32(value));
		} else if (type == CTA_ID && len == 4) {
			out->id = ntohl(load32(value));
		} else if (type == CTA_ZONE && len == 2) {
			out->has_zone = true;
			out->zone = load16(value);
		}
	}
	return out->tuple && out->tuple_len <= FP_CONNTRACK_TUPLE;
}

/* ---- what is looked for ------------------------------------------------------------------------ */

static int compare_addresses(const void *a, const void *b)
{
	return memcmp(a, b, ADDRESS);
}

static int compare_ids(const void *a, const void *b)
{
	uint32_t x = load32(a), y = load32(b);

	return (x > y) - (x < y);
}

static bool is_wanted(const struct fp_conntrack *walk, const struct fp_conntrack_entry *entry)
{
	const struct fp_conntrack_wanted *wanted = &walk->wanted;
	uint32_t byte = (entry->mark & wanted->mask) >> walk->shift;

	if (!byte || !(wanted->generations >> ((byte & FP_MARK_GENERATION) >> FP_MARK_GENERATION_SHIFT) & 1))
		return false;
	if ((wanted->fate && (byte & FP_MARK_FATE) != wanted->fate) ||
	    (wanted->protocol && entry->protocol != wanted->protocol) || entry->carried < wanted->carried)
		return false;
	if (!wanted->n_addresses)
		return true;
	for (size_t i = 0; i < FP_CONNTRACK_ENDS; i++)
		if (bsearch(entry->ends[i], walk->addresses, wanted->n_addresses, ADDRESS, compare_addresses))
			return true;
	return false;
}

static size_t put(uint8_t *to, size_t at, uint16_t type, const void *value, size_t len)
{
	uint16_t size = (uint16_t)(ATTR_HEADER + len);

	memcpy(to + at, &size, sizeof(size));
	memcpy(to + at + 2, &type, sizeof(type));
	memcpy(to + at + ATTR_HEADER, value, len);
	memset(to + at + size, 0, NLMSG_ALIGN(size) - size);
	return at + NLMSG_ALIGN(size);
}

size_t fp_conntrack_clear(const struct fp_conntrack_entry *entry, uint32_t cleared, uint8_t out[FP_CONNTRACK_UPDATE])
{
	struct nlmsghdr header = {
		.nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW,
		.nlmsg_flags = NLM_F_REQUEST,
	};
	struct nfgenmsg nfgen = { .nfgen_family = entry->family };
	uint32_t none = 0, mask = htonl(cleared);
	size_t at = HEADER;

	at = put(out, at, CTA_TUPLE_ORIG | NLA_F_NESTED, entry->tuple, entry->tuple_len);
	if (entry->has_zone)
		at = put(out, at, CTA_ZONE, &entry->zone, sizeof(entry->zone));
	at = put(out, at, CTA_MARK, &none, sizeof(none));
	at = put(out, at, CTA_MARK_MASK, &mask, sizeof(mask));
	header.nlmsg_len = (uint32_t)at;
	memcpy(out, &header, sizeof(header));
	memcpy(out + NLMSG_HDRLEN, &nfgen, sizeof(nfgen));
	return at;
}

/* ---- the walk ---------------------------------------------------------------------------------- */

static int open_socket(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct timeval patience = { .tv_sec = PATIENCE };
	struct sockaddr_nl own = { .nl_family = AF_NETLINK };
	int room = 1 << 20, error;

	if (fd < 0)
		return -errno;
	if (!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)) && !bind(fd, (struct sockaddr *)&own, sizeof(own)))
		return fd;
	error = -errno;
	close(fd);
	return error;
}

static int send_all(int fd, const uint8_t *message, size_t len)
{
	ssize_t sent;

	do {
		sent = send(fd, message, len, 0);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

static ssize_t receive(int fd, uint8_t *buf)
{
	ssize_t got;

	do {
		got = recv(fd, buf, READ, 0);
	} while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

static int begin(struct fp_conntrack *walk)
{
	struct nlmsghdr header = {
		.nlmsg_len = HEADER,
		.nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET,
		.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
	};
	uint8_t message[HEADER] = { 0 }; /* of any family */

	memcpy(message, &header, sizeof(header));
	return send_all(walk->reader, message, sizeof(message));
}

int fp_conntrack_open(const struct fp_conntrack_wanted *wanted, struct fp_conntrack **out)
{
	struct fp_conntrack *walk;
	int error = -ENOMEM;

	if (!wanted->mask)
		return -EINVAL;
	walk = calloc(1, sizeof(*walk));
	if (!walk)
		return -ENOMEM;
	walk->wanted = *wanted;
	walk->pace.idle = wanted->idle;
	walk->shift = (uint32_t)__builtin_ctz(wanted->mask);
	walk->reader = walk->writer = -1;
	if (wanted->n_addresses) {
		walk->addresses = malloc(wanted->n_addresses * ADDRESS);
		if (!walk->addresses)
			goto fail;
		memcpy(walk->addresses, wanted->addresses, wanted->n_addresses * ADDRESS);
		qsort(walk->addresses, wanted->n_addresses, ADDRESS, compare_addresses);
	}
	error = walk->reader = open_socket();
	if (error >= 0)
		error = walk->writer = open_socket();
	if (error >= 0)
		error = begin(walk);
	if (error < 0)
		goto fail;
	*out = walk;
	return 0;
fail:
	fp_conntrack_close(walk);
	return error;
}

void fp_conntrack_close(struct fp_conntrack *walk)
{
	if (walk->reader >= 0)
		close(walk->reader);
	if (walk->writer >= 0)
		close(walk->writer);
	free(walk->addresses);
	free(walk->ids);
	free(walk->updates);
	free(walk);
}

/* The message at walk->at. */
static int take(struct fp_conntrack *walk)
{
	const uint8_t *message = walk->buf + walk->at;
	size_t left = walk->len - walk->at, size = left < NLMSG_HDRLEN ? 0 : load32(message);
	uint16_t type = size ? load16(message + 4) : 0;
	struct fp_conntrack_entry entry;

	if (size < NLMSG_HDRLEN || size > left)
		return -EBADMSG;
	walk->at += NLMSG_ALIGN(size) < left ? NLMSG_ALIGN(size) : left;
	if (type == NLMSG_DONE || type == NLMSG_ERROR) {
		walk->done = true;
		return size < NLMSG_HDRLEN + 4 ? 0 : (int)load32(message + NLMSG_HDRLEN);
	}
	if (fp_conntrack_parse(message, size, &entry) && is_wanted(walk, &entry)) {
		struct fp_conntrack_update *update = &walk->updates[walk->n];

		walk->ids[walk->n++] = entry.id;
		update->len = (uint32_t)fp_conntrack_clear(&entry, walk->wanted.cleared, update->message);
	}
	return 0;
}

static int make_room(struct fp_conntrack *walk, uint32_t max)
{
	if (walk->room)
		return walk->room == max ? 0 : -EINVAL;
	walk->ids = malloc(max * sizeof(*walk->ids));
	walk->updates = malloc(max * sizeof(*walk->updates));
	if (!walk->ids || !walk->updates)
		return -ENOMEM;
	walk->room = max;
	return 0;
}

int fp_conntrack_next(struct fp_conntrack *walk, uint32_t *ids, uint32_t max)
{
	int error = max && max <= INT32_MAX ? make_room(walk, max) : -EINVAL;

	walk->n = 0;
	while (!error && !walk->done && walk->n < max) {
		if (walk->at == walk->len) {
			ssize_t got;

			if (walk->len)
				fp_pace_rest(&walk->pace);
			walk->at = walk->len = 0;
			fp_pace_begin(&walk->pace);
			got = receive(walk->reader, walk->buf);
			if (got < 0)
				return (int)got;
			walk->len = (size_t)got;
		}
		error = take(walk);
	}
	if (error)
		return error;
	if (walk->n)
		memcpy(ids, walk->ids, walk->n * sizeof(*ids));
	return (int)walk->n;
}

/* Waits for the answer to the last of a batch, before which those to others come, if these failed. Returns how many
 * failed. */
static int answers(struct fp_conntrack *walk)
{
	_Alignas(8) uint8_t buf[READ];
	int failed = 0;

	for (;;) {
		ssize_t got = receive(walk->writer, buf);

		if (got < 0)
			return (int)got;
		for (size_t at = 0; (size_t)got - at >= NLMSG_HDRLEN + 4;) {
			size_t size = load32(buf + at);

			if (size < NLMSG_HDRLEN + 4 || size > (size_t)got - at)
				return -EBADMSG;
			if (load16(buf + at + 4) == NLMSG_ERROR) {
				failed += load32(buf + at + NLMSG_HDRLEN) != 0;
				if (load32(buf + at + 8) == walk->sequence)
					return failed;
			}
			at += NLMSG_ALIGN(size) < (size_t)got - at ? NLMSG_ALIGN(size) : (size_t)got - at;
		}
	}
}

static int send_batch(struct fp_conntrack *walk, size_t len, size_t last, uint32_t count)
{
	uint16_t flags = NLM_F_REQUEST | NLM_F_ACK;
	int error;

	if (!count)
		return 0;
	walk->sequence++;
	memcpy(walk->out + last + 6, &flags, sizeof(flags));
	memcpy(walk->out + last + 8, &walk->sequence, sizeof(walk->sequence));
	error = send_all(walk->writer, walk->out, len);
	if (!error)
		error = answers(walk);
	return error < 0 ? error : (int)count - error;
}

int fp_conntrack_void(struct fp_conntrack *walk, const uint32_t *spared, size_t n_spared)
{
	size_t len = 0, last = 0;
	uint32_t count = 0;
	int voided = 0, sent;

	for (uint32_t i = 0; i < walk->n; i++) {
		const struct fp_conntrack_update *update = &walk->updates[i];

		if (n_spared && bsearch(&walk->ids[i], spared, n_spared, sizeof(*spared), compare_ids))
			continue;
		memcpy(walk->out + len, update->message, update->len);
		last = len;
		len += update->len;
		if (++count < BATCH)
			continue;
		sent = send_batch(walk, len, last, count);
		if (sent < 0)
			return sent;
		voided += sent;
		len = count = 0;
	}
	sent = send_batch(walk, len, last, count);
	return sent < 0 ? sent : voided + sent;
}
