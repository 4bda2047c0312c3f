"""What a shell offers on Tab. It must be quick and quiet: whatever goes wrong, nothing is offered."""

from typing import Annotated

import typer

ANSWER_SECONDS = 1.5


def workflow_names(incomplete: str) -> list[str]:
    """The organization's own."""
    try:
        from cli.client import Api  # noqa: PLC0415  # takes a while
        from cli.servers import chosen  # noqa: PLC0415

        with Api(chosen(), answer_seconds=ANSWER_SECONDS) as api:
            names = [item["service_id"] for item in api.get("/workflows", limit=1000)["items"]]
            return [name for name in names if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001  # see above
        return []


Workflow = Annotated[str, typer.Argument(metavar="NAME", help="The workflow.", autocompletion=workflow_names)]
