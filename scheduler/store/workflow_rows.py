"""Workflows and versions as rows."""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from sqlalchemy import Row, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database
from scheduler.store.queue_rows import QueueRows
from scheduler.store.tables import versions, workflows
from scheduler.workflow import EnvVar, Limits, Prompt, Version, Visibility, Workflow

_OF_WORKFLOW = ("organization_id", "service_id")
_VERSION = [
    *(versions.c[item.name] for item in fields(Version) if item.name not in _OF_WORKFLOW),
    *(workflows.c[name] for name in _OF_WORKFLOW),
    workflows.c.limits.label("overriding"),
]


class WorkflowRows(QueueRows):
    """The part of a write transaction that is about workflows."""

    async def workflow(self, organization_id: str, service_id: str) -> Workflow | None:
        return await _find(self._connection, organization_id, service_id, held=True)

    async def insert_workflow(self, workflow: Workflow) -> None:
        await self._write(workflows.insert(), _row(workflow))

    async def save_workflow(self, workflow: Workflow) -> None:
        await self._write(update(workflows).where(workflows.c.id == workflow.id).values(_row(workflow)))

    async def last_version(self, workflow_id: str) -> int:
        query = select(func.max(versions.c.number)).where(versions.c.workflow_id == workflow_id)
        return int((await self._execute(query)).scalar_one() or 0)

    async def version_numbers(self, workflow_id: str, numbers: Collection[int]) -> set[int]:
        """Those of them that there are."""
        query = select(versions.c.number).where(
            versions.c.workflow_id == workflow_id, versions.c.number.in_(sorted(numbers))
        )
        return set((await self._execute(query)).scalars())

    async def insert_version(self, version: Version) -> None:
        row = {name: value for name, value in vars(version).items() if name not in _OF_WORKFLOW}
        row.update(env_vars=[vars(item) for item in version.env_vars], limits=vars(version.limits))
        row.update(egress=None if version.egress is None else list(version.egress))
        row.update(prompt=None if version.prompt is None else vars(version.prompt))
        await self._write(versions.insert(), row)


class WorkflowReads:
    """What is asked about workflows outside of a write transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find_workflow(self, organization_id: str, service_id: str) -> Workflow | None:
        """Deleted ones aren't found."""
        async with self._db.read() as connection:
            return await _find(connection, organization_id, service_id)

    async def find_version(self, workflow_id: str, number: int) -> Version | None:
        return await self._version(
            _versions().where(versions.c.workflow_id == workflow_id, versions.c.number == number)
        )

    async def version_by_id(self, version_id: str) -> Version | None:
        return await self._version(_versions().where(versions.c.id == version_id))

    async def list_versions(self, workflow_id: str, *, below: int, limit: int) -> list[Version]:
        """The newest first."""
        query = _versions().where(versions.c.workflow_id == workflow_id, versions.c.number < below)
        async with self._db.read() as connection:
            return [
                _to_version(row)
                for row in await connection.execute(query.order_by(versions.c.number.desc()).limit(limit))
            ]

    async def _version(self, query: Select[Any]) -> Version | None:
        async with self._db.read() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _to_version(row)

    async def list_own(
        self, organization_id: str, visibility: Visibility | None, *, limit: int, after: str
    ) -> list[Workflow]:
        """In the order of their making."""
        query = _live(after, limit).where(workflows.c.organization_id == organization_id)
        return await self._list(query if visibility is None else query.where(workflows.c.visibility == int(visibility)))

    async def list_visible(self, visibility: Visibility, *, limit: int, after: str) -> list[Workflow]:
        """Everybody's, where a version is served."""
        query = _live(after, limit).where(workflows.c.visibility == int(visibility), workflows.c.version > 0)
        return await self._list(query)

    async def _list(self, query: Select[Any]) -> list[Workflow]:
        async with self._db.read() as connection:
            return [_to_workflow(row) for row in await connection.execute(query)]


def _live(after: str, limit: int) -> Select[Any]:
    return (
        select(workflows)
        .where(workflows.c.deleted_at.is_(None), workflows.c.id > after)
        .order_by(workflows.c.id)
        .limit(limit)
    )


def _versions() -> Select[Any]:
    return select(*_VERSION).join(workflows)


async def _find(
    connection: AsyncConnection, organization_id: str, service_id: str, *, held: bool = False
) -> Workflow | None:
    """`held`: nobody else changes it until the transaction is over."""
    query = select(workflows).where(
        workflows.c.organization_id == organization_id,
        workflows.c.service_id == service_id,
        workflows.c.deleted_at.is_(None),
    )
    row = (await connection.execute(query.with_for_update() if held else query)).first()
    return None if row is None else _to_workflow(row)


def _row(workflow: Workflow) -> dict[str, Any]:
    plain = {
        "visibility": int(workflow.visibility),
        "limits": vars(workflow.limits),
        "traffic": workflow.traffic or None,
    }
    return vars(workflow) | plain


def _to_workflow(row: Row[Any]) -> Workflow:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name
    values.update(visibility=Visibility(row.visibility), limits=Limits(**row.limits))
    values.update(traffic=tuple((number, percent) for number, percent in row.traffic or ()))
    return Workflow(**values)


def _to_version(row: Row[Any]) -> Version:
    """What the owner set on the workflow goes before what the source declares."""
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name
    limits = Limits(**row.limits).overlaid(Limits(**values.pop("overriding")))
    egress = None if row.egress is None else tuple(row.egress)
    values.update(env_vars=tuple(EnvVar(**item) for item in row.env_vars), limits=limits, egress=egress)
    if row.prompt is not None:
        values["prompt"] = Prompt(**row.prompt | {"variables": tuple(row.prompt["variables"])})
    return Version(**values)
