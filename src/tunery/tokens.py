"""JSON Web Tokens signed by this service (RFC 7519, RS256), and the keys that others check them with."""

from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey

from tunery.errors import Unauthorized
from tunery.settings import Settings
from tunery.store import Store

ALGORITHM = "RS256"
CLOCK_SKEW = 60


class Tokens:
    """Claims in, tokens out, and back."""

    def __init__(self, store: Store, settings: Settings, key: bytes, tenant_id: str) -> None:
        self._store = store
        self._key = RSAKey.import_key(key)
        self.issuer = f"{settings.tls_endpoint}/adfs"
        self.tenant_id = tenant_id

    def sign(self, audience: str, seconds: int, **claims: Any) -> str:
        now = self._store.now()
        stamped = {
            "iss": self.issuer,
            "aud": audience,
            "tid": self.tenant_id,
            "iat": now,
            "nbf": now - CLOCK_SKEW,
            "exp": now + seconds,
            **claims,
        }
        return jwt.encode({"alg": ALGORITHM, "kid": self._key.thumbprint()}, stamped, self._key)

    def verify(self, token: str, audience: str) -> dict[str, Any]:
        """The claims. Raises Unauthorized unless it is ours, in its time, of this tenant and for this audience."""
        rules = jwt.JWTClaimsRegistry(
            now=self._store.now(),
            iss={"essential": True},
            aud={"essential": True, "value": audience},
            tid={"essential": True, "value": self.tenant_id},
            exp={"essential": True},
        )
        try:
            decoded = jwt.decode(token, self._key, algorithms=[ALGORITHM])
            rules.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise Unauthorized(f"The access token is invalid: {error}. Sign in again for a fresh one.") from error
        return decoded.claims

    def published(self) -> dict[str, Any]:
        """The public key as a JWK set (RFC 7517)."""
        keys = KeySet([RSAKey.import_key(self._key.as_pem(private=False), {"use": "sig", "alg": ALGORITHM})])
        return dict(keys.as_dict())


def new_key() -> bytes:
    return RSAKey.generate_key(2048).as_pem(private=True)
