"""Accounts, what Azure calls OpenAI resources, and their keys. Knows no HTTP and no caller.

Keys are derived: HMAC-SHA256 over the account's name and a generation, under the service's secret, which lies in the
home folder. The database holds only their hashes, so a stolen database opens nothing, and listKeys can still answer.
Generations are drawn at random: neither a regenerated key nor one of a deleted account ever comes back.
"""

import hashlib
import hmac
import re
import secrets
import uuid
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import erasure, groups
from tunery.errors import Conflict, InvalidRequest, LocalAuthDisabled, NotFound, QuotaExceeded, Unauthorized
from tunery.keyfiles import service_secret
from tunery.records import Account
from tunery.settings import Settings, folded_location
from tunery.store import Store
from tunery.store.database import many, one
from tunery.store.tables import accounts

KEY_LENGTH = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,63}")
KINDS = ("OpenAI", "AIServices")
SKU = "S0"
_OF_KEY = sa.select(accounts).where(
    sa.or_(accounts.c.key1_hash == sa.bindparam("digest"), accounts.c.key2_hash == sa.bindparam("digest"))
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A PUT body, reduced to what it means. None: as it is, or as it begins."""

    location: str | None = None
    kind: str | None = None
    sku: str | None = None
    sub_domain: str | None = None
    disable_local_auth: bool | None = None
    tags: dict[str, str] | None = None


class Accounts:
    """All accounts of the service."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._secret = service_secret(settings.home)

    def first(self) -> Account:
        """The oldest account: whom a caller without a key means who names none. Made if there is none."""
        found = self._one(sa.true())
        if found is not None:
            return found
        settings = self._settings
        subscription = (settings.subscription_id or str(uuid.uuid4())).lower()
        location = folded_location(settings.location)
        with self._store.database.begin() as connection:
            found = one(connection, Account, sa.select(accounts))
            if found is not None:  # another process was faster
                return found
            if not groups.exists(connection, subscription, settings.resource_group):
                groups.add(connection, subscription, settings.resource_group, location, None, now=self._store.now())
            return self._add(
                connection, subscription, settings.resource_group, settings.account, Wanted(location=location), "tunery"
            )

    def all(self) -> list[Account]:
        with self._store.database.read() as connection:
            return many(connection, Account, sa.select(accounts).order_by(accounts.c.id))

    def by_name(self, name: str) -> Account | None:
        """In any case; one service has each name once, whatever group it is in."""
        return self._one(accounts.c.name_folded == name.lower())

    def named(self, name: str) -> Account:
        """Raises NotFound that names those there are."""
        found = self.by_name(name)
        if found is None:
            there = ", ".join(account.name for account in self.all())
            raise NotFound(f"The account '{name}' does not exist. Accounts of this service: {there}.")
        return found

    def by_sub_domain(self, name: str) -> Account | None:
        """As the account's endpoint names it."""
        return self._one(accounts.c.sub_domain == name.lower())

    def by_arm_id(self, arm_id: str) -> Account | None:
        found = self.by_name(arm_id.rpartition("/")[2])
        return found if found is not None and found.arm_id.lower() == arm_id.lower() else None

    def put(self, subscription: str, group: str, name: str, wanted: Wanted, *, by: str) -> tuple[Account, bool]:
        """Create or replace; True if it is new. A new one has keys and no data.

        Raises:
            InvalidRequest: name, location, kind or sku can't be; Conflict: the name is taken elsewhere, or what can't
            be changed is to be; QuotaExceeded: the region is full.
        """
        check_name(name)
        self._check(wanted)
        with self._store.database.begin() as connection:
            found = one(connection, Account, sa.select(accounts).where(accounts.c.name_folded == name.lower()))
            if found is None:
                group = groups.find(connection, subscription, group).name
                return self._add(connection, subscription.lower(), group, name, wanted, by), True
            place = (found.subscription_id.lower(), found.resource_group.lower())
            if place != (subscription.lower(), group.lower()):
                raise _taken(name)
            if wanted.location is not None and folded_location(wanted.location) != found.location:
                raise Conflict(
                    f"The account '{found.name}' is in the location '{found.location}' and can't move to "
                    f"'{wanted.location}'. Delete it first, or choose another name.",
                    code="InvalidResourceLocation",
                )
            replaced = msgspec.structs.replace(
                wanted, tags=wanted.tags or {}, disable_local_auth=bool(wanted.disable_local_auth)
            )
            return self._change(connection, found, replaced), False

    def patch(self, account: Account, wanted: Wanted) -> Account:
        """Change what is given. Raises InvalidRequest, Conflict."""
        self._check(wanted)
        with self._store.database.begin() as connection:
            return self._change(connection, account, wanted)

    def delete(self, account: Account) -> None:
        """Delete the account with its files, jobs, models and keys, for good.

        Raises:
            Conflict: it has deployments or unfinished jobs, or is the service's only one.
        """
        with self._store.database.begin() as connection:
            erasure.refuse_if_used(connection, account)
            blobs = erasure.erase(connection, account)
        for key in blobs:
            self._store.blobs.delete(key)

    def keys(self, account: Account) -> tuple[str, str]:
        """Raises InvalidRequest where the account takes no keys."""
        if account.disable_local_auth:
            raise InvalidRequest(
                f"The account '{account.name}' has no keys: its disableLocalAuth is true. Use bearer tokens.",
                code="BadRequest",
            )
        return self._keys(account)

    def regenerate(self, account: Account, number: int) -> tuple[str, str]:
        """Replace key 1 or 2; the other goes on. Raises InvalidRequest where the account takes no keys."""
        self.keys(account)
        with self._store.database.begin() as connection:
            mine = accounts.c.id == account.id
            current = one(connection, Account, sa.select(accounts).where(mine))
            if current is None:
                raise not_found(account.name)
            generations = list(current.key_generations)
            generations[number - 1] = _generation()
            values = self._key_columns(current.name, (generations[0], generations[1]))
            connection.execute(sa.update(accounts).where(mine).values(values))
            renewed = one(connection, Account, sa.select(accounts).where(mine))
        assert renewed is not None
        return self._keys(renewed)

    def by_key(self, key: str) -> Account:
        """Whom a key opens; lookups and comparisons see hashes only, the last one in constant time.

        Raises:
            Unauthorized: no account's key. LocalAuthDisabled: the account takes none.
        """
        digest = _hash(key)
        with self._store.database.read() as connection:
            account = one(connection, Account, _OF_KEY, digest=digest)
        if account is None or not any(hmac.compare_digest(key, mine) for mine in self._keys(account)):
            raise Unauthorized
        if account.disable_local_auth:
            raise LocalAuthDisabled
        return account

    def generation(self, account: Account, key: str) -> int:
        """Of the account's own key: what ends as soon as that key is regenerated."""
        number = self._keys(account).index(key)
        return account.key_generations[number]

    def refuse_without_tuning(self, account: Account) -> None:
        """Raises InvalidRequest where the account's region doesn't allow tuning."""
        if not self._settings.tunes_in(account.location):
            raise InvalidRequest(
                f"The region '{account.location}' of the account '{account.name}' doesn't allow tuning. Tune in an "
                "account of another region.",
                param="model",
            )

    def _one(self, condition: sa.ColumnElement[bool]) -> Account | None:
        with self._store.database.read() as connection:
            return one(connection, Account, sa.select(accounts).where(condition))

    def _check(self, wanted: Wanted) -> None:
        if wanted.location is not None:
            self._settings.offered_location(wanted.location)
        if wanted.kind is not None and wanted.kind not in KINDS:
            raise InvalidRequest(
                f"The kind {wanted.kind!r} isn't offered. Use {' or '.join(KINDS)}.", param="kind", code="InvalidKind"
            )
        if wanted.sku is not None and wanted.sku.upper() != SKU:
            raise InvalidRequest(f"The sku {wanted.sku!r} isn't offered. Use {SKU}.", param="sku", code="InvalidSku")
        if wanted.sub_domain is not None:
            check_name(wanted.sub_domain)

    def _add(
        self, connection: Connection, subscription: str, group: str, name: str, wanted: Wanted, by: str
    ) -> Account:
        location = folded_location(wanted.location or self._settings.location)
        self._refuse_if_full(connection, subscription, location)
        now = self._store.now()
        values = {
            "subscription_id": subscription,
            "resource_group": group,
            "name": name,
            "name_folded": name.lower(),
            "sub_domain": (wanted.sub_domain or name).lower(),
            "location": location,
            "kind": wanted.kind or KINDS[0],
            "disable_local_auth": bool(wanted.disable_local_auth),
            "tags": wanted.tags or {},
            "etag": _etag(),
            "created_at": now,
            "updated_at": now,
            "created_by": by,
            **self._key_columns(name, (_generation(), _generation())),
        }
        try:
            connection.execute(sa.insert(accounts).values(values))
        except sa.exc.IntegrityError as error:
            raise _taken(str(values["sub_domain"])) from error
        added = one(connection, Account, sa.select(accounts).where(accounts.c.name_folded == name.lower()))
        assert added is not None
        return added

    def _change(self, connection: Connection, account: Account, wanted: Wanted) -> Account:
        if wanted.sub_domain is not None and wanted.sub_domain.lower() != account.sub_domain:
            raise Conflict(
                f"The account '{account.name}' has the sub-domain '{account.sub_domain}', which can't be changed.",
                param="properties.customSubDomainName",
            )
        given = {"kind": wanted.kind, "disable_local_auth": wanted.disable_local_auth, "tags": wanted.tags}
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        mine = accounts.c.id == account.id
        connection.execute(sa.update(accounts).where(mine).values(**values, updated_at=self._store.now(), etag=_etag()))
        changed = one(connection, Account, sa.select(accounts).where(mine))
        if changed is None:
            raise not_found(account.name)
        return changed

    def _refuse_if_full(self, connection: Connection, subscription: str, location: str) -> None:
        there = sa.and_(accounts.c.subscription_id == subscription, accounts.c.location == location)
        count = connection.execute(sa.select(sa.func.count()).where(there)).scalar_one()
        if count >= self._settings.max_accounts:
            raise QuotaExceeded(
                f"The subscription may have {self._settings.max_accounts} accounts in '{location}' and has. "
                "Delete one first, or use another region."
            )

    def _key_columns(self, name: str, generations: tuple[int, int]) -> dict[str, Any]:
        first, second = generations
        return {
            "key_generations": generations,
            "key1_hash": _hash(self._key(name, 1, first)),
            "key2_hash": _hash(self._key(name, 2, second)),
        }

    def _keys(self, account: Account) -> tuple[str, str]:
        first, second = account.key_generations
        return self._key(account.name, 1, first), self._key(account.name, 2, second)

    def _key(self, name: str, number: int, generation: int) -> str:
        purpose = f"key:{name}:{number}:{generation}"
        return hmac.digest(self._secret, purpose.encode(), "sha256").hex()[:KEY_LENGTH]


def check_name(name: str) -> None:
    """Raises InvalidRequest for what can't be the name of an account."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"The account name {name!r} can't be: 2 to 64 letters, digits, '-', '_' and '.', beginning with a letter "
            "or digit.",
            code="InvalidResourceName",
        )


def not_found(name: str) -> NotFound:
    return NotFound(f"The account '{name}' was not found.", code="ResourceNotFound")


def _taken(name: str) -> Conflict:
    return Conflict(
        f"The name '{name}' is another account's here, or its sub-domain. Names are unique in the whole service, in "
        "any case. Choose another one.",
        code="CustomDomainInUse",
    )


def _generation() -> int:
    return secrets.randbits(62)


def _etag() -> str:
    return secrets.token_hex(16)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
