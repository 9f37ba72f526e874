"""Which linear layers of a model an adapter adds to, and what PEFT's files call them. Knows no weights."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Blocks that are alike, each with the same groups of linear layers ("targets").

    A model whose blocks aren't known to be alike is one block here, its targets named by their module paths.
    """

    num_blocks: int
    groups: Mapping[str, tuple[str, ...]]
    """The targets of a group share their input; the group's output is theirs side by side."""
    features: Mapping[str, tuple[int, int]]
    """(inputs, outputs) by target."""
    paths: Mapping[str, tuple[str, ...]]
    """By target: its module path in each block, as transformers names it."""
    target_modules: tuple[str, ...]
    """What adapter_config.json lists, so that PEFT finds these layers and no others."""
    fan_in_fan_out: bool = False
    """The weights lie transposed (transformers' Conv1D)."""

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(target for members in self.groups.values() for target in members)
