# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of a TLS client, made of what its ClientHello offers.

JA3 (github.com/salesforce/ja3): MD5 of version, cipher suites, extensions, groups and point formats, in the order sent.
JA4 (FoxIO, technical_details/JA4.md): `t13d1516h2_8daaf6152771_02713d6af862`, numbers sorted, so that clients that
shuffle them stay the same. Both leave out what RFC 8701 (GREASE) reserves for being ignored.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from appliance.inspection.protocols.tls import TlsClientHello

_SERVER_NAME, _ALPN = 0, 16
_NOTHING = "0" * 12
_VERSIONS = {
    0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2",
    0xFEFF: "d1", 0xFEFD: "d2", 0xFEFC: "d3",
}  # fmt: skip


def is_grease(number: int) -> bool:
    """0x0a0a, 0x1a1a, … 0xfafa."""
    return number & 0x0F0F == 0x0A0A and number >> 8 == number & 0xFF


@lru_cache(maxsize=64)
def ja3_text(hello: TlsClientHello) -> str:
    fields = (hello.cipher_suites, hello.extensions, hello.groups)
    parts = ["-".join(str(number) for number in field if not is_grease(number)) for field in fields]
    return ",".join((str(hello.version), *parts, "-".join(map(str, hello.point_formats))))


@lru_cache(maxsize=64)
def ja3(hello: TlsClientHello) -> str:
    """32 hex digits."""
    return hashlib.md5(ja3_text(hello).encode(), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=64)
def ja4(hello: TlsClientHello) -> str:
    """Of TLS over TCP."""
    ciphers = [number for number in hello.cipher_suites if not is_grease(number)]
    extensions = [number for number in hello.extensions if not is_grease(number)]
    version = max((number for number in hello.versions if not is_grease(number)), default=hello.version)
    head = (
        f"t{_VERSIONS.get(version, '00')}{'d' if _SERVER_NAME in extensions else 'i'}"
        f"{min(len(ciphers), 99):02d}{min(len(extensions), 99):02d}{_ends(hello.first_alpn)}"
    )
    offered = _hex(sorted(number for number in extensions if number not in (_SERVER_NAME, _ALPN)))
    algorithms = _hex(number for number in hello.signature_algorithms if not is_grease(number))
    if algorithms:
        offered += "_" + algorithms
    return f"{head}_{_short(_hex(sorted(ciphers)))}_{_short(offered if extensions else '')}"


def _hex(numbers: Iterable[int]) -> str:
    return ",".join(f"{number:04x}" for number in numbers)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else _NOTHING


def _ends(alpn: bytes) -> str:
    """First and last character of a protocol name; of its hex digits where one of them is no letter or digit."""
    if not alpn:
        return "00"
    if all(chr(byte).isascii() and chr(byte).isalnum() for byte in (alpn[0], alpn[-1])):
        return chr(alpn[0]) + chr(alpn[-1])
    digits = alpn.hex()
    return digits[0] + digits[-1]
