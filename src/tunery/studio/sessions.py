"""Who is signed in: a random cookie, and a row that says what it stands for. Nothing secret reaches the browser.

Every use proves the row again: a regenerated key, a new password, a removed principal or a lost role counts at once.
"""

import hashlib
import secrets

import sqlalchemy as sa

from tunery import roles
from tunery.errors import SignInRefused, Unauthorized
from tunery.records import Account, PrincipalKind, Record
from tunery.roles import Caller
from tunery.rooms import Services
from tunery.settings import DATA_PLANE_AUDIENCE
from tunery.store.database import one
from tunery.store.tables import studio_sessions

KEY, PRINCIPAL, OWNER, LINK = "key", "principal", "owner", "link"
LINK_SECONDS = 300
COOKIE_PATH = "/studio"


class Session(Record, frozen=True, kw_only=True):
    """What a cookie stands for."""

    token_hash: str
    kind: str
    name: str
    principal_id: str | None = None
    account_id: int | None = None
    """The account that is looked at; a key's own."""
    mark: str = ""
    """Of the key or password that was proved: changes with it."""
    created_at: int
    expires_at: int


class Sessions:
    """Proofs in, cookies out; cookies in, callers out."""

    def __init__(self, rooms: Services) -> None:
        self._rooms = rooms
        self._store = rooms.store
        self._seconds = rooms.settings.studio_session_seconds
        self.cookie = f"tunery_studio_{rooms.settings.port}"
        """Cookies know no port, and two services may run on one machine."""

    def by_key(self, key: str) -> str:
        """Raises Unauthorized for anything but a valid key, LocalAuthDisabled where its account takes none."""
        account = self._rooms.accounts.by_key(key)
        mark = str(self._rooms.accounts.generation(account, key))
        return self._begin(KEY, name="key", account_id=account.id, mark=mark)

    def by_password(self, name: str, secret: str) -> str:
        """A user's password, or a service principal's secret. Raises SignInRefused, SignInThrottled."""
        principals = self._rooms.access.principals
        known = principals.find(name)
        kind = PrincipalKind.USER if known is None else known.kind
        proved = principals.prove(name, secret, kind)
        return self._begin(
            PRINCIPAL, name=proved.name, principal_id=proved.id, mark=_digest(principals.get(proved.id).secret_hash)
        )

    def by_token(self, token: str) -> str:
        """A bearer token of the data plane, also of an outside issuer. Raises Unauthorized."""
        caller = self._rooms.access.by_token(token, audience=DATA_PLANE_AUDIENCE)
        assert caller.id is not None
        known = self._rooms.access.principals.find(caller.id)
        if known is None:
            return self._begin(OWNER, name=caller.name)
        return self._begin(PRINCIPAL, name=known.name, principal_id=known.id, mark=_digest(known.secret_hash))

    def link(self) -> str:
        """A token that signs in once, as whoever can read this home's secrets: `tunery studio` prints it."""
        return self._begin(LINK, name="link", seconds=LINK_SECONDS)

    def by_link(self, token: str) -> str:
        """Raises SignInRefused."""
        live = sa.and_(_named(token), studio_sessions.c.kind == LINK, studio_sessions.c.expires_at > self._store.now())
        with self._store.database.begin() as connection:
            used = connection.execute(sa.delete(studio_sessions).where(live)).rowcount
        if not used:
            raise SignInRefused("The link was used already or is too old. `tunery studio` prints a new one.")
        return self._begin(OWNER, name="owner")

    def end(self, cookie: str) -> None:
        with self._store.database.begin() as connection:
            connection.execute(sa.delete(studio_sessions).where(_named(cookie)))

    def choose(self, cookie: str, account: Account) -> None:
        """Look at another account from now on."""
        with self._store.database.begin() as connection:
            connection.execute(sa.update(studio_sessions).where(_named(cookie)).values(account_id=account.id))

    def caller(self, cookie: str) -> tuple[Caller, Account]:
        """Who it is, with the rights of now, and the account looked at. Raises Unauthorized if it is over."""
        session = self._find(cookie)
        if session is None or session.kind == LINK:
            raise Unauthorized("The session is over. Sign in again.")
        caller = self._proved(session)
        return caller, caller.account or self._account(session, caller)

    def accounts(self, caller: Caller) -> list[Account]:
        """Those the caller may look at."""
        if caller.account is not None:
            return [caller.account]
        return [account for account in self._rooms.accounts.all() if roles.sees(caller, account)]

    def _proved(self, session: Session) -> Caller:
        if session.kind == OWNER:
            return self._rooms.access.owner()
        if session.kind == KEY:
            account = next((one for one in self._rooms.accounts.all() if one.id == session.account_id), None)
            if account is None or account.disable_local_auth or int(session.mark) not in account.key_generations:
                raise Unauthorized("The key of this session isn't valid any more. Sign in again.")
            return Caller(name="key", kind="Key", account=account)
        assert session.principal_id is not None
        caller = self._rooms.access.again(session.principal_id)
        if _digest(self._rooms.access.principals.get(session.principal_id).secret_hash) != session.mark:
            raise Unauthorized("The password was changed. Sign in again.")
        return caller

    def _account(self, session: Session, caller: Caller) -> Account:
        visible = self.accounts(caller)
        if not visible:
            raise SignInRefused(f"'{caller.name}' holds no role here. `tunery roles add` gives one.")
        return next((account for account in visible if account.id == session.account_id), visible[0])

    def _begin(self, kind: str, *, name: str, seconds: int | None = None, **more: str | int | None) -> str:
        cookie = secrets.token_urlsafe(32)
        now = self._store.now()
        row = {"token_hash": _digest(cookie), "kind": kind, "name": name, "mark": "", "created_at": now, **more}
        row["expires_at"] = now + (self._seconds if seconds is None else seconds)
        with self._store.database.begin() as connection:
            connection.execute(sa.delete(studio_sessions).where(studio_sessions.c.expires_at <= now))
            connection.execute(sa.insert(studio_sessions).values(row))
        return cookie

    def _find(self, cookie: str) -> Session | None:
        live = sa.and_(_named(cookie), studio_sessions.c.expires_at > self._store.now())
        with self._store.database.read() as connection:
            return one(connection, Session, sa.select(studio_sessions).where(live))


def _named(cookie: str) -> sa.ColumnElement[bool]:
    return studio_sessions.c.token_hash == _digest(cookie)


def _digest(text: str | None) -> str:
    return hashlib.sha256((text or "").encode()).hexdigest()
