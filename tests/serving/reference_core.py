"""What vLLM is to serving/vllm/engine.py, computed the plain way: every token again, one request after another."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tunery.errors import OperationNotSupported
from tunery.models.decoder import Decoder, attend_causally
from tunery.models.lora import Lora
from tunery.serving.sampler import Chooser, Scored, score
from tunery.serving.vllm.engine import Loaded, Output


@dataclass
class Job:
    tokens: list[int]
    params: dict[str, Any]
    salt: str
    lora: Lora | None
    chooser: Chooser
    generated: list[int] = field(default_factory=list)


class ReferenceCore:
    """A Core that keeps what it was asked."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.jobs: dict[str, Job] = {}
        self.asked: list[Job] = []
        self.loaded: dict[int, Lora] = {}
        self.numbers: list[int] = []
        self.refuses: str | None = None
        """A parameter that it doesn't take."""
        self.ends_after: int | None = None
        self._keys = itertools.count()

    def add(self, tokens: list[int], params: dict[str, Any], *, salt: str, adapter: Loaded | None) -> str:
        if self.refuses and params.get(self.refuses):
            raise OperationNotSupported(f"no {self.refuses} here")
        names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias")
        chooser = Chooser(**{name: params[name] for name in names if params.get(name) is not None})
        job = Job(tokens, params, salt, self.loaded[adapter.number] if adapter else None, chooser)
        key = str(next(self._keys))
        self.jobs[key] = job
        self.asked.append(job)
        return key

    def abort(self, key: str) -> None:
        self.jobs.pop(key, None)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        outputs = [self._step(key, job) for key, job in self.jobs.items()]
        for output in outputs:
            if output.finished:
                del self.jobs[output.key]
        return outputs

    def load(self, adapter: Loaded) -> None:
        self.loaded[adapter.number] = Lora.load(adapter.directory, self.decoder.config)
        self.numbers.append(adapter.number)

    def unload(self, adapter: Loaded) -> None:
        del self.loaded[adapter.number]

    def _step(self, key: str, job: Job) -> Output:
        logits = self._logits([*job.tokens, *job.generated], job.lora)
        first = not job.generated
        token = job.chooser.choose(logits[-1])
        job.generated.append(token)
        top, params = job.params.get("logprobs"), job.params
        prompt: list[Scored] = []
        if first and params.get("prompt_logprobs") is not None:
            prompt = score(logits[: len(job.tokens) - 1], job.tokens[1:], params["prompt_logprobs"])
        ended = token in params.get("stop_token_ids", []) or len(job.generated) >= params["max_tokens"]
        return Output(
            key=key,
            tokens=[(token, None if top is None else score(logits[-1:], [token], top)[0])],
            prompt=prompt,
            cached_tokens=0,
            finished=ended or len(job.generated) == self.ends_after,
        )

    def _logits(self, tokens: list[int], lora: Lora | None) -> Tensor:
        ids, positions = torch.tensor(tokens), torch.arange(len(tokens))
        return self.decoder.logits(self.decoder.hidden(ids, positions, attend_causally, lora, rows=positions))
