"""One deployment: its state, its numbers, what may be done to it."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from tunery.deploying import Wanted
from tunery.records import Deployment, DeploymentState
from tunery.studio import parts
from tunery.studio.deployed import Deployed, Seen
from tunery.studio.frame import ROOT
from tunery.studio.pages.deployments.usage import Usage
from tunery.studio.texts import shown_date, shown_number, shown_time, t
from tunery.throttle import per_minute

MOODS = {
    DeploymentState.CREATING: "busy",
    DeploymentState.SUCCEEDED: "good",
    DeploymentState.FAILED: "bad",
}


class Card:
    """Built once; `show` changes what changed."""

    def __init__(self, deployed: Deployed, seen: Seen, changed: Callable[[], Awaitable[None]]) -> None:
        self._deployed = deployed
        self._changed = changed
        self._seen: Seen | None = None
        self._name = seen.deployment.name
        with ui.column().classes("tunery-card w-full p-4 gap-2 min-w-0").props("role=listitem") as self._card:
            with ui.row().classes("w-full items-center gap-2"):
                parts.titled("h2", self._name, "text-lg font-medium m-0 min-w-0 break-all")
                self._chip = ui.row().classes("items-center gap-2").props("role=status")
                ui.space()
                with ui.row().classes("items-center gap-2"):
                    self._buttons()
            self._progress = ui.linear_progress(show_value=False).props("indeterminate")
            self._progress.props["aria-label"] = t("deployments.creating_detail")
            self._note = ui.label().classes("quiet")
            self._error = ui.label().classes("text-negative break-words whitespace-pre-wrap w-full").props("role=alert")
            self._facts = ui.column().classes("w-full")
            self._usage = Usage(deployed, seen.deployment)

    async def show(self, seen: Seen) -> None:
        await self._usage.refresh()
        before, self._seen = self._seen, seen
        if before == seen:
            return
        deployment = seen.deployment
        creating = deployment.state == DeploymentState.CREATING
        self._chip.clear()
        with self._chip:
            parts.status_chip(t(f"deployments.{deployment.state.lower()}"), MOODS[deployment.state])
            if deployment.paused:
                parts.status_chip(t("deployments.paused"), "warning")
        self._progress.set_visibility(creating)
        self._note.set_visibility(creating)
        self._note.set_text(t("deployments.creating_detail"))
        self._error.set_visibility(deployment.error is not None)
        self._error.set_text(deployment.error or "")
        self._facts.clear()
        with self._facts:
            self._tell(seen)
        answers = deployment.state == DeploymentState.SUCCEEDED
        self._try.set_visibility(answers and not deployment.paused)
        self._pause.set_visibility(answers and not deployment.paused)
        self._resume.set_visibility(deployment.paused)
        self._again.set_visibility(deployment.state == DeploymentState.FAILED)

    def remove(self) -> None:
        self._card.delete()

    def _buttons(self) -> None:
        operations, visitor = self._deployed.operations, self._deployed.visitor
        self._try = ui.element("a").classes("tunery-link")
        self._try.props["href"] = f"{ROOT}/playground?deployment={self._name}"
        with self._try:
            ui.label(t("deployments.try")).classes("inline")
        self._again = parts.action(t("deployments.again"), operations.put, self._try_again, visitor=visitor)
        self._pause = parts.action(t("deployments.pause"), operations.pause, self._do_pause, visitor=visitor)
        self._resume = parts.action(t("deployments.resume"), operations.resume, self._do_resume, visitor=visitor)
        delete = parts.action(
            t("deployments.delete"), operations.delete, self._delete, visitor=visitor, look="danger", icon="delete"
        )
        for button, verb in (
            (self._again, "again"),
            (self._pause, "pause"),
            (self._resume, "resume"),
            (delete, "delete"),
        ):
            button.props["aria-label"] = f"{t(f'deployments.{verb}')}: {self._name}"

    def _tell(self, seen: Seen) -> None:
        deployment, end = seen
        pairs = {
            t("deployments.model"): deployment.model,
            t("deployments.weights"): _weights(deployment),
            t("deployments.sku"): deployment.sku_name,
            t("deployments.limit"): self._limit(deployment),
            t("deployments.created"): shown_time(deployment.created_at),
            t("deployments.last_use"): t("deployments.never")
            if deployment.last_used_at is None
            else shown_time(deployment.last_used_at),
        }
        if end is None:
            pairs[t("deployments.end")] = t("deployments.stays")
        else:
            why = "end_developer" if end.developer else "end_idle"
            pairs[t("deployments.end")] = t(f"deployments.{why}", date=shown_date(end.at))
        parts.facts(pairs)

    def _limit(self, deployment: Deployment) -> str:
        limits = per_minute(self._deployed.visitor.rooms.settings, deployment.units)
        if limits is None:
            return t("deployments.no_limit")
        return t("deployments.limits", requests=shown_number(limits.requests), tokens=shown_number(limits.tokens))

    async def _try_again(self) -> None:
        assert self._seen is not None
        old = self._seen.deployment
        wanted = Wanted(
            model=old.model,
            model_format=old.model_format,
            model_version=old.model_version,
            source=old.source,
            sku_name=old.sku_name,
            capacity=old.capacity,
            tags=old.tags,
            quantization=old.quantization,
        )
        await self._deployed.put(old.name, wanted)
        await self._changed()

    async def _do_pause(self) -> None:
        await self._deployed.pause(self._name, paused=True)
        await self._changed()

    async def _do_resume(self) -> None:
        await self._deployed.pause(self._name, paused=False)
        await self._changed()

    async def _delete(self) -> None:
        question = t("deployments.delete_question", name=self._name)
        if await parts.confirm(question, t("deployments.delete_detail"), t("deployments.delete")):
            await self._deployed.delete(self._name)
            parts.note(t("deployments.deleted", name=self._name))
            await self._changed()


def _weights(deployment: Deployment) -> str:
    """Which, and what was measured of them."""
    if deployment.quantization is None:
        return t("deployments.weights_trained")
    found = deployment.agreement
    if found is None:
        return deployment.quantization
    return t(
        "deployments.weights_change",
        weights=deployment.quantization,
        same=shown_number(found.same_token),
        places=shown_number(found.places),
        mean=shown_number(found.mean_difference, digits=3),
        largest=shown_number(found.largest_difference, digits=3),
    )
