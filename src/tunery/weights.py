"""A base's weights as an engine holds them, and how closely that answers as the weights did that were trained on."""

from typing import Literal, get_args

import msgspec

Quantization = Literal["int8"]
"""vLLM's and transformers' word for weights in fewer bits."""
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)


class Weights(msgspec.Struct, frozen=True):
    """What one engine process holds: a base by its name, as it was trained on (float32) or quantised."""

    base: str
    quantization: Quantization | None = None

    def __str__(self) -> str:
        return self.base if self.quantization is None else f"{self.base} ({self.quantization})"


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Two computations of the same prompt side by side, over the most likely tokens that the first one wrote down."""

    places: int
    """Of the prompt; at each the next token was predicted."""
    same_token: int
    """Places at which both hold the same token for the most likely one."""
    mean_difference: float
    """Nats between the log probabilities, without their sign."""
    largest_difference: float
