# SPDX-License-Identifier: Apache-2.0
"""Queues that hold more than their socket buffer are told of at start."""

import msgspec

from appliance.config import Config
from appliance.config.model import Queues
from appliance.service.settings import SMALL_PACKET, socket_warnings


def config(length: int, buffer: int) -> Config:
    return msgspec.structs.replace(Config(), queues=Queues(length=length, receive_buffer=buffer))


def told(length: int, buffer: int) -> bool:
    return any("the others are lost" in warning for warning in socket_warnings(config(length, buffer)))


def test_the_defaults_hold_what_may_wait() -> None:
    queues = Queues()
    assert 2 * queues.receive_buffer >= queues.length * SMALL_PACKET


def test_a_buffer_that_is_too_small_is_told_of() -> None:
    assert told(1000, 1000 * SMALL_PACKET // 2 - 100)
    assert not told(157, 65536)
    assert told(158, 65536)
