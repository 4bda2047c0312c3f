"""Runs, provisions, inputs and answers as rows; the queue is in queue_rows."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Executable,
    Row,
    Select,
    bindparam,
    delete,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database, emit
from scheduler import wire
from scheduler.billing import from_kept, kept
from scheduler.model import Asker, Event, History, Idempotent, Input, Outcome, Provision, Run, Runs, Status, Trigger
from scheduler.result import Answer, Earlier
from scheduler.store.tables import answers, idempotency, inputs, nested_costs, outbox, provisions, runs, versions
from scheduler.usage import Usage

_USAGE = tuple(item.name for item in fields(Usage))
RUN = [runs.c[name] for name in (*(item.name for item in fields(Run)), *_USAGE) if name not in {"answer", "usage"}]
_ANSWER = [answers.c.head, answers.c.digest, answers.c.size]
# What changes in the life of a run.
_MUTABLE = (
    *("status", "code", "detail", "log_tail", "started_at", "completed_at"),
    *("executor", "incarnation", "log_digest", "egress_digest", "recording_digest"),
    *("input_sha256", "output_sha256"),
    *("attempt", "epoch", "due_at", "claimed_at", "cancelled_at", "cancelled_as", "retries", "losses", "earlier"),
    *("cost_own", "refused", *_USAGE),
)
_SAVE = (
    update(runs).where(runs.c.id == bindparam("which")).values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
# Made once: building a statement costs more than executing it.
_PROVISION = select(provisions).where(provisions.c.id == bindparam("which"))
# What a write transaction reads stays as it is until its end, whoever else is at work. (SQLite has one writer anyway.)
_PROVISION_HELD = _PROVISION.with_for_update()
_OF_ONE_TIME_KEY = select(runs.c.id).where(runs.c.one_time_key_id == bindparam("key_id"))
_VERSION = select(versions.c.id).where(versions.c.id == bindparam("which"))
# In one order for all, so that two don't wait for each other.
_RUNS = select(*RUN).where(runs.c.id.in_(bindparam("ids", expanding=True))).order_by(runs.c.id)
_RUNS_HELD = _RUNS.with_for_update()
_IDEMPOTENT = select(idempotency).where(
    idempotency.c.organization_id == bindparam("organization"), idempotency.c.key == bindparam("its_key")
)
_INPUT = select(inputs).where(inputs.c.run_id == bindparam("which"))
_INSERT_RUN, _INSERT_INPUT, _INSERT_ANSWER = runs.insert(), inputs.insert(), answers.insert()


class RunRows:
    """The part of a write transaction that is about runs."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.writes = 0
        self.changed: list[Run] = []
        self._told: list[Event] = []
        self._accepted: list[tuple[Run, Input]] = []
        self._versions: set[str] = set()

    async def _execute(self, statement: Executable, rows: Any = None) -> CursorResult[Any]:
        """What isn't sure to have nothing to do with runs: it sees the accepted ones."""
        await self._insert_accepted()
        return await self._connection.execute(statement, rows)

    async def _write(self, statement: Any, rows: Any = None) -> None:
        self.writes += 1
        await self._execute(statement, rows)

    async def _insert_accepted(self) -> None:
        """All at once: a statement costs more than the row that it writes."""
        if self._accepted:
            accepted, self._accepted = self._accepted, []
            await self._connection.execute(_INSERT_RUN, [_new_row(run) for run, _ in accepted])
            await self._connection.execute(
                _INSERT_INPUT, [{"run_id": run.id, **vars(given)} for run, given in accepted]
            )

    async def provision(self, provision_id: str) -> Provision | None:
        return _to_provision(await self._connection.execute(_PROVISION_HELD, {"which": provision_id}))

    async def add_provision(self, provision: Provision) -> None:
        await self._write(provisions.insert(), vars(provision))

    async def save_provision(self, provision: Provision) -> None:
        changed = {"used_at": provision.used_at, "cancelled_at": provision.cancelled_at}
        await self._write(update(provisions).where(provisions.c.id == provision.id).values(changed))

    async def one_time_used(self, key_id: str) -> bool:
        found = await self._execute(_OF_ONE_TIME_KEY, {"key_id": key_id})
        return found.first() is not None

    async def version_exists(self, version_id: str) -> bool:
        if version_id not in self._versions:
            found = await self._connection.execute(_VERSION, {"which": version_id})
            self._versions.update(found.scalars())
        return version_id in self._versions

    async def runs(self, ids: Collection[str]) -> Runs:
        """Those that exist; their kept answers aren't read."""
        rows = await self._execute(_RUNS_HELD, {"ids": list(ids)}) if ids else ()
        return {row.id: to_run(row) for row in rows}

    async def standing(self, ids: Collection[str]) -> Runs:
        """As they are now; they aren't held."""
        rows = await self._execute(_RUNS, {"ids": list(ids)}) if ids else ()
        return {row.id: to_run(row) for row in rows}

    async def idempotent(self, organization_id: str, key: str) -> Idempotent | None:
        """What was asked for with this key, however long ago."""
        row = (await self._connection.execute(_IDEMPOTENT, {"organization": organization_id, "its_key": key})).first()
        return None if row is None else Idempotent(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name

    async def keep_idempotent(self, this: Idempotent) -> None:
        """In the place of what is too old to count."""
        mine = (idempotency.c.organization_id == this.organization_id) & (idempotency.c.key == this.key)
        await self._write(delete(idempotency).where(mine))
        await self._write(idempotency.insert(), vars(this))

    async def accept(self, run: Run, given: Input) -> None:
        """A new run with what it needs to start, whenever that will be."""
        self.writes += 1
        self._accepted.append((run, given))
        self.changed.append(run)

    async def keep_inputs(self, given: Mapping[str, Input]) -> None:
        """Of runs that have been inserted, by their ids."""
        if given:
            await self._write(_INSERT_INPUT, [{"run_id": run_id, **vars(one)} for run_id, one in given.items()])

    async def insert(self, these: Sequence[Run]) -> None:
        """New runs, as they stand."""
        if these:
            await self._write(_INSERT_RUN, [_new_row(run) for run in these])
            await self._keep_answers(these)
            self.changed.extend(these)

    async def save(self, these: Sequence[Run]) -> None:
        """Runs in a new state; the answer is written with the end, which comes once."""
        if these:
            rows = [{f"new_{name}": value for name, value in _row(run).items()} for run in these]
            wanted = {f"new_{name}" for name in _MUTABLE}
            await self._write(
                _SAVE, [{k: v for k, v in row.items() if k in wanted} | {"which": row["new_id"]} for row in rows]
            )
            await self._keep_answers(these)
            self.changed.extend(these)

    async def _keep_answers(self, these: Iterable[Run]) -> None:
        rows = [{"run_id": run.id, **vars(run.answer)} for run in these if run.answer is not None]
        if rows:
            await self._write(_INSERT_ANSWER, rows)

    async def tell(self, events: Iterable[Event]) -> None:
        """Events that exist if and only if the transaction commits."""
        before = len(self._told)
        self._told.extend(events)
        self.writes += len(self._told) > before

    async def finish(self) -> None:
        """What all works of the transaction have accepted and told, in few statements: the last that it writes."""
        await self._insert_accepted()
        await emit(self._connection, outbox, *wire.messages(self._told))

    async def delete_runs(self, completed_before: datetime, limit: int) -> int:
        """Oldest first, with input and answer; how many went."""
        old = select(runs.c.id).where(runs.c.completed_at < completed_before).order_by(runs.c.completed_at).limit(limit)
        ids = list((await self._execute(old)).scalars())
        if ids:
            await self._write(delete(nested_costs).where(nested_costs.c.run_id.in_(ids)))
            await self._write(delete(runs).where(runs.c.id.in_(ids)))
        return len(ids)

    async def delete_idempotent(self, created_before: datetime, limit: int) -> int:
        """How many went."""
        keys = (idempotency.c.organization_id, idempotency.c.key)
        old = select(*keys).where(idempotency.c.created_at < created_before).limit(limit)
        rows = (await self._execute(old)).all()
        if rows:
            await self._write(delete(idempotency).where(tuple_(*keys).in_([tuple(row) for row in rows])))
        return len(rows)

    async def delete_provisions(self, unused_before: datetime, used_before: datetime, limit: int) -> int:
        """Those that were never used, and those used last before `used_before`; how many went."""
        unused = select(provisions.c.id).where(provisions.c.used_at.is_(None), provisions.c.created_at < unused_before)
        used = select(provisions.c.id).where(provisions.c.used_at < used_before)
        ids = list((await self._execute(union_all(unused, used).limit(limit))).scalars())
        if ids:
            await self._write(delete(provisions).where(provisions.c.id.in_(ids)))
        return len(ids)


class RunReads:
    """What is asked about runs outside of a write transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find_provision(self, provision_id: str) -> Provision | None:
        async with self._db.read() as connection:
            return _to_provision(await connection.execute(_PROVISION, {"which": provision_id}))

    async def find_run(self, asker: Asker, request_id: str, *, content: bool = True) -> Run | None:
        """The run of this id, or the newest that was submitted with it as its provisioned id; of the asker's one-time
        key if it has one. Whether the asker's organization may see it isn't looked at.
        """
        query = _find(content=content, exact=asker.exact, one_time=bool(asker.one_time_key_id))
        values = {"which": request_id, "key_id": asker.one_time_key_id}
        async with self._db.read() as connection:
            row = (await connection.execute(query, values)).first()
        return None if row is None else to_run(row)

    async def find_input(self, run_id: str) -> Input | None:
        """None where it wasn't kept."""
        async with self._db.read() as connection:
            row = (await connection.execute(_INPUT, {"which": run_id})).first()
        return None if row is None else Input(row.request, row.body, row.body_digest)

    async def history(self, asked: History) -> list[Run]:
        """Newest first, from behind the run `after`; kept answers without their content."""
        async with self._db.read() as connection:
            start = None
            if asked.after:
                place = select(runs.c.created_at, runs.c.id).where(runs.c.id == asked.after)
                start = (await connection.execute(place)).first()
                if start is None:  # swept meanwhile: all behind it are older still
                    return []
            query = _with_answer(content=False).where(runs.c.id.in_(_page(asked, start)))
            query = query.order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(asked.limit)
            return [to_run(row) for row in await connection.execute(query)]

    async def overdue(self, status: Status, deadline_before: datetime, limit: int) -> list[Run]:
        """Queued or running past their deadline."""
        query = select(*RUN).where(runs.c.status == literal(status), runs.c.deadline < deadline_before).limit(limit)
        async with self._db.read() as connection:
            return [to_run(row) for row in await connection.execute(query)]

    async def cancelled(self, before: datetime, limit: int) -> list[Run]:
        """Running, although they were to be over since before that time; the longest first."""
        late = (runs.c.status == literal(Status.RUNNING)) & (runs.c.cancelled_at < before)
        query = select(*RUN).where(late).order_by(runs.c.cancelled_at).limit(limit)
        async with self._db.read() as connection:
            return [to_run(row) for row in await connection.execute(query)]


@cache
def _find(*, content: bool, exact: bool, one_time: bool) -> Select[Any]:
    """The run `which`, unless `exact` also the newest submitted under that id; if `one_time` of the key `key_id`."""
    newest = (runs.c.created_at.desc(), runs.c.id.desc())
    named = select(runs.c.id).where(runs.c.id == bindparam("which"))
    under_it = select(runs.c.id).where(runs.c.provision_id == bindparam("which"))
    if one_time:
        named, under_it = (one.where(runs.c.one_time_key_id == bindparam("key_id")) for one in (named, under_it))
    last = under_it.order_by(*newest).limit(1).subquery()
    wanted = named if exact else union_all(named, select(last.c.id))
    return _with_answer(content=content).where(runs.c.id.in_(wanted)).order_by(*newest).limit(1)


def literal(status: Status) -> Any:
    """As text in the statement: SQLite takes a partial index only where it can see the value."""
    return bindparam(None, int(status), literal_execute=True)


def _with_answer(*, content: bool) -> Select[Any]:
    columns = [*RUN, *_ANSWER, answers.c.content] if content else [*RUN, *_ANSWER]
    return select(*columns).select_from(runs.outerjoin(answers))


def _page(asked: History, start: Row[*tuple[Any, ...]] | None) -> Any:
    """Ids of the newest that the organization called or that use its secrets, each half by its own index."""
    called = runs.c.caller_id == asked.organization_id
    used = (runs.c.acting_id == asked.organization_id) & (runs.c.acting_id != runs.c.caller_id)
    return union_all(*(select(_half(asked, mine, start).subquery().c.id) for mine in (called, used)))


def _half(asked: History, mine: ColumnElement[bool], start: Row[*tuple[Any, ...]] | None) -> Select[Any]:
    half = select(runs.c.id).where(mine)
    if start is not None:
        earlier = (runs.c.created_at == start.created_at) & (runs.c.id < start.id)
        half = half.where(runs.c.created_at <= start.created_at, or_(runs.c.created_at < start.created_at, earlier))
    if asked.service_id:
        half = half.where(runs.c.service_id == asked.service_id)
    if asked.trace_id:
        half = half.where(runs.c.trace_id == asked.trace_id)
    if asked.status is not None:
        half = half.where(runs.c.status == int(asked.status))
        if asked.status is not Status.SUCCEEDED:
            half = half.where(runs.c.status != literal(Status.SUCCEEDED))  # as the index of these has it
    return half.order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(asked.limit)


def _to_provision(found: CursorResult[Any]) -> Provision | None:
    row = found.first()
    return None if row is None else Provision(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name


def _row(run: Run) -> dict[str, Any]:
    row = {name: value for name, value in vars(run).items() if name not in {"answer", "usage"}}
    row.update(vars(run.usage) if run.usage else dict.fromkeys(_USAGE))
    row.update(status=int(run.status), trigger=int(run.trigger), log_tail=list(run.log_tail))
    row.update(due_at=run.due_at or run.created_at, earlier=[asdict(one) for one in run.earlier])
    row.update(cancelled_as=asdict(run.cancelled_as) if run.cancelled_as else None)
    row.update(provision_id=run.provision_id or None, one_time_key_id=run.one_time_key_id or None)
    row.update(billing=kept(run.billing))
    row.update(detail=run.detail.replace("\0", "\ufffd"))  # sandboxes print it, PostgreSQL's text can't have it
    return row


def _new_row(run: Run) -> dict[str, Any]:
    return _row(run) | {"lane": 0 if run.urgent else 1}


def to_run(row: Row[*tuple[Any, ...]]) -> Run:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name
    for name in ("request", "body", "body_digest"):
        values.pop(name, None)
    answer = _answer(values)
    used = [values.pop(name) for name in _USAGE]
    values.update(usage=None if used[0] is None else Usage(*(each or 0 for each in used)))
    values.update(status=Status(row.status), trigger=Trigger(row.trigger), log_tail=tuple(row.log_tail))
    values.update(earlier=tuple(Earlier(**one) for one in row.earlier))
    values.update(cancelled_as=_outcome(row.cancelled_as) if row.cancelled_as else None)
    values.update(provision_id=row.provision_id or "", one_time_key_id=row.one_time_key_id or "")
    values.update(billing=from_kept(row.billing))
    return replace(Run(**values), answer=answer) if answer else Run(**values)


def _outcome(kept: dict[str, Any]) -> Outcome:
    return Outcome(Status(kept["status"]), kept["code"], kept["detail"], tuple(kept["log_tail"]))


def _answer(values: dict[str, Any]) -> Answer | None:
    """Takes the answer's columns out of `values`."""
    head, content = values.pop("head", None), values.pop("content", b"")
    digest, size = values.pop("digest", ""), values.pop("size", 0)
    return None if head is None else Answer(head, content, digest, size)
