from collections.abc import Callable

import numba
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunery.models.decoder import DenseLinear
from tunery.models.tiles import PANEL
from tunery.serving import formats
from tunery.serving.compiled import linear_for
from tunery.serving.formats import BFLOAT16, BLOCK, FLOAT16, FLOAT32, INT4, INT8
from tunery.serving.narrowing import LARGEST, PANELS_AT_ONCE
from tunery.serving.products import FEW_ROWS, INPUTS_AT_ONCE, ROW_BYTES_AT_ONCE, PanelLinear, QuantizedPanelLinear

Weights = Callable[[int, int], Tensor]
"""(outputs, blocks of inputs) -> [out, in]"""
SIZES = st.integers(1, 2 * PANEL + 1)
MANY = 3 * FEW_ROWS


def in_blocks(amounts: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """[out, in] of amounts [out, blocks, BLOCK], each block with a scale and something to add."""
    return (amounts * scale[..., None] + least[..., None]).flatten(1)


def a_few_bits(outputs: int, blocks: int, largest: int) -> Tensor:
    """Amounts from 0 to `largest`, both in each block."""
    amounts = torch.randint(0, largest + 1, (outputs, blocks, BLOCK)).float()
    amounts[..., 0], amounts[..., -1] = 0, largest
    return amounts


def as_q4_1(outputs: int, blocks: int) -> Tensor:
    scale = (0.001 + 0.02 * torch.rand(outputs, blocks)).half().float()
    return in_blocks(a_few_bits(outputs, blocks, 15), scale, (-8 * scale).half().float())


def as_q4_0(outputs: int, blocks: int) -> Tensor:
    scale = torch.rand(outputs, blocks).half().float()
    return in_blocks(a_few_bits(outputs, blocks, 15), scale, -8 * scale)


def as_q8_0(outputs: int, blocks: int) -> Tensor:
    scale = torch.rand(outputs, blocks).half().float()
    return in_blocks(a_few_bits(outputs, blocks, 254) - 127, scale, torch.zeros(outputs, blocks))


def as_bfloat16(outputs: int, blocks: int) -> Tensor:
    return torch.randn(outputs, BLOCK * blocks).bfloat16().float()


def as_float16(outputs: int, blocks: int) -> Tensor:
    return torch.randn(outputs, BLOCK * blocks).half().float()


NARROW = {as_q4_1: INT4, as_q4_0: INT4, as_q8_0: INT8, as_bfloat16: BFLOAT16, as_float16: FLOAT16}


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, MANY), inputs=SIZES, outputs=SIZES, biased=st.booleans())
def test_a_layer_of_panels_is_the_linear_layer(rows: int, inputs: int, outputs: int, biased: bool) -> None:
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    x = torch.randn(rows, inputs)
    torch.testing.assert_close(PanelLinear(weight, bias)(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, MANY), inputs=st.integers(1, 4 * INPUTS_AT_ONCE), outputs=SIZES)
def test_a_row_has_the_same_bits_alone_as_among_others(rows: int, inputs: int, outputs: int) -> None:
    weight, x = torch.randn(outputs, inputs), torch.randn(rows, inputs)
    layer = PanelLinear(weight)
    together = layer(x)
    torch.testing.assert_close(together, F.linear(x, weight), atol=1e-3, rtol=1e-4)
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), together)


def test_rows_of_several_parts_have_the_same_bits_as_alone() -> None:
    inputs = 600
    x = torch.randn(2 * ROW_BYTES_AT_ONCE // (4 * inputs) + 3, inputs)
    layer = PanelLinear(torch.randn(PANEL + 1, inputs))
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), layer(x))


@pytest.mark.parametrize(("weights", "kind"), NARROW.items())
def test_weights_that_are_of_fewer_bits_are_kept_in_those(weights: Weights, kind: int) -> None:
    assert PanelLinear(weights(2 * PANEL + 1, 3)).format == kind


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, MANY), blocks=st.integers(1, 3 * INPUTS_AT_ONCE // BLOCK), outputs=SIZES, data=st.data())
def test_every_format_gives_the_bits_of_float32(rows: int, blocks: int, outputs: int, data: st.DataObject) -> None:
    weight = data.draw(st.sampled_from(list(NARROW)))(outputs, blocks)
    x, narrow, wide = torch.randn(rows, BLOCK * blocks), PanelLinear(weight), Float32Panels(weight)
    assert narrow.format != wide.format
    assert torch.equal(narrow(x), wide(x))


class Float32Panels(PanelLinear):
    def _packed(self, panels: Tensor) -> tuple[int, Tensor]:
        return FLOAT32, panels.contiguous()


@pytest.mark.parametrize("weights", NARROW)
def test_one_weight_that_a_format_cant_hold_keeps_the_matrix_out_of_it(weights: Weights) -> None:
    weight = weights(PANELS_AT_ONCE * PANEL + 5, 2)
    weight[-1, -1] = torch.pi
    x = torch.eye(2 * BLOCK)
    layer = PanelLinear(weight)
    assert layer.format == FLOAT32
    assert torch.equal(layer(x), weight.T)


def test_every_float16_is_widened_exactly() -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.half)
    weight = every[every.isfinite()].float().view(-1, BLOCK)
    layer = PanelLinear(weight)
    assert layer.format == FLOAT16
    assert torch.equal(layer(torch.eye(BLOCK)), weight.T)


def test_every_float16_is_widened_exactly_without_the_processor_s_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "WIDENS_HALVES", False)

    @numba.njit
    def widen(source: int, count: int, room: int) -> None:
        formats.widen(FLOAT16, source, count, room)

    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.half)
    halves = F.pad(every[every.isfinite()], (0, 6 * PANEL)).unfold(0, PANEL, PANEL).contiguous()
    room = torch.empty(len(halves), PANEL)
    widen(halves.data_ptr(), len(halves), room.data_ptr())
    assert torch.equal(room, halves.float())


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("weights", [as_bfloat16, as_float16])
def test_halves_that_are_no_numbers_stay_broken(weights: Weights, broken: float) -> None:
    weight = weights(PANEL, 1)
    weight[3, 5] = broken
    assert not PanelLinear(weight)(torch.ones(1, BLOCK)).isfinite().all()


@pytest.mark.parametrize("weights", [as_bfloat16, as_float16])
@pytest.mark.parametrize("inputs", [7, BLOCK + 7])
def test_halves_need_no_whole_block(weights: Weights, inputs: int) -> None:
    weight = weights(5, 2)[:, :inputs]
    layer = PanelLinear(weight)
    assert layer.format == NARROW[weights]
    assert torch.equal(layer(torch.eye(inputs)), weight.T)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, MANY), inputs=SIZES, outputs=SIZES, biased=st.booleans())
def test_a_quantized_layer_is_the_linear_layer_of_its_rounded_weights(
    rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    x, rounded = torch.randn(rows, inputs), rounded_to_bytes(weight)
    torch.testing.assert_close(QuantizedPanelLinear(weight, bias)(x), F.linear(x, rounded, bias), atol=1e-4, rtol=1e-5)


def test_a_quantized_weight_is_off_by_half_a_step_of_its_block_at_most() -> None:
    weight = torch.randn(5, 2 * BLOCK + 3)
    weight[1, :BLOCK] = 0  # a block without a largest
    columns = QuantizedPanelLinear(weight)(torch.eye(weight.shape[1])).T
    for first in range(0, weight.shape[1], BLOCK):
        block = weight[:, first : first + BLOCK]
        step = block.abs().amax(1, keepdim=True) / LARGEST
        assert ((columns[:, first : first + BLOCK] - block).abs() <= step * 0.5001).all()


@pytest.mark.parametrize("weights", [as_q4_1, as_q8_0])
def test_weights_that_were_of_so_few_bits_before_arent_rounded(weights: Weights) -> None:
    weight = weights(PANEL + 1, 3)
    assert torch.equal(QuantizedPanelLinear(weight)(torch.eye(3 * BLOCK)), weight.T)


def rounded_to_bytes(weight: Tensor) -> Tensor:
    steps = (
        torch.cat([part.abs().amax(1, keepdim=True).expand_as(part) for part in weight.split(BLOCK, 1)], 1) / LARGEST
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
