# SPDX-License-Identifier: Apache-2.0
"""Every example that is shipped, and the policy of the demonstration, is valid and does what its comments say."""

from pathlib import Path

import pytest

from fastpath.layout import RULE, Action
from rules.policy import CompileOptions, Resource, compile_policy, load_documents
from rules.signatures import parse_signatures
from threatfeeds import load_feed_config, read_feed

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "systemd/examples"
RULE_ACTION = 13  # field of struct fp_rule
POLICIES = sorted((*EXAMPLES.glob("policy.d/*.yaml"), *REPOSITORY.glob("appliance/lab/demo_policy/*.yaml")))


def resources(*paths: Path) -> list[Resource]:
    found: list[Resource] = []
    for path in paths:
        result = load_documents(path.read_text(), str(path))
        assert result.errors == ()
        found += result.resources
    return found


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_a_policy_file_is_valid(path: Path) -> None:
    assert resources(path)


@pytest.mark.parametrize("folder", sorted({path.parent for path in POLICIES}), ids=lambda path: path.name)
def test_the_files_of_a_folder_compile_together(folder: Path) -> None:
    program = compile_policy(
        resources(*sorted(folder.glob("*.yaml"))),
        CompileOptions(
            node="demo" if folder.name == "demo_policy" else "my-node",
            scope="gateway",
            interfaces={"cli0": 2, "srv0": 3, "eth1": 4, "eth2": 5},
            feeds=(),
            deny_action="drop",
            inspect_default=False,
            inspect_ports=(),
        ),
    )
    assert list(program.warnings) == []
    assert program.endpoints
    # `portcullis.dev/deny-action: reject` is used in both.
    assert Action.REJECT in {fields[RULE_ACTION] for fields in RULE.iter_unpack(program.tables.rules)}


def test_feeds_are_read_to_the_last_line() -> None:
    for path in EXAMPLES.glob("feeds.d/*.toml"):
        config = load_feed_config(path.read_text(), str(path))
        content = read_feed(config, (path.parent / config.file).read_bytes())
        assert content.rejected == ()
        assert content.prefixes and content.domains


def test_signatures_are_all_understood() -> None:
    for path in EXAMPLES.glob("signatures.d/*.rules"):
        loaded = parse_signatures(path.read_text(), str(path))
        assert loaded.errors == ()
        assert len(loaded.signatures) == 2
