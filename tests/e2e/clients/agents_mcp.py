"""Drives openai-agents' MCP client against devx_mcp of the runtime at MESH_URL with the key MESH_KEY, as its users do."""

import asyncio
import json
import os

from agents.mcp import MCPServerStreamableHttp

CODE = '''# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/")
def greet(inputs: dict) -> dict:
    print("greeting", inputs["name"])
    return {"message": "Hello " + inputs["name"]}


if __name__ == "__main__":
    uvicorn.run(app)
'''


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['MESH_KEY']}"}
    params = {"url": os.environ["MESH_URL"] + "/run/devx_mcp/mcp/", "headers": headers, "timeout": 100}
    found = {}
    async with MCPServerStreamableHttp(params=params, name="runmesh", client_session_timeout_seconds=150) as server:

        async def told(tool, **arguments):
            result = await server.call_tool(tool, arguments)
            text = result.content[0].text
            error = getattr(result, "isError", getattr(result, "is_error", None))
            return {"error": text} if error else json.loads(text)

        found["tools"] = sorted(tool.name for tool in await server.list_tools())
        found["deployed"] = await told("deploy_workflow", code=CODE, name="by-agent", service_id="by-agent")
        found["ran"] = await told("run_workflow", service_id="by-agent", inputs={"name": "Ada"})
        started = await told("start_workflow", service_id="by-agent", inputs={"name": "Bob"})
        found["result"] = await told("get_result", request_id=started["request_id"], wait_seconds=60)
        found["logs"] = await told("get_logs", request_id=started["request_id"])
        found["missing"] = await told("run_workflow", service_id="nothing")
    print(json.dumps(found))


asyncio.run(main())
