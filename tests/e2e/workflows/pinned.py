# /// script
# requires-python = "==3.11.*"
# dependencies = [
#   "codewords-client==0.3.4",
#   "fastapi==0.116.1",
#   "uvicorn[standard]==0.35.0",
#   "pydantic==2.11.7",
#   "structlog==25.4.0",
# ]
# [tool.env-checker]
# env_vars = ["LOGLEVEL=INFO", "CODEWORDS_API_KEY", "CODEWORDS_RUNTIME_URI"]
# ///
"""A workflow as CodeWords' users write them: logs by the package, calls another one, ends in run_service."""

from codewords_client import AsyncCodewordsClient, logger, run_service
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="pinned")


class Inputs(BaseModel):
    name: str


@app.post("/")
async def main(inputs: Inputs) -> dict[str, object]:
    logger.info("calling the other one", name=inputs.name)
    async with AsyncCodewordsClient() as client:
        answer = await client.run("probe", {"name": inputs.name})
        answer.raise_for_status()
    return {"other": answer.json()}


if __name__ == "__main__":
    run_service(app)
