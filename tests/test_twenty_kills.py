"""One job, a real trainer, twenty times SIGKILL at a random instant: the bytes are those of an undisturbed run."""

import os
import threading
import time
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.fake_training import FakeClock
from tests.models.tiny import write_base
from tests.test_files import keep
from tests.test_queue import add_account
from tests.training.orders import random_lines
from tunery.catalog import BUNDLED, Catalog
from tunery.files import Files
from tunery.imports import Imports
from tunery.jobs import Jobs, NewJob
from tunery.messages import TrainingOrder
from tunery.records import Job, JobStatus
from tunery.run import Bench
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.database import Database
from tunery.training.local import LocalRun, LocalTrainer
from tunery.worker import Worker

KILLS, SAVE_EVERY, MOST_STATES = 20, 2, 5


class KillingTrainer(LocalTrainer):
    """Kills each of its first `kills` processes once it has got further than all before it.

    How much further is counted in states, so that a machine of any speed has the same number of steps left.
    """

    def __init__(self, kills: int, random: Random) -> None:
        self._left = kills
        self._random = random
        self.killed = 0

    def start(self, order: TrainingOrder) -> LocalRun:
        # Of all states on disk: one that was written and not told of isn't gone on from, but written once more.
        further = newest_step(order) + SAVE_EVERY * self._random.randint(1, MOST_STATES)
        run = super().start(order)
        if self._left:
            self._left -= 1
            threading.Thread(target=self._kill, args=(run, order, further), daemon=True).start()
        return run

    def _kill(self, run: LocalRun, order: TrainingOrder, further: int) -> None:
        process = run._process
        while process.poll() is None and newest_step(order) < further:
            time.sleep(0.002)
        # Anywhere: in a step, in a checkpoint, between writing a state and telling of it.
        time.sleep(self._random.uniform(0.0, 0.01))
        if process.poll() is None:
            process.kill()
            self.killed += 1


def newest_step(order: TrainingOrder) -> int:
    """That has a state; 0 where there is none."""
    return max((int(path.name.removeprefix("state-")) for path in Path(order.directory).glob("state-*")), default=0)


class Place:
    """A service's rooms in a folder, with the tiny base in the bundled one's place."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            home=folder / "home", models=folder / "models", training_threads=1, save_every=SAVE_EVERY
        )
        write_base(self.settings.models / BUNDLED)
        self.settings.home.mkdir()
        self.store = Store(Database(self.settings.database_url), FolderBlobs(folder / "blobs"), FakeClock())
        self.store.database.migrate()
        add_account(self.store, 1)
        self.files = Files(self.store, self.settings)
        self.catalog = Catalog(self.store, self.settings.models)
        self.jobs = Jobs(self.store, self.settings, self.catalog, self.files)

    def tune(self, trainer: LocalTrainer) -> Job:
        content = "\n".join(msgspec.json.encode(line).decode() for line in random_lines(160, seed=1)).encode()
        fields = {"n_epochs": 5, "batch_size": 2, "learning_rate_multiplier": 1.0}
        job = self.jobs.create(
            1,
            msgspec.convert(
                {
                    "model": BUNDLED,
                    "training_file": keep(self.files, content).id,
                    "validation_file": keep(self.files, content[: content.index(b"\n", 2000)]).id,
                    "hyperparameters": fields,
                    "seed": 3,
                },
                NewJob,
            ),
        )
        imports = Imports(self.store, self.settings, self.files)
        bench = Bench(self.store, self.settings, self.catalog, self.files, imports, trainer, threading.Event())
        worker = Worker(bench)
        while worker.check_once():
            pass
        assert worker.work_once()
        return self.jobs.get(1, job.id)

    def left(self, job: Job) -> dict[str, bytes]:
        """Every checkpoint's files and results.csv."""
        found = {"results.csv": self.files.content(self.files.get(1, job.result_file or "")).read_bytes()}
        for checkpoint in self.jobs.checkpoints(job, limit=100)[0]:
            folder = Path(self.catalog.adapter(checkpoint.adapter).directory)
            found |= {f"{checkpoint.step}/{path.name}": path.read_bytes() for path in folder.iterdir()}
        return found


@pytest.mark.timeout(900)
def test_a_job_killed_twenty_times_at_random_ends_with_the_same_bytes(tmp_path: Path) -> None:
    quiet, restless = Place(tmp_path / "quiet"), Place(tmp_path / "restless")
    expected = quiet.tune(LocalTrainer())
    assert expected.status == JobStatus.SUCCEEDED, expected.error
    seed = int.from_bytes(os.urandom(4), "big")
    trainer = KillingTrainer(KILLS, Random(seed))
    found = restless.tune(trainer)
    assert found.status == JobStatus.SUCCEEDED, (seed, found.error)
    assert trainer.killed == KILLS, seed
    assert found.trained_tokens == expected.trained_tokens
    assert restless.left(found) == quiet.left(expected), seed
