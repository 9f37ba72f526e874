"""The built-in authority: proofs of identity in, tokens out, in the manner of AD FS (RFC 6749, RFC 8628). No HTTP.

az and MSAL take an authority whose path is /adfs as it is, with no question to any server of Microsoft's.
"""

import base64
import hashlib
import re
import secrets
from typing import Any

import msgspec
import sqlalchemy as sa

from tunery.errors import SignInRefused, SignInThrottled, Unauthorized, WrongClient
from tunery.principals import Principals
from tunery.records import DeviceCode, Principal, PrincipalKind
from tunery.settings import DATA_PLANE_AUDIENCE, Settings
from tunery.store import Store
from tunery.store.database import one
from tunery.store.tables import device_codes
from tunery.tokens import Tokens

CODE_SECONDS = 15 * 60
POLL_SECONDS = 2
MOST_PENDING_CODES = 100
USER_CODE_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so that no word comes out; nothing that looks like something else."""
OIDC_SCOPES = frozenset({"openid", "profile", "offline_access", "email"})
CLIENT_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
Form = dict[str, str]


class Authority:
    """Grants. Every method raises SignInRefused, with OAuth's code, for what it doesn't take."""

    def __init__(self, store: Store, settings: Settings, principals: Principals, tokens: Tokens) -> None:
        self._store = store
        self._settings = settings
        self._principals = principals
        self._tokens = tokens
        self._refresh_audience = f"{tokens.issuer}/refresh"
        self._grants = {
            "client_credentials": self._client_credentials,
            "password": self._password,
            "refresh_token": self._refresh,
            "device_code": self._device_code,
            "urn:ietf:params:oauth:grant-type:device_code": self._device_code,
        }

    def grant(self, form: Form) -> dict[str, Any]:
        """The token endpoint's answer to a form."""
        kind = form.get("grant_type", "")
        if kind not in self._grants:
            known = ", ".join(self._grants)
            # Not repeated: a form that was mixed up may have the secret here.
            raise SignInRefused(f"This grant_type isn't offered; it may be {known}.", code="unsupported_grant_type")
        return self._grants[kind](form)

    def begin_device(self, form: Form) -> DeviceCode:
        """A sign-in for another screen; `code_hash` of the result is, this once, the code itself."""
        code = secrets.token_urlsafe(32)
        begun = DeviceCode(
            code_hash=code,
            user_code="".join(secrets.choice(USER_CODE_ALPHABET) for _ in range(8)),
            client_id=_client_id(form),
            audience=self._audience(form),
            scopes=form.get("scope", ""),
            expires_at=self._store.now() + CODE_SECONDS,
        )
        row = msgspec.structs.asdict(msgspec.structs.replace(begun, code_hash=_digest(code)))
        with self._store.database.begin() as connection:
            connection.execute(sa.delete(device_codes).where(device_codes.c.expires_at <= self._store.now()))
            pending = connection.execute(sa.select(sa.func.count()).select_from(device_codes)).scalar_one()
            if pending >= MOST_PENDING_CODES:
                raise SignInThrottled("Too many device sign-ins are under way. Please try again later.", retry_after=60)
            connection.execute(sa.insert(device_codes).values(row))
        return begun

    def approve_device(self, user_code: str, name: str, password: str) -> None:
        """Let the sign-in behind this code through, as the user whose password it is."""
        typed = re.sub(r"[^A-Z]", "", user_code.upper())
        principal = self._principals.prove(name, password, PrincipalKind.USER)
        live = sa.and_(
            device_codes.c.user_code == typed,
            device_codes.c.expires_at > self._store.now(),
            device_codes.c.principal_id.is_(None),
        )
        with self._store.database.begin() as connection:
            approved = connection.execute(sa.update(device_codes).where(live).values(principal_id=principal.id))
        if not approved.rowcount:
            raise SignInRefused("No sign-in waits for this code. Ask the program for a new one.")

    def _client_credentials(self, form: Form) -> dict[str, Any]:
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        try:
            principal = self._principals.prove(client, secret, PrincipalKind.APPLICATION)
        except SignInRefused as error:
            raise WrongClient from error
        return self._answer(principal, self._audience(form))

    def _password(self, form: Form) -> dict[str, Any]:
        try:
            principal = self._principals.prove(form.get("username", ""), form.get("password", ""), PrincipalKind.USER)
        except SignInRefused as error:
            raise SignInRefused("The user name or the password is wrong.") from error
        return self._user_answer(principal, _client_id(form), self._audience(form), form.get("scope", ""))

    def _refresh(self, form: Form) -> dict[str, Any]:
        try:
            claims = self._tokens.verify(form.get("refresh_token", ""), self._refresh_audience)
        except Unauthorized as error:
            raise SignInRefused("The refresh token is expired or not ours. Sign in again.") from error
        principal = self._principals.find(str(claims.get("oid")))
        if principal is None or claims.get("secret") != _fingerprint(principal):
            raise SignInRefused("The user is gone or has a new password. Sign in again.")
        if claims.get("client_id") != _client_id(form):
            raise SignInRefused("The refresh token was given to another client.")
        scopes = form.get("scope") or str(claims.get("scope"))
        return self._user_answer(principal, _client_id(form), self._audience({**form, "scope": scopes}), scopes)

    def _device_code(self, form: Form) -> dict[str, Any]:
        code = _digest(form.get("device_code") or form.get("code", ""))
        with self._store.database.begin() as connection:
            found = one(connection, DeviceCode, sa.select(device_codes).where(device_codes.c.code_hash == code))
            if found is None or found.expires_at <= self._store.now():
                raise SignInRefused("This device code is unknown or has expired.", code="expired_token")
            if found.client_id != _client_id(form):
                raise SignInRefused("The device code was given to another client.")
            if found.principal_id is None:
                raise SignInRefused("Nobody has approved this sign-in yet.", code="authorization_pending")
            connection.execute(sa.delete(device_codes).where(device_codes.c.code_hash == code))
        principal = self._principals.get(found.principal_id)
        return self._user_answer(principal, found.client_id, found.audience, found.scopes)

    def _audience(self, form: Form) -> str:
        """Whom a token is asked for: `scope` names it with a permission behind it, az with one slash too many."""
        named = [scope for scope in form.get("scope", "").split() if scope not in OIDC_SCOPES]
        wanted = named[0].rpartition("/")[0] if named else form.get("resource", "")
        known = {audience.rstrip("/"): audience for audience in (self._settings.arm_audience, DATA_PLANE_AUDIENCE)}
        audience = known.get(wanted.rstrip("/"))
        if audience is None:
            choices = " or ".join(f"{name}/.default" for name in known)
            raise SignInRefused(f"Tokens are given out for the scope {choices} only.", code="invalid_scope")
        return audience

    def _answer(self, principal: Principal, audience: str) -> dict[str, Any]:
        seconds = self._settings.access_token_seconds
        claims: dict[str, Any] = {"sub": principal.id, "oid": principal.id, "ver": "1.0"}
        if principal.kind is PrincipalKind.APPLICATION:
            claims |= {"appid": principal.id, "idtyp": "app", "app_displayname": principal.name}
        else:
            claims |= {"upn": principal.name, "unique_name": principal.name, "idtyp": "user"}
        token = self._tokens.sign(audience, seconds, **claims)
        return {"token_type": "Bearer", "expires_in": seconds, "access_token": token, "resource": audience}

    def _user_answer(self, principal: Principal, client_id: str, audience: str, scopes: str) -> dict[str, Any]:
        """With what MSAL wants for a person: who it is, and the means to come back without the password."""
        who = {"sub": principal.id, "oid": principal.id, "upn": principal.name, "name": principal.name}
        who |= {"unique_name": principal.name, "preferred_username": principal.name}
        refresh = {"oid": principal.id, "client_id": client_id, "scope": scopes, "secret": _fingerprint(principal)}
        identity = msgspec.json.encode({"uid": principal.id, "utid": self._tokens.tenant_id})
        life = self._settings.refresh_token_seconds
        return {
            **self._answer(principal, audience),
            "scope": scopes,
            "id_token": self._tokens.sign(client_id, self._settings.access_token_seconds, **who),
            "refresh_token": self._tokens.sign(self._refresh_audience, life, **refresh),
            "refresh_token_expires_in": life,
            "client_info": base64.urlsafe_b64encode(identity).decode().rstrip("="),
        }


def _client_id(form: Form) -> str:
    """The program that asks, for a person: any public client. Its name is bound to what it is given."""
    client_id = form.get("client_id", "")
    if not CLIENT_ID.fullmatch(client_id):
        raise SignInRefused("client_id is missing or isn't one.", code="invalid_request")
    return client_id


def _fingerprint(principal: Principal) -> str:
    """Changes with the password, so that a new one ends every refresh token."""
    return _digest(principal.secret_hash or "")[:32]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
