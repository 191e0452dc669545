# SPDX-License-Identifier: Apache-2.0
"""perf's report → kinds of work."""

import pytest

from bench.profile import kind_of, profile, read_report

REPORT = """
# Samples: 7K of event 'cpu-clock:pppH'
    50.00%|mypy|[.] visit_decref
 20.00%  |fp-worker-0|[k] nft_do_chain
    20.00%|fp-worker-0    |[.] fp_flow_find  - -
     2.00%|ksoftirqd/0|[k] __check_object_size
     8.00%|udp_flood|[k] __check_object_size
"""


def test_shares_are_of_the_time_of_the_programs_of_the_row() -> None:
    found = profile("x", read_report(REPORT))
    assert found.shares == pytest.approx({"rules": 0.4, "our C core": 0.4, "copies": 0.2})
    assert set(found.lines()[1:3]) == {"   40.0%  our C core", "   40.0%  rules"}


@pytest.mark.parametrize(("symbol", "kind"), [
    ("nfqnl_recv_verdict", "netlink and the queue"), ("nf_conntrack_in", "connection tracking"),
    ("__netif_receive_skb_core.constprop.0", "forwarding and veth"), ("unheard_of", "other"),
])  # fmt: skip
def test_kinds(symbol: str, kind: str) -> None:
    assert kind_of(symbol) == kind


def test_nothing_sampled_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        profile("x", [])
