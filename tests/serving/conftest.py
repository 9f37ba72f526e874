from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.models.tiny import write_base
from tests.serving.given import base_in, write_adapter
from tunery.bases import BaseModel
from tunery.messages import Adapter
from tunery.models import probe
from tunery.models.decoder import Decoder
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.serving.compiled import kernels_for, linear_for
from tunery.serving.engine import Engine

BUNDLED = Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, kernels = torch.get_num_threads(), kernels_for("cpu", torch.float32)
    torch.set_num_threads(1)
    if kernels:
        kernels.use_threads(1)
    yield
    torch.set_num_threads(threads)
    if kernels:
        kernels.use_threads(threads)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """What a test draws doesn't depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    """A tiny base's folder and transformers' model of it; not to be changed."""
    folder = tmp_path_factory.mktemp("serving") / "tiny"
    return folder, write_base(folder)


@pytest.fixture(scope="session")
def base(reference: tuple[Path, PreTrainedModel]) -> BaseModel:
    return base_in(reference[0])


@pytest.fixture(scope="session")
def decoder(base: BaseModel) -> Decoder:
    return load(base.directory, linear=linear_for("cpu"))


@pytest.fixture(scope="session")
def tokenizer(base: BaseModel) -> Tokenizer:
    return Tokenizer.load(base.directory)


@pytest.fixture(scope="session")
def adapters(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(folder / str(seed), decoder.config, seed=seed, rank=2 + seed) for seed in range(3)]


@pytest.fixture
def engine(base: BaseModel, decoder: Decoder, tokenizer: Tokenizer) -> Engine:
    return Engine(base, decoder, tokenizer)


@pytest.fixture(scope="session")
def bundled() -> BaseModel:
    """The real base; only for tests marked `model`."""
    assert BUNDLED.exists(), "fetch it with `make setup`"
    return base_in(BUNDLED, name="smollm2", context_length=8192)


@pytest.fixture
def probed(decoder: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> Adapter:
    adapter = write_adapter(tmp_path / "probed", decoder.config, seed=4)
    lora = Lora.load(adapter.directory, decoder.config)
    probe.measure(decoder, lora, tokenizer.encode("The quick brown fox")).write(tmp_path / "probed")
    return adapter
