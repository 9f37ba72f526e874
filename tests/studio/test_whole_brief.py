"""The whole brief in the browser, with the real model: from signing in to an empty account again."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.journeys.conftest import Service, base_model, fresh  # noqa: F401 (fixtures)
from tests.live import Doors
from tests.studio.browsing import Browsing
from tests.studio.serving import CHAT_BASE
from tunery import wiring
from tunery.sample import SYSTEM, generate, jsonl
from tunery.settings import Settings

pytestmark = [pytest.mark.model, pytest.mark.timeout(1200)]

DATA = generate()
LONG = 240_000
"""Milliseconds for what the real model takes its time for, on a busy machine."""


@pytest.fixture
def doors(fresh: Service) -> Iterator[Doors]:  # noqa: F811
    rooms = wiring.services(Settings(home=fresh.home, port=fresh.port, tls_port=fresh.tls_port))
    opened = Doors(rooms, fresh.home / "tls" / "ca.pem")
    yield opened
    opened.close()
    rooms.close()


def test_the_whole_brief_from_signing_in_to_an_empty_account(doors: Doors, browser: Browser, tmp_path: Path) -> None:
    browsing = Browsing(browser, doors)
    page = browsing.window(signed_in=False)
    sign_in(page, doors.key)
    page.goto("/studio/create")
    page.get_by_label("Base model", exact=True).click()
    page.get_by_role("option", name=CHAT_BASE, exact=True).click()
    next_step(page, "Training data")
    upload(page, tmp_path / "training_set.jsonl", jsonl(DATA.training[:40]))
    next_step(page, "Validation data")
    upload(page, tmp_path / "validation_set.jsonl", jsonl(DATA.validation[:10]))
    first = start(page, suffix="desk", epochs=1)
    watched(page)
    assert float(results(page)[-1]["train_loss"]) < float(results(page)[0]["train_loss"])
    deploy(page, first, "tickets")
    deploy(page, CHAT_BASE, "plain")
    base, tuned = both_answers(page, DATA.held_out[0].question)
    assert base != tuned
    file = ten_answers_as_a_file(page)
    page.goto(f"/studio/models/{first}")
    page.get_by_role("button", name="Tune again from here").first.click()
    expect(page.get_by_label("Base model", exact=True)).to_have_value(first)
    next_step(page, "Training data")
    page.get_by_role("button", name=f"Choose: {file}").click()
    next_step(page, "Validation data")
    second = start(page, suffix="again", epochs=1)
    watched(page)
    for name in ("tickets", "plain"):
        delete_deployment(page, name)
    for model in (second, first):
        delete(page, f"/studio/models/{model}", "/studio/models")
    for one in doors.azure().files.list().data:
        delete(page, f"/studio/files/{one.id}", "/studio/files")
    left = doors.azure()
    assert not left.files.list().data and not left.fine_tuning.jobs.list().data
    browsing.close()
    assert not browsing.complaints.unexpected()


def sign_in(page: Page, key: str) -> None:
    page.goto("/studio/")
    page.get_by_label("Account key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("navigation")).to_be_visible()


def next_step(page: Page, reached: str) -> None:
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.get_by_role("heading", level=2, name=reached, exact=True)).to_be_visible()


def upload(page: Page, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    page.get_by_role("tab", name="Local file").click()
    page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_role("region", name="Chosen file")).to_contain_text("Ready", timeout=LONG)


def start(page: Page, *, suffix: str, epochs: int) -> str:
    """From the step before the options; the name of the model that is being made."""
    next_step(page, "Advanced options")
    page.get_by_label("Suffix of the model's name").fill(suffix)
    page.get_by_label("Advanced", exact=True).click()
    page.get_by_label("Epochs").fill(str(epochs))
    next_step(page, "Review")
    page.get_by_role("button", name="Start training job").click()
    page.get_by_role("row").filter(has_text=f"-{suffix}").get_by_role("link").first.click()
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(re.compile(rf"\.ft-.*-{suffix}$"))
    return heading.inner_text()


def watched(page: Page) -> None:
    """The curve grows while it trains, without a reload, and the job ends well."""
    plot = page.get_by_role("img", name=re.compile("^Loss"))
    expect(plot).to_have_attribute("aria-label", re.compile(r"at step \d"), timeout=LONG)
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible(timeout=LONG)


def results(page: Page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download results").click()
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))


def deploy(page: Page, model: str, name: str) -> None:
    page.goto(f"/studio/deployments?model={model}")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Deployment name").fill(name)
    dialog.get_by_role("button", name="Create").click()
    card = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, exact=True))
    expect(card).to_contain_text("Succeeded", timeout=LONG)


def both_answers(page: Page, question: str) -> tuple[str, str]:
    """Of the base and the tuned model, side by side."""
    page.goto("/studio/playground?deployment=plain,tickets")
    page.get_by_label("System message").fill(SYSTEM)
    ask(page, question)
    texts = []
    for name in ("plain", "tickets"):
        answer = page.get_by_role("article", name=f"Answer of {name}")
        expect(answer).to_contain_text("completion tokens", timeout=LONG)
        texts.append(answer.locator(".whitespace-pre-wrap").inner_text())
    return texts[0], texts[1]


def ask(page: Page, question: str) -> None:
    page.get_by_label("Message", exact=True).fill(question)
    page.get_by_label("Message", exact=True).press("Control+Enter")


def ten_answers_as_a_file(page: Page) -> str:
    """What the tuned model said, kept and uploaded for the next round; the file's name."""
    for count, example in enumerate(DATA.held_out[:10], start=1):
        page.goto("/studio/playground?deployment=tickets")
        page.get_by_label("System message").fill(SYSTEM)
        ask(page, example.question)
        answer = page.get_by_role("article", name="Answer of tickets")
        expect(answer).to_contain_text("completion tokens", timeout=LONG)
        answer.get_by_role("button", name="Keep as training example").click()
        expect(page.get_by_role("button", name=f"Training examples ({count})")).to_be_visible()
    page.get_by_role("button", name="Training examples (10)").click()
    name = page.get_by_label("File name").input_value()
    page.get_by_role("button", name="Upload as training file").click()
    expect(page.get_by_text("Checked and ready for training:")).to_be_visible(timeout=LONG)
    return name


def delete_deployment(page: Page, name: str) -> None:
    page.goto("/studio/deployments")
    card = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, exact=True))
    card.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(card).to_have_count(0)


def delete(page: Page, path: str, back: str) -> None:
    page.goto(path)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url(f"**{back}")
