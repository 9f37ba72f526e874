"""Principals for tests, and how they sign in at a live service's own authority."""

import secrets
from typing import Any, NamedTuple

import requests

from tests.live import Doors
from tests.waiting import PATIENCE
from tunery.records import PrincipalKind

DATA_SCOPE = "https://cognitiveservices.azure.com/.default"
AZ_CLIENT = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"


class Known(NamedTuple):
    id: str
    name: str
    secret: str


def make(service: Doors, *roles: str, scope: str | None = None, user: bool = False) -> Known:
    """A fresh principal that holds these roles on the service's account, or on `scope`."""
    principals = service.rooms.access.principals
    kind = PrincipalKind.USER if user else PrincipalKind.APPLICATION
    made = principals.add(f"p-{secrets.token_hex(4)}", kind)
    for role in roles:
        principals.assign(made, role, scope or service.account.arm_id, by="tests")
    return Known(made.id, made.name, principals.set_secret(made))


def post(service: Doors, endpoint: str, form: dict[str, str]) -> requests.Response:
    url = f"{service.rooms.settings.tls_endpoint}/adfs/oauth2/{endpoint}"
    return requests.post(url, data=form, verify=str(service.ca), timeout=PATIENCE)


def arm_scope(service: Doors) -> str:
    """With the double slash that az writes."""
    return f"{service.rooms.settings.arm_audience}/.default"


def token(service: Doors, known: Known, scope: str | None = None) -> str:
    """An access token by client credentials, for ARM unless a scope is given."""
    form = {"grant_type": "client_credentials", "client_id": known.id, "client_secret": known.secret}
    answer = post(service, "token", {**form, "scope": scope or arm_scope(service)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def bearer(access_token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {access_token}"}}
