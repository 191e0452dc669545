# SPDX-License-Identifier: Apache-2.0
"""How long until a change in a policy file is felt by a packet: the service as shipped, a large world, open flows.

One process writes the file, sends small UDP packets from the client's namespace every few dozen microseconds, and
sees in the server's which of them arrive: one clock for both ends. It runs on the first core, the service on the last.
Both come before what else the machine does: the service as its unit says (CPUWeight=), the probe, in the real-time
class, since it measures. The service's manager is a process of its own: a thread would take the interpreter from the
probe.
"""

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.lab import Lab, LabError
from appliance.lab.program import Service
from bench.rig import BUILD, CONFIG, SINK_PORT
from bench.rows import pin
from bench.worlds import LABEL_SETS, endpoint_document, labels, net, policy_document

PORT = 4242
FLOWS_EACH = 4000  # of one run of udp_flood
REST = (0.02, 0.05)  # seconds between two changes, at random: one is not measured while the one before is at its end
STAMP = struct.Struct("d")  # in each packet: when it was sent
AUTOGROUP = Path("/proc/self/autogroup")
FIRST = -10  # as nice(2), of a group: CPUWeight=1000 is about this
QUIET = 0.03  # seconds in which nothing arrives: no packet passes any more
PATIENCE = 5.0  # seconds until a change is not coming any more
DOCUMENTS = 1000  # in a file
MANAGER = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while sock.recv(4096):
    pass
"""


def probe(labels: dict[str, str], address: str) -> dict[str, Any]:
    """The endpoint whose packets are watched."""
    return endpoint_document("probe", labels, f"{address}/32", node="bench", interface="cli0")


def target(address: str) -> dict[str, Any]:
    return endpoint_document("target", {"probe": "target"}, f"{address}/32", node="bench", interface="srv0")


def rules(port: int) -> list[dict[str, Any]]:
    """The target takes UDP to `port` from whoever is labelled a client, and the flood's."""
    head = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy"}
    client = {"selector": "probe == 'client'"}
    return [
        {**head, "metadata": {"name": "probe-out"},
         "spec": {"selector": "has(probe)", "types": ["Egress"], "egress": [{"action": "Allow"}]}},
        {**head, "metadata": {"name": "probe-in"},
         "spec": {"selector": "probe == 'target'", "types": ["Ingress"], "ingress": [
             {"action": "Allow", "protocol": "UDP", "source": client, "destination": {"ports": [port]}},
             {"action": "Allow", "protocol": "UDP", "source": {"selector": "probe == 'flood'"}}]}},
    ]  # fmt: skip


class World:
    """The service with its policies, endpoints and open flows, and the probe. Use as a context manager.

    Raises LabError where the service cannot be started, or the flows do not come up.
    """

    def __init__(self, directory: Path, *, policies: int, endpoints: int, flows: int) -> None:
        self.lab = Lab()
        try:
            self.client, self.node, self.server = self.lab.chain()
            self.directory = directory
            self.address = self.client.v4
            self.flood = _second_address(self.client)
            for folder in ("policy.d", "feeds.d"):
                (directory / folder).mkdir(parents=True)
            self._fill(policies, endpoints)
            config = directory / "portcullis.toml"
            config.write_text(CONFIG.format(dir=directory, fates="true", length=16384, inspectors=0, inspection=""))
            self.service = Service(self.node, config, directory / "log")
            self.service.start(timeout=180)
            self._manager = self._listen()
            self.flows = self._open_flows(flows)
            with self.server.enter():
                self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sink.bind((self.server.v4, PORT))
            self._sink.setblocking(False)
            self._cores = os.sched_getaffinity(0)
            self._group = _group_nice()
            if len(self._cores) > 1:
                # The sender never rests: what it does not leave to the service is not the service's to answer for.
                os.sched_setaffinity(0, {min(self._cores)})
                pin(self.service.pid, {max(self._cores)})
                pin(self._manager.pid, {max(self._cores)})
                _come_first(FIRST)
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except BaseException:
            self.lab.close()
            raise

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.close()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        _come_first(self._group)
        os.sched_setaffinity(0, self._cores)
        if self.service.process is not None and self.service.process.poll() is None:
            self.service.stop()
        self.lab.close()

    def _listen(self) -> subprocess.Popen[bytes]:
        """Takes over from a thread of ours."""
        with self.service.give_away() as sock:
            command = [sys.executable, "-c", MANAGER, str(sock.fileno())]
            return self.node.popen(command, pass_fds=[sock.fileno()])

    def write(self, name: str, documents: list[dict[str, Any]]) -> None:
        """Replaces a file of the policy directory, as an editor does."""
        path = self.directory / "policy.d" / name
        fresh = path.with_suffix(".new")
        fresh.write_text("".join(f"---\n{json.dumps(document)}\n" for document in documents))
        fresh.replace(path)

    @staticmethod
    def rest() -> None:
        time.sleep(random.uniform(*REST))

    def remove(self, name: str) -> None:
        (self.directory / "policy.d" / name).unlink()

    @contextmanager
    def flow(self) -> Iterator[socket.socket]:
        """A new flow of the probe's."""
        with self.client.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.bind((self.address, 0))
            sock.connect((self.server.v4, PORT))
            sock.setblocking(False)
            yield sock

    def until_it_passes(self, sock: socket.socket, begun: float) -> float:
        """Milliseconds from `begun` until a packet of the flow arrives."""
        while time.perf_counter() < begun + PATIENCE:
            if self._try(sock) >= begun:
                return (time.perf_counter() - begun) * 1e3
        raise LabError(f"no packet passed within {PATIENCE} s:\n{self.service.output()[-2000:]}")

    def until_it_stops(self, sock: socket.socket, begun: float) -> float:
        """Milliseconds from `begun` until the last packet of the flow that arrives was sent."""
        last = arrived = begun
        while (now := time.perf_counter()) < begun + PATIENCE:
            if sent := self._try(sock):
                last, arrived = max(last, sent), now
            elif now > arrived + QUIET:
                return (last - begun) * 1e3
        raise LabError(f"packets still pass after {PATIENCE} s:\n{self.service.output()[-2000:]}")

    def waited(self) -> float:
        """Milliseconds since its start that the service's event loop was ready to go on, and others had the core,
        threads of the service among them."""
        return int(Path(f"/proc/{self.service.pid}/task/{self.service.pid}/schedstat").read_text().split()[1]) / 1e6

    def _try(self, sock: socket.socket) -> float:
        """When a packet was sent that has arrived now; 0 for none."""
        sock.send(STAMP.pack(time.perf_counter()))
        until = time.perf_counter() + 100e-6
        while True:
            try:
                sent: float = STAMP.unpack(self._sink.recv(64))[0]
            except BlockingIOError:
                if time.perf_counter() > until:
                    return 0.0
            else:
                return sent

    def _fill(self, policies: int, endpoints: int) -> None:
        made = [policy_document(number) for number in range(policies)]
        made += [endpoint_document(*_elsewhere(number)) for number in range(endpoints)]
        for at in range(0, len(made), DOCUMENTS):
            self.write(f"world-{at // DOCUMENTS:04}.yaml", made[at : at + DOCUMENTS])
        self.write("rules.yaml", rules(PORT))
        flood = endpoint_document("flood", {"probe": "flood"}, f"{self.flood}/32", node="bench", interface="cli0")
        self.write("ends.yaml", [target(self.server.v4), flood])

    def _open_flows(self, count: int) -> int:
        """UDP flows that stay in the connection table, decided and answered by nobody; how many there are."""
        self.node.sysctl({"net.netfilter.nf_conntrack_udp_timeout": 3600})
        self.client.sysctl({"net.ipv4.ip_local_port_range": "1024 65535"})
        with self.client.enter():
            subprocess.run(["ip", "route", "replace", f"{self.server.v4}/32", "via", _gateway(self.client),
                            "src", self.flood], check=True, timeout=10)  # fmt: skip
        for run in range(-(-count // FLOWS_EACH)):
            # One burst of eight packets for each flow; a port for each run keeps the flows apart.
            command = [str(BUILD / "udp_flood"), self.server.v4, str(SINK_PORT + 100 + run), "800", "40000",
                       str(FLOWS_EACH), "64"]  # fmt: skip
            self.client.run(command, timeout=30)
        with self.node.enter():
            text = Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()
        if int(text) < 0.9 * count:
            raise LabError(f"{int(text)} flows are open, not {count}")
        return int(text)


def _elsewhere(number: int) -> tuple[str, dict[str, str], str]:
    return f"w{number}", labels(number % LABEL_SETS), f"{net(number)}"


def _second_address(client: Any) -> str:
    address: str = client.v4.rsplit(".", 1)[0] + ".9"
    client.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
    return address


def _gateway(client: Any) -> str:
    return str(client.run(["ip", "-4", "route", "show", "default"]).stdout.split()[2])


def _group_nice() -> int:
    """Of this process and what it starts, which are one group to the scheduler (sched(7)); 0 where it has none."""
    try:
        return int(AUTOGROUP.read_text().split()[-1])
    except OSError:
        return 0


def _come_first(nice: int) -> None:
    with contextlib.suppress(OSError):  # a kernel without CONFIG_SCHED_AUTOGROUP
        AUTOGROUP.write_text(str(nice))
