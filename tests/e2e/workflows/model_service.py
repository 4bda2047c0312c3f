# /// script
# requires-python = ">=3.11"
# dependencies = ["starlette>=0.46", "uvicorn[standard]>=0.34"]
# ///
"""Stands in the library for the model services: streams back what it is asked, word by word, as OpenAI's API does.

Asked to "fail", it breaks off in the middle; asked to "refuse", it answers 402.
"""

import json

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route


async def responses(request):
    body = await request.json()
    text = body["input"]
    if "refuse" in text:
        return JSONResponse({"detail": "no credits", "code": "payment_required"}, 402)

    async def events():
        for word in text.split(" "):
            if word == "fail":
                return
            yield event(type="response.output_text.delta", delta=word + " ")
        notes = [{"type": "url_citation", "url": "https://a.example", "title": "A"}] if body.get("tools") else []
        content = [{"type": "output_text", "text": text, "annotations": notes}]
        yield event(type="response.completed", response={"output": [{"type": "message", "content": content}]})

    return StreamingResponse(events(), media_type="text/event-stream")


def event(**fields):
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n"


app = Starlette(routes=[Route("/v1/responses", responses, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
