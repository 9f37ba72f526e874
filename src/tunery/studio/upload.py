"""Files on their way in: dropped, chosen or fetched from a link. upload.js sends them in parts to the routes here."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import JSONResponse, Response
from nicegui import core, ui
from nicegui.events import GenericEventArguments

from tunery.api.wire import decode, read_body
from tunery.errors import InvalidRequest, TuneryError
from tunery.files import TRAINING
from tunery.imports import NewImport
from tunery.records import File
from tunery.studio import parts
from tunery.studio.frame import ROOT, visitor_of
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor

BEGIN, LOOK = "POST /uploads", "GET /uploads/{upload_id}"
ADD, COMPLETE = "POST /uploads/{upload_id}/parts", "POST /uploads/{upload_id}/complete"
PART_BYTES = 4 * 1024**2
OnFile = Callable[[File], Awaitable[None]]


class UploadBox(ui.element, component="upload.js"):
    """A place to drop a file on, or to choose one; says how far it has come."""

    def __init__(self, visitor: Visitor, on_file: OnFile, *, part_bytes: int = PART_BYTES) -> None:
        super().__init__()
        words = ("browse", "drop", "waiting", "sent", "cancel", "interrupted", "stopped")
        texts = {word: t(f"upload.{word}", **({"name": "{name}"} if word == "interrupted" else {})) for word in words}
        self.props["texts"], self.props["base"], self.props["part"] = texts, ROOT, part_bytes
        self.props["purpose"], self.props["account"] = TRAINING, str(visitor.account.id)
        self.classes("w-full")
        if not parts.forbid(self, BEGIN, visitor):
            self.props["disabled"] = True

        async def kept(event: GenericEventArguments) -> None:
            with parts.said():
                file_id = str(event.args["id"])
                await on_file(await visitor.do("GET /files/{file_id}", _get(visitor), file_id))

        self.on("kept", kept)


def upload_area(visitor: Visitor, on_file: OnFile) -> None:
    """Drop, browse, or fetch from a link; `on_file` is called with what was kept, which still waits for its check."""
    with ui.column().classes("w-full gap-3"):
        UploadBox(visitor, on_file)
        with ui.expansion(t("upload.link_title"), icon="link").classes("w-full tunery-card"):
            link_form(visitor, on_file)


def link_form(visitor: Visitor, on_file: OnFile) -> None:
    """Name and link; a refusal stands at the field that it is about."""
    ui.label(t("upload.link_hint")).classes("quiet")
    name = ui.input(t("upload.file_name")).props("outlined dense").classes("w-full")
    link = ui.input(t("upload.link")).props("outlined dense autocomplete=off").classes("w-full")
    fields = {"filename": name, "content_url": link}

    async def fetch() -> None:
        for field in fields.values():
            field.error = None
        wanted = NewImport(purpose=TRAINING, filename=name.value or "", content_url=link.value or "")
        create, resource = visitor.rooms.imports.create, "/openai/files/import"
        try:
            file = await visitor.do("POST /files/import", create, visitor.account.id, wanted, resource=resource)
        except InvalidRequest as error:
            if error.param not in fields:
                raise
            fields[error.param].error = error.message
            return
        name.set_value("")
        link.set_value("")
        await on_file(file)

    parts.action(t("upload.fetch"), "POST /files/import", fetch, visitor=visitor, icon="cloud_download")


def _get(visitor: Visitor) -> Callable[[str], File]:
    return lambda file_id: visitor.rooms.files.get(visitor.account.id, file_id)


# --- routes that upload.js calls ---


class _Wanted(msgspec.Struct, frozen=True):
    filename: str
    bytes: int
    purpose: str


class _Parts(msgspec.Struct, frozen=True):
    part_ids: list[str]


LONGEST_BODY = 8 * 1024**2
"""Of parts' ids: a file of many gigabytes has some tens of thousands."""


@core.app.post("/uploads")
async def begin(request: Request) -> Response:
    async def answer(visitor: Visitor) -> dict[str, Any]:
        wanted = decode(await read_body(request, LONGEST_BODY), _Wanted)
        begun = await visitor.do(
            BEGIN,
            visitor.rooms.uploads.begin,
            account_id=visitor.account.id,
            purpose=wanted.purpose,
            filename=wanted.filename,
            size=wanted.bytes,
            mime_type="application/jsonl",
            resource="/openai/uploads",
        )
        return {"id": begun.id}

    return await _answered(request, answer)


@core.app.get("/uploads/{upload_id}")
async def look(request: Request, upload_id: str) -> Response:
    async def answer(visitor: Visitor) -> dict[str, Any]:
        found = await visitor.do(LOOK, visitor.rooms.uploads.get, visitor.account.id, upload_id)
        return {"id": found.id, "status": found.status}

    return await _answered(request, answer)


@core.app.post("/uploads/{upload_id}/parts")
async def add(request: Request, upload_id: str) -> Response:
    async def answer(visitor: Visitor) -> dict[str, Any]:
        await anyio.to_thread.run_sync(visitor.prove, ADD)
        await visitor.do(LOOK, visitor.rooms.uploads.get, visitor.account.id, upload_id)
        async with contextmanager_in_threadpool(visitor.rooms.files.receive()) as incoming:
            async for chunk in request.stream():
                await anyio.to_thread.run_sync(incoming.write, chunk)
        keep = visitor.rooms.uploads.keep_part
        resource = f"/openai/uploads/{upload_id}/parts"
        part = await visitor.do(ADD, keep, visitor.account.id, upload_id, incoming, resource=resource)
        return {"id": part.id}

    return await _answered(request, answer)


@core.app.post("/uploads/{upload_id}/complete")
async def complete(request: Request, upload_id: str) -> Response:
    async def answer(visitor: Visitor) -> dict[str, Any]:
        wanted = decode(await read_body(request, LONGEST_BODY), _Parts)
        finish, resource = visitor.rooms.uploads.complete, f"/openai/uploads/{upload_id}/complete"
        given = (visitor.account.id, upload_id, wanted.part_ids, None)
        _, file = await visitor.do(COMPLETE, finish, *given, resource=resource)
        return {"file_id": file.id}

    return await _answered(request, answer)


async def _answered(request: Request, answer: Callable[[Visitor], Awaitable[dict[str, Any]]]) -> Response:
    """Of the one who is signed in; a refusal is the API's sentence."""
    try:
        return JSONResponse(await answer(await anyio.to_thread.run_sync(visitor_of, request)))
    except TuneryError as error:
        return JSONResponse({"message": error.message}, error.status)
