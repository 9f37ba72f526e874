"""The ARM control plane (contract.md 4), a module a noun; `router` has all of it."""

from fastapi import APIRouter

from tunery.api.control import accounts, audit_logs, deployments, groups, metering, offers, operations, tenancy

router = APIRouter()
for module in (accounts, audit_logs, deployments, groups, metering, offers, operations, tenancy):
    router.include_router(module.router)
