"""The trainer as a process: one order in, reports out as JSON lines, `pause` and the parent's death in by stdin.

Knows no training: what happens is `loop.train`'s business, what it means is the worker's.
"""

import ctypes
import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch

from tunery import parent
from tunery.errors import TuneryError
from tunery.messages import Failed, Planned, PlanOrder, Report, TrainingOrder
from tunery.training.loop import train
from tunery.training.question import answered

_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Runs the order in the file that is the only argument. The worker's end of stdin is its life line.

    With --estimate in its place, answers the `PlanOrder` on stdin with one line and trains nothing.
    """
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tunery.training ORDER.json | --estimate\n")
        return 2
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    _die_with_parent()
    output = _only_reports_on_stdout()
    if arguments[0] == "--estimate":
        output.write(msgspec.json.encode(_planned(sys.stdin.buffer.read())))
        output.close()
        return 0
    pausing = threading.Event()
    # at once: the worker is gone, nobody may train on, and nothing half-written counts
    parent.follow(lambda: os._exit(1), on_line=lambda line: pausing.set() if line.strip() == b"pause" else None)
    order = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=TrainingOrder)
    torch.set_num_threads(order.threads)
    encode = msgspec.json.Encoder().encode
    for report in settled(order, pausing.is_set):
        output.write(encode(report) + b"\n")
        output.flush()
    return 0


def _planned(asked: bytes) -> Planned | Failed:
    try:
        question = msgspec.json.decode(asked, type=PlanOrder)
        torch.set_num_threads(question.order.threads)
        return answered(question)
    except Exception as error:  # the outermost place here, too
        traceback.print_exc()
        return failure(error)


def settled(order: TrainingOrder, pause_wanted: Callable[[], bool]) -> Iterator[Report]:
    """`train`'s reports; whatever goes wrong becomes a last report."""
    try:
        yield from train(order, pause_wanted)
    except Exception as error:  # the outermost place: nobody above could tell the worker
        traceback.print_exc()
        yield failure(error)


def failure(error: Exception) -> Failed:
    """What went wrong, and what its user can change."""
    if isinstance(error, TuneryError):
        return Failed(code=error.code, message=error.message, param=error.param)
    if _is_out_of_memory(error):
        return Failed(
            code="out_of_memory",
            message="There wasn't enough memory for this training. Take a smaller batch_size, shorten the longest "
            "examples, or run fewer jobs and deployments at the same time. Earlier checkpoints can be used.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failed(
            code="disk_full",
            message="The disk is full, so the training could not keep its state. Free some space and start the job "
            "again. Earlier checkpoints can be used.",
        )
    return Failed(code="internal_error", message=f"The trainer stopped on an error of its own: {error!r}.")


def _is_out_of_memory(error: Exception) -> bool:
    """torch says it of the CPU in a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _only_reports_on_stdout() -> BinaryIO:
    """A stream to the worker; whatever else in this process prints goes to the log."""
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return reports


def _die_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the worker to answer
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
