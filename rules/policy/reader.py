# SPDX-License-Identifier: Apache-2.0
"""Reading plain values into typed ones, collecting every error with its field path instead of stopping at the first."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from rules.hostnames import to_ascii
from rules.policy.errors import SelectorError
from rules.policy.model import PROTOCOLS, Icmp, NamedPort, Net, PortRange, parse_net
from rules.policy.selector import Node, Selector

T = TypeVar("T")
Path = tuple[str | int, ...]

MAX_SELECTOR = 1024
MAX_ANNOTATIONS = 256 << 10  # bytes, names and values
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = re.compile(rf"{LABEL}\Z")
DNS_SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*\Z")
QUALIFIED = re.compile(
    rf"((?=[^/]{{1,253}}/){LABEL}(\.{LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?\Z"
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")
_PORT_NAME = re.compile(r"(?=[-0-9]*[a-z])[a-z0-9]+(-[a-z0-9]+)*\Z")  # IANA service name, RFC 6335
_PORT_FIELDS = ("name", "protocol", "port")
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)(?:\*|[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?)"
    r"(\.(?:\*|[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?))*\Z"
)


@lru_cache(maxsize=65536)
def parse_selector(text: str) -> Node:
    return Selector.parse(text).node


def show(path: Path) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def what(value: Any) -> str:
    """A value for an error message: short, with its type."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def suggestion(word: str, known: Iterable[str]) -> str:
    known = list(known)
    lower = {k.lower(): k for k in known}
    close = [lower[word.lower()]] if word.lower() in lower else difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


class Reader:
    """`errors` has (path, message, soft): soft where the value was understood all the same."""

    def __init__(self) -> None:
        self.errors: list[tuple[Path, str, bool]] = []

    def fail(self, path: Path, message: str, *, soft: bool = False) -> None:
        self.errors.append((path, message, soft))

    def mapping(self, value: Any, path: Path, known: Iterable[str] | None) -> Mapping[str, Any]:
        """The mapping without nulls; unknown fields are errors (`known` None: any are fine)."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fail(path, f"expected a mapping, found {what(value)}")
            return {}
        if known is not None:
            for key in value:
                if key not in known:
                    self.fail((*path, key), f"unknown field {key!r}{suggestion(str(key), known)}")
        return {key: item for key, item in value.items() if item is not None}

    def items(self, source: Mapping[str, Any], key: str, path: Path, most: int | None = None) -> list[Any]:
        value = source.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail((*path, key), f"expected a list, found {what(value)}")
            return []
        if most is not None and len(value) > most:
            self.fail((*path, key), f"{len(value)} items, at most {most} are allowed")
            return value[:most]
        return value

    def text(
        self, source: Mapping[str, Any], key: str, path: Path, *, longest: int | None = None, default: str = ""
    ) -> str:
        value = source.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail((*path, key), f"expected a string, found {what(value)}")
            return default
        if longest is not None and len(value) > longest:
            self.fail((*path, key), f"{len(value)} characters, at most {longest} are allowed")
        return value

    def flag(self, source: Mapping[str, Any], key: str, path: Path) -> bool:
        value = source.get(key, False)
        if not isinstance(value, bool):
            self.fail((*path, key), f"expected true or false, found {what(value)}")
            return False
        return value

    def number(self, source: Mapping[str, Any], key: str, path: Path, default: float) -> float:
        value = source.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail((*path, key), f"expected a number, found {what(value)}")
            return default
        return float(value)

    def integer(
        self, source: Mapping[str, Any], key: str, path: Path, low: int, high: int, default: int | None = None
    ) -> int | None:
        value = source.get(key)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail((*path, key), f"expected a whole number, found {what(value)}")
            return default
        if not low <= value <= high:
            self.fail((*path, key), f"{value} is not in {low}..{high}")
            return default
        return value

    def choice(
        self, source: Mapping[str, Any], key: str, path: Path, choices: tuple[str, ...], default: str | None = None
    ) -> str | None:
        value = source.get(key)
        if value is None:
            return default
        if value not in choices or not isinstance(value, str):
            hint = suggestion(value, choices) if isinstance(value, str) else ""
            self.fail((*path, key), f"expected one of {', '.join(choices)}, found {what(value)}{hint}")
            return default
        return value

    def strings(
        self, source: Mapping[str, Any], key: str, path: Path, most: int | None = None, *, unique: bool = False
    ) -> tuple[str, ...]:
        out: list[str] = []
        for i, value in enumerate(self.items(source, key, path, most)):
            if not isinstance(value, str):
                self.fail((*path, key, i), f"expected a string, found {what(value)}")
            elif unique and value in out:
                self.fail((*path, key, i), f"{value!r} stands twice")
            else:
                out.append(value)
        return tuple(out)

    def string_map(self, source: Mapping[str, Any], key: str, path: Path) -> dict[str, str]:
        out: dict[str, str] = {}
        for name, value in self.mapping(source.get(key), (*path, key), None).items():
            if isinstance(value, str):
                out[name] = value
            else:
                self.fail((*path, key, name), f"expected a string, found {what(value)} (put it in quotes)")
        return out

    def labels(self, source: Mapping[str, Any], key: str, path: Path) -> dict[str, str]:
        """Labels as Kubernetes has them. What others would mean is clear all the same."""
        labels = self.string_map(source, key, path)
        for name, value in labels.items():
            if not is_qualified(name):
                self.fail((*path, key, name), f"{what(name)} is not a label name", soft=True)
            if not LABEL_VALUE.match(value):
                self.fail((*path, key, name), f"{what(value)} is not a label value", soft=True)
        return labels

    def annotations(self, source: Mapping[str, Any], path: Path) -> dict[str, str]:
        annotations = self.string_map(source, "annotations", path)
        for name in annotations:
            if not is_qualified(name.lower()):
                self.fail((*path, "annotations", name), f"{what(name)} is not an annotation's name", soft=True)
        if sum(len(name.encode()) + len(value.encode()) for name, value in annotations.items()) > MAX_ANNOTATIONS:
            self.fail((*path, "annotations"), f"more than {MAX_ANNOTATIONS >> 10} kB of annotations")
        return annotations

    def each(self, values: list[Any], path: Path, read: Callable[[Any, Path], T]) -> tuple[T, ...]:
        return tuple(read(value, (*path, i)) for i, value in enumerate(values))

    def selector(
        self, source: Mapping[str, Any], key: str, path: Path, *, longest: int | None = MAX_SELECTOR
    ) -> Node | None:
        """None where absent or empty."""
        text = self.text(source, key, path, longest=longest)
        if not text.strip(" \t"):
            return None
        try:
            return parse_selector(text)
        except SelectorError as error:
            self.fail((*path, key), f"invalid selector {what(text)}: {error.message}")
            return None

    def nets(
        self, source: Mapping[str, Any], key: str, path: Path, most: int | None = None, *, strict: bool
    ) -> tuple[Net, ...]:
        """CIDRs or addresses; strict: host bits must be zero. Repetitions are dropped."""
        out: dict[Net, None] = {}
        seen: set[str] = set()
        for i, value in enumerate(self.items(source, key, path, most)):
            if not isinstance(value, str):
                self.fail((*path, key, i), f"expected an address or a network, found {what(value)}")
                continue
            try:
                net, host_bits = parse_net(value)
            except ValueError as error:
                self.fail((*path, key, i), str(error))
                continue
            if value in seen:  # a set, for Kubernetes; its meaning is clear all the same
                self.fail((*path, key, i), f"{value!r} stands twice", soft=True)
            seen.add(value)
            if strict and host_bits:
                self.fail((*path, key, i), f"{value!r} has host bits set; the network is {str(net)!r}")
            out[net] = None
        return tuple(out)

    def addresses(self, source: Mapping[str, Any], key: str, path: Path) -> tuple[Net, ...]:
        """Plain addresses, without a prefix length."""
        for i, value in enumerate(self.items(source, key, path)):
            if isinstance(value, str) and "/" in value:
                self.fail((*path, key, i), f"{value!r} is not an address")
        return self.nets(source, key, path, strict=False)

    def protocol(self, source: Mapping[str, Any], key: str, path: Path) -> int | None:
        value = source.get(key)
        if value is None:
            return None
        number = protocol_number(value)
        if number is None:
            names = ", ".join(PROTOCOLS)
            hint = suggestion(value, PROTOCOLS) if isinstance(value, str) else ""
            self.fail((*path, key), f"expected {names} or 1..255, found {what(value)}{hint}")
        return number

    def ports(self, source: Mapping[str, Any], key: str, path: Path, most: int) -> tuple[PortRange | str, ...]:
        out: list[PortRange | str] = []
        for i, value in enumerate(self.items(source, key, path, most)):
            port = self.port(value, (*path, key, i))
            if port is not None:
                out.append(port)
        return tuple(out)

    def port(self, value: Any, path: Path) -> PortRange | str | None:
        if isinstance(value, bool) or not isinstance(value, int | str):
            self.fail(path, f"expected a port, a range 'first:last' or a name, found {what(value)}")
            return None
        if isinstance(value, str) and not re.fullmatch(r"[0-9]+(:[0-9]+)?", value, re.ASCII):
            if not is_port_name(value):
                self.fail(path, f"{what(value)} is not a port name: at most 15 of a-z, 0-9 and -, with a letter")
                return None
            return value
        first, _, last = str(value).partition(":")
        if len(first) > 6 or len(last) > 6:
            self.fail(path, f"port {what(value)} is not in 1..65535")
            return None
        low, high = int(first), int(last or first)
        if not 0 <= low <= 65535 or not 0 <= high <= 65535:
            self.fail(path, f"port {what(value)} is not in 1..65535")
            return None
        if low > high:
            self.fail(path, f"port range {value!r} ends before it begins")
            return None
        if low == 0:  # refused by Calico's validator, though its dataplane knows what it would mean
            self.fail(path, "port 0 is not in 1..65535", soft=True)
        return PortRange(low, high)

    def port_name(self, source: Mapping[str, Any], path: Path, *, required: bool) -> str:
        name = self.text(source, "name", path)
        if not name and required:
            self.fail((*path, "name"), "a port needs a name")
        elif name and not is_port_name(name):
            self.fail((*path, "name"), f"{what(name)} is not a port name: at most 15 of a-z, 0-9 and -, with a letter")
        return name

    def host_port(self, value: Any, path: Path) -> NamedPort | None:
        """A port of a host endpoint."""
        return self._endpoint_port(self.mapping(value, path, _PORT_FIELDS), path)

    def workload_port(self, value: Any, path: Path) -> NamedPort | None:
        return self._endpoint_port(self.mapping(value, path, (*_PORT_FIELDS, "hostPort", "hostIP")), path)

    def _endpoint_port(self, fields: Mapping[str, Any], path: Path) -> NamedPort | None:
        host_port = self.integer(fields, "hostPort", path, 0, 65535, 0)
        host_ip = self.text(fields, "hostIP", path)
        if host_ip:
            self.nets({"hostIP": [host_ip]}, "hostIP", path, strict=False)
        name = self.port_name(fields, path, required=not host_port)
        proto = self.protocol(fields, "protocol", path)
        if "protocol" not in fields:
            self.fail((*path, "protocol"), "missing")
        elif proto is not None and proto not in (6, 17, 132):
            self.fail((*path, "protocol"), "a named port is of TCP, UDP or SCTP")
        port = self.integer(fields, "port", path, 1, 65535)
        if "port" not in fields:
            self.fail((*path, "port"), "missing")
        return NamedPort(name, proto, port) if proto is not None and port is not None else None

    def icmp(self, source: Mapping[str, Any], key: str, path: Path) -> Icmp | None:
        if source.get(key) is None:
            return None
        fields = self.mapping(source[key], (*path, key), ("type", "code"))
        kind = self.integer(fields, "type", (*path, key), 0, 254)
        code = self.integer(fields, "code", (*path, key), 0, 255)
        if "code" in fields and "type" not in fields:
            self.fail((*path, key, "code"), "ICMP code specified without an ICMP type")
        return Icmp(kind, code)

    def domains(self, source: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
        """Names in their ASCII form, one whole component of which may be `*`, though not the last."""
        out: list[str] = []
        for i, written in enumerate(self.strings(source, key, path)):
            name = written if written.isascii() else to_ascii(written.lower()) or written
            parts = name.split(".")
            if not _DOMAIN.match(name) or parts.count("*") > 1 or parts[-1] == "*" or len(name) > 253:
                self.fail(
                    (*path, key, i), f"{what(written)} is not a name (one '*' may stand for a component, not the last)"
                )
            else:
                out.append(name.lower())
        return tuple(out)


def protocol_number(value: Any) -> int | None:
    """The number of a protocol as policies write it; None if it is none. Names are case-sensitive."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if value in PROTOCOLS:
            return PROTOCOLS[value]
        if not value.isascii() or not value.isdigit() or len(value) > 3:
            return None
        value = int(value)
    return value if isinstance(value, int) and 1 <= value <= 255 else None


@lru_cache(maxsize=4096)
def is_qualified(name: str) -> bool:
    """The name of a label: of up to 63 characters, behind a domain and a slash if there is one."""
    return QUALIFIED.match(name) is not None


def is_port_name(name: str) -> bool:
    return len(name) <= 15 and _PORT_NAME.match(name) is not None
