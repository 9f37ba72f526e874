"""Proofs in, callers out: who sends this key or this bearer token? Knows no HTTP."""

import hmac
import uuid

from tunery import issuers
from tunery.accounts import Accounts
from tunery.errors import Unauthorized, WrongState
from tunery.issuers import Trusted
from tunery.keyfiles import owner_only, service_secret
from tunery.principals import Principals
from tunery.records import Assignment, Principal, PrincipalKind
from tunery.roles import OWNER, Caller
from tunery.settings import Settings
from tunery.store import Store
from tunery.tokens import Tokens, new_key

OWNER_CLIENT = "tunery-owner"
EVERYTHING = Assignment(id="home", principal_id="home", role=OWNER, scope="", created_at=0, created_by="home")
"""What a token that was made with this home's own secrets stands for."""


class Access:
    """Proofs in, callers out."""

    def __init__(self, store: Store, settings: Settings, accounts: Accounts) -> None:
        self._settings = settings
        self._accounts = accounts
        self._secret = service_secret(settings.home)
        self.tenant_id = settings.tenant_id or self._derived_id("tenant")
        self.tokens = Tokens(store, settings, owner_only(settings.home / "signing.pem", new_key), self.tenant_id)
        self.principals = Principals(store)
        self._issuers = {one.issuer: Trusted(one, store.clock) for one in settings.issuers}

    def by_key(self, key: str) -> Caller:
        """Raises Unauthorized for anything but a valid key, LocalAuthDisabled where its account takes none."""
        return Caller(name="key", kind="Key", account=self._accounts.by_key(key))

    def by_token(self, token: str, *, audience: str) -> Caller:
        """Of our own authority or of an outside one.

        Raises Unauthorized unless the token is valid, for this audience, and of a principal that is known here.
        """
        issuer = issuers.claimed_issuer(token)
        if issuer in self._issuers:
            return self._known(issuers.object_id(self._issuers[issuer].verify(token)), issuer)
        claims = self.tokens.verify(token, audience)
        object_id = str(claims.get("oid"))
        if claims.get("owner") is True:
            return Caller(id=object_id, name=str(claims["sub"]), kind=PrincipalKind.USER, assignments=(EVERYTHING,))
        return self._known(object_id, issuer="")

    def again(self, principal_id: str) -> Caller:
        """Of a principal that proved itself earlier, with the roles it has now. Raises Unauthorized if it is gone."""
        principal = self.principals.find(principal_id)
        if principal is None or principal.id != principal_id:
            raise Unauthorized("The principal isn't known here any more.")
        return self._known(principal_id, principal.issuer)

    def owner(self) -> Caller:
        """Whoever can read this home's secrets."""
        return Caller(id=self._derived_id("owner"), name="owner", kind=PrincipalKind.USER, assignments=(EVERYTHING,))

    def _known(self, object_id: str, issuer: str) -> Caller:
        found = self.principals.known(object_id, issuer)
        if found is None:
            whose = f" of {issuer}" if issuer else ""
            raise Unauthorized(f"The principal with the object id '{object_id}'{whose} isn't known here.")
        principal, assignments = found
        return Caller(id=principal.id, name=principal.name, kind=principal.kind, assignments=assignments)

    def issue_token(self, *, name: str, audience: str) -> str:
        """For whoever can read this home's secrets, and so owns all of it: the holder may do everything."""
        life = self._settings.token_seconds
        return self.tokens.sign(audience, life, sub=name, oid=self._derived_id("owner"), owner=True)

    def owner_client(self) -> tuple[Principal, str]:
        """The service principal of this home's owner, made at the first call, and its secret.

        The secret is derived like an account's keys, so that it can be told again; the database has its hash alone.
        Raises WrongState if somebody gave the principal another one.
        """
        known = self.principals.find(OWNER_CLIENT)
        principal = known or self.principals.add(OWNER_CLIENT, PrincipalKind.APPLICATION)
        secret = self._derive(f"client:{principal.id}").hex()
        if principal.secret_hash is None:
            self.principals.assign(principal, OWNER, "/", by="tunery env --az")
            self.principals.set_secret(principal, secret)
            principal = self.principals.get(principal.id)
        if not self.principals.holds(principal, secret):
            raise WrongState(
                f"The secret of '{OWNER_CLIENT}' was changed: log in with the new one, or make a fresh principal with "
                f"`tunery principals remove {OWNER_CLIENT}` and `tunery env --az`."
            )
        return principal, secret

    def _derived_id(self, purpose: str) -> str:
        return str(uuid.UUID(bytes=self._derive(purpose)[:16]))

    def _derive(self, purpose: str) -> bytes:
        return hmac.digest(self._secret, purpose.encode(), "sha256")
