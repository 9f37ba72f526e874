"""The documents can't drift: operations, settings and commands are compared with the code."""

import re
from pathlib import Path

import typer.main

from tunery import app, wiring
from tunery.cli import app as command_line
from tunery.serving import commands
from tunery.serving.pool import EnginePool
from tunery.settings import Settings

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) \| (works|not yet) \|")
S, PROVIDER = "/subscriptions/{subscription}", "/providers/Microsoft.CognitiveServices"
SHORT = {"S": S, "P": S + PROVIDER, "A": S + "/resourceGroups/{group}" + PROVIDER + "/accounts/{account}"}
"""What the tables abbreviate."""


def documented() -> dict[tuple[str, str], str]:
    found = {}
    for line in (ROOT / "docs" / "compatibility.md").read_text().splitlines():
        if (row := ROW.match(line)) is not None:
            first, slash, rest = row[2].partition("/")
            found[row[1], SHORT.get(first, first) + slash + rest] = row[3]
    return found


def operations(tmp_path: Path) -> set[tuple[str, str]]:
    rooms = wiring.services(Settings(home=tmp_path, models=tmp_path))
    engines = EnginePool({}.get, tmp_path, commands.embedded(threads=1, device="cpu"), silence_seconds=1)
    paths = app.web(rooms, engines).openapi()["paths"]
    rooms.close()
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def served(tmp_path: Path) -> set[tuple[str, str]]:
    """Without the v1 twins of classic paths."""
    inference = {"/openai/v1/chat/completions", "/openai/v1/completions"}
    return {(m, p) for m, p in operations(tmp_path) if not p.startswith("/openai/v1/") or p in inference}


def test_the_compatibility_table_lists_exactly_the_operations_that_are_served(tmp_path: Path) -> None:
    table = documented()
    works = {operation for operation, state in table.items() if state == "works"}
    assert works == served(tmp_path)
    assert {operation for operation, state in table.items() if state == "not yet"} & served(tmp_path) == set()


def test_v1_has_every_operation_that_classic_has(tmp_path: Path) -> None:
    paths = {path for _, path in operations(tmp_path)}
    classic = {path for path in paths if path.startswith("/openai/") and not path.startswith("/openai/v1/")}
    without = {path for path in classic if path.replace("/openai/", "/openai/v1/", 1) not in paths}
    old = ("/openai/deployments", "/openai/fine-tunes")
    assert without == {path for path in classic if path.startswith(old)}


def test_the_readme_names_every_command_and_every_room_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in typer.main.get_group(command_line).commands:
        assert f"tunery {command}" in readme, command
    for path in (ROOT / "src" / "tunery").iterdir():
        if not path.name.startswith("_") and path.name != "py.typed":
            assert path.name in readme, path.name


def test_no_committed_document_names_a_path_of_a_machine() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"/(root|home|work)/", path.read_text()), path
