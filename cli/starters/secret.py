# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34"]
# [tool.env-checker]
# env_vars = ["SIGNING_KEY", "SIGNED_BY=nobody"]
# ///
"""Signs a text with a key that is a secret: `runmesh secrets set SIGNING_KEY`."""

import hashlib
import hmac
import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="secret")


class Inputs(BaseModel):
    """What a call sends."""

    text: str


class Output(BaseModel):
    """What it gets."""

    signed_by: str
    signature: str


@app.post("/")
async def main(inputs: Inputs) -> Output:
    # What the header declares is in the environment: a secret, or the default behind the "=".
    key = os.environ["SIGNING_KEY"].encode()
    signature = hmac.new(key, inputs.text.encode(), hashlib.sha256).hexdigest()
    return Output(signed_by=os.environ["SIGNED_BY"], signature=signature)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
