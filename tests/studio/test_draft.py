"""The wizard's choices, in an address and as a request."""

from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunery.errors import InvalidRequest
from tunery.jobs import NewJob
from tunery.recipe import METHODS
from tunery.studio.pages.create.draft import STEPS, TRAINING_TYPES, Draft, field_of, read, step_of

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
KNOWN = {
    "step": st.sampled_from(STEPS),
    "options": st.sampled_from(["", "advanced"]),
    "method": st.sampled_from(["", *METHODS]),
    "type": st.sampled_from(TRAINING_TYPES),
}
DRAFTS = st.builds(Draft, **{name: KNOWN.get(name, TEXTS) for name in Draft.__struct_fields__})


@given(DRAFTS)
def test_an_address_holds_every_choice(draft: Draft) -> None:
    assert read(dict(parse_qsl(urlsplit(draft.url()).query))) == draft


@given(DRAFTS, st.sampled_from(["chat", "completion", "preference", None]))
def test_every_draft_is_a_request_or_is_refused_at_its_seed(draft: Draft, kind: str | None) -> None:
    try:
        job = draft.job(kind)
    except InvalidRequest as error:
        assert (error.param, draft.advanced) == ("seed", True)
    else:
        assert msgspec.convert(msgspec.to_builtins(job), NewJob) == job


def test_a_choice_makes_another_request_and_so_drops_the_key() -> None:
    assert Draft(key="k").choosing(model="m") == Draft(model="m")
    assert Draft(key="k").url(step="options") == "/create?step=options&key=k"


def test_defaults_leave_out_what_was_typed_under_advanced() -> None:
    typed = Draft(model="m", training="f", n_epochs="3", seed="x", suffix=" s ", method="dpo")
    job = typed.job("chat")
    assert (job.hyperparameters, job.method, job.seed, job.suffix) == (None, {"type": "supervised"}, None, "s")


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), ("0,5", 0.5), (" 2e-1 ", 0.2), ("many", "many"), ("1,2,3", "1,2,3")]
)
def test_numbers_are_read_as_they_are_typed(text: str, number: object) -> None:
    job = Draft(options="advanced", learning_rate_multiplier=text).job("chat")
    assert job.hyperparameters == {"learning_rate_multiplier": number}


def test_a_refused_parameter_is_shown_where_it_was_chosen() -> None:
    assert [step_of(param) for param in ("model", "training_file", "seed", None)] == [
        "model",
        "training",
        "options",
        "options",
    ]
    assert [field_of(param) for param in ("hyperparameters.n_epochs", "method.type", "suffix")] == [
        "n_epochs",
        "method",
        "suffix",
    ]
