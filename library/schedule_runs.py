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
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

app = FastAPI(title="schedule_runs")


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
    request = urllib.request.Request(  # noqa: S310  # the platform's own address
        os.environ["CODEWORDS_RUNTIME_URI"] + "/schedules",
        wanted.model_dump_json().encode(),
        {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # as above
            return {"schedule_id": json.load(answer)["id"]}
    except urllib.error.HTTPError as refusal:
        told = json.load(refusal)
        return JSONResponse({"detail": told["detail"], "code": told.get("code", "")}, refusal.code)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
