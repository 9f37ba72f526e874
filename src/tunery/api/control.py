"""The ARM control plane: deployments of an account (contract.md 4.1 to 4.4, 4.7)."""

import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from tunery.access import Access, Caller
from tunery.api.wire import DATED, Call, Family, JsonBody, decode
from tunery.deployments import Deployments, Wanted, check_name
from tunery.errors import InvalidRequest, NotFound, Unauthorized
from tunery.records import Account, Deployment, DeploymentState

PROVIDER = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.CognitiveServices"
ACCOUNT = PROVIDER + "/accounts/{account}"
OPERATIONS = "/subscriptions/{subscription}/providers/Microsoft.CognitiveServices/locations/{location}/operations"
POLL_SECONDS = "1"


router = APIRouter()


class ModelBody(msgspec.Struct, frozen=True):
    name: str
    format: str = "OpenAI"
    version: str = "1"
    source: str | None = None


class Properties(msgspec.Struct, frozen=True):
    model: ModelBody


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


def control_plane(request: Request) -> Call:
    """The dependency of every ARM route: token, api-version and the account of the path are right, or ARM's error."""
    access: Access = request.app.state.access
    caller = _bearer(access, request)
    if "deployment" in request.path_params:
        # Before the version: the guide's curl line lacks the '?' and so carries its version in the name.
        check_name(request.path_params["deployment"])
    _check_version(request.query_params.get("api-version"))
    return Call(Family.ARM, caller, _account(access, request.path_params))


Control = Annotated[Call, Depends(control_plane)]


@router.post(ACCOUNT + "/deployments/{deployment}")
@router.put(ACCOUNT + "/deployments/{deployment}")
def put(request: Request, call: Control, deployment: str, body: JsonBody) -> Response:
    """Create or update. POST does the same: the guide's curl line says POST."""
    wanted = _wanted(decode(body, PutBody))
    stored, new = _deployments(request).put(call.account, deployment, wanted, by=call.caller.name)
    request.app.state.reconcile.set()
    headers = {}
    if stored.state == DeploymentState.CREATING:
        operation = f"{call.account.name}~{stored.name}"
        version = request.query_params["api-version"]
        path = OPERATIONS.format(subscription=call.account.subscription_id, location=call.account.location)
        url = f"{request.url.scheme}://{request.url.netloc}{path}/{operation}?api-version={version}"
        headers = {"Azure-AsyncOperation": url, "Retry-After": POLL_SECONDS}
    return JSONResponse(shown(stored, call.account), 201 if new else 200, headers)


@router.get(ACCOUNT + "/deployments/{deployment}")
def show(request: Request, call: Control, deployment: str) -> Response:
    return JSONResponse(shown(_deployments(request).get(call.account.id, deployment), call.account))


@router.get(ACCOUNT + "/deployments")
def list_deployments(request: Request, call: Control) -> Response:
    found = _deployments(request).all(call.account.id)
    return JSONResponse({"value": [shown(deployment, call.account) for deployment in found]})


@router.patch(ACCOUNT + "/deployments/{deployment}")
def patch(request: Request, call: Control, deployment: str, body: JsonBody) -> Response:
    change = decode(body, PatchBody)
    sku = change.sku or Sku(name="")
    stored = _deployments(request).patch(
        call.account.id, deployment, sku_name=sku.name or None, capacity=_capacity(sku), tags=change.tags
    )
    return JSONResponse(shown(stored, call.account))


@router.delete(ACCOUNT + "/deployments/{deployment}")
def delete(request: Request, call: Control, deployment: str) -> Response:
    gone = _deployments(request).delete(call.account.id, deployment)
    return Response(status_code=200 if gone else 204)


@router.get(OPERATIONS + "/{operation}")
def operation_status(request: Request, subscription: str, operation: str) -> Response:
    """What pollers ask until a PUT is settled; derived from the deployment, so there is nothing to keep."""
    access: Access = request.app.state.access
    _bearer(access, request)
    _check_version(request.query_params.get("api-version"))
    account_name, _, name = operation.partition("~")
    account = access.account(account_name)
    if account is None or account.subscription_id.lower() != subscription.lower():
        raise NotFound(f"The operation '{operation}' does not exist.", code="ResourceNotFound")
    deployment = _deployments(request).get(account.id, name)
    body: dict[str, Any] = {"id": request.url.path, "name": operation}
    if deployment.state == DeploymentState.CREATING:
        return JSONResponse({**body, "status": "InProgress"}, headers={"Retry-After": POLL_SECONDS})
    if deployment.state == DeploymentState.FAILED:
        body["error"] = {"code": "DeploymentFailed", "message": deployment.error}
    return JSONResponse({**body, "status": deployment.state})


def shown(deployment: Deployment, account: Account) -> dict[str, Any]:
    """The wire's deployment object."""
    model = {
        "format": deployment.model_format,
        "name": deployment.model,
        "version": deployment.model_version,
        **({} if deployment.source is None else {"source": deployment.source}),
    }
    properties = {
        "model": model,
        "provisioningState": deployment.state,
        "versionUpgradeOption": "NoAutoUpgrade",
        "currentCapacity": deployment.capacity,
        **({} if deployment.error is None else {"error": {"code": "DeploymentFailed", "message": deployment.error}}),
    }
    return {
        "id": f"{account.arm_id}/deployments/{deployment.name}",
        "type": "Microsoft.CognitiveServices/accounts/deployments",
        "name": deployment.name,
        "sku": {"name": deployment.sku_name, "capacity": deployment.capacity},
        "properties": properties,
        "systemData": {
            "createdBy": deployment.created_by,
            "createdByType": "User",
            "createdAt": _iso(deployment.created_at),
            "lastModifiedBy": deployment.created_by,
            "lastModifiedByType": "User",
            "lastModifiedAt": _iso(deployment.updated_at),
        },
        "etag": f'"{deployment.etag}"',
        **({} if deployment.tags is None else {"tags": deployment.tags}),
    }


def _wanted(body: PutBody) -> Wanted:
    model = body.properties.model
    return Wanted(
        model=model.name,
        model_format=model.format,
        model_version=model.version,
        source=model.source,
        sku_name=body.sku.name,
        capacity=_capacity(body.sku) or 1,
        tags=body.tags,
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


def _bearer(access: Access, request: Request) -> Caller:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized(
            "The control plane needs a bearer token: Authorization: Bearer TOKEN. `tunery env` prints one as "
            "TUNERY_ARM_TOKEN."
        )
    return access.by_token(token, audience=request.app.state.settings.arm_audience)


def _check_version(version: str | None) -> None:
    if version is None:
        raise InvalidRequest(
            "The api-version query parameter (?api-version=) is required for all requests.",
            code="MissingApiVersionParameter",
        )
    if not DATED.fullmatch(version):
        raise InvalidRequest(
            f"The api-version '{version}' is invalid: a date is wanted, such as 2023-05-01 or 2025-07-01-preview.",
            code="InvalidApiVersionParameter",
        )


def _account(access: Access, path: dict[str, str]) -> Account:
    account = access.account(path["account"])
    subscription, group = path["subscription"], path["group"]
    subscriptions = {known.subscription_id.lower() for known in access.accounts()}
    if subscription.lower() not in subscriptions:
        raise NotFound(f"The subscription '{subscription}' could not be found.", code="SubscriptionNotFound")
    if account is None or account.subscription_id.lower() != subscription.lower():
        raise NotFound(f"The account '{path['account']}' was not found.", code="ResourceNotFound")
    if account.resource_group.lower() != group.lower():
        raise NotFound(f"Resource group '{group}' could not be found.", code="ResourceGroupNotFound")
    return account


def _deployments(request: Request) -> Deployments:
    deployments: Deployments = request.app.state.deployments
    return deployments


def _iso(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
