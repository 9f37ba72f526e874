"""The compiled loops compute what the plain operators do."""

import pytest
import torch

from tunery.models import operations
from tunery.serving.compiled import kernels_for

kernels = kernels_for("cpu", torch.float32)


def test_they_run_here() -> None:
    assert kernels is not None


@pytest.mark.parametrize("shape", [(1, 64), (5, 576), (3, 4, 32)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape), torch.randn(shape[-1])
    with torch.no_grad():
        expected = operations.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-5), expected)


def test_rotate_takes_some_heads_of_a_row() -> None:
    x, cos, sin = torch.randn(7, 5, 16)[:, 1:4], torch.randn(7, 1, 8), torch.randn(7, 1, 8)
    with torch.no_grad():
        torch.testing.assert_close(kernels.rotate(x, cos, sin), operations.rotate(x, cos, sin))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_numbers_stay_broken(broken: float) -> None:
    assert not kernels.rms_norm(torch.tensor([[1.0, broken]]), torch.ones(2), 1e-5).isfinite().all()
