# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import msgspec

from threatfeeds import FeedConfig, load_feed_config
from threatfeeds.formats import FORMATS
from threatfeeds.toml_lines import key_lines

EXAMPLE = Path(__file__).parents[2] / "systemd" / "feed.toml.example"


def test_example_shows_every_setting_with_its_default_and_every_format() -> None:
    text = EXAMPLE.read_text()
    everything = re.sub(r"(?m)^#(?=[a-z0-9_]+ = )", "", text)
    default = FeedConfig(file="bad-hosts.txt", name="x")
    assert load_feed_config(everything, "/x.toml") == load_feed_config(text, "/x.toml") == default
    # One limit has no default that TOML could write: it depends on the source.
    shown = set(key_lines(everything)) | {("max_rejected",)}
    assert {(field.name,) for field in msgspec.structs.fields(FeedConfig)} == shown
    assert "max_rejected" in text
    assert all(re.search(rf"\b{name}\b", text) for name in FORMATS)
