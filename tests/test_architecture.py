"""Who may import whom (docs/why.md draws it). Layers import to the right, never back; torch stays in its rooms."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tunery"

LAYERS = [
    {"__main__"},
    {"cli"},
    {"accounts_cli"},
    {"rights_cli"},
    {"demo"},
    {"serve"},
    {"app", "wiring"},
    {"studio"},
    {"api", "worker"},
    {"rooms"},
    {"run"},
    {"tuned"},
    {"deployments", "estimates", "inspection", "idle", "overfitting", "uploads", "results", "imports"},
    {"jobs", "deploying"},
    {"suitability"},
    {"files", "queue"},
    {"authority", "catalog", "access"},
    {"accounts"},
    {"rates", "copies", "groups", "idempotency", "principals", "quotas", "throttle", "tokens", "audit", "issuers"}
    | {"uptime"},
    {"erasure"},
    {"adapters", "keyfiles", "metering", "machine"},
    {"examples", "recipe", "certificates", "roles", "sample"},
    {"store", "address"},
    {"records", "messages", "settings"},
    {"errors", "parent", "options", "bases", "host", "weights"},
]
ENGINES = {"training", "serving", "models"}
ENGINE_MAY_IMPORT = {
    "training": {"bases", "models", "messages", "records", "errors", "examples", "parent", "host"},
    "serving": {"bases", "models", "messages", "records", "errors", "parent", "weights"},
    "models": {"bases", "messages", "records", "errors", "weights"},
}
SEAMS = {
    ("wiring", "tunery.training.local"),
    ("app", "tunery.serving.pool"),
    ("serve", "tunery.serving.pool"),
    ("serve", "tunery.serving.commands"),
    ("cli", "tunery.models.bundled"),
    ("cli", "tunery.models.adding"),
}
"""Where an implementation is plugged in: the wiring, and nothing else, names it."""
TORCH_ROOMS = ENGINES
TORCH_FREE = {"training/local.py", "training/inspection.py", "training/__init__.py", "serving/client.py",
              "serving/commands.py", "serving/pool.py", "serving/wire.py",
              "serving/__init__.py", "models/__init__.py", "models/bundled.py", "models/gguf.py"}  # fmt: skip

MODULES = sorted(path for path in SOURCE.rglob("*.py") if "migrations" not in path.parts)


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{name.name}" for name in node.names]
    return found


def layer(name: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if name in rooms)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        if not name.startswith("tunery."):
            continue
        there = name.split(".")[1]
        if there == here or here == "__init__" or any(here == h and name.startswith(n) for h, n in SEAMS):
            continue
        if here in ENGINES:
            assert there in ENGINE_MAY_IMPORT[here], f"{here} imports {name}"
            continue
        assert there not in ENGINES, f"{here} imports {name}: only the wiring plugs engines in"
        assert layer(here) < layer(there), f"{here} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_is_imported_in_its_rooms_only(path: Path) -> None:
    uses = any(name.split(".")[0] in ("torch", "transformers", "peft", "vllm") for name in imports(path))
    allowed = room(path) in TORCH_ROOMS and str(path.relative_to(SOURCE)) not in TORCH_FREE
    assert allowed or not uses


def test_a_command_starts_without_torch_and_without_web_frameworks() -> None:
    """Each takes longer to import than most commands run."""
    script = "import sys, tunery.cli; print(sorted({'torch', 'nicegui', 'fastapi', 'uvicorn'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded == "[]\n"


def test_the_environment_is_read_in_settings_only() -> None:
    readers = {path.name for path in MODULES if re.search(r"os\.environ|getenv|import environ", path.read_text())}
    assert readers == {"settings.py"}


def test_no_module_is_longer_than_600_lines_and_no_function_than_60() -> None:
    for path in MODULES:
        text = path.read_text()
        assert text.count("\n") <= 600, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}:{node.name}"


def test_nothing_unpickles() -> None:
    for path in MODULES:
        assert not {"pickle", "cloudpickle", "dill", "marshal", "shelve"} & set(imports(path)), path
        assert "torch.load" not in path.read_text(), path
