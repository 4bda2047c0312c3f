"""What services of others' APIs have in common: written into each when that is deployed (scheduler/library.py)."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from library.parts.refusals import Refused, tells_refusals

MOST_BYTES = 8 * 1024 * 1024
LONGEST_WAIT = 7 * 86400
TLS = ssl.create_default_context()  # once: reading the authorities takes 20 ms


@dataclass(frozen=True)
class Answer:
    """`said`: its JSON; None when it has none."""

    status: int
    headers: Mapping[str, str]
    said: Any


@dataclass(frozen=True)
class Provider:
    """An API. `secrets` never leave this service, whoever repeats them. `message`: what an answer's JSON says went
    wrong. `refusal`: of an answer that means something else than its status does. `seconds` for a whole call.
    """

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    message: Callable[[Any], Any] = lambda said: said.get("message")
    refusal: Callable[[Answer], Refused | None] = lambda _: None
    seconds: float = 30
    redirects: bool = False

    async def get(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The JSON of a good answer; what is None isn't asked. Errors: Refused."""
        query = {name: value for name, value in (query or {}).items() if value is not None}
        return self.good(await self.ask("GET", path, params=query, **options))

    async def post(self, path: str, body: Any, **options: Any) -> Any:
        """The JSON of a good answer. Errors: Refused."""
        return self.good(await self.ask("POST", path, json=body, **options))

    async def ask(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        """Whatever is answered. Errors: Refused (no answer, a late or endless one)."""
        try:
            async with (
                asyncio.timeout(self.seconds),  # of all of it: httpx counts each read by itself
                httpx.AsyncClient(
                    verify=TLS, timeout=self.seconds, trust_env=False, follow_redirects=self.redirects, max_redirects=3
                ) as client,
                client.stream(
                    method, self.url.rstrip("/") + path, headers={**self.headers, **(headers or {})}, **options
                ) as answer,
            ):
                raw = bytearray()
                async for part in answer.aiter_bytes():
                    raw += part
                    if len(raw) > MOST_BYTES:
                        raise Refused(502, "provider_failed", f"{self.name} answered more than {MOST_BYTES} bytes")
        except (TimeoutError, httpx.TimeoutException):
            raise Refused(504, "provider_timeout", f"{self.name} didn't answer within {self.seconds:.0f} s") from None
        except (httpx.HTTPError, AttributeError) as error:  # anyio's, on uvloop: it was reset before it was used
            what = type(error).__name__  # its text may have the address
            raise Refused(502, "provider_unreachable", f"{self.name} can't be reached ({what})") from None
        try:
            said = json.loads(raw) if raw else None
        except (ValueError, RecursionError):
            said = None
        return Answer(answer.status_code, answer.headers, said)

    def good(self, answer: Answer) -> Any:
        """What it says. Errors: Refused."""
        refused = self.refusal(answer) or self._by_status(answer)
        if refused is None and answer.said is None:
            refused = Refused(502, "provider_failed", f"{self.name} answered no JSON")
        if refused:
            raise refused
        return answer.said

    def _by_status(self, answer: Answer) -> Refused | None:
        status, why = answer.status, self.why(answer)
        if status == 429:
            return self.too_often(answer)
        if 200 <= status < 300:
            return None
        if status in {401, 403}:
            return Refused(502, "provider_credentials", f"{self.name} doesn't accept the operator's credentials{why}")
        if status in {404, 410}:
            return Refused(404, "not_found", f"{self.name} doesn't know that{why}")
        if 400 <= status < 500:
            return Refused(400, "bad_request", f"{self.name} refused the request{why}")
        return Refused(502, "provider_failed", f"{self.name} answered {status}{why}")

    def too_often(self, answer: Answer, seconds: float | None = None) -> Refused:
        """429, to be tried again after `seconds`, or what the answer says."""
        seconds = wait_of(answer) if seconds is None else seconds
        wait = 0 if seconds is None else max(1, round(seconds))
        return Refused(429, "rate_limited", f"{self.name} was asked too often{self.why(answer)}", wait)

    def why(self, answer: Answer) -> str:
        """Its own words, to put behind ours."""
        try:
            text = self.message(answer.said) if isinstance(answer.said, dict) else None
        except (LookupError, TypeError, AttributeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            return ""
        for secret in filter(None, self.secrets):
            text = text.replace(secret, "…")
        return ": " + " ".join(text.split())[:300]


class ClientCredentials:
    """A token of OAuth's client credentials (RFC 6749, 4.4), kept until it expires."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        """`ask` gives an awaitable of the answer: {"access_token", "expires_in"}."""
        self._ask = ask
        self._token = ""
        self._until = 0.0

    async def header(self, *, anew: bool = False) -> dict[str, str]:
        """`anew`: the last one wasn't accepted. Errors: Refused."""
        if anew or time.monotonic() >= self._until:
            said = await self._ask()
            if not isinstance(said, dict) or not isinstance(said.get("access_token"), str):
                raise Refused(502, "provider_credentials", "the provider gave no token for the operator's credentials")
            lives = said.get("expires_in")
            self._token = said["access_token"]
            self._until = time.monotonic() + (lives - 60 if isinstance(lives, int) else 0)
        return {"Authorization": f"Bearer {self._token}"}


def wait_of(answer: Answer) -> float | None:
    """Seconds, by its Retry-After."""
    text = answer.headers.get("retry-after", "")
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None
    return seconds if seconds < LONGEST_WAIT else None


def api(title: str, description: str | None) -> FastAPI:
    """An app that tells its refusals, inputs and a provider's answers that don't fit, as {"detail", "code"}."""
    made = FastAPI(title=title, description=(description or "").strip())

    tells_refusals(made, success=False, invalid=422)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logging.getLogger(title).error("an answer that nobody expected", exc_info=error)
        detail = "the provider's answer isn't what its documentation says"
        return JSONResponse({"detail": detail, "code": "provider_failed"}, 502)

    for kind in (LookupError, TypeError, AttributeError, ValueError, RecursionError):  # of reading it
        made.add_exception_handler(kind, unexpected)
    return made
