"""A run's answer, from its first byte: written by the run, read live by any number of callers, at any time."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from executor.model import INLINE_BYTES, AnswerEvent, AnswerHead, BodyComplete, Outcome
from executor.spool import Spool


@dataclass(frozen=True)
class WholeAnswer:
    """A small answer, all of it."""

    head: AnswerHead
    body: bytes


class Answer:
    """Head, body, completeness and outcome, in that order; each at most once."""

    def __init__(self, directory: Path) -> None:
        self.body = Spool(directory)
        self.head: AnswerHead | None = None
        self.complete = False
        self.outcome: Outcome | None = None
        self._brief = False
        self._changed = asyncio.Event()
        self._readers = 0
        self._forgotten = False

    def begin(self, head: AnswerHead, length: int | None = None) -> None:
        """The status and the headers are known, and how long the body will be, if the workflow said so."""
        self.head = head
        self._brief = length is not None and length <= INLINE_BYTES
        self._tell()

    def write(self, data: bytes) -> None:
        """More of the body. Errors: OSError when the disk is full."""
        self.body.append(data)
        self._tell()

    def finish_body(self) -> None:
        """The last byte is out."""
        self.complete = True
        self._tell()

    def end(self, outcome: Outcome) -> None:
        """The run is over."""
        self.outcome = outcome
        self._tell()

    async def read(self) -> AsyncGenerator[AnswerEvent, None]:
        """Everything from the start, then what comes, until the outcome."""
        self._readers += 1
        try:
            head_told = complete_told = False
            offset = 0
            while True:
                changed = self._changed
                if self.head is not None and not head_told:
                    head_told = True
                    yield self.head
                while chunk := self.body.read(offset):
                    offset += len(chunk)
                    yield chunk
                if self.complete and not complete_told:
                    complete_told = True
                    yield BodyComplete()
                if self.outcome is not None:
                    yield self.outcome
                    return
                await changed.wait()
        finally:
            self._readers -= 1
            self._close_when_unused()

    async def at_once(self) -> WholeAnswer | Outcome | None:
        """A small answer when it is whole; the outcome of a run that ended without one; None as soon as it is clear
        that the answer is long, or doesn't say how long it is.
        """
        while True:
            changed = self._changed
            if self.head is not None and not self._brief:
                return None
            if self.head is not None and self.complete:
                return WholeAnswer(self.head, self.body.read(0, INLINE_BYTES))
            if self.outcome is not None:
                return self.outcome
            await changed.wait()

    @property
    def forgotten(self) -> bool:
        """Whether there is nothing more to be read here, but by who reads already."""
        return self._forgotten

    def forget(self) -> None:
        """Lets go of the body as soon as nobody reads it any more."""
        self._forgotten = True
        self._close_when_unused()

    def _close_when_unused(self) -> None:
        if self._forgotten and not self._readers:
            self.body.close()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
