"""`runmesh validate` and `runmesh deploy`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.api import DEPLOY_SECONDS, connect
from cli.hints import secrets_to_set
from cli.problem import FAILED, Misuse, Problem, Refused, clean
from cli.profiles import Profile
from cli.show import AsJson, note, progress, show_json
from cli.steps import steps

if TYPE_CHECKING:
    from cli.client import Api

MAX_CODE_BYTES = 1 << 20
File = Annotated[Path, typer.Argument(metavar="FILE", help="The workflow: one Python file.")]


def validate(file: File, *, as_json: AsJson = False, profile: Profile = None) -> None:
    """Check a workflow without deploying it: syntax, header, interpreter, dependencies, secrets, imports, schema.

    Exits 0 if all passed, 1 if not. A secret that isn't set yet keeps nothing from being deployed, only from running.
    """
    code = source(file)
    with connect(profile) as api, progress(f"checking {file.name}") as tell:
        told = checked(api, code, tell)
    if as_json:
        show_json(told)
    else:
        show_report(file, told["report"])
    if not told["all_passed"]:
        raise typer.Exit(FAILED)


def deploy(
    file: File,
    *,
    name: Annotated[str | None, typer.Option(help="Its name; else the file's.")] = None,
    service_id: Annotated[str | None, typer.Option("--id", help="Its service id; else made of the name.")] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Serve it as NAME@VERSION only, not yet to all.")] = False,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Deploy a workflow, or its next version. It is served at once, unless it is a draft.

    Exits 1 if the checks fail; what was served before goes on then.
    """
    code = source(file)
    with connect(profile) as api:
        told = deployed(api, file, code, name or file.stem, service_id, draft=draft)
    if as_json:
        show_json(told)
        return
    show_deployed(file, told, draft=draft)


def show_deployed(file: Path | str, told: dict[str, Any], *, draft: bool = False) -> None:
    """What /deploy answered: the checks that failed, and where it is served."""
    show_report(file, [check for check in told["report"] if not check["passed"]])
    what = f"{told['service_id']} version {told['version']}"
    print(f"{what} is a draft: runmesh run {told['service_id']}@{told['version']}" if draft else f"{what} is served")
    print(clean(told["url"]) + (f"@{told['version']}" if draft else ""))


def source(file: Path) -> str:
    """A workflow's code. Errors: Misuse."""
    try:
        code = file.read_bytes()
    except OSError as error:
        raise Misuse(f"can't read {file}: {error.strerror}") from error
    if not code.strip():
        raise Misuse(f"{file} is empty", "runmesh init NAME writes a workflow to start from")
    if len(code) > MAX_CODE_BYTES:
        raise Misuse(f"{file} has {len(code)} bytes; a workflow has at most {MAX_CODE_BYTES}")
    try:
        return code.decode()
    except UnicodeDecodeError as error:
        raise Misuse(f"{file} isn't UTF-8 (byte {error.start})") from error


def checked(api: "Api", code: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """What /validate answers. `tell` takes its steps."""
    with steps(api, tell) as headers:
        told: dict[str, Any] = api.ask("POST", "/validate", {"code": code}, headers=headers, seconds=DEPLOY_SECONDS)
    return told


def deployed(
    api: "Api", file: Path, code: str, name: str, service_id: str | None = None, *, draft: bool = False
) -> dict[str, Any]:
    """What /deploy answers. Errors: Problem, which tells the line of the check that failed."""
    wish = {"code": code, "name": name} | ({"service_id": service_id} if service_id else {})
    params = {"publish": "false"} if draft else None
    try:
        with progress(f"deploying {name}") as tell, steps(api, tell) as headers:
            told: dict[str, Any] = api.ask(
                "POST", "/deploy", wish, params=params, headers=headers, seconds=DEPLOY_SECONDS
            )
        return told
    except Refused as refused:
        raise refusal(file, refused) from refused


def refusal(file: Path, refused: Refused) -> Problem:
    """Why a deploy was refused, as editors know how to open it: `file.py:12: imports: …`."""
    failed = [check for check in refused.report if not check["passed"]]
    if not failed:
        if "set `service_id`" in str(refused):
            refused.notes += ("--id gives it one",)
        return refused
    return Problem("\n".join(report_line(file, check) for check in failed), FAILED, ("nothing was deployed",))


def show_report(file: Path | str, report: list[dict[str, Any]]) -> None:
    """A line for each check."""
    for check in report:
        print(clean(report_line(file, check)))
        for command in secrets_to_set(check["detail"]):
            note(f"  {command}")


def report_line(file: Path | str, check: dict[str, Any]) -> str:
    """`file.py:12: dependencies: …`, as editors know how to open it; `ok` in front of what passed."""
    detail = f": {check['detail']}" if check["detail"] else ""
    if check["passed"]:
        return f"ok {check['check']}{detail}"
    place = f"{file}:{check['line']}" if check["line"] else str(file)
    return f"{place}: {check['check']}{detail}"
