# SPDX-License-Identifier: Apache-2.0
"""What real TLS peers say to each other, made in memory."""

import datetime
import functools
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@functools.cache
def certificate(name: str = "peer.example", padding: int = 0) -> tuple[bytes, bytes]:
    """(PEM of key and certificate, DER of the certificate). padding: bytes of an extension nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    )  # fmt: skip
    if padding:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"x" * padding)
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    return pem, made.public_bytes(Encoding.DER)


@functools.cache
def handshake(
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, server_name: str = "www.peer.example", padding: int = 0
) -> tuple[tuple[bool, bytes], ...]:
    """The flights of a handshake and a word of data each way: (from the server, bytes), in order."""
    pem, _ = certificate(padding=padding)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.pem"
        path.write_bytes(pem)
        server_context.load_cert_chain(path)
    server_context.maximum_version = newest
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=server_name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    flights: list[tuple[bool, bytes]] = []
    done = [False, False]
    while not all(done):
        for side, (peer, way) in enumerate(((client, to_server), (server, to_client))):
            if not done[side]:
                try:
                    peer.do_handshake()
                    done[side] = True
                except ssl.SSLWantReadError:
                    pass
            if way.pending:
                data = way.read()
                flights.append((bool(side), data))
                way.write(data)  # for the other side
    for side, (peer, outgoing) in enumerate(((client, to_server), (server, to_client))):
        peer.write(b"word")
        flights.append((bool(side), outgoing.read()))
    return tuple(flights)
