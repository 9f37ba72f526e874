"""What can be deployed, and how much of what is allowed is used (contract.md 4.6, 4.8)."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.accounts import Accounts
from tunery.api.control.scope import ACCOUNT, LOCATION, PROVIDER, SUBSCRIPTION, Control
from tunery.catalog import CHAT, COMPLETION, Base, Catalog, versioned
from tunery.deploying import LARGEST_CAPACITY, SKUS
from tunery.deployments import Deployments
from tunery.errors import InvalidRequest
from tunery.records import Account, Model
from tunery.settings import Settings

router = APIRouter()

TUNED_VERSION = "1"
CAPACITY = {"minimum": 1, "maximum": LARGEST_CAPACITY, "step": 1}
"""No default: a deployment without capacity has no rate limit."""
QUOTAS = {
    "max_deployments": ("OpenAI.Deployments", "Deployments"),
    "max_tuned_deployments": ("OpenAI.FineTuned.Deployments", "Deployments of tuned models"),
    "max_jobs": ("OpenAI.FineTuning.Jobs", "Fine-tuning jobs"),
    "max_queued_jobs": ("OpenAI.FineTuning.QueuedJobs", "Fine-tuning jobs that wait"),
    "max_running_jobs": ("OpenAI.FineTuning.RunningJobs", "Fine-tuning jobs that run"),
    "max_files": ("OpenAI.Files", "Files"),
    "max_total_bytes": ("OpenAI.FileBytes", "Bytes of all files"),
}
"""What ARM calls the limits of an account."""


@router.get(ACCOUNT + "/models")
def models_of_account(request: Request, call: Control) -> Response:
    """Tuned models of the account first, newest first, then the bases."""
    account, catalog = call.account, _catalog(request)
    tunes = _settings(request).tunes_in(account.location)
    tuned = [_tuned(model, account, catalog) for model in catalog.tuned(account.id)]
    return JSONResponse({"value": [*tuned, *(_base(base, tunes=tunes) for base in catalog.bases())]})


@router.get(LOCATION + "/models")
def models_of_location(request: Request, call: Control, location: str) -> Response:  # noqa: ARG001 (see skus)
    where = _settings(request).offered_location(location)
    tunes = _settings(request).tunes_in(where)
    found = [
        {"model": _base(base, tunes=tunes), "kind": "OpenAI", "skuName": "S0"} for base in _catalog(request).bases()
    ]
    return JSONResponse({"value": found})


@router.get(f"{SUBSCRIPTION}/providers/{PROVIDER}/modelCapacities")
def capacities(request: Request, call: Control) -> Response:
    places = _settings(request).all_locations
    return JSONResponse({"value": [one for place in places for one in _capacities(request, call.subscription, place)]})


@router.get(LOCATION + "/modelCapacities")
def capacities_of_location(request: Request, call: Control, location: str) -> Response:
    where = _settings(request).offered_location(location)
    return JSONResponse({"value": _capacities(request, call.subscription, where)})


@router.get(ACCOUNT + "/skus")
def skus_of_account(call: Control) -> Response:
    sku = {"resourceType": f"{PROVIDER}/accounts", "sku": {"name": "S0", "tier": "Standard"}}
    return JSONResponse({"value": [sku] if call.account else []})


@router.get(f"{SUBSCRIPTION}/providers/{PROVIDER}/skus")
def skus(request: Request, call: Control) -> Response:  # noqa: ARG001 (the dependency is the point)
    where = _settings(request).all_locations
    found = [
        {
            "resourceType": "accounts",
            "name": "S0",
            "tier": "Standard",
            "kind": kind,
            "locations": where,
            "restrictions": [],
        }
        for kind in ("AIServices", "OpenAI")
    ]
    return JSONResponse({"value": found})


@router.get(ACCOUNT + "/usages")
def usages_of_account(request: Request, call: Control) -> Response:
    deployments: Deployments = request.app.state.deployments
    found = [_usage(*QUOTAS[usage.name], usage.used, usage.limit) for usage in deployments.usages(call.account.id)]
    return JSONResponse({"value": found})


@router.get(LOCATION + "/usages")
def usages_of_location(request: Request, call: Control, location: str) -> Response:
    where = _settings(request).offered_location(location)
    accounts: Accounts = request.app.state.accounts
    there = [
        account
        for account in accounts.all()
        if account.location == where and account.subscription_id == call.subscription.lower()
    ]
    limit = _settings(request).max_accounts
    return JSONResponse({"value": [_usage("OpenAI.S0.AccountCount", "Accounts in this region", len(there), limit)]})


def _base(base: Base, *, tunes: bool) -> dict[str, Any]:
    name, version = versioned(base.name)
    return {
        "format": "OpenAI",
        "name": name,
        "version": version,
        "skus": [{"name": sku, "usageName": f"OpenAI.{sku}.{base.name}", "capacity": CAPACITY} for sku in SKUS],
        "maxCapacity": LARGEST_CAPACITY,
        "capabilities": _capabilities(base, tunes=tunes),
        "finetuneCapabilities": {"supportedFineTuneTypes": ["lora"]} if tunes else {},
        "lifecycleStatus": "GenerallyAvailable",
    }


def _tuned(model: Model, account: Account, catalog: Catalog) -> dict[str, Any]:
    base, (parent, version) = catalog.base(model.base), versioned(model.base)
    shown = {} if base is None else _base(base, tunes=True)
    return {
        **shown,
        "format": "OpenAI",
        "name": model.name,
        "version": TUNED_VERSION,
        "source": account.arm_id,
        "baseModel": {"format": "OpenAI", "name": parent, "version": version},
        "capabilities": {} if base is None else _capabilities(base, tunes=True),
    }


def _capabilities(base: Base, *, tunes: bool) -> dict[str, str]:
    """ARM writes truth as a string, and leaves out what isn't so."""
    known = {
        "fineTune": tunes,
        "inference": True,
        "chatCompletion": CHAT in base.kinds,
        "completion": COMPLETION in base.kinds,
    }
    return {name: "true" for name, so in known.items() if so}


def _capacities(request: Request, subscription: str, location: str) -> list[dict[str, Any]]:
    """Of one model in one region, by sku."""
    query = request.query_params
    name, version = query.get("modelName"), query.get("modelVersion", "1")
    if name is None:
        raise InvalidRequest("modelName is missing: of which model?", param="modelName")
    if all(_catalog(request).base(known) is None for known in (name, f"{name}-{version}")):
        return []
    model = {"format": query.get("modelFormat", "OpenAI"), "name": name, "version": version}
    where = f"/subscriptions/{subscription}/providers/{PROVIDER}/locations/{location}/modelCapacities"
    return [
        {
            "id": f"{where}/{model['format']}.{name}.{version}.{sku}",
            "name": sku,
            "type": f"{PROVIDER}/locations/modelCapacities",
            "location": location,
            "properties": {"model": model, "skuName": sku, "availableCapacity": LARGEST_CAPACITY},
        }
        for sku in SKUS
    ]


def _usage(name: str, words: str, used: int, limit: int) -> dict[str, Any]:
    return {
        "unit": "Bytes" if name.endswith("Bytes") else "Count",
        "name": {"value": name, "localizedValue": words},
        "currentValue": used,
        "limit": limit,
    }


def _catalog(request: Request) -> Catalog:
    catalog: Catalog = request.app.state.catalog
    return catalog


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
