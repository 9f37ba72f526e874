"""Whether numba's compiled loops can run, and those for a model's small operations."""

import importlib.util
from functools import cache
from types import ModuleType

import torch


def loops_run(device: torch.device | str, dtype: torch.dtype) -> bool:
    """For float32 on the CPU, where numba has a wheel for the platform."""
    return dtype == torch.float32 and torch.device(device).type == "cpu" and _numba_is_there()


def loops_for(x: torch.Tensor) -> ModuleType | None:
    """The module `loops` if it can work on x."""
    return _loops() if loops_run(x.device, x.dtype) else None


@cache
def _numba_is_there() -> bool:
    return importlib.util.find_spec("numba") is not None


@cache
def _loops() -> ModuleType:
    from tunery.models import loops  # noqa: PLC0415 (without numba there is no such module)

    return loops
