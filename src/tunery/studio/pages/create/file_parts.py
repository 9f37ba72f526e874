"""How the wizard shows a file: what it holds, how its check goes, where its faults stand."""

from nicegui import ui

from tunery.records import File, FileStatus
from tunery.studio import parts
from tunery.studio.pages.create.findings import format_name
from tunery.studio.texts import shown_bytes, shown_number, t

MOODS = {FileStatus.PROCESSED: "good", FileStatus.ERROR: "bad"}


def contents(file: File) -> str:
    examples = t("create.examples", count=shown_number(file.examples or 0))
    return f"{examples} · {format_name(file.format)} · {shown_bytes(file.bytes)}"


def status(file: File) -> None:
    if file.status == FileStatus.PENDING and not file.blob:
        parts.status_chip(t("create.status_fetching", size=shown_bytes(file.bytes)), "busy")
    else:
        parts.status_chip(t(f"create.status_{file.status}"), MOODS.get(file.status, "busy"))


def findings_link(file: File) -> None:
    text = t("create.findings", count=shown_number(file.findings))
    link = ui.link(text, f"/files/{file.id}").classes("tunery-link text-sm")
    link.props["aria-label"] = f"{text}: {file.filename}"
