"""Proofs in, callers out: who sends this key or this bearer token? Knows no HTTP."""

import hmac
import uuid

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from tunery.accounts import Accounts
from tunery.errors import Unauthorized
from tunery.keyfiles import owner_only, service_secret
from tunery.records import Account
from tunery.settings import Settings
from tunery.store import Store

ALGORITHM = "RS256"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who proved who he is. `account` is set where the proof (a key) is bound to one."""

    name: str
    kind: str
    """Key or User, as ARM's systemData spells it."""
    account: Account | None = None


class Access:
    """Proofs in, callers out."""

    def __init__(self, store: Store, settings: Settings, accounts: Accounts) -> None:
        self._store = store
        self._settings = settings
        self._accounts = accounts
        self._signing_key = RSAKey.import_key(
            owner_only(settings.home / "signing.pem", lambda: RSAKey.generate_key(2048).as_pem(private=True))
        )
        derived = hmac.digest(service_secret(settings.home), b"tenant", "sha256")
        self.tenant_id = settings.tenant_id or str(uuid.UUID(bytes=derived[:16]))

    def by_key(self, key: str) -> Caller:
        """Raises Unauthorized for anything but a valid key, LocalAuthDisabled where its account takes none."""
        return Caller(name="key", kind="Key", account=self._accounts.by_key(key))

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
