# SPDX-License-Identifier: Apache-2.0
"""How packets get into the queue: nft's `queue` statement where the kernel has it, else xt rules in `security`."""

import errno
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shutil import which

from appliance.netfilter import nft
from appliance.netfilter.nfnetlink import SUBSYS_NFT_COMPAT, SUBSYS_QUEUE, NfNetlink, attribute
from appliance.netfilter.ruleset import COMMENT, Backend
from fastpath.errors import PortcullisError

TIMEOUT = 10.0  # seconds, of an iptables command
FAMILIES = ("ip", "ip6")
PROC_NET = Path("/proc/thread-self/net")
# A regular chain: checking it registers no hook.
PROBE = "table inet portcullis_probe {{\n chain probe {{\n  {statement}\n }}\n}}\n"


class NetfilterError(PortcullisError):
    """The kernel's packet filter cannot be used as configured; the message says what to change."""


def has_nfqueue() -> bool:
    """True when the kernel has nfnetlink_queue. NetfilterError without CAP_NET_ADMIN."""
    config, cmd, pf_unbind = SUBSYS_QUEUE << 8 | 2, 1, 4  # NFQNL_MSG_CONFIG, NFQA_CFG_CMD; a no-op since 3.8
    try:
        with NfNetlink() as netlink:
            netlink.request(config, socket.AF_UNSPEC, attribute(cmd, struct.pack("!BBH", pf_unbind, 0, 0)))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise NetfilterError("no permission to use netfilter: root or CAP_NET_ADMIN is needed") from error
        return False
    return True


def has_nft_queue(to: str = "0") -> bool:
    """to: a number, or an expression that gives one: those need nft 1.0, Linux 4.12 and the module nft_hash."""
    try:
        nft.run(PROBE.format(statement=f"queue flags bypass to {to}"), check=True)
    except nft.NftError:
        return False
    return True


def has_xt_nfqueue() -> bool:
    """Whether the kernel has the NFQUEUE target, revision 3 (Linux 3.10), usable from nft."""
    get, name, revision, kind = SUBSYS_NFT_COMPAT << 8, 1, 2, 3
    query = attribute(name, b"NFQUEUE\0") + attribute(revision, struct.pack("!I", 3))
    try:
        with NfNetlink() as netlink:
            netlink.request(get, socket.AF_INET, query + attribute(kind, struct.pack("!I", 1)))
    except OSError:
        return False
    return True


def iptables(family: str, tool: str) -> str | None:
    """Path of iptables' nft variant of `tool` ("save", "restore") for ip or ip6; None where there is only legacy."""
    base = "iptables" if family == "ip" else "ip6tables"
    if found := which(f"{base}-nft-{tool}"):
        return found
    found = which(f"{base}-{tool}")
    if found and "nf_tables" in _run([found, "--version"]):
        return found
    return None


def legacy_rules() -> list[str]:
    """Rules of iptables-legacy tables of this namespace, as "iptables-legacy: -A FORWARD ..."."""
    rules = []
    for base, names in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
        path = PROC_NET / names
        if not path.exists() or not path.read_text().split():
            continue
        save = which(f"{base}-legacy-save")
        if save is None:
            rules.append(
                f"{base}-legacy: tables {', '.join(path.read_text().split())} (not readable: no {base}-legacy-save)"
            )
            continue
        rules += [f"{base}-legacy: {line}" for line in _run([save]).splitlines() if line.startswith("-A")]
    return rules


def choose(wanted: str, priority: int) -> Backend:
    """The backend that works here. NetfilterError says why none does."""
    if not has_nfqueue():
        raise NetfilterError("this kernel has no NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE, module nfnetlink_queue)")
    if wanted in ("auto", "nft") and has_nft_queue():
        return "nft"
    if wanted == "nft":
        raise NetfilterError(
            "this kernel has no nft queue statement (CONFIG_NFT_QUEUE); backend xt may work", field="backend"
        )
    if not has_xt_nfqueue():
        raise NetfilterError("this kernel has neither the nft queue statement nor the xt NFQUEUE target")
    for family in FAMILIES:
        if iptables(family, "restore") is None or iptables(family, "save") is None:
            raise NetfilterError("the xt backend needs iptables-nft: iptables is not installed, or is the legacy one")
    if rules := legacy_rules():
        raise NetfilterError(
            f"iptables-legacy has rules, which cannot be ordered with ours: {rules[0]}. "
            "Move them to iptables-nft (iptables-legacy-save | iptables-nft-restore, then flush the legacy tables)"
        )
    if priority != 150:
        raise NetfilterError(f"priority {priority}: the xt backend works at 150 only", field="priority")
    return "xt"


def xt_list(family: str) -> list[str]:
    """All rules of iptables-nft tables of a family as "table -A CHAIN ..."; [] without iptables."""
    save = iptables(family, "save")
    if save is None:
        return []
    table, rules = "", []
    for line in _run([save]).splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A"):
            rules.append(f"{table} {line}")
    return rules


def xt_ours(family: str) -> list[str]:
    """Our rules of the `security` table: "INPUT -m mark ..."."""
    prefix = "security -A "
    return [
        rule.removeprefix(prefix)
        for rule in xt_list(family)
        if rule.startswith(prefix) and f"--comment {COMMENT} -j NFQUEUE" in rule
    ]


def xt_set(family: str, rules: Sequence[str]) -> bool:
    """Make `rules` the only ones of ours, in one transaction; True if something changed. Other rules stay untouched."""
    present = xt_ours(family)
    if sorted(present) == sorted(rules):
        return False
    restore = iptables(family, "restore")
    if restore is None:
        raise NetfilterError("iptables-nft-restore is not installed")
    # The new ones first: no packet finds neither.
    lines = ["*security", *(f"-A {rule}" for rule in rules), *(f"-D {rule}" for rule in present), "COMMIT", ""]
    if set(present) & set(rules):  # -D would take the wrong one of two equal rules
        lines = ["*security", *(f"-D {rule}" for rule in present), *(f"-A {rule}" for rule in rules), "COMMIT", ""]
    _run([restore, "--noflush"], "\n".join(lines))
    return True


def _run(command: list[str], text: str | None = None) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetfilterError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise NetfilterError(f"{Path(command[0]).name}: {done.stderr.strip() or f'exit {done.returncode}'}")
    return done.stdout
