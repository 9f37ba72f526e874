"""One service with Studio and one Chromium for all tests of this folder; a fresh, signed-in window for each test.

    def test_a_fact(studio: StudioService, page: Page) -> None:
        file = studio.file("train.jsonl", jsonl())       # seeding: over the API, or on studio.rooms
        studio.pull("hold", 5)                           # levers of the fakes: see serving.Levers
        page.goto("/studio/files")

`browsing.window(roles=(...,), language="de", colours="dark", size=(390, 844))` opens further windows. A test fails if a
page logs an error, breaks its content policy or asks another host; `browsing.complaints.expect("status of 404")` for
what the test provokes itself.
"""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.studio.browsing import HINT, Browsing, chromium, program
from tests.studio.serving import StudioService, studio_service


# Of this package, not of the session: Playwright's event loop in the main thread would stop asyncio.run elsewhere.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if program() is None:
        assert "CI" not in os.environ, HINT
        pytest.skip(HINT)
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def running_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioService]:
    with studio_service(tmp_path_factory.mktemp("studio")) as service:
        yield service


@pytest.fixture
def studio(running_studio: StudioService) -> Iterator[StudioService]:
    yield running_studio
    running_studio.pull("reset")


@pytest.fixture
def browsing(browser: Browser, studio: StudioService) -> Iterator[Browsing]:
    opened = Browsing(browser, studio)
    yield opened
    opened.close()
    assert not opened.complaints.unexpected(), studio.log()


@pytest.fixture
def page(browsing: Browsing) -> Page:
    """Signed in with the account's key, in English, light, 1280 pixels wide."""
    return browsing.window()
