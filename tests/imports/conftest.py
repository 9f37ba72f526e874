"""Retries that don't wait, in every test of this folder."""

import pytest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunery.imports.download.RETRY_SECONDS", 0.001)
