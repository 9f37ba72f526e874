"""Models, jobs and their curves in the browser: the whole way of a job, and what may not be done."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.studio.browsing import Browsing
from tests.studio.serving import StudioService
from tests.test_files import jsonl

PAYLOAD = "<img src=x onerror=alert(document.cookie)>"
COUNTED = "selector => getElement(document.querySelector(selector).id.slice(1)).counted()"


@pytest.fixture
def file(studio: StudioService) -> str:
    return studio.file("models.jsonl", jsonl())


def points(page: Page) -> int:
    """Of the training curve of the first plot."""
    return int(page.evaluate(COUNTED, "[role=img].h-72")[0])


def test_a_job_is_watched_from_waiting_to_its_end_without_a_reload(
    studio: StudioService, page: Page, file: str
) -> None:
    studio.pull("train", steps=6)
    studio.pull("hold", 5)
    studio.job(file, until=["running"])
    job = studio.job(file, validation_file=file, suffix="watched", until=["pending"])
    page.goto("/studio/models")
    row = page.get_by_role("row").filter(has_text="watched")
    expect(row).to_contain_text("Waiting")
    row.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("ft-.*-watched"))
    plot = page.get_by_role("img", name=re.compile("^Loss"))
    expect(plot).to_have_attribute("aria-label", "Loss: nothing measured yet")
    studio.pull("train", steps=40)
    studio.pull("hold", 21)
    expect(page.get_by_role("progressbar", name="Progress of the training")).to_be_visible()
    expect(page.get_by_text("Running", exact=True)).to_be_visible()
    expect(plot).to_have_attribute("aria-label", re.compile(r"Training: .* at step 20; Validation"))
    assert points(page) == 20
    studio.pull("release")
    expect(page.get_by_text("Succeeded", exact=True)).to_be_visible()
    expect(plot).to_have_attribute("aria-label", re.compile("at step 40"))
    assert points(page) == 40
    expect(page.get_by_text(f"Job succeeded. The tuned model is gpt-35-turbo-0613.ft-{job.id[6:]}")).to_be_visible()
    expect(page.get_by_role("button", name="Deploy").first).to_be_enabled()


def test_a_job_is_paused_resumed_cancelled_and_deleted(studio: StudioService, page: Page, file: str) -> None:
    studio.pull("train", steps=4000, pace=0.05)
    job = studio.job(file, until=["running"])
    page.goto(f"/studio/models/{job.id}")
    expect(page.get_by_text(re.compile(r"Step [\d,]+ of 4,000"))).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Running", exact=True)).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    refusal = page.get_by_role("alert").filter(has_text="Cancel it or wait for its end.")
    expect(refusal).to_be_visible()
    page.get_by_role("button", name="Cancel job").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert studio.azure().fine_tuning.jobs.retrieve(job.id).status == "running"
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/studio/models")
    assert studio.http("GET", f"/openai/fine_tuning/jobs/{job.id}").status_code == 404


def test_a_deployed_model_is_kept_and_its_page_names_the_deployment(
    studio: StudioService, page: Page, file: str
) -> None:
    job = studio.job(file, suffix="deployed")
    studio.deployment("serves-it", job.fine_tuned_model)
    page.goto(f"/studio/models/{job.fine_tuned_model}")
    expect(page.get_by_role("link", name="serves-it")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("while the deployment 'serves-it' serves it. Delete the deployment first.")).to_be_visible()


def test_a_reader_sees_everything_and_is_told_which_role_is_missing(
    studio: StudioService, browsing: Browsing, file: str
) -> None:
    job = studio.job(file, suffix="for-readers")
    page = browsing.window(roles=("Cognitive Services OpenAI User",))
    page.goto(f"/studio/models/{job.id}")
    for name in ("Delete", "Tune again from here", "Deploy"):
        button = page.get_by_role("button", name=name).first
        expect(button).to_be_disabled()
        expect(button).to_have_attribute("title", re.compile("Cognitive Services OpenAI Contributor"))
    expect(page.get_by_role("button", name="Download results")).to_be_enabled()
    page.goto("/studio/models?tab=base")
    expect(page.get_by_role("cell", name="gpt-35-turbo-0613", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Tune this model")).to_have_count(0)


def test_texts_of_others_stay_text(studio: StudioService, page: Page, file: str) -> None:
    studio.pull("train", fails=f"{PAYLOAD} at line 3\nand more")
    job = studio.job(file, metadata={"team": PAYLOAD})
    page.goto(f"/studio/models/{job.id}")
    alert = page.get_by_role("alert").filter(has_text="The job failed")
    expect(alert).to_contain_text(PAYLOAD)
    expect(page.get_by_role("table").get_by_text(PAYLOAD).first).to_be_visible()
    expect(page.get_by_text(f"team: {PAYLOAD}")).to_be_visible()
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_a_reload_keeps_tab_search_status_and_page(studio: StudioService, page: Page, file: str) -> None:
    studio.job(file, suffix="needle")
    studio.job(file, suffix="hay")
    page.goto("/studio/models")
    page.get_by_label("Search name or job id").fill("needle")
    expect(page.get_by_role("row").filter(has_text="hay")).to_have_count(0)
    page.get_by_role("combobox", name="Status").click()
    page.get_by_role("option", name="Succeeded").click()
    expect(page).to_have_url(re.compile(r"search=needle&status=succeeded"))
    page.reload()
    expect(page.get_by_label("Search name or job id")).to_have_value("needle")
    expect(page.get_by_role("row").filter(has_text="needle")).to_have_count(1)
    page.get_by_label("Search name or job id").fill("nothing is called so")
    expect(page.get_by_text("Nothing found")).to_be_visible()
    page.get_by_role("tab", name="Base models").click()
    expect(page).to_have_url(re.compile("tab=base"))
    page.reload()
    expect(page.get_by_role("tab", name="Base models")).to_have_attribute("aria-selected", "true")


def test_jobs_are_compared_on_one_plot_with_their_differences(studio: StudioService, page: Page, file: str) -> None:
    one = studio.job(file, suffix="first", hyperparameters={"n_epochs": 1})
    other = studio.job(file, suffix="second", hyperparameters={"n_epochs": 4})
    page.goto("/studio/models")
    for suffix in ("first", "second"):
        page.get_by_role("checkbox", name=re.compile(suffix)).click()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url(f"**/studio/compare?job={one.id}&job={other.id}")
    loss = page.get_by_role("img", name=re.compile("^Loss|first"))
    expect(loss.first).to_have_attribute(
        "aria-label", re.compile("1 first: Training: .* step 12; 2 second: Training: ")
    )
    expect(page.get_by_role("row", name=re.compile("n_epochs – differs 1 4"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("^batch_size 1 1|^batch_size "))).not_to_contain_text("differs")


def test_overfitting_is_said_in_the_visitor_s_language_and_the_picture_can_be_kept(
    studio: StudioService, browsing: Browsing, file: str
) -> None:
    studio.pull("train", steps=90, overfits=True)
    job = studio.job(file, validation_file=file)
    page = browsing.window(language="de", colours="dark")
    page.goto(f"/studio/models/{job.id}")
    expect(page.get_by_text("Überanpassung")).to_contain_text("Der beste Prüfpunkt ist")
    expect(page.get_by_text("bester", exact=True)).to_be_visible()
    expect(page.get_by_role("img", name=re.compile(": Training: .* bei Schritt 90"))).to_have_count(3)
    with page.expect_download() as download:
        page.get_by_role("button", name="Verlust als PNG speichern").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_events_are_paged_and_a_reload_stays_on_the_page(studio: StudioService, page: Page, file: str) -> None:
    studio.pull("train", steps=400)
    job = studio.job(file)
    page.goto(f"/studio/models/{job.id}")
    expect(page.get_by_text("Job succeeded.")).to_be_visible()
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_text("Step 200: ")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Step 200: ")).to_be_visible()
    expect(page.get_by_text("Job succeeded.")).to_have_count(0)
    page.get_by_role("button", name="Newest").click()
    expect(page.get_by_text("Job succeeded.")).to_be_visible()


def test_a_job_that_somebody_else_deletes_is_said_to_be_gone(
    studio: StudioService, browsing: Browsing, page: Page, file: str
) -> None:
    job = studio.job(file)
    page.goto(f"/studio/models/{job.id}")
    expect(page.get_by_text("Job succeeded.")).to_be_visible()
    assert studio.http("DELETE", f"/openai/fine_tuning/jobs/{job.id}").ok
    expect(page.get_by_role("alert").filter(has_text=f"The fine-tuning job '{job.id}' does not exist.")).to_be_visible()
    browsing.complaints.expect("status of 404")
    page.goto(f"/studio/models/{job.fine_tuned_model}")
    expect(page.get_by_text(f"The model '{job.fine_tuned_model}' does not exist.")).to_be_visible()
