"""Settings in, the rooms of a service or its worker out.

Knows no web framework: that takes half a second to import, and most commands need none.
"""

import threading

from tunery.access import Access
from tunery.accounts import Accounts
from tunery.audit import Audit
from tunery.authority import Authority
from tunery.catalog import Catalog
from tunery.copies import Copies
from tunery.deploying import Deployer
from tunery.deployments import Deployments
from tunery.estimates import Estimates
from tunery.files import Files
from tunery.groups import Groups
from tunery.idle import IdleRule
from tunery.imports import Imports
from tunery.inspection import Inspections
from tunery.jobs import Jobs
from tunery.metering import Meter
from tunery.rooms import Services
from tunery.run import Bench
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.database import Database
from tunery.training.local import LocalInspector, LocalPlanner, LocalTrainer
from tunery.uploads import Uploads
from tunery.uptime import Uptime
from tunery.worker import Worker


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
