"""Checkpoints copied into other accounts, and deployments that are paused."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoint_copies",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source_account_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_checkpoint_copies_account_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_checkpoint_copies")),
        sa.UniqueConstraint("account_id", "name", name="uq_checkpoint_copies_name"),
    )
    op.add_column("deployments", sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()))
