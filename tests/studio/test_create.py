"""The wizard in a browser: every step, every reason to wait, and the job that comes out of it."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import sqlalchemy as sa
from playwright.sync_api import Locator, Page, expect

from tests.studio.browsing import Browsing
from tests.studio.serving import CHAT_BASE, StudioService
from tests.test_files import jsonl, preference_jsonl
from tunery.store import tables

READER = "Cognitive Services OpenAI User"
COMPLETIONS = b"".join(b'{"prompt": "p%d", "completion": "c"}\n' % number for number in range(12))


def open_at(page: Page, **choices: str) -> None:
    page.goto(f"/studio/create?{urlencode(choices)}")


def choices(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def heading(page: Page, text: str) -> Locator:
    return page.get_by_role("heading", level=2, name=text, exact=True)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def next_step(page: Page, reached: str) -> None:
    button(page, "Next").click()
    expect(heading(page, reached)).to_be_visible()


def choose(page: Page, name: str) -> None:
    button(page, f"Choose: {name}").click()
    expect(page.get_by_role("region", name="Chosen file")).to_contain_text(name)


def pick(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def jobs(studio: StudioService) -> list[Any]:
    return studio.azure().fine_tuning.jobs.list(limit=100).data


def start(page: Page) -> None:
    button(page, "Start training job").click()
    page.wait_for_url(re.compile(r"/studio/models"))


def test_existing_files_lead_through_all_steps_to_a_job_as_it_was_chosen(studio: StudioService, page: Page) -> None:
    training, validation = studio.file("journey.jsonl", jsonl(40)), studio.file("journey-held-out.jsonl", jsonl(12))
    page.goto("/studio/create")
    pick(page, "Base model", CHAT_BASE)
    expect(page.get_by_role("definition").get_by_text("smollm2-135m-instruct")).to_be_visible()
    next_step(page, "Training data")
    choose(page, "journey.jsonl")
    next_step(page, "Validation data")
    choose(page, "journey-held-out.jsonl")
    next_step(page, "Advanced options")
    page.get_by_label("Suffix of the model's name").fill("shop-2")
    page.get_by_label("Advanced", exact=True).click()
    expect(page.get_by_label("Batch size")).to_have_attribute("placeholder", "Automatic: 4")
    page.get_by_label("Epochs").fill("2")
    page.get_by_label("Learning rate multiplier").fill("0,5")
    page.get_by_label("Seed").fill("7")
    next_step(page, "Review")
    expect(page.get_by_text("4 (automatic)")).to_be_visible()
    expect(page.get_by_text("2 GB of 8 GB free")).to_be_visible()
    start(page)
    expect(page.get_by_role("row").nth(1)).to_contain_text("shop-2")
    made = jobs(studio)[0]
    assert (made.training_file, made.validation_file, made.model) == (training, validation, CHAT_BASE)
    assert (made.seed, made.model_extra["suffix"]) == (7, "shop-2")
    asked = studio.rooms.jobs.get(studio.account.id, made.id).requested
    assert asked == {"n_epochs": 2, "batch_size": None, "learning_rate_multiplier": 0.5, "dpo": None}


def test_a_new_file_is_chosen_as_soon_as_it_is_sent(studio: StudioService, page: Page, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.jsonl"
    fresh.write_bytes(jsonl(20))
    open_at(page, model=CHAT_BASE, step="training")
    page.get_by_role("tab", name="Local file").click()
    page.locator("input[type=file]").set_input_files(fresh)
    chosen = page.get_by_role("region", name="Chosen file")
    expect(chosen).to_contain_text("20 examples")
    next_step(page, "Validation data")
    next_step(page, "Advanced options")
    next_step(page, "Review")
    start(page)
    assert studio.azure().files.retrieve(jobs(studio)[0].training_file).filename == "fresh.jsonl"


def test_next_waits_and_says_for_what(studio: StudioService, page: Page) -> None:
    studio.file("prompts.jsonl", COMPLETIONS)
    file = studio.file("held.jsonl", jsonl(20))
    page.goto("/studio/create")
    held = page.locator("#held")
    expect(button(page, "Next")).to_be_disabled()
    expect(held).to_have_text("Choose a base model first.")
    open_at(page, model="gpt-9")
    expect(held).to_contain_text("The model 'gpt-9' is neither")
    open_at(page, model=CHAT_BASE, step="training")
    expect(held).to_have_text("Choose training data first.")
    expect(button(page, "Choose: prompts.jsonl")).to_be_disabled()
    expect(page.get_by_text("Holds completion examples; needed are chat examples")).to_be_visible()
    open_at(page, model=CHAT_BASE, step="training", training="file-gone")
    expect(held).to_have_text("The file 'file-gone' does not exist.")
    open_at(page, model=CHAT_BASE, step="options", training=file, options="advanced", n_epochs="99")
    expect(held).to_have_text('hyperparameters.n_epochs is 99; it may be a whole number from 1 to 50, or "auto".')
    page.get_by_label("Epochs").fill("9")
    expect(held).to_have_text("")
    page.get_by_label("Seed").fill("-1")
    expect(held).to_have_text("seed is '-1'; it may be 0 to 2147483647.")
    open_at(page, model=CHAT_BASE, step="review")
    expect(held).to_have_text("Training data: Choose training data first.")
    expect(button(page, "Start training job")).to_be_disabled()


def test_a_file_on_its_way_holds_the_step_and_lets_it_go_by_itself(studio: StudioService, page: Page) -> None:
    rooms = studio.rooms
    with rooms.store.database.begin() as connection:
        file = rooms.files.announce(connection, account_id=studio.account.id, filename="far.jsonl", purpose="fine-tune")
    open_at(page, model=CHAT_BASE, step="training", training=file.id)
    expect(page.locator("#held")).to_have_text("The file is still being fetched; this page goes on by itself.")
    expect(button(page, "Next")).to_be_disabled()
    with rooms.files.receive() as incoming:
        incoming.write(jsonl(20))
    with rooms.store.database.begin() as connection:
        arrived = {"blob": f"files/{incoming.file_id}", "bytes": incoming.size}
        connection.execute(sa.update(tables.files).where(tables.files.c.id == file.id).values(arrived))
    expect(button(page, "Next")).to_be_enabled()
    expect(page.get_by_role("region", name="Chosen file")).to_contain_text("20 examples")


def test_a_faulty_file_leads_to_its_findings(studio: StudioService, page: Page) -> None:
    faulty = studio.azure().files.create(file=("bad.jsonl", b"{broken\n" * 20), purpose="fine-tune").id
    open_at(page, model=CHAT_BASE, step="training", training=faulty)
    chosen = page.get_by_role("region", name="Chosen file")
    expect(chosen.get_by_text("Faulty", exact=True)).to_be_visible()
    expect(page.locator("#held")).to_have_text("The file is faulty: a job can't use it until it is corrected.")
    link = chosen.get_by_role("link", name=re.compile("Findings: .*bad.jsonl"))
    expect(link).to_have_attribute("href", f"/studio/files/{faulty}")


def test_a_link_that_can_t_be_is_refused_at_its_field_and_one_that_fails_says_why(
    studio: StudioService, page: Page
) -> None:
    open_at(page, model=CHAT_BASE, step="training")
    page.get_by_role("tab", name="Azure Blob or web link").click()
    page.get_by_label("File name").fill("far.jsonl")
    page.get_by_label("Link", exact=True).fill("ftp://files.example/far.jsonl")
    button(page, "Import").click()
    expect(page.get_by_role("alert")).to_contain_text("http")
    page.get_by_label("Link", exact=True).fill("https://127.0.0.1:1/far.jsonl?sig=secret")
    button(page, "Import").click()
    chosen = page.get_by_role("region", name="Chosen file")
    expect(chosen.get_by_text("Faulty", exact=True)).to_be_visible()
    expect(chosen).to_contain_text("Couldn't reach")
    expect(button(page, "Next")).to_be_disabled()
    assert "secret" not in page.url


def test_a_reload_and_the_way_back_lose_nothing(studio: StudioService, page: Page) -> None:
    file = studio.file("kept.jsonl", jsonl(20))
    open_at(page, model=CHAT_BASE, training=file, step="options", options="advanced")
    page.get_by_label("Epochs").fill("5")
    page.get_by_label("Suffix of the model's name").fill("kept")
    expect(page).to_have_url(re.compile("suffix=kept"))
    page.reload()
    expect(page.get_by_label("Epochs")).to_have_value("5")
    next_step(page, "Review")
    expect(page).to_have_url(re.compile("key="))
    said = choices(page)
    page.reload()
    assert choices(page) == said
    page.go_back()
    expect(page.get_by_label("Suffix of the model's name")).to_have_value("kept")
    page.get_by_role("navigation", name="Steps").get_by_role("link", name="Training data").click()
    expect(page.get_by_role("region", name="Chosen file")).to_contain_text("kept.jsonl")


def test_examples_that_stand_in_both_files_are_pointed_out(studio: StudioService, page: Page) -> None:
    training, validation = studio.file("whole.jsonl", jsonl(40)), studio.file("part.jsonl", jsonl(12))
    for step in ("validation", "review"):
        open_at(page, model=CHAT_BASE, training=training, validation=validation, step=step)
        warning = page.get_by_text("12 of 12 validation examples stand in the training data too")
        expect(warning).to_be_visible()


def test_a_tuned_model_or_one_of_its_checkpoints_is_the_base(studio: StudioService, page: Page) -> None:
    file = studio.file("again.jsonl", jsonl(20))
    model = studio.job(file, suffix="old").fine_tuned_model
    open_at(page, model=model, training=file)
    expect(page.get_by_label("Base model", exact=True)).to_have_value(model)
    pick(page, "Version", "Checkpoint of step 6")
    expect(page).to_have_url(re.compile("ckpt-step-6"))
    open_at(page, **{**choices(page), "step": "review"})
    start(page)
    assert jobs(studio)[0].model == f"{model}:ckpt-step-6"


def test_preferences_are_tuned_by_dpo_without_being_told(studio: StudioService, page: Page) -> None:
    file = studio.file("pairs.jsonl", preference_jsonl())
    open_at(page, model=CHAT_BASE, training=file, step="options", options="advanced")
    expect(page.get_by_text("As the data asks for: DPO (preferences)")).to_be_visible()
    page.get_by_label("Beta").fill("0.2")
    next_step(page, "Review")
    start(page)
    assert jobs(studio)[0].method.dpo.hyperparameters.beta == 0.2


def test_a_double_click_makes_one_job_and_coming_back_says_so_before_it_makes_another(
    studio: StudioService, page: Page
) -> None:
    file = studio.file("once.jsonl", jsonl(20))
    before = len(jobs(studio))
    open_at(page, model=CHAT_BASE, training=file, step="review")
    button(page, "Start training job").dblclick()
    page.wait_for_url(re.compile(r"/studio/models"))
    assert len(jobs(studio)) == before + 1
    made = jobs(studio)[0]
    with studio.rooms.store.database.begin() as connection:
        earlier = sa.update(tables.jobs).where(tables.jobs.c.id == made.id).values(created_at=made.created_at - 60)
        connection.execute(earlier)
    page.go_back()
    button(page, "Start training job").click()
    said = page.get_by_role("alert").filter(has_text="These choices were already started")
    seen = said.get_by_role("link", name="See the job")
    expect(seen).to_have_attribute("href", f"/studio/models/{made.id}")
    assert len(jobs(studio)) == before + 1
    start(page)
    assert len(jobs(studio)) == before + 2


def test_a_job_that_doesn_t_fit_says_so_and_may_be_started_all_the_same(studio: StudioService, page: Page) -> None:
    studio.pull("leave_free", 1024**3)
    open_at(page, model=CHAT_BASE, training=studio.file("large.jsonl", jsonl(20)), step="review")
    expect(page.get_by_text("2 GB of 1 GB free")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("There isn't enough free memory")
    expect(button(page, "Start training job")).to_be_enabled()


def test_a_reader_sees_start_greyed_with_the_missing_role(studio: StudioService, browsing: Browsing) -> None:
    file = studio.file("seen.jsonl", jsonl(20))
    page = browsing.window(roles=(READER,))
    open_at(page, model=CHAT_BASE, training=file, step="review")
    expect(button(page, "Start training job")).to_be_disabled()
    expect(page.locator("#held")).to_contain_text(
        "Needs one of the roles: Owner, Cognitive Services OpenAI Contributor"
    )
    expect(page.get_by_text("3 (automatic)").or_(page.get_by_text("5 (automatic)")).first).to_be_visible()


def test_the_wizard_speaks_german_and_fits_a_telephone(studio: StudioService, browsing: Browsing) -> None:
    file = studio.file("lang-" + "x" * 90 + "<img src=x onerror=alert(1)>.jsonl", jsonl(20))
    page = browsing.window(language="de", colours="dark", size=(390, 844))
    for step, title in (
        ("model", "Basismodell"),
        ("training", "Trainingsdaten"),
        ("validation", "Validierungsdaten"),
        ("options", "Erweiterte Optionen"),
        ("review", "Überprüfen"),
    ):
        open_at(page, model=CHAT_BASE, training=file, validation=file, step=step)
        expect(heading(page, title)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), step
    expect(button(page, "Trainingsauftrag starten")).to_be_enabled()
    change = page.get_by_role("link", name="Ändern: Trainingsdaten")
    expect(change).to_have_attribute("href", re.compile("^/studio/create"))
    expect(page.get_by_role("definition").filter(has_text="<img src=x onerror=alert(1)>").first).to_be_visible()


@pytest.mark.parametrize(
    "query", ["step=magic&method=x&type=y&options=z", "training=%00&model=%F0%9F%A6%86", "key=a&key=b"]
)
def test_a_strange_address_still_opens_a_page(page: Page, query: str) -> None:
    page.goto(f"/studio/create?{query}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Create custom model")
