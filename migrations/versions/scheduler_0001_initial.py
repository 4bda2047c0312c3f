"""scheduler: workflows and versions, provisioned ids, runs with their inputs and answers, the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0001"
down_revision = None
branch_labels = ("scheduler",)
depends_on = None


def upgrade() -> None:
    _workflows()
    _provisions()
    _runs()
    _run_indexes()
    _payloads()


def _workflows() -> None:
    op.create_table(
        "workflows",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("organization_id", sa.String(length=100), nullable=False),
        sa.Column("service_id", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("visibility", sa.Integer(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "workflows_name",
        "workflows",
        ["organization_id", "service_id"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index("workflows_own", "workflows", ["organization_id", "id"])
    op.create_index("workflows_visible", "workflows", ["visibility", "id"])
    op.create_table(
        "versions",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("workflow_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("source_digest", sa.String(length=64), nullable=False),
        sa.Column("file_name", sa.String(length=110), nullable=False),
        sa.Column("python", sa.String(length=20), nullable=False),
        sa.Column("lock", sa.Text(), nullable=False),
        sa.Column("env_vars", sa.JSON(), nullable=False),
        sa.Column("isolation", sa.String(length=20), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("openapi", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_id"],
            ["workflows.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("workflow_id", "number", name="versions_number"),
    )


def _provisions() -> None:
    op.create_table(
        "provisions",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("organization_id", sa.String(length=100), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "provisions_unused",
        "provisions",
        ["created_at"],
        sqlite_where=sa.text("used_at IS NULL"),
        postgresql_where=sa.text("used_at IS NULL"),
    )
    op.create_index(
        "provisions_used",
        "provisions",
        ["used_at"],
        sqlite_where=sa.text("used_at IS NOT NULL"),
        postgresql_where=sa.text("used_at IS NOT NULL"),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=100), nullable=False),
        sa.Column("caller_id", sa.String(length=100), nullable=False),
        sa.Column("acting_id", sa.String(length=100), nullable=False),
        sa.Column("requester_id", sa.String(length=100), nullable=False),
        sa.Column("service_id", sa.String(length=100), nullable=False),
        sa.Column("version_id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("deadline", sa.DateTime(), nullable=False),
        sa.Column("trigger", sa.Integer(), nullable=False),
        sa.Column("correlation_id", sa.String(length=256), nullable=False),
        sa.Column("parent_id", sa.String(length=40), nullable=False),
        sa.Column("root_id", sa.String(length=40), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("traceparent", sa.String(length=64), nullable=False),
        sa.Column("trace_id", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("synchronous", sa.Boolean(), nullable=False),
        sa.Column("provision_id", sa.String(length=40), nullable=True),
        sa.Column("one_time_key_id", sa.String(length=40), nullable=True),
        sa.Column("started_at", sa.DateTime(), nullable=True),
        sa.Column("completed_at", sa.DateTime(), nullable=True),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("log_tail", sa.JSON(), nullable=False),
        sa.Column("executor", sa.String(length=200), nullable=False),
        sa.Column("incarnation", sa.String(length=100), nullable=False),
        sa.Column("log_digest", sa.String(length=64), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _run_indexes() -> None:
    op.create_index(
        "runs_acting",
        "runs",
        ["acting_id", "created_at", "id"],
        sqlite_where=sa.text("acting_id <> caller_id"),
        postgresql_where=sa.text("acting_id <> caller_id"),
    )
    op.create_index("runs_caller", "runs", ["caller_id", "created_at", "id"])
    op.create_index(
        "runs_completed",
        "runs",
        ["completed_at"],
        sqlite_where=sa.text("completed_at IS NOT NULL"),
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.create_index(
        "runs_one_time",
        "runs",
        ["one_time_key_id"],
        unique=True,
        sqlite_where=sa.text("one_time_key_id IS NOT NULL"),
        postgresql_where=sa.text("one_time_key_id IS NOT NULL"),
    )
    op.create_index(
        "runs_provision",
        "runs",
        ["provision_id", "created_at", "id"],
        sqlite_where=sa.text("provision_id IS NOT NULL"),
        postgresql_where=sa.text("provision_id IS NOT NULL"),
    )
    op.create_index(
        "runs_queue",
        "runs",
        ["lane", "created_at", "id"],
        sqlite_where=sa.text("status = 2"),
        postgresql_where=sa.text("status = 2"),
    )
    op.create_index(
        "runs_running",
        "runs",
        ["executor", "incarnation"],
        sqlite_where=sa.text("status = 3"),
        postgresql_where=sa.text("status = 3"),
    )


def _payloads() -> None:
    op.create_table(
        "inputs",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_table(
        "answers",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
