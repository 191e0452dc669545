# SPDX-License-Identifier: Apache-2.0
"""Names, addresses and time; the file that outlives the process."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.domains.state import StateError, decode_state, encode_state, read_state, write_state
from appliance.domains.table import Lifetimes, NameTable, Pair

LIFETIMES = Lifetimes(floor=10, cap=100)


def test_an_address_stays_for_its_ttl_within_floor_and_cap() -> None:
    table = NameTable(LIFETIMES)
    assert table.learn(["a.test"], [("192.0.2.1", 1), ("192.0.2.2", 50), ("192.0.2.3", 10**9)], 0) == {
        "192.0.2.1", "192.0.2.2", "192.0.2.3",
    }  # fmt: skip
    assert table.expire(9.9) == set()
    assert table.expire(10) == {"192.0.2.1"}
    assert table.expire(50) == {"192.0.2.2"}
    assert table.by_name() == {"a.test": ("192.0.2.3",)}
    assert table.expire(100) == {"192.0.2.3"}
    assert len(table) == 0 and table.by_address() == {}


def test_an_answer_renews_and_never_shortens() -> None:
    table = NameTable(LIFETIMES)
    table.learn(["a.test"], [("192.0.2.1", 50)], 0)
    assert table.learn(["a.test"], [("192.0.2.1", 20)], 1) == set()
    assert table.expire(49) == set()
    assert table.learn(["a.test"], [("192.0.2.1", 20)], 49) == set()
    assert table.expire(68) == set()
    assert table.expire(69) == {"192.0.2.1"}


def test_an_address_keeps_the_names_that_have_not_expired() -> None:
    table = NameTable(LIFETIMES)
    table.learn(["a.test", "b.test"], [("192.0.2.1", 20)], 0)
    table.learn(["b.test"], [("192.0.2.1", 40)], 0)
    assert table.expire(20) == {"192.0.2.1"}
    assert table.names_of("192.0.2.1") == ("b.test",)


def test_a_full_table_forgets_what_expires_first() -> None:
    table = NameTable(LIFETIMES, most_pairs=3, most_addresses=2)
    table.learn(["a.test"], [("192.0.2.1", 30), ("192.0.2.2", 20)], 0)
    assert table.learn(["a.test"], [("192.0.2.3", 40)], 0) == {"192.0.2.2", "192.0.2.3"}
    table.learn(["b.test"], [("192.0.2.4", 90)], 0)
    assert table.learn(["c.test"], [("192.0.2.5", 90)], 0) == {"192.0.2.1", "192.0.2.5"}
    assert len(table) == 3 and table.evicted == 2


def test_renewals_do_not_grow_the_table() -> None:
    table = NameTable(LIFETIMES)
    for now in range(20000):
        table.learn(["a.test"], [("192.0.2.1", 50)], now)
    assert len(table._order) < 2000


class Against(RuleBasedStateMachine):
    """The table against one dictionary that is searched through."""

    def __init__(self) -> None:
        super().__init__()
        self.table = NameTable(LIFETIMES)
        self.model: dict[tuple[str, str], float] = {}
        self.now = 0.0

    def held(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, address in self.model:
            found.setdefault(address, set()).add(name)
        return found

    @rule(names=st.lists(st.sampled_from("abc"), max_size=3), address=st.sampled_from("123"), ttl=st.integers(0, 200))
    def learn(self, names: list[str], address: str, ttl: int) -> None:
        before = self.held()
        for name in names:
            expires = self.now + min(max(ttl, 10), 100)
            self.model[name, address] = max(expires, self.model.get((name, address), 0))
        after = self.held()
        changed = {a for a in after if after[a] != before.get(a)}
        assert self.table.learn(names, [(address, ttl)], self.now) == changed

    @rule(seconds=st.integers(0, 120))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        before = self.held()
        self.model = {pair: expires for pair, expires in self.model.items() if expires > self.now}
        after = self.held()
        assert self.table.expire(self.now) == {a for a in before if before[a] != after.get(a)}

    @rule()
    def restart(self) -> None:
        pairs, _ = decode_state(encode_state(Pair(p.name, f"192.0.2.{p.address}", p.expires) for p in self.table), "f")
        self.table = NameTable(LIFETIMES)
        self.table.restore((Pair(p.name, p.address.rpartition(".")[2], p.expires) for p in pairs), self.now)

    @invariant()
    def same(self) -> None:
        assert {a: set(names) for a, names in self.table.by_address().items()} == self.held()
        assert {(p.name, p.address): p.expires for p in self.table} == self.model
        assert len(self.table) == len(self.model)


TestAgainst = Against.TestCase


def test_the_state_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "domains.json"
    assert read_state(path) == ((), ())
    pairs = (Pair("a.test", "192.0.2.1", 5.0), Pair("b.test", "2001:db8::1", 6.5))
    write_state(path, pairs, [("x.test", "a.test")])
    assert read_state(path) == (pairs, (("x.test", "a.test"),))
    write_state(path, pairs[:1])
    assert read_state(path) == (pairs[:1], ())
    assert [file.name for file in path.parent.iterdir()] == ["domains.json"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_restored_pair_lives_no_longer_than_the_cap() -> None:
    table = NameTable(LIFETIMES)
    table.restore([Pair("a.test", "192.0.2.1", 1e12), Pair("b.test", "192.0.2.2", float("inf"))], 0)
    table.restore([Pair("c.test", "192.0.2.3", -1)], 0)
    assert table.expire(100) == {"192.0.2.1", "192.0.2.2"}
    assert len(table) == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"version":2,"pairs":[]}', b'{"version":1,"pairs":[["a","192.0.2.300",1]]}',
     b'{"version":1,"pairs":[["","192.0.2.3",1]]}', b'{"version":1,"pairs":[["a","192.0.2.3",NaN]]}',
     b'{"version":1,"pairs":[["a","192.0.2.3","x"]]}', b'{"version":1,"pairs":[],"more":1}', b"[" * 100000],
)  # fmt: skip
def test_a_file_that_is_none_of_ours_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "domains.json"
    path.write_bytes(data)
    with pytest.raises(StateError, match=r"domains\.json"):
        read_state(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decode_state(data, "f")
    except StateError:
        return
    assert encode_state(*decode_state(data, "f"))
