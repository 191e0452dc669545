# SPDX-License-Identifier: Apache-2.0
"""Checksum and signature of a list: plain Ed25519 (RFC 8032) and minisign's forms of it
(jedisct1.github.io/minisign)."""

import base64
import binascii
import hashlib
import hmac

from threatfeeds.config import FeedError

_MINISIGN_KEY = 42  # bytes: "Ed", key id, key
_MINISIGN_SIGNATURE = 74  # bytes: "Ed" (of the list) or "ED" (of its BLAKE2b-512), key id, signature


def check_sha256(data: bytes, published: bytes) -> None:
    """published: text that begins with the checksum in hex, as sha256sum writes it. Raises FeedError."""
    word = published[:200].decode("ascii", "replace").split()
    expected = word[0].lower() if word else ""
    if len(expected) != 64:
        raise FeedError("the checksum file does not begin with a SHA-256")
    if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), expected):
        raise FeedError("the list does not have the published checksum")


def check_signature(data: bytes, published: bytes, public_key: str) -> None:
    """Raises FeedError unless `published` is the key's signature of `data`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key_id, key = _key(public_key)
    algorithm, signer, signature = _signature(published)
    if key_id is not None and signer is not None and key_id != signer:
        raise FeedError("the list is signed with another key")
    signed = hashlib.blake2b(data).digest() if algorithm == b"ED" else data
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except (InvalidSignature, ValueError) as error:
        raise FeedError("the list does not have a valid signature") from error


def _key(text: str) -> tuple[bytes | None, bytes]:
    raw = _base64(text.strip().split("\n")[-1].strip(), "the public key")
    if len(raw) == _MINISIGN_KEY and raw[:2] == b"Ed":
        return raw[2:10], raw[10:]
    if len(raw) != 32:
        raise FeedError("expected an Ed25519 public key of 32 bytes, or minisign's", field="public_key")
    return None, raw


def _signature(published: bytes) -> tuple[bytes, bytes | None, bytes]:
    if len(published) == 64:
        return b"", None, published
    lines = [line.strip() for line in published.decode("ascii", "replace").splitlines()]
    text = next((line for line in lines if line and not line.startswith(("untrusted ", "trusted "))), "")
    raw = _base64(text, "the signature")
    if len(raw) == _MINISIGN_SIGNATURE and raw[:2] in (b"Ed", b"ED"):
        return raw[:2], raw[2:10], raw[10:]
    if len(raw) != 64:
        raise FeedError("expected a signature of 64 bytes, or minisign's")
    return b"", None, raw


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FeedError(f"{what} is not Base64") from error
