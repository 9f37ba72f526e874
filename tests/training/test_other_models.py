"""Prefix-tree training of models that run through transformers' code, against transformers and peft alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.models.tiny import OTHERS, as_written, write_other
from tests.training.orders import of, order_in, reports
from tests.training.test_batches import assert_same, gradients
from tunery.messages import Checkpointed, Stepped
from tunery.models.decoder import attend_causally
from tunery.models.loader import load, read_sizes
from tunery.models.lora import CONFIG_FILE, WEIGHTS_FILE, Lora
from tunery.models.probe import Probe
from tunery.training import stretches
from tunery.training.batches import Example, tree_of
from tunery.training.losses import evaluate_and_backpropagate
from tunery.training.memory import Sizes
from tunery.training.objectives import Preferences, Reference

ANSWERS = 42
"""Tokens before the trained ones; 40 are common to all examples."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("others")
    for architecture in OTHERS:
        write_other(folder / architecture, architecture)
    return {architecture: folder / architecture for architecture in OTHERS}


def adapter_of(base: Path) -> Lora:
    """One whose B isn't zero."""
    adapter = Lora.fresh(load(base).config, rank=4, alpha=6.0, seed=1)
    generator = torch.Generator().manual_seed(1)
    for (b,) in adapter.b.values():
        b.normal_(std=0.2, generator=generator)
    return as_written(adapter)


def batch() -> list[Example]:
    rng = np.random.default_rng(0)
    stem = rng.integers(3, 300, 40)
    ids = [np.concatenate([stem, rng.integers(3, 300, 5 + 3 * i)]) for i in range(6)]
    return [Example(i, each, np.arange(len(each)) >= ANSWERS) for i, each in enumerate(ids)]


def peft_of(base: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter, is_trainable=True).eval()


def padded() -> dict[str, Tensor]:
    examples = batch()
    width = max(len(example.ids) for example in examples)
    ids, labels = torch.zeros(6, width, dtype=torch.int64), torch.full((6, width), -100)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.from_numpy(example.ids)
        labels[row, ANSWERS : len(example.ids)] = torch.from_numpy(example.ids[ANSWERS:])
    mask = torch.arange(width) < torch.tensor([[len(example.ids)] for example in examples])
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def backpropagated(model: PeftModel, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    loss.backward()
    found = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.requires_grad}
    return loss.item(), found


def log_probabilities(model: PeftModel) -> Tensor:
    """[examples]: of each one's trained tokens"""
    given = padded()
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[:, :-1]
    targets = given["labels"][:, 1:]
    each = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return (each * (targets >= 0)).sum(1)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("architecture", OTHERS)
def test_loss_and_gradients_of_the_tree_are_those_of_transformers_and_peft(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, recomputed: bool
) -> None:
    monkeypatch.setattr(stretches, "STRETCH", 30)
    adapter = adapter_of(bases[architecture])
    adapter.save(tmp_path, architecture)
    peft = peft_of(bases[architecture], tmp_path)
    theirs = backpropagated(peft, peft(**padded()).loss)
    for parameter in adapter.parameters():
        parameter.requires_grad_()
    tree = tree_of(batch())
    assert len(tree) < 140 < sum(len(example.inputs) for example in batch())
    total = sum(len(example.targets) for example in batch())
    outcome = evaluate_and_backpropagate(
        load(bases[architecture]), tree, adapter, loss_tokens=total, recompute=recomputed
    )
    assert theirs[1].keys() == adapter.tensors().keys()
    assert_same((outcome.loss_sum / total, gradients(adapter)), theirs, 1e-5)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma3_text"])
def test_preferences_over_the_tree_are_those_of_transformers_and_peft(
    bases: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    """Neighbours are chosen and rejected; the reference is the base without the adapter."""
    adapter, base = adapter_of(bases[architecture]), load(bases[architecture])
    adapter.save(tmp_path, architecture)
    peft = peft_of(bases[architecture], tmp_path)
    with torch.no_grad(), peft.disable_adapter():
        start = log_probabilities(peft)
    rewards = 0.1 * (log_probabilities(peft) - start)
    theirs = backpropagated(peft, -torch.nn.functional.logsigmoid(rewards[::2] - rewards[1::2]).mean())
    for parameter in adapter.parameters():
        parameter.requires_grad_()
    examples = batch()
    objective = Preferences(base, adapter, Reference(base, None, [examples], 1024), 1024, beta=0.1)
    assert_same((objective.train(examples).loss, gradients(adapter)), theirs, 2e-5)


@pytest.mark.parametrize("architecture", OTHERS)
def test_adapters_go_to_peft_and_back_bit_for_bit(bases: dict[str, Path], tmp_path: Path, architecture: str) -> None:
    adapter, base = adapter_of(bases[architecture]), load(bases[architecture])
    adapter.save(tmp_path / "ours", "tiny")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[architecture]), tmp_path / "ours")
    ids = torch.arange(60)
    with torch.inference_mode():
        expected = peft(ids[None]).logits[0]
        ours = base.logits(base.hidden(ids, torch.arange(60), attend_causally, adapter))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    peft.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    back = Lora.load(tmp_path / "theirs", base.config)
    assert all(torch.equal(back.tensors()[name], tensor) for name, tensor in adapter.tensors().items())
    back.save(tmp_path / "again", "tiny")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("architecture", OTHERS)
def test_the_layers_are_those_that_peft_calls_all_linear(bases: dict[str, Path], architecture: str) -> None:
    plain = AutoModelForCausalLM.from_pretrained(bases[architecture])
    config = LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=architecture == "gpt2")
    named = {n for n, p in get_peft_model(plain, config).named_parameters() if p.requires_grad}
    fresh = Lora.fresh(load(bases[architecture]).config, rank=4, alpha=8.0, seed=0)
    assert {name.replace(".default", "") for name in named} == fresh.tensors().keys()


@pytest.mark.parametrize("architecture", OTHERS)
def test_an_estimate_knows_the_size_of_every_one(bases: dict[str, Path], architecture: str) -> None:
    config, tied = read_sizes(bases[architecture])
    sizes = Sizes(config, tied=tied, rank=4)
    real = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(bases[architecture]).parameters())
    assert 0.5 < sizes.weights / real < 2


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma3_text"])
def test_a_job_trains_and_its_adapter_answers_in_peft_as_its_probe_says(
    bases: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    found = reports(order_in(tmp_path, bases[architecture], n_epochs=4))
    rows = [stepped.metrics for stepped in of(Stepped, found)]
    assert rows[-1].full_valid_loss is not None
    assert rows[-1].full_valid_loss < rows[3].full_valid_loss
    last = of(Checkpointed, found)[-1]
    written = Probe.load(last.directory)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[architecture]), last.directory)
    with torch.inference_mode():
        logits = model(torch.tensor([written.token_ids])).logits[0]
    assert written.agreement(dict(enumerate(logits))).largest_difference < 1e-3
