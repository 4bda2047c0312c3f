"""What is said of an rpc beside its proto."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.openapi.shapes import TEXT, Shape, one_of, said, text, whole

JSON = "application/json"
PAGE: Mapping[str, Shape] = {
    "limit": said(whole(1, 1000), "how many at most", default=100),
    "after": said(TEXT, "the `next` of the page before"),
}


@dataclass(frozen=True)
class Described:
    """What a call takes and gives.

    `gives` and `takes` are shapes by media type; no `takes`: there is no body; `may_be_empty`: nor need there be one.
    `query` and `headers` may be left out, all of them. `tells` are headers of the answer besides those that every
    answer has. `codes` are errors (edge/problems.py) besides those that any call of this kind may get. `foreign`: the
    answer is a workflow's own, of any status and kind; `relays`: its errors may be, in our shape.
    """

    gives: Mapping[str, Shape] = field(default_factory=dict)
    takes: Mapping[str, Shape] = field(default_factory=dict)
    may_be_empty: bool = False
    query: Mapping[str, Shape] = field(default_factory=dict)
    headers: Mapping[str, Shape] = field(default_factory=dict)
    tells: Mapping[str, Shape] = field(default_factory=dict)
    codes: tuple[str, ...] = ()
    foreign: bool = False
    relays: bool = False


def gives(shape: Shape) -> Mapping[str, Shape]:
    """JSON of this shape."""
    return {JSON: shape}


takes = gives


PARAMETERS: Mapping[str, Shape] = {
    "service_id": said(
        text(least=1, most=300),
        "`NAME`, `ORGANIZATION_ID.NAME`, or with `@VERSION` one version of it",
        examples=["hello"],
    ),
    "workflow_id": said(text(least=1, most=300), "as a service id", examples=["hello"]),
    "path": said(TEXT, "what follows the service id, slashes and all; `/` when it is left out"),
    "request_id": said(text(least=1, most=300), "`run_…`"),
    "key_id": said(text(least=1, most=300), "`key_…`"),
    "organization_id": said(text(least=1, most=300), "`org_…`"),
    "schedule_id": said(text(least=1, most=300), "`sch_…`"),
    "name": said(text(least=1, most=300), "an environment variable's: letters, digits and _"),
    "template_id": said(text(least=1, most=300), "as lists have it; or a workflow, by its full name"),
    "hook": said(text(least=1, most=300), "its id; its token, `cwh-…`, where an event is sent"),
    "file_name": one_of("start.js", "swagger-ui.css", "swagger-ui-bundle.js"),
}
"""Those of paths, by the names that they have in the protos."""
