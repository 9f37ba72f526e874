"""Chat and text completions over HTTP, from deployments (contract.md 3)."""

from typing import Annotated, Protocol

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from tunery.api.answer import chunks, whole
from tunery.api.asking import ask
from tunery.api.sampling import named_model
from tunery.api.stream import EventStream, while_connected
from tunery.api.wire import Call, DataPlane, JsonBody, rate_headers
from tunery.catalog import CHAT, COMPLETION
from tunery.deployments import Serving

router = APIRouter()


class Served(Protocol):
    """Who knows what a deployment runs."""

    def serve(self, account_id: int, name: str) -> Serving:
        """Raises DeploymentNotFound, or EngineUnavailable while it isn't ready."""
        ...


def deployed(request: Request, call: DataPlane, body: JsonBody) -> Serving:
    """What the deployment in the path runs, or on v1 the one that `model` names."""
    deployments: Served = request.app.state.deployments
    name = request.path_params.get("deployment") or named_model(body)
    return deployments.serve(call.account.id, name)


Deployed = Annotated[Serving, Depends(deployed)]


@router.post("/openai/v1/chat/completions")
@router.post("/openai/deployments/{deployment}/chat/completions")
async def chat(request: Request, call: DataPlane, serving: Deployed, body: JsonBody) -> Response:
    return await _answer(CHAT, request, call, serving, body)


@router.post("/openai/v1/completions")
@router.post("/openai/deployments/{deployment}/completions")
async def complete(request: Request, call: DataPlane, serving: Deployed, body: JsonBody) -> Response:
    return await _answer(COMPLETION, request, call, serving, body)


async def _answer(kind: str, request: Request, call: Call, serving: Serving, body: bytes) -> Response:
    order, allowance, events = await ask(kind, body, serving, account_id=call.account.id, desk=request.app.state)
    headers = rate_headers(allowance)
    if order.stream:
        return EventStream(chunks(events, order, serving), headers)
    answer = await while_connected(request.receive, whole(events, order, serving))
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")
