# /// script
# dependencies = ["uvicorn"]
# ///
import asyncio

import uvicorn


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"bare"})


if __name__ == "__main__":
    asyncio.run(uvicorn.Server(uvicorn.Config(app, port=8000)).serve())
