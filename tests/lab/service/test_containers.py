# SPDX-License-Identifier: Apache-2.0
"""Policy by container label on real packets between real containers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.commands.service import describe_state
from appliance.control.client import ask
from appliance.lab import Lab, LabError, Namespace
from appliance.lab.program import COMMAND, Program, Service
from tests.lab.service.engines import Docker, Engine, Podman
from tests.lab.service.nodes import CONFIG, wait_until

POLICY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: db}
spec:
  selector: role == "db"
  types: [Ingress]
  ingress:
    - {action: Allow, protocol: TCP, source: {selector: role == "web"}, destination: {ports: [5432]}}
"""
PUBLISHED = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: db}}
spec:
  selector: role == "db"
  types: [Ingress]
  ingress: [{{action: Allow, protocol: TCP, source: {{nets: [{near}/32]}}, destination: {{ports: [5432]}}}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: web}}
spec:
  selector: role == "web"
  types: [Egress]
  egress: [{{action: Allow, destination: {{nets: [{far}/32]}}}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: other}}
spec:
  selector: role == "other"
  types: [Egress]
"""
PORT = "5432"


def status(machine: "Machine") -> dict[str, str]:
    """What `portcullis status` says of endpoints that are not seen."""
    lines = describe_state(ask(machine.directory / "control.sock", {"do": "status"}))
    words = [line.split(None, 1)[1] for line in lines if line.startswith("unseen")]
    return dict(entry.split(": ", 1) for entry in words)


class Machine:
    """A namespace with an engine and the service; `front` and `back` are networks, so what crosses is forwarded."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.directory = directory
        self.namespace = engine.namespace
        self.engine = engine
        for folder in ("policy.d", "feeds.d", "signatures.d"):
            (directory / folder).mkdir()
        (directory / "policy.d" / "policy.yaml").write_text(POLICY)
        config = directory / "portcullis.toml"
        text = CONFIG.format(mode="enforce", inspectors=0, metrics="", dir=directory)
        config.write_text(f'{text}\n[containers]\n{engine.name} = "{engine.socket}"\n')
        self.service = Service(self.namespace, config, directory / "log")

    def connects(self, client: str, address: str) -> bool:
        return self.engine.inside(client, "nc", "-z", "-w", "1", address, PORT).returncode == 0

    def wait_for(self, words: str) -> None:
        wait_until(lambda: words in self.service.output(), 10, self.service.output)

    def close(self) -> None:
        if self.service.process is not None and self.service.process.poll() is None:
            self.service.stop()
        self.engine.stop()

    def events(self) -> list[dict[str, Any]]:
        path = self.directory / "eve.json"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """With Podman, or the engine that the test names."""
    engine: type[Engine] = getattr(request, "param", Podman)
    if why := engine.missing():
        pytest.skip(why)
    with Lab() as lab:
        namespace = lab.namespace("engine")
        namespace.enable_forwarding()
        made = Machine(engine(namespace), tmp_path)
        try:
            try:
                made.engine.start()
                made.engine.network("front", "10.91.0.0/24", "fd00:91::/64")
                made.engine.network("back", "10.92.0.0/24", "fd00:92::/64")
                made.engine.container("db", "back", "/bin/httpd", "-f", "-p", PORT, role="db")
            except LabError as error:
                pytest.skip(f"{engine.name} does not work on this machine: {error}")
            yield made
        finally:
            made.close()


each_engine = pytest.mark.parametrize("machine", [Podman, Docker], indirect=True, ids=["podman", "docker"])


@each_engine
def test_policy_by_container_label(machine: Machine) -> None:
    engine = machine.engine
    engine.container("web", "front", role="web")
    engine.container("other", "front", role="other")
    v4, v6 = engine.addresses("db")
    assert machine.connects("web", v4) and machine.connects("other", v4), "the containers reach each other"
    machine.service.start()
    for address in (v4, v6):
        assert machine.connects("web", address), machine.service.output()
        assert not machine.connects("other", address)
    flows = [event["portcullis"] for event in machine.events() if event["event_type"] == "flow"]
    told = {(flow["src_identity"], flow["dest_identity"], flow["verdict"]) for flow in flows}
    assert told >= {("default/web", "default/db", "allow"), ("default/other", "default/db", "drop")}


@each_engine
def test_containers_that_start_and_stop_while_the_service_runs(machine: Machine) -> None:
    engine = machine.engine
    v4, _ = engine.addresses("db")
    machine.service.start()
    engine.container("late", "front", role="web")
    wait_until(lambda: machine.connects("late", v4), 10, machine.service.output)
    address, _ = engine.addresses("late")
    engine.remove("late")
    # The address is another container's now: what the first one might does not stick to it.
    engine.container("next", f"front:ip={address}", role="none")
    wait_until(lambda: not machine.connects("next", v4), 10, machine.service.output)


@each_engine
def test_a_unit_of_its_own_asks_the_engine(machine: Machine) -> None:
    """The service then reads what the unit found, and has nothing to do with the socket."""
    engine = machine.engine
    engine.container("web", "front", role="web")
    state = machine.directory / "containers.json"
    config = machine.directory / "portcullis.toml"
    unit = Program(
        machine.namespace, [*COMMAND[:3], "containers", "serve", "--config", str(config)], machine.directory / "unit"
    )
    config.write_text(f'{config.read_text()}unit = true\nstate = "{state}"\n')
    machine.service.start()
    machine.wait_for("is portcullis-containers.service running?")
    unit.start()
    v4, _ = engine.addresses("db")
    engine.container("other", "front", role="other")
    # Until the database is known nothing is denied to anybody.
    wait_until(lambda: not machine.connects("other", v4), 10, machine.service.output)
    assert machine.connects("web", v4)
    engine.container("late", "front", role="web")
    wait_until(lambda: machine.connects("late", v4), 10, machine.service.output)
    assert unit.stop() == 0, unit.output()
    assert machine.connects("late", v4)
    listed = machine.namespace.run([*COMMAND[:3], "containers", "list", "--config", str(config)])
    assert "default/late  10.91.0." in listed.stdout and "role=web" in listed.stdout


def test_endpoints_stay_while_the_engine_is_away(machine: Machine) -> None:
    engine = machine.engine
    engine.container("web", "front", role="web")
    engine.container("other", "front", role="other")
    v4, _ = engine.addresses("db")
    machine.service.start()
    web, other = engine.pid("web"), engine.pid("other")
    engine.stop_service()
    machine.wait_for("the last good state stays in force")

    def connects(pid: int) -> bool:
        words = ["nsenter", f"--net=/proc/{pid}/ns/net", "nc", "-z", "-w", "1", v4, PORT]
        return machine.namespace.run(words, check=False).returncode == 0

    assert connects(web)
    assert not connects(other)


def test_an_address_counts_on_the_bridge_of_its_network_only(machine: Machine) -> None:
    engine = machine.engine
    engine.container("web", "front", role="web")
    engine.container("liar", "back", role="other")
    web, _ = engine.addresses("web")
    machine.service.start()
    engine.inside("liar", "ip", "address", "add", f"{web}/32", "dev", "eth0")
    gateway = engine.inside("liar", "nc", "-z", "-w", "1", "-s", web, "10.91.0.1", PORT)
    assert gateway.returncode != 0
    failures = {event["portcullis"].get("failure") for event in machine.events() if "portcullis" in event}
    assert "spoofed_source" in failures


def test_start_says_what_stays_on_a_bridge(machine: Machine) -> None:
    machine.engine.container("web", "front", role="web")
    machine.namespace.run(["sh", "-c", "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do"
                           " [ ! -e $f ] || echo 0 > $f; done"])  # fmt: skip
    machine.service.start()
    machine.wait_for("cannot see all traffic of default/db: br_netfilter is off for IPv4 and IPv6")
    machine.engine.run("network", "create", "--disable-dns", "--internal", "--subnet", "10.93.0.0/24", "closed")
    machine.engine.container("inner", "closed", role="inner")
    wait_until(lambda: "default/inner" in status(machine), 10, lambda: f"{status(machine)}")
    assert status(machine).keys() == {"default/db", "default/web", "default/inner"}
    assert status(machine)["default/inner"].endswith("is off for IPv4: not seen is what stays on bridge podman3")


def test_what_stays_on_a_bridge_is_decided_with_br_netfilter(machine: Machine) -> None:
    engine = machine.engine
    done = machine.namespace.run(["sh", "-c", "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do"
                                  " echo 1 > $f || exit 1; done"], check=False)  # fmt: skip
    if done.returncode:
        pytest.skip("br_netfilter is not loaded")
    engine.container("web", "back", role="web")
    engine.container("other", "back", role="other")
    machine.service.start()
    assert "cannot see" not in machine.service.output()
    for address in engine.addresses("db"):
        assert machine.connects("web", address), machine.service.output()
        assert not machine.connects("other", address)


def test_beside_the_rules_that_docker_sets_itself(tmp_path: Path) -> None:
    """A published port and masquerading: policy is asked about the container's own address, in both directions."""
    if why := Docker.missing():
        pytest.skip(why)
    with Lab() as lab:
        chain = lab.chain()
        near, node, far = chain.client, chain.node, chain.server
        machine = Machine(Docker(node, iptables=True), tmp_path)
        engine = machine.engine
        (tmp_path / "policy.d" / "policy.yaml").write_text(PUBLISHED.format(near=near.v4, far=far.v4))
        try:
            try:
                engine.start()
                engine.network("front", "10.91.0.0/24")
                engine.container("db", "front", "/bin/httpd", "-f", "-p", PORT, publish=f"8080:{PORT}", role="db")
            except LabError as error:
                pytest.skip(f"docker does not work on this machine: {error}")
            for name in ("web", "other"):
                engine.container(name, "front", role=name)
            far.popen(["nc", "-l", "-k", far.v4, PORT])
            far.wait_for_port(int(PORT))

            def comes_in(client: Namespace, address: str) -> bool:
                return client.run(["nc", "-z", "-w", "1", address, "8080"], check=False).returncode == 0

            assert comes_in(near, node.address(4, "cli0")) and comes_in(far, node.address(4, "srv0"))
            assert machine.connects("web", far.v4) and machine.connects("other", far.v4)
            machine.service.start()
            assert comes_in(near, node.address(4, "cli0")), machine.service.output()
            assert not comes_in(far, node.address(4, "srv0"))
            assert machine.connects("web", far.v4), machine.service.output()
            assert not machine.connects("other", far.v4)
        finally:
            machine.close()
