"""Ours: what an account has left of its limits, and how the machine is that all accounts share."""

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunery.api.wire import DataPlane, reply
from tunery.deployments import Deployments
from tunery.machine import Machine

router = APIRouter()


@router.get("/usages")
def usages(request: Request, call: DataPlane) -> Response:
    """Each setting that limits the account; ARM's usages of an account say the same under Azure's names."""
    deployments: Deployments = request.app.state.deployments
    data = [msgspec.structs.asdict(usage) for usage in deployments.usages(call.account.id)]
    return reply(call, {"object": "list", "data": data})


@router.get("/machine")
def machine(request: Request, call: DataPlane) -> Response:
    state: Machine = request.app.state.machine
    return reply(call, {"object": "machine", **msgspec.to_builtins(state.state())})
