"""`runmesh run`, `call` and `result`: a workflow's answers."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.api import connect, run_path, segment
from cli.complete import workflow_names
from cli.hints import named, of_paths
from cli.inputs import Data, body, content_type, read
from cli.logs import follow
from cli.problem import FAILED, PENDING, Misuse, Problem, Refused, clean
from cli.profiles import Profile
from cli.show import AsJson, note, show_json

if TYPE_CHECKING:
    import httpx

    from cli.client import Api

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the answer to this file.")]
Template = Annotated[bool, typer.Option("--as-template", help="Use one's own secrets for somebody else's template.")]
# The longest single wait that we ask of the server for.
_WAIT_SECONDS = 60


def run(
    target: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION][/PATH]", help="The workflow.", autocompletion=workflow_names)
    ],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD…", help="Fields of the input: name=text or name:=JSON.")
    ] = None,
    *,
    data: Data = None,
    later: Annotated[bool, typer.Option("--async", help="Don't wait: print the request id.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Print its log lines on stderr meanwhile.")] = False,
    as_template: Template = False,
    output: Output = None,
    profile: Profile = None,
) -> None:
    """Run a workflow by POST and print its answer: JSON indented, everything else as it is.

    The request id goes to stderr. Exits 1 if the workflow answers 400 or more, or fails.
    """
    sent = body([*(data or []), *(fields or [])])
    headers = {"Content-Type": content_type(sent)} | ({"Run-As-Template": "yes"} if as_template else {})
    with connect(profile) as api, named(api, target):
        if later:
            with api.stream("POST", run_path(target, door="run_async"), content=sent, headers=headers) as answer:
                answer.read()
                request_id = api.json_of(answer)["request_id"]
            print(request_id)
            if logs:
                follow(api, request_id, out=sys.stderr)
            return
        if not logs:
            _call(api, "POST", run_path(target), sent, headers, output, raw=stream, target=target)
            return
        request_id = api.ask("POST", "/provision-request")["request_id"]
        headers |= {"X-Provisioned-Request-Id": request_id, "X-On-Timeout": "kill"}
        printing = Thread(target=_quiet_follow, args=(api, request_id), daemon=True)
        printing.start()
        try:
            _call(api, "POST", run_path(target), sent, headers, output, raw=stream, target=target, logged=True)
        finally:
            printing.join(2)  # the log of a refused one ends, too


def call(
    method: Annotated[str, typer.Argument(help="GET, POST, PUT, PATCH or DELETE.")],
    path: Annotated[str, typer.Argument(help="From / on, with its query: /run/greet/people?limit=3, /workflows.")],
    *,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="DATA", help="The body as it is, or @FILE, @- for stdin.")
    ] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'Name: value'. Can be repeated.")] = None,
    include: Annotated[bool, typer.Option("--include", "-i", help="Print the status and headers, too.")] = False,
    output: Output = None,
    profile: Profile = None,
) -> None:
    """Call any path of the API with the key, and print the answer's bytes as they come.

    A JSON body gets Content-Type: application/json where no header says otherwise. Exits 1 if the workflow answers 400
    or more, 3 if the server refuses.
    """
    if not path.startswith("/"):
        raise Misuse(f"the path is {path!r}; it must begin with /")
    sent = None if data is None else read(data[1:]) if data.startswith("@") else data.encode()
    headers: dict[str, str] = {} if not sent else {"Content-Type": content_type(sent)}
    for item in header or []:
        name, colon, value = item.partition(":")
        if not colon or not name.strip():
            raise Misuse(f"{item!r} is no header such as 'X-Budget: 5000'")
        headers = {known: told for known, told in headers.items() if known.lower() != name.strip().lower()}
        headers[name.strip()] = value.strip()
    with connect(profile) as api:
        _call(api, method.upper(), path, sent, headers, output, raw=True, include=include)


def result(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The run's request id.")],
    *,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 0.0,
    output: Output = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Print the answer of a run, asynchronous ones above all; with --json its whole record.

    Exits 5 if it hasn't ended within --timeout, 1 if it failed or the workflow answered 400 or more.
    """
    with connect(profile) as api:
        record = ended(api, request_id, timeout)
    if as_json:
        show_json(record)
    else:
        note(_summary(request_id, record["responseStatus"] or record["status"]))
        _show_content(record, output)
    if failed(record):
        raise typer.Exit(FAILED)


def ended(api: "Api", request_id: str, seconds: float) -> dict[str, Any]:
    """The record of a run once it is over. Errors: Problem with PENDING when these seconds have passed."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        wait = {"timeout": min(int(left) or 1, _WAIT_SECONDS)} if left > 0 else {}
        try:
            api.ask("GET", f"/result/{segment(request_id)}", params=wait, seconds=_WAIT_SECONDS + 10)
        except Refused as refused:
            if refused.code not in {"pending", "timeout"}:
                raise
            if time.monotonic() >= deadline:
                how = f"runmesh result {request_id} --timeout 60 waits a minute for it"
                raise Problem(str(refused), PENDING, (f"request_id: {request_id}", how)) from refused
            time.sleep(0.05)
            continue
        record: dict[str, Any] = api.get(f"/request/{segment(request_id)}")
        return record


def failed(record: dict[str, Any]) -> bool:
    """As the exit status tells it."""
    return record["status"] != "succeeded" or (record["responseStatus"] or 0) >= 400


def _show_content(record: dict[str, Any], output: Path | None) -> None:
    if record["responseStatus"] is None:  # the workflow never answered
        note(f"error: {record.get('detail') or 'it has no answer'}")
        note(f"  code: {record['code']}") if record["code"] else None
    elif record["responseJson"] is not None:
        _write((json.dumps(record["responseJson"], indent=2, ensure_ascii=False) + "\n").encode(), output)
    elif record["responseContent"] is not None:
        _write(record["responseContent"].encode(), output)
    else:
        note("its answer isn't kept: it was binary, or long and streamed")


def _call(
    api: "Api",
    method: str,
    path: str,
    sent: bytes | None,
    headers: dict[str, str],
    output: Path | None,
    *,
    raw: bool,
    include: bool = False,
    target: str = "",
    logged: bool = False,
) -> None:
    """One call whose answer is printed: as its bytes come (`raw`), or whole. It says what to do next where a workflow
    fails, unless its log is shown (`logged`), and where `target`, by POST, has no such path. Errors: Refused, Problem.
    """
    began = time.monotonic()
    with api.stream(method, path, content=sent, headers=headers) as answer:
        request_id, status = answer.headers.get("x-request-id", ""), answer.status_code
        if status >= 400 and answer.headers.get("error-origin") != "service":
            answer.read()
            api.check(answer)
        if include:
            print(
                f"HTTP {status}", *(clean(f"{name}: {value}") for name, value in answer.headers.items()), "", sep="\n"
            )
            sys.stdout.flush()
        if raw:
            _copy(answer, output)
        else:
            _show(answer, output)
    if "/run" in path:
        note(_summary(request_id, status, time.monotonic() - began))
        if status >= 500 and not logged:
            note(f"its log: runmesh logs {request_id}")
        if target and (step := of_paths(status, target)):
            note(step)
    if status >= 400:
        raise typer.Exit(FAILED)


def _show(answer: "httpx.Response", output: Path | None) -> None:
    content = answer.read()
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if output is None and (kind == "application/json" or kind.endswith("+json")):
        with suppress(ValueError, RecursionError):  # else it is shown as it is
            content = (json.dumps(json.loads(content), indent=2, ensure_ascii=False) + "\n").encode()
    _write(content, output)


def _copy(answer: "httpx.Response", output: Path | None) -> None:
    if output is None:
        for chunk in answer.iter_bytes():
            _write(chunk, None)
        return
    try:
        with output.open("wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)
    except OSError as error:
        raise Misuse(f"can't write {output}: {error.strerror}") from error


def _write(content: bytes, output: Path | None) -> None:
    if output is not None:
        try:
            output.write_bytes(content)
        except OSError as error:
            raise Misuse(f"can't write {output}: {error.strerror}") from error
        return
    if sys.stdout.isatty():
        if b"\0" in content:
            raise Misuse(f"the answer is binary ({len(content)} bytes): --output FILE, or > FILE, keeps it")
        text = clean(content.decode(errors="replace"))
        sys.stdout.write(text)
    else:
        sys.stdout.buffer.write(content)
    sys.stdout.flush()


def _summary(request_id: str, status: Any, seconds: float | None = None) -> str:
    return f"{request_id}  {status}" + ("" if seconds is None else f"  {seconds:.2f} s")


def _quiet_follow(api: "Api", request_id: str) -> None:
    try:
        follow(api, request_id, out=sys.stderr)
    except Problem as problem:  # the call itself tells what is wrong
        note(f"the log broke off: {problem}")
