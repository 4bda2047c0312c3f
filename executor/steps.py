"""Tells what a check of a source does, while it does it: in the log of an id that its caller provisioned."""

from executor.loglines import Ticker, clean
from executor.model import LogLine
from executor.output import LineSink
from executor.validate import Tell
from kit.clock import Clock


class Steps:
    """A log each for whoever asked for one."""

    def __init__(self, lines: LineSink, clock: Clock) -> None:
        self._lines = lines
        self._clock = clock

    def told_in(self, log_id: str) -> Tell:
        """What takes the steps of one check, as lines of the system. An empty `log_id`: nobody wants to know."""
        ticker = Ticker()

        async def tell(step: str) -> None:
            # Number 0: not of the run that this id may still be for.
            if log_id:
                await self._lines.send(
                    log_id, LogLine(ticker.next(self._clock.now()), 0, "system", "info", clean(step))
                )

        return tell
