"""Which compiled loops there are for a device. Knows no model."""

import importlib.util
from types import ModuleType

import torch

from tunery.models.decoder import Operations


def kernels_for(device: torch.device | str, dtype: torch.dtype) -> ModuleType | None:
    """The module `kernels` where its loops can run: float32 on the CPU, and numba has a wheel for the platform."""
    if torch.device(device).type != "cpu" or dtype != torch.float32 or importlib.util.find_spec("numba") is None:
        return None
    from tunery.serving import kernels  # noqa: PLC0415 (without numba there is no such module)

    return kernels


def operations_for(device: torch.device | str) -> Operations:
    """The fastest small operations of a float32 decoder that is only asked."""
    kernels = kernels_for(device, torch.float32)
    if kernels is None:
        return Operations()
    return Operations(kernels.rms_norm, kernels.rotate)
