from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tunery.models.compiled import loops_run
from tunery.models.operations import (
    COLUMNS,
    FEW_ROWS,
    Nothing,
    Operation,
    RmsNorm,
    SwiGlu,
    adapted,
    add_low_rank,
    apply,
    exponentials_,
    linear,
    rotate,
)


def wide(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return apply(RmsNorm(weight, 1e-5), x)


def plain_norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * WEIGHT


def swiglu(gate_up: Tensor) -> Tensor:
    return apply(SwiGlu(), gate_up)


def plain_swiglu(x: Tensor) -> Tensor:
    return F.silu(x[:, :4]) * x[:, 4:]


def through(before: Operation) -> Callable[..., Tensor]:
    return lambda x, onto, a, b, c: adapted(x, before, (FROZEN[:, : a.shape[1]], None), a, [b, c], 0.7, onto)


def plainly_through(before: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def formula(x: Tensor, onto: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        h = before(x)
        low = torch.cat([h @ a[:2].T @ b.T, h @ a[2:].T @ c.T], -1)
        return h @ FROZEN[:, : a.shape[1]].T + 0.7 * low + onto

    return formula


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As transformers writes it."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


COS, SIN = torch.cos(wide(5, 1, 3)).detach(), torch.sin(wide(5, 1, 3)).detach()
WEIGHT = wide(6, seed=1).detach()
FROZEN = wide(7, 6, seed=5).detach()
AROUND = [wide(5, 7, seed=6), wide(4, 6, seed=2), wide(3, 2, seed=3), wide(4, 2, seed=4)]
NARROW = [wide(5, 7, seed=6), wide(4, 4, seed=2), wide(3, 2, seed=3), wide(4, 2, seed=4)]
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]] = {
    "rms_norm": (
        lambda x: norm(x, WEIGHT),
        plain_norm,
        [wide(5, 6)],
    ),
    "rotate": (lambda x: rotate(x, COS, SIN), lambda x: plain_rotate(x, COS, SIN), [wide(5, 2, 6)]),
    "swiglu": (swiglu, plain_swiglu, [wide(5, 8)]),
    "add_low_rank": (
        lambda y, x, a, b, c: add_low_rank(y * 1, x, a, [b, c], 0.7),
        lambda y, x, a, b, c: y + 0.7 * torch.cat([x @ a[:2].T @ b.T, x @ a[2:].T @ c.T], -1),
        [wide(5, 7), wide(5, 6, seed=1), wide(4, 6, seed=2), wide(3, 2, seed=3), wide(4, 2, seed=4)],
    ),
    "adapted": (through(Nothing()), plainly_through(lambda x: x), [wide(5, 6), *AROUND]),
    "adapted norm": (through(RmsNorm(WEIGHT, 1e-5)), plainly_through(plain_norm), [wide(5, 6), *AROUND]),
    "adapted swiglu": (through(SwiGlu()), plainly_through(plain_swiglu), [wide(5, 8), *NARROW]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_plain_formula(name: str) -> None:
    ours, plain, inputs = CASES[name]
    torch.testing.assert_close(ours(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(ours(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)


def narrow(x: Tensor) -> Tensor:
    return x.detach().float().requires_grad_()


def test_compiled_loops_run_here() -> None:
    assert loops_run("cpu", torch.float32)
    assert not loops_run("cpu", torch.float64)


LARGE_WEIGHT = wide(576, seed=1).detach()
LARGE_COS, LARGE_SIN = torch.cos(wide(90, 1, 32)).detach(), torch.sin(wide(90, 1, 32)).detach()
LARGE: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "rms_norm": (lambda x: norm(x, LARGE_WEIGHT.to(x.dtype)), wide(90, 576)),
    "rms_norm of some heads": (
        lambda x: norm(x.view(90, 9, 64)[:, 2:5], LARGE_WEIGHT[:64].to(x.dtype)),
        wide(90, 576),
    ),
    "rotate": (lambda x: rotate(x, LARGE_COS.to(x.dtype), LARGE_SIN.to(x.dtype)), wide(90, 9, 64)),
    "rotate some heads": (
        lambda x: rotate(x[:, 2:5], LARGE_COS.to(x.dtype), LARGE_SIN.to(x.dtype)),
        wide(90, 9, 64),
    ),
    "rotate across": (
        lambda x: rotate(x.transpose(0, 1), LARGE_COS.to(x.dtype), LARGE_SIN.to(x.dtype)),
        wide(9, 90, 64),
    ),
    "swiglu": (swiglu, wide(90, 1026)),
    "swiglu across": (lambda x: swiglu(x.T), wide(1026, 90)),
}


@pytest.mark.parametrize("name", LARGE)
def test_compiled_loops_and_their_gradients_are_those_of_the_operators(name: str) -> None:
    """float32 on the CPU runs in loops, float64 doesn't."""
    operation, x = LARGE[name]
    upstream = wide(*operation(x).shape, seed=9).detach()
    found = operation(narrow(x))
    torch.testing.assert_close(found.double(), operation(x), rtol=1e-5, atol=1e-6)
    x32 = narrow(x)
    (mine,) = torch.autograd.grad(operation(x32), x32, upstream.float())
    (theirs,) = torch.autograd.grad(operation(x), x, upstream)
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 63, 64, 5000])
def test_exponentials_come_with_each_row_s_highest_its_place_and_the_sum(width: int) -> None:
    x = wide(7, width).detach() * 30
    narrow_x = x.float()
    highest, column, sums = exponentials_(narrow_x)
    x = x.float().double()
    assert torch.equal(highest.double(), x.amax(-1))
    assert torch.equal(column, x.argmax(-1))
    expected = (x - x.amax(-1, keepdim=True)).exp()
    torch.testing.assert_close(narrow_x.double(), expected, rtol=2e-5, atol=1e-30)
    torch.testing.assert_close(sums.double(), expected.sum(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_numbers_stay_broken(broken: float) -> None:
    x = torch.tensor([[1.0, broken, 2.0]])
    assert not norm(x, torch.ones(3)).isfinite().all()
    assert not swiglu(torch.tensor([[broken, -1.0]])).isfinite().all()
    assert not exponentials_(x)[2].isfinite().all()


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


@pytest.mark.parametrize("rows", [1, FEW_ROWS - 1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("outputs", [1, COLUMNS, 2 * COLUMNS - 1, 2 * COLUMNS, 2 * COLUMNS + 1])
@pytest.mark.parametrize("biased", [True, False])
def test_a_frozen_layer_is_the_linear_layer_however_wide(rows: int, outputs: int, biased: bool) -> None:
    x, weight = wide(rows, 3), wide(outputs, 3, seed=1).detach()
    bias = wide(outputs, seed=2).detach() if biased else None
    given = wide(rows, outputs, seed=3).detach()
    found, wanted = linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, x, given), torch.autograd.grad(wanted, x, given))
    torch.testing.assert_close(linear(x.detach(), weight, bias), wanted)
