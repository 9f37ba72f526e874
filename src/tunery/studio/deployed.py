"""Deployments as pages use them: over the data plane for who signed in with a key, over ARM for a principal."""

from typing import NamedTuple

from tunery.deploying import Wanted
from tunery.idle import End
from tunery.metering import DAYS, Counts
from tunery.records import Deployment
from tunery.roles import ACCOUNT
from tunery.studio.visitor import Visitor


class Operations(NamedTuple):
    """Keys of roles.ACTIONS."""

    see: str
    put: str
    pause: str
    resume: str
    delete: str
    days: str


def _below(root: str, days: str) -> Operations:
    one = f"{root}/deployments/{{deployment}}"
    return Operations(
        see=f"GET {root}/deployments",
        put=f"PUT {one}",
        pause=f"POST {one}/pause",
        resume=f"POST {one}/resume",
        delete=f"DELETE {one}",
        days=f"GET {one}/{days}",
    )


BY_KEY, BY_PRINCIPAL = _below("", "usages"), _below(ACCOUNT, "dailyUsages")


class Seen(NamedTuple):
    """A deployment and when it is expected to end; None: it stays."""

    deployment: Deployment
    end: End | None


class Deployed:
    """Those of the visitor's account."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        by_key = visitor.caller.account is not None
        self.operations = BY_KEY if by_key else BY_PRINCIPAL
        self._root = "/openai" if by_key else visitor.account.arm_id

    async def all(self) -> list[Seen]:
        """In the order in which they were made. Raises TuneryError as `Visitor.do` does, like all that follow."""
        return await self.visitor.do(self.operations.see, self._look)

    async def put(self, name: str, wanted: Wanted) -> Deployment:
        """Create or update; the engine is brought there at once."""
        visitor, rooms = self.visitor, self.visitor.rooms
        made, _ = await visitor.do(
            self.operations.put,
            rooms.deployer.put,
            visitor.account,
            name,
            wanted,
            by=visitor.caller.name,
            resource=self._path(name),
        )
        rooms.reconcile()
        return made

    async def pause(self, name: str, *, paused: bool) -> None:
        """Stop answering, or go on."""
        operation, verb = (self.operations.pause, "pause") if paused else (self.operations.resume, "resume")
        await self.visitor.do(
            operation,
            self.visitor.rooms.deployments.pause,
            self.visitor.account.id,
            name,
            paused=paused,
            resource=f"{self._path(name)}/{verb}",
        )

    async def delete(self, name: str) -> None:
        """The model stays. One that is gone already is as good."""
        rooms, account = self.visitor.rooms, self.visitor.account
        await self.visitor.do(
            self.operations.delete, rooms.deployments.delete, account.id, name, resource=self._path(name)
        )

    async def daily(self, deployment: Deployment) -> dict[str, Counts]:
        """What it took on each of the last days, by day."""
        return await self.visitor.do(
            self.operations.days,
            self.visitor.rooms.meter.daily,
            deployment.account_id,
            deployment.name,
            deployment.created_at,
            days=DAYS,
            resource=self._path(deployment.name),
        )

    def _look(self) -> list[Seen]:
        rooms = self.visitor.rooms
        found = rooms.deployments.all(self.visitor.account.id)
        ends = rooms.idle.ends(found)
        return [Seen(deployment, ends.get(deployment.name)) for deployment in found]

    def _path(self, name: str) -> str:
        return f"{self._root}/deployments/{name}"
