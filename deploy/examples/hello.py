# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34"]
# ///
"""Says hello: the workflow that `runmesh up` deploys so that there is something to call."""

import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="hello")


class Hello(BaseModel):
    """Whom to greet."""

    name: str = "world"


@app.post("/")
async def hello(request: Hello) -> dict[str, str]:
    """Greets."""
    print(f"greeting {request.name}")
    return {"message": f"Hello {request.name}!"}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
