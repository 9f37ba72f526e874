"""What tests of serving are given: caches, adapters, requests, and an engine run to its end."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from tunery.bases import BaseModel
from tunery.messages import Adapter, Answer, Done, Generate, Mount, Piece, Refused, Started
from tunery.models import lora
from tunery.models.decoder import DecoderConfig
from tunery.models.lora import Lora
from tunery.models.probe import Probe
from tunery.serving.cache import KVCache
from tunery.serving.request import Request
from tunery.serving.server import Engine as AnyEngine

ids = (f"request-{number}" for number in itertools.count())


def new_cache(num_tokens: int, *, num_key_value_heads: int = 1, head_dim: int = 1) -> KVCache:
    config = DecoderConfig(
        vocab_size=1,
        hidden_size=1,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=num_key_value_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        rope_scaling=None,
        max_position_embeddings=1,
    )
    return KVCache(config, num_tokens, device="cpu", dtype=torch.float32)


def base_in(folder: Path, **changes: Any) -> BaseModel:
    return BaseModel(
        **{"name": "tiny", "directory": str(folder), "learning_rate": 1e-3, "context_length": 256} | changes
    )


def new_adapter(config: DecoderConfig, *, seed: int, rank: int, strength: float = 0.3) -> Lora:
    """A LoRA whose B isn't zero: it changes what the base says."""
    adapter = Lora.fresh(config, rank=rank, alpha=2.0 * rank, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for stack in adapter.b.values():
        for tensor in stack:
            tensor.copy_(strength * torch.randn(tensor.shape, generator=generator))
    return adapter


def write_adapter(folder: Path, config: DecoderConfig, *, seed: int, rank: int = 4, strength: float = 0.3) -> Adapter:
    """`new_adapter` in a folder."""
    new_adapter(config, seed=seed, rank=rank, strength=strength).save(folder, "tiny")
    return Adapter(digest=lora.digest(folder), directory=str(folder))


def ask(prompt: str | list[int] | None = "The quick", **changes: Any) -> Generate:
    """Greedy unless told otherwise."""
    prompts = {} if prompt is None else {"prompts": [prompt]}
    return Generate(**{"id": next(ids), "owner": "a", "temperature": 0.0, "max_tokens": 12} | prompts | changes)


class Running:
    """A submitted request and what came of it so far."""

    def __init__(self, engine: AnyEngine, generate: Generate) -> None:
        self.answers: list[Answer] = []
        self.request: Request = engine.submit(generate, self.answers.append)

    @property
    def pieces(self) -> list[Piece]:
        return [answer for answer in self.answers if isinstance(answer, Piece)]

    @property
    def last(self) -> Answer:
        return self.answers[-1]

    @property
    def refused(self) -> Refused:
        assert isinstance(self.last, Refused), self.last
        return self.last

    @property
    def done(self) -> Done:
        assert isinstance(self.answers[0], Started), self.answers[0]
        assert isinstance(self.last, Done), self.last
        return self.last

    def text(self, index: int = 0) -> str:
        assert self.done
        return "".join(piece.text for piece in self.pieces if piece.index == index)

    @property
    def texts(self) -> list[str]:
        return [self.text(index) for index in sorted({piece.index for piece in self.pieces})]

    def finish_reason(self, index: int = 0) -> str | None:
        return [piece for piece in self.pieces if piece.index == index][-1].finish_reason


def run(engine: AnyEngine, *generates: Generate) -> list[Running]:
    """All at once, until nothing is left to do."""
    running = [Running(engine, generate) for generate in generates]
    for _ in steps(engine):
        pass
    return running


def steps(engine: AnyEngine) -> Iterator[None]:
    while engine.busy:
        engine.step()
        yield


def mount(engine: AnyEngine, adapter: Adapter) -> Answer:
    answers: list[Answer] = []
    engine.mount(Mount(id="m", adapter=adapter), answers.append)
    for _ in steps(engine):
        pass
    (answer,) = answers
    return answer


def shift_probe(adapter: Adapter, difference: float) -> None:
    """As if the trainer had seen other log probabilities at the last place."""
    taken = Probe.load(adapter.directory)
    last = max(taken.top_logprobs)
    shifted = [(token, value + difference) for token, value in taken.top_logprobs[last]]
    changed = msgspec.structs.replace(taken, top_logprobs={**taken.top_logprobs, last: shifted})
    changed.write(Path(adapter.directory))
