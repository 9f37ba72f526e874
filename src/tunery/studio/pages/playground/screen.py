"""What the parts of the Playground have in common: the conversation, who looks at it, and what can be asked."""

from typing import NamedTuple

from nicegui import ui

from tunery.records import DeploymentState
from tunery.rooms import Services
from tunery.studio.play.talk import MOST_PANES, Kind
from tunery.studio.play.talks import OPERATIONS, OpenTalk
from tunery.studio.visitor import Visitor

MOST_OFFERED = 10


class Answering(NamedTuple):
    """A deployment that answers."""

    name: str
    model: str
    kinds: frozenset[str]


def answering(rooms: Services, account_id: int) -> list[Answering]:
    """Those that would be served now."""
    found, deployments = [], rooms.deployments
    for deployment in deployments.all(account_id):
        base = rooms.catalog.base(deployment.base)
        if deployment.state == DeploymentState.SUCCEEDED and not deployment.paused and base is not None:
            found.append(Answering(deployment.name, deployment.model, base.kinds))
    return found


def undeployed(rooms: Services, account_id: int) -> list[str]:
    """The newest models and checkpoints of the account that have no deployment."""
    deployments = rooms.deployments
    deployed = {deployment.model for deployment in deployments.all(account_id)}
    starts = rooms.catalog.starts(account_id)
    return [start.name for start in starts if start.name not in (*deployed, start.base)][:MOST_OFFERED]


class Screen:
    """One page that shows one conversation."""

    def __init__(self, visitor: Visitor, shown: OpenTalk, deployments: list[Answering]) -> None:
        self.visitor, self.shown, self.deployments = visitor, shown, deployments
        self.undeployed: list[str] = []
        self.unsaved = False
        self.input: ui.textarea

    @property
    def kind(self) -> Kind:
        return self.shown.talk.kind

    @property
    def operation(self) -> str:
        return OPERATIONS[self.kind]

    def choices(self) -> list[Answering]:
        """Deployments for this kind of request."""
        return [one for one in self.deployments if self.kind in one.kinds]

    def settle_panes(self, wanted: list[str]) -> None:
        """Show these deployments if they answer, else those of before, else the first one."""
        there = [one.name for one in self.choices()]
        talk = self.shown.talk
        for names in (wanted, talk.panes, there[:1]):
            talk.panes = [name for name in names if name in there][:MOST_PANES]
            if talk.panes:
                return

    def touch(self) -> None:
        """Something was changed that has to be kept."""
        self.unsaved = True

    def focus(self) -> None:
        """Back to where one types."""
        self.input.run_method("focus")
