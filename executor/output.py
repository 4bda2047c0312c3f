"""What a workflow prints: read as it comes, cut into lines, published within milliseconds, kept for the archive."""

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import Protocol

from executor.loglines import LineSplitter, Ticker, clean, ndjson, parse
from executor.model import LogLine
from executor.redact import Redaction
from executor.spool import CHUNK_BYTES, Spool
from kit.clock import Clock
from kit.telemetry import log

# A line that isn't finished is shown after that long a silence.
QUIET_SECONDS = 0.02
# How long the pipes may stay open when everything in the sandbox is dead.
CLOSING_SECONDS = 1.0
# Past its limit a log is read on, slowly: a full pipe would stop the workflow, a closed one would kill it.
FLOOD_PAUSE_SECONDS = 0.01
TAIL_LINES = 20
TAIL_LINE_CHARACTERS = 500
LINES_AT_ONCE = 50


class LineSink(Protocol):
    """Where lines go, live. Never fails: a lost one is still in the archive."""

    async def send(self, run_id: str, line: LogLine) -> None: ...

    async def end(self, run_id: str) -> None: ...


class Output:
    """The log of one attempt. `limit` counts the bytes of the archive; past it one `system` line says so. Its lines are
    numbered from `before` + 1.
    """

    def __init__(
        self, run_id: str, sink: LineSink, clock: Clock, limit: int, directory: Path, *, before: int = 0
    ) -> None:
        self.archive = Spool(directory)
        self._run_id = run_id
        self._sink = sink
        self._clock = clock
        self._limit = limit
        self._cut = False
        self._seq = before
        self._ticker = Ticker()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._in_order = asyncio.Lock()
        self._redact = Redaction()
        self._silent: dict[int, str] = {}  # pipe → stream, as long as nothing has come
        self._pumps: list[asyncio.Task[None]] = []

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, shortened."""
        return tuple(self._tail)

    def hide(self, redact: Redaction) -> None:
        """From now on it shows nothing of these."""
        self._redact = redact

    def follow(self, stdout: int, stderr: int) -> None:
        """Reads both pipes, which don't block, to their ends; takes the descriptors over. Silence costs no task."""
        for stream, descriptor in (("stdout", stdout), ("stderr", stderr)):
            self._silent[descriptor] = stream
            asyncio.get_running_loop().add_reader(descriptor, self._hear, descriptor)

    async def system(self, message: str, level: str = "info") -> None:
        """A line of the platform's own."""
        async with self._in_order:
            await self._put("system", level, self._redact(clean(message)), "")

    async def drain(self) -> None:
        """Takes what is left in the pipes of a sandbox that is dead."""
        for descriptor in list(self._silent):
            self._hear(descriptor)
        if self._pumps:
            _, open_ones = await asyncio.wait(self._pumps, timeout=CLOSING_SECONDS)
            for pump in open_ones:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            self._pumps.clear()

    async def end(self) -> None:
        """Says that nothing comes any more."""
        await self._sink.end(self._run_id)

    def _hear(self, descriptor: int) -> None:
        """The first that comes from a pipe; or its end."""
        asyncio.get_running_loop().remove_reader(descriptor)
        stream, first = self._silent.pop(descriptor), b""
        try:
            first = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:  # somebody holds it open yet
            pass
        else:
            if not first:
                os.close(descriptor)
                return
        self._pumps.append(asyncio.create_task(self._pump(stream, descriptor, first)))

    async def _pump(self, stream: str, descriptor: int, first: bytes) -> None:
        reader = asyncio.StreamReader(limit=CHUNK_BYTES)
        reader.feed_data(first)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        try:
            await self._copy(stream, reader)
        finally:
            transport.close()

    async def _copy(self, stream: str, reader: asyncio.StreamReader) -> None:
        splitter = LineSplitter()
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS if splitter.partial else None):
                    chunk = await reader.read(CHUNK_BYTES)
            except TimeoutError:
                await self._lines(stream, splitter.flush())
                if splitter.partial:  # half a character: more comes, or the end
                    chunk = await reader.read(CHUNK_BYTES)
                else:
                    continue
            if not chunk:
                break
            if self._cut:
                await asyncio.sleep(FLOOD_PAUSE_SECONDS)
                continue
            await self._lines(stream, splitter.feed(chunk))
        await self._lines(stream, splitter.end())

    async def _lines(self, stream: str, texts: list[str]) -> None:
        for start in range(0, len(texts), LINES_AT_ONCE):
            async with self._in_order:
                for text in texts[start : start + LINES_AT_ONCE]:
                    if self._cut:
                        return
                    # Before it is parsed, since the rest of a JSON line must stay JSON; after it, since that decodes.
                    shown = self._redact(text)
                    parsed = parse(shown)
                    message = parsed.message if parsed.message == shown else self._redact(parsed.message)
                    await self._put(stream, parsed.level, message, parsed.data)
            await asyncio.sleep(0)  # other runs want to get on too

    async def _put(self, stream: str, level: str, message: str, data: str) -> None:
        line = LogLine(self._ticker.next(self._clock.now()), self._seq + 1, stream, level, message, data)
        record = ndjson(line)
        if stream != "system" and self.archive.size + len(record) > self._limit:
            self._cut = True
            note = f"the log passed its limit of {self._limit} bytes: what is printed from here on is dropped"
            await self._put("system", "warning", note, "")
            return
        self._seq = line.seq
        try:
            self.archive.append(record)
        except OSError as error:  # a full disk: the line still goes out live
            log().error("output.not_kept", run_id=self._run_id, reason=str(error))
        self._tail.append(message[-TAIL_LINE_CHARACTERS:])
        await self._sink.send(self._run_id, line)
