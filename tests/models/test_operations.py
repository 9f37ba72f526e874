from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tunery.models.operations import add_low_rank, rms_norm, rotate, swiglu


def wide(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As transformers writes it."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


COS, SIN = torch.cos(wide(5, 1, 3)).detach(), torch.sin(wide(5, 1, 3)).detach()
WEIGHT = wide(6, seed=1).detach()
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]] = {
    "rms_norm": (
        lambda x: rms_norm(x, WEIGHT, 1e-5),
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * WEIGHT,
        [wide(5, 6)],
    ),
    "rotate": (lambda x: rotate(x, COS, SIN), lambda x: plain_rotate(x, COS, SIN), [wide(5, 2, 6)]),
    "swiglu": (swiglu, lambda x: F.silu(x[:, :4]) * x[:, 4:], [wide(5, 8)]),
    "add_low_rank": (
        lambda y, x, a, b, c: add_low_rank(y * 1, x, a, [b, c], 0.7),
        lambda y, x, a, b, c: y + 0.7 * torch.cat([x @ a[:2].T @ b.T, x @ a[2:].T @ c.T], -1),
        [wide(5, 7), wide(5, 6, seed=1), wide(4, 6, seed=2), wide(3, 2, seed=3), wide(4, 2, seed=4)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_plain_formula(name: str) -> None:
    ours, plain, inputs = CASES[name]
    torch.testing.assert_close(ours(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(ours(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_automatic_differentiation(name: str) -> None:
    ours, plain, inputs = CASES[name]
    upstream = wide(*plain(*inputs).shape, seed=9).detach()
    for mine, theirs in zip(
        torch.autograd.grad(ours(*inputs), inputs, upstream),
        torch.autograd.grad(plain(*inputs), inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
