"""How the wizard shows a file: what it holds, where its faults stand."""

from nicegui import ui

from tunery.records import File
from tunery.studio.pages.create.findings import format_name
from tunery.studio.texts import shown_bytes, shown_number, t


def contents(file: File) -> str:
    examples = t("create.examples", count=shown_number(file.examples or 0))
    return f"{examples} · {format_name(file.format)} · {shown_bytes(file.bytes)}"


def findings_link(file: File) -> None:
    text = t("create.findings", count=shown_number(file.findings))
    link = ui.link(text, f"/files/{file.id}").classes("tunery-link text-sm")
    link.props["aria-label"] = f"{text}: {file.filename}"
