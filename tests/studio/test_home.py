"""The first page: the demo from a click to answers, and what is told of account and machine."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.studio.browsing import Browsing
from tests.studio.serving import StudioService
from tunery import sample

USER = "Cognitive Services OpenAI User"
WANTED = sample.generate().held_out[0].answer


@pytest.fixture
def no_demo(studio: StudioService) -> None:
    """Nothing that another test's demo left."""
    for job in studio.azure().fine_tuning.jobs.list(limit=50):
        if (job.metadata or {}).get("made_by"):
            for name in [one["name"] for one in studio.arm("GET", "/deployments").json()["value"]]:
                studio.arm("DELETE", f"/deployments/{name}")
            studio.http("DELETE", f"/openai/fine_tuning/jobs/{job.id}")


@pytest.mark.usefixtures("no_demo")
def test_the_demo_goes_from_a_click_to_answers_and_over_a_reload(studio: StudioService, page: Page) -> None:
    studio.pull("hold", 5)
    studio.pull("answer", ["I can't say."], [WANTED])
    page.goto("/studio/")
    page.get_by_role("button", name="Run the demo").click()
    train = page.get_by_role("listitem").filter(has=page.get_by_role("link", name="Train", exact=True))
    expect(train).to_contain_text("Step 4 of 12")
    expect(page.get_by_text(", ".join(sample.FILES))).to_be_visible()
    page.reload()
    expect(train).to_contain_text("Under way")
    studio.pull("release")
    table = page.get_by_role("table")
    expect(table.get_by_role("row").nth(1)).to_contain_text(f"I can't say.{WANTED}{WANTED}")
    expect(page.get_by_text("Tuned model: 1 of 3 exactly as wanted")).to_be_visible()
    [job] = [one for one in studio.azure().fine_tuning.jobs.list() if (one.metadata or {}).get("made_by")]
    assert studio.arm("GET", "/deployments/demo").json()["properties"]["model"]["name"] == job.fine_tuned_model
    page.goto("/studio/")
    expect(page.get_by_role("button", name="Ask both models")).to_be_visible()
    expect(table).to_have_count(0)


@pytest.mark.usefixtures("no_demo")
def test_a_demo_whose_training_fails_says_why_and_begins_anew(studio: StudioService, page: Page) -> None:
    studio.pull("train", fails="The loss is <b>not</b> a number.")
    page.goto("/studio/")
    page.get_by_role("button", name="Run the demo").click()
    expect(page.get_by_text("The loss is <b>not</b> a number.")).to_be_visible()
    studio.pull("train")
    page.get_by_role("button", name="Begin the demo anew").click()
    expect(page.get_by_role("table")).to_be_visible()


@pytest.mark.usefixtures("no_demo")
def test_two_windows_that_run_the_demo_do_not_stop_each_other(studio: StudioService, browsing: Browsing) -> None:
    studio.pull("hold", 5)
    windows = [browsing.window() for _ in range(3)]
    windows[0].goto("/studio/")
    windows[0].get_by_role("button", name="Run the demo").click()
    expect(windows[0].get_by_text("Step 4 of 12")).to_be_visible()
    for window in windows[1:]:
        window.goto("/studio/?demo=run")
        expect(window.get_by_text("Step 4 of 12")).to_be_visible()
    studio.pull("release")
    for window in windows:
        expect(window.get_by_role("table")).to_be_visible()


@pytest.mark.usefixtures("no_demo")
def test_a_demo_whose_deployment_fails_goes_on_with_the_model_it_has(studio: StudioService, page: Page) -> None:
    studio.pull("break_engine", "There is no memory left.")
    page.goto("/studio/")
    page.get_by_role("button", name="Run the demo").click()
    expect(page.get_by_text("There is no memory left.")).to_be_visible()
    studio.pull("break_engine", None)
    page.get_by_role("button", name="Go on with the demo").click()
    expect(page.get_by_role("table")).to_be_visible()
    assert len([one for one in studio.azure().fine_tuning.jobs.list() if (one.metadata or {}).get("made_by")]) == 1


@pytest.mark.usefixtures("no_demo")
def test_the_machine_the_limits_and_the_way_in_are_told(studio: StudioService, page: Page) -> None:
    page.goto("/studio/")
    expect(page.get_by_text(re.compile(r"GB of .* GB"))).to_be_visible()
    expect(page.get_by_text("0 running, 0 waiting")).to_be_visible()
    expect(page.get_by_role("progressbar", name="Deployments of tuned models")).to_be_visible()
    expect(page.get_by_text(studio.rooms.settings.endpoint, exact=True)).to_be_visible()
    told = {usage["name"]: usage["used"] for usage in studio.http("GET", "/openai/usages").json()["data"]}
    expect(page.get_by_text(f"Files: {told['max_files']}", exact=True)).to_be_visible()


@pytest.mark.usefixtures("no_demo")
def test_who_may_only_read_sees_the_demo_greyed(browsing: Browsing) -> None:
    page = browsing.window(roles=(USER,))
    page.goto("/studio/")
    button = page.get_by_role("button", name=re.compile("demo"))
    expect(button).to_be_disabled()
    expect(button).to_have_attribute("title", re.compile("OpenAI Contributor"))
    expect(page.get_by_text("0 running, 0 waiting")).to_be_visible()
