"""Copying a checkpoint into another account, over HTTP (contract.md 1.4)."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunery import roles
from tunery.accounts import Accounts
from tunery.api.rights import operation_of
from tunery.api.wire import Call, DataPlane, JsonBody, decode, reply
from tunery.copies import Copies
from tunery.errors import Forbidden, InvalidRequest
from tunery.records import Account, Checkpoint

router = APIRouter()

PREVIEW = "aoai-copy-ft-checkpoints"


class CopyBody(msgspec.Struct, frozen=True):
    destinationResourceId: str
    region: str


@router.post("/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint}/copy")
def copy(request: Request, call: DataPlane, job_id: str, checkpoint: str, body: JsonBody) -> Response:
    _refuse_without_preview(request)
    given = decode(body, CopyBody)
    found = _copies(request).checkpoint(call.account.id, job_id, checkpoint)
    destination = _destination(request, call, given.destinationResourceId)
    _copies(request).make(found, destination, region=given.region)
    return reply(call, _shown(found, [destination]))


@router.get("/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint}/copy")
def copied(request: Request, call: DataPlane, job_id: str, checkpoint: str) -> Response:
    _refuse_without_preview(request)
    found = _copies(request).checkpoint(call.account.id, job_id, checkpoint)
    return reply(call, _shown(found, _copies(request).of(found)))


def _shown(checkpoint: Checkpoint, destinations: list[Account]) -> dict[str, Any]:
    return {
        "checkpointedModelName": checkpoint.name,
        "fineTuningJobId": checkpoint.job_id,
        "copiedAccountDetails": [
            {"destinationResourceId": account.arm_id, "region": account.location, "status": "Completed"}
            for account in destinations
        ],
    }


def _destination(request: Request, call: Call, arm_id: str) -> Account:
    """Raises Forbidden for an account that the caller may not tune in, whether it exists or not."""
    if not roles.may(call.caller, operation_of(request), arm_id):
        raise Forbidden(
            f"'{call.caller.name}' may not copy checkpoints to '{arm_id}'. A copy needs the right to tune on both "
            "sides; a key opens one account only, so send a bearer token of somebody who has it."
        )
    accounts: Accounts = request.app.state.accounts
    account = accounts.by_arm_id(arm_id)
    if account is None:
        raise InvalidRequest(f"There is no account '{arm_id}' here.", param="destinationResourceId")
    return account


def _refuse_without_preview(request: Request) -> None:
    if request.headers.get(PREVIEW, "").lower() != "preview":
        raise InvalidRequest(f"Copying checkpoints is a preview: send the header {PREVIEW}: preview.", param=PREVIEW)


def _copies(request: Request) -> Copies:
    copies: Copies = request.app.state.copies
    return copies
