# SPDX-License-Identifier: Apache-2.0
"""What a hash is of: of something that a TLS handshake shows, or of a file, which nobody here sees in one piece. Pure.

The type of an entry says it best, then the title of its column, then what the list says of itself, then its name. A
hash of which nothing says it is looked for: that costs an inspected handshake, the other mistake a block.
"""

import re
from collections.abc import Sequence

# Names of lists ("sslbl"), of columns ("ja3_md5", "cert_sha1"), of types ("x509-fingerprint-sha1").
_TLS = re.compile(
    r"(?<![a-z])(?:sslbl|ssl|tls|x\.?509|certificates?|cert_|ja3s?|ja4s?|listingreason)(?![a-z])", re.IGNORECASE
)
_FILE = re.compile(
    r"malware|bazaar|(?<![a-z])samples?(?![a-z])|(?<![a-z])files?(?:name|hash)?(?![a-z])|payload"
    r"|(?:md5|sha-?1|sha-?256)_?hash",
    re.IGNORECASE,
)
# A text that says what kind of hash is beside it: "sha256_hash", "FileHash-MD5", "filename|sha1".
HASH_TYPE = re.compile(r"[a-z0-9|_ -]{0,24}(?:md5|sha-?1|sha-?256)(?:[_ -]hash)?\Z", re.IGNORECASE)
_COMMENT = re.compile(r"(?:[#;!]|//)[^\n]*(?:\n|\Z)|\s*\n")
_HEAD = 4096  # characters of a list's first comments


def of_file(*words: str) -> bool | None:
    """None: the words do not say."""
    text = " ".join(words)
    if _TLS.search(text):
        return False
    return True if _FILE.search(text) else None


def hash_of_file(types: Sequence[str], title: str) -> bool | None:
    """Of a record. types: texts of it that are a HASH_TYPE. title: of its column or key. Where a record says that it is
    a hash, and no more, it is of a file: so do lists of indicators of every kind."""
    said = of_file(*types)
    if said is None:
        said = of_file(title)
    return True if said is None and types else said


def head(text: str) -> str:
    """The comments that a list begins with."""
    end = 0
    while end < _HEAD and (line := _COMMENT.match(text, end)) is not None and line.end() > end:
        end = line.end()
    return text[: min(end, _HEAD)]
