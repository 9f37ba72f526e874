"""Tunery's own training loop, a step at a time: python tunery_steps.py WORK.json"""

import sys
import tempfile
from pathlib import Path

import msgspec
import torch
from steps import Turn

from tunery.messages import Failed, Stepped, TrainingOrder
from tunery.training.loop import train


def main() -> None:
    turn = Turn()
    work = msgspec.json.decode(Path(sys.argv[1]).read_bytes())
    order = msgspec.convert(work["order"], TrainingOrder)
    torch.set_num_threads(order.threads)
    with tempfile.TemporaryDirectory() as folder:
        reports = train(msgspec.structs.replace(order, directory=folder), lambda: False)
        turn_begun = False
        for report in reports:
            if isinstance(report, Failed):
                raise SystemExit(report.message)
            if isinstance(report, Stepped):
                turn.done(report.metrics.train_loss)
            elif not turn_begun:
                turn.ready()
                turn_begun = True


main()
