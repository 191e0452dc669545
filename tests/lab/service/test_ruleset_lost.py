# SPDX-License-Identifier: Apache-2.0
"""Another program takes our rules away while the service runs."""

import time
import urllib.request

import pytest

from appliance.netfilter import Netfilter, NetfilterSettings
from tests.lab.service.nodes import ALLOW, DENY_7000, Echo, Node, exchange

pytestmark = pytest.mark.timeout(60)

TAKEN = {
    "whole ruleset": ["nft", "flush", "ruleset"],
    "our table": ["nft", "delete", "table", "inet", "portcullis"],
    "one of our rules": ["sh", "-c", "nft flush chain inet portcullis obey_forward"],
    "iptables rules": ["sh", "-c", "iptables-nft -t security -F; ip6tables-nft -t security -F"],
}


@pytest.mark.parametrize("what", TAKEN)
def test_rules_are_made_again_within_a_second_with_the_generation_in_force(node: Node, echo: Echo, what: str) -> None:
    node.start()
    if what == "iptables rules" and "xt queue rules" not in node.log():
        pytest.skip("this kernel has the nft queue statement: there are no iptables rules")
    node.policy(ALLOW.replace("[7000, 80]", "[7000, 81]"))
    node.wait_for("generation 2 in force")
    kept = echo.connect()
    assert exchange(kept)
    time.sleep(0.5)
    assert "ruleset_lost" not in node.log(), "our own changes are not for alarm"
    node.net.node.run(TAKEN[what])
    node.wait_for("ruleset_lost", timeout=1.0)
    with node.net.node.enter():
        netfilter = Netfilter(NetfilterSettings())
        assert netfilter.missing() == []
        assert netfilter.generation() == 2
    assert exchange(kept)
    assert exchange(echo.connect())
    node.policy(DENY_7000)
    node.wait_for("generation 3 in force")
    kept.settimeout(0.3)
    assert not exchange(kept)
    with pytest.raises(TimeoutError):
        echo.connect(timeout=0.3)
    assert node.log().count("ALARM") == 1


def test_a_change_right_after_the_loss_is_in_force(node: Node, echo: Echo) -> None:
    """The new generation meets a table that is not there, before the watch has looked."""
    node.start()
    for number in range(3):
        node.net.node.run(["nft", "flush", "ruleset"])
        node.policy(DENY_7000 if number % 2 == 0 else ALLOW)
        node.wait_for(f"generation {number + 2} in force")
        time.sleep(0.3)
        with node.net.node.enter():
            assert Netfilter(NetfilterSettings()).missing() == []
            assert Netfilter(NetfilterSettings()).generation() == number + 2
    with pytest.raises(TimeoutError):
        echo.connect(timeout=0.3)


def test_the_loss_is_counted(node: Node, echo: Echo) -> None:
    node.configure(metrics="127.0.0.1:9797")
    node.start()
    node.net.node.run(["nft", "flush", "ruleset"])
    node.wait_for("ruleset_lost", timeout=1.0)
    node.net.node.run(["nft", "flush", "ruleset"])
    time.sleep(1.0)
    with node.net.node.enter():
        text = urllib.request.urlopen("http://127.0.0.1:9797/metrics", timeout=5).read().decode()
    assert "portcullis_ruleset_lost_total 2.0" in text
