"""The audit log of an account. The operation is ours; its shape is ARM's."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.api.control.rendering import iso
from tunery.api.control.scope import ACCOUNT, PROVIDER, Control, host
from tunery.api.wire import page_size
from tunery.audit import Audit
from tunery.errors import InvalidRequest
from tunery.records import Account, Change

router = APIRouter()


@router.get(ACCOUNT + "/auditLogs")
def list_changes(request: Request, call: Control) -> Response:
    """Newest first; `$top` a page, and `nextLink` while there is more."""
    audit: Audit = request.app.state.audit
    query = request.query_params
    size = page_size(query.get("$top"), default=100, most=1000, name="$top")
    found, more = audit.page(call.account, before=_token(query.get("$skipToken")), limit=size)
    body: dict[str, Any] = {"value": [shown(change, call.account) for change in found]}
    if more:
        page = f"api-version={query['api-version']}&$top={size}&$skipToken={found[-1].seq}"
        body["nextLink"] = f"{host(request)}{call.account.arm_id}/auditLogs?{page}"
    return JSONResponse(body)


def shown(change: Change, account: Account) -> dict[str, Any]:
    return {
        "id": f"{account.arm_id}/auditLogs/{change.seq}",
        "name": str(change.seq),
        "type": f"{PROVIDER}/accounts/auditLogs",
        "properties": {
            "eventTimestamp": iso(change.at),
            "caller": change.name,
            "callerObjectId": change.principal_id,
            "callerType": change.kind,
            "action": change.action,
            "operation": change.operation,
            "scope": change.scope or "/",
            "resource": change.resource,
            "status": change.status,
            "clientAddress": change.address,
            "requestId": change.request_id,
        },
    }


def _token(given: str | None) -> int | None:
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise InvalidRequest("$skipToken isn't one: follow nextLink as it is.", param="$skipToken")
    return int(given)
