# SPDX-License-Identifier: Apache-2.0
"""What no feed ever blocks."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rules.hostnames import ascii_name
from threatfeeds import prefix

# Unspecified, loopback, link-local and their IPv6 counterparts; limited broadcast; multicast of the local link.
ALWAYS = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/24",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff02::/16",
)


@dataclass(frozen=True)
class Allowlist:
    """prefixes: each with the reason it is here. names: each with the reason; their subdomains are allowed, too."""

    prefixes: dict[int, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def build(
        cls, *, own: Iterable[str] = (), resolvers: Iterable[str] = (), configured: Iterable[str] = ()
    ) -> "Allowlist":
        """own, resolvers: addresses or prefixes. configured: those, or names. Raises ValueError for anything else."""
        prefixes: dict[int, str] = {}
        names: dict[str, str] = {}
        for reason, entries in (
            ("configured", configured),
            ("own address", own),
            ("resolver", resolvers),
            ("reserved", ALWAYS),
        ):
            for entry in entries:
                parsed = parse_allowed(entry.partition("%")[0])
                if isinstance(parsed, int):
                    prefixes.setdefault(parsed, reason)
                else:
                    names.setdefault(parsed, reason)
        return cls(prefixes, names)

    def name_reason(self, name: str) -> str | None:
        """Why this name is allowed, or None."""
        while name:
            if name in self.names:
                return self.names[name]
            name = name.partition(".")[2]
        return None

    def address_reason(self, address: prefix.Address) -> str | None:
        """Why this address is allowed, or None."""
        wanted = prefix.of_address(address)
        return next((why for entry, why in self.prefixes.items() if prefix.contains(entry, wanted)), None)


def parse_allowed(text: str) -> int | str:
    """A prefix (as in threatfeeds.prefix) or a name. Raises ValueError."""
    try:
        return prefix.parse(text)
    except ValueError:
        name = ascii_name(text.removeprefix("*."))
        if name is None or name.replace(".", "").isdigit():
            raise ValueError(f"expected an address, a network or a name, got {text!r}") from None
        return name
