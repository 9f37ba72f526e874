"""Hyperparameters: what may be asked for, what "automatic" becomes once the data is known. No torch, no SQL.

Bounds are those of contract.md 1.4; automatic epochs follow OpenAI's cookbook (Chat_finetuning_data_prep).
"""

import re
import secrets
from typing import Any, NamedTuple

import msgspec

from tunery.bases import BaseModel
from tunery.errors import InvalidRequest
from tunery.messages import Dpo

EPOCHS = (1, 50)
MULTIPLIER = (0.0, 10.0)
"""Exclusive below."""
LONGEST_SUFFIX = 40
SUFFIX = re.compile(r"[A-Za-z0-9_-]+")
MOST_METADATA, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
SEEDS = 2**31
TARGET_EPOCHS, FEWEST_SEEN, MOST_SEEN, MOST_EPOCHS = 3, 100, 25_000, 25
BETA = (0.0, 2.0)
"""Exclusive below."""
L2 = (0.0, 1.0)
METHODS = ("supervised", "dpo")
DPO_MULTIPLIER = 0.1
"""The automatic one: at 1, two steps on the bundled base drive all losses to nothing (docs/log.md)."""


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """As asked for; None is automatic."""

    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    dpo: Dpo | None = None
    """None: supervised."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained with."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    learning_rate: float
    """AdamW's peak: the base's own learning rate times the multiplier."""
    seed: int
    dpo: Dpo | None = None


class _Given(NamedTuple):
    value: Any
    param: str
    """Where it stood in the request."""


def parse(hyperparameters: dict[str, Any] | None, method: dict[str, Any] | None, *, base: BaseModel) -> Requested:
    """Both spellings: `hyperparameters`, and `method.<type>.hyperparameters`, which wins.

    Raises:
        InvalidRequest: names the parameter and its bounds.
    """
    kind = _kind(method)
    known = ("n_epochs", "batch_size", "learning_rate_multiplier", *(Dpo.__struct_fields__ if kind == "dpo" else ()))
    given = _named(hyperparameters, "hyperparameters") | _of_method(method or {}, kind)
    for name, (value, param) in given.items():
        if name == "prompt_loss_weight":
            check_prompt_loss_weight(value, param, kind)
        elif name not in known:
            raise InvalidRequest(f"The hyperparameter {_said(name)} is unknown. Use {', '.join(known)}.", param=param)
    return Requested(
        n_epochs=_whole(given.get("n_epochs"), EPOCHS),
        batch_size=_whole(given.get("batch_size"), (1, base.largest_batch)),
        learning_rate_multiplier=_above(given.get("learning_rate_multiplier"), MULTIPLIER),
        dpo=_dpo(given) if kind == "dpo" else None,
    )


def check_prompt_loss_weight(value: Any, param: str, kind: str) -> None:
    """Both answers of a pair have one prompt: whatever it weighs, it cancels out of DPO's loss."""
    if value is None or (_is_number(value) and (0 <= value <= 1 if kind == "dpo" else value == 0)):
        return
    if kind == "dpo":
        raise InvalidRequest(f"{param} is {_said(value)}; it may be a number from 0 to 1.", param=param)
    raise InvalidRequest(f"{param} has to be 0: loss falls on answers alone.", param=param)


def resolve(requested: Requested, examples: int, base: BaseModel, seed: int) -> Recipe:
    """Automatic values from the number of examples; a batch never holds more than all of them."""
    batch_size = requested.batch_size or automatic_batch_size(examples, base)
    multiplier = requested.learning_rate_multiplier or (1.0 if requested.dpo is None else DPO_MULTIPLIER)
    return Recipe(
        n_epochs=requested.n_epochs or automatic_epochs(examples),
        batch_size=max(1, min(batch_size, examples)),
        learning_rate_multiplier=multiplier,
        learning_rate=base.learning_rate * multiplier,
        seed=seed,
        dpo=requested.dpo,
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
            f"The suffix {_said(suffix)} can't be: 1 to {LONGEST_SUFFIX} letters, digits, '-' and '_'.", param="suffix"
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


def _named(hyperparameters: dict[str, Any] | None, where: str) -> dict[str, _Given]:
    return {name: _Given(value, f"{where}.{name[:LONGEST_KEY]}") for name, value in (hyperparameters or {}).items()}


def _kind(method: dict[str, Any] | None) -> str:
    kind = "supervised" if method is None else method.get("type", "supervised")
    if kind not in METHODS:
        raise InvalidRequest(
            f"The method {_said(kind)} isn't available in this version; {' and '.join(map(repr, METHODS))} are.",
            param="method.type",
        )
    return str(kind)


def _of_method(method: dict[str, Any], kind: str) -> dict[str, _Given]:
    where = f"method.{kind}"
    inner = _only(method, kind, "method", ignored=("type",))
    # Azure's pages show these two without the level of hyperparameters.
    beside = Dpo.__struct_fields__ if kind == "dpo" else ()
    named = _named({name: inner[name] for name in beside if name in inner}, where)
    return named | _named(_only(inner, "hyperparameters", where, ignored=beside), f"{where}.hyperparameters")


def _dpo(given: dict[str, _Given]) -> Dpo:
    beta, l2_multiplier = _above(given.get("beta"), BETA), _from(given.get("l2_multiplier"), L2)
    defaults = Dpo()
    return Dpo(
        beta=defaults.beta if beta is None else beta,
        l2_multiplier=defaults.l2_multiplier if l2_multiplier is None else l2_multiplier,
    )


def _only(holder: dict[str, Any], key: str, where: str, *, ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """The object under `key`, the only one that may have a value there: nothing asked for is passed over."""
    for name, value in holder.items():
        if name not in (key, *ignored) and value is not None:
            raise InvalidRequest(f"{where} has the unknown key {_said(name)}; it may have {key!r}.", param=where)
    inner = holder.get(key)
    if inner is not None and not isinstance(inner, dict):
        raise InvalidRequest(f"{where}.{key} has to be an object.", param=f"{where}.{key}")
    return inner or {}


def _whole(given: _Given | None, bounds: tuple[int, int]) -> int | None:
    if given is None or _is_automatic(given.value):
        return None
    value, param = given
    low, high = bounds
    if not _is_number(value) or not low <= value <= high or value % 1:
        raise InvalidRequest(
            f'{param} is {_said(value)}; it may be a whole number from {low} to {high}, or "auto".', param=param
        )
    return int(value)


def _above(given: _Given | None, bounds: tuple[float, float]) -> float | None:
    if given is None or _is_automatic(given.value):
        return None
    value, param = given
    low, high = bounds
    if not _is_number(value) or not low < value <= high:
        raise InvalidRequest(
            f'{param} is {_said(value)}; it may be a number above {low:g} up to {high:g}, or "auto".', param=param
        )
    return float(value)


def _from(given: _Given | None, bounds: tuple[float, float]) -> float | None:
    if given is None or _is_automatic(given.value):
        return None
    value, param = given
    low, high = bounds
    if not _is_number(value) or not low <= value <= high:
        raise InvalidRequest(
            f'{param} is {_said(value)}; it may be a number from {low:g} to {high:g}, or "auto".', param=param
        )
    return float(value)


def _is_automatic(value: Any) -> bool:
    return value is None or value == "auto" or (_is_number(value) and value == -1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _said(value: Any) -> str:
    """What was asked for, for a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
