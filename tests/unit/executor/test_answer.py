import asyncio
import os
from pathlib import Path

import pytest

from executor.answer import Answer
from executor.model import AnswerEvent, AnswerHead, BodyComplete, Outcome, Status
from executor.spool import Spool

HEAD = AnswerHead(200, (("content-type", b"text/plain"),))
DONE = Outcome(Status.SUCCEEDED)


async def everything(answer: Answer) -> list[AnswerEvent]:
    return [event async for event in answer.read()]


def body(events: list[AnswerEvent]) -> bytes:
    return b"".join(event for event in events if isinstance(event, bytes))


async def test_a_reader_sees_all_of_it_whenever_it_comes(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    early = asyncio.create_task(everything(answer))
    await asyncio.sleep(0)
    answer.begin(HEAD)
    answer.write(b"a")
    await asyncio.sleep(0)
    middle = asyncio.create_task(everything(answer))
    answer.write(b"b")
    answer.finish_body()
    await asyncio.sleep(0)
    answer.end(DONE)
    late = await everything(answer)
    for events in (await early, await middle, late):
        assert events[0] == HEAD
        assert body(events) == b"ab"
        assert events[-2:] == [BodyComplete(), DONE]


async def test_a_reader_gets_it_live(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    events = answer.read()
    answer.begin(HEAD)
    assert await anext(events) == HEAD
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    assert not waiting.done()
    answer.write(b"x")
    assert await waiting == b"x"
    await events.aclose()


async def test_a_broken_answer_is_never_complete(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    answer.begin(HEAD)
    answer.write(b"half")
    answer.end(Outcome.failed("workflow_crashed", "died"))
    assert BodyComplete() not in await everything(answer)


async def test_a_large_body_lives_in_a_file_without_a_name(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    data = os.urandom(300_000)
    answer.begin(HEAD)
    for start in range(0, len(data), 1000):
        answer.write(data[start : start + 1000])
    answer.finish_body()
    answer.end(DONE)
    assert list(tmp_path.iterdir()) == []
    assert body(await everything(answer)) == data


async def test_forgetting_waits_for_the_last_reader(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    answer.begin(HEAD)
    answer.write(b"x" * 100_000)
    answer.finish_body()
    answer.end(DONE)
    events = answer.read()
    await anext(events)
    answer.forget()
    assert body([event async for event in events]) == b"x" * 100_000
    assert answer.body.size == 0


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 200_000])
def test_a_spool_gives_back_what_it_was_given(tmp_path: Path, size: int) -> None:
    spool = Spool(tmp_path)
    data = os.urandom(size)
    for start in range(0, size, 50_000):
        spool.append(data[start : start + 50_000])
    assert spool.size == size
    assert b"".join(spool.chunks()) == data
    assert spool.read(max(size - 3, 0), 10) == data[-3:] if size >= 3 else True
    spool.close()
    spool.close()
