"""A deployment without capacity has no rate limit.

Until now 1 was written where none was given and nothing was limited, so whoever has 1 keeps having no limit.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("deployments") as table:
        table.alter_column("capacity", existing_type=sa.Integer(), nullable=True)
    deployments = sa.table("deployments", sa.column("capacity", sa.Integer))
    op.execute(sa.update(deployments).where(deployments.c.capacity == 1).values(capacity=None))
