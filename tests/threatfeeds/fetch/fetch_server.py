# SPDX-License-Identifier: Apache-2.0
"""A list server on loopback, with an authority of its own."""

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from threatfeeds.fetch.http import Request

Answer = Callable[[BaseHTTPRequestHandler], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        server: ListServer = self.server  # type: ignore[assignment]
        length = int(self.headers.get("Content-Length", 0))
        server.asked.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        answer = server.answers.get(self.path.partition("?")[0])
        self.close_connection = True
        if answer is None:
            self.send_error(404)
        else:
            answer(self)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class ListServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.base = ""
        self.ca = ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what the tests are about."""

    def url(self, path: str) -> str:
        return self.base + path

    def request(self, path: str, **settings: object) -> Request:
        return Request(self.url(path), **{"ca": self.ca, "timeout": 5.0, **settings})  # type: ignore[arg-type]


def say(body: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer; header names with _ for -."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value:
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@dataclass(frozen=True)
class Authority:
    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def _build(self, name: str, issuer: str, key: ec.EllipticCurvePrivateKey, ca: bool, days: int) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.ip_address(name))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def write(self) -> "Authority":
        ca = self._build("feeds test", "feeds test", self.key, True, 30)
        self.file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        return self

    def context(self, address: str = "127.0.0.1", days: int = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        path = self.folder / f"{address}-{days}.pem"
        path.write_bytes(
            self._build(address, "feeds test", key, False, days).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def serve(context: ssl.SSLContext | None, ca: Path) -> Iterator[ListServer]:
    server = ListServer()
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.base = f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}"
    server.ca = str(ca)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)
