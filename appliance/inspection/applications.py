# SPDX-License-Identifier: Apache-2.0
"""What each application protocol offers to the inspector: a session, names, buffers, facts for the log."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from appliance.inspection.protocols.dns import TYPES, DnsMessage, DnsTcpSession
from appliance.inspection.protocols.http import HttpRequest, HttpResponse, HttpSession
from appliance.inspection.protocols.smtp import SmtpSession
from appliance.inspection.protocols.ssh import SshSession
from appliance.inspection.protocols.tls import TlsClientHello, TlsServerHello, TlsSession

AppEvent = HttpRequest | HttpResponse | TlsClientHello | TlsServerHello | DnsMessage


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
        return [("http.host", event.host.decode("ascii", "backslashreplace"))] if event.host else []
    if isinstance(event, TlsClientHello):
        return [("tls.sni", event.sni)] if event.sni else []
    if isinstance(event, DnsMessage):
        names = [("dns.query", question.name) for question in event.questions]
        return names + [("dns.answer", answer.target) for answer in event.answers if answer.target]
    return []


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
        return "tls", {"sni": event.sni, "version": _tls_version(event), "client_alpns": list(event.alpn)}
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
