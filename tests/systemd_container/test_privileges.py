# SPDX-License-Identifier: Apache-2.0
"""What the units leave their processes: tried from inside of each sandbox, and read from the running process."""

import re

import pytest

from tests.systemd_container.machine import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
# Measured with systemd 252: 1.8 and 1.1. What remains is in tests/systemd.
EXPOSURE = {"portcullis.service": 1.9, "portcullis-feeds.service": 1.2}
CAP_NET_ADMIN = "0000000000001000"
NONE = "0000000000000000"

# Runs as ExecStartPre= in the same sandbox as the program; writes what it could do.
PROBE = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
could = []
for folder in ("/", "/etc", "/etc/portcullis", "/etc/portcullis/policy.d", "/usr/bin", "/opt/portcullis/bin",
               "/var/lib", "/var/log", "/home", "/root", "/boot", "/run", "/run/systemd/system", "/proc/sys/net/ipv4",
               "/sys/kernel", "/sys/fs/cgroup", "/dev"):
    try:
        with open(folder + "/probe", "w"):
            could.append("write " + folder)
    except OSError:
        pass
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/kmsg", "/dev/mem", "/dev/kmsg"):
    try:
        with open(path, "r+"):
            could.append("open " + path)
    except OSError:
        pass
for name in ("/etc/shadow", "/root/secret"):
    try:
        open(name).close()
        could.append("read " + name)
    except OSError:
        pass
for family, kind in (("AF_PACKET", socket.SOCK_RAW), ("AF_INET", socket.SOCK_RAW), ("AF_VSOCK", socket.SOCK_STREAM)):
    try:
        socket.socket(getattr(socket, family), kind).close()
        could.append("socket " + family)
    except OSError:
        pass
if libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0:
    could.append("mount")
if libc.unshare(0x10000000) == 0:  # CLONE_NEWUSER
    could.append("unshare")
libc.mmap.restype = ctypes.c_void_p
if libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0)) not in (None, 2**64 - 1):
    could.append("writable and executable memory")
try:
    os.setuid(0)
    could.append("setuid")
except OSError:
    pass
with open(sys.argv[1], "w") as out:
    print("could:", ", ".join(could), file=out)
    out.write(open("/proc/self/status").read())
"""


def probe(machine: Machine, unit: str, state: str) -> str:
    """What the probe in the sandbox of a unit wrote to its state folder."""
    machine.write("/root/secret", "secret")
    machine.write("/usr/local/lib/probe.py", PROBE)
    python = "/opt/portcullis/bin/python -B /usr/local/lib/probe.py"
    machine.drop_in(unit, f"[Service]\nExecStartPre={python} {state}/probe.txt\n")
    machine.run("systemctl", "start", unit)
    return (machine.root / state.removeprefix("/") / "probe.txt").read_text()


def fields(text: str) -> dict[str, str]:
    """Lines `Name:<tab>value` of /proc/PID/status."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_what_the_service_may_do(machine: Machine) -> None:
    found = fields(probe(machine, "portcullis.service", "/var/lib/portcullis"))
    assert found["could"] == ""
    pid = machine.show("portcullis.service", "MainPID")
    inspectors = machine.run("pgrep", "-P", pid).stdout.split()
    assert inspectors
    for number in (pid, *inspectors):
        running = fields(machine.run("cat", f"/proc/{number}/status").stdout)
        assert running["CapEff"] == running["CapPrm"] == running["CapBnd"] == CAP_NET_ADMIN
        assert running["NoNewPrivs"] == "1"
        assert running["Seccomp"] == "2"
        assert "0" not in running["Uid"].split()
        assert int(running["Seccomp_filters"]) >= int(found["Seccomp_filters"])
    # The inspectors confine themselves further.
    assert int(running["Seccomp_filters"]) > int(found["Seccomp_filters"])


def test_what_the_service_reads_and_writes_belongs_to_it(machine: Machine) -> None:
    machine.run("systemctl", "start", "portcullis.service")
    for path in ("/var/lib/portcullis", "/var/log/portcullis", "/run/portcullis", "/run/portcullis/control.sock"):
        assert machine.run("stat", "-c", "%U", path).stdout.strip() == "portcullis", path
    assert machine.run("stat", "-c", "%a", "/run/portcullis/control.sock").stdout.strip() == "600"
    assert machine.run("stat", "-c", "%U %G %a", "/etc/portcullis").stdout.split() == ["root", "portcullis", "750"]


def test_what_the_feeds_may_do(machine: Machine) -> None:
    found = fields(probe(machine, "portcullis-feeds.service", "/var/lib/portcullis-feeds"))
    assert found["could"] == ""
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == found["CapAmb"] == NONE
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"
    assert "0" not in found["Uid"].split()


@pytest.mark.parametrize("unit", EXPOSURE)
def test_exposure_of_the_installed_unit(machine: Machine, unit: str) -> None:
    told = machine.run("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(rf"Overall exposure level for {re.escape(unit)}: ([0-9.]+)", told)
    assert found, told
    print(f"{unit}: exposure {found[1]}")
    assert float(found[1]) <= EXPOSURE[unit]


def test_the_installed_units_verify(machine: Machine) -> None:
    units = ("portcullis.service", "portcullis-feeds.service", "portcullis-feeds.timer")
    done = machine.run("systemd-analyze", "verify", "--man=no", *units)
    assert "portcullis" not in done.stderr
