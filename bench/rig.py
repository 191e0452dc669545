# SPDX-License-Identifier: Apache-2.0
"""One network for each peer: client, node and server, the peer's program in the node, the same servers behind it.

All rigs stand at once, idle but for the one that is measured: nothing is started or removed between two samples
(a netfilter hook that goes takes every queued packet of its namespace with it, and a warm cache is part of what is
compared).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.lab import Lab, LabError, Namespace
from appliance.lab.program import Program, QueueState, Service, read_queues
from bench.method import cpu_seconds

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/meson/bench/c"
SINK_PORT = 9
ECHO_PORT = 7
WORDS_PORT = 7000  # of connections that stay open
TCP_PORTS = f"[80, 5201, {WORDS_PORT}]"
QUEUE = 0
QUEUE_LENGTH = 16384

NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
    client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
    uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    server {{ listen 80 backlog=8192; location / {{ return 200 "ok\\n"; }} }}
}}
"""

# As shipped, but for what writes files; every packet is inspected, and dropped when the queue is full.
SURICATA = """%YAML 1.1
---
default-rule-path: {dir}
rule-files: []
vars:
  address-groups: {{HOME_NET: "any", EXTERNAL_NET: "any"}}
  port-groups: {{}}
stats: {{enabled: no}}
outputs: []
logging: {{outputs: [{{console: {{enabled: yes, level: warning}}}}]}}
nfq: {{mode: accept, fail-open: no, batchcount: 20}}
stream: {{inline: auto, midstream: true}}
app-layer: {{protocols: {{http: {{enabled: yes}}, tls: {{enabled: yes}}, dns: {{udp: {{enabled: yes}}}}}}}}
"""

# What a stateful firewall costs by itself: the baseline tracks connections, as every peer does.
TRACK = """
table inet bench {
    chain forward { type filter hook forward priority 0; ct state established,related accept; }
}
"""
# Counted and dropped before routing: the receiver costs next to nothing, and the same for all.
SINK = f"""
table inet sink {{
    counter got {{ }}
    chain raw {{ type filter hook prerouting priority -300; udp dport {SINK_PORT} counter name got drop; }}
}}
"""

CONFIG = """
mode = "enforce"
node = "bench"
[queues]
count = 1
length = {length}
[policy]
paths = ["{dir}/policy.d"]
[inspection]
inspectors = {inspectors}
signatures = ["{dir}/signatures.d/*.rules"]
{inspection}
[feeds]
paths = ["{dir}/feeds.d"]
[metrics]
listen = ""
[control]
socket = ""
state = "{dir}/state"
[fastpath]
fates = {fates}
"""

POLICY = """
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: client, namespace: bench, labels: {{role: client}}}}
spec:
  {{node: bench, orchestrator: bench, workload: client, endpoint: eth0, interfaceName: cli0, ipNetworks: [{client}/32]}}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: server, namespace: bench, labels: {{role: server}}}}
spec:
  {{node: bench, orchestrator: bench, workload: server, endpoint: eth0, interfaceName: srv0, ipNetworks: [{server}/32]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: default.bench}}
spec:
  tier: default
  selector: has(role)
  types: [Ingress, Egress]
  ingress:
    - {{action: Allow, protocol: TCP, source: {{selector: role == "client"}}, destination: {{ports: {tcp}}}}}
    - {{action: Allow, protocol: UDP, source: {{selector: role == "client"}}, destination: {{ports: [{sink}, {echo}]}}}}
  egress:
    - {{action: Allow}}
"""
INSPECTED = '{name: default.bench, annotations: {portcullis.dev/inspect: "true"}}'
# Looked for in every byte, and never there.
SIGNATURE = 'drop tcp any any -> any any (msg:"bench"; content:"no such thing is sent here"; sid:1;)\n'


@dataclass(frozen=True)
class Loss:
    """What a queue lost, and what it handed up, between two looks."""

    queued: int
    dropped: int


@dataclass
class Rig:
    """client, node, server of one peer. `program` is None for the kernel alone."""

    name: str
    lab: Lab
    client: Namespace
    node: Namespace
    server: Namespace
    directory: Path
    program: Program | None = None
    threads: str = ""  # the threads that handle packets: prefix of their names
    notes: list[str] = field(default_factory=list)

    def close(self) -> None:
        if self.program is not None and self.program.process is not None and self.program.process.poll() is None:
            self.program.stop()
        self.lab.close()

    # -- what is counted ---------------------------------------------------------------------------

    def queue(self) -> QueueState:
        return read_queues(self.node)[QUEUE]

    def loss(self, before: QueueState) -> Loss:
        """Queue drops since `before`. LabError if the queue has another owner: then nobody was watching."""
        now = self.queue()
        if now.owner != before.owner:
            raise LabError(f"{self.name}: the queue changed hands")
        return Loss(now.queued - before.queued, now.full - before.full + now.lost - before.lost)

    def cpu(self) -> float:
        """Seconds of CPU of the packet-handling threads."""
        assert self.program is not None
        return cpu_seconds(self.program.pid, thread_prefix=self.threads)

    def sunk(self) -> int:
        """UDP packets that arrived at the server."""
        text = self.server.run(["nft", "-j", "list", "counter", "inet", "sink", "got"]).stdout
        return int(next(item["counter"]["packets"] for item in json.loads(text)["nftables"] if "counter" in item))


def make_rig(name: str, directory: Path, mtu: int = 1500) -> Rig:
    """Namespaces and servers, and the program that `name` says. Raises LabError where it cannot be started."""
    kind = PEERS[name]
    if not (BUILD / "round_trips").exists():
        raise LabError(f"{BUILD} is not built")
    lab = Lab()
    try:
        client, node, server = lab.chain(mtu=mtu)
        rig = Rig(name, lab, client, node, server, directory)
        directory.mkdir(parents=True)
        client.sysctl({"net.ipv4.ip_local_port_range": "1024 65535"})
        server.run(["nft", "-f", "-"], input=SINK)
        (directory / "nginx.conf").write_text(NGINX.format(dir=directory))
        server.popen(["nginx", "-c", directory / "nginx.conf"], stderr=subprocess.DEVNULL)
        server.popen(["iperf3", "--server"], stdout=subprocess.DEVNULL)
        server.popen([BUILD / "round_trips", "reflect", str(ECHO_PORT)])
        server.wait_for_port(80)
        server.wait_for_port(5201)
        # Nobody asks where the sink is while packets fly.
        client.run(["ping", "-c", "1", "-W", "2", server.v4], check=False)
        kind(rig)
    except BaseException:
        lab.close()
        raise
    return rig


def _kernel(rig: Rig) -> None:
    rig.node.run(["nft", "-f", "-"], input=TRACK)


def _kernel_untracked(rig: Rig) -> None:
    pass


def _to_queue(rig: Rig) -> None:
    """Every forwarded packet to the queue by the rule that Portcullis uses, fail-closed; connections tracked."""
    _kernel(rig)
    rig.node.run(["iptables-nft", "-w", "-t", "security", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", str(QUEUE)])


def _run(rig: Rig, command: Sequence[str], patience: float = 20.0) -> None:
    rig.program = Program(rig.node, command, rig.directory / "log")
    rig.program.start(queues=[QUEUE], timeout=patience)


def _accept_loop(rig: Rig) -> None:
    program = BUILD / "accept_loop"
    if not program.exists():
        raise LabError(f"{program} is not built")
    _to_queue(rig)
    _run(rig, [str(program), str(QUEUE)])


def _netfilterqueue(rig: Rig) -> None:
    _to_queue(rig)
    _run(rig, [sys.executable, str(ROOT / "bench/peers/netfilterqueue_accept.py"), str(QUEUE)])


def _suricata(rig: Rig) -> None:
    """Inline, without rules, fail-closed. The binary: SURICATA, or the one in PATH."""
    program = os.environ.get("SURICATA") or shutil.which("suricata")
    if not program:
        raise LabError("no suricata in PATH, and SURICATA does not name one")
    config = rig.directory / "suricata.yaml"
    config.write_text(SURICATA.format(dir=rig.directory))
    _to_queue(rig)
    _run(rig, [program, "-c", str(config), "-l", str(rig.directory), "-q", str(QUEUE)], patience=60)


def _portcullis(rig: Rig, *, fates: bool, reader: str = "", start: bool = True) -> None:
    """reader: one inspector that reads through it and lets no flow go. Not started: its files alone."""
    directory = rig.directory
    for folder in ("policy.d", "feeds.d", "signatures.d"):
        (directory / folder).mkdir()
    policy = POLICY.format(
        client=rig.client.v4, server=rig.server.v4, sink=SINK_PORT, echo=ECHO_PORT, tcp=TCP_PORTS
    )
    config = directory / "portcullis.toml"
    inspection = ""
    if reader:
        policy = policy.replace("{name: default.bench}", INSPECTED)
        inspection = f'reader = "{reader}"\ndepth = {1 << 40}'
        (directory / "signatures.d/bench.rules").write_text(SIGNATURE)
    (directory / "policy.d/bench.yaml").write_text(policy)
    config.write_text(
        CONFIG.format(
            dir=directory, fates=str(fates).lower(), length=QUEUE_LENGTH, inspectors=int(bool(reader)),
            inspection=inspection,
        )
    )  # fmt: skip
    if not start:
        config.write_text(config.read_text().replace('socket = ""', f'socket = "{directory}/control.sock"'))
        return
    rig.threads = "fp-worker"
    rig.program = Service(rig.node, config, directory / "log")
    rig.program.start(queues=[QUEUE])


PEERS: dict[str, Callable[[Rig], None]] = {
    "kernel": _kernel,
    "kernel-untracked": _kernel_untracked,
    "accept-loop": _accept_loop,
    "netfilterqueue": _netfilterqueue,
    "suricata": _suricata,
    "portcullis": lambda rig: _portcullis(rig, fates=True),
    "portcullis-not-started": lambda rig: _portcullis(rig, fates=True, start=False),
    "portcullis-every-packet": lambda rig: _portcullis(rig, fates=False),
    "portcullis-inspected": lambda rig: _portcullis(rig, fates=True, reader="fastpath"),
    "portcullis-inspected-library": lambda rig: _portcullis(rig, fates=True, reader="netfilterqueue"),
}


class Rigs:
    """The rigs of a run, made when first asked for. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rigs: dict[str, Rig] = {}
        self.missing: dict[str, str] = {}  # peer → why there is no rig

    def __enter__(self) -> "Rigs":
        return self

    def __exit__(self, *_: object) -> None:
        for rig in self._rigs.values():
            rig.close()

    def get(self, names: Sequence[str]) -> list[Rig]:
        """The rigs of these peers; one that cannot be made is left out and named in `missing`."""
        for name in names:
            if name not in self._rigs and name not in self.missing:
                try:
                    self._rigs[name] = make_rig(name, self._directory / name)
                except LabError as error:
                    self.missing[name] = str(error).splitlines()[-1]
        return [self._rigs[name] for name in names if name in self._rigs]


def programs_missing() -> list[str]:
    """Programs that the rows need and this machine does not have."""
    return [name for name in ("nginx", "wrk", "iperf3", "nft", "iptables-nft") if shutil.which(name) is None]


def settle() -> None:
    """Between two samples: what the last one left in queues and softirqs runs dry."""
    time.sleep(0.05)
