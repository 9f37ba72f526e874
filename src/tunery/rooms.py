"""The rooms of the service, connected: what API, Studio, worker and command line have in common. Built by wiring.py."""

from dataclasses import dataclass

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
from tunery.settings import Settings
from tunery.store import Store
from tunery.uploads import Uploads
from tunery.uptime import Uptime


@dataclass(frozen=True, kw_only=True)
class Services:
    """One of each; `close` ends the database's connections."""

    settings: Settings
    store: Store
    accounts: Accounts
    groups: Groups
    access: Access
    authority: Authority
    audit: Audit
    catalog: Catalog
    files: Files
    uploads: Uploads
    imports: Imports
    jobs: Jobs
    copies: Copies
    deployer: Deployer
    deployments: Deployments
    estimates: Estimates
    inspections: Inspections
    uptime: Uptime
    meter: Meter
    idle: IdleRule

    def close(self) -> None:
        self.store.database.close()
