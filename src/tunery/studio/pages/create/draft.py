"""What the wizard holds: all of it stands in the page's query, so that a reload, a link and the way back keep it."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from tunery import recipe
from tunery.errors import InvalidRequest
from tunery.jobs import NewJob
from tunery.suitability import PREFERENCE

STEPS = ("model", "training", "validation", "options", "review")
ADVANCED = "advanced"
STANDARD = "Standard"
TRAINING_TYPES = (STANDARD, "GlobalStandard", "DeveloperTier")
NUMBERS = ("batch_size", "learning_rate_multiplier", "n_epochs")
DPO_NUMBERS = ("beta",)
PLACES = {"model": "model", "training_file": "training", "validation_file": "validation"}
"""Where a parameter of the request is chosen; all others are options."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A job as far as it is chosen, in the words of the query. Numbers are texts; an empty one is automatic."""

    step: str = STEPS[0]
    model: str = ""
    training: str = ""
    validation: str = ""
    suffix: str = ""
    options: str = ""
    method: str = ""
    """Empty: as the training data asks for."""
    batch_size: str = ""
    learning_rate_multiplier: str = ""
    n_epochs: str = ""
    beta: str = ""
    seed: str = ""
    type: str = STANDARD
    key: str = ""
    """Idempotency key of the job that these choices make; a changed choice drops it."""

    @property
    def advanced(self) -> bool:
        return self.options == ADVANCED

    def url(self, **changes: str) -> str:
        """The page's path below /studio with these choices."""
        values = msgspec.structs.asdict(msgspec.structs.replace(self, **changes))
        said = {name: value for name, value in values.items() if value != DEFAULTS[name]}
        return f"/create?{urlencode(said)}" if said else "/create"

    def choosing(self, **changes: str) -> "Draft":
        return msgspec.structs.replace(self, **{"key": "", **changes})

    def method_for(self, training_format: str | None) -> str:
        """The method that is named, else the one that such a file is made for."""
        named = self.method if self.advanced else ""
        return named or ("dpo" if training_format == PREFERENCE else "supervised")

    def job(self, training_format: str | None) -> NewJob:
        """The request that these choices make. Raises InvalidRequest for a seed that is no number."""
        method = self.method_for(training_format)
        names = (*NUMBERS, *(DPO_NUMBERS if method == "dpo" else ()))
        numbers = {name: _number(text) for name in names if self.advanced and (text := getattr(self, name).strip())}
        return NewJob(
            model=self.model,
            training_file=self.training,
            validation_file=self.validation or None,
            hyperparameters=numbers or None,
            method={"type": method},
            suffix=self.suffix.strip() or None,
            seed=_seed(self.seed.strip()) if self.advanced else None,
            trainingType=self.type if self.advanced and self.type != STANDARD else None,
        )


DEFAULTS: dict[str, str] = msgspec.structs.asdict(Draft())


def read(query: Mapping[str, str]) -> Draft:
    """From a page's query; what can't be is left out."""
    draft = Draft(**{name: query[name] for name in DEFAULTS if name in query})
    known = {"step": STEPS, "options": ("", ADVANCED), "method": ("", *recipe.METHODS), "type": TRAINING_TYPES}
    strange = {name: DEFAULTS[name] for name, values in known.items() if getattr(draft, name) not in values}
    return msgspec.structs.replace(draft, **strange)


def step_of(param: str | None) -> str:
    """Where the parameter of a refusal is chosen."""
    return PLACES.get(param or "", "options")


def field_of(param: str | None) -> str:
    """The name of the field that a refused option has in the draft."""
    last = (param or "").rsplit(".", 1)[-1]
    return "method" if last in ("type", "dpo", "supervised") else last


def _number(text: str) -> Any:
    """A decimal comma is a point; what is no number stays text, and is refused with a sentence about it."""
    plain = text.replace(",", ".")
    for kind in (int, float):
        try:
            return kind(plain)
        except ValueError:
            continue
    return text


def _seed(text: str) -> int | None:
    if not text:
        return None
    # Longer ones are too large in any case, and int() refuses the longest.
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise InvalidRequest(f"seed is {text!r}; it may be 0 to {recipe.SEEDS - 1}.", param="seed")
    return recipe.seed(int(text))
