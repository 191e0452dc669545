# SPDX-License-Identifier: Apache-2.0
"""What each application protocol offers to the inspector: a session, names, buffers, facts for the log."""

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from appliance.inspection.flows import Flow
from appliance.inspection.messages import IndicatorKind
from appliance.inspection.protocols.dns import TYPES, DnsMessage, DnsTcpSession
from appliance.inspection.protocols.fingerprint import ja3, ja3_text, ja4
from appliance.inspection.protocols.http import HttpRequest, HttpResponse, HttpSession
from appliance.inspection.protocols.smtp import SmtpSession
from appliance.inspection.protocols.ssh import SshSession
from appliance.inspection.protocols.tls import TlsCertificate, TlsClientHello, TlsServerHello, TlsSession
from rules.hostnames import as_name
from rules.urls import Url, normal_host, normal_target, parse_url, split_port

AppEvent = HttpRequest | HttpResponse | TlsClientHello | TlsServerHello | TlsCertificate | DnsMessage


class Session(Protocol):
    """Both directions of a connection, fed in order. Raises ParseError."""

    def to_server(self, data: bytes) -> Sequence[AppEvent]: ...

    def to_client(self, data: bytes) -> Sequence[AppEvent]: ...


def new_session(app: str) -> Session | None:
    """None for a protocol that is known by name only."""
    if app == "http":
        return HttpSession()
    if app == "tls":
        return TlsSession()
    if app == "dns":
        return DnsTcpSession()
    if app == "ssh":
        return SshSession()
    if app == "smtp":
        return SmtpSession()
    return None


def names_of(event: AppEvent) -> list[tuple[str, str]]:
    """(where it stands, name) of every name that feeds are asked about."""
    if isinstance(event, HttpRequest):
        return [("http.host", as_name(event.host.decode("ascii", "backslashreplace")))] if event.host else []
    if isinstance(event, TlsClientHello):
        return [("tls.sni", as_name(event.sni))] if event.sni else []
    if isinstance(event, DnsMessage):
        names = [("dns.query", as_name(question.name)) for question in event.questions]
        return names + [("dns.answer", as_name(answer.target)) for answer in event.answers if answer.target]
    return []


def entries_of(event: AppEvent, flow: Flow) -> list[tuple[str, IndicatorKind, str]]:
    """(where it stands, kind, value) of every URL and fingerprint that feeds are asked about."""
    if isinstance(event, HttpRequest):
        return [("http.url", "url", str(url)) for url in urls_of(event, flow)]
    if isinstance(event, TlsClientHello):
        return [("tls.ja3", "ja3", ja3(event)), ("tls.ja4", "ja4", ja4(event))]
    if isinstance(event, TlsCertificate):
        return [
            ("tls.certificate", "sha1", hashlib.sha1(event.der, usedforsecurity=False).hexdigest()),
            ("tls.certificate", "sha256", hashlib.sha256(event.der).hexdigest()),
        ]
    return []


def urls_of(request: HttpRequest, flow: Flow) -> list[Url]:
    """The URL that was asked for. Where the request names a host without a port but goes to another one than 80 there
    are two: whoever lists the URL may have written the port or not. Without a host the server's address is it."""
    target = request.uri.decode("utf-8", "backslashreplace")
    if request.method == b"CONNECT":
        return []
    if "://" in target[:16]:
        url = parse_url(target)
        return [url] if url is not None else []
    written = next((value for name, value in request.headers if name.lower() == b"host"), b"")
    text, port = split_port(written.decode("utf-8", "backslashreplace"))
    host = normal_host(text) if text else str(ipaddress.ip_address(flow.key[3]))
    if host is None or port == 0:
        return []
    ports = (port,) if port is not None else (80,) if flow.key[4] == 80 else (80, flow.key[4])
    return [Url("http", host, number, normal_target(target)) for number in ports]


def buffers_of(event: AppEvent) -> list[Mapping[str, bytes]]:
    """Sticky buffers of one transaction each, named as in Suricata's rules."""
    if isinstance(event, HttpRequest):
        return [
            {
                "http.method": event.method,
                "http.uri": normal_uri(event.uri),
                "http.uri.raw": event.uri,
                "http.host": event.host,
                "http.user_agent": event.user_agent,
                "http.header": event.raw_headers,
            }
        ]
    if isinstance(event, HttpResponse):
        return [{"http.header": event.raw_headers}]
    if isinstance(event, TlsClientHello):
        return [{"tls.sni": event.sni.encode()}]
    if isinstance(event, DnsMessage):
        # The buffer is the query's: an answer repeats the question, and would alert a second time.
        return [] if event.response else [{"dns.query": question.name.encode()} for question in event.questions]
    return []


def facts_of(event: AppEvent) -> tuple[str, dict[str, Any]] | None:
    """Event kind and EVE fields, or None if the event is not worth a line of its own."""
    if isinstance(event, HttpRequest):
        return "http", {
            "hostname": _text(event.host),
            "url": _text(event.uri),
            "http_user_agent": _text(event.user_agent),
            "http_method": _text(event.method),
            "protocol": _text(event.version),
        }
    if isinstance(event, HttpResponse):
        return "http", {"status": event.status, "protocol": _text(event.version)}
    if isinstance(event, TlsClientHello):
        return "tls", {
            "sni": event.sni,
            "version": _tls_version(event),
            "client_alpns": list(event.alpn),
            "ja3": {"hash": ja3(event), "string": ja3_text(event)},
            "ja4": ja4(event),
        }
    if isinstance(event, DnsMessage):
        fields: dict[str, Any] = {
            "type": "answer" if event.response else "query",
            "id": event.id,
            "queries": [{"rrname": q.name, "rrtype": TYPES.get(q.type, str(q.type))} for q in event.questions],
        }
        if event.response:
            fields["rcode"] = event.rcode
            fields["answers"] = [
                {"rrname": a.name, "rrtype": TYPES.get(a.type, str(a.type)), "ttl": a.ttl} for a in event.answers[:32]
            ]
        return "dns", fields
    return None


def normal_uri(uri: bytes) -> bytes:
    """Percent-encoding of the path and the query undone once, as Suricata's http.uri."""
    if b"%" not in uri:
        return uri
    out = bytearray()
    position = 0
    while True:
        percent = uri.find(b"%", position)
        if percent < 0:
            return bytes(out + uri[position:])
        out += uri[position:percent]
        try:
            out.append(int(uri[percent + 1 : percent + 3].decode("ascii"), 16) if len(uri) > percent + 2 else 256)
            position = percent + 3
        except ValueError:
            out.append(0x25)
            position = percent + 1


def _text(raw: bytes) -> str:
    return raw[:4096].decode("utf-8", "backslashreplace")


def _tls_version(hello: TlsClientHello) -> str:
    # GREASE values (RFC 8701) are no versions.
    newest = max((v for v in hello.versions if v & 0x0F0F != 0x0A0A), default=hello.version)
    return {0x0301: "TLSv1", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}.get(newest, f"0x{newest:04x}")
