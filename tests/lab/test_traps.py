# SPDX-License-Identifier: Apache-2.0
"""Ways to get past a fate: foreign marks, related traffic, NAT. Each with real packets."""

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from appliance.netfilter import Fate
from appliance.netfilter.marks import Up

pytestmark = pytest.mark.timeout(20)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
Ask = Callable[..., int]
ALLOW_1 = 0x05000000  # generation 1, allow, at the default mask


def rules(namespace: Any, *commands: str) -> None:
    """nft commands of a foreign program, in a table of its own."""
    namespace.run(["nft", "-f", "-"], input="add table inet other\n" + "\n".join(commands) + "\n")


# ---- forged and foreign marks -----------------------------------------------------------------------


@FAMILIES
def test_so_mark_forges_no_fate(gate: Any, family: int) -> None:
    decider = gate.install()
    decider.decide = lambda packet: Fate.REJECT
    gate.serve(gate.server, 7000, family)
    for mark in (ALLOW_1, 0xFF000000, 0x80000000):
        with pytest.raises(ConnectionRefusedError):
            gate.connect(gate.node, gate.server.address(family), 7000, mark=mark)
    assert [packet.up for packet in decider.take()] == [Up(new=True)] * 3


@FAMILIES
@pytest.mark.parametrize("when", ["raw", "mangle", "late"])
def test_so_mark_and_a_foreign_save_mark_forge_no_fate(gate: Any, family: int, when: str) -> None:
    """The foreign rule saves the packet's mark in the connection: before raw, in mangle, behind us."""
    priority = {"raw": -299, "mangle": -150, "late": 300}[when]
    rules(
        gate.node,
        f"add chain inet other out {{ type filter hook output priority {priority}; }}",
        "add rule inet other out ct mark set meta mark",
    )
    decider = gate.install()
    decider.decide = lambda packet: Fate.DROP
    there = gate.datagram(gate.server, port=7001, family=family)
    here = gate.datagram(gate.node, gate.server.address(family), 7001)
    here.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, ALLOW_1)
    there.settimeout(0.2)
    for _ in range(3):
        here.send(b"x")
    with pytest.raises(TimeoutError):
        there.recv(10)
    assert len(decider.take()) == 3


@FAMILIES
def test_so_mark_with_a_save_mark_before_an_open_flow_is_decided_anew(gate: Any, family: int) -> None:
    """Confirmed flow with an old fate: its own later packets cannot write the current one."""
    rules(
        gate.node,
        "add chain inet other out { type filter hook output priority mangle; }",
        "add rule inet other out ct mark set meta mark",
    )
    decider = gate.install()
    there = gate.datagram(gate.server, port=7001, family=family)
    here = gate.datagram(gate.node, gate.server.address(family), 7001)
    here.send(b"x")
    there.recv(10)
    decider.decide = lambda packet: Fate.DROP
    gate.set_generation(decider, 2)
    here.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x09000000)  # generation 2, allow
    there.settimeout(0.2)
    here.send(b"y")
    with pytest.raises(TimeoutError):
        there.recv(10)


@FAMILIES
@pytest.mark.parametrize("program", ["nft", "iptables"])
def test_a_foreign_restore_mark_rule_changes_nothing(gate: Any, ask_server: Ask, family: int, program: str) -> None:
    if program == "nft":
        rules(
            gate.node,
            "add chain inet other pre { type filter hook prerouting priority mangle; }",
            "add rule inet other pre meta mark set ct mark",
        )
    else:
        tool = "iptables-nft" if family == 4 else "ip6tables-nft"
        gate.node.run([tool, "-t", "mangle", "-A", "PREROUTING", "-j", "CONNMARK", "--restore-mark"])
    decider = gate.install()
    gate.serve(gate.server, 7000, family)
    connection = gate.connect(gate.client, gate.server.address(family), 7000)
    assert ask_server(connection, b"x" * 100_000 + b"?") == 100_001
    assert [packet.up for packet in decider.take()] == [Up(new=True)]
    decider.decide = lambda packet: Fate.REJECT
    gate.set_generation(decider, 2)
    with pytest.raises(ConnectionError):
        ask_server(connection)
    assert [packet.up for packet in decider.take()] == [Up(previous=Fate.ALLOW)]


def test_foreign_mark_bits_survive(gate: Any, ask_server: Ask) -> None:
    """Bits of the packet mark reach the chains behind us, bits of the connection mark stay, ours are not seen there."""
    rules(
        gate.node,
        "add chain inet other pre { type filter hook prerouting priority mangle; }",
        "add rule inet other pre meta mark set meta mark | 0x00123456",
        "add rule inet other pre ct mark set ct mark | 0x00000042",
        "add counter inet other right",
        "add chain inet other post { type filter hook postrouting priority 300; }",
        "add rule inet other post meta mark == 0x00123456 counter name right accept",
        "add rule inet other post oifname srv0 log drop",
    )
    decider = gate.install(allow_mark_overlap=True)
    gate.serve(gate.server, 7000)
    assert ask_server(gate.connect(gate.client, gate.server.v4, 7000)) == 1
    assert decider.take()[0].mark == 0x84123456
    assert ALLOW_1 | 0x42 in gate.marks()


# ---- related traffic --------------------------------------------------------------------------------


def icmp_error_of_the_server(gate: Any, family: int) -> tuple[socket.socket, socket.socket]:
    """A UDP flow client → server whose next datagram the server's kernel answers with port unreachable."""
    there = gate.datagram(gate.server, port=7005, family=family)
    here = gate.datagram(gate.client, gate.server.address(family), 7005)
    return here, there


@FAMILIES
def test_an_icmp_error_of_an_allowed_flow_passes_unasked(gate: Any, family: int) -> None:
    decider = gate.install()
    here, there = icmp_error_of_the_server(gate, family)
    here.send(b"x")
    there.recv(10)
    there.close()
    decider.take()
    here.send(b"y")
    with pytest.raises(ConnectionRefusedError):
        here.recv(10)
    assert decider.take() == []


@FAMILIES
@pytest.mark.parametrize("fate", [Fate.ALLOW, Fate.DROP])
def test_an_icmp_error_of_an_undecided_flow_decides_nothing(gate: Any, family: int, fate: Fate) -> None:
    """As while the flow is inspected: each packet is let pass without a fate."""
    decider = gate.install()
    icmp = 1 if family == 4 else 58
    decider.decide = lambda packet: fate if packet.protocol == icmp else Fate.NONE
    here, there = icmp_error_of_the_server(gate, family)
    here.send(b"x")
    there.recv(10)
    there.close()
    decider.take()
    here.send(b"y")
    with pytest.raises(ConnectionRefusedError if fate is Fate.ALLOW else TimeoutError):
        here.settimeout(0.3)
        here.recv(10)
    here.close()
    seen = decider.take()
    assert [packet.up for packet in seen if packet.protocol == icmp] == [Up(no_save=True, reply=True)]
    assert [packet.up for packet in seen if packet.protocol == 17] == [Up()]
    assert gate.marks() == [0]


@FAMILIES
def test_an_icmp_error_of_an_old_generation_is_asked(gate: Any, family: int) -> None:
    decider = gate.install()
    here, there = icmp_error_of_the_server(gate, family)
    here.send(b"x")
    there.recv(10)
    there.close()
    # The datagram passes with the new fate before its error comes back, so hold the flow undecided.
    decider.decide = lambda packet: Fate.NONE
    gate.set_generation(decider, 2)
    decider.take()
    here.send(b"y")
    with pytest.raises(ConnectionRefusedError):
        here.recv(10)
    assert Up(no_save=True, reply=True) in [packet.up for packet in decider.take()]


@FAMILIES
def test_an_expected_connection_inherits_nothing(gate: Any, ask_server: Ask, family: int) -> None:
    """FTP: the control connection is allowed; the data connection that conntrack expects is asked for itself."""
    rules(
        gate.node,
        'add ct helper inet other ftp { type "ftp" protocol tcp; }',
        "add chain inet other pre { type filter hook prerouting priority -150; }",
        "add rule inet other pre tcp dport 21 ct helper set ftp",
        "add counter inet other related",
        "add chain inet other forw { type filter hook forward priority 10; }",
        "add rule inet other forw ct state related tcp flags syn counter name related",
    )
    decider = gate.install()
    control = serve_ftp_control(gate, family)
    client = gate.connect(gate.client, gate.server.address(family), 21)
    session, _ = control.accept()
    with session:
        session.sendall(b"220 ready\r\n")  # the helper reads from the second line on
        client.recv(100)
        client.sendall(b"USER x\r\n")
        session.recv(100)
        client.sendall(b"PASV\r\n" if family == 4 else b"EPSV\r\n")
        session.recv(100)
        address = gate.server.v4.replace(".", ",")
        answer = f"227 Entering Passive Mode ({address},39,16).\r\n" if family == 4 else "229 Extended (|||10000|)\r\n"
        session.sendall(answer.encode())
        client.recv(200)
        gate.serve(gate.server, 10000, family)
        decider.take()
        decider.decide = lambda packet: Fate.REJECT
        with pytest.raises(ConnectionRefusedError):
            gate.connect(gate.client, gate.server.address(family), 10000)
        assert [(packet.up, packet.dport) for packet in decider.take()] == [(Up(new=True), 10000)]
        related = gate.node.run(["nft", "list", "counter", "inet", "other", "related"]).stdout
        assert "packets 1 " in related  # conntrack did expect it


def serve_ftp_control(gate: Any, family: int) -> socket.socket:
    with gate.server.enter():
        made = socket.create_server(("", 21), family=socket.AF_INET if family == 4 else socket.AF_INET6)
    gate.defer(made.close)
    made.settimeout(3)
    return made


# ---- other programs' rules still act ----------------------------------------------------------------


@FAMILIES
def test_a_foreign_mss_clamp_still_acts(gate: Any, ask_server: Ask, family: int) -> None:
    tool = "iptables-nft" if family == 4 else "ip6tables-nft"
    clamp = ["-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", "-j", "TCPMSS", "--set-mss", "1000"]
    gate.node.run([tool, "-t", "mangle", "-A", "POSTROUTING", *clamp])  # behind us
    gate.install()
    gate.serve(gate.server, 7000, family)
    connection = gate.connect(gate.client, gate.server.address(family), 7000)
    assert ask_server(connection) == 1
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1000


@FAMILIES
@pytest.mark.parametrize("priority", [0, 200])
def test_a_foreign_drop_rule_still_acts(gate: Any, family: int, priority: int) -> None:
    rules(
        gate.node,
        f"add chain inet other forw {{ type filter hook forward priority {priority}; }}",
        "add rule inet other forw tcp dport 7000 drop",
    )
    decider = gate.install()
    gate.serve(gate.server, 7000, family)
    with pytest.raises(TimeoutError):
        gate.connect(gate.client, gate.server.address(family), 7000, timeout=0.4)
    assert bool(decider.take()) == (priority == 200)


@FAMILIES
def test_translated_flows_come_up_with_their_real_addresses(gate: Any, ask_server: Ask, family: int) -> None:
    kind = "ip" if family == 4 else "ip6"
    node, server, client = (
        gate.node.address(family, "cli0"),
        gate.server.address(family),
        gate.client.address(family),
    )
    target = f"{server}:7000" if family == 4 else f"[{server}]:7000"
    rules(
        gate.node,
        "add chain inet other pre { type nat hook prerouting priority dstnat; }",
        f"add rule inet other pre {kind} daddr {node} tcp dport 8000 dnat {kind} to {target}",
        "add chain inet other post { type nat hook postrouting priority srcnat; }",
        "add rule inet other post oifname srv0 masquerade",
    )
    decider = gate.install()
    gate.serve(gate.server, 7000, family)
    connection = gate.connect(gate.client, node, 8000)
    assert ask_server(connection, b"x" * 100_000 + b"?") == 100_001
    gate.set_generation(decider, 2)
    assert ask_server(connection) == 100_002
    seen = decider.take()
    assert [(packet.src, packet.dst, packet.dport, packet.up) for packet in seen] == [
        (client, server, 7000, Up(new=True)),
        (client, server, 7000, Up(previous=Fate.ALLOW)),
    ]


# ---- without conntrack ------------------------------------------------------------------------------


@FAMILIES
def test_untracked_packets_are_asked_one_by_one(gate: Any, family: int) -> None:
    rules(
        gate.node,
        "add chain inet other pre { type filter hook prerouting priority raw; }",
        "add rule inet other pre udp dport 7006 notrack",
    )
    decider = gate.install()
    there = gate.datagram(gate.server, port=7006, family=family)
    here = gate.datagram(gate.client, gate.server.address(family), 7006)
    for _ in range(2):
        here.send(b"x")
        there.recv(10)
    assert [packet.up for packet in decider.take()] == [Up(no_save=True)] * 2
    decider.decide = lambda packet: Fate.REJECT
    with pytest.raises(OSError) as caught:
        here.send(b"x")
        here.recv(10)
    assert caught.value.errno in (errno.EHOSTUNREACH, errno.EACCES)
    assert len(decider.take()) == 1
