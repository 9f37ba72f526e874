"""Grammars compiled, cached, and followed token by token. Knows no batch, no sampling and no HTTP.

Compiling happens on threads of its own, with Python's lock released, and so does each step's mask: it is asked for
once a token is chosen and ready when the next logits are. Numbers: docs/why.md.
"""

import re
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import llguidance
import numpy as np
import torch
from torch import Tensor

from tunery.errors import EngineUnavailable, InvalidRequest, TooManyRequests
from tunery.messages import Generate
from tunery.models.tokenizer import Tokenizer
from tunery.serving.constraints import LONGEST_GRAMMAR, Source, source_of
from tunery.serving.grammar_check import CPU_SECONDS, limits

COMPILERS = 2
MOST_COMPILING = 64
CHECK_SECONDS = 30.0
"""Of waiting; a busy machine may need that long for CPU_SECONDS."""
CACHED_CHARACTERS = 4 * LONGEST_GRAMMAR
"""Of the sources of cached grammars; a compiled one takes up to a hundred times its source."""
MOST_CACHED = 256


class Guide:
    """What may come next in one choice. The matcher is touched by one thread at a time: never while a mask is made."""

    def __init__(self, matcher: llguidance.LLMatcher, masks: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._masks = masks
        self.finished = False
        """Nothing but the end may follow."""
        self._mask = masks.submit(matcher.compute_bitmask)

    def allowed(self, vocab_size: int) -> Tensor:
        """Which tokens may be next: bool [vocab_size]. Raises InvalidRequest if the grammar got too complex."""
        bits = np.unpackbits(np.frombuffer(self._mask.result(), np.uint8), bitorder="little", count=vocab_size)
        if self._matcher.is_error() or not bits.any():
            raise InvalidRequest("The schema is too complex to be followed at this place of the answer. Simplify it.")
        return torch.from_numpy(bits).bool()

    def accept(self, token: int) -> None:
        """Goes on behind an allowed token."""
        self._mask.result()
        self._matcher.consume_token(token)
        self.finished = self._matcher.is_stopped() and not self._matcher.is_error()
        if not self.finished:
            self._mask = self._masks.submit(self._matcher.compute_bitmask)


class Grammar:
    """A compiled grammar; each choice follows it on its own."""

    def __init__(self, matcher: llguidance.LLMatcher, masks: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._masks = masks

    def guide(self) -> Guide:
        return Guide(self._matcher.deep_copy(), self._masks)


class Grammars:
    """Grammars for one tokenizer, compiled once and kept while there is room."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._compilers = ThreadPoolExecutor(COMPILERS, "grammar")
        self._masks = ThreadPoolExecutor(1, "mask")
        self._anything: Future[Grammar | None] = Future()
        self._anything.set_result(None)
        self._cache: OrderedDict[str, Future[Grammar | None]] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, generate: Generate) -> "Future[Grammar | None]":
        """The grammar that a request's answers follow, soon; its result is None if they may say anything.

        The future raises InvalidRequest for what can't be compiled within limits. Raises InvalidRequest,
        OperationNotSupported or TooManyRequests at once.
        """
        source = source_of(generate, self._tokenizer)
        if source is None:
            return self._anything
        if source.lark not in self._cache or _broke(self._cache[source.lark]):
            if sum(not grammar.done() for grammar in self._cache.values()) >= MOST_COMPILING:
                raise TooManyRequests("Many schemas wait to be compiled already. Please retry after a moment.")
            self._cache[source.lark] = self._compilers.submit(self._compile, source)
        self._cache.move_to_end(source.lark)
        self._make_room()
        return self._cache[source.lark]

    def close(self) -> None:
        """What compiles still goes on to its end, which is near; nothing else begins."""
        for threads in (self._compilers, self._masks):
            threads.shutdown(wait=False, cancel_futures=True)

    def _make_room(self) -> None:
        while len(self._cache) > 1 and (
            len(self._cache) > MOST_CACHED or sum(map(len, self._cache)) > CACHED_CHARACTERS
        ):
            self._cache.popitem(last=False)

    def _compile(self, source: Source) -> Grammar | None:
        if source.schemas:
            _refuse(_checked(source.lark), source)
        matcher = llguidance.LLMatcher(self._llguidance_tokenizer, source.lark, log_level=0, limits=limits())
        if not matcher.is_error():
            matcher.compute_bitmask()
        _refuse(matcher.get_error(), source)
        return Grammar(matcher, self._masks)

    @property
    def _llguidance_tokenizer(self) -> llguidance.LLTokenizer:
        with self._lock:  # it takes tenths of a second: not twice
            return self._vocabulary

    @cached_property
    def _vocabulary(self) -> llguidance.LLTokenizer:
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer))
        return llguidance.LLTokenizer(
            wrapper, n_vocab=self._tokenizer.vocab_size, eos_token=sorted(self._tokenizer.eos_ids)
        )


def _broke(grammar: "Future[Grammar | None]") -> bool:
    """It failed for a reason that may be gone by now."""
    return grammar.done() and isinstance(grammar.exception(), EngineUnavailable)


class _Vocabulary:
    """Our tokenizer in the shape that llguidance asks for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = tokenizer.special_ids

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode_continuation(text.decode("utf-8", "replace"))


def _checked(lark: str) -> str:
    """The fault of a grammar that anybody may have written, found in a process of its own (grammar_check.py)."""
    command = [sys.executable, "-m", "tunery.serving.grammar_check"]
    try:
        check = subprocess.run(  # noqa: S603 (our own module)
            command, input=lark, capture_output=True, text=True, check=False, timeout=CHECK_SECONDS
        )
    except subprocess.TimeoutExpired:
        return "it takes too long to compile"
    except OSError as error:
        raise EngineUnavailable(f"No process to check the schema could be started: {error.strerror}.") from error
    if check.returncode:
        return f"it takes more than {CPU_SECONDS} seconds or too much memory to compile"
    return check.stdout.strip()


_PLACE = re.compile(r"at (?P<line>\d+)\(\d+\): (failed to compile JSON schema: )?")


def _refuse(fault: str, source: Source) -> None:
    """Raises InvalidRequest if there is a fault, with the schema that has it, as far as that can be told."""
    if not fault:
        return
    reason = fault.split("\n", 1)[0][:300]
    place = _PLACE.match(reason)
    schema = source.schemas.get(int(place["line"])) if place else None
    if place:
        reason = reason[place.end() :]
    if reason.startswith("NoExtension"):
        reason = "nothing can satisfy it"
    what, param = schema or next(iter(source.schemas.values()), ("The grammar", "response_format"))
    raise InvalidRequest(f"{what} can't be enforced: {reason.rstrip('.')}.", param=param)
