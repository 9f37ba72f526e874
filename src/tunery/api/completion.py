"""The completions API's body in, its answer out (contract.md 3.5). Knows no HTTP and no engine."""

import codecs
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tunery.api.answer import Order, writable
from tunery.api.sampling import HIGHEST_TOKEN_ID, Sampling, check_range, read
from tunery.deployments import Serving
from tunery.errors import ContextOverflow, InvalidRequest
from tunery.messages import Generate, Piece, TokenLogprob
from tunery.records import new_id

DEFAULT_MAX_TOKENS = 16
DOCUMENT_START = "<|endoftext|>"
MOST_CHOICES = 2048
"""Ours: prompts of a request times best_of."""


class CompletionBody(Sampling, frozen=True, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    best_of: int | None = None
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


def completion_order(body: bytes, serving: Serving, owner: str) -> Order:
    """Raises InvalidRequest that names the parameter and what it may be."""
    completion = read(body, CompletionBody)
    if completion.suffix:
        raise InvalidRequest("suffix isn't supported: the base models here don't fill gaps.", param="suffix")
    options = completion.options()
    check_range("logprobs", completion.logprobs, 0, 5)
    check_range("max_tokens", completion.max_tokens, 0, serving.context_length)
    prompts, best_of = _prompts(completion.prompt, serving.context_length), _best_of(completion)
    if len(prompts) * best_of > MOST_CHOICES:
        raise InvalidRequest(
            f"{len(prompts)} prompts with {best_of} answers each are too many; together it may be {MOST_CHOICES}.",
            param="prompt",
        )
    request = Generate(
        id=new_id("cmpl-"),
        owner=owner,
        adapter=serving.adapter,
        prompts=prompts,
        max_tokens=DEFAULT_MAX_TOKENS if completion.max_tokens is None else completion.max_tokens,
        best_of=best_of,
        logprobs=completion.logprobs,
        echo=bool(completion.echo),
        **options,
    )
    return Order(
        request=request,
        rendering=CompletionRendering(completion.logprobs),
        stream=bool(completion.stream),
        include_usage=completion.includes_usage(),
    )


def _prompts(prompt: str | list[str | int | list[int]] | None, context_length: int) -> list[str | list[int]]:
    """One prompt or several. The empty string is the start of a document, which is what no prompt means."""
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return ["" if prompt == DOCUMENT_START else prompt]
    if len(prompt) > max(MOST_CHOICES, context_length):
        raise ContextOverflow(
            f"prompt has {len(prompt)} items; it may have {MOST_CHOICES} prompts or {context_length} token ids.",
            param="prompt",
        )
    texts = ["" if text == DOCUMENT_START else text for text in prompt if isinstance(text, str)]
    ids = [token for token in prompt if isinstance(token, int)]
    lists = [tokens for tokens in prompt if isinstance(tokens, list)]
    if not prompt or [] in lists or len(prompt) not in (len(texts), len(ids), len(lists)):
        raise InvalidRequest(
            "prompt may be a string, strings, token ids, or lists of token ids; no mixture of them and no empty list.",
            param="prompt",
        )
    lists += [ids] if ids else []
    for tokens in lists:
        _check_tokens(tokens, context_length)
    return [*texts, *lists]


def _check_tokens(tokens: list[int], context_length: int) -> None:
    if len(tokens) > context_length:
        raise ContextOverflow(
            f"prompt has {len(tokens)} token ids; the model's context holds {context_length} tokens.", param="prompt"
        )
    for token in (min(tokens), max(tokens)):
        check_range("A token id of prompt", token, 0, HIGHEST_TOKEN_ID, param="prompt")


def _best_of(completion: CompletionBody) -> int:
    """Samples a prompt; 0 is the contract's lower bound and taken for not given."""
    wanted = completion.n or 1
    check_range("best_of", completion.best_of, 0, 20)
    best_of = completion.best_of or wanted
    if best_of < wanted:
        raise InvalidRequest(f"best_of is {best_of}; it may not be less than n, which is {wanted}.", param="best_of")
    if best_of > wanted and completion.stream:
        raise InvalidRequest(
            f"best_of is {best_of} and n {wanted}: the best are known only when all are written, so it can't stream.",
            param="best_of",
        )
    return best_of


class CompletionRendering:
    """Texts. `top`: how many alternatives of each token were asked for; None: no log probabilities at all."""

    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, top: int | None) -> None:
        self._top = top
        self._offsets: defaultdict[int, _Offsets] = defaultdict(_Offsets)

    def whole(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        tokens = [token for piece in pieces for token in piece.logprobs]
        return {
            "index": index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(index, tokens),
            "finish_reason": pieces[-1].finish_reason,
        }

    def deltas(self, piece: Piece) -> Iterator[dict[str, Any]]:
        index = piece.index
        if piece.text or piece.logprobs:
            logprobs = self._logprobs(index, piece.logprobs)
            yield {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": None}
        if piece.finish_reason:
            yield {"index": index, "text": "", "logprobs": None, "finish_reason": piece.finish_reason}

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._top is None:
            return None
        return {
            "tokens": [_label(token.token, token.token_bytes) for token in tokens],
            "token_logprobs": [None if token.logprob is None else writable(token.logprob) for token in tokens],
            "top_logprobs": [_alternatives(token) for token in tokens] if self._top else None,
            "text_offset": [self._offsets[index].advance(token.token_bytes) for token in tokens],
        }


class _Offsets:
    """Where tokens begin in a choice's text, in characters, an echoed prompt counted."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def advance(self, data: bytes) -> int:
        start = self._characters
        self._characters += len(self._decoder.decode(data))
        return start


def _alternatives(token: TokenLogprob) -> dict[str, float] | None:
    """The most likely tokens and, if it isn't among them, the chosen one."""
    if token.logprob is None:
        return None
    scores = {_label(text, data): writable(logprob) for text, data, logprob in token.top}
    return {**scores, _label(token.token, token.token_bytes): writable(token.logprob)}


def _label(text: str, data: bytes) -> str:
    """A token as text, or as OpenAI spells bytes that are part of a character only."""
    if "\ufffd" not in text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
