"""Answers many requests at once over one base model: each step computes the next tokens of every running sequence.

Knows no socket. Everything runs on one thread; `deliver` is called from `step` and `mount`.
What a request gets doesn't depend on the others in its batch, save for the rounding of floating-point sums.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tunery.bases import BaseModel
from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.messages import Adapter, Generate, Mount, Mounted, Piece, Started, Usage
from tunery.models import loader, probe
from tunery.models.decoder import Model
from tunery.models.probe import Probe
from tunery.models.tokenizer import Tokenizer
from tunery.serving import proof
from tunery.serving.adapters import AdapterStore, served
from tunery.serving.arrivals import Arrivals
from tunery.serving.backlog import Backlog
from tunery.serving.cache import KVCache
from tunery.serving.choice import Choice
from tunery.serving.compiled import kernels_for, linear_for
from tunery.serving.drafts import PromptLookup
from tunery.serving.request import Deliver, Prompt, Request, guarded
from tunery.serving.runner import Runner, Span
from tunery.serving.sampler import score
from tunery.serving.scheduler import Chunk, Scheduler, Sequence
from tunery.weights import Agreement, Quantization

LOADING_SECONDS = 0.05
"""To wait for an adapter when there is nothing else to do; then new requests are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine may use."""

    cache_tokens: int = 16384
    """Of all running sequences together; a longer context than this can't be served."""
    max_rows: int = 64
    """Sequences that run at once."""
    step_tokens: int = 256
    """Of prompts, computed in one step: longer ones are cut into such pieces."""
    beside_tokens: int = 128
    """The same while others decode: each of them waits for as long as this takes."""
    draft_rows: int | None = None
    """Tokens of a step that drafts may fill it up to; None: as many as take hardly longer than one."""
    max_waiting: int = 256
    """Sequences that wait for room."""
    max_waiting_tokens: int = 262_144
    """Of their prompts. Once either is reached, owners that have their part of it waiting are refused."""
    adapter_bytes: int = 1024**3
    """Of adapters kept in memory."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a sequence is computed for: a prompt and, once that is computed, one of its choices."""

    request: Request
    prompt: Prompt
    choice: Choice | None = None


class Engine:
    """`submit`, then `step` while `busy`."""

    def __init__(
        self,
        base: BaseModel,
        decoder: Model,
        tokenizer: Tokenizer,
        limits: Limits | None = None,
        *,
        unquantized: Probe | None = None,
    ) -> None:
        """`unquantized`: what the base answered before its weights were quantised; None: they are as trained."""
        self._limits = limits or Limits()
        self._unquantized = unquantized
        self._runner = Runner(decoder)
        self._tokenizer = tokenizer
        config = decoder.config
        self._vocab_size = min(config.vocab_size, tokenizer.vocab_size)
        """Ids that the weights have beyond the tokenizer's mean nothing."""
        self._cache = KVCache(config, self._limits.cache_tokens, device=decoder.device, dtype=decoder.dtype)
        self._context_length = min(base.context_length, self._cache.num_tokens)
        self._adapters = AdapterStore(
            partial(served, config=config, device=decoder.device, dtype=decoder.dtype),
            max_bytes=self._limits.adapter_bytes,
        )
        self._scheduler = Scheduler(
            self._cache,
            self._adapters,
            max_rows=self._limits.max_rows,
            step_tokens=self._limits.step_tokens,
            beside_tokens=self._limits.beside_tokens,
            draft_rows=self._runner.cheap_rows if self._limits.draft_rows is None else self._limits.draft_rows,
        )
        self._backlog = Backlog(max_sequences=self._limits.max_waiting, max_tokens=self._limits.max_waiting_tokens)
        self._arrivals = Arrivals(tokenizer)
        self._mounts: list[tuple[Mount, Deliver]] = []
        self._parts: dict[Sequence, Part] = {}

    @classmethod
    def load(
        cls,
        base: BaseModel,
        *,
        device: str = "cpu",
        quantization: Quantization | None = None,
        limits: Limits | None = None,
    ) -> "Engine":
        """Raises InvalidRequest for a base, or a quantization of it, that can't run here."""
        if quantization and not loader.is_ours(Path(base.directory)):
            raise InvalidRequest(f"{base.name} runs through transformers, where there are no {quantization} weights.")
        linear = linear_for(device, quantization)
        tokenizer = Tokenizer.load(base.directory)
        unquantized = None
        if quantization:
            trained = loader.load(base.directory, device, streamed=True)
            unquantized = probe.measure(trained, None, probe.prompt(tokenizer))
        decoder = loader.load(base.directory, device, linear=linear)
        return cls(base, decoder, tokenizer, limits, unquantized=unquantized)

    def use_this_thread(self) -> None:
        """To be called by the thread that steps: its share of the cores goes to compiled loops, where there are some.

        torch gets one then. Its own threads sleep between the few small operations that are left to it, and waking them
        takes longer than what they do (docs/log.md).
        """
        if kernels := kernels_for("cpu", torch.float32):
            kernels.use_threads(torch.get_num_threads())
        if self._runner.compiled:
            torch.set_num_threads(1)

    @property
    def busy(self) -> bool:
        """There is something for `step` to do."""
        return bool(self._arrivals or self._parts or self._mounts)

    @property
    def usage(self) -> Usage:
        return Usage(
            blocks=self._cache.num_blocks,
            free_blocks=self._cache.num_free,
            cached_blocks=self._cache.num_cached,
            held_blocks=self._cache.num_held,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            loaded_adapters=len(self._adapters.digests),
            pinned_adapters=self._adapters.num_pinned,
        )

    def submit(self, generate: Generate, deliver: Deliver) -> Request:
        """Takes a request on; `deliver` gets Started, Pieces and Done, or Refused, from the next steps."""
        request = Request(generate, deliver)
        self._arrivals.add(request)
        return request

    def cancel(self, request: Request) -> None:
        """Frees all that a request holds; `deliver` isn't called for it again."""
        self._arrivals.drop(request)
        for sequence in [sequence for sequence, part in self._parts.items() if part.request is request]:
            self._drop(sequence)

    def mount(self, mount: Mount, deliver: Deliver) -> None:
        """Loads an adapter, if one is named, and has a probe answered; `deliver` gets Mounted or Refused."""
        self._mounts.append((mount, deliver))

    @torch.inference_mode()
    def step(self) -> None:
        """Takes on what arrived, computes the next tokens of every running sequence, hands out what came of it."""
        self._arrivals.begin(self._begin, idle=not self._parts)
        chunks = self._with_adapters(self._scheduler.schedule())
        logits = self._run(chunks)
        self._settle(chunks, logits)
        self._settle_mounts()
        self._backlog.computed(sum(chunk.count for chunk in chunks))
        if not chunks and self.busy:
            self._adapters.wait(LOADING_SECONDS)

    def close(self) -> None:
        """Ends what loads adapters and compiles grammars."""
        self._adapters.close()
        self._arrivals.close()

    def _begin(self, request: Request) -> None:
        generate = request.generate
        request.begin(self._tokenizer, vocab_size=self._vocab_size, context_length=self._context_length)
        lengths = [len(prompt.tokens) for prompt in request.prompts]
        self._backlog.check(generate.owner, lengths, self._scheduler.waiting)
        request.deliver(Started(id=generate.id, prompt_tokens=request.num_prompt_tokens))
        for prompt in request.prompts:
            sequence = Sequence(
                owner=generate.owner,
                adapter=generate.adapter,
                tokens=list(prompt.tokens),
                width=request.best_of,
                whole=request.scores_prompts,
            )
            self._parts[sequence] = Part(request, prompt)
            self._scheduler.add(sequence)

    def _with_adapters(self, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks in the order of their adapters, without those whose adapter can't be loaded any more."""
        for chunk in chunks:
            part = self._parts.get(chunk.sequence)
            if part and chunk.sequence.adapter:
                with self._guarded(part.request.generate.id, part.request.deliver, part.request):
                    self._adapters.get(chunk.sequence.adapter)
        return sorted((chunk for chunk in chunks if chunk.sequence in self._parts), key=_adapter_digest)

    def _run(self, chunks: list[Chunk]) -> list[Tensor]:
        """The logits [rows, V] that decide something: each chunk's last, or all of a prompt that is scored.

        A row is NaN as a whole if one number in it is broken.
        """
        spans = [self._span(chunk) for chunk in chunks]
        logits = self._runner.run(self._cache, spans)[:, : self._vocab_size]
        broken = ~logits.sum(-1).isfinite()  # any number that isn't finite makes the sum so
        if broken.any():
            logits[broken] = torch.nan
        return list(torch.split(logits, [span.wanted for span in spans]))

    def _span(self, chunk: Chunk) -> Span:
        sequence, part = chunk.sequence, self._parts[chunk.sequence]
        scores_prompt = part.choice is None and part.request.scores_prompts
        return Span(
            tokens=sequence.tokens[chunk.start : chunk.start + chunk.count] + chunk.draft,
            table=sequence.table,
            adapter=self._adapters.get(sequence.adapter) if sequence.adapter else None,
            wanted=chunk.count if scores_prompt else int(chunk.complete) + len(chunk.draft),
        )

    def _settle(self, chunks: list[Chunk], logits: list[Tensor]) -> None:
        for chunk, rows in zip(chunks, logits, strict=True):
            part = self._parts.get(chunk.sequence)
            if part is None:
                continue  # its request was refused earlier in this step
            with self._guarded(part.request.generate.id, part.request.deliver, part.request):
                if part.choice is None:
                    self._settle_prompt(chunk, part, rows)
                elif chunk.complete:
                    self._go_on(chunk, rows)

    def _settle_prompt(self, chunk: Chunk, part: Part, rows: Tensor) -> None:
        request, prompt = part.request, part.prompt
        if request.scores_prompts:
            # The row of place p scores token p + 1. After a preemption some are scored already.
            first = len(prompt.scores) - chunk.start
            scored = prompt.tokens[chunk.start + 1 + first : chunk.start + 1 + chunk.count]
            prompt.scores += score(rows[first : first + len(scored)], scored, request.generate.logprobs or 0)
        self._scheduler.computed(chunk.sequence)
        if not chunk.complete:
            return
        request.cached_tokens += chunk.sequence.cached_tokens or 0
        if request.generate.echo:
            request.echo(prompt, self._tokenizer)
        sequences = self._scheduler.fork(chunk.sequence)
        for sequence, choice in zip(sequences, prompt.choices, strict=True):
            self._parts[sequence] = Part(request, prompt, choice)
        for sequence in sequences:
            sequence.lookup = PromptLookup()
            self._advance(sequence, rows[-1])

    def _go_on(self, chunk: Chunk, rows: Tensor) -> None:
        """Decides the tokens that rows [1 + draft, V] are for, as far as the draft comes true."""
        sequence = chunk.sequence
        for accepted, row in enumerate(rows):
            self._scheduler.accept(chunk, accepted)
            self._advance(sequence, row)
            if sequence not in self._parts or sequence.tokens[-1:] != chunk.draft[accepted : accepted + 1]:
                return

    def _advance(self, sequence: Sequence, logits: Tensor) -> None:
        """Decides the next token of a choice from logits [V], and hands out what it brings."""
        part = self._parts[sequence]
        request, choice = part.request, part.choice
        assert choice is not None
        if logits[0].isnan():
            raise EngineUnavailable("The model's output isn't finite: this adapter and this base don't go together.")
        piece: Piece | None
        if request.generate.max_tokens == 0:
            piece = choice.end_unasked()
        else:
            token = choice.choose(logits)
            scored = score(logits[None], [token], request.generate.logprobs or 0)[0] if request.scores_choices else None
            piece = choice.accept(token, scored)
            sequence.tokens.append(token)
        if choice.finished:
            self._scheduler.computed(sequence)
            self._drop(sequence)
        if piece:
            request.send(part.prompt, choice, piece)

    def _settle_mounts(self) -> None:
        """Answers those whose adapter is there."""
        for mount, deliver in [one for one in self._mounts if self._ready(one[0].adapter)]:
            self._mounts.remove((mount, deliver))
            with self._guarded(mount.id, deliver):
                deliver(Mounted(id=mount.id, agreement=self._proved(mount.adapter)))

    def _ready(self, adapter: Adapter | None) -> bool:
        return adapter is None or self._adapters.ready(adapter)

    def _proved(self, adapter: Adapter | None) -> Agreement | None:
        """How closely quantised weights agree with those as trained, which have to agree themselves."""
        written = self._unquantized
        if adapter is not None:
            written = proof.read(adapter.directory, self._runner.decoder.config.vocab_size)
        served_adapter = self._adapters.get(adapter) if adapter else None
        return proof.prove(self._runner, served_adapter, written, quantized=self._unquantized is not None)

    def _drop(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        del self._parts[sequence]

    def _guarded(self, id: str, deliver: Deliver, request: Request | None = None) -> AbstractContextManager[None]:
        return guarded(id, deliver, partial(self.cancel, request)) if request else guarded(id, deliver)


def _adapter_digest(chunk: Chunk) -> str:
    return chunk.sequence.adapter.digest if chunk.sequence.adapter else ""
