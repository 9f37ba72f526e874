"""Deployments: a name that answers. Brings the engine to what is wanted, says what is. Knows no HTTP."""

import asyncio
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from tunery import adapters, quotas, uptime
from tunery.catalog import Catalog
from tunery.deploying import etag, find, named
from tunery.errors import (
    DeploymentNotFound,
    DeploymentPaused,
    EngineStopped,
    EngineUnavailable,
    NotFound,
    TuneryError,
)
from tunery.messages import Adapter
from tunery.records import Deployment, DeploymentState
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import many
from tunery.store.tables import deployments
from tunery.weights import Agreement, Weights

AT_ONCE = 3
"""Deployments brought up at a time: one's adapter is read while another's answers its probe."""
ATTEMPTS = 3
"""For a deployment whose engine stopped meanwhile: that may be another's fault."""


class Mounter(Protocol):
    """What deployments need of an engine: load the adapter and prove that it answers as the trainer did."""

    async def mount(self, weights: Weights, adapter: Adapter | None) -> Agreement | None:
        """Load a base, and an adapter if there is one, and run its probe; returns how closely quantised weights agree.

        Raises a TuneryError that says why it doesn't answer.
        """
        ...


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a request to a deployment needs to be answered."""

    name: str
    model: str
    weights: Weights
    adapter: Adapter | None
    kinds: frozenset[str]
    context_length: int
    units: int | None = None
    """Of its rate limit; None: it has none."""
    made_at: int = 0


class Deployments:
    """Deployments of all accounts; every call names the account it acts for."""

    def __init__(self, store: Store, settings: Settings, catalog: Catalog) -> None:
        self._store = store
        self._settings = settings
        self._catalog = catalog

    def pause(self, account_id: int, name: str, *, paused: bool) -> Deployment:
        """Stop answering, or go on; twice is as good as once. Raises NotFound."""
        values = {"paused": paused, "updated_at": self._store.now(), "etag": etag()}
        with self._store.database.begin() as connection:
            connection.execute(sa.update(deployments).where(named(account_id, name)).values(values))
        return self.get(account_id, name)

    def get(self, account_id: int, name: str) -> Deployment:
        with self._store.database.read() as connection:
            deployment = find(connection, account_id, name)
        if deployment is None:
            raise NotFound(f"The deployment '{name}' does not exist.")
        return deployment

    def all(self, account_id: int) -> list[Deployment]:
        query = sa.select(deployments).where(deployments.c.account_id == account_id).order_by(deployments.c.seq)
        with self._store.database.read() as connection:
            return many(connection, Deployment, query)

    def weights(self) -> set[Weights]:
        """Those that a deployment of any account needs: engines of others hold memory for nobody."""
        query = sa.select(deployments).where(deployments.c.state != DeploymentState.FAILED)
        with self._store.database.read() as connection:
            found = many(connection, Deployment, query)
        bases = {name: base.model.name for name in {one.base for one in found} if (base := self._catalog.base(name))}
        return {Weights(bases[one.base], one.quantization) for one in found if one.base in bases}

    def usages(self, account_id: int) -> list[quotas.Usage]:
        """Every limit of the account, and what is taken of it."""
        with self._store.database.read() as connection:
            return quotas.usages(connection, self._settings, account_id)

    def delete(self, account_id: int, name: str) -> bool:
        """False if there was none. The model stays; the adapter goes if its model went before it."""
        with self._store.database.begin() as connection:
            gone = find(connection, account_id, name)
            if gone is None:
                return False
            connection.execute(sa.delete(deployments).where(named(account_id, name)))
            unnamed = set() if gone.adapter is None else adapters.unnamed(connection, [gone.adapter])
        for digest in unnamed:
            self._store.blobs.delete(adapters.blob(digest))
        return True

    def serve(self, account_id: int, name: str) -> Serving:
        """What to run for a request to this deployment; marks its use.

        Raises:
            DeploymentNotFound; EngineUnavailable: it is still being created, or failed; DeploymentPaused.
        """
        with self._store.database.read() as connection:
            deployment = find(connection, account_id, name)
            now = uptime.mark(connection)
        if deployment is None:
            raise DeploymentNotFound
        if deployment.state != DeploymentState.SUCCEEDED:
            why = deployment.error or "the engine loads it"
            raise EngineUnavailable(f"The deployment '{name}' is {deployment.state}: {why}.")
        if deployment.paused:
            raise DeploymentPaused(f"The deployment '{name}' is paused. Resume it: POST .../deployments/{name}/resume.")
        self._mark_use(deployment, now)
        base = self._catalog.base(deployment.base)
        if base is None:
            raise EngineUnavailable(_base_gone(deployment))
        return Serving(
            name=deployment.name,
            model=deployment.model,
            weights=Weights(base.model.name, deployment.quantization),
            adapter=None if deployment.adapter is None else self._catalog.adapter(deployment.adapter),
            kinds=base.kinds,
            context_length=base.model.context_length,
            units=deployment.units,
            made_at=deployment.created_at,
        )

    async def reconcile(self, mounter: Mounter, *, run_sync: "RunSync") -> int:
        """Bring every deployment that is still Creating to Succeeded or Failed; returns how many were settled."""
        creating = await run_sync(self._creating)
        turns = asyncio.Semaphore(AT_ONCE)

        async def settle(deployment: Deployment) -> None:
            async with turns:
                outcome = await self._bring_up(mounter, deployment)
                await run_sync(self._settle, deployment, outcome)

        async with asyncio.TaskGroup() as tasks:
            for deployment in creating:
                tasks.create_task(settle(deployment))
        return len(creating)

    async def _bring_up(self, mounter: Mounter, deployment: Deployment) -> str | Agreement | None:
        """Why it doesn't answer; otherwise what was measured, if anything was."""
        base = self._catalog.base(deployment.base)
        if base is None:
            return _base_gone(deployment)
        weights = Weights(base.model.name, deployment.quantization)
        adapter = None if deployment.adapter is None else self._catalog.adapter(deployment.adapter)
        why = ""
        for _ in range(ATTEMPTS):
            try:
                return await mounter.mount(weights, adapter)
            except EngineStopped as stopped:
                why = stopped.message
            except TuneryError as refused:
                return refused.message
        return why

    def _creating(self) -> list[Deployment]:
        query = sa.select(deployments).where(deployments.c.state == DeploymentState.CREATING)
        with self._store.database.read() as connection:
            return many(connection, Deployment, query.order_by(deployments.c.seq))

    def _settle(self, deployment: Deployment, outcome: str | Agreement | None) -> None:
        """Nothing happens to one that was deleted, given to another model or is wanted otherwise by now."""
        same = sa.and_(
            named(deployment.account_id, deployment.name),
            deployments.c.state == DeploymentState.CREATING,
            deployments.c.base == deployment.base,
            deployments.c.adapter.is_not_distinct_from(deployment.adapter),
            deployments.c.quantization.is_not_distinct_from(deployment.quantization),
        )
        values: dict[str, Any] = {"updated_at": self._store.now(), "etag": etag()}
        if isinstance(outcome, str):
            values |= {"state": DeploymentState.FAILED, "error": outcome, "agreement": None}
        else:
            values |= {"state": DeploymentState.SUCCEEDED, "error": None, "agreement": outcome}
        with self._store.database.begin() as connection:
            connection.execute(sa.update(deployments).where(same).values(values))

    def _mark_use(self, deployment: Deployment, now: float) -> None:
        """Written once a tick of the service's clock: a minute is exact enough for a rule of days.

        Raises:
            DeploymentNotFound: it was deleted since we looked.
        """
        if deployment.last_used_at is not None and deployment.used_uptime >= now:
            return
        values = {"last_used_at": self._store.now(), "used_uptime": now, "warned": False}
        query = sa.update(deployments).where(named(deployment.account_id, deployment.name)).values(values)
        with self._store.database.begin() as connection:
            if not connection.execute(query).rowcount:
                raise DeploymentNotFound


class RunSync(Protocol):
    """Runs a blocking function in a thread, as anyio.to_thread.run_sync does."""

    async def __call__(self, function: Any, /, *args: Any) -> Any: ...


def _base_gone(deployment: Deployment) -> str:
    return f"The base model '{deployment.base}' isn't on this machine any more, or its folder is damaged."
