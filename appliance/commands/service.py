# SPDX-License-Identifier: Apache-2.0
"""The words that ask the running service: status, explain, apply, confirm, rollback."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from appliance.commands.explain import describe
from appliance.commands.files import expand, read_text
from appliance.control.client import ask
from rules.policy.explain import Answer

SUFFIXES = (".yaml", ".yml")
UNITS = {"s": 1, "m": 60, "h": 3600}


def duration(text: str) -> float:
    """ "60s", "5m", "1h" or a number of seconds. Raises ValueError."""
    unit = UNITS.get(text[-1:], 0)
    return float(text[:-1]) * unit if unit else float(text)


def status(socket: Path, *, as_json: bool, write: Callable[[str], None] = print) -> int:
    state = ask(socket, {"do": "status"})
    if as_json:
        write(json.dumps(state, indent=2))
        return 0
    for line in describe_state(state):
        write(line)
    return 0


def describe_state(state: dict[str, Any]) -> list[str]:
    fastpath, netfilter, ledger = state["fastpath"], state["netfilter"], state["ledger"]
    lines = [
        f"portcullis {state['version']} on {state['node']}: mode {state['mode']}, up {state['uptime']} s",
        f"policy      generation {state['generation']}, {state['resources']} resources,"
        f" {state['identities']} identities; {state['reloads']['done']} changes, {state['reloads']['failed']} refused",
        f"verdicts    allow {fastpath['allowed']}, drop {fastpath['dropped']}, reject {fastpath['rejected']},"
        f" inspect {fastpath['inspected']}, this packet only {fastpath['passed']}",
        f"kernel      by fate: allow {netfilter.get('fate_allowed', 0)}, drop {netfilter.get('fate_dropped', 0)},"
        f" reject {netfilter.get('fate_rejected', 0)}; passed unanswered {netfilter.get('bypassed', 0)}",
        f"floods      {state['flood']['held']} answered by the kernel: drop {netfilter.get('flood_dropped', 0)},"
        f" reject {netfilter.get('flood_rejected', 0)}",
        f"ledger      sent up {ledger['hits']} = answered {ledger['answered']} + waiting {ledger['waiting']}"
        f" + queue full {ledger['queue_full']} + lost by overrun {ledger['ids_lost']} + passed unanswered"
        f" {ledger['passed']}; unaccounted {ledger['unaccounted']}",
        f"conntrack   {state['conntrack']['entries']} of {state['conntrack']['limit']} connections;"
        f" dropped by the full table {state['conntrack']['dropped']}, untracked {state['conntrack']['untracked']}",
        f"udp fates   {_limits(state['udp_fates'])}; ended {state['udp_fates']['ended']}",
        f"events      {fastpath['events']} told, {fastpath['events_lost']} lost",
    ]
    for name, entries in state["feeds"].items():
        lines.append(f"feed        {name}: {entries} entries")
    endpoints = state["endpoints"]
    lines.append(f"endpoints   {endpoints['known']} known, {endpoints['elsewhere']} of them on other nodes")
    for unseen in endpoints["unseen"]:
        seen = "nothing is" if unseen["seen"] == "none" else "not everything is"
        lines.append(f"unseen      {unseen['endpoint']}: {seen} seen: {'; '.join(unseen['reasons'])}")
    for rule in state["host_policy"]:
        words = "|".join((rule["tier"], rule["policy"], rule["direction"], rule["rule"], rule["action"]))
        lines.append(f"host rule   {words}: {rule['packets']} packets")
    for queue, counters in state["inspectors"].items():
        lines.append(
            f"inspector   queue {queue}: {counters.get('packets', 0)} packets, {counters.get('flows', 0)} flows"
        )
    if state["trial"] is not None:
        lines.append(f"on trial    the policy goes back in {state['trial']['seconds_left']} s unless confirmed")
    lines += [f"error       {error}" for error in state["errors"]]
    return lines


def _limits(fates: dict[str, Any]) -> str:
    limits = [f"after {fates['seconds']} s"] if fates["seconds"] else []
    if fates["bytes"]:
        uncounted = "" if fates["counted"] else ", which are not counted here (net.netfilter.nf_conntrack_acct is 0)"
        limits.append(f"beyond {fates['bytes']} bytes{uncounted}")
    return f"decided anew {', '.join(limits)}" if limits else "no limit"


def explain(socket: Path, question: dict[str, Any], write: Callable[[str], None] = print) -> int:
    answer = ask(socket, {"do": "explain", "question": question})
    for line in describe(Answer(answer["verdict"], answer["staged"], tuple(answer["trace"]))):
        write(line)
    return 0


def apply(socket: Path, paths: Sequence[Path], confirm: float | None, write: Callable[[str], None] = print) -> int:
    files = {path.name: read_text(path) for path in expand(paths, SUFFIXES)}
    answer = ask(socket, {"do": "apply", "files": files, "confirm": confirm})
    write(f"generation {answer['generation']} is in force")
    if confirm is not None:
        write(f"it goes back in {confirm:g} s unless confirmed: portcullis confirm")
    return 0


def confirm(socket: Path) -> int:
    ask(socket, {"do": "confirm"})
    return 0


def roll_back(socket: Path, write: Callable[[str], None] = print) -> int:
    answer = ask(socket, {"do": "rollback"})
    write(f"the policy is as it was: generation {answer['generation']}")
    return 0
