import pytest
import torch
import torch.nn.functional as F

from tunery.models.decoder import DenseLinear
from tunery.serving.packed import PackedLinear, linear_for


@pytest.mark.parametrize("rows", [0, 1, 7, 32, 130])
@pytest.mark.parametrize("biased", [False, True])
def test_a_packed_layer_is_the_linear_layer(rows: int, biased: bool) -> None:
    weight, bias = torch.randn(96, 48), torch.randn(96) if biased else None
    x = torch.randn(rows, 48)
    torch.testing.assert_close(PackedLinear(weight, bias)(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


def test_packed_layers_are_for_the_cpu() -> None:
    assert linear_for("cpu") is PackedLinear
    assert linear_for("cuda") is DenseLinear
