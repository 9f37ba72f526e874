"""The demo's own data and plot; the journey itself runs in tests/journeys and by `make demo`."""

import io
from pathlib import Path

from tests.fake_training import metrics
from tunery import examples
from tunery.demo.plot import plot
from tunery.results import results_csv
from tunery.sample import HELD_OUT, TRAINING, VALIDATION, generate, jsonl


def test_nothing_that_is_asked_was_trained_on() -> None:
    split = generate()
    assert tuple(map(len, split)) == (TRAINING, VALIDATION, HELD_OUT)
    questions = [{example.question for example in part} for part in split]
    assert not questions[0] & questions[1]
    assert not (questions[0] | questions[1]) & questions[2]


def test_the_same_seed_gives_the_same_examples() -> None:
    assert generate(3) == generate(3)
    assert generate(3) != generate(4)


def test_the_demo_s_files_pass_the_checker_without_a_warning() -> None:
    findings: list[examples.Finding] = []
    summary = examples.check(io.BytesIO(jsonl(generate().training)), on_finding=findings.append)
    assert (summary.format, summary.examples, findings) == ("chat", TRAINING, [])


def test_a_results_file_becomes_a_picture(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_bytes(results_csv(metrics(step) for step in range(1, 9)))
    plot(tmp_path / "results.csv", tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
