# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["CONTACT_TO", "CONTACT_THANKS_URL="]
# [tool.runmesh]
# timeout = "30s"
# egress = []
# ///
"""Mails what visitors write into the contact form of a website: no server of your own, no key in the page.

It takes forms of HTML, and JSON. To whom it mails is a setting, `CONTACT_TO`, so that nobody mails others through it;
a field `website`, which the page hides, catches robots: what fills it in is dropped. With `CONTACT_THANKS_URL` visitors
are sent on to that page. Calls send_email. Make it `open`, and anybody may post to it, on your account:

    curl -X PUT $URL/secrets/CONTACT_TO -H "Authorization: Bearer $KEY" -d '{"value": "me@example.com"}'
    curl -X PATCH $URL/workflows/form_to_email -H "Authorization: Bearer $KEY" -d '{"visibility": "open"}'

    <form method="post" action="URL/run/ORGANIZATION.form_to_email">
      <input name="name"> <input name="email" type="email"> <textarea name="message"></textarea>
      <input name="website" style="display: none" tabindex="-1" autocomplete="off"> <button>Send</button>
    </form>
"""

import os
from typing import Any
from urllib.parse import parse_qsl

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field, ValidationError

app = FastAPI(title="Form to email")
KEY = {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"}
runtime = httpx.AsyncClient(base_url=os.environ["CODEWORDS_RUNTIME_URI"], headers=KEY, timeout=120)


class Form(BaseModel):
    """What a visitor fills in."""

    name: str = Field("", max_length=200)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254, description="Where to answer")
    subject: str = Field("Message from the website", max_length=200)
    message: str = Field(min_length=1, max_length=20_000)
    website: str = Field("", description="For robots: leave it empty")


class Sent(BaseModel):
    """The answer where there is no page to go on to."""

    sent: bool


SCHEMA = {"schema": Form.model_json_schema()}
BODIES = {"requestBody": {"content": {"application/json": SCHEMA, "application/x-www-form-urlencoded": SCHEMA}}}


async def call(service: str, body: dict[str, Any]) -> Any:
    """What a library service answers. Errors: HTTPException with its status and what it says."""
    try:
        answer = await runtime.post(f"/run/{service}", json=body)
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise HTTPException(502, f"{service} gave no answer: {error!r}") from None
    if answer.is_error:
        raise HTTPException(answer.status_code, f"{service}: {told.get('detail', told)}")
    return told


async def filled_in(request: Request) -> Form:
    """Errors: HTTPException that names the fields."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    body = await request.body()
    try:
        if kind == "application/json":
            return Form.model_validate_json(body)
        if kind == "application/x-www-form-urlencoded":
            return Form.model_validate(dict(parse_qsl(body.decode())))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors()]
        raise HTTPException(422, "; ".join(faults)) from None
    except UnicodeDecodeError:
        raise HTTPException(422, "the form isn't UTF-8") from None
    raise HTTPException(415, "send a form (application/x-www-form-urlencoded) or JSON (application/json)")


@app.post("/", response_model=Sent, openapi_extra=BODIES)
async def send(request: Request) -> Response:
    """Errors: 422 for what can't be sent, 415; those of send_email."""
    form = await filled_in(request)
    if form.website:
        print("dropped: a robot")  # which needn't know
    else:
        # One line, whatever was typed.
        subject = " ".join(form.subject.split())
        body = f"From: {' '.join(form.name.split())} <{form.email}>\n\n{form.message}"
        mail = {"to": os.environ["CONTACT_TO"], "subject": subject, "body": body, "reply_to": form.email}
        await call("send_email", mail)
        print(f"mailed {len(form.message)} characters")
    thanks = os.environ["CONTACT_THANKS_URL"]
    return RedirectResponse(thanks, 303) if thanks else JSONResponse({"sent": True})


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
