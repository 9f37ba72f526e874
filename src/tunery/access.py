"""Accounts, their keys, and bearer tokens: who is calling, and for which account? Knows no HTTP.

Keys are derived: HMAC-SHA256 over the account's id and a generation counter under the service's secret, which lies in
the home folder, readable by its owner alone. The database holds only their hashes, so a stolen database opens nothing,
and listKeys can still answer. Regenerating a key raises its counter.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import sqlalchemy as sa
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from tunery.errors import Unauthorized
from tunery.records import Account
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import sync_folder
from tunery.store.database import accounts, many, one

KEY_LENGTH = 64
ALGORITHM = "RS256"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who proved who he is. `account` is set where the proof (a key) is bound to one."""

    name: str
    kind: str
    """Key or User, as ARM's systemData spells it."""
    account: Account | None = None


class Access:
    """Proofs in, callers out."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._secret = _owner_only(settings.home / "secret.key", lambda: secrets.token_bytes(32))
        self._signing_key = RSAKey.import_key(
            _owner_only(settings.home / "signing.pem", lambda: RSAKey.generate_key(2048).as_pem(private=True))
        )
        self.tenant_id = settings.tenant_id or str(uuid.UUID(bytes=self._derive("tenant")[:16]))

    def first_account(self) -> Account:
        """The account of the first start; makes it if there is none."""
        with self._store.database.read() as connection:
            account = one(connection, Account, sa.select(accounts).order_by(accounts.c.id))
        return account or self._make_account()

    def account(self, name: str) -> Account | None:
        """By name in any case; names are unique as the sub-domains of Azure's endpoints are."""
        with self._store.database.read() as connection:
            return one(connection, Account, sa.select(accounts).where(sa.func.lower(accounts.c.name) == name.lower()))

    def accounts(self) -> list[Account]:
        with self._store.database.read() as connection:
            return many(connection, Account, sa.select(accounts).order_by(accounts.c.id))

    def keys(self, account: Account) -> tuple[str, str]:
        first, second = account.key_generations
        return self._key(account.name, 1, first), self._key(account.name, 2, second)

    def by_key(self, key: str) -> Caller:
        """Raises Unauthorized for anything but a valid key; lookups and comparisons see hashes only."""
        digest = _hash(key)
        query = sa.select(accounts).where(sa.or_(accounts.c.key1_hash == digest, accounts.c.key2_hash == digest))
        with self._store.database.read() as connection:
            account = one(connection, Account, query)
        if account is None or not any(hmac.compare_digest(key, mine) for mine in self.keys(account)):
            raise Unauthorized
        return Caller(name="key", kind="Key", account=account)

    def issue_token(self, *, name: str, audience: str) -> str:
        now = self._store.now()
        claims = {
            "iss": f"{self._settings.tls_endpoint}/adfs",
            "aud": audience,
            "tid": self.tenant_id,
            "sub": name,
            "iat": now,
            "nbf": now - 60,
            "exp": now + self._settings.token_seconds,
        }
        return jwt.encode({"alg": ALGORITHM, "kid": self._signing_key.thumbprint()}, claims, self._signing_key)

    def by_token(self, token: str, *, audience: str) -> Caller:
        """Raises Unauthorized unless the token is ours, unexpired, of this tenant and for this audience."""
        rules = jwt.JWTClaimsRegistry(
            now=self._store.now(),
            aud={"essential": True, "value": audience},
            tid={"essential": True, "value": self.tenant_id},
            exp={"essential": True},
        )
        try:
            decoded = jwt.decode(token, self._signing_key, algorithms=[ALGORITHM])
            rules.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise Unauthorized(f"The access token is invalid: {error}. `tunery env` prints a fresh one.") from error
        return Caller(name=str(decoded.claims["sub"]), kind="User")

    def _make_account(self) -> Account:
        settings = self._settings
        values = {
            "subscription_id": settings.subscription_id or str(uuid.uuid4()),
            "resource_group": settings.resource_group,
            "name": settings.account,
            "location": settings.location,
            "created_at": self._store.now(),
            "key_generations": (1, 1),
            "key1_hash": _hash(self._key(settings.account, 1, 1)),
            "key2_hash": _hash(self._key(settings.account, 2, 1)),
        }
        with self._store.database.begin() as connection:
            connection.execute(sa.insert(accounts).values(values))
        return self.first_account()

    def _key(self, account: str, number: int, generation: int) -> str:
        return self._derive(f"key:{account}:{number}:{generation}").hex()[:KEY_LENGTH]

    def _derive(self, purpose: str) -> bytes:
        return hmac.digest(self._secret, purpose.encode(), "sha256")


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _owner_only(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of a secret file; made at first use, whole and readable by its owner alone from the first instant."""
    if not path.exists():
        staged = path.with_suffix(f".{secrets.token_hex(8)}")
        descriptor = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(make())
            stream.flush()
            os.fsync(stream.fileno())
        # link, not rename: of two processes that start at once the first one's secret stands.
        with contextlib.suppress(FileExistsError):
            os.link(staged, path)
        staged.unlink()
        sync_folder(path.parent)
    return path.read_bytes()
