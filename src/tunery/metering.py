"""What deployments took: requests, tokens and hosting hours, by day. Durable within a minute; outlives deployments."""

import datetime
import threading
from collections import defaultdict
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.messages import Done
from tunery.records import DeploymentState
from tunery.store import Store
from tunery.store.database import many
from tunery.store.tables import accounts, deployments, meters

DAYS, MOST_DAYS = 30, 366
"""How many are told of a deployment, unless asked otherwise, and at most."""
HAZARDS = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet read a cell as a formula."""


class Metered(NamedTuple):
    """A deployment, not only its name: another one of that name is made at another time."""

    account_id: int
    name: str
    made_at: int
    model: str


class Counts(msgspec.Struct):
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens: those that were computed before."""
    completion_tokens: int = 0
    hosted_seconds: float = 0.0

    def add(self, other: "Counts") -> None:
        for field in COUNTED:
            setattr(self, field, getattr(self, field) + getattr(other, field))


COUNTED = Counts.__struct_fields__


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What one deployment took on one day, UTC."""

    account: str
    deployment: str
    model: str
    day: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    hosted_seconds: float


class Meter:
    """Counts in memory and writes once a minute; a process that is killed loses that minute."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pending: defaultdict[Metered, Counts] = defaultdict(Counts)

    def count(self, metered: Metered, done: Done) -> None:
        """A request that was computed, whole or in part."""
        counts = Counts(1, done.prompt_tokens, done.cached_tokens, done.completion_tokens)
        with self._lock:
            self._pending[metered].add(counts)

    def flush(self, hosted_seconds: float = 0.0) -> None:
        """Write down what was counted, and that deployments were there for so long. Counts stay if it fails."""
        with self._lock:
            pending, self._pending = self._pending, defaultdict(Counts)
        try:
            with self._store.database.begin() as connection:
                self._write(connection, pending, hosted_seconds)
        except BaseException:
            with self._lock:
                for metered, counts in pending.items():
                    self._pending[metered].add(counts)
            raise

    def of(self, account_id: int, name: str, made_at: int) -> Counts:
        """What a deployment took since it was made, to this moment."""
        self.flush()
        sums = [sa.func.coalesce(sa.func.sum(meters.c[field]), 0) for field in COUNTED]
        mine = (meters.c.account_id == account_id, meters.c.deployment == name, meters.c.made_at == made_at)
        with self._store.database.read() as connection:
            return Counts(*connection.execute(sa.select(*sums).where(*mine)).one())

    def daily(self, account_id: int, name: str, made_at: int, *, days: int) -> dict[str, Counts]:
        """What a deployment took on each of the last days, to this moment; days on which it wasn't there miss."""
        self.flush()
        since = today(self._store, days - 1)
        columns = [meters.c.day, *(meters.c[field] for field in COUNTED)]
        mine = (meters.c.account_id == account_id, meters.c.deployment == name, meters.c.made_at == made_at)
        query = sa.select(*columns).where(*mine, meters.c.day >= since).order_by(meters.c.day)
        with self._store.database.read() as connection:
            return {day: Counts(*counts) for day, *counts in connection.execute(query)}

    def days(self, *, since: str, account: str | None = None) -> list[Day]:
        """Of all deployments, or those of one account, present and past; oldest day first."""
        columns = [meters.c.deployment, meters.c.model, meters.c.day]
        sums = [sa.func.sum(meters.c[field]).label(field) for field in COUNTED]
        query = (
            sa.select(accounts.c.name.label("account"), *columns, *sums)
            .join(accounts)
            .where(meters.c.day >= since)
            .group_by(accounts.c.name, *columns)
            .order_by(meters.c.day, accounts.c.name, meters.c.deployment)
        )
        if account is not None:
            query = query.where(accounts.c.name_folded == account.lower())
        with self._store.database.read() as connection:
            return many(connection, Day, query)

    def _write(self, connection: Connection, pending: dict[Metered, Counts], hosted_seconds: float) -> None:
        day = today(self._store)
        counted: defaultdict[Metered, Counts] = defaultdict(Counts)
        if hosted_seconds:
            for metered in _hosted(connection):
                counted[metered].hosted_seconds = hosted_seconds
        known = set(connection.execute(sa.select(accounts.c.id)).scalars())
        for metered, counts in pending.items():
            if metered.account_id in known:  # the account may have been deleted since
                counted[metered].add(counts)
        for metered, counts in counted.items():
            _add(connection, metered, day, counts)


def totals(days: list[Day]) -> list[Day]:
    """Days of the same deployment and model put together; `day` is the last one."""
    sums: dict[tuple[str, str, str], Day] = {}
    for day in days:
        key = (day.account, day.deployment, day.model)
        before = sums.get(key)
        added = {} if before is None else {f: getattr(before, f) + getattr(day, f) for f in COUNTED}
        sums[key] = msgspec.structs.replace(day, **added)
    return list(sums.values())


def rows(days: list[Day], *, daily: bool) -> list[list[str | float]]:
    """A table with its header; hosting in hours. Text is safe for spreadsheets, numbers are numbers."""
    names = ["account", "deployment", "model", *(["day"] if daily else [])]
    header = [*names, *COUNTED[:-1], "hosting_hours"]
    body: list[list[str | float]] = [
        [
            *(cell(getattr(day, name)) for name in names),
            *(getattr(day, field) for field in COUNTED[:-1]),
            round(day.hosted_seconds / 3600, 3),
        ]
        for day in days
    ]
    return [list(header), *body]


def today(store: Store, days_ago: int = 0) -> str:
    date = datetime.datetime.fromtimestamp(store.clock(), datetime.UTC).date()
    return (date - datetime.timedelta(days=days_ago)).isoformat()


def cell(value: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(HAZARDS) else value


def _hosted(connection: Connection) -> list[Metered]:
    """Deployments that answer now."""
    columns = deployments.c
    query = sa.select(columns.account_id, columns.name, columns.created_at, columns.model)
    found = connection.execute(query.where(columns.state == DeploymentState.SUCCEEDED))
    return [Metered(*row) for row in found]


def _add(connection: Connection, metered: Metered, day: str, counts: Counts) -> None:
    key = {
        "account_id": metered.account_id,
        "deployment": metered.name,
        "made_at": metered.made_at,
        "day": day,
    }
    added = {field: meters.c[field] + getattr(counts, field) for field in COUNTED}
    same = sa.and_(*(meters.c[column] == value for column, value in key.items()))
    if not connection.execute(sa.update(meters).where(same).values(added)).rowcount:
        row = {**key, "model": metered.model, **msgspec.structs.asdict(counts)}
        connection.execute(sa.insert(meters).values(row))
