"""`runmesh usage` and `runmesh credits`."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.api import connect
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, credit, listing, pairs, show_json


class Group(StrEnum):
    """What use is added up by."""

    SERVICE = "service"
    DAY = "day"
    KEY = "key"
    MODEL = "model"


def usage(
    *,
    group_by: Annotated[Group, typer.Option("--group-by", "-g", help="What to add up by.")] = Group.SERVICE,
    since: Annotated[str | None, typer.Option(metavar="DAY", help="The first day, YYYY-MM-DD, in UTC.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="The day after the last.")] = None,
    limit: Limit = 100,
    after: After = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Tell what was used, and what it cost. Needs the scope admin."""
    with connect(profile) as api:
        items, following = api.pages("/usage", limit, group_by=str(group_by), since=since, until=until, after=after)
    columns = {
        group_by.upper(): lambda each: each["group"],
        "RUNS": lambda each: each["runs"],
        "CREDITS": lambda each: credit(each["amount"]),
        "CPU": lambda each: f"{each['cpu_ms'] / 1000:.3f} s",
        "TOKENS IN": lambda each: each["tokens_in"],
        "TOKENS OUT": lambda each: each["tokens_out"],
        "EGRESS": lambda each: f"{each['egress_bytes']:,} B",
    }
    listing(items, following, columns, as_json=as_json, nothing="nothing was used")


def credits_(*, as_json: AsJson = False, profile: Profile = None) -> None:
    """Tell the organization's credits: 1 credit is 1 US dollar, and a million micro-credits. Needs the scope admin."""
    with connect(profile) as api:
        told = api.get("/credits")
    if as_json:
        show_json(told)
    else:
        pairs({"balance": credit(told["balance"]), "reserved": credit(told["reserved"]), "unit": "credits"})
