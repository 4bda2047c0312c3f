"""When a schedule fires: the five fields of cron in a time zone, read as Debian's cron reads them (cronsim).

Where the clocks change: a run at a set time (neither minute nor hour begins with `*`) that falls into the hour that is
left out fires right after it, and in the hour that comes twice it fires the first time only. All others follow the
clock: nothing in the hour left out, everything twice in the doubled one.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from kit.errors import Invalid
from scheduler.schedule import MOST_EXPRESSION

FIELDS = "minute hour day-of-month month day-of-week, such as 0 9 * * MON-FRI"


class Cron:
    """An expression in a zone. Errors: Invalid."""

    def __init__(self, expression: str, timezone: str) -> None:
        if len(expression) > MOST_EXPRESSION or not expression.isascii():
            raise Invalid(f"cron_expression has more than {MOST_EXPRESSION} characters, or others than ASCII: {FIELDS}")
        fields = expression.split()
        if len(fields) != 5:
            counted = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
            raise Invalid(f"cron_expression {expression[:60]!r} has {counted}, not five: {FIELDS}")
        self.expression = " ".join(fields)
        self.timezone = timezone or "UTC"
        if self.timezone not in _zones():
            raise Invalid(f"timezone is {timezone[:60]!r}; it must be an IANA name such as Europe/Berlin or UTC")
        self._zone = UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)
        try:
            CronSim(self.expression, datetime.now(UTC))
        except CronSimError as error:
            told = str(error)[:1].lower() + str(error)[1:]
            if _may_be(" ".join([*fields[:3], "*", fields[4]])):
                told = "there is no such day in the month that it names" if _may_be(f"* * * {fields[3]} *") else told
            raise Invalid(f"cron_expression {self.expression!r}: {told}; five fields: {FIELDS}") from None

    def after(self, moment: datetime) -> datetime | None:
        """The first time later than `moment`, UTC; None when there is none within fifty years."""
        return next(self._following(moment), None)

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """The last time later than `after` that isn't later than `until`, UTC; None when there is none. Goes through
        all of them.
        """
        found = None
        for at in self._following(after):
            if at > until:
                break
            found = at
        return found

    def _following(self, moment: datetime) -> Iterator[datetime]:
        last = moment
        for local in CronSim(self.expression, moment.astimezone(self._zone)):
            at = local.astimezone(UTC)
            # In the doubled hour cronsim tells the first of two, which may be over; after the left out one, one twice.
            if at > last:
                yield at
                last = at


def _may_be(expression: str) -> bool:
    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError:
        return False
    return True


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime", "Factory"}
