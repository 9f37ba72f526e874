"""The trainer as a real process: killed, paused, orphaned."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.training.orders import order_in
from tests.waiting import PATIENCE
from tunery.messages import Checkpointed, Finished, Paused, Prepared, Report, TrainingOrder

decode = msgspec.json.Decoder(Report).decode


@contextmanager
def trainer(order: TrainingOrder) -> Iterator[subprocess.Popen[bytes]]:
    path = Path(order.directory) / "order.json"
    path.write_bytes(msgspec.json.encode(order))
    command = [sys.executable, "-m", "tunery.training", str(path)]
    with (
        (Path(order.directory) / "trainer.log").open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def next_report(process: subprocess.Popen[bytes]) -> Report:
    assert process.stdout is not None
    return decode(process.stdout.readline())


def run(order: TrainingOrder) -> list[Report]:
    with trainer(order) as process:
        assert process.stdout is not None
        found = [decode(line) for line in process.stdout]
        assert process.wait() == 0, (Path(order.directory) / "trainer.log").read_text()
    return found


def test_pause_finishes_the_step_and_leaves_a_state_and_a_checkpoint(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny, n_epochs=1000)
    with trainer(order) as process:
        assert isinstance(next_report(process), Prepared)
        assert process.stdin is not None
        process.stdin.write(b"pause\n")
        process.stdin.flush()
        assert process.stdout is not None
        found = [decode(line) for line in process.stdout]
        assert process.wait() == 0
    checkpoint, saved, paused = found[-3:]
    assert isinstance(paused, Paused)
    assert paused.step == found[-4].metrics.step
    assert isinstance(checkpoint, Checkpointed)
    assert not checkpoint.final
    resumed = msgspec.structs.replace(order, resume_from=saved.directory)
    with trainer(resumed) as process:
        assert isinstance(next_report(process), Prepared)
        assert next_report(process).metrics.step == paused.step + 1


def test_a_trainer_whose_worker_is_gone_stops_at_once(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny, n_epochs=100_000)
    with trainer(order) as process:
        assert isinstance(next_report(process), Prepared)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_trainer_dies_with_its_parent_even_if_its_stdin_stays_open(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny, n_epochs=100_000)
    path = Path(order.directory) / "order.json"
    path.write_bytes(msgspec.json.encode(order))
    script = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, '-m', 'tunery.training', {str(path)!r}]\n"
        "child = subprocess.Popen(command, stderr=subprocess.DEVNULL)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert isinstance(decode(parent.stdout.readline()), Prepared)
        parent.kill()
        end = time.monotonic() + PATIENCE
        while parent.stdout.read(1 << 16):  # ends when the trainer, too, has let go of stdout
            assert time.monotonic() < end


def test_only_reports_go_to_stdout_and_the_log_tells_of_errors(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny, training_file=str(tmp_path / "missing.jsonl"))
    found = run(order)
    assert [report.code for report in found] == ["internal_error"]
    assert "missing.jsonl" in (Path(order.directory) / "trainer.log").read_text()


def test_an_order_runs_to_its_end(tmp_path: Path, tiny: Path) -> None:
    assert isinstance(run(order_in(tmp_path, tiny))[-1], Finished)
