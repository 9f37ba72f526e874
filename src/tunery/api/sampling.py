"""Parameters that both inference APIs take: read, and their bounds checked. Knows no HTTP and no engine.

Bounds are those of contract.md 3.2 and 3.5. None and an absent key mean the same: not given.
"""

from typing import Any, TypeVar

import msgspec

from tunery.api.wire import decode
from tunery.errors import InvalidRequest

SamplingT = TypeVar("SamplingT", bound="Sampling")

IGNORED = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "user_security_context",
        "verbosity",
        "web_search_options",
    }
)
"""Arguments that don't change what a model of this service says."""

RANGES = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("n", 1, 128),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("seed", -(2**63), 2**63 - 1),
)
MOST_STOPS = 4
MOST_BIASES = 1024
"""Ours: each costs time at every token."""
HIGHEST_TOKEN_ID = 2**31 - 1


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """What both bodies may hold."""

    model: Any = None
    """The deployment on v1; classic clients send it too, and it means nothing there."""
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None

    def options(self) -> dict[str, Any]:
        """Fields of messages.Generate; those not given keep its defaults. Raises InvalidRequest."""
        options: dict[str, Any] = {"stop": _stops(self.stop), "logit_bias": _biases(self.logit_bias or {})}
        for name, low, high in RANGES:
            value = getattr(self, name)
            check_range(name, value, low, high)
            if value is not None:
                options[name] = value
        return options

    def includes_usage(self) -> bool:
        """Whether a stream ends with its usage. Raises InvalidRequest."""
        if self.stream_options is None:
            return False
        if not self.stream:
            raise InvalidRequest("stream_options may only be given when stream is true.", param="stream_options")
        return bool(self.stream_options.include_usage)


class _Named(msgspec.Struct, frozen=True):
    model: Any = None


def named_model(body: bytes) -> str:
    """The deployment that a v1 body names. Raises InvalidRequest."""
    model = decode(body, _Named).model
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model is missing; it has to be the name of a deployment.", param="model")
    return model


def read(body: bytes, kind: type[SamplingT]) -> SamplingT:
    """Raises InvalidRequest for what isn't JSON, has an unknown argument or a wrong type."""
    known = IGNORED.union(kind.__struct_fields__)
    unknown = [key[:64] for key in decode(body, dict[str, msgspec.Raw]) if key not in known]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise InvalidRequest(
            f"Unrecognized request argument{plural} supplied: {', '.join(unknown[:8])}",
            param=unknown[0],
            code="unknown_parameter",
        )
    return decode(body, kind)


def check_range(name: str, value: float | None, low: int, high: int, *, param: str | None = None) -> None:
    """Raises InvalidRequest; None is within every range."""
    if value is not None and not low <= value <= high:
        raise InvalidRequest(f"{name} is {value}; it may be {low} to {high}.", param=param or name)


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MOST_STOPS:
        raise InvalidRequest(f"stop holds {len(stops)} strings; it may hold up to {MOST_STOPS}.", param="stop")
    if "" in stops:
        raise InvalidRequest("stop holds an empty string; each has to be 1 character or more.", param="stop")
    return stops


def _biases(given: dict[str, float]) -> dict[int, float]:
    if len(given) > MOST_BIASES:
        raise InvalidRequest(
            f"logit_bias has {len(given)} entries; it may have up to {MOST_BIASES}.", param="logit_bias"
        )
    biases = {}
    for key, bias in given.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) <= HIGHEST_TOKEN_ID):
            raise InvalidRequest(
                f"logit_bias has the key {key[:64]!r}; keys are token ids, 0 to {HIGHEST_TOKEN_ID} in decimal.",
                param="logit_bias",
            )
        check_range(f"logit_bias of {key}", bias, -100, 100, param="logit_bias")
        biases[int(key)] = bias
    return biases
