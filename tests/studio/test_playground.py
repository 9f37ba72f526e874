"""The Playground: what is asked, seen, kept and made of it."""

import json
import os
import re
import subprocess
import sys

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.studio.browsing import Browsing
from tests.studio.furnished import USER
from tests.studio.serving import CHAT_BASE, StudioService
from tests.test_files import jsonl
from tests.waiting import PATIENCE, until
from tunery.roles import Caller
from tunery.studio.play.basket import Basket
from tunery.studio.play.drafts import Drafts

PAYLOAD = "<img src=x onerror=\"console.error('run')\"><script>console.error('run')</script>{{constructor}}"


@pytest.fixture(scope="module")
def asked(running_studio: StudioService) -> StudioService:
    """With the deployments play-base, play-tuned, play-text and, for one unit, play-limited."""
    tuned = running_studio.job(running_studio.file("play.jsonl", jsonl())).fine_tuned_model
    for name, model in (("play-base", CHAT_BASE), ("play-tuned", tuned), ("play-text", "davinci-002")):
        running_studio.deployment(name, model)
    sku = {"sku": {"name": "Standard", "capacity": 1}}
    running_studio.deployment("play-limited", "gpt-35-turbo-1106")
    assert running_studio.arm("PATCH", "/deployments/play-limited", json=sku).ok
    return running_studio


def visit(page: Page, *deployments: str) -> Locator:
    """The page that asks these; where one types."""
    page.goto(f"/studio/playground?deployment={','.join(deployments)}")
    return page.get_by_label(re.compile("^(Message|Beginning of the text)$"))


def ask(page: Page, text: str, *deployments: str) -> None:
    box = visit(page, *deployments)
    box.fill(text)
    box.press("Control+Enter")


def answer(page: Page, deployment: str) -> Locator:
    return page.get_by_role("article", name=f"Answer of {deployment}")


def copied(page: Page, start: str) -> str:
    """What lies in the clipboard once it begins so."""

    def text() -> str:
        return str(page.evaluate("navigator.clipboard.readText()"))

    until(lambda: text().startswith(start), said=text)
    return text()


def basket(studio: StudioService) -> Basket:
    drafts = Drafts(studio.rooms.store, studio.account.id, Caller(name="key", kind="Key", account=studio.account))
    return Basket(drafts, "chat")


def test_an_answer_streams_and_escape_cancels_it_in_the_engine(
    asked: StudioService, studio: StudioService, page: Page
) -> None:
    studio.pull("stay_silent_after", "Once ", "upon 🙂 ")
    ask(page, "Tell me a tale", "play-base")
    expect(answer(page, "play-base")).to_contain_text("Once upon 🙂")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    studio.pull("wait_for_a_cancel")
    expect(answer(page, "play-base")).to_contain_text("2 completion tokens")
    expect(answer(page, "play-base")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()


def test_an_answer_goes_on_through_a_reload_and_the_conversation_stays(
    asked: StudioService, studio: StudioService, page: Page
) -> None:
    studio.pull("stay_silent_after", "Once ")
    ask(page, "Tell me a tale", "play-base")
    expect(answer(page, "play-base")).to_contain_text("Once")
    page.reload()
    expect(answer(page, "play-base")).to_contain_text("Once")
    page.get_by_role("button", name="Stop", exact=True).click()
    studio.pull("wait_for_a_cancel")
    studio.pull("answer", ["The end."])
    page.get_by_role("button", name="Answer again").click()
    expect(answer(page, "play-base")).to_contain_text("The end.")
    expect(page.locator("[aria-live=polite]")).to_have_text("play-base answered: The end.")
    page.reload()
    expect(answer(page, "play-base")).to_contain_text("The end.")


def test_two_deployments_answer_side_by_side_and_what_differs_is_marked(asked: StudioService, page: Page) -> None:
    ask(page, "Who are you?", "play-base", "play-tuned")
    expect(answer(page, "play-base")).to_contain_text("I am the base.")
    expect(answer(page, "play-tuned")).to_contain_text("I am tuned.")
    expect(answer(page, "play-tuned").locator(".tunery-mark")).to_have_text(["tuned"])
    expect(answer(page, "play-tuned")).to_contain_text("3 prompt tokens (0 cached) · 2 completion tokens")
    expect(answer(page, "play-tuned")).to_contain_text("5 of 8,192 tokens of context · complete")


@pytest.mark.parametrize("deployment", ["play-base", "play-text"])
def test_the_shown_programs_ask_exactly_what_the_screen_asked(
    asked: StudioService, studio: StudioService, page: Page, deployment: str
) -> None:
    studio.pull("parrot")
    box = visit(page, deployment)
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Stop sequences").fill("\\n#")
    page.get_by_label("Stop sequences").press("Enter")
    box.fill('It\'s "so" $HOME `x` \\n\nBODY\n🙂\u202e')
    page.get_by_role("button", name="Send").click()
    shown = answer(page, deployment).locator(".whitespace-pre-wrap")
    expect(shown).to_contain_text('"seed":7')
    said = shown.inner_text()
    assert json.loads(said)["stop"] == ["\n#"]
    page.evaluate("navigator.clipboard.writeText('')")
    page.get_by_role("button", name="View code").click()
    for language, start, run in (("Python", "from openai", [sys.executable, "-"]), ("curl", "curl -sS", ["sh"])):
        page.get_by_role("button", name=f"Copy {language}").click()
        program = copied(page, start)
        assert studio.key not in program
        key = {**os.environ, "AZURE_OPENAI_API_KEY": studio.key}
        done = subprocess.run(
            run, check=False, input=program, env=key, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        printed = done.stdout.strip()
        if language == "curl":
            choice = json.loads(printed)["choices"][0]
            printed = choice["message"]["content"] if "message" in choice else choice["text"]
        assert printed == said, language


def test_good_answers_become_a_training_file_and_a_refused_upload_loses_none(
    asked: StudioService, studio: StudioService, page: Page
) -> None:
    kept = basket(studio)
    for number in range(9):
        asked_, said = {"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"{number}!"}
        kept.add({"messages": [asked_, said]})
    ask(page, "Who are you?", "play-base")
    page.get_by_role("button", name="Keep as training example").click()
    page.reload()
    page.get_by_role("button", name="Training examples (10)").click()
    page.get_by_role("dialog").get_by_role("button", name="Edit answer").last.click()
    page.get_by_role("textbox", name="Edit answer").fill("I am Ada.")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.get_by_label("File name").fill("..")
    page.get_by_role("button", name="Upload as training file").click()
    expect(page.get_by_text("The file name '..' names a folder")).to_be_visible()
    page.get_by_label("File name").fill("good.jsonl")
    page.get_by_role("button", name="Upload as training file").click()
    expect(page.get_by_text("Checked and ready for training:")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    file = next(file for file in studio.azure().files.list() if file.filename == "good.jsonl")
    content = studio.azure().files.content(file.id).read()
    assert download.value.path().read_bytes() == content
    assert json.loads(content.splitlines()[-1])["messages"][-1] == {"role": "assistant", "content": "I am Ada."}
    assert len(kept.all()) == 10
    page.get_by_role("button", name="Remove all").click()
    page.get_by_role("dialog", name="Remove all").get_by_role("button", name="Remove all").click()
    expect(page.get_by_text("Nothing collected yet")).to_be_visible()


def test_a_limit_and_an_overflow_are_said_where_the_answer_would_be(
    asked: StudioService, studio: StudioService, page: Page
) -> None:
    studio.pull("stay_silent_after", "Quince ")  # what the first answer doesn't use comes back at its end
    box = visit(page, "play-limited", "play-limited")
    page.get_by_label("Maximum tokens").fill("8000")
    box.fill("Hello")
    box.press("Control+Enter")
    expect(answer(page, "play-limited").filter(has_text="Quince")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"rate limit .* Please retry after \d+ seconds"))
    page.get_by_role("button", name="Stop", exact=True).click()
    studio.pull("wait_for_a_cancel")
    studio.pull("refuse", "ContextOverflow", "The prompt has 9000 tokens; the context holds 8192.")
    ask(page, "Long", "play-base")
    expect(page.get_by_role("alert")).to_have_text("The prompt has 9000 tokens; the context holds 8192.")


def test_turns_are_edited_and_deleted_and_later_answers_see_what_is_left(
    asked: StudioService, studio: StudioService, page: Page
) -> None:
    ask(page, "First", "play-base")
    expect(answer(page, "play-base")).to_contain_text("complete")
    page.get_by_role("button", name="Edit answer").click()
    page.get_by_role("textbox", name="Edit answer").fill("Put into its mouth")
    page.get_by_role("textbox", name="Edit answer").press("Control+Enter")
    expect(answer(page, "play-base")).to_contain_text("Put into its mouth")
    page.get_by_label("System message").fill("Be brief.")
    studio.pull("parrot")
    page.get_by_label("Message", exact=True).fill("Second")
    page.get_by_role("button", name="Send").click()
    second = answer(page, "play-base").last
    expect(second).to_contain_text('"content":"Put into its mouth"')
    expect(second).to_contain_text('{"role":"system","content":"Be brief."}')
    page.get_by_role("button", name="Delete this turn").first.click()
    expect(answer(page, "play-base")).to_have_count(1)
    page.get_by_role("button", name="Answer again").click()
    expect(answer(page, "play-base")).not_to_contain_text("Put into its mouth")


def test_who_may_ask_but_not_upload_sees_the_upload_greyed_and_nobody_elses_conversation(
    asked: StudioService, browsing: Browsing, page: Page
) -> None:
    ask(page, "A secret of the key's", "play-base")
    expect(answer(page, "play-base")).to_contain_text("complete")
    user = browsing.window(roles=(USER,))
    user.goto(page.url.removeprefix(asked.base))
    expect(user.get_by_text("Write a message to begin.")).to_be_visible()
    ask(user, "Hello", "play-base")
    expect(answer(user, "play-base")).to_contain_text("I am the base.")
    user.get_by_role("button", name="Keep as training example").click()
    user.get_by_role("button", name="Training examples (1)").click()
    upload = user.get_by_role("button", name="Upload as training file")
    expect(upload).to_be_disabled()
    expect(upload).to_have_attribute("title", re.compile("Cognitive Services OpenAI Contributor"))
    contributor = browsing.window(roles=("Cognitive Services Contributor",))
    visit(contributor, "play-base").fill("Hello")
    contributor.keyboard.press("Control+Enter")
    expect(contributor.get_by_role("button", name="Send")).to_be_disabled()
    expect(contributor.get_by_role("article")).to_have_count(0)


def test_markup_in_prompts_and_answers_stays_text(asked: StudioService, studio: StudioService, page: Page) -> None:
    studio.pull("answer", [PAYLOAD])
    ask(page, PAYLOAD, "play-base", "play-tuned")
    expect(answer(page, "play-tuned")).to_contain_text("complete")
    expect(page.get_by_text(PAYLOAD, exact=True)).to_have_count(3)
    page.get_by_role("button", name="Keep as training example").first.click()
    page.get_by_role("button", name=re.compile("^Training examples")).click()
    expect(page.get_by_role("dialog").get_by_text(PAYLOAD, exact=True)).to_have_count(2)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="View code").click()
    expect(page.get_by_role("dialog").locator("img, script")).to_have_count(0)
    basket(studio).remove(basket(studio).all())
