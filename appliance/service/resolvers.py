# SPDX-License-Identifier: Apache-2.0
"""Whom this node asks for names (resolv.conf(5)): no feed blocks them."""

import ipaddress
from collections.abc import Iterable
from pathlib import Path

# The second where systemd-resolved stands behind 127.0.0.53: whom it asks itself.
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


def read_resolvers(paths: Iterable[Path] = RESOLV_CONF) -> tuple[str, ...]:
    """Addresses without their zones; a file that cannot be read says nothing. Blocking."""
    found: dict[str, None] = {}
    for path in paths:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found |= dict.fromkeys(_nameservers(text))
    return tuple(found)


def _nameservers(text: str) -> Iterable[str]:
    for words in map(str.split, text.splitlines()):
        if len(words) > 1 and words[0] == "nameserver":
            try:
                yield str(ipaddress.ip_address(words[1].partition("%")[0]))
            except ValueError:
                continue  # the C library ignores it, too
