# SPDX-License-Identifier: Apache-2.0
"""pcre: a Perl regular expression `"/expression/flags"` (rules.signatures.expressions)."""

from rules.signatures.builder import Builder
from rules.signatures.expressions import ExpressionError, compile_expression
from rules.signatures.keywords.keyword import Keyword, quoted
from rules.signatures.model import Pcre, SignatureError

_FLAGS = "imsxAE"
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
    flags = ""
    relative = False
    buffer = None
    for letter in text[end + 1 :]:
        if letter in _FLAGS:
            flags += letter
        elif letter == "R":
            relative = True
        elif letter in _BUFFERS:
            buffer = _BUFFERS[letter]
        elif letter in _OTHER_BUFFERS:
            raise SignatureError(f"flag {letter} is not supported", unsupported=True)
        elif letter not in _NOTHING:
            raise SignatureError(f"flag {letter!r} is not known")
    try:
        compiled = compile_expression(expression, flags)
    except ExpressionError as error:
        raise SignatureError(str(error), unsupported=True) from None
    builder.add(Pcre(compiled, negated, relative), buffer)


KEYWORDS = (Keyword("pcre", "a regular expression to find in the buffer", _pcre),)
