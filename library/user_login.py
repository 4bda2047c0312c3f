# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28,<1", "nats-py>=2.16,<3", "pyjwt[crypto]>=2.10,<3",
# ]
# [tool.env-checker]
# env_vars = [
#   "RUNMESH_USER_LOGIN_NATS_URL",
#   "RUNMESH_USER_LOGIN_SIGNING_KEY",
#   "RUNMESH_USER_LOGIN_TOKEN_SECONDS=86400",
#   "RUNMESH_USER_LOGIN_MAILS_PER_HOUR=200",
# ]
# [tool.runmesh]
# isolation = "instance"
# egress = []
# ///
"""Signs in the users of a workflow by a code that is sent to their e-mail address.

POST /start {"email"} sends it, POST /verify {"email", "code"} gives {"token"}: a JWT (EdDSA) that names the user to
this organization's workflows, and to no other's. /me tells whose it is, sent as the header X-User-Token or as {"token"}
(Authorization never arrives); GET /keys has the public keys to verify it without asking.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from typing import Any

import httpx
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from library.parts.bucket import Bucket, Entry, connected
from library.parts.refusals import Refused, organization_of, tells_refusals

NATS_URL = os.environ["RUNMESH_USER_LOGIN_NATS_URL"]
TOKEN_SECONDS = int(os.environ["RUNMESH_USER_LOGIN_TOKEN_SECONDS"])
MAILS_PER_HOUR = int(os.environ["RUNMESH_USER_LOGIN_MAILS_PER_HOUR"])  # of an organization
ISSUER = "user_login"
CODE_SECONDS, MOST_ATTEMPTS = 600, 5
CODES_PER_HOUR, PAUSE = 5, 60  # for one address; seconds between two
HOUR = 3600
STORE_BYTES = 64 << 20
ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[a-z0-9-]+(\.[a-z0-9-]+)+", re.ASCII)
TEXT = """Your code is {code}.

It is good for ten minutes, once. If it wasn't you who asked for it, do nothing: nobody gets in without it.
"""


class SigningKey:
    """Of 32 bytes, as hexadecimal digits."""

    def __init__(self, digits: str) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(digits.strip()))
        public = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = hashlib.sha256(public).hexdigest()[:16]
        x = base64.urlsafe_b64encode(public).decode().rstrip("=")
        self.public = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.id, "use": "sig", "alg": "EdDSA"}
        # Whoever reads what is kept can't try all codes by it.
        self.pepper = hmac.digest(bytes.fromhex(digits.strip()), b"codes", "sha256")


# The first signs; tokens of the others are good until they expire.
KEYS = [SigningKey(digits) for digits in os.environ["RUNMESH_USER_LOGIN_SIGNING_KEY"].split(",")]


class Start(BaseModel):
    model_config = ConfigDict(extra="forbid")
    email: str


class Verify(BaseModel):
    model_config = ConfigDict(extra="forbid")
    email: str
    code: str = Field(max_length=20)


class Token(BaseModel):
    model_config = ConfigDict(extra="forbid")
    token: str | None = Field(None, max_length=4096)


app = FastAPI(title="user_login", description=__doc__)
tells_refusals(app)


@app.post("/start")
async def start(request: Request, wanted: Start) -> dict[str, Any]:
    """Sends a code, whoever it is: there are no accounts to be found out. Errors: 400, 424, 429, and send_email's."""
    organization, email = organization_of(request), address_of(wanted.email)
    code, now = f"{secrets.randbelow(10**6):06d}", time.time()
    async with connected(NATS_URL, "user_login") as client:
        bucket = Bucket(client, "user_login", STORE_BYTES)
        key, all_key = f"{organization}.{digest(organization, email)}", f"{organization}.all"

        def another(entry: Entry) -> tuple[bytes, float]:
            sent = within_limits(read(entry), now, CODES_PER_HOUR, PAUSE)
            told = {"code": digest(organization, email, code), "until": now + CODE_SECONDS, "attempts": 0, "sent": sent}
            return json.dumps(told).encode(), now + HOUR

        def of_all(entry: Entry) -> tuple[bytes, float]:
            return json.dumps({"sent": within_limits(read(entry), now, MAILS_PER_HOUR, 0)}).encode(), now + HOUR

        def as_before(entry: Entry) -> tuple[bytes, float]:
            found = read(entry)
            found["sent"] = [at for at in found.get("sent", []) if at != now]
            return json.dumps(found | {"code": ""}).encode(), now + (HOUR if found["sent"] else 1)

        # Before anything is kept: the bucket is everybody's, and whoever is refused leaves nothing in it.
        within_limits(read(await bucket.get(all_key)), now, MAILS_PER_HOUR, 0)
        await bucket.change(key, another)
        try:
            await bucket.change(all_key, of_all)
            await mail(email, code)
        except Refused:
            await bucket.change(key, as_before)
            raise
    return {"success": True, "expires_in": CODE_SECONDS}


@app.post("/verify")
async def verify(request: Request, said: Verify) -> dict[str, Any]:
    """A token for the right code, once. Errors: 400; 401, which doesn't tell what was wrong."""
    organization, email = organization_of(request), address_of(said.email)
    code = re.sub(r"[\s-]", "", said.code)
    if not re.fullmatch("[0-9]{6}", code):
        raise Refused(400, "bad_request", "code: it has six digits")
    guess, right = digest(organization, email, code), False

    def tried(entry: Entry) -> tuple[bytes, float | None] | None:
        """Counted before anybody is told: those who guess at once take turns."""
        nonlocal right
        right, kept = False, read(entry)
        if not kept.get("code") or kept["until"] <= time.time() or kept["attempts"] >= MOST_ATTEMPTS:
            return None
        right = hmac.compare_digest(kept["code"], guess)
        kept |= {"attempts": kept["attempts"] + 1} | ({"code": ""} if right else {})
        return json.dumps(kept).encode(), entry.expires

    async with connected(NATS_URL, "user_login") as client:
        bucket = Bucket(client, "user_login", STORE_BYTES)
        await bucket.change(f"{organization}.{digest(organization, email)}", tried)
    if not right:
        raise Refused(401, "wrong_code", "the code is wrong, too old, used, or was tried too often: ask for a new one")
    return {"success": True, **signed(organization, email)}


@app.api_route("/me", methods=["GET", "POST"])
async def me(request: Request, said: Token | None = None) -> dict[str, Any]:
    """Whose token it is. Errors: 401."""
    token = request.headers.get("x-user-token") or (said.token if said else None)
    if not token:
        raise Refused(401, "no_token", 'send the token as the header X-User-Token, or as {"token"}')
    claims = claims_of(token, organization_of(request))
    user = {"sub": claims["sub"], "email": claims["email"]}
    return {"success": True, "user": user, "organization_id": claims["aud"], "expires_at": claims["exp"]}


@app.get("/keys")
async def keys() -> dict[str, Any]:
    """A JWK set: what verifies tokens."""
    return {"keys": [key.public for key in KEYS]}


def address_of(text: str) -> str:
    """In lower case, its domain in ASCII. Errors: Refused."""
    user, _, domain = text.strip().lower().rpartition("@")
    try:
        email = f"{user}@{domain.encode('idna').decode()}"
    except UnicodeError:
        email = ""
    if len(email) > 254 or not ADDRESS.fullmatch(email):
        raise Refused(400, "bad_request", "email: it must be an address such as ann@example.com")
    return email


def digest(*what: str) -> str:
    """Nobody finds out by it what it is of."""
    return hmac.new(KEYS[0].pepper, "\0".join(what).encode(), "sha256").hexdigest()


def read(entry: Entry) -> dict[str, Any]:
    """What is known of an address, or of an organization: nothing at first."""
    return {} if entry.value is None else dict(json.loads(entry.value))


def within_limits(kept: dict[str, Any], now: float, most: int, pause: int) -> list[float]:
    """When the messages of the last hour were sent, with one that is sent now. Errors: Refused."""
    sent = [at for at in kept.get("sent", []) if at > now - HOUR]
    wait = sent[-1] + pause - now if sent and pause else 0
    if len(sent) >= most:
        wait = max(wait, sent[-most] + HOUR - now)
    if wait > 0:
        raise Refused(429, "rate_limited", "so many codes aren't sent: wait", retry_after=int(wait) + 1)
    return [*sent, now]


async def mail(email: str, code: str) -> None:
    """By the service send_email; who asks for the code pays for that, too. Errors: Refused, as that service tells."""
    message = {"to": email, "subject": f"{code} is your code", "body": TEXT.format(code=code)}
    key = {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"}
    try:
        async with httpx.AsyncClient(timeout=60, trust_env=False, headers=key) as runtime:
            answer = await runtime.post(f"{os.environ['CODEWORDS_RUNTIME_URI']}/run/send_email", json=message)
        told = answer.json() if answer.status_code != 200 else {}
    except (httpx.HTTPError, ValueError) as error:
        print(f"send_email: {error!r}")
        raise Refused(503, "unavailable", "the code can't be sent at the moment; try again", retry_after=5) from None
    if answer.status_code != 200:
        code, detail = str(told.get("code", "unavailable")), str(told.get("detail", ""))
        seconds = answer.headers.get("retry-after", "")
        later = int(seconds) if seconds.isdigit() else 0
        raise Refused(answer.status_code, code, f"the code can't be sent: {detail}", later)


def signed(organization: str, email: str) -> dict[str, Any]:
    """A token, and what it says."""
    now = int(time.time())
    user = {"sub": user_of(organization, email), "email": email}
    claims = {"iss": ISSUER, "aud": organization, "iat": now, "exp": now + TOKEN_SECONDS, **user}
    token = jwt.encode(claims, KEYS[0].private, algorithm="EdDSA", headers={"kid": KEYS[0].id})
    return {"token": token, "user": user, "organization_id": organization, "expires_at": claims["exp"]}


def user_of(organization: str, email: str) -> str:
    """The same for an address for ever, and in every organization another."""
    return "usr_" + hashlib.sha256(f"{organization}\0{email}".encode()).hexdigest()[:24]


def claims_of(token: str, organization: str) -> dict[str, Any]:
    """Errors: Refused."""
    try:
        named = jwt.get_unverified_header(token).get("kid")
        key = next(key for key in KEYS if key.id == named)
        return jwt.decode(
            token,
            key.private.public_key(),
            algorithms=["EdDSA"],
            audience=organization,
            issuer=ISSUER,
            options={"require": ["iss", "aud", "iat", "exp", "sub", "email"]},
        )
    except (jwt.PyJWTError, StopIteration, ValueError):
        raise Refused(
            401, "bad_token", "the token isn't one of this organization's, or is too old: sign in again"
        ) from None


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
