"""What is written down of a recorded run: bounded, and without secrets; and what is found in it again."""

import base64
import hashlib
import json
from typing import Any
from urllib.parse import quote

import pytest

from executor.egress import recorder as module
from executor.egress.cassette import Cassette
from executor.egress.recorded import speaks
from executor.egress.recorder import MOST_BODY, MOST_BYTES, Body, Budget, Exchange, Mask, Recorder

VALUE = 'p@ss/w"rd+ä'
SITE = ("https", "api.example", 443)
ABOUT = {"seed": "s", "clock": 1.5}


def exchanged(
    recorder: Recorder, body: bytes = b"", answer: bytes = b"ok", target: bytes = b"/a", method: str = "POST"
) -> Exchange:
    one = recorder.begin(SITE, method, target, [(b"Content-Type", b"a/b"), (b"Authorization", b"Bearer x")], 0.25)
    one.request.add(body)
    one.answered(200, [(b"x-own", b"1")])
    one.answer.add(answer)
    one.failed = ""
    return one


def document(recorder: Recorder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(recorder.document(ABOUT))
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "spelling",
    [
        VALUE.encode(),
        quote(VALUE, safe="").encode(),
        json.dumps(VALUE)[1:-1].encode(),
        json.dumps(VALUE, ensure_ascii=False)[1:-1].encode(),
        base64.b64encode(VALUE.encode()),
    ],
)
def test_a_secret_is_masked_however_it_is_spelled(spelling: bytes) -> None:
    assert Mask([("KEY", VALUE)])(b"a " + spelling + b" b") == b"a secret://KEY b"


def test_what_is_masked_and_what_is_not() -> None:
    mask = Mask([("LONG", "abcdefgh"), ("LONGER", "abcdefghij"), ("SHORT", "abc")])
    assert mask(b"abcdefghij abcdefgh abc") == b"secret://LONGER secret://LONG abc"
    mask.hide(b"Basic dTpw", b"Basic other")
    assert mask(b"<Basic dTpw>") == b"<Basic other>"
    assert Mask([])(b"as it is") == b"as it is"


def test_no_secret_and_no_credentials_are_in_the_document() -> None:
    recorder = Recorder(Mask([("KEY", "topsecret")]))
    one = exchanged(recorder, b"my topsecret", b"your topsecret", b"/?k=topsecret")
    one.headers.append((b"x-echo", b"topsecret"))
    recorder.unreachable("topsecret.example", 80, "no topsecret there")
    text = recorder.document(ABOUT)
    assert b"topsecret" not in text
    assert b"Bearer" not in text
    (told,) = json.loads(text)["exchanges"]
    assert told["requestHeaders"] == [["content-type", "a/b"]]
    assert told["requestDigest"] == digest(b"my secret://KEY")
    assert (told["target"], told["headers"][1]) == ("/?k=secret://KEY", ["x-echo", "secret://KEY"])
    for name in ("requestBody", "body"):
        assert b"topsecret" not in base64.b64decode(told[name])


def test_a_secret_in_two_pieces_is_found_too() -> None:
    recorder = Recorder(Mask([("KEY", "topsecret")]))
    one = exchanged(recorder, answer=b"top")
    one.answer.add(b"secret")
    assert base64.b64decode(document(recorder)["exchanges"][0]["body"]) == b"secret://KEY"


def test_a_long_body_is_cut_and_known_by_its_digest() -> None:
    body, mask = Body(Budget(MOST_BYTES)), Mask([])
    for _ in range(3):
        body.add(b"x" * (MOST_BODY // 2))
    assert (body.whole(mask), body.size, body.cut) == (None, MOST_BODY * 3 // 2, True)
    assert body.digest(mask) == digest(b"x" * (MOST_BODY * 3 // 2))


def test_a_run_has_so_many_bytes_and_what_is_cut_gives_its_own_back() -> None:
    budget = Budget(10)
    first, second, third = Body(budget), Body(budget), Body(budget)
    first.add(b"12345678")
    second.add(b"123")
    assert (first.cut, second.cut, budget.left) == (False, True, 2)
    first.add(b"123")
    assert (first.cut, budget.left) == (True, 10)
    third.add(b"1234567890")
    assert third.whole(Mask([])) == b"1234567890"


def test_all_recordings_together_hold_so_many_bytes() -> None:
    pool = Budget(10)
    first, second = Recorder(Mask([]), pool), Recorder(Mask([]), pool)
    exchanged(first, answer=b"12345678")
    exchanged(second, answer=b"123")
    assert [document(each)["cut"] for each in (first, second)] == [False, True]
    first.close()
    exchanged(second, answer=b"1234567890")
    assert pool.left == 0
    second.close()
    assert pool.left == 10


def test_so_many_exchanges_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_EXCHANGES", 2)
    recorder = Recorder(Mask([]))
    for number in range(3):
        exchanged(recorder, target=b"/%d" % number)
        recorder.unreachable(f"host{number}", 1, "gone")
    found = document(recorder)
    assert ([each["target"] for each in found["exchanges"]], found["cut"]) == (["/0", "/1"], True)
    assert len(found["unreachable"]) == 2


def test_an_exchange_without_an_end_says_so() -> None:
    recorder = Recorder(Mask([]))
    recorder.begin(SITE, "GET", b"/", [], 1.0)
    (told,) = document(recorder)["exchanges"]
    assert (told["status"], told["failed"]) == (None, "it went on when the run ended")


def played(recorder: Recorder) -> Cassette:
    return Cassette(recorder.document(ABOUT))


def test_answers_are_given_in_order_once_and_by_body_first() -> None:
    recorder = Recorder(Mask([]))
    for body, answer in ((b"1", b"one"), (b"2", b"two"), (b"1", b"again")):
        exchanged(recorder, body, answer)
    cassette, place = played(recorder), (*SITE, "POST", "/a")
    taken = [cassette.take(place, digest(body)) for body in (b"2", b"1", b"3")]
    assert [one.body for one in taken if one] == [b"two", b"one", b"again"]
    assert cassette.take(place, digest(b"1")) is None
    for other in ((*SITE, "GET", "/a"), (*SITE, "POST", "/b"), ("http", *SITE[1:], "POST", "/a")):
        assert cassette.take(other, digest(b"1")) is None


def test_what_a_cassette_knows_of_hosts() -> None:
    recorder = Recorder(Mask([]))
    exchanged(recorder)
    recorder.unreachable("down.example", 80, "no answer in time")
    recorder.unreachable("denied.example", 0, "the workflow's egress list denies it")
    cassette = played(recorder)
    assert (cassette.seed, cassette.clock) == ("s", 1.5)
    assert cassette.hosts == {"api.example", "down.example"}
    assert cassette.answers_at("api.example", 443)
    assert not cassette.answers_at("api.example", 80)
    assert cassette.unreachable["down.example", 80] == "no answer in time"


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"seed": "s", "clock": 1, "exchanges": [1], "unreachable": []}'])
def test_what_is_no_recording(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of JSON or of ours
        Cassette(text)


@pytest.mark.parametrize(
    ("first", "spoken"),
    [
        (b"GET / HTTP/1.1\r\n", "http"),
        (b"PROPFIND /x", "http"),
        (b"\x16\x03\x01\x02\x00", "https"),
        (b"\x16\x03\x03", "https"),
        (b"SSH-2.0-x", ""),
        (b"EHLO", ""),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", ""),
        (b"*1\r\n$4\r\nPING", ""),
        (b"", ""),
    ],
)
def test_what_a_connection_speaks(first: bytes, spoken: str) -> None:
    assert speaks(first) == spoken
