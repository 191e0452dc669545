# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import Config, ConfigError, load_config, parse_config
from appliance.config.model import parse_listen, parse_port, parse_ports
from threatfeeds.settings import Section
from threatfeeds.toml_lines import key_lines

EXAMPLE = Path(__file__).parents[3] / "systemd" / "portcullis.toml"


def uncommented() -> str:
    return re.sub(r"(?m)^#(?=[a-z_]+ = )", "", EXAMPLE.read_text())


def all_settings(kind: type[Section], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            found |= all_settings(field.type, (*path, field.name))
        else:
            found.add((*path, field.name))
    return found


def error_of(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "p.toml", hostname="n")
    assert caught.value.file == "p.toml"
    return caught.value


def test_example_with_everything_uncommented_equals_the_defaults() -> None:
    assert parse_config(uncommented(), hostname="n") == parse_config("", hostname="n")


def test_example_as_shipped_equals_the_defaults() -> None:
    assert parse_config(EXAMPLE.read_text(), hostname="n") == parse_config("", hostname="n")


def test_example_names_every_setting() -> None:
    assert all_settings(Config) <= set(key_lines(uncommented()))


def test_observe_lets_failures_pass_and_enforce_drops_them() -> None:
    observe = parse_config("", hostname="n").failures
    enforce = parse_config('mode = "enforce"', hostname="n").failures
    for name in observe.__struct_fields__:
        expected = ("policy", "policy") if name == "midstream_flow" else ("allow", "drop")
        assert (observe.action(name), enforce.action(name)) == expected


def test_an_explicit_failure_action_wins_over_the_mode() -> None:
    assert parse_config('[failures]\nqueue_full = "drop"', hostname="n").failures.queue_full == "drop"


def test_unknown_key_names_line_path_and_suggestion() -> None:
    error = error_of('mode = "observe"\n\n[queues]\n# a comment\nlenght = 5\n')
    assert (error.line, error.field) == (5, "queues.lenght")
    assert 'did you mean "length"' in str(error)


def test_unknown_table_names_line_and_suggestion() -> None:
    error = error_of("[hook]\nforward = true\n")
    assert (error.line, error.field) == (1, "hook")
    assert '"hooks"' in str(error)


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ('[queues]\ncount = "two"', 2, "queues.count", "expected int, got str"),
        ("[queues]\nlength = 70000", 2, "queues.length", "<= 65535"),
        ('mode = "block"', 1, "mode", '"observe", "enforce"'),
        ('[events]\ntypes = ["flow", "smtp"]', 2, "events.types", "'smtp'"),
        ("[mark]\nmask = 0xf0f00000", 2, "mark.mask", "eight adjacent bits"),
        ('[failsafe]\ninbound = [\n  "tcp:22",\n  "icmp:3",\n]', 2, "failsafe.inbound", "'icmp:3'"),
        ('[metrics]\nlisten = "9477"', 2, "metrics.listen", "ADDRESS:PORT"),
        ("[queues]\nlook = 64", 2, "queues.look", "already one of the other queues"),
        ("[queues]\nfirst = 60\ncount = 8", None, "queues.slow_first", "share queue 64"),
        ("queues = 3", 1, "queues", "expected a table of settings"),
        ('[failures]\nqueue_full = "reject"', 2, "failures.queue_full", '"allow", "drop"'),
        ("mode = ", 1, None, "not valid TOML"),
        (
            '[identities]\nusers = ["ok", "a b"]', 2, "identities.users",
            "expected the name of a user, such as www-data, or a number, such as 33; entry 2 is 'a b'",
        ),
        (
            '[identities]\nunits = ["a/b"]', 2, "identities.units",
            "expected the name of a unit, such as nginx.service, or the path of a control group, such as"
            " /machine.slice/box; entry 1 is 'a/b'",
        ),
        ('[bridge]\ninterfaces = ["a b"]', 2, "bridge.interfaces", "expected an interface's name, such as eth0; entry"),
    ],
)
def test_wrong_values_say_where_and_what_is_expected(text: str, line: int | None, field: str | None, says: str) -> None:
    error = error_of(text)
    assert error.field == field
    assert says in str(error)
    if line is not None:
        assert error.line == line


def test_only_a_missing_file_that_was_named_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.toml")
    monkeypatch.setattr("appliance.config.load.DEFAULT_PATH", tmp_path / "none.toml")
    assert load_config().mode == "observe"
    (tmp_path / "none.toml").write_text('mode = "enforce"')
    assert load_config().mode == "enforce"


def test_lines_are_not_confused_by_multi_line_strings_and_lists() -> None:
    text = 'a = """\nb = 1\n[x]\n"""\nl = [\n  "c = 2", # ]\n]\n[t]\nd.e = 1\n'
    assert key_lines(text) == {("a",): 1, ("l",): 5, ("t",): 8, ("t", "d"): 9, ("t", "d", "e"): 9}


def test_address_and_port_forms() -> None:
    assert parse_listen("[::1]:9477") == ("::1", 9477)
    assert parse_port("udp:53") == ("udp", 53)
    assert parse_ports("tcp:1-65535") == ("tcp", 1, 65535)
    for wrong in ("tcp:0", "tcp:65536", "tcp", "tcp:9-8", "tcp:٣", "TCP:1", "tcp:1-"):
        with pytest.raises(ValueError, match=r"expected|ends before"):
            parse_ports(wrong)


@given(st.text(alphabet=st.sampled_from(list("abmodequs=\"'[]{}.,# \n0x19-_")), max_size=120) | st.text(max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        parse_config(text, "f", hostname="n")
    except ConfigError as error:
        assert error.file == "f"


scalars = st.booleans() | st.integers(-10, 10**11) | st.text(alphabet="abc:1.*/", max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


@given(st.sampled_from(sorted(all_settings(Config))), values)
def test_any_value_of_any_setting_is_accepted_or_refused_with_its_path(path: tuple[str, ...], value: object) -> None:
    literal = repr(value).replace("True", "true").replace("False", "false")
    text = f"{path[-1]} = {literal}" if len(path) == 1 else f"[{path[0]}]\n{path[1]} = {literal}"
    try:
        parse_config(text, "f", hostname="n")
    except ConfigError as error:
        assert error.field is not None
