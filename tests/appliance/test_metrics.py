# SPDX-License-Identifier: Apache-2.0
import socket
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.metrics import _WORKER_COUNTERS, MetricsError, MetricsServer, MetricsSnapshot

WORKER = SimpleNamespace(
    **dict.fromkeys(_WORKER_COUNTERS, 3),
    allowed=5,
    dropped=6,
    rejected=7,
    inspected=8,
    failures=(9,) * 8,
    flows=11,
    generation=12,
)


@pytest.fixture
def snapshots() -> list[MetricsSnapshot]:
    return [
        MetricsSnapshot(
            workers=(WORKER, WORKER), netfilter={"forward_bypassed": 2}, sources={"policy": 1}, generation=4
        )
    ]


@pytest.fixture
def server(snapshots: list[MetricsSnapshot]) -> Iterator[MetricsServer]:
    running = MetricsServer(("127.0.0.1", 0), lambda: snapshots[-1])
    yield running
    running.close()


def scrape(server: MetricsServer) -> dict[tuple[str, tuple[str, ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("portcullis_")
        assert family.documentation
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.values()))] = sample.value
    return found


def test_every_scrape_reads_the_counters_anew(server: MetricsServer, snapshots: list[MetricsSnapshot]) -> None:
    found = scrape(server)
    assert found["portcullis_worker_packets_total", ("1",)] == 3
    assert found["portcullis_worker_verdicts_total", ("0", "inspect")] == 8
    assert found["portcullis_worker_failures_total", ("0", "spoofed_source")] == 9
    assert found["portcullis_netfilter_packets_total", ("forward_bypassed",)] == 2
    assert found["portcullis_source_errors", ("policy",)] == 1
    assert found["portcullis_policy_generation", ()] == 4
    snapshots.append(MetricsSnapshot(generation=5))
    assert scrape(server)["portcullis_policy_generation", ()] == 5


def test_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MetricsError, match=f"metrics.listen: port {port} on 127.0.0.1 is taken"):
            MetricsServer(("127.0.0.1", port), MetricsSnapshot)


def test_address_that_is_not_ours_is_a_clear_error() -> None:
    with pytest.raises(MetricsError, match="cannot be used"):
        MetricsServer(("192.0.2.1", 0), MetricsSnapshot)
