"""Fixtures that several folders of tests share."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.fake_training import FakeClock
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.database import Database

# How long an example takes is the machine's business. What hypothesis chose for where it runs stays: in CI it draws the
# same examples each time.
hypothesis.settings.register_profile("tunery", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("tunery")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    """An empty database and blob folder with a clock that tests move."""
    database = Database(f"sqlite:///{tmp_path / 'tunery.sqlite'}")
    database.migrate()
    yield Store(database, FolderBlobs(tmp_path / "blobs"), clock)
    database.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, models=tmp_path / "models", lease_seconds=15.0)
