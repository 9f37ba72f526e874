"""One choice on its way from tokens to pieces: when it ends, what of its text may go out, its log probabilities.

Knows no batch and no cache.
"""

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Literal

from torch import Tensor

from tunery.errors import EngineUnavailable
from tunery.messages import Generate, Piece, TokenLogprob, ToolCall
from tunery.models.tokenizer import Tokenizer
from tunery.serving.calls import CallReader
from tunery.serving.grammar import Guide
from tunery.serving.sampler import Chooser, Scored
from tunery.serving.text import TextStream

FinishReason = Literal["stop", "length", "tool_calls"]


class Choice:
    """Takes sampled tokens, gives out pieces. `number` counts the choices of a request and seeds this one's draws.

    Calls are looked for only where a guide holds the answer to their form: then one that has begun is one, and its
    parts can go out as they come. Stop strings cut text, never a call.
    """

    def __init__(
        self,
        request: Generate,
        tokenizer: Tokenizer,
        *,
        number: int,
        max_tokens: int,
        before: int | None = None,
        guide: Guide | None = None,
    ) -> None:
        """`before`: the prompt's last token."""
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
        self._skips_space = tokenizer.adds_space(before)
        self._text = TextStream(request.stop)
        self._guide = guide
        self._calls = CallReader() if guide and request.tools else None
        self._unsent: deque[tuple[int, TokenLogprob]] = deque()
        self._total_logprob = 0.0
        self._num_scored = 0

    @property
    def mean_logprob(self) -> float:
        """Of the tokens it was scored for, its end included: what best_of compares."""
        return self._total_logprob / max(self._num_scored, 1)

    def choose(self, logits: Tensor) -> int:
        """The next token under logits[V]. Raises InvalidRequest if the grammar got too complex."""
        return self.chooser.choose(logits, self._guide.allowed(len(logits)) if self._guide else None)

    def check(self, token: int, vocab_size: int) -> None:
        """Of a token that somebody else chose. Raises EngineUnavailable if the grammar forbids it."""
        if self._guide and token not in self._tokenizer.eos_ids and not self._guide.allowed(vocab_size)[token]:
            raise EngineUnavailable("The model's engine left the form that the answer has to have.")

    def accept(self, token: int, scored: Scored | None) -> Piece | None:
        """Takes the next token and returns what may go out now, if there is anything."""
        if scored:
            self._total_logprob += scored.logprob
            self._num_scored += 1
        if token in self._tokenizer.eos_ids:
            return self._finish("stop")
        self.num_tokens += 1
        if scored and self._request.logprobs is not None and not (self._calls and self._calls.inside):
            self._unsent.append((self._text.decoded, token_logprob(self._tokenizer, token, scored)))
        if self._guide:
            self._guide.accept(token)
        text, calls = self._read(self._bytes(token))
        if self._text.stopped or (self._guide and self._guide.finished):
            return self._finish("stop", text, calls)
        if self.num_tokens >= self._max_tokens:
            return self._finish("length", text, calls)
        return self._piece(text, calls) if text or calls else None

    def _bytes(self, token: int) -> bytes:
        """Without the space that the tokenizer puts before a text of its own accord."""
        data = self._tokenizer.token_bytes(token)
        if self._skips_space:
            data = data.removeprefix(b" ")
            self._skips_space = False
        return data

    def _read(self, data: bytes) -> tuple[str, list[ToolCall]]:
        if self._calls is None:
            return self._text.push(data), []
        data, calls = self._calls.feed(data)
        text = self._text.push(data)
        if self._text.stopped:
            return text, []
        # No text follows a call: what was held back won't become a stop string any more.
        return text + (self._text.finish() if self._calls.inside else ""), calls

    def end_unasked(self) -> Piece:
        """The only piece of a choice that may have no token at all."""
        return self._finish("length")

    def _finish(self, reason: FinishReason, text: str = "", calls: Sequence[ToolCall] = ()) -> Piece:
        self.finished = True
        if self._calls:
            text += self._text.push(self._calls.finish())
        text += self._text.finish()
        if self._text.stopped:
            reason = "stop"
        elif reason == "stop" and self._calls and self._calls.count:
            reason = "tool_calls"
        return self._piece(text, calls, reason)

    def _piece(
        self, text: str, tool_calls: Sequence[ToolCall] = (), finish_reason: FinishReason | None = None
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
        """Those of tokens whose text has begun to go out, so that text and tokens end together; none of a call's."""
        ended = self.finished and not self._text.stopped and not (self._calls and self._calls.count)
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
