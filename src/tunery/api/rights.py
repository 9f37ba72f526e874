"""The one place in a request's path where the caller's right is asked, and where a change is written down."""

import logging
import re
from collections.abc import MutableMapping
from typing import Any

import anyio
import msgspec
from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from tunery import roles
from tunery.audit import Audit
from tunery.records import Account, Change
from tunery.roles import Caller

logger = logging.getLogger(__name__)

PREFIX = re.compile(r"^/openai(/v1)?(?=/)")
NOTED = "change"


def operation_of(request: Request) -> str:
    """The route as the table of roles names it."""
    return f"{request.method} {PREFIX.sub('', request.scope['route'].path_format)}"


def authorise(request: Request, caller: Caller, where: Account | str) -> None:
    """Raises PermissionDenied or Forbidden unless a role, or the account's key, lets the caller do this there."""
    operation = operation_of(request)
    roles.require(caller, operation, where)
    if not roles.changes(operation):
        return
    noted = change_of(
        caller,
        operation,
        where,
        resource=request.url.path,
        address=request.client.host if request.client else "",
        request_id=request.state.request_id,
    )
    setattr(request.state, NOTED, noted)


def change_of(
    caller: Caller, operation: str, where: Account | str, *, resource: str, address: str, request_id: str
) -> Change:
    """What the audit log says of it, but for when it was and how it ended."""
    return Change(
        at=0,
        principal_id=caller.id,
        name=caller.name,
        kind=caller.kind,
        operation=operation,
        action=roles.ACTIONS[operation],
        scope=roles.folded(where),
        resource=resource,
        status=0,
        address=address,
        request_id=request_id,
    )


class Audited:
    """ASGI middleware: writes the change that `authorise` noted, once its answer is a success and before it leaves."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def audited(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                change = scope["state"].pop(NOTED, None)
                if change is not None:
                    done = msgspec.structs.replace(change, status=message["status"])
                    await anyio.to_thread.run_sync(note_down, self._audit, done)
            await send(message)

        await self._app(scope, receive, audited if scope["type"] == "http" else send)


def note_down(audit: Audit, change: Change) -> None:
    """A row in the audit log of a change that was made."""
    try:
        audit.write(change)
    except SQLAlchemyError:
        # The change stands; an error to the caller would say that it doesn't.
        logger.exception("not in the audit log: %s of %s by %s", change.operation, change.resource, change.name)
