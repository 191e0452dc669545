# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from appliance.service.resolvers import read_resolvers


def test_other_words_are_no_resolvers(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("nameserver ns.example\nnameserver\nsearch 192.0.2.1\n")
    assert read_resolvers([tmp_path / "one"]) == ()


def test_resolvers_are_those_of_every_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("# x\nnameserver 127.0.0.53\noptions edns0\nnameserver fe80::1%eth0\nnameserver\n")
    (tmp_path / "two").write_text("nameserver 192.0.2.53 # ours\nnameserver 127.0.0.53\nnameserver 1.2.3\n")
    paths = [tmp_path / name for name in ("one", "missing", "two")]
    assert read_resolvers(paths) == ("127.0.0.53", "fe80::1", "192.0.2.53")
