"""kill -9 of worker and server in the middle of an import: it goes on from the bytes that were written down."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.imports.given import Origin, serving
from tests.journeys.conftest import Service, running
from tests.journeys.test_survival import kill_all
from tests.test_files import jsonl
from tests.waiting import until

CONTENT = jsonl(20_000)
HALF = 1_000_000


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Service]:
    """A service that may read from loopback and whose leases are short."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "tunery.toml").write_text('import_allow = "127.0.0.1"\nlease_seconds = 3.0\n')
    yield from running(home)


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_an_import_whose_process_is_killed_goes_on_from_what_is_on_disk(quick: Service, victim: str) -> None:
    origin = Origin(CONTENT, cuts=[HALF], hold=threading.Event())
    with serving(origin) as port:
        file_id = ask(quick, f"http://127.0.0.1:{port}/")
        until(lambda: look(quick, file_id)["bytes"] == HALF)
        if victim == "worker":
            kill_all(quick.children("tunery work"))
        else:
            quick.kill()
            quick.start()
        until(lambda: look(quick, file_id)["status"] == "processed")
    first, *later = [headers.get("range") for headers in origin.requests]
    # More than once where a busy machine lets the lease run out.
    assert (first, set(later)) == (None, {f"bytes={HALF}-"})
    assert look(quick, file_id)["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert quick.azure().files.content(file_id).read() == CONTENT


def ask(service: Service, url: str) -> str:
    client = service.azure()
    body = {"purpose": "fine-tune", "filename": "a.jsonl", "content_url": url}
    return client.post("/files/import", body=body, cast_to=dict[str, Any])["id"]  # type: ignore[arg-type]


def look(service: Service, file_id: str) -> dict[str, Any]:
    return service.azure().files.retrieve(file_id).to_dict()
