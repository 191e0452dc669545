# SPDX-License-Identifier: Apache-2.0
"""Host policy before tracking and before DNAT, as nft text."""

import ipaddress
import itertools
import random
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab import Lab, have_root
from appliance.netfilter.addresses import AddressSets, merge, pieces
from appliance.netfilter.hostmatches import HostPolicyError
from appliance.netfilter.hostrules import empty_script, host_rules
from appliance.netfilter.ruleset import NetfilterSettings
from fastpath import IdentityMap, Policy, Query
from fastpath.layout import NONE, Action
from rules.policy import CompileOptions, Program, compile_policy, load_documents

SETTINGS = NetfilterSettings()
HOST = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: INTERFACE, labels: {host: node}}
spec: {node: n1, interfaceName: INTERFACE, ports: [{name: web, protocol: TCP, port: 80}]}
---
"""
ETH0 = HOST.replace("INTERFACE", "eth0")
EVERY = HOST.replace("metadata: {name: INTERFACE", "metadata: {name: every").replace("INTERFACE", '"*"')
SETS = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: bad, labels: {list: bad}}
spec: {nets: [192.0.2.0/24, 192.0.3.0/24, "2001:db8::/32"]}
---
"""
POLICY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: NAME}
spec:
  selector: host == 'node'
  applyOnForward: true
"""
RAW = POLICY.replace("NAME", "raw") + "  doNotTrack: true\n"
EARLY = POLICY.replace("NAME", "early") + "  preDNAT: true\n"
EVERYTHING = """
    - {action: Log}
    - {action: Pass, protocol: UDP}
    - {action: Deny, protocol: ICMP, icmp: {type: 8, code: 0}}
    - {action: Deny, notProtocol: TCP}
    - {action: Deny, protocol: ICMP, notICMP: {type: 3, code: 4}}
    - {action: Deny, protocol: ICMPv6, notICMP: {type: 128}}
    - {action: Allow, protocol: TCP, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16], ports: [1, "5:9"]}}
    - {action: Allow, protocol: TCP, destination: {ports: [web, 443], notPorts: [7]}}
    - {action: Deny, protocol: TCP, destination: {notPorts: [web, "100:200"]}}
    - {action: Deny, ipVersion: 6, source: {notSelector: list == 'bad'}}
    - {action: Allow, protocol: SCTP, source: {selector: list == 'bad'}, destination: {selector: host == 'node'}}
"""


def program(text: str) -> Program:
    loaded = load_documents(text, "f.yaml")
    assert not loaded.errors
    return compile_policy(loaded.resources, CompileOptions(node="n1", interfaces={"eth0": 2, "eth1": 3}))


def rules(script: str, chain: str) -> list[str]:
    return re.findall(rf"^add rule inet portcullis_host {chain} (.*)$", script, re.MULTILINE)


def script_of(text: str) -> str:
    return written(program(text))


def addresses(made: Program) -> AddressSets:
    return AddressSets(lambda: (made.entries, made.tables))


def written(made: Program, prefix: str = "a", old: Iterable[tuple[str, str]] = (), group: int | None = None) -> str:
    return host_rules(made, SETTINGS, prefix, group=group).script(addresses(made), old)


def test_only_the_hooks_with_policy_have_rules() -> None:
    script = script_of(ETH0 + RAW + "  ingress: [{action: Deny}]\n")
    assert rules(script, "guard") == ["meta mark set meta mark & 0x00ffffff"]
    assert rules(script, "raw_in") and not rules(script, "raw_out") and not rules(script, "pre_dnat")
    script = script_of(ETH0 + EARLY + "  ingress: [{action: Deny}]\n")
    assert rules(script, "pre_dnat") and not rules(script, "raw_in")


def test_an_interface_of_its_own_goes_before_every_interface() -> None:
    other = ETH0.replace("host: node", "host: other")
    script = script_of(other + EVERY + RAW + "  ingress: [{action: Deny}]\n")
    assert rules(script, "raw_in")[-2] == "iif vmap { 2 : accept }"
    assert re.fullmatch(r"goto a_u\d+_0", rules(script, "raw_in")[-1])


def test_failsafe_ports_and_their_answers_are_spared() -> None:
    script = script_of(ETH0 + RAW + "  ingress: [{action: Deny}]\n")
    ports = [rule for rule in rules(script, "raw_in") if "l4proto . th" in rule]
    assert "th dport { 6 . 22" in ports[0] and "th sport" in ports[1] and "17 . 53" in ports[1]
    early = script_of(ETH0 + EARLY + "  ingress: [{action: Deny}]\n")
    assert not any("th sport" in rule for rule in rules(early, "pre_dnat"))


def test_a_rule_with_addresses_is_one_for_each_ip_version() -> None:
    script = script_of(SETS + ETH0 + RAW + "  ingress: [{action: Deny, source: {selector: list == 'bad'}}]\n")
    assert "type ipv4_addr; flags interval; elements = { 192.0.2.0-192.0.3.255 }" in script
    assert "type ipv6_addr; flags interval; elements = { 2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff }" in script
    drops = [line for line in script.splitlines() if line.endswith("drop")]
    assert len(drops) == 2 and "ipv4 ip saddr @a_p" in drops[0] and "ipv6 ip6 saddr @a_p" in drops[1]


def test_allowed_is_marked_and_untracked_only_before_tracking() -> None:
    script = script_of(ETH0 + RAW + "  ingress: [{action: Allow}]\n  egress: [{action: Allow}]\n")
    assert len(re.findall(r"notrack meta mark set meta mark \| 0x80000000 counter name \w+ accept", script)) == 2
    script = script_of(ETH0 + EARLY + "  ingress: [{action: Allow}]\n")
    assert "notrack" not in script
    assert re.search(r"meta mark set meta mark \| 0xa0000000 counter name \w+ accept", script)
    assert re.search(r"a_r\d+_0 meta mark set meta mark \| 0xa0000000 accept", script), "answers are not counted"


def test_what_is_denied_is_told_at_a_bounded_rate_and_counted_all_the_same() -> None:
    made = program(ETH0 + RAW + "  ingress: [{action: Allow, protocol: UDP}, {action: Deny}]\n")
    told, script = host_rules(made, SETTINGS, "a", group=7), written(made, group=7)
    (name,) = (name for name, rule in told.counters.items() if made.rules[rule].action == "deny")
    assert "add limit inet portcullis_host told { rate 100/second burst 100 packets; }" in script
    assert rules(script, f"a_x{name}") == [
        f'limit name "told" log prefix "{name}" group 7',
        f"counter name {name} drop",
    ]
    assert f"goto a_x{name}" in script and script.count(" drop\n") == 1
    assert "log" not in written(made)


def test_a_rule_is_counted_under_the_same_name_in_the_next_program() -> None:
    text = ETH0 + RAW + "  ingress: [{action: Deny, protocol: UDP}]\n"
    before, after = (host_rules(program(given), SETTINGS, "a") for given in (text, SETS + text + "---\n" + EARLY))
    assert before.counters.keys() == after.counters.keys()


def test_an_answer_is_asked_about_the_first_packet_of_its_connection() -> None:
    text = (
        SETS
        + ETH0
        + EARLY
        + """  ingress:
    - {action: Allow, protocol: TCP, source: {selector: list == 'bad'}, destination: {ports: [7]}}
    - {action: Allow, protocol: ICMP, icmp: {type: 8, code: 1}}
    - {action: Deny, protocol: ICMP, notICMP: {type: 3}}
"""
    )
    script = script_of(text)
    assert rules(script, "passing") == rules(script, "answers")[1:]
    assert "meta l4proto 6 ct original proto-dst { 22," in "\n".join(rules(script, "passing"))
    (chain,) = set(re.findall(r"oif vmap \{ 2 : goto (\w+) \}", script))
    tcp4, _, icmp4, other = rules(script, chain)[:4]
    assert re.match(r"meta nfproto ipv4 ct original ip saddr @a_p\w+ meta l4proto ", tcp4)
    assert "ct original proto-dst { 7 } meta mark set" in tcp4
    assert "ct original proto-dst & 0xff00 == 2048 ct original proto-dst & 0x00ff == 1 " in icmp4
    assert "ct original proto-dst & 0xff00 != 768 accept" in other, "what it denies others decide"


def test_a_negated_named_port_is_of_its_address_and_protocol() -> None:
    script = script_of(ETH0 + RAW + "  ingress: [{action: Deny, protocol: TCP, destination: {notPorts: [7]}}]\n")
    drops = [line for line in script.splitlines() if line.endswith("drop")]
    assert len(drops) == 1 and "meta l4proto { 6 } th dport != { 7 }" in drops[0]


def test_what_it_takes_too_many_rules_for_is_refused() -> None:
    names = ", ".join(f"n{i}" for i in range(9))
    ports = ", ".join(f"{{name: n{i}, protocol: {p}, port: {i + 1}}}" for i in range(9) for p in ("TCP", "UDP"))
    hosts = "".join(
        f"apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: w{i}, namespace: d}}\nspec: "
        f"{{node: n2, orchestrator: k, workload: w{i}, endpoint: e, interfaceName: c{i}, ipNetworks: [10.3.0.{i}/32],"
        f" ports: [{{name: n{i}, protocol: TCP, port: {i + 1}}}]}}\n---\n"
        for i in range(9)
    )
    text = hosts + ETH0.replace("{name: web, protocol: TCP, port: 80}", ports) + RAW
    text += f"  ingress: [{{action: Deny, protocol: TCP, destination: {{notPorts: [{names}]}}}}]\n"
    with pytest.raises(HostPolicyError, match="named ports"):
        script_of(text)


@pytest.mark.skipif(not have_root(), reason="namespaces need root")
def test_the_kernel_takes_every_kind_of_match_and_takes_the_next_one_in_its_place() -> None:
    text = SETS + ETH0 + EVERY + RAW + "  ingress:" + EVERYTHING + "  egress:" + EVERYTHING
    text += "---\n" + EARLY + "  ingress:" + EVERYTHING
    made = program(text)
    with Lab() as lab:
        namespace = lab.namespace("host")
        namespace.run(["nft", "-f", "-"], input=written(made))
        listed = namespace.run(["nft", "list", "table", "inet", "portcullis_host"]).stdout
        old = re.findall(r"^\t(chain|set) (a_\w+)", listed, re.MULTILINE)
        counters = re.findall(r"^\t(counter) (n\w+)", listed, re.MULTILINE)
        assert old and len(counters) == len(host_rules(made, SETTINGS, "a").counters)
        old += [*counters, ("counter", "n0")]
        namespace.run(["nft", "add", "counter", "inet", "portcullis_host", "n0"])
        namespace.run(["nft", "-f", "-"], input=written(made, "b", old))
        listed = namespace.run(["nft", "list", "table", "inet", "portcullis_host"]).stdout
        assert "chain b_" in listed and "a_" not in re.findall(r"(?:chain|set) (a_)", listed)
        assert re.findall(r"^\t(counter) (n\w+)", listed, re.MULTILINE) == counters, "n0 is of no rule"
        left = re.findall(r"^\t(chain|set|counter) ([bn]_?\w+)", listed, re.MULTILINE)
        namespace.run(["nft", "-f", "-"], input=empty_script(left))
        listed = namespace.run(["nft", "list", "table", "inet", "portcullis_host"]).stdout
        assert "drop" not in listed and listed.count("hook") == 6 and "counter n" not in listed


_PREFIXES = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda net: ipaddress.ip_network(net, strict=False)),
    st.tuples(st.integers(0x2000 << 112, 0x2FFF << 112), st.integers(4, 128)).map(
        lambda net: ipaddress.ip_network((net[0].to_bytes(16), net[1]), strict=False)
    ),
)


@given(st.dictionaries(_PREFIXES, st.integers(0, 4), max_size=12))
def test_pieces_say_of_every_address_what_the_identity_map_says(
    nets: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, int],
) -> None:
    entries = [
        (bytes(10) + b"\xff\xff" + net.network_address.packed, 96 + net.prefixlen, identity, 0)
        if net.version == 4
        else (net.network_address.packed, net.prefixlen, identity, 0)
        for net, identity in nets.items()
    ]
    known = IdentityMap.build(entries)
    for version, found in pieces(entries).items():
        address = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        assert found[0][0] == 0 and found[-1][1] == (1 << (32 if version == 4 else 128)) - 1
        assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(found))
        for first, last, identity in found:
            for number in {first, last, (first + last) // 2}:
                if not (version == 6 and number >> 32 == 0xFFFF):
                    assert known.lookup(address(number))[0] == identity


def test_neighbours_become_one() -> None:
    assert merge([(5, 9), (1, 3), (4, 4), (11, 12)]) == [(1, 9), (11, 12)]
    made = program(SETS + ETH0 + RAW + "  ingress: [{action: Deny, source: {selector: list == 'bad'}}]\n")
    assert all(addresses(made).of(1000, version) == [] for version in (4, 6))


class _Rules:
    """Asks the text as the kernel would: only what host_rules() writes below its base chains."""

    def __init__(self, script: str) -> None:
        self.chains: dict[str, list[str]] = {}
        for chain, rule in re.findall(r"^add rule inet portcullis_host (\S+) (.*)$", script, re.MULTILINE):
            self.chains.setdefault(chain, []).append(rule)
        self.sets = {
            name: [
                tuple(int(ipaddress.ip_address(end)) for end in (item.split("-") * 2)[:2])
                for item in elements.split(", ")
                if item
            ]
            for name, elements in re.findall(
                r"add set inet portcullis_host (\S+) .*interval;(?: elements = \{ ([^}]*) \};)? \}\n", script
            )
        }

    def ask(self, chain: str, source: str, destination: str, query: Query) -> str:
        """accept, drop or nothing."""
        for rule in self.chains.get(chain, ()):
            matches, verdict = re.fullmatch(  # type: ignore[union-attr]
                r"(.*?)(?:notrack )?(?:meta mark set \S+ \S+ \S+ \S+ )?(?:counter name \S+ )?(goto \S+|accept|drop)",
                rule,
            ).groups()
            if all(self._matches(*found, source, destination, query) for found in self._split(matches)):
                return self.ask(verdict[5:], source, destination, query) if verdict.startswith("goto") else verdict
        return ""

    @staticmethod
    def _split(matches: str) -> list[tuple[str, str, str]]:
        one = r"(meta \w+|ip6? \w+|th \w+|@th,\d,8) (!= )?(\{ [^}]* \}|\S+) "
        assert re.fullmatch(f"({one})*", matches), matches
        return re.findall(one, matches)

    def _matches(self, field: str, negated: str, wanted: str, source: str, destination: str, query: Query) -> bool:
        if field == "meta nfproto":
            return wanted == f"ipv{query.family}"
        if field.startswith("ip"):
            address = int(ipaddress.ip_address(source if field.endswith("saddr") else destination))
            assert (query.family == 6) == field.startswith("ip6")
            return any(first <= address <= last for first, last in self.sets[wanted[1:]]) != bool(negated)
        if field.startswith("th"):
            assert query.proto in (6, 17, 132, 136)
        value = {"meta l4proto": query.proto, "th sport": query.sport, "th dport": query.dport,
                 "@th,0,8": query.icmp_type, "@th,8,8": query.icmp_code}[field]  # fmt: skip
        ranges = [tuple(map(int, (item.split("-") * 2)[:2])) for item in wanted.strip("{} ").split(", ")]
        return any(first <= value <= last for first, last in ranges) != bool(negated)


NAMED = """
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: w, namespace: d, labels: {host: other}}
spec:
  {node: n2, orchestrator: k, workload: w, endpoint: e, interfaceName: c1, ipNetworks: [10.3.0.1/32],
   ports: [{name: web, protocol: TCP, port: 443}, {name: web, protocol: UDP, port: 7}]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: second}
spec: {order: 10}
---
"""
_SOURCES = {4: ("10.0.0.1", "10.1.2.3", "192.0.2.77", "192.0.4.0", "10.3.0.1"), 6: ("2001:db8::5", "2001:db9::", "::1")}


def test_the_rules_say_what_the_engine_says() -> None:
    hosts = ETH0.replace("interfaceName: eth0", "interfaceName: eth0, expectedIPs: [192.0.4.0, '2001:db9::']")
    text = SETS + hosts + NAMED + RAW + "  ingress:" + EVERYTHING
    text += "---\n" + POLICY.replace("NAME", "second.raw") + "  tier: second\n  doNotTrack: true\n  ingress:"
    text += EVERYTHING.replace("Allow, protocol: TCP", "Deny, protocol: UDP").replace("Pass", "Allow")
    made = program(text)
    asked, policy, identities = (
        _Rules(written(made)), Policy(made.tables), IdentityMap.build(made.entries)
    )  # fmt: skip
    chain = made.raw_chains[2].untracked_ingress
    assert chain != NONE
    chance = random.Random(7)
    seen = set()
    for _ in range(6000):
        family = chance.choice((4, 6))
        source, destination = chance.choice(_SOURCES[family]), chance.choice(_SOURCES[family])
        query = Query(
            identities.lookup(ipaddress.ip_address(source))[0], identities.lookup(ipaddress.ip_address(destination))[0],
            sport=chance.choice((1, 4, 5, 9, 10)), dport=chance.choice((7, 80, 100, 150, 201, 443)),
            proto=chance.choice((1, 6, 6, 6, 17, 58, 132, 47)), family=family,
            icmp_type=chance.choice((3, 8, 128)), icmp_code=chance.choice((0, 4)),
        )  # fmt: skip
        expected = {Action.ALLOW: "accept", Action.NEXT: ""}.get(policy.trace_chain(chain, query)[0], "drop")
        assert asked.ask(f"a_u{chain}_0", source, destination, query) == expected, (source, destination, query)
        seen.add((expected, query.proto))
    assert {verdict for verdict, _ in seen} == {"accept", "drop", ""}
