"""Chat and text completions over HTTP, from deployments (contract.md 3)."""

from typing import Protocol

import msgspec
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from tunery.api.answer import Order, chunks, whole
from tunery.api.asking import begin, ordered
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


@router.post("/openai/v1/chat/completions")
@router.post("/openai/deployments/{deployment}/chat/completions")
async def chat(request: Request, call: DataPlane, body: JsonBody) -> Response:
    return await _answer(CHAT, request, call, body)


@router.post("/openai/v1/completions")
@router.post("/openai/deployments/{deployment}/completions")
async def complete(request: Request, call: DataPlane, body: JsonBody) -> Response:
    return await _answer(COMPLETION, request, call, body)


async def _answer(kind: str, request: Request, call: Call, body: bytes) -> Response:
    account, desk = call.account.id, request.app.state
    serving, order = await run_in_threadpool(_ordered, kind, request, account, body)
    order, allowance, events = begin(order, serving, account_id=account, desk=desk)
    headers = rate_headers(allowance)
    if order.stream:
        return EventStream(chunks(events, order, serving), headers)
    answer = await while_connected(request.receive, whole(events, order, serving))
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")


def _ordered(kind: str, request: Request, account_id: int, body: bytes) -> tuple[Serving, Order]:
    """What the deployment in the path runs, or on v1 the one that `model` names, and what is asked of it."""
    deployments: Served = request.app.state.deployments
    name = request.path_params.get("deployment") or named_model(body)
    serving = deployments.serve(account_id, name)
    return serving, ordered(kind, body, serving, account_id)
