"""The Playground's conversations, programs and examples without a browser."""

import ast
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunery.accounts import Accounts
from tunery.errors import InvalidRequest
from tunery.roles import Caller
from tunery.settings import Settings
from tunery.store import Store
from tunery.studio.pages.playground.rounds import compared
from tunery.studio.play import code
from tunery.studio.play.basket import Basket, lines
from tunery.studio.play.drafts import MOST, TALK, Drafts
from tunery.studio.play.talk import Answer, Choices, Round, Talk, body, example, past, unescaped

TARGET = code.Target("http://127.0.0.1:8080/accounts/a", "mine")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
BODIES = st.fixed_dictionaries(
    {"messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": TEXT}), min_size=1, max_size=3)},
    optional={"temperature": st.floats(0, 2), "stop": st.lists(TEXT, max_size=4), "seed": st.integers()},
)


def said(text: str, deployment: str = "mine") -> Answer:
    return Answer(deployment=deployment, text=text, state="done")


@given(BODIES)
def test_the_shown_python_passes_exactly_the_body(given_body: dict[str, Any]) -> None:
    program = ast.parse(code.python(TARGET, given_body))
    call = next(node for node in ast.walk(program) if isinstance(node, ast.Call) and "create" in ast.dump(node.func))
    passed = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
    assert passed == {"model": "mine", **given_body}


@given(BODIES)
def test_the_shown_curl_sends_exactly_the_body_and_nothing_of_it_is_the_shells(given_body: dict[str, Any]) -> None:
    head, _, rest = code.curl(TARGET, given_body).partition("<<'BODY'\n")
    sent = rest.removesuffix("\nBODY\n")
    assert "BODY" not in sent.splitlines()
    assert json.loads(sent) == given_body
    assert sent.replace("\n", "").isprintable()
    assert head == code.curl(TARGET, {"messages": []}).partition("<<'BODY'\n")[0]


@pytest.mark.parametrize(
    ("typed", "meant"), [("a\\nb", "a\nb"), ("\\t", "\t"), ("\\\\n", "\\n"), ("\\x\\", "\\x\\"), ("\\\\\\n", "\\\n")]
)
def test_a_line_break_is_typed_as_a_backslash_and_n(typed: str, meant: str) -> None:
    assert unescaped(typed) == meant


def test_a_pane_goes_on_from_its_own_answers_and_a_later_one_from_what_is_there() -> None:
    first = Round(prompt="1", answers={0: said("one"), 1: said("uno")})
    failed = Round(prompt="2", answers={0: Answer(deployment="mine", state="failed", error="no")})
    last = Round(prompt="3")
    talk = Talk(system="Be brief.", chat=[first, failed, last])
    for pane, text in ((0, "one"), (1, "uno"), (2, "one")):
        assert [message["content"] for message in past(talk, last, pane)] == ["Be brief.", "1", text]


def test_only_what_differs_from_the_defaults_is_sent() -> None:
    assert body(Talk(), Round(prompt="Hi"), 0) == {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 512,
    }
    choices = Choices(max_tokens=None, temperature=0.0, form="json_object")
    assert body(Talk(kind="completion", choices=choices), Round(prompt="Hi"), 0) == {"prompt": "Hi", "temperature": 0.0}


@pytest.mark.parametrize("schema", ["", "{", "[]", "1", "[" * 100_000])
def test_a_schema_that_is_no_json_object_is_refused_in_words(schema: str) -> None:
    with pytest.raises(InvalidRequest, match="JSON schema"):
        body(Talk(choices=Choices(form="json_schema", schema=schema)), Round(prompt="Hi"), 0)


@given(TEXT, TEXT)
def test_a_comparison_leaves_no_letter_out(first: str, other: str) -> None:
    assert "".join(text for text, _ in compared(first, other)) == other


def test_an_example_is_the_whole_conversation_and_its_answer_can_be_changed(store: Store, settings: Settings) -> None:
    basket = Basket(drafts(store, settings), "chat")
    last = Round(prompt="2", answers={0: said("two")})
    talk = Talk(system="Be brief.", chat=[Round(prompt="1", answers={0: said("one")}), last])
    basket.add(example(talk, last, 0))
    (collected,) = basket.all()
    assert [message["content"] for message in collected.example["messages"]] == ["Be brief.", "1", "one", "2", "two"]
    basket.change(collected, "deux")
    assert json.loads(lines(basket.all()))["messages"][-1]["content"] == "deux"


def test_drafts_are_their_owners_alone_and_old_conversations_go(store: Store, settings: Settings) -> None:
    mine, theirs = drafts(store, settings), drafts(store, settings, "another")
    kept = mine.put(TALK, "first")
    assert theirs.get(TALK, kept) is None
    theirs.delete(TALK, [kept])
    mine.put(TALK, "changed", kept)
    assert [draft.content for draft in mine.all(TALK)] == ["changed"]
    for number in range(MOST[TALK]):
        mine.put(TALK, str(number))
    assert len(mine.all(TALK)) == MOST[TALK]
    assert mine.get(TALK, kept) is None


def drafts(store: Store, settings: Settings, who: str = "me") -> Drafts:
    account = Accounts(store, settings).first()
    return Drafts(store, account.id, Caller(id=who, name=who, kind="User"))
