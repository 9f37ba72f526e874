"""The rooms of a service in (wiring.py), an ASGI application out."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from tunery import api
from tunery.api import (
    contents,
    control,
    copies,
    deployments,
    files,
    identity,
    inference,
    jobs,
    legacy,
    machine,
    models,
)
from tunery.api.rights import Audited
from tunery.api.wire import Tolerance
from tunery.deployments import Deployments
from tunery.errors import TuneryError
from tunery.machine import Engines, Machine
from tunery.rooms import Services
from tunery.serving.pool import EnginePool
from tunery.studio.rooms import Rooms
from tunery.throttle import Throttle

logger = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 60.0
AGAIN_SECONDS = 5.0
"""After a reconciliation that the database or the disk broke off."""


def web(rooms: Services, engines: EnginePool) -> FastAPI:
    """The API on one port or several; `lifespan` of the result runs reconciliation and housekeeping."""
    app = FastAPI(title="Tunery", lifespan=_lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(inference.router)  # first: routes are tried in turn, and this one is asked most
    for prefix in ("/openai/v1", "/openai"):
        for module in (files, contents, jobs, copies, models, machine):
            app.include_router(module.router, prefix=prefix)
    for module in (deployments, legacy):
        app.include_router(module.router, prefix="/openai")
    app.include_router(control.router)
    app.include_router(identity.router)
    state: Any = app.state
    state.settings, state.access, state.catalog = rooms.settings, rooms.access, rooms.catalog
    state.accounts, state.groups, state.copies = rooms.accounts, rooms.groups, rooms.copies
    state.files, state.uploads, state.jobs, state.deployments = (
        rooms.files,
        rooms.uploads,
        rooms.jobs,
        rooms.deployments,
    )
    state.deployer, state.imports, state.estimates = rooms.deployer, rooms.imports, rooms.estimates
    state.inspections = rooms.inspections
    state.audit = rooms.audit
    state.authority = rooms.authority
    state.sign_ins = anyio.CapacityLimiter(1)
    state.generator = engines
    state.throttle = Throttle(rooms.settings)
    state.uptime, state.meter, state.idle = rooms.uptime, rooms.meter, rooms.idle
    state.machine = Machine(rooms.store, engines)
    state.reconcile = asyncio.Event()
    api.install(app)
    return app


def studio_of(rooms: Services, application: FastAPI) -> Rooms:
    """What Studio works with: the same rooms, generator, limits and wishes to reconcile as the API's routes."""
    state: Any = application.state
    return Rooms(
        **{field.name: getattr(rooms, field.name) for field in dataclasses.fields(rooms)},
        generator=state.generator,
        throttle=state.throttle,
        machine=state.machine,
        reconcile=state.reconcile.set,
        sign_ins=state.sign_ins,
    )


def entrance(application: FastAPI) -> Tolerance:
    """What a port runs: outermost, so that even a failure that nobody caught carries its request id."""
    return Tolerance(Audited(application, application.state.audit), region=application.state.settings.location)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await anyio.to_thread.run_sync(app.state.uptime.start)
        tasks.start_soon(_reconcile, app)
        tasks.start_soon(_keep_house, app)
        yield
        tasks.cancel_scope.cancel()
    await _do(partial(_count_time, app))


async def _reconcile(app: FastAPI) -> None:
    """Bring deployments to where they are wanted, at start and whenever one was put."""
    deployments: Deployments = app.state.deployments
    while True:
        app.state.reconcile.clear()
        try:
            await deployments.reconcile(app.state.generator, run_sync=anyio.to_thread.run_sync)
        except* (OSError, SQLAlchemyError):
            logger.exception("deployments stay as they are for now")
            await anyio.sleep(AGAIN_SECONDS)
        else:
            await app.state.reconcile.wait()


async def _keep_house(app: FastAPI) -> None:
    state = app.state
    chores = (state.idle.sweep, state.uploads.expire, state.files.expire, state.files.sweep, state.imports.sweep)
    while True:
        for chore in (partial(_count_time, app), *chores):
            await _do(chore)
        await _let_engines_go(state.generator, state.deployments)
        state.throttle.tidy()
        await anyio.sleep(HOUSEKEEPING_SECONDS)


def _count_time(app: FastAPI) -> None:
    app.state.meter.flush(app.state.uptime.tick())


async def _let_engines_go(engines: Engines, deployments: Deployments) -> None:
    """Those that no deployment needs any more: each holds a model in memory."""
    try:
        wanted = await anyio.to_thread.run_sync(deployments.weights)
    except (OSError, SQLAlchemyError):
        logger.exception("housekeeping")
    else:
        await engines.keep(wanted)


async def _do(chore: Callable[[], object]) -> None:
    """A full disk or a locked database passes; the service must not end of it."""
    try:
        await anyio.to_thread.run_sync(chore)
    except (OSError, SQLAlchemyError, TuneryError):
        logger.exception("housekeeping")
