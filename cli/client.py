"""A small client of the public API: JSON in and out, errors as `cli.problem` has them."""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import certifi
import httpx

from cli.api import CONNECT_SECONDS, is_loopback
from cli.hints import next_steps
from cli.problem import FAILED, UNREACHABLE, Problem, Refused
from cli.servers import HOW_TO_START, Server

ANSWER_SECONDS = 60.0
PAGE = 1000
_HOW_TO_TRUST = ("SSL_CERT_FILE names the file with the authorities to trust",)


class Told(dict[str, Any]):
    """An object of an answer. What it must have and hasn't is a Problem: another server answers, or an older one."""

    def __missing__(self, name: str) -> Any:
        raise Problem(f"the server's answer has no {name!r}: is it a Runmesh, and as new as this one?", UNREACHABLE)


class Api:
    """Calls of one server. Errors of all: Refused; Problem when it can't be reached or isn't a Runmesh."""

    def __init__(self, server: Server, *, answer_seconds: float | None = ANSWER_SECONDS) -> None:
        self.server = server
        options: dict[str, Any] = {"trust_env": not is_loopback(server.url)}
        if server.url.startswith("http://"):
            options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the system's roots take 20 ms to read
        elif not options["trust_env"]:  # that alone of the environment
            roots = os.environ.get("SSL_CERT_FILE") or certifi.where()
            options["verify"] = ssl.create_default_context(cafile=roots)
        self._client = httpx.Client(
            base_url=server.url,
            headers={"Authorization": f"Bearer {server.key}", "User-Agent": "runmesh-cli"},
            timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS),
            **options,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        """The answer's JSON; parameters that are None are left out."""
        return self.ask("GET", path, params={name: value for name, value in params.items() if value is not None})

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> Any:
        """The answer's JSON."""
        options: dict[str, Any] = (
            {} if seconds is None else {"timeout": httpx.Timeout(seconds, connect=CONNECT_SECONDS)}
        )
        if body is not None:
            options["json"] = body
        with self._reached():
            answer = self._client.request(
                method, path, params=dict(params) if params else None, headers=dict(headers or {}), **options
            )
        return self.json_of(answer)

    def pages(self, path: str, limit: int, **params: Any) -> tuple[list[dict[str, Any]], str | None]:
        """At most `limit` items of a list, and where it goes on."""
        items: list[dict[str, Any]] = []
        after = params.pop("after", None)
        while True:
            page = self.get(path, limit=min(limit - len(items), PAGE), after=after, **params)
            items += page["items"]
            after = page["next"]
            if not after or len(items) >= limit:
                return items, after

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        silence: float | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer as it comes, whatever its status. `silence`: seconds without a byte after which it is given up."""
        timeout = httpx.Timeout(silence, connect=CONNECT_SECONDS)
        with (
            self._reached(),
            self._client.stream(
                method,
                path,
                content=content,
                headers=dict(headers or {}),
                params=dict(params) if params else None,  # an empty one would take the path's own query away
                timeout=timeout,
            ) as answer,
        ):
            yield answer

    def json_of(self, answer: httpx.Response) -> Any:
        """What a successful answer says."""
        self.check(answer)
        with suppress(ValueError):
            told = answer.json(object_hook=Told)
            if isinstance(told, Told):
                return told
        raise _stranger(answer, str(self.server))

    def check(self, answer: httpx.Response) -> None:
        """Errors: what the platform answered, as Refused."""
        if answer.status_code >= 300:
            raise refusal(answer, str(self.server))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns failures on the way into a Problem."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            why = str(error) or "no answer"
            how = _HOW_TO_TRUST if "CERTIFICATE" in why else HOW_TO_START
            raise Problem(f"can't reach {self.server}: {why}", UNREACHABLE, how) from error
        except httpx.TimeoutException as error:
            raise Problem(f"{self.server} didn't answer in time", UNREACHABLE) from error
        except httpx.RemoteProtocolError as error:
            raise Problem(f"the answer broke off: {error}", FAILED) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Problem(f"the connection to {self.server} failed: {error}", UNREACHABLE) from error


def refusal(answer: httpx.Response, server: str = "") -> Problem:
    """An error that was answered and read: Refused, if a Runmesh answered."""
    told: dict[str, Any] = {}
    with suppress(ValueError):
        found = answer.json()
        told = found if isinstance(found, dict) else {}
    if answer.status_code < 400 or not isinstance(told.get("detail"), str):
        return _stranger(answer, server)
    code, request_id = (str(told.get(name) or "") for name in ("code", "request_id"))
    wait = answer.headers.get("retry-after", "")
    report = told.get("report") or ()
    refused = Refused(answer.status_code, told["detail"], code, request_id, server, wait, report)
    refused.notes += next_steps(told["detail"])
    return refused


def _stranger(answer: httpx.Response, server: str) -> Problem:
    text = answer.text[:200].strip() or "nothing"
    told = f"{answer.request.url} answered {answer.status_code}, which no Runmesh does: {text}"
    return Problem(told, UNREACHABLE, (f"server: {server}",) if server else ())
