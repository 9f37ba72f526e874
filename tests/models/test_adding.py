import json
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.test_gguf import write_gguf
from tests.models.tiny import TEMPLATE, write_base, write_other
from tunery.bases import BASE_FILE, BaseFile
from tunery.errors import Conflict, InvalidRequest, TuneryError
from tunery.models import adding, loader
from tunery.models.adding import Wanted, add, name_for, remove


def added(source: Path | str, models: Path, name: str = "mine", **wanted: float) -> BaseFile:
    return add(str(source), models, name, Wanted(**wanted), lambda _: None)


def test_a_folder_is_copied_with_what_the_catalog_has_to_know(tmp_path: Path) -> None:
    write_other(tmp_path / "source", "phi")
    (tmp_path / "source" / "modeling.py").write_text("raise SystemExit")
    found = added(tmp_path / "source", tmp_path / "models", learning_rate=1e-3, longest_example=100)
    folder = tmp_path / "models" / "mine"
    assert msgspec.json.decode((folder / BASE_FILE).read_bytes(), type=BaseFile) == found
    assert (found.learning_rate, found.longest_example, found.context_length) == (1e-3, 100, 512)
    assert found.kinds == ("chat", "completion")
    assert not (folder / "modeling.py").exists()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]


def test_links_are_copied_by_content(tmp_path: Path) -> None:
    """As a hub's cache has them."""
    write_base(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    added(tmp_path / "snapshot", tmp_path / "models")
    copies = list((tmp_path / "models" / "mine").iterdir())
    assert (tmp_path / "models" / "mine" / "model.safetensors") in copies
    assert not any(path.is_symlink() for path in copies)


def test_a_gguf_is_converted(tmp_path: Path) -> None:
    write_base(tmp_path / "source", hidden_size=64, intermediate_size=96, head_dim=16)
    write_gguf(tmp_path / "model.gguf", tmp_path / "source", template=TEMPLATE.read_text())
    assert added(tmp_path / "model.gguf", tmp_path / "models").kinds == ("chat", "completion")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]
    assert loader.load(tmp_path / "models" / "mine").config.num_hidden_layers == 2


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"none")
    with pytest.raises(InvalidRequest, match="isn't a readable GGUF"):
        added(tmp_path / "model.gguf", tmp_path / "models")


def test_without_a_chat_template_it_is_for_completions(tmp_path: Path) -> None:
    write_base(tmp_path / "source")
    (tmp_path / "source" / "chat_template.jinja").unlink()
    assert added(tmp_path / "source", tmp_path / "models").kinds == ("completion",)


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: torch.full_like(t, torch.nan) for name, t in load_file(path).items()}, path)


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def shrink(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:100].clone()
    save_file(tensors, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))


def break_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (break_config, r"source: config\.json isn't JSON"),
        (break_weights, "isn't finite"),
        (break_tokenizer, r"source: no tokenizer\.json"),
        (shrink, "tokenizer has .* tokens, the weights know 100 only"),
        (break_template, "chat template"),
        (lambda folder: (folder / "config.json").unlink(), r"source: no config\.json"),
    ],
)
def test_what_does_not_run_is_refused_and_leaves_nothing(tmp_path: Path, harm: object, said: str) -> None:
    write_base(tmp_path / "source")
    harm(tmp_path / "source")  # type: ignore[operator]
    with pytest.raises(InvalidRequest, match=said):
        added(tmp_path / "source", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_hub_s_name_says_to_download_first(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="download the model first"):
        added("HuggingFaceTB/SmolLM2-360M", tmp_path / "models")


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", ".hidden", "Upper", "", "x" * 65, "a.ft-b", "a\n", "-a"])
def test_a_name_is_a_plain_folder_s(tmp_path: Path, name: str) -> None:
    write_base(tmp_path / "source")
    with pytest.raises(InvalidRequest, match="can't be a base model's name"):
        added(tmp_path / "source", tmp_path / "models", name)
    with pytest.raises(InvalidRequest):
        remove(tmp_path, name)
    assert (tmp_path / "source" / "config.json").exists()


def test_a_name_is_made_from_the_source_s() -> None:
    assert name_for(Path("/x/Qwen2.5-0.5B Instruct/")) == "qwen2.5-0.5b-instruct"
    assert name_for(Path("Llama-3.Q4.gguf")) == "llama-3.q4"


def test_more_tokens_than_the_model_reads_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "source")
    for field in ("context_length", "longest_example"):
        with pytest.raises(InvalidRequest, match="512 tokens at most"):
            added(tmp_path / "source", tmp_path / "models", **{field: 513})


def test_a_taken_name_is_refused_until_it_is_removed(tmp_path: Path) -> None:
    write_base(tmp_path / "source")
    added(tmp_path / "source", tmp_path / "models")
    with pytest.raises(Conflict, match="already"):
        added(tmp_path / "source", tmp_path / "models")
    remove(tmp_path / "models", "mine")
    assert list((tmp_path / "models").iterdir()) == []
    added(tmp_path / "source", tmp_path / "models")


def test_what_was_not_added_is_not_removed(tmp_path: Path) -> None:
    write_base(tmp_path / "models" / "bundled")
    with pytest.raises(InvalidRequest, match="no base model 'bundled' that was added"):
        remove(tmp_path / "models", "bundled")
    assert (tmp_path / "models" / "bundled" / "config.json").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path / "source")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adding.shutil, "copyfile", full)
    with pytest.raises((OSError, TuneryError)):
        added(tmp_path / "source", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
