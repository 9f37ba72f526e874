"""The decoder's small operations with gradients written out: fewer passes over memory and fewer tensors kept than
automatic differentiation needs, and one pass each where compiled loops run. Forward values are those of the plain
formulas. Knows no model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from tunery.models.compiled import loops_for


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis, in float32 at least (arXiv 1910.07467). No gradient for the weight."""
    normed: Tensor = _apply(_RmsNorm, x, weight, eps) if torch.is_grad_enabled() else _rms_norm(x, weight, eps)[0]
    return normed


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, the half-split layout (arXiv 2104.09864); x [T, heads, D], cos and sin [T, 1, D / 2]."""
    rotated: Tensor = _apply(_Rotate, x, cos, sin) if torch.is_grad_enabled() else _rotate(x, cos, sin)
    return rotated


def swiglu(gate_up: Tensor) -> Tensor:
    """[T, 2 * inner] -> silu(first half) * second half, [T, inner] (arXiv 2002.05202)."""
    inner: Tensor = _apply(_SwiGlu, gate_up) if torch.is_grad_enabled() else _swiglu(gate_up)
    return inner


def add_low_rank(y: Tensor, x: Tensor, a: Tensor, b: list[Tensor], scale: float) -> Tensor:
    """Adds scale * x @ A.T @ B.T to y in place, for layers that share x and lie side by side in y.

    y [T, sum of out], x [T, in], a [len(b) * rank, in], b each [out, rank].
    """
    added: Tensor = _apply(_AddLowRank, y, x, a, scale, *b)
    return added


def exponentials_(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, W] becomes exp(x - highest); each row's highest, the first column that has it, and the sum. No gradient."""
    if loops := loops_for(x):
        found: tuple[Tensor, Tensor, Tensor] = loops.exponentials_(x)
        return found
    highest, column = x.max(-1, keepdim=True)
    sums = x.sub_(highest).exp_().sum(-1)
    return highest.squeeze(-1), column.squeeze(-1), sums


def _apply(function: type[Function], *arguments: Any) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if loops := loops_for(x):
        found: tuple[Tensor, Tensor] = loops.rms_norm(x, weight, eps)
        return found
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * inverse).to(x.dtype), inverse


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if loops := loops_for(x):
        rotated: Tensor = loops.rotate(x, cos, sin)
        return rotated
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _swiglu(gate_up: Tensor) -> Tensor:
    if loops := loops_for(gate_up):
        inner: Tensor = loops.swiglu(gate_up)
        return inner
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, inverse = _rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, inverse = ctx.saved_tensors
        if loops := loops_for(x):
            return loops.rms_norm_gradient(gradients[0], x, weight, inverse), None, None
        x = x.to(inverse.dtype)
        scaled = (gradients[0] * weight).to(inverse.dtype)
        along = (scaled * x).mean(-1, keepdim=True).mul_(inverse.pow(3))
        return scaled.mul_(inverse).addcmul_(x, along, value=-1).to(weight.dtype), None, None


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotate(gradients[0], cos, -sin), None, None


class _SwiGlu(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _swiglu(gate_up)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gate_up,) = ctx.saved_tensors
        if loops := loops_for(gate_up):
            return loops.swiglu_gradient(gradients[0], gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        gradient = torch.empty_like(gate_up)
        by_gate, by_up = gradient.chunk(2, dim=-1)
        torch.mul(gradients[0], F.silu(gate), out=by_up)
        by_gate.copy_(torch.ops.aten.silu_backward(gradients[0] * up, gate))
        return gradient


class _AddLowRank(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, scale: float, *b: Tensor) -> Tensor:
        low = (x @ a.T).mul_(scale)
        for part, narrow, each in _side_by_side(y, low, b):
            part.addmm_(narrow, each.T)
        ctx.mark_dirty(y)
        ctx.scale = scale
        ctx.save_for_backward(x, low, a, *b)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, low, a, *b = ctx.saved_tensors
        by_y = gradients[0]
        by_low = torch.empty_like(low)
        by_b = []
        for (part, narrow, each), into in zip(
            _side_by_side(by_y, low, b), torch.split(by_low, b[0].shape[1], dim=-1), strict=True
        ):
            by_b.append((narrow.T @ part).T)  # this way round is twice as fast
            torch.mm(part, each, out=into)
        by_low.mul_(ctx.scale)
        return by_y, by_low @ a, by_low.T @ x, None, *by_b


def _side_by_side(y: Tensor, low: Tensor, b: Any) -> Any:
    """(columns of y, columns of low, B) of each layer."""
    outputs = torch.split(y, [each.shape[0] for each in b], dim=-1)
    return zip(outputs, torch.split(low, b[0].shape[1], dim=-1), b, strict=True)
