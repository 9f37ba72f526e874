"""The only wiring: Settings in, an ASGI application or a worker out."""

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from tunery import api
from tunery.access import Access
from tunery.accounts import Accounts
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
from tunery.audit import Audit
from tunery.authority import Authority
from tunery.catalog import Catalog
from tunery.copies import Copies
from tunery.deploying import Deployer
from tunery.deployments import Deployments
from tunery.errors import TuneryError
from tunery.estimates import Estimates
from tunery.files import Files
from tunery.groups import Groups
from tunery.idle import IdleRule
from tunery.imports import Imports
from tunery.inspection import Inspections
from tunery.jobs import Jobs
from tunery.machine import Engines, Machine
from tunery.metering import Meter
from tunery.rooms import Services
from tunery.run import Bench
from tunery.serving.pool import EnginePool
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.database import Database
from tunery.studio.rooms import Rooms
from tunery.throttle import Throttle
from tunery.training.local import LocalInspector, LocalPlanner, LocalTrainer
from tunery.uploads import Uploads
from tunery.uptime import Uptime
from tunery.worker import Worker

logger = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 60.0
AGAIN_SECONDS = 5.0
"""After a reconciliation that the database or the disk broke off."""


def services(settings: Settings) -> Services:
    """Open the home folder: migrate its database, make the first account if there is none."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store(Database(settings.database_url), FolderBlobs(settings.home / "blobs"))
    store.database.migrate()
    accounts = Accounts(store, settings)
    accounts.first()
    catalog = Catalog(store, settings.models)
    kept = Files(store, settings)
    jobs_room = Jobs(store, settings, catalog, kept)
    access = Access(store, settings, accounts)
    return Services(
        settings=settings,
        store=store,
        accounts=accounts,
        groups=Groups(store, settings),
        access=access,
        authority=Authority(store, settings, access.principals, access.tokens),
        audit=Audit(store),
        catalog=catalog,
        files=kept,
        uploads=Uploads(store, settings, kept),
        imports=Imports(store, settings, kept),
        jobs=jobs_room,
        copies=Copies(store, settings),
        deployer=Deployer(store, settings, catalog),
        deployments=Deployments(store, settings, catalog),
        estimates=Estimates(store, settings, kept, jobs_room, LocalPlanner()),
        inspections=Inspections(store, catalog, kept, LocalInspector()),
        uptime=Uptime(store),
        meter=Meter(store),
        idle=IdleRule(store, settings),
    )


def worker(settings: Settings) -> Worker:
    rooms = services(settings)
    bench = Bench(rooms.store, settings, rooms.catalog, rooms.files, rooms.imports, LocalTrainer(), threading.Event())
    return Worker(bench)


def web(rooms: Services, engines: EnginePool) -> FastAPI:
    """The API on one port or several; `lifespan` of the result runs reconciliation and housekeeping."""
    app = FastAPI(title="Tunery", lifespan=_lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    for prefix in ("/openai/v1", "/openai"):
        for module in (files, contents, jobs, copies, models, machine):
            app.include_router(module.router, prefix=prefix)
    for module in (deployments, legacy):
        app.include_router(module.router, prefix="/openai")
    app.include_router(inference.router)
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
