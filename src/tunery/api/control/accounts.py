"""Accounts and their keys through ARM (contract.md 4.1, 4.6)."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery import roles
from tunery.accounts import Accounts, Wanted
from tunery.api.control.rendering import iso, system_data
from tunery.api.control.scope import ACCOUNT, GROUP, PROVIDER, SUBSCRIPTION, ArmCall, Control, host
from tunery.api.rights import operation_of
from tunery.api.wire import JsonBody, decode
from tunery.errors import InvalidRequest
from tunery.groups import Groups
from tunery.records import Account

router = APIRouter()

KEY_NAMES = {"key1": 1, "key2": 2}


class Sku(msgspec.Struct, frozen=True):
    name: str


class Acls(msgspec.Struct, frozen=True):
    defaultAction: str = "Allow"
    ipRules: list[Any] | None = None
    virtualNetworkRules: list[Any] | None = None


class Properties(msgspec.Struct, frozen=True):
    customSubDomainName: str | None = None
    disableLocalAuth: bool | None = None
    publicNetworkAccess: str | None = None
    networkAcls: Acls | None = None
    encryption: Any = None
    userOwnedStorage: Any = None
    restore: bool = False


class Body(msgspec.Struct, frozen=True):
    """Of PUT and PATCH; what is left out stays as it is, or begins as Azure has it."""

    location: str | None = None
    kind: str | None = None
    sku: Sku | None = None
    properties: Properties = Properties()
    tags: dict[str, str] | None = None


class KeyBody(msgspec.Struct, frozen=True):
    keyName: str


@router.put(ACCOUNT)
def put(request: Request, call: Control, body: JsonBody) -> Response:
    given = decode(body, Body)
    if call.found is None and given.location is None:
        raise InvalidRequest("The location is missing: where is the account to be?", code="LocationRequired")
    stored, new = _accounts(request).put(
        call.subscription, str(call.group), str(call.name), _wanted(given), by=call.caller.name
    )
    return JSONResponse(shown(stored, request), 201 if new else 200)


@router.patch(ACCOUNT)
def patch(request: Request, call: Control, body: JsonBody) -> Response:
    stored = _accounts(request).patch(call.account, _wanted(decode(body, Body)))
    return JSONResponse(shown(stored, request))


@router.get(ACCOUNT)
def show(request: Request, call: Control) -> Response:
    return JSONResponse(shown(call.account, request))


@router.delete(ACCOUNT)
def delete(request: Request, call: Control) -> Response:
    """For good, at once: there is no recovery and nothing to purge."""
    if call.found is None:
        return Response(status_code=204)
    _accounts(request).delete(call.found)
    return Response(status_code=200)


@router.get(f"{GROUP}/providers/{PROVIDER}/accounts")
def list_in_group(request: Request, call: Control) -> Response:
    groups: Groups = request.app.state.groups
    group = groups.get(call.subscription, str(call.group))
    found = [account for account in _in_subscription(request, call) if account.resource_group == group.name]
    return JSONResponse({"value": [shown(account, request) for account in found]})


@router.get(f"{SUBSCRIPTION}/providers/{PROVIDER}/accounts")
def list_in_subscription(request: Request, call: Control) -> Response:
    found = _in_subscription(request, call)
    return JSONResponse({"value": [shown(account, request) for account in found]})


@router.post(ACCOUNT + "/listKeys")
def list_keys(request: Request, call: Control) -> Response:
    return _keys(_accounts(request).keys(call.account))


@router.post(ACCOUNT + "/regenerateKey")
def regenerate_key(request: Request, call: Control, body: JsonBody) -> Response:
    name = decode(body, KeyBody).keyName
    if name.lower() not in KEY_NAMES:
        raise InvalidRequest(f"keyName is {name!r}; it may be Key1 or Key2.", param="keyName")
    return _keys(_accounts(request).regenerate(call.account, KEY_NAMES[name.lower()]))


def shown(account: Account, request: Request) -> dict[str, Any]:
    """The wire's account object; its endpoint is on the host that the caller came to."""
    endpoint = f"{host(request)}/accounts/{account.sub_domain}/"
    properties = {
        "endpoint": endpoint,
        "endpoints": {"OpenAI Language Model Instance API": endpoint},
        "provisioningState": "Succeeded",
        "customSubDomainName": account.sub_domain,
        "capabilities": [],
        "disableLocalAuth": account.disable_local_auth,
        "publicNetworkAccess": "Enabled",
        "networkAcls": {"defaultAction": "Allow", "ipRules": [], "virtualNetworkRules": []},
        "dateCreated": iso(account.created_at),
    }
    return {
        "id": account.arm_id,
        "name": account.name,
        "type": f"{PROVIDER}/accounts",
        "location": account.location,
        "kind": account.kind,
        "sku": {"name": "S0"},
        "etag": f'"{account.etag}"',
        "tags": account.tags,
        "systemData": system_data(by=account.created_by, created_at=account.created_at, updated_at=account.updated_at),
        "properties": properties,
    }


def _wanted(body: Body) -> Wanted:
    properties = body.properties
    _refuse_unkept(properties)
    return Wanted(
        location=body.location,
        kind=body.kind,
        sku=None if body.sku is None else body.sku.name,
        sub_domain=properties.customSubDomainName,
        disable_local_auth=properties.disableLocalAuth,
        tags=body.tags,
    )


def _refuse_unkept(properties: Properties) -> None:
    """Protection that somebody asks for and wouldn't get must not look granted."""
    acls = properties.networkAcls or Acls()
    asked = {
        "publicNetworkAccess": (properties.publicNetworkAccess or "Enabled").lower() != "enabled",
        "networkAcls": acls.defaultAction.lower() != "allow" or bool(acls.ipRules or acls.virtualNetworkRules),
        "encryption": properties.encryption is not None,
        "userOwnedStorage": bool(properties.userOwnedStorage),
        "restore": properties.restore,
    }
    for name, wanted in asked.items():
        if wanted:
            raise InvalidRequest(
                f"properties.{name} asks for something that this service doesn't do. Leave it out; who reaches the "
                "service is decided by the address it listens on, and a deleted account can't be recovered.",
                param=f"properties.{name}",
            )


def _in_subscription(request: Request, call: ArmCall) -> list[Account]:
    """Those that the caller may read."""
    operation, subscription = operation_of(request), call.subscription.lower()
    return [
        found
        for found in _accounts(request).all()
        if found.subscription_id == subscription and roles.may(call.caller, operation, found)
    ]


def _keys(keys: tuple[str, str]) -> Response:
    return JSONResponse({"key1": keys[0], "key2": keys[1]})


def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts
