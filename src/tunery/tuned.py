"""What a job leaves behind: adapters by their digest, checkpoints, the tuned model. Knows no trainer and no lease.

Rows are written within the caller's transaction, which is fenced by the job's lease.
"""

import shutil
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import adapters
from tunery.messages import Checkpointed
from tunery.records import Job, new_id
from tunery.results import metrics_on_the_wire
from tunery.store import Store
from tunery.store.tables import checkpoints, models


def keep_adapter(store: Store, report: Checkpointed) -> None:
    """Copy a checkpoint's folder into the blobs; the same adapter twice is one."""
    for source in sorted(Path(report.directory).iterdir()):
        with store.blobs.write(f"{adapters.blob(report.digest)}/{source.name}") as stream, source.open("rb") as file:
            shutil.copyfileobj(file, stream)


def add_checkpoint(connection: Connection, store: Store, job: Job, report: Checkpointed) -> str:
    """The name under which it can be deployed. A step's checkpoint made again after a crash replaces itself."""
    name = job.output_name + ("" if report.final else f":ckpt-step-{report.step}")
    mine = sa.and_(checkpoints.c.job_id == job.id, checkpoints.c.step == report.step)
    connection.execute(sa.delete(checkpoints).where(mine))
    connection.execute(
        sa.insert(checkpoints).values(
            id=new_id("ftchkpt-"),
            job_id=job.id,
            account_id=job.account_id,
            created_at=store.now(),
            step=report.step,
            name=name,
            adapter=report.digest,
            metrics={"step": report.step, **metrics_on_the_wire(report.metrics)},
        )
    )
    return name


def add_model(connection: Connection, store: Store, job: Job) -> None:
    """The tuned model, out of the job's final checkpoint."""
    final = sa.select(checkpoints.c.adapter).where(
        checkpoints.c.job_id == job.id, checkpoints.c.name == job.output_name
    )
    connection.execute(
        sa.insert(models).values(
            name=job.output_name,
            account_id=job.account_id,
            base=job.base,
            parent=job.model,
            job_id=job.id,
            adapter=connection.execute(final).scalar_one(),
            created_at=store.now(),
        )
    )
