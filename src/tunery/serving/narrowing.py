"""The fewest bytes in which a frozen float32 matrix can lie without losing a bit.

Most models were written down in fewer bits than they are computed with: bfloat16 and float16, or whole numbers of 4 or
8 bits with scales (GGUF's Q4_1 and Q8_0: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Their float32
weights are found to be such numbers; a format is taken only if every weight of the matrix is had back from it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tunery.models.tiles import PANEL
from tunery.serving.formats import BFLOAT16, BLOCK, FLOAT16, FLOAT32, INT4, INT8, PER_WORD, widen_panels

LARGEST = 127
"""Of an INT8 weight's amounts."""
_LEAST_HALF = 2.0**-24
"""The float16 next to 0."""
PANELS_AT_ONCE = 64
"""Looking for a format takes a few times their memory."""


def narrowest(panels: Tensor) -> tuple[int, Tensor]:
    """Of float32 panels [P, in, PANEL], which may be a view: a format that keeps every bit, and how they lie in it."""
    for kind, narrow in _NARROW.items():
        if _same(kind, narrow, panels[:1]) is not None:
            parts = [_same(kind, narrow, part) for part in torch.split(panels, PANELS_AT_ONCE)]
            if all(part is not None for part in parts):
                return kind, torch.cat([part for part in parts if part is not None])
    return FLOAT32, panels.contiguous()


def _same(kind: int, narrow: Callable[[Tensor], Tensor], panels: Tensor) -> Tensor | None:
    """The panels in a format, where that gives them back."""
    count, inputs, _ = panels.shape
    found = narrow(panels).contiguous()
    room = torch.empty(count, -(-inputs // BLOCK) * BLOCK, PANEL)
    widen_panels(kind, count, inputs, found.data_ptr(), room.data_ptr())
    return found if torch.equal(room[:, :inputs], panels) else None


def _in_blocks(panels: Tensor) -> Tensor:
    """[P, blocks, BLOCK, PANEL]"""
    blocks = -(-panels.shape[1] // BLOCK)
    return F.pad(panels, (0, 0, 0, blocks * BLOCK - panels.shape[1])).reshape(-1, blocks, BLOCK, PANEL)


def _int4(panels: Tensor) -> Tensor:
    """As GGUF's Q4_1 rounds: the least of a block is 0, its highest 15."""
    weights = _in_blocks(panels)
    least, highest = weights.aminmax(dim=2)
    scale = ((highest - least) / 15).half()
    whole = (weights - least[:, :, None]) / scale.float().clamp(min=_LEAST_HALF)[:, :, None]
    words = whole.round().clamp(0, 15).to(torch.int32).reshape(*least.shape[:2], -1, PER_WORD, PANEL)
    shifted = words << (4 * torch.arange(PER_WORD, dtype=torch.int32))[:, None]
    packed = shifted.sum(3, dtype=torch.int32)  # bits of their own, so a sum joins them
    return _joined(scale, least.half(), packed)


def to_int8(panels: Tensor) -> Tensor:
    """Rounded to the nearest (Dettmers et al., LLM.int8, doi 10.48550/arXiv.2208.07339, section 2.1: absmax).

    A weight is off by 1/254 of its block's largest at most.
    """
    return torch.cat([_int8(part) for part in torch.split(panels, PANELS_AT_ONCE)])


def _int8(panels: Tensor) -> Tensor:
    weights = _in_blocks(panels)
    scales = weights.abs().amax(2) / LARGEST
    whole = (weights / scales.clamp(min=torch.finfo(scales.dtype).tiny)[:, :, None]).round()
    return _joined(scales, whole.to(torch.int8))


def _joined(*parts: Tensor) -> Tensor:
    """[P, bytes]: the parts [P, blocks, ...] of each block one after another."""
    return torch.cat([part.flatten(2).view(torch.uint8) for part in parts], 2).flatten(1)


_NARROW: dict[int, Callable[[Tensor], Tensor]] = {
    INT4: _int4,
    INT8: _int8,
    BFLOAT16: Tensor.bfloat16,
    FLOAT16: Tensor.half,
}
"""From the fewest bytes on."""
