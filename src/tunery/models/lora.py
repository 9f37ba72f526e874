"""A LoRA adapter on every linear layer of a `Layout`, in PEFT's file format. Knows no optimiser and no base weights.

PEFT's format (peft 0.21): adapter_config.json and adapter_model.safetensors with two matrices per linear layer,
`base_model.model.{module path}.lora_A.weight` [rank, in] and `...lora_B.weight` [out, rank]; the layer adds
scale * x @ A.T @ B.T, scale = alpha / rank (alpha / sqrt(rank) with use_rslora). Source: arXiv 2106.09685. Matrices are
written in float16 and read in any of PEFT's types.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tunery.errors import InvalidRequest
from tunery.models.decoder import DenseLinear, Linear, LowRank, ModelConfig
from tunery.models.folders import written
from tunery.models.layout import Layout
from tunery.models.operations import Operation, adapted, add_low_rank

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
WRITTEN = torch.float16
"""A number is off by 1/2048 of itself at most, which the validation loss doesn't show (docs/log.md): half of float32's
bytes on disk, in memory and in what a step of many adapters reads."""


class Lora(LowRank):
    """One adapter: `a[group][block]` is [members * rank, in], `b[target][block]` is [out, rank]."""

    def __init__(self, config: ModelConfig, rank: int, scale: float, tensors: dict[str, Tensor]) -> None:
        """`tensors` by PEFT name; targets that are absent add nothing until trained."""
        self.config, self.rank, self.scale = config, rank, scale
        self.layout = config.layout
        blocks, paths = range(self.layout.num_blocks), self.layout.paths
        self.b = {t: [tensors[peft_name(paths[t][i], "B")] for i in blocks] for t in self.layout.targets}
        self.a = {
            group: [torch.cat([tensors[peft_name(paths[t][i], "A")] for t in members]) for i in blocks]
            for group, members in self.layout.groups.items()
        }

    @classmethod
    def fresh(cls, config: ModelConfig, *, rank: int, alpha: float, seed: int) -> "Lora":
        """PEFT's start: A uniform in +-1/sqrt(in) (kaiming with a = sqrt 5), B zero. The seed decides every bit."""
        return cls(config, rank, alpha / rank, _initial(config.layout, rank, seed))

    @classmethod
    def load(cls, directory: str | Path, config: ModelConfig) -> "Lora":
        """Raises InvalidRequest, saying what is wrong, for anything but a plain LoRA that fits the base model."""
        folder = Path(directory)
        rank, scale = _read_config(folder, config.layout)
        shapes = _shapes(config.layout, rank)
        tensors = {}
        for name, tensor in _read_tensors(folder).items():
            if name not in shapes:
                raise InvalidRequest(f"The adapter has a tensor '{name}', which isn't a LoRA of this base model.")
            if tensor.shape != shapes[name]:
                found = tuple(tensor.shape)
                raise InvalidRequest(
                    f"The adapter's tensor '{name}' has shape {found}; this base model needs {shapes[name]}."
                )
            tensors[name] = tensor.to(torch.float32)
        if len(tensors) < len(shapes):
            tensors = _initial(config.layout, rank, seed=0) | tensors
        return cls(config, rank, scale, tensors)

    def to(self, device: str | torch.device, dtype: torch.dtype) -> "Lora":
        tensors = {name: tensor.to(device=device, dtype=dtype) for name, tensor in self.tensors().items()}
        return Lora(self.config, self.rank, self.scale, tensors)

    @contextmanager
    def as_written(self) -> Iterator[None]:
        """Meanwhile it is rounded as in its file: what is measured is what will answer."""
        exact = [tensor.detach().clone() for tensor in self.parameters()]
        try:
            self._take([tensor.to(WRITTEN) for tensor in exact])
            yield
        finally:
            self._take(exact)

    def _take(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self.parameters(), values, strict=True):
                tensor.copy_(value)

    def save(self, directory: str | Path, base_model: str) -> None:
        """Writes PEFT's two files, durably and all or nothing. Equal adapters give equal bytes."""
        with written(Path(directory)) as folder:
            self.write(folder, base_model)

    def write(self, folder: Path, base_model: str) -> None:
        """`save` for a caller who puts more into the same folder and sees to its durability."""
        values = _peft_config(self.layout, rank=self.rank, alpha=self.scale * self.rank, base_model=base_model)
        text = json.dumps(values, indent=2, sort_keys=True)
        (folder / CONFIG_FILE).write_text(text + "\n", "utf-8")
        tensors = {name: t.detach().to("cpu", WRITTEN).contiguous() for name, t in sorted(self.tensors().items())}
        (folder / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))

    def parameters(self) -> list[Tensor]:
        """The tensors an optimiser moves, always in the same order."""
        return [t for stacks in (self.a, self.b) for name in sorted(stacks) for t in stacks[name]]

    def tensors(self) -> dict[str, Tensor]:
        """By PEFT name; A matrices are views into their group's stack."""
        paths = self.layout.paths
        found = {peft_name(paths[t][i], "B"): b for t, stack in self.b.items() for i, b in enumerate(stack)}
        for group, members in self.layout.groups.items():
            for i, stacked in enumerate(self.a[group]):
                parts = torch.split(stacked, self.rank)
                found |= {peft_name(paths[t][i], "A"): part for t, part in zip(members, parts, strict=True)}
        return found

    def add(self, block: int, group: str, x: Tensor, y: Tensor) -> Tensor:
        """In place: y is the base's fresh output."""
        b = [self.b[target][block] for target in self.layout.groups[group]]
        return add_low_rank(y, x, self.a[group][block], b, self.scale)

    def project(
        self, block: int, group: str, linear: Linear, x: Tensor, *, before: Operation, onto: Tensor | None
    ) -> Tensor:
        """Where it is trained, what comes before the layer, the layer and the adapter are one operation."""
        if not (torch.is_grad_enabled() and isinstance(linear, DenseLinear)):
            return super().project(block, group, linear, x, before=before, onto=onto)
        b = [self.b[target][block] for target in self.layout.groups[group]]
        return adapted(x, before, (linear.weight, linear.bias), self.a[group][block], b, self.scale, onto)


def peft_name(path: str, side: str) -> str:
    """A tensor's name in adapter_model.safetensors, by the layer's module path; `side` is "A" or "B"."""
    return f"base_model.model.{path}.lora_{side}.weight"


def digest(directory: str | Path) -> str:
    """SHA-256, in hexadecimal, over adapter_config.json and then adapter_model.safetensors."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (Path(directory) / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _shapes(layout: Layout, rank: int) -> dict[str, tuple[int, int]]:
    shapes = {}
    for block in range(layout.num_blocks):
        for target in layout.targets:
            inputs, outputs = layout.features[target]
            shapes[peft_name(layout.paths[target][block], "A")] = (rank, inputs)
            shapes[peft_name(layout.paths[target][block], "B")] = (outputs, rank)
    return shapes


def _initial(layout: Layout, rank: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(layout.num_blocks):
        for target in layout.targets:
            inputs, outputs = layout.features[target]
            bound = 1 / math.sqrt(inputs)
            a = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
            tensors[peft_name(layout.paths[target][block], "A")] = a
            tensors[peft_name(layout.paths[target][block], "B")] = torch.zeros(outputs, rank)
    return tensors


def _peft_config(layout: Layout, *, rank: int, alpha: float, base_model: str) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": layout.fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(layout.target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _read_config(folder: Path, layout: Layout) -> tuple[int, float]:
    """(rank, scale); refuses what would make the adapter mean something else than `Lora.add`."""
    try:
        raw = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        rank, alpha = int(raw["r"]), float(raw["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"The adapter's {CONFIG_FILE} can't be read: {error!r}.") from None
    if raw.get("peft_type") != "LORA":
        raise InvalidRequest(f"The adapter's type is {raw.get('peft_type')}; only LORA is supported.")
    changed = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication")
    for key in changed if layout.fan_in_fan_out else (*changed, "fan_in_fan_out"):
        if raw.get(key):
            raise InvalidRequest(f"The adapter uses '{key}', which isn't supported.")
    if raw.get("bias", "none") != "none":
        raise InvalidRequest("The adapter trains biases, which isn't supported.")
    if not 1 <= rank <= 1024:
        raise InvalidRequest(f"The adapter's rank is {rank}; it must lie between 1 and 1024.")
    return rank, alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError:
        raise InvalidRequest(
            f"The adapter has no {WEIGHTS_FILE}. Other formats aren't read: they may run code."
        ) from None
    except SafetensorError as error:
        raise InvalidRequest(f"The adapter's {WEIGHTS_FILE} is damaged: {error}.") from None
    if not tensors:
        raise InvalidRequest("The adapter holds no tensors.")
    return tensors
