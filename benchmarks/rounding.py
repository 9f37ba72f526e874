"""What an adapter loses where it is written: python benchmarks/rounding.py --training F.jsonl --validation F.jsonl

Trains the bundled base for all epochs but one, which leaves the same adapter twice: its state in float32 and its
checkpoint in float16. Tells the validation loss of either, how far apart their log probabilities of the validation
file's trained tokens are, and how often the most likely token is another.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from tunery.bases import BaseModel
from tunery.catalog import BUNDLED
from tunery.messages import Checkpointed, Saved, TrainingOrder
from tunery.models.decoder import Model, attend_causally
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.settings import Settings
from tunery.training.batches import Example
from tunery.training.data import read
from tunery.training.loop import train
from tunery.training.objectives import Supervised
from tunery.training.optimizer import AdapterOptimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(order(Path(folder), options))


def order(folder: Path, options: argparse.Namespace) -> TrainingOrder:
    base = BaseModel(
        name=BUNDLED, directory=str(Settings().models.expanduser() / BUNDLED), learning_rate=options.learning_rate
    )
    return TrainingOrder(
        job_id="ftjob-1",
        base=base,
        start_adapter=None,
        training_file=str(options.training),
        validation_file=str(options.validation),
        n_epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=7,
        directory=str(folder),
        resume_from=None,
        save_every=1000,
        threads=options.threads,
    )


def compare(order: TrainingOrder) -> None:
    checkpoint, saved = after_an_epoch(order)
    decoder = load(order.base.directory)
    written, exact = (Lora.load(checkpoint.directory, decoder.config) for _ in range(2))
    AdapterOptimizer(exact).restore(load_file(Path(saved.directory) / "state.safetensors"), steps=saved.step)
    examples = read(order, Tokenizer.load(order.base.directory)).validation
    for name, adapter in (("float32", exact), ("float16", written)):
        print(f"{name}: validation loss {Supervised(decoder, adapter, 1024).evaluate(examples).loss:.7f}")
    differences, same = [], []
    for example in examples:
        first, second = (logprobs(decoder, adapter, example) for adapter in (exact, written))
        differences.append((first - second).abs().amax(-1))
        same.append(first.argmax(-1) == second.argmax(-1))
    far, alike = torch.cat(differences), torch.cat(same)
    print(f"log probabilities of a place are {far.mean():.6f} nats apart at most, on average, and {far.max():.6f} ever")
    print(f"the most likely token is the same at {int(alike.sum())} of {len(alike)} places")


def after_an_epoch(order: TrainingOrder) -> tuple[Checkpointed, Saved]:
    """The same adapter twice, as a checkpoint has it and as a state does, when one epoch is left."""
    checkpoints = []
    for report in train(order, lambda: False):
        if isinstance(report, Checkpointed):
            checkpoints.append(report)
        elif isinstance(report, Saved) and len(checkpoints) == order.n_epochs - 1:
            return checkpoints[-1], report
    raise SystemExit("at least two epochs are needed")


def logprobs(decoder: Model, adapter: Lora, example: Example) -> torch.Tensor:
    """[trained tokens, V]: of what comes at each of their places."""
    ids = torch.from_numpy(example.inputs)
    with torch.inference_mode():
        rows = torch.from_numpy(example.targets) - 1
        hidden = decoder.hidden(ids, torch.arange(len(ids)), attend_causally, adapter, rows=rows)
        return torch.log_softmax(decoder.logits(hidden), dim=-1)


if __name__ == "__main__":
    main()
