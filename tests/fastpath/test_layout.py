# SPDX-License-Identifier: Apache-2.0
"""The pure Python layout says the same as the C header."""

import struct
import subprocess
import sys
from typing import Any

import pytest

from fastpath import Counters, layout
from fastpath._binding import ffi, lib

STRUCTS = {
    "fp_prefix_entry": layout.PREFIX_ENTRY,
    "fp_port_term": layout.PORT_TERM,
    "fp_port_terms": layout.PORT_TERMS,
    "fp_rule": layout.RULE,
    "fp_chain": layout.CHAIN,
    "fp_identity_chains": layout.IDENTITY_CHAINS,
    "fp_interface_chains": layout.INTERFACE_CHAINS,
    "fp_query": layout.QUERY,
    "fp_decision": layout.DECISION,
    "fp_trace_step": layout.TRACE_STEP,
    "fp_event": layout.EVENT,
}


def leaves(ctype: Any) -> list[tuple[int, int]]:
    """(offset, size) of every value of a struct, reserved ones left out, byte arrays as one, as struct counts them."""
    found = []
    for name, field in (ffi.typeof(ctype) if isinstance(ctype, str) else ctype).fields:
        if name == "reserved":
            continue
        if field.type.kind == "struct":
            found += [(field.offset + offset, size) for offset, size in leaves(field.type)]
        else:
            found.append((field.offset, ffi.sizeof(field.type)))
    return found


def packed_leaves(layout: struct.Struct) -> list[tuple[int, int]]:
    """The same of a struct format."""
    found, offset, count = [], 0, ""
    for letter in layout.format[1:]:
        if letter.isdigit():
            count += letter
            continue
        size, times = struct.calcsize(f"={letter}"), int(count or 1)
        if letter == "s":
            found.append((offset, times))
        elif letter != "x":
            found += [(offset + i * size, size) for i in range(times)]
        offset += size * times
        count = ""
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_size_and_the_offsets_of_the_header(name: str) -> None:
    assert STRUCTS[name].size == ffi.sizeof(f"struct {name}")
    assert packed_leaves(STRUCTS[name]) == leaves(f"struct {name}")


@pytest.mark.parametrize(
    ("members", "prefix"),
    [
        (layout.Action, "FP_ACTION_"),
        (layout.Verdict, "FP_VERDICT_"),
        (layout.Hook, "FP_HOOK_"),
        (layout.Fate, "FP_FATE_"),
        (layout.Failure, "FP_FAILURE_"),
        (layout.EventKind, "FP_EVENT_"),
        (layout.EventFlag, "FP_EVENT_"),
        (layout.RuleFlag, "FP_RULE_"),
    ],
)
def test_enumeration_has_the_values_of_the_header(members: type, prefix: str) -> None:
    assert {member.name: int(member) for member in members} == {  # type: ignore[attr-defined]
        member.name: getattr(lib, prefix + member.name)
        for member in members  # type: ignore[attr-defined]
    }


def test_every_failure_of_the_header_has_a_name() -> None:
    assert len(layout.Failure) == lib.FP_FAILURE_COUNT


@pytest.mark.parametrize("name", [n for n in dir(layout) if n.isupper() and isinstance(getattr(layout, n), int)])
def test_constant_has_the_value_of_the_header(name: str) -> None:
    assert getattr(layout, name) == getattr(lib, f"FP_{name}")


def test_counters_have_the_fields_of_the_header_in_order() -> None:
    assert list(Counters._fields) == [name for name, _ in ffi.typeof("struct fp_counters").fields]


def test_layout_and_errors_need_no_extension() -> None:
    code = (
        "import sys; sys.modules['fastpath._fastpath'] = None; import fastpath.layout, fastpath.errors; "
        "from fastpath import FastpathError; assert 'cffi' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
