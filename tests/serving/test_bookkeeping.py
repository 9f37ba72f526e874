"""Whatever comes, goes or fails: every block is free, held or cached, and every request ends whole or refused."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.serving.given import Running, ask, run, steps
from tunery.bases import BaseModel
from tunery.messages import Adapter, Done, Refused
from tunery.models.decoder import Decoder
from tunery.models.tokenizer import Tokenizer
from tunery.serving.engine import Engine, Limits

PROMPTS = ["dog. fox " * 9, "dog. fox " * 9 + "The quick", "x", "0123 " * 20]
GONE = Adapter(digest="0" * 64, directory="nowhere")


class Requests(RuleBasedStateMachine):
    """A small engine: little room, few rows, one or two adapters in memory at a time, drafts in every step."""

    base: BaseModel
    decoder: Decoder
    tokenizer: Tokenizer
    adapters: tuple[Adapter | None, ...]
    expected: dict[tuple[str, Adapter | None, int], str]

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(cache_tokens=400, max_rows=5, step_tokens=48, max_waiting=6, adapter_bytes=1, draft_rows=8)
        self.engine = Engine(self.base, self.decoder, self.tokenizer, limits)
        self.going: list[Running] = []

    @rule(
        prompt=st.sampled_from(PROMPTS),
        place=st.integers(0, 4),
        owner=st.sampled_from("ab"),
        n=st.integers(1, 3),
        max_tokens=st.integers(1, 30),
    )
    def submit(self, prompt: str, place: int, owner: str, n: int, max_tokens: int) -> None:
        asked = ask(prompt, adapter=self.adapters[place], owner=owner, n=n, max_tokens=max_tokens)
        self.going.append(Running(self.engine, asked))

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            if self.engine.busy:
                self.engine.step()

    @rule(place=st.integers(0, 20))
    def cancel(self, place: int) -> None:
        if place < len(self.going):
            self.engine.cancel(self.going.pop(place).request)

    @invariant()
    def every_block_is_free_held_or_cached(self) -> None:
        usage = self.engine.usage
        assert usage.free_blocks + usage.cached_blocks + usage.held_blocks == usage.blocks

    def teardown(self) -> None:
        for _ in steps(self.engine):
            pass
        usage = self.engine.usage
        assert (usage.held_blocks, usage.pinned_adapters, usage.running, usage.waiting) == (0, 0, 0, 0)
        for one in self.going:
            asked = one.request.generate
            if asked.adapter == GONE:
                assert isinstance(one.last, Refused)
            elif isinstance(one.last, Refused):
                assert one.last.kind == "TooManyRequests"
            else:
                assert isinstance(one.last, Done)
                assert set(one.texts) == {self.answer(asked.prompts[0], asked.adapter, asked.max_tokens)}

    def answer(self, prompt: str, adapter: Adapter | None, max_tokens: int) -> str:
        """What a request alone in a fresh engine without drafts gets."""
        key = (prompt, adapter, max_tokens)
        if key not in self.expected:
            engine = Engine(self.base, self.decoder, self.tokenizer, Limits(draft_rows=1))
            self.expected[key] = run(engine, ask(prompt, adapter=adapter, max_tokens=max_tokens))[0].text()
        return self.expected[key]


def test_nothing_leaks_and_every_answer_is_whole_or_refused(
    base: BaseModel, decoder: Decoder, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    given = {"base": base, "decoder": decoder, "tokenizer": tokenizer, "adapters": (None, *adapters, GONE)}
    machine = type("Given", (Requests,), {**given, "expected": {}})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))
