# SPDX-License-Identifier: Apache-2.0
"""The demonstration: client ── node ── server, the real service in the node, real clients; one line for each step.

    python -m appliance.lab.demo

Exit status 0 when every step was as expected, 1 when one differed, 2 when it could not start.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.lab.demo_clients import ANSWERED, NO_ANSWER, REFUSED, SILENCED, Talk, curl, ping, udp
from appliance.lab.demo_servers import ECHO_PORT, HTTP_PORTS, HTTPS_PORT, serve
from appliance.lab.lab import Chain, Lab
from appliance.lab.namespaces import LabError
from appliance.lab.program import Service, read_queues

POLICY = Path(__file__).with_name("demo_policy")
LISTED = "10.77.2.66"  # an address of the server that the feed lists
SILENT = "10.77.2.3"  # an address of the server that policy lets nobody reach
SLOW_FIRST = 64

CONFIG = """
mode = "enforce"
node = "demo"
[queues]
count = 2
slow_first = {slow}
[policy]
paths = ["{dir}/policy.d"]
[inspection]
inspectors = 1
signatures = ["{dir}/signatures.d/*.rules"]
[feeds]
paths = ["{dir}/feeds.d"]
[events]
file = "{dir}/eve.json"
[control]
socket = "{dir}/control.sock"
state = "{dir}/state"
[metrics]
listen = ""
"""
FEED = """
name = "demo"
file = "demo.txt"
action = "drop"
"""
FEED_ENTRIES = f"""# what the demonstration's threat feed lists
{LISTED}
bad.example
"""
SIGNATURES = """
drop http any any -> any any (msg:"DEMO forbidden word in a request"; content:"portcullis-demo-attack"; nocase; \
sid:9000001; rev:1;)
"""


@dataclass(frozen=True)
class Came:
    """Packets that reached user space: all of them, and how many of these an inspector saw."""

    packets: int
    inspected: int

    def __str__(self) -> str:
        return f"{self.packets}, {self.inspected} inspected" if self.inspected else str(self.packets)


@dataclass(frozen=True)
class Step:
    """`cost` bounds the packets that may come to user space; its text says so."""

    name: str
    expected: str
    act: Callable[[], str]
    cost: Callable[[Came], bool]
    cost_text: str


def _exactly(count: int) -> tuple[Callable[[Came], bool], str]:
    return lambda came: came == Came(count, 0), str(count)


def _every_attempt() -> tuple[Callable[[Came], bool], str]:
    # A connection that never was is asked for again at each attempt.
    return lambda came: came.packets >= 1 and came.inspected == 0, "each attempt"


def _inspected(most: int) -> tuple[Callable[[Came], bool], str]:
    return lambda came: 0 < came.inspected <= came.packets <= most, f"inspected, at most {most}"


class Demo:
    """The network, the service in it, and the steps."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.directory = directory
        self.net: Chain = lab.chain()
        self.service = Service(self.net.node, directory / "portcullis.toml", directory / "log")
        self._talk: Talk | None = None

    def start(self) -> None:
        """Servers, then the service. Raises LabError."""
        self._write_files()
        for address in (LISTED, SILENT):
            self.net.server.add_address("eth0", f"{address}/24")
        certificate = self.directory / "server.pem"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                "/CN=demo",
                "-days",
                "2",
                "-keyout",
                certificate,
                "-out",
                self.directory / "certificate.pem",
            ],
            check=True,
            capture_output=True,
            timeout=30,
        )
        certificate.write_text(certificate.read_text() + (self.directory / "certificate.pem").read_text())
        self.net.server.spawn(serve, certificate)
        for port in (HTTP_PORTS[-1], HTTPS_PORT, ECHO_PORT):
            self.net.server.wait_for_port(port)
        self.service.start()

    def _write_files(self) -> None:
        shutil.copytree(POLICY, self.directory / "policy.d")
        for folder in ("feeds.d", "signatures.d"):
            (self.directory / folder).mkdir()
        (self.directory / "feeds.d/demo.toml").write_text(FEED)
        (self.directory / "feeds.d/demo.txt").write_text(FEED_ENTRIES)
        (self.directory / "signatures.d/demo.rules").write_text(SIGNATURES)
        (self.directory / "portcullis.toml").write_text(CONFIG.format(dir=self.directory, slow=SLOW_FIRST))

    # -- the steps ---------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        client, server = self.net.client, self.net.server
        v4, v6 = server.v4, f"[{server.v6}]"

        def https(name: str, path: str = "/") -> str:
            return curl(client, f"https://{name}{path}", "--resolve", f"{name}:443:{v4}", patience=10.0)

        def blocked_https(name: str) -> str:
            return curl(client, f"https://{name}/", "--resolve", f"{name}:443:{v4}")

        def attack() -> str:
            return curl(client, f"http://{v4}/?q=portcullis-demo-attack")

        return [
            Step("TCP, allowed", ANSWERED, lambda: curl(client, f"http://{v4}:8000/"), *_exactly(1)),
            Step(
                "TCP, allowed, 32 MiB",
                ANSWERED,
                lambda: curl(client, f"http://{v4}:8000/long", patience=20.0),
                *_exactly(1),
            ),
            Step("TCP, denied: dropped", NO_ANSWER, lambda: curl(client, f"http://{v4}:8001/"), *_every_attempt()),
            Step("TCP, denied: rejected", REFUSED, lambda: curl(client, f"http://{v4}:8002/"), *_every_attempt()),
            Step(
                "feed lists the address", NO_ANSWER, lambda: curl(client, f"http://{LISTED}:8000/"), *_every_attempt()
            ),
            Step("feed lists the TLS name", SILENCED, lambda: blocked_https("bad.example"), *_inspected(40)),
            Step("TLS name not listed", ANSWERED, lambda: https("good.example"), *_inspected(40)),
            Step(
                "the same, 32 MiB: kernel takes over",
                ANSWERED,
                lambda: https("good.example", "/long"),
                *_inspected(200),
            ),
            Step("HTTP request, inspected", ANSWERED, lambda: curl(client, f"http://{v4}/"), *_inspected(40)),
            Step("HTTP request, signature drops", SILENCED, attack, *_inspected(40)),
            Step("IPv6 TCP, allowed", ANSWERED, lambda: curl(client, f"http://{v6}:8000/"), *_exactly(1)),
            Step("IPv6 TCP, denied: dropped", NO_ANSWER, lambda: curl(client, f"http://{v6}:8001/"), *_every_attempt()),
            Step("UDP, allowed", ANSWERED, lambda: udp(client, v4, 5001), *_exactly(1)),
            Step("UDP, denied", NO_ANSWER, lambda: udp(client, v4, 5002), *_every_attempt()),
            Step("ICMP echo, allowed", ANSWERED, lambda: ping(client, v4), *_exactly(1)),
            Step("ICMP echo, denied", NO_ANSWER, lambda: ping(client, SILENT), *_every_attempt()),
            Step("ICMPv6 echo, allowed", ANSWERED, lambda: ping(client, server.v6), *_exactly(1)),
            Step("open connection, allowed", ANSWERED, self._open_talk, *_exactly(1)),
            Step("policy changes: it is cut", "cut", self._cut_talk, *_every_attempt()),
        ]

    def _open_talk(self) -> str:
        self._talk = Talk(self.net.client, self.net.server.v4, ECHO_PORT)
        return ANSWERED if all(self._talk.exchange() for _ in range(5)) else NO_ANSWER

    def _cut_talk(self) -> str:
        assert self._talk is not None
        path = self.directory / "policy.d/50-talk.yaml"
        changed = path.with_suffix(".new")
        changed.write_text(path.read_text().replace("action: Allow", "action: Deny"))
        changed.replace(path)
        lasted = self._talk.until_silent(8.0)
        self._talk.close()
        return "goes on" if lasted is None else "cut"

    # -- running them ------------------------------------------------------------------------------

    def _came(self) -> Came:
        """Totals since the service started. A packet that was inspected passed a worker first and counts once."""
        queues = read_queues(self.net.node)
        workers = sum(state.queued for number, state in queues.items() if number < SLOW_FIRST)
        inspectors = sum(state.queued for number, state in queues.items() if number >= SLOW_FIRST)
        return Came(workers, inspectors)

    def run(self, write: Callable[[str], None]) -> int:
        """Runs every step; the number of steps that differed."""
        steps = self.steps()
        widths = (max(len(step.name) for step in steps), len(SILENCED), len(SILENCED))
        head = ("step", "expected", "seen", "packets in user space")
        write(_line(head, widths))
        write("-" * (sum(widths) + 6 + len(head[-1])))
        differed = 0
        for step in steps:
            before = self._came()
            try:
                seen = step.act()
            except (LabError, OSError) as error:
                seen = str(error).splitlines()[0]
            after = self._came()
            came = Came(after.packets - before.packets, after.inspected - before.inspected)
            wrong = [] if seen == step.expected else ["not as expected"]
            wrong += [] if step.cost(came) else [f"packets: expected {step.cost_text}"]
            differed += bool(wrong)
            write(_line((step.name, step.expected, seen, str(came) + "".join(f"  <-- {why}" for why in wrong)), widths))
        write("")
        write(f"{len(steps) - differed} of {len(steps)} steps as expected")
        return differed


def _line(cells: tuple[str, str, str, str], widths: tuple[int, int, int]) -> str:
    return "  ".join([cell.ljust(width) for cell, width in zip(cells, widths, strict=False)] + [cells[-1]])


def main() -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="portcullis-demo-") as directory, Lab() as lab:
            demo = Demo(lab, Path(directory))
            demo.start()
            differed = demo.run(lambda line: print(line, flush=True))
            if differed:
                print("\nThe end of the service's log:", *demo.service.output().splitlines()[-40:], sep="\n")
            demo.service.stop()
    except (LabError, subprocess.CalledProcessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 1 if differed else 0


if __name__ == "__main__":
    sys.exit(main())
