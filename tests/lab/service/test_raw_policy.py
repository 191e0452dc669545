# SPDX-License-Identifier: Apache-2.0
"""Policy of host endpoints before connection tracking (doNotTrack) and before DNAT (preDNAT) on real packets."""

import ipaddress
import re
import socket
import urllib.request

import pytest

from appliance.lab import Chain, Namespace
from appliance.netfilter.nflog import NfLog
from tests.lab.service.hosts import HOST, addresses, on, policy, reaches
from tests.lab.service.nodes import Node, exchange, serve_echo, wait_until

pytestmark = pytest.mark.timeout(90)

ENDPOINT = (
    HOST
    + policy("all", order=1000)
    + """  types: [Ingress, Egress]
  ingress: [{action: Allow}]
  egress: [{action: Allow}]
"""
)
CLOSED = ENDPOINT.replace("ingress: [{action: Allow}]", "ingress: []")
SILENT = CLOSED.replace("egress: [{action: Allow}]", "egress: []")
EARLY = policy("early", order=1) + "  applyOnForward: true\n"
FLOOD = """
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: flood, labels: {threat: flood}}
spec: {nets: [10.77.1.66/32, "fd00:77:1::66/128"]}
"""
DENY_FLOOD = (
    FLOOD
    + EARLY
    + """  doNotTrack: true
  types: [Ingress]
  ingress: [{action: Deny, source: {selector: threat == "flood"}}]
"""
)
UNTRACKED = (
    EARLY
    + """  doNotTrack: true
  types: [Ingress, Egress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [7001]}}]
  egress: [{action: Allow, protocol: TCP, source: {ports: [7001]}}]
"""
)
DENY_ALL = (
    EARLY
    + """  doNotTrack: true
  types: [Ingress]
  ingress: [{action: Deny}]
"""
)
DENY_7001 = (
    EARLY
    + """  preDNAT: true
  types: [Ingress]
  ingress: [{action: Deny, protocol: TCP, destination: {ports: [7001]}}]
"""
)
ALLOW_7001 = (
    EARLY
    + """  preDNAT: true
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [7001]}}, {action: Deny}]
"""
)
MORE = (
    FLOOD
    + EARLY.replace("early", "more").replace("order: 1", "order: 2")
    + """  types: [Ingress]
  ingress: [{action: Deny, source: {selector: threat == "flood"}}]
"""
)
REDIRECT = """
table inet other {
  chain prerouting { type nat hook prerouting priority -100; tcp dport { 7001, 7003 } redirect to :7002; }
}
"""
TABLE = ("nft", "list", "table", "inet", "portcullis_host")


def node_addresses(net: Chain) -> list[str]:
    return addresses(net.node, "cli0")


def ruleset(namespace: Namespace) -> str:
    return namespace.run(["nft", "list", "ruleset"]).stdout


def ping(net: Chain, address: str, source: str) -> bool:
    command = ["ping", "-c", "1", "-W", "1", "-I", source, address]
    return net.client.run(command, check=False).returncode == 0


@pytest.mark.parametrize("interface", ["cli0", '"*"'], ids=["named", "every interface"])
def test_a_flood_is_dropped_before_connection_tracking_and_others_pass(listening: Node, interface: str) -> None:
    node, net = listening, listening.net
    for flooding in ("10.77.1.66/24", "fd00:77:1::66/64"):
        net.client.run(["ip", "addr", "add", flooding, "dev", "eth0", "nodad", "preferred_lft", "0"])
    node.policy(on(interface, ENDPOINT + DENY_FLOOD))
    node.start()
    quiet = addresses(net.client)
    for address, source, flooding in zip(node_addresses(net), quiet, ("10.77.1.66", "fd00:77:1::66"), strict=True):
        assert not ping(net, address, flooding)
        assert ping(net, address, source)
        assert reaches(net.client, address, 7002)
    assert re.search(r"early\|ingress\|0\|deny: (?:[2-9]|\d\d)", node.status()), "of either IP version"


def test_who_joins_a_set_is_dropped_from_then_on_and_no_rule_is_made_again(listening: Node) -> None:
    node, net = listening, listening.net
    net.client.run(["ip", "addr", "add", "10.77.1.66/24", "dev", "eth0"])
    absent = DENY_FLOOD.replace("10.77.1.66/32", "10.77.1.67/32")
    node.policy(on("cli0", ENDPOINT + absent))
    node.start()
    address = node_addresses(net)[0]
    assert ping(net, address, "10.77.1.66")

    def rules() -> list[str]:
        listed = net.node.run(["nft", "-s", "-t", *TABLE[1:]]).stdout
        return [line for line in listed.splitlines() if "elements" not in line]

    before = rules()
    assert "@" in "".join(before)
    node.policy(on("cli0", ENDPOINT + DENY_FLOOD))
    wait_until(lambda: "10.77.1.66" in net.node.run(TABLE).stdout, 10, node.log)
    assert not ping(net, address, "10.77.1.66")
    node.policy(on("cli0", ENDPOINT + absent))
    wait_until(lambda: "10.77.1.66" not in net.node.run(TABLE).stdout, 10, node.log)
    assert ping(net, address, "10.77.1.66")
    assert rules() == before
    assert "calculated in" not in node.log() and "ruleset_lost" not in node.log()
    # Others' changes of the set are seen all the same.
    name = next(word[1:] for word in "".join(before).split() if word.startswith("@") and "v4" in word)
    net.node.run(["nft", "flush", "set", *TABLE[3:], name])
    wait_until(lambda: "10.77.1.67" in net.node.run(TABLE).stdout, 10, node.log)


def test_what_it_allows_in_both_directions_is_not_tracked(listening: Node) -> None:
    node, net = listening, listening.net
    node.policy(on("cli0", CLOSED + UNTRACKED))
    node.start()
    for address in node_addresses(net):
        assert reaches(net.client, address, 7001)
        assert not reaches(net.client, address, 7002), "without an opinion of it, normal policy decides"
        assert reaches(net.client, address, 22)
    entries = net.node.run(["conntrack", "-L"], check=False).stdout
    entries += net.node.run(["conntrack", "-L", "-f", "ipv6"], check=False).stdout
    assert "dport=7001" not in entries and "dport=22" in entries


def test_failsafe_ports_and_forwarding_and_the_end_of_the_policy(listening: Node) -> None:
    node, net = listening, listening.net
    before = ruleset(net.node)
    node.policy(on("cli0", ENDPOINT + DENY_ALL))
    node.start()
    for address in node_addresses(net):
        assert reaches(net.client, address, 22)
        assert not reaches(net.client, address, 7002)
        assert not reaches(net.node, address.replace("::1", "::2").replace("1.1", "1.2"), 7002), "no answer comes in"
    for address in addresses(net.server):
        assert not reaches(net.client, address, 7001), "doNotTrack policy is for what passes through, too"
    node.policy(on("cli0", ENDPOINT))
    wait_until(lambda: "drop" not in net.node.run(TABLE).stdout, 10, node.log)
    for address in node_addresses(net):
        assert reaches(net.client, address, 7002)
    node.policy(on("cli0", ENDPOINT + DENY_ALL))
    wait_until(lambda: "drop" in net.node.run(TABLE).stdout, 10, node.log)
    assert not reaches(net.client, node_addresses(net)[0], 7002)
    node.service.stop()
    assert ruleset(net.node) == before


def test_of_every_interface_those_of_workloads_are_left_alone(listening: Node) -> None:
    node, net = listening, listening.net
    server = """
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: server, namespace: lab}
spec:
  {node: node, orchestrator: lab, workload: server, endpoint: eth0, interfaceName: srv0,
   ipNetworks: [10.77.2.2/32, "fd00:77:2::2/128"], profiles: [projectcalico-default-allow]}
"""
    node.policy(on('"*"', ENDPOINT + DENY_ALL) + server)
    node.start()
    for outer, inner in zip(node_addresses(net), addresses(net.node, "srv0"), strict=True):
        assert not reaches(net.client, outer, 7002)
        assert reaches(net.server, inner, 7002)


def test_what_it_decides_is_counted_and_what_it_drops_is_told(listening: Node) -> None:
    node, net = listening, listening.net
    node.configure(metrics="127.0.0.1:9797")
    early = ENDPOINT + DENY_7001.replace("{action: Deny,", "{action: Allow, protocol: UDP}, {action: Deny,")
    node.policy(on("cli0", early))
    node.start()
    for address in node_addresses(net):
        assert not reaches(net.client, address, 7001)
    wait_until(lambda: len(node.events("drop")) >= 2, 5, node.log)
    drops = {event["dest_ip"]: event for event in node.events("drop")}
    for address, source in zip(node_addresses(net), addresses(net.client), strict=True):
        event = drops[str(ipaddress.ip_address(address))]
        assert (event["src_ip"], event["dest_port"], event["in_iface"]) == (source, 7001, "cli0")
        assert event["drop"]["reason"] == "policy" and event["verdict"] == {"action": "drop"}
        words = {key: event["portcullis"][key] for key in ("tier", "policy", "rule")}
        assert words == {"tier": "default", "policy": "early", "rule": 1}
    listed = node.status()
    assert re.search(r"host rule   default\|early\|ingress\|1\|deny: [1-9]\d* packets", listed), listed
    assert "default|early|ingress|0|allow: 0 packets" in listed
    before = counted(node)
    assert before > 0
    node.policy(on("cli0", early.replace("Allow, protocol: UDP", "Deny, protocol: UDP")))
    node.wait_for("generation 2 in force")
    reaches(net.client, node_addresses(net)[0], 7001)
    assert counted(node) > before, "it goes on where the rule is the same"


def counted(node: Node) -> float:
    with node.net.node.enter():
        text = urllib.request.urlopen("http://127.0.0.1:9797/metrics", timeout=5).read().decode()
    (value,) = re.findall(
        r'^portcullis_host_policy_packets_total\{action="deny",direction="ingress",policy="early",rule="1",'
        r'tier="default"\} (\S+)$', text, re.MULTILINE,
    )  # fmt: skip
    return float(value)


def test_a_flood_of_denied_packets_is_told_at_a_bounded_rate(listening: Node) -> None:
    node, net = listening, listening.net
    node.policy(on("cli0", ENDPOINT + DENY_ALL))
    node.start()
    sent = 5000
    with net.client.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(sent):
            sock.sendto(b"x", ("10.77.1.1", 9999))
    wait_until(lambda: f": {sent} packets" in node.status(), 10, node.log)
    wait_until(lambda: len(node.events("drop")) >= 100, 5, node.log)
    assert len(node.events("drop")) < 1000


def test_where_another_program_has_the_log_group_it_is_only_counted(listening: Node) -> None:
    node, net = listening, listening.net
    with net.node.enter():
        other = NfLog(9470)
    node.policy(on("cli0", ENDPOINT + DENY_7001))
    node.start()
    assert not reaches(net.client, node_addresses(net)[0], 7001)
    assert "are counted, but not told: netfilter.log_group: log group 9470: is bound by another program" in node.log()
    assert node.events("drop") == [] and ": 0 packets" not in node.status()
    other.close()


def test_observing_denies_nothing(listening: Node) -> None:
    node, net = listening, listening.net
    node.configure(mode="observe")
    node.policy(on("cli0", ENDPOINT + DENY_ALL))
    node.start()
    assert reaches(net.client, node_addresses(net)[0], 7002)


def test_policy_before_dnat_sees_the_port_that_was_asked_for(listening: Node) -> None:
    node, net = listening, listening.net
    net.node.run(["nft", REDIRECT])
    node.policy(on("cli0", ENDPOINT + DENY_7001))
    node.start()
    for address in node_addresses(net):
        assert not reaches(net.client, address, 7001), "it would come to 7002"
        assert reaches(net.client, address, 7003), "to 7002"
        assert reaches(net.client, address, 7002)
    node.policy(on("cli0", ENDPOINT))
    wait_until(lambda: "drop" not in net.node.run(TABLE).stdout, 10, node.log)
    for address in node_addresses(net):
        assert reaches(net.client, address, 7001)


def test_what_policy_before_dnat_allows_to_the_host_needs_no_more(listening: Node) -> None:
    node, net = listening, listening.net
    node.policy(on("cli0", CLOSED + ALLOW_7001))
    node.start()
    for address in node_addresses(net):
        assert reaches(net.client, address, 7001), "though the host's own policy allows nothing"
        assert not reaches(net.client, address, 7002)
        assert reaches(net.client, address, 22)
    for address in addresses(net.client):
        assert reaches(net.node, address, 7002), "answers are not asked about"
    assert "applyOnForward" not in node.log(), "there is nothing to warn about"


def test_a_host_may_speak_first_after_a_change_on_what_policy_before_dnat_allowed(node: Node) -> None:
    net = node.net
    net.node.spawn(serve_echo, 7000)
    net.node.wait_for_port(7000)
    node.policy(on("cli0", SILENT + ALLOW_7001.replace("7001", "7000")))
    node.start()
    for generation, address in enumerate(node_addresses(net), 2):
        with net.client.enter():
            sock = socket.create_connection((address, 7000), timeout=3)
        with sock:
            assert exchange(sock)
            sock.sendall(b"say 3")
            changed = MORE.replace('threat == "flood"', f'threat == "flood{generation}"')
            node.policy(on("cli0", SILENT + ALLOW_7001.replace("7001", "7000") + changed))
            node.wait_for(f"generation {generation} in force")
            assert sock.recv(10) == b"said"
