"""The engine over models that run through transformers' code, against transformers and peft alone."""

import itertools
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.models.tiny import OTHERS, write_other
from tests.serving.given import ask, base_in, run, steps, write_adapter
from tunery.bases import BaseModel
from tunery.messages import Adapter, Answer, Mount, Mounted
from tunery.models import probe
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.serving.engine import Engine, Limits

PROMPTS = ["The quick brown fox jumps over the lazy dog. " * 2, "0123", "Which intent?", "x"]


@pytest.fixture(scope="module", params=OTHERS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("others") / request.param
    write_other(folder, request.param)
    return base_in(folder)


@pytest.fixture(scope="module")
def adapters(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder, config = tmp_path_factory.mktemp("adapters"), load(base.directory).config
    return [write_adapter(folder / str(seed), config, seed=seed, rank=2 + seed) for seed in range(2)]


def reference_text(base: BaseModel, tokenizer: Tokenizer, adapter: Adapter | None, prompt: str, count: int) -> str:
    model = AutoModelForCausalLM.from_pretrained(base.directory)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter.directory)
    ids = torch.tensor([tokenizer.encode(prompt)])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    answer = out[0, ids.shape[1] :].tolist()
    return tokenizer.decode(list(itertools.takewhile(lambda token: token not in tokenizer.eos_ids, answer)))


def test_greedy_text_of_a_mixed_batch_is_that_of_transformers_and_peft(
    base: BaseModel, adapters: list[Adapter]
) -> None:
    """Base and adapters at once, prompts in pieces, answers longer than a window."""
    tokenizer = Tokenizer.load(base.directory)
    engine = Engine.load(base, limits=Limits(step_tokens=16))
    pairs = list(itertools.product(PROMPTS, [None, *adapters]))
    texts = [each.texts for each in run(engine, *(ask(p, adapter=a, max_tokens=20) for p, a in pairs))]
    assert texts == [[reference_text(base, tokenizer, a, p, 20)] for p, a in pairs]
    assert len({text for (text,) in texts}) > 1


def test_an_adapter_is_mounted_only_if_it_answers_as_its_probe_says(base: BaseModel, tmp_path: Path) -> None:
    model = load(base.directory)
    adapter = write_adapter(tmp_path, model.config, seed=5)
    ids = Tokenizer.load(base.directory).encode("The quick brown fox jumps over the lazy dog")
    written = probe.measure(model, Lora.load(tmp_path, model.config), ids)
    engine = Engine.load(base)
    written.write(tmp_path)
    answers: list[Answer] = []
    engine.mount(Mount(id="1", adapter=adapter), answers.append)
    for _ in steps(engine):
        pass
    probe.measure(model, None, ids).write(tmp_path)
    engine.mount(Mount(id="2", adapter=adapter), answers.append)
    for _ in steps(engine):
        pass
    assert answers[0] == Mounted(id="1")
    assert "doesn't answer as it did when it was trained" in answers[1].message
