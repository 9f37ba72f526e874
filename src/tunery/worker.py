"""Claim a job, run it, settle it; check and fetch files beside it. Never answers HTTP, never imports torch."""

import logging
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa

from tunery import queue, quotas
from tunery.errors import TuneryError
from tunery.files import Outcome
from tunery.imports import Claim, Fetch, fail_import
from tunery.queue import Lease, LeaseLost
from tunery.records import TERMINAL, FileStatus
from tunery.run import Bench, JobRun, Stopping, fail
from tunery.store.tables import jobs

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.3


class Worker:
    """One job at a time; beside it one file check at a time, and fetches in slots of their own."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._store = bench.store
        self._settings = bench.settings
        self._files = bench.files
        self._imports = bench.imports
        self._stopping = bench.stopping
        # A boot id: a worker restarted under the same name is another worker.
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def run(self) -> None:
        """Work until `stop`."""
        self.sweep()
        beside = [
            threading.Thread(target=self._rounds, args=(self.check_once,), name="checker"),
            threading.Thread(target=self._fetch_files, name="importer"),
        ]
        for thread in beside:
            thread.start()
        self._rounds(self.work_once)
        for thread in beside:
            thread.join()

    def stop(self) -> None:
        self._stopping.set()

    def work_once(self) -> bool:
        """Claim and settle one job; False if there was none."""
        with self._store.database.read() as connection:
            exceptions = quotas.running_limits(connection, self._settings)
        claimed = queue.claim(
            self._store,
            owner=self.owner,
            lease_seconds=self._settings.lease_seconds,
            max_running=self._settings.max_running_jobs,
            exceptions=exceptions,
        )
        if claimed is None:
            return False
        job, lease = claimed
        logger.info("job %s claimed with token %d", job.id, lease.token)
        folder = self._settings.home / "work" / job.id
        try:
            JobRun(self._bench, job, lease, folder / str(lease.token)).train()
        except LeaseLost:
            logger.info("job %s is no longer ours", job.id)
        except TuneryError as error:
            self._fail(lease, code=error.code, message=error.message, param=error.param)
        except Stopping:
            queue.give_back(self._store, lease)
            return True
        except Exception as error:
            logger.exception("job %s", job.id)
            self._fail(lease, code="internal_error", message=f"The worker failed: {error}", param=None)
        self._sweep(job.id, folder)
        return True

    def check_once(self) -> bool:
        """Check and settle one uploaded file; False if none waits."""
        claim = self._files.claim_check(lease_seconds=self._settings.lease_seconds)
        if claim is None:
            return False
        try:
            outcome = self._files.check(claim)
        except FileNotFoundError:
            return True  # deleted while it was being read
        except Exception as error:
            logger.exception("check of %s", claim.file.id)
            message = error.message if isinstance(error, TuneryError) else f"The file could not be checked: {error}"
            outcome = Outcome(status=FileStatus.ERROR, status_details=message)
        self._files.settle_check(claim, outcome)
        return True

    def _rounds(self, work: Callable[[], bool]) -> None:
        """One after another, with a rest where there was nothing to do or the database was busy for too long."""
        while not self._stopping.is_set():
            try:
                found = work()
            except sa.exc.DBAPIError:
                logger.exception("a round is lost; the next may find the database well again")
                found = False
            if not found:
                self._stopping.wait(IDLE_SECONDS)

    def import_once(self) -> bool:
        """Fetch and settle one import; False if none waits."""
        claim = self._imports.claim()
        if claim is None:
            return False
        self._fetch(claim)
        return True

    def _fetch_files(self) -> None:
        free = threading.Semaphore(self._settings.import_slots)
        with ThreadPoolExecutor(self._settings.import_slots, thread_name_prefix="import") as slots:
            self._rounds(lambda: self._begin_import(free, slots))

    def _begin_import(self, free: threading.Semaphore, slots: ThreadPoolExecutor) -> bool:
        if not free.acquire(timeout=IDLE_SECONDS):
            return False
        claim = None
        try:
            claim = self._imports.claim()
        finally:
            if claim is None:
                free.release()
        if claim is not None:
            slots.submit(self._fetch, claim).add_done_callback(lambda _done: free.release())
        return claim is not None

    def _fetch(self, claim: Claim) -> None:
        try:
            Fetch(self._imports, claim, self._stopping).run()
        except Exception:
            logger.exception("import of %s", claim.file.id)
            fail_import(self._imports, claim, "The import broke inside the service, whose log says how. Try again.")

    def _fail(self, lease: Lease, *, code: str, message: str, param: str | None) -> None:
        try:
            with queue.holding(self._store, lease) as (connection, _status):
                fail(connection, self._store, lease, code=code, message=message, param=param)
        except LeaseLost:
            return

    def sweep(self) -> None:
        """Remove the work folders of jobs that ended while no worker held them: cancelled ones that were paused."""
        for folder in (self._settings.home / "work").glob("*"):
            self._sweep(folder.name, folder)

    def _sweep(self, job_id: str, folder: Path) -> None:
        """Remove the work folder of a job that will not go on."""
        with self._store.database.read() as connection:
            status = connection.execute(sa.select(jobs.c.status).where(jobs.c.id == job_id)).scalar()
        if status is None or status in TERMINAL:
            shutil.rmtree(folder, ignore_errors=True)
