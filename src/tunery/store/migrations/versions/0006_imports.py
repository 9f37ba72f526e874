"""Files fetched from links."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("sha256", sa.String(length=64)))
    op.create_table(
        "imports",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("file_id", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("url", sa.Text()),
        sa.Column("etag", sa.Text()),
        sa.Column("md5", sa.String(length=32)),
        sa.Column("size", sa.BigInteger()),
        sa.Column("spent", sa.Float(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.Float()),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("idempotency_hash", sa.String(length=64)),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_imports_account_id")),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_imports_file_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_imports")),
        sa.UniqueConstraint("account_id", "idempotency_key", name="uq_imports_idempotency"),
        sa.UniqueConstraint("file_id", name=op.f("uq_imports_file_id")),
    )
