"""hunter.io v2: email-finder, email-verifier. The last name decides: Nobody, Fast (too often), Spent (used up), Odd,
Private. An address `slow@…` takes three looks, `dead@…` has a server that doesn't answer.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.apis import World, record
from tests.providers.provider import as_json

KEY = "provider-key-of-hunter"


def settings(world: World) -> dict[str, str]:
    return {"RUNMESH_HUNTER_URL": world.url("hunter"), "RUNMESH_HUNTER_API_KEY": KEY}


def routes(world: World) -> list[Route]:
    async def serve(request: Request) -> Response:
        await record(world, request)
        if (key := request.headers.get("x-api-key")) != KEY:
            return error(401, "authentication_failed", f"No user found for the API key supplied: {key}")
        query = request.query_params
        return find(query) if request.url.path.endswith("finder") else verify(world, query["email"])

    return [Route("/v2/email-finder", serve), Route("/v2/email-verifier", serve)]


def error(status: int, name: str, details: str) -> Response:
    return as_json({"errors": [{"id": name, "code": status, "details": details}]}, status)


def find(query: Any) -> Response:
    match query["last_name"]:
        case "Fast":
            return error(403, "rate_limited", "You have reached the rate limit")
        case "Spent":
            return error(429, "too_many_requests", "You have reached the limit for the number of searches")
        case "Private":
            return error(451, "claimed_email", "The person asked us not to process their data")
        case "Odd":
            return error(400, "invalid_domain", "The domain name is invalid")
    known = query["last_name"] != "Nobody"
    email = f"{query['first_name']}@{query['domain']}".lower() if known else None
    data = {
        "first_name": query["first_name"], "last_name": query["last_name"], "email": email,
        "score": 97 if known else None, "domain": query["domain"], "accept_all": False, "position": "Engineer",
        "twitter": None, "linkedin_url": "https://www.linkedin.com/in/ada", "phone_number": None, "company": "Engines",
        "sources": [{"domain": "engines.example", "uri": "https://engines.example/team", "extracted_on": "2020-01-01",
                     "last_seen_on": "2026-01-01", "still_on_page": True}] if known else [],
        "verification": {"date": "2026-01-01", "status": "valid" if known else None},
    }  # fmt: skip
    return as_json({"data": data, "meta": {"params": dict(query)}})


def verify(world: World, email: str) -> Response:
    name = email.partition("@")[0]
    if name == "dead":
        return as_json({"errors": [{"id": "verification_failed", "code": 222, "details": "SMTP failure"}]}, 222)
    looks = world.kept[email] = world.kept.get(email, 0) + 1
    if name == "endless" or (name == "slow" and looks < 3):
        return as_json({"data": {"email": email, "message": "The verification is in progress"}}, 202)
    status = "invalid" if name == "wrong" else "valid"
    data = {
        "status": status, "result": "deliverable", "_deprecation_notice": "…", "score": 100, "email": email,
        "regexp": True, "gibberish": False, "disposable": False, "webmail": False, "mx_records": True,
        "smtp_server": True, "smtp_check": True, "accept_all": False, "block": False, "sources": [],
    }  # fmt: skip
    return as_json({"data": data, "meta": {"params": {"email": email}}})
