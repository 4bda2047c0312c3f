"""The import check with real sandboxes."""

from executor.driver import BubblewrapDriver
from executor.inspect import Inspect
from executor.model import Limits
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, READY_SECONDS

LIMITS = Limits(memory_bytes=1 << 30, cpu=1, processes=64)
GOOD = b"""
import os, uvicorn
from starlette.applications import Starlette
app = Starlette()
app.openapi = lambda: {"openapi": "3.1.0", "info": {"title": os.environ["TITLE"]}}
if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]))
"""
BAD = b"""print("before")
import socket
socket.create_connection(("127.0.0.1", 8080), timeout=5)
"""


async def test_a_good_one(driver: BubblewrapDriver) -> None:
    report = await Inspect(driver)(OUR_ENVIRONMENT, GOOD, "w.py", {"TITLE": "mine"}, READY_SECONDS, LIMITS)
    assert report.ok, report
    assert report.openapi == '{"openapi": "3.1.0", "info": {"title": "mine"}}'


async def test_a_bad_one_and_that_nothing_answers(driver: BubblewrapDriver) -> None:
    report = await Inspect(driver)(OUR_ENVIRONMENT, BAD, "w.py", {}, READY_SECONDS, LIMITS)
    assert (report.ok, report.error_kind, report.line) == (False, "import", 3)
    assert "ConnectionRefusedError" in report.detail
    assert report.log_tail.startswith("before\nTraceback")


async def test_one_that_hangs(driver: BubblewrapDriver) -> None:
    report = await Inspect(driver)(OUR_ENVIRONMENT, b"while True: pass", "w.py", {}, 1.0, LIMITS)
    assert (report.ok, report.error_kind) == (False, "timeout")


async def test_one_that_needs_too_much_memory(driver: BubblewrapDriver) -> None:
    hog = b"kept = [bytearray(1 << 20) for _ in range(400)]"
    report = await Inspect(driver)(OUR_ENVIRONMENT, hog, "w.py", {}, READY_SECONDS, Limits(memory_bytes=100 << 20))
    assert (report.ok, report.error_kind) == (False, "out_of_memory"), report
