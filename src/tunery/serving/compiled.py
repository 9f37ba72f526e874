"""Which compiled loops there are for a device and a model."""

from types import ModuleType
from typing import TYPE_CHECKING

import torch

from tunery.errors import InvalidRequest
from tunery.models.compiled import loops_run
from tunery.models.decoder import Decoder, DenseLinear, Model
from tunery.models.loader import MakeLinear
from tunery.weights import Quantization

if TYPE_CHECKING:
    from tunery.serving.blocks import CompiledBlocks


def kernels_for(device: torch.device | str, dtype: torch.dtype) -> ModuleType | None:
    """The module `kernels` where its loops can run."""
    if not loops_run(device, dtype):
        return None
    from tunery.serving import kernels  # noqa: PLC0415 (without numba there is no such module)

    return kernels


def linear_for(device: torch.device | str, quantization: Quantization | None = None) -> MakeLinear:
    """The fastest kind of linear layer for float32. Raises InvalidRequest where quantised ones can't run."""
    compiled = kernels_for(device, torch.float32) is not None
    if not compiled and quantization:
        raise InvalidRequest(f"{quantization} weights run on the CPU alone, where numba has a wheel for the platform.")
    if not compiled:
        return DenseLinear
    from tunery.serving.products import PanelLinear, QuantizedPanelLinear  # noqa: PLC0415

    return QuantizedPanelLinear if quantization else PanelLinear


def blocks_for(model: Model) -> "CompiledBlocks | None":
    """All blocks as one call, where the model is our own decoder with the layers of `linear_for`."""
    if kernels_for(model.device, model.dtype) is None or not isinstance(model, Decoder):
        return None
    from tunery.serving.blocks import CompiledBlocks  # noqa: PLC0415
    from tunery.serving.products import PanelLinear  # noqa: PLC0415

    return CompiledBlocks(model) if isinstance(model.head, PanelLinear) else None
