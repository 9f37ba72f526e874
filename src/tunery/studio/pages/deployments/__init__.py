"""Deployments of the account: what answers under which name, how much, and until when."""

from nicegui import ui

from tunery.studio import parts
from tunery.studio.deployed import Deployed
from tunery.studio.frame import ROOT, page
from tunery.studio.pages.deployments.card import Card
from tunery.studio.pages.deployments.form import Form
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor

REFRESH_SECONDS = 1.0
ITSELF = f"{ROOT}/deployments"


@page("/deployments", "frame.deployments")
async def deployments(visitor: Visitor, model: str = "") -> None:
    """`model`: the dialog opens with this one chosen."""
    shown = Shown(Deployed(visitor))
    with ui.row().classes("w-full items-center justify-between gap-2"):
        parts.heading(t("frame.deployments"))
        parts.action(
            t("deployments.deploy"),
            shown.deployed.operations.put,
            shown.ask,
            visitor=visitor,
            look="primary",
            icon="rocket_launch",
        )
    ui.label(t("deployments.about")).classes("quiet max-w-prose")
    shown.build()
    await shown.refresh()
    parts.every(REFRESH_SECONDS, shown.refresh)
    if model and visitor.may(shown.deployed.operations.put):
        await shown.ask(model)


class Shown:
    """The cards on the page, kept as they are where nothing changed."""

    def __init__(self, deployed: Deployed) -> None:
        self.deployed = deployed
        self._cards: dict[tuple[str, int], Card] = {}

    def build(self) -> None:
        self._empty = parts.empty_state("rocket_launch", t("deployments.none"), t("deployments.none_detail"))
        self._list = ui.column().classes("w-full gap-3").props("role=list")
        self._list.props["aria-label"] = t("frame.deployments")

    async def refresh(self) -> None:
        found = {(one.deployment.name, one.deployment.created_at): one for one in await self.deployed.all()}
        self._empty.set_visibility(not found)
        for key in self._cards.keys() - found.keys():
            self._cards.pop(key).remove()
        for key, seen in found.items():
            if key not in self._cards:
                with self._list:
                    self._cards[key] = Card(self.deployed, seen, self.refresh)
            await self._cards[key].show(seen)

    async def ask(self, model: str = "") -> None:
        form = Form(self.deployed, model)
        await form.load()
        if await form.ask():
            ui.navigate.history.replace(ITSELF)
            await self.refresh()
        elif model:
            ui.navigate.history.replace(ITSELF)
