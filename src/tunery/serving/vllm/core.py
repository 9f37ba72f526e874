"""vLLM's engine, stepped in this process: the only module that knows its names. Knows no text and no wire.

Written against vLLM 0.32. Its LLMEngine with the core in this process, not AsyncLLM: that one puts the core into a
process of its own, which a kill of ours would leave behind, holding the GPU.
"""

import itertools
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.llm_engine import LLMEngine

from tunery.errors import OperationNotSupported
from tunery.serving.sampler import Scored
from tunery.serving.vllm.engine import Loaded, Output
from tunery.serving.vllm.sampling import GRAMMAR


class LlmCore:
    """See engine.Core."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """`arguments`: see options.engine_arguments. Loads the model, and computes once what is compiled then."""
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        self._keys = itertools.count()
        self.add([0], {"temperature": 0.0, "max_tokens": 2}, salt="", adapter=None)
        while self._engine.has_unfinished_requests():
            self.step()

    def add(self, tokens: list[int], params: dict[str, Any], *, salt: str, adapter: Loaded | None) -> str:
        key = str(next(self._keys))
        named = {name: value for name, value in params.items() if name != GRAMMAR}
        if grammar := params.get(GRAMMAR):
            named["structured_outputs"] = StructuredOutputsParams(grammar=grammar)
        try:
            sampling = SamplingParams(**named, detokenize=False, output_kind=RequestOutputKind.DELTA)
            prompt = {"prompt_token_ids": tokens, "cache_salt": salt} if salt else {"prompt_token_ids": tokens}
            self._engine.add_request(key, prompt, sampling, lora_request=_lora(adapter) if adapter else None)
        except ValueError as error:
            raise OperationNotSupported(f"vLLM doesn't take this request: {error}") from error
        return key

    def abort(self, key: str) -> None:
        self._engine.abort_request([key])

    def step(self) -> list[Output]:
        return [_output(output) for output in self._engine.step()]

    def load(self, adapter: Loaded) -> None:
        try:
            self._engine.add_lora(_lora(adapter))
        except ValueError as error:
            raise OperationNotSupported(f"vLLM doesn't take this adapter: {error}") from error

    def unload(self, adapter: Loaded) -> None:
        self._engine.remove_lora(adapter.number)


def _lora(adapter: Loaded) -> LoRARequest:
    # Its name is part of the prefix cache's key.
    return LoRARequest(adapter.digest, adapter.number, adapter.directory)


def _output(output: Any) -> Output:
    (choice,) = output.outputs
    scores = choice.logprobs or [None] * len(choice.token_ids)
    return Output(
        key=output.request_id,
        tokens=[
            (token, None if alternatives is None else _scored(token, alternatives))
            for token, alternatives in zip(choice.token_ids, scores, strict=True)
        ],
        prompt=[
            _scored(token, alternatives)
            for token, alternatives in zip(output.prompt_token_ids, output.prompt_logprobs or [], strict=False)
            if alternatives is not None  # the first token follows nothing
        ],
        cached_tokens=output.num_cached_tokens or 0,
        finished=output.finished,
    )


def _scored(token: int, alternatives: dict[int, Any]) -> Scored:
    """vLLM gives the most likely ones and, if it isn't one of them, the token itself, each with its rank."""
    ranked = sorted(alternatives.items(), key=lambda item: item[1].rank)
    return Scored(alternatives[token].logprob, [(other, entry.logprob) for other, entry in ranked])
