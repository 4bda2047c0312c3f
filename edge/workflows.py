"""/validate, /deploy and /workflows."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from edge.fields import Fields
from edge.http import MAX_JSON_BYTES, Answer, Request, json_answer
from edge.model import LIMITS, VISIBILITIES, Check, FailedChecks, Prompt, Workflow, iso
from edge.problems import failure
from edge.templates import Templates
from kit.errors import Invalid, NotFound

MAX_CODE_LENGTH = 1024 * 1024
MAX_LIMIT = 1 << 50
# Of what isn't counted in bytes or milliseconds.
MAX_COUNT = (1 << 31) - 1


class Workflows(Protocol):
    """The scheduler's catalogue."""

    async def validate(self, organization_id: str, code: str, log_id: str) -> tuple[bool, Sequence[Check]]:
        """Whether all checks passed, and the report. What is done is told in the log `log_id`, unless that is empty."""
        ...

    async def deploy(
        self, organization_id: str, source: str | Prompt, name: str, service_id: str, publish: bool, log_id: str
    ) -> tuple[Workflow, int, Sequence[Check]]:
        """The workflow, the number of the new version, the report. `log_id` as of validate. Errors: FailedChecks,
        Invalid, NotFound, Conflict.
        """
        ...

    async def get(self, organization_id: str, reference: str) -> Workflow:
        """Errors: NotFound."""
        ...

    async def prompt(self, organization_id: str, reference: str) -> Prompt:
        """Of the version that a call of this prompt workflow runs. Errors: NotFound where none is served."""
        ...

    async def publish(self, organization_id: str, service_id: str, published: bool) -> Workflow:
        """Whether /api/v1 runs it. Idempotent. Errors: NotFound."""
        ...

    async def list_workflows(
        self, organization_id: str, visibility: str, limit: int, after: str
    ) -> tuple[list[Workflow], str]:
        """A page, and the token of the next; empty on the last. No visibility: the organization's own."""
        ...

    async def update(
        self, organization_id: str, service_id: str, name: str | None, visibility: str | None, limits: dict[str, int]
    ) -> Workflow:
        """Errors: NotFound, Invalid."""
        ...

    async def delete(self, organization_id: str, service_id: str) -> None:
        """Errors: NotFound."""
        ...


# The id of the log that tells what is done for a request, while it is done; empty where it asks for none. Errors:
# NotFound, Conflict.
Steps = Callable[[Request], AbstractAsyncContextManager[str]]


class WorkflowHandlers:
    """Handlers of mesh.edge.v1.Workflows. `public_url` has no slash at its end. `changed` is called before an answer
    tells of a change: the next call of its caller is of what there is by then.
    """

    def __init__(
        self, workflows: Workflows, templates: Templates, public_url: str, changed: Callable[[], None], steps: Steps
    ) -> None:
        self._workflows = workflows
        self._templates = templates
        self._public_url = public_url
        self._changed = changed
        self._steps = steps

    async def validate(self, request: Request) -> Answer:
        fields = await _fields(request)
        code = _code(fields)
        fields.done()
        async with self._steps(request) as log_id:
            all_passed, report = await self._workflows.validate(request.who.organization_id, code, log_id)
        return json_answer({"all_passed": all_passed, "report": [_line(check) for check in report]})

    async def deploy(self, request: Request) -> Answer:
        fields = await _fields(request)
        template_id = fields.text("template_id", longest=300)
        service_id = fields.text("service_id", longest=200)
        name = fields.text("name", longest=200) or service_id
        if template_id:
            fields.done(known=("template_id", "name", "service_id"))
            found = await self._templates.template(request.who.organization_id, template_id)
            source = found.source
            name, service_id = name or found.name, service_id or ("" if name else found.copy_id)
        else:
            kind = fields.choice("kind", ("code", "prompt"))
            source = _prompt(fields) if kind == "prompt" else _code(fields)
            fields.done()
        if not name:
            raise Invalid("name is missing")
        publish = _flag(request, "publish")
        try:
            async with self._steps(request) as log_id:
                workflow, version, report = await self._workflows.deploy(
                    request.who.organization_id, source, name, service_id, publish, log_id
                )
        except FailedChecks as failed:
            return failure(failed.code, failed.message, more={"report": [_line(check) for check in failed.report]})
        self._changed()
        return json_answer(
            {
                "service_id": workflow.service_id,
                "version": version,
                "url": url(workflow, self._public_url),
                "report": [_line(check) for check in report],
            }
        )

    async def list_workflows(self, request: Request) -> Answer:
        limit, after = request.page()
        visibility = request.parameter("visibility") or ""
        if visibility and visibility not in VISIBILITIES:
            raise Invalid(f"visibility is {visibility[:100]!r}; it must be one of {', '.join(VISIBILITIES)}")
        found, following = await self._workflows.list_workflows(request.who.organization_id, visibility, limit, after)
        return json_answer({"items": [self._item(each) for each in found], "next": following or None})

    async def get(self, request: Request) -> Answer:
        workflow = await self._workflows.get(request.who.organization_id, request.params["service_id"])
        return json_answer(self._whole(workflow) | await self._prompt(request, workflow))

    async def publish(self, request: Request) -> Answer:
        return await self._published(request, published=True)

    async def unpublish(self, request: Request) -> Answer:
        return await self._published(request, published=False)

    async def _published(self, request: Request, *, published: bool) -> Answer:
        organization_id, service_id = request.who.organization_id, request.params["service_id"]
        workflow = await self._workflows.publish(organization_id, service_id, published)
        self._changed()
        return json_answer(self._item(workflow) | {"published": workflow.published})

    async def _prompt(self, request: Request, workflow: Workflow) -> dict[str, Any]:
        """Of a prompt workflow; the prompt itself is for who owns it, and for whom it is a template."""
        organization_id, reference = request.who.organization_id, request.params["service_id"]
        if workflow.kind != "prompt":
            return {}
        if workflow.version and "@" not in reference:  # where several are served, of the one that is told of
            reference = f"{reference}@{workflow.version}"
        try:
            prompt = await self._workflows.prompt(organization_id, reference)
        except NotFound:  # no version is served
            return {}
        known: dict[str, Any] = {"variables": prompt.variables, "model": prompt.model, "web_search": prompt.web_search}
        if workflow.organization_id == organization_id or workflow.visibility == "template":
            known |= {"template": prompt.template, "parameters": json.loads(prompt.parameters)}
        return known

    async def update(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        name, visibility = fields.text("name", longest=200) or None, fields.choice("visibility", VISIBILITIES) or None
        limits = _limits(fields.inner("limits"))
        fields.done()
        workflow = await self._workflows.update(
            request.who.organization_id, request.params["service_id"], name, visibility, limits
        )
        self._changed()
        return json_answer(self._whole(workflow))

    async def delete(self, request: Request) -> Answer:
        service_id = request.params["service_id"]
        await self._workflows.delete(request.who.organization_id, service_id)
        self._changed()
        return json_answer({"service_id": service_id, "deleted": True})

    def _item(self, workflow: Workflow) -> dict[str, Any]:
        return item(workflow, self._public_url)

    def _whole(self, workflow: Workflow) -> dict[str, Any]:
        return self._item(workflow) | {
            "published": workflow.published,
            "traffic": traffic(workflow),
            "limits": workflow.limits,
            "schema": json.loads(workflow.openapi) if workflow.openapi else None,
            "created_at": iso(workflow.created_at),
            "updated_at": iso(workflow.updated_at),
        }


def url(workflow: Workflow, public_url: str) -> str:
    """What anybody calls it by."""
    return f"{public_url}/run/{workflow.organization_id}.{workflow.service_id}"


def item(workflow: Workflow, public_url: str) -> dict[str, Any]:
    """As lists tell it."""
    return {
        "service_id": workflow.service_id,
        "name": workflow.name,
        "kind": workflow.kind,
        "version": workflow.version,
        "visibility": workflow.visibility,
        "url": url(workflow, public_url),
    }


def traffic(workflow: Workflow) -> dict[str, int]:
    """Per cent of the calls by version; {} when none is served."""
    shares = workflow.traffic or (((workflow.version, 100),) if workflow.version else ())
    return {str(number): percent for number, percent in shares}


def _prompt(fields: Fields) -> Prompt:
    """What it must be the scheduler judges."""
    template = fields.needed("template", longest=MAX_CODE_LENGTH)
    model, parameters = fields.needed("model", longest=300), fields.mapping("parameters")
    return Prompt(template, model, json.dumps(parameters, ensure_ascii=False), fields.flag("web_search"))


async def _fields(request: Request) -> Fields:
    """The body. Errors: Invalid (too_large where the code must be what is too long)."""
    try:
        return Fields(await request.json())
    except Invalid as problem:
        raise _too_long() if problem.code == "too_large" else problem from None


def _code(fields: Fields) -> str:
    """Errors: Invalid (too_large)."""
    code = fields.needed("code", longest=MAX_JSON_BYTES)
    if len(code) > MAX_CODE_LENGTH:
        raise _too_long()
    return code


def _too_long() -> Invalid:
    return Invalid(
        f"a workflow's code has at most {MAX_CODE_LENGTH} bytes (1 MiB), the whole body {MAX_JSON_BYTES}: it must be"
        " smaller; let it fetch large data while it runs, from a file (POST /file) for example",
        code="too_large",
    )


def _line(check: Check) -> dict[str, Any]:
    return {"check": check.check, "passed": check.passed, "detail": check.detail, "line": check.line or None}


def _limits(fields: Fields | None) -> dict[str, int]:
    """By name; 0 where it is `null`: the source's own, or the default, is to hold again."""
    if fields is None:
        return {}
    counts = {"concurrency", "processes", "retries", "calls_per_second", "api_calls_per_minute"}
    reset = dict.fromkeys(fields.nulls(LIMITS), 0)
    found = {
        name: fields.integer(name, lowest=1, highest=MAX_COUNT if name in counts else MAX_LIMIT) for name in LIMITS
    }
    fields.done(known=LIMITS)
    return reset | {name: value for name, value in found.items() if value is not None}


def _flag(request: Request, name: str) -> bool:
    text = (request.parameter(name) or "true").lower()
    if text not in {"true", "false"}:
        raise Invalid(f"{name} is {text[:40]!r}; it must be true or false")
    return text == "true"
