# SPDX-License-Identifier: Apache-2.0
"""What the engine refuses before it touches a queue, and the exception tree."""

import errno

import pytest

from fastpath import Engine, EngineConfig, FastpathError, IdentityMap, Policy, PolicyTables, PortcullisError


@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(copy_range=64),
        EngineConfig(mark_mask=0x0F),
        EngineConfig(queue_count=65, slow_count=1),
        EngineConfig(look_queue=0),
        EngineConfig(queue_length=0),
    ],
)
def test_impossible_configuration_is_refused(config: EngineConfig) -> None:
    with pytest.raises(FastpathError) as caught:
        Engine(config, IdentityMap.build([]), Policy(PolicyTables()), 1)
    assert caught.value.errno == errno.EINVAL


def test_generation_zero_is_refused() -> None:
    with pytest.raises(FastpathError, match="out of range"):
        Engine(EngineConfig(), IdentityMap.build([]), Policy(PolicyTables()), 0)


def test_one_cpu_is_named_for_each_worker() -> None:
    with pytest.raises(ValueError, match="1 numbers for 2 workers"):
        Engine(EngineConfig(queue_count=2, cpus=(0,)), IdentityMap.build([]), Policy(PolicyTables()), 1)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PortcullisError("wrong"), "wrong"),
        (PortcullisError("wrong", file="a.yaml", line=3, field="spec.order"), "a.yaml:3: spec.order: wrong"),
        (PortcullisError("wrong", line=3), "line 3: wrong"),
        (PortcullisError("wrong", file="a.yaml"), "a.yaml: wrong"),
    ],
)
def test_error_says_where(error: PortcullisError, text: str) -> None:
    assert str(error) == text
