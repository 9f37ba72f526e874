"""What finished jobs computed and how long it took: estimates learn from it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "measured_runs",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("flops", sa.Float(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_measured_runs")),
    )
    op.create_index("ix_measured_runs_base", "measured_runs", ["base", "device", "seq"], unique=False)
