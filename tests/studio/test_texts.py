"""The catalogue of Studio's texts and the pages that use it."""

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import tunery.studio
from tunery.studio.texts import LANGUAGES, catalogue, negotiated

SOURCE = Path(tunery.studio.__file__).parent
KEY = re.compile(r"[a-z_]+\.[a-z0-9_]+")


def constants() -> Iterator[str]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and KEY.fullmatch(node.value):
                yield node.value


def patterns() -> Iterator[re.Pattern[str]]:
    """Keys that are put together: t(f"models.status_{status}")."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("t", "text_in"):
                yield from (_pattern(one) for one in node.args if isinstance(one, ast.JoinedStr))


def _pattern(text: ast.JoinedStr) -> re.Pattern[str]:
    parts = [re.escape(str(one.value)) if isinstance(one, ast.Constant) else "[a-z0-9_]+" for one in text.values]
    return re.compile("".join(parts))


def asked() -> Iterator[str]:
    """Whole keys that a call of t or text_in names."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("t", "text_in"):
                place = node.args[0 if node.func.id == "t" else 1]
                if isinstance(place, ast.Constant):
                    yield str(place.value)


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_text_that_a_page_asks_for_is_in_the_catalogue() -> None:
    assert set(asked()) - set(catalogue()) == set()
    for pattern in patterns():
        assert any(pattern.fullmatch(key) for key in catalogue()), pattern.pattern


def test_no_text_of_the_catalogue_is_unused() -> None:
    used = set(constants())
    composed = list(patterns())
    unused = {key for key in catalogue() if key not in used and not any(one.fullmatch(key) for one in composed)}
    assert unused == set()


@pytest.mark.parametrize("key", sorted(catalogue()))
def test_a_text_is_there_in_both_languages_with_the_same_placeholders(key: str) -> None:
    texts = catalogue()[key]
    assert set(texts) == set(LANGUAGES)
    assert all(texts[language].strip() for language in LANGUAGES)
    assert fields(texts["en"]) == fields(texts["de"])


@pytest.mark.parametrize(
    ("accepted", "spoken"),
    [
        ("de-DE,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "en"),
        ("fr,de;q=0.5,en;q=0.4", "de"),
        ("de;q=0,en", "en"),
        ("fr", "en"),
        ("", "en"),
        ("*", "en"),
        (";;;q=x,,de-AT", "de"),
    ],
)
def test_the_browser_s_best_language_is_spoken(accepted: str, spoken: str) -> None:
    assert negotiated(accepted, None) == spoken
    assert negotiated(accepted, "de") == "de"
