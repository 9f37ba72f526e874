"""Files and uploads over HTTP (contract.md 1.2, 1.3)."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import FileResponse, Response

from tunery.api.forms import Form, refuse_oversized
from tunery.api.wire import DataPlane, JsonBody, decode, page, page_size, reply
from tunery.errors import InvalidRequest, NotFound
from tunery.files import Files, Incoming
from tunery.imports import Imports, NewImport
from tunery.records import File, Upload
from tunery.uploads import Uploads

router = APIRouter()


@router.post("/files")
async def upload(request: Request, call: DataPlane) -> Response:
    files: Files = request.app.state.files
    await refuse_oversized(request, request.app.state.settings.max_file_bytes)
    form, incoming = await _receive(request, files, "file")
    file = await run_in_threadpool(
        files.keep,
        incoming,
        account_id=call.account.id,
        filename=form.filename or "",
        purpose=form.fields.get("purpose", ""),
        expires_after=_expiry(form.fields),
    )
    return reply(call, shown(file), status=call.created, location=_location(request, request.url.path, file.id))


@router.post("/files/import")
def import_file(request: Request, call: DataPlane, body: JsonBody) -> Response:
    imports: Imports = request.app.state.imports
    file = imports.create(
        call.account.id, decode(body, NewImport), idempotency_key=request.headers.get("idempotency-key")
    )
    collection = request.url.path.rstrip("/").removesuffix("/import")
    return reply(call, shown(file), status=call.created, location=_location(request, collection, file.id))


@router.get("/files")
def list_files(
    request: Request,
    call: DataPlane,
    purpose: str | None = None,
    after: str | None = None,
    limit: str | None = None,
    order: str = "desc",
    search: str = "",
) -> Response:
    size = page_size(limit, default=10_000, most=10_000)
    found, more = request.app.state.files.page(
        call.account.id, purpose=purpose, after=after, limit=size, ascending=order == "asc", search=search
    )
    return reply(call, page([shown(file) for file in found], more))


@router.get("/files/{file_id}")
def retrieve(request: Request, call: DataPlane, file_id: str) -> Response:
    return reply(call, shown(request.app.state.files.get(call.account.id, file_id)))


@router.get("/files/{file_id}/content")
def content(request: Request, call: DataPlane, file_id: str) -> Response:
    files: Files = request.app.state.files
    file = files.get(call.account.id, file_id)
    path = files.content(file)
    if not path.exists():
        # A results file that grows gets a new blob between our two looks; the row knows the current one.
        path = files.content(files.get(call.account.id, file_id))
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


@router.get("/files/{file_id}/findings")
def findings(request: Request, call: DataPlane, file_id: str, after: int = 0, limit: str | None = None) -> Response:
    """Ours: everything the check found, in file order; `after` is how many findings to skip."""
    files: Files = request.app.state.files
    file = files.get(call.account.id, file_id)
    size = page_size(limit, default=100, most=10_000)
    found, more = files.findings(file, after=max(0, after), limit=size)
    body = {"object": "list", "data": [msgspec.to_builtins(finding) for finding in found], "has_more": more}
    return reply(call, {**body, "total": file.findings, "status": file.status})


@router.delete("/files/{file_id}")
def delete(request: Request, call: DataPlane, file_id: str) -> Response:
    request.app.state.files.delete(call.account.id, file_id)
    return reply(call, {"id": file_id, "object": "file", "deleted": True})


class NewUpload(msgspec.Struct, frozen=True):
    purpose: str
    filename: str
    bytes: int
    mime_type: str


@router.post("/uploads")
def begin_upload(request: Request, call: DataPlane, body: JsonBody) -> Response:
    wanted = decode(body, NewUpload)
    uploads: Uploads = request.app.state.uploads
    begun = uploads.begin(
        account_id=call.account.id,
        purpose=wanted.purpose,
        filename=wanted.filename,
        size=wanted.bytes,
        mime_type=wanted.mime_type,
    )
    return reply(call, shown_upload(begun))


@router.post("/uploads/{upload_id}/parts")
async def add_part(request: Request, call: DataPlane, upload_id: str) -> Response:
    uploads: Uploads = request.app.state.uploads
    await run_in_threadpool(uploads.get, call.account.id, upload_id)
    await refuse_oversized(request, request.app.state.settings.max_file_bytes)
    _form, incoming = await _receive(request, request.app.state.files, "data")
    part = await run_in_threadpool(uploads.keep_part, call.account.id, upload_id, incoming)
    body = {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": upload_id}
    return reply(call, {**body, "azure_block_id": part.id.removeprefix("part_")})


class Completion(msgspec.Struct, frozen=True):
    part_ids: list[str]
    md5: str | None = None


@router.post("/uploads/{upload_id}/complete")
def complete_upload(request: Request, call: DataPlane, upload_id: str, body: JsonBody) -> Response:
    wanted = decode(body, Completion)
    uploads: Uploads = request.app.state.uploads
    done, file = uploads.complete(call.account.id, upload_id, wanted.part_ids, wanted.md5)
    return reply(call, {**shown_upload(done), "file": shown(file)})


@router.post("/uploads/{upload_id}/cancel")
def cancel_upload(request: Request, call: DataPlane, upload_id: str) -> Response:
    return reply(call, shown_upload(request.app.state.uploads.cancel(call.account.id, upload_id)))


@router.get("/uploads/{upload_id}")
def retrieve_upload(request: Request, call: DataPlane, upload_id: str) -> Response:
    found: Upload = request.app.state.uploads.get(call.account.id, upload_id)
    body = shown_upload(found)
    if found.file_id is not None:
        try:
            body["file"] = shown(request.app.state.files.get(call.account.id, found.file_id))
        except NotFound:
            body["file"] = None
    return reply(call, body)


def shown(file: File) -> dict[str, Any]:
    """The wire's File object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.status_details,
        "expires_at": file.expires_at,
        "sha256": file.sha256,
    }


def shown_upload(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "expires_at": upload.expires_at,
    }


async def _receive(request: Request, files: Files, field: str) -> tuple[Form, Incoming]:
    async with contextmanager_in_threadpool(files.receive()) as incoming:
        form = Form(field, incoming.write)
        await form.read(request)
    return form, incoming


def _expiry(fields: dict[str, str]) -> int | None:
    """expires_after in Azure's dotted or OpenAI's bracketed spelling."""
    seconds = fields.get("expires_after.seconds", fields.get("expires_after[seconds]"))
    anchor = fields.get("expires_after.anchor", fields.get("expires_after[anchor]", "created_at"))
    if seconds is None:
        return None
    if anchor != "created_at" or not seconds.isdigit():
        raise InvalidRequest(
            "expires_after needs the anchor 'created_at' and a whole number of seconds.", param="expires_after"
        )
    return int(seconds)


def _location(request: Request, collection: str, item: str) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{collection.rstrip('/')}/{item}"
