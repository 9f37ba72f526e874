import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunery.models.decoder import DenseLinear
from tunery.models.tiles import GROUP, PANEL
from tunery.serving.compiled import linear_for
from tunery.serving.products import INPUTS_AT_ONCE, LARGEST, ROWS_AT_ONCE, PanelLinear, QuantizedPanelLinear

SIZES = st.integers(1, 2 * PANEL + 1)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, 2 * ROWS_AT_ONCE + 1), inputs=SIZES, outputs=SIZES, biased=st.booleans())
def test_a_layer_of_panels_is_the_linear_layer(rows: int, inputs: int, outputs: int, biased: bool) -> None:
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    x = torch.randn(rows, inputs)
    torch.testing.assert_close(PanelLinear(weight, bias)(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 2 * ROWS_AT_ONCE + 1), inputs=st.integers(1, 4 * INPUTS_AT_ONCE), outputs=SIZES)
def test_a_row_has_the_same_bits_alone_as_among_others(rows: int, inputs: int, outputs: int) -> None:
    weight, x = torch.randn(outputs, inputs), torch.randn(rows, inputs)
    layer = PanelLinear(weight)
    together = layer(x)
    torch.testing.assert_close(together, F.linear(x, weight), atol=1e-3, rtol=1e-4)
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), together)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, ROWS_AT_ONCE + 1), inputs=SIZES, outputs=SIZES, biased=st.booleans())
def test_a_quantized_layer_is_the_linear_layer_of_its_rounded_weights(
    rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    x, rounded = torch.randn(rows, inputs), rounded_to_bytes(weight)
    torch.testing.assert_close(QuantizedPanelLinear(weight, bias)(x), F.linear(x, rounded, bias), atol=1e-4, rtol=1e-5)


def test_a_quantized_weight_is_off_by_half_a_step_of_its_group_at_most() -> None:
    weight = torch.randn(5, 2 * GROUP + 3)
    weight[1, :GROUP] = 0  # a group without a largest
    columns = QuantizedPanelLinear(weight)(torch.eye(weight.shape[1])).T
    for first in range(0, weight.shape[1], GROUP):
        group = weight[:, first : first + GROUP]
        step = group.abs().amax(1, keepdim=True) / LARGEST
        assert ((columns[:, first : first + GROUP] - group).abs() <= step * 0.5001).all()


def rounded_to_bytes(weight: Tensor) -> Tensor:
    steps = (
        torch.cat([part.abs().amax(1, keepdim=True).expand_as(part) for part in weight.split(GROUP, 1)], 1) / LARGEST
    )
    return (weight / steps).round() * steps


def test_rows_that_lie_apart_are_multiplied() -> None:
    weight, x = torch.randn(40, 24), torch.randn(5, 60)[:, 7:31]
    torch.testing.assert_close(PanelLinear(weight)(x), F.linear(x, weight), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", [PanelLinear, QuantizedPanelLinear])
def test_broken_numbers_stay_broken(kind: type[PanelLinear], broken: float) -> None:
    weight = torch.ones(PANEL + 1, 3)
    weight[PANEL, 1] = broken
    assert not kind(weight)(torch.ones(1, 3)).isfinite().all()


def test_panels_are_for_the_cpu() -> None:
    assert linear_for("cpu") is PanelLinear
    assert linear_for("cuda") is DenseLinear
