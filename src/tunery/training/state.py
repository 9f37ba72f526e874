"""The resumable state of a run on disk: complete or absent, safetensors and JSON, nothing that could run code.

All else that a run depends on (the order of examples, the learning rate of a step) follows from the order and the step.
"""

import hashlib
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tunery.errors import TuneryError
from tunery.messages import TrainingOrder
from tunery.models.folders import written
from tunery.training.optimizer import STATE
from tunery.training.trend import Trend

_NUMBERS = "state.json"
_TENSORS = "state.safetensors"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has done so far."""

    step: int = 0
    trained_tokens: int = 0
    seconds: float | None = None
    """That these steps took, evaluations included; None in states of 0.1.0."""
    micro_batch_tokens: int = 1024
    """Decided once, by the memory that was there at the first step: later steps have to add up in the same way."""
    trend: Trend = Trend()
    order: str = ""
    """Digest of what decides the run's result; only the same order may go on from here."""


def fingerprint(order: TrainingOrder) -> str:
    """Where files lie and how many threads compute may change between two processes; the rest may not."""
    fields = msgspec.to_builtins(order)
    fields["base"].pop("directory")
    for key in ("directory", "resume_from", "training_file", "validation_file", "start_adapter"):
        fields.pop(key)
    for key in ("save_every", "threads", "device", "memory_bytes"):
        fields.pop(key)
    if order.dpo is None:
        fields.pop("dpo")  # states that were written before there was a choice stay good
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def write_state(directory: Path, state: State, tensors: dict[str, Tensor]) -> None:
    with written(directory) as folder:
        (folder / _NUMBERS).write_bytes(msgspec.json.encode(state))
        (folder / _TENSORS).write_bytes(save({name: tensor.detach().cpu() for name, tensor in tensors.items()}))


def read_state(directory: Path, order: str) -> tuple[State, dict[str, Tensor]]:
    """Raises TuneryError if it is damaged or of another order."""
    try:
        state = msgspec.json.decode((directory / _NUMBERS).read_bytes(), type=State)
        tensors = load((directory / _TENSORS).read_bytes())
    except (OSError, msgspec.DecodeError, SafetensorError) as error:
        raise TuneryError(f"The state in {directory.name} can't be read: {error}") from error
    if state.order != order or set(tensors) != set(STATE):
        raise TuneryError(f"The state in {directory.name} is of another job or of other settings.")
    return state, tensors
