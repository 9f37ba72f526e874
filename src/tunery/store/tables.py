"""The tables. Schema changes are Alembic revisions in migrations/; a test compares."""

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator


class Json(TypeDecorator[Any]):
    """JSON kept as text: the same bytes in SQLite and PostgreSQL."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002 (SQLAlchemy's signature)
        return None if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        return None if value is None else msgspec.json.decode(value)


schema = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _account() -> sa.Column[Any]:
    return sa.Column("account_id", sa.ForeignKey("accounts.id"), nullable=False)


groups = sa.Table(
    "resource_groups",
    schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("subscription_id", sa.String(64), nullable=False),
    sa.Column("name", sa.String(90), nullable=False),
    sa.Column("name_folded", sa.String(90), nullable=False),
    sa.Column("location", sa.String(64), nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.UniqueConstraint("subscription_id", "name_folded", name="uq_resource_groups_name"),
)

accounts = sa.Table(
    "accounts",
    schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("subscription_id", sa.String(64), nullable=False),
    sa.Column("resource_group", sa.String(90), nullable=False),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("name_folded", sa.String(64), nullable=False, server_default=""),
    sa.Column("sub_domain", sa.String(64), nullable=False, server_default=""),
    sa.Column("location", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False, server_default="OpenAI"),
    sa.Column("tags", Json, nullable=False, server_default="{}"),
    sa.Column("disable_local_auth", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("etag", sa.String(64), nullable=False, server_default=""),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("updated_at", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_by", sa.Text, nullable=False, server_default=""),
    sa.Column("key_generations", Json, nullable=False),
    sa.Column("key1_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("key2_hash", sa.String(64), nullable=False, unique=True),
    sa.Index("ix_accounts_name_folded", "name_folded", unique=True),
    sa.Index("ix_accounts_sub_domain", "sub_domain", unique=True),
)

principals = sa.Table(
    "principals",
    schema,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("name_folded", sa.String(256), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("secret_hash", sa.Text),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("locked_until", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.UniqueConstraint("name_folded", name="uq_principals_name"),
)

assignments = sa.Table(
    "role_assignments",
    schema,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("principal_id", sa.ForeignKey("principals.id", ondelete="CASCADE"), nullable=False),
    sa.Column("role", sa.String(64), nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.UniqueConstraint("principal_id", "role", "scope", name="uq_role_assignments_held"),
)

audit_log = sa.Table(
    "audit_log",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("at", sa.Integer, nullable=False),
    sa.Column("principal_id", sa.String(64)),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("resource", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Index("ix_audit_log_scope", "scope", "seq"),
)

device_codes = sa.Table(
    "device_codes",
    schema,
    sa.Column("code_hash", sa.String(64), primary_key=True),
    sa.Column("user_code", sa.String(16), nullable=False, unique=True),
    sa.Column("client_id", sa.Text, nullable=False),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Integer, nullable=False),
    sa.Column("principal_id", sa.ForeignKey("principals.id", ondelete="CASCADE")),
)

studio_sessions = sa.Table(
    "studio_sessions",
    schema,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("principal_id", sa.ForeignKey("principals.id", ondelete="CASCADE")),
    sa.Column("account_id", sa.ForeignKey("accounts.id", ondelete="CASCADE")),
    sa.Column("mark", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Integer, nullable=False),
)

studio_drafts = sa.Table(
    "studio_drafts",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("account_id", sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Integer, nullable=False),
    sa.Index("ix_studio_drafts_owner", "account_id", "owner", "kind"),
)

files = sa.Table(
    "files",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _account(),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("status_details", sa.Text),
    sa.Column("expires_at", sa.Integer),
    sa.Column("format", sa.String(16)),
    sa.Column("examples", sa.Integer),
    sa.Column("findings", sa.Integer, nullable=False, server_default="0"),
    sa.Column("findings_blob", sa.Text),
    sa.Column("lease_token", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_until", sa.Float),
    sa.Column("sha256", sa.String(64)),
    sa.Index("ix_files_account", "account_id", "seq"),
    sa.Index("ix_files_status", "status"),
)

imports = sa.Table(
    "imports",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("file_id", sa.ForeignKey("files.id", ondelete="CASCADE"), nullable=False, unique=True),
    _account(),
    sa.Column("url", sa.Text),  # NULL once the fetch has ended: it may carry a signature
    sa.Column("etag", sa.Text),
    sa.Column("md5", sa.String(32)),
    sa.Column("size", sa.BigInteger),
    sa.Column("spent", sa.Float, nullable=False, server_default="0"),
    sa.Column("lease_token", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_until", sa.Float),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("idempotency_hash", sa.String(64)),
    sa.UniqueConstraint("account_id", "idempotency_key", name="uq_imports_idempotency"),
)

uploads = sa.Table(
    "uploads",
    schema,
    sa.Column("id", sa.String(64), primary_key=True),
    _account(),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("mime_type", sa.Text, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("file_id", sa.String(64)),
)

parts = sa.Table(
    "upload_parts",
    schema,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("upload_id", sa.ForeignKey("uploads.id"), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Index("ix_upload_parts_upload", "upload_id"),
)

jobs = sa.Table(
    "jobs",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _account(),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("training_file", sa.String(64), nullable=False),
    sa.Column("validation_file", sa.String(64)),
    sa.Column("requested", Json, nullable=False),
    sa.Column("resolved", Json),
    sa.Column("method", Json),
    sa.Column("suffix", sa.String(64)),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("metadata", Json),
    sa.Column("integrations", Json),
    sa.Column("training_type", sa.String(32)),
    sa.Column("started_at", sa.Integer),
    sa.Column("finished_at", sa.Integer),
    sa.Column("estimated_finish", sa.Integer),
    sa.Column("trained_tokens", sa.BigInteger),
    sa.Column("total_steps", sa.Integer),
    sa.Column("step", sa.Integer, nullable=False, server_default="0"),
    sa.Column("result_file", sa.String(64)),
    sa.Column("fine_tuned_model", sa.Text),
    sa.Column("error", Json),
    sa.Column("lease_token", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_until", sa.Float),
    sa.Column("state_dir", sa.Text),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("idempotency_hash", sa.String(64)),
    sa.UniqueConstraint("account_id", "idempotency_key", name="uq_jobs_idempotency"),
    sa.Index("ix_jobs_account", "account_id", "seq"),
    sa.Index("ix_jobs_status", "status"),
)

events = sa.Table(
    "events",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("level", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("data", Json),
    # The key says what happened (`step:10`): steps repeated after a crash don't say it twice.
    sa.UniqueConstraint("job_id", "key", name="uq_events_key"),
    sa.Index("ix_events_job", "job_id", "seq"),
)

metrics = sa.Table(
    "metrics",
    schema,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("values", Json, nullable=False),
)

checkpoints = sa.Table(
    "checkpoints",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), nullable=False),
    _account(),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("adapter", sa.String(64), nullable=False),
    sa.Column("metrics", Json, nullable=False),
    sa.UniqueConstraint("job_id", "step", name="uq_checkpoints_step"),
    sa.Index("ix_checkpoints_name", "account_id", "name"),
)

runs = sa.Table(
    "measured_runs",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("device", sa.String(32), nullable=False),
    sa.Column("flops", sa.Float, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Index("ix_measured_runs_base", "base", "device", "seq"),
)

models = sa.Table(
    "models",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    _account(),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("parent", sa.Text, nullable=False),
    sa.Column("job_id", sa.String(64), nullable=False),
    sa.Column("adapter", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.UniqueConstraint("account_id", "name", name="uq_models_name"),
)

copies = sa.Table(
    "checkpoint_copies",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    _account(),
    sa.Column("name", sa.Text, nullable=False),
    # Not a reference: the copy outlives the account it came from.
    sa.Column("source_account_id", sa.Integer, nullable=False),
    sa.Column("job_id", sa.String(64), nullable=False),
    sa.Column("adapter", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.UniqueConstraint("account_id", "name", name="uq_checkpoint_copies_name"),
)

deployments = sa.Table(
    "deployments",
    schema,
    sa.Column("seq", sa.Integer, primary_key=True),
    _account(),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("name_folded", sa.String(64), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("custom_model", sa.Text),
    sa.Column("model_format", sa.String(32), nullable=False),
    sa.Column("model_version", sa.String(32), nullable=False),
    sa.Column("source", sa.Text),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("adapter", sa.String(64)),
    sa.Column("sku_name", sa.String(64), nullable=False),
    sa.Column("capacity", sa.Integer),
    sa.Column("tags", Json),
    sa.Column("quantization", sa.String(16)),
    sa.Column("agreement", Json),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("etag", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("updated_at", sa.Integer, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("last_used_at", sa.Integer),
    # On the clock of uptime.py: since when its life counts, and its last use.
    sa.Column("born_uptime", sa.Float, nullable=False, server_default="0"),
    sa.Column("used_uptime", sa.Float, nullable=False, server_default="0"),
    sa.Column("warned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("account_id", "name_folded", name="uq_deployments_name"),
    # NULL for a deployed base, which may be deployed any number of times.
    sa.UniqueConstraint("account_id", "custom_model", name="uq_deployments_model"),
)

uptime = sa.Table(
    "uptime",
    schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("ticker", sa.String(32), nullable=False),
)

meters = sa.Table(
    "meters",
    schema,
    sa.Column("account_id", sa.ForeignKey("accounts.id"), primary_key=True),
    sa.Column("deployment", sa.String(64), primary_key=True),
    sa.Column("made_at", sa.Integer, primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("hosted_seconds", sa.Float, nullable=False),
)
