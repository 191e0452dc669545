# SPDX-License-Identifier: Apache-2.0
"""pcre: a Perl regular expression `"/expression/flags"`, as Python's re understands it.

The engine bounds the bytes that an expression is given."""

import re

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, quoted
from rules.signatures.model import Pcre, SignatureError

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
_BUFFERS = {
    "U": "http.uri",
    "I": "http.uri.raw",
    "H": "http.header",
    "M": "http.method",
    "V": "http.user_agent",
    "W": "http.host",
}
_OTHER_BUFFERS = "PDCYSBLQZ"
_NOTHING = "OG"


def _pcre(builder: Builder, value: str | None) -> None:
    text, negated = quoted(value)
    end = text.rfind("/")
    if not text.startswith("/") or end == 0:
        raise SignatureError("the expression does not stand between slashes")
    expression = text[1:end]
    flags = 0
    relative = False
    buffer = None
    for letter in text[end + 1 :]:
        if letter in _FLAGS:
            flags |= _FLAGS[letter]
        elif letter == "R":
            relative = True
        elif letter == "A":
            expression = rf"\A(?:{expression})"
        elif letter == "E":
            expression = re.sub(r"(?<!\\)\$$", r"\\Z", expression)
        elif letter in _BUFFERS:
            buffer = _BUFFERS[letter]
        elif letter in _OTHER_BUFFERS:
            raise SignatureError(f"flag {letter} is not supported", unsupported=True)
        elif letter not in _NOTHING:
            raise SignatureError(f"flag {letter!r} is not known")
    try:
        compiled = re.compile(_translate(expression).encode("utf-8", "surrogateescape"), flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise SignatureError(f"the expression cannot be compiled: {error}", unsupported=True) from None
    builder.add(Pcre(compiled, negated, relative), buffer)


def _translate(expression: str) -> str:
    # The rule language escapes what PCRE does not: `\;`, `\"` and `\/` are the plain characters for both, \Z differs.
    return re.sub(r"\\(.)", lambda match: r"(?=\n?\Z)" if match[1] == "Z" else match[0], expression, flags=re.DOTALL)


KEYWORDS = (Keyword("pcre", "a regular expression to find in the buffer", _pcre),)
