# SPDX-License-Identifier: Apache-2.0
"""Install, take over, refuse, remove: what happens to others' rules and to packets that wait."""

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from netfilterqueue import NetfilterQueue

from appliance.netfilter import Fate, Netfilter, NetfilterError, NetfilterSettings, elements, nft
from appliance.netfilter.marks import Up

pytestmark = pytest.mark.timeout(20)
Ask = Callable[..., int]

FOREIGN = """
add table inet other
add chain inet other fwd_ { type filter hook forward priority 0; }
add rule inet other fwd_ tcp dport 9999 drop
add rule inet other fwd_ meta mark set meta mark | 0x00010000
"""


def ruleset(namespace: Any) -> list[dict[str, Any]]:
    """Without handles and counters, which change."""
    objects = json.loads(namespace.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"][1:]

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in ("handle", "packets", "bytes")}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return [plain(entry) for entry in objects]


def foreign_rules(namespace: Any) -> None:
    namespace.run(["nft", "-f", "-"], input=FOREIGN)
    for tool in ("iptables-nft", "ip6tables-nft"):
        namespace.run([tool, "-A", "FORWARD", "-p", "tcp", "--dport", "9998", "-j", "DROP"])


def test_remove_leaves_the_namespace_as_it_was(gate: Any, ask_server: Ask) -> None:
    foreign_rules(gate.node)
    before = ruleset(gate.node)
    gate.install()
    gate.serve(gate.server, 7000)
    connection = gate.connect(gate.client, gate.server.v4, 7000)
    ask_server(connection)
    with gate.node.enter():
        assert gate.netfilter.remove() == []
        assert gate.netfilter.counters() == {}
    assert ruleset(gate.node) == before
    assert not any(gate.marks())
    assert ask_server(connection) == 2  # nobody stands in its way


def test_remove_keeps_a_security_table_that_others_use(gate: Any) -> None:
    rule = ["-t", "security", "-A", "FORWARD", "-p", "tcp", "--dport", "9997", "-j", "DROP"]
    gate.node.run(["iptables-nft", *rule])
    gate.install(decider=False, backend="xt")
    gate.node.run(["ip6tables-nft", *rule])  # this table is ours, but no longer ours alone
    with gate.node.enter():
        assert gate.netfilter.remove() == ["table ip6 security stays: it has rules of another program by now"]
    for tool in ("iptables-nft-save", "ip6tables-nft-save"):
        saved = gate.node.run([tool, "-t", "security"]).stdout
        assert "9997" in saved
        assert "NFQUEUE" not in saved


def test_remove_empties_but_keeps_the_chains_while_another_queue_is_bound(gate: Any, ask_server: Ask) -> None:
    gate.install()
    with gate.node.enter():
        other = NetfilterQueue()
        other.bind(777, lambda packet: packet.accept())
    gate.defer(other.unbind)
    with gate.node.enter():
        left = gate.netfilter.remove()
    assert len(left) == 1
    assert "queue 777" in left[0]
    hooked = {entry["chain"]["name"] for entry in ruleset(gate.node) if "hook" in entry.get("chain", {})}
    assert hooked
    assert not hooked & {entry["rule"]["chain"] for entry in ruleset(gate.node) if "rule" in entry}
    gate.serve(gate.server, 7000)
    assert ask_server(gate.connect(gate.client, gate.server.v4, 7000)) == 1
    with gate.node.enter():
        gate.netfilter.install(3)
        assert gate.netfilter.missing() == []


def waiting_in_a_foreign_queue(gate: Any) -> tuple[list[Any], socket.socket]:
    """Three datagrams that wait for their verdict on the node, and where they go."""
    gate.node.run(
        ["iptables-nft", "-I", "FORWARD", "-p", "udp", "--dport", "7100", "-j", "NFQUEUE", "--queue-num", "700"]
    )
    got: list[Any] = []
    with gate.node.enter():
        other = NetfilterQueue()
        other.bind(700, lambda packet: (packet.retain(), got.append(packet)))
    gate.defer(other.unbind)
    there = gate.datagram(gate.server, port=7100)
    there.settimeout(0.3)
    here = gate.datagram(gate.client, gate.server.v4, 7100)
    for _ in range(3):
        here.send(b"waiting")
    deadline = time.monotonic() + 2
    while len(got) < 3 and time.monotonic() < deadline:
        other.run(block=False)
        time.sleep(0.01)
    assert len(got) == 3
    return got, there


def test_no_waiting_packet_is_lost_when_a_leftover_table_is_taken_over(gate: Any) -> None:
    """A predecessor was killed. What waits in a queue, here a foreign one, survives install and a new generation."""
    gate.install(decider=False)
    got, there = waiting_in_a_foreign_queue(gate)
    successor = gate.install(decider=False, failsafe_in=(("tcp", 2222),), hooks=("forward",))  # other settings by now
    gate.set_generation(successor, 2)
    with gate.node.enter():
        assert gate.netfilter.remove() != []  # 700 is bound: the chains stay
    for packet in got:
        packet.accept()
    for _ in range(3):
        assert there.recv(10) == b"waiting"


@pytest.mark.parametrize("how", ["hook deleted", "last conntrack rule deleted"])
def test_why_hooks_are_never_unregistered(gate: Any, how: str) -> None:
    """The kernel's behaviour that install and remove go round. Where it ends, they may become simpler."""
    gate.node.run(["nft", "add table inet x; add chain inet x c { type filter hook input priority 5; }"])
    gate.node.run(["nft", "add chain inet x unused; add rule inet x unused ct state new accept"])
    got, there = waiting_in_a_foreign_queue(gate)
    gate.node.run(["nft", "delete chain inet x c" if how == "hook deleted" else "flush chain inet x unused"])
    for packet in got:
        packet.accept()
    with pytest.raises(TimeoutError):
        there.recv(10)


def test_a_successor_finds_open_flows_and_may_keep_their_fates(gate: Any, ask_server: Ask) -> None:
    decider = gate.install()
    gate.serve(gate.server, 7000)
    connection = gate.connect(gate.client, gate.server.v4, 7000)
    ask_server(connection)
    with gate.node.enter():
        assert Netfilter(gate.settings).generation() == 1
    gate.install(decider=False)
    decider.take()
    assert ask_server(connection) == 2
    assert decider.take() == []


def test_installing_twice_changes_nothing(gate: Any) -> None:
    gate.install(decider=False)
    before = ruleset(gate.node)
    with gate.node.enter():
        gate.netfilter.install(1)
    assert sorted(map(str, ruleset(gate.node))) == sorted(map(str, before))


def test_a_narrower_configuration_leaves_no_rules_behind(gate: Any) -> None:
    gate.install(decider=False)
    gate.install(decider=False, hooks=("forward",), count=False)
    text = gate.node.run(["nft", "list", "table", "inet", "portcullis"]).stdout
    assert "counter" not in text
    assert not any("classify_input" in str(entry) for entry in ruleset(gate.node) if "rule" in entry)
    assert "-A INPUT" not in gate.node.run(["iptables-nft-save"]).stdout


def test_what_was_turned_on_is_told(gate: Any) -> None:
    gate.install(decider=False)
    assert any("connection tracking was off" in change for change in gate.netfilter.changes())


def test_no_packet_of_an_allowed_flow_is_lost_while_generations_change(gate: Any) -> None:
    decider = gate.install()
    there = gate.datagram(gate.server, port=7101)
    here = gate.datagram(gate.client, gate.server.v4, 7101)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    stop = threading.Event()

    def change() -> None:
        generation = 1
        while not stop.is_set():
            generation = generation % 31 + 1
            gate.set_generation(decider, generation)

    changer = threading.Thread(target=change)
    changer.start()
    for _ in range(500):
        here.send(b"x")
        time.sleep(0.001)
    stop.set()
    changer.join(5)
    there.settimeout(0.5)
    received = 0
    with pytest.raises(TimeoutError):
        while True:
            received += len(there.recv(10))
    assert received == 500
    assert Up(previous=Fate.ALLOW) in [packet.up for packet in decider.take()]


def test_a_generation_that_could_not_be_set_is_tried_again(
    gate: Any, ask_server: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    decider = gate.install()
    gate.serve(gate.server, 7000)
    connection = gate.connect(gate.client, gate.server.v4, 7000)
    ask_server(connection)
    decider.take()

    def broken(*_: Any) -> None:
        raise nft.NftError("out of order")

    decider.generation = 2
    monkeypatch.setattr(elements.Exchange, "commit", broken)
    with gate.node.enter():
        with pytest.raises(NetfilterError, match="set_generation: nft: out of order"):
            gate.netfilter.set_generation(2)
        with pytest.raises(NetfilterError):
            gate.netfilter.mend()
        assert gate.netfilter.generation() == 1
        assert gate.netfilter.errors == 2
        ask_server(connection)
        assert decider.take() == []  # as it was decided
        monkeypatch.undo()
        assert gate.netfilter.mend() == []
        assert gate.netfilter.generation() == 2
    ask_server(connection)
    assert [packet.up for packet in decider.take()] == [Up(previous=Fate.ALLOW)]


# ---- what start-up refuses ---------------------------------------------------------------------------

OVERLAPS = {
    "nft compares": (
        "nft add table ip x; nft add chain ip x c; nft add rule ip x c meta mark '&' 0xff0000ff == 1",
        "ip x c handle",
    ),
    "nft sets the connection mark": (
        "nft add table ip x; nft add chain ip x c; nft add rule ip x c ct mark set 0x1",
        "ip x c handle",
    ),
    "iptables sets": ("iptables-nft -t mangle -A FORWARD -j MARK --set-xmark 0x40000000/0x40000000", "0x40000000"),
    "ip6tables compares": ("ip6tables-nft -A INPUT -m connmark --mark 0x80000000/0xffff0000 -j DROP", "connmark"),
    "calico copies": (
        "iptables-nft -t mangle -A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffff0000 --ctmask 0xffff0000",
        "--restore-mark",
    ),
    "ip rule": ("ip rule add fwmark 0x1 lookup 100", "fwmark 0x1/0xffffffff"),
    "ip -6 rule": ("ip -6 rule add fwmark 0x80000000/0x80000000 lookup 100", "fwmark 0x80000000"),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_overlapping_marks_are_refused_and_named(gate: Any, case: str) -> None:
    command, name = OVERLAPS[case]
    gate.node.run(["sh", "-ec", command])
    with gate.node.enter():
        with pytest.raises(NetfilterError) as caught:
            Netfilter(NetfilterSettings()).preflight()
        assert name in str(caught.value)
        report = Netfilter(NetfilterSettings(allow_mark_overlap=True)).preflight()
        assert any(name in warning for warning in report.warnings)
        # other bits are free
        if "0xffffffff" not in name and "connection mark" not in case:
            assert Netfilter(NetfilterSettings(mark_mask=0x0000FF00)).preflight().warnings == ()


def test_whole_marks_being_copied_is_only_a_warning(gate: Any) -> None:
    gate.node.run(["iptables-nft", "-t", "mangle", "-A", "PREROUTING", "-j", "CONNMARK", "--restore-mark"])
    gate.node.run(["iptables-nft", "-t", "mangle", "-A", "OUTPUT", "-j", "MARK", "--set-xmark", "0x1/0xff"])
    with gate.node.enter():
        (warning,) = Netfilter(NetfilterSettings()).preflight().warnings
    assert "copies the whole connection mark" in warning


def test_our_own_rules_do_not_overlap(gate: Any) -> None:
    gate.install(decider=False)
    with gate.node.enter():
        assert gate.netfilter.preflight().warnings == ()


def test_queue_numbers_in_use_are_refused(gate: Any) -> None:
    with gate.node.enter():
        other = NetfilterQueue()
        other.bind(1, lambda packet: packet.accept())
        with pytest.raises(NetfilterError, match="queue 1 is bound"):
            Netfilter(NetfilterSettings()).preflight()
        Netfilter(NetfilterSettings()).preflight(check_queues=False)
        other.unbind()
    gate.node.run(["ip6tables-nft", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-balance", "30:40"])
    with gate.node.enter(), pytest.raises(NetfilterError, match="queue 32 is used by ip6tables rule"):
        Netfilter(NetfilterSettings()).preflight()


def test_legacy_iptables_rules_are_refused(gate: Any) -> None:
    done = gate.node.run(["iptables-legacy", "-A", "FORWARD", "-p", "tcp", "--dport", "1", "-j", "DROP"], check=False)
    if done.returncode:
        pytest.skip(f"iptables-legacy does not work here: {done.stderr.strip()}")
    with gate.node.enter(), pytest.raises(NetfilterError, match=r"iptables-legacy has rules.*dport 1 "):
        Netfilter(NetfilterSettings(backend="xt")).preflight()
