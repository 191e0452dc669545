# SPDX-License-Identifier: Apache-2.0
"""The nft backend's script against the kernel: as far as it has the queue statement."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from appliance.lab import Lab, Namespace
from appliance.netfilter import Netfilter, NetfilterError, NetfilterSettings, backend, elements, nft, ruleset

pytestmark = pytest.mark.timeout(20)
SETTINGS = NetfilterSettings(bypass=True)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Lab() as lab:
        made = lab.namespace("alone")
        with made.enter():
            yield made


def test_the_script_is_understood_and_only_the_queue_statement_may_be_unknown(namespace: Namespace) -> None:
    script = ruleset.install_script(SETTINGS, "nft", 1)
    if backend.has_nft_queue():
        nft.run(script)
        assert "queue flags bypass to 0-1" in namespace.run(["nft", "list", "table", "inet", "portcullis"]).stdout
        return
    with pytest.raises(nft.NftError) as caught:
        nft.run(script)
    assert "syntax" not in str(caught.value)  # nft made rules of it, the kernel refused
    assert nft.query("list ruleset") == []  # and nothing of the transaction stayed
    nft.run("\n".join(line for line in script.splitlines() if " queue num " not in line))
    assert "chain queue_forward" in namespace.run(["nft", "list", "ruleset"]).stdout


def test_the_spreading_statement_is_understood_and_probed(namespace: Namespace) -> None:
    script = ruleset.install_script(replace(SETTINGS, by_tuple=True), "nft", 1)
    statement = f"queue flags bypass to {ruleset.spread(0, 2)}"
    assert statement in script
    netfilter = Netfilter(SETTINGS)
    netfilter.preflight()
    assert netfilter.settings.by_tuple == backend.has_nft_queue(ruleset.spread(0, 2))
    if netfilter.settings.by_tuple:
        nft.run(script)
        assert "symhash mod 2" in namespace.run(["nft", "list", "table", "inet", "portcullis"]).stdout
        return
    if not backend.has_nft_queue():
        with pytest.raises(nft.NftError) as caught:
            nft.run(script)
        assert "syntax" not in str(caught.value)


def test_what_the_kernel_has_not_is_refused_by_name(namespace: Namespace) -> None:
    if backend.has_nft_queue():
        pytest.skip("this kernel has the nft queue statement")
    with pytest.raises(NetfilterError, match="no nft queue statement"):
        Netfilter(NetfilterSettings(backend="nft")).preflight()
    with pytest.raises(NetfilterError, match="priority 100"):
        Netfilter(NetfilterSettings(priority=100)).preflight()
    assert Netfilter(NetfilterSettings()).preflight().backend == "xt"


def test_probing_leaves_nothing(namespace: Namespace) -> None:
    Netfilter(NetfilterSettings()).preflight()
    assert nft.query("list ruleset") == []


def test_the_nft_command_stands_in_for_the_library(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ruleset.install_script(SETTINGS, "xt", 1)
    nft.run(script)
    by_library = nft.query("list ruleset")
    assert by_library
    monkeypatch.setattr(nft, "_library", lambda: None)
    assert nft.query("list ruleset") == by_library
    nft.run("\n".join(elements.text(ruleset.TABLE, ruleset.generation_change(SETTINGS.marks, 2))))
    assert Netfilter(SETTINGS).generation() == 2
    with pytest.raises(nft.NftError, match="syntax error"):
        nft.run("bogus")


def test_a_lost_ruleset_is_reported(namespace: Namespace) -> None:
    netfilter = Netfilter(SETTINGS)
    netfilter.install(1)
    namespace.run(["nft", "flush", "ruleset"])
    missing = netfilter.missing()
    assert "chain obey_output" in missing
    assert ("chain queue_output" if backend.has_nft_queue() else "ip6 security queue rules") in missing
    netfilter.set_generation(2)  # finds no table, and makes it again
    assert netfilter.missing() == []
    assert netfilter.lost == 1
    assert netfilter.generation() == 2
