"""Bills."""

revision = "scheduler_0009"
down_revision = "scheduler_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
