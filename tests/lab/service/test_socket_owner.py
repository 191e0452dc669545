# SPDX-License-Identifier: Apache-2.0
"""Flows that a program of the node begins carry its user."""

import pwd

from tests.lab.service.nodes import Echo, Node, wait_until


def test_the_user_of_a_local_program_is_told(node: Node, echo: Echo) -> None:
    node.policy("")
    node.start()
    server = node.net.server.v4
    command = ["nc", "-z", "-w", "2", server, "7000"]
    nobody = pwd.getpwnam("nobody")
    node.net.node.run(["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *command])

    def owners() -> set[tuple[str, int]]:
        flows = [event["portcullis"] for event in node.events("flow") if event["dest_ip"] == server]
        return {(flow.get("user", ""), flow.get("uid", -1)) for flow in flows}

    wait_until(lambda: ("nobody", nobody.pw_uid) in owners(), 5, lambda: f"{owners()}")
    assert "(by nobody)" in node.log()
    assert echo.connect()
    wait_until(lambda: ("", -1) in owners(), 5, lambda: "what others send has no user here")
