"""Nothing: keeps the place of the migration about what runs cost."""

revision = "scheduler_0009"
down_revision = "scheduler_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing."""


def downgrade() -> None:
    """Nothing."""
