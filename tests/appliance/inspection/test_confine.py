# SPDX-License-Identifier: Apache-2.0
"""What a confined process can no longer do, each tried in a process of its own, and what it still can."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.inspection.confine import ConfineError, filter_program

REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no system call table for this machine"
)

_SETUP = """
import ctypes, mmap, os, queue, select, signal, socket, sys, threading, time
from appliance.inspection.confine import confine
from rules.signatures import compile_signatures, parse_signatures, preload
preload()
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.create_server(("127.0.0.1", 0))
free = socket.socket()
left, right = socket.socketpair()
orders, answers = queue.Queue(), queue.Queue()
def beside():
    while True:
        try:
            answers.put(orders.get()())
        except OSError as error:
            answers.put(error)
threading.Thread(target=beside, daemon=True).start()
confine()
def denied(number):
    assert number == -1 and ctypes.get_errno() == 1, (number, ctypes.get_errno())
    raise PermissionError(1, "denied")
"""


def confined(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _SETUP + code],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket()",
        "socket.socketpair()",
        "free.connect(listener.getsockname())",
        "free.bind(('127.0.0.1', 0))",
        "listener.accept()",
        "open('/etc/passwd')",
        "open('/tmp/written', 'w')",
        "os.open('/dev/null', os.O_RDWR)",
        "os.unlink('/tmp/nothing')",
        "os.mkdir('/tmp/folder')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 0)",
        "os.setuid(0)",
        "denied(libc.ptrace(0, 0, 0, 0))",
        "denied(libc.prctl(38, 1, 0, 0, 0))",
        "denied(libc.unshare(0x40000000))",
        "denied(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    ],
)
def test_denied(attempt: str) -> None:
    done = confined(f"try:\n    {attempt}\nexcept PermissionError:\n    print('denied')\n")
    assert done.stdout == "denied\n", done.stderr


def test_denied_in_threads_that_ran_before() -> None:
    done = confined("orders.put(lambda: open('/etc/passwd'))\nprint(type(answers.get(timeout=5)).__name__)\n")
    assert done.stdout == "PermissionError\n", done.stderr


def test_no_new_threads() -> None:
    done = confined("try:\n    threading.Thread(target=print).start()\nexcept RuntimeError:\n    print('denied')\n")
    assert done.stdout == "denied\n", done.stderr


def test_what_an_inspector_needs_still_works() -> None:
    done = confined(
        """
left.send(b"x")
assert right.recv(1) == b"x"
poll = select.poll()
poll.register(right, select.POLLIN)
poll.poll(10)
big = bytearray(50_000_000)
del big
time.sleep(0.01)
rule = 'alert tcp any any -> any any (content:"abc"; sid:1;)'
assert len(compile_signatures(parse_signatures(rule, "f").signatures)) == 1
assert b"\\xff.example".decode("ascii", "backslashreplace") == "\\\\xff.example"
print("fine")
"""
    )
    assert done.stdout == "fine\n", done.stderr


def test_unknown_machine_is_refused() -> None:
    with pytest.raises(ConfineError, match="pdp11"):
        filter_program("pdp11")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_program_fits_the_kernel(machine: str) -> None:
    code = filter_program(machine)
    assert len(code) % 8 == 0 and len(code) // 8 <= 4096
