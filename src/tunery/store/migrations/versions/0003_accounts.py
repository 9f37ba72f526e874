"""Several accounts: what ARM says of each, and the resource groups that they lie in."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("name_folded", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("sub_domain", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("kind", sa.String(length=32), nullable=False, server_default="OpenAI"),
        sa.Column("tags", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("disable_local_auth", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("etag", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("updated_at", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created_by", sa.Text(), nullable=False, server_default=""),
    ):
        op.add_column("accounts", column)
    op.execute(
        "UPDATE accounts SET name_folded = lower(name), sub_domain = lower(name), updated_at = created_at, "
        "subscription_id = lower(subscription_id), location = lower(location), etag = '0003', created_by = 'tunery'"
    )
    op.create_index("ix_accounts_name_folded", "accounts", ["name_folded"], unique=True)
    op.create_index("ix_accounts_sub_domain", "accounts", ["sub_domain"], unique=True)
    op.create_table(
        "resource_groups",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("subscription_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=90), nullable=False),
        sa.Column("name_folded", sa.String(length=90), nullable=False),
        sa.Column("location", sa.String(length=64), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resource_groups")),
        sa.UniqueConstraint("subscription_id", "name_folded", name="uq_resource_groups_name"),
    )
    op.execute(
        "INSERT INTO resource_groups (subscription_id, name, name_folded, location, tags, created_at) "
        "SELECT subscription_id, min(resource_group), lower(resource_group), min(location), '{}', min(created_at) "
        "FROM accounts GROUP BY subscription_id, lower(resource_group)"
    )
