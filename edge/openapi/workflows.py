"""mesh.edge.v1.Workflows and .Schedules."""

from collections.abc import Mapping

from edge.model import LIMITS, VISIBILITIES
from edge.openapi.described import PAGE, Described, gives, takes
from edge.openapi.errors import CHECK
from edge.openapi.records import RUN_ID
from edge.openapi.shapes import (
    ADDRESS,
    ANY_OBJECT,
    ANYTHING,
    COUNT,
    SHA256,
    TEXT,
    TIME,
    TRUTH,
    Shape,
    an_id,
    given,
    list_of,
    map_of,
    one_of,
    or_null,
    page_of,
    said,
    taken,
    text,
    whole,
)
from edge.serving import MOST_NUMBER
from edge.workflows import MAX_CODE_LENGTH, MAX_COUNT

_EXAMPLE = """# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "uvicorn"]
# ///
import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/")
async def greet(inputs: dict) -> dict:
    return {"message": f"Hello {inputs.get('name')}!"}


if __name__ == "__main__":
    uvicorn.run(app)
"""
NUMBER = whole(1, MOST_NUMBER)
TRAFFIC = said(map_of(whole(0, 100), "^[1-9][0-9]*$"), "per cent of the calls by version")
_ITEM = {
    "service_id": TEXT,
    "name": TEXT,
    "kind": one_of("code", "prompt"),
    "version": said(COUNT, "that is served; 0 when none is"),
    "visibility": one_of(*VISIBILITIES),
    "url": ADDRESS,
}
ITEM = given("WorkflowSummary", **_ITEM)
WORKFLOW = given(
    "Workflow",
    sometimes={
        "variables": said(list_of(TEXT), "of a prompt, as are the next four"),
        "model": TEXT,
        "web_search": TRUTH,
        "template": TEXT,
        "parameters": ANY_OBJECT,
    },
    **_ITEM,
    published=TRUTH,
    traffic=TRAFFIC,
    limits=said(given("Limits", **dict.fromkeys(LIMITS, COUNT)), "0: the default"),
    schema=said(or_null(ANY_OBJECT), "OpenAPI, of the workflow itself"),
    created_at=TIME,
    updated_at=TIME,
)
SERVED = given("ServedWorkflow", **_ITEM, traffic=TRAFFIC)
_VISIBILITY = one_of(*VISIBILITIES)
_CODE = text(least=1, most=MAX_CODE_LENGTH)
_NAMES = {
    "service_id": said(text(most=200), "1 to 100 letters, digits, _ and -; without: made of the name"),
    "name": said(text(most=200), "for people; without: the service id"),
}
_SOURCE = taken(
    "Code", needed={"code": _CODE}, kind=one_of("code"), **_NAMES, example={"name": "greet", "code": _EXAMPLE}
)
_PROMPT = taken(
    "Prompt",
    needed={
        "kind": one_of("prompt"),
        "template": said(text(least=1, most=MAX_CODE_LENGTH), "in Jinja's language, or some of it"),
        "model": said(text(least=1, most=300), "VENDOR/NAME"),
    },
    parameters=ANY_OBJECT,
    web_search=TRUTH,
    **_NAMES,
    example={"name": "Tale", "kind": "prompt", "template": "Tell of {{ hero }}", "model": "openai/gpt-4o-mini"},
)
_COPY = taken(
    "Copy", needed={"template_id": text(least=1, most=300)}, **_NAMES, example={"template_id": "person_finder"}
)
_LIMITS = {name: whole(1, MAX_COUNT) for name in LIMITS}
_DELETED = given(service_id=TEXT, deleted={"const": True})
_STEPS: Mapping[str, Shape] = {
    "X-Provisioned-Request-Id": said(
        an_id("run"), "an id of `POST /provision-request`, whose log (`GET /logs/{request_id}`) tells what is done"
    )
}

WORKFLOWS: Mapping[str, Described] = {
    "Workflows.Validate": Described(
        gives=gives(given("Report", all_passed=TRUTH, report=list_of(CHECK))),
        takes=takes(taken(needed={"code": _CODE}, example={"code": _EXAMPLE})),
        headers=_STEPS,
        codes=("conflict", "not_found"),
    ),
    "Workflows.Deploy": Described(
        gives=gives(given("Deployed", service_id=TEXT, version=NUMBER, url=ADDRESS, report=list_of(CHECK))),
        takes=takes({"anyOf": [_SOURCE, _PROMPT, _COPY]}),
        query={"publish": said(one_of("true", "false"), "whether it is served at once", default="true")},
        headers=_STEPS,
        codes=("invalid_workflow", "conflict", "not_found"),
    ),
    "Workflows.ListWorkflows": Described(
        gives=gives(page_of(ITEM)), query={"visibility": said(_VISIBILITY, "everybody's that have it"), **PAGE}
    ),
    "Workflows.ReadWorkflow": Described(gives=gives(WORKFLOW), codes=("not_found",)),
    "Workflows.UpdateWorkflow": Described(
        gives=gives(WORKFLOW),
        takes=takes(
            taken(
                "WorkflowChange",
                name=text(most=200),
                visibility=_VISIBILITY,
                limits=said(taken(**_LIMITS), "by name; `null` is the default again"),
                example={"limits": {"concurrency": 3}},
            )
        ),
        may_be_empty=True,
        codes=("not_found",),
    ),
    "Workflows.DeleteWorkflow": Described(gives=gives(_DELETED), codes=("not_found",)),
    "Workflows.PublishWorkflow": Described(
        gives=gives(given(**_ITEM, published={"const": True})), codes=("not_found",)
    ),
    "Workflows.UnpublishWorkflow": Described(
        gives=gives(given(**_ITEM, published={"const": False})), codes=("not_found",)
    ),
    "Workflows.ListVersions": Described(
        gives=gives(
            page_of(
                given(
                    "Version",
                    version=NUMBER,
                    id=an_id("ver"),
                    created_at=TIME,
                    python=TEXT,
                    code_sha256=SHA256,
                    traffic=whole(0, 100),
                    url=ADDRESS,
                )
            )
        ),
        query=PAGE,
        codes=("not_found",),
    ),
    "Workflows.RollBackWorkflow": Described(
        gives=gives(SERVED),
        takes=takes(taken(version=said(NUMBER, "without: what was served before"), example={"version": 1})),
        may_be_empty=True,
        codes=("not_found", "conflict"),
    ),
    "Workflows.SplitTraffic": Described(
        gives=gives(SERVED),
        takes=takes(said(map_of(whole(0, 100), "^[1-9][0-9]{0,8}$"), "100 together", examples=[{"1": 100}])),
        codes=("not_found",),
    ),
}

_TEMPLATE = {
    "id": TEXT,
    "name": TEXT,
    "description": TEXT,
    "secrets": said(list_of(TEXT), "that have to be there before it runs"),
    "defaults": said(map_of(TEXT), "of its other variables"),
}
TEMPLATES: Mapping[str, Described] = {
    "Templates.ListTemplates": Described(gives=gives(page_of(given("Template", **_TEMPLATE))), query=PAGE),
    "Templates.ReadTemplate": Described(
        gives=gives(
            given(
                "TemplateWithSource",
                sometimes={
                    "code": TEXT,
                    "template": said(TEXT, "of a prompt, as are the next three"),
                    "model": TEXT,
                    "parameters": ANY_OBJECT,
                    "web_search": TRUTH,
                },
                **_TEMPLATE,
                kind=one_of("code", "prompt"),
            )
        ),
        codes=("not_found",),
    ),
}
_SCHEDULE = given(
    "Schedule",
    id=an_id("sch"),
    service_id=TEXT,
    cron_expression=TEXT,
    timezone=TEXT,
    input_data=ANYTHING,
    next_fire_at=said(or_null(TIME), "`null` when it won't fire any more"),
    last_fired_at=or_null(TIME),
    last_request_id=or_null(RUN_ID),
    last_skipped_at=or_null(TIME),
    last_error=or_null(TEXT),
    created_at=TIME,
    created_by=or_null(TEXT),
)
SCHEDULES: Mapping[str, Described] = {
    "Schedules.ListSchedules": Described(gives=gives(page_of(_SCHEDULE)), query=PAGE),
    "Schedules.CreateSchedule": Described(
        gives=gives(_SCHEDULE),
        takes=takes(
            taken(
                "ScheduleWish",
                needed={
                    "service_id": text(least=1, most=300),
                    "cron_expression": said(text(least=1, most=1000), "minute, hour, day, month, day of week"),
                },
                timezone=said(text(most=1000), "an IANA name; without: UTC"),
                input_data=said(ANYTHING, "what is posted each time, 64 KiB at most"),
                example={"service_id": "greet", "cron_expression": "0 9 * * MON-FRI", "timezone": "Europe/Berlin"},
            )
        ),
        codes=("not_found",),
    ),
    "Schedules.DeleteSchedule": Described(
        gives=gives(given(id=an_id("sch"), deleted={"const": True})), codes=("not_found",)
    ),
}
