"""results.csv as the three charts of the guide: loss, mean token accuracy, token accuracy."""

import csv
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot

CHARTS = (
    ("Loss", "train_loss", "valid_loss", "full_valid_loss"),
    (
        "Mean token accuracy",
        "train_mean_token_accuracy",
        "validation_mean_token_accuracy",
        "full_valid_mean_token_accuracy",
    ),
    ("Token accuracy (whole answers)", "training_accuracy", "valid_accuracy", None),
)


def plot(results: Path, picture: Path) -> None:
    """Training and validation on one chart each; what is blank in the file isn't drawn."""
    with results.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for axis, (title, training, validation, full) in zip(axes, CHARTS, strict=True):
        for name, label, style in (
            (training, "training batch", {"linewidth": 1.4}),
            (validation, "validation batch", {"linewidth": 1.0, "alpha": 0.6}),
            (full, "full validation", {"linestyle": "none", "marker": "o"}),
        ):
            points = [(int(row["step"]), float(row[name])) for row in rows if name and row[name]]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, **style)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
