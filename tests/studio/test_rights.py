"""Studio can do what the API can, and shows foreign text as text."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import tunery.studio
from tunery import roles

SOURCE = Path(tunery.studio.__file__).parent
OPERATION = re.compile(r"(GET|POST|PUT|PATCH|DELETE|HEAD) /\S*")
MODULES = sorted(SOURCE.rglob("*.py"))
FOREIGN = {"html", "markdown", "add_body_html", "add_head_html", "mermaid", "restructured_text", "chat_message"}
"""Elements of NiceGUI that would take a visitor's text for markup."""


def operations() -> Iterator[str]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and OPERATION.fullmatch(node.value):
                yield node.value


def test_every_operation_that_studio_names_is_one_of_the_api() -> None:
    assert set(operations()) - set(roles.ACTIONS) == set()


def test_pages_use_no_element_that_takes_text_for_markup() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ui":
                assert node.attr not in FOREIGN, f"{path.name}:{node.lineno} ui.{node.attr}"
        assert "v-html" not in path.read_text(), path


def test_pages_reach_rooms_through_the_visitor_alone() -> None:
    """A room's method is handed to `do`, never called: calling it would ask no right and write no audit row."""
    for path in MODULES:
        if path.parent.name != "pages" and path.parent.parent.name != "pages":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                direct = re.fullmatch(r"(\w+\.)*rooms\.(files|uploads|imports|jobs|deployments|estimates)\.\w+", called)
                assert direct is None, f"{path.name}:{node.lineno} {called}"
