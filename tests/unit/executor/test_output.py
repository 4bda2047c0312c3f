import asyncio
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.output import Output
from executor.redact import Redaction
from kit.clock import FakeClock
from tests.fakes.executor import START, FakeLines


class Printer:
    """An Output with the write ends of its pipes."""

    def __init__(self, directory: Path, limit: int = 1_000_000) -> None:
        self.lines = FakeLines()
        self.clock = FakeClock(START)
        self.output = Output("run_1", self.lines, self.clock, limit, directory)
        stdout, self.stdout = os.pipe()
        stderr, self.stderr = os.pipe()
        for descriptor in (stdout, stderr):
            os.set_blocking(descriptor, False)
        self.output.follow(stdout, stderr)
        self.open = True

    @property
    def messages(self) -> list[str]:
        return [line.message for line in self.lines.lines]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():  # noqa: ASYNC110  # a pipe tells nobody
                await asyncio.sleep(0.005)

    async def finish(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        await self.output.drain()
        await self.output.end()


async def test_fifty_lines_within_a_millisecond_all_arrive_with_times_of_their_own(tmp_path: Path) -> None:
    printer = Printer(tmp_path)
    os.write(printer.stdout, b"".join(b"line %d\n" % number for number in range(50)))
    await printer.finish()
    assert printer.messages == [f"line {number}" for number in range(50)]
    times = [line.created_at for line in printer.lines.lines]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
    assert [line.seq for line in printer.lines.lines] == list(range(1, 51))
    assert printer.lines.ended == ["run_1"]


async def test_both_streams_are_told_apart(tmp_path: Path) -> None:
    printer = Printer(tmp_path)
    os.write(printer.stdout, b"out\n")
    os.write(printer.stderr, b'ERROR:root:{"event": "err", "n": 1}\n')
    await printer.finish()
    found = {(line.stream, line.level, line.message, line.data) for line in printer.lines.lines}
    assert found == {("stdout", "info", "out", ""), ("stderr", "error", "err", '{"n":1}')}


async def test_a_line_that_isnt_finished_is_shown_all_the_same(tmp_path: Path) -> None:
    printer = Printer(tmp_path)
    os.write(printer.stdout, "Name? é".encode()[:-1])
    await printer.until(lambda: printer.messages == ["Name? "])
    os.write(printer.stdout, "é".encode()[-1:] + b"\n")
    await printer.finish()
    assert printer.messages == ["Name? ", "é"]


async def test_the_archive_is_what_was_sent(tmp_path: Path) -> None:
    printer = Printer(tmp_path)
    os.write(printer.stdout, b"a\nb")
    await printer.output.system("starting")
    await printer.finish()
    records = [json.loads(line) for line in b"".join(printer.output.archive.chunks()).splitlines()]
    assert [record["message"] for record in records] == printer.messages
    assert {record["stream"] for record in records} == {"stdout", "system"}


async def test_a_flood_is_cut_and_says_so(tmp_path: Path) -> None:
    printer = Printer(tmp_path, limit=10_000)
    writing = asyncio.create_task(asyncio.to_thread(os.write, printer.stdout, b"flood\n" * 20_000))
    await writing
    await printer.until(lambda: any("10000 bytes" in message for message in printer.messages))
    await printer.output.system("still here")
    await printer.finish()
    *flood, cut, last = printer.lines.lines
    assert {line.message for line in flood} == {"flood"}
    assert cut.stream == "system"
    assert "10000 bytes" in cut.message
    assert last.message == "still here"
    assert printer.output.archive.size < 11_000


async def test_the_tail_is_short(tmp_path: Path) -> None:
    printer = Printer(tmp_path)
    os.write(printer.stdout, b"".join(b"%d " % number + b"x" * 800 + b"\n" for number in range(30)))
    await printer.finish()
    assert len(printer.output.tail) == 20
    assert max(len(line) for line in printer.output.tail) == 500


async def test_a_pipe_that_stays_open_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.output.CLOSING_SECONDS", 0.05)
    printer = Printer(tmp_path)
    os.write(printer.stdout, b"before\n")
    await printer.output.drain()
    await printer.output.end()
    assert printer.messages == ["before"]
    os.close(printer.stdout)
    os.close(printer.stderr)


async def test_nothing_of_a_secret_is_shown_kept_or_told(tmp_path: Path) -> None:
    printer = Printer(tmp_path)
    printer.output.hide(Redaction(["t0p/secret"]))
    said = [
        "plain t0p/secret",
        json.dumps({"event": "got t0p/secret", "token": "t0p/secret", "n": 1}),
        "colours t0p/\x1b[1msecret",
        "cwk-" + "A" * 36,
    ]
    os.write(printer.stdout, "\n".join(said).encode() + b"\n")
    await printer.output.system("it ended: t0p%2Fsecret", "error")
    await printer.finish()
    told = [line.message + line.data for line in printer.lines.lines]
    assert sorted(told) == [
        "colours ***", "cwk-***", 'got ***{"token":"***","n":1}', "it ended: ***", "plain ***"
    ]  # fmt: skip
    kept = b"".join(printer.output.archive.chunks())
    assert b"plain ***" in kept
    assert b"secret" not in kept
    assert not [line for line in printer.output.tail if "secret" in line]
