# SPDX-License-Identifier: Apache-2.0
"""Reading plain values into typed ones, collecting every error with its field path instead of stopping at the first.

Messages are in the words of Kubernetes' API server ("Unsupported value", "Too many", "Required value"), which operators
know and search for; rules of Calico's own are in the words of its CRDs.
"""

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from rules.hostnames import to_ascii
from rules.policy.errors import SelectorError
from rules.policy.model import PROTOCOLS, Icmp, Net, PortRange, parse_net
from rules.policy.selector import Node, Selector
from rules.policy.wording import Path, suggestion, what

MAX_SELECTOR = 1024
MAX_ERRORS = 100  # of one document; what comes behind is counted
REQUIRED = "Required value"
MAX_ANNOTATIONS = 256 << 10  # bytes, names and values
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = re.compile(rf"{LABEL}\Z")
DNS_SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*\Z")
QUALIFIED = re.compile(
    rf"((?=[^/]{{1,253}}/){LABEL}(\.{LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?\Z"
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")
_LONGEST_NET = 64  # characters, in an error message
_PORT_NAME = re.compile(r"(?=[-0-9]*[a-z])[a-z0-9]+(-[a-z0-9]+)*\Z")  # IANA service name, RFC 6335
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)(?:\*|[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?)"
    r"(\.(?:\*|[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?))*\Z"
)


@lru_cache(maxsize=65536)
def parse_selector(text: str) -> Node:
    return Selector.parse(text).node


class Reader:
    """`errors` has (path, message, soft): soft where the value was understood all the same. `strict`: names and labels
    are as Kubernetes has them."""

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.errors: list[tuple[Path, str, bool]] = []
        self.omitted = 0
        self.soft = True  # all of them are, those left out included

    @property
    def full(self) -> bool:
        return len(self.errors) >= MAX_ERRORS

    def fail(self, path: Path, message: str, *, soft: bool = False) -> None:
        self.soft = self.soft and soft
        if self.full:
            self.omitted += 1
        else:
            self.errors.append((path, message, soft))

    def mapping(self, value: Any, path: Path, known: Iterable[str] | None) -> Mapping[str, Any]:
        """The mapping without nulls and without unknown fields, which are errors (`known` None: any are fine)."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fail(path, f"expected a mapping, found {what(value)}")
            return {}
        if known is not None:
            for key in value:
                if key not in known:
                    hint = "" if self.full else suggestion(key, known)
                    self.fail((*path, key), f"unknown field {what(key)}{hint}")
        return {key: item for key, item in value.items() if item is not None and (known is None or key in known)}

    def items(self, source: Mapping[str, Any], key: str, path: Path, most: int | None = None) -> list[Any]:
        value = source.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail((*path, key), f"expected a list, found {what(value)}")
            return []
        if most is not None and len(value) > most:
            self.fail((*path, key), f"Too many: {len(value)}: must have at most {most} items")
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
            self.fail((*path, key), f"Too long: may not be more than {longest} bytes (it has {len(value)})")
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
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail((*path, key), f"expected a number, found {what(value)}")
            return default
        return float(value)

    def integer(
        self, source: Mapping[str, Any], key: str, path: Path, low: int, high: int, default: int | None = None
    ) -> int | None:
        value = source.get(key)
        if value is None:
            return default
        value = whole(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail((*path, key), f"expected a whole number, found {what(value)}")
            return default
        if not low <= value <= high:
            limit = f"greater than or equal to {low}" if value < low else f"less than or equal to {high}"
            self.fail((*path, key), f"Invalid value: {what(value)}: should be {limit}")
            return default
        return value

    def choice(
        self, source: Mapping[str, Any], key: str, path: Path, choices: tuple[str, ...], default: str | None = None
    ) -> str | None:
        value = source.get(key)
        if value is None:
            return default
        return value if self._chosen(value, (*path, key), choices) else default

    def choices(
        self, source: Mapping[str, Any], key: str, path: Path, choices: tuple[str, ...], most: int | None = None, *,
        unique: bool = True,
    ) -> tuple[str, ...]:  # fmt: skip
        """Repetitions are dropped; unique: and are errors."""
        out: list[str] = []
        for i, value in enumerate(self.items(source, key, path, most)):
            if value in out:
                if unique:
                    self.fail((*path, key, i), f"Duplicate value: {what(value)}")
            elif self._chosen(value, (*path, key, i), choices):
                out.append(value)
        return tuple(out)

    def _chosen(self, value: Any, path: Path, choices: tuple[str, ...]) -> bool:
        if isinstance(value, str) and value in choices:
            return True
        hint = suggestion(value, choices) if isinstance(value, str) and not self.full else ""
        known = ", ".join(f'"{choice}"' for choice in choices)
        self.fail(path, f"Unsupported value: {what(value)}: supported values: {known}{hint}")
        return False

    def strings(
        self, source: Mapping[str, Any], key: str, path: Path, most: int | None = None, *, unique: bool = False
    ) -> tuple[str, ...]:
        out: list[str] = []
        seen: set[str] = set()
        for i, value in enumerate(self.items(source, key, path, most)):
            if not isinstance(value, str):
                self.fail((*path, key, i), f"expected a string, found {what(value)}")
            elif unique and value in seen:
                self.fail((*path, key, i), f"Duplicate value: {what(value)}")
            else:
                seen.add(value)
                out.append(value)
        return tuple(out)

    def name(self, source: Mapping[str, Any], key: str, path: Path, *, longest: int | None = None) -> str:
        """The name of something, as Calico has them; empty if there is none."""
        text = self.text(source, key, path, longest=longest)
        if text and self.strict and not DNS_SUBDOMAIN.match(text):
            self.fail((*path, key), f"{what(text)} is not a name: a-z, 0-9, - and . between", soft=True)
        return text

    def string_map(self, source: Mapping[str, Any], key: str, path: Path) -> dict[str, str]:
        """A value that is not there is an error: without it a selector would match more."""
        out: dict[str, str] = {}
        given = source.get(key)
        for name, value in (given if isinstance(given, Mapping) else self.mapping(given, (*path, key), None)).items():
            if isinstance(value, str):
                out[name] = value
            else:
                self.fail((*path, key, name), f"expected a string, found {what(value)} (put it in quotes)")
        return out

    def labels(self, source: Mapping[str, Any], key: str, path: Path) -> dict[str, str]:
        """Labels as Kubernetes has them. What others would mean is clear all the same."""
        labels = self.string_map(source, key, path)
        for name, value in labels.items() if self.strict else ():
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
        texts = "".join(annotations) + "".join(annotations.values())
        if len(texts.encode(errors="replace")) > MAX_ANNOTATIONS:
            self.fail((*path, "annotations"), f"more than {MAX_ANNOTATIONS >> 10} kB of annotations")
        return annotations

    def selector(
        self, source: Mapping[str, Any], key: str, path: Path, *, longest: int | None = MAX_SELECTOR
    ) -> Node | None:
        """None where absent, empty or too long."""
        text = self.text(source, key, path, longest=longest)
        if not text.strip(" \t") or (longest is not None and len(text) > longest):
            return None
        try:
            return parse_selector(text)
        except SelectorError as error:
            self.fail((*path, key), f"invalid selector {what(text)}: {error.message}")
            return None

    def nets(
        self, source: Mapping[str, Any], key: str, path: Path, most: int | None = None, *, strict: bool,
        unique: bool = True,
    ) -> tuple[Net, ...]:  # fmt: skip
        """CIDRs or addresses; strict: host bits must be zero. Repetitions are dropped; unique: and are errors."""
        out: dict[Net, None] = {}
        seen: set[str] = set()
        for i, value in enumerate(self.items(source, key, path, most)):
            net = self.net(value, (*path, key, i), strict=strict)
            if net is None:
                continue
            if unique and value in seen:  # a set, for Kubernetes; its meaning is clear all the same
                self.fail((*path, key, i), f"Duplicate value: {value!r}", soft=True)
            seen.add(value)
            out[net] = None
        return tuple(out)

    def net(self, value: Any, path: Path, *, strict: bool) -> Net | None:
        if not isinstance(value, str):
            self.fail(path, f"expected an address or a network, found {what(value)}")
            return None
        try:
            net, host_bits = parse_net(value)
        except ValueError as error:
            self.fail(path, str(error) if len(value) <= _LONGEST_NET else f"{what(value)} is not a network")
            return None
        if strict and host_bits:
            self.fail(path, f"{value!r} has host bits set; the network is {str(net)!r}")
        return net

    def addresses(self, source: Mapping[str, Any], key: str, path: Path) -> tuple[Net, ...]:
        """Plain addresses, without a prefix length."""
        for i, value in enumerate(self.items(source, key, path)):
            if isinstance(value, str) and "/" in value:
                self.fail((*path, key, i), f"{what(value)} is not an address")
        return self.nets(source, key, path, strict=False)

    def address(self, source: Mapping[str, Any], key: str, path: Path) -> Net | None:
        """One plain address; None where there is none."""
        value = source.get(key)
        if value is None or value == "":
            return None
        if isinstance(value, str) and "/" in value:
            self.fail((*path, key), f"{what(value)} is not an address")
            return None
        return self.net(value, (*path, key), strict=False)

    def protocol(self, source: Mapping[str, Any], key: str, path: Path) -> int | None:
        value = source.get(key)
        if value is None:
            return None
        number = protocol_number(value)
        if number is None:
            hint = suggestion(value, PROTOCOLS) if isinstance(value, str) and not self.full else ""
            self.fail((*path, key), f"expected {', '.join(PROTOCOLS)} or 1..255, found {what(value)}{hint}")
        return number

    def ports(self, source: Mapping[str, Any], key: str, path: Path, most: int) -> tuple[PortRange | str, ...]:
        out: list[PortRange | str] = []
        for i, value in enumerate(self.items(source, key, path, most)):
            port = self.port(value, (*path, key, i))
            if port is not None:
                out.append(port)
        return tuple(out)

    def port(self, value: Any, path: Path) -> PortRange | str | None:
        value = whole(value)
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


def whole(value: Any) -> Any:
    """80.0 is 80, as in JSON schemas."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def protocol_number(value: Any) -> int | None:
    """The number of a protocol as policies write it; None if it is none. Names are case-sensitive."""
    value = whole(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if value in PROTOCOLS:
            return PROTOCOLS[value]
        digits = value.lstrip("0")
        if not value.isascii() or not value.isdigit() or len(digits) > 3:
            return None
        value = int(digits or "0")
    return value if isinstance(value, int) and 1 <= value <= 255 else None


@lru_cache(maxsize=4096)
def _is_qualified(name: str) -> bool:
    return QUALIFIED.match(name) is not None


def is_qualified(name: str) -> bool:
    """The name of a label: of up to 63 characters, behind a domain and a slash if there is one."""
    return len(name) <= 253 + 1 + 63 and _is_qualified(name)


def is_port_name(name: str) -> bool:
    return len(name) <= 15 and _PORT_NAME.match(name) is not None
