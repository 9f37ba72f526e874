"""Deployments of quantised weights, and how closely those agree with the weights as trained."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("quantization", sa.String(length=16), nullable=True))
    op.add_column("deployments", sa.Column("agreement", sa.Text(), nullable=True))
