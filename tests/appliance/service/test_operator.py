# SPDX-License-Identifier: Apache-2.0
"""What the running service answers to an operator."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from appliance.config.model import Config, Failsafe
from appliance.service.operator import Operator
from appliance.service.settings import failsafes
from appliance.service.trial import TrialStore
from fastpath import IdentityMap, Policy
from rules.policy import CompileOptions, compile_policy, load_documents

HOST = {
    "apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "h"},
    "spec": {"node": "n", "interfaceName": "eth0"},
}  # fmt: skip


async def unused() -> None:
    raise AssertionError


def test_explain_knows_the_failsafe_ports_of_the_configuration(tmp_path: Path) -> None:
    resources = load_documents(json.dumps(HOST), "f").resources
    program = compile_policy(resources, CompileOptions(node="n", interfaces={"eth0": 2}))
    snapshot = IdentityMap.build(program.entries), Policy(program.tables)
    in_force = cast(Any, SimpleNamespace(program=program, snapshot=snapshot))
    config = Config(failsafe=Failsafe(inbound=("tcp:2222",), outbound=("udp:123",)))
    operator = Operator(
        in_force, None, TrialStore(tmp_path), failsafes(config), resync=unused, state=dict, say=print
    )  # fmt: skip
    base = {"src": "192.0.2.9", "dst": "192.0.2.1", "path": "input", "iif": "eth0", "oif": "eth0"}

    def ask(**question: Any) -> Any:
        answer = asyncio.run(operator.handlers()["explain"]({"question": base | question}))
        return answer["verdict"]

    assert ask(proto="tcp", dport=2222) == ask(proto="udp", dport=123, path="output") == "allow"
    assert ask(proto="tcp", dport=22) == ask(proto="udp", dport=53, path="output") == "deny"
