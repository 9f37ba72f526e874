"""What is in a file, over HTTP. All routes are ours."""

import re
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from tunery.api.wire import DataPlane, page_size, reply
from tunery.errors import InvalidRequest
from tunery.examples import MENDS, Correction, describe
from tunery.inspection import Inspections

router = APIRouter()

KEEP, LEAVE_OUT = "keep", "leave_out"


@router.get("/files/{file_id}/statistics")
def statistics(request: Request, call: DataPlane, file_id: str, model: str | None = None) -> Response:
    found = _inspections(request).statistics(call.account.id, file_id, model)
    return reply(call, {"object": "file.statistics", "file_id": file_id, **_plain(found)})


@router.get("/files/{file_id}/examples")
def examples(
    request: Request,
    call: DataPlane,
    file_id: str,
    model: str | None = None,
    after: str | None = None,
    limit: str | None = None,
) -> Response:
    """`after`: how many examples to skip."""
    size = page_size(limit, default=10, most=100)
    skipped = 0 if after in (None, "0") else page_size(after, default=0, most=10**9 - 1, name="after")
    found, more = _inspections(request).examples(call.account.id, file_id, model, after=skipped, limit=size)
    return reply(call, {"object": "list", "data": [_plain(example) for example in found], "has_more": more})


@router.get("/files/{file_id}/overlap")
def overlap(request: Request, call: DataPlane, file_id: str) -> Response:
    other = request.query_params.get("with")
    if not other:
        raise InvalidRequest("Name the other file: ?with=file-...", param="with")
    found = _inspections(request).overlap(call.account.id, file_id, other)
    return reply(call, {"object": "file.overlap", "file_id": file_id, "with": other, **_plain(found)})


@router.get("/files/{file_id}/corrections")
def corrections(request: Request, call: DataPlane, file_id: str, unmended: str = KEEP) -> Response:
    _, correction, _ = _inspections(request).corrected(call.account.id, file_id, leave_out=_leaves_out(unmended))
    return reply(call, {"object": "file.corrections", "file_id": file_id, **shown(correction)})


@router.get("/files/{file_id}/corrected")
def corrected(request: Request, call: DataPlane, file_id: str, unmended: str = KEEP) -> Response:
    file, _, path = _inspections(request).corrected(call.account.id, file_id, leave_out=_leaves_out(unmended))
    return FileResponse(path, media_type="application/octet-stream", filename=corrected_name(file.filename))


def corrected_name(filename: str) -> str:
    """train.jsonl becomes train.corrected.jsonl."""
    return re.sub(r"(\.[^.]*)?$", r".corrected\1", filename, count=1)


def shown(correction: Correction) -> dict[str, Any]:
    summary = correction.summary
    return {
        "mended": [{"mend": mend, "count": count, "message": MENDS[mend]} for mend, count in correction.mends.items()],
        "changes": _plain(correction.changes),
        "unmended": correction.unmended,
        "valid": summary.is_valid,
        "examples": summary.examples,
        "status_details": describe(summary) or None,
        "findings": _plain(summary.first_findings),
    }


def _leaves_out(unmended: str) -> bool:
    if unmended not in (KEEP, LEAVE_OUT):
        raise InvalidRequest(f"unmended is {unmended[:32]!r}; it may be {KEEP} or {LEAVE_OUT}.", param="unmended")
    return unmended == LEAVE_OUT


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _inspections(request: Request) -> Inspections:
    inspections: Inspections = request.app.state.inspections
    return inspections
