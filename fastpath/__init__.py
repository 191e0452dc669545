# SPDX-License-Identifier: Apache-2.0
"""Decides packets that the kernel hands up through NFQUEUE: the binding of the C core (``include/fastpath.h``).

:mod:`fastpath.layout` and :mod:`fastpath.errors` are pure Python. The other names load the C extension at first use.
"""

from typing import TYPE_CHECKING, Any

from fastpath.errors import FastpathError, PortcullisError

if TYPE_CHECKING:
    from fastpath.connections import Connections
    from fastpath.engine import Counters, Engine, EngineConfig, Event
    from fastpath.identity import IdentityMap
    from fastpath.policy import Decision, LentTables, Policy, PolicyChange, PolicyTables, Query, TraceStep

__all__ = [
    "Connections",
    "Counters",
    "Decision",
    "Engine",
    "EngineConfig",
    "Event",
    "FastpathError",
    "IdentityMap",
    "LentTables",
    "Policy",
    "PolicyChange",
    "PolicyTables",
    "PortcullisError",
    "Query",
    "TraceStep",
]

_HOMES = {
    "connections": ("Connections",),
    "engine": ("Counters", "Engine", "EngineConfig", "Event"),
    "identity": ("IdentityMap",),
    "policy": ("Decision", "LentTables", "Policy", "PolicyChange", "PolicyTables", "Query", "TraceStep"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"fastpath.{home}"), name)
    raise AttributeError(f"module 'fastpath' has no attribute {name!r}")
