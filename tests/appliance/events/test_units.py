# SPDX-License-Identifier: Apache-2.0
"""Which unit a local socket belongs to: asked of the kernel where there is version 2 of the control groups."""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.events.units import ASKED, Units, cgroup_of, unit_of

PROGRAM = """
import os, socket, sys
from pathlib import Path
from appliance.events.units import Units
group = Path(sys.argv[1], "portcullis-test-%d.service" % os.getpid())
group.mkdir()
try:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    server = socket.create_server(("127.0.0.1", 0))
    tcp = socket.create_connection(server.getsockname())
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.connect(("127.0.0.1", 9))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.connect(("::1", 9))
    units = Units((Path(sys.argv[1]),))
    wide = lambda text: bytes(10) + b"\\xff\\xff" + socket.inet_aton(text)
    for sock, number, family in ((tcp, 6, 4), (udp, 17, 4), (six, 17, 6)):
        here, there = sock.getsockname(), sock.getpeername()
        pack = wide if family == 4 else lambda text: socket.inet_pton(socket.AF_INET6, text)
        print(units.unit(number, pack(here[0]), here[1], pack(there[0]), there[1]))
    print(repr(units.unit(6, wide("127.0.0.1"), 1, wide("127.0.0.1"), 1)))
finally:
    Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()
"""


@pytest.mark.usefixtures("needs_root")
def test_the_kernel_tells_the_group_of_tcp_and_udp_sockets(tmp_path: Path) -> None:
    script = 'mount -t cgroup2 none "$1" || exit 9; exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, PROGRAM],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    if done.returncode == 9:
        pytest.skip(f"version 2 of the control groups cannot be mounted: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    *told, unknown = done.stdout.splitlines()
    assert len(told) == 3
    assert all(name.startswith("portcullis-test-") and name.endswith(".service") for name in told)
    assert unknown == "''"


def test_units_and_paths() -> None:
    assert unit_of("/system.slice/nginx.service") == "nginx.service"
    assert unit_of("/user.slice/user-1000.slice/session-3.scope") == "session-3.scope"
    assert unit_of("/system.slice/nginx.service/worker") == "nginx.service"
    assert unit_of("/batch/jobs") == "/batch/jobs"


def test_a_second_has_so_many_questions(tmp_path: Path) -> None:
    now = 5.0
    units = Units((tmp_path,), clock=lambda: now)
    asked = 0

    def group(*_: object) -> int:
        nonlocal asked
        asked += 1
        return 0

    units._group = group  # type: ignore[method-assign]
    for _ in range(3 * ASKED):
        units.unit(socket.IPPROTO_TCP, bytes(16), 1, bytes(16), 2)
    assert asked == ASKED
    now = 6.0
    units.unit(socket.IPPROTO_TCP, bytes(16), 1, bytes(16), 2)
    assert asked == ASKED + 1


@given(st.binary(max_size=200))
def test_no_answer_is_read_beyond_its_end(data: bytes) -> None:
    assert cgroup_of(data) >= 0
    head = struct.pack("=IHHII", 16 + 72 + len(data), 20, 0, 0, 0)
    assert cgroup_of(head + bytes(72) + data) >= 0
