import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.models.tiny import as_written
from tunery.errors import InvalidRequest
from tunery.models.decoder import TARGETS, attend_causally
from tunery.models.loader import load
from tunery.models.lora import CONFIG_FILE, WEIGHTS_FILE, Lora, digest, peft_name


def trained(tiny: Path, seed: int = 1) -> Lora:
    """An adapter whose B isn't zero."""
    adapter = Lora.fresh(load(tiny).config, rank=4, alpha=6.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for stack in adapter.b.values():
        for b in stack:
            b.normal_(std=0.2, generator=generator)
    return as_written(adapter)


def logits_of(tiny: Path, adapter: Lora) -> torch.Tensor:
    decoder, ids = load(tiny), torch.arange(30)
    with torch.inference_mode():
        return decoder.logits(decoder.hidden(ids, torch.arange(30), attend_causally, adapter))


def test_peft_loads_it_and_gives_the_same_logits(tiny: Path, tmp_path: Path) -> None:
    adapter = trained(tiny)
    adapter.save(tmp_path / "adapter", "tiny")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "adapter")
    with torch.inference_mode():
        expected = model(torch.arange(30)[None]).logits[0]
    torch.testing.assert_close(logits_of(tiny, adapter), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_is_written_in_float16_and_trained_on_as_it_was(tiny: Path, tmp_path: Path) -> None:
    adapter = Lora.fresh(load(tiny).config, rank=4, alpha=6.0, seed=1)
    before = [tensor.clone() for tensor in adapter.parameters()]
    adapter.save(tmp_path, "tiny")
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS_FILE).values()} == {torch.float16}
    again = Lora.load(tmp_path, adapter.config)
    with adapter.as_written():
        assert all(map(torch.equal, adapter.parameters(), again.parameters()))
        assert not all(map(torch.equal, adapter.parameters(), before))
    assert all(map(torch.equal, adapter.parameters(), before))


def test_an_adapter_of_pefts_own_loads_with_the_same_logits(tiny: Path, tmp_path: Path) -> None:
    """Even one on some of the layers only, with rank-stabilised scale."""
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_rslora=True, init_lora_weights=False
    )
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), config).eval()
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model(torch.arange(30)[None]).logits[0]
    adapter = Lora.load(tmp_path, load(tiny).config)
    torch.testing.assert_close(logits_of(tiny, adapter), expected, rtol=1e-5, atol=1e-5)


def test_saving_what_was_loaded_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    adapter = trained(tiny)
    adapter.save(tmp_path / "one", "tiny")
    Lora.load(tmp_path / "one", adapter.config).save(tmp_path / "two", "tiny")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_saving_replaces_an_adapter_and_leaves_nothing_else(tiny: Path, tmp_path: Path) -> None:
    trained(tiny, seed=1).save(tmp_path / "adapter", "tiny")
    before = digest(tmp_path / "adapter")
    trained(tiny, seed=2).save(tmp_path / "adapter", "tiny")
    assert digest(tmp_path / "adapter") != before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_fresh_adapter_changes_nothing_and_starts_as_pefts_does(tiny: Path) -> None:
    decoder, ids = load(tiny), torch.arange(30)
    fresh = Lora.fresh(decoder.config, rank=64, alpha=16, seed=5)
    plain = decoder.logits(decoder.hidden(ids, torch.arange(30), attend_causally))
    assert torch.equal(logits_of(tiny, fresh), plain)
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=64, target_modules=list(TARGETS)))
    theirs = peft.base_model.model.model.layers[0].mlp.down_proj.lora_A["default"].weight
    ours = fresh.tensors()[peft_name("model.layers.0.mlp.down_proj", "A")]
    bound = theirs.shape[1] ** -0.5
    assert ours.shape == theirs.shape
    assert ours.abs().max() <= bound
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)


def test_the_seed_decides_every_bit(tiny: Path) -> None:
    config = load(tiny).config
    one, same, other = (Lora.fresh(config, rank=4, alpha=8, seed=s).tensors() for s in (7, 7, 8))
    name = peft_name("model.layers.1.self_attn.k_proj", "A")
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one[name], other[name])


def test_the_digest_is_sha256_over_config_then_weights(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(b"abc")
    (tmp_path / WEIGHTS_FILE).write_bytes(b"def")
    assert digest(tmp_path) == "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": 0}, "rank is 0"),
        ({"r": 8}, r"has shape \(4, \d+\); this base model needs \(8,"),
        ({"r": "x"}, "can't be read"),
    ],
)
def test_what_would_mean_something_else_is_refused(tiny: Path, tmp_path: Path, change: Any, said: str) -> None:
    adapter = trained(tiny)
    adapter.save(tmp_path, "tiny")
    config = json.loads((tmp_path / CONFIG_FILE).read_text()) | change
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(InvalidRequest, match=said):
        Lora.load(tmp_path, adapter.config)


def test_a_tensor_of_another_layer_kind_is_refused(tiny: Path, tmp_path: Path) -> None:
    adapter = trained(tiny)
    adapter.save(tmp_path, "tiny")
    tensors = load_file(tmp_path / WEIGHTS_FILE) | {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 48)}
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(InvalidRequest, match="lm_head"):
        Lora.load(tmp_path, adapter.config)


def test_damaged_or_pickled_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    adapter = trained(tiny)
    adapter.save(tmp_path, "tiny")
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidRequest, match="damaged"):
        Lora.load(tmp_path, adapter.config)
    (tmp_path / WEIGHTS_FILE).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(InvalidRequest, match="may run code"):
        Lora.load(tmp_path, adapter.config)
