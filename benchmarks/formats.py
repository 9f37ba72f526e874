"""How long a step's products with frozen weights take in each format in which these can lie, in turns.

    python benchmarks/formats.py [--rows 1,8,32,256] [--repeat 15] [--threads 2] [--base FOLDER]

All layers of a base and its head, with other numbers in them: random ones that fit the format and no smaller one. The
float32 ones are drawn freely, which is what weights are that were never rounded. Prints medians in milliseconds, and
how many times as fast a format is as float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tunery.models.loader import read_config
from tunery.serving import kernels
from tunery.serving.formats import BLOCK
from tunery.serving.products import PanelLinear, multiply


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    kernels.use_threads(options.threads)
    layers = {name: [PanelLinear(make(*shape)) for shape in _shapes(options.base)] for name, make in FORMATS.items()}
    table = Table("rows", *layers, *(f"x {name}" for name in layers if name != "float32"))
    for rows in options.rows:
        found: dict[str, list[float]] = {name: [] for name in layers}
        for _ in range(options.repeat):
            for name, linears in layers.items():
                found[name].append(_seconds(linears, rows))
        medians = [f"{1000 * statistics.median(found[name]):.1f}" for name in layers]
        ratios = [
            f"{statistics.median(a / b for a, b in zip(found['float32'], found[name], strict=True)):.2f}"
            for name in layers
            if name != "float32"
        ]
        table.add_row(str(rows), *medians, *ratios)
    sizes = [f"{sum(linear.nbytes for linear in linears) / 2**20:.0f} MiB" for linears in layers.values()]
    table.add_row("", *sizes)
    Console(width=120).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32, 256])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--base", type=Path, default=Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser())
    return parser.parse_args()


def _shapes(base: Path) -> list[tuple[int, int]]:
    """(outputs, inputs) of each group of linear layers, and of the head."""
    config, _ = read_config(base)
    layout = config.layout
    groups = [[layout.features[member] for member in members] for members in layout.groups.values()]
    shapes = [(sum(outputs for _, outputs in members), members[0][0]) for members in groups]
    return [*(shapes * layout.num_blocks), (config.vocab_size, config.hidden_size)]


def _in_blocks(outputs: int, inputs: int, most: int, least: int) -> Tensor:
    """Whole numbers from `least` to `least` + `most`, both in every block, times a float16 of the block."""
    amounts = torch.randint(most + 1, (outputs, inputs // BLOCK, BLOCK)).float()
    amounts[..., 0], amounts[..., -1] = 0, most
    scale = (0.01 * (1 + torch.rand(outputs, inputs // BLOCK, 1))).half().float()
    return ((amounts + least) * scale).flatten(1)


FORMATS: dict[str, Callable[[int, int], Tensor]] = {
    "float32": lambda outputs, inputs: 0.05 * torch.randn(outputs, inputs),
    "bfloat16": lambda outputs, inputs: (0.05 * torch.randn(outputs, inputs)).bfloat16().float(),
    "8 bits": lambda outputs, inputs: _in_blocks(outputs, inputs, 254, -127),
    "4 bits": lambda outputs, inputs: _in_blocks(outputs, inputs, 15, -8),
}


def _seconds(linears: list[PanelLinear], rows: int) -> float:
    xs = {linear.inputs: torch.randn(rows, linear.inputs) for linear in linears}
    y = torch.empty(rows * max(linear.outputs for linear in linears))
    started = time.perf_counter()
    for linear in linears:
        multiply(rows, xs[linear.inputs].data_ptr(), linear.place, y.data_ptr())
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
