"""From a request to vLLM's SamplingParams, by their names. Doesn't import vLLM.

Stop strings, the text, and which tokens count are ours (choice.py), so that an answer is the same streamed and whole;
vLLM ends a choice at the end tokens and at max_tokens. Penalties and logit_bias mean the same there: generated tokens
count, the prompt doesn't (vllm/v1/sample/ops/penalties.py, 0.32). Log probabilities are of the raw logits.
"""

import hashlib
from collections.abc import Collection
from typing import Any

from tunery.messages import Generate
from tunery.serving.vllm.options import MOST_LOGPROBS

GRAMMAR = "grammar"
"""Stands beside the names of SamplingParams: llguidance's Lark that the answer follows."""


def of_choice(
    generate: Generate, *, number: int, max_tokens: int, scored: bool, ends: Collection[int], grammar: str | None
) -> dict[str, Any]:
    """`number` counts the choices of a request; `ends` are the end tokens."""
    params: dict[str, Any] = {
        # A nucleus of nothing is the most likely token; vLLM has no name for it.
        "temperature": generate.temperature if generate.top_p > 0 else 0.0,
        "top_p": generate.top_p if generate.top_p > 0 else 1.0,
        "presence_penalty": generate.presence_penalty,
        "frequency_penalty": generate.frequency_penalty,
        "logit_bias": dict(generate.logit_bias) or None,
        "seed": None if generate.seed is None else seed_of_choice(generate.seed, number),
        "max_tokens": max_tokens,
        "logprobs": (generate.logprobs or 0) if scored else None,
        "ignore_eos": True,  # its own notion of it; ours are the stop tokens
        "stop_token_ids": sorted(ends),
    }
    if grammar is not None:
        params[GRAMMAR] = grammar
    return params


def of_prompt(top: int) -> dict[str, Any]:
    """Scores a prompt: vLLM computes a token behind it, which nobody asked for."""
    return {"temperature": 0.0, "max_tokens": 1, "ignore_eos": True, "logprobs": top, "prompt_logprobs": top}


def of_probe() -> dict[str, Any]:
    return of_prompt(MOST_LOGPROBS)


def seed_of_choice(seed: int, number: int) -> int:
    """63 bits: each choice has draws of its own, whatever else is in the batch."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8]) >> 1
