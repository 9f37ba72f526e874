"""The place that a finding names, cut out of its line."""

import pytest

from tunery.studio.findings import AROUND, Excerpt, excerpt


@pytest.mark.parametrize(
    ("line", "column", "shown"),
    [
        ('{"role": "usr"}', 10, Excerpt('{"role": ', '"usr"', "}")),
        ("{broken}", 2, Excerpt("{", "broken", "}")),
        ("{", 2, Excerpt("{", "␤", "")),
        ("{", 9, Excerpt("{", "␤", "")),
        ("abc", None, Excerpt("", "", "abc")),
        ("x" * 300, None, Excerpt("", "", "x" * 2 * AROUND + "…")),
        (" " * 200 + "é" + " " * 200, 201, Excerpt("…" + " " * AROUND, "é", " " * AROUND + "…")),
    ],
)
def test_the_marked_place_stands_between_what_is_around_it(line: str, column: int | None, shown: Excerpt) -> None:
    assert excerpt(line, column) == shown
