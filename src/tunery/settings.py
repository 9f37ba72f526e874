"""Every option once. The only reader of the environment; unknown keys are refused.

Values come from, later wins: the defaults below, `tunery.toml` in the home folder, TUNERY_<NAME> variables, and what
the command line gives.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tunery.errors import InvalidRequest

DATA_PLANE_AUDIENCE = "https://cognitiveservices.azure.com"
"""Whom tokens for the data plane are made out to: the resource that Azure's clients name."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account may hold. The numbers are Azure's of today; its pages of 2023 said 30 files."""

    max_files: Count = 50
    """Results of jobs don't count, neither here nor in bytes."""
    max_total_bytes: Count = 1024**3
    max_jobs: Count = 100
    """In any state, until they are deleted."""
    max_running_jobs: Count = 1
    max_queued_jobs: Count = 20
    max_deployments: Count = 32
    max_tuned_deployments: Count = 5


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An outside authority whose tokens are taken: [[issuers]] in tunery.toml."""

    issuer: str
    """As its tokens and its discovery document spell it."""
    audience: str
    """Whom its tokens have to be made out to."""


class Settings(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes in bytes, times in seconds."""

    home: Path = Path(".tunery")
    """Everything this service keeps: database, blobs, keys, work folders."""
    models: Path = Path("~/.cache/tunery/models")
    """Base models, one folder each; may be shared between services."""
    host: str = "127.0.0.1"
    port: int = 8080
    allow_remote: bool = False
    """Listening on anything but loopback has to be allowed here."""
    tls_port: int = 8443
    """0 turns the TLS port, and with it the control plane for az and SDKs, off."""
    database: str = ""
    """SQLAlchemy URL; empty: SQLite in the home folder."""

    subscription_id: str = ""
    """Of the account made at the first start; empty: random."""
    resource_group: str = "tunery"
    account: str = "tunery"
    location: str = "local"
    locations: tuple[str, ...] = ("northcentralus", "swedencentral", "eastus2")
    """Regions for further accounts. Names only: everything runs on this machine."""
    locations_without_tuning: tuple[str, ...] = ()
    """Regions in which nothing is tuned, and no tuned model deployed."""
    subscriptions: tuple[str, ...] = ()
    """Ids of further subscriptions."""
    max_accounts: int = 30
    """In one region of a subscription."""
    tenant_id: str = ""

    device: str = "cpu"
    training_threads: int = 2
    training_memory_bytes: int = 0
    """Of one trainer; 0: what is free when it starts."""
    serving_threads: int = 2
    engine: Literal["embedded", "vllm"] = "embedded"
    """What answers: our own engine, or vLLM, which is meant for hosts with a GPU."""
    vllm_python: str = ""
    """Interpreter of the environment that has vLLM and Tunery; see docs/how-to.md."""
    vllm_options: dict[str, str | int | float | bool] = {}
    """Arguments of vLLM's engine that Tunery leaves open: [vllm_options] in tunery.toml."""
    engine_silence_seconds: float = 120.0
    """An engine that answers nothing for longer is hung: it is killed, and the next request starts another."""
    lease_seconds: float = 30.0
    """A worker silent for this long loses its job to another."""
    save_every: int = 20
    """Training steps between two resumable states."""

    max_file_bytes: int = 512 * 1024 * 1024
    max_upload_bytes: int = 9 * 1024**3
    """Of a file that comes in parts or from a link."""
    account_limits: dict[str, dict[str, Count]] = {}
    """By account name, the fields of Limits that differ there: [account_limits.NAME] in tunery.toml."""
    tokens_per_unit: Count = 1000
    """A minute, for each unit of a deployment's sku.capacity; 0: no limit. A deployment without capacity has none."""
    requests_per_unit: Count = 6
    import_allow: str = ""
    """Hosts inside that imports may reach: names, addresses or networks with commas between, `:port` behind a host."""
    import_slots: int = 8
    """Fetches at a time of one worker, beside its job and its checks."""
    max_running_imports: int = 2
    """Of an account: fewer than slots, so that one account's slow servers leave some to others."""
    import_stall_seconds: float = 60.0
    """A fetch that got less than 64 KB for this long fails."""
    import_seconds: float = 4 * 3600
    """Of one fetch in all, restarts included."""
    idle_seconds: Count = 15 * 24 * 3600
    """A deployment of a tuned model that is older and was not called for so long is deleted; 0: never.

    Only time in which the service ran counts, here and in the next one.
    """
    developer_seconds: Count = 24 * 3600
    """How long a deployment with the sku DeveloperTier lives; 0: as any other."""
    max_body_bytes: int = 16 * 1024 * 1024
    """Of a JSON request."""
    upload_seconds: int = 2 * 3600
    token_seconds: int = 12 * 3600
    """Life of the ARM token that `tunery env` prints."""
    access_token_seconds: int = 3600
    """Life of a token that the built-in authority gives out."""
    refresh_token_seconds: int = 7 * 24 * 3600
    """For how long a person comes back without the password."""
    studio: bool = True
    """Studio, the pages in the browser, at /studio."""
    studio_session_seconds: int = 12 * 3600
    """How long a sign-in to Studio lasts."""
    issuers: list[Issuer] = []
    """Authorities beside the built-in one; their principals are made with `tunery principals add --issuer`."""

    def limits(self, account: str) -> Limits:
        """Of an account, by its name in any case."""
        own = {name.lower(): limits for name, limits in self.account_limits.items()}.get(account.lower(), {})
        common = {name: getattr(self, name) for name in Limits.__struct_fields__}
        return msgspec.convert({**common, **own}, Limits)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.home.resolve() / 'tunery.sqlite'}"

    @property
    def all_locations(self) -> list[str]:
        return list(dict.fromkeys(folded_location(name) for name in (self.location, *self.locations)))

    def offered_location(self, name: str) -> str:
        """As the service spells it. Raises InvalidRequest for a region that isn't offered."""
        folded = folded_location(name)
        if folded not in self.all_locations:
            raise InvalidRequest(
                f"The location '{name}' isn't offered here. Use one of {', '.join(self.all_locations)}, or add it to "
                "the setting `locations`.",
                param="location",
                code="LocationNotAvailableForResourceType",
            )
        return folded

    def tunes_in(self, location: str) -> bool:
        return location not in {folded_location(name) for name in self.locations_without_tuning}

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def tls_endpoint(self) -> str:
        return f"https://localhost:{self.tls_port}"

    @property
    def arm_audience(self) -> str:
        """Whom tokens for the control plane are made out to."""
        return f"{self.tls_endpoint}/"


def folded_location(name: str) -> str:
    """swedencentral, however it is written: `Sweden Central` is Azure's name for the eye."""
    return name.replace(" ", "").lower()


def load(*, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Settings for a process. `given` holds command-line values; None means not given."""
    given = {key: value for key, value in given.items() if value is not None}
    variables = {
        key.removeprefix("TUNERY_").lower(): value
        for key, value in (os.environ if environ is None else environ).items()
        if key.startswith("TUNERY_") and key not in PRINTED_BY_ENV
    }
    home = Path(given.get("home") or variables.get("home") or Settings().home).expanduser()
    written: dict[str, Any] = {}
    path = home / "tunery.toml"
    if path.is_file():
        written = tomllib.loads(path.read_text("utf-8"))
    try:
        values = {**written, **variables, **given, "home": home}
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=lambda kind, value: kind(value))
        for account in settings.account_limits:
            settings.limits(account)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Settings ({path} and TUNERY_* variables): {error}") from error
    return msgspec.structs.replace(settings, models=settings.models.expanduser())


PRINTED_BY_ENV = frozenset(
    {
        "TUNERY_ARM_ENDPOINT",
        "TUNERY_ARM_TOKEN",
        "TUNERY_SUBSCRIPTION_ID",
        "TUNERY_RESOURCE_GROUP",
        "TUNERY_ACCOUNT",
        "TUNERY_TENANT_ID",
        "TUNERY_CLIENT_ID",
        "TUNERY_CLIENT_SECRET",
    }
)
"""What `tunery env` exports for clients; in the same shell they must not re-configure a service."""
