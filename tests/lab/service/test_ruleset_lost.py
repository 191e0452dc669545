# SPDX-License-Identifier: Apache-2.0
"""Another program takes our rules away while the service runs."""

import re
import time
import urllib.request

import pytest

from appliance.netfilter import Netfilter, NetfilterSettings
from tests.lab.service.hosts import HOST, on, policy, reaches
from tests.lab.service.nodes import ALLOW, DENY_7000, Echo, Node, exchange, wait_until

pytestmark = pytest.mark.timeout(60)
SETTINGS = NetfilterSettings(flood_size=1)  # which of the chains there are

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
        netfilter = Netfilter(SETTINGS)
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
            assert Netfilter(SETTINGS).missing() == []
            assert Netfilter(SETTINGS).generation() == number + 2
    with pytest.raises(TimeoutError):
        echo.connect(timeout=0.3)


HOSTED = (
    on("cli0", HOST)
    + policy("early", order=1)
    + """  applyOnForward: true
  preDNAT: true
  types: [Ingress]
  ingress:
    - {action: Deny, protocol: TCP, destination: {ports: [7002]}}
    - {action: Allow, protocol: TCP, source: {nets: [10.77.1.0/24]}, destination: {ports: [7001]}}
"""
    + policy("closed", order=2)
    + """  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [7002]}}]
"""
)
HOST_TAKEN = {
    "whole table": "delete table inet portcullis_host",
    "rules": "flush chain inet portcullis_host pre_dnat",
    "a rule more": "insert rule inet portcullis_host pre_dnat accept",
    "all tables": "flush ruleset",
    "elements": "flush set inet portcullis_host {set}",
}


@pytest.mark.parametrize("what", HOST_TAKEN)
def test_rules_of_host_policy_are_made_again_within_a_second(listening: Node, what: str) -> None:
    node, net = listening, listening.net
    node.policy(HOSTED)
    node.start()
    time.sleep(0.5)
    assert "ruleset_lost" not in node.log(), "our own changes are not for alarm"
    sets = re.findall(r"set (\w+v4) ", net.node.run(["nft", "list", "sets"]).stdout)
    net.node.run(["nft", HOST_TAKEN[what].format(set=sets[0])])
    node.wait_for("ruleset_lost", timeout=1.0)
    assert not reaches(net.client, "10.77.1.1", 7002), "preDNAT policy denies it"
    assert reaches(net.client, "10.77.1.1", 7001), "preDNAT policy allows it"
    node.policy(HOSTED.replace("[7001]", "[7009]"))
    wait_until(lambda: not reaches(net.client, "10.77.1.1", 7001), 10, node.log)
    assert node.log().count("ALARM") == 1


FEED = """
name = "drops"
file = "drops.txt"
action = "drop"
kernel = true
"""
FEED_TAKEN = {
    "whole table": "delete table inet portcullis_feeds",
    "rules": "flush chain inet portcullis_feeds forward",
    "elements": "flush set inet portcullis_feeds f0_4_32",
}


@pytest.mark.parametrize("what", FEED_TAKEN)
def test_sets_of_feeds_are_made_again_within_a_second(node: Node, echo: Echo, what: str) -> None:
    (node.directory / "feeds.d/drops.txt").write_text("10.77.2.99\n2001:db8::/32\n")
    (node.directory / "feeds.d/drops.toml").write_text(FEED)
    node.start()
    node.wait_for("its addresses in the kernel are in step")
    time.sleep(0.5)
    assert "ruleset_lost" not in node.log(), "our own changes are not for alarm"
    node.net.node.run(["nft", FEED_TAKEN[what]])
    node.wait_for("ruleset_lost", timeout=1.0)
    listed = node.net.node.run(["nft", "list", "table", "inet", "portcullis_feeds"]).stdout
    assert "10.77.2.99" in listed and listed.count("drop") == 12
    assert node.log().count("ALARM") == 1


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
