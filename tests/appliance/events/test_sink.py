# SPDX-License-Identifier: Apache-2.0
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.events import EventsError, EventSink


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_records_arrive_in_order_and_unwanted_types_do_not(tmp_path: Path) -> None:
    sink = EventSink(str(tmp_path / "eve.json"), ["flow"])
    for n in range(2000):
        sink.write({"event_type": "flow", "n": n})
        sink.write({"event_type": "dns", "n": -1})
    sink.close()
    assert numbers(tmp_path / "eve.json") == list(range(2000))
    assert (sink.written, sink.lost) == (2000, 0)


def test_reopen_writes_what_waits_to_the_old_file(tmp_path: Path) -> None:
    path, old = tmp_path / "eve.json", tmp_path / "eve.json.1"
    sink = EventSink(str(path), ["flow"])
    sink.write({"event_type": "flow", "n": 1})
    path.rename(old)
    sink.reopen()
    until(path.exists)
    sink.write({"event_type": "flow", "n": 2})
    sink.close()
    assert (numbers(old), numbers(path)) == ([1], [2])


def test_file_that_was_moved_away_is_made_anew_without_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "eve.json"
    sink = EventSink(str(path), ["flow"])
    path.unlink()
    until(path.exists)
    sink.close()


def test_a_reader_that_stands_still_costs_records_and_not_time(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = EventSink(str(pipe), ["flow"], capacity=10)
    started = time.monotonic()
    for n in range(20_000):
        sink.write({"event_type": "flow", "n": n, "padding": "x" * 100})
    assert time.monotonic() - started < 2
    assert sink.lost > 0
    received = bytearray()

    def drain() -> None:
        os.set_blocking(reader, True)
        while chunk := os.read(reader, 65536):
            received.extend(chunk)

    thread = threading.Thread(target=drain)
    thread.start()
    sink.close()
    thread.join(5)
    os.close(reader)
    assert received.count(b"\n") == sink.written == 20_000 - sink.lost


def test_full_disk_is_counted_and_named() -> None:
    sink = EventSink("/dev/full", ["flow"])
    sink.write({"event_type": "flow", "n": 1})
    until(lambda: sink.lost == 1)
    assert sink.error == "No space left on device"
    sink.close()


def test_record_that_json_cannot_hold_is_lost_alone(tmp_path: Path) -> None:
    sink = EventSink(str(tmp_path / "eve.json"), ["flow"])
    sink.write({"event_type": "flow", "n": 1, "name": "\ud800"})
    sink.write({"event_type": "flow", "n": 1, "name": object()})
    sink.write({"event_type": "flow", "n": 2})
    sink.close()
    assert numbers(tmp_path / "eve.json") == [2]
    assert (sink.written, sink.lost) == (1, 2)


def test_file_that_cannot_be_opened_is_an_error_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(EventsError, match=r"events\.file: the event file cannot be opened"):
        EventSink(str(tmp_path / "none" / "eve.json"), ["flow"])


def test_no_target_takes_nothing() -> None:
    sink = EventSink("", ["flow"])
    sink.write({"event_type": "flow"})
    sink.close()
    assert not sink.wants("flow")
    assert (sink.written, sink.lost) == (0, 0)
