"""`runmesh schedules`: runs by the clock."""

from typing import Annotated

import typer

from cli.api import connect, segment
from cli.complete import Workflow
from cli.hints import named
from cli.inputs import Data, json_value
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, ago, listing, show_json

app = typer.Typer(help="Schedules: list, create and remove them.", no_args_is_help=True)


@app.command("ls")
def ls(*, limit: Limit = 100, after: After = None, as_json: AsJson = False, profile: Profile = None) -> None:
    """List the schedules: when each fires, what became of its last run."""
    with connect(profile) as api:
        items, following = api.pages("/schedules", limit, after=after)
    columns = {
        "ID": lambda each: each["id"],
        "WORKFLOW": lambda each: each["service_id"],
        "CRON": lambda each: each["cron_expression"],
        "TIME ZONE": lambda each: each["timezone"] or "UTC",
        "NEXT": lambda each: ago(each["next_fire_at"]) or "never",
        "LAST RUN": lambda each: each["last_request_id"],
        "LAST ERROR": lambda each: each["last_error"],
    }
    listing(items, following, columns, as_json=as_json, nothing="no schedules")


@app.command("create")
def create(
    workflow: Workflow,
    cron: Annotated[str, typer.Argument(metavar="CRON", help="'minute hour day month weekday': '0 9 * * MON-FRI'.")],
    *,
    data: Data = None,
    timezone: Annotated[str | None, typer.Option("--timezone", "-z", help="Such as Europe/Berlin; else UTC.")] = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Run a workflow by the clock, each time with the same input."""
    wish = {"service_id": workflow, "cron_expression": cron, "input_data": json_value(data or [])}
    with connect(profile) as api, named(api, workflow):
        made = api.ask("POST", "/schedules", wish | ({"timezone": timezone} if timezone else {}))
    if as_json:
        show_json(made)
    else:
        print(f"{made['id']} runs {workflow}, next at {made['next_fire_at']}")


@app.command("rm")
def rm(
    schedule_id: Annotated[str, typer.Argument(metavar="ID", help="The schedule's id, sch_….")],
    *,
    profile: Profile = None,
) -> None:
    """End a schedule. Runs that it has started go on."""
    with connect(profile) as api:
        api.ask("DELETE", f"/schedules/{segment(schedule_id)}")
    print(f"{schedule_id} is removed")
