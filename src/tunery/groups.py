"""Subscriptions and resource groups: where accounts lie. Names and places only; nothing is billed or shared here."""

import re

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import erasure
from tunery.errors import Conflict, InvalidRequest, NotFound
from tunery.records import Account, ResourceGroup
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import many, one
from tunery.store.tables import accounts, groups

NAME = re.compile(r"[\w().-]{0,89}[\w()-]")


class Groups:
    """Resource groups of all subscriptions."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def subscriptions(self) -> list[str]:
        """Those that something lies in, oldest first, then those that settings offer."""
        query = sa.select(groups.c.subscription_id).order_by(groups.c.id)
        with self._store.database.read() as connection:
            used = connection.execute(query).scalars().all()
        return list(dict.fromkeys([*used, *(name.lower() for name in self._settings.subscriptions)]))

    def all(self, subscription: str) -> list[ResourceGroup]:
        mine = groups.c.subscription_id == subscription.lower()
        with self._store.database.read() as connection:
            return many(connection, ResourceGroup, sa.select(groups).where(mine).order_by(groups.c.id))

    def get(self, subscription: str, name: str) -> ResourceGroup:
        """Raises NotFound."""
        with self._store.database.read() as connection:
            return find(connection, subscription, name)

    def put(
        self, subscription: str, name: str, *, location: str, tags: dict[str, str] | None
    ) -> tuple[ResourceGroup, bool]:
        """Create or replace; True if it is new. Raises InvalidRequest."""
        if not NAME.fullmatch(name):
            raise InvalidRequest(
                f"The resource group name {name!r} can't be: 1 to 90 letters, digits, '_', '-', '.', '(' and ')', not "
                "ending with a '.'.",
                code="InvalidResourceGroup",
            )
        location = self._settings.offered_location(location)
        with self._store.database.begin() as connection:
            found = one(connection, ResourceGroup, sa.select(groups).where(_named(subscription, name)))
            if found is None:
                add(connection, subscription, name, location, tags, now=self._store.now())
            elif found.location != location:
                raise Conflict(
                    f"The resource group '{found.name}' is in the location '{found.location}' and can't move.",
                    code="InvalidResourceGroupLocation",
                )
            else:
                connection.execute(sa.update(groups).where(groups.c.id == found.id).values(tags=tags or {}))
            return find(connection, subscription, name), found is None

    def delete(self, subscription: str, name: str) -> None:
        """Raises NotFound; Conflict while an account lies in it."""
        with self._store.database.begin() as connection:
            found = find(connection, subscription, name)
            inside = sa.and_(
                accounts.c.subscription_id == found.subscription_id,
                sa.func.lower(accounts.c.resource_group) == found.name.lower(),
            )
            account = one(connection, Account, sa.select(accounts).where(inside))
            if account is not None:
                raise Conflict(
                    f"The resource group '{found.name}' can't be deleted while the account '{account.name}' lies in "
                    "it. Delete that first.",
                    code="CannotDeleteResource",
                )
            erasure.forget_scope(connection, f"/subscriptions/{found.subscription_id}/resourceGroups/{found.name}")
            connection.execute(sa.delete(groups).where(groups.c.id == found.id))


def find(connection: Connection, subscription: str, name: str) -> ResourceGroup:
    """Raises NotFound."""
    found = one(connection, ResourceGroup, sa.select(groups).where(_named(subscription, name)))
    if found is None:
        raise not_found(name)
    return found


def not_found(name: str) -> NotFound:
    return NotFound(f"Resource group '{name}' could not be found.", code="ResourceGroupNotFound")


def add(
    connection: Connection, subscription: str, name: str, location: str, tags: dict[str, str] | None, *, now: int
) -> None:
    values = {"subscription_id": subscription.lower(), "name": name, "name_folded": name.lower()}
    connection.execute(sa.insert(groups).values(**values, location=location, tags=tags or {}, created_at=now))


def exists(connection: Connection, subscription: str, name: str) -> bool:
    return one(connection, ResourceGroup, sa.select(groups).where(_named(subscription, name))) is not None


def _named(subscription: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(groups.c.subscription_id == subscription.lower(), groups.c.name_folded == name.lower())
