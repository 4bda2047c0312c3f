"""An HTTP client: each of C connections sends its next call when the last was answered (closed loop), or, with a rate,
calls begin when they are due, whatever became of the others (open loop; latency counts from when a call was due).

Prints one JSON object (figures.Calls): the latency of each call in ms, the seconds that all took, errors by status, and
for an app that answers with `at`, its monotonic clock, the ms until user code ran. A process of its own: its work isn't
counted with the server's.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from urllib.parse import urlsplit

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Sends one request, reads its whole answer: (status, body)."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = b""
        if length:
            body = await self.reader.readexactly(int(length[1]))
        elif b"chunked" in head.lower():
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:size]
            await self.reader.readexactly(2)
        return int(head[9:12]), body


class Load:
    """One request, again and again."""

    def __init__(self, url: str, headers: list[str], body: bytes) -> None:
        parts = urlsplit(url)
        lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", *headers]
        self._address = parts.hostname, parts.port
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
        self._free: list[Connection] = []
        self._taken: list[float] = []
        self._reached: list[float] = []
        self._errors: dict[int, int] = {}

    async def closed(self, connections: int, calls: int) -> dict[str, object]:
        left = calls

        async def one() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self._call(time.monotonic())

        started = time.monotonic()
        await asyncio.gather(*(one() for _ in range(connections)))
        return self._result(time.monotonic() - started)

    async def open(self, rate: float, calls: int) -> dict[str, object]:
        started, under_way = time.monotonic(), []
        for number in range(calls):
            due = started + number / rate
            await asyncio.sleep(due - time.monotonic())
            under_way.append(asyncio.create_task(self._call(due)))
        await asyncio.gather(*under_way)
        return self._result(time.monotonic() - started)

    async def _call(self, due: float) -> None:
        connection = self._free.pop() if self._free else Connection(*await asyncio.open_connection(*self._address))
        status, body = await connection.call(self._request)
        self._free.append(connection)
        if status == 200:
            self._taken.append((time.monotonic() - due) * 1000)
            if b'"at"' in body:
                self._reached.append((json.loads(body)["at"] - due) * 1000)
        else:
            self._errors[status] = self._errors.get(status, 0) + 1

    def _result(self, seconds: float) -> dict[str, object]:
        return {"taken": self._taken, "seconds": seconds, "errors": self._errors, "reached": self._reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("-c", "--connections", type=int, default=1)
    parser.add_argument("-n", "--calls", type=int, default=1000)
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data", default='{"name": "Ada"}')
    parser.add_argument("-r", "--rate", type=float, default=0, help="calls a second, in an open loop")
    options = parser.parse_args()
    load = Load(options.url, options.header, options.data.encode())
    run = load.open(options.rate, options.calls) if options.rate else load.closed(options.connections, options.calls)
    json.dump(uvloop.run(run), sys.stdout)


if __name__ == "__main__":
    main()
