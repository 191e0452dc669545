# SPDX-License-Identifier: Apache-2.0
"""Has another program changed a table?"""

import pytest

from appliance.lab import Lab, have_root
from appliance.netfilter.tables import differences, state

TABLE = """
table inet ours {
  counter seen { }
  set bad { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 }; }
  chain entry { type filter hook output priority 0; policy accept; ip daddr @bad counter name seen drop; }
  chain empty { }
}
"""
CHANGES = {
    "delete table inet ours": ["chain empty", "chain entry", "set bad"],
    "flush chain inet ours entry": ["chain entry"],
    "add rule inet ours empty accept": ["chain empty"],
    "add chain inet ours other": ["chain other"],
    "add chain inet ours entry { policy drop; }": ["chain entry"],
    "delete element inet ours bad { 198.51.100.7 }": ["set bad"],
    "add element inet ours bad { 203.0.113.1 }": ["set bad"],
    "reset counters": [],
    "add table inet another": [],
}


@pytest.mark.skipif(not have_root(), reason="namespaces need root")
@pytest.mark.parametrize("change", CHANGES)
def test_what_another_program_changed_is_named(change: str) -> None:
    with Lab() as lab:
        namespace = lab.namespace("host")
        namespace.run(["nft", "-f", "-"], input=TABLE)
        namespace.run(["ping", "-c", "1", "-W", "1", "192.0.2.1"], check=False)
        with namespace.enter():
            before = state("inet ours", elements=True)
        namespace.run(["nft", change])
        with namespace.enter():
            assert differences(before, state("inet ours", elements=True)) == CHANGES[change]
            rough = differences(before, state("inet ours", elements=False))
        assert rough == ([] if "element " in change else CHANGES[change])


def test_sets_whose_elements_were_not_looked_at_are_no_difference() -> None:
    assert differences({"set a": b""}, {"set a": b"x"}) == differences({"set a": b"x"}, {"set a": b""}) == []
    assert differences({"set a": b"x"}, {"set a": b"y", "chain b": b""}) == ["chain b", "set a"]
