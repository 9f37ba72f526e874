"""The harness sees what it has to see."""

import pytest
from playwright.sync_api import Page, expect

from tests.studio.browsing import Browsing
from tests.studio.serving import StudioService
from tests.test_files import jsonl
from tests.waiting import until


def test_a_window_is_signed_in_and_speaks_its_language(page: Page, browsing: Browsing) -> None:
    page.goto("/studio/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Welcome to Tunery")
    german = browsing.window(language="de", roles=("Cognitive Services OpenAI User",))
    german.goto("/studio/")
    expect(german.get_by_role("heading", level=1)).to_have_text("Willkommen bei Tunery")
    nobody = browsing.window(signed_in=False)
    nobody.goto("/studio/")
    expect(nobody.get_by_role("heading", name="Sign in to Tunery")).to_be_visible()


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("console.error('broken')", "console: broken"),
        ("setTimeout(() => { throw new Error('thrown') })", "page error"),
        ("location = 'http://127.0.0.2:9/'", "request to another host"),
        ("document.head.append(Object.assign(document.createElement('script'), {text: 'window.x = 1'}))", "Security"),
    ],
)
def test_what_a_page_must_not_do_is_seen(page: Page, browsing: Browsing, script: str, complaint: str) -> None:
    page.goto("/studio/")
    page.evaluate(f"() => {{ {script} }}")

    def seen() -> bool:
        page.wait_for_timeout(20)  # events come while Playwright waits
        return any(complaint in line for line in browsing.complaints.unexpected())

    until(seen, said=lambda: browsing.complaints.said)
    browsing.complaints.expect("")


def test_jobs_and_deployments_do_what_the_levers_say(studio: StudioService) -> None:
    file = studio.file("levers.jsonl", jsonl())
    studio.pull("hold", 1)
    held = studio.job(file, until=["running"])
    studio.pull("release")
    tuned = studio.job(file).fine_tuned_model
    assert studio.azure().fine_tuning.jobs.retrieve(held.id).status == "succeeded"
    studio.pull("train", fails="The loss is not a number at step 3.")
    assert "not a number" in studio.job(file).error.message
    studio.pull("break_engine", "out of memory")
    assert studio.deployment("broken", tuned)["properties"]["provisioningState"] == "Failed"


def test_an_address_without_a_page_says_so_inside_the_frame(browsing: Browsing) -> None:
    browsing.complaints.expect("status of 404")
    page = browsing.window(language="de")
    answer = page.goto("/studio/nichts/hier")
    assert answer is not None and answer.status == 404
    expect(page.get_by_role("alert")).to_have_text("Diese Seite gibt es in Studio nicht.")
    expect(page.get_by_role("navigation")).to_be_visible()
