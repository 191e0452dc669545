/* SPDX-License-Identifier: Apache-2.0 */
#include "fp_owner.h"

#include <errno.h>
#include <netinet/in.h> /* before the kernel's own, which gives way to it */
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fastpath.h"

#define ATTRIBUTE_CGROUP_ID 21 /* INET_DIAG_CGROUP_ID, newer than some headers */
#define STATE_SYN_RECV 3       /* the kernel says user 0 of what no program has accepted yet ... */
#define STATE_TIME_WAIT 6      /* ... and of what it closed */
#define ANSWER_SIZE 1024
#define USER_BIT 0x80          /* of the host part's first byte; numbers of control groups are smaller */

struct request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 body;
};

int fp_owner_open(void)
{
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	return fd < 0 ? -errno : fd;
}

static bool is_v4(const uint8_t addr[16])
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	return memcmp(addr, mapped, sizeof(mapped)) == 0;
}

static void put_address(__be32 out[4], const uint8_t addr[16], bool v4)
{
	memcpy(out, v4 ? addr + 12 : addr, v4 ? 4 : 16);
}

int fp_owner_find(int fd, const struct fp_packet *packet, bool source, uint32_t ifindex, struct fp_owner *out)
{
	/* Of TCP the kernel wants this machine's end first, of UDP the other one. */
	bool source_first = (packet->proto == IPPROTO_TCP) == source;
	bool v4 = is_v4(packet->src);
	struct request request = {
		.header = { .nlmsg_len = sizeof(request), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.body = { .sdiag_family = v4 ? AF_INET : AF_INET6, .sdiag_protocol = packet->proto, .idiag_states = ~0u },
	};
	struct inet_diag_sockid *id = &request.body.id;
	_Alignas(NLMSG_ALIGNTO) uint8_t answer[ANSWER_SIZE];
	ssize_t size;

	if (packet->proto != IPPROTO_TCP && packet->proto != IPPROTO_UDP)
		return -ENOENT;
	id->idiag_sport = htons(source_first ? packet->sport : packet->dport);
	id->idiag_dport = htons(source_first ? packet->dport : packet->sport);
	put_address(id->idiag_src, source_first ? packet->src : packet->dst, v4);
	put_address(id->idiag_dst, source_first ? packet->dst : packet->src, v4);
	id->idiag_if = ifindex;
	id->idiag_cookie[0] = id->idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	while (recv(fd, answer, sizeof(answer), MSG_DONTWAIT) >= 0) /* of an earlier question that failed half-way */
		;
	if (send(fd, &request, sizeof(request), MSG_DONTWAIT) < 0)
		return -errno;
	size = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
	return size < 0 ? -errno : fp_owner_parse(answer, (size_t)size, out);
}

int fp_owner_parse(const void *answer, size_t size, struct fp_owner *out)
{
	const uint8_t *bytes = answer;
	struct inet_diag_msg message;
	struct nlmsghdr header;
	size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(message));

	if (size < sizeof(header))
		return -EBADMSG;
	memcpy(&header, bytes, sizeof(header));
	if (header.nlmsg_type == NLMSG_ERROR)
		return -ENOENT;
	if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY || header.nlmsg_len > size || header.nlmsg_len < at)
		return -EBADMSG;
	memcpy(&message, bytes + NLMSG_HDRLEN, sizeof(message));
	if (message.idiag_state == STATE_SYN_RECV || message.idiag_state == STATE_TIME_WAIT)
		return -ENOENT;
	*out = (struct fp_owner){ .uid = message.idiag_uid };
	while (header.nlmsg_len - at >= sizeof(struct nlattr)) {
		struct nlattr attribute;

		memcpy(&attribute, bytes + at, sizeof(attribute));
		if (attribute.nla_len < sizeof(attribute) || attribute.nla_len > header.nlmsg_len - at)
			return -EBADMSG;
		if ((attribute.nla_type & NLA_TYPE_MASK) == ATTRIBUTE_CGROUP_ID &&
		    attribute.nla_len == sizeof(attribute) + sizeof(out->cgroup))
			memcpy(&out->cgroup, bytes + at + sizeof(attribute), sizeof(out->cgroup));
		at += (attribute.nla_len + 3u) & ~3u; /* NLA_ALIGN() is of another sign */
		if (at > header.nlmsg_len)
			break;
	}
	return 0;
}

static void put_host_part(uint64_t value, uint8_t out[16])
{
	memset(out, 0, 8);
	out[0] = 0x01; /* 100::/64 */
	for (int i = 0; i < 8; i++)
		out[8 + i] = (uint8_t)(value >> (56 - 8 * i));
}

void fp_owner_user_address(uint32_t uid, uint8_t out[16])
{
	put_host_part(uid, out);
	out[8] |= USER_BIT;
}

void fp_owner_cgroup_address(uint64_t cgroup, uint8_t out[16])
{
	put_host_part(cgroup, out);
}
