# SPDX-License-Identifier: Apache-2.0
"""An inspector's own cage: a seccomp filter for every thread of the process (seccomp(2), no libseccomp needed).

What is not in the list answers EPERM: no socket, connect or bind, no open, no exec, fork, clone or ptrace, no kill, no
executable memory. What stays: reading and writing what is open, memory, locks, time. The process keeps CAP_NET_ADMIN
because every verdict needs it: a netlink socket that is open already could still carry other nfnetlink messages,
which seccomp cannot see into.
"""

import ctypes
import os
import platform
import struct

from fastpath.errors import PortcullisError

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_TSYNC = 1
_EPERM = 1
_PROT_EXEC = 4

_LD_W_ABS = 0x20
_JEQ = 0x15
_JGE = 0x35
_JSET = 0x45
_RET = 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000

_NR, _ARCH, _ARG2 = 0, 4, 32  # offsets in struct seccomp_data; argument 2 is mmap's and mprotect's prot

# name → (x86_64, aarch64); None: not there. From the kernel's syscall tables.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, None),
    "ppoll": (271, 73),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
    "rseq": (334, 293),
}
_WITHOUT_EXEC: dict[str, tuple[int, int]] = {"mmap": (9, 222), "mprotect": (10, 226)}
_MACHINES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}  # column, AUDIT_ARCH, seccomp(2)


class ConfineError(PortcullisError):
    """The filter could not be put in place; the process is as free as before."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def filter_program(machine: str) -> bytes:
    """The BPF program for a machine (as `uname -m`). Raises ConfineError for one that is not known."""
    if machine not in _MACHINES:
        raise ConfineError(f"no system call table for {machine}")
    column, arch, _ = _MACHINES[machine]
    code = [(_LD_W_ABS, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_RET, 0, 0, _KILL_PROCESS), (_LD_W_ABS, 0, 0, _NR)]
    # x32 calls (bit 30) carry other numbers under the same architecture.
    code += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _ERRNO | _EPERM)]
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ALLOW)]
    for pair in _WITHOUT_EXEC.values():
        code += [
            (_JEQ, 0, 4, pair[column]),
            (_LD_W_ABS, 0, 0, _ARG2),
            (_JSET, 0, 1, _PROT_EXEC),
            (_RET, 0, 0, _ERRNO | _EPERM),
            (_RET, 0, 0, _ALLOW),
        ]
    code.append((_RET, 0, 0, _ERRNO | _EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def confine() -> None:
    """Put the filter on all threads of this process, for good. Everything that needs an import, a file or a new
    thread must be done before. Raises ConfineError."""
    machine = platform.machine()
    code = filter_program(machine)
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ConfineError(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    if libc.syscall(_MACHINES[machine][2], _SET_MODE_FILTER, _TSYNC, ctypes.byref(program)) != 0:
        raise ConfineError(f"seccomp: {os.strerror(ctypes.get_errno())}")


def die_with_parent(signal_number: int, parent: int) -> bool:
    """Ask the kernel for a signal when the parent ends (prctl PDEATHSIG). False: it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise ConfineError(f"parent death signal: {os.strerror(ctypes.get_errno())}")
    return os.getppid() == parent
