"""Outside authorities, such as Entra or Keycloak: their tokens, checked against their published keys."""

import base64
import binascii
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tunery.errors import IssuerUnavailable, Unauthorized
from tunery.settings import Issuer

logger = logging.getLogger(__name__)

ALGORITHMS = ["RS256", "PS256", "ES256"]
"""Asymmetric ones alone: with a shared secret a public key could sign."""
CLOCK_SKEW = 60
KEYS_SECONDS = 24 * 3600.0
"""After that long they are fetched again; until that succeeds, the old ones are believed."""
RETRY_SECONDS = 30.0
"""Between two fetches because of a key that isn't known, or that failed: strangers' tokens can't make us ask more."""
FETCH_SECONDS = 5.0
MOST_BYTES = 1 << 20
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Trusted:
    """One outside issuer and its keys."""

    def __init__(self, issuer: Issuer, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched = self._tried = float("-inf")

    def verify(self, token: str) -> dict[str, Any]:
        """The claims.

        Raises:
            Unauthorized: not this issuer's, not in its time, or for somebody else.
            IssuerUnavailable: its keys can't be had.
        """
        rules = jwt.JWTClaimsRegistry(
            now=int(self._clock()),
            leeway=CLOCK_SKEW,
            iss={"essential": True, "value": self._issuer.issuer},
            aud={"essential": True, "value": self._issuer.audience},
            exp={"essential": True},
        )
        try:
            decoded = jwt.decode(token, self._keys_for(_part(token, 0).get("kid")), algorithms=ALGORITHMS)
            rules.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise Unauthorized(f"The access token of {self._issuer.issuer} is invalid: {error}.") from error
        return decoded.claims

    def _keys_for(self, kid: object) -> KeySet:
        with self._lock:
            now = time.monotonic()
            stale = now - self._fetched > KEYS_SECONDS
            unknown = self._keys is None or kid not in [key.kid for key in self._keys]
            if (stale or unknown) and now - self._tried > RETRY_SECONDS:
                self._tried = now
                try:
                    self._keys, self._fetched = self._fetch(), now
                except IssuerUnavailable as error:
                    logger.warning("%s", error.message)
            if self._keys is None:
                raise IssuerUnavailable(f"The keys of {self._issuer.issuer} can't be read. The log says why.")
            return self._keys

    def _fetch(self) -> KeySet:
        where = self._issuer.issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            with httpx.Client(timeout=FETCH_SECONDS, follow_redirects=False) as client:
                found = _read(client, where)
                if found.get("issuer") != self._issuer.issuer:
                    raise ValueError(f"{where} is of another issuer")
                keys: Any = _read(client, str(found["jwks_uri"]))
                return KeySet.import_key_set(keys)
        except (httpx.HTTPError, JoseError, ValueError, KeyError) as error:
            raise IssuerUnavailable(
                f"The keys of {self._issuer.issuer} can't be read: {type(error).__name__}: {error}."
            ) from error


def claimed_issuer(token: str) -> str:
    """Who says to have signed it, unchecked; empty if it doesn't say."""
    return str(_part(token, 1).get("iss", ""))


def object_id(claims: dict[str, Any]) -> str:
    """Entra's object id; OpenID Connect's subject where an issuer has no such claim."""
    return str(claims.get("oid") or claims.get("sub") or "")


def _part(token: str, number: int) -> dict[str, Any]:
    try:
        part = token.split(".")[number]
        decoded = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, binascii.Error, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _read(client: httpx.Client, url: str) -> dict[str, Any]:
    """A JSON object, over TLS unless it is on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ValueError(f"{url} isn't https")
    with client.stream("GET", url) as response:
        response.raise_for_status()
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError(f"{url} answers with more than {MOST_BYTES} bytes")
    return msgspec.json.decode(body, type=dict[str, Any])
