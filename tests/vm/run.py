# SPDX-License-Identifier: Apache-2.0
"""The lab tests on the kernel that Debian ships: in virtual machines made from a Debian tree, emulated, without KVM.

    python -m tests.vm.run TREE [FILE | FILE::TEST ...]

TREE is what `.ci/debian-tree install` made, with a kernel in it. The files (default: all of tests/lab) are shared out
among as many machines as there are cores. A machine has one processor and counts time in instructions
(`-icount`): its clock stands still while the host is busy with something else and jumps ahead while nothing runs in it,
so that no waiting time in a test is too short because of the emulation.

Ends with 0 when every test passed or was skipped with a reason, 1 when one failed or a machine did not finish, and 0
with the reason where the machines cannot be made.
"""

import argparse
import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
QEMU = "qemu-system-x86_64"
GUEST = "src/tests/vm/guest"
PLANS = "srv/plans"
LIMIT = 14 * 60.0  # seconds for all machines together
# Without what costs in emulation: a fifth level of page tables, strings copied byte by byte, checks that find nothing.
PROCESSOR = "max,la57=off,erms=off,fsrm=off,smap=off,smep=off,pku=off,umip=off"
# Code at the same addresses in each process is translated once, for all of them.
KERNEL = "quiet panic=-1 mitigations=off nokaslr norandmaps clearcpuid=rep_good"
MEMORY = "1536M"
SIZE = "3G"  # of the image; only what is used is written
# Seconds of emulation that a file needs, where it is not about two for each kilobyte.
COST = {
    "tests/lab/test_chains.py": 70, "tests/lab/test_demo.py": 10, "tests/lab/test_elements.py": 3,
    "tests/lab/test_engine_lab.py": 4, "tests/lab/test_feed_offload.py": 26, "tests/lab/test_nft_backend.py": 4,
    "tests/lab/test_unit_privileges.py": 14, "tests/lab/service/test_containers.py": 1,
    "tests/lab/service/test_domains.py": 60, "tests/lab/service/test_floods.py": 90,
    "tests/lab/service/test_reconfiguration.py": 40, "tests/lab/service/test_ruleset_lost.py": 47,
}  # fmt: skip
# Run with the xt rule, too, which the kernel has beside nft's queue statement.
TWICE = ("tests/lab/test_chains.py", "tests/lab/test_nft_backend.py")
# What does not fit into the time, and why.
LEFT_OUT: dict[str, str] = {
    "tests/lab/service/test_without_loss.py::test_nothing_is_lost_whatever_changes":
        "a thousand connections beside a flood are more than an emulated processor carries",
    "tests/lab/service/test_flood_memory.py::test_a_flood_of_syns_does_not_grow_the_service":
        "an emulated processor takes minutes to fill tables of 65,536 flows",
}  # fmt: skip

_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) ((?:\[(\d+)\] )?.*)$")


@dataclass
class Report:
    """What a machine wrote to its second serial port."""

    text: str
    counts: Counter[str] = field(default_factory=Counter)
    lines: dict[str, list[str]] = field(default_factory=dict)  # by outcome

    def __post_init__(self) -> None:
        for line in self.text.splitlines():
            if match := _OUTCOME.match(line):
                self.counts[match[1]] += int(match[3] or 1)
                self.lines.setdefault(match[1], []).append(match[2])

    @property
    def finished(self) -> bool:
        return "end of the plan" in self.text

    @property
    def statuses(self) -> list[int]:
        """Of each pytest run."""
        return [int(number) for number in re.findall(r"^exit status (\d+)$", self.text, re.M)]

    @property
    def closing(self) -> list[str]:
        """Which runs there were, and the last line of each."""
        return [
            line.strip("= ")
            for line in self.text.splitlines()
            if line.startswith("run: ") or re.match(r"^=+ .*(passed|failed|error|skipped).* in .*=+$", line)
        ]


class Machine:
    """One emulated machine with a plan; its console and its report are files in `folder`."""

    def __init__(self, tree: Path, image: Path, folder: Path, plan: str) -> None:
        self._report = folder / f"{plan}.report"
        self._console = folder / f"{plan}.console"
        self._report.unlink(missing_ok=True)
        kernel, initrd = (next(iter(sorted((tree / "boot").glob(f"{name}-*")))) for name in ("vmlinuz", "initrd.img"))
        command = f"console=ttyS0 root=/dev/vda rw init=/{GUEST} {KERNEL} plan=/{PLANS}/{plan}"
        self._process = subprocess.Popen(
            [QEMU, "-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", "-cpu", PROCESSOR, "-smp", "1",
             "-m", MEMORY, "-nodefaults", "-display", "none", "-vga", "none", "-nic", "none", "-no-reboot",
             "-serial", f"file:{self._console}", "-serial", f"file:{self._report}",
             "-drive", f"file={image},if=virtio,format=raw,snapshot=on,cache=unsafe",
             "-kernel", str(kernel), "-initrd", str(initrd), "-append", command],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def report(self) -> Report:
        return Report(self._report.read_text(errors="replace") if self._report.exists() else "")

    def console(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def end(self) -> None:
        if self.runs:
            self._process.kill()
        self._process.wait()


def runs_of(tests: list[str]) -> list[tuple[str, str]]:
    """(queue backend, file or test) of everything that runs; "auto" is nft's queue statement there."""
    return [("auto", test) for test in tests] + [("xt", test) for test in tests if test.partition("::")[0] in TWICE]


def share_out(runs: list[tuple[str, str]], machines: int) -> list[list[tuple[str, str]]]:
    """The costly ones first, each to the machine with the least so far."""
    shares: list[list[tuple[str, str]]] = [[] for _ in range(machines)]
    load = [0.0] * machines
    for run in sorted(runs, key=lambda run: cost(run[1]), reverse=True):
        least = load.index(min(load))
        shares[least].append(run)
        load[least] += cost(run[1])
    return [share for share in shares if share]


def cost(test: str) -> float:
    """Of a file, also where only one of its tests is meant."""
    name = test.partition("::")[0]
    return COST.get(name, (REPOSITORY / name).stat().st_size / 500)


def plan_of(share: list[tuple[str, str]]) -> str:
    """One line for each run of pytest."""
    lines = []
    for backend in ("auto", "xt"):
        if tests := sorted(test for name, test in share if name == backend):
            lines.append(" ".join([backend, *left_out(), *tests]) + "\n")
    return "".join(lines)


def left_out() -> list[str]:
    """As arguments of pytest."""
    return [f"--deselect={test}" for test in LEFT_OUT]


def count_here(tests: list[str]) -> int:
    """How many tests the same files have on this machine."""
    if not tests:
        return 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *left_out(), *tests],
        capture_output=True, text=True, cwd=REPOSITORY, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return sum("::" in line for line in done.stdout.splitlines())


def make_image(tree: Path, image: Path, shares: list[list[tuple[str, str]]]) -> None:
    """An ext4 file system with the tree and the plans in it. Raises CalledProcessError."""
    plans = tree / PLANS
    shutil.rmtree(plans, ignore_errors=True)
    plans.mkdir(parents=True)
    for number, share in enumerate(shares):
        (plans / str(number)).write_text(plan_of(share))
    image.write_bytes(b"")
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", str(tree), str(image), SIZE],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def wait(machines: list[Machine], limit: float) -> None:
    """Until all have powered off, or time is up. Says now and then how far they are."""
    started = time.monotonic()
    told = started
    while any(machine.runs for machine in machines) and time.monotonic() - started < limit:
        time.sleep(0.5)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            done = sum(len(re.findall(r"\[ *\d+%\]", machine.report().text)) for machine in machines)
            print(f"progress: {told - started:.0f} s, {done} tests have run", flush=True)


def tell(machines: list[Machine], here: int) -> int:
    """Writes what they found; returns the exit status."""
    total: Counter[str] = Counter()
    status = 0
    for number, machine in enumerate(machines):
        report = machine.report()
        total += report.counts
        if not report.finished:
            status = 1
            tail = "\n".join([*machine.console().splitlines()[-15:], *report.text.splitlines()[-15:]])
            print(f"machine {number} did not finish:\n{tail}")
        if any(report.statuses):
            status = 1
            print(report.text)
    for outcome in ("SKIPPED", "ERROR", "FAILED"):
        for machine in machines:
            for line in machine.report().lines.get(outcome, []):
                print(f"{outcome} {line}")
    for test, why in LEFT_OUT.items():
        print(f"LEFT OUT {test}: {why}")
    for machine in machines:
        for line in machine.report().closing:
            print(f"test-vm: {line}")
    ran = sum(total.values())
    if ran != here:
        status = 1
        print(f"test-vm: {here} tests expected, {ran} came back")
    print("test-vm: " + ", ".join(f"{count} {name.lower()}" for name, count in total.items()) + f" of {here}")
    return status


def processor_time() -> float:
    """Seconds, of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def why_not(tree: Path) -> str | None:
    for program, package in ((QEMU, "qemu-system-x86"), ("mke2fs", "e2fsprogs")):
        if shutil.which(program) is None:
            return f"no {program} (Debian package {package})"
    if not list((tree / "boot").glob("vmlinuz-*")):
        return f"no kernel in {tree}/boot"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tree", type=Path)
    parser.add_argument("tests", nargs="*", help="test files, or FILE::TEST; default: all of tests/lab")
    parser.add_argument("--machines", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds")
    arguments = parser.parse_intermixed_args()
    if reason := why_not(arguments.tree):
        print(f"test-vm: skipped: {reason}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the machines end, too
    tests = arguments.tests or sorted(
        str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests/lab").rglob("test_*.py")
    )
    runs = runs_of(tests)
    here = sum(count_here([test for name, test in runs if name == backend]) for backend in ("auto", "xt"))
    shares = share_out(runs, arguments.machines)
    folder = arguments.tree.resolve().parent
    with tempfile.TemporaryDirectory(prefix="vm-", dir=folder) as place:
        image = Path(place) / "image"
        make_image(arguments.tree, image, shares)
        machines: list[Machine] = []
        started, used = time.monotonic(), processor_time()
        try:
            for number in range(len(shares)):
                machines.append(Machine(arguments.tree, image, folder, str(number)))
            with contextlib.suppress(KeyboardInterrupt):
                wait(machines, arguments.limit)
        finally:
            for machine in machines:
                machine.end()
        elapsed, used = time.monotonic() - started, processor_time() - used
        print(f"test-vm: {len(machines)} machines, {elapsed:.0f} s, {used:.0f} s of processor time")
        return tell(machines, here)


if __name__ == "__main__":
    sys.exit(main())
