"""Subscriptions' resource groups, locations and the resource provider through ARM."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery import roles
from tunery.api.control.scope import GROUP, PROVIDER, SUBSCRIPTION, Control
from tunery.api.wire import JsonBody, decode
from tunery.errors import NotFound
from tunery.groups import Groups
from tunery.records import ResourceGroup
from tunery.settings import Settings

router = APIRouter()

API_VERSIONS = (
    "2026-05-15-preview",
    "2025-09-01",
    "2025-07-01-preview",
    "2025-06-01",
    "2024-10-01",
    "2023-05-01",
)
"""Those that clients were seen with, newest first; any well-formed one is taken."""
RESOURCE_TYPES = (
    "accounts",
    "accounts/deployments",
    "accounts/models",
    "accounts/skus",
    "accounts/usages",
    "locations",
    "locations/models",
    "locations/operations",
    "locations/usages",
    "modelCapacities",
    "skus",
)


class GroupBody(msgspec.Struct, frozen=True):
    location: str
    tags: dict[str, str] | None = None


@router.get(SUBSCRIPTION + "/resourceGroups")
def list_groups(request: Request, call: Control) -> Response:
    found = [shown(group) for group in _groups(request).all(call.subscription)]
    return JSONResponse({"value": [group for group in found if roles.sees(call.caller, group["id"])]})


@router.get(GROUP)
def show(request: Request, call: Control, group: str) -> Response:
    return JSONResponse(shown(_groups(request).get(call.subscription, group)))


@router.head(GROUP)
def exists(request: Request, call: Control, group: str) -> Response:
    """`az group exists` reads the status alone."""
    _groups(request).get(call.subscription, group)
    return Response(status_code=204)


@router.put(GROUP)
def put(request: Request, call: Control, group: str, body: JsonBody) -> Response:
    given = decode(body, GroupBody)
    stored, new = _groups(request).put(call.subscription, group, location=given.location, tags=given.tags)
    return JSONResponse(shown(stored), 201 if new else 200)


@router.delete(GROUP)
def delete(request: Request, call: Control, group: str) -> Response:
    """Only an empty one: accounts are deleted one by one, on purpose."""
    _groups(request).delete(call.subscription, group)
    return Response(status_code=200)


@router.get(SUBSCRIPTION + "/locations")
def locations(request: Request, call: Control) -> Response:
    names = _settings(request).all_locations
    return JSONResponse({"value": [_location(call.subscription, name) for name in names]})


@router.get(SUBSCRIPTION + "/providers")
def list_providers(request: Request, call: Control) -> Response:
    return JSONResponse({"value": [_provider(request, call.subscription)]})


@router.get(SUBSCRIPTION + "/providers/{provider}")
def show_provider(request: Request, call: Control, provider: str) -> Response:
    """What `az resource show` and `list` ask for the api-versions of a type."""
    _refuse_other(provider)
    return JSONResponse(_provider(request, call.subscription))


@router.post(SUBSCRIPTION + "/providers/{provider}/register")
def register(request: Request, call: Control, provider: str) -> Response:
    """There is nothing to register; tools that do it first go on."""
    _refuse_other(provider)
    return JSONResponse(_provider(request, call.subscription))


def shown(group: ResourceGroup) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{group.subscription_id}/resourceGroups/{group.name}",
        "name": group.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": group.location,
        "tags": group.tags,
        "properties": {"provisioningState": "Succeeded"},
    }


def _location(subscription: str, name: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription}/locations/{name}",
        "name": name,
        "type": "Region",
        "displayName": name,
        "regionalDisplayName": name,
        "metadata": {"regionType": "Physical", "regionCategory": "Recommended"},
    }


def _provider(request: Request, subscription: str) -> dict[str, Any]:
    where = _settings(request).all_locations
    return {
        "id": f"/subscriptions/{subscription}/providers/{PROVIDER}",
        "namespace": PROVIDER,
        "registrationPolicy": "RegistrationFree",
        "registrationState": "Registered",
        "resourceTypes": [
            {
                "resourceType": kind,
                "locations": where,
                "apiVersions": API_VERSIONS,
                "defaultApiVersion": API_VERSIONS[1],
            }
            for kind in RESOURCE_TYPES
        ],
    }


def _refuse_other(provider: str) -> None:
    if provider != PROVIDER:
        raise NotFound(
            f"The resource namespace '{provider}' isn't offered here; {PROVIDER} is.", code="InvalidResourceNamespace"
        )


def _groups(request: Request) -> Groups:
    groups: Groups = request.app.state.groups
    return groups


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
