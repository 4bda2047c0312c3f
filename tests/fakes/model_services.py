"""The platform as a prompt workflow sees it: the model services' streams, in the vendors' shapes."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAGE = {"url": "https://a.example/x", "title": "A page"}


@dataclass
class ModelServices:
    """An ASGI app. `asked` has each call's path, query, headers and body; `refusal` answers them all; `cut` leaves out
    the last events; `events` are sent in place of the vendor's.
    """

    words: tuple[str, ...] = ("Once ", "upon\u2028a ", "time")
    asked: list[tuple[str, str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    refusal: tuple[int, Any] | None = None
    cut: int = 0
    events: list[Any] | None = None

    @property
    def body(self) -> dict[str, Any]:
        """Of the last call."""
        return self.asked[-1][3]

    def client(self) -> httpx.AsyncClient:
        """What the program has as its way to the platform."""
        route = Route("/{path:path}", self._answer, methods=["POST"])
        transport = httpx.ASGITransport(Starlette(routes=[route]))
        return httpx.AsyncClient(transport=transport, base_url="http://runtime", headers={"Authorization": "Bearer t"})

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append((request.url.path, request.url.query, dict(request.headers), body))
        if self.refusal is not None:
            status, told = self.refusal
            return JSONResponse(told, status)
        vendor = request.url.path.split("/")[2]
        search = bool(body.get("tools"))
        events = getattr(self, f"_{vendor}")(search) if self.events is None else self.events
        return StreamingResponse(_sent(events[: len(events) - self.cut]), media_type="text/event-stream")

    def _openai(self, search: bool) -> list[Any]:
        notes = [{"type": "url_citation", "start_index": 0, "end_index": 1, **PAGE}] * 2 if search else []
        part = {"type": "output_text", "text": "".join(self.words), "annotations": notes}
        output = [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": [part]}]
        deltas = [{"type": "response.output_text.delta", "delta": word} for word in self.words]
        done = {"type": "response.completed", "response": {"status": "completed", "output": output, "error": None}}
        return [{"type": "response.created", "response": {"status": "in_progress"}}, *deltas, done]

    def _anthropic(self, search: bool) -> list[Any]:
        def delta(**what: Any) -> dict[str, Any]:
            return {"type": "content_block_delta", "index": 0, "delta": what}

        cited = {"type": "web_search_result_location", "cited_text": "…", "encrypted_index": "e", **PAGE}
        return [
            {"type": "message_start", "message": {"role": "assistant", "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *(delta(type="text_delta", text=word) for word in self.words),
            *([delta(type="citations_delta", citation=cited)] if search else []),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}},
            {"type": "message_stop"},
        ]

    def _gemini(self, search: bool) -> list[Any]:
        def chunk(text: str, **more: Any) -> dict[str, Any]:
            return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}]}

        thought = {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]}
        grounded = {"groundingChunks": [{"web": {"uri": PAGE["url"], "title": PAGE["title"]}}]} if search else {}
        *most, last = self.words
        return [thought, *map(chunk, most), chunk(last, finishReason="STOP", groundingMetadata=grounded)]


async def _sent(events: list[Any]) -> AsyncIterator[bytes]:
    """In pieces that have nothing to do with the events."""
    kinds = [event.get("type", "message") if isinstance(event, dict) else "message" for event in events]
    told = [
        f"event: {kind}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
        for kind, event in zip(kinds, events, strict=True)
    ]
    raw = "".join(told).encode()
    for start in range(0, len(raw), 37):
        yield raw[start : start + 37]
