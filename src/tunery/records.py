"""The nouns of the service, frozen: what a row says once it is read. Which state may follow which is decided here."""

import secrets
from enum import StrEnum
from typing import Any

import msgspec

from tunery.weights import Agreement, Quantization


class FileStatus(StrEnum):
    PENDING = "pending"  # stored, waits for its check; or still being fetched
    RUNNING = "running"  # a worker reads it
    PROCESSED = "processed"  # fit for use
    ERROR = "error"  # status_details says why


class JobStatus(StrEnum):
    """A job's life; the transition beside each member is what leads there."""

    PENDING = "pending"  # created
    RUNNING = "running"  # claimed by a worker
    PAUSING = "pausing"  # running, asked to pause
    PAUSED = "paused"  # the trainer wrote its state and left
    RESUMING = "resuming"  # paused, asked to go on: waits for a worker like pending
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.FAILED})
WAITING = frozenset({JobStatus.PENDING, JobStatus.RESUMING})
HELD = frozenset({JobStatus.RUNNING, JobStatus.PAUSING})
"""States in which a worker holds a lease on the job."""

MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset({JobStatus.PAUSING, *TERMINAL}),
    JobStatus.PAUSING: frozenset({JobStatus.PAUSED, *TERMINAL}),
    JobStatus.PAUSED: frozenset({JobStatus.RESUMING, JobStatus.CANCELLED}),
    JobStatus.RESUMING: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.FAILED: frozenset(),
}


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class DeploymentState(StrEnum):
    """provisioningState, as ARM spells it."""

    CREATING = "Creating"  # wanted; the engine hasn't answered yet
    SUCCEEDED = "Succeeded"  # the engine loaded the adapter and agreed with the trainer's probe
    FAILED = "Failed"  # it did not; `error` says why


class Record(msgspec.Struct, frozen=True):
    """Times are Unix seconds; ids are those of the wire."""


class ResourceGroup(Record, frozen=True, kw_only=True):
    id: int
    subscription_id: str
    name: str
    location: str
    tags: dict[str, str]
    created_at: int


class Account(Record, frozen=True, kw_only=True):
    """What Azure calls an OpenAI resource. Data, jobs, models and deployments belong to exactly one."""

    id: int
    subscription_id: str
    resource_group: str
    name: str
    location: str
    sub_domain: str
    """Names the account in its endpoint; the name itself unless it was made with another one."""
    kind: str
    tags: dict[str, str]
    disable_local_auth: bool
    """True: no key opens it."""
    etag: str
    created_at: int
    updated_at: int
    created_by: str
    key_generations: tuple[int, int]
    """Keys are derived from the service's secret and these; see accounts.py."""

    @property
    def arm_id(self) -> str:
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.CognitiveServices/accounts/{self.name}"
        )


class PrincipalKind(StrEnum):
    """As ARM's systemData spells it."""

    USER = "User"  # signs in with name and password, or by device code
    APPLICATION = "Application"  # a service principal: signs in with its id and a secret


class Principal(Record, frozen=True, kw_only=True):
    """Somebody who may hold roles."""

    id: str
    """The object id; a service principal's client id as well."""
    name: str
    kind: PrincipalKind
    issuer: str = ""
    """Who vouches for it: our own authority, or the URL of an outside one."""
    secret_hash: str | None = None
    """Argon2; None where an outside issuer vouches."""
    failures: int = 0
    """Wrong secrets in a row."""
    locked_until: int = 0
    created_at: int


class Assignment(Record, frozen=True, kw_only=True):
    """A role that a principal holds on a scope and everything below it."""

    id: str
    principal_id: str
    role: str
    scope: str
    """ARM id of a subscription, resource group or account in lower case; empty: everything."""
    created_at: int
    created_by: str


class Change(Record, frozen=True, kw_only=True):
    """One row of the audit log: who changed what, when, from where. Never a body, a query, a secret or a token."""

    seq: int = 0
    at: int
    principal_id: str | None
    """None: the holder of an account's key."""
    name: str
    kind: str
    operation: str
    action: str
    scope: str
    """ARM id, in lower case, of the account, resource group or subscription that it happened to."""
    resource: str
    """The path that was called."""
    status: int
    """HTTP status of the answer; 0 for the command line."""
    address: str
    """Of the other end of the connection, or the machine for the command line."""
    request_id: str


class DeviceCode(Record, frozen=True, kw_only=True):
    """A sign-in on another screen, under way."""

    code_hash: str
    user_code: str
    client_id: str
    audience: str
    scopes: str
    expires_at: int
    principal_id: str | None = None
    """Who approved it."""


class File(Record, frozen=True, kw_only=True):
    id: str
    account_id: int
    purpose: str
    filename: str
    bytes: int
    blob: str
    """Key of the content in the blob store; empty while an import fetches it, and if it couldn't."""
    created_at: int
    status: FileStatus
    status_details: str | None = None
    expires_at: int | None = None
    format: str | None = None
    """chat, completion or preference, once checked."""
    examples: int | None = None
    findings: int = 0
    """Errors and warnings of the check; the list itself lies in the blob `findings_blob`."""
    findings_blob: str | None = None
    sha256: str | None = None
    """Of an imported file's content."""


class Upload(Record, frozen=True, kw_only=True):
    id: str
    account_id: int
    purpose: str
    filename: str
    bytes: int
    mime_type: str
    created_at: int
    expires_at: int
    status: UploadStatus
    file_id: str | None = None


class Part(Record, frozen=True, kw_only=True):
    id: str
    upload_id: str
    bytes: int
    blob: str
    created_at: int


class Job(Record, frozen=True, kw_only=True):
    """A job is a row: the API writes it, a worker settles it, nobody else knows."""

    id: str
    account_id: int
    created_at: int
    status: JobStatus
    model: str
    """As the caller named it: a base, a tuned model or a checkpoint."""
    base: str
    """The base under the name the caller knows it by: an alias stays one through continuous tuning."""
    training_file: str
    validation_file: str | None = None
    requested: dict[str, Any]
    """Hyperparameters as asked for; -1 is automatic."""
    resolved: dict[str, Any] | None = None
    """n_epochs, batch_size, learning_rate_multiplier, learning_rate once a worker has seen the data."""
    method: dict[str, Any] | None = None
    suffix: str | None = None
    seed: int
    metadata: dict[str, str] | None = None
    integrations: list[Any] | None = None
    training_type: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    trained_tokens: int | None = None
    total_steps: int | None = None
    step: int = 0
    result_file: str | None = None
    fine_tuned_model: str | None = None
    error: dict[str, Any] | None = None
    lease_token: int = 0
    """Rises with each claim; a write that carries an older one is refused."""
    lease_owner: str | None = None
    lease_until: float | None = None
    state_dir: str | None = None
    """The newest resumable training state."""

    @property
    def output_name(self) -> str:
        """Name of the tuned model: base.ft-<job hex>[-suffix]."""
        tail = f"-{self.suffix}" if self.suffix else ""
        return f"{self.base}.ft-{self.id.removeprefix('ftjob-')}{tail}"


class Event(Record, frozen=True, kw_only=True):
    id: str
    job_id: str
    created_at: int
    level: str
    message: str
    type: str = "message"
    data: dict[str, Any] | None = None


class Checkpoint(Record, frozen=True, kw_only=True):
    id: str
    job_id: str
    account_id: int
    created_at: int
    step: int
    name: str
    """What it is deployed and tuned on as: the model's name, with :ckpt-step-N except for the final one."""
    adapter: str
    """Digest of the adapter; its blobs lie under adapters/<digest>/."""
    metrics: dict[str, Any]


class Model(Record, frozen=True, kw_only=True):
    """A tuned model. Base models aren't rows; the catalog names them."""

    name: str
    account_id: int
    base: str
    parent: str
    """What it was tuned from: a base, a tuned model or a checkpoint."""
    job_id: str
    adapter: str
    created_at: int


PROVISIONED = ("ProvisionedManaged", "GlobalProvisionedManaged", "DataZoneProvisionedManaged")
"""Skus whose capacity counts machines, not tokens a minute."""

DEVELOPER = ("DeveloperTier", "Developer")
"""Skus whose deployments live for a day, used or not."""


class Copy(Record, frozen=True, kw_only=True):
    """A checkpoint in an account that didn't train it: deployed and tuned on under its name, listed nowhere."""

    account_id: int
    name: str
    source_account_id: int
    job_id: str
    adapter: str
    created_at: int


class Deployment(Record, frozen=True, kw_only=True):
    account_id: int
    name: str
    model: str
    """A tuned model, a checkpoint or a base, as asked for."""
    model_format: str = "OpenAI"
    model_version: str = "1"
    source: str | None = None
    base: str
    adapter: str | None
    """Digest, or None where a base itself is deployed."""
    sku_name: str = "Standard"
    capacity: int | None = None
    tags: dict[str, str] | None = None
    quantization: Quantization | None = None
    """None: the weights as they were trained on."""
    agreement: Agreement | None = None
    """Of quantised weights with those, as the engine measured it."""
    state: DeploymentState
    error: str | None = None
    etag: str
    created_at: int
    updated_at: int
    created_by: str
    last_used_at: int | None = None
    born_uptime: float = 0.0
    """Since when its life counts, on the clock of uptime.py."""
    used_uptime: float = 0.0
    paused: bool = False
    """Deployed, but not to answer until it is resumed."""

    @property
    def units(self) -> int | None:
        """Of its rate limit; None: it has none."""
        return None if self.sku_name in PROVISIONED else self.capacity


def may_move(old: JobStatus, new: JobStatus) -> bool:
    return new in MOVES[old]


def new_id(prefix: str) -> str:
    """A fresh wire id: file-, ftjob-, ftevent-, ftchkpt-, upload_ ... and 32 hex digits."""
    return prefix + secrets.token_hex(16)
