"""One live service for all tests of this folder; each test makes what it needs."""

from collections.abc import Iterator

import pytest

from tests.live import ROOMY, LiveService, live_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with live_service(tmp_path_factory.mktemp("home"), **ROOMY) as running:
        yield running
