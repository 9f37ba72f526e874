"""Chat and text completions over HTTP, from deployments (contract.md 3). Knows no model: see `Generator`."""

from typing import Annotated, Protocol

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from tunery.api.answer import Events, Order, chunks, whole
from tunery.api.chat import chat_order
from tunery.api.completion import completion_order
from tunery.api.counting import counted
from tunery.api.sampling import named_model
from tunery.api.stream import EventStream, while_connected
from tunery.api.wire import Call, DataPlane, JsonBody, rate_headers
from tunery.catalog import CHAT, COMPLETION
from tunery.deployments import Serving
from tunery.errors import OperationNotSupported
from tunery.messages import Done, Generate
from tunery.metering import Meter, Metered
from tunery.throttle import Throttle, reserved_tokens

router = APIRouter()


class Generator(Protocol):
    """What answers requests: an embedded engine, or another one behind the same words."""

    def generate(self, base: str, request: Generate, /) -> Events:
        """Started, then pieces of all choices as they come, then Done. Closing it early cancels the request.

        Raises:
            TuneryError: the request can't be answered, at its start or on the way.
        """
        ...


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
    if CHAT not in serving.kinds:
        raise _unfit("chatCompletion", "/completions", serving)
    order = await run_in_threadpool(chat_order, body, serving, str(call.account.id))
    return await _answer(request, call, order, serving)


@router.post("/openai/v1/completions")
@router.post("/openai/deployments/{deployment}/completions")
async def complete(request: Request, call: DataPlane, serving: Deployed, body: JsonBody) -> Response:
    if COMPLETION not in serving.kinds:
        raise _unfit("completion", "/chat/completions", serving)
    order = await run_in_threadpool(completion_order, body, serving, str(call.account.id))
    return await _answer(request, call, order, serving)


def _unfit(operation: str, other: str, serving: Serving) -> OperationNotSupported:
    return OperationNotSupported(
        f"The {operation} operation does not work with the model '{serving.model}' of the deployment "
        f"'{serving.name}'. Send the request to .../{serving.name}{other}, or deploy another model."
    )


async def _answer(request: Request, call: Call, order: Order, serving: Serving) -> Response:
    generator: Generator = request.app.state.generator
    throttle: Throttle = request.app.state.throttle
    meter: Meter = request.app.state.meter
    asked = order.request
    ticket = throttle.admit(asked.owner, serving.name, serving.units, reserved_tokens(asked))
    headers = rate_headers(ticket.allowance)

    def settle(done: Done) -> None:
        ticket.settle(done.prompt_tokens + done.completion_tokens)
        meter.count(Metered(call.account.id, serving.name, serving.made_at, serving.model), done)

    events = counted(generator.generate(serving.base_name, asked), settle)
    if order.stream:
        return EventStream(chunks(events, order, serving), headers)
    body = await while_connected(request.receive, whole(events, order, serving))
    return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")
