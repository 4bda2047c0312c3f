"""Secrets in texts: which spellings are found, and what is left alone."""

import base64
import html
import json
import time
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.redact import HIDDEN, LEAST_HIDDEN, Redaction, spellings

SECRET = "s3cr3t/+\"'\\ \u00e9\u20ac&=%~ok"
REDACT = Redaction([SECRET])
SPELLED = {
    "raw": SECRET,
    "json": json.dumps({"a": SECRET}),
    "json as it is": json.dumps({"a": SECRET}, ensure_ascii=False),
    "repr": repr(SECRET),
    "repr in a longer one": repr(f'it\'s "{SECRET}"'),
    "repr of bytes": repr(SECRET.encode()),
    "exception": repr(KeyError(f"no {SECRET}")),
    "query": urllib.parse.urlencode({"a": SECRET}),
    "path": "/" + urllib.parse.quote(SECRET),
    "path in lower case": "/" + urllib.parse.quote(SECRET, safe="").lower(),
    "as browsers do": urllib.parse.quote(SECRET, safe="!'()*"),
}


@pytest.mark.parametrize("spelled", SPELLED.values(), ids=SPELLED.keys())
def test_each_spelling_is_hidden(spelled: str) -> None:
    shown = REDACT(f"before {spelled} after")
    assert HIDDEN in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "s3cr3t" not in shown


@pytest.mark.parametrize("before", ["", "u", "us", "user:", "x" * 57])
@pytest.mark.parametrize("after", ["", "!", "!!", ":more"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_hidden_whatever_stands_around_it(before: str, after: str, encode: Callable[[bytes], bytes]) -> None:
    encoded = encode(f"{before}{SECRET}{after}".encode()).decode()
    shown = REDACT(f"Basic {encoded}")
    assert HIDDEN in shown
    # What is left of it tells a byte at each end at most.
    left = len(shown) - len("Basic ***")
    assert left <= len(encode(before.encode())) + len(encode(after.encode())) + 4


@given(st.text(min_size=LEAST_HIDDEN, max_size=40).filter(lambda text: text == text.strip() and "\n" not in text))
def test_any_value_is_hidden_in_every_spelling(value: str) -> None:
    if value != value.encode("utf-8", "ignore").decode() or len(value.splitlines()) > 1:
        return
    redact = Redaction([value])
    for spelled in (value, json.dumps(value)[1:-1], repr(value)[1:-1], urllib.parse.quote(value, safe="")):
        assert redact(f"<{spelled}>") == f"<{HIDDEN}>"
    for around in range(3):
        encoded = base64.b64encode(b"a" * around + value.encode() + b"b").decode()
        assert HIDDEN in redact(encoded)


def test_json_stays_json() -> None:
    line = json.dumps({"event": f"got {SECRET}", "token": SECRET, "level": "info"})
    assert json.loads(REDACT(line)) == {"event": f"got {HIDDEN}", "token": HIDDEN, "level": "info"}


def test_each_line_of_a_value_with_several_is_hidden() -> None:
    pem = "-----BEGIN KEY-----\nMIIBVgIBADANBg\nkqhkiG9w0BAQEF\nAA==\n-----END KEY-----\n"
    redact = Redaction([pem])
    assert redact("line MIIBVgIBADANBg") == f"line {HIDDEN}"
    assert redact(json.dumps(pem)) == f'"{HIDDEN}\\n"'
    assert redact("AA== is too short") == "AA== is too short"


def test_short_values_and_other_texts_stay() -> None:
    redact = Redaction(["abc", "12345", "", " " * 20, "longer-one"])
    for text in ("abc 12345", "nothing here", "", "longer-on", html.escape("<b>")):
        assert redact(text) == text
    assert redact("a longer-one b") == f"a {HIDDEN} b"


def test_the_longer_of_two_goes_first() -> None:
    redact = Redaction(["secret", "secret-and-more"])
    assert redact("secret-and-more secret") == f"{HIDDEN} {HIDDEN}"


def test_keys_of_the_platform_go_whoevers_they_are() -> None:
    redact = Redaction()
    key = "A" * 36
    assert redact(f"cwk-{key} cwotk-{key}.") == "cwk-*** cwotk-***."
    assert redact("cwk-short and cwk-run-placeholder") == "cwk-short and cwk-run-placeholder"


def test_no_spelling_is_too_short() -> None:
    for value in ("abcdef", "a%&=+ ", "\u20ac" * 6):
        assert min(map(len, spellings(value))) >= LEAST_HIDDEN
    assert spellings("abcdef")[-1]


def test_of_too_many_the_likeliest_spellings_of_all_are_hidden() -> None:
    values = [f"value-{number:04}-%" for number in range(500)]
    redact = Redaction(values)
    assert redact(" ".join(values)) == " ".join([HIDDEN] * 500)


def test_a_value_of_many_lines_neither_hides_the_others_nor_takes_long() -> None:
    long = "\n".join(f"{number:06}" for number in range(9_000))
    began = time.process_time()
    redact = Redaction([*(f"{number} {long}" for number in range(20)), "the other secret"])
    assert time.process_time() - began < 2
    assert redact("a: the other secret, b: 000017") == f"a: {HIDDEN}, b: {HIDDEN}"
