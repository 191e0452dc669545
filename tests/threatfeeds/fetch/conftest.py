# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from tests.threatfeeds.fetch.fetch_server import Authority, ListServer, serve


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca")).write()


@pytest.fixture
def server(authority: Authority) -> Iterator[ListServer]:
    yield from serve(authority.context(), authority.file)


@pytest.fixture
def plain_server(authority: Authority) -> Iterator[ListServer]:
    yield from serve(None, authority.file)
