"""Deployments on the data plane, for holders of a key: those of ARM, in the shape of 2022-12-01 (contract.md 1.7).

Ours beside Azure's five: PUT under a name of one's own, pause, resume, usages; `sku`, `quantization`,
`quantization_change`, `paused`, `last_used_at` and `expected_deletion` in what is shown.
"""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunery.api.wire import DataPlane, JsonBody, decode, in_words, page_size, reply
from tunery.deploying import LARGEST_CAPACITY, Deployer, Wanted
from tunery.deployments import Deployments
from tunery.errors import InvalidRequest, NotFound, WrongState
from tunery.idle import End, IdleRule
from tunery.metering import DAYS, MOST_DAYS, Meter
from tunery.records import Deployment, DeploymentState, new_id
from tunery.weights import Agreement

router = APIRouter()

MANUAL, STANDARD = "manual", "standard"
SKUS = {MANUAL: "ProvisionedManaged", STANDARD: "Standard"}
"""What a scale type is called since; capacity of one's own became provisioned."""
DEPLOYMENT_STATES = {
    DeploymentState.CREATING: "running",
    DeploymentState.SUCCEEDED: "succeeded",
    DeploymentState.FAILED: "failed",
}
PARAMETERS = {"sku": "sku.name", "capacity": "sku.capacity"}
Capacity = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_CAPACITY)]


class ScaleSettings(msgspec.Struct, frozen=True):
    scale_type: Literal["manual", "standard"]
    capacity: Capacity | None = None


class DeploymentBody(msgspec.Struct, frozen=True):
    model: str
    scale_settings: ScaleSettings


class Sku(msgspec.Struct, frozen=True):
    name: str = "Standard"
    capacity: Capacity | None = None


class PutBody(msgspec.Struct, frozen=True):
    model: str
    sku: Sku = Sku()
    quantization: str | msgspec.UnsetType | None = msgspec.UNSET


class ScaleBody(msgspec.Struct, frozen=True):
    scale_settings: ScaleSettings


@router.get("/deployments")
def list_deployments(request: Request, call: DataPlane) -> Response:
    found = _deployments(request).all(call.account.id)
    return reply(call, {"object": "list", "data": _all_shown(request, found)})


@router.post("/deployments")
def create_deployment(request: Request, call: DataPlane, body: JsonBody) -> Response:
    given = decode(body, DeploymentBody)
    scale = _checked(given.scale_settings)
    wanted = Wanted(model=given.model, sku_name=SKUS[scale.scale_type], capacity=scale.capacity)
    name = new_id("deployment-")
    stored, _ = _deployer(request).put(call.account, name, wanted, by=call.caller.name)
    request.app.state.reconcile.set()
    location = f"{request.url.scheme}://{request.url.netloc}{request.url.path.rstrip('/')}/{name}"
    return reply(call, _shown(request, stored), status=201, location=location)


@router.put("/deployments/{deployment}")
def put_deployment(request: Request, call: DataPlane, deployment: str, body: JsonBody) -> Response:
    """Create or update, as ARM's PUT does."""
    given = decode(body, PutBody)
    wanted = Wanted(
        model=given.model, sku_name=given.sku.name, capacity=given.sku.capacity, quantization=given.quantization
    )
    with in_words(PARAMETERS):
        stored, new = _deployer(request).put(call.account, deployment, wanted, by=call.caller.name)
    request.app.state.reconcile.set()
    return reply(call, _shown(request, stored), status=201 if new else 200)


@router.get("/deployments/{deployment}")
def show_deployment(request: Request, call: DataPlane, deployment: str) -> Response:
    return reply(call, _shown(request, _deployments(request).get(call.account.id, deployment)))


@router.patch("/deployments/{deployment}")
def scale_deployment(request: Request, call: DataPlane, deployment: str, body: JsonBody) -> Response:
    scale = _checked(decode(body, ScaleBody).scale_settings)
    if _deployments(request).get(call.account.id, deployment).state == DeploymentState.CREATING:
        raise WrongState(f"The deployment '{deployment}' is still being created. Change it once it has succeeded.")
    stored = _deployer(request).patch(
        call.account.id, deployment, sku_name=SKUS[scale.scale_type], capacity=scale.capacity, tags=None
    )
    return reply(call, _shown(request, stored))


@router.post("/deployments/{deployment}/pause")
def pause_deployment(request: Request, call: DataPlane, deployment: str) -> Response:
    return reply(call, _shown(request, _deployments(request).pause(call.account.id, deployment, paused=True)))


@router.post("/deployments/{deployment}/resume")
def resume_deployment(request: Request, call: DataPlane, deployment: str) -> Response:
    return reply(call, _shown(request, _deployments(request).pause(call.account.id, deployment, paused=False)))


@router.get("/deployments/{deployment}/usages")
def usages(request: Request, call: DataPlane, deployment: str, days: str | None = None) -> Response:
    """What it took on each of the last days, oldest first; days on which it wasn't there miss."""
    found = _deployments(request).get(call.account.id, deployment)
    meter: Meter = request.app.state.meter
    asked = page_size(days, default=DAYS, most=MOST_DAYS, name="days")
    daily = meter.daily(found.account_id, found.name, found.created_at, days=asked)
    data = [{"day": day, **msgspec.structs.asdict(counts)} for day, counts in daily.items()]
    return reply(call, {"object": "list", "data": data})


@router.delete("/deployments/{deployment}")
def delete_deployment(request: Request, call: DataPlane, deployment: str) -> Response:
    if not _deployments(request).delete(call.account.id, deployment):
        raise NotFound(f"The deployment '{deployment}' does not exist.")
    return Response(status_code=204)


def _checked(scale: ScaleSettings) -> ScaleSettings:
    if scale.scale_type == MANUAL and scale.capacity is None:
        raise InvalidRequest("scale_settings.capacity is needed for the scale_type 'manual'.", param="scale_settings")
    return scale


def _shown(request: Request, deployment: Deployment) -> dict[str, Any]:
    return _all_shown(request, [deployment])[0]


def _all_shown(request: Request, found: list[Deployment]) -> list[dict[str, Any]]:
    idle: IdleRule = request.app.state.idle
    ends = idle.ends(found)
    return [_written(deployment, ends.get(deployment.name)) for deployment in found]


def _written(deployment: Deployment, end: End | None) -> dict[str, Any]:
    manual = deployment.sku_name == SKUS[MANUAL]
    capacity = {} if deployment.capacity is None else {"capacity": deployment.capacity}
    change = deployment.agreement
    error = None if deployment.error is None else {"code": "internalFailure", "message": deployment.error}
    return {
        "id": deployment.name,
        "object": "deployment",
        "model": deployment.model,
        "owner": "organization-owner",
        "scale_settings": {"scale_type": MANUAL if manual else STANDARD, **capacity},
        "sku": {"name": deployment.sku_name, **capacity},
        "quantization": deployment.quantization,
        "quantization_change": None if change is None else _change(change),
        "paused": deployment.paused,
        "last_used_at": deployment.last_used_at,
        "expected_deletion": None if end is None else _end(end),
        "status": DEPLOYMENT_STATES[deployment.state],
        "created_at": deployment.created_at,
        "updated_at": deployment.updated_at,
        "error": error,
    }


def _change(agreement: Agreement) -> dict[str, Any]:
    return {
        "places": agreement.places,
        "same_token": agreement.same_token,
        "mean_logprob_difference": agreement.mean_difference,
        "largest_logprob_difference": agreement.largest_difference,
    }


def _end(end: End) -> dict[str, Any]:
    return {"at": end.at, "running_seconds": round(end.seconds), "reason": "sku" if end.developer else "idle"}


def _deployer(request: Request) -> Deployer:
    deployer: Deployer = request.app.state.deployer
    return deployer


def _deployments(request: Request) -> Deployments:
    deployments: Deployments = request.app.state.deployments
    return deployments
