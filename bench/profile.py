# SPDX-License-Identifier: Apache-2.0
"""Where the time goes: `make profile` samples the machine with perf(1) while a row runs, and sorts it by kind of work.

Each path is a row of the table with one program. A sample belongs to the kind of the innermost function: so a copy in
the middle of netlink counts as a copy. Sender and receiver are counted with the program.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.lab import LabError
from bench.rig import Rig, make_rig
from bench.rows import ROWS

RESULT = Path(__file__).resolve().parent / "results/profile.txt"
PATHS = (
    ("small packets, each decided in user space", "cpu_per_packet", "portcullis-every-packet"),
    ("small packets, decided by the kernel", "udp_64", "portcullis"),
    ("large packets, each decided in user space", "tcp_flow", "portcullis-every-packet"),
    ("new connections", "connections", "portcullis"),
)
SECONDS = 2.0
FREQUENCY = 1999  # samples a second of each core
SHOWN = 6  # functions named for each path
# Those of the row, and the kernel's threads that carry packets for them.
PROGRAMS = ("fp-worker", "udp_flood", "iperf3", "wrk", "nginx", "ksoftirqd", "accept_loop")

# The first that matches. Names of Linux 6.x; a dot is what the compiler adds.
KINDS = (
    ("our C core", r"^fp_|^lookup_|^parse_"),
    ("copies", r"_copy_|copy_page|copy_user|rep_movs|memcpy|check_object_size|skb_copy|clear_page"),
    ("netlink and the queue", r"nfqnl|nfnetlink|netlink|nla_|nf_queue|nf_reinject|nfqueue"),
    ("rules", r"nft_|nf_hook_slow|ipt_|xt_|^nf_tables"),
    ("connection tracking", r"nf_conntrack|nf_ct_|^__nf_ct|^nf_nat|hash_conntrack"),
    ("memory", r"slab|kmem|kfree|kmalloc|alloc|page_frag|free_"),
    ("waking up, scheduling, locks", r"sched|wake|spin|futex|enqueue_task|dequeue|switch|rcu|softirq|hrtimer|poll"),
    ("forwarding and veth", r"^ip_|^__ip_|fib_|neigh|dev_|veth|netif|napi|net_rx|process_backlog|dst_|eth_|gso|gro"),
    ("sockets and protocols", r"tcp_|udp_|sock|inet_|skb_|csum"),
)


@dataclass(frozen=True)
class Profile:
    """shares: kind of work → share of the time that the row's programs ran. top: the functions with most of it."""

    title: str
    shares: dict[str, float]
    top: tuple[tuple[str, float], ...]

    def lines(self) -> list[str]:
        kinds = [f"  {share:6.1%}  {kind}" for kind, share in sorted(self.shares.items(), key=lambda item: -item[1])]
        top = ", ".join(f"{name} {share:.1%}" for name, share in self.top)
        return [self.title, *kinds, f"          most: {top}", ""]


def kind_of(symbol: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, symbol)), "other")


def profile(title: str, symbols: Iterable[tuple[str, float]]) -> Profile:
    """symbols: name and weight. ValueError without one."""
    weights: defaultdict[str, float] = defaultdict(float)
    for name, weight in symbols:
        weights[name] += weight
    if not (total := sum(weights.values())):
        raise ValueError("nothing was sampled")
    shares: defaultdict[str, float] = defaultdict(float)
    for name, weight in weights.items():
        shares[kind_of(name)] += weight / total
    top = sorted(((name, weight / total) for name, weight in weights.items()), key=lambda item: -item[1])[:SHOWN]
    return Profile(title, dict(shares), tuple(top))


def read_report(text: str) -> list[tuple[str, float]]:
    """Lines "3.21%|comm|[k] name" of perf report, those of the row's programs."""
    found = re.findall(r"^\s*([\d.]+)%\s*\|([^|\n]+)\|\s*\[[.kgu]\]\s+(\S+)", text, re.MULTILINE)
    return [(name, float(share)) for share, comm, name in found if comm.strip().startswith(PROGRAMS)]


def sample(rig: Rig, row_name: str, title: str) -> Profile:
    row = next(row for row in ROWS if row.name == row_name)
    row.sample(rig)  # warm
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        record = ["perf", "record", "-q", "-a", "-F", str(FREQUENCY), "-o", data, "--", "sleep", str(SECONDS)]
        with subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as recording:
            row.sample(rig)
            error = recording.communicate(timeout=30)[1]
        if recording.returncode:
            raise LabError(f"perf: {error.strip()}")
        report = ["perf", "report", "-i", data, "--stdio", "-F", "overhead,comm,sym", "-t", "|"]
        done = subprocess.run(report, capture_output=True, text=True, timeout=60)
    return profile(title, read_report(done.stdout))


def main() -> int:
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (title, row, peer) in enumerate(PATHS):
            rig = make_rig(peer, Path(folder, str(number)))
            try:
                lines += sample(rig, row, title).lines()
            except FileNotFoundError:
                print("perf is not installed (Debian: linux-perf)", file=sys.stderr)
                return 1
            finally:
                rig.close()
    RESULT.write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
