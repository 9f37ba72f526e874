"""From a request's body to the events that answer it: the one way to a model, for the routes and for Studio.

Knows no HTTP and no model: see `Generator`. Whether the caller may ask is settled before.
"""

from typing import NamedTuple, Protocol

from fastapi.concurrency import run_in_threadpool

from tunery.api.answer import Events, Order
from tunery.api.chat import chat_order
from tunery.api.completion import completion_order
from tunery.api.counting import counted
from tunery.catalog import CHAT, COMPLETION
from tunery.deployments import Serving
from tunery.errors import Allowance, OperationNotSupported
from tunery.messages import Done, Generate
from tunery.metering import Meter, Metered
from tunery.throttle import Throttle, reserved_tokens
from tunery.weights import Weights

ORDERS = {CHAT: chat_order, COMPLETION: completion_order}
UNFIT = {CHAT: ("chatCompletion", "/completions"), COMPLETION: ("completion", "/chat/completions")}
"""By kind: the operation as Azure calls it, and the path that such a deployment does have."""


class Generator(Protocol):
    """What answers requests: an embedded engine, or another one behind the same words."""

    def generate(self, weights: Weights, request: Generate, /) -> Events:
        """Started, then pieces of all choices as they come, then Done. Closing it early cancels the request.

        Raises:
            TuneryError: the request can't be answered, at its start or on the way.
        """
        ...


class Desk(Protocol):
    """What a request passes: its limit, the engine, the meter."""

    @property
    def generator(self) -> Generator: ...

    @property
    def throttle(self) -> Throttle: ...

    @property
    def meter(self) -> Meter: ...


class Answering(NamedTuple):
    """A request that was let through."""

    order: Order
    allowance: Allowance | None
    """What its deployment's limit leaves; None: it has none."""
    events: Events
    """Closing them early cancels the request; either end settles limit and meter."""


def ordered(kind: str, body: bytes, serving: Serving, account_id: int) -> Order:
    """Check the body of a chat (CHAT) or text completion (COMPLETION). Takes a processor's time: not for the loop.

    Raises:
        OperationNotSupported, InvalidRequest
    """
    if kind not in serving.kinds:
        operation, other = UNFIT[kind]
        raise OperationNotSupported(
            f"The {operation} operation does not work with the model '{serving.model}' of the deployment "
            f"'{serving.name}'. Send the request to .../{serving.name}{other}, or deploy another model."
        )
    return ORDERS[kind](body, serving, str(account_id))


def begin(order: Order, serving: Serving, *, account_id: int, desk: Desk) -> Answering:
    """Start the answer. Raises RateLimited; what the engine refuses comes with the events."""
    asked = order.request
    ticket = desk.throttle.admit(asked.owner, serving.name, serving.units, reserved_tokens(asked))

    def settle(done: Done) -> None:
        ticket.settle(done.prompt_tokens + done.completion_tokens)
        desk.meter.count(Metered(account_id, serving.name, serving.made_at, serving.model), done)

    events = counted(desk.generator.generate(serving.weights, asked), settle)
    return Answering(order, ticket.allowance, events)


async def ask(kind: str, body: bytes, serving: Serving, *, account_id: int, desk: Desk) -> Answering:
    """Both, one after the other."""
    order = await run_in_threadpool(ordered, kind, body, serving, account_id)
    return begin(order, serving, account_id=account_id, desk=desk)
