"""Draws prefix-tree.svg: four examples as a padded batch, and as the tree that training/batches.py makes of them.

python docs/pictures/prefix_tree.py
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

from tunery.training.batches import Example, Tree, tree_of

SYSTEM = ["You", "name", "the", "intent."]
LINES = [
    ([*SYSTEM, "My", "card", "is", "lost", "now"], ["lost", "card"]),
    ([*SYSTEM, "My", "card", "was", "eaten"], ["eaten", "card"]),
    ([*SYSTEM, "Where", "is", "my", "money", "?"], ["pending"]),
    ([*SYSTEM, "Where", "is", "it", "?"], ["arrival"]),
]
WORDS = sorted({word for prompt, answer in LINES for word in (*prompt, *answer)})
COMPUTED, AGAIN, PADDED, TRAINED, INK = "#7fb3d9", "#c9dcec", "#ececec", "#f2a65a", "#1f2a36"
LEGEND = {
    COMPUTED: "computed",
    AGAIN: "computed again",
    PADDED: "padding",
    TRAINED: "trained: bears loss",
    "none": "predicted, not computed",
}


def main() -> None:
    mpl.rcParams |= {"svg.hashsalt": "tunery", "svg.fonttype": "none", "font.family": "sans-serif"}
    examples = [_example(line, prompt, answer) for line, (prompt, answer) in enumerate(LINES)]
    tree = tree_of(examples)
    figure, (above, below) = plt.subplots(2, 1, figsize=(10.5, 6.2), facecolor="white")
    padded = _draw_padded(above, examples)
    above.set_title(f"A padded batch: {padded} token positions", loc="left", color=INK)
    _draw_tree(below, tree)
    below.set_title(f"The tree: {len(tree)} token positions, the same losses and gradients", loc="left", color=INK)
    marks = [Patch(facecolor=c, edgecolor=TRAINED if c == "none" else c, label=text) for c, text in LEGEND.items()]
    figure.legend(handles=marks, loc="lower center", ncols=len(marks), frameon=False, fontsize=9)
    for axes in (above, below):
        axes.set_xlim(-0.2, 11)
        axes.axis("off")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(Path(__file__).with_name("prefix-tree.svg"), metadata={"Date": None})


def _example(line: int, prompt: list[str], answer: list[str]) -> Example:
    ids = np.array([WORDS.index(word) for word in (*prompt, *answer)])
    return Example(line, ids, np.arange(len(ids)) >= len(prompt))


def _draw_padded(axes: Axes, examples: list[Example]) -> int:
    longest = max(len(example.ids) for example in examples)
    for row, example in enumerate(examples):
        for place in range(longest):
            if place >= len(example.ids):
                _box(axes, place, -row, "", PADDED)
                continue
            computed_before = row > 0 and any(
                np.array_equal(other.ids[: place + 1], example.ids[: place + 1]) for other in examples[:row]
            )
            word = WORDS[example.ids[place]]
            _box(axes, place, -row, word, TRAINED if example.trained[place] else AGAIN if computed_before else COMPUTED)
    axes.set_ylim(-len(examples) + 0.4, 0.6)
    return longest * len(examples)


def _draw_tree(axes: Axes, tree: Tree) -> None:
    """A node stands in the row of the first leaf below it, at its depth; what it has to predict stands after it."""
    parents = tree.parents
    leaves = [node for node in range(len(tree)) if node not in parents]
    rows = [next(row for row, leaf in enumerate(leaves) if node <= leaf < tree.ends[node]) for node in range(len(tree))]
    trained = {(int(node), int(target)) for node, target in zip(tree.edge_nodes, tree.edge_targets, strict=True)}
    for node, (depth, row, parent) in enumerate(zip(tree.depths, rows, parents, strict=True)):
        if parent >= 0 and rows[parent] != row:
            start, end = (depth - 0.08, -rows[parent] - 0.02), (depth + 0.02, -row)
            axes.annotate("", end, start, arrowprops={"arrowstyle": "-", "color": INK, "lw": 1})
        taught = (int(parent), int(tree.token_ids[node])) in trained
        _box(axes, depth, -row, WORDS[tree.token_ids[node]], TRAINED if taught else COMPUTED)
    for node, target in sorted(trained):
        if not any(parents[child] == node and tree.token_ids[child] == target for child in range(len(tree))):
            _box(axes, tree.depths[node] + 1, -rows[node], WORDS[target], "none")
    axes.set_ylim(-len(leaves) + 0.4, 0.6)


def _box(axes: Axes, column: float, row: float, word: str, colour: str) -> None:
    edge = TRAINED if colour == "none" else "none"
    axes.add_patch(
        FancyBboxPatch(
            (column + 0.04, row - 0.3), 0.88, 0.6, "round,pad=0,rounding_size=0.1", facecolor=colour, edgecolor=edge
        )
    )
    axes.text(column + 0.48, row, word, ha="center", va="center", fontsize=9, color=INK)


if __name__ == "__main__":
    main()
