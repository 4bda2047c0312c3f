# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34"]
# ///
"""Greets whoever is named."""

import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="hello")


class Inputs(BaseModel):
    """What a call sends."""

    name: str = "world"


class Output(BaseModel):
    """What it gets."""

    message: str


@app.post("/")
async def main(inputs: Inputs) -> Output:
    print(f"greeting {inputs.name}")  # a line of the run's log
    return Output(message=f"Hello {inputs.name}!")


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
