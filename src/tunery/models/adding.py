"""Takes a base model of the user's own into the models folder: copied or converted, tried, and only then there.

Knows no database and no names but the new one's; what the catalog has to know lies in tunery.json beside config.json.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import msgspec
import torch

from tunery.bases import BASE_FILE, BASE_NAME, BaseFile
from tunery.errors import Conflict, InvalidRequest
from tunery.models import gguf, loader
from tunery.models.decoder import Model, attend_causally
from tunery.models.folders import written
from tunery.models.tokenizer import Tokenizer

_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "*.safetensors",
    "LICENSE*",
)
LEARNING_RATE = 2e-4
"""QLoRA's for 7B and 13B (arXiv 2305.14314, table 9); small models bear more."""
CONTEXT_LENGTH = 8192
LONGEST_EXAMPLE = 4096
_CHAT = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"})


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for; None: ours to choose."""

    learning_rate: float | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    context_length: int | None = None
    longest_example: int | None = None


def name_for(path: Path) -> str:
    """A valid name out of a file's or folder's own."""
    stem = path.stem if path.suffix == ".gguf" else path.resolve().name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).lstrip("._-").replace(".ft-", "-ft-")


def add(source: str, models: Path, name: str, wanted: Wanted, say: Callable[[str], None]) -> BaseFile:
    """`models`/`name` appears complete or not at all.

    Raises InvalidRequest, saying why, for a model that can't be trained and served; Conflict if the name is taken.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise InvalidRequest(
            f"There is no file or folder {source}. Names on a model hub aren't looked up: download the model first "
            "(config.json, *.safetensors, tokenizer.json and so on in one folder), then add that folder."
        )
    if not re.fullmatch(BASE_NAME, name) or ".ft-" in name:
        raise InvalidRequest(
            f"'{name}' can't be a base model's name: lower-case letters, digits, '.', '_' and '-', at most 64, not "
            "'.ft-'. Choose another one with --name."
        )
    directory = models / name
    if directory.exists():
        raise Conflict(f"There is a base model '{name}' already: {directory}. Remove it first, or choose another name.")
    with written(directory) as folder:
        say(f"{'Converting' if path.is_file() else 'Copying'} {path}")
        try:
            gguf.convert(path, folder) if path.is_file() else _copy(path, folder)
            say("Trying it: weights, tokenizer, one pass")
            found = _tried(folder, wanted)
        except InvalidRequest as error:
            raise InvalidRequest(error.message.replace(f"{folder.name}:", f"{path.name}:")) from error
        (folder / BASE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return found


def remove(models: Path, name: str) -> None:
    """Raises InvalidRequest for what `add` didn't put there."""
    directory = models / name
    if not re.fullmatch(BASE_NAME, name) or not (directory / BASE_FILE).is_file():
        raise InvalidRequest(f"There is no base model '{name}' that was added with tunery models add in {models}.")
    gone = Path(mkdtemp(prefix=f".{name}-", dir=models))
    directory.rename(gone)  # rename(2) takes over an empty folder; nobody finds half a model
    shutil.rmtree(gone)


def _copy(source: Path, folder: Path) -> None:
    """The files that we read, by content: a hub's cache consists of links."""
    for pattern in _COPIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    if not (folder / "config.json").exists():
        raise InvalidRequest(f"{source.name}: no config.json. A model is a folder in Hugging Face's layout, or a GGUF.")


def _tried(folder: Path, wanted: Wanted) -> BaseFile:
    tokenizer = Tokenizer.load(folder)
    model = loader.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InvalidRequest(
            f"The tokenizer has {tokenizer.vocab_size} tokens, the weights know {model.config.vocab_size} only."
        )
    if tokenizer.has_chat_template:
        tokenizer.chat_segments(_CHAT, None)
    _run(model, tokenizer)
    longest = model.config.max_position_embeddings
    context = _within(wanted.context_length, CONTEXT_LENGTH, longest, "context length")
    return BaseFile(
        learning_rate=wanted.learning_rate or LEARNING_RATE,
        lora_rank=wanted.lora_rank or 16,
        lora_alpha=wanted.lora_alpha or 2.0 * (wanted.lora_rank or 16),
        context_length=context,
        longest_example=_within(wanted.longest_example, LONGEST_EXAMPLE, longest, "longest example"),
        kinds=("chat", "completion") if tokenizer.has_chat_template else ("completion",),
    )


def _within(wanted: int | None, usual: int, longest: int, what: str) -> int:
    if wanted is not None and wanted > longest:
        raise InvalidRequest(f"This model reads {longest} tokens at most; the {what} can't be {wanted}.")
    return wanted or min(usual, longest)


def _run(model: Model, tokenizer: Tokenizer) -> None:
    ids = torch.tensor(tokenizer.encode("The quick brown fox") or [tokenizer.text_end_id])
    with torch.inference_mode():
        logits = model.logits(model.hidden(ids, torch.arange(len(ids)), attend_causally))
    if not logits.isfinite().all():
        raise InvalidRequest("The model's output isn't finite: its weights are damaged.")
