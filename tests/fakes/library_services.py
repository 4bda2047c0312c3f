"""The library's services and the web, as a workflow sees them: by the shapes of SPEC §7, without a network."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

RUNTIME = "http://runtime.test"
KEY = "cwk-run-test"


def has_shape(value: Any, example: Any) -> bool:
    """Whether a model's answer may stand where the example was asked for (docs/models.md)."""
    if isinstance(example, dict):
        return isinstance(value, dict) and all(
            name in value and has_shape(value[name], inner) for name, inner in example.items()
        )
    if isinstance(example, list):
        return isinstance(value, list) and all(has_shape(each, example[0]) for each in value)
    if isinstance(example, int | float):
        return isinstance(value, int | float)
    return isinstance(value, type(example))


class LibraryServices:
    """What is set before a call: `pages` of the web, search `results`, the models' `answer` to a prompt, services that
    are `down`. What is seen after it: `calls`, the models' `prompts`, `mails`, `values` that are kept, `files`.
    """

    def __init__(self) -> None:
        self.pages: dict[str, httpx.Response | Exception] = {}
        self.results: list[dict[str, str | None]] = []
        self.people: dict[str, Any] = {"email": None, "score": None, "position": None}
        self.profiles: list[dict[str, str]] = []
        self.posts: list[dict[str, str]] = []
        self.answer: Callable[[str], Any] = lambda prompt: "an answer"
        self.down: dict[str, tuple[int, str] | Exception] = {}
        self.calls: list[tuple[str, Any]] = []
        self.prompts: list[Any] = []
        self.mails: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every client of httpx speaks to us, those that exist already too."""

        async def handle(_: Any, request: httpx.Request) -> httpx.Response:
            await request.aread()
            answer = self._answer(request)
            answer.request = request
            return answer

        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)

    def called(self, service: str) -> list[Any]:
        """The bodies that this service was given."""
        return [body for path, body in self.calls if path == service]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        if not url.startswith(RUNTIME):
            found = self.pages.get(url.partition("?")[0])
            if isinstance(found, Exception):
                raise found
            return self._fresh(found) if found else httpx.Response(404, text="no such page")
        path = request.url.path.removeprefix("/run/")
        if path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = request.content
            return httpx.Response(200)
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return self._refused(401, "no key")
        if path == "/file":
            (name,) = parse_qs(request.url.query.decode())["filename"]
            uris = {"upload_uri": f"{RUNTIME}/upload/{name}", "download_uri": f"{RUNTIME}/files/{name}"}
            return httpx.Response(200, json={**uris, "upload_headers": {"content-type": "text/markdown"}})
        body = json.loads(request.content)
        self.calls.append((path, body))
        # Its secret is used only if it is told to act for who calls it.
        assert (request.headers.get("run-as-template") == "yes") == (path == "slack_trigger/answer")
        failure = self.down.get(path)
        if isinstance(failure, Exception):
            raise failure
        if failure:
            return self._refused(*failure)
        return httpx.Response(200, json=self._run(path, body))

    @staticmethod
    def _fresh(page: httpx.Response) -> httpx.Response:
        return httpx.Response(page.status_code, headers=page.headers, content=page.content)

    @staticmethod
    def _refused(status: int, detail: str) -> httpx.Response:
        return httpx.Response(status, json={"detail": detail, "code": "refused", "request_id": "run_1"})

    def _run(self, path: str, body: dict[str, Any]) -> Any:
        takes, answer = {
            "openai": ({"model", "prompt"}, self._model),
            "anthropic": ({"model", "prompt"}, self._model),
            "gemini": ({"model", "prompt"}, self._model),
            "openai/v1/chat/completions": ({"model", "messages"}, self._chat),
            "searchapi": ({"engine", "q"}, self._search),
            "webpage_to_markdown": ({"url"}, self._markdown),
            "hunter/find_email": ({"domain", "first_name", "last_name"}, lambda _: self.people),
            "github/search_profiles": ({"query"}, self._profiles),
            "reddit/posts": ({"subreddit", "sort", "limit"}, lambda _: {"posts": self.posts}),
            "slack_trigger/answer": (
                {"channel", "text", "thread_ts"},
                lambda body: {"channel": body["channel"], "ts": "1"},
            ),
            "send_email": ({"to", "subject", "body"}, self._mail),
            "redis_coordinator": ({"operation", "key"}, self._kept),
        }[path]
        assert takes <= set(body), path
        assert set(body) <= takes | {"example_output", "response_format", "value", "ttl", "limit", "reply_to"}, path
        return answer(body)

    def _model(self, body: dict[str, Any]) -> Any:
        self.prompts.append(body["prompt"])
        answer = self.answer(body["prompt"])
        assert has_shape(answer, body.get("example_output", "text")), answer
        return {"response": answer}

    def _chat(self, body: dict[str, Any]) -> Any:
        assert body["response_format"] == {"type": "json_object"}
        self.prompts.append(body["messages"][0]["content"])
        content = self.answer(self.prompts[-1])
        return {"choices": [{"message": {"role": "assistant", "content": content}}]}

    def _markdown(self, body: dict[str, Any]) -> Any:
        page = self.pages[body["url"]]
        assert isinstance(page, httpx.Response)
        return {"markdown": page.text, "title": "A page"}

    def _search(self, body: dict[str, Any]) -> Any:
        return {"results": self.results[: body.get("limit", 10)], "total": len(self.results)}

    def _profiles(self, body: dict[str, Any]) -> Any:
        found = [{**profile, "kind": "user"} for profile in self.profiles[: body.get("limit", 10)]]
        return {"total": len(self.profiles), "profiles": found, "next_page": None}

    def _mail(self, body: dict[str, Any]) -> Any:
        assert "\n" not in body["subject"]
        self.mails.append(body)
        return {"success": True}

    def _kept(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["operation"] == "set":
            assert len(json.dumps(body["value"])) <= 256 * 1024
            self.values[body["key"]] = body["value"]
        return {"success": True, "value": self.values.get(body["key"])}
