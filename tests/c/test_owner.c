/* SPDX-License-Identifier: Apache-2.0 */
/* Owners of sockets: what the kernel says of real ones on the loopback, and every way for an answer to be cut. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "fastpath.h"
#include "fp_owner.h"

static struct fp_packet packet_between(uint8_t proto, uint16_t sport, uint16_t dport)
{
	struct fp_packet packet = { .proto = proto, .family = 4, .sport = sport, .dport = dport };
	const uint8_t loopback[16] = { [10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1 };

	memcpy(packet.src, loopback, sizeof(loopback));
	memcpy(packet.dst, loopback, sizeof(loopback));
	return packet;
}

static uint16_t bound_port(int fd)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(name);

	CHECK(bind(fd, (struct sockaddr *)&name, size) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&name, &size) == 0);
	return ntohs(name.sin_port);
}

static void test_real_sockets(void)
{
	int diag = fp_owner_open(), tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
	uint16_t tcp_port = bound_port(tcp), udp_port = bound_port(udp);
	struct fp_owner owner = { .uid = FP_NONE };
	struct fp_packet packet;

	CHECK(diag >= 0);
	CHECK(listen(tcp, 1) == 0);
	packet = packet_between(IPPROTO_TCP, 9, tcp_port); /* comes to the listener */
	CHECK(fp_owner_find(diag, &packet, false, 0, &owner) == 0);
	CHECK(owner.uid == getuid());
	owner.uid = FP_NONE;
	packet = packet_between(IPPROTO_UDP, udp_port, 9); /* sent by the socket */
	CHECK(fp_owner_find(diag, &packet, true, 0, &owner) == 0);
	CHECK(owner.uid == getuid());
	CHECK(fp_owner_find(diag, &packet, false, 0, &owner) == -ENOENT);
	packet.proto = IPPROTO_ICMP;
	CHECK(fp_owner_find(diag, &packet, true, 0, &owner) == -ENOENT);
	close(udp);
	close(tcp);
	close(diag);
}

struct answer {
	struct nlmsghdr header;
	struct inet_diag_msg message;
	struct nlattr attribute;
	uint64_t cgroup;
} __attribute__((packed));

static struct answer answer_of(uint8_t state)
{
	struct answer answer = {
		.header = { .nlmsg_len = sizeof(answer), .nlmsg_type = SOCK_DIAG_BY_FAMILY },
		.message = { .idiag_state = state, .idiag_uid = 1000 },
		.attribute = { .nla_len = sizeof(struct nlattr) + 8, .nla_type = 21 },
		.cgroup = 0x1234567890,
	};

	return answer;
}

static void test_answers(void)
{
	struct answer answer = answer_of(1);
	struct fp_owner owner;

	CHECK(fp_owner_parse(&answer, sizeof(answer), &owner) == 0);
	CHECK(owner.uid == 1000 && owner.cgroup == 0x1234567890);
	for (size_t size = 0; size < sizeof(answer); size++)
		CHECK(fp_owner_parse(&answer, size, &owner) == -EBADMSG);
	for (uint32_t length = 0; length < sizeof(answer); length++) {
		answer.header.nlmsg_len = length;
		(void)fp_owner_parse(&answer, sizeof(answer), &owner);
	}
	answer = answer_of(1);
	for (uint16_t length = 0; length < 64; length++) {
		answer.attribute.nla_len = length;
		int err = fp_owner_parse(&answer, sizeof(answer), &owner); /* a shorter one leaves a rest that is one, or not */

		CHECK(err == (length == 12 ? 0 : -EBADMSG) || (length >= 4 && length < 12 && !err));
	}
	answer = answer_of(3); /* nobody has accepted it yet: the kernel says user 0 */
	CHECK(fp_owner_parse(&answer, sizeof(answer), &owner) == -ENOENT);
	answer = answer_of(6); /* TIME_WAIT */
	CHECK(fp_owner_parse(&answer, sizeof(answer), &owner) == -ENOENT);
	answer.header.nlmsg_type = NLMSG_ERROR;
	CHECK(fp_owner_parse(&answer, sizeof(answer), &owner) == -ENOENT);
}

static void test_addresses(void)
{
	const uint8_t user[16] = { 1, 0, [8] = 0x80, [14] = 3, [15] = 0xe8 };
	const uint8_t cgroup[16] = { 1, 0, [11] = 0x12, [12] = 0x34, [13] = 0x56, [14] = 0x78, [15] = 0x90 };
	uint8_t addr[16];

	fp_owner_user_address(1000, addr);
	CHECK(memcmp(addr, user, sizeof(addr)) == 0);
	fp_owner_cgroup_address(0x1234567890, addr);
	CHECK(memcmp(addr, cgroup, sizeof(addr)) == 0);
}

int main(void)
{
	RUN(test_real_sockets);
	RUN(test_answers);
	RUN(test_addresses);
	return check_result();
}
