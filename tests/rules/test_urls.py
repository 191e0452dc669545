# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from rules.urls import Url, normal_target, parse_url


def test_one_url_in_many_ways() -> None:
    wanted = "http://xn--bcher-kva.example/a/b?q=%3F"
    for text in (
        "HTTP://B\u00fccher.example:80/a/./c/../b?q=%3f#top", "b\u00fccher.example/%61/b?q=%3f",
        "http://user:pw@xn--bcher-kva.EXAMPLE./a/b?q=%3F",
    ):  # fmt: skip
        assert str(parse_url(text)) == wanted


def test_addresses_ports_and_empty_paths() -> None:
    assert str(parse_url("http://[2001:DB8:0::1]:8080")) == "http://[2001:db8::1]:8080/"
    assert str(parse_url("10.0.0.1:81/x")) == "http://10.0.0.1:81/x"
    assert parse_url("https://a.example") == Url("https", "a.example", 443, "/")
    assert str(parse_url("https://a.example:80/")) == "https://a.example:80/"


def test_what_is_no_url_of_http() -> None:
    for text in ("ftp://a.example/", "http:///x", "http://a.example:0/", "http://a.example:99999/", "http://a b/", ""):
        assert parse_url(text) is None, text


def test_escapes_keep_what_they_mean() -> None:
    assert normal_target("/a%2fb") == "/a%2Fb"
    assert normal_target("/%7Euser/%zz") == "/~user/%25zz"
    assert normal_target("/a b\u00fc") == "/a%20b%C3%BC"
    assert normal_target("?x=/../y") == "/?x=/../y"
    assert normal_target("/a/..%2fb/../..") == "/"


@given(st.text(max_size=60))
def test_normal_is_normal_and_nothing_raises(text: str) -> None:
    once = normal_target(text)
    assert once.isascii() and once.startswith("/") and normal_target(once) == once
    url = parse_url(text)
    if url is not None:
        assert parse_url(str(url)) == url


@given(st.text(alphabet="ab./%2eE?", max_size=30))
def test_no_path_keeps_dots_to_climb_by(text: str) -> None:
    path = normal_target(text).partition("?")[0]
    assert not {".", ".."} & set(path.split("/"))
