"""One live service for all tests of this folder; each test makes what it needs."""

from collections.abc import Iterator

import pytest

from tests.live import ROOMY, LiveService, live_service

SECOND = "00000000-0000-0000-0000-000000000002"
"""A subscription in which nothing lies at first."""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with live_service(
        tmp_path_factory.mktemp("home"), **ROOMY, subscriptions=(SECOND,), locations_without_tuning=("eastus2",)
    ) as running:
        yield running
