"""What the shim does in a run that repeats another: in a process of its own, since it changes the interpreter."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

EXECUTOR = Path(__file__).parents[3] / "executor"
THEN = 1_000_000_000.0  # 2001-09-09T01:46:40Z
CLOCK = """
import datetime as module, json, time
from datetime import date, datetime, timedelta, timezone
class Own(datetime):
    pass
class Day(date):
    pass
zone = timezone(timedelta(hours=2))
monotonic = time.monotonic()
import shim_replay
shim_replay.begin({"clock": %r})
print(json.dumps({
    "seconds": [
        time.time(), time.time_ns() / 1e9, time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime_ns(0) / 1e9,
        datetime.now().timestamp(), datetime.now(zone).timestamp(), datetime.now(tz=zone).timestamp(),
        module.datetime.now().timestamp(),
        datetime.utcnow().replace(tzinfo=timezone.utc).timestamp(), datetime.today().timestamp(), Own.now().timestamp(),
        time.mktime(time.localtime()), time.mktime(time.strptime(time.ctime())),
        time.mktime(time.strptime(time.asctime())),
    ],
    "days": [str(date.today()), str(Day.today()), time.strftime("%%Y-%%m-%%d"), str(module.date.today())],
    "zone": str(datetime.now(zone).utcoffset()),
    "kinds": [type(Own.now()).__name__, type(Day.today()).__name__, type(datetime.now()) is datetime],
    "others": [time.ctime(0), time.strftime("%%Y", time.gmtime(0)), time.gmtime(1e9).tm_year,
               str(datetime.fromtimestamp(0, timezone.utc))],
    "monotonic": time.monotonic() - monotonic,
}))
"""
CHANCE = """
import json, random
import shim_chance
shim_chance.watch_randomness()
first, second, own = random.Random(), random.Random(), random.Random(7)
numpy = None
try:
    import numpy.random.bit_generator
    shim_chance.watch_numpy(numpy.random.bit_generator)
    generators = [numpy.random.default_rng(), numpy.random.default_rng()]
except ImportError:
    pass
random.random(), own.random()
shim_chance.find_generators()
shim_chance.be_unique()
shim_chance.repeat(%r)
drawn = [random.random(), first.random(), second.random()]
if numpy:
    drawn += [float(numpy.random.random()), *(float(each.random()) for each in generators)]
print(json.dumps([drawn, own.random()]))
"""


def said(script: str) -> Any:
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=EXECUTOR,
        env={"TZ": "Asia/Tokyo"},
        check=True,
        capture_output=True,
        timeout=30,
    )
    return json.loads(ran.stdout)


def test_the_clock_starts_where_it_is_told_to() -> None:
    told = said(CLOCK % THEN)
    assert all(THEN - 1 <= each < THEN + 20 for each in told["seconds"]), told["seconds"]
    assert set(told["days"]) == {"2001-09-09"}
    assert told["zone"] == "2:00:00"
    assert told["kinds"] == ["Own", "Day", True]
    assert told["others"][1:] == ["1970", 2001, "1970-01-01 00:00:00+00:00"]
    assert 0 <= told["monotonic"] < 20


def test_chance_is_what_the_seed_makes_of_it() -> None:
    (one, seeded), (same, too), (other, _) = (said(CHANCE % seed) for seed in ("a", "a", "b"))
    assert one == same
    assert len(set(one) | set(other)) == len(one) + len(other)
    assert seeded == too  # what the workflow has seeded goes on as it was
