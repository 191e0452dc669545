# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics: read when they are asked for, served on a loopback port by a thread of their own."""

import errno
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastpath.errors import PortcullisError
from fastpath.layout import Failure

_WORKER_COUNTERS = {
    "packets": "Packets read from the queue.",
    "bytes": "Bytes of these packets, as they were on the wire.",
    "batches": "Batches of packets read from the queue.",
    "passed": "Packets let go without a decision for their flow: look-only, related, untracked.",
    "flow_hits": "Packets of a flow that the flow table knew.",
    "flow_misses": "Packets of a flow that the flow table did not know.",
    "flow_inserted": "Flows entered into the flow table.",
    "flow_evicted": "Flows forgotten to make room for others.",
    "flow_full": "Flows that found no room in the flow table.",
    "pair_hits": "Decisions answered by the identity-pair cache.",
    "pair_misses": "Decisions that had to walk the policy.",
    "id_gaps": "Packets that the kernel numbered and no worker saw.",
    "overruns": "Times that packets found the socket buffer full.",
    "verdict_errors": "Verdicts that the kernel refused because the packet was gone.",
    "netlink_errors": "Netlink messages that made no sense.",
    "events": "Events written for the service.",
    "events_lost": "Events that found no room.",
    "would_deny": "Packets that policy denies and observe mode let go.",
}
_VERDICTS = {"allowed": "allow", "dropped": "drop", "rejected": "reject", "inspected": "inspect"}


FEED_HEALTH = {
    "ok": "Whether the last attempt to get a fetched feed brought a list that is believed.",
    "last_success_timestamp_seconds": "When the source of a fetched feed last confirmed or renewed its list.",
    "last_change_timestamp_seconds": "When the list in force of a fetched feed last changed.",
    "added": "Entries that the last change of a fetched feed added.",
    "removed": "Entries that the last change of a fetched feed removed.",
    "rejected_lines": "Lines of the list in force that are no indicator.",
    "failures": "Attempts in a row that failed for a fetched feed.",
    "stale": "Whether a fetched feed has had no word from its source for three periods.",
    "quarantined": "Whether a newer list of a feed is put aside because it is not believed.",
    "hits": "Flows and names that a feed lists, as they were decided or found.",
    "saved": "Names and URLs that were seen and listed, and that the allowlist kept from the feed.",
    "kernel_drops": "Packets that the kernel set of a feed dropped before anyone saw them.",
}


RULE_LABELS = ("tier", "policy", "direction", "rule", "action")


class MetricsError(PortcullisError):
    """The port for metrics cannot be served."""


@dataclass(frozen=True)
class MetricsSnapshot:
    """Everything that is counted, as the service knows it at this moment. Times in seconds.

    workers: objects with the fields of struct fp_counters. netfilter: Netfilter.counters().
    inspectors: counters by inspector name. sources: errors now, by source. feeds: entries by feed.
    domains: DomainControl.status(), and answers_late. feed_health: values of FEED_HEALTH by feed.
    flood_held: floods that the kernel answers now.
    host_policy: packets by values of RULE_LABELS.
    """

    workers: Sequence[Any] = ()
    netfilter: Mapping[str, int] = field(default_factory=dict)
    ledger: Mapping[str, int] = field(default_factory=dict)
    ruleset_lost: int = 0
    conntrack: Mapping[str, int] = field(default_factory=dict)
    udp_fates_ended: int = 0
    ruleset_errors: int = 0
    inspectors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    inspector_restarts: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    feeds: Mapping[str, int] = field(default_factory=dict)
    feed_health: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    domains: Mapping[str, int] = field(default_factory=dict)
    flood_held: int = 0
    host_policy: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    generation: int = 0
    policies: int = 0
    identities: int = 0
    reloads: int = 0
    reload_failures: int = 0
    reload_seconds: float = 0.0
    reload_time: float = 0.0  # seconds since 1970 of the last change in force
    redecided_flows: int = 0
    redecided_seconds: float = 0.0
    events_written: int = 0
    events_lost: int = 0
    mode: str = "observe"
    version: str = ""


class PortcullisCollector(Collector):
    """Asks `snapshot` at every scrape, in the thread of the scrape: it must be safe to call from any thread."""

    def __init__(self, snapshot: Callable[[], MetricsSnapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask a service that is not ready."""
        return ()

    def collect(self) -> Iterator[Metric]:
        now = self._snapshot()
        yield from _worker_metrics(now.workers)
        yield _by("netfilter_packets", "Packets by counter of the netfilter chains.", "counter", now.netfilter)
        yield _gauges("ledger_packets", "The loss ledger: packets by where they ended.", "row", now.ledger)
        yield _counter("ruleset_lost", "Times that another program took rules away.", now.ruleset_lost)
        yield _gauges(
            "conntrack", "The connection table: entries, limit; since the start: dropped, gone untracked.", "row",
            now.conntrack,
        )  # fmt: skip
        yield _counter("udp_fates_ended", "Fates of allowed UDP flows that a limit ended.", now.udp_fates_ended)
        yield _counter("ruleset_errors", "Times that rules could not be made or changed.", now.ruleset_errors)
        inspector = CounterMetricFamily(
            "portcullis_inspector_events", "Counters of the inspectors.", labels=("inspector", "counter")
        )
        for name, counters in sorted(now.inspectors.items()):
            for counter, value in sorted(counters.items()):
                inspector.add_metric((name, counter), value)
        yield inspector
        yield _counter("inspector_restarts", "Inspectors started again after they ended.", now.inspector_restarts)
        yield _gauges("source_errors", "Things wrong with a source now.", "source", now.sources)
        yield _gauges("feed_entries", "Entries of a threat feed in force.", "feed", now.feeds)
        for name, help_text in FEED_HEALTH.items():
            values = {feed: found[name] for feed, found in now.feed_health.items() if name in found}
            yield _gauges(f"feed_{name}", help_text, "feed", values)
        yield from _domain_metrics(now.domains)
        yield _gauge("flood_entries", "Repeated denials that the kernel answers by itself now.", now.flood_held)
        decided = CounterMetricFamily(
            "portcullis_host_policy_packets", "Packets that doNotTrack and preDNAT policy decided.", labels=RULE_LABELS
        )
        for labels, packets in sorted(now.host_policy.items()):
            decided.add_metric(labels, packets)
        yield decided
        yield _gauge("policy_generation", "Generation of the policy in force, 1 to 31.", now.generation)
        yield _gauge("policies", "Policy resources in force.", now.policies)
        yield _gauge("identities", "Identities in force.", now.identities)
        yield _counter("reloads", "Changes put in force.", now.reloads)
        yield _counter("reload_failures", "Changes that could not be put in force.", now.reload_failures)
        yield _gauge(
            "last_reload_duration_seconds", "Time from a change seen to the change in force.", now.reload_seconds
        )
        yield _gauge(
            "redecided_flows", "Open flows decided again since a change last voided decisions.", now.redecided_flows
        )
        yield _gauge(
            "redecided_seconds", "Time from that change until the last of them was decided.", now.redecided_seconds
        )
        yield _gauge("last_reload_timestamp_seconds", "When the last change came into force.", now.reload_time)
        yield _counter("events_written", "EVE records written.", now.events_written)
        yield _counter(
            "events_lost", "EVE records lost because they came too fast or could not be written.", now.events_lost
        )
        info = GaugeMetricFamily("portcullis_info", "Always 1; mode and version.", labels=("mode", "version"))
        info.add_metric((now.mode, now.version), 1)
        yield info


def _domain_metrics(now: Mapping[str, int]) -> Iterator[Metric]:
    """Names that policy asks for."""
    for name, help_text in (
        ("names", "Names of policy that have addresses."),
        ("addresses", "Addresses that names of policy have."),
        ("recent", "Names and addresses remembered that no policy asks for."),
    ):
        yield _gauge(f"domain_{name}", help_text, now.get(name, 0))
    for name, key, help_text in (
        ("answers", "answers", "DNS answers of trusted resolvers seen."),
        ("learned", "learned", "Addresses that came under a name, or lost one."),
        ("expired", "expired", "Addresses that lost a name when its time was over."),
        ("recalled", "recalled", "Addresses that answers seen before a policy asked for them gave its names."),
        ("waits_timed_out", "answers_late", "DNS answers that went on before their addresses were in force."),
    ):
        yield _counter(f"domain_{name}", help_text, now.get(key, 0))
    refused = {key.removeprefix("refused_"): count for key, count in now.items() if key.startswith("refused_")}
    family = CounterMetricFamily(
        "portcullis_domain_refused", "Addresses of answers that entered no name of policy.", labels=("reason",)
    )
    for reason, count in sorted(refused.items()):
        family.add_metric((reason,), count)
    yield family


def _worker_metrics(workers: Sequence[Any]) -> Iterator[Metric]:
    verdicts = CounterMetricFamily(
        "portcullis_worker_verdicts", "Verdicts given to packets.", labels=("worker", "verdict")
    )
    failures = CounterMetricFamily(
        "portcullis_worker_failures", "Packets that met a named failure.", labels=("worker", "failure")
    )
    flows = GaugeMetricFamily("portcullis_worker_flows", "Flows in the flow table.", labels=("worker",))
    generation = GaugeMetricFamily("portcullis_worker_generation", "Generation in use by a worker.", labels=("worker",))
    families = {
        name: CounterMetricFamily(f"portcullis_worker_{name}", help_text, labels=("worker",))
        for name, help_text in _WORKER_COUNTERS.items()
    }
    for index, worker in enumerate(workers):
        label = str(index)
        for name, family in families.items():
            family.add_metric((label,), getattr(worker, name))
        for name, verdict in _VERDICTS.items():
            verdicts.add_metric((label, verdict), getattr(worker, name))
        for failure in Failure:
            failures.add_metric((label, failure.name.lower()), worker.failures[failure])
        flows.add_metric((label,), worker.flows)
        generation.add_metric((label,), worker.generation)
    yield from (*families.values(), verdicts, failures, flows, generation)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"portcullis_{name}", help_text, value=value)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"portcullis_{name}", help_text, value=value)


def _by(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"portcullis_{name}", help_text, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


def _gauges(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"portcullis_{name}", help_text, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


class MetricsServer:
    """GET /metrics on (host, port). Raises MetricsError when the port cannot be had; port 0 takes any free one."""

    def __init__(self, address: tuple[str, int], snapshot: Callable[[], MetricsSnapshot]) -> None:
        registry = CollectorRegistry()
        registry.register(PortcullisCollector(snapshot))
        host, port = address
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = kind((host, port), _Handler)
        except OSError as error:
            why = (
                "is taken by another program"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used: {error.strerror}"
            )
            raise MetricsError(
                f'port {port} on {host} {why}; choose another one, or "" for no metrics', field="metrics.listen"
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # WSGIServer asks the resolver for the host's name: no service should wait for DNS to start.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds for a client to send its request

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line."""
