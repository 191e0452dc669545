# SPDX-License-Identifier: Apache-2.0
"""What waits in workers' queues, read from the kernel's file."""

from pathlib import Path

from appliance.inspection.upstream import Upstream

ROWS = """\
    0  4242     0 2   512     0     0     7000  1
    1 -3817     {one} 2   512     0     0     7000  1
   32 -3818     9 2   512     0     0     7000  1
   64  4244     3 2 65531     0     0     7000  1
"""


def test_only_workers_queues_count_and_each_look_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "queues"
    path.write_text(ROWS.format(one=0))
    upstream = Upstream(range(2), path)
    assert not upstream.waiting()
    path.write_text(ROWS.format(one=12))
    assert upstream.waiting()
    path.write_text("")
    assert not upstream.waiting()
    upstream.close()


def test_what_cannot_be_read_is_not_waited_for(tmp_path: Path) -> None:
    upstream = Upstream(range(2), tmp_path / "nothing")
    assert not upstream.waiting()
    upstream.close()
