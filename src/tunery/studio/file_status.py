"""How a file stands, in words: on the pages of files and in the wizard."""

from nicegui import ui

from tunery.records import File, FileStatus
from tunery.studio import parts
from tunery.studio.texts import shown_bytes, t

MOODS = {
    FileStatus.PENDING: "busy",
    FileStatus.RUNNING: "busy",
    FileStatus.PROCESSED: "good",
    FileStatus.ERROR: "bad",
}


def file_chip(file: File) -> ui.badge:
    """The status, with what the check said on hover; of an import under way, how much has come."""
    fetching = file.status == FileStatus.PENDING and not file.blob
    text = t("files.fetching", size=shown_bytes(file.bytes)) if fetching else t(f"files.{file.status}")
    chip = parts.status_chip(text, MOODS[file.status])
    if file.status_details:
        with chip:
            ui.tooltip(file.status_details).classes("max-w-md text-sm")
        chip.props["aria-description"] = file.status_details
        chip.props["tabindex"] = "0"
    return chip
