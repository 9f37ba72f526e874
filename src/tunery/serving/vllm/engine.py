"""Answers requests through vLLM, as serving/engine.py does through our own decoder. Knows no socket.

Ours are what goes in and what comes out: tokens of prompts, grammars, stop strings, text, calls, echo, best_of, which
adapter is the right one. vLLM's are batches, memory, prefixes, and the next token. It takes turns as it likes: accounts
are kept apart (each has its own prefixes), not served evenly beyond the bound on what waits.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tunery.bases import BaseModel
from tunery.errors import EngineUnavailable, OperationNotSupported
from tunery.messages import Adapter, Generate, Mount, Mounted, Started
from tunery.models.decoder import DecoderConfig
from tunery.models.loader import read_config
from tunery.models.probe import Probe
from tunery.models.tokenizer import Tokenizer
from tunery.serving import proof
from tunery.serving.adapters import AdapterStore, checked
from tunery.serving.arrivals import Arrivals
from tunery.serving.backlog import Backlog
from tunery.serving.choice import Choice
from tunery.serving.constraints import source_of
from tunery.serving.request import Deliver, Prompt, Request, guarded
from tunery.serving.sampler import Scored
from tunery.serving.vllm import sampling
from tunery.serving.vllm.options import MOST_LOADED, largest_rank

LOADING_SECONDS = 0.05
"""To wait for an adapter when there is nothing else to do; then new requests are looked at."""
MAX_WAITING = 256
MAX_WAITING_TOKENS = 262_144
"""Prompts that vLLM hasn't answered yet, and their tokens; see Backlog."""


@dataclass(slots=True, kw_only=True)
class Loaded:
    """An adapter that was looked at. vLLM is given a number of its own for it, which never means another one."""

    number: int
    digest: str
    directory: str
    inside: bool = False
    """vLLM has it."""

    @property
    def nbytes(self) -> int:
        """vLLM counts places, all of one size."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What vLLM says in one step about one of the things it was asked."""

    key: str
    tokens: list[tuple[int, Scored | None]]
    """The new ones; log probabilities where they were asked for."""
    prompt: list[Scored]
    """Of the prompt's tokens from the second on, if that was asked for."""
    cached_tokens: int
    finished: bool


class Core(Protocol):
    """vLLM, as far as it is used; core.py."""

    def add(self, tokens: list[int], params: dict[str, Any], *, salt: str, adapter: Loaded | None) -> str:
        """Asks for what follows `tokens` and returns its key; see sampling.py. Raises OperationNotSupported."""

    def abort(self, key: str) -> None:
        """It may have ended by itself."""

    def step(self) -> list[Output]: ...

    def load(self, adapter: Loaded) -> None:
        """Raises OperationNotSupported."""

    def unload(self, adapter: Loaded) -> None: ...


@dataclass(eq=False, slots=True)
class Run:
    """A prompt on its way through vLLM: for one of its choices, or first to be scored."""

    request: Request
    prompt: Prompt
    choice: Choice | None = None
    begun: bool = False
    """Something came back."""

    @property
    def owner(self) -> str:
        return self.request.generate.owner

    @property
    def tokens(self) -> list[int]:
        return self.prompt.tokens

    @property
    def adapter(self) -> Adapter | None:
        return self.request.generate.adapter


@dataclass(eq=False, slots=True)
class Proof:
    """A mounted adapter's probe on its way."""

    mount: Mount
    deliver: Deliver
    probe: Probe | None

    @property
    def adapter(self) -> Adapter | None:
        return self.mount.adapter


class VllmEngine:
    """A server.Engine."""

    def __init__(
        self, base: BaseModel, config: DecoderConfig, tokenizer: Tokenizer, core: Core, *, tolerance: float
    ) -> None:
        self._tokenizer = tokenizer
        self._core = core
        self._tolerance = tolerance
        self._vocab_size = min(config.vocab_size, tokenizer.vocab_size)
        self._context_length = base.context_length
        self._adapters = AdapterStore(
            partial(_looked_at, config=config, largest=largest_rank(base), numbers=itertools.count(1)),
            max_bytes=MOST_LOADED,
            dropped=self._unload,
        )
        self._arrivals = Arrivals(tokenizer)
        self._backlog = Backlog(max_sequences=MAX_WAITING, max_tokens=MAX_WAITING_TOKENS)
        self._mounts: list[tuple[Mount, Deliver]] = []
        self._waiting: list[Run] = []
        self._inside: dict[str, Run | Proof] = {}

    @classmethod
    def load(cls, base: BaseModel, core: Core, *, tolerance: float) -> "VllmEngine":
        """Raises InvalidRequest for a base that our own decoder doesn't run: nothing here was proved for others."""
        config, _ = read_config(Path(base.directory))
        return cls(base, config, Tokenizer.load(base.directory), core, tolerance=tolerance)

    def use_this_thread(self) -> None:
        """Any thread will do."""

    @property
    def busy(self) -> bool:
        return bool(self._arrivals or self._mounts or self._waiting or self._inside)

    @property
    def usage(self) -> None:
        """vLLM keeps its own books."""
        return None

    def submit(self, generate: Generate, deliver: Deliver) -> Request:
        request = Request(generate, deliver)
        self._arrivals.add(request)
        return request

    def cancel(self, request: Request) -> None:
        self._arrivals.drop(request)
        self._waiting = [run for run in self._waiting if run.request is not request]
        for key, run in list(self._inside.items()):
            if isinstance(run, Run) and run.request is request:
                self._core.abort(key)
                self._forget(key)

    def mount(self, mount: Mount, deliver: Deliver) -> None:
        self._mounts.append((mount, deliver))

    def step(self) -> None:
        """Takes on what arrived, lets vLLM compute the next tokens, hands out what came of it."""
        self._arrivals.begin(self._begin, idle=not (self._waiting or self._inside))
        self._admit_mounts()
        self._admit()
        outputs = self._core.step() if self._inside else []
        self._backlog.computed(sum(map(self._computed, outputs)))
        for output in outputs:
            self._settle(output)
        if not self._inside and (self._waiting or self._mounts):
            self._adapters.wait(LOADING_SECONDS)

    def close(self) -> None:
        """Ends what loads adapters and compiles grammars."""
        self._adapters.close()
        self._arrivals.close()

    def _begin(self, request: Request) -> None:
        generate = request.generate
        request.begin(self._tokenizer, vocab_size=self._vocab_size, context_length=self._context_length)
        if request.scores_prompts and any(len(prompt.tokens) >= self._context_length for prompt in request.prompts):
            raise OperationNotSupported(
                f"vLLM scores prompts of up to {self._context_length - 1} tokens only. Shorten it, or leave logprobs "
                "out.",
                param="logprobs",
            )
        waiting = [run for run in (*self._waiting, *self._inside.values()) if isinstance(run, Run) and not run.begun]
        self._backlog.check(generate.owner, [len(prompt.tokens) for prompt in request.prompts], waiting)
        request.deliver(Started(id=generate.id, prompt_tokens=request.num_prompt_tokens))
        for prompt in request.prompts:
            if request.scores_prompts:
                self._waiting.append(Run(request, prompt))
            else:
                self._begin_choices(request, prompt)

    def _begin_choices(self, request: Request, prompt: Prompt) -> None:
        """The prompt is scored, if that was asked for."""
        if request.generate.echo:
            request.echo(prompt, self._tokenizer)
        for choice in prompt.choices:
            if request.generate.max_tokens == 0:
                request.send(prompt, choice, choice.end_unasked())
            else:
                self._waiting.append(Run(request, prompt, choice))

    def _admit_mounts(self) -> None:
        for mount, deliver in list(self._mounts):
            adapter = mount.adapter
            if adapter is not None and not self._adapters.ready(adapter):
                continue
            self._mounts.remove((mount, deliver))
            with guarded(mount.id, deliver):
                probe = proof.read(adapter.directory, self._vocab_size) if adapter else None
                tokens = probe.token_ids if probe else [0]
                self._add(Proof(mount, deliver, probe), tokens, sampling.of_probe(), owner="")

    def _admit(self) -> None:
        """Those whose adapter is there."""
        for run in list(self._waiting):
            request, adapter = run.request, run.adapter
            with guarded(request.generate.id, request.deliver, partial(self.cancel, request)):
                if run not in self._waiting:
                    continue  # its request was refused just now
                if adapter is None or (self._adapters.fits(adapter) and self._adapters.ready(adapter)):
                    self._waiting.remove(run)
                    self._add(run, run.tokens, self._params(run), owner=run.owner)

    def _params(self, run: Run) -> dict[str, Any]:
        generate = run.request.generate
        if run.choice is None:
            return sampling.of_prompt(generate.logprobs or 0)
        source = source_of(generate, self._tokenizer)
        room = self._context_length - len(run.tokens)
        return sampling.of_choice(
            generate,
            number=run.choice.number,
            max_tokens=room if generate.max_tokens is None else generate.max_tokens,
            scored=run.request.scores_choices,
            ends=self._tokenizer.eos_ids,
            grammar=source.lark if source else None,
        )

    def _add(self, run: Run | Proof, tokens: list[int], params: dict[str, Any], *, owner: str) -> None:
        loaded = None
        if run.adapter:
            loaded = self._adapters.get(run.adapter)
            if not loaded.inside:
                self._core.load(loaded)
                loaded.inside = True
        # A salt of its own for each account and adapter: no hit across either, whatever vLLM's keys hold.
        salt = f"{owner} {loaded.digest if loaded else ''}"
        self._inside[self._core.add(tokens, params, salt=salt, adapter=loaded)] = run
        if run.adapter:
            self._adapters.pin(run.adapter)

    def _computed(self, output: Output) -> int:
        """Tokens; its prompt's come with the first output."""
        run = self._inside.get(output.key)
        prompt = len(run.tokens) - output.cached_tokens if isinstance(run, Run) and not run.begun else 0
        return prompt + len(output.tokens)

    def _settle(self, output: Output) -> None:
        match self._inside.get(output.key):
            case Run() as run:
                request = run.request
                with guarded(request.generate.id, request.deliver, partial(self.cancel, request)):
                    self._settle_run(run, output)
            case Proof() as one:
                self._forget(output.key)
                with guarded(one.mount.id, one.deliver):
                    proof.judge(_difference(one.probe, output), self._tolerance)
                    one.deliver(Mounted(id=one.mount.id))

    def _settle_run(self, run: Run, output: Output) -> None:
        request, prompt = run.request, run.prompt
        if not run.begun:
            run.begun = True
            if run.choice is None or (run.choice is prompt.choices[0] and not request.scores_prompts):
                request.cached_tokens += output.cached_tokens
        if run.choice is None:
            self._forget(output.key)
            prompt.scores = [self._known(scored, request.generate) for scored in output.prompt]
            self._begin_choices(request, prompt)
        else:
            self._advance(run, run.choice, output)

    def _advance(self, run: Run, choice: Choice, output: Output) -> None:
        request = run.request
        for token, scored in output.tokens:
            if token >= self._vocab_size:
                raise EngineUnavailable(f"vLLM chose the token {token}, which this model's tokenizer doesn't know.")
            choice.check(token, self._vocab_size)
            piece = choice.accept(token, scored and self._known(scored, request.generate))
            if choice.finished and not output.finished:
                self._core.abort(output.key)
            if choice.finished:
                self._forget(output.key)
            if piece:
                request.send(run.prompt, choice, piece)
            if choice.finished:
                return
        if output.finished:
            raise EngineUnavailable("vLLM ended an answer before its end.")

    def _known(self, scored: Scored, generate: Generate) -> Scored:
        """As many alternatives as are asked for, of the tokens that mean something."""
        top = [(token, logprob) for token, logprob in scored.top if token < self._vocab_size]
        return Scored(scored.logprob, top[: generate.logprobs or 0])

    def _forget(self, key: str) -> None:
        if adapter := self._inside.pop(key).adapter:
            self._adapters.unpin(adapter)

    def _unload(self, loaded: Loaded) -> None:
        if loaded.inside:
            self._core.unload(loaded)


def _looked_at(adapter: Adapter, *, config: DecoderConfig, largest: int, numbers: "itertools.count[int]") -> Loaded:
    """vLLM reads the same folder again, once this has found it to be what it should be."""
    lora = checked(adapter, config)
    if lora.rank > largest:
        raise OperationNotSupported(
            f"The adapter's rank is {lora.rank}; this engine was started for {largest} at most, from the base's own."
        )
    return Loaded(number=next(numbers), digest=adapter.digest, directory=adapter.directory)


def _difference(probe: Probe | None, output: Output) -> float:
    """See Probe.least_difference: vLLM tells the most likely tokens of a place, not all."""
    places: Sequence[Scored] = [*output.prompt, *(scored for _, scored in output.tokens if scored)]
    if not all(_finite(scored) for scored in places) or not places:
        return math.nan
    return probe.least_difference({place: dict(scored.top) for place, scored in enumerate(places)}) if probe else 0.0


def _finite(scored: Scored) -> bool:
    return all(math.isfinite(logprob) for _, logprob in scored.top)
