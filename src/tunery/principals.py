"""Principals, their secrets and their roles: rows, and what may stand in them. Knows no HTTP and no token."""

import secrets
import uuid
from functools import cached_property
from typing import Any

import argon2
import sqlalchemy as sa
from argon2.exceptions import VerifyMismatchError

from tunery import roles
from tunery.errors import Conflict, InvalidRequest, NotFound, SignInRefused, SignInThrottled
from tunery.records import Assignment, Principal, PrincipalKind
from tunery.store import Store
from tunery.store.database import many, one
from tunery.store.tables import assignments, principals

FREE_FAILURES = 5
"""Wrong secrets in a row before each further one costs a wait, which doubles."""
FIRST_WAIT = 2
"""Seconds. The clock counts whole ones, so a wait of one could be over at once."""
LONGEST_WAIT = 60
SHORTEST_PASSWORD = 8


class Principals:
    """Who is known, and what each may do. One process verifies secrets one after another: see api/identity.py."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hasher = argon2.PasswordHasher()

    def add(self, name: str, kind: PrincipalKind, *, issuer: str = "", object_id: str | None = None) -> Principal:
        """Raises InvalidRequest for a bad name, Conflict if name or object id is taken."""
        name = name.strip()
        if not name.isprintable() or not 1 <= len(name) <= 256:
            raise InvalidRequest("A principal's name has 1 to 256 printable characters.", param="name")
        values: dict[str, Any] = {
            "id": object_id or str(uuid.uuid4()),
            "name": name,
            "name_folded": name.casefold(),
            "kind": kind,
            "issuer": issuer,
            "created_at": self._store.now(),
        }
        try:
            with self._store.database.begin() as connection:
                connection.execute(sa.insert(principals).values(values))
        except sa.exc.IntegrityError as error:
            raise Conflict(f"There is a principal '{name}' or one with this object id already.") from error
        return self.get(values["id"])

    def get(self, name_or_id: str) -> Principal:
        """Raises NotFound."""
        found = self.find(name_or_id)
        if found is None:
            raise NotFound(f"There is no principal '{name_or_id}'. `tunery principals list` shows them.")
        return found

    def find(self, name_or_id: str) -> Principal | None:
        matches = sa.or_(principals.c.id == name_or_id, principals.c.name_folded == name_or_id.casefold())
        # An id is found before a name that was chosen to look like it.
        order = sa.case((principals.c.id == name_or_id, 0), else_=1)
        with self._store.database.read() as connection:
            return one(connection, Principal, sa.select(principals).where(matches).order_by(order))

    def known(self, object_id: str, issuer: str) -> tuple[Principal, tuple[Assignment, ...]] | None:
        """The principal that an issuer calls so, with its roles; None if there is none."""
        mine = sa.and_(principals.c.id == object_id, principals.c.issuer == issuer)
        with self._store.database.read() as connection:
            found = one(connection, Principal, sa.select(principals).where(mine))
            if found is None:
                return None
            held = sa.select(assignments).where(assignments.c.principal_id == found.id)
            return found, tuple(many(connection, Assignment, held))

    def all(self) -> list[Principal]:
        with self._store.database.read() as connection:
            return many(connection, Principal, sa.select(principals).order_by(principals.c.name_folded))

    def remove(self, principal: Principal) -> None:
        """With its roles; its tokens end with it."""
        with self._store.database.begin() as connection:
            connection.execute(sa.delete(principals).where(principals.c.id == principal.id))

    # --- secrets ---

    def set_secret(self, principal: Principal, password: str | None = None) -> str:
        """Give it a new secret, made up unless a password is given, and return it: only its hash is kept."""
        if principal.issuer:
            raise InvalidRequest(f"'{principal.name}' signs in with {principal.issuer}, which keeps its secret.")
        check_password(password)
        secret = password or secrets.token_urlsafe(32)
        fresh = {"secret_hash": self._hasher.hash(secret), "failures": 0, "locked_until": 0}
        self._update(principal, fresh)
        return secret

    def holds(self, principal: Principal, secret: str) -> bool:
        """Whether it is the principal's secret; for our own use, so a wrong one isn't counted."""
        return self._holds(principal.secret_hash, secret)

    def prove(self, name_or_id: str, secret: str, kind: PrincipalKind) -> Principal:
        """The principal whose secret it is.

        Raises:
            SignInRefused: no such principal or a wrong secret; neither words nor time say which of the two.
            SignInThrottled: after too many wrong ones.
        """
        principal = self.find(name_or_id)
        usable = principal is not None and principal.kind == kind and principal.secret_hash is not None
        wait = 0 if principal is None else principal.locked_until - self._store.now()
        if wait > 0:
            raise SignInThrottled(f"Too many wrong secrets. The next try is possible in {wait} s.", retry_after=wait)
        if principal is None or not usable:
            self._holds(self._nobody, secret)  # takes as long
            raise SignInRefused
        if not self._holds(principal.secret_hash, secret):
            self._note_failure(principal)
            raise SignInRefused
        if principal.failures:
            self._update(principal, {"failures": 0, "locked_until": 0})
        return principal

    def _holds(self, secret_hash: str | None, secret: str) -> bool:
        if secret_hash is None:
            return False
        try:
            return self._hasher.verify(secret_hash, secret)
        except VerifyMismatchError:
            return False

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash(secrets.token_urlsafe(32))

    def _note_failure(self, principal: Principal) -> None:
        failures = principal.failures + 1
        past = failures - FREE_FAILURES
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**past) if past >= 0 else 0
        self._update(principal, {"failures": failures, "locked_until": self._store.now() + wait if wait else 0})

    def _update(self, principal: Principal, values: dict[str, Any]) -> None:
        with self._store.database.begin() as connection:
            connection.execute(sa.update(principals).where(principals.c.id == principal.id).values(values))

    # --- roles ---

    def assign(self, principal: Principal, role: str, scope: str, *, by: str) -> Assignment:
        """Give it a role on a scope; the one it holds there already is left as it is."""
        role, scope = roles.named_role(role), roles.folded(roles.checked_scope(role, scope))
        values = {
            "id": str(uuid.uuid4()),
            "principal_id": principal.id,
            "role": role,
            "scope": scope,
            "created_at": self._store.now(),
            "created_by": by,
        }
        with self._store.database.begin() as connection:
            held = one(connection, Assignment, sa.select(assignments).where(_held(principal, role, scope)))
            if held is None:
                connection.execute(sa.insert(assignments).values(values))
                held = one(connection, Assignment, sa.select(assignments).where(_held(principal, role, scope)))
        assert held is not None
        return held

    def unassign(self, principal: Principal, role: str, scope: str) -> None:
        """Raises NotFound if it doesn't hold that role exactly there."""
        role, scope = roles.named_role(role), roles.folded(scope)
        with self._store.database.begin() as connection:
            gone = connection.execute(sa.delete(assignments).where(_held(principal, role, scope))).rowcount
        if not gone:
            raise NotFound(f"'{principal.name}' doesn't hold the role '{role}' on {scope or '/'}.")

    def assignments(self) -> list[tuple[Principal, Assignment]]:
        with self._store.database.read() as connection:
            held = many(connection, Assignment, sa.select(assignments).order_by(assignments.c.created_at))
        known = {principal.id: principal for principal in self.all()}
        return [(known[one.principal_id], one) for one in held if one.principal_id in known]


def check_password(password: str | None) -> None:
    """Raises InvalidRequest for one that is too short."""
    if password is not None and len(password) < SHORTEST_PASSWORD:
        raise InvalidRequest(f"A password has at least {SHORTEST_PASSWORD} characters.", param="password")


def _held(principal: Principal, role: str, scope: str) -> sa.ColumnElement[bool]:
    return sa.and_(assignments.c.principal_id == principal.id, assignments.c.role == role, assignments.c.scope == scope)
