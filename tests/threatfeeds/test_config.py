# SPDX-License-Identifier: Apache-2.0
"""Settings of a feed that contradict each other, or say less than they seem to."""

import pytest

from threatfeeds import FeedError, load_feed_config

URL = 'url = "https://lists.example/x"\n'


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ('auth_user = "me"', "auth_user", "there is no secret to send"),
        ('auth_header = "X-Api-Key"', "auth_header", "there is no secret to send"),
        ('auth_user = "me:too"\nsecret_file = "key"', "auth_user", "no colon"),
        ('secret_file = "a"\nsecret_credential = "b"', "secret_credential", "already named"),
        ('public_key = "x"', "public_key", "belong together"),
        ('period = "30s"', "period", "at least 60s"),
        ('expires = "soon"', "expires", "expected a duration"),
        ("min_entries = -1", "min_entries", ">= 0"),
        ('headers = { "bad header" = "x" }', "headers", "printable ASCII"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_place(text: str, field: str, says: str) -> None:
    with pytest.raises(FeedError, match=says) as caught:
        load_feed_config(URL + text, "x.toml")
    assert (caught.value.field, caught.value.file) == (field, "x.toml")


def test_secret_in_the_url_is_refused() -> None:
    with pytest.raises(FeedError, match="does not belong into the URL"):
        load_feed_config('url = "https://me:s3cret@lists.example/x"', "x.toml")
