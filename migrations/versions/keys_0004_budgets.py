"""keys: a place holder; the migration of budgets takes its place."""

revision = "keys_0004"
down_revision = "keys_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing."""


def downgrade() -> None:
    """Nothing."""
