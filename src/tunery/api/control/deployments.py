"""Deployments of an account through ARM (contract.md 4.1 to 4.3)."""

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery import roles
from tunery.accounts import Accounts
from tunery.api.control.operations import poll_headers
from tunery.api.control.rendering import iso, system_data
from tunery.api.control.scope import ACCOUNT, PROVIDER, ArmCall, Control
from tunery.api.wire import JsonBody, decode, in_words
from tunery.deploying import LARGEST_CAPACITY, SKUS, Deployer, Wanted
from tunery.deployments import Deployments
from tunery.errors import Forbidden, InvalidRequest
from tunery.idle import End, IdleRule
from tunery.records import Account, Deployment
from tunery.settings import Settings
from tunery.throttle import PerMinute, per_minute
from tunery.weights import Agreement

router = APIRouter()

PARAMETERS = {
    "model": "properties.model.name",
    "version": "properties.model.version",
    "source": "properties.model.source",
    "sku": "sku.name",
    "capacity": "sku.capacity",
    "quantization": "properties.quantization",
}
"""What ARM calls what a deployment is made of."""


class ModelBody(msgspec.Struct, frozen=True):
    name: str
    format: str = "OpenAI"
    version: str = "1"
    source: str | None = None
    """ARM id of the account that has the model, if it isn't the one of the path."""
    sourceAccount: str | None = None
    """The same, as it is called across tenants."""


class Properties(msgspec.Struct, frozen=True):
    model: ModelBody
    quantization: str | msgspec.UnsetType | None = msgspec.UNSET
    """Ours: of the weights, as engines call it."""
    deploymentState: Literal["Running", "Paused"] | None = None


class Sku(msgspec.Struct, frozen=True):
    name: str = "Standard"
    capacity: int | str | None = None
    """az sends a string, SDKs a number."""


class PutBody(msgspec.Struct, frozen=True):
    properties: Properties
    sku: Sku = Sku()
    tags: dict[str, str] | None = None


class PatchBody(msgspec.Struct, frozen=True):
    sku: Sku | None = None
    tags: dict[str, str] | None = None


@router.post(ACCOUNT + "/deployments/{deployment}")
@router.put(ACCOUNT + "/deployments/{deployment}")
def put(request: Request, call: Control, deployment: str, body: JsonBody) -> Response:
    """Create or update. POST does the same: the guide's curl line says POST."""
    account, wanted = call.account, _wanted(decode(body, PutBody))
    owner = _owner(request, call, wanted.source)
    with in_words(PARAMETERS):
        stored, new = _deployer(request).put(account, deployment, wanted, by=call.caller.name, owner=owner)
    request.app.state.reconcile.set()
    return JSONResponse(_shown(request, account, stored), 201 if new else 200, poll_headers(request, account, stored))


@router.get(ACCOUNT + "/deployments/{deployment}")
def show(request: Request, call: Control, deployment: str) -> Response:
    return JSONResponse(_shown(request, call.account, _deployments(request).get(call.account.id, deployment)))


@router.get(ACCOUNT + "/deployments")
def list_deployments(request: Request, call: Control) -> Response:
    found = _deployments(request).all(call.account.id)
    ends = _idle(request).ends(found)
    settings = _settings(request)
    return JSONResponse({"value": [shown(one, call.account, settings, ends.get(one.name)) for one in found]})


@router.patch(ACCOUNT + "/deployments/{deployment}")
def patch(request: Request, call: Control, deployment: str, body: JsonBody) -> Response:
    change = decode(body, PatchBody)
    sku = change.sku or Sku(name="")
    with in_words(PARAMETERS):
        stored = _deployer(request).patch(
            call.account.id, deployment, sku_name=sku.name or None, capacity=_capacity(sku), tags=change.tags
        )
    return JSONResponse(_shown(request, call.account, stored))


@router.delete(ACCOUNT + "/deployments/{deployment}")
def delete(request: Request, call: Control, deployment: str) -> Response:
    gone = _deployments(request).delete(call.account.id, deployment)
    return Response(status_code=200 if gone else 204)


@router.post(ACCOUNT + "/deployments/{deployment}/pause")
def pause(request: Request, call: Control, deployment: str) -> Response:
    """It stays loaded and goes on counting as a deployment; requests to it are refused."""
    return _paused(request, call, deployment, paused=True)


@router.post(ACCOUNT + "/deployments/{deployment}/resume")
def resume(request: Request, call: Control, deployment: str) -> Response:
    return _paused(request, call, deployment, paused=False)


@router.get(ACCOUNT + "/deployments/{deployment}/skus")
def skus(request: Request, call: Control, deployment: str) -> Response:
    """Any sku does: they are names here, except for how long a developer's deployment lives."""
    _deployments(request).get(call.account.id, deployment)
    capacity = {"minimum": 1, "maximum": LARGEST_CAPACITY, "step": 1}
    kind = "Microsoft.CognitiveServices/accounts/deployments"
    return JSONResponse({"value": [{"resourceType": kind, "sku": {"name": sku}, "capacity": capacity} for sku in SKUS]})


def _shown(request: Request, account: Account, deployment: Deployment) -> dict[str, Any]:
    return shown(deployment, account, _settings(request), _idle(request).ends([deployment]).get(deployment.name))


def shown(deployment: Deployment, account: Account, settings: Settings, end: End | None) -> dict[str, Any]:
    """The wire's deployment object. Ours: `quantization`, `quantizationChange`, `lastUsedAt` and `expectedDeletion`."""
    limits = per_minute(settings, deployment.units)
    model = {
        "format": deployment.model_format,
        "name": deployment.model,
        "version": deployment.model_version,
        **({} if deployment.source is None else {"source": deployment.source}),
    }
    properties = {
        "model": model,
        **({} if deployment.quantization is None else {"quantization": deployment.quantization}),
        **({} if deployment.agreement is None else {"quantizationChange": _change(deployment.agreement)}),
        "provisioningState": deployment.state,
        "versionUpgradeOption": "NoAutoUpgrade",
        **({} if deployment.capacity is None else {"currentCapacity": deployment.capacity}),
        **({} if limits is None else {"rateLimits": _rate_limits(limits)}),
        "deploymentState": "Paused" if deployment.paused else "Running",
        **({} if deployment.last_used_at is None else {"lastUsedAt": iso(deployment.last_used_at)}),
        **({} if end is None else {"expectedDeletion": _end(end)}),
        **({} if deployment.error is None else {"error": {"code": "DeploymentFailed", "message": deployment.error}}),
    }
    capacity = {} if deployment.capacity is None else {"capacity": deployment.capacity}
    return {
        "id": f"{account.arm_id}/deployments/{deployment.name}",
        "type": "Microsoft.CognitiveServices/accounts/deployments",
        "name": deployment.name,
        "sku": {"name": deployment.sku_name, **capacity},
        "properties": properties,
        "systemData": system_data(
            by=deployment.created_by, created_at=deployment.created_at, updated_at=deployment.updated_at
        ),
        "etag": f'"{deployment.etag}"',
        **({} if deployment.tags is None else {"tags": deployment.tags}),
    }


def _change(agreement: Agreement) -> dict[str, Any]:
    return {
        "places": agreement.places,
        "sameToken": agreement.same_token,
        "meanLogprobDifference": agreement.mean_difference,
        "largestLogprobDifference": agreement.largest_difference,
    }


def _end(end: End) -> dict[str, Any]:
    return {"at": iso(end.at), "runningSeconds": round(end.seconds), "reason": "sku" if end.developer else "idle"}


def _rate_limits(limits: PerMinute) -> list[dict[str, Any]]:
    return [
        {"key": "request", "renewalPeriod": 60, "count": limits.requests},
        {"key": "token", "renewalPeriod": 60, "count": limits.tokens},
    ]


def _wanted(body: PutBody) -> Wanted:
    model = body.properties.model
    return Wanted(
        model=model.name,
        model_format=model.format,
        model_version=model.version,
        source=model.source or model.sourceAccount,
        sku_name=body.sku.name,
        capacity=_capacity(body.sku),
        tags=body.tags,
        quantization=body.properties.quantization,
        paused=None if body.properties.deploymentState is None else body.properties.deploymentState == "Paused",
    )


def _capacity(sku: Sku) -> int | None:
    if sku.capacity is None:
        return None
    try:
        capacity = int(sku.capacity)
    except ValueError:
        capacity = 0
    if capacity < 1:
        raise InvalidRequest(f"sku.capacity is {sku.capacity!r}; it has to be 1 or more.", param="sku.capacity")
    return capacity


def _owner(request: Request, call: ArmCall, source: str | None) -> Account | None:
    """The account that `source` names: the caller needs the right to deploy there too.

    Raises:
        Forbidden: he hasn't, whether it exists or not. InvalidRequest: it isn't there.
    """
    if source is None or source.lower() == call.account.arm_id.lower():
        return None
    if not roles.may(call.caller, f"PUT {ACCOUNT}/deployments/{{deployment}}", source):
        raise Forbidden(
            f"The client '{call.caller.name}' may deploy to '{call.account.name}', but has no authorization to perform "
            f"'{PROVIDER}/accounts/deployments/write' on the linked scope '{source}', which is to give the model.",
            code="LinkedAuthorizationFailed",
        )
    accounts: Accounts = request.app.state.accounts
    owner = accounts.by_arm_id(source)
    if owner is None:
        raise InvalidRequest(
            f"The source '{source}' is not an account of this service. It is the ARM id of the account that tuned the "
            "model: /subscriptions/S/resourceGroups/G/providers/Microsoft.CognitiveServices/accounts/A.",
            param="properties.model.source",
            code="DeploymentModelNotSupported",
        )
    return owner


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _paused(request: Request, call: ArmCall, name: str, *, paused: bool) -> Response:
    stored = _deployments(request).pause(call.account.id, name, paused=paused)
    return JSONResponse(_shown(request, call.account, stored))


def _idle(request: Request) -> IdleRule:
    idle: IdleRule = request.app.state.idle
    return idle


def _deployer(request: Request) -> Deployer:
    deployer: Deployer = request.app.state.deployer
    return deployer


def _deployments(request: Request) -> Deployments:
    deployments: Deployments = request.app.state.deployments
    return deployments
