"""The bundled base: what the engine says is what transformers and peft say."""

import itertools
import random
from pathlib import Path

import peft
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.serving.given import Running, ask, run, steps, write_adapter
from tunery.bases import BaseModel
from tunery.messages import Adapter, Generate, Mount, Mounted
from tunery.models.loader import read_config
from tunery.models.tokenizer import Tokenizer
from tunery.serving.engine import Engine

pytestmark = pytest.mark.model

MESSAGES = [
    [{"role": "user", "content": "Tell me a story about a fox."}],
    [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Is water wet?"}],
    [{"role": "user", "content": "Write a haiku about über-große Bäume 🌳."}],
]
ANSWER_TOKENS = 24

Case = tuple[int, Adapter | None]


@pytest.fixture(scope="module")
def engine(bundled: BaseModel) -> Engine:
    return Engine.load(bundled)


@pytest.fixture(scope="module")
def cases(bundled: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    config, _ = read_config(Path(bundled.directory))
    folder = tmp_path_factory.mktemp("adapters")
    adapters = [
        write_adapter(folder / str(rank), config, seed=rank, rank=rank, strength=strength)
        for rank, strength in ((16, 0.05), (8, 0.1))
    ]
    return list(itertools.product(range(len(MESSAGES)), [None, *adapters]))


@pytest.fixture(scope="module")
def expected(bundled: BaseModel, cases: list[Case]) -> list[str]:
    """Greedy answers of transformers, with peft where there is an adapter."""
    tokenizer = Tokenizer.load(bundled.directory)
    texts = []
    for number, adapter in cases:
        model = LlamaForCausalLM.from_pretrained(bundled.directory, dtype=torch.float32)
        tuned = peft.PeftModel.from_pretrained(model, adapter.directory) if adapter else model
        ids = torch.tensor([tokenizer.chat_prompt(MESSAGES[number], None)])
        out = tuned.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False
        )
        answer = out[0, ids.shape[1] :].tolist()
        texts.append(tokenizer.decode(list(itertools.takewhile(lambda i: i not in tokenizer.eos_ids, answer))))
    return texts


def generate(case: Case) -> Generate:
    return ask(None, messages=MESSAGES[case[0]], adapter=case[1], max_tokens=ANSWER_TOKENS)


def test_alone(engine: Engine, cases: list[Case], expected: list[str]) -> None:
    assert [run(engine, generate(case))[0].text() for case in cases] == expected


def test_adapters_change_the_answers(cases: list[Case], expected: list[str]) -> None:
    for number in range(len(MESSAGES)):
        assert len({text for (of, _), text in zip(cases, expected, strict=True) if of == number}) == 3


def test_among_others_arriving_at_random(engine: Engine, cases: list[Case], expected: list[str]) -> None:
    order = random.Random(7)
    waiting = list(range(len(cases)))
    order.shuffle(waiting)
    running: dict[int, Running] = {}
    while waiting or engine.busy:
        if waiting and order.random() < 0.5:
            number = waiting.pop()
            running[number] = Running(engine, generate(cases[number]))
        engine.step()
    assert [running[number].text() for number in range(len(cases))] == expected


def test_mounting(engine: Engine, cases: list[Case]) -> None:
    answers: list[object] = []
    for _, adapter in cases:
        if adapter:
            engine.mount(Mount(id="m", adapter=adapter), answers.append)
    for _ in steps(engine):
        pass
    assert set(map(type, answers)) == {Mounted}
