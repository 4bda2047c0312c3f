"""Who asks a service, and what is told in place of an answer: written into each (scheduler/library.py)."""

from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse


@dataclass(eq=False)
class Refused(Exception):
    """What the caller is told. `retry_after`: in seconds."""

    status: int
    code: str
    message: str
    retry_after: int = 0


def organization_of(request: Request) -> str:
    """Whose data it is. The header is the platform's: what callers send under that name never arrives. Inside of a run
    it is the organization whose secrets the run uses. Codewords-Caller-Id names the one that pays: a workflow of
    somebody else's that it calls has no business with its data.
    """
    return request.headers["x-runmesh-organization-id"]


def tells_refusals(app: FastAPI) -> None:
    """{"success": false, "detail", "code"}, whatever is wrong."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else None
    return JSONResponse({"success": False, "detail": error.message, "code": error.code}, error.status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
    told = "; ".join(faults)[:1000].encode("utf-8", "replace").decode()  # half a character of JSON's is none
    return JSONResponse({"success": False, "detail": told, "code": "bad_request"}, 400)
