"""Who asks a service, and what is told in place of an answer: written into each (scheduler/library.py)."""

from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as NotServed  # services have others of that name


@dataclass(eq=False)
class Refused(Exception):
    """What the caller is told, `more` fields besides. `retry_after`: in seconds."""

    status: int
    code: str
    message: str
    retry_after: int = 0
    more: dict[str, Any] = field(default_factory=dict)


DEEPEST = 200  # levels of a value that is passed on: pydantic writes no more than 255


def too_deep(value: Any) -> bool:
    """Whether lists and objects lie in one another too deeply to be answered or passed on as JSON."""
    level = [value]
    for _ in range(DEEPEST):
        nested = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [one for each in nested for one in each]
    return bool(level)


def organization_of(request: Request) -> str:
    """Whose data it is. The header is the platform's: what callers send under that name never arrives. Inside of a run
    it is the organization whose secrets the run uses. Codewords-Caller-Id names the one that pays: a workflow of
    somebody else's that it calls has no business with its data.
    """
    organization = request.headers.get("x-runmesh-organization-id")
    if not organization:  # the script is run by hand, say
        raise Refused(403, "forbidden", "nobody says whose organization's data this is about: call it as /run/NAME")
    return organization


def tells_refusals(app: FastAPI, *, success: bool = True, invalid: int = 400) -> None:
    """{"detail", "code"}, whatever is wrong; with `success`, {"success": false} besides, as good answers have it, too.
    `invalid`: the status of inputs that don't fit.
    """
    always = {"success": False} if success else {}

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        headers = {"retry-after": str(error.retry_after)} if error.retry_after else None
        told = {**always, "detail": error.message, "code": error.code, **error.more}
        return JSONResponse(told, error.status, headers)

    async def unfit(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        faults = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
        told = "; ".join(faults)[:1000].encode("utf-8", "replace").decode()  # half a character of JSON's is none
        return JSONResponse({**always, "detail": told, "code": "bad_request"}, invalid)

    async def unserved(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, NotServed)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        where = f": {request.method} {request.url.path[:200]}" if error.status_code in {404, 405} else ""
        return JSONResponse(
            {**always, "detail": f"{error.detail}{where}", "code": code}, error.status_code, error.headers
        )

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(NotServed, unserved)  # FastAPI's own: no such path, no JSON
    app.add_exception_handler(RequestValidationError, unfit)
