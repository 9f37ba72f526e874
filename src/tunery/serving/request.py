"""One request from its prompts to `Done`: what is asked, which choices answer it. Knows no batch and no cache."""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import msgspec

from tunery.errors import ContextOverflow, InvalidRequest, TuneryError
from tunery.messages import Answer, Done, Generate, Piece, Refused
from tunery.models.tokenizer import Tokenizer
from tunery.serving.choice import Choice, token_logprob
from tunery.serving.grammar import Grammar
from tunery.serving.sampler import Scored

log = logging.getLogger(__name__)

Deliver = Callable[[Answer], None]


class Prompt:
    """One prompt of a request and the choices drawn from it."""

    def __init__(self, tokens: list[int], text: str, choices: list[Choice]) -> None:
        self.tokens = tokens
        self.text = text
        self.choices = choices
        self.drafts: dict[Choice, list[Piece]] = {choice: [] for choice in choices}
        self.scores: list[Scored] = []
        """Of the prompt's tokens from the second on, as far as they are computed; only if the request wants them."""

    @property
    def finished(self) -> bool:
        return all(choice.finished for choice in self.choices)


class Request:
    """A `Generate` being answered: `deliver` gets Started, the pieces of its choices, and Done after the last.

    Pieces go out as they come; where more choices are drawn than returned, when the best ones are known.
    """

    def __init__(self, generate: Generate, deliver: Deliver) -> None:
        self.generate = generate
        self.deliver = deliver
        self.best_of = max(generate.best_of, generate.n)
        self.grammar: Future[Grammar | None] | None = None
        """What its answers follow, once that is compiled, or None if they may say anything. None: not asked for yet."""
        self.prompts: list[Prompt] = []
        self.cached_tokens = 0
        """Of the prompts that are computed: what was known of them before."""

    @property
    def scores_prompts(self) -> bool:
        return self.generate.echo and self.generate.logprobs is not None

    @property
    def scores_choices(self) -> bool:
        return self.generate.logprobs is not None or self.best_of > self.generate.n

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(prompt.tokens) for prompt in self.prompts)

    def begin(self, tokenizer: Tokenizer, *, vocab_size: int, context_length: int) -> None:
        """Tokenises the prompts.

        Raises InvalidRequest for unknown token ids and a grammar that can't be followed, ContextOverflow for too many
        tokens.
        """
        generate, grammar = self.generate, self.grammar.result() if self.grammar else None
        _check_ids(generate.logit_bias, vocab_size, param="logit_bias")
        for number, (tokens, text) in enumerate(_prompts(generate, tokenizer, vocab_size)):
            max_tokens = _room(len(tokens), generate, context_length)
            choices = [
                Choice(
                    generate,
                    tokenizer,
                    number=number * self.best_of + sample,
                    max_tokens=max_tokens,
                    before=tokens[-1],
                    guide=grammar.guide() if grammar else None,
                )
                for sample in range(self.best_of)
            ]
            self.prompts.append(Prompt(tokens, text, choices))

    def echo(self, prompt: Prompt, tokenizer: Tokenizer) -> None:
        """Sends a prompt back as the beginning of each of its choices, with the scores it has."""
        logprobs = []
        if self.scores_prompts and prompt.text:
            scores = [None, *prompt.scores]
            pairs = zip(prompt.tokens, scores, strict=True)
            logprobs = [token_logprob(tokenizer, token, scored) for token, scored in pairs]
        for choice in prompt.choices:
            piece = Piece(id=self.generate.id, index=choice.number, text=prompt.text, logprobs=logprobs)
            self.send(prompt, choice, piece)

    def send(self, prompt: Prompt, choice: Choice, piece: Piece) -> None:
        """Hands on a piece of a choice, and what becomes known with it."""
        if self.best_of == self.generate.n:
            self.deliver(piece)
        else:
            prompt.drafts[choice].append(piece)
            if prompt.finished:
                self._deliver_best(prompt)
        if all(prompt.finished for prompt in self.prompts):
            self.deliver(self._done())

    def _deliver_best(self, prompt: Prompt) -> None:
        n = self.generate.n
        best = sorted(prompt.choices, key=lambda choice: choice.mean_logprob, reverse=True)[:n]
        for place, choice in enumerate(best, start=self.prompts.index(prompt) * n):
            for piece in prompt.drafts[choice]:
                self.deliver(msgspec.structs.replace(piece, index=place))

    def _done(self) -> Done:
        completion_tokens = sum(choice.num_tokens for prompt in self.prompts for choice in prompt.choices)
        return Done(
            id=self.generate.id,
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=completion_tokens,
            cached_tokens=self.cached_tokens,
        )


@contextmanager
def guarded(id: str, deliver: Deliver, cancel: Callable[[], object] = lambda: None) -> Iterator[None]:
    """What goes wrong for one request ends that request and nothing else: it is cancelled, then refused."""
    try:
        yield
    except Exception as error:
        cancel()
        if not isinstance(error, TuneryError):
            log.exception("Request %s failed", id)
            error = TuneryError()
        deliver(
            Refused(
                id=id,
                kind=type(error).__name__,
                message=error.message,
                param=error.param,
                retry_after=error.retry_after,
            )
        )


def _prompts(generate: Generate, tokenizer: Tokenizer, vocab_size: int) -> Iterator[tuple[list[int], str]]:
    """Tokens and text of each prompt; the empty text is the beginning of a document."""
    if generate.messages is not None:
        yield tokenizer.chat_prompt(generate.messages, generate.tools), ""
    for prompt in generate.prompts or []:
        if isinstance(prompt, str):
            yield tokenizer.encode(prompt) or [tokenizer.text_end_id], prompt
        else:
            if not prompt:
                raise InvalidRequest("The prompt is an empty list of tokens.", param="prompt")
            _check_ids(prompt, vocab_size, param="prompt")
            yield prompt, tokenizer.decode(prompt)


def _check_ids(ids: Iterable[int], vocab_size: int, *, param: str) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"{token} is no token of this model: ids go from 0 to {vocab_size - 1}.", param=param)


def _room(prompt_tokens: int, generate: Generate, context_length: int) -> int:
    """Tokens the answer may have."""
    room = context_length - prompt_tokens
    wanted = 1 if generate.max_tokens is None else generate.max_tokens
    if wanted > room:
        prompt = "prompt" if generate.messages is None else "messages"
        raise ContextOverflow(
            f"This model's context holds {context_length} tokens; the {prompt} has {prompt_tokens} and the answer may "
            f"take {wanted}, which makes {prompt_tokens + wanted}. Shorten the {prompt} or lower max_tokens.",
            param="max_tokens" if room > 0 else prompt,
        )
    return room if generate.max_tokens is None else generate.max_tokens
