"""One data file: how it stands, what is wrong with it, what a model reads in it."""

import anyio
from fastapi import Request
from fastapi.responses import FileResponse, JSONResponse, Response
from nicegui import core, ui

from tunery.api.contents import LEAVE_OUT, corrected_name
from tunery.errors import TuneryError
from tunery.files import TRAINING
from tunery.records import File, FileStatus
from tunery.studio import parts
from tunery.studio.contents import contents
from tunery.studio.file_status import file_chip
from tunery.studio.findings import findings_table
from tunery.studio.frame import ROOT, page, visitor_of
from tunery.studio.texts import shown_bytes, shown_number, shown_time, t
from tunery.studio.visitor import Visitor

GET, DELETE = "GET /files/{file_id}", "DELETE /files/{file_id}"
CONTENT, CORRECTED = "GET /files/{file_id}/content", "GET /files/{file_id}/corrected"
UNSETTLED = (FileStatus.PENDING, FileStatus.RUNNING)


@page("/files/{file_id}", "frame.files")
async def file_page(visitor: Visitor, file_id: str) -> None:
    read = visitor.rooms.files.get
    file = await visitor.do(GET, read, visitor.account.id, file_id)
    with ui.element("a").classes("tunery-link") as back:
        back.props["href"] = f"{ROOT}/files"
        ui.label(t("file.all")).classes("inline")
    parts.heading(file.filename)
    place = ui.column().classes("w-full gap-4 min-w-0")
    with place:
        await _draw(visitor, file)
    if file.status not in UNSETTLED:
        return
    shown = file

    async def follow() -> None:
        nonlocal shown
        now = await visitor.do(GET, read, visitor.account.id, file_id)
        if now != shown:
            shown = now
            place.clear()
            with place:
                await _draw(visitor, now)
        if now.status not in UNSETTLED:
            timer.deactivate()

    timer = parts.every(1, follow)


async def _draw(visitor: Visitor, file: File) -> None:
    with ui.row().classes("items-center gap-3"):
        file_chip(file)
        _buttons(visitor, file)
    if file.status_details:
        ui.label(file.status_details).classes("break-words")
    facts = {
        t("file.id"): file.id,
        t("files.purpose"): file.purpose,
        t("files.size"): shown_bytes(file.bytes),
        t("files.examples"): "–" if file.examples is None else shown_number(file.examples),
        t("file.format"): file.format or "–",
        t("files.created"): shown_time(file.created_at),
    }
    parts.facts(facts)
    await findings_table(visitor, file)
    if file.purpose == TRAINING and file.status == FileStatus.PROCESSED:
        contents(visitor, file)


def _buttons(visitor: Visitor, file: File) -> None:
    async def download() -> None:
        ui.download(f"/files/{file.id}/content")

    async def delete() -> None:
        if not await parts.confirm(
            t("file.delete_question", name=file.filename), t("file.delete_detail"), t("file.delete")
        ):
            return
        resource = f"/openai/files/{file.id}"
        await visitor.do(DELETE, visitor.rooms.files.delete, visitor.account.id, file.id, resource=resource)
        ui.navigate.to("/files")

    parts.action(t("file.download"), CONTENT, download, visitor=visitor, icon="download")
    parts.action(t("file.delete"), DELETE, delete, visitor=visitor, icon="delete", look="danger")


# --- downloads ---


@core.app.get("/files/{file_id}/content")
async def content(request: Request, file_id: str) -> Response:
    try:
        visitor = await anyio.to_thread.run_sync(visitor_of, request)
        files = visitor.rooms.files
        file = await visitor.do(CONTENT, files.get, visitor.account.id, file_id)
        return FileResponse(files.content(file), media_type="application/octet-stream", filename=file.filename)
    except TuneryError as error:
        return JSONResponse({"message": error.message}, error.status)


@core.app.get("/files/{file_id}/corrected")
async def corrected(request: Request, file_id: str, unmended: str = "") -> Response:
    try:
        visitor = await anyio.to_thread.run_sync(visitor_of, request)
        correct = visitor.rooms.inspections.corrected
        leave_out = unmended == LEAVE_OUT
        file, _, path = await visitor.do(CORRECTED, correct, visitor.account.id, file_id, leave_out=leave_out)
        name = corrected_name(file.filename)
        return FileResponse(path, media_type="application/octet-stream", filename=name)
    except TuneryError as error:
        return JSONResponse({"message": error.message}, error.status)
