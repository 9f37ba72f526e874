"""Base and tuned models over HTTP (contract.md 1.6)."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunery.api.wire import DataPlane, reply
from tunery.catalog import CHAT, COMPLETION, Base, Catalog, licence_of
from tunery.errors import NotFound
from tunery.records import JobStatus, Model

router = APIRouter()

RELEASED = 1_738_886_400
"""SmolLM2's release, 7 February 2025: what base models give as their date of creation."""


@router.get("/models")
def list_models(request: Request, call: DataPlane) -> Response:
    catalog: Catalog = request.app.state.catalog
    tuned = [_tuned(model, catalog) for model in catalog.tuned(call.account.id)]
    return reply(call, {"object": "list", "data": [*tuned, *(_base(base) for base in catalog.bases())]})


@router.get("/models/{name:path}")
def retrieve(request: Request, call: DataPlane, name: str) -> Response:
    catalog: Catalog = request.app.state.catalog
    base = catalog.base(name)
    if base is not None:
        return reply(call, _base(base))
    model = catalog.tuned_model(call.account.id, name)
    if model is None:
        raise NotFound(f"The model '{name}' does not exist.")
    return reply(call, _tuned(model, catalog))


@router.delete("/models/{name:path}")
def delete(request: Request, call: DataPlane, name: str) -> Response:
    request.app.state.catalog.delete(call.account.id, name)
    return reply(call, {"id": name, "object": "model", "deleted": True})


def _base(base: Base) -> dict[str, Any]:
    """`served_by` is ours: the weights behind a name that users' code already has; so is what is known of them."""
    return {
        "id": base.name,
        "object": "model",
        "created_at": RELEASED,
        "created": RELEASED,
        "owned_by": "tunery",
        "status": JobStatus.SUCCEEDED,
        "capabilities": _capabilities(base),
        "lifecycle_status": "generally-available",
        "served_by": base.model.name,
        "context_length": base.model.context_length,
        "license": licence_of(base.model),
    }


def _tuned(model: Model, catalog: Catalog) -> dict[str, Any]:
    """`parent` is ours: what the model was tuned from, a base or another tuned model."""
    base = catalog.base(model.base)
    return {
        "id": model.name,
        "object": "model",
        "created_at": model.created_at,
        "created": model.created_at,
        "owned_by": "tunery",
        "status": JobStatus.SUCCEEDED,
        "model": model.base,
        "fine_tune": model.job_id,
        "capabilities": _capabilities(base),
        "lifecycle_status": "generally-available",
        "served_by": model.base if base is None else base.model.name,
        "parent": model.parent,
    }


def _capabilities(base: Base | None) -> dict[str, bool]:
    """None: the folder of its base is gone, so nothing works."""
    kinds = frozenset() if base is None else base.kinds
    return {
        "fine_tune": base is not None,
        "inference": base is not None,
        "completion": COMPLETION in kinds,
        "chat_completion": CHAT in kinds,
        "embeddings": False,
    }
