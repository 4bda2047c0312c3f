"""Nothing: keeps the place of the migration about who pays for a run."""

revision = "scheduler_0010"
down_revision = "scheduler_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing."""


def downgrade() -> None:
    """Nothing."""
