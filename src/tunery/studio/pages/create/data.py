"""Second and third step: the files to train and to validate on, from those there are, from here, or from a link."""

from typing import NamedTuple

from nicegui import ui

from tunery.records import File, FileStatus
from tunery.studio import parts
from tunery.studio.file_status import file_chip
from tunery.studio.pages.create import file_list, file_parts
from tunery.studio.pages.create.findings import unfit
from tunery.studio.pages.create.overlap import overlap
from tunery.studio.pages.create.wizard import Wizard
from tunery.studio.texts import t
from tunery.studio.upload import UploadBox, link_form

WAYS = {"existing": "folder_open", "upload": "upload_file", "link": "link"}


class Role(NamedTuple):
    """What the step chooses a file for."""

    name: str
    """The step, and the draft's field."""
    wizard: Wizard

    @property
    def file(self) -> File | None:
        found = self.wizard.found
        return found.training if self.name == "training" else found.validation

    @property
    def formats(self) -> frozenset[str]:
        found = self.wizard.found
        return found.formats if self.name == "training" else found.validation_formats

    async def choose(self, file_id: str) -> None:
        await self.wizard.choose(**{self.name: file_id})

    async def use(self, file: File) -> None:
        """A new file is chosen at once, while it is still being fetched and checked."""
        await self.choose(file.id)


async def build_training(wizard: Wizard) -> None:
    await _build(Role("training", wizard))


async def build_validation(wizard: Wizard) -> None:
    await _build(Role("validation", wizard))


async def _build(role: Role) -> None:
    _chosen(role)
    if role.name == "validation":
        overlap(role.wizard)
    with (
        ui.tabs().classes("w-full").props("no-caps dense align=left inline-label outside-arrows mobile-arrows") as tabs
    ):
        for way, icon in WAYS.items():
            ui.tab(way, label=t(f"create.way_{way}"), icon=icon)
    with ui.tab_panels(tabs, value="existing").classes("w-full bg-transparent"):
        with ui.tab_panel("existing").classes("p-0 pt-3"):
            choice = file_list.Choice(lambda: role.formats, lambda: role.file, role.choose)
            listed = await file_list.build(role.wizard.visitor, choice)
            role.wizard.on_change(listed.show)
        with ui.tab_panel("upload").classes("p-0 pt-3"):
            UploadBox(role.wizard.visitor, role.use)
        with ui.tab_panel("link").classes("p-0 pt-3 flex flex-col gap-3"):
            link_form(role.wizard.visitor, role.use)


def _chosen(role: Role) -> None:
    """The file that is chosen, and how its check goes."""
    place = ui.column().classes("w-full gap-2")

    def show() -> None:
        place.clear()
        refusal = role.wizard.found.refusals.get(role.name)
        with place:
            if role.file is not None:
                _file(role, role.file)
            if refusal is not None and (role.file is None or unfit(role.file, role.formats) is None):
                ui.label(refusal.message).classes("text-negative break-words").props("role=alert")

    role.wizard.on_change(show)


def _file(role: Role, file: File) -> None:
    with ui.element("section").classes("tunery-chosen p-3 w-full flex flex-col flex-nowrap gap-1 min-w-0") as section:
        section.props["aria-label"] = t("create.chosen")
        with ui.row().classes("w-full items-center gap-2 no-wrap"):
            ui.icon("description", size="1.4rem").props("aria-hidden=true")
            ui.label(file.filename).classes("font-medium break-all min-w-0 flex-1")
            file_chip(file)
            remove = ui.button(icon="close", color=None, on_click=parts.shown(lambda: role.choose("")))
            remove.props("flat round dense").props["aria-label"] = t("create.remove", name=file.filename)
        if file.status == FileStatus.PROCESSED:
            ui.label(file_parts.contents(file)).classes("quiet text-sm")
        if why := unfit(file, role.formats):
            ui.label(why).classes("break-words").props("role=status")
        if file.status == FileStatus.ERROR and file.status_details:
            ui.label(file.status_details).classes("quiet text-sm break-words whitespace-pre-line")
        if file.findings:
            file_parts.findings_link(file)
