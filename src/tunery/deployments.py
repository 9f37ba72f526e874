"""Deployments: a name that answers. Writes what is wanted, brings the engine there, says what is. Knows no HTTP."""

import re
import secrets
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import adapters, quotas, uptime
from tunery.catalog import Catalog, Target
from tunery.errors import (
    Conflict,
    DeploymentNotFound,
    DeploymentPaused,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    TuneryError,
)
from tunery.messages import Adapter
from tunery.records import DEVELOPER, PROVISIONED, Account, Deployment, DeploymentState
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import deployments, many, one

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SKUS = ("Standard", "GlobalStandard", "DataZoneStandard", *PROVISIONED, *DEVELOPER)
LARGEST_CAPACITY = 1_000_000


class Mounter(Protocol):
    """What deployments need of an engine: load the adapter and prove that it answers as the trainer did."""

    async def start(self, base_name: str) -> None:
        """Load a base. Raises a TuneryError that says why it doesn't answer."""
        ...

    async def mount(self, base_name: str, adapter: Adapter) -> None:
        """Load an adapter and run its probe. Raises a TuneryError that says why it doesn't answer."""
        ...


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A PUT body, reduced to what it means."""

    model: str
    model_format: str = "OpenAI"
    model_version: str = "1"
    source: str | None = None
    sku_name: str = "Standard"
    capacity: int | None = None
    tags: dict[str, str] | None = None
    paused: bool | None = None
    """None: as it is."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a request to a deployment needs to be answered."""

    name: str
    model: str
    base_name: str
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

    def put(
        self, account: Account, name: str, wanted: Wanted, *, by: str, owner: Account | None = None
    ) -> tuple[Deployment, bool]:
        """Create or update; True if it is new. A new one is Creating until `reconcile` saw it answer.

        `owner` is the account that has the model, where it isn't `account` itself.

        Raises:
            InvalidRequest: name, sku, capacity or model can't be; Conflict: the model has a deployment already;
            QuotaExceeded: no deployment of that kind left.
        """
        check_name(name)
        sku = checked_sku(wanted.sku_name, wanted.capacity)
        owner = owner or account
        target = self._target(owner, wanted)
        self._refuse_region(account, owner, target)
        now = self._store.now()
        changes: dict[str, Any] = {
            "sku_name": sku,
            "capacity": wanted.capacity,
            "tags": wanted.tags,
            "updated_at": now,
            "etag": _etag(),
        }
        if wanted.paused is not None:
            changes["paused"] = wanted.paused
        with self._store.database.begin() as connection:
            existing = _find(connection, account.id, name)
            if existing is not None:
                _refuse_other_model(existing, wanted)
                changes |= _second_life(connection, existing, sku)
                if existing.state == DeploymentState.FAILED:
                    changes |= {"state": DeploymentState.CREATING, "error": None}
                connection.execute(sa.update(deployments).where(_named(account.id, name)).values(changes))
            else:
                self._refuse_if_impossible(connection, account.id, owner, target)
                born = uptime.mark(connection)
                row = {
                    **changes,
                    "account_id": account.id,
                    "name": name,
                    "name_folded": name.lower(),
                    "model": wanted.model,
                    "custom_model": target.custom_model,
                    "model_format": wanted.model_format,
                    "model_version": wanted.model_version,
                    "source": None if wanted.source is None else owner.arm_id,
                    "base": target.base.name,
                    "adapter": target.adapter,
                    "state": DeploymentState.CREATING,
                    "created_at": now,
                    "created_by": by,
                    "born_uptime": born,
                    "used_uptime": born,
                }
                connection.execute(sa.insert(deployments).values(row))
            stored = _find(connection, account.id, name)
        assert stored is not None
        return stored, existing is None

    def patch(
        self, account_id: int, name: str, *, sku_name: str | None, capacity: int | None, tags: dict[str, str] | None
    ) -> Deployment:
        """Change sku and tags. Raises NotFound, InvalidRequest."""
        with self._store.database.begin() as connection:
            old = _find(connection, account_id, name)
            if old is None:
                raise NotFound(f"The deployment '{name}' does not exist.")
            capacity = old.capacity if capacity is None else capacity
            sku = checked_sku(sku_name or old.sku_name, capacity)
            values: dict[str, Any] = {
                **_second_life(connection, old, sku),
                "sku_name": sku,
                "capacity": capacity,
                "tags": old.tags if tags is None else tags,
                "updated_at": self._store.now(),
                "etag": _etag(),
            }
            connection.execute(sa.update(deployments).where(_named(account_id, name)).values(values))
            stored = _find(connection, account_id, name)
        assert stored is not None
        return stored

    def pause(self, account_id: int, name: str, *, paused: bool) -> Deployment:
        """Stop answering, or go on; twice is as good as once. Raises NotFound."""
        values = {"paused": paused, "updated_at": self._store.now(), "etag": _etag()}
        with self._store.database.begin() as connection:
            connection.execute(sa.update(deployments).where(_named(account_id, name)).values(values))
        return self.get(account_id, name)

    def get(self, account_id: int, name: str) -> Deployment:
        with self._store.database.read() as connection:
            deployment = _find(connection, account_id, name)
        if deployment is None:
            raise NotFound(f"The deployment '{name}' does not exist.")
        return deployment

    def all(self, account_id: int) -> list[Deployment]:
        query = sa.select(deployments).where(deployments.c.account_id == account_id).order_by(deployments.c.seq)
        with self._store.database.read() as connection:
            return many(connection, Deployment, query)

    def usages(self, account_id: int) -> list[quotas.Usage]:
        """Every limit of the account, and what is taken of it."""
        with self._store.database.read() as connection:
            return quotas.usages(connection, self._settings, account_id)

    def delete(self, account_id: int, name: str) -> bool:
        """False if there was none. The model stays; the adapter goes if its model went before it."""
        with self._store.database.begin() as connection:
            gone = _find(connection, account_id, name)
            if gone is None:
                return False
            connection.execute(sa.delete(deployments).where(_named(account_id, name)))
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
            deployment = _find(connection, account_id, name)
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
            base_name=base.model.name,
            adapter=None if deployment.adapter is None else self._catalog.adapter(deployment.adapter),
            kinds=base.kinds,
            context_length=base.model.context_length,
            units=deployment.units,
            made_at=deployment.created_at,
        )

    async def reconcile(self, mounter: Mounter, *, run_sync: "RunSync") -> int:
        """Bring every deployment that is still Creating to Succeeded or Failed; returns how many were settled."""
        settled = 0
        for deployment in await run_sync(self._creating):
            base = self._catalog.base(deployment.base)
            try:
                if base is None:
                    raise EngineUnavailable(_base_gone(deployment))
                if deployment.adapter is None:
                    await mounter.start(base.model.name)
                else:
                    await mounter.mount(base.model.name, self._catalog.adapter(deployment.adapter))
            except TuneryError as error:
                await run_sync(self._settle, deployment, DeploymentState.FAILED, error.message)
            else:
                await run_sync(self._settle, deployment, DeploymentState.SUCCEEDED, None)
            settled += 1
        return settled

    def _creating(self) -> list[Deployment]:
        query = sa.select(deployments).where(deployments.c.state == DeploymentState.CREATING)
        with self._store.database.read() as connection:
            return many(connection, Deployment, query.order_by(deployments.c.seq))

    def _settle(self, deployment: Deployment, state: DeploymentState, error: str | None) -> None:
        same = sa.and_(
            _named(deployment.account_id, deployment.name),
            deployments.c.state == DeploymentState.CREATING,
            deployments.c.created_at == deployment.created_at,
        )
        values = {"state": state, "error": error, "updated_at": self._store.now(), "etag": _etag()}
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
        query = sa.update(deployments).where(_named(deployment.account_id, deployment.name)).values(values)
        with self._store.database.begin() as connection:
            if not connection.execute(query).rowcount:
                raise DeploymentNotFound

    def _target(self, owner: Account, wanted: Wanted) -> Target:
        try:
            target = self._catalog.find(owner.id, self._name(wanted), param="properties.model.name")
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=error.param, code="DeploymentModelNotSupported") from error
        if target.adapter is not None and wanted.model_version != "1":
            raise InvalidRequest(
                f'The version of a tuned model is always "1", not {wanted.model_version!r}.',
                param="properties.model.version",
                code="DeploymentModelNotSupported",
            )
        return target

    def _name(self, wanted: Wanted) -> str:
        """Bases may be named as ARM does it, in two parts: gpt-35-turbo and 0613."""
        whole = f"{wanted.model}-{wanted.model_version}"
        return wanted.model if self._catalog.base(whole) is None else whole

    def _refuse_region(self, account: Account, owner: Account, target: Target) -> None:
        if target.custom_model is None or owner.id == account.id or self._settings.tunes_in(account.location):
            return
        raise InvalidRequest(
            f"The region '{account.location}' of the account '{account.name}' doesn't allow tuning, so tuned models of "
            "other accounts can't be deployed there. Deploy to an account in another region.",
            param="properties.model.source",
            code="DeploymentModelNotSupported",
        )

    def _refuse_if_impossible(self, connection: Connection, account_id: int, owner: Account, target: Target) -> None:
        tuned = target.adapter is not None
        quotas.admit_deployment(connection, self._settings, account_id, tuned=tuned)
        if target.custom_model is None:
            return
        other = connection.execute(
            sa.select(deployments.c.name).where(
                deployments.c.account_id == account_id, deployments.c.custom_model == target.custom_model
            )
        ).scalar()
        if other is not None:
            raise Conflict(
                f"The model '{target.custom_model}' has the deployment '{other}' already, and a custom model can have "
                "only one. Use that deployment or delete it first.",
                code="DuplicatedDeploymentForSameModel",
            )
        # Looked up again inside the transaction: the model may have been deleted a moment ago.
        if target.adapter in adapters.unnamed(connection, [str(target.adapter)]):
            raise InvalidRequest(
                f"The model '{target.name}' of the account '{owner.name}' was deleted.",
                param="properties.model.name",
                code="DeploymentModelNotSupported",
            )


class RunSync(Protocol):
    """Runs a blocking function in a thread, as anyio.to_thread.run_sync does."""

    async def __call__(self, function: Any, /, *args: Any) -> Any: ...


def check_name(name: str) -> None:
    if NAME.fullmatch(name):
        return
    if "api-version=" in name:
        mended = name.replace("api-version=", "?api-version=", 1)
        raise InvalidRequest(
            f"The path ends in '{name}': the '?' before 'api-version=' is missing. Use .../deployments/{mended}",
            code="InvalidResourceName",
        )
    raise InvalidRequest(
        f"The deployment name {name!r} can't be: 1 to 64 letters, digits, '-', '_' and '.', beginning with a letter or "
        "digit.",
        code="InvalidResourceName",
    )


def checked_sku(name: str, capacity: int | None) -> str:
    """The sku as Azure spells it; clients write `standard` too. Raises InvalidRequest."""
    for sku in SKUS:
        if sku.lower() == name.lower():
            break
    else:
        raise InvalidRequest(f"The sku {name!r} is unknown. Use one of {', '.join(SKUS)}.", param="sku.name")
    if capacity is not None and not 1 <= capacity <= LARGEST_CAPACITY:
        raise InvalidRequest(f"sku.capacity may be 1 to {LARGEST_CAPACITY}.", param="sku.capacity")
    return sku


def _refuse_other_model(existing: Deployment, wanted: Wanted) -> None:
    same_source = (existing.source or "").lower() == (wanted.source or "").lower()
    same_version = existing.model_version == wanted.model_version
    if existing.model != wanted.model or not same_version or not same_source:
        raise InvalidRequest(
            f"The deployment '{existing.name}' serves '{existing.model}'; its model can't be changed. "
            "Delete the deployment first, or use another name.",
            code="CannotChangeDeploymentModel",
        )


def _second_life(connection: Connection, old: Deployment, sku: str) -> dict[str, Any]:
    """A developer's day begins when the sku becomes one; an old deployment isn't gone the minute after."""
    if sku not in DEVELOPER or old.sku_name in DEVELOPER:
        return {}
    return {"born_uptime": uptime.mark(connection), "warned": False}


def _find(connection: Connection, account_id: int, name: str) -> Deployment | None:
    return one(connection, Deployment, sa.select(deployments).where(_named(account_id, name)))


def _named(account_id: int, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(deployments.c.account_id == account_id, deployments.c.name_folded == name.lower())


def _base_gone(deployment: Deployment) -> str:
    return f"The base model '{deployment.base}' isn't on this machine any more, or its folder is damaged."


def _etag() -> str:
    return secrets.token_hex(16)
