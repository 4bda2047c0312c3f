"""What comes out of a sandbox is checked frame by frame."""

import asyncio
import json
import socket
import struct
from contextlib import suppress

import pytest

from executor.frames import MAX_DATA, MAX_SAID, AnswerFrames, FrameSocket, Gone, frame, json_frame, request_frame
from executor.sandbox import AnswerEnd, Crashed, Event, Finished, Head, Said

HEAD = json_frame(b"H", {"status": 200, "headers": [["x-a", "\xe9"]]})
END = json_frame(b"Z", {"ok": True, "error": ""})


async def read(*frames: bytes, metered: bool = False) -> list[Event]:
    """All events of a socket that then closes, with something unread."""
    ours, its = socket.socketpair()
    its.setblocking(False)

    async def inside() -> None:
        with its, suppress(OSError):
            ours.send(b"unread")
            await asyncio.get_running_loop().sock_sendall(its, b"".join(frames))

    sending = asyncio.create_task(inside())
    source = AnswerFrames(FrameSocket(ours), metered=metered)
    events: list[Event] = []
    with ours:
        while not events or not isinstance(events[-1], Finished):
            events.append(await source.next())
            await asyncio.sleep(0)
    await sending
    return events


async def test_a_whole_answer() -> None:
    events = await read(HEAD, frame(b"D", b"body"), frame(b"E"), END)
    assert events == [Head([(b"x-a", b"\xe9")], status=200), b"body", AnswerEnd(), Finished()]


async def test_an_error_is_told_in_a_line_of_bounded_length() -> None:
    assert await read(json_frame(b"Z", {"ok": False, "error": "x" * 9000})) == [Finished("x" * 1000)]
    assert await read(json_frame(b"Z", {"ok": False})) == [Finished("unknown error")]
    assert await read(json_frame(b"Z", {"ok": 1, "error": ""})) == [Finished("unknown error")]


@pytest.mark.parametrize(
    "frames",
    [
        [frame(b"D", b"before the head")],
        [frame(b"E")],
        [HEAD, HEAD],
        [HEAD, frame(b"D", b"x" * (MAX_DATA + 1))],
        [HEAD, frame(b"E", b"not empty")],
        [HEAD, frame(b"E"), frame(b"D", b"late")],
        [HEAD, frame(b"E"), frame(b"E")],
        [frame(b"Q")],
        [struct.pack("!Ic", 0xFFFFFFFF, b"H")],
        [frame(b"H", b"not json")],
        [frame(b"H", b"[]")],
        [frame(b"H", b'{"status": 200}')],
        [frame(b"H", b'{"status": 200.5, "headers": []}')],
        [frame(b"H", b'{"status": true, "headers": []}')],
        [json_frame(b"H", {"status": 200, "headers": [["a"]]})],
        [json_frame(b"H", {"status": 200, "headers": [["a", 1]]})],
        [json_frame(b"H", {"status": 200, "headers": [["a", "\u2603"]]})],
        [json_frame(b"H", {"status": 200, "headers": [["a", "b"]] * 1001})],
        [frame(b"H", b"[" * 100_000)],
        [frame(b"H", b'{"status": ' + b"9" * 5000 + b', "headers": []}')],
        [json_frame(b"Z", {"ok": False, "error": ["no text"]})],
    ],
    ids=str,
)
async def test_whatever_breaks_a_rule(frames: list[bytes]) -> None:
    with pytest.raises(Crashed, match="broke the protocol") as caught:
        await read(*frames, END)
    assert not isinstance(caught.value, Gone)


async def test_an_answer_cut_short() -> None:
    with pytest.raises(Gone):
        await read(HEAD, frame(b"D", b"whole")[:-1])


def test_the_request_as_the_shim_wants_it() -> None:
    data = request_frame(Head([(b"a", b"\xff")], method="POST", path="/x%2F%C3%A9", query="q=%20"))
    length, kind = struct.unpack("!Ic", data[:5])
    assert (length, kind) == (len(data) - 5, b"H")
    content = json.loads(data[5:])
    assert (content["path"], content["raw_path"], content["query"]) == ("/x/é", "/x%2F%C3%A9", "q=%20")
    assert content["headers"] == [["a", "\xff"]]


async def test_a_metered_one_may_speak_of_its_use_until_it_is_finished() -> None:
    said = frame(b"M", b"x" * MAX_SAID)
    events = await read(said, HEAD, said, frame(b"D", b"body"), said, frame(b"E"), said, END, metered=True)
    assert [event for event in events if isinstance(event, Said)] == [Said(b"x" * MAX_SAID)] * 4
    assert [event for event in events if not isinstance(event, Said)] == await read(
        HEAD, frame(b"D", b"body"), frame(b"E"), END
    )


@pytest.mark.parametrize(("length", "metered"), [(2, False), (MAX_SAID + 1, True)])
async def test_nobody_else_may_and_nobody_at_length(length: int, metered: bool) -> None:
    with pytest.raises(Crashed, match="broke the protocol"):
        await read(HEAD, frame(b"M", b"x" * length), frame(b"E"), END, metered=metered)
