"""What pollers ask until a PUT is settled (contract.md 4.4); derived from the deployment, so nothing is kept."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery import roles
from tunery.accounts import Accounts
from tunery.api.control.scope import LOCATION, Control, host
from tunery.api.rights import operation_of
from tunery.deployments import Deployments
from tunery.errors import NotFound
from tunery.records import Account, Deployment, DeploymentState

OPERATIONS = LOCATION + "/operations"
POLL_SECONDS = "1"

router = APIRouter()


def poll_headers(request: Request, account: Account, deployment: Deployment) -> dict[str, str]:
    """Where and how often to ask whether the deployment is settled; nothing if it is."""
    if deployment.state != DeploymentState.CREATING:
        return {}
    path = OPERATIONS.format(subscription=account.subscription_id, location=account.location)
    version = request.query_params["api-version"]
    url = f"{host(request)}{path}/{account.name}~{deployment.name}?api-version={version}"
    return {"Azure-AsyncOperation": url, "Retry-After": POLL_SECONDS}


@router.get(OPERATIONS + "/{operation}")
def status(request: Request, call: Control, operation: str) -> Response:
    accounts: Accounts = request.app.state.accounts
    deployments: Deployments = request.app.state.deployments
    account_name, _, name = operation.partition("~")
    account = accounts.by_name(account_name)
    mine = account is not None and account.subscription_id.lower() == call.subscription.lower()
    if account is None or not mine or not roles.may(call.caller, operation_of(request), account):
        raise NotFound(f"The operation '{operation}' does not exist.", code="ResourceNotFound")
    deployment = deployments.get(account.id, name)
    body: dict[str, Any] = {"id": request.url.path, "name": operation}
    if deployment.state == DeploymentState.CREATING:
        return JSONResponse({**body, "status": "InProgress"}, headers={"Retry-After": POLL_SECONDS})
    if deployment.state == DeploymentState.FAILED:
        body["error"] = {"code": "DeploymentFailed", "message": deployment.error}
    return JSONResponse({**body, "status": deployment.state})
