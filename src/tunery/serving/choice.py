"""One choice on its way from tokens to pieces: when it ends, what of its text may go out, its log probabilities.

Knows no batch and no cache.
"""

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Literal

from tunery.messages import Generate, Piece, TokenLogprob, ToolCall
from tunery.models.tokenizer import Tokenizer
from tunery.serving.sampler import Chooser, Scored
from tunery.serving.text import TextStream

TOOL_MARKERS = ("<tool_call>", "\n<tool_call>")
"""The line end before a call belongs to it; see models/conversation.py."""

FinishReason = Literal["stop", "length", "tool_calls"]


class Choice:
    """Takes sampled tokens, gives out pieces. `number` counts the choices of a request and seeds this one's draws."""

    def __init__(self, request: Generate, tokenizer: Tokenizer, *, number: int, max_tokens: int) -> None:
        self.chooser = Chooser(
            temperature=request.temperature,
            top_p=request.top_p,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            logit_bias=request.logit_bias,
            random=Random() if request.seed is None else Random(f"{request.seed}:{number}"),  # noqa: S311 (no secret)
        )
        self.num_tokens = 0
        """Generated so far; an end-of-turn token is no part of the answer and doesn't count."""
        self.finished = False
        self._request = request
        self.number = number
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._text = TextStream(request.stop, TOOL_MARKERS if request.tools else ())
        self._unsent: deque[tuple[int, TokenLogprob]] = deque()
        self._total_logprob = 0.0
        self._num_scored = 0

    @property
    def mean_logprob(self) -> float:
        """Of the tokens it was scored for, its end included: what best_of compares."""
        return self._total_logprob / max(self._num_scored, 1)

    def accept(self, token: int, scored: Scored | None) -> Piece | None:
        """Takes the next token and returns what may go out now, if there is anything."""
        if scored:
            self._total_logprob += scored.logprob
            self._num_scored += 1
        if token in self._tokenizer.eos_ids:
            return self._finish("stop")
        self.num_tokens += 1
        if scored and self._request.logprobs is not None:
            self._unsent.append((self._text.decoded, token_logprob(self._tokenizer, token, scored)))
        text = self._text.push(self._tokenizer.token_bytes(token))
        if self._text.stopped:
            return self._finish("stop", text)
        if self.num_tokens >= self._max_tokens:
            return self._finish("length", text)
        return self._piece(text) if text else None

    def end_unasked(self) -> Piece:
        """The only piece of a choice that may have no token at all."""
        return self._finish("length")

    def _finish(self, reason: FinishReason, text: str = "") -> Piece:
        self.finished = True
        held = self._text.finish()
        if self._text.stopped:
            reason = "stop"
        if not self._request.tools:
            return self._piece(text + held, finish_reason=reason)
        content, calls = self._tokenizer.parse_tool_calls(held)
        return self._piece(
            text + content, finish_reason="tool_calls" if calls and reason == "stop" else reason, tool_calls=calls
        )

    def _piece(
        self, text: str, finish_reason: FinishReason | None = None, tool_calls: Sequence[ToolCall] = ()
    ) -> Piece:
        return Piece(
            id=self._request.id,
            index=self.number,
            text=text,
            logprobs=self._logprobs_to_send(),
            tool_calls=list(tool_calls),
            finish_reason=finish_reason,
        )

    def _logprobs_to_send(self) -> list[TokenLogprob]:
        """Those of tokens whose text has begun to go out, so that text and tokens end together."""
        ended = self.finished and not self._text.stopped
        sent = []
        while self._unsent and (ended or self._unsent[0][0] < self._text.released):
            sent.append(self._unsent.popleft()[1])
        return sent


def token_logprob(tokenizer: Tokenizer, token: int, scored: Scored | None) -> TokenLogprob:
    """As the wire says it; `scored` is None for the first token of an echoed prompt."""
    text, data = token_text(tokenizer, token)
    if scored is None:
        return TokenLogprob(token=text, token_bytes=data, logprob=None)
    top = [(*token_text(tokenizer, other), logprob) for other, logprob in scored.top]
    return TokenLogprob(token=text, token_bytes=data, logprob=scored.logprob, top=top)


def token_text(tokenizer: Tokenizer, token: int) -> tuple[str, bytes]:
    data = tokenizer.token_bytes(token)
    return data.decode("utf-8", "replace"), data
