"""A base model on disk: what training and serving need to know of it, and the file that says so of one's own."""

from typing import Annotated, Literal

import msgspec


class BaseModel(msgspec.Struct, frozen=True, kw_only=True):
    """A base model on disk, in Hugging Face's folder layout, with the numbers that training and serving need."""

    name: str
    directory: str
    learning_rate: float
    """Multiplied by learning_rate_multiplier: AdamW's peak learning rate."""
    lora_rank: int = 16
    lora_alpha: float = 32.0
    context_length: int = 8192
    """Tokens of prompt and answer together."""
    longest_example: int = 4096
    """Tokens of a training example; what lies beyond is cut off and said so."""
    largest_batch: int = 64
    """Examples of a batch."""


BASE_FILE = "tunery.json"
BASE_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
"""A folder's name in the models folder, and so the name of the base in it."""


class BaseFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """tunery.json beside config.json: how a base that a user added is trained and served. Fields as in BaseModel."""

    learning_rate: Annotated[float, msgspec.Meta(gt=0)]
    lora_rank: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    lora_alpha: Annotated[float, msgspec.Meta(gt=0)] = 32.0
    context_length: Annotated[int, msgspec.Meta(ge=2)] = 8192
    longest_example: Annotated[int, msgspec.Meta(ge=2)] = 4096
    largest_batch: Annotated[int, msgspec.Meta(ge=1)] = 64
    kinds: tuple[Literal["chat", "completion"], ...]
