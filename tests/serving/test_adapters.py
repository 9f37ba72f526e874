from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.serving.given import new_adapter, write_adapter
from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.messages import Adapter
from tunery.models.decoder import Decoder, DecoderConfig
from tunery.models.lora import Lora
from tunery.serving.adapters import AdapterStore, CompiledAdapter, DenseAdapter, ServedAdapter, batch_lora, served
from tunery.serving.compiled import kernels_for


def new_store(decoder: Decoder, max_bytes: int = 1 << 30) -> AdapterStore[ServedAdapter]:
    return AdapterStore(loading(decoder.config), max_bytes=max_bytes)


def loading(config: DecoderConfig) -> Callable[[Adapter], ServedAdapter]:
    return partial(served, config=config, device=torch.device("cpu"), dtype=torch.float32)


def size(decoder: Decoder, adapter: Adapter) -> int:
    return loading(decoder.config)(adapter).nbytes


@pytest.mark.parametrize("compiled", [True, False])
def test_each_span_of_a_batch_gets_its_own_adapter(decoder: Decoder, adapters: list[Adapter], compiled: bool) -> None:
    loras = [Lora.load(adapter.directory, decoder.config) for adapter in adapters]
    loras[1] = new_adapter(decoder.config, seed=9, rank=3)  # whose numbers are no float16
    kernels = kernels_for("cpu", torch.float32) if compiled else None
    spans = [(0, 0, 2), (2, 3, 7), (1, 7, 27), (0, 29, 30)]
    layout = decoder.config.layout
    known = [CompiledAdapter(lora, kernels) if kernels else DenseAdapter(lora) for lora in loras]
    batch = batch_lora(layout, [(known[of], start, end) for of, start, end in spans], kernels)
    for group, members in layout.groups.items():
        x = torch.randn(32, layout.features[members[0]][0])
        y = torch.randn(32, sum(layout.features[member][1] for member in members))
        expected = y.clone()
        for of, start, end in spans:
            expected[start:end] = loras[of].add(1, group, x[start:end], y[start:end].clone())
        torch.testing.assert_close(batch.add(1, group, x, y.clone()), expected, atol=1e-5, rtol=1e-5)


def test_a_compiled_adapter_takes_half_the_memory_where_that_keeps_every_bit(decoder: Decoder) -> None:
    exact = new_adapter(decoder.config, seed=1, rank=4)
    kernels = kernels_for("cpu", torch.float32)
    assert kernels
    whole = CompiledAdapter(exact, kernels).nbytes
    with exact.as_written():
        assert CompiledAdapter(exact, kernels).nbytes == whole / 2


def test_the_least_recently_used_goes_first(decoder: Decoder, adapters: list[Adapter]) -> None:
    sizes = [size(decoder, adapter) for adapter in adapters]
    store = new_store(decoder, sum(sizes) - 1)
    first, second, third = adapters
    for adapter in (first, second, first, third):
        store.get(adapter)
    assert store.digests == [first.digest, third.digest]
    assert store.nbytes <= sum(sizes) - 1


def test_an_adapter_in_use_stays(decoder: Decoder, adapters: list[Adapter]) -> None:
    store = new_store(decoder, 1)
    first, second, third = adapters
    store.get(first)
    store.pin(first)
    assert store.fits(first)
    store.get(second)
    assert not store.fits(second)
    store.get(third)
    assert store.digests == [first.digest, third.digest]
    store.unpin(first)
    assert store.fits(third)
    store.get(second)
    assert store.digests == [second.digest]


def test_what_went_is_loaded_again(decoder: Decoder, adapters: list[Adapter]) -> None:
    store = new_store(decoder, 1)
    before = store.get(adapters[0])
    store.get(adapters[1])
    assert store.digests == [adapters[1].digest]
    assert store.get(adapters[0]) is not before


def test_a_changed_file_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", decoder.config, seed=1)
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(EngineUnavailable, match="digest"):
        new_store(decoder).get(adapter)


def test_numbers_that_are_not_finite_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", decoder.config, seed=1, strength=float("nan"))
    with pytest.raises(EngineUnavailable, match="finite"):
        new_store(decoder).get(adapter)


def test_an_adapter_of_another_base_is_refused(decoder: Decoder, adapters: list[Adapter]) -> None:
    other = replace(decoder.config, num_hidden_layers=1)
    store = AdapterStore(loading(other), max_bytes=1 << 30)
    with pytest.raises(InvalidRequest):
        store.get(adapters[0])
