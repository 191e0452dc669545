# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.hostnames import ascii_name


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B\u00fccher.Example.", "xn--bcher-kva.example"),
        ("xn--BCHER-kva.example", "xn--bcher-kva.example"),
        ("stra\u00dfe.example", "xn--strae-oqa.example"),  # RFC 5891: not strasse
        ("m\u00fcnchen\u3002example", "xn--mnchen-3ya.example"),  # UTS 46: an ideographic full stop
        ("I\u2665.example", "xn--i-n3p.example"),  # IDNA 2003
        ("_dmarc.\u00fc.example", "_dmarc.xn--tda.example"),
        ("a..example", None),
        ("-a.example", "-a.example"),  # against RFC 952, and in use
        ("\u00fc" * 80 + ".example", None),
        ("a b.example", None),
        ("", None),
    ],
)
def test_names(text: str, wanted: str | None) -> None:
    assert ascii_name(text) == wanted


@given(st.text(max_size=80))
def test_a_name_stays_what_it_is(text: str) -> None:
    name = ascii_name(text)
    if name is not None:
        assert name.isascii() and name == name.lower() and ascii_name(name) == name
