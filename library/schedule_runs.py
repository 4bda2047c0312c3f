# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34"]
# [tool.runmesh]
# egress = []
# ///
"""Starts a workflow by the clock: {"service_id", "cron_expression", "input_data", "timezone"} gives {"schedule_id"}.

It acts as who asked for it, whose key needs the scope `deploy`. Schedules are listed and deleted under /schedules.
"""

import json
import os
import urllib.error
import urllib.request
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from library.parts.refusals import Refused, tells_refusals, too_deep

app = FastAPI(title="schedule_runs", description=__doc__)
tells_refusals(app, success=False, invalid=422)


class Schedule(BaseModel):
    """What is to run when. The expression has the five fields of cron."""

    model_config = ConfigDict(extra="forbid")
    service_id: str
    cron_expression: str
    input_data: Any = None
    timezone: str = "UTC"


@app.post("/")
def schedule(wanted: Schedule) -> Any:
    """Makes a schedule of the caller's. Errors: those of POST /schedules."""
    if too_deep(wanted.input_data):
        raise Refused(400, "bad_request", "input_data: it is nested too deeply")
    request = urllib.request.Request(  # noqa: S310  # the platform's own address
        os.environ["CODEWORDS_RUNTIME_URI"] + "/schedules",
        json.dumps(wanted.model_dump()).encode(),
        {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # as above
            return {"schedule_id": json.load(answer)["id"]}
    except urllib.error.HTTPError as refusal:
        told = json.load(refusal)
        raise Refused(refusal.code, told.get("code", ""), told["detail"]) from None
    except OSError as error:
        told = f"the platform didn't answer ({type(error).__name__}); try again"
        raise Refused(503, "unavailable", told, retry_after=2) from None


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
