"""The decoder's small operations with gradients written out: fewer passes over memory and fewer tensors kept than
automatic differentiation needs, and one pass each where compiled loops run. Forward values are those of the plain
formulas. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from tunery.models.compiled import loops_for

FEW_ROWS = 32
"""Up to here a product is bound by reading its weights."""
COLUMNS = 1024
"""Outputs of a product that MKL is given at once."""


class Operation(Protocol):
    """A function of one tensor, without parameters that are trained."""

    def value(self, x: Tensor) -> Tensor: ...

    def gradient(self, given: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the loss by x, where `given` is that by the value; and the value again, by loops in the same pass."""
        ...


def apply(operation: Operation, x: Tensor) -> Tensor:
    applied: Tensor = _apply(_Applied, x, operation) if torch.is_grad_enabled() else operation.value(x)
    return applied


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """x / rms(x) * weight over the last axis, in float32 at least (arXiv 1910.07467)."""

    weight: Tensor
    eps: float

    def value(self, x: Tensor) -> Tensor:
        if loops := loops_for(x):
            normed: Tensor = loops.rms_norm(x, self.weight, self.eps)
            return normed
        wide, inverse = self._inverse(x)
        return self.weight * (wide * inverse).to(x.dtype)

    def gradient(self, given: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if loops := loops_for(x):
            found: tuple[Tensor, Tensor] = loops.rms_norm_gradient(given, x, self.weight, self.eps)
            return found
        wide, inverse = self._inverse(x)
        scaled = (given * self.weight).to(inverse.dtype)
        along = (scaled * wide).mean(-1, keepdim=True).mul_(inverse.pow(3))
        by_x = scaled.mul_(inverse).addcmul_(wide, along, value=-1).to(self.weight.dtype)
        return by_x, self.weight * (wide * inverse).to(x.dtype)

    def _inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x as it is computed with, and 1 / rms of each row [..., 1]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return wide, torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)


class SwiGlu:
    """[T, 2 * inner] -> silu(first half) * second half, [T, inner] (arXiv 2002.05202)."""

    def value(self, gate_up: Tensor) -> Tensor:
        if loops := loops_for(gate_up):
            inner: Tensor = loops.swiglu(gate_up)
            return inner
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def gradient(self, given: Tensor, gate_up: Tensor) -> tuple[Tensor, Tensor]:
        if loops := loops_for(gate_up):
            found: tuple[Tensor, Tensor] = loops.swiglu_gradient(given, gate_up)
            return found
        gate, up = gate_up.chunk(2, dim=-1)
        by_gate_up = torch.empty_like(gate_up)
        by_gate, by_up = by_gate_up.chunk(2, dim=-1)
        opened = F.silu(gate)
        torch.mul(given, opened, out=by_up)
        by_gate.copy_(torch.ops.aten.silu_backward(given * up, gate))
        return by_gate_up, opened.mul_(up)


class Nothing:
    """x itself."""

    def value(self, x: Tensor) -> Tensor:
        return x

    def gradient(self, given: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return given, x


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, the half-split layout (arXiv 2104.09864); x [T, heads, D], cos and sin [T, 1, D / 2]."""
    rotated: Tensor = _apply(_Rotate, x, cos, sin) if torch.is_grad_enabled() else _rotate(x, cos, sin)
    return rotated


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, in] @ weight.T + bias of a frozen layer [out, in]."""
    product: Tensor = _apply(_Linear, x, weight, bias) if x.requires_grad else _linear(x, weight, bias)
    return product


def add_low_rank(y: Tensor, x: Tensor, a: Tensor, b: list[Tensor], scale: float) -> Tensor:
    """Adds scale * x @ A.T @ B.T to y in place, for layers that share x and lie side by side in y.

    y [T, sum of out], x [T, in], a [len(b) * rank, in], b each [out, rank].
    """
    added: Tensor = _apply(_AddLowRank, y, x, a, scale, *b)
    return added


def adapted(
    x: Tensor,
    before: Operation,
    frozen: tuple[Tensor, Tensor | None],
    a: Tensor,
    b: list[Tensor],
    scale: float,
    onto: Tensor | None,
) -> Tensor:
    """h @ W.T + bias + scale * h @ A.T @ B.T + onto, where h = before(x) isn't kept but computed again.

    frozen: W [sum of out, in] and bias; a and b as in `add_low_rank`; onto [T, sum of out].
    """
    y: Tensor = _apply(_Adapted, x, onto, before, frozen, a, scale, *b)
    return y


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


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if loops := loops_for(x):
        rotated: Tensor = loops.rotate(x, cos, sin)
        return rotated
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _Applied(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation) -> Tensor:
        ctx.operation = operation
        ctx.save_for_backward(x)
        return operation.value(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.operation.gradient(gradients[0], *ctx.saved_tensors)[0], None


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotate(gradients[0], cos, -sin), None, None


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] @ ctx.weight, None, None


class _AddLowRank(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, scale: float, *b: Tensor) -> Tensor:
        low = _add_low_rank(y, x, a, b, scale)
        ctx.mark_dirty(y)
        ctx.scale = scale
        ctx.save_for_backward(x, low, a, *b)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, low, a, *b = ctx.saved_tensors
        by_low, by_b = _through_b(gradients[0], low, b, ctx.scale)
        return gradients[0], by_low @ a, by_low.T @ x, None, *by_b


class _Adapted(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        onto: Tensor | None,
        before: Operation,
        frozen: tuple[Tensor, Tensor | None],
        a: Tensor,
        scale: float,
        *b: Tensor,
    ) -> Tensor:
        h = before.value(x)
        y = _linear(h, *frozen)
        low = _add_low_rank(y, h, a, b, scale)
        ctx.before, ctx.weight, ctx.scale = before, frozen[0], scale
        ctx.save_for_backward(x, low, a, *b)
        return y if onto is None else y.add_(onto)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, low, a, *b = ctx.saved_tensors
        given = gradients[0].contiguous()
        by_low, by_b = _through_b(given, low, b, ctx.scale)
        if ctx.needs_input_grad[0]:
            by_x, h = ctx.before.gradient((given @ ctx.weight).addmm_(by_low, a), x)
        else:
            by_x, h = None, ctx.before.value(x)
        return by_x, given if ctx.needs_input_grad[1] else None, None, None, by_low.T @ h, None, *by_b


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Some outputs at a time where MKL is slower at more: on AMD's processors, by half for a head (docs/log.md)."""
    if x.device.type != "cpu" or len(x) < FEW_ROWS or len(weight) < 2 * COLUMNS:
        return F.linear(x, weight, bias)
    y = x.new_empty(len(x), len(weight))
    for part, into in zip(torch.split(weight, COLUMNS), torch.split(y, COLUMNS, dim=1), strict=True):
        torch.mm(x, part.T, out=into)
    return y if bias is None else y.add_(bias)


def _add_low_rank(y: Tensor, x: Tensor, a: Tensor, b: Sequence[Tensor], scale: float) -> Tensor:
    """`add_low_rank`; returns scale * x @ A.T."""
    low = (x @ a.T).mul_(scale)
    for part, narrow, each in _side_by_side(y, low, b):
        part.addmm_(narrow, each.T)
    return low


def _through_b(by_y: Tensor, low: Tensor, b: Sequence[Tensor], scale: float) -> tuple[Tensor, list[Tensor]]:
    """Gradients by x @ A.T and by each B."""
    by_low = torch.empty_like(low)
    by_b = []
    for (part, narrow, each), into in zip(
        _side_by_side(by_y, low, b), torch.split(by_low, b[0].shape[1], dim=-1), strict=True
    ):
        by_b.append((narrow.T @ part).T)  # this way round is twice as fast
        torch.mm(part, each, out=into)
    return by_low.mul_(scale), by_b


def _side_by_side(y: Tensor, low: Tensor, b: Any) -> Any:
    """(columns of y, columns of low, B) of each layer."""
    outputs = torch.split(y, [each.shape[0] for each in b], dim=-1)
    return zip(outputs, torch.split(low, b[0].shape[1], dim=-1), b, strict=True)
