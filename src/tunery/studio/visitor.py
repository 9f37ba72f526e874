"""A caller in front of a page: every read and change of Studio goes through `do`, with the rights of the API."""

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec

from tunery import roles
from tunery.api.rights import change_of, note_down
from tunery.records import Account
from tunery.roles import Caller
from tunery.studio.rooms import Rooms
from tunery.studio.sessions import Sessions

ResultT = TypeVar("ResultT")


class Visitor:
    """`caller` and `account` are those of the page's start; `do` proves the session again each time."""

    def __init__(self, rooms: Rooms, sessions: Sessions, cookie: str, address: str) -> None:
        """Raises Unauthorized if the session is over."""
        self.rooms = rooms
        self.sessions = sessions
        self.address = address
        self._cookie = cookie
        self.caller, self.account = sessions.caller(cookie)

    def may(self, operation: str) -> bool:
        """Whether the caller may do that to the account; for what a page shows. `do` asks again."""
        return roles.may(self.caller, operation, self.account)

    def missing(self, operation: str) -> list[str]:
        """The roles that would let the caller do that to the account."""
        return [role for role in roles.ROLES if roles.grants(role, roles.ACTIONS[operation])]

    def prove(self, operation: str) -> None:
        """Raises Unauthorized if the session is over, PermissionDenied or Forbidden unless the caller may do that."""
        self._require(operation)

    async def do(
        self, operation: str, function: Callable[..., ResultT], *args: Any, resource: str = "", **more: Any
    ) -> ResultT:
        """`function(*args, **more)` in a thread, as the API's operation: with its right and its row in the audit log.

        Args:
            operation: a key of roles.ACTIONS.
            resource: the path that the API's caller would have called, for the audit log.

        Raises:
            Unauthorized: the session is over. TuneryError: as the function, and where a right is missing.
        """
        return await anyio.to_thread.run_sync(partial(self._do, operation, partial(function, *args, **more), resource))

    async def choose(self, account: Account) -> None:
        """Look at another account from the next page on."""
        await anyio.to_thread.run_sync(self.sessions.choose, self._cookie, account)

    def _do(self, operation: str, function: Callable[[], ResultT], resource: str) -> ResultT:
        caller = self._require(operation)
        result = function()
        if roles.changes(operation):
            change = change_of(
                caller,
                operation,
                self.account,
                resource=resource or operation.partition(" ")[2],
                address=self.address,
                request_id=secrets.token_hex(16),
            )
            note_down(self.rooms.audit, msgspec.structs.replace(change, status=200))
        return result

    def _require(self, operation: str) -> Caller:
        caller, _ = self.sessions.caller(self._cookie)
        roles.require(caller, operation, self.account)
        return caller
