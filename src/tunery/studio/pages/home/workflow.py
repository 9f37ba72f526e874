"""The steps from data to an answering model, with how much of each the account has."""

from typing import NamedTuple

from nicegui import ui

from tunery.quotas import Usage
from tunery.studio import parts
from tunery.studio.deployed import Deployed
from tunery.studio.frame import ROOT
from tunery.studio.texts import shown_number, t

USAGES = "GET /usages"


class Step(NamedTuple):
    """Its texts are home.NAME, home.NAME_detail and home.NAME_state."""

    name: str
    path: str


STEPS = (
    Step("data", "/files"),
    Step("train", "/create"),
    Step("watch", "/models"),
    Step("deploy", "/deployments"),
    Step("try", "/playground"),
)


class Workflow:
    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._states: dict[str, ui.label] = {}
        parts.section(t("home.steps"))
        with ui.element("ol").classes("grid grid-cols-1 sm:grid-cols-2 lg:grid-cols-5 gap-3 w-full p-0 m-0 list-none"):
            for number, step in enumerate(STEPS, start=1):
                self._card(number, step)

    async def refresh(self) -> None:
        visitor = self._deployed.visitor
        if not (visitor.may(USAGES) and visitor.may(self._deployed.operations.see)):
            return
        usages = await visitor.do(USAGES, visitor.rooms.deployments.usages, visitor.account.id)
        seen = [one.deployment for one in await self._deployed.all()]
        used = {usage.name: usage.used for usage in usages}
        running = used["max_running_jobs"] + used["max_queued_jobs"]
        self._say("data", used["max_files"])
        self._say("train", used["max_jobs"])
        self._say("watch", running)
        self._say("deploy", len(seen))
        self._say("try", sum(deployment.last_used_at is not None for deployment in seen))

    def _card(self, number: int, step: Step) -> None:
        with ui.element("li").classes("tunery-card p-4 flex flex-col gap-1 min-w-0"):
            with ui.element("a").classes("tunery-link font-medium") as link:
                link.props["href"] = ROOT + step.path
                ui.label(f"{number}. {t(f'home.{step.name}')}").classes("inline")
            ui.label(t(f"home.{step.name}_detail")).classes("text-sm")
            self._states[step.name] = ui.label().classes("quiet text-sm mt-auto")

    def _say(self, name: str, count: int) -> None:
        self._states[name].set_text(t(f"home.{name}_state", count=shown_number(count)))


def taken(usage: Usage) -> float:
    return 0.0 if usage.limit == 0 else min(1.0, usage.used / usage.limit)
