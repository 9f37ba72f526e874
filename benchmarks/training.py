"""How fast adapters train, beside the field's trainers: the same base, batches, rank, precision and steps.

    python benchmarks/training.py [--data FILE ...] [--batch-size 8] [--steps 12]
                                  [--against trl,llamafactory] [--json OUT]

Each contender is a process of its own that holds its model and waits; they train in turns, a step each, so that the
machine's other load meets all alike. Batches are those of Tunery's epoch order, tokenised once, so that every
contender computes the same losses. Peers live in environments of their own under --peers, made at the first run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tunery.bases import BaseModel
from tunery.messages import TrainingOrder
from tunery.models.tokenizer import Tokenizer
from tunery.parent import HARDLY_SPINNING
from tunery.training import data
from tunery.training.batches import Example, epoch_batches, micro_batches, tree_of
from tunery.training.local import COMPUTING
from tunery.training.plan import MICRO_BATCH_TOKENS, Counted, flops, sizes_of

CONTENDERS = Path(__file__).parent / "contenders"
PEERS = {"trl": ("trl", "trl-tuned"), "trl-tuned": ("trl-tuned",), "llamafactory": ("llamafactory",)}
"""What --against names, and the contenders each stands for."""
WARMING = 2
"""Steps before those that count."""
SEED, LEARNING_RATE, GEMM_SIZE, LINES = 1, 1e-4, 2048, 400


@dataclass(slots=True)
class Contender:
    """A process that trains when told to, and what it said."""

    name: str
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def ready(self) -> None:
        self._hear()

    def step(self, *, counts: bool) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        said = self._hear()
        self.losses.append(said["loss"])
        self.peak_bytes = said["peak_bytes"]
        if counts:
            self.seconds.append(said["seconds"])

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said


def main() -> None:
    options = _options()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for path in options.data or [_unshared(Path(folder), options.base)]:
            found.append(measure(path, options, Path(folder)))
            show(found[-1], Console(width=120))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", help="default: generated, with no common beginning")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--against", default="trl", help="trl, trl-tuned (alone), llamafactory, none")
    parser.add_argument("--base", default=str(Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser()))
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="where the peers' environments are kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(path: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    order = TrainingOrder(
        job_id="benchmark",
        base=BaseModel(name="base", directory=options.base, learning_rate=LEARNING_RATE),
        start_adapter=None,
        training_file=str(path),
        validation_file=None,
        n_epochs=1,
        batch_size=options.batch_size,
        learning_rate=LEARNING_RATE,
        seed=SEED,
        directory=".",
        resume_from=None,
        save_every=10**6,
        threads=options.threads,
    )
    batches = _batches(order, options.steps + WARMING)
    work = folder / f"{path.stem}.json"
    work.write_bytes(msgspec.json.encode(_work(order, batches)))
    names = [name for peer in options.against.split(",") if peer in PEERS for name in PEERS[peer]]
    speeds = []
    with ExitStack() as stack:
        contenders = [stack.enter_context(_running(name, work, options.peers)) for name in ("tunery", *names)]
        for contender in contenders:
            contender.ready()
        for step in range(len(batches)):
            for contender in contenders:
                contender.step(counts=step >= WARMING)
            speeds.append(_gemm_speed(options.threads))
    return _found(path, order, batches, contenders, max(speeds))


def _batches(order: TrainingOrder, steps: int) -> list[list[Example]]:
    training = data.read(order, Tokenizer.load(order.base.directory)).training
    batches = epoch_batches(training, order.batch_size, seed=order.seed, epoch=0)[:steps]
    return [[training[i] for i in batch] for batch in batches]


def _work(order: TrainingOrder, batches: list[list[Example]]) -> dict[str, Any]:
    return {
        "order": order,
        "base": order.base.directory,
        "threads": order.threads,
        "batch_size": order.batch_size,
        "rank": order.base.lora_rank,
        "alpha": order.base.lora_alpha,
        "learning_rate": order.learning_rate,
        "batches": [[_plain(example) for example in batch] for batch in batches],
    }


def _plain(example: Example) -> dict[str, list[int]]:
    labels = np.where(example.trained, example.ids, -100)
    return {"input_ids": example.ids.tolist(), "labels": labels.tolist()}


@contextmanager
def _running(name: str, work: Path, peers: Path) -> Iterator[Contender]:
    peer = name.removesuffix("-tuned")
    python = sys.executable if name == "tunery" else str(_environment(peer, peers))
    # As each is run by its makers, but no one's threads spin on while another has its turn.
    settings = COMPUTING if name == "tunery" else HARDLY_SPINNING
    command = [*settings, python, str(CONTENDERS / f"{peer}_steps.py"), str(work), name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Contender(name, process)
    finally:
        process.kill()
        process.wait()


def _environment(peer: str, folder: Path) -> Path:
    """The Python of a peer's environment, made if it isn't there; every package by its version, so no other torch."""
    python = (folder / peer / "bin" / "python").absolute()
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / peer)], check=True)
        for packages in (["torch==2.13.0"], ["--no-deps", "-r", str(CONTENDERS / f"{peer}.txt")]):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def _gemm_speed(threads: int) -> float:
    """FLOP a second of one product of two square matrices: what the machine gives at this moment."""
    torch.set_num_threads(threads)
    a = torch.randn(GEMM_SIZE, GEMM_SIZE)
    began = time.perf_counter()
    a @ a
    return 2 * GEMM_SIZE**3 / (time.perf_counter() - began)


def _found(
    path: Path, order: TrainingOrder, batches: list[list[Example]], contenders: list[Contender], peak: float
) -> dict[str, Any]:
    counted = batches[WARMING:]
    first = contenders[0]
    rows = {}
    for contender in contenders:
        seconds = statistics.median(contender.seconds)
        rows[contender.name] = {
            "seconds_a_step": seconds,
            "examples_a_second": order.batch_size / seconds,
            "loss_tokens_a_second": statistics.mean(sum(len(e.targets) for e in b) for b in counted) / seconds,
            "peak_mib": contender.peak_bytes / 2**20,
            "first_loss": contender.losses[0],
            "last_loss": contender.losses[-1],
            "times_as_fast": statistics.median(
                theirs / ours for theirs, ours in zip(contender.seconds, first.seconds, strict=True)
            ),
        }
    computed = [sum(len(tree_of(part)) for part in micro_batches(batch, MICRO_BATCH_TOKENS[0])) for batch in counted]
    arithmetic = Counted(MICRO_BATCH_TOKENS[0])
    for batch in counted:
        arithmetic.train(batch)
    speed = flops(sizes_of(order), arithmetic) / len(counted) / rows["tunery"]["seconds_a_step"]
    padded = [len(batch) * max(len(example.ids) for example in batch) for batch in counted]
    return {
        "data": path.name,
        "batch_size": order.batch_size,
        "steps": len(counted),
        "padded_tokens_a_step": statistics.mean(padded),
        "tree_tokens_a_step": statistics.mean(computed),
        "gemm_gflops_a_second": peak / 1e9,
        "part_of_gemm_peak": speed / peak,
        "contenders": rows,
    }


def show(found: dict[str, Any], console: Console) -> None:
    title = (
        f"{found['data']}, batch {found['batch_size']}, {found['steps']} steps: {found['padded_tokens_a_step']:.0f} "
        f"padded tokens a step, {found['tree_tokens_a_step']:.0f} in the tree; "
        f"tunery at {found['part_of_gemm_peak']:.0%} of the machine's product of large matrices"
    )
    table = Table("", "s a step", "examples/s", "loss tokens/s", "peak MiB", "first loss", "last loss", title=title)
    table.add_column("tunery is ... times as fast")
    for name, row in found["contenders"].items():
        values = (
            f"{row['seconds_a_step']:.2f}",
            f"{row['examples_a_second']:.2f}",
            f"{row['loss_tokens_a_second']:.1f}",
        )
        losses = (f"{row['first_loss']:.4f}", f"{row['last_loss']:.4f}")
        table.add_row(name, *values, f"{row['peak_mib']:.0f}", *losses, f"{row['times_as_fast']:.2f}")
    console.print(table)


def _unshared(folder: Path, base: str) -> Path:
    """A completion file whose lines begin with different tokens each, of about 100 tokens with 8 trained ones."""
    words = _first_words(Tokenizer.load(base), LINES)
    random = Random(SEED)
    path = folder / "unshared.jsonl"
    with path.open("w") as file:
        for word in words:
            text = " ".join(random.choice(words) for _ in range(random.randint(50, 90)))
            line = {"prompt": f"{word} {text}\nAnswer:", "completion": " " + " ".join(random.sample(words, 7))}
            file.write(json.dumps(line) + "\n")
    return path


def _first_words(tokenizer: Tokenizer, count: int) -> list[str]:
    """Words that begin with a token of their own."""
    found: dict[int, str] = {}
    for token in range(1000, 1000 + 20 * count):
        word = tokenizer.decode([token]).strip()
        if word.isascii() and word.isalpha():
            found.setdefault(tokenizer.encode(word)[0], word)
    return list(found.values())[:count]


if __name__ == "__main__":
    main()
