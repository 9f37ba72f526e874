"""Deploying in the browser: from a tuned model to a name that answers, and what is refused on the way."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.api.test_jobs import BASE
from tests.studio.browsing import Browsing
from tests.studio.serving import StudioService
from tests.test_files import jsonl

USER = "Cognitive Services OpenAI User"
CONTRIBUTOR = "Cognitive Services OpenAI Contributor"


@pytest.fixture
def model(studio: StudioService) -> str:
    return studio.job(studio.file("train.jsonl", jsonl()), suffix="desk").fine_tuned_model


def card(page: Page, name: str) -> Locator:
    named = page.get_by_role("heading", name=name, exact=True)
    return page.get_by_role("listitem").filter(has=named)


def deploy(page: Page, name: str) -> None:
    """In the dialog that is open."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Deployment name").fill(name)
    dialog.get_by_role("button", name="Create").click()


def test_a_model_is_deployed_used_paused_and_deleted(studio: StudioService, page: Page, model: str) -> None:
    page.goto(f"/studio/deployments?model={model}")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Deployment name")).to_have_value("desk")
    deploy(page, "whole-life")
    mine = card(page, "whole-life")
    expect(mine).to_contain_text("Succeeded")
    expect(mine).to_contain_text(model)
    expect(mine).to_contain_text(re.compile(r"Last use\s*Never"))
    expect(mine).to_contain_text(re.compile(r"\d{4} if nobody calls it until then\. A forecast"))
    expect(page).to_have_url(re.compile(r"/studio/deployments$"))
    client = studio.azure()
    client.chat.completions.create(model="whole-life", messages=[{"role": "user", "content": "x"}])
    expect(mine).not_to_contain_text("Never")
    mine.get_by_text("Usage").click()
    expect(mine).to_contain_text("1 requests in the last 30 days")
    expect(mine.get_by_role("img", name=re.compile("^Tokens: "))).to_be_visible()
    mine.get_by_role("button", name="Pause").click()
    expect(mine).to_contain_text("Paused")
    mine.get_by_role("button", name="Resume").click()
    expect(mine).not_to_contain_text("Paused")
    mine.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(mine).to_be_visible()
    mine.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(mine).to_have_count(0)
    assert studio.azure().models.retrieve(model).id == model


def test_int8_weights_are_chosen_in_the_dialog_and_the_card_says_what_they_change(
    studio: StudioService, page: Page
) -> None:
    page.goto(f"/studio/deployments?model={BASE}")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Weights").click()
    page.get_by_role("option", name=re.compile("int8: less memory, faster")).click()
    deploy(page, "rounded")
    mine = card(page, "rounded")
    expect(mine).to_contain_text("Succeeded")
    expect(mine).to_contain_text(
        "the same at 40 of 41 places; log probabilities differ by 0.125 on average, 0.5 at most"
    )
    shown = studio.arm("GET", "/deployments/rounded").json()["properties"]
    assert (shown["quantization"], shown["quantizationChange"]["sameToken"]) == ("int8", 40)
    studio.deployment("exact", BASE)
    expect(card(page, "exact")).to_contain_text("As trained (float32)")


def test_a_second_deployment_of_a_model_is_refused_with_the_guide_s_sentence(
    studio: StudioService, browsing: Browsing, model: str
) -> None:
    studio.deployment("only-one", model)
    page = browsing.window(language="de")
    page.goto(f"/studio/deployments?model={model}")
    dialog = page.get_by_role("dialog")
    guide = "Für ein benutzerdefiniertes Modell ist nur eine Bereitstellung zulässig."
    expect(dialog.get_by_role("alert").filter(has_text=guide)).to_contain_text("only-one")
    dialog.get_by_label("Bereitstellungsname").fill("zweite")
    dialog.get_by_role("button", name="Erstellen").click()
    expect(dialog.get_by_role("alert").filter(has_text="a custom model can have only one")).to_be_visible()
    expect(card(page, "zweite")).to_have_count(0)


def test_a_deployment_that_fails_says_why_in_full_and_is_tried_again(
    studio: StudioService, page: Page, model: str
) -> None:
    why = "The engine has 1.2 GiB for adapters and all of it is <b>taken</b>. " + "Free some. " * 20
    studio.pull("break_engine", why)
    page.goto("/studio/deployments")
    page.get_by_role("button", name="Deploy model").click()
    deploy(page, "failing")
    mine = card(page, "failing")
    expect(mine).to_contain_text("Failed")
    expect(mine.get_by_role("alert")).to_have_text(why)
    studio.pull("break_engine", None)
    mine.get_by_role("button", name="Try again").click()
    expect(mine).to_contain_text("Succeeded")
    expect(mine.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "refusal"), [("<img src=x onerror=alert(1)>", "can't be: 1 to 64 letters"), ("taken", "is a deployment")]
)
def test_a_name_that_can_t_be_is_refused_in_the_dialog(
    studio: StudioService, page: Page, name: str, refusal: str
) -> None:
    studio.deployment("taken", BASE)
    page.goto(f"/studio/deployments?model={BASE}")
    deploy(page, name)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("alert").filter(has_text=refusal)).to_contain_text(name)
    expect(page.locator("img[onerror]")).to_have_count(0)


def test_who_may_only_read_sees_which_role_is_missing(studio: StudioService, browsing: Browsing) -> None:
    studio.deployment("for-readers", BASE)
    page = browsing.window(roles=(USER,))
    page.goto(f"/studio/deployments?model={BASE}")
    mine = card(page, "for-readers")
    expect(mine).to_contain_text("None: it stays until you delete it")
    for button in (
        page.get_by_role("button", name="Deploy model"),
        mine.get_by_role("button", name="Pause"),
        mine.get_by_role("button", name="Delete"),
    ):
        expect(button).to_be_disabled()
        expect(button).to_have_attribute("title", re.compile(CONTRIBUTOR))
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_principal_deploys_over_arm_and_the_log_names_him(studio: StudioService, browsing: Browsing) -> None:
    page = browsing.window(roles=(CONTRIBUTOR,))
    page.goto(f"/studio/deployments?model={BASE}")
    deploy(page, "by-principal")
    expect(card(page, "by-principal")).to_contain_text("Succeeded")
    changes, _ = studio.rooms.audit.page(studio.account, before=None, limit=5)
    [made] = [one for one in changes if one.resource.endswith("/deployments/by-principal")]
    assert (made.kind, made.action) == ("Application", "Microsoft.CognitiveServices/accounts/deployments/write")
