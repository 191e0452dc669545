# SPDX-License-Identifier: Apache-2.0
"""What of ours is in the kernel, read back and compared with what shall be there. Blocking; raises NftError."""

from collections import Counter
from typing import Any

from appliance.netfilter import backend as backends
from appliance.netfilter import floods, nft, ruleset
from appliance.netfilter.backend import FAMILIES
from appliance.netfilter.ruleset import TABLE, Backend, NetfilterSettings
from appliance.netfilter.surroundings import table_exists

CREATED = "created_"  # empty chains of this name remember which iptables tables did not exist before us


def own_objects() -> list[dict[str, Any]]:
    """Our table as nft's JSON has it, without the elements of its sets; []: there is none."""
    return nft.query(f"list table {TABLE}", terse=True) if table_exists(TABLE) else []


def missing(settings: NetfilterSettings, backend: Backend) -> list[str]:
    """What another program took away, in words."""
    found = Counter(entry["rule"]["chain"] for entry in own_objects() if "rule" in entry)
    bodies = ruleset.chain_bodies(settings, backend)
    gone = [f"chain {name}" for name, rules in bodies.items() if found[name] != len(rules)]
    if backend == "xt":
        wanted = sorted(ruleset.xt_rules(settings))
        gone += [f"{f} security queue rules" for f in FAMILIES if sorted(backends.xt_ours(f)) != wanted]
    return gone


def stale(
    settings: NetfilterSettings, present: list[dict[str, Any]], backend: Backend
) -> tuple[list[tuple[str, str]], list[str]]:
    """(kind and name of what `present`, an older table, has and ours has not; base chains whose place is another now).

    Pure."""
    bases = ruleset.base_chains(settings, backend)
    bodies = ruleset.chain_bodies(settings, backend)
    counters = ruleset.counter_names(settings.hooks) if settings.count else ()
    old, moved = [], []
    for entry in present:
        if entry.get("map", {}).get("name", "").startswith(floods.PREFIX):
            old.append(("map", entry["map"]["name"]))
        for kind, known in (("chain", bodies), ("counter", counters)):
            if kind not in entry or entry[kind]["name"].startswith(CREATED):
                continue
            name, place = entry[kind]["name"], (entry[kind].get("hook"), entry[kind].get("prio"))
            if name not in known:
                old.append(("base" if place[0] else kind, name))
            elif name in bases and place != bases[name]:
                moved.append(name)
    return old, moved
