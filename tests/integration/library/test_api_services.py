"""The library's services of others' APIs, in this process, against local ones: what is asked, answered, refused."""

import ast
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from executor.header import parse
from scheduler.library import text_of
from tests.fakes.services import LIBRARY, Service, service
from tests.providers import github, hunter, reddit, searchapi
from tests.providers.apis import World, apis

NAMES = ("github", "reddit", "searchapi", "hunter")
SECRETS = (github.KEY, reddit.SECRET, searchapi.KEY, hunter.KEY)


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    with apis() as world:
        yield world


@pytest.fixture
def world(running: World) -> World:
    running.changes.clear()
    running.requests.clear()
    return running


async def said(asked: Service, path: str, body: Any, status: int = 200) -> Any:
    """The JSON of an answer that has this status, and names no secret."""
    answer = await asked.ask("POST", path, body)
    assert answer.status_code == status, answer.text
    assert not [secret for secret in SECRETS if secret in answer.text]
    return answer.json()


async def refused(asked: Service, path: str, body: Any) -> tuple[int, str, str]:
    """The status, code and detail of an answer that is an error."""
    answer = await asked.ask("POST", path, body)
    assert answer.status_code >= 400, answer.text
    assert not [secret for secret in SECRETS if secret in answer.text]
    told = answer.json()
    assert isinstance(told["detail"], str)
    return answer.status_code, told["code"], told["detail"]


def test_each_is_one_file_with_the_same_packages() -> None:
    headers = set()
    for name in NAMES:
        text = text_of(LIBRARY / f"{name}.py", LIBRARY)
        assert "from library" not in text
        assert ast.get_docstring(ast.parse(text))
        headers.add(next(line for line in text.splitlines() if line.startswith("# dependencies")))
    assert len(headers) == 1


@pytest.mark.parametrize("name", [*NAMES, "pipedream", "slack_trigger", "whatsapp_trigger", "devx_mcp"])
def test_each_is_documented(name: str) -> None:
    """With all that its operator and its callers set."""
    page = (LIBRARY / "README.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert page
    assert [each.name for each in parse((LIBRARY / f"{name}.py").read_bytes()).env_vars if each.name not in page] == []


async def test_github_searches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("github", world, monkeypatch)
    found = await said(asked, "/search_profiles", {"query": "cats", "limit": 100, "sort": "followers"})
    assert (found["total"], len(found["profiles"]), found["next_page"]) == (250, 100, 2)
    assert found["profiles"][0] == {
        "username": "octocat", "url": "https://github.com/octocat", "avatar_url": "https://avatars.example/0",
        "kind": "user",
    }  # fmt: skip
    assert world.last.query == "q=cats&per_page=100&page=1&sort=followers&order=desc"
    assert world.last.headers["authorization"] == f"Bearer {github.KEY}"
    last = await said(asked, "/search_profiles", {"query": "cats", "limit": 100, "page": 3})
    assert (len(last["profiles"]), last["next_page"]) == (50, None)
    found = await said(asked, "/search_repositories", {"query": "cats", "limit": 4})
    names = [each["repository"] for each in found["repositories"]]
    assert names == ["octo/repo-0", "octo/repo-1", "octo/repo-3"]  # the private one is nobody's business
    deep = await refused(asked, "/search_profiles", {"query": "cats", "limit": 100, "page": 11})
    assert deep[:2] == (400, "bad_request")


async def test_github_tells_of_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("github", world, monkeypatch)
    found = await said(asked, "/profile", {"username": "octocat"})
    assert (found["name"], found["followers"], found["website"]) == ("The Octocat", 20000, "https://github.blog")
    found = await said(asked, "/repository", {"repository": "octo/code"})
    assert (found["repository"], found["stars"], found["license"]) == ("octo/code", 80, "MIT")
    assert (await said(asked, "/repository", {"repository": "octo/renamed"}))["repository"] == "octo/moved"
    for body in ({"repository": "octo/hidden"}, {"repository": "nobody/none"}):
        assert (await refused(asked, "/repository", body))[:2] == (404, "not_found")
    for name in ("../x", "a/b/c", "a", "a/..", "a/b?c"):
        assert (await refused(asked, "/repository", {"repository": name}))[0] == 422


async def test_github_without_a_key_or_with_a_bad_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.changes["RUNMESH_GITHUB_API_KEY"] = ""
    await said(service("github", world, monkeypatch), "/profile", {"username": "octocat"})
    assert "authorization" not in world.last.headers
    world.changes["RUNMESH_GITHUB_API_KEY"] = "wrong"
    told = await refused(service("github", world, monkeypatch), "/profile", {"username": "octocat"})
    assert told == (502, "provider_credentials", "GitHub doesn't accept the operator's credentials: Bad credentials")


async def test_github_that_is_asked_too_often(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("github", world, monkeypatch)
    for text, least, most in (("[limited]", 30, 41), ("[secondary]", 55, 55)):
        answer = await asked.ask("POST", "/search_profiles", {"query": text})
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert least <= int(answer.headers["retry-after"]) <= most


async def test_a_provider_that_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("github", world, monkeypatch)
    for text, expected in {
        "[broken]": (502, "provider_failed", "GitHub answered 502"),
        "[long]": (502, "provider_failed", "GitHub answered more than 8388608 bytes"),
        "[leak]": (400, "bad_request", "GitHub refused the request: bad key …"),
    }.items():
        assert await refused(asked, "/search_profiles", {"query": text}) == expected
    for text in ("[odd=[]]", '[odd={"items": {}}]', '[odd={"total_count": 1, "items": [{"login": "\\ud800"}]}]'):
        assert (await refused(asked, "/search_profiles", {"query": text}))[:2] == (502, "provider_failed")
    object.__setattr__(asked.module.github, "seconds", 0.2)
    began = time.monotonic()
    assert (await refused(asked, "/search_profiles", {"query": "[slow]"}))[:2] == (504, "provider_timeout")
    assert time.monotonic() - began < 3
    world.changes["RUNMESH_GITHUB_URL"] = "http://127.0.0.1:9"
    away = await refused(service("github", world, monkeypatch), "/profile", {"username": "octocat"})
    assert away == (502, "provider_unreachable", "GitHub can't be reached (ConnectError)")


async def test_what_doesnt_fit_is_told_in_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("github", world, monkeypatch)
    assert await refused(asked, "/search_profiles", {}) == (422, "bad_request", "query: Field required")
    assert (await refused(asked, "/search_profiles", {"query": "x", "limit": 101, "who": 1}))[2].count(";") == 1
    answer = await asked.ask("POST", "/search_profiles", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_request")
    assert world.requests == []


async def test_reddit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("reddit", world, monkeypatch)
    found = await said(asked, "/posts", {"subreddit": "r/python", "sort": "top", "time": "week", "limit": 3})
    assert (len(found["posts"]), found["after"]) == (3, "t3_3")
    assert found["posts"][1] == {
        "id": "p1", "title": "Ada & Bob", "author": "ada", "subreddit": "python", "url": "https://example.com/",
        "score": 12, "upvote_ratio": 0.97, "over_18": False, "stickied": False, "text": "Look", "flair": None,
        "comments": 3, "permalink": "https://www.reddit.com/r/python/comments/p1/ada/",
        "created_at": "2023-11-14T22:13:20Z",
    }  # fmt: skip
    assert world.last.query == "limit=3&t=week&raw_json=1"
    assert world.last.headers["user-agent"] == "linux:runmesh:v1"
    thread = await said(asked, "/comments", {"post_id": "t3_p1"})
    assert (thread["post"]["id"], thread["left_out"]) == ("p1", 7)
    assert [each["id"] for each in thread["comments"]] == ["c1", "c3"]
    assert thread["comments"][0]["replies"][0]["text"] == "said c2"
    assert len([each for each in world.requests if "token" in each.path]) == 1  # it is kept


async def test_a_token_that_holds_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("reddit", world, monkeypatch)
    await said(asked, "/posts", {"subreddit": "python"})
    world.tokens.clear()
    await said(asked, "/posts", {"subreddit": "python"})
    assert len([each for each in world.requests if "token" in each.path]) == 2
    world.changes["RUNMESH_REDDIT_CLIENT_SECRET"] = "wrong"
    told = await refused(service("reddit", world, monkeypatch), "/posts", {"subreddit": "python"})
    assert told[:2] == (502, "provider_credentials")


@pytest.mark.parametrize(
    ("subreddit", "status", "code"),
    [
        ("secret", 403, "forbidden"),
        ("gone", 403, "forbidden"),
        ("nowhere", 404, "not_found"),
        ("busy", 429, "rate_limited"),
    ],
)
async def test_what_reddit_doesnt_show(
    subreddit: str, status: int, code: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = service("reddit", world, monkeypatch)
    answer = await asked.ask("POST", "/posts", {"subreddit": subreddit})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers.get("retry-after") == ("73" if status == 429 else None)
    assert (await refused(asked, "/comments", {"post_id": "none"}))[:2] == (404, "not_found")


@pytest.mark.parametrize("engine", ["google", "bing"])
async def test_searchapi_finds_pages(engine: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("searchapi", world, monkeypatch)
    found = await said(asked, "/", {"engine": engine, "q": "cats", "limit": 5, "page": 2})
    assert (len(found["results"]), found["total"]) == (5, 4210)
    assert found["results"][0] == {
        "position": 1, "title": "Cats 1", "link": "https://cats.example/1", "snippet": f"by {engine}", "source": "Cats",
        "date": "Jan 3, 2026",
    }  # fmt: skip
    assert world.last.query == f"engine={engine}&q=cats&page=2"
    assert await said(asked, "/", {"engine": engine, "q": "nothing"}) == {"results": [], "total": None}
    assert (await refused(asked, "/", {"engine": engine, "q": "too often"}))[:2] == (429, "rate_limited")


async def test_searchapi_finds_videos(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("searchapi", world, monkeypatch)
    (video,) = (await said(asked, "/", {"engine": "youtube", "q": "cat", "country": "de"}))["results"]
    assert (video["channel"], video["length"], video["views"]) == ("Cats", "3:33", 12345)
    assert (video["thumbnail"], video["snippet"]) == ("https://i.ytimg.example/1.jpg", "A cat")
    assert world.last.query == "engine=youtube&q=cat&gl=de"
    for body in (
        {"engine": "youtube", "q": "x", "page": 2},
        {"engine": "bing", "q": "x", "country": "de"},
        {"engine": "youtube", "q": "x", "location": "Berlin"},
    ):
        assert (await refused(asked, "/", body))[:2] == (400, "bad_request")
    assert (await refused(asked, "/", {"engine": "altavista", "q": "x"}))[0] == 422


ADA = {"domain": "engines.example", "first_name": "Ada", "last_name": "Lovelace"}


async def test_hunter_finds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("hunter", world, monkeypatch)
    assert await said(asked, "/find_email", ADA) == {
        "email": "ada@engines.example", "score": 97, "position": "Engineer", "company": "Engines",
        "linkedin_url": "https://www.linkedin.com/in/ada", "twitter": None, "phone_number": None,
        "verification": "valid", "sources": [{"uri": "https://engines.example/team", "last_seen_on": "2026-01-01"}],
    }  # fmt: skip
    assert "key" not in world.last.query
    assert (await said(asked, "/find_email", ADA | {"last_name": "Nobody"}))["email"] is None
    for name, expected in {
        "Fast": (429, "rate_limited"),
        "Spent": (429, "quota_exceeded"),
        "Private": (451, "unavailable_for_legal_reasons"),
        "Odd": (400, "bad_request"),
    }.items():
        assert (await refused(asked, "/find_email", ADA | {"last_name": name}))[:2] == expected
    world.changes["RUNMESH_HUNTER_API_KEY"] = "wrong"
    told = await refused(service("hunter", world, monkeypatch), "/find_email", ADA)
    assert told[:2] == (502, "provider_credentials")
    assert told[2].endswith("No user found for the API key supplied: …")


async def test_hunter_verifies(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("hunter", world, monkeypatch)
    monkeypatch.setattr(asked.module, "PAUSE", 0.0)
    found = await said(asked, "/verify", {"email": "slow@engines.example"})
    assert (found["status"], found["deliverable"], found["score"]) == ("valid", True, 100)
    assert len(world.requests) == 3
    assert (await said(asked, "/verify", {"email": "wrong@engines.example"}))["deliverable"] is False
    assert (await refused(asked, "/verify", {"email": "endless@engines.example"}))[:2] == (504, "provider_timeout")
    assert (await refused(asked, "/verify", {"email": "dead@engines.example"}))[:2] == (502, "provider_failed")
    for email in ("ada", "a@b", "a b@c.de", "@c.de"):
        assert (await refused(asked, "/verify", {"email": email}))[0] == 422


def test_an_answer_says_when_to_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    module = service("github", world, monkeypatch).module
    for text, expected in (("7", 7), ("", None), ("soon", None), ("inf", None), ("-5", None), ("9" * 400, None)):
        answer = module.Answer(429, httpx.Headers({"retry-after": text}), None)
        assert module.wait_of(answer) == expected
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 50))
    assert 45 < module.wait_of(module.Answer(429, httpx.Headers({"retry-after": later}), None)) < 51
