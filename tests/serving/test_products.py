import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tunery.models.decoder import DenseLinear
from tunery.serving.compiled import linear_for
from tunery.serving.products import PANEL, ROWS_AT_ONCE, PanelLinear

SIZES = st.integers(1, 2 * PANEL + 1)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, 2 * ROWS_AT_ONCE + 1), inputs=SIZES, outputs=SIZES, biased=st.booleans())
def test_a_layer_of_panels_is_the_linear_layer(rows: int, inputs: int, outputs: int, biased: bool) -> None:
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    x = torch.randn(rows, inputs)
    torch.testing.assert_close(PanelLinear(weight, bias)(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


def test_rows_that_lie_apart_are_multiplied() -> None:
    weight, x = torch.randn(40, 24), torch.randn(5, 60)[:, 7:31]
    torch.testing.assert_close(PanelLinear(weight)(x), F.linear(x, weight), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_numbers_stay_broken(broken: float) -> None:
    weight = torch.ones(PANEL + 1, 3)
    weight[PANEL, 1] = broken
    assert not PanelLinear(weight)(torch.ones(1, 3)).isfinite().all()


def test_panels_are_for_the_cpu() -> None:
    assert linear_for("cpu") is PanelLinear
    assert linear_for("cuda") is DenseLinear
