"""What may be deployed, under which name and on what terms: from a request to a row. Knows no HTTP."""

import re
import secrets
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import adapters, quotas, uptime
from tunery.catalog import Catalog, Target
from tunery.errors import Conflict, InvalidRequest, NotFound
from tunery.records import DEVELOPER, PROVISIONED, Account, Deployment, DeploymentState
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import one
from tunery.store.tables import deployments
from tunery.weights import QUANTIZATIONS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SKUS = ("Standard", "GlobalStandard", "DataZoneStandard", *PROVISIONED, *DEVELOPER)
LARGEST_CAPACITY = 1_000_000


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A PUT body, reduced to what it means."""

    model: str
    model_format: str = "OpenAI"
    model_version: str = "1"
    source: str | None = None
    sku_name: str = "Standard"
    capacity: int | None = None
    tags: dict[str, str] | None = None
    quantization: str | msgspec.UnsetType | None = msgspec.UNSET
    """None: the weights as they were trained on. UNSET: as it is, for clients that don't know the word."""
    paused: bool | None = None
    """None: as it is."""


class Deployer:
    """Writes down what is wanted; `Deployments.reconcile` brings the engine there."""

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
            InvalidRequest: name, sku, capacity, model, version, source or quantization can't be; its param says which.
            Conflict: the model has a deployment already. QuotaExceeded: no deployment of that kind left.
        """
        check_name(name)
        sku = checked_sku(wanted.sku_name, wanted.capacity)
        self._refuse_quantization(wanted.quantization)
        owner = owner or account
        target = self._target(owner, wanted)
        self._refuse_region(account, owner, target)
        now = self._store.now()
        changes: dict[str, Any] = {
            "sku_name": sku,
            "capacity": wanted.capacity,
            "tags": wanted.tags,
            "updated_at": now,
            "etag": etag(),
        }
        if wanted.paused is not None:
            changes["paused"] = wanted.paused
        if wanted.quantization is not msgspec.UNSET:
            changes["quantization"] = wanted.quantization
        with self._store.database.begin() as connection:
            existing = find(connection, account.id, name)
            if existing is not None:
                _refuse_other_model(existing, wanted)
                changes |= _second_life(connection, existing, sku) | _fresh_start(existing, wanted)
                connection.execute(sa.update(deployments).where(named(account.id, name)).values(changes))
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
            stored = find(connection, account.id, name)
        assert stored is not None
        return stored, existing is None

    def patch(
        self, account_id: int, name: str, *, sku_name: str | None, capacity: int | None, tags: dict[str, str] | None
    ) -> Deployment:
        """Change sku and tags. Raises NotFound, InvalidRequest."""
        with self._store.database.begin() as connection:
            old = find(connection, account_id, name)
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
                "etag": etag(),
            }
            connection.execute(sa.update(deployments).where(named(account_id, name)).values(values))
            stored = find(connection, account_id, name)
        assert stored is not None
        return stored

    def _target(self, owner: Account, wanted: Wanted) -> Target:
        try:
            target = self._catalog.find(owner.id, self._name(wanted), param="model")
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=error.param, code="DeploymentModelNotSupported") from error
        if target.adapter is not None and wanted.model_version != "1":
            raise InvalidRequest(
                f'The version of a tuned model is always "1", not {wanted.model_version!r}.',
                param="version",
                code="DeploymentModelNotSupported",
            )
        return target

    def _name(self, wanted: Wanted) -> str:
        """Bases may be named as ARM does it, in two parts: gpt-35-turbo and 0613."""
        whole = f"{wanted.model}-{wanted.model_version}"
        return wanted.model if self._catalog.base(whole) is None else whole

    def _refuse_quantization(self, quantization: str | msgspec.UnsetType | None) -> None:
        """What is known before an engine is started for it."""
        if not isinstance(quantization, str):
            return
        if quantization not in QUANTIZATIONS:
            raise InvalidRequest(
                f"The quantization {quantization!r} is unknown. Use {' or '.join(QUANTIZATIONS)}, or null for "
                "the weights as they were trained on.",
                param="quantization",
            )
        settings = self._settings
        if settings.engine != "embedded" or settings.device != "cpu":
            raise InvalidRequest(
                f"{quantization} weights need this service's own engine on the CPU; it has the settings engine = "
                f'"{settings.engine}" and device = "{settings.device}".',
                param="quantization",
            )

    def _refuse_region(self, account: Account, owner: Account, target: Target) -> None:
        if target.custom_model is None or owner.id == account.id or self._settings.tunes_in(account.location):
            return
        raise InvalidRequest(
            f"The region '{account.location}' of the account '{account.name}' doesn't allow tuning, so tuned models of "
            "other accounts can't be deployed there. Deploy to an account in another region.",
            param="source",
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
                param="model",
                code="DeploymentModelNotSupported",
            )


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
        raise InvalidRequest(f"The sku {name!r} is unknown. Use one of {', '.join(SKUS)}.", param="sku")
    if capacity is not None and not 1 <= capacity <= LARGEST_CAPACITY:
        raise InvalidRequest(f"The capacity may be 1 to {LARGEST_CAPACITY}.", param="capacity")
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


def _fresh_start(old: Deployment, wanted: Wanted) -> dict[str, Any]:
    """One that failed is tried again; other weights are brought up like a new one's."""
    if old.state != DeploymentState.FAILED and wanted.quantization in (msgspec.UNSET, old.quantization):
        return {}
    return {"state": DeploymentState.CREATING, "error": None, "agreement": None}


def _second_life(connection: Connection, old: Deployment, sku: str) -> dict[str, Any]:
    """A developer's day begins when the sku becomes one; an old deployment isn't gone the minute after."""
    if sku not in DEVELOPER or old.sku_name in DEVELOPER:
        return {}
    return {"born_uptime": uptime.mark(connection), "warned": False}


_NAMED = sa.select(deployments).where(
    deployments.c.account_id == sa.bindparam("account_id"), deployments.c.name_folded == sa.bindparam("name")
)


def find(connection: Connection, account_id: int, name: str) -> Deployment | None:
    return one(connection, Deployment, _NAMED, account_id=account_id, name=name.lower())


def named(account_id: int, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(deployments.c.account_id == account_id, deployments.c.name_folded == name.lower())


def etag() -> str:
    return secrets.token_hex(16)
