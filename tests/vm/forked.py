# SPDX-License-Identifier: Apache-2.0
"""pytest plugin of the machines: Python programs of ours are forked, with their modules loaded, and not started.

To start an interpreter and to load the service's modules takes 4 s of processor time in emulation, which would be most
of the time of most tests. So `python -m appliance ...`, also within `ip netns exec` and as an inspector of the service,
becomes a fork of this process. All that a new process would have for itself it has: its own descriptors, signals,
environment, namespaces, command line, standard streams, and status at the end. That the programs start from nothing is
what the same tests show outside of the machines.
"""

import asyncio
import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

LOADED = ("appliance.cli", "appliance.service.service", "appliance.service.resume", "appliance.commands.service",
          "appliance.commands.feeds", "appliance.inspection.worker")  # fmt: skip
OURS = ("appliance",)  # packages whose programs are forked

_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_REC, _MS_SLAVE, _MNT_DETACH = 0x4000, 0x80000, 2

_execute: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Command:
    """`python -m module arguments`, in a network namespace if `namespace` names one."""

    module: str
    arguments: tuple[str, ...]
    namespace: str = ""


def recognise(words: Sequence[str | os.PathLike[str]]) -> Command | None:
    """None where it is another program that is to be started."""
    rest = [os.fspath(word) for word in words]
    namespace = ""
    if rest[:3] == ["ip", "netns", "exec"]:
        namespace, rest = rest[3], rest[4:]
    if len(rest) < 3 or rest[:2] != [sys.executable, "-m"] or rest[2].partition(".")[0] not in OURS:
        return None
    return Command(rest[2], tuple(rest[3:]), namespace)


def _execute_child(
    self: Any, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, cwd: Any, env: Any,
    startupinfo: Any, creationflags: int, shell: bool, *pipes_and_more: Any,
) -> None:  # fmt: skip
    """In the place of subprocess.Popen's own."""
    command = None if shell or preexec_fn or isinstance(args, str | bytes) else recognise(args)
    if command is None:
        _execute(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                 *pipes_and_more)  # fmt: skip
        return
    p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = pipes_and_more[:6]
    sys.stdout.flush()
    sys.stderr.flush()
    self.pid = os.fork()
    if self.pid == 0:
        _become(command, (p2cread, c2pwrite, errwrite), tuple(pass_fds), cwd, env)
    self._child_created = True
    self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


class _Process:
    """As much of asyncio.subprocess.Process as the service needs."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self.pid = popen.pid
        self.kill = popen.kill

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    async def wait(self) -> int:
        return await asyncio.to_thread(self._popen.wait)


async def _create_subprocess_exec(*words: str, **options: Any) -> _Process:
    return _Process(subprocess.Popen(words, **options))  # noqa: ASYNC220 (a fork does not wait)


def _become(command: Command, streams: Sequence[int], kept: Sequence[int], cwd: Any, env: Any) -> NoReturn:
    """The child: from here on nothing of the parent's runs."""
    status = 1
    try:
        _forget()
        _take(streams, kept)
        if command.namespace:
            _enter(command.namespace)
        if cwd is not None:
            os.chdir(cwd)
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        words = ["-m", command.module, *command.arguments]
        _show([sys.executable, *words])
        sys.orig_argv[:] = [sys.executable, *words]
        sys.argv[:] = words[1:]
        status = _run(command.module)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _run(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _forget() -> None:
    """What the parent has set up in this interpreter."""
    gc.freeze()  # its objects are not ended here
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            if signal.getsignal(number) is not signal.SIG_IGN:  # what is ignored stays so when a program is started
                signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as the interpreter does
        signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.disable()
    atexit._clear()
    logging.getLogger().handlers.clear()
    warnings.simplefilter("ignore")
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    asyncio.set_event_loop(None)
    asyncio.create_subprocess_exec = _create_subprocess_exec  # type: ignore[assignment]


def _take(streams: Sequence[int], kept: Sequence[int]) -> None:
    """Standard streams and descriptors that are handed on; all others are closed."""
    for target, fd in enumerate(streams):
        if fd >= 0:
            os.dup2(fd, target)
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)
    for fd in kept:
        os.set_inheritable(fd, True)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode, 1, closefd=False) for fd, mode in enumerate("rww"))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc,assignment]


def _enter(namespace: str) -> None:
    """As `ip netns exec` does: its network, and a /sys that shows it."""
    fd = os.open(Path("/run/netns", namespace), os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.setns(fd, _CLONE_NEWNET), "setns")
    os.close(fd)
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(b"", b"/", b"none", _MS_SLAVE | _MS_REC, None), "mount /")
    _libc.umount2(b"/sys", _MNT_DETACH)
    _check(_libc.mount(namespace.encode(), b"/sys", b"sysfs", 0, None), "mount /sys")


def _show(words: Sequence[str]) -> None:
    """Writes them over the command line in /proc, as far as there is room: tests and operators look for it there."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(fields[number - 3]) for number in (48, 49))  # proc_pid_stat(5)
    text = b"".join(word.encode() + b"\0" for word in words)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    for name in LOADED:
        importlib.import_module(name)
    subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]


def pytest_collection_finish() -> None:
    """What is loaded stays: no collector looks at it again, and forks share its pages."""
    gc.collect()
    gc.freeze()
