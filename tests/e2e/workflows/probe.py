# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.27"]
#
# [tool.env-checker]
# env_vars = ["GREETING=hello", "PORT"]
# ///
"""One workflow with a route for each thing that the end-to-end tests want to see."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

app = FastAPI(title="probe")
CALLS = 0


@app.post("/")
async def hello(request: Request) -> dict[str, object]:
    global CALLS
    CALLS += 1
    inputs = await request.json() if await request.body() else None
    return {"message": f"{os.environ['GREETING']} {(inputs or {}).get('name')}", "calls": CALLS, "processed_count": 3}


@app.api_route("/echo/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def echo(request: Request) -> dict[str, object]:
    body = await request.body()
    return {
        "method": request.method,
        "raw_path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in request.headers.raw],
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }


@app.post("/log")
async def log(request: Request) -> dict[str, int]:
    count = (await request.json())["count"]
    sys.stdout.write("".join(f"line {number}\n" for number in range(count)))
    sys.stdout.flush()
    return {"count": count}


@app.post("/slow_log")
async def slow_log() -> dict[str, bool]:
    for number in range(5):
        print(f"tick {number}", flush=True)
        await asyncio.sleep(0.2)
    return {"ok": True}


@app.post("/stream")
async def stream() -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        for number in range(5):
            yield f"data: {json.dumps({'number': number})}\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/broken_stream")
async def broken_stream() -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await asyncio.sleep(0.1)
        raise RuntimeError("the stream broke")

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/sleep")
async def sleep(request: Request) -> dict[str, bool]:
    await asyncio.sleep((await request.json())["seconds"])
    return {"ok": True}


@app.post("/teapot")
async def teapot() -> None:
    raise HTTPException(418, "short and stout")


@app.post("/raise")
async def crash() -> None:
    raise ValueError("a bug in the workflow")


@app.post("/exit")
async def leave() -> None:
    print("about to go", flush=True)
    os._exit(3)


@app.post("/kill")
async def kill() -> None:
    os.kill(os.getpid(), 9)
    await asyncio.sleep(10)


@app.post("/no_content")
async def no_content() -> Response:
    return Response(status_code=204)


@app.post("/cookies")
async def cookies() -> Response:
    answer = JSONResponse({"ok": True})
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2")
    return answer


@app.get("/redirect")
async def redirect() -> RedirectResponse:
    return RedirectResponse("/echo/target")


@app.post("/large")
async def large(request: Request) -> Response:
    return Response(b"x" * (await request.json())["bytes"], media_type="text/plain")


@app.post("/fetch")
async def fetch(request: Request) -> dict[str, object]:
    """Downloads a URL in chunks: what a workflow does with a `download_uri`."""
    digest, size = hashlib.sha256(), 0
    async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", (await request.json())["url"]) as answer:
        async for chunk in answer.aiter_bytes():
            digest.update(chunk)
            size += len(chunk)
    return {"status": answer.status_code, "sha256": digest.hexdigest(), "size": size}


@app.post("/upload")
async def upload(request: Request) -> dict[str, object]:
    """Makes a file of the given size and uploads it through the runtime."""
    size = (await request.json())["size"]
    digest = hashlib.sha256()

    async def content() -> AsyncIterator[bytes]:
        for start in range(0, size, 1 << 16):
            chunk = os.urandom(min(1 << 16, size - start))
            digest.update(chunk)
            yield chunk

    runtime = os.environ["CODEWORDS_RUNTIME_URI"]
    key = os.environ["CODEWORDS_API_KEY"]
    async with httpx.AsyncClient(timeout=60) as client:
        made = await client.post(f"{runtime}/file?filename=from-inside.bin", headers={"Authorization": key})
        put = await client.put(made.json()["upload_uri"], content=content())
    return {"status": put.status_code, "sha256": digest.hexdigest(), "download_uri": made.json()["download_uri"]}


@app.post("/connect")
async def connect(request: Request) -> dict[str, str]:
    """What a connection to an address outside comes to."""
    wanted = await request.json()
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(wanted["host"], wanted["port"]), 3)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        got = await asyncio.wait_for(reader.read(1), 3)
    except (OSError, TimeoutError, RuntimeError) as error:  # uvloop's: it was reset before anything was written
        return {"refused": type(error).__name__}
    writer.close()
    return {"refused": "" if got else "closed"}


@app.post("/nested")
async def nested(request: Request) -> Response:
    """Calls another workflow by plain HTTP, with what the environment gives."""
    wanted = await request.json()
    async with httpx.AsyncClient(base_url=os.environ["CODEWORDS_RUNTIME_URI"], timeout=60) as client:
        answer = await client.request(
            wanted.get("method", "POST"),
            wanted["path"],
            json=wanted.get("json"),
            headers={"Authorization": os.environ["CODEWORDS_API_KEY"]},
        )
    return JSONResponse({"status": answer.status_code, "headers": dict(answer.headers), "text": answer.text})


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", 8000)))
