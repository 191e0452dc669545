# SPDX-License-Identifier: Apache-2.0
"""The exception tree. Every package raises a subclass of :class:`PortcullisError`."""

import errno
import os


class PortcullisError(Exception):
    """Something the user can act on: what was wrong, and where.

    ``str()`` renders ``file:line: field: message``, leaving out what is not known.
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line
        self.field = field

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place = f"{place}:{self.line}" if place else f"line {self.line}"
        return ": ".join(part for part in (place, self.field, self.message) if part)


_HELP = {
    errno.EPERM: "this needs CAP_NET_ADMIN: run as root",
    errno.EBUSY: "the queue is taken by another process; choose other queue numbers or stop it "
    "(/proc/net/netfilter/nfnetlink_queue names its netlink port)",
    errno.EPROTONOSUPPORT: "this kernel has no NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE)",
    errno.EOPNOTSUPP: "this kernel has no NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE)",
    errno.EINVAL: "a value or an index is out of range",
    errno.ENOMEM: "out of memory",
}


class FastpathError(PortcullisError):
    """A call into the C core failed. ``errno`` is positive, as in :mod:`errno`."""

    def __init__(self, number: int, what: str) -> None:
        self.errno = number
        super().__init__(f"{what}: {_HELP.get(number, os.strerror(number))}")
