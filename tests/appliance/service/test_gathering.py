# SPDX-License-Identifier: Apache-2.0
import asyncio
from pathlib import Path

import pytest

from appliance.config import Config
from appliance.service import gathering
from appliance.service.calculation import resolvers
from appliance.service.gathering import Gathering
from appliance.service.interfaces import Interfaces


def test_what_is_no_address_is_no_resolver() -> None:
    text = "# x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver\nnameserver 1.2.3\nnameserver ns.example\n"
    assert resolvers(text) == ("192.0.2.1", "fe80::1%eth0")


def test_resolvers_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    monkeypatch.setattr(gathering, "RESOLV_CONF", (path,))
    monkeypatch.setattr(gathering, "read_interfaces", Interfaces)

    async def story() -> None:
        changed: list[int] = []
        found = Gathering(Config(), explicit=False, changed=lambda: changed.append(1), refused=lambda: None, say=print)
        await found.first()
        assert found.inputs.resolvers == ("192.0.2.1",)
        await found.resync()
        assert not changed
        path.write_text("nameserver 192.0.2.2\n")
        await found.resync()
        assert (found.inputs.resolvers, len(changed)) == (("192.0.2.2",), 1)

    asyncio.run(story())
