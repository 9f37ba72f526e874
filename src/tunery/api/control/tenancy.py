"""The tenant and its subscriptions, which az asks for when somebody logs in (clients.md 1)."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery import roles
from tunery.access import Access
from tunery.api.control.scope import SUBSCRIPTION, SignedIn
from tunery.groups import Groups

router = APIRouter()


@router.get("/tenants")
def tenants(request: Request, caller: SignedIn) -> Response:  # noqa: ARG001 (it asks for a token)
    tenant = request.app.state.access.tenant_id
    shown = {"id": f"/tenants/{tenant}", "tenantId": tenant, "displayName": "Tunery", "tenantCategory": "Home"}
    return JSONResponse({"value": [shown]})


@router.get("/subscriptions")
def subscriptions(request: Request, caller: SignedIn) -> Response:
    access: Access = request.app.state.access
    groups: Groups = request.app.state.groups
    seen = [name for name in groups.subscriptions() if roles.sees(caller, SUBSCRIPTION.format(subscription=name))]
    return JSONResponse({"value": [_shown(name, access.tenant_id) for name in seen]})


def _shown(subscription: str, tenant_id: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription}",
        "subscriptionId": subscription,
        "tenantId": tenant_id,
        "displayName": subscription,
        "state": "Enabled",
    }
