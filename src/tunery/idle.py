"""The idle rule: deployments of tuned models that nobody calls go, their models stay (contract.md 4.8).

Time is the service's own (uptime.py): days in which a deployment could have been called. It survives restarts and no
clock that is set, forwards or backwards, moves it. Bases stay for ever.
"""

import logging
from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import adapters, uptime
from tunery.jobs import add_event
from tunery.records import DEVELOPER, Deployment, new_id
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import many
from tunery.store.tables import checkpoints, deployments

logger = logging.getLogger(__name__)

HOUR, DAY = 3600, 24 * 3600
WARNING_SECONDS = DAY
"""How long before its end a deployment's users are warned."""


class End(NamedTuple):
    """When a deployment will be deleted if nobody calls it. A forecast: only time in which the service runs counts."""

    at: int
    """Unix seconds, if the service runs without a break."""
    seconds: float
    """Of the service's running time from now on."""
    developer: bool
    """True: the sku's life ends, used or not. False: nobody called it."""


class IdleRule:
    """Looks at all deployments of all accounts."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def sweep(self) -> list[Deployment]:
        """Delete what is due and warn of what will be within a day; returns what was deleted.

        A call that comes meanwhile either has written its use before, and the deployment stays, or finds it gone.
        """
        with self._store.database.begin() as connection:
            now = uptime.read(connection)
            gone = many(connection, Deployment, sa.delete(deployments).where(self._due(now)).returning(deployments))
            for deployment in gone:
                self._tell(connection, deployment, self._deleted(deployment))
            soon = sa.and_(self._due(now + WARNING_SECONDS), deployments.c.warned.is_(False))
            warn = sa.update(deployments).where(soon).values(warned=True).returning(deployments)
            for deployment in many(connection, Deployment, warn):
                self._tell(connection, deployment, self._warning(deployment, now), level="warning")
            unnamed = adapters.unnamed(connection, [gone_.adapter for gone_ in gone if gone_.adapter is not None])
        for digest in unnamed:
            self._store.blobs.delete(adapters.blob(digest))
        return gone

    def ends(self, found: Iterable[Deployment]) -> dict[str, End]:
        """By name; those that stay for good are left out."""
        with self._store.database.read() as connection:
            now = uptime.read(connection)
        wall = self._store.now()
        ends = {deployment.name: self._end(deployment) for deployment in found}
        return {
            name: End(wall + round(end[0] - now), end[0] - now, developer=end[1]) for name, end in ends.items() if end
        }

    def _due(self, now: float) -> sa.ColumnElement[bool]:
        """Which deployments end before this time, if nobody calls them."""
        idle, life = self._settings.idle_seconds, self._settings.developer_seconds
        born, used = deployments.c.born_uptime, deployments.c.used_uptime
        rules = []
        if idle:
            rules.append(sa.and_(born <= now - idle, used <= now - idle))
        if life:
            rules.append(sa.and_(deployments.c.sku_name.in_(DEVELOPER), born <= now - life))
        return sa.and_(deployments.c.adapter.is_not(None), sa.or_(sa.false(), *rules))

    def _end(self, deployment: Deployment) -> tuple[float, bool] | None:
        """When it ends on the service's clock, if nobody calls it, and whether as a developer's; None: never."""
        idle, life = self._settings.idle_seconds, self._settings.developer_seconds
        ends = []
        if idle:
            ends.append((max(deployment.born_uptime, deployment.used_uptime) + idle, False))
        if life and deployment.sku_name in DEVELOPER:
            ends.append((deployment.born_uptime + life, True))
        return min(ends, default=None) if deployment.adapter else None

    def _why(self, deployment: Deployment, *, developer: bool) -> str:
        if developer:
            return f"the sku {deployment.sku_name} lives for {self._settings.developer_seconds / HOUR:g} hours"
        return f"nobody called it for {self._settings.idle_seconds / DAY:g} days in a row"

    def _warning(self, deployment: Deployment, now: float) -> str:
        end = self._end(deployment)
        assert end is not None
        hours = max(1, round((end[0] - now) / HOUR))
        return (
            f"The deployment '{deployment.name}' will be deleted after {hours} more hours of this service's running "
            f"time, if it is then so that {self._why(deployment, developer=end[1])}. The model stays."
        )

    def _deleted(self, deployment: Deployment) -> str:
        end = self._end(deployment)
        assert end is not None
        why = self._why(deployment, developer=end[1])
        return (
            f"The deployment '{deployment.name}' was deleted: {why}. The model '{deployment.model}' stays and can be "
            "deployed again."
        )

    def _tell(self, connection: Connection, deployment: Deployment, message: str, level: str = "info") -> None:
        """In the log, and among the events of the job that tuned the model, if that is this account's own."""
        logger.log(logging.WARNING if level == "warning" else logging.INFO, message)
        query = sa.select(checkpoints.c.job_id).where(
            checkpoints.c.account_id == deployment.account_id, checkpoints.c.adapter == deployment.adapter
        )
        job_id = connection.execute(query.order_by(checkpoints.c.seq.desc())).scalar()
        if job_id is not None:
            add_event(connection, self._store, job_id, key=new_id("idle-"), message=message, level=level)
