from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.models.tiny import write_base

BUNDLED = Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """What a test draws doesn't depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    write_base(folder)
    return folder


@pytest.fixture
def bundled() -> Path:
    """The real base; only for tests marked `model`."""
    assert BUNDLED.exists(), "fetch it with `make setup`"
    return BUNDLED
