"""What a deployment took, in the shape of ARM's usages. Ours: Azure tells it in Cost Management."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.api.control.scope import ACCOUNT, Control
from tunery.api.wire import page_size
from tunery.deployments import Deployments
from tunery.metering import DAYS, MOST_DAYS, Counts, Meter

router = APIRouter()

SHOWN = {
    "requests": ("Count", "Requests", "Requests"),
    "prompt_tokens": ("Count", "PromptTokens", "Tokens of prompts"),
    "cached_tokens": ("Count", "CachedTokens", "Of these, tokens that were computed before"),
    "completion_tokens": ("Count", "CompletionTokens", "Tokens of answers"),
    "hosted_seconds": ("Seconds", "HostedSeconds", "Time in which the deployment was there to answer"),
}


@router.get(ACCOUNT + "/deployments/{deployment}/usages")
def usages(request: Request, call: Control, deployment: str) -> Response:
    """Since the deployment was made, to this moment."""
    deployments: Deployments = request.app.state.deployments
    meter: Meter = request.app.state.meter
    found = deployments.get(call.account.id, deployment)
    counts = meter.of(found.account_id, found.name, found.created_at)
    return JSONResponse({"value": _usages(counts)})


@router.get(ACCOUNT + "/deployments/{deployment}/dailyUsages")
def daily_usages(request: Request, call: Control, deployment: str, days: str | None = None) -> Response:
    """The same on each of the last days, oldest first; days on which it wasn't there miss."""
    deployments: Deployments = request.app.state.deployments
    meter: Meter = request.app.state.meter
    found = deployments.get(call.account.id, deployment)
    asked = page_size(days, default=DAYS, most=MOST_DAYS, name="days")
    daily = meter.daily(found.account_id, found.name, found.created_at, days=asked)
    return JSONResponse({"value": [{"day": day, "usages": _usages(counts)} for day, counts in daily.items()]})


def _usages(counts: Counts) -> list[dict[str, Any]]:
    return [_usage(*shown, getattr(counts, field)) for field, shown in SHOWN.items()]


def _usage(unit: str, name: str, words: str, value: float) -> dict[str, Any]:
    return {"unit": unit, "name": {"value": name, "localizedValue": words}, "currentValue": value}
