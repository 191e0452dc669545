# SPDX-License-Identifier: Apache-2.0
"""Which queues inherited descriptors hold, from the kernel's list, and what an engine refuses to take over."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath import Engine, EngineConfig, FastpathError, IdentityMap, Policy, PolicyTables, takeover
from fastpath.takeover import HeldQueue, held_queues, port_of

NETLINK_NETFILTER = 12


@pytest.fixture
def netlink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as made:
        made.bind((0, 0))
        yield made


@pytest.fixture
def queues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "nfnetlink_queue"
    monkeypatch.setattr(takeover, "_QUEUES", path)
    return path


def line(queue: int, port: int, waiting: int, last: int) -> str:
    return f"{queue:5d} {port:6d} {waiting:5d} 2 {512:5d} {0:5d} {0:5d} {last:8d} {1:2d}\n"


def test_queues_are_found_by_the_port_of_their_socket(netlink: socket.socket, queues: Path) -> None:
    port = netlink.getsockname()[0]
    queues.write_text(line(0, port + 1, 9, 99) + line(3, port, 7, 1234))
    with Path(os.devnull).open("rb") as null:
        assert held_queues([null.fileno(), netlink.fileno(), -1]) == [HeldQueue(netlink.fileno(), 3, 7, 1234)]
        assert port_of(null.fileno()) is None and port_of(netlink.fileno()) == port


def test_no_list_and_no_port_are_no_queues(netlink: socket.socket, queues: Path) -> None:
    assert held_queues([netlink.fileno()]) == []
    queues.write_text(line(0, 0, 0, 0))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as unbound:
        assert held_queues([unbound.fileno()]) == []


@pytest.mark.parametrize("held", [1, None])
def test_engine_refuses_a_descriptor_that_does_not_hold_its_queue(
    netlink: socket.socket, queues: Path, held: int | None
) -> None:
    queues.write_text("" if held is None else line(held, netlink.getsockname()[0], 0, 0))
    with pytest.raises(FastpathError, match="does not hold queue 0") as caught:
        Engine(EngineConfig(fds=(netlink.fileno(),)), IdentityMap.build([]), Policy(PolicyTables()), 1)
    assert caught.value.errno == errno.EBADF
    assert port_of(netlink.fileno()) is not None  # still the caller's


def test_one_descriptor_is_named_for_each_queue(netlink: socket.socket, queues: Path) -> None:
    queues.write_text(line(0, netlink.getsockname()[0], 0, 0))
    with pytest.raises(ValueError, match="fds: 1 numbers for 2 workers"):
        Engine(EngineConfig(fds=(netlink.fileno(),), look_queue=9), IdentityMap.build([]), Policy(PolicyTables()), 1)
