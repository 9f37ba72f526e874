"""Preference tuning beside TRL's DPOTrainer: the same pairs, the same start, the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.models.test_lora import trained
from tests.training.orders import dpo_order_in, of
from tests.training.test_batches import gradients
from tunery.messages import Dpo, Stepped, TrainingOrder
from tunery.models import probe
from tunery.models.loader import load
from tunery.models.lora import WEIGHTS_FILE, Lora
from tunery.models.tokenizer import Tokenizer
from tunery.training import loop
from tunery.training.batches import Example
from tunery.training.data import read
from tunery.training.objectives import Preferences, Reference
from tunery.training.optimizer import learning_rate

BETA, STEPS = 0.3, 8


class GivenTokens(DPOTrainer):
    """TRL would train the template's line break after an answer too; it gets the tokens of both answers instead."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def as_trl_takes_it(examples: Sequence[Example]) -> Dataset:
    rows = []
    for chosen, rejected in zip(examples[::2], examples[1::2], strict=True):
        ends = [int(np.flatnonzero(example.trained)[-1]) + 1 for example in (chosen, rejected)]
        start = int(chosen.targets[0])
        assert chosen.ids[:start].tolist() == rejected.ids[:start].tolist()
        rows.append(
            {
                "prompt_ids": chosen.ids[:start].tolist(),
                "chosen_ids": chosen.ids[start : ends[0]].tolist(),
                "rejected_ids": rejected.ids[start : ends[1]].tolist(),
            }
        )
    return Dataset.from_list(rows)


def trl_trainer(base: Path, start: Path, output: Path, examples: Sequence[Example]) -> DPOTrainer:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), start, is_trainable=True)
    config = DPOConfig(
        output_dir=str(output),
        beta=BETA,
        per_device_train_batch_size=4,
        max_length=None,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(base, pad_token="<|endoftext|>")
    return GivenTokens(model, args=config, train_dataset=as_trl_takes_it(examples), processing_class=tokenizer)


def policy(model: Any, value: str = "data") -> dict[str, torch.Tensor]:
    """The tensors that TRL trains, or their gradients, by PEFT name; not those of its reference."""
    named = [
        (name, getattr(parameter, value)) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    return {name.replace(".default", ""): tensor.detach().clone() for name, tensor in named}


def pairs_of(order: TrainingOrder) -> list[Example]:
    return read(order, Tokenizer.load(order.base.directory)).training


def test_loss_rewards_and_gradients_are_those_of_trl(tmp_path: Path, tiny: Path) -> None:
    """Of a policy that has already moved away from its reference."""
    pairs = pairs_of(dpo_order_in(tmp_path, tiny))[:8]
    start, moved, decoder = trained(tiny, seed=1), trained(tiny, seed=2), load(tiny)
    start.save(tmp_path / "start", "tiny")
    trainer = trl_trainer(tiny, tmp_path / "start", tmp_path / "trl", pairs)
    model: Any = trainer.model
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(moved.tensors()[name.replace(".default", "")])
    model.train()
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    loss = trainer.compute_loss(model, inputs)
    loss.backward()

    for parameter in moved.parameters():
        parameter.requires_grad_()
    ours = Preferences(decoder, moved, Reference(decoder, start, [pairs], 1024), 1024, beta=BETA).train(pairs)
    rewards = msgspec.structs.asdict(ours.rewards)
    assert ours.loss == pytest.approx(loss.item(), rel=1e-5)
    metrics = trainer._metrics["train"]
    of_trl = {name: metrics[f"rewards/{name}"][0] for name in rewards}
    # a margin is a difference of rewards and as exact as they are: in float64 it lies between ours and TRL's
    assert rewards == pytest.approx(of_trl, rel=1e-5, abs=1e-5 * abs(of_trl["chosen"]))
    assert abs(rewards["chosen"]) > 0.1
    assert ours.token_accuracy == pytest.approx(metrics["mean_token_accuracy"][0])
    theirs = policy(model, "grad")
    found = gradients(moved)
    assert theirs.keys() == found.keys()
    for name, gradient in found.items():
        assert (gradient - theirs[name]).norm() <= 1e-5 * theirs[name].norm(), name


def run_of(order: TrainingOrder) -> loop._Run:
    tokenizer = Tokenizer.load(order.base.directory)
    return loop._Run(order, read(order, tokenizer), probe.prompt(tokenizer))


def trained_by_trl(order: TrainingOrder, tmp_path: Path) -> DPOTrainer:
    """TRL over the batches of our run, at our learning rates."""
    base, run = Path(order.base.directory), run_of(order)
    batches = [run._schedule.batch(step) for step in range(1, STEPS + 1)]
    pairs = [example for batch in batches for example in batch]
    trainer = trl_trainer(base, tmp_path / "start", tmp_path / "trl", pairs)
    ends = np.cumsum([len(batch) // 2 for batch in batches])
    places = [part.tolist() for part in np.split(np.arange(ends[-1]), ends[:-1])]
    loader = torch.utils.data.DataLoader(trainer.train_dataset, batch_sampler=places, collate_fn=trainer.data_collator)
    trainer.get_train_dataloader = lambda: loader  # type: ignore[method-assign]
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    trainer.optimizer = torch.optim.AdamW(parameters, lr=order.learning_rate, weight_decay=order.dpo.l2_multiplier)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        trainer.optimizer, lambda done: learning_rate(min(done + 1, STEPS), total=STEPS, peak=1.0)
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["fresh", "tuned further"])
def test_steps_and_final_adapter_are_those_of_trl(tmp_path: Path, tiny: Path, kind: str) -> None:
    """Two epochs of 13 pairs, the last batch of each with one pair; with clipping and weight decay."""
    order = dpo_order_in(tmp_path, tiny, validation_file=None, dpo=Dpo(beta=BETA, l2_multiplier=0.5))
    config = load(tiny).config
    begun = trained(tiny) if kind == "tuned further" else Lora.fresh(config, rank=4, alpha=8.0, seed=order.seed)
    begun.save(tmp_path / "start", "tiny")
    save_file({name: t.contiguous() for name, t in begun.tensors().items()}, tmp_path / "start" / WEIGHTS_FILE)  # exact
    if kind == "tuned further":
        order = msgspec.structs.replace(order, start_adapter=str(tmp_path / "start"))
    trainer = trained_by_trl(order, tmp_path)
    log = trainer.state.log_history[:STEPS]
    theirs = policy(trainer.model)

    run = run_of(order)
    found = list(run.steps(lambda: False))
    rows = [stepped.metrics for stepped in of(Stepped, found)]
    assert [row.train_loss for row in rows] == pytest.approx([row["loss"] for row in log], rel=1e-5)
    margins = [row.rewards.margins for row in rows if row.rewards]
    assert margins == pytest.approx([row["rewards/margins"] for row in log], rel=1e-3, abs=1e-5)
    ours = run._lora.tensors()
    for name, tensor in begun.tensors().items():
        assert (ours[name] - theirs[name]).norm() <= 1e-4 * (theirs[name] - tensor).norm(), name
