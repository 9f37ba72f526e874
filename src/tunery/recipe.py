"""Hyperparameters: what may be asked for, what "automatic" becomes once the data is known. No torch, no SQL.

Bounds are those of contract.md 1.4; automatic epochs follow OpenAI's cookbook (Chat_finetuning_data_prep).
"""

import re
import secrets
from typing import Any

import msgspec

from tunery.errors import InvalidRequest
from tunery.messages import BaseModel

EPOCHS = (1, 50)
MULTIPLIER = (0.0, 10.0)
"""Exclusive below."""
LONGEST_SUFFIX = 40
SUFFIX = re.compile(r"[A-Za-z0-9_-]+")
MOST_METADATA, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
SEEDS = 2**31
TARGET_EPOCHS, FEWEST_SEEN, MOST_SEEN, MOST_EPOCHS = 3, 100, 25_000, 25
AUTOMATIC = ("auto", -1, None)
METHODS = ("supervised",)


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """As asked for; None is automatic."""

    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained with."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    learning_rate: float
    """AdamW's peak: the base's own learning rate times the multiplier."""
    seed: int


def parse(hyperparameters: dict[str, Any] | None, method: dict[str, Any] | None, *, base: BaseModel) -> Requested:
    """Both spellings: `hyperparameters`, and `method.supervised.hyperparameters`, which wins.

    Raises:
        InvalidRequest: names the parameter and its bounds.
    """
    given = dict(hyperparameters or {})
    where = "hyperparameters"
    if method is not None:
        given |= _of_method(method)
        where = "method.supervised.hyperparameters" if method.get("supervised") else where
    known = set(Requested.__struct_fields__)
    for name in given:
        if name not in known and name != "prompt_loss_weight":
            raise InvalidRequest(
                f"The hyperparameter {name!r} is unknown. Use {', '.join(sorted(known))}.", param=f"{where}.{name}"
            )
    return Requested(
        n_epochs=_whole(given.get("n_epochs"), f"{where}.n_epochs", EPOCHS),
        batch_size=_whole(given.get("batch_size"), f"{where}.batch_size", (1, base.largest_batch)),
        learning_rate_multiplier=_multiplier(given.get("learning_rate_multiplier"), where),
    )


def resolve(requested: Requested, examples: int, base: BaseModel, seed: int) -> Recipe:
    """Automatic values from the number of examples; a batch never holds more than all of them."""
    batch_size = requested.batch_size or automatic_batch_size(examples, base)
    multiplier = requested.learning_rate_multiplier or 1.0
    return Recipe(
        n_epochs=requested.n_epochs or automatic_epochs(examples),
        batch_size=max(1, min(batch_size, examples)),
        learning_rate_multiplier=multiplier,
        learning_rate=base.learning_rate * multiplier,
        seed=seed,
    )


def automatic_epochs(examples: int) -> int:
    """Three, but enough to see 100 examples and few enough to see 25,000 (OpenAI's cookbook)."""
    examples = max(1, examples)
    if examples * TARGET_EPOCHS < FEWEST_SEEN:
        return min(MOST_EPOCHS, FEWEST_SEEN // examples)
    if examples * TARGET_EPOCHS > MOST_SEEN:
        return max(1, MOST_SEEN // examples)
    return TARGET_EPOCHS


def automatic_batch_size(examples: int, base: BaseModel) -> int:
    """About 150 steps an epoch: a power of two from 4 to 16, within what the base takes."""
    wanted = max(4, min(16, examples // 150))
    power = 1 << (wanted.bit_length() - 1)
    return min(power, base.largest_batch)


def seed(given: int | None) -> int:
    """The given one, or a random one: written into the job, so that the run can be repeated."""
    if given is None:
        return secrets.randbelow(SEEDS)
    if not 0 <= given < SEEDS:
        raise InvalidRequest(f"seed is {given}; it may be 0 to {SEEDS - 1}.", param="seed")
    return given


def validate_suffix(suffix: str | None) -> None:
    if suffix is None:
        return
    if len(suffix) > LONGEST_SUFFIX or not SUFFIX.fullmatch(suffix):
        raise InvalidRequest(
            f"The suffix {suffix!r} can't be: 1 to {LONGEST_SUFFIX} letters, digits, '-' and '_'.", param="suffix"
        )


def check_metadata(metadata: dict[str, str] | None) -> None:
    if metadata is None:
        return
    if len(metadata) > MOST_METADATA:
        raise InvalidRequest(f"metadata has {len(metadata)} pairs; {MOST_METADATA} are allowed.", param="metadata")
    for key, value in metadata.items():
        if not 1 <= len(key) <= LONGEST_KEY or len(value) > LONGEST_VALUE:
            raise InvalidRequest(
                f"metadata[{key[:LONGEST_KEY]!r}]: keys have 1 to {LONGEST_KEY} characters, values up to "
                f"{LONGEST_VALUE}.",
                param="metadata",
            )


def _of_method(method: dict[str, Any]) -> dict[str, Any]:
    kind = method.get("type", "supervised")
    if kind not in METHODS:
        raise InvalidRequest(
            f"The method {kind!r} isn't available in this version; 'supervised' is.", param="method.type"
        )
    supervised = method.get("supervised") or {}
    inner = supervised.get("hyperparameters") or {} if isinstance(supervised, dict) else None
    if not isinstance(inner, dict):
        raise InvalidRequest("method.supervised.hyperparameters has to be an object.", param="method.supervised")
    return inner


def _whole(value: Any, param: str, bounds: tuple[int, int]) -> int | None:
    if value in AUTOMATIC and not isinstance(value, bool):
        return None
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not low <= value <= high:
        raise InvalidRequest(f'{param} is {value!r}; it may be {low} to {high}, or "auto".', param=param)
    return int(value)


def _multiplier(value: Any, where: str) -> float | None:
    if value in AUTOMATIC and not isinstance(value, bool):
        return None
    low, high = MULTIPLIER
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise InvalidRequest(
            f'{where}.learning_rate_multiplier is {value!r}; it may be above {low:g} up to {high:g}, or "auto".',
            param=f"{where}.learning_rate_multiplier",
        )
    return float(value)
