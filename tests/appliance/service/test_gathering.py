# SPDX-License-Identifier: Apache-2.0
import asyncio
from pathlib import Path

import pytest

from appliance.config import Config
from appliance.service import gathering
from appliance.service.gathering import Gathering
from appliance.service.interfaces import Interfaces
from appliance.service.resolvers import read_resolvers


def test_resolvers_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    monkeypatch.setattr(gathering, "read_resolvers", lambda: read_resolvers((path,)))
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
