"""The colours of charts, measured: against their ground (WCAG 2.2, 1.4.11) and for eyes that lack a cone."""

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

Colours = dict[str, NDArray[np.float64]]
# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "no red": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "no green": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def colours(look: str) -> Colours:
    """Of look.css, as linear RGB."""
    css = files("tunery.studio").joinpath("look.css").read_text("utf-8")
    block = re.search(rf"{re.escape(look)} {{(.*?)}}", css, re.DOTALL)
    assert block is not None
    return {name: linear(value) for name, value in re.findall(r"--([\w-]+): #([0-9a-f]{6})", block[1])}


def linear(value: str) -> NDArray[np.float64]:
    rgb = np.frombuffer(bytes.fromhex(value), np.uint8) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z = np.cbrt(np.clip(TO_XYZ @ rgb, 1e-4, None) / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("look", [":root", "body.body--dark"])
def test_lines_stand_out_from_their_ground(look: str) -> None:
    found = colours(look)
    luminance = {name: float(TO_XYZ[1] @ rgb) for name, rgb in found.items()}
    for number in range(1, 7):
        low, high = sorted((luminance[f"series-{number}"], luminance["surface"]))
        assert (high + 0.05) / (low + 0.05) > 3, number


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("look", [":root", "body.body--dark"])
def test_lines_can_be_told_apart_by_eyes_that_lack_a_cone(look: str, sight: str) -> None:
    found = colours(look)
    seen = {n: lab(np.clip(SIGHT[sight] @ found[f"series-{n}"], 0, 1)) for n in range(1, 7)}
    for one, other in combinations(seen, 2):
        # 2.3 is just noticeable; training and validation have 1 and 2.
        least = 40 if (one, other) == (1, 2) else 12
        assert np.linalg.norm(seen[one] - seen[other]) > least, (one, other)
