import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.tiny import write_base
from tunery.errors import InvalidRequest
from tunery.models.decoder import attend_causally
from tunery.models.loader import load
from tunery.models.tokenizer import Tokenizer


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    write_base(folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(model_type="mamba"), "architecture 'mamba' can't be used"),
        (lambda c: c.update(sliding_window=64), "'llama' can't be used.*sliding window that it doesn't hand on"),
        (lambda c: c.update(rope_parameters={"rope_type": "dynamic"}), "'llama' can't be used.*'dynamic'"),
        (lambda c: c.update(num_hidden_layers=3), "lack model.layers.2.input_layernorm.weight"),
        (lambda c: c.update(vocab_size=999), "embedding's shape"),
        (lambda c: c.pop("hidden_size"), "lacks hidden_size"),
    ],
)
def test_what_it_cannot_run_is_refused_by_name(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        load(changed(tmp_path / "base", change))


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    write_base(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return canary.touch, ()

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.embed_tokens.weight": "pytorch_model.bin"}})
    )
    with pytest.raises(InvalidRequest, match=r"pytorch_model.bin isn't readable safetensors"):
        load(tmp_path)
    assert not canary.exists()


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    write_base(tmp_path / "theirs")
    write_base(tmp_path / "other")
    for name in ("model.safetensors",):
        (tmp_path / "theirs" / name).unlink()
    index = {"weight_map": {"model.embed_tokens.weight": "../other/model.safetensors"}}
    (tmp_path / "theirs" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidRequest):
        load(tmp_path / "theirs")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"no config\.json"):
        load(tmp_path)


def test_a_streamed_model_says_the_same_and_keeps_no_layer(tmp_path: Path) -> None:
    write_base(tmp_path)
    kept, streamed = load(tmp_path), load(tmp_path, streamed=True)
    ids = torch.arange(5, 15)
    said = [model.logits(model.hidden(ids, torch.arange(len(ids)), attend_causally)) for model in (kept, streamed)]
    assert torch.equal(*said)
    assert len(streamed.layers) == len(kept.layers)
    assert streamed.layers[0] is not streamed.layers[0]
    assert torch.equal(streamed.layers[-1].ffn_norm, kept.layers[-1].ffn_norm)


def test_device_and_dtype_are_the_callers(tmp_path: Path) -> None:
    write_base(tmp_path)
    decoder = load(tmp_path, "cpu", torch.float64)
    assert (decoder.device, decoder.dtype) == (torch.device("cpu"), torch.float64)


def test_mkl_looks_at_the_processor_while_one_thread_computes(tmp_path: Path) -> None:
    """Before any tensor of more than one number is computed with; two threads at once get functions of low accuracy."""
    write_base(tmp_path)
    sizes = []

    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten.exp.default, torch.ops.aten.cos.default, torch.ops.aten.log.default):
                sizes.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    with Watching():  # type: ignore[no-untyped-call]
        decoder = load(tmp_path)
        decoder.hidden(torch.arange(5), torch.arange(5), attend_causally)
    assert sizes[0] == 1
    assert len(sizes) > 1


def test_a_base_that_is_not_there_at_all_says_how_to_get_it(tmp_path: Path) -> None:
    for find in (load, Tokenizer.load):
        with pytest.raises(InvalidRequest, match="tunery models fetch"):
            find(tmp_path / "smollm2")
