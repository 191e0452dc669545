# SPDX-License-Identifier: Apache-2.0
"""Sticky buffers, and the older modifiers that move the content before them into one."""

from collections.abc import Callable

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, absent

STICKY = {
    "http.uri": "the request target, percent-encoding undone",
    "http.uri.raw": "the request target as sent",
    "http.method": "the request method",
    "http.host": "host name in lower case, without port",
    "http.user_agent": "the User-Agent field",
    "http.header": "the header fields",
    "tls.sni": "server name of the ClientHello",
    "dns.query": "name in the question",
}
_OTHER_NAMES = {"tls_sni": "tls.sni", "dns_query": "dns.query", "pkt_data": "payload"}
_MODIFIERS = {
    "http_uri": "http.uri",
    "http_raw_uri": "http.uri.raw",
    "http_method": "http.method",
    "http_host": "http.host",
    "http_user_agent": "http.user_agent",
    "http_header": "http.header",
    "rawbytes": "payload",
}


def _sticky(buffer: str) -> Callable[[Builder, str | None], None]:
    def parse(builder: Builder, value: str | None) -> None:
        absent(value)
        builder.buffer = buffer

    return parse


def _modifier(buffer: str) -> Callable[[Builder, str | None], None]:
    def parse(builder: Builder, value: str | None) -> None:
        absent(value)
        builder.move_content(buffer)

    return parse


KEYWORDS = (
    *(Keyword(name, description, _sticky(name)) for name, description in STICKY.items()),
    *(Keyword(name, f"older name of {buffer}", _sticky(buffer)) for name, buffer in _OTHER_NAMES.items()),
    *(Keyword(name, f"moves the content into {buffer}", _modifier(buffer)) for name, buffer in _MODIFIERS.items()),
)
